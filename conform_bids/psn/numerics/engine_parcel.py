"""What is done to one parcel: read, choose, fit, evaluate on held-out conditions, decide, write."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError
from conform_bids.psn.numerics.engine_data import EngineOptions, NullCheck, ParcelRecord, StoreParcel
from conform_bids.psn.numerics.engine_decomposition import decompose_fit, undecomposed
from conform_bids.psn.numerics.engine_fit import UnitFit, fit_units
from conform_bids.psn.numerics.engine_outputs import Outputs, Prepared, SortedTrials
from conform_bids.psn.numerics.held_out import HeldOut
from conform_bids.psn.numerics.one_parcel import (
    Kept,
    choose_kept,
    group_all,
    held_out_denoisers,
    median,
    place_folds,
    pooled_gain,
    shrinkage_levels,
    shuffle_repeats,
    unit_numbers,
)

__all__ = ["Brain", "Outcome", "denoise_parcel"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
STATUS = {"denoised": 0, "passed": 1, "zeroed": 2, "constant": 4, "missing": 5}


@dataclass(frozen=True, eq=False)
class Brain:
    """What all parcels share.

    Attributes
    ----------
    betas : (n_units, n_trials) float32 array
        Responses.
    ordered : SortedTrials
        Of the columns.
    fold_of : (n_conditions,) int array
        Fold of each condition; -1 for test conditions.
    outputs : Outputs
        To be written.
    options : EngineOptions
        Method and guards.
    groups : (n_units,) int array or None
        For threshold level group.
    store : callable or None
        Takes decompositions.
    """

    betas: npt.NDArray[np.float32]
    ordered: SortedTrials
    fold_of: IntArray
    outputs: Outputs
    options: EngineOptions
    groups: IntArray | None
    store: StoreParcel | None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Outcome:
    """Of a parcel.

    Attributes
    ----------
    record : ParcelRecord
        Row of the parcel table.
    null : NullCheck or None
        If asked for.
    failure : str
        Why it could not be fitted; empty if it was.
    """

    record: ParcelRecord
    null: NullCheck | None = None
    failure: str = ""


def denoise_parcel(brain: Brain, label: int, units: IntArray, *, with_null: bool) -> Outcome:
    """Denoise a parcel and write what comes of it.

    Parameters
    ----------
    brain : Brain
        What all parcels share.
    label : int
        Of the parcel.
    units : (k,) int array
        Its units.
    with_null : bool
        Fit it again with shuffled repeats.
    """
    started = time.perf_counter()
    prepared = brain.outputs.prepare(brain.betas, brain.ordered, units)
    train = brain.ordered.trials.train
    kept = choose_kept(prepared.rows, train)
    brain.outputs.status[units] = np.where(kept.varies, STATUS["missing"], STATUS["constant"])
    if not kept.units.any():
        nothing = np.full_like(prepared.means, np.nan)
        brain.outputs.write_denoised(prepared, nothing, nothing)
        record = ParcelRecord(label, 0, len(units), 0, 0, brain.options.method, "empty", note="no unit varies over the train trials")
        return Outcome(record)
    rows = kept.trials & train
    values, condition = _select(prepared.rows, rows, kept.units), brain.ordered.trials.condition[rows]
    groups = None if brain.groups is None else brain.groups[units[kept.units]]
    try:
        fit = fit_units(values, condition, brain.options, groups)
    except UnusableInputError as error:
        return _leave(brain, label, prepared, kept, str(error), started)
    return _finish(brain, label, prepared, kept, fit, started, with_null=with_null)


def _select(rows: npt.NDArray[np.floating], trials: npt.NDArray[np.bool_], units: npt.NDArray[np.bool_]) -> npt.NDArray[np.floating]:
    """Some trials of some units, without a copy where all are taken."""
    chosen = rows if trials.all() else rows[trials]
    return chosen if units.all() else np.ascontiguousarray(chosen[:, units])


def _leave(brain: Brain, label: int, prepared: Prepared, kept: Kept, reason: str, started: float) -> Outcome:
    """A parcel that cannot be fitted keeps its averages, or its units' means."""
    trials = brain.ordered.trials
    status = _without_gain(brain.options)
    with np.errstate(invalid="ignore"):
        averages = np.where(trials.train_conditions[:, None] & np.isfinite(prepared.means), prepared.means, np.nan)
        number = np.maximum(np.isfinite(averages).sum(axis=0), 1)
        mean = np.nansum(averages, axis=0) / number
    psn = _pass_or_zero(prepared, kept, mean, status)
    brain.outputs.write_denoised(prepared, psn, psn)
    _describe_unfitted(brain, prepared, kept, status)
    used = kept.trials & trials.train
    conditions = len(np.unique(trials.condition[used]))
    if brain.store is not None:
        units, inside = prepared.units[kept.units], kept.units
        found = undecomposed(
            label,
            brain.options.method,
            units,
            mean[inside],
            max(float(used.sum()) / max(conditions, 1), 1.0),
            prepared.offset[inside],
            prepared.gain[inside],
        )
        with brain.lock:
            brain.store(label, found)
    record = ParcelRecord(
        label,
        int(kept.units.sum()),
        int((~kept.units).sum()),
        int(used.sum()),
        conditions,
        brain.options.method,
        status,
        seconds=time.perf_counter() - started,
        note=f"not fitted: {reason}",
    )
    return Outcome(record, failure=reason)


