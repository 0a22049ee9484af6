"""Arrays and data frames to what the engine takes; what is wrong with them is named by run, row and column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.events import CUT_OFF, RESPONSE_PEAK_S
from conform_bids.bids.trials import SPLITS, TRIAL_COLUMNS
from conform_bids.glm.numerics.design import Design, exact_regressors, nuisance_bases
from conform_bids.glm.planning import COLLINEAR, SAME_VOLUME, collinear_flags
from conform_bids.numerics.folds import leave_one_run_out
from conform_bids.numerics.hrf import HRFLibrary, response_at
from conform_bids.numerics.linalg import polynomial_basis, polynomial_degree, project_out

__all__ = [
    "Timing",
    "build_array_design",
    "build_trials",
    "read_bold_arrays",
    "read_confound_arrays",
    "read_event_frames",
    "split_nuisance",
]

FloatArray = npt.NDArray[np.float64]
_CONDITION_COLUMNS = ("stim_id", "stim_file", "trial_type")
_LONGEST_TR = 60.0


@dataclass(frozen=True)
class Timing:
    """When the volumes of a fit were taken.

    Attributes
    ----------
    repetition_time : float
        Seconds.
    start_times : tuple of float
        Of each run: seconds from its start to the time that its first volume stands for.
    lengths : tuple of int
        Volumes of each run.
    """

    repetition_time: float
    start_times: tuple[float, ...]
    lengths: tuple[int, ...]

    def end(self, run: int) -> float:
        """Duration of a run, s."""
        return self.lengths[run] * self.repetition_time

    @classmethod
    def of(cls, lengths: Sequence[int], repetition_time: float, start_time: float | Sequence[float]) -> Timing:
        """Check the times.

        Raises
        ------
        ValueError
            For a repetition time that is none, and start times that are not one a run.
        """
        tr = float(repetition_time)
        if not (np.isfinite(tr) and 0 < tr <= _LONGEST_TR):
            hint = "; is it in milliseconds?" if tr > _LONGEST_TR else ""
            raise ValueError(f"repetition_time is {tr:g}, not a number of seconds between 0 and {_LONGEST_TR:g}{hint}")
        starts = np.atleast_1d(np.asarray(start_time, dtype=np.float64))
        if starts.ndim != 1 or len(starts) not in (1, len(lengths)) or not np.isfinite(starts).all():
            raise ValueError(f"start_time is one number of seconds, or one a run ({len(lengths)}), not {start_time!r}")
        return cls(tr, tuple(float(start) for start in np.broadcast_to(starts, (len(lengths),))), tuple(lengths))


def read_bold_arrays(bold: Any) -> list[npt.NDArray[np.float32]]:
    """One float32 array (volumes, units) a run.

    Raises
    ------
    TypeError, ValueError
        Naming the run: no array of numbers, not two-dimensional, another number of units than the first, or without a single unit
        that varies and is finite throughout.
    """
    given = list(bold) if isinstance(bold, list | tuple) else [bold]
    if not given:
        raise ValueError("bold holds no run")
    runs: list[npt.NDArray[np.float32]] = []
    for index, values in enumerate(given):
        name, array = _name("bold", index, len(given)), np.asarray(values)
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_) or np.iscomplexobj(array):
            raise TypeError(f"{name} is not an array of real numbers but of {array.dtype}")
        if array.ndim != 2:
            raise ValueError(f"{name} has shape {array.shape}, not (volumes, units){_shape_hint(array)}")
        if 0 in array.shape:
            raise ValueError(f"{name} is empty: its shape is {array.shape}")
        if runs and array.shape[1] != runs[0].shape[1]:
            raise ValueError(
                f"{name} has {array.shape[1]} units and bold[0] {runs[0].shape[1]}; runs of (volumes, units) share their units"
            )
        runs.append(array.astype(np.float32, copy=False))
    _refuse_unusable(runs)
    return runs


def _shape_hint(array: npt.NDArray[Any]) -> str:
    if array.ndim == 4:
        return "; for an image of (x, y, z, volumes) give array[mask].T, mask being the voxels to fit"
    return "; for several runs give a list of arrays" if array.ndim == 3 else ""


def _refuse_unusable(runs: Sequence[npt.NDArray[np.float32]]) -> None:
    """Refuse runs in which nothing can be fitted; some units that are constant or not finite are no fault."""
    for index, run in enumerate(runs):
        name = _name("bold", index, len(runs))
        # one number a volume tells most of it without a mask of the size of the run
        with np.errstate(invalid="ignore", over="ignore"):
            usable = np.isfinite(run.sum(axis=0, dtype=np.float64))
        if not usable.any():
            lost = np.flatnonzero(~np.isfinite(run).any(axis=1))
            where = f"every unit is NaN or infinite in volume {lost[0]}" if len(lost) else "every unit is NaN or infinite somewhere"
            raise ValueError(f"{name} cannot be fitted: {where}")
        if not (run.max(axis=0)[usable] > run.min(axis=0)[usable]).any():
            raise ValueError(f"{name} cannot be fitted: every unit is constant")


def read_event_frames(events: Any, timing: Timing) -> list[pd.DataFrame]:
    """One table of events a run, from data frames or mappings of columns.

    Raises
    ------
    TypeError, ValueError
        When there is not one a run, or it is no table.
    """
    given = list(events) if isinstance(events, list | tuple) else [events]
    if len(given) != len(timing.lengths):
        raise ValueError(f"bold has {len(timing.lengths)} runs and events {len(given)}; give one table of events a run")
    return [_frame(table, _name("events", index, len(given))) for index, table in enumerate(given)]


def split_nuisance(
    frames: Sequence[pd.DataFrame], types: Sequence[str], timing: Timing, assumed: HRFLibrary, *, compat: bool
) -> tuple[list[pd.DataFrame], list[FloatArray]]:
    """Events that get betas, and for each run the regressors of those that do not, (volumes, types that the run has).

    Parameters
    ----------
    types : sequence of str
        Values of ``trial_type`` that are modelled as nuisance, with the assumed HRF.

    Raises
    ------
    ValueError
        When no event is of one of the types, or one of them has a fault.
    """
    regressors = [np.zeros((length, 0)) for length in timing.lengths]
    there = {str(name) for frame in frames if "trial_type" in frame for name in frame["trial_type"].dropna()}
    for name in types:
        if name not in there:
            raise ValueError(f"nuisance_events: no event has the trial_type {name!r}; there are {', '.join(sorted(there)) or 'none'}")
    if not types:
        return list(frames), regressors
    kept = []
    for run, frame in enumerate(frames):
        chosen = frame["trial_type"].isin(list(types)) if "trial_type" in frame else pd.Series(False, frame.index)
        kept.append(frame[~chosen])
        nuisance = _check_events(frame[chosen], _name("events", run, len(frames)), "trial_type", timing, run, None)
        times = np.arange(timing.lengths[run]) * timing.repetition_time + (0.0 if compat else timing.start_times[run])
        for _, rows in nuisance.groupby("trial_type"):
            responses = [response_at(assumed, duration, times - onset)[:, 0] for onset, duration in rows[["onset", "duration"]].to_numpy()]
            regressors[run] = np.column_stack([regressors[run], np.sum(responses, axis=0)])
    return kept, regressors


def build_trials(
    frames: Sequence[pd.DataFrame], timing: Timing, condition_column: str | None = None, stimulus_duration: float | None = None
) -> pd.DataFrame:
    """Trial table of the fit: rows in order of time, with the run's index as ``run_index`` and the events' other columns at the end.

    Parameters
    ----------
    frames : sequence of DataFrame
        Of each run: columns ``onset`` and ``duration`` (s), the condition's, and optionally ``split``; the index is the row.
    timing : Timing
        Of the runs.
    condition_column : str or None
        Which column names the condition; None: the first of stim_id, stim_file and trial_type that all runs have.
    stimulus_duration : float or None
        In place of the column ``duration``.

    Raises
    ------
    TypeError, ValueError
        Naming run and row.
    """
    column = _condition_column(frames, condition_column)
    parts = []
    for index, frame in enumerate(frames):
        part = _check_events(frame, _name("events", index, len(frames)), column, timing, index, stimulus_duration)
        part.insert(0, "run_index", index)
        part["flag"] = np.where(part["onset"] + RESPONSE_PEAK_S > timing.end(index), CUT_OFF, "n/a")
        parts.append(part.sort_values("onset", kind="stable"))
    table = pd.concat(parts, ignore_index=True)
    if table.empty:
        raise ValueError("events hold no trial")
    return _number_trials(table)


def _frame(table: Any, name: str) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame | Mapping):
        raise TypeError(f"{name} is a {type(table).__name__}, not a DataFrame with columns onset, duration and trial_type")
    return pd.DataFrame(table).reset_index(drop=True)


def _condition_column(frames: Sequence[pd.DataFrame], asked: str | None) -> str:
    common = [column for column in frames[0].columns if all(column in frame.columns for frame in frames)]
    for column in _CONDITION_COLUMNS if asked is None else (asked,):
        if column in common:
            return column
    wanted = " or ".join(_CONDITION_COLUMNS) if asked is None else repr(asked)
    raise ValueError(
        f"events have no column {wanted} that names the condition; they have {', '.join(map(str, common)) or 'none in common'}"
    )


def _check_events(frame: pd.DataFrame, name: str, column: str, timing: Timing, run: int, stimulus_duration: float | None) -> pd.DataFrame:
    """Columns of the trial table that a run's events give; the first fault is raised with its row."""
    length, end = timing.lengths[run], timing.end(run)
    if stimulus_duration is not None:
        frame = frame.assign(duration=float(stimulus_duration))
    numbers: dict[str, FloatArray] = {}
    for key in ("onset", "duration"):
        if key not in frame.columns:
            raise ValueError(f"{name} has no column {key!r}; it has {', '.join(map(str, frame.columns))}")
        try:
            numbers[key] = frame[key].to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: the column {key} is not numbers of seconds ({error})") from error
    onset, duration = numbers["onset"], numbers["duration"]
    rows, frame = frame.index.to_numpy(), frame.reset_index(drop=True)
    condition = frame[column]
    split = frame["split"].where(frame["split"].notna(), "n/a").astype(str) if "split" in frame.columns else pd.Series("n/a", frame.index)
    faults = (
        (~np.isfinite(onset), lambda row: f"the onset is {onset[row]:g}"),
        ((onset < 0) | (onset >= end), lambda row: f"the onset, {onset[row]:g} s, is outside of the run, {length} volumes in {end:g} s"),
        (~np.isfinite(duration) | (duration < 0), lambda row: f"the duration is {duration[row]:g}"),
        (condition.isna().to_numpy(), lambda row: f"{column} is missing"),
        (~split.isin(SPLITS).to_numpy(), lambda row: f"split is {split[row]!r}, not one of {', '.join(SPLITS)}"),
        (
            pd.DataFrame({"onset": onset, "condition": condition.astype(str)}).duplicated().to_numpy(),
            lambda row: f"{condition[row]!r} at {onset[row]:g} s stands there twice",
        ),
    )
    for faulty, tell in faults:
        if faulty.any():
            row, count = int(np.argmax(faulty)), int(faulty.sum())
            others = f" (and {count - 1} more such rows)" if count > 1 else ""
            raise ValueError(f"{name}, row {rows[row]}: {tell(row)}{others}")
    result = pd.DataFrame({"onset": onset, "duration": duration, "stim_id": condition.astype(str), "split": split})
    result["trial_type"] = frame["trial_type"].where(frame["trial_type"].notna(), "n/a").astype(str) if "trial_type" in frame else "n/a"
    return pd.concat([result, frame.drop(columns=[key for key in frame if key in TRIAL_COLUMNS or key == "run_index"])], axis=1)


