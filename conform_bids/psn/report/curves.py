"""Plots of how parcels were fitted: spectra, calibration, likelihoods, and reliability against its null."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from conform_bids.report.style import ACCENT, FAINT, INK, MUTED, PALETTE, finish_axes, new_figure
from conform_bids.wording import counted

__all__ = ["plot_calibration", "plot_likelihoods", "plot_reliability", "plot_spectra"]

FloatArray = NDArray[np.float64]
MAX_LINES = 40
WEIGHTED = ("stacked", "calibrated")
"""Methods whose curves are over weights of the noise; those of all others are over numbers of dimensions."""
_SIGNAL, _NOISE, _WARN = PALETTE[0], PALETTE[1], PALETTE[5]


def plot_spectra(spectrum: pd.DataFrame, path: Path) -> Path:
    """Signal and noise along the dimensions of parcels, and what passes of each.

    Parameters
    ----------
    spectrum : DataFrame
        Columns parcel, dimension, signal_variance, noise_variance, passed.
    path : Path
        ``.svg``.
    """
    signal, noise, passed = (_by_parcel(spectrum, name) for name in ("signal_variance", "noise_variance", "passed"))
    total = signal.sum(axis=1, keepdims=True, where=np.isfinite(signal))
    scale = np.where(total > 0, total, 1.0)
    with new_figure(path, 10.0, 3.4) as figure:
        variances, shares = figure.subplots(1, 2)
        order = np.arange(1, signal.shape[1] + 1)
        for values, colour, name in ((signal / scale, _SIGNAL, "signal"), (noise / scale, _NOISE, "noise of a trial")):
            _band(variances, order, np.where(values > 0, values, np.nan), colour, name)
        variances.set_yscale("log")
        top = max(1e-3, *(float(np.nanmax(values / scale, initial=0.0)) for values in (signal, noise)))
        variances.set_ylim(3e-4 * top, 2 * top)
        variances.yaxis.set_major_formatter("{x:g}")
        _legend_above(variances)
        finish_axes(variances, "Dimension", "Variance / signal variance", "Spectrum")
        _band(shares, order, 100 * np.nan_to_num(passed), ACCENT, "passes")  # none of a dimension that a parcel does not have
        shares.set_ylim(-3, 108)
        finish_axes(shares, "Dimension", "Passes (%)", "Denoiser")
        for axes in (variances, shares):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return path


def plot_calibration(curves: Mapping[str, FloatArray], method: str, path: Path) -> Path:
    """What is predicted of held-out responses (or recovered) at each strength of denoising, a line a parcel.

    Parameters
    ----------
    curves : mapping of str to (2, n) array
        Strength, and what is saved there relative to the largest, of each parcel.
    method : str
        Of the fit: strengths are numbers of dimensions or weights of the noise.
    path : Path
        ``.svg``.
    """
    dimensions = method not in WEIGHTED
    with new_figure(path, 8.0, 3.3) as figure:
        axes = figure.add_subplot()
        best = []
        for x, y in _some(curves.values()):
            drawn = np.isfinite(x) & np.isfinite(y) & ((x > 0) | dimensions)
            axes.plot(x[drawn], np.clip(y[drawn], -1, None), color=ACCENT, alpha=0.35, linewidth=1)
        for x, y in curves.values():
            if np.isfinite(y).any():
                place = int(np.nanargmax(y))
                best.append((x[place], y[place]))
        at = np.array(best or np.empty((0, 2)))
        shown = np.isfinite(at).all(axis=1) & ((at[:, 0] > 0) | dimensions)
        axes.scatter(at[shown, 0], at[shown, 1], s=18, color=_WARN, linewidths=0, zorder=3, label=f"best ({counted(len(at), 'parcel')})")
        axes.axhline(0, color=MUTED, linewidth=1)
        if not dimensions:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        _legend_above(axes)
        label = "Dimensions kept" if dimensions else "Weight of the noise"
        finish_axes(axes, label, "Gain, relative to the largest", "Recovery" if dimensions else "Calibration")
    return path


def plot_likelihoods(noise: Sequence[FloatArray], data: Sequence[FloatArray], path: Path) -> Path:
    """Likelihood of held-out samples at each shrinkage of the two covariances, a line a parcel.

    Parameters
    ----------
    noise, data : sequence of (n_levels,) array
        Mean negative log likelihood from the strongest shrinkage (0) to none (1).
    path : Path
        ``.svg``.
    """
    with new_figure(path, 10.0, 3.2) as figure:
        panels = figure.subplots(1, 2)
        for axes, curves, title in zip(panels, (noise, data), ("Noise covariance", "Covariance of condition means"), strict=True):
            chosen = []
            for curve in _some(curves):
                above = curve - np.nanmin(curve)
                axes.plot(np.linspace(0, 1, len(curve)), above, color=ACCENT, alpha=0.35, linewidth=1)
            for curve in curves:
                if np.isfinite(curve).any():
                    chosen.append(np.nanargmin(curve) / max(1, len(curve) - 1))
            axes.scatter(chosen, np.zeros(len(chosen)), s=18, color=_WARN, linewidths=0, zorder=3, clip_on=False, label="used")
            _limit_above([curve - np.nanmin(curve) for curve in curves if np.isfinite(curve).any()], axes)
            _legend_above(axes)
            finish_axes(axes, "Shrinkage level (1: none)", "Negative log likelihood\nabove the best", title)
    return path


def plot_reliability(parcels: pd.DataFrame, null: pd.DataFrame, path: Path) -> Path:
    """Odd-even correlation of parcels before and after denoising, and the same where nothing repeats.

    Parameters
    ----------
    parcels : DataFrame
        Columns reliability_before, reliability_after, outcome; a row a parcel.
    null : DataFrame
        Columns reliability_before, reliability_after, reliability_in_sample, of parcels with shuffled repeats.
    path : Path
        ``.svg``.
    """
    with new_figure(path, 10.0, 3.8) as figure:
        scatter, strips = figure.subplots(1, 2, width_ratios=(1, 1.15))
        before, after = (pd.to_numeric(parcels[f"reliability_{when}"], errors="coerce").to_numpy(float) for when in ("before", "after"))
        finite = np.concatenate([before[np.isfinite(before)], after[np.isfinite(after)], [0.0, 0.2]])
        low, high = float(finite.min()) - 0.05, min(1.02, float(finite.max()) + 0.08)
        scatter.axline((0, 0), slope=1, color=MUTED, linewidth=1)
        for outcome, colour in (("denoised", ACCENT), ("passed", PALETTE[1]), ("zeroed", _WARN)):
            members = (parcels["outcome"] == outcome).to_numpy()
            if members.any():
                label = f"{outcome} ({int(members.sum())})"
                scatter.scatter(before[members], after[members], s=20, color=colour, alpha=0.8, linewidths=0, label=label)
        scatter.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        if len(scatter.get_legend_handles_labels()[1]):
            scatter.legend(loc="lower right", handletextpad=0.2)
        finish_axes(scatter, "Before: trial averages", "After, cross-fitted", "Parcels: odd-even r")
        names = {"before": "before", "after": "after,\ncross-fitted", "in_sample": "after,\nnot cross-fitted"}
        strips.axhline(0, color=INK, linewidth=1)
        for place, key in enumerate(names):
            values = pd.to_numeric(null[f"reliability_{key}"], errors="coerce").to_numpy(float)
            values = values[np.isfinite(values)]
            spread = place + 0.3 * ((np.arange(len(values)) * 0.618034) % 1.0 - 0.5)
            strips.scatter(spread, values, s=22, color=_WARN if key == "in_sample" else ACCENT, alpha=0.8, linewidths=0)
            if len(values):
                middle = float(np.median(values))
                strips.plot([place - 0.3, place + 0.3], [middle] * 2, color=INK)
                strips.annotate(f"{middle:.2f}", (place + 0.32, middle), va="center", fontsize=8.5, fontweight="bold")
        strips.set_xticks(range(len(names)), list(names.values()))
        strips.set_xlim(-0.5, len(names) - 0.3)
        if strips.get_ylim()[1] < 0.2:
            strips.set_ylim(min(-0.2, strips.get_ylim()[0]), 0.2)
        finish_axes(strips, "", "Odd-even r", f"Null check: repeats shuffled ({counted(len(null), 'parcel')})", grid="y")
    return path


def _by_parcel(spectrum: pd.DataFrame, name: str) -> FloatArray:
    """Values (parcels, dimensions), NaN where a parcel has fewer dimensions."""
    table = spectrum[["parcel", "dimension", name]].apply(pd.to_numeric, errors="coerce")
    return np.asarray(table.pivot_table(index="parcel", columns="dimension", values=name, dropna=False).to_numpy(dtype=np.float64))


def _band(axes: Axes, x: FloatArray | NDArray[np.int_], values: FloatArray, colour: str, name: str) -> None:
    """Median over parcels, and their quartiles; dimensions that fewer than half of the parcels have are left out."""
    finite = np.isfinite(values).sum(axis=0)
    used = finite >= max(1, len(values) / 2)
    if not used.any():
        return
    low, middle, high = np.nanpercentile(values[:, used], [25, 50, 75], axis=0)
    if len(values) > 1:
        axes.fill_between(x[used], low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(x[used], middle, color=colour, label=name)


def _some(curves: Iterable[FloatArray]) -> list[FloatArray]:
    """At most `MAX_LINES` of them, spread evenly."""
    known = list(curves)
    return known[:: max(1, -(-len(known) // MAX_LINES))]


def _limit_above(curves: Sequence[FloatArray], axes: Axes) -> None:
    """Have the bottom of the curves seen: ends may rise without bound."""
    middles = [float(np.nanmedian(curve)) for curve in curves]
    high = 3 * float(np.median(middles)) if middles else 1.0
    axes.set_ylim(-0.03 * (high or 1.0), high or 1.0)
    axes.axhline(0, color=FAINT, linewidth=0.8)


def _legend_above(axes: Axes) -> None:
    """Legend at the right of the title's line, where it hides no data."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.995), borderpad=0, borderaxespad=0.4, ncols=2)
