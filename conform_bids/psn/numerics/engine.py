"""Whole brains: parcels of units, denoised one by one in threads, from a units-major array that is read once a parcel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.numerics.compute import Compute, limit_threads, map_blocks
from conform_bids.psn.numerics.engine_data import (
    LARGE_OUTPUTS,
    METHODS,
    MIN_CONDITIONS,
    Allocate,
    EngineOptions,
    EngineResult,
    NullCheck,
    ParcelDecomposition,
    ParcelRecord,
    StoreParcel,
    TrialSet,
)
from conform_bids.psn.numerics.engine_outputs import BLOCK, Outputs, sort_trials
from conform_bids.psn.numerics.engine_parcel import Brain, Outcome, denoise_parcel
from conform_bids.psn.numerics.sessions import warn_of_repeats
from conform_bids.psn.numerics.trials import split_conditions
from conform_bids.wording import counted

__all__ = [
    "LARGE_OUTPUTS",
    "METHODS",
    "Allocate",
    "EngineOptions",
    "EngineResult",
    "NullCheck",
    "ParcelDecomposition",
    "ParcelRecord",
    "StoreParcel",
    "TrialSet",
    "denoise_parcels",
]

IntArray = npt.NDArray[np.intp]


def denoise_parcels(
    betas: npt.NDArray[np.float32],
    trials: TrialSet,
    parcel: IntArray,
    options: EngineOptions,
    compute: Compute,
    allocate: Allocate | None = None,
    store: StoreParcel | None = None,
    scale: npt.NDArray[np.floating] | None = None,
    groups: IntArray | None = None,
) -> EngineResult:
    """Denoise every parcel.

    Parameters
    ----------
    betas : (n_units, n_trials) float32 array
        Responses, a row a unit, in memory or memory-mapped; NaN or infinite where a unit is missing in a trial.
    trials : TrialSet
        Condition, session and split of the columns.
    parcel : (n_units,) int array
        Parcel of each unit, 0 or above; -1 for units that no parcel holds: these have trial averages and maps, and ``psn`` as
        ``options.outside`` says.
    options : EngineOptions
        Method and guards.
    compute : Compute
        Threads take whole parcels.
    allocate : callable, optional
        Gives the large arrays; by default they are kept in memory.
    store : callable, optional
        Takes each parcel's decomposition.
    scale : (n_units,) array, optional
        Slope of unregularised on given betas, a unit; not positive or NaN counts as 1.
    groups : (n_units,) int array, optional
        For ``threshold_level="group"``.

    Returns
    -------
    EngineResult

    Raises
    ------
    ValueError
        If shapes disagree.
    UsageError
        If options contradict each other.
    UnusableInputError
        If no condition repeats, there are fewer than 3 train conditions, or no parcel holds a unit that varies.
    """
    _check_shapes(betas, trials, parcel, options, scale, groups)
    _require_repeats(trials)
    outputs = Outputs.make(len(betas), trials, options, allocate, scale)
    fold_of = _folds(trials, options)
    brain = Brain(betas, sort_trials(trials), fold_of, outputs, options, groups if options.threshold_level == "group" else None, store)
    _leave_outside(brain, np.flatnonzero(parcel < 0))
    outcomes = _denoise_all(brain, parcel, compute)
    _require_fits(outcomes)
    return EngineResult(
        arrays=outputs.arrays,
        maps=outputs.maps,
        mean=outputs.mean,
        sd=outputs.sd,
        session_mean=outputs.session_mean,
        session_sd=outputs.session_sd,
        sessions=np.unique(trials.session).astype(np.intp),
        fold=fold_of,
        n_trials=np.bincount(trials.condition, minlength=trials.n_conditions),
        parcels=tuple(outcome.record for outcome in outcomes),
        null=tuple(outcome.null for outcome in outcomes if outcome.null is not None),
        status=outputs.status,
        notes=tuple(_notes(trials, options, outcomes, outputs.status)),
    )


def _check_shapes(
    betas: npt.NDArray[np.float32],
    trials: TrialSet,
    parcel: IntArray,
    options: EngineOptions,
    scale: npt.NDArray[np.floating] | None,
    groups: IntArray | None,
) -> None:
    if betas.ndim != 2 or betas.shape[1] != trials.n_trials:
        raise ValueError(f"betas of {trials.n_trials} trials need a column each, got shape {betas.shape}")
    for name, values in (("parcel", parcel), ("scale", scale), ("groups", groups)):
        if values is not None and np.shape(values) != (len(betas),):
            raise ValueError(f"{name}: one value for each of {len(betas)} units, got shape {np.shape(values)}")
    if (parcel < -1).any():
        raise ValueError("parcels are numbered from 0; -1 is outside of all")
    if options.threshold_level == "group" and groups is None:
        raise UsageError("threshold level group needs the group of each unit")


def _require_repeats(trials: TrialSet) -> None:
    counts = np.bincount(trials.condition[trials.train], minlength=trials.n_conditions)
    if not (counts > 1).any():
        raise UnusableInputError("no train condition repeats: nothing tells signal from noise")
    if (counts > 0).sum() < MIN_CONDITIONS:
        raise UnusableInputError(f"signal and noise need at least {MIN_CONDITIONS} train conditions; there are {(counts > 0).sum()}")


def _folds(trials: TrialSet, options: EngineOptions) -> IntArray:
    """Fold of each train condition, the same in all parcels; -1 for test conditions."""
    fold_of = np.full(trials.n_conditions, -1, dtype=np.intp)
    members = np.flatnonzero(trials.train_conditions)
    counts = np.bincount(trials.condition, minlength=trials.n_conditions)[members]
    for index, fold in enumerate(split_conditions(counts, options.n_folds, options.seed)):
        fold_of[members[fold]] = index
    return fold_of


def _leave_outside(brain: Brain, units: IntArray) -> None:
    """Write units that no parcel holds."""
    for start in range(0, len(units), BLOCK):
        prepared = brain.outputs.prepare(brain.betas, brain.ordered, units[start : start + BLOCK])
        passed = brain.options.outside == "pass"
        values = prepared.means if passed else np.full_like(prepared.means, np.nan)
        brain.outputs.write_denoised(prepared, values, values)
        if passed and brain.options.crossfit:
            brain.outputs.maps["noise_ceiling_after"][prepared.units] = brain.outputs.maps["noise_ceiling_before"][prepared.units]


def _denoise_all(brain: Brain, parcel: IntArray, compute: Compute) -> list[Outcome]:
    """Outcomes in ascending order of labels. Large parcels have all threads, one after the other; threads share the others."""
    order = np.argsort(parcel, kind="stable")[int((parcel < 0).sum()) :]
    labels, starts = np.unique(parcel[order], return_index=True)
    members = dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=True)) if len(labels) else {}
    number = min(brain.options.null_parcels, len(labels))
    null = set(labels[np.round(np.linspace(0, len(labels) - 1, number)).astype(int)].tolist()) if number else set()

    def denoise(label: int) -> tuple[int, Outcome]:
        return label, denoise_parcel(brain, label, members[label], with_null=label in null)

    large = [label for label, units in members.items() if len(units) > brain.options.dual_above]
    # the longest first: no thread is left with one at the end
    small = sorted(set(members) - set(large), key=lambda label: (-len(members[label]), label))
    with limit_threads(compute.n_threads):
        done = [denoise(label) for label in large]
    with limit_threads(1):  # one thread or several, products are added up in the same order
        done += map_blocks(denoise, small, compute)
    return [outcome for _, outcome in sorted(done, key=lambda pair: pair[0])]


def _require_fits(outcomes: list[Outcome]) -> None:
    """Refuse data of which no parcel could be fitted."""
    tried = [outcome for outcome in outcomes if outcome.record.status != "empty"]
    if not tried:
        raise UnusableInputError("no parcel holds a unit that varies over the train trials")
    if all(outcome.failure for outcome in tried):
        raise UnusableInputError(tried[0].failure)


def _notes(trials: TrialSet, options: EngineOptions, outcomes: list[Outcome], status: npt.NDArray[np.uint8]) -> list[str]:
    notes = list(warn_of_repeats(trials, zscored=options.session_zscore))
    records = [outcome.record for outcome in outcomes]
    told = (
        (sum(record.status == "passed" for record in records), ("is", "are"), "passed through as trial averages"),
        (sum(record.status == "zeroed" for record in records), ("is", "are"), "set to the mean response"),
        (sum(record.status == "empty" for record in records), ("holds", "hold"), "no unit that varies"),
        (
            sum(record.method.endswith("(dual)") for record in records),
            ("has", "have"),
            f"more than {options.dual_above} units: the dual form is used",
        ),
    )
    notes += [f"{count} of {counted(len(records), 'parcel')} {verbs[count != 1]} {what}" for count, verbs, what in told if count]
    for reason in dict.fromkeys(outcome.failure for outcome in outcomes if outcome.failure):
        notes.append(f"{counted(sum(outcome.failure == reason for outcome in outcomes), 'parcel')} could not be fitted: {reason}")
    missing = int((status == 5).sum())
    if missing:
        notes.append(f"{counted(missing, 'unit lacks', 'units lack')} trials that the others of the parcel have: not denoised")
    return notes
