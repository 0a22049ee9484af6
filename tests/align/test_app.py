"""conform-align from the command line: a group, a new person on its template, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.align.numerics.data import Standard, parcels_from_labels
from conform_bids.align.numerics.maps import PersonMap
from conform_bids.align.report import write_participant_report
from conform_bids.align.results import count_parcels_with_data
from conform_bids.align.settings import AlignSettings

pytestmark = pytest.mark.slow
COMMON = ("--skip-bids-validation", "--nprocs", "1")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"


def tree(folder: Path) -> list[str]:
    """Files of an output folder; those that bear the name of a run, and those that only pandoc makes, aside."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    aside = ("logs/CITATION.html", "logs/CITATION.tex")
    return sorted(
        name for name in names if "/log/" not in name and not (name.startswith("logs/") and name.count("/") > 1) and name not in aside
    )


def maps(path: Path) -> np.ndarray:
    values: np.ndarray = np.asarray(nib.load(path).get_fdata(), dtype=np.float64)
    return values.reshape(-1, values.shape[3]).T if values.ndim == 4 else values.ravel()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, make_people: Any, people_spec: Any, run_align: Any) -> Any:
    """Four people and their template, by the method procrustes; tests must not write to it."""
    folder = tmp_path_factory.mktemp("align")
    dataset = make_people(folder / "psn", people_spec())
    flags = ("--method", "procrustes", "--parcellation", "clusters", "--parcel-size", "120")
    run = run_align(dataset, folder / "out", "participant", "group", "-w", folder / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    run.dataset, run.output, run.folder = dataset, folder / "out", folder
    run.template = folder / "out" / "tpl-conform" / "func" / f"tpl-conform_{STEM}_desc-procrustes_xfm.h5"
    return run


@pytest.fixture(scope="module")
def single(done: Any, make_people: Any, people_spec: Any, run_align: Any) -> Any:
    """A new person, fitted to that template."""
    dataset = make_people(done.folder / "new", people_spec(people=("05",)))
    flags = ("--template", done.output, "--apply-to", "trialavg")
    run = run_align(dataset, done.folder / "one", "participant", "-w", done.folder / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    run.output = done.folder / "one"
    return run


def test_files_are_those_expected(done: Any, single: Any, repository: Path) -> None:
    path = repository / "tests" / "outputs" / "conform-align_simulated.txt"
    found = [f"group/{name}" for name in tree(done.output)] + [f"one/{name}" for name in tree(single.output)]
    if os.environ.get("CONFORM_WRITE_EXPECTED"):
        path.write_text("".join(f"{name}\n" for name in found), encoding="utf-8")
    assert found == path.read_text(encoding="utf-8").splitlines()


def test_both_validators_pass(done: Any, single: Any, validator_errors: Any) -> None:
    assert validator_errors(done.output) == []
    assert validator_errors(single.output) == []


def test_every_sidecar_of_a_fit_says_what_it_was_fitted_on(done: Any) -> None:
    found = [*done.output.glob("sub-*/func/*procrustes*.json"), *done.output.glob("tpl-*/func/*.json")]
    assert len(found) == 4 * 7 + 3
    hashes = set()
    for path in found:
        content = json.loads(path.read_text())
        assert content["SoftwareVersion"].startswith("conform-align ")
        assert (content["FitIncludesTest"], content["FunctionalSpace"], content["Method"]) == (False, "tpl-conform", "procrustes")
        hashes.add(content["FittedStimuliHash"])
    assert len(hashes) == 1


def test_alignment_beats_anatomy_and_the_control_is_at_chance(done: Any) -> None:
    table = pd.read_csv(done.output / "group_align.tsv", sep="\t")
    assert (table["normalised_r"] > table["anatomy_normalised_r"] + 0.2).all()
    assert (table["identification"] > 0.5).all()
    assert (table["shuffled_normalised_r"].abs() < 0.25).all()
    assert table["shuffled_identification"].mean() < 0.2
    assert (table["n_shared"] == 40).all() and (table["n_held_out"] == 20).all()
    page = (done.output / "group_align.html").read_text()
    assert "Gain over smoothed anatomy" in page and "shuffled" in page
    assert ">Stimuli of the fit<" in page and ">r / √ceiling, anatomy<" in page


def test_parcels_without_data_are_not_counted(done: Any, tmp_path: Path) -> None:
    parcels = parcels_from_labels(np.array([1, 1, 2, 2, 3, 3]))
    scale = np.array([np.nan, np.nan, 1.0, np.nan, 1.0, 1.0])
    assert count_parcels_with_data(PersonMap(Standard(scale, scale), parcels, ())) == 2
    func, copy = done.output / "sub-01" / "func", tmp_path / "copy"
    content = json.loads((func / f"sub-01_{STEM}_stat-effect_desc-procrustes_statmap.json").read_text())
    assert content["NumberOfParcelsWithData"] == content["NumberOfParcels"] > 1
    shutil.copytree(done.output, copy)
    path = copy / "sub-01" / "func" / f"sub-01_{STEM}_stat-effect_desc-procrustes_statmap.json"
    path.write_text(json.dumps({**content, "NumberOfParcelsWithData": 1, "StackWeights": {"anatomy": 0.5, "zero": 0.5}}))
    write_participant_report("01", copy, AlignSettings(), {}, [], 5)
    page = (copy / "sub-01.html").read_text(encoding="utf-8")
    assert f"of {content['NumberOfParcels']}; the others have no data" in page
    assert "shared response models whose maps are drawn" in page


def test_people_are_more_alike_in_the_template(done: Any) -> None:
    after, before = (
        pd.read_csv(done.output / f"group_{STEM}_desc-{name}_relmat.tsv", sep="\t").to_numpy() for name in ("isc", "iscbefore")
    )
    off = ~np.eye(4, dtype=bool)
    assert np.allclose(after, after.T) and np.allclose(np.diag(after), 1)
    assert after[off].min() > before[off].max()


def test_a_new_person_lands_where_the_template_is(done: Any, single: Any) -> None:
    func = single.output / "sub-05" / "func"
    aligned = maps(func / f"sub-05_{STEM}_stat-effect_desc-procrustes_statmap.nii.gz")
    table = pd.read_csv(func / f"sub-05_{STEM}_desc-procrustes_trials.tsv", sep="\t")
    other = maps(done.output / "sub-01" / "func" / f"sub-01_{STEM}_stat-effect_desc-procrustes_statmap.nii.gz")
    names = pd.read_csv(done.output / "sub-01" / "func" / f"sub-01_{STEM}_desc-procrustes_trials.tsv", sep="\t")["stim_id"].tolist()
    test = table.index[table["split"] == "test"]
    rows = [names.index(name) for name in table["stim_id"][test]]
    r = [np.corrcoef(aligned[test, unit], other[rows, unit])[0, 1] for unit in range(0, aligned.shape[1], 7)]
    assert np.median(r) > 0.5
    content = json.loads((func / f"sub-05_{STEM}_stat-effect_desc-procrustes_statmap.json").read_text())
    assert content["NumberOfSharedStimuli"] == 40 and content["FitIncludesTest"] is False
    assert content["NumberOfParcelsWithData"] == content["NumberOfParcels"]
    assert (func / f"sub-05_{STEM}_stat-effect_desc-procrustestrialavg_statmap.nii.gz").is_file()


def test_a_map_is_applied_from_python(done: Any) -> None:
    from conform_bids.align import apply

    func = done.output / "sub-02" / "func"
    responses = maps(func / f"sub-02_{STEM}_stat-effect_desc-prepared_statmap.nii.gz")
    (transform,) = func.glob("*_xfm.h5")
    aligned = apply(transform, done.template, responses)
    written = maps(func / f"sub-02_{STEM}_stat-effect_desc-procrustes_statmap.nii.gz")
    np.testing.assert_allclose(aligned, written, rtol=1e-4, atol=1e-5)


def test_single_trials_the_stack_and_all_stimuli(tmp_path: Path, make_people: Any, people_spec: Any, run_align: Any) -> None:
    dataset = make_people(tmp_path / "glm", people_spec(people=("01", "02", "03"), maker="conform-glm", hashes=False))
    flags = ("--align-on", "all", "--sloppy", "--template-name", "mine")
    run = run_align(dataset, tmp_path / "out", "participant", "group", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    table = pd.read_csv(tmp_path / "out" / "group_align.tsv", sep="\t")
    assert table["fit_includes_test"].all() and (table["method"] == "stack").all()
    assert (table["normalised_r"] > table["anatomy_normalised_r"]).all()
    (template,) = (tmp_path / "out" / "tpl-mine" / "func").glob("*_statmap.json")
    content = json.loads(template.read_text())
    assert content["FitIncludesTest"] is True and content["NumberOfSharedStimuli"] == 60
    assert set(content["StackWeights"]) == {"anatomy", "zero"}


def test_without_a_split_there_are_no_scores(tmp_path: Path, make_people: Any, people_spec: Any, run_align: Any) -> None:
    dataset = make_people(tmp_path / "psn", people_spec(people=("01", "02", "03"), test=0, stimuli=20))
    run = run_align(dataset, tmp_path / "out", "participant", "group", "-w", tmp_path / "work", *COMMON, "--method", "none")
    assert run.status == 0, run.stderr
    table = pd.read_csv(tmp_path / "out" / "group_align.tsv", sep="\t")
    assert table["normalised_r"].isna().all() and table["fit_includes_test"].all()
    assert "NO SPLIT IS GIVEN" in (tmp_path / "out" / "group_align.html").read_text()


def test_too_few_shared_stimuli_are_refused(tmp_path: Path, make_people: Any, people_spec: Any, run_align: Any) -> None:
    dataset = make_people(tmp_path / "psn", people_spec(people=("01", "02"), stimuli=8, test=2))
    run = run_align(dataset, tmp_path / "out", "participant", "group", "-w", tmp_path / "work", *COMMON)
    assert run.status == 1
    assert "sub-01: 6, sub-02: 6" in run.stdout + run.stderr and "--min-shared is 10" in run.stdout + run.stderr


def test_a_persons_own_space_is_refused(tmp_path: Path, make_people: Any, people_spec: Any, run_align: Any) -> None:
    dataset = make_people(tmp_path / "psn", people_spec(people=("01",), kind="gifti", space="space-fsnative"))
    run = run_align(dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON)
    assert run.status == 65 and "space fsnative is a person's own" in run.stdout + run.stderr


def test_grids_that_differ_are_refused(tmp_path: Path, make_people: Any, people_spec: Any, run_align: Any) -> None:
    make_people(tmp_path / "psn", people_spec(people=("01",)))
    dataset = make_people(tmp_path / "psn", people_spec(people=("02",), spacing=2.5))
    run = run_align(dataset, tmp_path / "out", "participant", "group", "-w", tmp_path / "work", *COMMON)
    assert run.status == 1 and "its grid is not that of sub-01" in run.stdout + run.stderr


def test_one_name_for_two_stimuli_is_refused(tmp_path: Path, make_people: Any, people_spec: Any, run_align: Any) -> None:
    dataset = make_people(tmp_path / "psn", people_spec(people=("01", "02")))
    path = dataset / "stimuli" / "sub-02_stimuli.tsv"
    table = pd.read_csv(path, sep="\t")
    table.loc[0, "sha256"] = "0" * 64
    table.to_csv(path, sep="\t", index=False)
    run = run_align(dataset, tmp_path / "out", "participant", "group", "-w", tmp_path / "work", *COMMON)
    assert run.status == 1 and "is of different content in different people" in run.stdout + run.stderr


def test_truncated_and_missing_inputs_are_named(tmp_path: Path, make_people: Any, people_spec: Any, run_align: Any) -> None:
    dataset = make_people(tmp_path / "psn", people_spec(people=("01", "02")))
    path = dataset / "sub-02" / "func" / f"sub-02_{STEM}_stat-effect_desc-psn_statmap.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    run = run_align(dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON)
    assert run.status == 1 and path.name in run.stdout + run.stderr and "sub-01: completed" in run.stdout
    run = run_align(dataset, tmp_path / "other", "participant", "-w", tmp_path / "work", *COMMON, "--template", tmp_path / "out")
    assert run.status == 66 and "no template for task-images" in run.stdout + run.stderr
    run = run_align(dataset, tmp_path / "third", "participant", "-w", tmp_path / "work", *COMMON, "--template", path)
    assert run.status == 65 and "not a template of conform-align" in run.stdout + run.stderr


def test_dry_run_declares_what_a_participant_writes(done: Any, run_align: Any, tmp_path: Path) -> None:
    run = run_align(done.dataset, tmp_path / "out", "participant", "--dry-run", *COMMON)
    declared = {line for line in run.stdout.splitlines() if not line.startswith("#")}
    assert {name for name in declared if name.startswith("sub-01/")} <= set(tree(done.output))
    assert any(name.endswith("desc-prepared_statmap.nii.gz") for name in declared) and not (tmp_path / "out").exists()
