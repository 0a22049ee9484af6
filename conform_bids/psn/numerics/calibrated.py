"""Wiener filter whose noise is weighted by cross-validation: S (S + a N/t)^-1, a by folds over conditions.

Covariances of few conditions carry noise that the filter with a = 1 takes at its word. Folds of conditions tell how much it is: GSN on
the other folds, and in the fold each trial is predicted from the mean of its condition's other trials.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.denoiser import Component, Denoiser, filter_gains
from conform_bids.psn.numerics.filters import FilterPart, filter_part, noise_cholesky, signal_factor
from conform_bids.psn.numerics.gsn import SignalNoise, SignalNoiseOptions, estimate_signal_noise
from conform_bids.psn.numerics.levels import pool_curves
from conform_bids.psn.numerics.standardised import standardise
from conform_bids.psn.numerics.trials import Trials, split_conditions

__all__ = ["A_VALUES", "CalibratedResult", "fit_calibrated", "held_out_pairs", "wiener_part"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
A_VALUES: FloatArray = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 125.0, 250.0, 500.0, 1000.0])
"""Weights of the noise that are compared; where none predicts better than the mean response, the mean response is the answer."""
USE_ALL = SignalNoiseOptions(missing="all")


@dataclass(frozen=True, eq=False)
class CalibratedResult:
    """A denoiser, and the curves that led to it.

    Attributes
    ----------
    denoiser : Denoiser
        Mean and map.
    a : (1,) or (n_units,) float64 array
        Weight of the noise, for all units or for each; infinite where the mean response is the best prediction.
    curves : (n_curves, n_values) float64 array
        Squared error that each of `A_VALUES` saves against the mean response, in units of the noise, over all held-out trials.
    fold : (n_conditions,) int array
        Fold of each condition.
    model : SignalNoise
        Covariances, in units of the noise.
    """

    denoiser: Denoiser
    a: FloatArray
    curves: FloatArray
    fold: IntArray
    model: SignalNoise


def fit_calibrated(
    trials: Trials, *, level: str = "population", groups: IntArray | None = None, n_folds: int = 5, seed: int = 0
) -> CalibratedResult:
    """Fit the calibrated Wiener filter.

    Parameters
    ----------
    trials : Trials
        Complete trials are used; every condition needs one.
    level : str
        ``population``: one a; ``unit``: one for each unit; ``group``: one for each of ``groups``.
    groups : (n_units,) int array, optional
        Group of each unit.
    n_folds, seed : int
        Folds of conditions.
    """
    data = standardise(trials)
    folds = split_conditions(data.trials.counts, n_folds, seed)
    curves = np.zeros((trials.n_units if level != "population" else 1, len(A_VALUES)))
    fold_of = np.empty(trials.n_conditions, dtype=np.intp)
    for index, fold in enumerate(folds):
        fold_of[fold] = index
        training = data.trials.select_conditions(np.flatnonzero(~np.isin(np.arange(trials.n_conditions), fold)))
        model = estimate_signal_noise(training, USE_ALL)
        part = wiener_part(model)
        for inputs, targets, count in held_out_pairs(data.trials.select_conditions(fold)):
            curves += _score(part, inputs - model.mean, targets - model.mean, count, by_unit=level != "population")
    curves = pool_curves(curves, level, groups)
    best = curves.argmax(axis=1)
    a = np.where(curves[np.arange(len(curves)), best] > 0, A_VALUES[best], np.inf)
    model = estimate_signal_noise(data.trials, USE_ALL)
    part = wiener_part(model)
    components = []
    for value in np.unique(a[np.isfinite(a)]):
        left = part.left * (np.broadcast_to(a, trials.n_units) == value)[:, None]
        components.append(
            Component(left * data.scale[:, None], part.right / data.scale[:, None], part.ratio, np.array([[1.0, 1.0, value]]))
        )
    denoiser = Denoiser(model.mean * data.scale, tuple(components), float(data.trials.counts.mean()))
    return CalibratedResult(denoiser, a, curves, fold_of, model)


def wiener_part(model: SignalNoise) -> FilterPart:
    """Dimensions of GSN's covariances, by way of signal + noise: the noise alone may be singular."""
    part = filter_part(signal_factor(model.signal), noise_cholesky(model.signal + model.noise))
    share = np.minimum(part.ratio, 1.0)
    with np.errstate(divide="ignore"):
        return FilterPart(part.left, part.right, share / (1.0 - share))


def held_out_pairs(trials: Trials) -> Iterator[tuple[FloatArray, FloatArray, int]]:
    """Mean of a condition's other trials, and each of its trials, with the number of trials averaged; one batch for each number."""
    sums = trials.means * trials.counts[:, None]
    count = trials.counts[trials.condition]
    for number in np.unique(count[count >= 2]):
        rows = count == number
        targets = trials.values[rows]
        yield (sums[trials.condition[rows]] - targets) / (number - 1), targets, int(number) - 1


def _score(part: FilterPart, inputs: FloatArray, targets: FloatArray, count: int, *, by_unit: bool) -> FloatArray:
    """Sum over samples of 2 y p - p^2 for every a, over units or unit by unit."""
    projected = inputs @ part.right
    passed = filter_gains(part.ratio, count, np.c_[np.ones(len(A_VALUES)), A_VALUES])
    inner = projected.T @ projected
    if not by_unit:
        linear = passed @ np.einsum("ij,ij->j", targets @ part.left, projected)
        return (2 * linear - np.einsum("ij,jk,ik->i", passed, (part.left.T @ part.left) * inner, passed))[None]
    linear = ((targets.T @ projected) * part.left) @ passed.T
    quadratic = [np.einsum("ij,ij->i", weighted @ inner, weighted) for weighted in (part.left * gain for gain in passed)]
    return 2 * linear - np.stack(quadratic, axis=1)
