"""Single-trial responses grouped by condition: the input of everything here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse

from conform_bids.errors import UnusableInputError

__all__ = ["Trials", "group_trials", "reference_permutation", "split_conditions", "sum_conditions"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials in the order of their conditions.

    Attributes
    ----------
    values : (n_trials, n_units) float64 array
        Responses; NaN where a unit is missing in a trial.
    condition : (n_trials,) int array
        Index of each trial's condition, ascending.
    repetition : (n_trials,) int array
        Which repeat of its condition a trial is, counted from 0; repeats that are absent leave gaps.
    n_conditions : int
        Conditions; each has at least one trial.
    """

    values: FloatArray
    condition: IntArray
    repetition: IntArray
    n_conditions: int

    @property
    def n_units(self) -> int:
        """Units."""
        return self.values.shape[1]

    @cached_property
    def complete(self) -> BoolArray:
        """Trials without a missing unit, (n_trials,)."""
        return np.asarray(np.isfinite(self.values).all(axis=1))

    @cached_property
    def counts(self) -> IntArray:
        """Complete trials of each condition, (n_conditions,)."""
        return np.bincount(self.condition[self.complete], minlength=self.n_conditions)

    @cached_property
    def is_complete(self) -> bool:
        """Whether no unit is missing in any trial."""
        return bool(self.complete.all())

    @cached_property
    def starts(self) -> IntArray:
        """First trial of each condition, (n_conditions,)."""
        return np.flatnonzero(np.r_[True, np.diff(self.condition) > 0])

    @cached_property
    def means(self) -> FloatArray:
        """Mean of each condition over the trials that a unit has, (n_conditions, n_units); NaN where it has none."""
        if self.is_complete:
            return sum_conditions(self.values, self.starts) / self.counts[:, None]
        finite = np.isfinite(self.values)
        sums = sum_conditions(np.where(finite, self.values, 0.0), self.starts)
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums / sum_conditions(finite.astype(np.float64), self.starts)

    def only_complete(self) -> Trials:
        """Trials without a missing unit; every condition needs one.

        Raises
        ------
        UnusableInputError
            Where a condition has no complete trial.
        """
        if self.is_complete:
            return self
        if not self.counts.all():
            raise UnusableInputError(
                f"{int((self.counts == 0).sum())} conditions have no trial in which all {self.n_units} units are present; "
                "leave out the units that are often missing"
            )
        kept = self.complete
        return Trials(self.values[kept], self.condition[kept], self.repetition[kept], self.n_conditions)

    def select_conditions(self, chosen: npt.NDArray[np.generic]) -> Trials:
        """Keep some conditions, by a bool mask (n_conditions,) or by index; they are renumbered in ascending order."""
        mask = np.zeros(self.n_conditions, bool)
        mask[chosen] = True
        kept = mask[self.condition]
        number = np.cumsum(mask) - 1
        return Trials(self.values[kept], number[self.condition[kept]], self.repetition[kept], int(mask.sum()))

    def select_units(self, units: npt.NDArray[np.generic] | slice) -> Trials:
        """Keep some units, by a bool mask or by index."""
        return Trials(np.ascontiguousarray(self.values[:, units]), self.condition, self.repetition, self.n_conditions)

    def residuals(self) -> FloatArray:
        """Trials less the mean of their condition, (n_trials, n_units)."""
        rows = self.means[self.condition]
        return np.subtract(self.values, rows, out=rows)


