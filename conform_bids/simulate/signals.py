"""What a site's BOLD series is made of; arrays in, arrays out.

Responses are in percent of a unit's mean, for an HRF whose continuous peak is 1. Every function that draws takes its
own random generator, so that a run's series do not depend on which other runs are made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.numerics.hrf import BRIEF_STIMULUS, HRFLibrary, response_at
from conform_bids.simulate.anatomy import CEREBELLUM, CORTEX, CSF, OUTSIDE
from conform_bids.simulate.settings import SimulationSettings

__all__ = [
    "NuisanceTraits",
    "Organisation",
    "draw_motion",
    "draw_organisation",
    "draw_traits",
    "noise_series",
    "response_series",
    "slow_cosines",
    "smooth_fields",
]

_N_WARPED = 12
_N_SHARED = 4
_N_MOTION = 6
_ACTIVE_FRACTION = 0.45

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Organisation:
    """How the sites of a subject respond.

    Attributes
    ----------
    active : ndarray of bool, shape (n_sites,)
        Sites that respond.
    condition_betas : ndarray, shape (n_stimuli, n_sites)
        Mean response to each stimulus (% signal change), 0 where not active.
    gain : ndarray, shape (n_sites,)
        Mean response over stimuli as it was drawn; the scale of variability over trials.
    library : HRFLibrary
        The packaged library, then curves outside of it.
    hrf : ndarray of int, shape (n_sites,)
        Column of ``library``.
    """

    active: NDArray[np.bool_]
    condition_betas: Float
    gain: Float
    library: HRFLibrary
    hrf: NDArray[np.int_]


@dataclass(frozen=True)
class NuisanceTraits:
    """Noise properties of a subject's sites that all its runs share.

    Attributes
    ----------
    noise_scale : ndarray, shape (n_sites,)
        Factor of the autoregressive noise.
    shared_loadings : ndarray, shape (4, n_sites)
        Weights of the noise that sites share.
    motion_loadings : ndarray, shape (6, n_sites)
        Weights of the motion parameters.
    """

    noise_scale: Float
    shared_loadings: Float
    motion_loadings: Float


def smooth_fields(positions: Float, n_fields: int, length_scale: float, generator: np.random.Generator) -> Float:
    """Random functions of space with unit variance and a Gaussian correlation, by random Fourier features.

    The fields depend on the generator and the positions alone: two sets of positions see the same functions.

    Parameters
    ----------
    positions : ndarray, shape (n, 3)
        In mm.
    n_fields : int
        Number of functions.
    length_scale : float
        Distance (mm) at which the correlation has fallen to exp(-1/2).

    Returns
    -------
    ndarray, shape (n_fields, n)
    """
    n_waves = 200
    frequencies = generator.standard_normal((3, n_waves)) / length_scale
    phases = generator.uniform(0, 2 * np.pi, n_waves)
    weights = generator.standard_normal((n_fields, n_waves))
    return np.asarray(np.sqrt(2 / n_waves) * weights @ np.cos(positions @ frequencies + phases).T, dtype=np.float64)


def _outside_library(library: HRFLibrary, generator: np.random.Generator) -> HRFLibrary:
    """The library and, behind it, curves that are stretched and delayed."""
    times = library.times
    warped = []
    for _ in range(_N_WARPED):
        base = library.curves[:, int(generator.integers(2, 16))]
        stretch, delay = generator.uniform(0.75, 1.35), generator.uniform(-0.3, 1.2)
        curve = np.interp((times - max(delay, 0.0)) / stretch, times, base, left=0.0)
        warped.append(curve)
    curves = np.concatenate([library.curves, np.stack(warped, axis=1)], axis=1)
    names = (*library.names, *(f"outside{index:02d}" for index in range(_N_WARPED)))
    return HRFLibrary(curves, BRIEF_STIMULUS, convolved=False, names=names)


def draw_organisation(
    positions: Float,
    tissue: NDArray[np.int_],
    features: Float,
    library: HRFLibrary,
    settings: SimulationSettings,
    shared: np.random.Generator,
    own: np.random.Generator,
) -> Organisation:
    """Draw how a subject's sites respond: a plan that subjects share, on a cortex that each folds its own way.

    Parameters
    ----------
    positions : ndarray, shape (n_sites, 3)
        In mm.
    tissue : ndarray of int, shape (n_sites,)
        Constants of `conform_bids.simulate.anatomy`.
    features : ndarray, shape (n_stimuli, n_features)
        Standardised features of the stimuli.
    library : HRFLibrary
        Unconvolved curves, sampled every 0.1 s.
    settings : SimulationSettings
        Strengths.
    shared, own : numpy.random.Generator
        Of the population (same state for each subject) and of the subject.
    """
    folded = positions + 5.0 * smooth_fields(positions, 3, 25.0, own).T
    n_features = features.shape[1]
    plan = smooth_fields(folded, n_features + 2, 14.0, shared)
    tuning = plan[:n_features] + 0.4 * smooth_fields(positions, n_features, 10.0, own)
    tuning += 0.3 * own.standard_normal(tuning.shape)
    pattern = features @ tuning
    pattern /= np.maximum(pattern.std(axis=0), 1e-12)
    responsive = np.isin(tissue, (CORTEX, CEREBELLUM))
    strength = plan[n_features] - 1.5 * (tissue == CEREBELLUM)
    threshold = np.quantile(strength[responsive], 1 - _ACTIVE_FRACTION)
    active = responsive & (strength > threshold)
    gain = settings.response * np.exp(0.35 * own.standard_normal(len(tissue)) - 0.06)
    condition_betas = np.where(active, gain * (1 + settings.selectivity * (pattern - pattern.mean(axis=0))), 0.0)
    middle = 0.45 * library.n_hrfs
    index = np.rint(middle + 3.0 * plan[n_features + 1] + 1.5 * own.standard_normal(len(tissue)))
    hrf = np.clip(index, 0, library.n_hrfs - 1).astype(int)
    all_curves = _outside_library(library, own)
    elsewhere = own.random(len(tissue)) < settings.outside_library
    hrf[elsewhere] = library.n_hrfs + own.integers(0, _N_WARPED, int(elsewhere.sum()))
    return Organisation(active, condition_betas, gain, all_curves, hrf)


def draw_traits(positions: Float, tissue: NDArray[np.int_], generator: np.random.Generator) -> NuisanceTraits:
    """Draw noise properties: smooth over space, stronger in cerebrospinal fluid, weak outside of the brain."""
    by_tissue = np.where(tissue == CSF, 1.6, np.where(tissue == OUTSIDE, 0.3, 1.0))
    noise_scale = by_tissue * np.exp(0.3 * generator.standard_normal(len(tissue)))
    loadings = smooth_fields(positions, _N_SHARED, 30.0, generator)
    loadings[0] = 0.8 + 0.3 * loadings[0]  # a global component, as breathing has
    loadings += 0.2 * generator.standard_normal(loadings.shape)
    motion = smooth_fields(positions, _N_MOTION, 12.0, generator) + 0.5 * generator.standard_normal((_N_MOTION, len(tissue)))
    return NuisanceTraits(noise_scale, loadings * by_tissue, motion)


def response_series(organisation: Organisation, betas: Float, onsets: Float, times: Float, stimulus_duration: float) -> Float:
    """Responses of a run's trials.

    Parameters
    ----------
    organisation : Organisation
        Its HRFs.
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
    designs = response_at(organisation.library, stimulus_duration, times[:, np.newaxis] - onsets)
    series = np.zeros((len(times), betas.shape[1]))
    for column in np.unique(organisation.hrf):
        sites = organisation.hrf == column
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
    traits: NuisanceTraits, motion: Float, repetition_time: float, settings: SimulationSettings, generator: np.random.Generator
) -> Float:
    """Drift, autoregressive noise, noise that sites share, and what motion leaves behind.

    Parameters
    ----------
    traits : NuisanceTraits
        Of the subject.
    motion : ndarray, shape (n_volumes, 6)
        As `draw_motion` gives it.
    repetition_time : float
        In seconds.

    Returns
    -------
    ndarray, shape (n_volumes, n_sites)
        In percent, with the strengths that ``settings`` name.
    """
    n_volumes, n_sites = len(motion), len(traits.noise_scale)
    local = _autoregressive(generator.standard_normal((n_volumes + 20, n_sites)), 0.4)[20:] * np.sqrt(1 - 0.4**2)
    series = settings.autoregressive_noise * traits.noise_scale * local
    shared = _shared_courses(n_volumes, repetition_time, generator)
    series += settings.shared_noise / np.sqrt(_N_SHARED) * shared @ traits.shared_loadings
    cosines = slow_cosines(n_volumes, repetition_time)
    if cosines.shape[1]:
        amplitudes = generator.standard_normal((cosines.shape[1], n_sites)) / np.sqrt(cosines.shape[1])
        series += settings.drift * cosines @ amplitudes
    scaled = motion * np.array([1.0] * 3 + [50.0] * 3)
    scaled = scaled / max(scaled.std(), 1e-9) / np.sqrt(_N_MOTION)
    series += settings.motion * scaled @ traits.motion_loadings
    return series


