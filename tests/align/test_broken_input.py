"""One run over a participant a fault: each fails naming its file, what is merely odd is aligned, and nobody harms another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from broken_files import cell, dangle, executed, huge, pickled, table, values

STEM = "task-images_space-MNI152NLin2009cAsym_res-2"
COMMON = ("--skip-bids-validation", "--nprocs", "1")
MAPS, TABLE, CEILING = "*_stat-effect_desc-psn_statmap.nii.gz", "*_desc-psn_trials.tsv", "*_stat-noiseceiling_desc-psn_statmap.nii.gz"


def _elsewhere(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "TrialTable": "bids::../none_trials.tsv"}))


def _odd(array: np.ndarray) -> np.ndarray:
    array[0, 0, 0], array[0, 0, 1, 3], array[0, 0, 2] = np.nan, np.nan, 3.0
    return array


def _nowhere(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, np.nan)


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": (MAPS, lambda path: path.write_bytes(path.read_bytes()[:3000]), "truncated"),
    "noise": (MAPS, lambda path: path.write_bytes(os.urandom(5000)), "cannot be read"),
    "empty": (MAPS, lambda path: path.write_bytes(b""), ""),
    "short": (MAPS, values(lambda array: array[..., :-2]), "12 maps"),
    "allnan": (MAPS, values(_nowhere), "no "),
    "huge": (MAPS, huge, "declares"),
    "dangle": (MAPS, dangle, "datalad get"),
    "pickle": (MAPS, pickled, "cannot be read"),
    "ceilinggrid": (CEILING, values(lambda array: array[:-1]), "grid"),
    "notable": (TABLE, Path.unlink, "no such file"),
    "emptytable": (TABLE, lambda path: path.write_bytes(b""), "empty"),
    "pickletable": (TABLE, pickled, "not a text file"),
    "nocolumn": (TABLE, table(lambda rows: rows.drop(columns="stim_id")), "stim_id"),
    "twice": (TABLE, cell("stim_id", "s001"), "has two rows"),
    "oddsplit": (TABLE, cell("split", "maybe"), ":8"),
    "textcount": (TABLE, cell("n_trials", "many"), "n_trials"),
    "otherlink": (MAPS.replace(".nii.gz", ".json"), _elsewhere, "outside of the dataset"),
}
ODD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sound": (MAPS, lambda path: None),
    "odd": (MAPS, values(_odd)),
    "html": (TABLE, cell("stim_id", "<script>alert(1)</script>")),
    "noceiling": (CEILING, Path.unlink),
}


@pytest.fixture(scope="module")
def many(make_people: Any, people_spec: Any, run_align: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All participants in one run."""
    folder = tmp_path_factory.mktemp("many faults")
    labels = {f"{number:02d}": name for number, name in enumerate([*BROKEN, *ODD], start=1)}
    dataset = make_people(folder / "psn", people_spec(people=tuple(labels), stimuli=14, test=4, own=0))
    paths = {}
    for label, name in labels.items():
        pattern, change = (BROKEN[name] if name in BROKEN else ODD[name])[:2]
        (paths[name],) = (dataset / f"sub-{label}" / "func").glob(pattern)
        change(paths[name])
    run = run_align(dataset, folder / "out", "participant", "-w", folder / "work", *COMMON)
    of = {name: label for label, name in labels.items()}
    return SimpleNamespace(dataset=dataset, folder=folder, out=folder / "out", paths=paths, of=of, status=run.status, run=run)


@pytest.mark.slow
def test_each_fault_is_named_and_the_others_go_on(many: SimpleNamespace) -> None:
    text = many.run.stdout + many.run.stderr
    assert many.status == 1, text
    assert "Traceback" not in text and not executed(many.folder)
    lines = many.run.stdout.splitlines()
    for name, (_, _, words) in BROKEN.items():
        (line,) = (line for line in lines if line.startswith(f"conform-align: sub-{many.of[name]}: failed: "))
        stem = many.paths[name].name.split("_stat-")[0].split("_desc-")[0]
        assert stem in line and words in line, f"{name}: {line}"
        assert not list((many.out / f"sub-{many.of[name]}").rglob("*_statmap.nii.gz"))
    for name in ODD:
        assert f"conform-align: sub-{many.of[name]}: completed" in lines, text


