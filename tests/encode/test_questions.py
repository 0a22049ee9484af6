"""Maps of texts, regions that they should find, and responses to new stimuli."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.encode.numerics.queries import area_under_curve, query_maps, top_one
from conform_bids.stimuli.feature_files import write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable
from conform_bids.stimuli.text_tower import load_text_tower

COMMON = ("--skip-bids-validation", "--nprocs", "1", "--bootstraps", "0")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"
SHAPE = (6, 5, 4)
WORDS = ("dog", "car", "fruit")


def maps(path: Path) -> np.ndarray:
    values: np.ndarray = np.asarray(nib.load(path).get_fdata(), dtype=np.float64)
    return values.reshape(-1, values.shape[3]).T if values.ndim == 4 else values.ravel()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, make_world: Any, world_spec: Any, run_encode: Any) -> SimpleNamespace:
    """A brain whose units like dogs, cars or fruit, seen through features of the default backbone; it is asked for these words."""
    folder = tmp_path_factory.mktemp("questions")
    tower = load_text_tower(FeatureCard("efficientnet-lite0"))
    classes, rng = tower.bank(), np.random.default_rng(0)
    directions = tower.embed(WORDS) - classes.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    likes = np.arange(np.prod(SHAPE)) % 3
    strength = rng.standard_normal((90, 3))
    features = strength @ directions + 0.02 * rng.standard_normal((90, classes.shape[1]))
    spec = world_spec(people=("01",), stimuli=90, test=20, features=features, tuning=directions[likes].T, model="efficientnet-lite0")
    world = make_world(folder, spec)
    rois = []
    for place, word in enumerate(WORDS):
        mask = (likes == place).reshape(SHAPE).astype(np.uint8)
        mask[0, 0, 0] = 0
        nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2, 2, 1])), folder / f"{word}.nii.gz")
        rois.append(f"{word}={folder / f'{word}.nii.gz'}")
    (folder / "words.txt").write_text("# what to look for\ncar\n\nfruit\n")
    new = FeatureTable(world.table.values[:5], world.table.stim_ids[:5], world.table.sha256[:5], world.table.card)
    write_features(new, folder / "new.parquet")
    flags = ("--features", world.features / "truth.h5", "--text-queries", "dog", folder / "words.txt", "--rois", *rois)
    run = run_encode(
        world.dataset, folder / "out", "participant", "-w", folder / "work", *COMMON, *flags, "--predict", folder / "new.parquet"
    )
    assert run.status == 0, run.stderr
    stem = folder / "out" / "sub-01" / "func" / f"sub-01_{STEM}"
    return SimpleNamespace(folder=folder, world=world, likes=likes, stem=stem, new=new, flags=flags)


def test_a_text_finds_the_units_that_like_it(asked: SimpleNamespace) -> None:
    found = maps(Path(f"{asked.stem}_stat-query_desc-ridge_statmap.nii.gz"))
    assert found.shape == (3, 120)
    kept = np.isfinite(found[0])
    np.testing.assert_allclose(found[:, kept].mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(found[:, kept].std(axis=1), 1, atol=1e-3)
    table = pd.read_csv(f"{asked.stem}_desc-ridge_metrics.tsv", sep="\t", index_col="metric")["value"]
    for place, word in enumerate(WORDS):
        assert table[f"query_auc_{word}"] > 0.95
        assert table[f"query_auc_{word}"] == pytest.approx(area_under_curve(found[place], asked.likes == place), abs=1e-5)
        assert table[f"query_top1_{word}"] > 0.9
    content = json.loads(Path(f"{asked.stem}_stat-query_desc-ridge_statmap.json").read_text())
    assert content["MapsAreOf"] == ["dog", "car", "fruit"]
    assert "dog" in str(content["Queries"][0]["meaning"]).lower() or "n" in str(content["Queries"][0]["meaning"])
    page = (asked.folder / "out" / "sub-01.html").read_text()
    assert "Query: fruit" in page
    assert "AUC of its query" in page


def test_new_stimuli_are_predicted_in_the_units_of_the_responses(asked: SimpleNamespace) -> None:
    predicted = maps(Path(f"{asked.stem}_stat-prediction_desc-ridgenew_statmap.nii.gz"))
    signal = 10 + 3 * asked.new.values @ asked.world.weights["01"]
    kept = np.isfinite(predicted[0])
    assert predicted.shape == (5, 120)
    assert np.corrcoef(predicted[:, kept].ravel(), signal[:, kept].ravel())[0, 1] > 0.9
    assert np.abs(predicted[:, kept] - signal[:, kept]).mean() < 1


@pytest.mark.parametrize("fault", ["word", "region", "mask", "table", "empty"])
def test_what_cannot_be_answered_is_refused(fault: str, asked: SimpleNamespace, tmp_path: Path, run_encode: Any) -> None:
    flags: list[object] = ["--features", asked.world.features / "truth.h5"]
    if fault == "word":
        flags += ["--text-queries", "dawg"]
        status, words = 2, "none of the words"
    elif fault == "region":
        flags += ["--text-queries", "dog", "--rois", f"cat={asked.folder / 'dog.nii.gz'}"]
        status, words = 2, "none of the text queries"
    elif fault == "mask":
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "small.nii.gz")
        flags += ["--text-queries", "dog", "--rois", f"dog={tmp_path / 'small.nii.gz'}"]
        status, words = 65, "small.nii.gz"
    elif fault == "table":
        write_features(FeatureTable(np.zeros((2, 7)), ["a", "b"], ["n/a", "n/a"]), tmp_path / "seven.h5")
        flags += ["--predict", tmp_path / "seven.h5"]
        status, words = 65, "7 features"
    else:
        (tmp_path / "words.txt").write_text("# nothing\n")
        flags += ["--text-queries", tmp_path / "words.txt"]
        status, words = 65, "holds no text"
    run = run_encode(asked.world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == status, run.stderr
    assert words in run.stderr + run.stdout


def test_numbers_of_regions() -> None:
    values = np.array([[3.0, 2.0, 1.0, 0.0, np.nan], [0.0, 0.0, 4.0, 5.0, 1.0]])
    regions = np.array([[True, True, False, False, True], [False, False, True, True, False]])
    assert area_under_curve(values[0], regions[0]) == 1
    assert area_under_curve(values[0], ~regions[0]) == 0
    assert area_under_curve(np.ones(4), np.array([True, True, False, False])) == 0.5
    assert np.isnan(area_under_curve(values[0], np.zeros(5, dtype=bool)))
    np.testing.assert_array_equal(top_one(values, regions), [1, 1])
    np.testing.assert_array_equal(top_one(values[::-1], regions), [0, 0])


def test_a_query_map_knows_nothing_of_scale_or_of_what_all_texts_share() -> None:
    rng = np.random.default_rng(0)
    weights, queries, bank = rng.standard_normal((6, 50)), rng.standard_normal((3, 6)), rng.standard_normal((20, 6))
    found = query_maps(weights, queries, bank)
    shift = rng.standard_normal(6)
    np.testing.assert_allclose(query_maps(4 * weights, queries + shift, bank + shift), found, atol=1e-5)
    weights[:, 7] = np.nan
    assert np.isnan(query_maps(weights, queries, bank)[:, 7]).all()
