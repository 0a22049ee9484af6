"""What is on the screen at each volume of a run: which movie, since when, and its features, averaged over the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.movies import average_frames

__all__ = ["Screen", "Shown", "show"]

FloatArray = npt.NDArray[np.floating[Any]]


class Frames(Protocol):
    """Features of the frames of a movie: ``times`` (n_frames,) in seconds, ``values`` (n_frames, n_features)."""

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds from the movie's beginning."""
        ...

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """Features."""
        ...


@dataclass(frozen=True, eq=False)
class Shown:
    """A presentation of a movie.

    Attributes
    ----------
    onset, duration : float
        Seconds of the run.
    frames : sequence of Frames
        One a feature space.
    label : int
        What the caller calls it, from 0.
    """

    onset: float
    duration: float
    frames: Sequence[Frames]
    label: int


@dataclass(frozen=True, eq=False)
class Screen:
    """A run, volume by volume.

    Attributes
    ----------
    on : (n_volumes,) array
        Share of the volume during which a movie was on.
    label : (n_volumes,) int array
        Of the movie that was on at the volume's time; -1 for none.
    time : (n_volumes,) array
        Seconds since that movie began; NaN for none.
    features : list of (n_volumes, n_features) arrays
        Mean of the frames that were on, times the share ``on``.
    """

    on: npt.NDArray[np.float64]
    label: npt.NDArray[np.intp]
    time: npt.NDArray[np.float64]
    features: list[npt.NDArray[np.float64]]


def show(shown: Sequence[Shown], n_volumes: int, repetition_time: float, start_time: float, widths: Sequence[int]) -> Screen:
    """Put presentations on the screen of a run.

    Parameters
    ----------
    shown : sequence of Shown
    n_volumes : int
    repetition_time, start_time : float
        Seconds; volume k stands for ``start_time + k * repetition_time``, and for half a repetition time on either side.
    widths : sequence of int
        Features of each space.

    Raises
    ------
    ValueError
        When features do not cover what was shown of a movie, by more than a repetition time; its arguments are the label of the
        presentation, the number of the feature space, and the reason.
    """
    moments = start_time + np.arange(n_volumes) * repetition_time
    on, time = np.zeros(n_volumes), np.full(n_volumes, np.nan)
    label = np.full(n_volumes, -1, dtype=np.intp)
    features = [np.zeros((n_volumes, width)) for width in widths]
    for each in shown:
        since = moments - each.onset
        starts = np.maximum(since - repetition_time / 2, 0)
        stops = np.minimum(since + repetition_time / 2, each.duration)
        inside = np.flatnonzero(stops - starts > 1e-6 * repetition_time)
        share = (stops[inside] - starts[inside]) / repetition_time
        on[inside] += share
        current = (since >= 0) & (since < each.duration)
        label[current], time[current] = each.label, since[current]
        for number, frames in enumerate(each.frames):
            means, covered = average_frames(frames.values, frames.times, starts[inside], stops[inside])
            reason = _uncovered(frames.times, covered, starts[inside], stops[inside], repetition_time)
            if reason is not None:
                raise ValueError(each.label, number, reason)
            features[number][inside] += share[:, None] * _filled(means)
    return Screen(np.minimum(on, 1.0), label, time, features)


def _uncovered(times: FloatArray, covered: FloatArray, starts: FloatArray, stops: FloatArray, repetition_time: float) -> str | None:
    """Where features are absent for more than a volume; None where they are not."""
    lacking = (stops - starts) - covered
    if not len(lacking):
        return None
    if lacking.sum() <= repetition_time and (covered > 0).any():
        return None
    worst = np.flatnonzero(lacking > 1e-6 * repetition_time)
    return (
        f"features are there from {times[0]:g} to {times[-1]:g} s, and none for {lacking.sum():.3g} s of what was shown, "
        f"first at {starts[worst[0]]:g} s; it was shown for {stops[-1]:g} s"
    )


def _filled(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Windows without a frame get the features of the nearest one that has some."""
    bad = ~np.isfinite(means[:, 0])
    if not bad.any():
        return means
    good = np.flatnonzero(~bad)
    nearest = good[np.abs(np.arange(len(means))[:, None] - good).argmin(axis=1)] if len(good) else np.zeros(len(means), dtype=np.intp)
    return np.asarray(means[nearest])
