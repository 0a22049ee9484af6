"""From files to what a fit takes: a person's responses to train and test stimuli, and the features of these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.averages import Averages, average_trials, read_averages, read_response_space, used_space
from conform_bids.bids.conditions import first_shown, read_conditions, with_content
from conform_bids.bids.derivatives import write_json
from conform_bids.bids.images import read_maps
from conform_bids.bids.parts import write_parts
from conform_bids.bids.spaces import Space, load_space
from conform_bids.bids.splits import HELD_OUT
from conform_bids.bids.tables import read_tsv
from conform_bids.bids.trials import hash_stimuli
from conform_bids.encode.features import FeatureSpace, gather_features
from conform_bids.encode.files import Plan
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.compute import Compute

__all__ = ["MIN_TEST", "MIN_TRAIN", "Loaded", "cache_folder", "draw_test", "load_inputs", "read_loaded", "read_parts"]

MIN_TRAIN = 5
MIN_TEST = 3
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Loaded:
    """Inputs of a fit as they lie in a work folder.

    Attributes
    ----------
    space : Space
    responses : (n_train, n_units) float32 array
        Responses to train stimuli.
    observed : (n_test, n_units) float32 array
        Responses to test stimuli that are not denoised.
    ceiling : (n_units,) array
        Noise ceiling of these, percent; NaN where it is not known.
    features : list of (n_train + n_test, n_features) float32 arrays
        One a feature space; train stimuli first.
    cards : list of dict
        What each feature space is: ``name``, ``feature_names`` and where it comes from.
    conditions : DataFrame
        Train stimuli, then test stimuli: condition, stim_id, n_trials, split, content_id.
    stimuli : DataFrame
        stim_id, stim_file, sha256.
    notes : list of str
        What was set aside.
    """

    space: Space
    responses: Float32Array
    observed: Float32Array
    ceiling: Float32Array
    features: list[Float32Array]
    cards: list[dict[str, Any]]
    conditions: pd.DataFrame
    stimuli: pd.DataFrame
    notes: list[str]

    @property
    def n_train(self) -> int:
        """Rows that models are fitted on: train stimuli."""
        return len(self.responses)

    @property
    def counts(self) -> dict[str, int]:
        """For the table of metrics."""
        return {"n_train_stimuli": self.n_train, "n_test_stimuli": len(self.observed)}

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of the sidecars that say what was fitted on what."""
        return {
            "NumberOfTrainStimuli": self.n_train,
            "NumberOfTestStimuli": len(self.observed),
            "FittedStimuliHash": hash_stimuli(self.conditions["stim_id"][: self.n_train]),
        }


def load_inputs(plan: Plan, folder: Path, compute: Compute) -> list[Path]:
    """Read what the plan names, and write it to ``folder``.

    Returns
    -------
    list of Path
        The grid, arrays and tables.

    Raises
    ------
    UnusableInputError, MissingInputError
        Naming the file, when an input cannot be used, or features are there for too few stimuli.
    """
    space = used_space(plan.responses, read_response_space(plan.responses, plan.entities))
    split = plan.settings.split
    found = read_averages(plan.responses[0], space, split) if plan.averaged else average_trials(plan.responses, space, split)
    observed = found if plan.observed is None else read_averages(plan.observed, space, split)
    if observed.conditions["stim_id"].tolist() != found.conditions["stim_id"].tolist():
        assert plan.observed is not None
        raise UnusableInputError(f"{plan.observed.trials} and {plan.responses[0].trials} name different stimuli")
    conditions, stimuli = with_content(found.conditions, plan.stimuli)
    shown = first_shown([maps.trials for maps in plan.responses])
    if shown is not None and all(name in shown for name in conditions["stim_id"]):
        conditions = conditions.assign(first_trial=[shown[name] for name in conditions["stim_id"]])
    if not plan.has_split:
        conditions = draw_test(conditions, plan.settings.test_fraction, plan.random_seed)
    spaces, known = gather_features(plan, stimuli, compute, cache_folder(folder))
    notes = _set_aside(plan, conditions, known)
    held = conditions["split"].isin(HELD_OUT).to_numpy(dtype=bool)
    leaks = _same_content(conditions, held)
    if leaks.any():
        notes.append(f"{int(leaks.sum())} train stimuli have the content of a test stimulus under another name: they are left out")
    train, test = np.flatnonzero(known & ~held & ~leaks), np.flatnonzero(known & held)
    _check_numbers(plan, len(train), len(test))
    rows = np.concatenate([train, test])
    paths = _write_features(folder, spaces, rows)
    chosen = conditions.iloc[rows].reset_index(drop=True).assign(condition=range(len(rows)))
    tables = {"conditions": chosen}
    arrays: dict[str, npt.NDArray[Any]] = {
        "responses": found.values[train],
        "observed": observed.values[test],
        "ceiling": _ceiling(plan, observed, test, space),
    }
    paths += write_parts(folder, space, arrays, tables, stimuli.iloc[rows].reset_index(drop=True))
    write_json({"notes": notes}, folder / "notes.json")
    return [*paths, folder / "notes.json"]