def group_trials(
    values: npt.NDArray[np.floating],
    condition: npt.ArrayLike,
    repetition: npt.ArrayLike | None = None,
) -> tuple[Trials, npt.NDArray[np.generic]]:
    """Group trials by condition.

    Parameters
    ----------
    values : (n_trials, n_units) array
        Responses, in any units; NaN where a unit is missing in a trial. Trials that are missing in every unit are left out.
    condition : (n_trials,) array_like
        Condition of each trial, of any type that sorts.
    repetition : (n_trials,) array_like of int, optional
        Which repeat of its condition each trial is; by default in the order of the trials, the missing ones counted.

    Returns
    -------
    trials : Trials
        Sorted by condition, then by repetition.
    labels : (n_conditions,) array
        The conditions, sorted.

    Raises
    ------
    ValueError
        If shapes disagree.
    UnusableInputError
        If a value is infinite or no trial is left.
    """
    labels_of_trials = np.asarray(condition)
    if values.ndim != 2 or labels_of_trials.shape != (values.shape[0],):
        raise ValueError(f"responses of shape {values.shape} need one condition a trial, got shape {labels_of_trials.shape}")
    repeats = _count_repeats(labels_of_trials) if repetition is None else np.asarray(repetition, dtype=np.intp)
    if repeats.shape != labels_of_trials.shape:
        raise ValueError(f"{len(labels_of_trials)} trials need one repetition each, got shape {repeats.shape}")
    responses = np.asarray(values, dtype=np.float64)
    if np.isinf(responses).any():
        raise UnusableInputError(f"responses hold {int(np.isinf(responses).sum())} infinite values")
    present = ~np.isnan(responses).all(axis=1)
    if not present.any():
        raise UnusableInputError("no trial holds a response")
    labels, code = np.unique(labels_of_trials[present], return_inverse=True)
    order = np.lexsort((repeats[present], code))
    rows = np.flatnonzero(present)[order]
    return Trials(np.ascontiguousarray(responses[rows]), code[order].astype(np.intp), repeats[rows], len(labels)), labels


def _count_repeats(condition: npt.NDArray[np.generic]) -> IntArray:
    """Number the trials of each condition in their order."""
    code = np.unique(condition, return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(code[order]) > 0])
    lengths = np.diff(np.r_[starts, len(code)])
    repeats = np.empty(len(code), dtype=np.intp)
    repeats[order] = np.arange(len(code)) - np.repeat(starts, lengths)
    return repeats


def sum_conditions(values: FloatArray, starts: IntArray, weight: FloatArray | None = None) -> FloatArray:
    """Sums over each condition's trials, (n_conditions, n_units), of trials in the order of conditions.

    The product with a sparse matrix reads rows as they lie; ``numpy.add.reduceat`` takes five times as long.

    Parameters
    ----------
    values : (n_trials, n_units) float64 array
        Finite.
    starts : (n_conditions,) int array
        First trial of each condition.
    weight : (n_trials,) float64 array, optional
        What each trial is multiplied by; those with 0 are not read.
    """
    columns, bounds = np.arange(len(values)), np.r_[starts, len(values)]
    if weight is None:
        return np.asarray(scipy.sparse.csr_array((np.ones(len(values)), columns, bounds), (len(starts), len(values))) @ values)
    used = weight != 0
    bounds = np.r_[0, np.cumsum(used)][bounds]
    return np.asarray(scipy.sparse.csr_array((weight[used], columns[used], bounds), (len(starts), len(values))) @ values)


def reference_permutation(length: int, seed: int = 42) -> IntArray:
    """Order that depends on ``length`` (and the seed) only: the ranks of uniforms of a Mersenne Twister.

    The public implementations split conditions by it in MATLAB and in Python; equal results need the same split.
    """
    return np.argsort(np.random.RandomState(seed).rand(length))


def split_conditions(counts: IntArray, n_folds: int, seed: int) -> list[IntArray]:
    """Partition conditions at random into folds, each sorted, with nearly equally many that repeat in each.

    Parameters
    ----------
    counts : (n_conditions,) int array
        Trials of each condition.
    n_folds : int
        Folds; at most as many as conditions.
    seed : int
        Of the partition.
    """
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(counts[order] < 2, kind="stable")]
    number = min(n_folds, len(counts))
    return [np.sort(order[start::number]) for start in range(number)]
