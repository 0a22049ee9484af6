"""Covariances of noise and of condition means, each shrunk at its own level, before they are made consistent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError
from conform_bids.psn.numerics.spectral import ShrinkageChoice, choose_shrinkage, shrink
from conform_bids.psn.numerics.trials import Trials, reference_permutation

__all__ = [
    "Moments",
    "choose_data_level",
    "choose_noise_level",
    "complete_moments",
    "noise_factor",
    "pairwise_moments",
    "split_for_likelihood",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
HELD_OUT_SHARE = 5


@dataclass(frozen=True, eq=False)
class Moments:
    """Covariances before they are made consistent."""

    noise: FloatArray
    data: FloatArray
    means: FloatArray
    noise_share: FloatArray | float
    """What of the noise covariance is left in that of condition means: 1/T, or a value for each pair of units."""
    n_averaged: float
    noise_choice: ShrinkageChoice | None
    data_choice: ShrinkageChoice | None
    notes: tuple[str, ...] = ()


def split_for_likelihood(n_conditions: int) -> tuple[IntArray, IntArray]:
    """Conditions that covariances are estimated on, and a fifth that they are tried on."""
    order = reference_permutation(n_conditions)
    n_held_out = max(1, round(n_conditions / HELD_OUT_SHARE))
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def noise_factor(trials: Trials, *, pooled: bool = False) -> FloatArray:
    """Matrix whose ``factor.T @ factor`` is the mean, over conditions with two trials or more, of their unbiased noise covariance.

    Every condition counts the same, however many trials it has, or by its degrees of freedom if ``pooled``. Trials have to be complete.
    """
    repeated = trials.counts >= 2
    kept = repeated[trials.condition]
    counts = trials.counts[trials.condition[kept]]
    if pooled:
        return trials.residuals()[kept] / np.sqrt(max(int((trials.counts - 1).sum()), 1))
    return trials.residuals()[kept] / np.sqrt((counts - 1) * repeated.sum())[:, None]


def choose_noise_level(trials: Trials, *, pooled: bool = False) -> ShrinkageChoice:
    """Level for the noise covariance, held out by condition; trials have to be complete. If ``pooled``, among those that repeat."""
    if pooled:
        trials = trials.select_conditions(trials.counts >= 2)
    train, held_out = split_for_likelihood(trials.n_conditions)
    rest = trials.select_conditions(held_out)
    samples = rest.residuals()[(rest.counts >= 2)[rest.condition]]
    return choose_shrinkage(noise_factor(trials.select_conditions(train), pooled=pooled), samples)


def choose_data_level(means: FloatArray) -> ShrinkageChoice:
    """Level for the covariance of condition means, (n_conditions, n_units), held out by condition."""
    train, held_out = split_for_likelihood(len(means))
    centre = means[train].mean(axis=0)
    return choose_shrinkage((means[train] - centre) / np.sqrt(max(len(train) - 1, 1)), means[held_out] - centre)


def complete_moments(trials: Trials, *, shrinkage: bool, use_all: bool = False) -> Moments:
    """Moments of trials without missing units.

    With uneven numbers of trials, means take as many as the rarest condition has, and conditions count equally for the noise; with
    ``use_all`` means take all, and the noise is pooled by degrees of freedom.
    """
    smallest = int(trials.counts.min())
    even = smallest == int(trials.counts.max())
    means = trials.means if even or use_all else _equal_means(trials, smallest)
    noise_choice = choose_noise_level(trials, pooled=use_all) if shrinkage else None
    data_choice = choose_data_level(means) if shrinkage else None
    factor, centred = noise_factor(trials, pooled=use_all), means - means.mean(axis=0)
    noise = factor.T @ factor
    data = centred.T @ centred / (len(means) - 1)
    repeated = trials.counts[trials.counts >= 2]
    return Moments(
        noise=shrink(noise, noise_choice.level) if noise_choice else noise,
        data=shrink(data, data_choice.level) if data_choice else data,
        means=means,
        noise_share=float(np.mean(1.0 / trials.counts)) if use_all else 1.0 / smallest,
        n_averaged=max(float(repeated.sum()) / trials.n_conditions, 1.0),
        noise_choice=noise_choice,
        data_choice=data_choice,
    )


def _equal_means(trials: Trials, n_taken: int) -> FloatArray:
    """Condition means over ``n_taken`` trials each, drawn as the public implementation draws them."""
    rows = [start + reference_permutation(int(count))[:n_taken] for start, count in zip(trials.starts, trials.counts, strict=True)]
    return trials.values[np.concatenate(rows)].reshape(len(rows), n_taken, -1).mean(axis=1)


def pairwise_moments(trials: Trials, *, shrinkage: bool) -> Moments:
    """Moments where units are missing in trials: every pair of units uses the trials, and the conditions, that both have.

    Levels of shrinkage are chosen on the complete trials. The covariances need not be positive semi-definite.
    """
    noise = _pairwise_noise(trials)
    data, share = _pairwise_data(trials)
    noise_choice = data_choice = None
    notes: tuple[str, ...] = ()
    if shrinkage:
        try:
            complete = _complete_subset(trials)
            noise_choice = choose_noise_level(complete)
            data_choice = choose_data_level(_equal_means(complete, int(complete.counts.min())))
        except UnusableInputError:
            noise_choice = data_choice = None
            notes = ("too few complete trials to choose levels of shrinkage: covariances are not shrunk",)
    return Moments(
        noise=shrink(noise, noise_choice.level) if noise_choice else noise,
        data=shrink(data, data_choice.level) if data_choice else data,
        means=trials.means,
        noise_share=share,
        n_averaged=max(float(trials.counts.mean()), 1.0),
        noise_choice=noise_choice,
        data_choice=data_choice,
        notes=notes,
    )


def _complete_subset(trials: Trials) -> Trials:
    """The complete trials, and the conditions that have some."""
    kept = trials.complete
    number = np.cumsum(trials.counts > 0) - 1
    n_conditions = int((trials.counts > 0).sum())
    if n_conditions < 3:
        raise UnusableInputError("fewer than 3 conditions have a complete trial")
    return Trials(trials.values[kept], number[trials.condition[kept]], trials.repetition[kept], n_conditions)


def _pairwise_noise(trials: Trials) -> FloatArray:
    """Mean over conditions of the unbiased covariance over the trials that both units have, where these are two or more."""
    n_units = trials.n_units
    sums, counts = np.zeros((n_units, n_units)), np.zeros((n_units, n_units))
    centred = trials.residuals()
    ends = np.r_[trials.starts[1:], len(trials.values)]
    for start, end in zip(trials.starts, ends, strict=True):
        rows, present = centred[start:end], np.isfinite(centred[start:end])
        if present.all():
            if end - start >= 2:
                sums += rows.T @ rows / (end - start - 1)
                counts += 1
            continue
        filled, weight = np.where(present, rows, 0.0), present.astype(np.float64)
        shared = weight.T @ weight
        partial = filled.T @ weight
        covariance = filled.T @ filled - partial * partial.T / np.maximum(shared, 1)
        usable = shared >= 2
        sums += np.where(usable, covariance / np.maximum(shared - 1, 1), 0.0)
        counts += usable
    if not counts.all():
        raise UnusableInputError(f"{int((counts == 0).sum() / 2)} pairs of units share no condition with two trials of both")
    return sums / counts


def _pairwise_data(trials: Trials) -> tuple[FloatArray, FloatArray]:
    """Covariance of condition means over the conditions that both units have, and what of the noise covariance is left in it."""
    means, present = trials.means, np.isfinite(trials.means).astype(np.float64)
    with np.errstate(invalid="ignore"):
        centred = np.nan_to_num(means - np.nanmean(means, axis=0))
    shared = present.T @ present
    if shared.min() < 2:
        raise UnusableInputError("a pair of units shares fewer than two conditions")
    partial = centred.T @ present
    data = (centred.T @ centred - partial * partial.T / shared) / (shared - 1)
    finite = np.isfinite(trials.values)
    counts = np.add.reduceat(finite.astype(np.float64), trials.starts, axis=0)
    # sum over conditions of n_ij / (n_i n_j), n_ij the shared trials: every trial adds 1 / (n_i n_j) to its pairs
    per_trial = np.where(finite, 1.0 / np.maximum(counts, 1.0)[trials.condition], 0.0)
    return data, per_trial.T @ per_trial / shared
