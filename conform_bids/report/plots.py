"""Plots of numbers: distributions, histograms, curves. Each function draws one file, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from conform_bids.report.outliers import standing_out
from conform_bids.report.style import ACCENT, FAINT, INK, MUTED, PALETTE, finish_axes, new_figure, short_label

__all__ = [
    "plot_curve",
    "plot_curves_by_share",
    "plot_distributions",
    "plot_histogram",
    "plot_strips",
]


def plot_histogram(
    values: ArrayLike,
    path: Path,
    *,
    xlabel: str,
    ylabel: str = "Units",
    title: str = "",
    bins: int | Sequence[float] = 50,
    subset: ArrayLike | None = None,
    names: tuple[str, str] = ("all", "subset"),
) -> Path:
    """Histogram of finite values, in percent of them, with that of a subset drawn over it.

    Parameters
    ----------
    values : array_like, shape (n,)
        Values; those that are not finite are left out.
    path : Path
        ``.svg``.
    xlabel, ylabel, title : str
        Labels; ``ylabel`` says what is counted.
    bins : int or sequence of float
        Number of bins, or their edges.
    subset : array_like of bool, shape (n,), optional
        Members of the subset.
    names : tuple of str
        Legend of all and of the subset.
    """
    data = np.asarray(values, dtype=float).ravel()
    finite = np.isfinite(data)
    groups = [(finite, names[0], "#b8c4ce")]
    if subset is not None:
        groups.append((finite & np.asarray(subset, dtype=bool).ravel(), names[1], ACCENT))
    with new_figure(path, 8.0, 3.2) as figure:
        axes = figure.add_subplot()
        edges = np.histogram_bin_edges(data[finite], bins) if finite.any() else np.linspace(0, 1, 11)
        for position, (members, name, colour) in enumerate(groups):
            share = 100 * np.histogram(data[members], edges)[0] / max(1, members.sum())
            if position:
                axes.stairs(share, edges, color=colour, linewidth=1.8, label=f"{name} (n = {members.sum():,})")
            else:
                axes.stairs(share, edges, color=colour, fill=True, label=f"{name} (n = {members.sum():,})")
        axes.legend(loc="best")
        finish_axes(axes, xlabel, f"{ylabel} (%)", title)
    return path


def plot_curve(
    x: ArrayLike,
    y: ArrayLike,
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    chosen: float | None = None,
    note: str = "",
    band: ArrayLike | None = None,
    remark: str = "",
) -> Path:
    """Curve over whole numbers, with the choice marked by a line and its value.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Whole numbers, and the values.
    chosen : float, optional
        Where the line is drawn, with ``note`` behind its number.
    band : array_like, shape (n,), optional
        Standard error of ``y``, drawn above and below it.
    remark : str
        Written over the plot, at the right.
    """
    abscissa, ordinate = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    with new_figure(path, 8.0, 3.2) as figure:
        axes = figure.add_subplot()
        if band is not None and np.isfinite(np.asarray(band, dtype=float)).any():
            error = np.nan_to_num(np.asarray(band, dtype=float))
            axes.fill_between(
                abscissa, ordinate - error, ordinate + error, color=ACCENT, alpha=0.18, linewidth=0, label="± standard error over runs"
            )
            _legend_above(axes)
        axes.plot(abscissa, ordinate, color=INK, marker="o", markersize=4.5, markerfacecolor="white", zorder=3)
        if chosen is not None:
            axes.axvline(chosen, color=PALETTE[5], linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
            height = np.interp(chosen, abscissa, ordinate)
            axes.plot([chosen], [height], marker="o", markersize=8, color=PALETTE[5], zorder=4)
            right = len(abscissa) > 1 and chosen > abscissa.mean()
            axes.annotate(
                f"chosen: {chosen:g}{note}",
                (chosen, 0.04),
                xycoords=("data", "axes fraction"),
                xytext=(-6 if right else 6, 0),
                textcoords="offset points",
                ha="right" if right else "left",
                color=PALETTE[5],
                fontweight="bold",
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.04, y=0.12)
        finish_axes(axes, xlabel, ylabel, title)
        if remark:
            axes.annotate(remark, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", fontsize=8.5, color=MUTED)
    return path


def plot_curves_by_share(
    times: NDArray[np.floating],
    curves: NDArray[np.floating],
    index: NDArray[np.integer],
    path: Path,
    *,
    reference: NDArray[np.floating] | None = None,
    n_shown: str = "",
    longest: float = 30.0,
) -> Path:
    """Choices among a library of curves: how often each was chosen, and the curves coloured by that share.

    Parameters
    ----------
    times : ndarray, shape (time,)
        Seconds.
    curves : ndarray, shape (time, curves)
        The library.
    index : ndarray of int, shape (n,)
        0-based choice of each unit that counts.
    path : Path
        ``.svg``.
    reference : ndarray, shape (time,), optional
        A curve to compare with, drawn dashed.
    n_shown : str
        Which units were counted, for the label of the axis.
    longest : float
        Seconds drawn.
    """
    n_curves = curves.shape[1]
    counts = np.bincount(np.asarray(index, dtype=np.int64), minlength=n_curves)[:n_curves]
    share = 100 * counts / max(1, counts.sum())
    with new_figure(path, 10.0, 3.6) as figure:
        bars, lines = figure.subplots(1, 2, width_ratios=(1, 1.15))
        import matplotlib

        # The pale end of the map is left out: a curve that nobody chose has to be seen on white, too.
        colours = matplotlib.colors.LinearSegmentedColormap.from_list("share", matplotlib.colormaps["magma_r"](np.linspace(0.28, 0.95, 64)))
        scale = matplotlib.colors.Normalize(0, max(share.max(), 1e-9))
        bars.bar(np.arange(n_curves), share, color=colours(scale(share)), width=0.86, edgecolor="white", linewidth=0.4)
        bars.axhline(100 / n_curves, color=INK, linestyle=(0, (4, 3)), linewidth=1, label=f"even share ({100 / n_curves:.3g} %)")
        _legend_above(bars)
        bars.set_xlim(-0.8, n_curves - 0.2)
        bars.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=11))
        finish_axes(bars, "HRF index (0-based)", f"Share{n_shown} (%)", "Choice")
        kept = times <= longest
        for curve in np.argsort(share, kind="stable"):
            lines.plot(times[kept], curves[kept, curve], color=colours(scale(share[curve])), linewidth=1 + 1.6 * scale(share[curve]))
        if reference is not None and len(reference) == len(times):
            lines.plot(times[kept], reference[kept], color=PALETTE[0], linestyle=(0, (4, 2)), linewidth=1.8, label="assumed HRF")
            _legend_above(lines)
        finish_axes(lines, "Time after stimulus onset (s)", "Response (peak = 1)", "Library, coloured by share")
        figure.colorbar(matplotlib.cm.ScalarMappable(scale, colours), ax=lines, label="Units that chose it (%)", pad=0.02)
    return path


def _legend_above(axes: Axes) -> None:
    """Legend at the right of the title's line, where it hides no data."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.995), borderpad=0, borderaxespad=0.4, handlelength=2.4)


