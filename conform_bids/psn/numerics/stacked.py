"""The default method: a non-negative mixture of Wiener-like filters, calibrated in the situation that it is used in.

A filter fitted on condition means and applied to the same means needs more damping than theory says, since the leading dimensions have
taken up those conditions' noise; damping found on other conditions is too strong, since there they have not. So noise is split: an
independent draw of each condition's noise, made from a contrast of its own trials, is added to its mean and, scaled and reversed, taken
from a copy of it. The two have independent errors; filters are fitted on and applied to the first, and scored by the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.denoiser import Component, Denoiser
from conform_bids.psn.numerics.filters import FilterPart, Scores, filter_parts, noise_choleskys, score_filters, solve_mixture
from conform_bids.psn.numerics.moments import choose_data_level, choose_noise_level
from conform_bids.psn.numerics.spectral import ShrinkageChoice
from conform_bids.psn.numerics.standardised import Standardised, standardise
from conform_bids.psn.numerics.trials import Trials, split_conditions
from conform_bids.psn.numerics.unit_gains import SplitOutputs, empirical_bayes_gains

__all__ = ["StackedOptions", "StackedResult", "assemble", "fit_parts", "fit_stacked", "mix_filters", "unit_gains"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
SPLIT = 0.5
"""Variance of the noise that is added, over that of a condition's mean: 1 is leaving out half of the trials, less is noisier scores."""
A_GRID = tuple(4.0**step for step in range(-1, 8))
LEVEL_STEP = 0.3
MIN_COMPARED = 3
"""Folds that it takes to compare two mixtures."""
Levels = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class StackedOptions:
    """Candidates of the mixture.

    Attributes
    ----------
    powers : tuple of float
        Of the ratio of signal to noise variance; 1 is Wiener's, larger ones cut more steeply.
    a : tuple of float
        Weights of the noise.
    wide : bool
        Beside the levels of shrinkage of the best likelihood, take the data covariance with more and with no shrinkage, the noise
        covariance with half of its correlations, and every unit by itself.
    n_folds : int
        Folds of conditions.
    seed : int
        Of folds and contrasts.
    unit_gains : bool
        Give units gains of their own where that saves error (see `conform_bids.psn.numerics.unit_gains`).
    """

    powers: tuple[float, ...] = (1.0, 2.0, 4.0)
    a: tuple[float, ...] = A_GRID
    wide: bool = True
    n_folds: int = 5
    seed: int = 0
    unit_gains: bool = True


@dataclass(frozen=True, eq=False)
class StackedResult:
    """A denoiser, and the scores that led to it.

    Attributes
    ----------
    denoiser : Denoiser
        Mean and map.
    levels : tuple of (float, float)
        Levels of shrinkage of the covariance of condition means and of that of the noise, component by component.
    choices : (ShrinkageChoice, ShrinkageChoice)
        How the first of these levels were chosen, of condition means and of the noise; in standardised units.
    terms : (n_terms, 2) float64 array
        Power and a of the candidates of each component.
    weights : (n_levels * n_terms,) float64 array
        Of the mixture.
    fold_scores : tuple of Scores
        One a fold.
    fold : (n_conditions,) int array
        Fold of each condition.
    condition_weight : (n_conditions,) float64 array
        Below 1 for conditions with outlying noise.
    """

    denoiser: Denoiser
    levels: Levels
    choices: tuple[ShrinkageChoice, ShrinkageChoice]
    terms: FloatArray
    weights: FloatArray
    fold_scores: tuple[Scores, ...]
    fold: IntArray
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
    choices = choose_data_level(data.means), choose_noise_level(data.trials, pooled=True)
    levels = _candidate_levels(choices[0].level, choices[1].level, wide=chosen.wide)
    terms = np.array([(power, a) for power in chosen.powers for a in chosen.a])
    folds = split_conditions(data.trials.counts, chosen.n_folds, chosen.seed)
    rng = np.random.default_rng([chosen.seed, 1])
    scored = [_score_fold(data, fold, levels, terms, rng, keep=chosen.unit_gains) for fold in folds]
    fold_scores = tuple(scores for scores, _ in scored)
    weights = mix_filters(fold_scores, len(terms))
    gains = unit_gains([outputs for _, outputs in scored], weights)
    del scored
    centre, parts = fit_parts(data, levels)
    denoiser = replace(assemble(data, centre, parts, terms, weights), unit_gain=gains)
    fold_of = np.empty(len(data.means), dtype=np.intp)
    for index, fold in enumerate(folds):
        fold_of[fold] = index
    return StackedResult(denoiser, levels, choices, terms, weights, fold_scores, fold_of, data.weight)


def _candidate_levels(best: float, noise: float, *, wide: bool) -> Levels:
    """Levels of shrinkage of the data and of the noise covariance, the likeliest pair first."""
    if not wide:
        return ((best, noise),)
    return tuple(dict.fromkeys([(best, noise), (max(best - LEVEL_STEP, 0.0), noise), (1.0, noise), (best, noise / 2), (0.0, 0.0)]))


