"""Curves of units pooled at the level that thresholds are chosen on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UsageError

__all__ = ["THRESHOLD_LEVELS", "group_mean", "pool_curves"]

FloatArray = npt.NDArray[np.float64]
THRESHOLD_LEVELS = ("population", "unit", "group")
"""One choice for all units, one for each, or one for each group of units."""


def group_mean(curves: FloatArray, groups: npt.NDArray[np.integer] | None) -> FloatArray:
    """Give each unit the mean curve of its group.

    Parameters
    ----------
    curves : (n_units, n_points) float64 array
        One curve a unit.
    groups : (n_units,) int array
        Group of each unit.

    Raises
    ------
    UsageError
        If there is not one group a unit.
    """
    if groups is None or np.shape(groups) != (len(curves),):
        raise UsageError(f"threshold level group needs one group for each of {len(curves)} units")
    code, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(counts), curves.shape[1]))
    np.add.at(sums, code, curves)
    means: FloatArray = (sums / counts[:, None])[code]
    return means


def pool_curves(curves: FloatArray, level: str, groups: npt.NDArray[np.integer] | None) -> FloatArray:
    """Curves of the level: one for the population, one a unit, or one a unit that is its group's.

    Raises
    ------
    UsageError
        If the level is unknown, or groups are missing.
    """
    if level not in THRESHOLD_LEVELS:
        raise UsageError(f"no threshold level {level!r}; there are {', '.join(THRESHOLD_LEVELS)}")
    if level == "population":
        return curves.sum(axis=0, keepdims=True)
    return group_mean(curves, groups) if level == "group" else curves
