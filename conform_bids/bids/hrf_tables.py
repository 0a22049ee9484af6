"""HRF tables on disk: the packaged library, and the user's own (``--hrf-library``, ``--assumed-hrf``)."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.numerics.hrf import PARAMETERS, HRFLibrary, library_from_parameters

__all__ = ["load_default_assumed_hrf", "load_default_library", "read_hrf_table"]

_MAX_BYTES = 50_000_000
_ASSUMED_SAMPLES = 490  # GLMsingle's assumed HRF ends at 48.9 s, which decides how many samples hrftoassume has


@cache
def _packaged() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    text = resources.files("conform_bids.numerics").joinpath("hrf_library.tsv").read_text(encoding="utf-8")
    header, *lines = [line.split("\t") for line in text.splitlines() if line]
    if tuple(header) != ("name", *PARAMETERS):
        raise RuntimeError(f"the packaged hrf_library.tsv has columns {header}")
    return tuple(line[0] for line in lines), np.array([[float(value) for value in line[1:]] for line in lines])


def load_default_library() -> HRFLibrary:
    """The packaged library: 20 double gammas, responses to a stimulus of 0.1 s, every 0.1 s over 50 s."""
    names, table = _packaged()
    kept = [row for row, name in enumerate(names) if name != "canonical"]
    return library_from_parameters(table[kept], tuple(names[row] for row in kept))


def load_default_assumed_hrf() -> HRFLibrary:
    """The HRF that is assumed where none is fitted: one curve as those of the library, but ending at 48.9 s."""
    names, table = _packaged()
    return library_from_parameters(table[names.index("canonical")], ("canonical",), _ASSUMED_SAMPLES)


def read_hrf_table(path: Path, repetition_time: float) -> HRFLibrary:
    """Read a user's HRF library.

    Parameters
    ----------
    path : Path
        A table, columns separated by tabs (or spaces, where there is no tab). With a header that has a column ``time``
        (s, from 0, uniform step): every other column is the response to a brief stimulus. With numbers only: a column
        an HRF, sampled at the repetition time and convolved with the stimulus already, as GLMsingle's ``hrflibrary``.
    repetition_time : float
        Step (s) of a table without a time column.

    Raises
    ------
    MissingInputError
        When there is no such file.
    UnusableInputError
        Naming the file and the line: not a number, rows of unequal length, a curve without a positive peak, times that
        do not start at 0 or are not uniform.
    """
    lines = _read_lines(path)
    number, cells = lines[0]
    header = None if all(_is_number(cell) for cell in cells) else cells
    if header is not None and "time" not in header:
        raise UnusableInputError(f"{path}: line {number}: the header {header[:6]} has no column `time`; name it, or give numbers only")
    rows = lines if header is None else lines[1:]
    if len(rows) < 2:
        raise UnusableInputError(f"{path}: line {rows[-1][0] if rows else number}: an HRF needs two samples at least")
    values = _parse_rows(path, rows, len(cells))
    names: tuple[str, ...] = ()
    if header is None:
        step, curves = float(repetition_time), values
    else:
        step, curves, names = _split_time(path, header, values, [row_number for row_number, _ in rows])
    for column, peak in enumerate(curves.max(axis=0)):
        if not peak > 0:
            where = f"column {header.index(names[column]) + 1 if header else column + 1}"
            raise UnusableInputError(f"{path}: lines {rows[0][0]} to {rows[-1][0]}: the HRF in {where} has no positive peak")
    return HRFLibrary(curves, step, convolved=header is None, names=names)


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    if not path.is_file():
        raise MissingInputError(f"{path}: there is no such HRF table")
    if path.stat().st_size > _MAX_BYTES:
        raise UnusableInputError(f"{path}: {path.stat().st_size / 1e6:.0f} MB is too large for an HRF table")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableInputError(f"{path}: not a text table: {error}") from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            cells = line.split("\t") if "\t" in line else line.split()
            lines.append((number, [cell.strip() for cell in cells]))
    if not lines:
        raise UnusableInputError(f"{path}: line 1: the HRF table is empty")
    return lines


def _is_number(cell: str) -> bool:
    # "nan" and "n/a" are bad numbers of a table without a header, and not names of columns
    try:
        float(cell)
    except ValueError:
        return cell.lower() in ("n/a", "na", "")
    return True


def _parse_rows(path: Path, rows: list[tuple[int, list[str]]], n_columns: int) -> NDArray[np.float64]:
    values = np.empty((len(rows), n_columns))
    for row, (number, cells) in enumerate(rows):
        if len(cells) != n_columns:
            raise UnusableInputError(f"{path}: line {number}: {len(cells)} columns where the first line has {n_columns}")
        for column, cell in enumerate(cells):
            try:
                value = float(cell)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise UnusableInputError(f"{path}: line {number}: column {column + 1}: {cell!r} is not a finite number")
            values[row, column] = value
    return values


def _split_time(
    path: Path, header: list[str], values: NDArray[np.float64], numbers: list[int]
) -> tuple[float, NDArray[np.float64], tuple[str, ...]]:
    column = header.index("time")
    names = tuple(name for position, name in enumerate(header) if position != column)
    if not names:
        raise UnusableInputError(f"{path}: line {numbers[0] - 1}: there is no HRF beside the column `time`")
    if len(set(header)) < len(header):
        raise UnusableInputError(f"{path}: line {numbers[0] - 1}: two columns have the same name")
    times = values[:, column]
    step = (times[-1] - times[0]) / (len(times) - 1)
    if abs(times[0]) > 1e-6:
        raise UnusableInputError(f"{path}: line {numbers[0]}: the first time is {times[0]:g} s, and has to be 0")
    if not step > 0:
        raise UnusableInputError(f"{path}: line {numbers[-1]}: the times do not rise")
    off_grid = np.abs(times - np.arange(len(times)) * step) > 1e-3 * step
    if off_grid.any():
        row = int(np.argmax(off_grid))
        raise UnusableInputError(f"{path}: line {numbers[row]}: time {times[row]:g} s is not on a uniform step of {step:g} s")
    return float(step), np.delete(values, column, axis=1), names
