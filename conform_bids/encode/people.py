"""People of a store as population models take them: averaged responses to train stimuli, and what they are tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.splits import HELD_OUT
from conform_bids.encode.numerics.population import TrainingPerson
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.numerics.noise_ceiling import snr_to_ceiling
from conform_bids.stimuli.features import FeatureTable, match_features
from conform_bids.store.reading import Store

__all__ = ["StorePerson", "features_of_contents", "read_person", "usable_units"]

MIN_TRAIN = 20
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StorePerson:
    """A person of a store.

    Attributes
    ----------
    participant_id : str
    train : TrainingPerson
        Responses to train stimuli, averaged over repeats, and z-scored.
    contents : tuple of str
        Identity of each train stimulus.
    test_features : (n_test, n_features) array
    test_responses : (n_test, n_units) array
        Averaged over repeats, in the units of the train responses.
    test_contents : tuple of str
    test_ceiling : (n_units,) array
        Noise ceiling of the test responses, percent; NaN where nothing repeats.
    units : (n_units,) int array
        Places in the store's grid.
    """

    participant_id: str
    train: TrainingPerson
    contents: tuple[str, ...]
    test_features: Float32Array
    test_responses: Float32Array
    test_contents: tuple[str, ...]
    test_ceiling: npt.NDArray[np.float64]
    units: npt.NDArray[np.intp]


def features_of_contents(store: Store, tables: Mapping[str, FeatureTable]) -> dict[str, Float32Array]:
    """Features of every content of a store that all tables know, side by side.

    Parameters
    ----------
    tables : mapping of str to FeatureTable
        By the name of the feature space.

    Raises
    ------
    MissingInputError
        When a table knows none of the store's stimuli.
    """
    stimuli = store.stimuli
    parts: list[dict[str, Float32Array]] = []
    for name, table in tables.items():
        matched = match_features(table, stimuli["stim_id"].tolist(), stimuli["sha256"].tolist(), faults="set-aside", source=name)
        own: dict[str, Float32Array] = {}
        for row, place in enumerate(matched.found):
            own.setdefault(str(stimuli["content_id"].iloc[place]), matched.values[row])
        parts.append(own)
    known = set.intersection(*(set(own) for own in parts))
    return {content: np.concatenate([own[content] for own in parts]) for content in sorted(known)}


def read_person(
    store: Store,
    participant_id: str,
    features: Mapping[str, Float32Array],
    *,
    units: npt.NDArray[np.intp] | None = None,
    max_units: int | None = None,
    seed: int = 0,
) -> StorePerson:
    """Read a person's responses to the stimuli that have features.

    Parameters
    ----------
    features : mapping of str to array
        Of `features_of_contents`.
    units : int array, optional
        Places in the grid to read; all by default.
    max_units : int, optional
        Of those with a response to every trial, that many are drawn.
    seed : int
        Of the draw.

    Raises
    ------
    MissingInputError
        When fewer than 20 train stimuli have features.
    UnusableInputError
        When no unit has a response to every trial.
    """
    train, test = _trials(store, participant_id, features)
    if train["content_id"].nunique() < MIN_TRAIN:
        raise MissingInputError(f"{participant_id}: {train['content_id'].nunique()} train stimuli have features; {MIN_TRAIN} are needed")
    chosen = _usable_units(store, participant_id, train, units)
    if max_units is not None and len(chosen) > max_units:
        chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:max_units])
    responses, contents, _ = _average(store, train, chosen)
    measured, test_contents, counts = _average(store, test, chosen)
    mean, scale = responses.mean(axis=0, dtype=np.float64), responses.std(axis=0, dtype=np.float64)
    varies = np.isfinite(mean) & (scale > 0)
    if not varies.any():
        raise UnusableInputError(f"{store.path}: no unit of {participant_id} has a response to every train trial")
    chosen, mean, scale = chosen[varies], mean[varies], scale[varies]
    stacked = [np.stack([features[name] for name in names]) if names else _no_rows(features) for names in (contents, test_contents)]
    person = TrainingPerson(stacked[0], ((responses[:, varies] - mean) / scale).astype(np.float32))
    return StorePerson(
        participant_id=participant_id,
        train=person,
        contents=contents,
        test_features=stacked[1],
        test_responses=((measured[:, varies] - mean) / scale).astype(np.float32),
        test_contents=test_contents,
        test_ceiling=_ceiling(store, participant_id, counts, chosen),
        units=chosen,
    )


def usable_units(store: Store, participant_id: str, features: Mapping[str, Float32Array]) -> npt.NDArray[np.intp]:
    """Places in the grid of units whose responses to train stimuli are finite and vary, as far as their first trials tell.

    Raises
    ------
    UnusableInputError
        When there is none.
    """
    train, _ = _trials(store, participant_id, features)
    chosen = _usable_units(store, participant_id, train, None)
    few, _ = store.load(train.head(8), mask=chosen)
    varies = np.ptp(few.astype(np.float64), axis=0) > 0
    if not varies.any():
        raise UnusableInputError(f"{store.path}: no unit of {participant_id} varies")
    return chosen[varies]


def _trials(store: Store, participant_id: str, features: Mapping[str, Float32Array]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A person's train and test trials with features."""
    trials = store.trials[(store.trials["participant_id"] == participant_id) & (store.trials["flag"] == "n/a")]
    trials = trials[trials["content_id"].isin(features)]
    held = trials["split"].isin(HELD_OUT).to_numpy(dtype=bool)
    return trials[~held], trials[held & (trials["split"] == "test").to_numpy(dtype=bool)]


def _no_rows(features: Mapping[str, Float32Array]) -> Float32Array:
    return np.empty((0, len(next(iter(features.values())))), dtype=np.float32)


def _usable_units(store: Store, participant_id: str, train: pd.DataFrame, units: npt.NDArray[np.intp] | None) -> npt.NDArray[np.intp]:
    """Units with a finite response in a trial of every group; what is missing is missing in all of a group."""
    every = np.arange(store.n_units) if units is None else np.asarray(units, dtype=np.intp)
    firsts = train.groupby("group", sort=True).head(1)
    values, _ = store.load(firsts, mask=every)
    usable = np.isfinite(values).all(axis=0)
    if not usable.any():
        raise UnusableInputError(f"{store.path}: no unit of {participant_id} has a response to every train trial")
    return every[usable]


def _average(store: Store, trials: pd.DataFrame, units: npt.NDArray[np.intp]) -> tuple[Float32Array, tuple[str, ...], npt.NDArray[np.intp]]:
    """Mean over repeats of each content, (n_contents, n_units); the contents, and how often each was seen."""
    names, code = np.unique(trials["content_id"].to_numpy(dtype=str), return_inverse=True)
    sums = np.zeros((len(names), len(units)), dtype=np.float32)
    for start in range(0, len(trials), 512):
        rows = trials.iloc[start : start + 512]
        values, _ = store.load(rows, mask=units)
        np.add.at(sums, code[start : start + 512], values)
    counts = np.bincount(code, minlength=len(names))
    sums /= np.maximum(1, counts)[:, None].astype(np.float32)
    return sums, tuple(names.tolist()), counts


def _ceiling(store: Store, participant_id: str, counts: npt.NDArray[np.intp], units: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    if not len(counts):
        return np.full(len(units), np.nan)
    for split in ("test", "train"):
        try:
            return snr_to_ceiling(np.asarray(store.ncsnr(participant_id, split)[units], dtype=np.float64), counts)
        except MissingInputError:
            continue
    return np.full(len(units), np.nan)
