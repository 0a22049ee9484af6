"""Condition means and residuals in units of their own noise, outlying conditions held down: what the calibrated filters start from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError
from conform_bids.psn.numerics.trials import Trials

__all__ = ["Standardised", "require_folds", "standardise"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
OUTLYING = 3.0
"""Times the median residual variance; a condition beyond it counts less."""
MIN_CONDITIONS = 6
MIN_REPEATED = 4
QUIET = 1e-6
"""Of a unit's standard deviation over condition means: noise below it counts as this."""


@dataclass(frozen=True, eq=False)
class Standardised:
    """Responses divided by each unit's noise.

    Attributes
    ----------
    trials : Trials
        In standardised units, complete.
    scale : (n_units,) float64 array
        Noise standard deviation that units were divided by.
    means : (n_conditions, n_units) float64 array
        Condition means.
    residuals : (n_trials, n_units) float64 array
        Trials less their condition's mean.
    weight : (n_conditions,) float64 array
        1, less for conditions with outlying residual variance.
    counts : (n_conditions,) float64 array
        Trials that each condition's mean is worth: their number times ``weight``.
    """

    trials: Trials
    scale: FloatArray
    means: FloatArray
    residuals: FloatArray
    weight: FloatArray
    counts: FloatArray

    def noise_covariance(self, chosen: npt.NDArray[np.bool_] | None = None) -> FloatArray:
        """Covariance of a single trial's noise, pooled over the residuals of some conditions (a mask) by their degrees of freedom."""
        use = self.weight if chosen is None else self.weight * chosen
        freedom = float(use @ (self.trials.counts - 1))
        if freedom <= 0:
            raise UnusableInputError("no condition repeats among those that the noise is estimated on")
        if chosen is None or chosen.all():
            return self._products / freedom
        if 2 * int(np.sum(chosen)) > len(use):  # what is left out is less to multiply
            return (self._products - self._outer(self.weight * ~chosen)) / freedom
        return self._outer(use) / freedom

    @cached_property
    def _products(self) -> FloatArray:
        return self._outer(self.weight)

    def _outer(self, weight: FloatArray) -> FloatArray:
        """Sum of the residuals' outer products, conditions weighted."""
        condition = self.trials.condition
        rows = self.residuals if weight.all() else self.residuals[(weight > 0)[condition]]
        if (weight[weight > 0] != 1).any():
            rows = rows * np.sqrt(weight[condition[(weight > 0)[condition]]])[:, None]
        return rows.T @ rows

    def data_covariance(self, means: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Mean and covariance of condition means, weighted, and how much of the noise covariance it holds.

        Parameters
        ----------
        means : (n_conditions, n_units) float64 array
            The conditions' means, or what stands for them.
        share : (n_conditions,) float64 array
            Noise of each mean, in terms of a single trial's covariance.
        """
        total = self.weight.sum()
        centre = self.weight @ means / total
        rows = (means - centre) * np.sqrt(self.weight)[:, None]
        freedom = total - float(self.weight @ self.weight) / total
        return centre, rows.T @ rows / freedom, float(self.weight @ share / total)


def require_folds(trials: Trials) -> None:
    """Refuse what cannot be cross-validated over conditions.

    Raises
    ------
    UnusableInputError
        With fewer than `MIN_CONDITIONS`, or fewer than `MIN_REPEATED` that repeat.
    """
    repeated = int((trials.counts >= 2).sum())
    if trials.n_conditions < MIN_CONDITIONS or repeated < MIN_REPEATED:
        raise UnusableInputError(
            f"cross-validation over conditions needs {MIN_CONDITIONS} of them, {MIN_REPEATED} with 2 complete trials; there are "
            f"{trials.n_conditions}, of which {repeated} repeat (the methods standard and wiener do with fewer)"
        )


def standardise(trials: Trials) -> Standardised:
    """Divide each unit by its noise, and find what each condition is worth.

    Raises
    ------
    UnusableInputError
        If too few conditions repeat.
    """
    complete = trials.only_complete()
    require_folds(complete)
    repeated = complete.counts >= 2
    residuals = complete.residuals()
    freedom = float((complete.counts - 1).sum())
    deviation = np.sqrt(np.einsum("ij,ij->j", residuals, residuals) / freedom)
    scale = np.maximum(deviation, QUIET * complete.means.std(axis=0))
    if not (scale > 0).all():
        raise UnusableInputError(f"{int((scale <= 0).sum())} units do not vary; leave them out")
    residuals /= scale
    squares = np.add.reduceat(np.einsum("ij,ij->i", residuals, residuals), complete.starts)
    variance = squares[repeated] / (complete.counts[repeated] - 1)
    weight = np.ones(complete.n_conditions)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight[repeated] = np.where(variance > 0, np.minimum(1.0, OUTLYING * np.median(variance) / variance), 1.0)
    if np.median(variance) == 0:  # most repeats agree exactly: nothing to hold conditions against
        weight[:] = 1.0
    scaled = Trials(complete.values / scale, complete.condition, complete.repetition, complete.n_conditions)
    return Standardised(scaled, scale, scaled.means, residuals, weight, weight * complete.counts)
