"""Events to trials: what is modelled, what is left out, and why; a fault is named by file and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.bids.filters import compile_trial_filter
from conform_bids.bids.splits import check_split, read_split, split_warnings
from conform_bids.bids.tables import one_line, parse_number, read_tsv
from conform_bids.bids.trials import (
    STIMULI_DESCRIPTION,
    TRIAL_COLUMNS,
    TRIALS_DESCRIPTION,
    TrialTable,
    hash_stimuli,
    read_trials,
    stimulus_table,
    write_stimuli,
    write_trials,
)
from conform_bids.errors import MissingInputError, NoTrialsError, UnusableInputError

__all__ = [
    "STIMULI_DESCRIPTION",
    "TRIALS_DESCRIPTION",
    "TRIAL_COLUMNS",
    "RunEvents",
    "TrialTable",
    "build_trial_table",
    "choose_condition_column",
    "compile_trial_filter",
    "hash_stimuli",
    "read_events",
    "read_trials",
    "stimulus_table",
    "write_stimuli",
    "write_trials",
]

CONDITION_COLUMNS = ("stim_id", "stim_file", "trial_type")
RESPONSE_PEAK_S = 6.0
"""Seconds from onset to the peak of the response, roughly: a trial whose peak was not recorded is flagged."""
CUT_OFF = "cut off by the end of the run"


@dataclass(frozen=True)
class RunEvents:
    """The events of one run.

    Attributes
    ----------
    session, run : str or None
        Labels as in the file name.
    path : Path
        Events file.
    n_volumes : int
    repetition_time, start_time : float
        Seconds; frame k was acquired at ``start_time + k * repetition_time``.
    """

    session: str | None
    run: str | None
    path: Path
    n_volumes: int
    repetition_time: float
    start_time: float = 0.0


@dataclass(frozen=True)
class _Event:
    """One usable event, or the reason why it is none."""

    line: int
    onset: float
    duration: float
    trial_type: str
    stim_id: str | None
    split: str
    fault: str | None


def read_events(path: str | Path) -> pd.DataFrame:
    """Read an events file.

    Returns
    -------
    DataFrame
        ``onset`` and ``duration`` as float (NaN where missing), the rest as str or None; the index, ``line``, is the line in the file.

    Raises
    ------
    MissingInputError
        When there is no such file.
    UnusableInputError
        With file and line: not a table, no column onset or duration, or text where a number belongs.
    """
    events = read_tsv(path, required=("onset", "duration"))
    for name in ("onset", "duration"):
        numbers = []
        for line, cell in zip(events.index, events[name], strict=True):
            number = float("nan") if cell is None else parse_number(cell)
            if number is None:
                raise UnusableInputError(f"{path}:{line}: {name} is {cell!r}, not a number of seconds")
            numbers.append(number)
        events[name] = np.array(numbers, dtype=np.float64)
    return events


def choose_condition_column(columns_per_run: Sequence[Sequence[str]], asked: str | None) -> str:
    """Choose the column that names the stimulus.

    Parameters
    ----------
    columns_per_run : sequence of sequence of str
        Columns of each run's events.
    asked : str or None
        What the user named; else the first of stim_id, stim_file and trial_type that all runs have.

    Raises
    ------
    MissingInputError
        When a run lacks it, or none of the three is in all runs; lists the columns.
    """
    first = dict.fromkeys(columns_per_run[0]) if columns_per_run else ()
    common = [name for name in first if all(name in columns for columns in columns_per_run)]
    for name in CONDITION_COLUMNS if asked is None else (asked,):
        if name in common:
            return name
    what = f"no column {asked!r}" if asked is not None else f"none of the columns {', '.join(CONDITION_COLUMNS)}"
    raise MissingInputError(f"--condition-column: {what} in the events of all runs; they have {', '.join(common) or 'no column in common'}")


def build_trial_table(
    runs: Sequence[RunEvents],
    *,
    condition_column: str | None = None,
    trial_filter: str | None = None,
    nuisance_events: Sequence[str] = (),
    stimulus_duration: float | None = None,
    split: str | None = None,
    prepare: Callable[[Path, pd.DataFrame], pd.DataFrame] | None = None,
) -> TrialTable:
    """Build the trial table of the runs of one fit.

    Parameters
    ----------
    runs : sequence of RunEvents
        In the order of the fit.
    condition_column : str, optional
        See `choose_condition_column`.
    trial_filter : str, optional
        See `compile_trial_filter`; nuisance events are not filtered.
    nuisance_events : sequence of str
        Trial types that are modelled, but get no row.
    stimulus_duration : float, optional
        Seconds, in place of the events' own durations.
    split : str, optional
        Column of the events, or a TSV file with stim_id and split; by default the column ``split`` where there is one.
    prepare : callable, optional
        Turns the events of a file into the trials that there are in them, nuisance events aside; lines stay the index.

    Raises
    ------
    MissingInputError
        When a file, a column or a trial type is absent, or nothing is left to model.
    UnusableInputError
        With file and line, when a file is no events table or none of its trials is sound.
    UsageError
        When the filter is malformed, or names a column that is not there.
    """
    tables = [read_events(run.path) for run in runs]
    if prepare is not None:
        tables = [_prepared(run.path, table, nuisance_events, prepare) for run, table in zip(runs, tables, strict=True)]
    columns = [[str(name) for name in table.columns] for table in tables]
    column = choose_condition_column(columns, condition_column)
    split_column, split_of = _split_source(split, columns)
    keep = compile_trial_filter(trial_filter) if trial_filter is not None else None
    _check_nuisance(tables, nuisance_events)

    warnings: list[str] = []
    trials, nuisance, set_aside = [], [], []
    stim_files: dict[str, str] = {}
    for index, (run, table) in enumerate(zip(runs, tables, strict=True)):
        is_nuisance = _is_nuisance(table, nuisance_events)
        nuisance_rows, nuisance_faults = _sound(_events(run, table[is_nuisance], "trial_type", None, None))
        candidates = table[~is_nuisance]
        kept = candidates if keep is None else candidates[keep(candidates)]
        rows, faults = _sound(_events(run, kept, column, stimulus_duration, split_column))
        _refuse_unsound_file(run, rows, faults)
        warnings += _file_warnings(run, kept, faults)
        stim_files = {**_stim_files(kept, column), **stim_files}
        trials += [(index, run, event) for event in rows]
        nuisance.append(_nuisance_frame(nuisance_rows))
        for event in sorted([*faults, *nuisance_faults], key=lambda event: event.line):
            set_aside.append((run.path.name, event.line, event.onset, event.fault))
    if not trials:
        reason = " that --trial-filter keeps" if trial_filter else ""
        raise NoTrialsError(f"{runs[0].path.parent}: no trials{reason} in {', '.join(run.path.name for run in runs)}")
    frame = _trial_frame(trials, split_of)
    warnings += split_warnings(frame, split_of)
    return TrialTable(
        trials=frame,
        run_index=np.array([index for index, _, _ in trials], dtype=np.int64),
        nuisance=tuple(nuisance),
        set_aside=pd.DataFrame(set_aside, columns=["file", "line", "onset", "reason"]),
        condition_column=column,
        stim_files=stim_files,
        warnings=tuple(warnings),
    )


def _prepared(
    path: Path, table: pd.DataFrame, nuisance_events: Sequence[str], prepare: Callable[[Path, pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """Trials as `prepare` gives them, among the nuisance events as they are."""
    is_nuisance = _is_nuisance(table, nuisance_events)
    trials = prepare(path, table[~is_nuisance])
    nuisance = table[is_nuisance].reindex(columns=trials.columns)
    joined = pd.concat([nuisance, trials]) if len(nuisance) else trials
    joined = joined.sort_index().astype({"onset": "float64", "duration": "float64"})
    return joined.where(joined.notna(), None).astype({"onset": "float64", "duration": "float64"})


def _split_source(split: str | None, columns: Sequence[Sequence[str]]) -> tuple[str | None, dict[str, str] | None]:
    """The events' column, or the split by stimulus of a file."""
    if split is None:
        return "split", None
    if all(split in names for names in columns):
        return split, None
    if Path(split).is_file():
        return None, read_split(Path(split))
    there = ", ".join(dict.fromkeys(name for names in columns for name in names))
    raise MissingInputError(f"--split: {split!r} is neither a file nor a column of the events of all runs; they have {there}")


