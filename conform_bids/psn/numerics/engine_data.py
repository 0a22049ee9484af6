"""What the whole-brain engine takes and gives: options, trials, one record and one decomposition a parcel, results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.psn.numerics.bases import BASES
from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.levels import THRESHOLD_LEVELS
from conform_bids.psn.numerics.thresholds import CRITERIA

__all__ = [
    "LARGE_OUTPUTS",
    "METHODS",
    "MIN_CONDITIONS",
    "Allocate",
    "EngineOptions",
    "EngineResult",
    "NullCheck",
    "ParcelDecomposition",
    "ParcelRecord",
    "StoreParcel",
    "TrialSet",
]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

MIN_CONDITIONS = 3
"""Train conditions without which signal and noise are not told apart."""
METHODS = ("stacked", "standard", "conservative", "aggressive", "compare", "wiener", "crossvalidated", "calibrated")
"""The default first; those in the middle are the presets of the public PSN package."""
PROJECTIONS = ("standard", "conservative", "aggressive", "compare", "crossvalidated")
LARGE_OUTPUTS = ("psn", "trialavg", "crossfit", "noise", "removed")
"""Names that arrays are allocated under: (n_units, n_conditions) each, but for ``noise``: (n_units, n_trials)."""

Allocate = Callable[[str, tuple[int, ...]], Float32Array]
"""Gives a writable float32 array of a name (one of `LARGE_OUTPUTS`) and a shape."""


@dataclass(frozen=True)
class EngineOptions:
    """How a brain is denoised.

    Attributes
    ----------
    method : str
        One of `METHODS`.
    threshold_level : str
        ``population`` (a parcel), ``unit`` or ``group``: what a number of dimensions or an a is chosen for. The methods ``stacked`` and
        ``wiener`` have but ``population``.
    basis, criterion : str or None
        In place of the method's own; see `conform_bids.psn.numerics.bases` and `conform_bids.psn.numerics.thresholds`.
    alpha : float or None
        In place of a criterion, 0 to 1.
    no_gain : str
        What becomes of parcels whose denoised responses predict held-out trials no better than the unit's mean: ``pass`` gives their
        trial averages, ``zero`` the unit's mean for every condition, ``keep`` what the method makes of them.
    outside : str
        ``psn`` of units that no parcel holds: ``nan``, or ``pass`` for their trial averages.
    session_zscore : bool
        Standardise each unit within each session first, by the mean and SD of the session's train trials.
    output_units : str
        ``input``: the units of the betas, by each unit's mean and SD over all train trials; ``z``: standard deviations.
    rescale : bool
        Multiply each unit's deviations from its mean by its entry in the ``scale`` map, where one is given.
    crossfit : bool
        Denoise each condition by a denoiser fitted without it, too: what reliability and ceilings of denoised data stand on. Without
        it these are NaN.
    write : tuple of str
        Any of ``noise`` and ``removed``.
    seed, n_folds : int
        Folds of conditions, and all that is drawn.
    dual_above : int
        Parcels of more units take the dual form, an estimator of its own (see `conform_bids.psn.numerics.dual`).
    null_parcels : int
        Parcels, spread evenly over all, that are fitted again with shuffled repeats.
    unit_gains : bool
        Of ``stacked``: see `conform_bids.psn.numerics.unit_gains`. The dual form has none, as its coordinates are not units.
    """

    method: str = "stacked"
    threshold_level: str = "population"
    basis: str | None = None
    criterion: str | None = None
    alpha: float | None = None
    no_gain: str = "pass"
    outside: str = "nan"
    session_zscore: bool = True
    output_units: str = "input"
    rescale: bool = True
    crossfit: bool = True
    write: tuple[str, ...] = ()
    seed: int = 0
    n_folds: int = 5
    dual_above: int = 3000
    null_parcels: int = 8
    unit_gains: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("threshold level", self.threshold_level, THRESHOLD_LEVELS),
            ("basis", self.basis, (None, *BASES)),
            ("criterion", self.criterion, (None, *CRITERIA)),
            ("choice for parcels without gain", self.no_gain, ("pass", "zero", "keep")),
            ("choice for units outside of parcels", self.outside, ("nan", "pass")),
            ("output units", self.output_units, ("input", "z")),
        ):
            if value not in known:
                raise UsageError(f"no {name} {value!r}; there are {', '.join(str(each) for each in known if each)}")
        if set(self.write) - {"noise", "removed"}:
            raise UsageError("noise and removed can be written beside the denoised responses")
        if self.n_folds < 2:
            raise UsageError("conditions are split into 2 folds or more")
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        """An option that a method does not look at is refused."""
        if self.threshold_level != "population" and self.method in ("stacked", "wiener"):
            raise UsageError(f"method {self.method} has one filter a parcel: threshold level {self.threshold_level} is not possible")
        if self.basis is not None and self.method not in PROJECTIONS:
            raise UsageError(f"method {self.method} has no basis to choose")
        if self.basis is not None and self.method == "compare":
            raise UsageError("method compare chooses the basis itself")
        if (self.criterion is not None or self.alpha is not None) and self.method not in (
            "standard",
            "conservative",
            "aggressive",
            "compare",
        ):
            raise UsageError(f"method {self.method} has no criterion to choose")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UsageError("alpha is between 0 and 1")


@dataclass(frozen=True, eq=False)
class TrialSet:
    """What each trial is.

    Attributes
    ----------
    condition : (n_trials,) int array
        0 to n_conditions - 1, in any order; every condition has a trial.
    session : (n_trials,) int array
        Session of each trial, any integers.
    train : (n_trials,) bool array
        Trials that may be fitted on; all trials of a condition alike.
    """

    condition: IntArray
    session: IntArray
    train: BoolArray

    def __post_init__(self) -> None:
        shapes = {np.shape(self.condition), np.shape(self.session), np.shape(self.train)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(f"one condition, session and split a trial, got shapes {sorted(shapes)}")
        if not len(self.condition):
            raise UnusableInputError("there are no trials")
        counts = np.bincount(self.condition, minlength=1)
        if not counts.all():
            raise ValueError("conditions are numbered from 0 without gaps")
        trained = np.bincount(self.condition, weights=self.train, minlength=len(counts))
        mixed = int(((trained > 0) & (trained < counts)).sum())
        if mixed:
            raise UnusableInputError(f"{mixed} conditions have trials both for training and for testing; a split goes by condition")

    @property
    def n_trials(self) -> int:
        """Trials."""
        return len(self.condition)

    @property
    def n_conditions(self) -> int:
        """Conditions, train and test."""
        return int(self.condition.max()) + 1

    @property
    def train_conditions(self) -> BoolArray:
        """Conditions that are fitted on, (n_conditions,)."""
        return np.bincount(self.condition, weights=self.train, minlength=self.n_conditions) > 0


@dataclass(frozen=True)
class ParcelRecord:
    """A row of the parcel table; NaN where a method has no such number.

    Attributes
    ----------
    label : int
        Of the parcel.
    n_units, n_set_aside : int
        Units that were denoised; units set aside (constant, absent, or missing in trials that others have).
    n_trials, n_conditions : int
        Train trials and conditions that were fitted on.
    method : str
        As asked, ``(dual)`` added for the dual form, the basis for compare.
    status : str
        ``denoised``, ``passed`` (trial averages), ``zeroed`` (unit means) or ``empty`` (no unit left).
    dimensions : float
        Trace of the denoiser: dimensions that pass.
    a : float
        Weight of the noise where there is one (median over units).
    noise_level, data_level : float
        Shrinkage of the covariances of noise and of condition means; 1 is none.
    gain : float
        Share of the variance of held-out responses (mean taken out) that denoised responses predict; 0 and below: no gain. The
        noise of what is predicted is part of that variance, hence small numbers.
    reliability_before, reliability_after : float
        Median over units of the correlation over conditions of even with odd repeats, as they are and denoised by denoisers that never
        saw the condition.
    seconds : float
        Wall time.
    note : str
        Reasons; empty if nothing happened.
    """

    label: int
    n_units: int
    n_set_aside: int
    n_trials: int
    n_conditions: int
    method: str
    status: str
    dimensions: float = float("nan")
    a: float = float("nan")
    noise_level: float = float("nan")
    data_level: float = float("nan")
    gain: float = float("nan")
    reliability_before: float = float("nan")
    reliability_after: float = float("nan")
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class NullCheck:
    """A parcel fitted with the repeats shuffled over conditions, within sessions: nothing repeats, so that reliability should be 0.

    Attributes
    ----------
    label : int
        Of the parcel.
    reliability_before, reliability_after : float
        As in `ParcelRecord`.
    reliability_in_sample : float
        Of responses denoised by the denoiser that was fitted on them: what a reliability that is not cross-fitted would claim.
    gain : float
        As in `ParcelRecord`.
    """

    label: int
    reliability_before: float
    reliability_after: float
    reliability_in_sample: float
    gain: float


@dataclass(frozen=True, eq=False)
class ParcelDecomposition:
    """All that a parcel's denoiser is made of.

    ``denoiser`` works on standardised responses w = (response - session_mean) / session_sd of the parcel's units (w is the response as
    it is without standardising); responses in the units of the outputs are ``output_offset + output_gain * w``.

    Attributes
    ----------
    label : int
        Of the parcel.
    method : str
        As in `ParcelRecord`.
    units : (k,) int array
        Rows of the betas.
    denoiser : Denoiser
        Mean and factored map.
    output_offset, output_gain : (k,) float64 arrays
        From standardised responses to outputs.
    basis : (k, d) float64 array
        Dimensions, leading first.
    eigenvalues : (d,) float64 array
        Of the dimensions; the ratio of signal to noise variance for Wiener-like methods.
    signal_variance, noise_variance : (d,) float64 arrays
        Along each dimension; the noise is a single trial's.
    passed : (d,) float64 array
        What passes of each dimension, for the usual number of trials: 0 or 1 for projections (mean over units).
    curve : (2, m) float64 array
        Calibration: a, or number of dimensions; and what is saved or recovered there, relative to the largest.
    noise_likelihood, data_likelihood : (51,) float64 arrays or None
        Mean negative log likelihood of held-out samples at each level of shrinkage.
    dual : bool
        Whether the dual form was used; ``denoiser`` then has orthonormal coordinates ``coordinates`` in place of units.
    coordinates : (k, r) float32 array or None
        Of the dual form: denoised w = mean + coordinates @ denoiser(coordinates' (w - mean) / scale) * scale.
    scale, mean : (k,) float64 array or None
        Of the dual form.
    """

    label: int
    method: str
    units: IntArray
    denoiser: Denoiser
    output_offset: FloatArray
    output_gain: FloatArray
    basis: FloatArray
    eigenvalues: FloatArray
    signal_variance: FloatArray
    noise_variance: FloatArray
    passed: FloatArray
    curve: FloatArray
    noise_likelihood: FloatArray | None = None
    data_likelihood: FloatArray | None = None
    dual: bool = False
    coordinates: Float32Array | None = None
    scale: FloatArray | None = None
    mean: FloatArray | None = None


StoreParcel = Callable[[int, ParcelDecomposition], None]
"""Takes the parcel's label and its decomposition; called from threads, one at a time, in no fixed order."""


@dataclass(frozen=True, eq=False)
class EngineResult:
    """Denoised responses of a brain, and what they stand on.

    Attributes
    ----------
    arrays : mapping of str to float32 array
        ``psn``: denoised condition means; ``trialavg``: condition means; ``crossfit`` (if asked): condition means denoised by a denoiser
        that never saw the condition (test conditions: as ``psn``); ``removed`` (on request): trialavg - psn; all (n_units, n_conditions).
        ``noise`` (on request): trials less their condition's mean, (n_units, n_trials). A trial is psn + removed + noise.
        All of them in output units (standardised within sessions, then brought back, where ``session_zscore`` was on); NaN where a
        unit is missing.
    maps : mapping of str to (n_units,) float32 array
        ``ncsnr``, ``noise_ceiling_before`` and ``noise_ceiling_after`` (percent; of train conditions' means; after: cross-fitted),
        ``signal_variance``, ``noise_variance`` (of a single trial; in squared output units), ``dimensions`` (kept, or the trace of the
        denoiser), ``a`` (calibrated only), ``cv_gain`` (share of the variance of left-out trials of unseen conditions that the
        denoised mean of the others predicts).
    mean, sd : (n_units,) float64 arrays
        Over all train trials: what brings standardised responses back.
    session_mean, session_sd : (n_units, n_sessions) float64 arrays
        What trials were standardised by; 0 and 1 without ``session_zscore``.
    sessions : (n_sessions,) int array
        Columns of these.
    fold : (n_conditions,) int array
        Fold in which a condition was left out for ``crossfit``; -1 for test conditions.
    n_trials : (n_conditions,) int array
        Trials of each condition.
    parcels : tuple of ParcelRecord
        In ascending order of labels.
    null : tuple of NullCheck
        Of some parcels.
    status : (n_units,) uint8 array
        0 denoised, 1 passed through, 2 zeroed, 3 outside of every parcel, 4 constant or absent, 5 missing in trials that the others of the
        parcel have.
    notes : tuple of str
        For the log and the report.
    """

    arrays: Mapping[str, Float32Array]
    maps: Mapping[str, Float32Array]
    mean: FloatArray
    sd: FloatArray
    session_mean: FloatArray
    session_sd: FloatArray
    sessions: IntArray
    fold: IntArray
    n_trials: IntArray
    parcels: tuple[ParcelRecord, ...]
    null: tuple[NullCheck, ...]
    status: npt.NDArray[np.uint8]
    notes: tuple[str, ...] = field(default_factory=tuple)
