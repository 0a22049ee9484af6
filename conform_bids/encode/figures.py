"""Figures of an encoding model: maps of scores, scores against the ceiling, calibration, and answers to what a model is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.names import relative_path
from conform_bids.bids.spaces import Space
from conform_bids.bids.tables import read_tsv
from conform_bids.encode.files import Plan
from conform_bids.encode.load import Loaded
from conform_bids.encode.movie_figures import draw_movie_figures
from conform_bids.encode.movie_inputs import LoadedMovies
from conform_bids.encode.numerics.calibration import LEVELS
from conform_bids.report.scales import Scale, robust_limit

__all__ = ["draw_figures", "scale_of_scores"]

SHOWN_QUERIES = 8
SHOWN_STIMULI = 12
_SCORES = (("correlation", "correlation"), ("noiseceilingnormalized", "noiseceilingnormalized"), ("cv_rsquared", "cvrsquared"))
"""Array and stat of the maps of scores."""


def draw_figures(results: Mapping[str, Path], loaded: Loaded, plan: Plan) -> list[Path]:
    """Draw the figures of a fit into the participant's folder ``figures``.

    Parameters
    ----------
    results : mapping of str to Path
        Arrays of the fit by file name.
    loaded : Loaded
        The grid, and what the stimuli are called.
    plan : Plan
    """
    from conform_bids.report import figures as draw

    def at(stat: str, suffix: str, extension: str) -> Path:
        name = relative_path({**plan.entities, "stat": stat, "desc": plan.model}, suffix, extension).rsplit("/", 1)[1]
        return plan.output_dir / f"sub-{plan.participant}" / "figures" / name

    space, drawn = loaded.space, list[Path]()
    for array, stat in _SCORES:
        values = _array(results, array)
        if values is not None and np.isfinite(values).any():
            drawn.append(draw.plot_map(values, space, at(stat, "statmap", ".png"), scale_of_scores(array, values)))
    alpha = _array(results, "alpha")
    if alpha is not None and alpha.ndim == 1 and np.isfinite(alpha).any():
        with np.errstate(divide="ignore", invalid="ignore"):
            power = np.where(alpha > 0, np.log10(alpha), np.nan)
        low, high = float(np.nanmin(power)), float(np.nanmax(power))
        scale = draw.Scale("Penalty (power of ten)", low, max(high, low + 1), colour_map="cividis")
        drawn.append(draw.plot_map(power, space, at("alpha", "statmap", ".png"), scale))
    expected = _array(results, "expected_rsquared")
    if expected is not None and np.isfinite(expected).any():
        scale = draw.Scale("Expected R2", 0.0, draw.robust_limit(expected, most=1.0), start=0.18)
        drawn.append(draw.plot_map(expected, space, at("expectedrsquared", "statmap", ".png"), scale))
    queries, influence = _array(results, "queries"), _array(results, "influence")
    if queries is not None:
        drawn += _plot_queries(queries, space, at)
    if influence is not None:
        drawn.append(_plot_influence(influence, _contexts(results), loaded, plan, at("influence", "bold", ".png")))
    if (found := _coverage(results)) is not None:
        drawn.append(_plot_calibration(*found, at("calibration", "bold", ".svg")))
    correlation, ceiling = _array(results, "correlation"), _array(results, "noiseceiling")
    if correlation is not None and ceiling is not None and (np.isfinite(correlation) & np.isfinite(ceiling)).any():
        drawn.append(_plot_against_ceiling(correlation, ceiling, at("ceiling", "bold", ".png")))
    if isinstance(loaded, LoadedMovies):
        drawn += draw_movie_figures(results, loaded, at)
    shares = _array(results, "split_rsquared")
    if shares is not None and "spaces.txt" in results:
        names = results["spaces.txt"].read_text(encoding="utf-8").splitlines()
        samples = dict(zip(names, shares, strict=True))
        drawn.append(draw.plot_distributions(samples, at("spaces", "bold", ".svg"), xlabel="Share of R2", zero=True))
    return drawn


def scale_of_scores(array: str, values: NDArray[np.float64]) -> Scale:
    """Colours of a map of scores: correlations have a sign; how far R2 lies below 0 says little, and an arrow tells that it does.

    Parameters
    ----------
    array : {"correlation", "noiseceilingnormalized", "cv_rsquared"}
    values : (n_units,) array
    """
    if array == "cv_rsquared":
        below = bool((values < 0).any())
        return Scale("Cross-validated R2", 0.0, robust_limit(values, most=1.0), start=0.18, extends_below=below)
    label, most = ("Correlation", 1.0) if array == "correlation" else ("r / √ceiling", 1.2)
    limit = robust_limit(np.abs(values), most=most)
    return Scale(label, -limit, limit, colour_map="RdBu_r")


def _array(results: Mapping[str, Path], name: str) -> NDArray[np.float64] | None:
    path = results.get(f"{name}.npy")
    return None if path is None else np.load(path).astype(np.float64)


def _plot_against_ceiling(correlation: NDArray[np.float64], ceiling: NDArray[np.float64], path: Path) -> Path:
    """Correlations of units against the roots of their ceilings, counted in cells."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import NullFormatter

    from conform_bids.report.style import finish_axes, new_figure

    known = np.isfinite(correlation) & np.isfinite(ceiling)
    root = np.sqrt(np.clip(ceiling[known], 0, 100) / 100)
    low = float(min(-0.2, np.floor(10 * correlation[known].min()) / 10))
    with new_figure(path, 5.6, 4.2) as figure:
        axes = figure.add_subplot()
        cells = axes.hist2d(root, correlation[known], bins=[50, 60], range=((0, 1), (low, 1)), cmin=1, norm=LogNorm(), cmap="viridis")
        axes.plot([0, 1], [0, 1], color="#c03d3e", linewidth=1.2, label="noise ceiling")
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.legend(loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=0.9)  # cells lie under it
        bar = figure.colorbar(cells[3], ax=axes, label="Units", format="%.0f")
        bar.ax.yaxis.set_minor_formatter(NullFormatter())  # the default one writes powers as TeX
        finish_axes(axes, "Root of the noise ceiling", "Correlation with test responses", grid="both")
    return path