def _autoregressive(innovations: Float, coefficient: float) -> Float:
    series = innovations.copy()
    for volume in range(1, len(series)):
        series[volume] += coefficient * series[volume - 1]
    return series


def _shared_courses(n_volumes: int, repetition_time: float, generator: np.random.Generator) -> Float:
    """Courses of shared noise: slow ones, and two that swing (breathing and pulse, aliased); unit variance."""
    courses = _autoregressive(generator.standard_normal((n_volumes + 30, _N_SHARED)), 0.75)[30:]
    times = np.arange(n_volumes) * repetition_time
    for column, frequency in ((1, 0.28), (2, 1.05)):
        wander = np.cumsum(0.25 * generator.standard_normal(n_volumes))
        courses[:, column] = 0.5 * courses[:, column] + 1.5 * np.sin(2 * np.pi * frequency * times + wander)
    courses -= courses.mean(axis=0)
    return np.asarray(courses / np.maximum(courses.std(axis=0), 1e-12), dtype=np.float64)


def slow_cosines(n_volumes: int, repetition_time: float, cutoff: float = 128.0) -> Float:
    """Cosines slower than ``cutoff`` seconds, of unit variance; shape (n_volumes, n)."""
    n_cosines = int(2 * n_volumes * repetition_time / cutoff)
    phase = np.pi * (np.arange(n_volumes)[:, np.newaxis] + 0.5) / n_volumes
    return np.asarray(np.sqrt(2) * np.cos(phase * np.arange(1, n_cosines + 1)), dtype=np.float64)