def _number_trials(table: pd.DataFrame) -> pd.DataFrame:
    """Add trial, condition and repetition."""
    condition_of = {name: k for k, name in enumerate(sorted(set(table["stim_id"])))}
    shown: Counter[Hashable] = Counter()
    repetitions = []
    for name in table["stim_id"]:
        repetitions.append(shown[name])
        shown[name] += 1
    return table.assign(trial=np.arange(len(table)), condition=table["stim_id"].map(condition_of).astype(np.int64), repetition=repetitions)


def read_confound_arrays(confounds: Any, timing: Timing) -> tuple[FloatArray, ...]:
    """Regressors of each run, (volumes, regressors); values missing at the start of a column become its mean.

    Raises
    ------
    TypeError, ValueError
        Naming run and column.
    """
    n_runs = len(timing.lengths)
    if confounds is None:
        return tuple(np.zeros((length, 0)) for length in timing.lengths)
    given = list(confounds) if isinstance(confounds, list | tuple) else [confounds]
    if len(given) != n_runs:
        raise ValueError(f"bold has {n_runs} runs and confounds {len(given)}; give one array (volumes, regressors) a run")
    result = []
    for index, values in enumerate(given):
        name = _name("confounds", index, n_runs)
        columns = [str(column) for column in values.columns] if isinstance(values, pd.DataFrame) else None
        try:
            array = np.array(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} is not an array of numbers: {error}") from error
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or len(array) != timing.lengths[index]:
            raise ValueError(f"{name} has shape {array.shape}, not ({timing.lengths[index]} volumes, regressors)")
        for column, regressor in enumerate(array.T):
            _fill_start(regressor, f"{name}, column {columns[column] if columns else column}")
        result.append(array)
    return tuple(result)


