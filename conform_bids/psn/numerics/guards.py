"""Which units can be fitted, and data that are refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError
from conform_bids.psn.numerics.trials import Trials

__all__ = ["UnitSurvey", "refuse_exact_repeats", "refuse_scale_spread", "survey_units"]

BoolArray = npt.NDArray[np.bool_]
CONSTANT = 4 * float(np.finfo(np.float32).eps)
"""Of a unit's mean: a standard deviation below it is rounding, responses being stored in single precision."""
LARGEST_SPREAD = 1e6


@dataclass(frozen=True, eq=False)
class UnitSurvey:
    """What is wrong with units.

    Attributes
    ----------
    usable : (n_units,) bool array
        Units to fit.
    absent : (n_units,) bool array
        Missing in more trials than is allowed.
    constant : (n_units,) bool array
        No variation over trials.
    """

    usable: BoolArray
    absent: BoolArray
    constant: BoolArray


def survey_units(trials: Trials, max_missing: float = 0.1) -> UnitSurvey:
    """Find the units that can be fitted.

    Parameters
    ----------
    trials : Trials
        All units.
    max_missing : float
        Share of trials that a unit may miss. A trial in which a usable unit is missing is no complete trial, so that a unit that is often
        missing would cost the others their data.

    Raises
    ------
    UnusableInputError
        If no unit is usable.
    """
    finite = np.isfinite(trials.values)
    absent = finite.mean(axis=0) < 1 - max_missing
    filled = np.where(finite, trials.values, 0.0)
    counts = np.maximum(finite.sum(axis=0), 1)
    mean = filled.sum(axis=0) / counts
    deviation = np.sqrt(np.where(finite, np.square(filled - mean), 0.0).sum(axis=0) / counts)
    constant = ~absent & ~(deviation > CONSTANT * np.abs(mean))
    usable = ~(absent | constant)
    if not usable.any():
        raise UnusableInputError(
            f"none of {trials.n_units} units can be fitted: {int(absent.sum())} are missing in trials, {int(constant.sum())} do not vary"
        )
    return UnitSurvey(usable, absent, constant)


def refuse_exact_repeats(trials: Trials) -> None:
    """Refuse responses whose repeats agree: they are no single trials, and there is no noise to model.

    Raises
    ------
    UnusableInputError
        If no unit differs between repeats of a condition.
    """
    first = trials.values[trials.starts][trials.condition]
    differs = np.abs(trials.values - first) > CONSTANT * np.abs(first)
    repeats = np.bincount(trials.condition, minlength=trials.n_conditions) > 1
    if repeats.any() and not differs.any():
        raise UnusableInputError("all repeats of a condition are the same: these are averages, not single trials")


def refuse_scale_spread(trials: Trials) -> None:
    """Refuse units whose scales double precision cannot hold in one covariance matrix.

    The public methods and ``crossvalidated`` work in the units of the data. Variances spread over more than twelve orders of magnitude
    would leave the quiet units nothing but the rounding of the loud ones. ``stacked`` and ``calibrated`` do not depend on scales.

    Raises
    ------
    UnusableInputError
        If standard deviations differ by more than a factor of 1e6.
    """
    deviation = np.nanstd(trials.values, axis=0)
    spread = float(deviation.max() / deviation.min())
    if not spread <= LARGEST_SPREAD:
        raise UnusableInputError(
            f"standard deviations of units differ by a factor of {spread:.0e}; z-score the responses, or use the method stacked or "
            "calibrated"
        )
