"""Tables of stimuli: what a person saw, what it is called across datasets, and what may be fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from conform_bids.bids.splits import HELD_OUT, check_split, read_split
from conform_bids.bids.tables import read_tsv
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = [
    "CONDITIONS_DESCRIPTION",
    "FIRST_TRIAL",
    "first_shown",
    "number_conditions",
    "read_conditions",
    "read_rows",
    "with_content",
    "with_split",
]

CONDITIONS_DESCRIPTION: dict[str, Any] = {
    "condition": {"Description": "Index of the stimulus, and of its volume or map, from 0; sorted by stim_id."},
    "stim_id": {"Description": "Stimulus that was shown; the name to join files of a dataset on."},
    "n_trials": {"Description": "Trials that were averaged."},
    "split": {
        "Description": "Use of the stimulus; n/a counts as train.",
        "Levels": {"train": "models are fitted on it", "test": "held out", "artificial": "held out, not a natural stimulus"},
    },
    "content_id": {"Description": "SHA-256 of the stimulus' file; n/a where it was not at hand. Stimuli are shared where it is the same."},
}
FIRST_TRIAL: dict[str, Any] = {"Description": "Index of its first trial among the person's trials, from 0, in order of time."}
"""The column ``first_trial``, which not every table has."""
COLUMNS = tuple(CONDITIONS_DESCRIPTION)


def read_rows(path: Path, settings_split: str | None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table of some responses: stim_id, split, n_trials (1 for single trials), usable; and the names of its columns.

    Raises
    ------
    MissingInputError, UnusableInputError
        Naming the file, when it cannot be read, or the column that ``--split`` names is not there.
    """
    table = read_tsv(path, required=("stim_id",), quoted=False)
    lines = table.index
    column = "split" if settings_split is None else settings_split
    names = tuple(map(str, table.columns))
    if column in names:
        split = [
            check_split(path, line, None if cell in (None, "n/a") else str(cell)) for line, cell in zip(lines, table[column], strict=True)
        ]
    else:
        split = ["n/a"] * len(table)
    if table["stim_id"].isna().any():
        raise UnusableInputError(f"{path}: a row has no stim_id")
    flags = table["flag"] if "flag" in names else pd.Series(["n/a"] * len(table), index=lines)
    try:
        counts = table["n_trials"].astype(float) if "n_trials" in names else pd.Series(1.0, index=lines)
    except (TypeError, ValueError) as error:
        raise UnusableInputError(f"{path}: column n_trials: {error}") from error
    rows = pd.DataFrame({"stim_id": table["stim_id"].astype(str), "split": split, "n_trials": counts})
    rows["usable"] = flags.isna() | (flags == "n/a")
    return rows.reset_index(drop=True), names


def with_split(rows: pd.DataFrame, split: str | None, columns: Sequence[str]) -> pd.DataFrame:
    """Give rows the split of ``--split FILE``; a stimulus that is held out in some rows is held out in all.

    Raises
    ------
    MissingInputError
        When it is neither a column nor a file.
    """
    if split is not None and split not in columns:
        if not Path(split).is_file():
            raise MissingInputError(
                f"--split: {split!r} is neither a file nor a column of the trial tables; they have {', '.join(columns)}"
            )
        of = read_split(Path(split))
        rows = rows.assign(split=[of.get(stim_id, "n/a") for stim_id in rows["stim_id"]])
    held = {stim_id: value for stim_id, value in zip(rows["stim_id"], rows["split"], strict=True) if value in HELD_OUT}
    return rows.assign(split=[held.get(stim_id, value) for stim_id, value in zip(rows["stim_id"], rows["split"], strict=True)])


def with_content(conditions: pd.DataFrame, stimuli: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add ``content_id`` to conditions, and give the rows of the participant's table of stimuli for them."""
    wanted = pd.DataFrame({"stim_id": conditions["stim_id"]})
    if stimuli is None:
        table = wanted.assign(stim_file="n/a", sha256="n/a")
    else:
        known = read_tsv(stimuli, required=("stim_id",), quoted=False).fillna("n/a").drop_duplicates("stim_id")
        known = known.reindex(columns=["stim_id", "stim_file", "sha256"])
        table = wanted.merge(known, on="stim_id", how="left").fillna("n/a")
    return conditions.assign(content_id=table["sha256"].tolist()), table


def first_shown(tables: Sequence[Path]) -> dict[str, int] | None:
    """Place of each stimulus' first trial in the order of time, from 0; None where the tables do not say.

    Parameters
    ----------
    tables : sequence of Path
        One that has a row a condition, with ``first_trial``; or trial tables, one a session, in order of time.

    Raises
    ------
    UnusableInputError
        Naming the file, when places are no numbers.
    """
    first: dict[str, int] = {}
    n_before = 0
    for path in tables:
        table = read_tsv(path, required=("stim_id",), quoted=False)
        if "first_trial" not in table.columns and "trial" not in table.columns:
            return None
        try:
            places = table["first_trial"].astype(int) if "first_trial" in table.columns else range(n_before, n_before + len(table))
            for stim_id, place in zip(table["stim_id"].astype(str), places, strict=True):
                first[stim_id] = min(int(place), first.get(stim_id, int(place)))
        except (TypeError, ValueError) as error:
            raise UnusableInputError(f"{path}: column first_trial: {error}") from error
        n_before += len(table)
    return first


def read_conditions(path: Path) -> pd.DataFrame:
    """Read a table that was prepared.

    Raises
    ------
    MissingInputError, UnusableInputError
        Naming the file.
    """
    table = read_tsv(path, required=COLUMNS, quoted=False).fillna("n/a").reset_index(drop=True)
    try:
        return table.astype({"condition": "int64", "n_trials": "int64"})
    except (TypeError, ValueError) as error:
        raise UnusableInputError(f"{path}: {error}") from error


def number_conditions(stim_ids: Sequence[str], counts: Sequence[int], split_of: Mapping[str, str]) -> pd.DataFrame:
    """A table of conditions in the order given."""
    return pd.DataFrame(
        {
            "condition": range(len(stim_ids)),
            "stim_id": list(stim_ids),
            "n_trials": [int(count) for count in counts],
            "split": [split_of[stim_id] for stim_id in stim_ids],
        }
    )
