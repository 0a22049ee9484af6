"""Confound regressors of fMRIPrep: columns by name or wildcard."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.tables import parse_number, read_tsv
from conform_bids.errors import ConformError, MissingInputError, UnusableInputError

__all__ = ["count_rows", "read_confounds"]


def read_confounds(path: str | Path, patterns: Sequence[str], n_volumes: int) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Read the columns that match any of the patterns, in the order of the file.

    Parameters
    ----------
    patterns : sequence of str
        Column names; ``*``, ``?`` and ``[...]`` are wildcards.
    n_volumes : int
        Rows that there must be.

    Returns
    -------
    array : ndarray of float64, shape (n_volumes, P)
        Leading missing values (of derivatives and the like) are replaced by the mean of the column.
    names : tuple of str
        The P columns.

    Raises
    ------
    MissingInputError
        When there is no such file, or a pattern matches no column (lists the columns).
    UnusableInputError
        With file and line: another number of rows, a value that is no number, one missing after the first that is there, or a
        column without values.
    """
    table = read_tsv(path)
    columns = [str(name) for name in table.columns]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in columns):
            raise MissingInputError(f"{path}: no confound matches {pattern!r}; there are {', '.join(columns)}")
    if len(table) != n_volumes:
        raise UnusableInputError(f"{path}: {len(table)} rows, but the run has {n_volumes} volumes")
    names = tuple(name for name in columns if any(fnmatchcase(name, pattern) for pattern in patterns))
    array = np.empty((n_volumes, len(names)))
    for column, name in zip(array.T, names, strict=True):
        column[:] = _column(Path(path), name, table[name].tolist(), table.index.tolist())
    return array, names


def _column(path: Path, name: str, cells: Sequence[str | None], lines: Sequence[int]) -> NDArray[np.float64]:
    values = np.full(len(cells), np.nan)
    for row, (cell, line) in enumerate(zip(cells, lines, strict=True)):
        if cell is None or cell.lower() == "nan":
            continue
        number = parse_number(cell)
        if number is None or not np.isfinite(number):
            raise UnusableInputError(f"{path}:{line}: {name} is {cell!r}, not a number")
        values[row] = number
    present = np.flatnonzero(np.isfinite(values))
    if not len(present):
        raise UnusableInputError(f"{path}: the confound {name} has no values")
    gaps = np.flatnonzero(np.isnan(values[present[0] :]))
    if len(gaps):
        raise UnusableInputError(f"{path}:{lines[present[0] + gaps[0]]}: {name} is missing in the middle of the run")
    values[: present[0]] = values[present].mean()
    return values


def count_rows(path: str | Path) -> int | None:
    """Rows of a table of confounds; None where it cannot be read."""
    try:
        return len(read_tsv(path))
    except ConformError:
        return None
