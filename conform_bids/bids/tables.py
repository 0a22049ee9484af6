"""BIDS tables (TSV) as people write them: byte-order marks, CRLF, quotes, short rows; every cell knows its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = ["one_line", "parse_number", "read_tsv"]

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?|nan", re.IGNORECASE | re.ASCII)
_MISSING = ("", "n/a", "N/A")


def parse_number(text: str) -> float | None:
    """The number that a cell holds, or None where it is text."""
    return float(text) if _NUMBER.fullmatch(text) else None


def one_line(text: str) -> str:
    """Text that may stand in a TSV cell: tabs, line breaks and other control characters become spaces."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text).strip()


def read_tsv(path: str | Path, required: Sequence[str] = (), *, quoted: bool = True) -> pd.DataFrame:
    """Read a tab-separated table as text.

    Parameters
    ----------
    required : sequence of str
        Columns that there must be.
    quoted : bool
        Whether cells may stand in quotation marks, as some programs write them; in our own tables a mark is a character.

    Returns
    -------
    DataFrame
        Cells are str, or None for ``n/a`` and empty; the index, named ``line``, is the line in the file (the header is line 1).

    Raises
    ------
    MissingInputError
        When there is no such file.
    UnusableInputError
        With file and line, when it is no table or a required column is absent.
    """
    rows = _rows(Path(path), _text(Path(path)), quoted)
    if not rows:
        raise UnusableInputError(f"{path}: empty, not even a header")
    header = [name.strip() for name in rows[0][1]]
    while len(header) > 1 and not header[-1]:
        header.pop()
    duplicates = sorted({name for name in header if header.count(name) > 1})
    if duplicates:
        raise UnusableInputError(f"{path}:{rows[0][0]}: the column {duplicates[0]!r} stands there twice")
    absent = [name for name in required if name not in header]
    if absent:
        hint = "; columns must be separated by tabs" if len(header) == 1 and re.search("[,; ]", header[0]) else ""
        raise UnusableInputError(f"{path}:{rows[0][0]}: no column {absent[0]!r}; there are {', '.join(map(repr, header))}{hint}")
    cells: list[list[str | None]] = []
    for line, fields in rows[1:]:
        values = [None if field.strip() in _MISSING else field.strip() for field in fields]
        if any(value is not None for value in values[len(header) :]):
            raise UnusableInputError(f"{path}:{line}: {len(fields)} cells, but the header names {len(header)} columns")
        cells.append((values + [None] * len(header))[: len(header)])
    index = pd.Index([line for line, _ in rows[1:]], name="line", dtype="int64")
    return pd.DataFrame(cells, columns=pd.Index(header, dtype=object), index=index, dtype=object)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingInputError(f"{path}: no such file") from error
    except OSError as error:
        raise UnusableInputError(f"{path}: cannot be read ({error.strerror})") from error
    encodings = ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "latin-1")
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" in text:
            break
        return text
    raise UnusableInputError(f"{path}: not a text file")


def _rows(path: Path, text: str, quoted: bool) -> list[tuple[int, list[str]]]:
    """Split into rows, each with the line that it begins on; blank lines are left out."""
    # a quotation mark that is never closed is just a character
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE) if quoted else (csv.QUOTE_NONE,):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=quoting, strict=True)
        rows: list[tuple[int, list[str]]] = []
        line = 1
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    rows.append((line, fields))
                line = reader.line_num + 1
        except csv.Error as error:
            reason = f"{path}:{reader.line_num}: not a table ({error})"
            continue
        return rows
    raise UnusableInputError(reason)