def _without_gain(options: EngineOptions) -> str:
    """Status of a parcel that is not denoised; there is nothing to keep of one that cannot be fitted."""
    return "zeroed" if options.no_gain == "zero" else "passed"


def _pass_or_zero(prepared: Prepared, kept: Kept, mean: FloatArray, status: str) -> FloatArray:
    """Responses of a parcel that is not denoised, (n_conditions, k); units that were set aside and conditions without a trial are NaN."""
    chosen = prepared.means if status == "passed" else np.where(np.isfinite(prepared.means), mean, np.nan)
    return np.where(kept.units, chosen, np.nan)


def _describe_unfitted(brain: Brain, prepared: Prepared, kept: Kept, status: str) -> None:
    """Status, and the ceiling of what is given out in place of denoised responses."""
    units, maps = prepared.units[kept.units], brain.outputs.maps
    brain.outputs.status[units] = STATUS[status]
    if brain.options.crossfit:
        maps["noise_ceiling_after"][units] = maps["noise_ceiling_before"][units] if status == "passed" else 0.0


def _finish(brain: Brain, label: int, prepared: Prepared, kept: Kept, fit: UnitFit, started: float, *, with_null: bool) -> Outcome:
    """Evaluate a fit, decide by its gain, write and store."""
    held_out, note = _hold_out(brain, fit)
    gain = fit.fitted.gain
    if not np.isfinite(gain) and held_out is not None:
        gain = pooled_gain(held_out)
    status = "denoised" if gain > 0 or np.isnan(gain) or brain.options.no_gain == "keep" else _without_gain(brain.options)
    if gain <= 0:
        note += "denoised responses predict held-out trials no better than the mean response; "
    inside, units = kept.units, prepared.units[kept.units]
    dimensions, a = unit_numbers(fit.fitted, len(units))
    maps = brain.outputs.maps
    maps["dimensions"][units], maps["a"][units] = dimensions, np.where(np.isfinite(a), a, np.nan)
    if held_out is not None:
        maps["cv_gain"][units] = held_out.gain
        maps["noise_ceiling_after"][units] = held_out.variances.ceiling
    if status == "denoised":
        brain.outputs.status[units] = STATUS[status]
        psn, crossfit, missing = _denoise(brain, prepared, kept, fit, held_out)
        brain.outputs.write_denoised(prepared, psn, crossfit)
        note += f"{missing} conditions have no trial that all units have; " if missing else ""
    else:
        mean = np.full(len(inside), np.nan)
        mean[inside] = fit.mean
        psn = _pass_or_zero(prepared, kept, mean, status)
        brain.outputs.write_denoised(prepared, psn, psn)
        _describe_unfitted(brain, prepared, kept, status)
    if brain.store is not None:
        found = decompose_fit(label, fit, units, prepared.offset[inside], prepared.gain[inside])
        with brain.lock:
            brain.store(label, found)
    null = _null(brain, label, kept, fit) if with_null else None
    seconds = time.perf_counter() - started
    return Outcome(_record(label, kept, fit, held_out, status, gain, "; ".join(fit.fitted.fit.notes + _parts(note)), seconds), null)


