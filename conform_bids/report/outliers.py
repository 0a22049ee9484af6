"""What stands out: the same rules for the figure that colours it and for the text that names it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["beyond_fences", "deviating"]

_FEWEST_RUNS = 4
_FEWEST_ROWS = 4


def deviating(values: ArrayLike, side: str = "both") -> NDArray[np.bool_]:
    """Which of a handful of runs lies far from the others.

    Parameters
    ----------
    values : array_like, shape (runs,)
        A number a run; NaN never stands out.
    side : str
        ``low``, ``high`` or ``both``: which way it has to lie.

    Returns
    -------
    ndarray of bool, shape (runs,)
        More than three robust standard deviations (1.4826 times the median absolute deviation, at least 2 % of the median) from the
        median; none with fewer than four runs, as there is nothing to compare with.

    Notes
    -----
    Leys et al., 2013, Journal of Experimental Social Psychology 49:764, with their most conservative criterion.
    """
    array = np.asarray(values, dtype=float)
    finite = array[np.isfinite(array)]
    if len(finite) < _FEWEST_RUNS:
        return np.zeros(array.shape, bool)
    centre = float(np.median(finite))
    reach = 3 * max(1.4826 * float(np.median(np.abs(finite - centre))), 0.02 * abs(centre))
    distance = np.where(np.isfinite(array), array - centre, 0.0)
    distance = {"low": -distance, "high": distance, "both": np.abs(distance)}[side]
    return distance > reach


def beyond_fences(values: ArrayLike) -> NDArray[np.bool_]:
    """Which values lie more than 1.5 interquartile ranges below the first or above the third quartile (Tukey, 1977).

    Parameters
    ----------
    values : array_like, shape (rows,)
        NaN never stands out.

    Returns
    -------
    ndarray of bool, shape (rows,)
        All False with fewer than four finite values.
    """
    array = np.asarray(values, dtype=float)
    finite = array[np.isfinite(array)]
    if len(finite) < _FEWEST_ROWS:
        return np.zeros(array.shape, bool)
    low, high = np.percentile(finite, [25, 75])
    reach = 1.5 * (high - low)
    return np.isfinite(array) & ((array < low - reach) | (array > high + reach))
