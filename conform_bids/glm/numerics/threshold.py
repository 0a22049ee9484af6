"""A threshold on R2 from the data: where responsive units begin (GLMsingle's Gaussian mixture)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conform_bids.glm.numerics.mixture import CollapsedError, fit_two_normals

__all__ = ["find_r2_threshold", "robust_range"]

FloatArray = npt.NDArray[np.float64]
N_GRID = 500
MOST_VALUES = 20_000
"""The mixture sees at most so many quantiles of the values, which tell as much as all of them."""


def robust_range(values: FloatArray) -> tuple[float, float]:
    """Range of values without outliers: the extremes where they are reasonable, else the .1 and 99.9 percentiles.

    A percentile is reasonable within five times the distance of the 10th (90th) percentile from the median; while it is not, the
    values beyond are dropped.

    Parameters
    ----------
    values : (n,) float array
        Finite, n >= 1.
    """
    return _robust_end(values, upper=False), _robust_end(values, upper=True)


def _robust_end(values: FloatArray, *, upper: bool) -> float:
    sign = 1.0 if upper else -1.0
    kept = sign * values
    while True:
        near, median, far = np.percentile(kept, [90, 50, 99.9])
        limit = median + 5 * (near - median)
        if far <= limit:
            largest = kept.max()
            return float(sign * (largest if largest <= median + 1.1 * (far - median) else far))
        inside = kept[kept <= limit]
        if len(inside) in (0, len(kept)):
            return float(sign * far)
        kept = inside


def find_r2_threshold(rsquared: npt.NDArray[np.floating], seed: int = 0) -> float:
    """R2 from which a unit more likely belongs to the responsive component of a two-component Gaussian mixture.

    Parameters
    ----------
    rsquared : (n_units,) array
        On/off R2 in percent; values that are not finite are left out.
    seed : int
        Seeds the starts of the mixture.

    Returns
    -------
    float
        The first point, from the right of a grid over the robust range, where the posterior of the component that dominates at the
        right end is at most one half. With fewer than 10 distinct values, their median.
    """
    values = np.asarray(rsquared, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(np.unique(values)) < 10:
        return float(np.median(values)) if len(values) else 0.0
    low, high = robust_range(values)
    if len(values) > MOST_VALUES:
        # quantiles by one sort: numpy's partitions once for each
        places = (len(values) - 1) * (np.arange(MOST_VALUES) + 0.5) / MOST_VALUES
        values = np.interp(places, np.arange(len(values)), np.sort(values))
    try:
        mixture = fit_two_normals(values, seed=seed)
    except CollapsedError:  # onto one value
        mixture = fit_two_normals(values, seed=seed, least_variance=1e-6)
    grid = np.linspace(min(low, mixture.means.min()), max(high, mixture.means.max()), N_GRID)
    odds = mixture.log_odds(grid)
    below = np.flatnonzero((odds if odds[-1] >= 0 else -odds) <= 0)
    return float(grid[below[-1]] if len(below) else grid[0])
