"""Haemodynamic response functions: double gammas, libraries of them, and the response to a stimulus of any duration.

A curve that is not yet convolved is the response to a stimulus of 0.1 s, as in GLMsingle. The response to a longer
stimulus is the sum of such responses, one every 0.1 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator
from scipy.special import gammaln, xlogy

__all__ = [
    "BRIEF_STIMULUS",
    "PARAMETERS",
    "HRFLibrary",
    "double_gamma",
    "library_from_parameters",
    "response_at",
    "sample_library_glmsingle",
]

BRIEF_STIMULUS = 0.1
"""Duration (s) of the stimulus that an unconvolved curve is the response to, and the step of its sampling."""

PARAMETERS = (
    "delay_response",
    "delay_undershoot",
    "dispersion_response",
    "dispersion_undershoot",
    "response_undershoot_ratio",
    "onset",
    "scale",
)
"""Columns of a table of double-gamma parameters, in the order of `double_gamma`'s arguments."""

_FINE_STEPS = 10  # fine samples in a brief stimulus: 0.01 s, where linear interpolation errs by less than 1e-5 of the peak
_N_SAMPLES = 501  # 50 s, what GLMsingle's library spans


@dataclass(frozen=True, eq=False)
class HRFLibrary:
    """A set of response curves; a library equals itself alone.

    Attributes
    ----------
    curves : ndarray, shape (n_samples, n_hrfs)
        float64; the first sample is at stimulus onset.
    step : float
        Time between samples (s).
    convolved : bool
        False: responses to a stimulus of 0.1 s, to be convolved with the stimulus's duration. True: responses to a
        whole trial already, which no duration changes.
    names : tuple of str
        One a curve.

    Raises
    ------
    ValueError
        For curves that are not 2-D, not finite, or without a positive peak, and for a step that is not positive.
    """

    curves: NDArray[np.float64]
    step: float
    convolved: bool
    names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        curves = np.ascontiguousarray(self.curves, dtype=np.float64)
        if curves.ndim != 2 or curves.shape[0] < 2 or curves.shape[1] < 1:
            raise ValueError(f"an HRF library is (samples, HRFs) with two samples at least, not {curves.shape}")
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"the step of an HRF library is a positive number of seconds, not {self.step}")
        if not np.isfinite(curves).all():
            raise ValueError("an HRF has a value that is not finite")
        if not (curves.max(axis=0) > 0).all():
            raise ValueError(f"HRF {int(np.argmin(curves.max(axis=0)))} (0-based) has no positive peak")
        names = self.names or tuple(f"hrf{index:02d}" for index in range(curves.shape[1]))
        if len(names) != curves.shape[1]:
            raise ValueError(f"{curves.shape[1]} HRFs have {len(names)} names")
        curves.setflags(write=False)
        object.__setattr__(self, "curves", curves)
        object.__setattr__(self, "names", names)

    @property
    def n_hrfs(self) -> int:
        """Number of curves."""
        return int(self.curves.shape[1])

    @property
    def times(self) -> NDArray[np.float64]:
        """Times of the samples after onset (s), shape (n_samples,)."""
        return np.arange(self.curves.shape[0], dtype=np.float64) * self.step


def _gamma_density(t: NDArray[np.float64], delay: float, dispersion: float) -> NDArray[np.float64]:
    shape = delay / dispersion
    later = t > 0
    safe: NDArray[np.float64] = np.where(later, t, 1.0)
    log_density = xlogy(shape - 1.0, safe) - safe / dispersion - gammaln(shape) - shape * math.log(dispersion)
    return np.where(later, np.exp(log_density), 0.0)


