"""One fit: responses of a set of units in, a denoiser and what is known about it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UsageError
from conform_bids.psn.numerics.calibrated import CalibratedResult, fit_calibrated
from conform_bids.psn.numerics.crossfit import CrossFit, crossfit
from conform_bids.psn.numerics.crossvalidated import CrossvalidatedResult, fit_crossvalidated
from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.gsn import SignalNoise, SignalNoiseOptions, estimate_signal_noise
from conform_bids.psn.numerics.guards import UnitSurvey, refuse_exact_repeats, refuse_scale_spread, survey_units
from conform_bids.psn.numerics.presets import PRESETS, ProjectionOptions, ProjectionResult, compare_bases, fit_projection, fit_wiener
from conform_bids.psn.numerics.stacked import StackedOptions, StackedResult, fit_stacked
from conform_bids.psn.numerics.thresholds import ThresholdRule
from conform_bids.psn.numerics.trials import Trials, group_trials
from conform_bids.wording import counted

__all__ = ["CALIBRATED_METHODS", "METHODS", "FitOptions", "ParcelFit", "fit_parcel"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
CALIBRATED_METHODS = ("stacked", "calibrated", "crossvalidated")
"""Ours, by cross-validation over conditions."""
SCALE_FREE_METHODS = ("stacked", "calibrated")
"""Methods that give the same whatever the scales of single units; the others count dimensions in the units of the data."""
METHODS = (*CALIBRATED_METHODS, "standard", "conservative", "aggressive", "compare", "wiener")
Result = StackedResult | CalibratedResult | CrossvalidatedResult | ProjectionResult | Denoiser


@dataclass(frozen=True)
class FitOptions:
    """How a set of units is fitted; what is None is as the method has it.

    Attributes
    ----------
    method : str
        One of `METHODS`.
    basis : str, (n_units, n_dimensions) array or None
        Of standard, conservative, aggressive and crossvalidated; an array has a row for each unit that is handed in.
    order, criterion : str or None
        Of dimensions; of their number.
    share : float
        Of the signal variance, for the criteria that keep one.
    alpha : float or None
        See `conform_bids.psn.numerics.thresholds.ThresholdRule`.
    allowed : tuple of int
        Numbers of dimensions to choose among.
    level : str
        ``population``, ``unit`` or ``group``; not for stacked and wiener.
    groups : (n_units,) int array or None
        Group of each unit that is handed in.
    missing : str
        What GSN does with units that are missing in trials: ``auto`` is pairwise where there are any, see `SignalNoiseOptions`; the
        calibrated methods use complete trials.
    max_missing : float
        Share of trials that a unit may miss without being set aside.
    n_folds, seed : int
        Folds of conditions.
    unit_gains : bool
        Of ``stacked``: see `conform_bids.psn.numerics.unit_gains`.
    """

    method: str = "stacked"
    basis: str | FloatArray | None = None
    order: str | None = None
    criterion: str | None = None
    share: float = 0.99
    alpha: float | None = None
    allowed: tuple[int, ...] = ()
    level: str = "population"
    groups: IntArray | None = None
    missing: str = "auto"
    max_missing: float = 0.1
    n_folds: int = 5
    seed: int = 0
    unit_gains: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"no method {self.method!r}; there are {', '.join(METHODS)}")
        if self.level != "population" and self.method in ("stacked", "wiener"):
            raise UsageError(f"method {self.method} has no threshold: level {self.level} says nothing")


@dataclass(frozen=True, eq=False)
class ParcelFit:
    """A fitted denoiser of the units that were handed in.

    Attributes
    ----------
    units : (n_usable,) int array
        Columns that were fitted; the others come out NaN.
    survey : UnitSurvey
        Why units were set aside.
    denoiser : Denoiser
        Of the fitted units.
    given : SignalNoise or None
        Covariances that the fit stands on, where these are GSN's of the units in the units of the data.
    result : StackedResult, CalibratedResult, CrossvalidatedResult, ProjectionResult or Denoiser
        What the method gives beside.
    trials : Trials
        Of the fitted units.
    labels : (n_conditions,) array
        The conditions that were fitted.
    options : FitOptions
        As asked.
    notes : tuple of str
        What was done otherwise than asked.
    """

    units: IntArray
    survey: UnitSurvey
    denoiser: Denoiser
    given: SignalNoise | None
    result: Result
    trials: Trials
    labels: npt.NDArray[np.generic]
    options: FitOptions
    notes: tuple[str, ...]

    @cached_property
    def model(self) -> SignalNoise:
        """Covariances by GSN of the fitted units, in the units of the data; estimated when asked for, if the fit did not need them."""
        return self.given or estimate_signal_noise(self.trials, SignalNoiseOptions(missing="all"))

    def apply(self, responses: npt.NDArray[np.floating], n_averaged: npt.ArrayLike | None = None) -> FloatArray:
        """Denoise responses of all units that were handed in, (n_rows, n_units); units that were set aside come out NaN.

        Parameters
        ----------
        responses : (n_rows, n_units) array
            Trials, or averages of trials.
        n_averaged : array_like of float, scalar or (n_rows,), optional
            Trials averaged in each row; by default the number that the denoiser was made for.
        """
        if responses.ndim != 2 or responses.shape[1] != len(self.survey.usable):
            raise ValueError(f"the fit has {len(self.survey.usable)} units; the responses have shape {responses.shape}")
        denoised = np.full(responses.shape, np.nan)
        denoised[:, self.units] = self.denoiser.apply(responses[:, self.units], n_averaged)
        return denoised

    def crossfit(self) -> CrossFit:
        """Each condition denoised by a fit to other conditions, and reliabilities (fitted units only).

        Raises
        ------
        UnusableInputError
            If the other folds are too few to fit.
        """
        return crossfit(self.trials, lambda trials: _fit(trials, self.options)[0], self.options.n_folds, self.options.seed)


def fit_parcel(
    values: npt.NDArray[np.floating],
    condition: npt.ArrayLike,
    options: FitOptions | None = None,
    repetition: npt.ArrayLike | None = None,
) -> ParcelFit:
    """Fit a denoiser to a set of units.

    Parameters
    ----------
    values : (n_trials, n_units) array
        Training trials only, in any units; NaN where a unit is missing in a trial.
    condition : (n_trials,) array_like
        Condition of each trial.
    options : FitOptions, optional
        Method and settings.
    repetition : (n_trials,) array_like of int, optional
        Which repeat of its condition each trial is (compare splits by it); by default in order.

    Returns
    -------
    ParcelFit

    Raises
    ------
    UnusableInputError
        If no unit is usable, conditions are too few or do not repeat, or scales cannot be held (see `guards`).
    UsageError
        If options contradict each other or the data.
    """
    chosen = options or FitOptions()
    everything, labels = group_trials(values, condition, repetition)
    survey = survey_units(everything, chosen.max_missing)
    units = np.flatnonzero(survey.usable)
    trials = everything.select_units(units)
    refuse_exact_repeats(trials)
    chosen = replace(
        chosen,
        groups=None if chosen.groups is None else np.asarray(chosen.groups)[units],
        basis=chosen.basis if isinstance(chosen.basis, str) or chosen.basis is None else chosen.basis[units],
    )
    given: SignalNoise | None = None
    notes: tuple[str, ...] = ()
    if chosen.method not in SCALE_FREE_METHODS:
        refuse_scale_spread(trials)
    if chosen.method in CALIBRATED_METHODS:
        denoiser, result = _fit(trials, chosen)
    else:
        given = _model(trials, chosen)
        denoiser, result = _fit_preset(trials, given, chosen)
        notes = given.notes
    dropped = int((~trials.complete).sum())
    if dropped and chosen.method in CALIBRATED_METHODS:
        notes = (*notes, f"left out: {counted(dropped, 'trial')} in which a unit is missing")
    return ParcelFit(units, survey, denoiser, given, result, trials, labels, chosen, notes)


def _model(trials: Trials, options: FitOptions) -> SignalNoise:
    missing = ("drop" if trials.is_complete else "pairwise") if options.missing == "auto" else options.missing
    return estimate_signal_noise(trials, SignalNoiseOptions(missing=missing))


def _fit(trials: Trials, options: FitOptions) -> tuple[Denoiser, Result]:
    """Fit a method from trials alone."""
    result: StackedResult | CalibratedResult | CrossvalidatedResult
    if options.method == "stacked":
        result = fit_stacked(trials, StackedOptions(n_folds=options.n_folds, seed=options.seed, unit_gains=options.unit_gains))
    elif options.method == "calibrated":
        result = fit_calibrated(trials, level=options.level, groups=options.groups, n_folds=options.n_folds, seed=options.seed)
    elif options.method == "crossvalidated":
        result = fit_crossvalidated(
            trials,
            basis="signal" if options.basis is None else options.basis,
            order=options.order or "eigenvalues",
            level=options.level,
            groups=options.groups,
            allowed=options.allowed,
            n_folds=options.n_folds,
            seed=options.seed,
        )
    else:
        return _fit_preset(trials, _model(trials, options), options)
    return result.denoiser, result


def _fit_preset(trials: Trials, model: SignalNoise, options: FitOptions) -> tuple[Denoiser, Result]:
    if options.method == "wiener":
        denoiser = fit_wiener(trials, model)
        return denoiser, denoiser
    preset = PRESETS["standard" if options.method == "compare" else options.method]
    rule = ThresholdRule(options.criterion or preset.rule.criterion, options.share, options.alpha, options.allowed)
    chosen = ProjectionOptions(
        preset.basis if options.basis is None else options.basis, options.order or preset.order, rule, options.level, options.groups
    )
    fit: Callable[[Trials, SignalNoise, ProjectionOptions], ProjectionResult] = (
        compare_bases if options.method == "compare" else fit_projection
    )
    result = fit(trials, model, chosen)
    return result.denoiser, result
