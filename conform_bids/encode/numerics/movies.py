"""Continuous movies: features a volume, what of them reaches a response, nuisances out of both, and what repeats say about the noise.

Time is that of a run, in seconds. A volume stands for the time ``start + k TR``; the features of volume k are the mean of the frames
that were on from half a TR before that time to half a TR after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.numerics.hrf import HRFLibrary, response_at
from conform_bids.numerics.linalg import orthonormal_basis, project_out

__all__ = [
    "Repeats",
    "Timeline",
    "average_frames",
    "clean_run",
    "convolved",
    "default_delays",
    "delayed",
    "design_rows",
    "explainable_variance",
    "group_runs",
    "nuisance_basis",
    "volume_kernel",
]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.intp]
Operator = Callable[[FloatArray], FloatArray]
FIRST_DELAY_S, LAST_DELAY_S = 2.0, 8.0
LONGEST_FRAME = 3.0
"""Times the median distance of frames that a frame counts as on; beyond it, features are absent."""


def average_frames(
    values: FloatArray, times: FloatArray, starts: FloatArray, stops: FloatArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean of the frames that were on between two times.

    Parameters
    ----------
    values : (n_frames, n_features) array
    times : (n_frames,) array
        Rising; a frame is on until the next one, but no longer than three median distances. A single frame is on for ever.
    starts, stops : (n_windows,) arrays
        Of the windows, in the movie's time.

    Returns
    -------
    means : (n_windows, n_features) float64 array
        Weighted by the time that each frame was on inside of the window; NaN where none was.
    covered : (n_windows,) float64 array
        Seconds of each window that have a frame.

    Raises
    ------
    ValueError
        When times do not rise, or are not as many as the frames.
    """
    times = np.asarray(times, dtype=np.float64)
    if len(times) != len(values) or not len(times):
        raise ValueError(f"{len(values)} frames have {len(times)} times")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError("times of frames do not rise")
    distance = float(np.median(np.diff(times))) if len(times) > 1 else np.inf
    lengths = np.minimum(np.append(np.diff(times), distance), LONGEST_FRAME * distance)
    finite = np.where(np.isfinite(lengths), lengths, 0.0)
    table = np.asarray(values, dtype=np.float64)
    integral = np.concatenate([np.zeros((1, table.shape[1])), np.cumsum(table * finite[:, None], axis=0)])
    elapsed = np.concatenate([[0.0], np.cumsum(finite)])

    def until(moment: FloatArray) -> tuple[FloatArray, FloatArray]:
        frame = np.searchsorted(times, moment, side="right") - 1
        begun = np.maximum(frame, 0)
        inside = np.where(frame >= 0, np.minimum(moment - times[begun], lengths[begun]), 0.0)
        return integral[begun] + inside[:, None] * table[begun], elapsed[begun] + inside

    (low, before), (high, after) = until(np.asarray(starts, dtype=np.float64)), until(np.asarray(stops, dtype=np.float64))
    covered = after - before
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(covered[:, None] > 0, (high - low) / covered[:, None], np.nan)
    return means, covered


def default_delays(repetition_time: float) -> tuple[int, ...]:
    """Delays in volumes that reach from 2 to 8 s: 1 to 4 at a repetition time of 2 s."""
    first = max(1, int(np.ceil(FIRST_DELAY_S / repetition_time - 1e-6)))
    last = max(first, int(np.floor(LAST_DELAY_S / repetition_time + 1e-6)))
    return tuple(range(first, last + 1))


def delayed(features: FloatArray, delays: Sequence[int]) -> FloatArray:
    """Features of earlier volumes beside each other, (n_volumes, n_delays * n_features), the first delay first; 0 before the run."""
    n, p = features.shape
    columns = np.zeros((n, len(delays) * p), dtype=features.dtype)
    for place, delay in enumerate(delays):
        if delay < n:
            columns[delay:, place * p : (place + 1) * p] = features[: n - delay]
    return columns