def _parts(note: str) -> tuple[str, ...]:
    return tuple(part for part in note.split("; ") if part)


def _hold_out(brain: Brain, fit: UnitFit) -> tuple[HeldOut | None, str]:
    """Conditions denoised without them, if that is asked for and possible, and a note if it is not possible."""
    if not brain.options.crossfit:
        return None, ""
    folds = place_folds(brain.fold_of[fit.fitted.labels])
    try:
        if len(folds) < 2:
            raise UnusableInputError("conditions of one fold are all there are")
        return fit.evaluate(folds, held_out_denoisers(fit.fitted, fit.fitted.fit.trials, folds, brain.options)), ""
    except UnusableInputError as error:
        return None, f"not cross-fitted: {error}; "


def _denoise(brain: Brain, prepared: Prepared, kept: Kept, fit: UnitFit, held_out: HeldOut | None) -> tuple[FloatArray, FloatArray, int]:
    """Denoised responses and cross-fitted ones, (n_conditions, k) each, and how many conditions have none."""
    inside, labels = kept.units, fit.fitted.labels
    trials = fit.fitted.fit.trials
    if fit.coordinates is None and not (~brain.ordered.trials.train[kept.trials]).any():
        means, all_labels, counts = trials.means, labels, trials.counts
    else:
        everything = _select(prepared.rows, kept.trials, inside)
        grouped, all_labels = group_all(everything, brain.ordered.trials.condition[kept.trials])
        means, counts = grouped.means, grouped.counts
    psn = np.full_like(prepared.means, np.nan)
    psn[np.ix_(all_labels, inside)] = fit.denoise(means, all_labels, counts)
    crossfit = psn
    if "crossfit" in brain.outputs.arrays:
        crossfit = psn.copy()
        crossfit[brain.ordered.trials.train_conditions] = np.nan
        if held_out is not None:
            crossfit[np.ix_(labels, inside)] = held_out.denoised
    return psn, crossfit, len(psn) - len(all_labels)


def _null(brain: Brain, label: int, kept: Kept, fit: UnitFit) -> NullCheck:
    shuffled = shuffle_repeats(brain.ordered.trials, kept.trials & brain.ordered.trials.train, brain.options.seed, label)
    scores = fit.null(shuffled, brain.fold_of)
    return NullCheck(label, scores.before, scores.after, scores.in_sample, scores.gain)


def _record(
    label: int, kept: Kept, fit: UnitFit, held_out: HeldOut | None, status: str, gain: float, note: str, seconds: float
) -> ParcelRecord:
    trials = fit.fitted.fit.trials
    noise_level, data_level = shrinkage_levels(fit.fitted)
    return ParcelRecord(
        label=label,
        n_units=int(kept.units.sum()),
        n_set_aside=int((~kept.units).sum()),
        n_trials=len(trials.condition),
        n_conditions=trials.n_conditions,
        method=fit.method,
        status=status,
        dimensions=fit.denoiser.effective_dimensions(),
        a=median(np.asarray(unit_numbers(fit.fitted, int(kept.units.sum()))[1])),
        noise_level=noise_level,
        data_level=data_level,
        gain=gain,
        reliability_before=float("nan") if held_out is None else median(held_out.reliability_before),
        reliability_after=float("nan") if held_out is None else median(held_out.reliability_after),
        seconds=seconds,
        note=note,
    )
