"""Plots of a design: events in time, trials of each condition, onsets between frames. Each function draws one file, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from conform_bids.report.style import ACCENT, FAINT, PALETTE, finish_axes, new_figure, short_label, sparse_ticks
from conform_bids.wording import counted

__all__ = ["plot_onsets_and_repeats", "plot_raster"]


def plot_raster(
    spans: Sequence[float],
    row: NDArray[np.integer],
    onset: NDArray[np.floating],
    duration: NDArray[np.floating],
    condition: Sequence[str],
    labels: Sequence[str],
    path: Path,
) -> Path:
    """Events in time, a row a run, coloured by condition.

    Parameters
    ----------
    spans : sequence of float, length runs
        Seconds that each run lasts, drawn as a grey bar.
    row : ndarray of int, shape (events,)
        Run of each event.
    onset, duration : ndarray, shape (events,)
        Seconds.
    condition : sequence of str, length events
        Condition of each event.
    labels : sequence of str, length runs
        Names of the rows.
    path : Path
        ``.svg``.
    """
    names, code = np.unique(np.asarray([str(name) for name in condition], dtype=object).astype(str), return_inverse=True)
    n_runs = len(labels)
    height = float(np.clip(1.2 + 0.26 * n_runs, 1.9, 9.0))
    with new_figure(path, 10.0, height) as figure:
        axes = figure.add_subplot()
        axes.barh(np.arange(n_runs), spans, height=0.84, color=FAINT, linewidth=0)
        longest = max([*spans, 1.0])
        width = np.maximum(np.nan_to_num(np.asarray(duration, dtype=float)), longest / 500)
        left, bottom = np.asarray(onset, dtype=float), np.asarray(row) - 0.36
        corners = np.stack(
            [np.stack([left + dx * width, bottom + dy], axis=-1) for dx, dy in ((0, 0), (1, 0), (1, 0.72), (0, 0.72))], axis=1
        )
        colours, mapping = _condition_colours(len(names))
        if len(corners):
            dense = len(corners) > 4000
            axes.add_collection(PolyCollection(list(corners), facecolors=colours[code], edgecolors="none", rasterized=dense, zorder=3))
        axes.set_xlim(min(0.0, float(left.min()) if len(left) else 0.0), longest)
        axes.set_ylim(n_runs - 0.4, -0.6)
        ticks, shown = sparse_ticks([short_label(label) for label in labels], 30)
        axes.set_yticks(ticks, shown)
        finish_axes(axes, "Time from the start of the run (s)", "", grid="x")
        _condition_legend(figure, axes, names, colours, mapping)
    return path


def _condition_colours(n_conditions: int) -> tuple[NDArray[np.floating], object]:
    """Colours of the conditions: distinct ones for a few, a continuous map for many."""
    import matplotlib
    from matplotlib.colors import to_rgba_array

    if n_conditions <= len(PALETTE):
        return to_rgba_array(PALETTE[: max(1, n_conditions)]), None
    colours = matplotlib.colormaps["viridis"]
    scale = matplotlib.colors.Normalize(0, n_conditions - 1)
    return colours(scale(np.arange(n_conditions))), matplotlib.cm.ScalarMappable(scale, colours)


def _condition_legend(figure: Figure, axes: Axes, names: NDArray[np.str_], colours: NDArray[np.floating], mapping: object) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Patch

    if isinstance(mapping, ScalarMappable):
        figure.colorbar(mapping, ax=axes, label="Condition", pad=0.015, aspect=14)
    elif len(names):
        handles = [Patch(color=tuple(colour), label=short_label(name)) for name, colour in zip(names, colours, strict=True)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(8, len(names)), handlelength=1, columnspacing=1.4)


def plot_onsets_and_repeats(counts: Mapping[str, int], phase: NDArray[np.floating], repetition_time: float, path: Path) -> Path:
    """Trials of each condition, and how onsets lie between frames.

    Parameters
    ----------
    counts : mapping of str to int
        Trials of each condition; a bar each when there are few, else how many conditions have how many trials.
    phase : ndarray, shape (trials,)
        Seconds from the preceding frame to the onset, 0 to ``repetition_time``.
    repetition_time : float
        Seconds.
    path : Path
        ``.svg``.
    """
    few = len(counts) <= 12
    with new_figure(path, 10.0, max(2.9, 1.1 + 0.26 * len(counts)) if few else 3.2) as figure:
        left, right = figure.subplots(1, 2)
        if few:
            names, numbers = list(counts), list(counts.values())
            left.barh(np.arange(len(names)), numbers, color=ACCENT, height=0.72)
            left.set_yticks(range(len(names)), [short_label(name, 22) for name in names])
            left.invert_yaxis()
            left.xaxis.set_major_locator(MaxNLocator(integer=True))
            finish_axes(left, "Trials", "", "Trials of each condition", grid="x")
        else:
            repeats, conditions = np.unique(list(counts.values()), return_counts=True)
            left.bar(repeats, conditions, color=ACCENT, width=0.8)
            for x, y in list(zip(repeats, conditions, strict=True))[:12]:
                left.annotate(f"{y:,}", (x, y), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8.5)
            left.xaxis.set_major_locator(MaxNLocator(integer=True))
            left.yaxis.set_major_locator(MaxNLocator(integer=True))
            left.set_xlim(min(0.4, repeats.min() - 0.6), repeats.max() + 0.6)
            left.set_ylim(0, 1.12 * conditions.max(initial=1))
            finish_axes(left, "Trials of a condition", "Conditions", f"Repeats ({counted(len(counts), 'condition')})")
        edges = np.linspace(0, repetition_time, 25)
        right.hist(np.clip(phase, 0, repetition_time), edges, color=ACCENT)
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_xlim(-0.02 * repetition_time, 1.02 * repetition_time)
        finish_axes(right, f"Onset after the preceding frame (s; TR = {repetition_time:g} s)", "Trials", "Onsets on the grid of frames")
    return path
