"""A new person in context: better than ridge where the population is right, as good as ridge where it is wrong, and never a leak."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.weights import read_weights
from conform_bids.stimuli.feature_files import write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable
from conform_bids.store.inputs import find_inputs
from conform_bids.store.release import write_release

COMMON = ("--skip-bids-validation", "--nprocs", "1")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"
CONTEXT = ("--context", "12", "--draws", "3", "--bootstraps", "50")


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
def trained(tmp_path_factory: pytest.TempPathFactory, make_world: Any, world_spec: Any, run_encode: Any) -> SimpleNamespace:
    """A model of three people, and the responses of a fourth and a fifth person; tests must not write to it."""
    folder = tmp_path_factory.mktemp("adapt")
    spec = {"stimuli": 90, "test": 30, "shared": 0.8}
    known = make_world(folder / "known", world_spec(people=("01", "02", "03"), maker="conform-glm", **spec))
    write_release([find_inputs("images", known.dataset, prefix=False)], folder / "store")
    flags = ("--features", known.features / "truth.h5", "--contexts", "12", "--draws", "1", "--max-units", "100")
    run = run_encode(folder / "store", folder / "group", "group", "-w", folder / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    new = make_world(folder / "new", world_spec(people=("04", "05"), noise=1.2, **spec))
    return SimpleNamespace(folder=folder, known=known, new=new, model=folder / "group", features=known.features / "truth.h5")


@pytest.fixture(scope="module")
def adapted(trained: SimpleNamespace, run_encode: Any) -> SimpleNamespace:
    """The fourth person in context, with every question asked."""
    table = trained.known.table
    few = FeatureTable(table.values[:6], table.stim_ids[:6], table.sha256[:6], table.card)
    write_features(few, trained.folder / "few.npz")
    flags = ("--features", trained.features, "--model", trained.model, *CONTEXT, "--influence", "--predict", trained.folder / "few.npz")
    out = trained.folder / "out"
    run = run_encode(trained.new.dataset, out, "participant", "-w", trained.folder / "work", *COMMON, *flags, "--participant-label", "04")
    assert run.status == 0, run.stderr
    return SimpleNamespace(output=out, stem=out / "sub-04" / "func" / f"sub-04_{STEM}", few=few, **vars(run))


def metrics(stem: Path) -> pd.Series:
    return pd.read_csv(f"{stem}_desc-population_metrics.tsv", sep="\t", index_col="metric")["value"]


def test_every_file_is_there(adapted: SimpleNamespace, repository: Path) -> None:
    expected = (repository / "tests" / "outputs" / "conform-encode_population.txt").read_text(encoding="utf-8").splitlines()
    assert tree(adapted.output) == expected


def test_a_new_person_is_predicted_better_than_by_ridge(adapted: SimpleNamespace, trained: SimpleNamespace) -> None:
    scores = metrics(adapted.stem)
    assert scores["median_correlation"] > scores["ridge_median_correlation"] + 0.02
    assert [scores[f"draw{draw}_population_used"] for draw in (1, 2, 3)] == [1, 1, 1]
    assert scores["mean_over_draws_median_correlation"] == pytest.approx(
        np.mean([scores[f"draw{draw}_median_correlation"] for draw in (1, 2, 3)])
    )
    assert 0.7 < scores["calibration_squared_error"] < 1.4
    assert 0.88 < scores["calibration_coverage_95"] < 0.995
    content = json.loads(Path(f"{adapted.stem}_desc-population_metrics.json").read_text())["Population"]
    assert content["ModelUsed"] == "prior"
    assert content["Guard"]["accepted"] is True
    assert content["TrainedOn"] == ["sub-01", "sub-02", "sub-03"]
    assert content["Context"] == 12
    model = read_weights(Path(f"{adapted.stem}_desc-population_weights.h5"))
    kept = np.isfinite(model.intercept)
    truth = trained.new.weights["04"]
    likeness = [np.corrcoef(model.weights[:, unit], truth[:, unit])[0, 1] for unit in np.flatnonzero(kept)]
    assert np.median(likeness) > 0.8


def test_maps_agree_with_the_weights(adapted: SimpleNamespace, trained: SimpleNamespace) -> None:
    model = read_weights(Path(f"{adapted.stem}_desc-population_weights.h5"))
    kept = np.isfinite(model.intercept)
    table = pd.read_csv(f"{adapted.stem}_desc-population_trials.tsv", sep="\t")
    rows = [trained.new.names.index(name) for name in table.loc[table["split"] == "test", "stim_id"]]
    expected = trained.new.values[rows] @ model.weights + model.intercept
    predicted = maps(Path(f"{adapted.stem}_stat-prediction_desc-population_statmap.nii.gz"))
    np.testing.assert_allclose(predicted[:, kept], expected[:, kept], atol=1e-4)
    deviation = maps(Path(f"{adapted.stem}_stat-predictionsd_desc-population_statmap.nii.gz"))
    assert (deviation[:, kept] > 0).all()
    new = maps(Path(f"{adapted.stem}_stat-prediction_desc-populationnew_statmap.nii.gz"))
    np.testing.assert_allclose(new[:, kept], model.predict(adapted.few.values)[:, kept], atol=1e-3)
    listed = pd.read_csv(f"{adapted.stem}_desc-populationnew_trials.tsv", sep="\t")
    assert tuple(listed["stim_id"]) == tuple(adapted.few.stim_ids)
    expectation = maps(Path(f"{adapted.stem}_stat-expectedrsquared_desc-population_statmap.nii.gz"))
    assert ((expectation[kept] >= 0) & (expectation[kept] <= 1)).all()


def test_contexts_hold_train_stimuli_alone(adapted: SimpleNamespace) -> None:
    table = pd.read_csv(f"{adapted.stem}_desc-population_contexts.tsv", sep="\t")
    split = pd.read_csv(f"{adapted.stem}_desc-population_trials.tsv", sep="\t").set_index("stim_id")["split"]
    assert table.groupby("draw").size().tolist() == [12, 12, 12]
    assert {split[name] for name in table["stim_id"]} == {"train"}
    assert len(set(table.groupby("draw")["stim_id"].agg(tuple))) == 3
    influence = maps(Path(f"{adapted.stem}_stat-influence_desc-population_statmap.nii.gz"))
    assert len(influence) == 12
    assert (influence[:, np.isfinite(influence).all(axis=0)] > 0).all()


def test_a_person_of_another_population_gets_ridge(trained: SimpleNamespace, tmp_path: Path, make_world: Any, run_encode: Any) -> None:
    """The same world with all tunings turned round: the model expects the opposite of every response."""
    spec = trained.new.spec
    folder = tmp_path / "turned"
    shutil.copytree(trained.new.dataset, folder)
    for path in (folder / "sub-05" / "func").glob("*stat-effect*statmap.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image((20 - image.get_fdata()).astype(np.float32), image.affine), path)
    flags = ("--features", trained.features, "--model", trained.model / "model", "--context", "20", "--context-strategy", "diverse")
    run = run_encode(folder, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags, "--participant-label", "05")
    assert run.status == 0, run.stderr
    stem = tmp_path / "out" / "sub-05" / "func" / f"sub-05_{STEM}"
    scores = metrics(stem)
    assert scores["median_correlation"] == pytest.approx(scores["ridge_median_correlation"], abs=1e-4)
    content = json.loads(Path(f"{stem}_desc-population_metrics.json").read_text())
    assert content["Population"]["ModelUsed"] == "ridge"
    assert any("THE GUARD USED RIDGE" in note for note in content["Notes"])
    assert "THE GUARD USED RIDGE" in (tmp_path / "out" / "sub-05.html").read_text()
    assert spec.people == ("04", "05")


def test_a_person_of_the_training_is_refused(trained: SimpleNamespace, tmp_path: Path, run_encode: Any, make_world: Any) -> None:
    data = tmp_path / "data"
    shutil.copytree(trained.new.dataset, data)
    for path in sorted(data.rglob("*sub-04*"), key=lambda path: len(path.parts), reverse=True):
        if path.suffix == ".json":
            path.write_text(path.read_text().replace("sub-04", "sub-01"))
        path.rename(path.with_name(path.name.replace("sub-04", "sub-01")))
    flags = ("--features", trained.features, "--model", trained.model, *CONTEXT, "--participant-label", "01")
    run = run_encode(data, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 2, run.stderr
    assert "--allow-seen" in run.stderr
    plan = run_encode(data, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags, "--allow-seen", "--dry-run")
    assert plan.status == 0, plan.stderr
    assert "WAS TRAINED ON sub-01" in plan.stdout


def test_a_stimulus_of_test_content_is_in_no_context(trained: SimpleNamespace, tmp_path: Path, run_encode: Any) -> None:
    """Two train stimuli are copies of test stimuli under other names."""
    data = tmp_path / "data"
    shutil.copytree(trained.new.dataset, data)
    table = pd.read_csv(data / "stimuli" / "sub-04_stimuli.tsv", sep="\t")
    table.loc[[3, 4], "sha256"] = table.loc[[70, 71], "sha256"].to_numpy()
    table.to_csv(data / "stimuli" / "sub-04_stimuli.tsv", sep="\t", index=False)
    plain = FeatureTable(trained.new.values, trained.new.names, ["n/a"] * len(trained.new.names), trained.new.table.card)
    write_features(plain, tmp_path / "plain.h5")
    flags = ("--features", tmp_path / "plain.h5", "--model", trained.model, "--participant-label", "04", "--bootstraps", "0")
    run = run_encode(data, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    stem = tmp_path / "out" / "sub-04" / "func" / f"sub-04_{STEM}"
    shown = set(pd.read_csv(f"{stem}_desc-population_contexts.tsv", sep="\t")["stim_id"])
    assert len(shown) == 58
    assert not shown & {"s003.png", "s004.png"}


@pytest.mark.parametrize("fault", ["features", "context", "no model", "estimator", "missing", "broken", "words", "rois"])
def test_what_cannot_be_done_is_refused(fault: str, trained: SimpleNamespace, tmp_path: Path, run_encode: Any) -> None:
    flags: list[object] = ["--features", trained.features, "--model", trained.model]
    status, words = 2, fault
    if fault == "features":
        card = FeatureCard("another", "all", {}, "CC0-1.0")
        write_features(FeatureTable(trained.new.values, trained.new.names, ["n/a"] * 90, card), tmp_path / "other.h5")
        flags[1], status, words = tmp_path / "other.h5", 65, "not those of the model"
    elif fault == "context":
        flags += ["--context", "3"]
        words = "from 4"
    elif fault == "no model":
        flags[2:] = ["--context", "10"]
        words = "without --model"
    elif fault == "estimator":
        flags += ["--estimator", "banded"]
        words = "no effect with --model"
    elif fault == "missing":
        flags[3], status, words = tmp_path, 66, "model_card.json"
    elif fault == "broken":
        shutil.copytree(trained.model / "model", tmp_path / "model")
        (tmp_path / "model" / "model_card.json").write_text("[]")
        flags[3], status, words = tmp_path, 65, "not a population model"
    elif fault == "words":
        flags += ["--text-queries", "face"]
        words = "no space that they share with text"
    else:
        flags += ["--rois", "face"]
        words = "WORD=FILE"
    flags += ["--participant-label", "04"]
    run = run_encode(trained.new.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == status, run.stderr
    assert words in run.stderr + run.stdout


@pytest.mark.slow
def test_the_first_stimuli_are_those_that_were_shown_first(trained: SimpleNamespace, tmp_path: Path, run_encode: Any) -> None:
    flags = (
        "--features",
        trained.features,
        "--model",
        trained.model,
        "--context",
        "12",
        "--context-strategy",
        "first",
        "--bootstraps",
        "0",
    )
    run = run_encode(
        trained.new.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags, "--participant-label", "04"
    )
    assert run.status == 0, run.stderr
    stem = tmp_path / "out" / "sub-04" / "func" / f"sub-04_{STEM}"
    table = pd.read_csv(f"{stem}_desc-population_trials.tsv", sep="\t")
    train = table[table["split"] == "train"].sort_values("first_trial")
    assert train["stim_id"].tolist() == trained.new.names[:60][::-1]
    context = pd.read_csv(f"{stem}_desc-population_contexts.tsv", sep="\t")
    assert set(context["stim_id"]) == set(train["stim_id"][:12])