@pytest.mark.slow
def test_odd_units_are_set_aside_and_counted_and_hostile_names_escaped(many: SimpleNamespace, run_align: Any) -> None:
    labels = [many.of[name] for name in ODD]
    flags = ("--method", "procrustes", "--min-shared", "5", "--participant-label", *labels)
    run = run_align(many.dataset, many.out, "group", "-w", many.folder / "work", *COMMON, *flags)
    assert run.status == 0, run.stdout + run.stderr
    stem = f"sub-{many.of['odd']}"
    path = many.out / stem / "func" / f"{stem}_{STEM}_stat-effect_desc-procrustes_statmap.json"
    content = json.loads(path.read_text())
    assert (content["NumberOfUnitsSetAside"], content["NumberOfUnits"]) == (3, 240)
    page = (many.out / f"{stem}.html").read_text()
    assert "Units set aside" in page and "3 of 240" in page
    for page_file in many.out.glob("*.html"):
        assert "<script>alert(1)" not in page_file.read_text()
    table = pd.read_csv(many.out / f"sub-{many.of['html']}" / "func" / f"sub-{many.of['html']}_{STEM}_desc-procrustes_trials.tsv", sep="\t")
    assert "<script>alert(1)</script>" in set(table["stim_id"])


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--output-spaces", "fsaverage"), 66, "MNI152NLin2009cAsym"),
        (("--participant-label", "77"), 66, "there are 01"),
        (("--task-id", "sounds"), 66, "images"),
        (("--input-desc", "other"), 66, "no responses of desc-other; there are: psn, trialavg"),
        (("--split", "nowhere.tsv"), 66, "neither a file nor a column"),
        (("--template", "nowhere"), 66, "no template"),
        (("-d", "one=/nowhere"), 66, "there is no folder"),
        (("-d", "one={dataset}", "-w", "{dataset}/work"), 2, "must not be inside"),
        (("--apply-to", "trialavg"), 2, "--apply-to has no effect"),
    ],
)
def test_what_is_not_there_is_refused_with_what_there_is(
    flags: tuple[str, ...], status: int, words: str, make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path
) -> None:
    dataset = make_people(tmp_path / "psn", people_spec(people=("01",), stimuli=14, test=4, own=0))
    typed = [text.format(dataset=dataset) for text in flags]
    work = () if "-w" in typed else ("-w", tmp_path / "work")
    run = run_align(dataset, tmp_path / "out", "participant", *work, *COMMON, *typed)
    assert run.status == status and words in run.stdout + run.stderr, run.stdout + run.stderr
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_a_dry_run_of_the_group_says_that_nobody_is_left(make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path) -> None:
    dataset = make_people(tmp_path / "psn", people_spec(people=("01", "02"), stimuli=14, test=4, own=0))
    given = ("group", "--dry-run", "-w", tmp_path / "work", *COMMON)
    run = run_align(dataset, tmp_path / "out", *given)
    assert run.status == 0 and "group_align.tsv" in run.stdout, run.stdout + run.stderr
    for path in dataset.rglob("*_trials.tsv"):
        path.write_bytes(b"")
    run = run_align(dataset, tmp_path / "out", *given)
    assert run.status == 65, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert sum("cannot be processed" in line for line in lines) == 2 and all(line.startswith("#") for line in lines)
    (tmp_path / "out" / "sub-03" / "func").mkdir(parents=True)
    (tmp_path / "out" / "sub-03" / "func" / "sub-03_desc-prepared_trials.tsv").touch()
    assert run_align(dataset, tmp_path / "out", *given).status == 0, "those who are prepared can be aligned"
    assert run_align(dataset, tmp_path / "out", *given, "--participant-label", "01").status == 65
    assert run_align(dataset, tmp_path / "other", *given, "--split-only").status == 0, "which takes nobody's responses"


def test_folders_that_are_no_dataset_or_the_input_are_refused(make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path) -> None:
    dataset = make_people(tmp_path / "many" / "psn", people_spec(people=("01",), stimuli=14, test=4, own=0))
    work = ("-w", tmp_path / "work", *COMMON)
    for level in ("participant", "group"):
        run = run_align(dataset.parent, tmp_path / "out", level, *work)
        assert run.status == 65 and f"did you mean {dataset}" in run.stderr, run.stderr
        run = run_align(dataset, dataset, level, *work)
        assert run.status == 2 and "output_dir must not be bids_dir" in run.stderr
    other = make_people(tmp_path / "other", people_spec(people=("01",), stimuli=14, test=4, own=0))
    run = run_align(dataset, other, "participant", *work, "-d", f"a={dataset}", f"b={other}")
    assert run.status == 2 and "output_dir must not be an input" in run.stderr
