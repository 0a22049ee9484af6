"""Figures of a model of movies: measured and predicted time courses, and weights by delay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.weights import read_weights
from conform_bids.encode.movie_inputs import LoadedMovies

__all__ = ["draw_movie_figures"]

SHOWN_S = 300.0
"""Seconds of a test movie that are drawn."""
QUANTILES = ((1.0, "best unit"), (0.9, "90th percentile"), (0.5, "median unit"))


def draw_movie_figures(results: Mapping[str, Path], loaded: LoadedMovies, at: Callable[[str, str, str], Path]) -> list[Path]:
    """Draw what only movies have.

    Parameters
    ----------
    results : mapping of str to Path
        Arrays of the fit by file name.
    loaded : LoadedMovies
    at : callable
        Path of a figure by its stat, suffix and extension.
    """
    drawn = []
    if "predictions.npy" in results:
        correlation = np.load(results["correlation.npy"])
        if np.isfinite(correlation).any():
            drawn.append(
                _plot_courses(np.load(results["predictions.npy"], mmap_mode="r"), correlation, loaded, at("timecourse", "bold", ".svg"))
            )
    if len(loaded.delays) > 1:
        drawn.append(_plot_delays(results, loaded, at("delays", "bold", ".svg")))
    return drawn


def _plot_courses(predicted: NDArray[np.float32], correlation: NDArray[np.float32], loaded: LoadedMovies, path: Path) -> Path:
    """Measured and predicted volumes of the first test movie, of units that are predicted well and less well."""
    from conform_bids.report.style import ACCENT, finish_axes, new_figure, short_label

    table = loaded.conditions.iloc[loaded.n_train :].reset_index(drop=True)
    name = str(table["stim_id"].iloc[0])
    time = table["time"].astype(float).to_numpy()
    rows = np.flatnonzero((table["stim_id"] == name).to_numpy(dtype=bool) & (time < SHOWN_S))
    known = np.flatnonzero(np.isfinite(correlation))
    order = known[np.argsort(correlation[known], kind="stable")]
    with new_figure(path, 7.6, 1.7 * len(QUANTILES)) as figure:
        for place, (share, words) in enumerate(QUANTILES):
            unit = int(order[round(share * (len(order) - 1))])
            axes = figure.add_subplot(len(QUANTILES), 1, place + 1)
            measured = np.asarray(loaded.observed[rows, unit])
            axes.plot(time[rows], measured, color="#888888", linewidth=1.0, label="measured")
            axes.plot(time[rows], predicted[rows, unit], color=ACCENT, linewidth=1.4, label="predicted")
            axes.set_title(f"{words}: r = {correlation[unit]:.2f}", fontsize=9, loc="left")
            last = place == len(QUANTILES) - 1
            finish_axes(axes, f"Time in {short_label(name, 40)} (s)" if last else "", "z", grid="y")
            if place == 0:
                axes.legend(loc="upper right", ncols=2)
    return path


def _plot_delays(results: Mapping[str, Path], loaded: LoadedMovies, path: Path) -> Path:
    """Size of the weights by delay, as a share of the largest: median and quartiles of the quarter of units that are predicted best."""
    from conform_bids.report.style import ACCENT, finish_axes, new_figure

    weights = read_weights(results["weights.h5"])
    n_delays = len(loaded.delays)
    of_delay = np.array([int(name.rpartition("_delay")[2]) for name in weights.feature_names])
    size = np.stack([np.sqrt(np.square(weights.weights[of_delay == delay]).mean(axis=0)) for delay in loaded.delays])
    score = np.load(results["cv_rsquared.npy"])
    with np.errstate(invalid="ignore", divide="ignore"):
        chosen = np.isfinite(score) & (score >= np.nanquantile(score, 0.75))
        share = size[:, chosen] / size[:, chosen].max(axis=0)
    low, middle, high = np.nanquantile(share, [0.25, 0.5, 0.75], axis=1)
    seconds = np.array(loaded.delays) * loaded.repetition_time
    with new_figure(path, 4.2, 3.0) as figure:
        axes = figure.add_subplot()
        axes.fill_between(seconds, low, high, color=ACCENT, alpha=0.2, linewidth=0, label="quartiles")
        axes.plot(seconds, middle, color=ACCENT, marker="o" if n_delays < 30 else None, label="median")
        axes.set_ylim(0, 1.05)
        axes.legend(loc="lower center", ncols=2)
        finish_axes(axes, "Delay (s)", "Size of weights", grid="both")
    return path