def _plot_queries(values: NDArray[np.float64], space: Space, at: Callable[[str, str, str], Path]) -> list[Path]:
    """A map a text, of the first few."""
    from conform_bids.report import figures as draw

    drawn = []
    for place, row in enumerate(values[:SHOWN_QUERIES]):
        if np.isfinite(row).any():
            limit = max(2.0, draw.robust_limit(np.abs(row), most=6.0))
            drawn.append(draw.plot_map(row, space, at(f"query{place + 1}", "statmap", ".png"), draw.Scale("z", -limit, limit, "RdBu_r")))
    return drawn


def _contexts(results: Mapping[str, Path]) -> list[str]:
    """stim_id of the first context."""
    table = read_tsv(results["contexts.tsv"], quoted=False)
    return [str(name) for name in table.loc[table["draw"].astype(int) == 1, "stim_id"]]


def _plot_influence(influence: NDArray[np.float64], names: list[str], loaded: Loaded, plan: Plan, path: Path) -> Path:
    """Contact sheet: the stimuli of most influence with their images, where these are at hand."""
    from conform_bids.report.style import MUTED, new_figure, short_label

    mean = np.nanmean(np.where(np.isfinite(influence).any(axis=0), influence, np.nan), axis=1)
    order = np.argsort(mean)[::-1][:SHOWN_STIMULI]
    of = dict(zip(loaded.stimuli["stim_id"].astype(str), loaded.stimuli["stim_file"].astype(str), strict=True))
    columns = 6
    rows = -(-len(order) // columns)
    with new_figure(path, 1.45 * columns, 1.75 * rows) as figure:
        for place, row in enumerate(order):
            axes = figure.add_subplot(rows, columns, place + 1)
            image = _thumbnail(plan.stimuli_dir, of.get(names[row], "n/a"))
            if image is not None:
                axes.imshow(image)
            else:
                axes.text(0.5, 0.5, "no image", ha="center", va="center", color=MUTED, transform=axes.transAxes)
            axes.set_title(f"{short_label(names[row], 18)}\n{mean[row]:.3f}", fontsize=7.5, fontweight="normal")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
    return path


def _thumbnail(folder: Path | None, name: str) -> NDArray[np.uint8] | None:
    """A small version of a stimulus file inside the folder; None where it is not there or no image."""
    from PIL import Image, UnidentifiedImageError

    inside = Path(name)
    if folder is None or name == "n/a" or inside.is_absolute() or ".." in inside.parts or not (folder / inside).is_file():
        return None
    try:
        with Image.open(folder / inside) as image:
            image.thumbnail((160, 160))
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None


def _coverage(results: Mapping[str, Path]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Probabilities of intervals, and the share of responses inside; None where the model has no posterior variance."""
    table = read_tsv(results["metrics.tsv"], quoted=False).set_index("metric")["value"]
    names = [f"calibration_coverage_{100 * level:.0f}" for level in LEVELS]
    if not set(names) <= set(table.index):
        return None
    values = np.array([float(str(table[name]).replace("n/a", "nan")) for name in names])
    return (np.asarray(LEVELS), values) if np.isfinite(values).all() else None


def _plot_calibration(levels: NDArray[np.float64], coverage: NDArray[np.float64], path: Path) -> Path:
    from conform_bids.report.style import ACCENT, finish_axes, new_figure

    with new_figure(path, 3.8, 3.4) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=1.0, linestyle="--", label="calibrated")
        axes.plot(levels, coverage, color=ACCENT, marker="o", label="this model")
        axes.set_xlim(0.4, 1.0)
        axes.set_ylim(min(0.4, float(coverage.min()) - 0.05), 1.02)
        axes.legend(loc="upper left")
        finish_axes(axes, "Probability of the interval", "Responses inside", grid="both")
    return path
