"""conform-glm from the command line on a simulated dataset: what it writes, and whether it is right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from conform_bids.bids.derivatives import BIDSIGNORE_SHORT
from conform_bids.bids.trials import TRIAL_COLUMNS

pytestmark = pytest.mark.slow
MODELS = ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr", "conform")
SPACES = {"nifti": "space-T1w", "cifti": "space-fsLR_den-5k", "gifti": "space-fsaverage5"}
VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
FITS = [(sub, ses) for sub in ("01", "02") for ses in ("01", "02")]


@pytest.fixture(scope="module")
def expected_list(repository: Path, simulated_run: Any) -> list[str]:
    """tests/outputs/conform-glm_simulated.txt; CONFORM_WRITE_EXPECTED=1 writes it anew from this run, for a human to read."""
    path = repository / "tests" / "outputs" / "conform-glm_simulated.txt"
    if os.environ.get("CONFORM_WRITE_EXPECTED"):
        path.write_text("".join(f"{name}\n" for name in listed(simulated_run)), encoding="utf-8")
    return path.read_text(encoding="utf-8").splitlines()


def listed(run: Any) -> list[str]:
    """Files of an output folder, without those that only pandoc makes."""
    return [name for name in run.files() if name not in ("logs/CITATION.html", "logs/CITATION.tex")]


def units_of(run: Any, folder: Path, stem: str, file_format: str, stat: str, desc: str) -> np.ndarray:
    """Maps as (maps, units); volumes in the order of the simulator's voxels."""
    name = f"{stem}_{SPACES[file_format]}_stat-{stat}_desc-{desc}_statmap"
    if file_format == "nifti":
        mask = np.asarray(nib.load(truth_mask(run, folder, stem)).dataobj) > 0
        values = np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)
        return np.atleast_2d(values[mask].T)
    if file_format == "cifti":
        return np.atleast_2d(np.asarray(nib.load(folder / f"{name}.dscalar.nii").dataobj))
    sides = [nib.load(folder / f"{name.replace('_space', f'_hemi-{side}_space')}.func.gii") for side in "LR"]
    return np.concatenate([np.stack([array.data for array in side.darrays]) for side in sides], axis=1)


def truth_mask(run: Any, folder: Path, stem: str) -> Path:
    """fMRIPrep's mask of the first run, which is the simulator's; its order of voxels is that of the truth."""
    relative = folder.relative_to(run.output)
    return run.dataset / "derivatives" / "fmriprep" / relative / f"{stem}_run-01_space-T1w_desc-brain_mask.nii.gz"


def place(run: Any, sub: str, ses: str) -> tuple[Path, str]:
    return run.output / f"sub-{sub}" / f"ses-{ses}" / "func", f"sub-{sub}_ses-{ses}_task-shapes"


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (values - values.mean(0) for values in (first.astype(float), second.astype(float)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))


def test_it_completes(simulated_run: Any) -> None:
    process = simulated_run.process
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-3:] == [f"conform-glm: {what}: completed" for what in ("sub-01", "sub-02", "group")]
    assert "Traceback" not in process.stderr


def test_the_log_tells_how_many_noise_regressors_helped(simulated_run: Any) -> None:
    log = simulated_run.find("logs/*/nipype.log").read_text()
    assert log.count("cross-validated gain by number of noise regressors (standard error): 0: 0 (") == 12  # fits
    assert "odd-even reliability of the noise pool" in log
    assert "cross-validated gain" not in simulated_run.process.stderr


def test_files_are_those_expected(simulated_run: Any, expected_list: list[str]) -> None:
    assert listed(simulated_run) == expected_list


