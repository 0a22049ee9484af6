"""Whether a model knows how wrong its predictions are: posterior variances against the errors on test stimuli."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from conform_bids.encode.numerics.population import FloatArray
from conform_bids.encode.numerics.scoring import MIN_CEILING

__all__ = ["LEVELS", "Calibration", "calibrate"]

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Errors against what was expected of them.

    Attributes
    ----------
    levels : (n_levels,) array
        Nominal probability of an interval about the prediction.
    coverage : (n_levels,) array
        Share of measured responses inside it; NaN where no unit has a known noise ceiling.
    squared_error : float
        Mean of the squared error over its expected variance, over units and stimuli: 1 when calibrated, above it when too sure.
    n_units : int
        Units that it rests on.
    """

    levels: npt.NDArray[np.float64]
    coverage: npt.NDArray[np.float64]
    squared_error: float
    n_units: int


def calibrate(predicted: FloatArray, measured: FloatArray, variance: FloatArray, ceiling: FloatArray) -> Calibration:
    """Compare errors of predictions with posterior variance plus the noise of the measured responses.

    Parameters
    ----------
    predicted, measured : (n_stimuli, n_units) arrays
    variance : (n_stimuli, n_units) array
        Posterior variance of the noiseless responses.
    ceiling : (n_units,) array
        Noise ceiling of the measured responses, percent. A unit's noise variance is what it leaves of the variance over stimuli; units
        whose ceiling is not known, or 10 percent or less, are left out, as one cannot tell their noise from their signal.

    Returns
    -------
    Calibration
    """
    levels = np.asarray(LEVELS)
    share = np.asarray(ceiling, dtype=np.float64) / 100
    with np.errstate(invalid="ignore"):
        units = np.flatnonzero((share > MIN_CEILING / 100) & np.isfinite(measured).all(axis=0) & np.isfinite(variance).all(axis=0))
    if not len(units):
        return Calibration(levels, np.full(len(levels), np.nan), float("nan"), 0)
    truth = np.asarray(measured[:, units], dtype=np.float64)
    noise = np.clip(1 - share[units], 0, 1) * truth.var(axis=0, ddof=1)
    expected = np.maximum(np.asarray(variance[:, units], dtype=np.float64) + noise, np.finfo(np.float64).tiny)
    squared = (truth - predicted[:, units]) ** 2 / expected
    bounds = norm.ppf(0.5 + levels / 2) ** 2
    coverage = np.array([float((squared <= bound).mean()) for bound in bounds])
    return Calibration(levels, coverage, float(squared.mean()), len(units))
