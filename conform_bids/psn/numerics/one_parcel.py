"""One parcel: which units and trials take part, the fit, what comes out of it, and the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError
from conform_bids.psn.numerics.calibrated import CalibratedResult
from conform_bids.psn.numerics.crossvalidated import CrossvalidatedResult
from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.engine_data import EngineOptions, TrialSet
from conform_bids.psn.numerics.filters import Scores
from conform_bids.psn.numerics.fit import FitOptions, ParcelFit, fit_parcel
from conform_bids.psn.numerics.guards import CONSTANT
from conform_bids.psn.numerics.halves import correlate, half_means
from conform_bids.psn.numerics.held_out import HeldOut, evaluate_held_out, fit_each, replace_values, stacked_denoisers
from conform_bids.psn.numerics.presets import ProjectionResult
from conform_bids.psn.numerics.stacked import StackedResult, mix_filters
from conform_bids.psn.numerics.trials import Trials, group_trials

__all__ = [
    "Fitted",
    "Kept",
    "NullScores",
    "choose_kept",
    "condition_worth",
    "fit_dimensions",
    "fit_null",
    "group_all",
    "held_out_denoisers",
    "median",
    "place_folds",
    "pooled_gain",
    "shrinkage_levels",
    "shuffle_repeats",
    "unit_numbers",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Kept:
    """Units and trials without a gap between them.

    Attributes
    ----------
    units : (n_units,) bool array
        Units that take part.
    varies : (n_units,) bool array
        Units that could: those that vary over train trials.
    trials : (n_trials,) bool array
        Trials in which all units that take part are present.
    """

    units: BoolArray
    varies: BoolArray
    trials: BoolArray


def choose_kept(values: npt.NDArray[np.floating], train: BoolArray) -> Kept:
    """Keep the units that lack the fewest train trials, as many as hold the most data together with the trials that they all have.

    Units that are constant over those trials are left out, too.

    Parameters
    ----------
    values : (n_trials, n_units) array
        NaN where missing.
    train : (n_trials,) bool array
        Trials that are fitted on.
    """
    finite = np.isfinite(values)
    if finite.all():
        varies = _varies(values[train] if not train.all() else values, None)
        return Kept(varies, varies, np.ones(len(values), dtype=bool))
    own = finite[train]
    varies = _varies(values[train], own)
    units = varies
    if varies.any() and not own[:, varies].all():
        missing = len(own) - own.sum(axis=0)
        choices = [varies & (missing <= limit) for limit in np.unique(missing[varies])]
        kept = [int(own[:, choice].all(axis=1).sum()) * int(choice.sum()) for choice in choices]
        units = choices[int(np.argmax(kept))]
        together = own[:, units].all(axis=1)
        units = units & _varies(values[train][together], own[together])
        varies = varies & (units | ~choices[int(np.argmax(kept))])
    return Kept(units, varies, np.asarray(finite[:, units].all(axis=1)))


def _varies(values: npt.NDArray[np.floating], finite: BoolArray | None) -> BoolArray:
    """Units whose finite values differ by more than rounding."""
    if finite is None:
        mean = values.mean(axis=0)
        return np.asarray((len(values) > 1) & (values.std(axis=0) > CONSTANT * np.abs(mean)))
    count = finite.sum(axis=0)
    filled = np.where(finite, values, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    deviation = np.sqrt(np.where(finite, np.square(filled - mean), 0.0).sum(axis=0) / np.maximum(count, 1))
    return np.asarray((count > 1) & (deviation > CONSTANT * np.abs(mean)))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fit to complete trials.

    Attributes
    ----------
    fit : ParcelFit
        Denoiser and what the method gives beside; all units were usable.
    labels : (n_fitted,) int array
        Conditions that were fitted.
    worth : (n_fitted,) float64 array
        Below 1 for conditions with outlying noise: what each of their trials counts.
    gain : float
        See `conform_bids.psn.numerics.engine_data.ParcelRecord`; NaN where it takes held-out denoisers to tell.
    """

    fit: ParcelFit
    labels: IntArray
    worth: FloatArray
    gain: float


def fit_dimensions(values: FloatArray, condition: IntArray, options: EngineOptions, groups: IntArray | None) -> Fitted:
    """Fit complete trials.

    Parameters
    ----------
    values : (n_trials, n_units) float64 array
        Train trials without a gap.
    condition : (n_trials,) int array
        Their conditions.
    options : EngineOptions
        Method.
    groups : (n_units,) int array or None
        For threshold level group.
    """
    asked = FitOptions(
        method=options.method,
        basis=options.basis,
        criterion=options.criterion,
        alpha=options.alpha,
        level=options.threshold_level,
        groups=groups if options.threshold_level == "group" else None,
        n_folds=options.n_folds,
        seed=options.seed,
        unit_gains=options.unit_gains,
    )
    fit = fit_parcel(values, condition, asked)
    worth = np.ones(fit.trials.n_conditions)
    gain = float("nan")
    if isinstance(fit.result, StackedResult):
        worth = fit.result.condition_weight
        gain = _gain_in_use(fit.result.fold_scores, len(fit.result.terms))
    elif isinstance(fit.result, CalibratedResult):
        gain = float("nan") if np.isfinite(fit.result.a).any() else 0.0
    elif isinstance(fit.result, CrossvalidatedResult):
        gain = float("nan") if fit.result.n_dimensions.any() else 0.0
    return Fitted(fit, np.asarray(fit.labels, dtype=np.intp), worth, gain)