def cache_folder(folder: Path) -> Path:
    """Features that a backbone computed lie beside the workflows in the work folder, where all people find them."""
    root = folder.parent
    while root.name.endswith("_wf"):
        root = root.parent
    return root / "features"


def draw_test(conditions: pd.DataFrame, fraction: float, seed: int) -> pd.DataFrame:
    """Hold a share of the stimuli out; stimuli of the same content stand on one side."""
    if not fraction:
        return conditions
    known = conditions["content_id"] != "n/a"
    identity = conditions["content_id"].where(known, "stim_id:" + conditions["stim_id"])
    names = np.unique(identity.to_numpy(dtype=str))
    n_test = min(len(names) - 1, max(1, round(fraction * len(names))))
    drawn = set(np.random.default_rng(seed).permutation(names)[:n_test].tolist())
    return conditions.assign(split=["test" if name in drawn else "train" for name in identity])


def _same_content(conditions: pd.DataFrame, held: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Train stimuli that are a held-out stimulus by another name."""
    contents = set(conditions.loc[held, "content_id"]) - {"n/a"}
    return np.asarray(~held & conditions["content_id"].isin(contents).to_numpy(dtype=bool))


def _set_aside(plan: Plan, conditions: pd.DataFrame, known: npt.NDArray[np.bool_]) -> list[str]:
    missing = conditions["stim_id"][~known].tolist()
    if not missing:
        return []
    named = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
    return [f"{len(missing)} of {len(conditions)} stimuli have no features and are left out: {named}"]


def _check_numbers(plan: Plan, n_train: int, n_test: int) -> None:
    if n_train < MIN_TRAIN:
        raise UnusableInputError(f"{plan.place}: {n_train} train stimuli with features; {MIN_TRAIN} are needed")
    if plan.has_held_out and n_test < MIN_TEST:
        raise UnusableInputError(f"{plan.place}: {n_test} test stimuli with features; {MIN_TEST} are needed for scores")


def _ceiling(plan: Plan, observed: Averages, test: npt.NDArray[np.intp], space: Space) -> npt.NDArray[np.float64]:
    snr = read_maps(plan.snr, space)[0].astype(np.float64) if plan.snr else observed.snr
    return observed.ceiling(test, snr)


def _write_features(folder: Path, spaces: Sequence[FeatureSpace], rows: npt.NDArray[np.intp]) -> list[Path]:
    paths = []
    for index, each in enumerate(spaces):
        paths.append(folder / f"features_{index}.npy")
        np.save(paths[-1], np.asarray(each.values[rows], dtype=np.float32), allow_pickle=False)
    paths.append(folder / "cards.json")
    write_json({"spaces": [{**each.card, "name": each.name, "feature_names": list(each.feature_names)} for each in spaces]}, paths[-1])
    return paths


def read_loaded(files: Sequence[Path]) -> Loaded:
    """Open what `load_inputs` wrote."""
    return Loaded(**read_parts(files))


def read_parts(files: Sequence[Path]) -> dict[str, Any]:
    """Fields of `Loaded` in a work folder."""
    by_name = {path.name: path for path in map(Path, files)}

    def array(name: str) -> Any:
        return np.load(by_name[f"{name}.npy"], mmap_mode="r")

    cards = json.loads(by_name["cards.json"].read_text(encoding="utf-8"))["spaces"]
    return {
        "space": load_space(by_name["space.npz"]),
        "responses": array("responses"),
        "observed": array("observed"),
        "ceiling": array("ceiling"),
        "features": [array(f"features_{index}") for index in range(len(cards))],
        "cards": cards,
        "conditions": read_conditions(by_name["conditions.tsv"]),
        "stimuli": read_tsv(by_name["stimuli.tsv"], quoted=False).fillna("n/a"),
        "notes": json.loads(by_name["notes.json"].read_text(encoding="utf-8"))["notes"],
    }
