"""Number of dimensions by nested cross-validation: basis, mean and covariances come from training conditions only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UsageError
from conform_bids.psn.numerics.bases import Basis, make_basis
from conform_bids.psn.numerics.calibrated import USE_ALL, held_out_pairs
from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.gsn import estimate_signal_noise
from conform_bids.psn.numerics.levels import pool_curves
from conform_bids.psn.numerics.presets import truncated
from conform_bids.psn.numerics.standardised import require_folds
from conform_bids.psn.numerics.trials import Trials, split_conditions

__all__ = ["CrossvalidatedResult", "fit_crossvalidated", "truncation_curves"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class CrossvalidatedResult:
    """A denoiser, and the curves that led to it.

    Attributes
    ----------
    denoiser : Denoiser
        Mean and map.
    basis : Basis
        All dimensions, from all conditions.
    n_dimensions : (1,) or (n_units,) int array
        How many are kept, for all units or for each.
    curves : (n_curves, n_dimensions + 1) float64 array
        Squared error that k dimensions save against the mean response, over all held-out trials.
    fold : (n_conditions,) int array
        Fold of each condition.
    """

    denoiser: Denoiser
    basis: Basis
    n_dimensions: IntArray
    curves: FloatArray
    fold: IntArray


def fit_crossvalidated(
    trials: Trials,
    *,
    basis: str | FloatArray = "signal",
    order: str = "eigenvalues",
    level: str = "population",
    groups: IntArray | None = None,
    allowed: tuple[int, ...] = (),
    n_folds: int = 5,
    seed: int = 0,
) -> CrossvalidatedResult:
    """Choose the number of dimensions by how well held-out trials of held-out conditions are predicted.

    In each fold of conditions, dimensions and mean come from the other folds; each trial of the fold is predicted by the projection of
    the mean of its condition's other trials. The number with the least squared error over all folds is kept of the dimensions that all
    conditions give.

    Parameters
    ----------
    trials : Trials
        Complete trials are used; every condition needs one.
    basis, order
        See `conform_bids.psn.numerics.bases`.
    level : str
        ``population``: one number; ``unit``: one for each unit; ``group``: one for each of ``groups``.
    groups : (n_units,) int array, optional
        Group of each unit.
    allowed : tuple of int
        Numbers to choose among; all if empty.
    n_folds, seed : int
        Folds of conditions.
    """
    complete = trials.only_complete()
    require_folds(complete)
    folds = split_conditions(complete.counts, n_folds, seed)
    fold_of = np.empty(trials.n_conditions, dtype=np.intp)
    curves: FloatArray = np.zeros((1, 1))
    for index, fold in enumerate(folds):
        fold_of[fold] = index
        training = complete.select_conditions(np.flatnonzero(~np.isin(np.arange(trials.n_conditions), fold)))
        vectors = make_basis(estimate_signal_noise(training, USE_ALL), training.means, basis, order).vectors
        mean = training.means.mean(axis=0)
        for inputs, targets, _ in held_out_pairs(complete.select_conditions(fold)):
            curves = curves + truncation_curves(vectors, inputs - mean, targets - mean, by_unit=level != "population")
    curves = pool_curves(curves, level, groups)
    chosen = make_basis(estimate_signal_noise(complete, USE_ALL), complete.means, basis, order)
    numbers = np.unique(allowed) if allowed else np.arange(curves.shape[1])
    if numbers[0] < 0 or numbers[-1] >= curves.shape[1]:
        raise UsageError(f"numbers of dimensions are 0 to {curves.shape[1] - 1}; {numbers[0]} to {numbers[-1]} are asked for")
    n_dimensions = numbers[curves[:, numbers].argmax(axis=1)]
    denoiser = Denoiser(complete.means.mean(axis=0), (truncated(chosen.vectors, n_dimensions),), float(complete.counts.mean()))
    return CrossvalidatedResult(denoiser, chosen, n_dimensions, curves, fold_of)


def truncation_curves(vectors: FloatArray, inputs: FloatArray, targets: FloatArray, *, by_unit: bool) -> FloatArray:
    """Sum over samples of 2 y p - p^2, p the projection of the input on the first k dimensions, k = 0, 1, ...

    Parameters
    ----------
    vectors : (n_units, n_dimensions) float64 array
        Orthonormal dimensions.
    inputs, targets : (n_samples, n_units) float64 arrays
        Mean taken out.
    by_unit : bool
        A curve for each unit, or their sum.

    Returns
    -------
    (n_units or 1, n_dimensions + 1) float64 array
    """
    projected = inputs @ vectors
    if by_unit:
        inner = projected.T @ projected
        linear = (targets.T @ projected) * vectors
        steps = 2 * linear - 2 * vectors * (vectors @ np.triu(inner, 1)) - vectors**2 * np.diag(inner)
    else:
        steps = np.einsum("ij,ij->j", 2 * (targets @ vectors) - projected, projected)[None]
    return np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)
