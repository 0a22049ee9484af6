"""Figures of the report of a store: who has how many trials on which side, and stimuli that are the same, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from conform_bids.report.style import ACCENT, FAINT, INK, MUTED, PALETTE, finish_axes, new_figure, short_label
from conform_bids.stimuli.identity import read_thumbnail

__all__ = ["CRITERIA", "SIDE_COLOURS", "SameStimuli", "plot_same_stimuli", "plot_trials"]

SIDE_COLOURS = {"train": ACCENT, "test": PALETTE[1], "artificial": PALETTE[3]}
"""Of the sides of a split."""
CRITERIA = {"file": "file", "pixels": "pixels", "perceptual": "perceptual hash", "embedding": "place among features", "name": "name"}
"""What of two stimuli is the same, or nearly, in words."""
MOST_ROWS = 60


def plot_trials(trials: pd.DataFrame, path: Path) -> Path:
    """Bars of the trials of each participant by side of the split; of each dataset, where there are more than 60 participants.

    Parameters
    ----------
    trials : DataFrame
        participant_id, dataset, split; a row a trial.
    path : Path
        ``.svg``.
    """
    by = "participant_id" if trials["participant_id"].nunique() <= MOST_ROWS else "dataset"
    counts = trials.groupby([by, "split"], sort=False).size().unstack(fill_value=0)
    rows = np.arange(len(counts))[::-1]
    with new_figure(path, 9.0, 1.1 + 0.26 * len(counts)) as figure:
        axes = figure.add_subplot()
        left = np.zeros(len(counts))
        for side, colour in SIDE_COLOURS.items():
            if side in counts:
                axes.barh(rows, counts[side], left=left, height=0.72, color=colour, label=side)
                left += counts[side].to_numpy()
        axes.set_yticks(rows, [short_label(name, 34) for name in counts.index])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(-0.6, len(counts) - 0.4)
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.995), ncols=3, borderpad=0, handlelength=1.2)
        finish_axes(axes, "Trials", "", grid="x")
    return path


@dataclass(frozen=True)
class SameStimuli:
    """Stimuli that are the same, or nearly.

    Attributes
    ----------
    content_id, found_by : str
        What they are called together, and the criteria that find any two of them.
    split : str
        Side of all.
    names : tuple of str
        ``dataset: stim_id`` of each.
    marks : tuple of str
        What its dataset says of each.
    files : tuple of Path or None
        Image of each, where it is at hand.
    """

    content_id: str
    found_by: str
    split: str
    names: tuple[str, ...]
    marks: tuple[str, ...]
    files: tuple[Path | None, ...]


MOST_MEMBERS = 6


def plot_same_stimuli(groups: Sequence[SameStimuli], path: Path) -> Path:
    """Groups of the same stimuli, a row each; at most six of a group.

    Parameters
    ----------
    groups : sequence of SameStimuli
        Not empty.
    path : Path
        ``.png``.
    """
    columns = max(2, min(MOST_MEMBERS, max(len(group.names) for group in groups)))
    with new_figure(path, 1.7 + 1.3 * columns, 1.6 * len(groups)) as figure:
        engine = figure.get_layout_engine()
        if isinstance(engine, ConstrainedLayoutEngine):
            engine.set(h_pad=0.07, w_pad=0.06)
        grid = figure.add_gridspec(len(groups), columns + 1, width_ratios=[1.3, *[1.0] * columns])
        for row, group in enumerate(groups):
            _describe(figure.add_subplot(grid[row, 0]), group)
            for column, (name, mark, file) in enumerate(zip(group.names, group.marks, group.files, strict=True)):
                if column < columns:
                    _show(figure.add_subplot(grid[row, column + 1]), name, mark, file)
    return path


def _describe(axes: Axes, group: SameStimuli) -> None:
    axes.set_axis_off()
    more = len(group.names) - MOST_MEMBERS
    axes.text(0, 0.86, group.split, transform=axes.transAxes, fontweight="bold", fontsize=10, color=SIDE_COLOURS.get(group.split, INK))
    lines = [f"same {CRITERIA.get(name, name)}" for name in group.found_by.split(", ")]
    lines += [f"{more} more not shown"] if more > 0 else []
    axes.text(0, 0.76, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8.5, color=MUTED, linespacing=1.4)


def _show(axes: Axes, name: str, mark: str, file: Path | None) -> None:
    image = None if file is None else read_thumbnail(file)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    if image is None:
        axes.set_facecolor(FAINT)
        axes.set_aspect("equal")
        axes.text(0.5, 0.5, "no image", transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=8)
    else:
        axes.imshow(image, interpolation="antialiased")
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(SIDE_COLOURS.get(mark, MUTED))
        spine.set_linewidth(2.2 if mark in SIDE_COLOURS else 0.8)
    axes.set_title(short_label(name, 24), fontsize=8, fontweight="normal", loc="center", pad=4)
    axes.set_xlabel(f"marked {mark}" if mark != "n/a" else "no mark", fontsize=7.5, labelpad=3, color=MUTED)
