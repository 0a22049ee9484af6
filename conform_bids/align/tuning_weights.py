"""Alignment by tuning, where people share no stimuli: the rows of a fit are the features of conform-encode's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conform_bids.align.files import TuningInput
from conform_bids.bids.index import Dataset
from conform_bids.bids.spaces import Space, VolumeSpace
from conform_bids.bids.weights import EncodingWeights, read_weights
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError

__all__ = ["BY_TUNING", "ENCODE", "asks_for_weights", "feature_identities", "find_weights", "read_tuning"]

ENCODE = "conform-encode"
MODELS = ("ridge", "banded", "population")
"""Which weights are taken where a person has several."""
BY_TUNING = "ALIGNED BY TUNING: maps are fitted on the weights of encoding models, a row a feature, not on responses to shared stimuli"
_SPACE = ("space", "cohort", "res", "den")


def asks_for_weights(given: Iterable[str]) -> bool:
    """Whether ``-d`` names weights to align by: ``conform-encode``, or ``NAME.conform-encode``."""
    return any(name == ENCODE or name.endswith(f".{ENCODE}") for name in given)


def find_weights(dataset: Dataset, participant: str, entities: Mapping[str, str]) -> TuningInput | None:
    """A participant's weights for the responses with these entities; None where the user named no ``-d conform-encode``.

    Raises
    ------
    MissingInputError
        When there is none.
    UsageError
        When there are several that nothing tells from each other.
    """
    if ENCODE not in dataset.given:
        return None
    labels = dict.fromkeys((dataset.label_of(participant), participant))
    files = next((found for label in labels if (found := dataset.files(ENCODE, label, suffix="weights", extensions=(".h5",)))), [])
    fitting = [file for file in files if all(file.entities.get(key) == entities.get(key) for key in _SPACE)]
    of_task = [file for file in fitting if file.entities.get("task") == entities.get("task")] or fitting
    for model in MODELS:
        of_model = [file for file in of_task if file.entities.get("desc") == model]
        if of_model:
            of_task = of_model
            break
    if not of_task:
        place, wanted = dataset.derivatives[ENCODE], "_".join(f"{key}-{entities[key]}" for key in _SPACE if key in entities) or "boldref"
        there = f"; there are: {', '.join(file.path.name for file in files)}" if files else ""
        raise MissingInputError(
            f"{place}: no weights (*_weights.h5) of sub-{participant} in {wanted}{there}; run conform-encode, or leave out -d {ENCODE}"
        )
    if len(of_task) > 1:
        listing = ", ".join(file.path.name for file in of_task)
        raise UsageError(f"-d {ENCODE}: several files of weights of sub-{participant}: {listing}; keep one in the folder that you name")
    path = of_task[0].path
    return TuningInput(path, dataset.bids_uri(path), dataset.sidecar(path).get("FitIncludesTest") is True)


def feature_identities(model: EncodingWeights) -> list[str]:
    """What each row is, the same in people whose features were made in the same way: a hash of how, and the feature's name.

    Raises
    ------
    ValueError
        When a feature has two rows.
    """
    made = [hashlib.sha256(json.dumps(dict(card), sort_keys=True).encode()).hexdigest()[:16] for card in model.cards]
    names = [f"feature:{made[space]}:{name}" for space, name in zip(model.feature_space, model.feature_names, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError("a feature has two rows of weights")
    return names


def read_tuning(path: Path, own: Space, space: Space) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Weights on a grid, a row a feature, and the identities of the rows.

    Parameters
    ----------
    path : Path
    own : Space
        Of the person's responses, which the weights predict.
    space : Space
        Of the result: the same grid, maybe other voxels.

    Raises
    ------
    MissingInputError, UnusableInputError
        Naming the file, when it is broken, or its units are not those of the responses.
    """
    model = read_weights(path)
    try:
        names = feature_identities(model)
    except (ValueError, IndexError) as error:
        raise UnusableInputError(f"{path}: {error}") from error
    n_units = model.weights.shape[1]
    if model.attributes.get("grid_hash") != own.grid_hash or n_units != own.n_units:
        raise UnusableInputError(
            f"{path}: weights of {n_units} units are not of the {own.n_units} units of the responses; fit them on these responses"
        )
    weights = np.asarray(model.weights, dtype=np.float32)
    if not isinstance(own, VolumeSpace) or not isinstance(space, VolumeSpace) or np.array_equal(own.mask, space.mask):
        return weights, names
    everywhere = np.full((len(weights), own.mask.size), np.nan, dtype=np.float32)
    everywhere[:, np.flatnonzero(own.mask.ravel())] = weights
    return np.ascontiguousarray(everywhere[:, np.flatnonzero(space.mask.ravel())]), names
