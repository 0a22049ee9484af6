"""What a fit of any kind hands on: an ordinary linear model of every unit, maps, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.encode.numerics.scoring import Interval

__all__ = ["Array", "Fitted", "LinearModel", "median", "standardise"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A fitted model in terms of the features as they were given.

    Attributes
    ----------
    weights : list of (n_features, n_units) arrays
        One a feature space.
    intercept : (n_units,) array
        NaN for units without a model.
    """

    weights: list[Array]
    intercept: Array

    def parts(self, features: Sequence[Array]) -> list[Array]:
        """Prediction by each feature space, without the intercept."""
        return [np.asarray(space, dtype=np.float32) @ weights for space, weights in zip(features, self.weights, strict=True)]

    def tuning(self, space: int) -> Array:
        """Weights of the features of a space, (n_features, n_units), for one row of them."""
        return self.weights[space]

    def predict(self, features: Sequence[Array]) -> Array:
        """Predicted responses, as z of the train stimuli, (n_stimuli, n_units)."""
        parts = self.parts(features)
        return np.asarray(sum(parts[1:], parts[0]) + self.intercept)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model of a person, and what is known of it.

    Attributes
    ----------
    model : LinearModel
    mean, scale : (n_units,) arrays
        Of the train responses; the scale is NaN where a unit does not vary or is not finite.
    arrays : dict
        Maps by the names of `output_maps`.
    numbers : dict
        For the table of metrics.
    tables : dict of DataFrame
        Other tables, by the keys of `output_tables`.
    notes : list of str
    facts : dict
        JSON-able; fields of the sidecars.
    columns : list of tuple of str or None
        Names of the weights of each feature space, where these are not the features as they were given.
    attributes : dict
        Of the file of weights.
    """

    model: LinearModel
    mean: Array
    scale: Array
    arrays: dict[str, Array] = field(default_factory=dict)
    numbers: dict[str, Interval] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    columns: list[tuple[str, ...]] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def standardise(responses: Array) -> tuple[Array, Array, Array]:
    """Responses z-scored over train stimuli, their mean and standard deviation; NaN where a unit does not vary or is not finite."""
    mean: Array = np.asarray(np.mean(responses, axis=0, dtype=np.float64))
    spread: Array = np.asarray(np.std(responses, axis=0, dtype=np.float64))
    with np.errstate(invalid="ignore"):
        scale = np.where(spread > 16 * np.finfo(np.float32).eps * np.abs(mean), spread, np.nan)
    return ((responses - mean) / scale).astype(np.float32), mean, scale


def median(values: Array) -> float:
    """Of the finite values; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")
