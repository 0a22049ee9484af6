"""Reports: one self-contained HTML page, with its figures inside, no script, and nothing fetched from elsewhere.

A page is made of sections; a section of items: text, tables, figures, key numbers, notes, references, and further sections.
All text is escaped by Jinja2; images are embedded as data, so that an SVG can neither run a script nor clash with another.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from conform_bids.bids.derivatives import atomic_path
from conform_bids.report.citations import Reference, cite_inline, list_references

__all__ = [
    "Cell",
    "Facts",
    "Figure",
    "Item",
    "Link",
    "Note",
    "Number",
    "References",
    "Section",
    "Table",
    "Text",
    "make_anchor",
    "write_page",
]

_MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Link:
    """A link to a page beside this one, or to a section (``#anchor``)."""

    text: str
    href: str


@dataclass(frozen=True)
class Number:
    """A number shown with this many decimals, so that those of a column line up; n/a where it is not finite."""

    value: float
    decimals: int

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "n/a"
        return f"{round(self.value, self.decimals) + 0.0:,.{self.decimals}f}"  # adding zero turns -0 into 0


Cell = str | float | int | Link | Number


@dataclass(frozen=True)
class Figure:
    """An image with its caption.

    Attributes
    ----------
    path : Path
        ``.svg`` or ``.png``; where it is missing the page says so.
    caption : str
        What to look for, and what is abnormal.
    alt : str
        What is to be seen, for readers who cannot.
    title : str
        Heading of the figure.
    """

    kind: ClassVar[str] = "figure"

    path: Path
    caption: str
    alt: str
    title: str = ""

    @property
    def data(self) -> str:
        """The image as a data URI; empty where the file is missing or of another type."""
        media = _MEDIA_TYPES.get(self.path.suffix.lower())
        if media is None or not self.path.is_file():
            return ""
        return f"data:{media};base64,{base64.b64encode(self.path.read_bytes()).decode('ascii')}"


@dataclass(frozen=True)
class Table:
    """A table; a cell is text, a number, or a `Link`. Numbers, and the heads of columns of numbers, are set to the right."""

    kind: ClassVar[str] = "table"

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """(text, stands over numbers) of each column."""
        cells = self.cells
        numeric = [
            [row[place][2] for row in cells if place < len(row) and row[place][0] not in ("", "n/a")] for place in range(len(self.columns))
        ]
        return [(name, bool(found) and all(found)) for name, found in zip(self.columns, numeric, strict=True)]

    @property
    def cells(self) -> list[list[tuple[str, str, bool]]]:
        """(text, href, is a number) of each cell."""
        return [[_cell(value) for value in row] for row in self.rows]


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines; ``[@key]`` becomes a citation, ``**words**`` are set in bold, ``#`` lines are headings."""

    kind: ClassVar[str] = "text"

    text: str

    @property
    def paragraphs(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """(``h`` or ``p``, runs of text that are bold or not) of each paragraph."""
        blocks = [block.strip() for block in re.split(r"\n\s*\n", cite_inline(self.text)) if block.strip()]
        return [("h" if block.startswith("#") else "p", _runs(block.lstrip("# "))) for block in blocks]


@dataclass(frozen=True)
class Facts:
    """Key numbers, side by side: (name, value, remark)."""

    kind: ClassVar[str] = "facts"

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Note:
    """Something the reader should not miss."""

    kind: ClassVar[str] = "note"

    text: str


@dataclass(frozen=True)
class References:
    """The list of references cited under these keys."""

    kind: ClassVar[str] = "references"

    keys: Sequence[str]

    @property
    def entries(self) -> list[Reference]:
        """The references, by first author and year."""
        return list_references(self.keys)


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Attributes
    ----------
    title : str
    anchor : str
        Target of links within the page; `make_anchor` makes one of any text.
    items : sequence of Item
        May hold further sections.
    folded : bool
        Whether the reader has to open it.
    """

    kind: ClassVar[str] = "section"

    title: str
    anchor: str
    items: Sequence[Item] = field(default_factory=tuple)
    folded: bool = False

    @property
    def sections(self) -> list[Section]:
        """The sections directly within."""
        return [item for item in self.items if isinstance(item, Section)]


Item = Figure | Table | Text | Facts | Note | References | Section


def make_anchor(*parts: str) -> str:
    """An anchor of letters, digits and dashes."""
    return re.sub(r"[^0-9A-Za-z]+", "-", "-".join(parts)).strip("-").lower() or "section"


def _cell(value: Cell) -> tuple[str, str, bool]:
    if isinstance(value, Link):
        return value.text, value.href if value.href.startswith("#") else quote(value.href), False
    if isinstance(value, Number):
        return str(value), "", True
    if isinstance(value, bool | str):
        return str(value), "", False
    if isinstance(value, float):
        return ("n/a" if value != value else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"), "", True
    return f"{value:,}", "", True


def _runs(text: str) -> list[tuple[str, bool]]:
    return [(part, number % 2 == 1) for number, part in enumerate(text.split("**")) if part]


def write_page(
    path: Path,
    *,
    title: str,
    subtitle: str,
    sections: Iterable[Section],
    about: Mapping[str, str],
    errors: Sequence[str],
) -> Path:
    """Write a report.

    Parameters
    ----------
    path : Path
        ``.html``; written atomically.
    title, subtitle : str
        Heading, and the line under it.
    sections : iterable of Section
        In order; each is a link in the navigation, as are the sections directly within it.
    about : mapping
        Versions, times, the command line: a table at the end.
    errors : sequence of str
        What went wrong; shown on top and at the end. Empty: the page says that nothing did.

    Returns
    -------
    Path
        ``path``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("conform_bids.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = environment.get_template("template.html").render(
        title=title, subtitle=subtitle, sections=list(sections), about=dict(about), errors=list(errors)
    )
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="replace")
    return path