def volume_kernel(library: HRFLibrary, hrf: int, repetition_time: float) -> npt.NDArray[np.float64]:
    """Response, 0, 1, 2, ... volumes later, to what was on during one volume; a curve of peak 1.

    A volume's features are those of half a TR on either side of its time, so that the response to them began half a TR earlier.
    """
    n = int(np.ceil((library.times[-1] + repetition_time) / repetition_time)) + 1
    times = (np.arange(n) + 0.5) * repetition_time
    return np.asarray(response_at(library, repetition_time, times)[:, hrf])


def convolved(features: FloatArray, kernel: FloatArray) -> FloatArray:
    """Features convolved with a response that is sampled at the repetition time, (n_volumes, n_features)."""
    from scipy.signal import fftconvolve

    table = np.asarray(features, dtype=np.float64)
    return np.asarray(fftconvolve(table, np.asarray(kernel, dtype=np.float64)[:, None], axes=0)[: len(table)].astype(features.dtype))


def nuisance_basis(drifts: FloatArray, confounds: FloatArray, on: FloatArray, lags: Sequence[int]) -> npt.NDArray[np.float64]:
    """Orthonormal basis of what is taken out of a run.

    Parameters
    ----------
    drifts : (n_volumes, n_drifts) array
        The constant among them.
    confounds : (n_volumes, n_confounds) array
    on : (n_volumes,) array
        Share of each volume during which a movie was on.
    lags : sequence of int
        Volumes by which the response to a movie being on at all may lag: a regressor each, so that the response to its beginning and end
        has any shape.
    """
    shown = delayed(np.asarray(on, dtype=np.float64)[:, None], lags)
    return orthonormal_basis(np.column_stack([drifts, confounds - confounds.mean(axis=0), shown]))


