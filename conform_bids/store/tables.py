"""Tables of a store: what each column says, written as parquet and as TSV, read from parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from conform_bids.bids.array_checks import check_parquet
from conform_bids.bids.atomic import atomic_path, write_json, write_tsv
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.store.catalogue import STIMULUS_COLUMNS

__all__ = ["TABLES", "read_table", "write_table"]

_TRIALS = {
    "participant_id": "Participant, as in the name of its file.",
    "dataset": "Dataset that the participant is of.",
    "row": "Row in the participant's betas.",
    "task_id": "Label of the task.",
    "session_id": "Label of the session, n/a where there is none.",
    "run_id": "Label of the run, n/a where the row is of several.",
    "onset": "Onset from the start of the run, in seconds.",
    "duration": "Duration, in seconds.",
    "trial_type": "Category of the trial as in the events.",
    "stim_id": "Name of the stimulus in its dataset.",
    "content_id": "Identity of the stimulus by content.",
    "repetition": "How often the participant had seen this content before, from 0.",
    "n_averaged": "Trials that the response is the average of.",
    "split": "train, test or artificial: the side of the stimulus.",
    "source_split": "What the dataset's own table says.",
    "flag": "Why the estimate is unreliable; n/a where it is not.",
    "group": "Row of mean and scale in the participant's file, by which it was z-scored.",
    "in_statistics": "Whether the trial counted in that mean and scale.",
    "version": "Version of the store that it came with.",
}
_FITS = {
    "participant_id": "Participant.",
    "group": "Row of mean and scale in the participant's file.",
    "session_id": "Sessions of the group.",
    "task_id": "Label of the task.",
    "n_trials": "Trials.",
    "n_statistics": "Train trials that mean and scale are of, where they are its own.",
    "statistics": "own, or participant: those of all train trials, as the group has too few.",
    "n_test_in_statistics": "Trials that counted in mean and scale, and are held out since (a later dataset called their stimulus test).",
    "n_test_in_fit": "Held-out stimuli that the betas' own fit could use, as their table did not hold them out.",
    "desc": "Model of the betas.",
    "source": "BIDS URI of the betas.",
}
_PARTICIPANTS = {
    "participant_id": "Participant.",
    "dataset": "Dataset.",
    "original_id": "Label in the dataset.",
    "file": "The participant's betas.",
    "n_trials": "Trials.",
    "n_train": "Of them for training.",
    "n_test": "Of them for test.",
    "n_artificial": "Of them artificial.",
    "n_stimuli": "Distinct contents.",
    "version": "Version of the store that the participant came with.",
}
_CEILINGS = {
    "participant_id": "Participant.",
    "dataset": "Dataset.",
    "split": "Trials that it is of.",
    "parcel": "Parcel.",
    "n_units": "Units of it that have a ceiling.",
    "n_repeated": "Stimuli that repeat.",
    "ncsnr": "Mean noise-ceiling signal-to-noise ratio.",
    "ceiling_single": "Mean noise ceiling of single trials, in percent.",
    "ceiling_average": "Mean noise ceiling of averages over all repeats, in percent.",
    "version": "Version of the store that the participant came with; splits are of that version.",
}
TABLES: dict[str, dict[str, str]] = {
    "trials": _TRIALS,
    "stimuli": STIMULUS_COLUMNS,
    "participants": _PARTICIPANTS,
    "fits": _FITS,
    "noiseceilings": _CEILINGS,
}
"""Columns of each table, and what they say."""


def write_table(name: str, frame: pd.DataFrame, folder: Path) -> None:
    """Write a table as ``<name>.parquet`` and ``<name>.tsv``, and its columns as ``<name>.json``."""
    columns = TABLES[name]
    ordered = frame[list(columns)].reset_index(drop=True)
    with atomic_path(folder / f"{name}.parquet") as temporary:
        ordered.to_parquet(temporary, engine="pyarrow", compression="zstd", index=False)
    write_tsv(ordered, folder / f"{name}.tsv")
    described: Mapping[str, Any] = {key: {"Description": text} for key, text in columns.items()}
    write_json(described, folder / f"{name}.json")


def read_table(name: str, folder: Path) -> pd.DataFrame:
    """Read a table.

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    path = folder / f"{name}.parquet"
    import pyarrow

    try:
        check_parquet(path)
        frame = pd.read_parquet(path, engine="pyarrow")
    except FileNotFoundError as error:
        raise MissingInputError(f"{path}: no such file") from error
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UnusableInputError(f"{path}: not a parquet table, or broken ({error})") from error
    absent = [column for column in TABLES[name] if column not in frame.columns]
    if absent:
        raise UnusableInputError(f"{path}: no column {absent[0]!r}")
    return frame