def plot_distributions(
    samples: Mapping[str, ArrayLike],
    path: Path,
    *,
    xlabel: str,
    title: str = "",
    limits: tuple[float, float] | None = None,
    subset: ArrayLike | None = None,
    names: tuple[str, str] = ("all units", "responsive units"),
    zero: bool = False,
) -> Path:
    """Distributions of the same quantity under several names: a density each, medians marked and written out.

    Parameters
    ----------
    samples : mapping of str to array_like, shape (n,)
        Values of each row; those that are not finite are left out.
    path : Path
        ``.svg``.
    xlabel, title : str
        Labels.
    limits : tuple of float, optional
        Range shown (default: that of the central 99.8 %).
    subset : array_like of bool, shape (n,), optional
        Members of a subset, whose density is drawn above the line, with that of all values below.
    names : tuple of str
        What all and the subset are called.
    zero : bool
        Mark zero.
    """
    rows = {name: np.asarray(values, dtype=float).ravel() for name, values in samples.items()}
    members = None if subset is None else np.asarray(subset, dtype=bool).ravel()
    low, high = limits or _central_range(list(rows.values()))
    with new_figure(path, 9.0, 1.25 + 0.95 * max(1, len(rows))) as figure:
        axes = figure.add_subplot()
        for position, (_, values) in enumerate(rows.items()):
            colour = PALETTE[position % len(PALETTE)]
            groups = [(values, -1 if members is not None else 1, 0.35 if members is not None else 0.85)]
            if members is not None:
                groups.append((values[members], 1, 0.9))
            for group, side, opacity in groups:
                _draw_density(axes, group, len(rows) - 1 - position, (low, high), side, colour, opacity)
        if zero:
            axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(rows)), [short_label(name, 34) for name in reversed(list(rows))])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(-0.62, len(rows) - 0.38)
        axes.set_xlim(low, high)
        axes.spines["left"].set_visible(False)
        suffix = f"Above the line: {names[1]}; below: {names[0]}" if members is not None else ""
        finish_axes(axes, xlabel, "", grid="x")
        axes.set_title(f"{title} ({suffix[0].lower()}{suffix[1:]})" if title and suffix else title or suffix, fontsize=9.5)
    return path