def _fill_start(regressor: FloatArray, name: str) -> None:
    """Put the mean where derivatives and the like have no value yet, in place."""
    present = np.flatnonzero(np.isfinite(regressor))
    if not len(present):
        raise ValueError(f"{name}: no value is finite")
    gaps = np.flatnonzero(~np.isfinite(regressor[present[0] :]))
    if len(gaps):
        raise ValueError(f"{name}: the value of volume {present[0] + gaps[0]} is not finite")
    regressor[: present[0]] = regressor[present].mean()


def build_array_design(
    trials: pd.DataFrame,
    timing: Timing,
    regressors: tuple[FloatArray, ...],
    assumed: HRFLibrary,
    *,
    sessions: Sequence[Hashable] | None = None,
    cv_folds: Sequence[Sequence[int]] | None = None,
    degree: int | None = None,
    compat: bool = False,
) -> tuple[Design, pd.DataFrame]:
    """Design of the fit, and the trial table with flags on trials that cannot be told from others, as the app has them.

    Raises
    ------
    ValueError
        When there is not one session a run, a fold names no run, or drifts and regressors leave nothing of a run.
    """
    n_runs = len(timing.lengths)
    starts = np.zeros(n_runs) if compat else np.array(timing.start_times)
    run = trials["run_index"].to_numpy(dtype=np.intp)
    design = Design(
        tr=timing.repetition_time,
        run_lengths=timing.lengths,
        run=run,
        onset=trials["onset"].to_numpy(dtype=np.float64) - starts[run],
        duration=trials["duration"].to_numpy(dtype=np.float64),
        condition=trials["condition"].to_numpy(dtype=np.intp),
        train=np.ones(len(trials), bool),
        session=_session_groups(sessions, n_runs),
        folds=_folds(cv_folds, n_runs),
        polynomial_degree=tuple(polynomial_degree(n, timing.repetition_time) if degree is None else degree for n in timing.lengths),
        regressors=regressors,
    )
    for index, bases in enumerate(nuisance_bases(design, regressors_in_base=True)):
        if bases.base.shape[1] >= len(bases.base) - 1:
            raise ValueError(
                f"{_name('bold', index, n_runs)}: {bases.base.shape[1]} drifts and confounds leave no degrees of freedom in "
                f"{len(bases.base)} volumes"
            )
    trials = trials.assign(flag=_flags(trials, design, assumed, compat=compat))
    usable = trials["split"].isin(["train", "n/a"])
    if not compat:
        usable &= trials["flag"] == "n/a"  # as in the app: an estimate that is not reliable would weigh on every unit's choices
    return replace(design, train=usable.to_numpy(dtype=bool)), trials


