"""A simulated subject: its design, its responses and its series, before any file is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.numerics.hrf import HRFLibrary, response_at
from conform_bids.simulate.anatomy import CEREBELLUM, CORTEX, CSF, OUTSIDE, WHITE_MATTER, Anatomy
from conform_bids.simulate.design import draw_onsets, draw_orders
from conform_bids.simulate.fields import smooth_fields
from conform_bids.simulate.hrfs import choose_hrfs, extend_library
from conform_bids.simulate.organisation import Population, draw_functional_map
from conform_bids.simulate.seeds import DESIGN, ORGANISATION, RUN, SUBJECT, TRAITS, UNITS, dataset_generator, population_generator
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.signals import NuisanceTraits, draw_motion, draw_traits, noise_series, response_series

__all__ = ["Run", "Subject", "Tuning", "draw_subject", "draw_tuning", "simulate_run", "unit_series"]

_BASELINE = {OUTSIDE: 30.0, CORTEX: 1000.0, WHITE_MATTER: 850.0, CSF: 1250.0, CEREBELLUM: 950.0}
_ACTIVE_FRACTION = 0.45
_N_SET_ASIDE = 4
_GAIN_SPREAD = 0.35
_SELECTIVITY_SPREAD = 0.25

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Tuning:
    """How the sites of a subject respond.

    Attributes
    ----------
    active : ndarray of bool, shape (n_sites,)
        Sites that respond.
    functional_type : ndarray of int, shape (n_sites,)
        Index into `conform_bids.simulate.organisation.TYPES`, -1 where not active.
    gain : ndarray, shape (n_sites,)
        Mean response over the world of stimuli (%), the weights' intercept; 0 where not active.
    weights : ndarray, shape (n_features, n_sites)
        Response (%) to one standard deviation of each feature; 0 where not active.
    variability : ndarray, shape (n_sites,)
        Standard deviation of responses over repeats (%); 0 where not active.
    noisiness : ndarray, shape (n_sites,)
        Factor of the site's own noise.
    library : HRFLibrary
        The packaged library, then curves outside of it.
    hrf : ndarray of int, shape (n_sites,)
        Column of ``library``.
    """

    active: NDArray[np.bool_]
    functional_type: NDArray[np.int_]
    gain: Float
    weights: Float
    variability: Float
    noisiness: Float
    library: HRFLibrary
    hrf: NDArray[np.int_]

    def responses(self, features: Float) -> Float:
        """Mean response (%) to stimuli with these features; shapes (n_stimuli, n_features) to (n_stimuli, n_sites)."""
        return np.asarray(self.gain + features @ self.weights, dtype=np.float64)


@dataclass(frozen=True)
class Subject:
    """What holds for all runs of a subject.

    Attributes
    ----------
    index : int
        0-based.
    tuning : Tuning
        How its sites respond.
    condition_betas : ndarray, shape (n_stimuli, n_sites)
        Mean response to each stimulus that it sees (%), 0 where not active.
    traits : NuisanceTraits
        Its noise.
    baseline : ndarray, shape (n_sites,)
        Mean intensity; 0 in ``empty`` sites.
    session_gain, session_offset, session_baseline : ndarray, shape (n_sessions, n_sites)
        Factor of the responses, what is added to them (%), and factor of the baseline.
    orders : list of list of ndarray of int
        By session and run: indices of the stimuli that are shown.
    empty, constant : ndarray of bool, shape (n_sites,)
        Sites without a signal, or with one that never changes.
    """

    index: int
    tuning: Tuning
    condition_betas: Float
    traits: NuisanceTraits
    baseline: Float
    session_gain: Float
    session_offset: Float
    session_baseline: Float
    orders: list[list[NDArray[np.int_]]]
    empty: NDArray[np.bool_]
    constant: NDArray[np.bool_]


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes
    ----------
    session, run : int
        0-based.
    onsets : ndarray, shape (n_trials,)
        In seconds.
    stimuli : ndarray of int, shape (n_trials,)
        Index of each trial's stimulus among those that the subject sees.
    betas : ndarray, shape (n_trials, n_sites)
        True responses (% of the unit's mean).
    motion : ndarray, shape (n_volumes, 6)
        Three translations (mm), three rotations (rad).
    percent : ndarray, shape (n_volumes, n_sites)
        Series in percent of the mean, without the white noise of each unit.
    noise_variance : ndarray, shape (n_sites,)
        Temporal variance (%^2) of what is no response in them.
    """

    session: int
    run: int
    onsets: Float
    stimuli: NDArray[np.int_]
    betas: Float
    motion: Float
    percent: Float
    noise_variance: Float