def _is_nuisance(table: pd.DataFrame, nuisance_events: Sequence[str]) -> Any:
    if "trial_type" not in table.columns:
        return np.zeros(len(table), dtype=bool)
    return table["trial_type"].isin(list(nuisance_events)).to_numpy(dtype=bool)


def _check_nuisance(tables: Sequence[pd.DataFrame], nuisance_events: Sequence[str]) -> None:
    there = {name for table in tables if "trial_type" in table.columns for name in table["trial_type"] if name is not None}
    for name in nuisance_events:
        if name not in there:
            listed = ", ".join(sorted(there)) or "none"
            raise MissingInputError(f"--nuisance-events: no event has the trial type {name!r}; there are {listed}")


def _events(
    run: RunEvents, table: pd.DataFrame, column: str, stimulus_duration: float | None, split_column: str | None
) -> Iterator[_Event]:
    """Judge each event on its own."""
    columns = (table["onset"], table["duration"], *(_texts(table, name) for name in ("trial_type", column, split_column)))
    for line, onset, duration, trial_type, name, split in zip(table.index.tolist(), *columns, strict=True):
        modelled = float(duration) if stimulus_duration is None else stimulus_duration
        stim_id = None if name is None else one_line(name) or None
        fault = _timing_fault(run, float(onset), modelled) or ("no stimulus" if stim_id is None else None)
        value = check_split(run.path, line, split)
        yield _Event(line, float(onset), modelled, one_line(trial_type or "") or "n/a", stim_id, value, fault)


