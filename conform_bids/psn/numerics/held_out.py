"""Conditions denoised by denoisers that never saw them, at the cost of one fit in place of one for each fold.

The default method cross-validates within its fit. For denoisers of the other conditions its levels of shrinkage are taken over from the
whole parcel, two numbers; covariances, means and units' scales come from the other conditions alone, and the mixture is calibrated on
the other folds, for conditions that a denoiser has not seen. `conform_bids.psn.numerics.crossfit` chooses everything anew in each fold; it
takes as long as five fits; `fit_each` does so for the other methods.

Gains of units (`conform_bids.psn.numerics.unit_gains`) are those of the whole fit in what is given out: gains that are chosen without a
fold are the larger, the less of a unit repeats in that fold, and would seem to make noise repeat less than by chance. One number for all
conditions of a unit changes none of its correlations over conditions. What squared errors are saved is told with the gains that were
chosen without the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.filters import FilterPart, Scores, score_filters
from conform_bids.psn.numerics.halves import about_folds, correlate, even_out, half_means
from conform_bids.psn.numerics.stacked import StackedResult, assemble, fit_parts, mix_filters, unit_gains
from conform_bids.psn.numerics.standardised import Standardised, standardise
from conform_bids.psn.numerics.trials import Trials, sum_conditions
from conform_bids.psn.numerics.unit_gains import SplitOutputs
from conform_bids.psn.numerics.variances import UnitVariances, unit_variances

__all__ = [
    "HeldOut",
    "evaluate_held_out",
    "evaluate_passed",
    "fit_each",
    "pass_held_out",
    "replace_values",
    "stacked_denoisers",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Of all conditions, each denoised without it.

    Attributes
    ----------
    denoised : (n_conditions, n_units) float64 array
        Condition means.
    variances : UnitVariances
        Of denoised trials, evened out over folds: signal is what repeats, noise what does not.
    reliability_before, reliability_after : (n_units,) float64 arrays
        Correlation of odd and even trials, over conditions that repeat, about the mean of each fold; as they are, and denoised and evened
        out over folds, see `conform_bids.psn.numerics.halves.even_out` (0 where nothing is left).
    gain : (n_units,) float64 array
        Share of the sum of squares of left-out trials, about the mean of their fold, that the denoised mean of the other trials
        predicts.
    saved, total : (n_units,) float64 arrays
        Numerator and denominator of ``gain``.
    """

    denoised: FloatArray
    variances: UnitVariances
    reliability_before: FloatArray
    reliability_after: FloatArray
    gain: FloatArray
    saved: FloatArray
    total: FloatArray


def fit_each(trials: Trials, folds: Sequence[IntArray], fit: Callable[[Trials], Denoiser]) -> list[Denoiser]:
    """A denoiser for each fold, fitted on the other conditions."""
    return [fit(trials.select_conditions(~np.isin(np.arange(trials.n_conditions), fold))) for fold in folds]


def stacked_denoisers(trials: Trials, folds: Sequence[IntArray], result: StackedResult, seed: int) -> list[Denoiser]:
    """A mixture of filters for each fold, from the other conditions.

    Parameters
    ----------
    trials : Trials
        Complete.
    folds : sequence of int arrays
        Conditions of each fold.
    result : StackedResult
        Of all conditions: levels and candidates.
    seed : int
        Of the split of noise that scores are taken on.
    """
    fits = []
    for index, fold in enumerate(folds):
        others = standardise(trials.select_conditions(~np.isin(np.arange(trials.n_conditions), fold)))
        centre, parts = fit_parts(others, result.levels, light=True)
        held_out = trials.select_conditions(fold)
        rng = np.random.default_rng([seed, 4, index])
        scored = _score(held_out, others, centre, parts, result.terms, rng, keep=result.denoiser.unit_gain is not None)
        fits.append((others, centre, parts, scored))
    denoisers = []
    for index, (others, centre, parts, _) in enumerate(fits):
        rest = [fit[3] for place, fit in enumerate(fits) if place != index]
        weights = mix_filters([scores for scores, _ in rest], len(result.terms))
        gains = unit_gains([outputs for _, outputs in rest], weights)
        denoisers.append(replace(assemble(others, centre, parts, result.terms, weights), unit_gain=gains))
    return denoisers


def _score(
    held_out: Trials,
    others: Standardised,
    centre: FloatArray,
    parts: list[FilterPart],
    terms: FloatArray,
    rng: np.random.Generator,
    *,
    keep: bool,
) -> tuple[Scores, SplitOutputs | None]:
    """Scores of all filters on conditions that they have not seen: one part of the noise is in the input, another in the target."""
    repeated = np.flatnonzero(held_out.counts >= 2)
    if not len(repeated):
        return Scores.none(len(parts) * len(terms)), None
    chosen = held_out.select_conditions(repeated)
    means = chosen.means / others.scale - centre
    draw = rng.standard_normal(len(chosen.condition))
    draw -= (np.add.reduceat(draw, chosen.starts) / chosen.counts)[chosen.condition]
    length = np.sqrt(np.add.reduceat(draw**2, chosen.starts) * chosen.counts)
    contrast = sum_conditions(chosen.values, chosen.starts, draw) / length[:, None] / others.scale
    # added and taken away in equal amounts: as much noise in the input as half of the trials would leave; once with each sign
    signs = means + contrast, means - contrast
    worth, weight = chosen.counts / 2.0, np.ones(len(repeated))
    scores = score_filters(parts, terms, np.concatenate(signs), np.concatenate(signs[::-1]), np.tile(worth, 2), np.ones(2 * len(repeated)))
    if not keep:
        return scores, None
    return scores, SplitOutputs((parts, parts), terms, signs, signs[::-1], worth, weight)


