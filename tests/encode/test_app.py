"""conform-encode from the command line: scores and weights against the truth, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.derivatives import BIDSIGNORE_SHORT
from conform_bids.bids.weights import read_weights
from conform_bids.encode.figures import scale_of_scores
from conform_bids.encode.report import write_group_report, write_participant_report
from conform_bids.encode.settings import EncodeSettings
from conform_bids.stimuli.feature_files import write_features
from conform_bids.stimuli.features import FeatureTable

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
COMMON = ("--skip-bids-validation", "--nprocs", "1")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"


def maps(path: Path) -> np.ndarray:
    values: np.ndarray = np.asarray(nib.load(path).get_fdata(), dtype=np.float64)
    return values.reshape(-1, values.shape[3]).T if values.ndim == 4 else values.ravel()


def tree(folder: Path) -> list[str]:
    """Files of an output folder; those that bear the name of a run, and those that only pandoc makes, aside."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    aside = ("logs/CITATION.html", "logs/CITATION.tex")
    return sorted(
        name for name in names if "/log/" not in name and not (name.startswith("logs/") and name.count("/") > 1) and name not in aside
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, make_world: Any, run_encode: Any) -> Any:
    """Two people, ridge from the features that made their responses; tests must not write to it."""
    folder = tmp_path_factory.mktemp("encode")
    world = make_world(folder)
    flags = ("--features", world.features / "truth.h5", "--bootstraps", "100", "--write", "predictions")
    run = run_encode(world.dataset, folder / "out", "participant", "group", "-w", folder / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    run.world, run.output, run.folder = world, folder / "out", folder
    run.stem = folder / "out" / "sub-01" / "func" / f"sub-01_{STEM}"
    return run


def of(run: Any, stat: str, desc: str = "ridge") -> np.ndarray:
    return maps(Path(f"{run.stem}_stat-{stat}_desc-{desc}_statmap.nii.gz"))


def test_every_file_is_there(done: Any, repository: Path) -> None:
    expected = (repository / "tests" / "outputs" / "conform-encode_simulated.txt").read_text(encoding="utf-8").splitlines()
    assert tree(done.output) == expected


def test_weights_are_near_the_truth_and_predict_in_the_units_of_the_responses(done: Any) -> None:
    model = read_weights(Path(f"{done.stem}_desc-ridge_weights.h5"))
    kept = np.isfinite(model.intercept)
    assert kept.sum() == len(kept) - 1, "the unit that never varies has no model"
    truth = done.world.weights["01"]
    for unit in np.flatnonzero(kept):
        assert np.corrcoef(model.weights[:, unit], truth[:, unit])[0, 1] > 0.8
    assert model.cards[0]["model"] == "truth"
    measured = maps(Path(str(done.world.dataset / "sub-01" / "func" / f"sub-01_{STEM}_stat-effect_desc-trialavg_statmap.nii.gz")))
    predicted = model.predict(done.world.values[40:])
    again = [np.corrcoef(predicted[:, unit], measured[40:, unit])[0, 1] for unit in np.flatnonzero(kept)]
    np.testing.assert_allclose(of(done, "correlation")[kept], again, atol=1e-4)
    assert np.median(predicted[:, kept]) == pytest.approx(10, abs=0.6)


def test_scores_are_of_test_stimuli_that_are_not_denoised(done: Any) -> None:
    correlation, normalised, ceiling = (of(done, stat) for stat in ("correlation", "noiseceilingnormalized", "noiseceiling"))
    assert np.nanmedian(ceiling) == pytest.approx(100 / (1 + 0.6**2 / 2), rel=1e-3)
    np.testing.assert_allclose(normalised, correlation / np.sqrt(ceiling / 100), rtol=1e-4, equal_nan=True)
    assert 0.6 < np.nanmedian(correlation) < 0.95
    table = pd.read_csv(f"{done.stem}_desc-ridge_metrics.tsv", sep="\t", index_col="metric")
    row = table.loc["median_correlation"]
    assert row["low"] < row["value"] < row["high"]
    assert row["value"] == pytest.approx(np.nanmedian(correlation), rel=1e-5)
    assert table.loc["n_test_stimuli", "value"] == 20
    content = json.loads(Path(f"{done.stem}_desc-ridge_metrics.json").read_text())
    assert content["FitIncludesTest"] is False
    assert content["NumberOfTrainStimuli"] == 40
    assert any("do not vary" in note for note in content["Notes"])


def test_predictions_are_a_map_a_test_stimulus(done: Any) -> None:
    table = pd.read_csv(f"{done.stem}_desc-ridge_trials.tsv", sep="\t")
    predicted = of(done, "prediction")
    assert table["split"].tolist() == ["test"] * 20 + ["train"] * 40
    assert len(predicted) == 20
    model = read_weights(Path(f"{done.stem}_desc-ridge_weights.h5"))
    rows = [done.world.names.index(name) for name in table["stim_id"][:20]]
    expected = done.world.values[rows] @ model.weights + model.intercept
    np.testing.assert_allclose(predicted[:, 1:], expected[:, 1:], atol=1e-4)


def validate(folder: Path, *arguments: str) -> tuple[int, list[tuple[str, str, str]]]:
    """Exit status and errors of the BIDS validator."""
    run = subprocess.run([VALIDATOR, folder, "--json", *arguments], capture_output=True, text=True, timeout=120, check=False)
    issues = json.loads(run.stdout)["issues"]["issues"]
    return run.returncode, [(item["code"], item.get("subCode", ""), item["location"]) for item in issues if item["severity"] == "error"]


@pytest.mark.slow
def test_both_validators_pass(done: Any, repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("bidsschematools")
    schema = tmp_path / "schema.json"
    subprocess.run([sys.executable, repository / "tests" / "extended_schema.py", schema], check=True, timeout=60)
    assert validate(done.output) == (0, [])
    copy = tmp_path / "copy"
    shutil.copytree(done.output, copy)
    (copy / ".bidsignore").write_text("".join(f"{line}\n" for line in BIDSIGNORE_SHORT))
    assert validate(copy, "-s", schema.as_uri()) == (0, [])


@pytest.mark.slow
def test_several_spaces_are_told_apart(done: Any, run_encode: Any) -> None:
    out = done.folder / "banded"
    flags = ("--features", done.world.features, "--estimator", "banded", "--bootstraps", "0", "--folds", "5")
    run = run_encode(done.world.dataset, out, "participant", "-w", done.folder / "work", *COMMON, *flags, "--participant-label", "01")
    assert run.status == 0, run.stderr
    banded = SimpleNamespace(stem=out / "sub-01" / "func" / f"sub-01_{STEM}")
    shares, unique, whole = (of(banded, stat, "banded") for stat in ("splitrsquared", "uniquevariance", "rsquared"))
    np.testing.assert_allclose(shares.sum(axis=0), whole, atol=1e-4, equal_nan=True)
    noise, truth = 0, 1  # by file name
    assert np.nanmedian(shares[truth]) > 0.4
    assert abs(np.nanmedian(shares[noise])) < 0.05
    assert np.nanmedian(unique[truth]) > 0.4
    assert abs(np.nanmedian(unique[noise])) < 0.05
    content = json.loads(Path(f"{banded.stem}_stat-alpha_desc-banded_statmap.json").read_text())
    assert content["MapsAreOf"] == ["noise", "truth"]


@pytest.mark.slow
def test_single_trials_of_the_glm_are_averaged_and_test_stimuli_are_drawn_where_no_split_is_given(
    tmp_path: Path, make_world: Any, world_spec: Any, run_encode: Any
) -> None:
    world = make_world(tmp_path, world_spec(people=("01",), maker="conform-glm", test=0))
    flags = ("--features", world.features / "truth.h5", "--components", "4", "--test-fraction", "0.3", "--bootstraps", "20")
    run = run_encode(world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    assert "NO SPLIT IS GIVEN" in run.stderr
    table = pd.read_csv(tmp_path / "out" / "sub-01" / "func" / f"sub-01_{STEM}_desc-ridge_trials.tsv", sep="\t")
    assert (table["split"] == "test").sum() == 18
    model = read_weights(tmp_path / "out" / "sub-01" / "func" / f"sub-01_{STEM}_desc-ridge_weights.h5")
    assert np.linalg.matrix_rank(model.weights[:, 1:].astype(np.float64), tol=1e-4) == 4


@pytest.mark.parametrize("fault", ["no features", "missing", "none", "two spaces", "one band", "pickle", "folds"])
def test_what_cannot_be_used_is_refused(fault: str, done: Any, tmp_path: Path, run_encode: Any) -> None:
    flags: list[object] = ["--features", done.world.features / "truth.h5"]
    status, words = 66, "no such file"
    if fault == "no features":
        flags, words = [], "stimuli"
    elif fault == "missing":
        flags[1] = tmp_path / "nothing.h5"
    elif fault == "none":
        table = FeatureTable(np.zeros((2, 3)), ["a", "b"], ["n/a", "n/a"])
        write_features(table, tmp_path / "other.npz")
        flags[1], words = tmp_path / "other.npz", "60 of 60 stimuli have no features"
    elif fault == "two spaces":
        status, words = 65, "called 'truth'"
        write_features(done.world.table, tmp_path / "truth.npz")
        flags.append(tmp_path / "truth.npz")
    elif fault == "one band":
        status, words = 2, "two feature spaces"
        flags += ["--estimator", "banded"]
    elif fault == "pickle":
        status, words = 65, "pickled"
        np.savez(tmp_path / "bad.npz", features=np.array([{}, {}], dtype=object), stim_id=np.array(["a", "b"]))
        flags[1] = tmp_path / "bad.npz"
    else:
        status, words = 2, "--folds 1"
        flags += ["--folds", "1"]
    out = tmp_path / "out"
    run = run_encode(done.world.dataset, out, "participant", "-w", tmp_path / "work", *COMMON, *flags, "--participant-label", "01")
    assert run.status == status, run.stderr
    assert words in run.stderr + run.stdout


def test_stimuli_without_features_are_left_out_and_counted(done: Any, tmp_path: Path, run_encode: Any) -> None:
    table = done.world.table
    keep = [row for row, name in enumerate(table.stim_ids) if name not in ("s003.png", "s050.png")]
    few = FeatureTable(table.values[keep], [table.stim_ids[row] for row in keep], [table.sha256[row] for row in keep], table.card)
    write_features(few, tmp_path / "few.parquet")
    flags = ("--features", tmp_path / "few.parquet", "--bootstraps", "0", "--participant-label", "01")
    run = run_encode(done.world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    content = json.loads((tmp_path / "out" / "sub-01" / "func" / f"sub-01_{STEM}_desc-ridge_metrics.json").read_text())
    assert (content["NumberOfTrainStimuli"], content["NumberOfTestStimuli"]) == (39, 19)
    assert any("2 of 60 stimuli have no features" in note for note in content["Notes"])


def test_responses_that_saw_test_stimuli_are_told(tmp_path: Path, make_world: Any, world_spec: Any, run_encode: Any) -> None:
    world = make_world(tmp_path, world_spec(people=("01",)))
    sidecar = world.dataset / "sub-01" / "func" / f"sub-01_{STEM}_stat-effect_desc-psn_statmap.json"
    plan = (world.dataset, tmp_path / "out", "participant", "--dry-run", *COMMON, "--features", world.features / "truth.h5")
    assert "FitIncludesTest" not in run_encode(*plan).stdout
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "FitIncludesTest": True}))
    run = run_encode(*plan)
    assert run.status == 0, run.stderr
    assert "FitIncludesTest" in run.stdout


def test_the_pages_say_what_scores_are_of_and_warn_of_few_test_stimuli(done: Any, tmp_path: Path) -> None:
    for name in ("sub-01", "group_encode"):
        page = (done.output / f"{name}.html").read_text(encoding="utf-8")
        for words in (">Fit<", "Correlation (test)", "r / √ceiling (test)", "R2, cross-validated (train)", "Units above chance, % (test)"):
            assert words in page, (name, words)
        assert "are few" not in page, "there are 20 test stimuli"
    page = (done.output / "sub-01.html").read_text(encoding="utf-8")
    assert all(f">{words}<" in page for words in ("Preprocessing", "Licence", "truth")), "the card of the features"
    assert "weights.h5" in (done.output / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(f"{done.stem}_desc-ridge_metrics.tsv", sep="\t", index_col="metric")["value"]
    assert f">{100 * table['units_above_chance']:.1f}<" in (done.output / "sub-01.html").read_text(encoding="utf-8")

    copy = tmp_path / "copy"
    shutil.copytree(done.output, copy)
    path = copy / "sub-02" / "func" / f"sub-02_{STEM}_desc-ridge_metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "NumberOfTestStimuli": 8}))
    write_participant_report("02", copy, EncodeSettings(), {}, [], 5)
    write_group_report(copy, ["01", "02"], EncodeSettings(), {})
    warning = "8 test stimuli are few (fewer than 20)"
    page = (copy / "sub-02.html").read_text(encoding="utf-8")
    assert warning in page and "above chance from 0.63 on only" in page and "There are 8 test stimuli: the fewer" in page
    group = (copy / "group_encode.html").read_text(encoding="utf-8")
    assert f"sub-02: {warning}" in group and "sub-01, sub-02: 1 of" in group, "a note names the people whom it is about, and stands once"


@pytest.mark.parametrize("array", ["correlation", "noiseceilingnormalized"])
def test_maps_of_correlations_tell_above_from_below_zero(array: str) -> None:
    scale = scale_of_scores(array, np.array([-0.6, -0.2, 0.3, np.nan]))
    assert -scale.low == scale.high == pytest.approx(0.6)
    red, _, blue, _ = scale.colours(np.array([-0.4]))[0]
    assert blue > red
    red, _, blue, _ = scale.colours(np.array([0.4]))[0]
    assert red > blue


@pytest.mark.parametrize(("lowest", "arrow"), [(-0.2, True), (0.1, False)])
def test_the_scale_of_r2_ends_in_an_arrow_where_some_is_below_zero(lowest: float, arrow: bool) -> None:
    scale = scale_of_scores("cv_rsquared", np.array([lowest, 0.5, np.nan]))
    assert (scale.low, scale.extends_below) == (0, arrow)