def draw_tuning(
    population: Population,
    positions: Float,
    tissue: NDArray[np.int_],
    library: HRFLibrary,
    settings: SimulationSettings,
    own: np.random.Generator,
) -> Tuning:
    """Draw how a person's sites respond.

    Parameters
    ----------
    population : Population
        What the person shares with others.
    positions : ndarray, shape (n_sites, 3)
        In mm.
    tissue : ndarray of int, shape (n_sites,)
        Constants of `conform_bids.simulate.anatomy`.
    library : HRFLibrary
        Unconvolved curves, sampled every 0.1 s.
    settings : SimulationSettings
        Strengths.
    own : numpy.random.Generator
        Of the person.
    """
    shared = population_generator(population.seed, ORGANISATION, 1)
    mapped = draw_functional_map(population, positions, settings.topography_shift, settings.idiosyncrasy, shared, own)
    responsive = np.isin(tissue, (CORTEX, CEREBELLUM))
    strength = mapped.strength - 1.0 * (tissue == CEREBELLUM)
    active = responsive & (strength > np.quantile(strength[responsive], 1 - _ACTIVE_FRACTION))
    n_sites = len(tissue)

    def log_normal(spread: float) -> Float:
        return np.asarray(np.exp(spread * own.standard_normal(n_sites) - spread**2 / 2))

    gain = np.where(active, settings.response * log_normal(_GAIN_SPREAD), 0.0)
    noisiness = log_normal(settings.noise_spread)
    extended = extend_library(library, own)
    return Tuning(
        active=active,
        functional_type=np.where(active, mapped.functional_type, -1),
        gain=gain,
        weights=gain * settings.selectivity * log_normal(_SELECTIVITY_SPREAD) * mapped.tuning,
        variability=gain * settings.trial_variability * noisiness,
        noisiness=noisiness,
        library=extended,
        hrf=choose_hrfs(mapped.delay, library.n_hrfs, settings, own),
    )


def _silenced(tuning: Tuning, silent: NDArray[np.bool_]) -> Tuning:
    return Tuning(
        active=tuning.active & ~silent,
        functional_type=np.where(silent, -1, tuning.functional_type),
        gain=np.where(silent, 0.0, tuning.gain),
        weights=np.where(silent, 0.0, tuning.weights),
        variability=np.where(silent, 0.0, tuning.variability),
        noisiness=tuning.noisiness,
        library=tuning.library,
        hrf=tuning.hrf,
    )