def fit_parts(data: Standardised, levels: Levels, *, light: bool = False) -> tuple[FloatArray, list[FilterPart]]:
    """Mean of all conditions, and their dimensions at each pair of levels, in standardised units; in single precision if ``light``."""
    noise = data.noise_covariance()
    centre, covariance, share = data.data_covariance(data.means, 1.0 / data.counts)
    return centre, filter_parts(covariance, noise, noise_choleskys(noise, levels), share, levels, light=light)


def mix_filters(fold_scores: Sequence[Scores], n_first: int) -> FloatArray:
    """Weights of the mixture of all filters, or of those at the first levels of shrinkage alone where the others earn nothing.

    With little signal in few conditions scores cannot tell many filters apart, and what they seem to add is chance. So each fold is
    predicted by mixtures that were weighted on the others: levels beside the first are used if they save more error there, by more than
    one standard error over folds.

    Parameters
    ----------
    fold_scores : sequence of Scores
        One a fold.
    n_first : int
        Filters at the first levels; they come first.

    Returns
    -------
    (n_filters,) float64 array
    """
    total = sum(fold_scores[1:], fold_scores[0])
    n_filters = len(total.linear)
    if len(fold_scores) < MIN_COMPARED or n_first == n_filters:
        return solve_mixture(total)
    more = np.empty(len(fold_scores))
    for index, own in enumerate(fold_scores):
        rest = sum((other for place, other in enumerate(fold_scores) if place != index), Scores.none(n_filters))
        more[index] = own.gain(solve_mixture(rest)) - own.first(n_first).gain(solve_mixture(rest.first(n_first)))
    if more.sum() > more.std(ddof=1) * np.sqrt(len(more)):
        return solve_mixture(total)
    return np.r_[solve_mixture(total.first(n_first)), np.zeros(n_filters - n_first)]


def unit_gains(folds: Sequence[SplitOutputs | None], weights: FloatArray) -> FloatArray | None:
    """What each unit's output by a mixture is to be multiplied by, (n_units,); None where no fold's outputs were kept."""
    kept = [outputs.score(weights) for outputs in folds if outputs is not None]
    return empirical_bayes_gains(sum(kept[1:], kept[0])) if kept else None


def assemble(data: Standardised, centre: FloatArray, parts: Sequence[FilterPart], terms: FloatArray, weights: FloatArray) -> Denoiser:
    """Denoiser of a mixture, in the units of the data.

    Parameters
    ----------
    data : Standardised
        For the units' scales.
    centre : (n_units,) float64 array
        Mean, in standardised units.
    parts : sequence of FilterPart
        As of `fit_parts`.
    terms : (n_terms, 2) float64 array
        Power and a of the filters of each part.
    weights : (n_parts * n_terms,) float64 array
        Of the filters, part by part; parts without weight are left out.
    """
    components = []
    for part, share in zip(parts, weights.reshape(len(parts), len(terms)), strict=True):
        used = share > 0
        if used.any():
            mixture = np.c_[share[used], terms[used]]
            components.append(Component(part.left * data.scale[:, None], part.right / data.scale[:, None], part.ratio, mixture))
    return Denoiser(centre * data.scale, tuple(components), float(np.mean(data.trials.counts)))


def _score_fold(
    data: Standardised, fold: IntArray, levels: Levels, terms: FloatArray, rng: np.random.Generator, *, keep: bool
) -> tuple[Scores, SplitOutputs | None]:
    """Scores of all candidates on the conditions of a fold, over both signs of the contrast; what their outputs follow from, to keep."""
    others = np.ones(len(data.means), bool)
    others[fold] = False
    noise = data.noise_covariance(others)
    choleskys = noise_choleskys(noise, levels)
    scores = Scores.none(len(levels) * len(terms))
    repeated = fold[data.trials.counts[fold] >= 2]
    if not len(repeated):
        return scores, None
    share = 1.0 / data.counts
    share[repeated] *= 1 + SPLIT
    worth, weight = data.counts[repeated] / (1 + SPLIT), data.weight[repeated]
    kept: list[tuple[list[FilterPart], FloatArray, FloatArray]] = []
    for inputs, targets in _split_noise(data, repeated, rng):
        means = data.means.copy()
        means[repeated] = inputs
        centre, covariance, left = data.data_covariance(means, share)
        parts = filter_parts(covariance, noise, choleskys, left, levels, light=True)
        scores += score_filters(parts, terms, inputs - centre, targets - centre, worth, weight)
        kept += [(parts, inputs - centre, targets - centre)] * keep
    if not keep:
        return scores, None
    parts_of_signs, inputs_of_signs, targets_of_signs = zip(*kept, strict=True)
    return scores, SplitOutputs(parts_of_signs, terms, inputs_of_signs, targets_of_signs, worth, weight)


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
