"""Events of a dataset by its own convention (`conform_bids.store.dataset_config`), made into those that all apps read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from conform_bids.bids.events import read_events
from conform_bids.bids.filters import compile_trial_filter
from conform_bids.bids.names import parse_name
from conform_bids.bids.tables import one_line
from conform_bids.errors import MissingInputError
from conform_bids.store.dataset_config import DatasetConfig, Override, Side

__all__ = ["apply_convention", "count_trials", "dataset_trials", "is_used"]


def is_used(config: DatasetConfig, entities: Mapping[str, str]) -> bool:
    """Whether the dataset's description takes a run."""
    taken = not config.runs or any(match.matches(entities) for match in config.runs)
    return taken and not any(match.matches(entities) for match in config.drop_runs)


def apply_convention(config: DatasetConfig, entities: Mapping[str, str], events: pd.DataFrame, where: str = "") -> pd.DataFrame:
    """The trials of one run, in the columns that conform-glm reads by default.

    Parameters
    ----------
    entities : mapping
        Of the events file, short keys (sub, ses, task, run).
    events : DataFrame
        As `conform_bids.bids.events.read_events` reads them.
    where : str
        The file, for messages.

    Returns
    -------
    DataFrame
        The rows that are trials, with ``onset``, ``duration``, ``stim_id`` and ``split`` as the description says, and the other columns
        as they were. ``split`` is test or artificial where the run or the trial alone says so, else n/a: what only the whole dataset can
        tell (``repeated``, ``shared``) is told by `dataset_trials`.

    Raises
    ------
    MissingInputError
        When the column of the stimulus is absent.
    """
    if not is_used(config, entities):
        return events.iloc[:0].assign(stim_id=None, split=None)
    column, shift, duration = _of_run(config, entities)
    if column not in events.columns:
        there = ", ".join(map(str, events.columns))
        raise MissingInputError(f"{where or 'events'}: no column {column!r}, where {config.name} names its stimuli; there are {there}")
    names = [_name(config, cell) for cell in events[column]]
    kept = events.assign(stim_id=pd.Series(names, index=events.index, dtype=object))
    kept = kept[[name is not None for name in names]]
    if config.drop_trials is not None and len(kept):
        kept = kept[~compile_trial_filter(config.drop_trials)(kept)]
    if config.drop_one_back:
        ordered = kept.sort_values("onset", kind="stable")
        repeats = (ordered["stim_id"] == ordered["stim_id"].shift()).to_numpy()
        kept = ordered[~repeats].sort_index()
    split = _split(config, entities, kept)
    return kept.assign(onset=kept["onset"] + shift, duration=duration, split=pd.Series(split, index=kept.index, dtype=object))


def _of_run(config: DatasetConfig, entities: Mapping[str, str]) -> tuple[str, float, float]:
    """Column, shift and duration of a run."""
    column, shift, duration = config.stimulus_column, config.onset_shift, config.duration
    matching: Iterator[Override] = (override for override in config.overrides if override.when.matches(entities))
    for override in matching:
        column = override.stimulus_column or column
        shift = shift if override.onset_shift is None else override.onset_shift
        duration = duration if override.duration is None else override.duration
    return column, shift, duration


def _name(config: DatasetConfig, cell: object) -> str | None:
    if cell is None or (isinstance(cell, float) and cell != cell) or str(cell).strip().lower() in ("", "nan", "none"):
        return None
    text = one_line(f"{cell:.15g}" if isinstance(cell, float) else str(cell))
    return (text if config.strip is None else re.sub(config.strip, "", text, count=1)) or None


def _split(config: DatasetConfig, entities: Mapping[str, str], events: pd.DataFrame) -> list[str | None]:
    split: list[str | None] = [None] * len(events)
    for name, side in (("test", config.test), ("artificial", config.artificial)):
        whole = any(match.matches(entities) for match in side.runs)
        chosen = compile_trial_filter(side.trials)(events).tolist() if side.trials is not None and len(events) else [False] * len(events)
        split = [name if whole or told else before for told, before in zip(chosen, split, strict=True)]
    return split


def dataset_trials(config: DatasetConfig, root: str | Path, participants: Sequence[str] = ()) -> pd.DataFrame:
    """Trials of a whole raw dataset.

    Returns
    -------
    DataFrame
        participant_id, session_id, task_id, run_id, onset, duration, stim_id, split (train, test or artificial); by file, then by onset.

    Raises
    ------
    MissingInputError
        When there are no events, or none that the description takes.
    UnusableInputError
        With file and line, when events are broken.
    """
    frames = []
    for path in sorted(Path(root).glob("sub-*/**/*_events.tsv")):
        entities = parse_name(path).entities
        if (participants and entities.get("sub") not in participants) or not is_used(config, entities):
            continue
        found = apply_convention(config, entities, read_events(path), str(path))[["onset", "duration", "stim_id", "split"]]
        labels = {f"{name}_id": entities.get(key, "n/a") for name, key in (("session", "ses"), ("task", "task"), ("run", "run"))}
        frames.append(found.sort_values("onset", kind="stable").assign(participant_id=entities.get("sub", "n/a"), **labels))
    if not frames:
        raise MissingInputError(f"{root}: no events that the description of {config.name} takes")
    trials = pd.concat(frames, ignore_index=True)
    for name, side in (("test", config.test), ("artificial", config.artificial)):
        trials.loc[trials["stim_id"].isin(_of_all(side, trials)), "split"] = name
    trials["split"] = trials["split"].fillna("train")
    return trials[["participant_id", "session_id", "task_id", "run_id", "onset", "duration", "stim_id", "split"]]


def _of_all(side: Side, trials: pd.DataFrame) -> set[str]:
    """Stimuli of a side that only the whole dataset tells."""
    found: set[str] = set()
    undecided = trials[trials["split"].isna()]
    if side.repeated is not None:
        shown = undecided.groupby(["participant_id", "stim_id"]).size().groupby("stim_id").max()
        found |= set(shown.index[shown >= side.repeated].astype(str))
    if side.shared is not None:
        people = undecided.groupby("stim_id")["participant_id"].nunique()
        found |= set(people.index[people >= side.shared].astype(str))
    return found


def count_trials(config: DatasetConfig, trials: pd.DataFrame) -> list[str]:
    """Compare trials with what a complete download has; a line a number that differs."""
    counts = trials["split"].value_counts()
    found = {
        "participants": trials["participant_id"].nunique(),
        **{side: int(counts.get(side, 0)) for side in ("train", "test", "artificial")},
    }
    expected = {key: getattr(config.expected, key) for key in found}
    return [
        f"{config.name}: {found[key]} {key}, where {value} are expected"
        for key, value in expected.items()
        if value not in (None, found[key])
    ]
