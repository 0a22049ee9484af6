"""Encoding weights on disk: an ordinary linear model of every unit, which predicts from features alone.

Layout ``weights``, version 1. Attributes of the file: ``layout``, ``version``, ``software``, ``model``, ``space`` (label), ``grid_hash``,
``units_of_prediction``, and JSON in ``settings`` and ``features`` (the card of each feature space). Datasets: ``/weights`` (features,
units), ``/intercept`` (units,), ``/feature_names`` (features,), ``/feature_space`` (features,; index into ``features``), and ``/mean`` and
``/scale`` (units,): of the responses that were fitted, before they were z-scored. Units without a model are NaN.

    z = features @ weights + intercept,    response = mean + scale z
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.bids.array_checks import check_file
from conform_bids.bids.derivatives import atomic_path
from conform_bids.bids.scratch import require_room
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = ["WEIGHTS_VERSION", "EncodingWeights", "read_weights", "write_weights"]

WEIGHTS_VERSION = 1
_LAYOUT = "weights"
_CHUNK = 4096
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class EncodingWeights:
    """Linear encoding models of the units of a space.

    Attributes
    ----------
    weights : (n_features, n_units) array
    intercept, mean, scale : (n_units,) arrays
    feature_names : tuple of str
    feature_space : (n_features,) int array
        Index into ``cards``.
    cards : sequence of mapping
        Of each feature space: where its features come from.
    attributes : mapping
        Of the file.
    settings : mapping
        Of the fit.
    """

    weights: Array
    intercept: Array
    mean: Array
    scale: Array
    feature_names: tuple[str, ...]
    feature_space: Array
    cards: tuple[Mapping[str, Any], ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, features: Array) -> Array:
        """Responses to stimuli, (n_stimuli, n_units), in the units of those that were fitted.

        Parameters
        ----------
        features : (n_stimuli, n_features) array
            In the order of ``feature_names``.
        """
        if features.ndim != 2 or features.shape[1] != len(self.weights):
            raise ValueError(f"features of shape {features.shape}; {len(self.weights)} features a stimulus are needed")
        return np.asarray((features @ self.weights + self.intercept) * self.scale + self.mean)


def write_weights(model: EncodingWeights, path: Path) -> None:
    """Write a model; atomic, in single precision."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    n_features, n_units = model.weights.shape
    with atomic_path(path) as temporary:
        require_room(temporary, 4 * model.weights.size)
        with h5py.File(temporary, "w") as file:
            file.attrs.update({**model.attributes, "layout": _LAYOUT, "version": WEIGHTS_VERSION})
            file.attrs["settings"] = json.dumps(dict(model.settings), sort_keys=True)
            file.attrs["features"] = json.dumps([dict(card) for card in model.cards], sort_keys=True)
            chunks = (n_features, max(1, min(n_units, _CHUNK)))
            if n_features * chunks[1] > 2**26:
                chunks = (n_features, max(1, 2**26 // n_features))
            values = np.asarray(model.weights, dtype=np.float32)
            file.create_dataset("weights", data=values, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True)
            for name in ("intercept", "mean", "scale"):
                file.create_dataset(name, data=np.asarray(getattr(model, name), dtype=np.float32))
            file.create_dataset("feature_names", data=_text(model.feature_names))
            file.create_dataset("feature_space", data=np.asarray(model.feature_space, dtype=np.int32))


def _text(names: Sequence[str]) -> Array:
    encoded = [name.encode() for name in names]
    return np.array(encoded, dtype=f"S{max(1, max(map(len, encoded), default=1))}")


def read_weights(path: Path) -> EncodingWeights:
    """Read a model.

    Raises
    ------
    MissingInputError, UnusableInputError
        Naming the file, when it is absent, or is no such file or not whole.
    """
    import h5py

    if not path.is_file():
        raise MissingInputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            if attributes.get("layout") != _LAYOUT or int(attributes.get("version", 0)) != WEIGHTS_VERSION:
                raise UnusableInputError(f"{path}: not a file of encoding weights, version {WEIGHTS_VERSION}")
            check_file(file)
            arrays = {name: file[name][()] for name in ("weights", "intercept", "mean", "scale", "feature_space")}
            names = tuple(name.decode() for name in file["feature_names"][()])
        settings, cards = json.loads(attributes.pop("settings")), json.loads(attributes.pop("features"))
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnusableInputError(f"{path}: not a whole file of encoding weights: {error}") from error
    n_features, n_units = arrays["weights"].shape if arrays["weights"].ndim == 2 else (-1, -1)
    short = [name for name in ("intercept", "mean", "scale") if arrays[name].shape != (n_units,)]
    if any(values.dtype.kind not in "fiu" for values in arrays.values()):
        raise UnusableInputError(f"{path}: its weights are not numbers")
    if short or len(names) != n_features or arrays["feature_space"].shape != (n_features,):
        raise UnusableInputError(f"{path}: its arrays do not fit each other")
    return EncodingWeights(feature_names=names, cards=tuple(cards), attributes=attributes, settings=settings, **arrays)
