"""What a site's BOLD series is made of; arrays in, arrays out.

Responses are in percent of a unit's mean, for an HRF whose continuous peak is 1. Every function that draws takes its
own random generator, so that a run's series do not depend on which other runs are made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.numerics.hrf import HRFLibrary, response_at
from conform_bids.simulate.anatomy import CSF, OUTSIDE
from conform_bids.simulate.fields import smooth_fields
from conform_bids.simulate.settings import SimulationSettings

__all__ = ["NuisanceTraits", "draw_motion", "draw_traits", "noise_series", "response_series", "slow_cosines"]

_N_MOTION = 6
_LOWEST_AR, _HIGHEST_AR = 0.2, 0.6

Float = NDArray[np.float64]


@dataclass(frozen=True)
class NuisanceTraits:
    """Noise properties of a subject's sites that all its runs share.

    Attributes
    ----------
    noise_scale : ndarray, shape (n_sites,)
        Factor of the autoregressive noise.
    autoregression : ndarray, shape (n_sites,)
        Coefficient of the autoregressive noise.
    shared_loadings : ndarray, shape (n_sources, n_sites)
        Weights of the noise that sites share.
    motion_loadings : ndarray, shape (6, n_sites)
        Weights of the motion parameters.
    """

    noise_scale: Float
    autoregression: Float
    shared_loadings: Float
    motion_loadings: Float


def draw_traits(
    positions: Float,
    tissue: NDArray[np.int_],
    settings: SimulationSettings,
    noisiness: Float,
    generator: np.random.Generator,
) -> NuisanceTraits:
    """Draw noise properties: smooth over space, stronger in cerebrospinal fluid, weak outside of the brain.

    Parameters
    ----------
    positions : ndarray, shape (n_sites, 3)
        In mm.
    tissue : ndarray of int, shape (n_sites,)
        Constants of `conform_bids.simulate.anatomy`.
    settings : SimulationSettings
        Number of sources.
    noisiness : ndarray, shape (n_sites,)
        Factor of each site's own noise.
    """
    by_tissue = np.where(tissue == CSF, 1.6, np.where(tissue == OUTSIDE, 0.3, 1.0))
    autoregression = generator.uniform(_LOWEST_AR, _HIGHEST_AR, len(tissue))
    loadings = smooth_fields(positions, settings.shared_sources, 30.0, generator)
    loadings[0] = 0.8 + 0.3 * loadings[0]  # a global component, as breathing has
    loadings += 0.2 * generator.standard_normal(loadings.shape)
    motion = smooth_fields(positions, _N_MOTION, 12.0, generator) + 0.5 * generator.standard_normal((_N_MOTION, len(tissue)))
    return NuisanceTraits(by_tissue * noisiness, autoregression, loadings * by_tissue, motion)


def response_series(
    library: HRFLibrary, hrf: NDArray[np.int_], betas: Float, onsets: Float, times: Float, stimulus_duration: float
) -> Float:
    """Responses of a run's trials.

    Parameters
    ----------
    library : HRFLibrary
        Curves.
    hrf : ndarray of int, shape (n_sites,)
        Curve of each site.
    betas : ndarray, shape (n_trials, n_sites)
        Response to each trial (%).
    onsets : ndarray, shape (n_trials,)
        In seconds.
    times : ndarray, shape (n_volumes,)
        Times of the volumes (s).
    stimulus_duration : float
        In seconds.

    Returns
    -------
    ndarray, shape (n_volumes, n_sites)
        In percent.
    """
    designs = response_at(library, stimulus_duration, times[:, np.newaxis] - onsets)
    series = np.zeros((len(times), betas.shape[1]))
    responding = betas.any(axis=0)
    for column in np.unique(hrf[responding]):
        sites = (hrf == column) & responding
        series[:, sites] = designs[:, :, column] @ betas[:, sites]
    return series


def draw_motion(n_volumes: int, generator: np.random.Generator) -> Float:
    """Head motion: a slow walk, with a few sudden moves; shape (n_volumes, 6), three in mm and three in rad."""
    steps = 0.015 * generator.standard_normal((n_volumes, _N_MOTION))
    for volume in np.flatnonzero(generator.random(n_volumes) < 0.015):
        steps[volume] += 0.15 * generator.standard_normal(_N_MOTION)
    walk = _autoregressive(steps, 0.98)
    walk[:, 3:] /= 50.0  # rad, on a head of 50 mm radius
    return walk - walk[0]


def noise_series(
    traits: NuisanceTraits,
    motion: Float,
    trial_courses: Float,
    settings: SimulationSettings,
    generator: np.random.Generator,
) -> Float:
    """Drift, autoregressive noise, noise that sites share, and what motion leaves behind.

    Parameters
    ----------
    traits : NuisanceTraits
        Of the subject.
    motion : ndarray, shape (n_volumes, 6)
        As `draw_motion` gives it.
    trial_courses : ndarray, shape (n_volumes, n_trials)
        Response to each trial, which shared noise follows by the fraction ``settings.task_locked`` of its variance.

    Returns
    -------
    ndarray, shape (n_volumes, n_sites)
        In percent, with the strengths that ``settings`` name.
    """
    n_volumes, n_sites = len(motion), len(traits.noise_scale)
    series = np.zeros((n_volumes, n_sites))
    if settings.autoregressive_noise:
        local = _autoregressive(generator.standard_normal((n_volumes + 20, n_sites)), traits.autoregression)[20:]
        series += settings.autoregressive_noise * traits.noise_scale * np.sqrt(1 - traits.autoregression**2) * local
    shared = _shared_courses(n_volumes, trial_courses, settings, generator)
    series += settings.shared_noise / np.sqrt(settings.shared_sources) * shared @ traits.shared_loadings
    cosines = slow_cosines(n_volumes, settings.repetition_time)
    if cosines.shape[1]:
        amplitudes = generator.standard_normal((cosines.shape[1], n_sites)) / np.sqrt(cosines.shape[1])
        series += settings.drift * cosines @ amplitudes
    scaled = motion * np.array([1.0] * 3 + [50.0] * 3)
    scaled = scaled / max(scaled.std(), 1e-9) / np.sqrt(_N_MOTION)
    series += settings.motion * scaled @ traits.motion_loadings
    return series


def _autoregressive(innovations: Float, coefficient: float | Float) -> Float:
    series = innovations.copy()
    for volume in range(1, len(series)):
        series[volume] += coefficient * series[volume - 1]
    return series


def _standardised(courses: Float) -> Float:
    courses = courses - courses.mean(axis=0)
    return np.asarray(courses / np.maximum(courses.std(axis=0), 1e-12), dtype=np.float64)


def _shared_courses(n_volumes: int, trial_courses: Float, settings: SimulationSettings, generator: np.random.Generator) -> Float:
    """Courses of shared noise: slow ones, and two that swing (breathing and pulse, aliased); unit variance."""
    n_sources = settings.shared_sources
    courses = _autoregressive(generator.standard_normal((n_volumes + 30, n_sources)), 0.75)[30:]
    times = np.arange(n_volumes) * settings.repetition_time
    for column, frequency in ((1, 0.28), (2, 1.05)):
        if column < n_sources:
            wander = np.cumsum(0.25 * generator.standard_normal(n_volumes))
            courses[:, column] = 0.5 * courses[:, column] + 1.5 * np.sin(2 * np.pi * frequency * times + wander)
    courses = _standardised(courses)
    if settings.task_locked:
        # random signs and sizes: what follows the trials and not the stimuli cannot be averaged out of a trial
        amplitudes = generator.standard_normal((trial_courses.shape[1], n_sources))
        followed = _standardised(trial_courses @ amplitudes)
        courses = np.sqrt(1 - settings.task_locked) * courses + np.sqrt(settings.task_locked) * followed
    return courses


def slow_cosines(n_volumes: int, repetition_time: float, cutoff: float = 128.0) -> Float:
    """Cosines slower than ``cutoff`` seconds, of unit variance; shape (n_volumes, n)."""
    n_cosines = int(2 * n_volumes * repetition_time / cutoff)
    phase = np.pi * (np.arange(n_volumes)[:, np.newaxis] + 0.5) / n_volumes
    return np.asarray(np.sqrt(2) * np.cos(phase * np.arange(1, n_cosines + 1)), dtype=np.float64)
