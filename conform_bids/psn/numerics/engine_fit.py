"""The fit of a parcel, exact or dual, as the engine uses it: units in, units out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.dual import Coordinates, evaluate_dual, fit_dual
from conform_bids.psn.numerics.engine_data import EngineOptions
from conform_bids.psn.numerics.held_out import HeldOut, evaluate_held_out
from conform_bids.psn.numerics.one_parcel import Fitted, NullScores, condition_worth, fit_dimensions, fit_null
from conform_bids.psn.numerics.presets import ProjectionResult

__all__ = ["UnitFit", "fit_units"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class UnitFit:
    """A fit to the units and trials of a parcel that have no gap.

    Attributes
    ----------
    fitted : Fitted
        Of units, or of coordinates.
    coordinates : Coordinates or None
        Of the dual form.
    values : (n_trials, n_units) array
        What was fitted, in the order of conditions.
    condition : (n_trials,) int array
        Of these trials.
    options : EngineOptions
        As asked.
    groups : (n_units,) int array or None
        For threshold level group.
    """

    fitted: Fitted
    coordinates: Coordinates | None
    values: npt.NDArray[np.floating]
    condition: IntArray
    options: EngineOptions
    groups: IntArray | None

    @property
    def denoiser(self) -> Denoiser:
        """Of units, or of coordinates."""
        return self.fitted.fit.denoiser

    @property
    def mean(self) -> FloatArray:
        """Of each unit, as the denoiser has it, (n_units,)."""
        return self.denoiser.mean if self.coordinates is None else self.coordinates.restore(self.denoiser.mean[None])[0]

    @property
    def method(self) -> str:
        """As the parcel table names it."""
        result = self.fitted.fit.result
        name = self.options.method
        if name == "compare" and isinstance(result, ProjectionResult):
            name = f"{name} ({result.name})"
        return name if self.coordinates is None else f"{name} (dual)"

    def denoise(self, means: FloatArray, labels: IntArray, counts: IntArray) -> FloatArray:
        """Denoise condition means, (n_means, n_units), of the conditions ``labels`` over ``counts`` trials."""
        worth = condition_worth(self.fitted, labels, counts)
        if self.coordinates is None:
            return self.denoiser.apply(means, worth)
        return self.coordinates.restore(self.denoiser.apply(self.coordinates.project(means), worth))

    def evaluate(self, folds: Sequence[IntArray], denoisers: Sequence[Denoiser]) -> HeldOut:
        """Trials of each fold denoised by its denoiser."""
        trials = self.fitted.fit.trials
        if self.coordinates is None:
            return evaluate_held_out(trials, folds, denoisers, self.denoiser.unit_gain)
        return evaluate_dual(self.values, self.condition, trials, self.coordinates, folds, denoisers)

    def null(self, condition: IntArray, fold_of: IntArray) -> NullScores:
        """The same trials with other conditions; a dual form keeps its coordinates."""
        values = np.asarray(self.values, dtype=np.float64) if self.coordinates is None else self.fitted.fit.trials.values
        return fit_null(values, condition, fold_of, self.options, self.groups)


def fit_units(values: npt.NDArray[np.floating], condition: IntArray, options: EngineOptions, groups: IntArray | None) -> UnitFit:
    """Fit a parcel by the form that its size asks for.

    Parameters
    ----------
    values : (n_trials, n_units) array
        Train trials without a gap, in the order of conditions; all units vary.
    condition : (n_trials,) int array
        Their conditions.
    options : EngineOptions
        Method, and the size above which the dual form is taken.
    groups : (n_units,) int array or None
        For threshold level group.

    Raises
    ------
    UsageError, UnusableInputError
        As `conform_bids.psn.numerics.one_parcel.fit_dimensions` and `conform_bids.psn.numerics.dual.fit_dual`.
    """
    if values.shape[1] > options.dual_above:
        by_coordinate = replace(options, unit_gains=False)
        fitted, coordinates = fit_dual(values, condition, by_coordinate)
        return UnitFit(fitted, coordinates, values, condition, by_coordinate, groups)
    return UnitFit(
        fit_dimensions(np.asarray(values, dtype=np.float64), condition, options, groups), None, values, condition, options, groups
    )
