"""The trial table: one row a modelled trial, its TSV, and the stimuli that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.bids.derivatives import atomic_path, lock_file
from conform_bids.bids.tables import one_line, read_tsv
from conform_bids.errors import UnusableInputError

__all__ = [
    "SPLITS",
    "STIMULI_DESCRIPTION",
    "TRIALS_DESCRIPTION",
    "TRIAL_COLUMNS",
    "TrialTable",
    "hash_stimuli",
    "merge_stimuli",
    "read_trials",
    "stimulus_table",
    "write_stimuli",
    "write_trials",
]

TRIAL_COLUMNS: dict[str, str] = {
    "trial": "int64",
    "session_id": "str",
    "run_id": "str",
    "onset": "float64",
    "duration": "float64",
    "trial_type": "str",
    "stim_id": "str",
    "condition": "int64",
    "repetition": "int64",
    "split": "str",
    "flag": "str",
}
"""Columns of a trial table, in order, and their types."""

SPLITS = ("train", "test", "artificial", "n/a")

TRIALS_DESCRIPTION: dict[str, Any] = {
    "trial": {"Description": "Index of the trial, and of its volume or map, from 0."},
    "session_id": {"Description": "Label of the session, without ses-."},
    "run_id": {"Description": "Label of the run, without run-."},
    "onset": {"Description": "Onset of the stimulus from the start of its run.", "Units": "s"},
    "duration": {"Description": "Duration of the stimulus as modelled.", "Units": "s"},
    "trial_type": {"Description": "Category of the trial as in the events."},
    "stim_id": {"Description": "Stimulus, or condition, that was shown; the name to join files on."},
    "condition": {"Description": "Index of stim_id among the sorted distinct values of this file, from 0."},
    "repetition": {"Description": "How often the stimulus had been shown before, in order of time."},
    "split": {
        "Description": "Use of the stimulus; n/a counts as train.",
        "Levels": {"train": "models are fitted on it", "test": "held out", "artificial": "held out, not a natural stimulus"},
    },
    "flag": {"Description": "Why the estimate of this trial is unreliable; n/a where it is not."},
}
"""Sidecar content for the columns of a trial table."""

STIMULI_DESCRIPTION: dict[str, Any] = {
    "stim_id": {"Description": "Stimulus as in the trial table."},
    "stim_file": {"Description": "Its file, relative to stimuli/ of the raw dataset."},
    "sha256": {"Description": "SHA-256 of the file where it was at hand."},
}
"""Sidecar content for the columns of a stimulus table."""


@dataclass(frozen=True)
class TrialTable:
    """Trials of the runs of one fit, and what was left out of it.

    Attributes
    ----------
    trials : DataFrame
        Columns of `TRIAL_COLUMNS`; a row a modelled trial, in order of time.
    run_index : ndarray of int, shape (N,)
        Run of each trial, from 0.
    nuisance : tuple of DataFrame
        For each run, events (onset, duration, trial_type) that are modelled without a beta.
    set_aside : DataFrame
        Events that were left out: file, line, onset, reason.
    condition_column : str
        Column of the events that `stim_id` comes from.
    stim_files : mapping
        `stim_file` of the events by `stim_id`, where they have it.
    warnings : tuple of str
    """

    trials: pd.DataFrame
    run_index: NDArray[np.int64]
    nuisance: tuple[pd.DataFrame, ...]
    set_aside: pd.DataFrame
    condition_column: str
    stim_files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def write_trials(table: TrialTable | pd.DataFrame, path: str | Path) -> None:
    """Write a trial table as TSV; atomic."""
    _write(table.trials if isinstance(table, TrialTable) else table, Path(path))


def _write(frame: pd.DataFrame, path: Path) -> None:
    def cell(value: Any) -> str:
        if value is None or value != value:
            return "n/a"
        # repr, so that an onset is read back as it was
        return repr(float(value)) if isinstance(value, float) else one_line(str(value)) or "n/a"

    lines = ["\t".join(map(str, frame.columns))]
    lines += ["\t".join(map(cell, row)) for row in frame.itertuples(index=False, name=None)]
    with atomic_path(path) as temporary:
        Path(temporary).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def read_trials(path: str | Path) -> pd.DataFrame:
    """Read what `write_trials` wrote.

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter when columns are absent, numbers are not numbers, or rows are not in order.
    """
    table = read_tsv(path, required=tuple(TRIAL_COLUMNS), quoted=False)
    columns: dict[str, pd.Series] = {}
    for name in map(str, table.columns):
        dtype: Any = TRIAL_COLUMNS.get(name, "str")
        absent = "nan" if dtype == "float64" else "n/a"
        cells = pd.Series([absent if cell is None else cell for cell in table[name]], dtype="str")
        try:
            columns[name] = cells.astype(dtype)
        except (ValueError, OverflowError) as error:
            raise UnusableInputError(f"{path}{_line_of_fault(cells, table.index, dtype)}: column {name}: {error}") from error
    if columns["trial"].tolist() != list(range(len(table))):
        raise UnusableInputError(f"{path}: the column trial does not count from 0")
    return pd.DataFrame(columns)


def _line_of_fault(cells: pd.Series, lines: pd.Index, dtype: Any) -> str:
    """Line of the first cell that is not of a type, after a colon."""
    for cell, line in zip(cells, lines, strict=True):
        try:
            pd.Series([cell], dtype="str").astype(dtype)
        except (ValueError, OverflowError):
            return f":{line}"
    return ""


def hash_stimuli(stim_ids: Iterable[str]) -> str:
    """SHA-256 (hex) of the sorted distinct stimuli, for the sidecar of what was fitted on them."""
    return hashlib.sha256("\n".join(sorted(set(stim_ids))).encode("utf-8", "surrogatepass")).hexdigest()


def stimulus_table(table: TrialTable, stimuli_dir: str | Path | None) -> pd.DataFrame:
    """List the stimuli of a trial table, sorted by stim_id.

    Parameters
    ----------
    stimuli_dir : path or None
        ``stimuli/`` of the raw dataset, which may be absent: a stimulus without a file is no error.

    Returns
    -------
    DataFrame
        stim_id; stim_file, relative to `stimuli_dir` (of the events, or stim_id where a file is called so), else n/a; sha256 of the
        file where it is at hand, else n/a. A path that leads out of the folder counts as none.
    """
    root = None if stimuli_dir is None else Path(stimuli_dir)
    rows = []
    for stim_id in sorted(set(table.trials["stim_id"])):
        name = _inside(table.stim_files.get(stim_id))
        if name is None and root is not None and _is_file(root, _inside(stim_id)):
            name = _inside(stim_id)
        digest = "n/a"
        if root is not None and name is not None and _is_file(root, name):
            try:
                with open(root / name, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError:
                digest = "n/a"  # not readable by us: as if it were not at hand
        rows.append((stim_id, name or "n/a", digest))
    return pd.DataFrame(rows, columns=["stim_id", "stim_file", "sha256"], dtype="str")


def _inside(name: str | None) -> str | None:
    """The relative path, or None when it would lead out of the folder."""
    if not name or "\x00" in name or "\\" in name or PureWindowsPath(name).drive:
        return None
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts or not path.parts else str(path)


def _is_file(root: Path, name: str | None) -> bool:
    try:
        return name is not None and (root / name).is_file()
    except (OSError, ValueError):  # a name that is too long, or has characters that no file name has
        return False


def write_stimuli(stimuli: pd.DataFrame, path: str | Path) -> None:
    """Write a stimulus table as TSV; atomic."""
    _write(stimuli, Path(path))


def merge_stimuli(stimuli: pd.DataFrame, path: Path, output_dir: Path) -> None:
    """Add to a participant's table of stimuli, under the lock: jobs of other tasks, spaces and sessions write it as well."""
    with lock_file(output_dir):
        if path.exists():
            before = read_tsv(path, required=("stim_id",), quoted=False).fillna("n/a")
            stimuli = pd.concat([before[~before["stim_id"].isin(stimuli["stim_id"])], stimuli])
        write_stimuli(stimuli.sort_values("stim_id", kind="stable"), path)
