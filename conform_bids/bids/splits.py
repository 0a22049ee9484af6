"""Train and test stimuli, as a table of the user's or a column says; the same in every app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from conform_bids.bids.tables import one_line, read_tsv
from conform_bids.bids.trials import SPLITS
from conform_bids.errors import UnusableInputError

__all__ = ["HELD_OUT", "check_split", "read_split", "split_warnings"]

HELD_OUT = ("test", "artificial")
"""Splits that nothing is fitted on."""


def read_split(path: Path) -> dict[str, str]:
    """Split of each stimulus, from a TSV with columns stim_id and split.

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter with file and line, for an unknown split or a stimulus in two of them.
    """
    table = read_tsv(path, required=("stim_id", "split"))
    split_of: dict[str, str] = {}
    for line, stim_id, value in zip(table.index, table["stim_id"], table["split"], strict=True):
        if stim_id is None:
            continue
        name = one_line(stim_id)
        if split_of.setdefault(name, check_split(path, line, value)) != (value or "n/a"):
            raise UnusableInputError(f"{path}:{line}: {stim_id!r} stands there twice, as {split_of[name]} and as {value or 'n/a'}")
    return split_of


def check_split(path: Path, line: int, value: str | None) -> str:
    """The split that a cell holds; ``n/a`` where it is empty.

    Raises
    ------
    UnusableInputError
        With file and line, when it is none of `SPLITS`.
    """
    if value is not None and value not in SPLITS:
        raise UnusableInputError(f"{path}:{line}: split is {value!r}, not one of {', '.join(SPLITS)}")
    return value or "n/a"


def split_warnings(frame: pd.DataFrame, split_of: dict[str, str] | None) -> Iterator[str]:
    """What is odd about the split of a trial table; ``split_of`` is the file's, where there is one."""
    by_stimulus = frame.groupby("stim_id", sort=True)["split"].nunique()
    mixed = by_stimulus.index[by_stimulus > 1].tolist()
    if mixed:
        yield f"split: {len(mixed)} stimuli are in more than one split (such as {mixed[0]!r}); what is tested on them is not new"
    absent = set(frame["stim_id"]) - set(split_of) if split_of is not None else set()
    if absent:
        yield f"split: {len(absent)} stimuli are not in the split file (such as {min(absent)!r}); they count as train"
