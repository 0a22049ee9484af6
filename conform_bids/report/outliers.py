"""What stands out: the same rules for the figure that colours it and for the text that names it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FEWEST_FITS", "LARGEST_Z", "deviating", "standing_out"]

_FEWEST_RUNS = 4
FEWEST_FITS = 8
"""Fits of a group below which none is said to stand out."""
LARGEST_Z = 3.5
"""Modified z-score beyond which a fit stands out of its group."""


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


def standing_out(values: ArrayLike) -> NDArray[np.bool_]:
    """Which fits of a group lie far from the others.

    Parameters
    ----------
    values : array_like, shape (rows,)
        NaN never stands out.

    Returns
    -------
    ndarray of bool, shape (rows,)
        Modified z-score beyond 3.5: the distance from the median over 1.4826 times the median absolute deviation (where more than half
        of the values are the same, 1.2533 times the mean absolute deviation). None with fewer than eight finite values: of so few,
        some are always far from the others.

    Notes
    -----
    Iglewicz and Hoaglin, 1993, How to Detect and Handle Outliers, section 3.3.
    """
    array = np.asarray(values, dtype=float)
    finite = array[np.isfinite(array)]
    if len(finite) < FEWEST_FITS:
        return np.zeros(array.shape, bool)
    distance = np.abs(finite - np.median(finite))
    scale = 1.4826 * float(np.median(distance)) or 1.2533 * float(np.mean(distance))
    return np.abs(np.where(np.isfinite(array), array - np.median(finite), 0.0)) > LARGEST_Z * scale
