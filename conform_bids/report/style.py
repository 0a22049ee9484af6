"""The look that all figures share, and how a figure gets onto the disk.

Figures are made by Matplotlib's objects, never by pyplot, so that no state is left behind in a worker process.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conform_bids.bids.derivatives import atomic_path

__all__ = ["ACCENT", "DPI", "FAINT", "INK", "MUTED", "PALETTE", "finish_axes", "new_figure", "short_label", "sparse_ticks"]

INK = "#1f2933"
MUTED = "#616e7c"
ACCENT = "#0b6e8a"
FAINT = "#e4e7eb"

DPI = 140

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#6b4c9a", "#8c8c8c")
"""Okabe and Ito's colours, which colour-blind readers can tell apart, without yellow and black, which a light page hides or shouts."""

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa5b1",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with Matplotlib, so every machine draws the same
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": DPI,
    "svg.fonttype": "path",
    "svg.hashsalt": "conform",  # same data, same bytes
    "text.color": INK,
    "text.parse_math": False,  # a trial type may hold a dollar sign
    "xtick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelsize": 8.5,
}


@contextmanager
def new_figure(path: Path, width: float, height: float, *, dark: bool = False, arranged: bool = True) -> Iterator[Figure]:
    """Give an empty figure, and save it under ``path`` when the block ends without an error.

    Parameters
    ----------
    path : Path
        ``.svg`` or ``.png``; its folder is made. The write is atomic.
    width, height : float
        Inches.
    dark : bool
        Dark background, for maps.
    arranged : bool
        Have Matplotlib find room for labels, which draws all twice; False where axes are put at places of their own.

    Yields
    ------
    matplotlib.figure.Figure
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    style: dict[Any, Any] = dict(_STYLE)
    if dark:
        style |= {"figure.facecolor": "#0d1117", "text.color": "#e6edf3", "axes.labelcolor": "#e6edf3", "axes.titlecolor": "#e6edf3"}
        style |= {"xtick.color": "#c9d1d9", "ytick.color": "#c9d1d9", "axes.grid": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), layout="constrained" if arranged else None)
        yield figure
        with atomic_path(path) as temporary:
            kind = path.suffix.lstrip(".")
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(temporary, format=kind, metadata=metadata)


def finish_axes(axes: Axes, xlabel: str, ylabel: str, title: str = "", *, grid: str = "y") -> None:
    """Label the axes and keep the grid to one direction (``x``, ``y``, ``both`` or ``""``)."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if title:
        axes.set_title(title)
    axes.grid(False)
    if grid:
        axes.grid(True, axis=grid)  # type: ignore[arg-type]


def short_label(text: object, length: int = 26) -> str:
    """Text fit for a figure: one line, printable, cut in the middle when long."""
    label = "".join(character if character.isprintable() else " " for character in str(text)).strip() or "(empty)"
    if len(label) <= length:
        return label
    head = math.ceil((length - 1) / 2)
    return f"{label[:head]}…{label[len(label) - (length - 1 - head) :]}"


def sparse_ticks(labels: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """Positions and labels of at most ``most`` ticks, evenly spread, the first included."""
    step = max(1, math.ceil(len(labels) / most))
    positions = list(range(0, len(labels), step))
    return positions, [labels[position] for position in positions]