def _session_groups(sessions: Sequence[Hashable] | None, n_runs: int) -> npt.NDArray[np.intp]:
    labels = list(sessions) if sessions is not None else [None] * n_runs
    if len(labels) != n_runs:
        raise ValueError(f"sessions has {len(labels)} labels for {n_runs} runs; give one a run")
    groups = list(dict.fromkeys(labels))
    return np.array([groups.index(label) for label in labels], dtype=np.intp)


def _folds(cv_folds: Sequence[Sequence[int]] | None, n_runs: int) -> tuple[tuple[int, ...], ...]:
    folds = leave_one_run_out(n_runs) if cv_folds is None else tuple(tuple(int(run) for run in fold) for fold in cv_folds)
    for fold in folds:
        if not fold or min(fold) < 0 or max(fold) >= n_runs:
            raise ValueError(f"cv_folds: {list(fold)} is no fold of {n_runs} runs, which are counted from 0")
    return folds


def _flags(trials: pd.DataFrame, design: Design, assumed: HRFLibrary, *, compat: bool) -> list[str]:
    """Flags of the trials, with those that the regressors of others make up, drifts out, under the assumed HRF."""
    onset, duration = design.onset, design.duration.round(1)
    if compat:
        onset, duration = np.floor(onset / design.tr + 0.5) * design.tr, np.full(len(duration), np.median(duration))
    regressors = exact_regressors(replace(design, onset=onset, duration=duration), lambda *at: response_at(assumed, *at))
    flags = trials["flag"].tolist()
    for run, length in enumerate(design.run_lengths):
        rows = design.trials_of(run)
        columns = project_out(polynomial_basis(length, design.polynomial_degree[run]), regressors(run)[0])
        found = collinear_flags(columns, onset[rows], SAME_VOLUME if compat else COLLINEAR)
        flags[rows] = [new if old == "n/a" else old for old, new in zip(flags[rows], found, strict=True)]
    return flags


def _name(what: str, index: int, n_runs: int) -> str:
    return what if n_runs == 1 else f"{what}[{index}]"