def _texts(table: pd.DataFrame, column: str | None) -> Sequence[str | None]:
    """Cells of a column as text, None where they or the whole column are missing."""
    if column is None or column not in table.columns:
        return [None] * len(table)
    cells = table[column].tolist()
    return cells if column not in ("onset", "duration") else [None if np.isnan(cell) else f"{cell:.15g}" for cell in cells]


def _stim_files(table: pd.DataFrame, column: str) -> dict[str, str]:
    """Files by stimulus, of each stimulus the first."""
    pairs = zip(_texts(table, column), _texts(table, "stim_file"), strict=True)
    return {one_line(name): file for name, file in reversed(list(pairs)) if name is not None and file is not None}


def _timing_fault(run: RunEvents, onset: float, duration: float) -> str | None:
    run_end = run.n_volumes * run.repetition_time
    if np.isnan(onset):
        return "the onset is missing"
    if not 0 <= onset < run_end:
        return f"the onset, {onset:g} s, is outside of the run of {run_end:g} s"
    if np.isnan(duration):
        return "the duration is missing"
    if duration < 0:
        return f"the duration, {duration:g} s, is negative"
    if np.isinf(duration):
        return "the duration is infinite"
    return None


def _sound(events: Iterable[_Event]) -> tuple[list[_Event], list[_Event]]:
    """Part events into those to model, in order of onset, and those set aside."""
    rows: list[_Event] = []
    faults: list[_Event] = []
    seen: dict[tuple[float, str | None], int] = {}
    for event in events:
        key = (event.onset, event.stim_id)
        if event.fault is None and key in seen:
            event = replace(event, fault=f"a duplicate of line {seen[key]}")
        if event.fault is not None:
            faults.append(event)
            continue
        seen[key] = event.line
        rows.append(event)
    return sorted(rows, key=lambda event: event.onset), faults


def _refuse_unsound_file(run: RunEvents, rows: Sequence[_Event], faults: Sequence[_Event]) -> None:
    timing = [event for event in faults if event.fault != "no stimulus"]
    if timing and not rows:
        raise UnusableInputError(f"{run.path}:{timing[0].line}: {timing[0].fault}, and no other trial of the file is sound")


def _file_warnings(run: RunEvents, events: pd.DataFrame, faults: Sequence[_Event]) -> Iterator[str]:
    onsets = events["onset"].dropna().to_numpy()
    if (np.diff(onsets) < 0).any():
        yield f"{run.path.name}: events are not in order of onset; they were sorted"
    if faults:
        reasons = Counter("a duplicate" if "duplicate" in str(event.fault) else str(event.fault).partition(",")[0] for event in faults)
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        yield f"{run.path.name}: {len(faults)} of {len(events)} events left out: {told}"


def _nuisance_frame(rows: Sequence[_Event]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "onset": np.array([event.onset for event in rows], dtype=np.float64),
            "duration": np.array([event.duration for event in rows], dtype=np.float64),
            "trial_type": pd.Series([event.trial_type for event in rows], dtype="str"),
        }
    )


def _trial_frame(trials: Sequence[tuple[int, RunEvents, _Event]], split_of: dict[str, str] | None) -> pd.DataFrame:
    stim_ids = [str(event.stim_id) for _, _, event in trials]
    condition_of = {name: k for k, name in enumerate(sorted(set(stim_ids)))}
    shown: Counter[str] = Counter()
    repetitions = []
    for name in stim_ids:
        repetitions.append(shown[name])
        shown[name] += 1
    values: dict[str, list[Any]] = {
        "trial": list(range(len(trials))),
        "session_id": [run.session or "n/a" for _, run, _ in trials],
        "run_id": [run.run or "n/a" for _, run, _ in trials],
        "onset": [event.onset for _, _, event in trials],
        "duration": [event.duration for _, _, event in trials],
        "trial_type": [event.trial_type for _, _, event in trials],
        "stim_id": stim_ids,
        "condition": [condition_of[name] for name in stim_ids],
        "repetition": repetitions,
        "split": [event.split if split_of is None else split_of.get(str(event.stim_id), "n/a") for _, _, event in trials],
        "flag": [CUT_OFF if event.onset + RESPONSE_PEAK_S > run.n_volumes * run.repetition_time else "n/a" for _, run, event in trials],
    }
    return pd.DataFrame({name: pd.Series(values[name], dtype=dtype) for name, dtype in TRIAL_COLUMNS.items()})
