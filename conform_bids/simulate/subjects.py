"""A simulated subject: its design, its responses and its series, before any file is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.numerics.hrf import HRFLibrary
from conform_bids.simulate.anatomy import CEREBELLUM, CORTEX, CSF, OUTSIDE, WHITE_MATTER, Anatomy
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.signals import (
    NuisanceTraits,
    Organisation,
    draw_motion,
    draw_organisation,
    draw_traits,
    noise_series,
    response_series,
)

__all__ = ["Run", "Subject", "draw_run_design", "draw_subject", "generator_for", "simulate_run", "unit_series"]

_BASELINE = {OUTSIDE: 30.0, CORTEX: 1000.0, WHITE_MATTER: 850.0, CSF: 1250.0, CEREBELLUM: 950.0}
_N_SET_ASIDE = 4
_LEAD_IN_S = 8.0
STIMULI, _PLAN, _SUBJECT, _TRAITS, _DESIGN, _RUN, _UNITS = range(7)
"""Uses of random numbers; each has its own stream, so that a change of one leaves the others as they were."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """What holds for all runs of a subject.

    Attributes
    ----------
    index : int
        0-based.
    organisation : Organisation
        How its sites respond.
    traits : NuisanceTraits
        Its noise.
    baseline : ndarray, shape (n_sites,)
        Mean intensity; 0 in ``empty`` sites.
    session_gain, session_baseline : ndarray, shape (n_sessions, n_sites)
        Factors of the responses and of the baseline.
    empty, constant : ndarray of bool, shape (n_sites,)
        Sites without a signal, or with one that never changes.
    """

    index: int
    organisation: Organisation
    traits: NuisanceTraits
    baseline: Float
    session_gain: Float
    session_baseline: Float
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
        Index of each trial's stimulus.
    betas : ndarray, shape (n_trials, n_sites)
        True responses (% of the unit's mean).
    motion : ndarray, shape (n_volumes, 6)
        Three translations (mm), three rotations (rad).
    percent : ndarray, shape (n_volumes, n_sites)
        Series in percent of the mean, without the white noise of each unit.
    """

    session: int
    run: int
    onsets: Float
    stimuli: NDArray[np.int_]
    betas: Float
    motion: Float
    percent: Float


def generator_for(settings: SimulationSettings, use: int, *indices: int) -> np.random.Generator:
    """The random stream of one use (stimuli, a subject, a run, ...)."""
    return np.random.default_rng([settings.seed, use, *indices])


def draw_subject(index: int, anatomy: Anatomy, features: Float, library: HRFLibrary, settings: SimulationSettings) -> Subject:
    """Draw a subject of the population that the seed stands for."""
    own = generator_for(settings, _SUBJECT, index)
    organisation = draw_organisation(anatomy.positions, anatomy.tissue, features, library, settings, generator_for(settings, _PLAN), own)
    n_sites = len(anatomy.tissue)
    inside = np.flatnonzero(anatomy.tissue != OUTSIDE)
    odd = own.permutation(inside)[: 2 * _N_SET_ASIDE]
    empty, constant = np.zeros(n_sites, dtype=bool), np.zeros(n_sites, dtype=bool)
    empty[odd[:_N_SET_ASIDE]] = True
    constant[odd[_N_SET_ASIDE:]] = True
    silent = empty | constant
    organisation = Organisation(
        organisation.active & ~silent,
        np.where(silent, 0.0, organisation.condition_betas),
        organisation.gain,
        organisation.library,
        organisation.hrf,
    )
    baseline = np.array([_BASELINE[int(label)] for label in anatomy.tissue]) * np.exp(0.08 * own.standard_normal(n_sites))
    baseline[empty] = 0.0
    shape = (settings.n_sessions, n_sites)
    common = 1 + 0.06 * own.standard_normal((settings.n_sessions, 1))
    return Subject(
        index=index,
        organisation=organisation,
        traits=draw_traits(anatomy.positions, anatomy.tissue, generator_for(settings, _TRAITS, index)),
        baseline=baseline,
        session_gain=common * (1 + 0.04 * own.standard_normal(shape)),
        session_baseline=1 + 0.03 * own.standard_normal(shape),
        empty=empty,
        constant=constant,
    )


def draw_run_design(settings: SimulationSettings, generator: np.random.Generator) -> tuple[Float, NDArray[np.int_]]:
    """Onsets (s) and stimuli of a run, each stimulus ``repeats`` times in random order."""
    order = np.concatenate([generator.permutation(settings.n_stimuli) for _ in range(settings.repeats)])
    jitter = settings.onset_interval / 7 * generator.uniform(-1, 1, len(order))
    onsets = _LEAD_IN_S + settings.onset_interval * np.arange(len(order)) + jitter
    if settings.on_grid:
        return np.rint(onsets / settings.repetition_time) * settings.repetition_time, order
    return np.round(onsets, 3), order


def simulate_run(subject: Subject, session: int, run: int, settings: SimulationSettings) -> Run:
    """Simulate one run of a subject."""
    keys = (subject.index, session, run)
    generator = generator_for(settings, _RUN, *keys)
    onsets, stimuli = draw_run_design(settings, generator_for(settings, _DESIGN, *keys))
    organisation = subject.organisation
    variability = settings.trial_variability * organisation.gain * generator.standard_normal((len(onsets), len(organisation.gain)))
    betas = np.where(organisation.active, organisation.condition_betas[stimuli] + variability, 0.0) * subject.session_gain[session]
    times = np.asarray(settings.start_time + settings.repetition_time * np.arange(settings.n_volumes), dtype=np.float64)
    motion = draw_motion(settings.n_volumes, generator)
    percent = response_series(organisation, betas, onsets, times, settings.stimulus_duration)
    percent += noise_series(subject.traits, motion, settings.repetition_time, settings, generator)
    percent[:, subject.constant | subject.empty] = 0.0
    return Run(session, run, onsets, stimuli, betas, motion, percent)


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
    generator = generator_for(settings, _UNITS, subject.index, run.session, run.run, kind)
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
