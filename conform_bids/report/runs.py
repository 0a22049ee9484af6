"""Plots by run: distributions side by side, responses over the course of a fit, resemblance of trials. Each draws one file, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from conform_bids.report.outliers import deviating
from conform_bids.report.style import ACCENT, FAINT, INK, MUTED, PALETTE, finish_axes, new_figure, short_label, sparse_ticks

__all__ = ["RunPanel", "plot_collinearity", "plot_course", "plot_runs"]

_ODD = PALETTE[5]
_SHOWN_TRIALS = 120
_TOP_INFLATION = 100.0


@dataclass(frozen=True)
class RunPanel:
    """One quantity in every run.

    Attributes
    ----------
    label : str
        Quantity and unit.
    rows : sequence of array_like
        Values of each run; those that are not finite are left out.
    side : str
        Which way is bad: ``low``, ``high`` or ``both``; runs far out that way stand out in colour.
    line : float, optional
        A value to compare with.
    """

    label: str
    rows: Sequence[ArrayLike]
    side: str = "low"
    line: float | None = None


def plot_runs(panels: Sequence[RunPanel], labels: Sequence[str], path: Path) -> Path:
    """A row a quantity, a box a run: median, quartiles, and the 5th and 95th percentiles.

    Parameters
    ----------
    panels : sequence of RunPanel
        One or more.
    labels : sequence of str, length runs
        Names of the runs.
    path : Path
        ``.svg``.
    """
    with new_figure(path, 9.0, 1.0 + 1.45 * len(panels)) as figure:
        stacked = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(stacked, panels, strict=True):
            _draw_boxes(axes, panel)
            finish_axes(axes, "", panel.label)
        ticks, names = sparse_ticks([short_label(label, 16) for label in labels], 24)
        turned = sum(map(len, names)) > 90
        stacked[-1].set_xticks(ticks, names, rotation=35 if turned else 0, ha="right" if turned else "center")
        stacked[-1].set_xlim(-0.6, max(len(labels), 1) - 0.4)
        figure.align_ylabels(list(stacked))
    return path


def _draw_boxes(axes: Axes, panel: RunPanel) -> None:
    values = [np.asarray(row, dtype=float)[np.isfinite(np.asarray(row, dtype=float))] for row in panel.rows]
    spread = np.array([np.percentile(row, [5, 25, 50, 75, 95]) if row.size else np.full(5, np.nan) for row in values]).reshape(-1, 5)
    odd = deviating(spread[:, 2], panel.side)
    for position, (p5, p25, p50, p75, p95) in enumerate(spread):
        colour = _ODD if odd[position] else ACCENT
        axes.plot([position] * 2, [p5, p95], color=colour, linewidth=1.2, alpha=0.7)
        axes.bar(position, p75 - p25, bottom=p25, width=0.55, color=colour, alpha=0.35)
        axes.plot([position - 0.275, position + 0.275], [p50] * 2, color=colour, linewidth=2.2)
    if panel.line is not None:
        axes.axhline(panel.line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def plot_course(
    means: NDArray[np.floating], run: NDArray[np.integer], labels: Sequence[str], path: Path, *, ylabel: str, odd: NDArray[np.bool_]
) -> Path:
    """A dot a trial in the order of acquisition, a line a run at its mean; runs that deviate in orange.

    Parameters
    ----------
    means : ndarray, shape (trials,)
        A number a trial.
    run : ndarray of int, shape (trials,)
        Run of each trial, ascending.
    labels : sequence of str, length runs
        Names of the runs.
    odd : ndarray of bool, shape (runs,)
        Runs that stand out.
    """
    with new_figure(path, 10.0, 3.2) as figure:
        axes = figure.add_subplot()
        position = np.arange(len(means))
        finite = means[np.isfinite(means)]
        dense = len(means) > 1500
        axes.axhline(0, color=MUTED, linewidth=0.8)
        colours = np.where(odd[run], _ODD, "#8fb8c6")
        axes.scatter(position, means, s=6 if dense else 14, color=colours, linewidths=0, rasterized=dense, zorder=2)
        ticks, names, middles = [], [], []
        for index, label in enumerate(labels):
            members = np.flatnonzero(run == index)
            if not len(members):
                continue
            start, stop = members[0] - 0.5, members[-1] + 0.5
            if index % 2 == 0:
                axes.axvspan(start, stop, color=FAINT, alpha=0.55, linewidth=0, zorder=0)
            if np.isfinite(means[members]).any():
                mean = float(np.nanmean(means[members]))
                middles.append(mean)
                axes.plot([start, stop], [mean, mean], color=_ODD if odd[index] else INK, linewidth=2.2, zorder=3)
            ticks.append((start + stop) / 2)
            names.append(short_label(label, 16))
        kept, shown = sparse_ticks(names, 16)
        turned = sum(map(len, shown)) > 100
        axes.set_xticks([ticks[place] for place in kept], shown, rotation=35 if turned else 0, ha="right" if turned else "center")
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.5, max(len(means), 1) - 0.5)
        if finite.size:
            axes.axhline(float(np.median(middles)), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="median of the runs")
            low, high = np.percentile(finite, [0.5, 99.5])
            margin = 0.15 * max(high - low, 1e-9)
            axes.set_ylim(min(0.0, low) - margin, max(0.0, high) + margin)
            axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.995), borderpad=0, borderaxespad=0.4)
        finish_axes(axes, "Trials in the order of acquisition", ylabel)
    return path


def plot_collinearity(
    correlation: NDArray[np.floating],
    shown: str,
    by_distance: NDArray[np.floating],
    inflation: Sequence[ArrayLike],
    labels: Sequence[str],
    path: Path,
) -> Path:
    """How alike the regressors of trials are: a matrix, the correlation against the distance of trials, variance inflation by run.

    Parameters
    ----------
    correlation : ndarray, shape (trials, trials)
        Of one run; the first 120 trials are drawn.
    shown : str
        Name of that run.
    by_distance : ndarray, shape (runs, distances)
        Mean correlation of trials that are 1, 2, ... apart.
    inflation : sequence of array_like
        Variance inflation of each run's trials; what is above 100, infinite ones included, is drawn at 100.
    labels : sequence of str, length runs
        Names of the runs.
    path : Path
        ``.svg``.
    """
    import matplotlib
    from matplotlib.colors import Normalize

    with new_figure(path, 10.5, 3.3) as figure:
        matrix, curve, boxes = figure.subplots(1, 3, width_ratios=(1.15, 0.85, 1.3))
        part = correlation[:_SHOWN_TRIALS, :_SHOWN_TRIALS]
        if len(part):
            extent = (0.5, len(part) + 0.5, len(part) + 0.5, 0.5)
            matrix.imshow(part, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", extent=extent)
            scale = matplotlib.cm.ScalarMappable(Normalize(-1, 1), "RdBu_r")
            figure.colorbar(scale, ax=matrix, label="Correlation (r)", ticks=[-1, -0.5, 0, 0.5, 1], shrink=0.86, pad=0.03)
        matrix.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        matrix.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        finish_axes(matrix, "Trial", "Trial", f"Regressors, {short_label(shown, 18)}", grid="")
        distance = np.arange(1, by_distance.shape[1] + 1)
        for row in by_distance:
            curve.plot(distance, row, color="#b8c4ce", linewidth=1)
        known = np.isfinite(by_distance)
        total = np.where(known, by_distance, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
        curve.plot(distance, total, color=INK, marker="o", markersize=4.5, markerfacecolor="white")
        curve.axhline(0, color=MUTED, linewidth=0.8)
        curve.xaxis.set_major_locator(MaxNLocator(integer=True))
        curve.set_ylim(min(-0.5, np.nanmin(total, initial=0.0) - 0.1), 1)
        finish_axes(curve, "Trials apart", "Mean correlation (r)", "By distance")
        _draw_inflation(boxes, inflation, labels)
    return path


def _draw_inflation(axes: Axes, inflation: Sequence[ArrayLike], labels: Sequence[str]) -> None:
    """Dots where there are few trials and runs, boxes otherwise, on a logarithmic axis."""
    capped = [np.clip(np.nan_to_num(np.asarray(row, dtype=float), nan=_TOP_INFLATION), 1, _TOP_INFLATION) for row in inflation]
    total = sum(len(row) for row in capped)
    for place, row in enumerate(capped):
        if total <= 1500:
            offset = 0.5 * ((np.arange(len(row)) * 0.618034) % 1.0 - 0.5)  # a fixed spread, not a random one
            axes.scatter(place + offset, row, s=9, color=np.where(row >= 10, _ODD, ACCENT), alpha=0.7, linewidths=0)
        elif len(row):
            p5, p25, p75, p95 = np.percentile(row, [5, 25, 75, 95])
            axes.plot([place] * 2, [p5, p95], color=ACCENT, linewidth=1.2)
            axes.plot([place] * 2, [p25, p75], color=ACCENT, linewidth=5, alpha=0.4)
        if len(row):
            axes.plot([place - 0.3, place + 0.3], [np.median(row)] * 2, color=INK, linewidth=1.8, zorder=3)
    axes.axhline(10, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    top = max((float(row.max()) for row in capped if len(row)), default=1.0)
    axes.set_ylim(0.9, max(14.0, 1.3 * top))
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= max(14.0, 1.3 * top)]
    axes.set_yticks(ticks, ["100+" if tick == _TOP_INFLATION else str(tick) for tick in ticks])
    axes.minorticks_off()
    places, names = sparse_ticks([short_label(label, 14) for label in labels], 8)
    turned = sum(map(len, names)) > 45
    axes.set_xticks(places, names, rotation=35 if turned else 0, ha="right" if turned else "center")
    finish_axes(axes, "", "Variance inflation of a trial", "Collinearity by run")
