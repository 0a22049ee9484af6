"""The simulated dataset as a whole: valid BIDS, the same bytes from the same seed, series that hold their truth."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from conform_bids.bids.bold import find_bold
from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library
from conform_bids.bids.images import read_bold, read_space
from conform_bids.bids.index import Selection, open_dataset
from conform_bids.errors import UsageError
from conform_bids.numerics.hrf import response_at
from conform_bids.simulate.dataset import SPACES, SimulatedDataset, simulate_dataset
from conform_bids.simulate.settings import SimulationSettings

SMALL = SimulationSettings(n_subjects=1, n_sessions=1, n_runs=2, n_stimuli=8, voxel_size=12.0, test_fraction=0.25)
SERIES = {
    "nifti": ("space-T1w_desc-preproc_bold.nii.gz",),
    "cifti": ("space-fsLR_den-5k_bold.dtseries.nii",),
    "gifti": ("hemi-L_space-fsaverage5_bold.func.gii", "hemi-R_space-fsaverage5_bold.func.gii"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    return simulate_dataset(tmp_path_factory.mktemp("small") / "dataset", SMALL)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    settings = SimulationSettings(n_subjects=1, n_sessions=1, file_formats=("nifti",))
    return simulate_dataset(tmp_path_factory.mktemp("full") / "dataset", settings)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def series_files(dataset: SimulatedDataset, file_format: str, run: int) -> list[Path]:
    folder = dataset.fmriprep / "sub-01" / "ses-01" / "func"
    return [folder / f"sub-01_ses-01_task-shapes_run-{run:02d}_{name}" for name in SERIES[file_format]]


def read_units(dataset: SimulatedDataset, file_format: str, run: int) -> np.ndarray:
    """Series of a run by nibabel alone, shape (volumes, units), units as the truth has them."""
    files = series_files(dataset, file_format, run)
    if file_format == "nifti":
        mask = nibabel.load(str(files[0]).replace("desc-preproc_bold", "desc-brain_mask")).get_fdata() > 0
        return np.asarray(nibabel.load(files[0]).dataobj)[mask].T
    if file_format == "cifti":
        return np.asarray(nibabel.load(files[0]).dataobj)
    return np.concatenate([np.stack([array.data for array in nibabel.load(path).darrays]) for path in files], axis=1)


def test_the_validator_passes_the_raw_dataset_and_the_derivative(small: SimulatedDataset) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")  # a dependency: it lies beside this Python
    for folder in (small.path, small.fmriprep):
        done = subprocess.run([str(validator), str(folder), "--ignoreWarnings"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_same_settings_give_the_same_bytes(small: SimulatedDataset, tmp_path: Path) -> None:
    again = simulate_dataset(tmp_path / "again", SMALL)
    assert hashes(again.path) == hashes(small.path)


def test_another_seed_gives_other_series(small: SimulatedDataset, tmp_path: Path) -> None:
    other = simulate_dataset(tmp_path / "other", replace(SMALL, seed=1, file_formats=("nifti",)))
    assert hashes(other.path)["participants.tsv"] == hashes(small.path)["participants.tsv"]
    assert not np.array_equal(read_units(other, "nifti", 1), read_units(small, "nifti", 1))


def test_a_second_call_leaves_the_dataset_alone(small: SimulatedDataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.path.rglob("*")}
    again = simulate_dataset(small.path, SMALL)
    assert small.made
    assert not again.made
    assert {path: path.stat().st_mtime_ns for path in small.path.rglob("*")} == before


def test_other_settings_or_other_files_are_not_overwritten(small: SimulatedDataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other settings"):
        simulate_dataset(small.path, SimulationSettings(n_subjects=3))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a simulated dataset"):
        simulate_dataset(tmp_path, SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_simulation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("conform_bids.simulate.dataset.write_trials", full_disk)
    with pytest.raises(OSError, match="No space"):
        simulate_dataset(tmp_path / "dataset", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file_format", ["nifti", "cifti", "gifti"])
def test_units_of_the_truth_are_those_of_the_series(small: SimulatedDataset, file_format: str) -> None:
    truth = np.load(small.truth_file("01", file_format))
    series = read_units(small, file_format, 1)
    assert series.shape == (SMALL.n_volumes, len(truth["active"]))
    assert truth["trial_betas"].shape == (16, series.shape[1])
    varies = series.std(axis=0) > 0
    np.testing.assert_array_equal(varies, truth["valid"])
    assert not truth["active"][~truth["valid"]].any()
    assert not truth["trial_betas"][:, ~truth["active"]].any()


def test_formats_see_the_same_brain(small: SimulatedDataset) -> None:
    volume = read_units(small, "nifti", 1)
    for file_format in ("cifti", "gifti"):
        truth = np.load(small.truth_file("01", file_format))
        series = read_units(small, file_format, 1)
        units = np.flatnonzero(truth["valid"])[::20]
        matched = [np.corrcoef(series[:, unit], volume[:, truth["site"][unit]])[0, 1] for unit in units]
        assert np.median(matched) > 0.8
        assert max(matched) < 0.9999, "every unit has noise of its own"


def test_odd_units_are_there(small: SimulatedDataset) -> None:
    series = read_units(small, "nifti", 1)
    assert (series.max(axis=0) == 0).sum() == 4
    assert ((series.std(axis=0) == 0) & (series.max(axis=0) > 0)).sum() == 4
    truth = np.load(small.truth_file("01", "nifti"))
    means = series.mean(axis=0)
    outside = truth["tissue"] == 0
    assert outside.any()
    assert means[outside].max() < 0.1 * np.percentile(means, 99)


def test_the_packages_readers_find_and_read_every_series(small: SimulatedDataset) -> None:
    dataset = open_dataset(small.path, participants=("01",))
    found = find_bold(dataset, "01", Selection())
    assert sorted({series.kind for series in found}) == ["cifti", "gifti", "nifti"]
    assert len(found) == 6
    assert {series.entities["space"] for series in found} == set(SPACES.values())
    for series in found:
        assert series.events is not None
        assert series.confounds is not None
        assert series.metadata["StartTime"] == pytest.approx(0.8)
        space = read_space(series.files, series.mask, series.entities["space"], density=series.entities.get("den"))
        values = read_bold(series.files, space, n_volumes=SMALL.n_volumes)
        run = int(series.entities["run"])
        np.testing.assert_array_equal(values, read_units(small, series.kind, run))


def test_confounds_are_fmripreps(small: SimulatedDataset) -> None:
    path = small.fmriprep / "sub-01/ses-01/func/sub-01_ses-01_task-shapes_run-01_desc-confounds_timeseries.tsv"
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == SMALL.n_volumes
    assert {"trans_x", "rot_z", "framewise_displacement", "dvars", "csf", "global_signal", "a_comp_cor_00"} <= set(rows[0])
    assert rows[0]["framewise_displacement"] == "n/a"
    moved = sum(abs(float(rows[1][f"trans_{axis}"]) - float(rows[0][f"trans_{axis}"])) for axis in "xyz")
    turned = sum(abs(float(rows[1][f"rot_{axis}"]) - float(rows[0][f"rot_{axis}"])) for axis in "xyz")
    assert float(rows[1]["framewise_displacement"]) == pytest.approx(moved + 50 * turned, rel=1e-4)


def test_events_name_stimuli_that_exist(small: SimulatedDataset) -> None:
    path = small.path / "sub-01/ses-01/func/sub-01_ses-01_task-shapes_run-01_events.tsv"
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 8
    assert len({row["stim_id"] for row in rows}) == 8
    assert sorted(row["split"] for row in rows) == ["test"] * 2 + ["train"] * 6
    for row in rows:
        with Image.open(small.path / "stimuli" / row["stim_file"]) as image:
            assert len(image.getcolors()) > 1, "an image shows a shape on a ground"


def test_onsets_on_the_grid(tmp_path: Path) -> None:
    settings = SimulationSettings(
        n_subjects=1, n_sessions=1, n_runs=1, n_stimuli=8, voxel_size=12.0, on_grid=True, slice_timing=False, file_formats=("nifti",)
    )
    dataset = simulate_dataset(tmp_path / "dataset", settings)
    with (dataset.path / "sub-01/ses-01/func/sub-01_ses-01_task-shapes_run-01_events.tsv").open() as file:
        volumes = np.array([float(row["onset"]) for row in csv.DictReader(file, delimiter="\t")]) / settings.repetition_time
    np.testing.assert_allclose(volumes, np.rint(volumes), atol=1e-5)
    assert len(set(np.rint(volumes))) == 8
    sidecar = Path(str(series_files(dataset, "nifti", 1)[0]).replace(".nii.gz", ".json"))
    assert json.loads(sidecar.read_text())["StartTime"] == 0


def estimate(dataset: SimulatedDataset) -> dict[str, np.ndarray]:
    """Least-squares betas of each trial: one HRF; each unit's best HRF; and with noise components of units that do not respond."""
    settings = SimulationSettings()
    truth = np.load(dataset.truth_file("01", "nifti"))
    with (dataset.truth / "sub-01_trials.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    times = settings.start_time + settings.repetition_time * np.arange(settings.n_volumes)
    drift = np.linalg.qr(np.vander(np.linspace(-1, 1, len(times)), 3))[0]
    quiet = truth["valid"] & ~truth["active"] & (truth["tissue"] > 0)
    betas: dict[str, list[np.ndarray]] = {"assumed": [], "fitted": [], "denoised": []}
    runs = []
    for run in (1, 2, 3):
        series = read_units(dataset, "nifti", run)[:, truth["active"]]
        noise = read_units(dataset, "nifti", run)[:, quiet]
        noise = (noise - drift @ (drift.T @ noise)) / noise.mean(axis=0)
        components = np.linalg.svd(noise / np.linalg.norm(noise, axis=0), full_matrices=False)[0][:, :4]
        onsets = np.array([float(row["onset"]) for row in rows if row["run_id"] == f"{run:02d}"])
        runs.append((100 * series / series.mean(axis=0), times[:, np.newaxis] - onsets, np.linalg.qr(np.c_[drift, components])[0]))

    def fit(hrf: np.ndarray, lags: np.ndarray, series: np.ndarray, nuisance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        design = np.interp(lags, np.arange(0, 60, 0.02), hrf, left=0)
        design = design - nuisance @ (nuisance.T @ design)
        series = series - nuisance @ (nuisance.T @ series)
        solved = np.linalg.lstsq(design, series, rcond=None)[0]
        return solved, ((series - design @ solved) ** 2).sum(axis=0)

    fine = np.arange(0, 60, 0.02)
    assumed = response_at(load_default_assumed_hrf(), settings.stimulus_duration, fine)[:, 0]
    library = response_at(load_default_library(), settings.stimulus_duration, fine).T
    misfit = [sum(fit(hrf, lags, series, drift)[1] for series, lags, _ in runs) for hrf in library]
    best = np.argmin(misfit, axis=0)
    for series, lags, nuisance in runs:
        betas["assumed"].append(fit(assumed, lags, series, drift)[0])
        for name, removed in (("fitted", drift), ("denoised", nuisance)):
            of_run = np.empty((lags.shape[1], series.shape[1]))
            for index in np.unique(best):
                of_run[:, best == index] = fit(library[index], lags, series[:, best == index], removed)[0]
            betas[name].append(of_run)
    return {name: np.concatenate(parts) for name, parts in betas.items()}


def test_better_models_are_nearer_to_the_truth(full: SimulatedDataset) -> None:
    truth = np.load(full.truth_file("01", "nifti"))
    true_betas = truth["trial_betas"][:, truth["active"]]
    median = {}
    for name, betas in estimate(full).items():
        median[name] = np.median([np.corrcoef(mine, true)[0, 1] for mine, true in zip(betas.T, true_betas.T, strict=True)])
    assert 0.3 < median["assumed"] < median["fitted"] - 0.05
    assert median["fitted"] < median["denoised"] - 0.05
    assert median["denoised"] < 0.9, "a noiseless simulation would tell models apart no more"
    slope = np.median([np.polyfit(true, mine, 1)[0] for mine, true in zip(estimate(full)["denoised"].T, true_betas.T, strict=True)])
    assert 0.85 < slope < 1.15, "betas are in percent signal change, for an HRF of peak 1"


def test_the_noise_ceiling_is_the_share_of_the_stimulus(full: SimulatedDataset) -> None:
    truth = np.load(full.truth_file("01", "nifti"))
    ceiling = truth["noise_ceiling"]
    assert not ceiling[~truth["active"]].any()
    # selectivity .6 and trial variability .3: .36 / (.36 + .09), less what sessions add
    assert np.median(ceiling[truth["active"]]) == pytest.approx(80, abs=6)


@pytest.mark.slow
def test_the_default_dataset_is_fast_and_small(tmp_path: Path) -> None:
    start = time.process_time()
    dataset = simulate_dataset(tmp_path / "dataset")
    assert time.process_time() - start < 20
    assert sum(path.stat().st_size for path in dataset.path.rglob("*") if path.is_file()) < 150e6
    assert dataset.participants == ("01", "02")