def evaluate_held_out(
    trials: Trials, folds: Sequence[IntArray], denoisers: Sequence[Denoiser], unit_gain: FloatArray | None = None
) -> HeldOut:
    """Denoise every condition and its trials by the denoiser of its fold.

    The filter of a condition is that for its number of trials, for single trials too, so that means of denoised trials are denoised
    means. Denoised responses are about the mean of all conditions: the mean of the other folds would differ by fold.

    Parameters
    ----------
    trials : Trials
        Complete.
    folds : sequence of int arrays
        Conditions of each fold.
    denoisers : sequence of Denoiser
        One a fold.
    unit_gain : (n_units,) float64 array, optional
        Of the fit to all conditions, for the denoised responses.
    """
    without_gains = [replace(denoiser, unit_gain=None) for denoiser in denoisers]
    centre = trials.means.mean(axis=0)
    deviation = trials.values - centre
    second_moment = deviation.T @ deviation / len(deviation)
    passed, fold_of = pass_held_out(trials, folds, without_gains)
    sizes = np.stack([denoiser.output_sizes(second_moment) for denoiser in without_gains])
    gains = None
    if any(denoiser.unit_gain is not None for denoiser in denoisers):
        gains = np.stack([np.ones(trials.n_units) if denoiser.unit_gain is None else denoiser.unit_gain for denoiser in denoisers])
    found = evaluate_passed(trials, passed, fold_of, sizes, gains)
    if unit_gain is None:
        return found
    return replace(found, denoised=(found.denoised - centre) * unit_gain + centre)


def pass_held_out(trials: Trials, folds: Sequence[IntArray], denoisers: Sequence[Denoiser]) -> tuple[FloatArray, IntArray]:
    """What the denoiser of its fold passes of each trial, about the mean of all conditions, (n_trials, n_units); fold of each condition."""
    deviation = trials.values - trials.means.mean(axis=0)
    passed = np.empty_like(deviation)
    fold_of = np.empty(trials.n_conditions, dtype=np.intp)
    for index, (fold, denoiser) in enumerate(zip(folds, denoisers, strict=True)):
        fold_of[fold] = index
        for count in np.unique(trials.counts[fold]):
            chosen = np.zeros(trials.n_conditions, bool)
            chosen[fold] = trials.counts[fold] == count
            rows = chosen[trials.condition]
            passed[rows] = deviation[rows] @ denoiser.matrix(float(count)).T
    return passed, fold_of


def evaluate_passed(
    trials: Trials, passed: FloatArray, fold_of: IntArray, sizes: FloatArray, unit_gains: FloatArray | None = None
) -> HeldOut:
    """Compare trials with what was passed of them.

    Parameters
    ----------
    trials : Trials
        Complete.
    passed : (n_trials, n_units) float64 array
        As of `pass_held_out`.
    fold_of : (n_conditions,) int array
        Fold of each condition.
    sizes : (n_folds, n_units) float64 array
        What the denoiser of each fold passes of all trials, root mean square (see `conform_bids.psn.numerics.halves.even_out`).
    unit_gains : (n_folds, n_units) float64 array, optional
        What the units of each fold are multiplied by before squared errors are taken.
    """
    after = replace_values(trials, passed)
    repeated = trials.counts >= 2
    code, code_of_trials = fold_of[repeated], fold_of[trials.condition]
    halves, passed_halves = ([half[repeated] for half in half_means(own)[:2]] for own in (trials, after))
    before = correlate(*(about_folds(half, code) for half in halves))
    denoised = correlate(*(even_out(half, code, sizes) for half in passed_halves))
    predicted = after if unit_gains is None else replace_values(trials, passed * unit_gains[code_of_trials])
    saved, total = _gain(trials, predicted, fold_of)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = saved / total
    variances = unit_variances(even_out(passed, code_of_trials, sizes), trials.condition, code_of_trials)
    kept = np.where(np.isfinite(before), np.nan_to_num(denoised), np.nan)  # nothing left is 0, no fold with two that repeat is not
    return HeldOut(after.means + trials.means.mean(axis=0), variances, before, kept, gain, saved, total)


def replace_values(trials: Trials, values: FloatArray) -> Trials:
    """The same trials with other responses."""
    return replace(trials, values=values)


def _gain(before: Trials, after: Trials, fold_of: IntArray) -> tuple[FloatArray, FloatArray]:
    """Sums over left-out trials of 2 y p - p^2 and of y^2, both about the mean of their fold."""
    count = before.counts[before.condition]
    rows = count >= 2
    own = after.values[rows]
    predicted = (after.means[before.condition[rows]] * count[rows][:, None] - own) / (count[rows] - 1)[:, None]
    code = fold_of[before.condition[rows]]
    targets, predicted = about_folds(before.values[rows], code), about_folds(predicted, code)
    saved = np.einsum("ij,ij->j", 2 * targets - predicted, predicted)
    return saved, np.einsum("ij,ij->j", targets, targets)
