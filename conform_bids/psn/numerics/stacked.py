"""The default method: a non-negative mixture of Wiener-like filters, calibrated in the situation that it is used in.

A filter fitted on condition means and applied to the same means needs more damping than theory says, since the leading dimensions have
taken up those conditions' noise; damping found on other conditions is too strong, since there they have not. So noise is split: an
independent draw of each condition's noise, made from a contrast of its own trials, is added to its mean and, scaled and reversed, taken
from a copy of it. The two have independent errors; filters are fitted on and applied to the first, and scored by the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.denoiser import Component, Denoiser
from conform_bids.psn.numerics.filters import FilterPart, Scores, filter_parts, noise_cholesky, score_filters, solve_mixture
from conform_bids.psn.numerics.moments import choose_data_level, choose_noise_level
from conform_bids.psn.numerics.spectral import shrink
from conform_bids.psn.numerics.standardised import Standardised, standardise
from conform_bids.psn.numerics.trials import Trials, split_conditions

__all__ = ["StackedOptions", "StackedResult", "fit_stacked"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
SPLIT = 0.5
"""Variance of the noise that is added, over that of a condition's mean: 1 is leaving out half of the trials, less is noisier scores."""
A_GRID = tuple(2.0**step for step in range(-1, 10))


@dataclass(frozen=True)
class StackedOptions:
    """Candidates of the mixture.

    Attributes
    ----------
    powers : tuple of float
        Of the ratio of signal to noise variance; 1 is Wiener's.
    level_steps : tuple of float
        Levels of shrinkage of the covariance of condition means, beside the one of the best likelihood.
    n_folds : int
        Folds of conditions.
    seed : int
        Of folds and contrasts.
    """

    powers: tuple[float, ...] = (1.0, 1.5)
    level_steps: tuple[float, ...] = (0.0, -0.2, 0.2)
    n_folds: int = 5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class StackedResult:
    """A denoiser, and the scores that led to it.

    Attributes
    ----------
    denoiser : Denoiser
        Mean and map.
    levels : tuple of float
        Levels of shrinkage of the components.
    noise_level : float
        That of the noise covariance.
    terms : (n_terms, 2) float64 array
        Power and a of the candidates of each component.
    weights : (n_levels * n_terms,) float64 array
        Of the mixture.
    fold_scores : tuple of Scores
        One a fold.
    condition_weight : (n_conditions,) float64 array
        Below 1 for conditions with outlying noise.
    """

    denoiser: Denoiser
    levels: tuple[float, ...]
    noise_level: float
    terms: FloatArray
    weights: FloatArray
    fold_scores: tuple[Scores, ...]
    condition_weight: FloatArray


def fit_stacked(trials: Trials, options: StackedOptions | None = None) -> StackedResult:
    """Fit the mixture.

    Parameters
    ----------
    trials : Trials
        Complete trials are used; every condition needs one, and two conditions need two.
    options : StackedOptions, optional
        Candidates and folds.

    Returns
    -------
    StackedResult
    """
    chosen = options or StackedOptions()
    data = standardise(trials)
    noise_level = choose_noise_level(data.trials, pooled=True).level
    best = choose_data_level(data.means).level
    levels = tuple(dict.fromkeys(float(np.clip(best + step, 0.0, 1.0)) for step in chosen.level_steps))
    terms = np.array([(power, a) for power in chosen.powers for a in A_GRID])
    folds = split_conditions(data.trials.counts, chosen.n_folds, chosen.seed)
    rng = np.random.default_rng([chosen.seed, 1])
    fold_scores = tuple(_score_fold(data, fold, noise_level, levels, terms, rng) for fold in folds)
    weights = solve_mixture(sum(fold_scores[1:], fold_scores[0]))
    centre, parts = _fit_parts(data, noise_level, levels)
    denoiser = _assemble(data, centre, parts, terms, weights)
    return StackedResult(denoiser, levels, noise_level, terms, weights, fold_scores, data.weight)


def _fit_parts(data: Standardised, noise_level: float, levels: tuple[float, ...]) -> tuple[FloatArray, list[FilterPart]]:
    """Dimensions from all conditions."""
    noise = shrink(data.noise_covariance(), noise_level)
    centre, covariance, share = data.data_covariance(data.means, 1.0 / data.counts)
    return centre, filter_parts(covariance, noise, noise_cholesky(noise), share, levels)


def _score_fold(
    data: Standardised, fold: IntArray, noise_level: float, levels: tuple[float, ...], terms: FloatArray, rng: np.random.Generator
) -> Scores:
    """Scores of all candidates on the conditions of a fold, over both signs of the contrast."""
    others = np.ones(len(data.means), bool)
    others[fold] = False
    noise = shrink(data.noise_covariance(others), noise_level)
    cholesky = noise_cholesky(noise)
    scores = Scores.none(len(levels) * len(terms))
    repeated = fold[data.trials.counts[fold] >= 2]
    if not len(repeated):
        return scores
    share = 1.0 / data.counts
    share[repeated] *= 1 + SPLIT
    for inputs, targets in _split_noise(data, repeated, rng):
        means = data.means.copy()
        means[repeated] = inputs
        centre, covariance, left = data.data_covariance(means, share)
        parts = filter_parts(covariance, noise, cholesky, left, levels)
        worth = data.counts[repeated] / (1 + SPLIT)
        scores += score_filters(parts, terms, inputs - centre, targets - centre, worth, data.weight[repeated])
    return scores


def _split_noise(data: Standardised, conditions: IntArray, rng: np.random.Generator) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Two versions of condition means with independent errors, for both signs of one contrast of each condition's trials."""
    contrast = np.empty((len(conditions), data.means.shape[1]))
    for row, condition in enumerate(conditions):
        start, count = data.trials.starts[condition], int(data.trials.counts[condition])
        draw = rng.standard_normal(count)
        draw -= draw.mean()
        contrast[row] = draw @ data.residuals[start : start + count] / (np.linalg.norm(draw) * np.sqrt(count))
    means, amount = data.means[conditions], np.sqrt(SPLIT)
    for sign in (1.0, -1.0):
        yield means + sign * amount * contrast, means - sign / amount * contrast


def _assemble(data: Standardised, centre: FloatArray, parts: list[FilterPart], terms: FloatArray, weights: FloatArray) -> Denoiser:
    """Denoiser in the units of the data."""
    components = []
    for part, share in zip(parts, weights.reshape(len(parts), len(terms)), strict=True):
        used = share > 0
        if used.any():
            mixture = np.c_[share[used], terms[used]]
            components.append(Component(part.left * data.scale[:, None], part.right / data.scale[:, None], part.ratio, mixture))
    return Denoiser(centre * data.scale, tuple(components), float(np.mean(data.trials.counts)))