def _gain_in_use(scores: Sequence[Scores], n_first: int) -> float:
    """What mixtures save in folds that they were not chosen on, as a share of all there is to predict."""
    saved, total = 0.0, 0.0
    for index, own in enumerate(scores):
        rest = [other for place, other in enumerate(scores) if place != index]
        saved += own.gain(mix_filters(rest, n_first))
        total += own.total
    return saved / total if total > 0 else 0.0


def condition_worth(fitted: Fitted, labels: IntArray, counts: IntArray) -> FloatArray | None:
    """Number of trials that each condition's mean is worth, in the order of ``labels``; None where the denoiser takes no number."""
    if not fitted.fit.denoiser.depends_on_count:
        return None
    worth = np.ones(max(int(labels.max()), int(fitted.labels.max())) + 1)
    worth[fitted.labels] = fitted.worth
    return counts * worth[labels]


def held_out_denoisers(fitted: Fitted, trials: Trials, folds: Sequence[IntArray], options: EngineOptions) -> list[Denoiser]:
    """Denoisers of the other folds' conditions.

    Parameters
    ----------
    fitted : Fitted
        Of all conditions.
    trials : Trials
        What it was fitted on.
    folds : sequence of int arrays
        Conditions of each fold, by their place in ``trials``.
    options : EngineOptions
        Seed.
    """
    if isinstance(fitted.fit.result, StackedResult):
        return stacked_denoisers(trials, folds, fitted.fit.result, options.seed)
    return fit_each(trials, folds, lambda others: fit_parcel(others.values, others.condition, fitted.fit.options).denoiser)


def pooled_gain(held_out: HeldOut) -> float:
    """Gain over units, each in terms of its own noise."""
    usable = held_out.total > 0
    return float((held_out.saved[usable] / held_out.total[usable]).mean()) if usable.any() else 0.0


def unit_numbers(fitted: Fitted, n_units: int) -> tuple[FloatArray, FloatArray]:
    """Dimensions and a of each unit."""
    result = fitted.fit.result
    a = np.broadcast_to(result.a if isinstance(result, CalibratedResult) else np.nan, n_units)
    if isinstance(result, (ProjectionResult, CrossvalidatedResult)):
        return np.broadcast_to(result.n_dimensions.astype(np.float64), n_units), a
    return np.full(n_units, fitted.fit.denoiser.effective_dimensions()), a


def shrinkage_levels(fitted: Fitted) -> tuple[float, float]:
    """Levels of shrinkage of the covariances of noise and of condition means; 1 is none."""
    result = fitted.fit.result
    if isinstance(result, StackedResult):
        data, noise = result.levels[0]
        return noise, data
    return fitted.fit.model.noise_level, fitted.fit.model.data_level


@dataclass(frozen=True)
class NullScores:
    """Medians over units; see `conform_bids.psn.numerics.engine_data.NullCheck`."""

    before: float
    after: float
    in_sample: float
    gain: float


def shuffle_repeats(trials: TrialSet, chosen: BoolArray, seed: int, label: int) -> IntArray:
    """Conditions of the chosen trials, shuffled over the trials of each session; every parcel has a shuffle of its own."""
    rng = np.random.default_rng([seed, 3, label])
    condition, session = trials.condition[chosen].copy(), trials.session[chosen]
    for name in np.unique(session):
        members = np.flatnonzero(session == name)
        condition[members] = condition[rng.permutation(members)]
    return condition


def fit_null(values: FloatArray, condition: IntArray, fold_of: IntArray, options: EngineOptions, groups: IntArray | None) -> NullScores:
    """Fit and evaluate as ever, on conditions that were shuffled.

    Parameters
    ----------
    values, condition, options, groups
        As for `fit_dimensions`.
    fold_of : (n_conditions,) int array
        Fold of each condition.
    """
    try:
        fitted = fit_dimensions(values, condition, options, groups)
        trials = fitted.fit.trials
        folds = place_folds(fold_of[fitted.labels])
        held_out = evaluate_held_out(trials, folds, held_out_denoisers(fitted, trials, folds, options))
    except UnusableInputError:
        return NullScores(np.nan, np.nan, np.nan, np.nan)
    denoiser = fitted.fit.denoiser
    # without the mean: of what is removed whole, rounding would be left, and repeat
    passed = denoiser.apply(trials.values, trials.counts[trials.condition].astype(np.float64)) - denoiser.mean
    denoised = replace_values(trials, passed)
    repeated = trials.counts >= 2
    halves = [half[repeated] - half[repeated].mean(axis=0) for half in half_means(denoised)[:2]]
    gain = fitted.gain if np.isfinite(fitted.gain) else pooled_gain(held_out)
    return NullScores(
        median(held_out.reliability_before), median(held_out.reliability_after), median(np.nan_to_num(correlate(*halves))), gain
    )


def place_folds(fold_of: IntArray) -> list[IntArray]:
    """Places of each fold's conditions; folds without any are left out."""
    return [np.flatnonzero(fold_of == index) for index in np.unique(fold_of)]


def median(values: FloatArray) -> float:
    """Median of what is finite, NaN if nothing is."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def group_all(values: npt.NDArray[np.floating], condition: IntArray) -> tuple[Trials, IntArray]:
    """Trials of train and test conditions, and the conditions there are."""
    trials, labels = group_trials(values, condition)
    return trials, labels.astype(np.intp)
