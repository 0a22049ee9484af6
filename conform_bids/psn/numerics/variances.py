"""Variance of signal and of noise, unit by unit, from repeats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.trials import sum_conditions

__all__ = ["UnitVariances", "unit_variances"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class UnitVariances:
    """Of each unit, (n_units,) float64 arrays; NaN where a unit has too few repeats.

    Attributes
    ----------
    signal : variance of the conditions' true means; not clipped, so that it is right on average and may be negative
    noise : variance of a trial about its condition
    share : what of a trial's noise variance is left in condition means: 1 over their number of trials, on average
    """

    signal: FloatArray
    noise: FloatArray
    share: FloatArray

    @property
    def ncsnr(self) -> FloatArray:
        """Standard deviation of the signal over that of the noise, 0 or above."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(np.maximum(self.signal, 0.0) / self.noise)

    @property
    def ceiling(self) -> FloatArray:
        """Percent of the variance of condition means that is signal; 0 where nothing varies."""
        signal = np.maximum(self.signal, 0.0)
        total = signal + self.noise * self.share
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total == 0, 0.0, 100.0 * signal / total)


def unit_variances(values: FloatArray, condition: IntArray, group: IntArray | None = None) -> UnitVariances:
    """One-way analysis of variance with random effects, every unit over the trials that it has.

    The estimate is that of `conform_bids.numerics.noise_ceiling`, for units that may be missing in trials, and for conditions in groups.

    Parameters
    ----------
    values : (n_trials, n_units) float64 array
        NaN where missing.
    condition : (n_trials,) int array
        Ascending.
    group : (n_trials,) int array, optional
        Conditions of a group are compared with each other only (folds that were denoised differently).
    """
    groups = np.zeros(len(condition), dtype=np.intp) if group is None else group
    starts = np.flatnonzero(np.r_[True, np.diff(condition) > 0])
    finite = np.isfinite(values)
    filled = np.where(finite, values, 0.0)
    counts = sum_conditions(finite.astype(np.float64), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sum_conditions(filled, starts) / counts
        centred = np.where(finite, values - np.repeat(means, np.diff(np.r_[starts, len(values)]), axis=0), 0.0)
        within = np.einsum("ij,ij->j", centred, centred)
        freedom_within = counts.sum(axis=0) - (counts > 0).sum(axis=0)
        noise = np.where(freedom_within > 0, within / freedom_within, np.nan)
        between, freedom, weight = (np.zeros(values.shape[1]) for _ in range(3))
        for index in np.unique(groups):
            rows = groups[starts] == index
            own, number = np.where(counts[rows] > 0, means[rows], 0.0), counts[rows]
            total = number.sum(axis=0)
            mean = (number * own).sum(axis=0) / total
            between += np.where(total > 0, (number * np.square(own - mean)).sum(axis=0), 0.0)
            freedom += np.maximum((number > 0).sum(axis=0) - 1, 0)
            weight += np.where(total > 0, total - np.square(number).sum(axis=0) / total, 0.0)
        signal = (between - freedom * noise) / weight
        share = np.where(counts > 0, 1.0 / counts, 0.0).sum(axis=0) / (counts > 0).sum(axis=0)
    return UnitVariances(signal, noise, share)