def draw_subject(
    index: int, population: Population, anatomy: Anatomy, features: Float, library: HRFLibrary, settings: SimulationSettings
) -> Subject:
    """Draw a person of a population; ``features`` (n_stimuli, n_features) are those of the stimuli that it sees."""
    own = dataset_generator(settings, SUBJECT, index)
    tuning = draw_tuning(population, anatomy.positions, anatomy.tissue, library, settings, own)
    n_sites = len(anatomy.tissue)
    odd = own.permutation(np.flatnonzero(anatomy.tissue != OUTSIDE))[: 2 * _N_SET_ASIDE]
    empty, constant = np.zeros(n_sites, dtype=bool), np.zeros(n_sites, dtype=bool)
    empty[odd[:_N_SET_ASIDE]] = True
    constant[odd[_N_SET_ASIDE:]] = True
    tuning = _silenced(tuning, empty | constant)
    baseline = np.array([_BASELINE[int(label)] for label in anatomy.tissue]) * np.exp(0.08 * own.standard_normal(n_sites))
    baseline[empty] = 0.0
    sessions = dataset_generator(settings, TRAITS, index, 1)
    shape = (settings.n_sessions, n_sites)
    # most of what differs between sessions does so everywhere, the rest from place to place
    common = 0.8 * sessions.standard_normal((settings.n_sessions, 1)) + 0.6 * sessions.standard_normal(shape)
    offset = np.sqrt(0.5) * smooth_fields(anatomy.positions, settings.n_sessions, 30.0, sessions)
    offset += np.sqrt(0.5) * sessions.standard_normal(shape)
    return Subject(
        index=index,
        tuning=tuning,
        condition_betas=tuning.responses(features),
        traits=draw_traits(anatomy.positions, anatomy.tissue, settings, tuning.noisiness, dataset_generator(settings, TRAITS, index, 0)),
        baseline=baseline,
        session_gain=np.maximum(1 + settings.session_gain * common, 0.1),
        session_offset=settings.session_offset * tuning.gain * offset,
        session_baseline=1 + 0.03 * sessions.standard_normal(shape),
        orders=draw_orders(settings, dataset_generator(settings, DESIGN, index, 0, 0)),
        empty=empty,
        constant=constant,
    )


def simulate_run(subject: Subject, session: int, run: int, settings: SimulationSettings) -> Run:
    """Simulate one run of a subject."""
    keys = (subject.index, session, run)
    generator = dataset_generator(settings, RUN, *keys)
    stimuli = subject.orders[session][run]
    onsets = draw_onsets(len(stimuli), settings, dataset_generator(settings, DESIGN, subject.index, 1 + session, run))
    tuning = subject.tuning
    repeats = tuning.variability * generator.standard_normal((len(onsets), len(tuning.gain)))
    betas = (subject.condition_betas[stimuli] + repeats) * subject.session_gain[session] + subject.session_offset[session]
    times = np.asarray(settings.start_time + settings.repetition_time * np.arange(settings.n_volumes), dtype=np.float64)
    motion = draw_motion(settings.n_volumes, generator)
    typical = response_at(tuning.library, settings.stimulus_duration, times[:, np.newaxis] - onsets)[:, :, tuning.library.n_hrfs // 4]
    noise = noise_series(subject.traits, motion, typical, settings, generator)
    percent = response_series(tuning.library, tuning.hrf, betas, onsets, times, settings.stimulus_duration) + noise
    silent = subject.constant | subject.empty
    percent[:, silent] = 0.0
    variance = np.where(silent, 0.0, noise.var(axis=0) + settings.thermal_noise**2)
    return Run(session, run, onsets, stimuli, betas, motion, percent, variance)


def unit_series(
    subject: Subject, run: Run, sites: NDArray[np.int_], kind: int, settings: SimulationSettings
) -> Iterator[NDArray[np.float32]]:
    """Intensities of units that take their series from ``sites``, a volume of shape (n_units,) at a time.

    Each unit adds white noise of its own; a unit whose site is -1 is 0 throughout. Values are multiples of 1/16, as the
    scanner's integers leave few bits of noise to store.

    Parameters
    ----------
    subject, run
        Whose series.
    sites : ndarray of int, shape (n_units,)
        Site of each unit.
    kind : int
        Keeps the noise of formats apart.
    """
    generator = dataset_generator(settings, UNITS, subject.index, run.session, run.run, kind)
    used = np.flatnonzero(sites >= 0)
    taken = sites[used]
    baseline = (subject.baseline * subject.session_baseline[run.session])[taken]
    noisy = np.where((subject.constant | subject.empty)[taken], 0.0, settings.thermal_noise)
    # outside of the brain there is little but noise
    noisy = np.where(baseline < 100, 5 * noisy, noisy)
    for percent in run.percent:
        values = np.zeros(len(sites), dtype=np.float32)
        change = percent[taken] + noisy * generator.standard_normal(len(used))
        values[used] = np.rint(16 * baseline * (1 + change / 100)) / 16
        yield values