def double_gamma(
    t: ArrayLike,
    delay_response: float,
    delay_undershoot: float,
    dispersion_response: float,
    dispersion_undershoot: float,
    ratio: float,
    onset: float,
    scale: float,
) -> NDArray[np.float64]:
    """Double-gamma response at times ``t`` after a brief stimulus.

    Parameters
    ----------
    t : array_like
        Times (s), any shape.
    delay_response, delay_undershoot : float
        Delays of response and undershoot (s): the gamma densities' shape is delay / dispersion.
    dispersion_response, dispersion_undershoot : float
        Scales of the gamma densities (s).
    ratio : float
        Response over undershoot.
    onset : float
        Onset of both (s).
    scale : float
        Factor of the whole.

    Returns
    -------
    ndarray, the shape of ``t``
        Arbitrary units; 0 before ``onset``.
    """
    elapsed: NDArray[np.float64] = np.asarray(t, dtype=np.float64) - onset
    response = _gamma_density(elapsed, delay_response, dispersion_response)
    undershoot = _gamma_density(elapsed, delay_undershoot, dispersion_undershoot)
    return np.asarray(scale * (response - undershoot / ratio), dtype=np.float64)


def library_from_parameters(table: ArrayLike, names: tuple[str, ...] = (), n_samples: int = _N_SAMPLES) -> HRFLibrary:
    """Sample double gammas every 0.1 s, by default from 0 to 50 s.

    Parameters
    ----------
    table : array_like, shape (n_hrfs, 7)
        A row an HRF, columns as in `PARAMETERS`.
    names : tuple of str
        One a row.
    n_samples : int
        Samples a curve.
    """
    rows = np.atleast_2d(np.asarray(table, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != len(PARAMETERS):
        raise ValueError(f"a table of double gammas has {len(PARAMETERS)} columns, not shape {rows.shape}")
    times = np.arange(n_samples) * BRIEF_STIMULUS
    curves = np.stack([double_gamma(times, *row) for row in rows], axis=1)
    return HRFLibrary(curves, BRIEF_STIMULUS, convolved=False, names=names)


def _brief_curves(library: HRFLibrary) -> NDArray[np.float64]:
    """Curves of an unconvolved library at 0.1 s, whatever its own step; shape (L, n_hrfs)."""
    if abs(library.step - BRIEF_STIMULUS) < 1e-9:
        return library.curves
    end = library.times[-1]
    times = np.arange(math.floor(end / BRIEF_STIMULUS + 1e-6) + 1) * BRIEF_STIMULUS
    return np.asarray(PchipInterpolator(library.times, library.curves, axis=0)(np.minimum(times, end)))


def sample_library_glmsingle(library: HRFLibrary, stimulus_duration: float, tr: float, *, assumed: bool = False) -> NDArray[np.float32]:
    """Responses to a stimulus, sampled at the repetition time as GLMsingle samples them.

    Parameters
    ----------
    library : HRFLibrary
        A library that is convolved already is only divided by each curve's own maximum.
    stimulus_duration : float
        Seconds; rounded to 0.1 s, at least 0.1 s.
    tr : float
        Repetition time (s).
    assumed : bool
        Sample as GLMsingle's ``hrftoassume`` (which ends a sample earlier) and not as its ``hrflibrary``.

    Returns
    -------
    ndarray, shape (L, n_hrfs), float32
        Largest sample of each curve is 1; note that this is not the peak of the continuous curve.

    Raises
    ------
    ValueError
        For a duration that is negative or a repetition time that is not positive.
    """
    _check_duration(stimulus_duration)
    if not (math.isfinite(tr) and tr > 0):
        raise ValueError(f"the repetition time is a positive number of seconds, not {tr}")
    if library.convolved:
        return np.asarray(library.curves / library.curves.max(axis=0), dtype=np.float32)
    n_ones = max(1, math.floor(stimulus_duration / BRIEF_STIMULUS + 0.5))
    curves = _brief_curves(library)
    length = curves.shape[0] + n_ones - 1
    summed = np.stack([np.convolve(curve, np.ones(n_ones)) for curve in curves.T], axis=1)
    end = (length - 1) * BRIEF_STIMULUS if assumed else math.ceil(length * BRIEF_STIMULUS)
    knots = np.arange(length) * BRIEF_STIMULUS
    sampled = np.asarray(PchipInterpolator(knots, summed, axis=0)(np.arange(0.0, end, tr)))
    if not assumed:  # twice rounded to float32 there, so here too
        sampled = np.asarray(sampled / sampled.max(), dtype=np.float32)
    return np.asarray(sampled / sampled.max(axis=0), dtype=np.float32)


def response_at(library: HRFLibrary, stimulus_duration: float, times: ArrayLike) -> NDArray[np.float64]:
    """Responses to a stimulus at any times, on no grid.

    Parameters
    ----------
    library : HRFLibrary
        Curves; those of a convolved library ignore ``stimulus_duration``.
    stimulus_duration : float
        Seconds, not rounded; what is shorter than 0.1 s (0 included) counts as 0.1 s.
    times : array_like
        Times after stimulus onset (s), any shape.

    Returns
    -------
    ndarray, shape (*times.shape, n_hrfs), float64
        Each curve divided by its continuous peak (peak 1); 0 before the onset and once the curve has ended.

    Raises
    ------
    ValueError
        For a duration that is negative or not finite.
    """
    _check_duration(stimulus_duration)
    fine, fine_step = _fine_response(library, 0.0 if library.convolved else float(stimulus_duration))
    return _interpolate(fine, np.asarray(times, dtype=np.float64) / fine_step, beyond=0.0)


@lru_cache(maxsize=16)
def _fine_response(library: HRFLibrary, stimulus_duration: float) -> tuple[NDArray[np.float64], float]:
    """Responses with peak 1 on a fine grid, (n_fine, n_hrfs), and its step (s); kept, as every run asks for the same ones."""
    if library.convolved:
        fine_step = library.step / math.ceil(library.step / BRIEF_STIMULUS * _FINE_STEPS)
        fine = _upsampled(library.curves, library.step, fine_step)
    else:
        fine_step = BRIEF_STIMULUS / _FINE_STEPS
        fine = _convolved(_upsampled(_brief_curves(library), BRIEF_STIMULUS, fine_step), fine_step, stimulus_duration)
    fine = fine / fine.max(axis=0)
    fine.setflags(write=False)
    return fine, fine_step


def _check_duration(stimulus_duration: float) -> None:
    if not (math.isfinite(stimulus_duration) and stimulus_duration >= 0):
        raise ValueError(f"a stimulus's duration is a number of seconds from 0 on, not {stimulus_duration}")


def _upsampled(curves: NDArray[np.float64], step: float, fine_step: float) -> NDArray[np.float64]:
    knots = np.arange(curves.shape[0]) * step
    n_fine = round(step / fine_step) * (curves.shape[0] - 1) + 1
    fine_times = np.minimum(np.arange(n_fine) * fine_step, knots[-1])
    return np.asarray(PchipInterpolator(knots, curves, axis=0)(fine_times))


def _convolved(brief: NDArray[np.float64], fine_step: float, duration: float) -> NDArray[np.float64]:
    """Response to ``duration`` from the response to a brief stimulus, both at the fine step.

    The response to a stimulus that never ends is the sum of brief responses every 0.1 s; the response to ``duration``
    is the difference of two of those, so durations need not be multiples of 0.1 s.
    """
    duration = max(duration, BRIEF_STIMULUS)
    n_brief = round(BRIEF_STIMULUS / fine_step)
    n_fine = brief.shape[0] + math.ceil(duration / fine_step) + 1
    padded = np.zeros((math.ceil(n_fine / n_brief) * n_brief, brief.shape[1]))
    padded[: brief.shape[0]] = brief
    endless = padded.reshape(-1, n_brief, brief.shape[1]).cumsum(axis=0).reshape(padded.shape)[:n_fine]
    ended = _interpolate(endless, np.arange(n_fine) - duration / fine_step, beyond=0.0)
    return endless - ended


def _interpolate(curves: NDArray[np.float64], position: NDArray[np.float64], beyond: float) -> NDArray[np.float64]:
    """Linear interpolation of rows of ``curves`` at fractional row numbers of any shape."""
    last = curves.shape[0] - 1
    inside = (position >= 0) & (position <= last)
    result = np.full((*position.shape, curves.shape[1]), beyond)
    within = position[inside]
    lower = np.minimum(within.astype(np.intp), last - 1)
    weight = (within - lower)[:, np.newaxis]
    result[inside] = curves[lower] * (1.0 - weight) + curves[lower + 1] * weight
    return result