def _central_range(samples: list[NDArray[np.float64]]) -> tuple[float, float]:
    pooled = np.concatenate([values[np.isfinite(values)] for values in samples]) if samples else np.empty(0)
    if not pooled.size:
        return 0.0, 1.0
    low, high = np.percentile(pooled, [0.1, 99.9])
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.1
    return float(low - margin), float(high + margin)


def _draw_density(
    axes: Axes, values: NDArray[np.float64], row: int, limits: tuple[float, float], side: int, colour: str, opacity: float
) -> None:
    """A smoothed histogram on one side of the row's line; a median with its number."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        if side > 0:
            axes.annotate("no values", (limits[0], row), xytext=(6, 4), textcoords="offset points", fontsize=8.5, color=MUTED)
        return
    edges = np.linspace(*limits, 161)
    counts = np.histogram(np.clip(finite, *limits), edges)[0].astype(float)
    width = 1.5 if finite.size > 5000 else 4.0
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / width) ** 2)
    density = np.convolve(np.pad(counts, 12, mode="reflect"), kernel, mode="valid")
    outline = 0.5 * density / density.max()
    centres = 0.5 * (edges[1:] + edges[:-1])
    axes.fill_between(centres, row, row + side * outline, color=colour, alpha=opacity, linewidth=0, zorder=3)
    median = float(np.median(finite))
    axes.plot([np.clip(median, *limits)] * 2, [row, row + side * 0.5], color=INK, linewidth=1.4, zorder=4)
    right = median > np.mean(limits)
    axes.annotate(
        f"{median:.2f}" if 0.01 <= abs(median) < 1 else f"{median:.3g}",
        (np.clip(median, *limits), row + side * 0.34),
        xytext=(-4 if right else 4, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        fontsize=8.5,
        fontweight="bold",
        color=INK,
        zorder=5,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.2},
    )


def plot_strips(columns: Mapping[str, ArrayLike], labels: Sequence[str], path: Path) -> Path:
    """One dot a row of a table in each of several quantities; those that stand out (`standing_out`) are named.

    Parameters
    ----------
    columns : mapping of str to array_like, shape (rows,)
        Quantities with their units, one panel each.
    labels : sequence of str, length rows
        Names of the rows.
    path : Path
        ``.svg``.
    """
    n_columns = 4
    n_rows = -(-len(columns) // n_columns)
    with new_figure(path, 10.5, 2.5 * max(1, n_rows)) as figure:
        for position, (name, column) in enumerate(columns.items()):
            axes = figure.add_subplot(max(1, n_rows), n_columns, position + 1)
            _draw_strip(axes, np.asarray(column, dtype=float), labels)
            finish_axes(axes, "", "", grid="y")
            axes.set_title("\n".join(short_label(line, 34) for line in name.split("\n")), fontsize=9, fontweight="normal")
    return path


def _draw_strip(axes: Axes, values: NDArray[np.float64], labels: Sequence[str]) -> None:
    finite = np.flatnonzero(np.isfinite(values))
    axes.set_xticks([])
    axes.set_xlim(-1, 1)
    axes.spines["bottom"].set_visible(False)
    if not len(finite):
        axes.set_yticks([])
        axes.text(0, 0.5, "no values", ha="center", va="center", color=MUTED, transform=axes.get_xaxis_transform())
        return
    shown = values[finite]
    p25, p50, p75 = np.percentile(shown, [25, 50, 75])
    outlying = standing_out(shown)
    # A fixed spread, not a random one: the same table gives the same picture.
    ranks = np.argsort(np.argsort(shown, kind="stable"), kind="stable")
    x = 0.42 * ((ranks * 0.618034) % 1.0 - 0.5)
    axes.bar(0, p75 - p25, bottom=p25, width=0.9, color=FAINT, zorder=1)
    axes.plot([-0.45, 0.45], [p50, p50], color=INK, linewidth=1.6, zorder=2)
    axes.scatter(x, shown, s=22, color=np.where(outlying, PALETTE[5], ACCENT), alpha=0.85, linewidths=0, zorder=3)
    for place in np.flatnonzero(outlying)[:8]:
        name = short_label(labels[finite[place]], 20)
        axes.annotate(name, (x[place], shown[place]), xytext=(5, 0), textcoords="offset points", fontsize=8, va="center", color=PALETTE[5])
    axes.use_sticky_edges = False
    axes.margins(y=0.15)
    if np.ptp(shown) <= 1e-6 * max(abs(p50), 1e-12):  # no spread: an axis with a scale would feign one
        axes.set_yticks([p50], [f"{p50:,.4g}" if abs(p50) < 1e4 else f"{p50:,.0f}"])
    elif (shown == np.round(shown)).all():
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
