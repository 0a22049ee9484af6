"""Small derivatives of people whose responses are linear in features, with the truth, and runs of conform-encode on them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.stimuli.feature_files import write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable

SHAPE = (6, 5, 4)
N_UNITS = int(np.prod(SHAPE))
SPACE = "space-MNI152NLin2009cAsym_res-2"


@dataclass(frozen=True)
class WorldSpec:
    """What a dataset is made of; the last ``test`` stimuli are held out, and unit 0 never varies."""

    people: tuple[str, ...] = ("01", "02")
    stimuli: int = 60
    test: int = 20
    n_features: int = 8
    noise: float = 0.6
    maker: str = "conform-psn"
    seed: int = 0
    shared: float = 0.0
    """Share of the variance of weights that people have in common, the same for all units."""
    features: np.ndarray | None = None
    """Of the stimuli, instead of random ones."""
    tuning: np.ndarray | None = None
    """Weights of all people, (n_features, N_UNITS), instead of random ones."""
    model: str = "truth"
    """What made the features, for their card."""


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _save(values: np.ndarray, folder: Path, stem: str, content: dict[str, Any]) -> None:
    data = values.T.reshape(*SHAPE, len(values)).astype(np.float32)
    nib.save(nib.Nifti1Image(data if len(values) > 1 else data[..., 0], np.diag([2.0, 2, 2, 1])), folder / f"{stem}.nii.gz")
    _json(folder / f"{stem}.json", content)


def write_world(root: Path, spec: WorldSpec | None = None) -> SimpleNamespace:
    """A derivative, a table of features in another order than the responses, and the weights."""
    spec = spec or WorldSpec()
    rng = np.random.default_rng(spec.seed)
    drawn_features = rng.standard_normal((spec.stimuli, spec.n_features)).astype(np.float32)
    features = drawn_features if spec.features is None else spec.features.astype(np.float32)
    names = [f"s{k:03d}.png" for k in range(spec.stimuli)]
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    described = {"Name": "outputs", "BIDSVersion": "1.11.1", "DatasetType": "derivative"}
    folder = root / "data"
    _json(folder / "dataset_description.json", {**described, "GeneratedBy": [{"Name": spec.maker, "Version": "0"}]})
    weights, common = {}, rng.standard_normal((spec.n_features, 1))
    for person in spec.people:
        own = np.random.default_rng([spec.seed, int(person)])
        drawn = np.sqrt(1 - spec.shared) * own.standard_normal((spec.n_features, N_UNITS)) + np.sqrt(spec.shared) * common
        weights[person] = drawn / np.sqrt(spec.n_features) if spec.tuning is None else spec.tuning
        signal = features @ weights[person]
        trials = [10 + 3 * (signal + spec.noise * own.standard_normal(signal.shape)) for _ in range(4)]
        for each in trials:
            each[:, 0] = 4.0
        split = ["train"] * (spec.stimuli - spec.test) + ["test"] * spec.test if spec.test else ["n/a"] * spec.stimuli
        _save_person(folder, person, spec, trials, names, split)
        (folder / "stimuli").mkdir(exist_ok=True)
        stimuli = pd.DataFrame({"stim_id": names, "stim_file": names, "sha256": hashes})
        stimuli.to_csv(folder / "stimuli" / f"sub-{person}_stimuli.tsv", sep="\t", index=False)
    order = rng.permutation(spec.stimuli)
    card = FeatureCard(spec.model, "all", {}, "CC0-1.0")
    table = FeatureTable(features[order], [names[k] for k in order], [hashes[k] for k in order], card)
    write_features(table, root / "features" / "truth.h5")
    noise = FeatureTable(rng.standard_normal((spec.stimuli, 5)), names, hashes, FeatureCard("noise"))
    write_features(noise, root / "features" / "noise.npz")
    return SimpleNamespace(
        dataset=folder, features=root / "features", table=table, values=features, names=names, weights=weights, spec=spec
    )


def _save_person(root: Path, person: str, spec: WorldSpec, trials: list[np.ndarray], names: list[str], split: list[str]) -> None:
    folder, stem, n = root / f"sub-{person}" / "func", f"sub-{person}_task-images", len(names)
    folder.mkdir(parents=True, exist_ok=True)
    if spec.maker == "conform-glm":
        table = pd.DataFrame(
            {
                "trial": range(2 * n), "session_id": "n/a", "run_id": "01", "onset": np.arange(2.0 * n), "duration": 1.0,
                "trial_type": "image", "stim_id": names * 2, "condition": 0, "repetition": [0] * n + [1] * n, "split": split * 2,
                "flag": "n/a",
            }
        )  # fmt: skip
        table.to_csv(folder / f"{stem}_desc-conform_trials.tsv", sep="\t", index=False)
        content = {"TrialTable": f"bids::sub-{person}/func/{stem}_desc-conform_trials.tsv"}
        _save(np.concatenate(trials[:2]), folder, f"{stem}_{SPACE}_stat-effect_desc-conform_statmap", content)
        return
    table = pd.DataFrame({"condition": range(n), "stim_id": names, "n_trials": 2, "split": split, "first_trial": range(n)[::-1], "fold": 0})
    table.to_csv(folder / f"{stem}_{SPACE}_desc-psn_trials.tsv", sep="\t", index=False)
    content = {"TrialTable": f"bids::sub-{person}/func/{stem}_{SPACE}_desc-psn_trials.tsv"}
    for desc, values in (("psn", np.mean(trials[:2], axis=0)), ("trialavg", np.mean(trials[2:], axis=0))):
        _save(values, folder, f"{stem}_{SPACE}_stat-effect_desc-{desc}_statmap", content)
    _save(np.full((1, N_UNITS), 1 / spec.noise), folder, f"{stem}_{SPACE}_stat-ncsnr_desc-psn_statmap", {})


def run_here(*arguments: object) -> SimpleNamespace:
    """Run conform-encode in this process, one node after the other."""
    from bids_app.encode.__main__ import APP
    from bids_app.run import main

    typed = [*map(str, arguments), "--debug", "workflow"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(APP, typed)
        except SystemExit as ended:  # argparse
            status = int(ended.code or 0)
    return SimpleNamespace(status=status, stdout=output.getvalue(), stderr=errors.getvalue())


@pytest.fixture(scope="session")
def world_spec() -> type[WorldSpec]:
    return WorldSpec


@pytest.fixture(scope="session")
def make_world() -> Callable[..., SimpleNamespace]:
    """`write_world(root, spec)`."""
    return write_world


@pytest.fixture(scope="session")
def run_encode() -> Callable[..., SimpleNamespace]:
    return run_here


@pytest.fixture(scope="session")
def movie_world() -> Any:
    """The module that writes datasets of movies (tests are no package, so that it is not imported by name)."""
    spec = importlib.util.spec_from_file_location("movie_world", Path(__file__).with_name("movie_world.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["movie_world"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def movie_spec(movie_world: Any) -> Any:
    return movie_world.MovieSpec


@pytest.fixture(scope="session")
def make_movies(movie_world: Any) -> Callable[..., SimpleNamespace]:
    """`write_movies(root, spec)`."""
    return movie_world.write_movies