def test_dry_run_declares_what_is_written(simulated_run: Any, run_app: Any, tmp_path: Path) -> None:
    flags = ("participant", "group", "--model", *MODELS, "--dry-run", "-w", tmp_path / "work")
    done = run_app("glm", simulated_run.dataset, tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work").exists()
    declared = {line for line in done.stdout.splitlines() if not line.startswith("#")}
    assert declared == {name for name in listed(simulated_run) if "/figures/" not in name}


def validate(folder: Path, *arguments: str) -> tuple[int, list[tuple[str, str, str]]]:
    if not VALIDATOR.exists():
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([VALIDATOR, folder, "--json", *arguments], capture_output=True, text=True, timeout=120, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [(issue["code"], issue.get("subCode", ""), issue["location"]) for issue in issues if issue["severity"] == "error"]
    return done.returncode, errors


def test_stock_validator_passes(simulated_run: Any) -> None:
    assert validate(simulated_run.output) == (0, [])


@pytest.fixture(scope="module")
def extended_schema(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bidsschematools")
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    subprocess.run([sys.executable, repository / "tests" / "extended_schema.py", path], check=True, timeout=60)
    return path


def test_extended_schema_passes_with_the_short_list_and_sees_faults(simulated_run: Any, extended_schema: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(simulated_run.output, tree)
    (tree / ".bidsignore").write_text("".join(f"{line}\n" for line in BIDSIGNORE_SHORT))
    assert validate(tree, "-s", extended_schema.as_uri()) == (0, [])
    dense = next(tree.rglob("*_den-5k_stat-effect_desc-fithrf_statmap.json"))
    dense.write_text("{}")
    wrong = next(tree.rglob("*_space-T1w_stat-mean_desc-fithrf_statmap.nii.gz"))
    wrong.rename(wrong.with_name(wrong.name.replace("stat-mean_desc-fithrf", "desc-fithrf_stat-mean")))
    status, errors = validate(tree, "-s", extended_schema.as_uri())
    assert status == 16
    assert {code for code, _, _ in errors} >= {"SIDECAR_KEY_REQUIRED", "FILENAME_MISMATCH"}


def test_every_sidecar_says_what_a_reader_needs(simulated_run: Any) -> None:
    output = simulated_run.output
    links = json.loads((output / "dataset_description.json").read_text())["DatasetLinks"]
    sidecars = sorted(output.glob("sub-*/ses-*/func/*.json"))
    assert len(sidecars) > 300
    for path in sidecars:
        content, name = json.loads(path.read_text()), path.name
        assert "desc-glm_metrics" in name or content["SoftwareVersion"].startswith("conform-glm "), name
        assert "RawSources" not in content, name
        for source in content.get("Sources", []):
            dataset, relative = re.fullmatch(r"bids:(\w*):(.+)", source).groups()
            assert (output / links[dataset] / relative).is_file() if dataset else (output / relative).is_file(), source
        assert ("SpatialReference" in content) == bool(re.search("_space-(T1w|fsaverage5)_", name)), name  # BIDS knows the other one
        assert ("Density" in content) == ("_den-" in name), name
        assert "Resolution" not in content, name
        if name.endswith(("_statmap.json", "_mask.json")):
            assert {"Description", "Sources", "RandomSeed", "Masked"} <= set(content), name
            assert ("SkullStripped" in content) == ("_space-T1w_" in name and name.endswith("_statmap.json")), name
        if name.endswith("_statmap.json") and "_stat-mask_" not in name:
            assert {"Units", "EstimationMethod", "TrialTable", "NumberOfTrials"} <= set(content), name
            assert (output / content["TrialTable"].removeprefix("bids::")).is_file(), name
        if "_stat-noiseceiling_" in name:
            assert content["NTrialsAveraged"] == [4], name
        if "_stat-hrfindex_" in name:
            assert content["IndexBase"] == 0, name


@pytest.mark.parametrize(("sub", "ses"), FITS)
def test_betas_have_a_map_a_row_of_the_trial_table(sub: str, ses: str, simulated_run: Any) -> None:
    folder, stem = place(simulated_run, sub, ses)
    truth = simulated_run.dataset / "sourcedata" / "truth" / f"sub-{sub}_trials.tsv"
    shown = [line.split("\t") for line in truth.read_text().splitlines()]
    expected = [row for row in shown[1:] if row[0] == ses]
    for model in MODELS:
        table = simulated_run.table(f"sub-{sub}/ses-{ses}/func/{stem}_desc-{model}_trials.tsv")
        assert list(table.columns) == list(TRIAL_COLUMNS)
        for column in ("session_id", "run_id", "trial_type", "stim_id", "split"):
            assert table[column].tolist() == [row[shown[0].index(column)] for row in expected], column
        assert table["onset"].astype(float).tolist() == [float(row[shown[0].index("onset")]) for row in expected]
        for file_format in SPACES:
            assert len(units_of(simulated_run, folder, stem, file_format, "effect", model)) == len(table) == 48
        image = nib.load(folder / f"{stem}_{SPACES['cifti']}_stat-effect_desc-{model}_statmap.dscalar.nii")
        names = image.header.get_axis(0).name
        assert list(names) == [f"trial-{int(row.trial):05d} {row.trial_type}" for row in table.itertuples()]


def test_betas_are_close_to_the_truth_and_denoising_helps(simulated_run: Any, simulated_dataset: Any) -> None:
    medians: dict[str, list[float]] = {model: [] for model in MODELS}
    for sub, ses in FITS:
        folder, stem = place(simulated_run, sub, ses)
        for file_format in SPACES:
            truth = np.load(simulated_dataset.truth_file(sub, file_format))
            betas = truth["trial_betas"][48 * (int(ses) - 1) : 48 * int(ses)]
            active = truth["active"] & truth["valid"]
            for model in MODELS:
                estimate = units_of(simulated_run, folder, stem, file_format, "effect", model)
                assert np.isnan(estimate[:, ~truth["valid"]]).all()
                assert np.isfinite(estimate[:, truth["valid"]]).all()
                medians[model].append(float(np.median(correlate(estimate[:, active], betas[:, active]))))
    median = {model: np.array(values) for model, values in medians.items()}
    assert median["assumehrf"].mean() > 0.3
    assert median["fithrf"].mean() > median["assumehrf"].mean()
    assert (median["fithrfdenoise"] > median["fithrf"]).mean() > 0.8
    assert (median["fithrfdenoiserr"] > median["fithrf"] + 0.03).all()
    assert (median["conform"] > median["fithrf"] + 0.03).all()
    assert median["conform"].mean() > median["fithrfdenoise"].mean()


def test_the_noise_ceiling_follows_the_truth(simulated_run: Any, simulated_dataset: Any) -> None:
    folder, stem = place(simulated_run, "01", "01")
    truth = np.load(simulated_dataset.truth_file("01", "gifti"))
    ceiling = units_of(simulated_run, folder, stem, "gifti", "noiseceiling", "fithrfdenoiserr")[0]
    active, still = truth["active"] & truth["valid"], ~truth["active"] & truth["valid"]
    assert np.median(ceiling[active]) > np.median(ceiling[still]) + 20
    assert np.nanmin(ceiling) >= 0
    assert np.nanmax(ceiling) <= 100


def test_formats_hold_the_same_values_for_the_same_places(simulated_run: Any, simulated_dataset: Any) -> None:
    """Vertices and grayordinates take the series of a voxel, with white noise of their own."""
    folder, stem = place(simulated_run, "01", "01")
    volume = units_of(simulated_run, folder, stem, "nifti", "effect", "fithrf")
    mean = units_of(simulated_run, folder, stem, "nifti", "mean", "fithrf")[0]
    active = np.load(simulated_dataset.truth_file("01", "nifti"))["active"]
    for file_format in ("cifti", "gifti"):
        truth = np.load(simulated_dataset.truth_file("01", file_format))
        used = np.flatnonzero(truth["valid"] & truth["active"])
        sites = truth["site"][used]
        assert active[sites].all()
        other = units_of(simulated_run, folder, stem, file_format, "effect", "fithrf")
        assert np.median(correlate(other[:, used], volume[:, sites])) > 0.9
        np.testing.assert_allclose(units_of(simulated_run, folder, stem, file_format, "mean", "fithrf")[0, used], mean[sites], rtol=0.01)


def test_geometry_is_that_of_the_input(simulated_run: Any) -> None:
    folder, stem = place(simulated_run, "02", "02")
    source = simulated_run.dataset / "derivatives" / "fmriprep" / folder.relative_to(simulated_run.output)
    volume = nib.load(folder / f"{stem}_space-T1w_stat-effect_desc-fithrf_statmap.nii.gz")
    bold = nib.load(source / f"{stem}_run-01_space-T1w_desc-preproc_bold.nii.gz")
    np.testing.assert_allclose(volume.affine, bold.affine)
    assert volume.shape == (*bold.shape[:3], 48)
    assert len(nib.load(folder / f"{stem}_space-T1w_stat-mean_desc-fithrf_statmap.nii.gz").shape) == 3
    dense = nib.load(folder / f"{stem}_space-fsLR_den-5k_stat-effect_desc-fithrf_statmap.dscalar.nii")
    series = nib.load(source / f"{stem}_run-01_space-fsLR_den-5k_bold.dtseries.nii")
    assert dense.header.get_axis(1) == series.header.get_axis(1)
    for side, anatomy in (("L", "CortexLeft"), ("R", "CortexRight")):
        surface = nib.load(folder / f"{stem}_hemi-{side}_space-fsaverage5_stat-effect_desc-fithrf_statmap.func.gii")
        assert surface.meta["AnatomicalStructurePrimary"] == anatomy
        assert len(surface.darrays) == 48


def test_design_and_library_tables(simulated_run: Any) -> None:
    design = simulated_run.table("sub-01/ses-01/func/sub-01_ses-01_task-shapes_run-01_design.tsv")
    bold = next((simulated_run.dataset / "derivatives").rglob("sub-01_ses-01*run-01*desc-preproc_bold.nii.gz"))
    assert len(design) == nib.load(bold).shape[3]
    assert sum(name.startswith("trial_") for name in design.columns) == 24
    library = simulated_run.table("sub-01/ses-01/func/sub-01_ses-01_task-shapes_desc-hrflibrary_timeseries.tsv").astype(float)
    assert library.shape[1] == 20
    np.testing.assert_allclose(library.max(), 1, atol=0.01)
    folder, stem = place(simulated_run, "01", "01")
    index = units_of(simulated_run, folder, stem, "nifti", "hrfindex", "fithrf")[0]
    assert set(np.unique(index[np.isfinite(index)])) <= set(range(20))


def test_reports_are_one_file_that_fetches_nothing(simulated_run: Any) -> None:
    for name in ("sub-01.html", "sub-02.html", "group_glm.html"):
        page = (simulated_run.output / name).read_text(encoding="utf-8")
        outside = re.findall(r"""(?:src|srcset|href|data)\s*=\s*["']([^"'#][^"']*)["']""", page)
        fetched = re.findall(r"<(?:script|link|img|iframe|object|embed|source)\b[^>]*", page)
        assert not [tag for tag in fetched if re.search(r"=\s*[\"']?(https?:)?//", tag)], name
        assert not re.findall(r"url\(\s*['\"]?https?:|@import", page), name
        assert all(link.startswith(("data:", "https://", "http://", "sub-", "mailto:")) for link in outside), set(outside)
    page = (simulated_run.output / "sub-01.html").read_text(encoding="utf-8")
    for model in MODELS:
        assert model in page


def test_group_has_a_row_a_participant_session_and_space(simulated_run: Any) -> None:
    table = simulated_run.table("group_glm.tsv")
    assert not {"session", "run", "task", "subject", "space"} & set(table.columns)
    rows = list(zip(table["participant_id"], table["session_id"], table["space_label"], strict=True))
    assert sorted(rows) == sorted((f"sub-{sub}", ses, space) for sub, ses in FITS for space in ("T1w", "fsLR", "fsaverage5"))
    assert (table["n_trials"] == "48").all()


def test_stimuli_are_named_and_hashed(simulated_run: Any) -> None:
    table = simulated_run.table("stimuli/sub-01_stimuli.tsv")
    assert len(table) == 12
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert all((simulated_run.dataset / "stimuli" / name).is_file() for name in table["stim_file"])


def test_nothing_half_written_and_nothing_of_this_machine(simulated_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in simulated_run.output.rglob("*"):
        assert ".conform-" not in path.name
        if path.suffix in (".json", ".tsv") and "/log" not in path.as_posix():
            assert str(simulated_run.output.parent) not in path.read_text(encoding="utf-8"), path


def test_reports_only_makes_the_same_reports(simulated_run: Any, run_app: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(simulated_run.output, output)
    for page in output.glob("*.html"):
        page.unlink()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.nii.gz")}
    flags = ("--model", *MODELS, "--reports-only", "-w", tmp_path / "work")
    done = run_app("glm", simulated_run.dataset, output, "participant", "group", *flags)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in output.glob("*.html")) == ["group_glm.html", "sub-01.html", "sub-02.html"]
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.nii.gz")} == before
    sizes = {name: (output / name).stat().st_size / (simulated_run.output / name).stat().st_size for name in ("sub-01.html", "sub-02.html")}
    assert all(0.99 < ratio < 1.01 for ratio in sizes.values())


def test_boilerplate_only_writes_the_methods_alone(simulated_run: Any, run_app: Callable[..., Any], tmp_path: Path) -> None:
    flags = ("--boilerplate-only", "--md-only-boilerplate", "--lss", "--model", "fithrf")
    done = run_app("glm", simulated_run.dataset, tmp_path / "out", "participant", *flags)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == ["CITATION.bib", "CITATION.md"]
    text = (tmp_path / "out" / "logs" / "CITATION.md").read_text()
    assert "least squares" in text.lower()
    assert "ridge" not in text.split("## References")[0].lower()