@dataclass(frozen=True, eq=False)
class Timeline:
    """Which volumes of which runs a model is fitted on and tested on. Volumes are counted over all runs.

    Attributes
    ----------
    lengths : (n_runs,) int array
        Volumes of each run.
    bases : list of (n_volumes, rank) arrays
        Orthonormal nuisances of each run.
    train : (n_train,) int array
        Volumes that models are fitted on.
    test : (n_tested,) int array
        Volumes that scores are of.
    test_row : (n_tested,) int array
        Moment of a test movie that each of them is of, from 0; presentations of a movie share their moments.
    fold : (n_train,) int array
        Block of train volumes that is left out together.
    """

    lengths: IntArray
    bases: Sequence[npt.NDArray[np.float64]]
    train: IntArray
    test: IntArray
    test_row: IntArray
    fold: IntArray

    @property
    def counts(self) -> IntArray:
        """Presentations of each moment of the test movies, (n_test_rows,)."""
        return np.bincount(self.test_row).astype(np.intp) if len(self.test_row) else np.zeros(0, dtype=np.intp)

    @property
    def edges(self) -> IntArray:
        """First volume of each run, and the end of the last, (n_runs + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.intp)


def design_rows(timeline: Timeline, features: FloatArray, operator: Operator) -> tuple[FloatArray, FloatArray]:
    """Regressors of the train volumes and of the moments of test movies (mean over presentations), nuisances out.

    Parameters
    ----------
    features : (n_volumes, n_features) array
        Of all volumes of all runs; 0 where no movie is on.
    operator : callable
        From the features of a run to its regressors: `delayed` or `convolved`.

    Returns
    -------
    train : (n_train, n_regressors) array
    test : (n_test_rows, n_regressors) array
    """
    edges, counts = timeline.edges, timeline.counts
    train: list[FloatArray] = []
    test: FloatArray | None = None
    for run, basis in enumerate(timeline.bases):
        inside = slice(edges[run], edges[run + 1])
        rows = operator(np.asarray(features[inside]))
        rows = (rows - basis @ (basis.T @ rows)).astype(np.float32)
        test = np.zeros((len(counts), rows.shape[1]), dtype=np.float64) if test is None else test
        train.append(rows[timeline.train[(timeline.train >= inside.start) & (timeline.train < inside.stop)] - inside.start])
        own = (timeline.test >= inside.start) & (timeline.test < inside.stop)
        np.add.at(test, timeline.test_row[own], rows[timeline.test[own] - inside.start])
    assert test is not None
    return np.concatenate(train), (test / np.maximum(counts, 1)[:, None]).astype(np.float32)


def clean_run(series: FloatArray, basis: npt.NDArray[np.float64], volumes: IntArray, n_reference: int) -> npt.NDArray[np.float32]:
    """Responses of some volumes of a run: nuisances out of the whole run, then z-scored by some of these volumes.

    Parameters
    ----------
    series : (n_volumes, n_units) array
    basis : (n_volumes, rank) array
    volumes : int array
    n_reference : int
        Volumes, the first ones, whose mean and standard deviation count: those of train movies where the run has any.

    Returns
    -------
    (n_chosen, n_units) float32 array
        NaN for units that do not vary, or are not finite.
    """
    values = np.asarray(series, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        level = np.abs(values).max(axis=0)
        left = project_out(basis, values)[volumes]
        left = left - left[:n_reference].mean(axis=0)
        spread = left[:n_reference].std(axis=0)
        scale = np.where(spread > 1e-6 * level, spread, np.nan)
    return (left / scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Repeats:
    """What presentations of test movies say, unit by unit.

    Attributes
    ----------
    mean : (n_rows, n_units) array
        Of the presentations of each moment.
    ceiling : (n_units,) array
        Explainable variance of these means, percent; NaN without repeats.
    single : (n_units,) array
        The same of one presentation.
    """

    mean: FloatArray
    ceiling: npt.NDArray[np.float64]
    single: npt.NDArray[np.float64]


def explainable_variance(sums: FloatArray, squares: FloatArray, counts: IntArray) -> Repeats:
    """Mean of presentations, and the share of its variance that is not noise.

    Parameters
    ----------
    sums : (n_rows, n_units) array
        Over the presentations of each moment.
    squares : (n_units,) array
        Sum of the squares over all moments that repeat and their presentations.
    counts : (n_rows,) int array
        Presentations, 1 or more.

    Notes
    -----
    The variance over presentations of a moment is noise; pooled over moments, and divided by the presentations, it is what noise adds to
    the variance of the mean (Sahani & Linden, 2003, NIPS 15; Hsu et al., 2004, Network 15:91-109). The share is unbiased but for the
    ratio, and held between 0 and 100.
    """
    number = np.asarray(counts, dtype=np.float64)
    mean = np.asarray(sums, dtype=np.float64) / number[:, None]
    repeats = number > 1
    freedom = float((number - 1).sum())
    if not freedom:
        unknown = np.full(mean.shape[1], np.nan)
        return Repeats(mean.astype(np.float32), unknown, unknown)
    noise = np.maximum(squares - (number[repeats, None] * np.square(mean[repeats])).sum(axis=0), 0) / freedom
    total = mean.var(axis=0, ddof=1)
    signal = total - noise * float(np.mean(1 / number))
    with np.errstate(invalid="ignore", divide="ignore"):
        ceiling = np.clip(100 * signal / total, 0, 100)
        single = np.clip(100 * signal / (signal + noise), 0, 100)
    return Repeats(mean.astype(np.float32), np.where(total > 0, ceiling, np.nan), np.where(total > 0, single, np.nan))


def group_runs(shown: Sequence[frozenset[str]]) -> IntArray:
    """Block of each run, such that no movie is in two blocks, (n_runs,); where all would be one, a block a run.

    Parameters
    ----------
    shown : sequence of sets of str
        Train movies of each run.
    """
    block = list(range(len(shown)))
    for one, movies in enumerate(shown):
        for other in range(one):
            if movies & shown[other]:
                low, high = sorted((block[one], block[other]))
                block = [low if each == high else each for each in block]
    order = {each: place for place, each in enumerate(dict.fromkeys(block))}
    if len(order) == 1:
        return np.arange(len(shown), dtype=np.intp)
    return np.array([order[each] for each in block], dtype=np.intp)
