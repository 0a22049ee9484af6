"""Small data sets with known single-trial responses, one kind for each thing that makes estimating them hard.

Where `conform_bids.simulate.dataset` writes what a scientist would have, a kind is arrays alone, small enough to fit in a second, and
made to judge estimates by: r with the true trial betas, with their condition means, and the error in percent BOLD. Onsets lie off the
grid of volumes, every run drifts, and the tuning of responsive units has rank 6. Kinds differ in timing, HRFs, noise and its strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from conform_bids.numerics.hrf import BRIEF_STIMULUS, HRFLibrary, library_from_parameters, response_at
from conform_bids.numerics.linalg import polynomial_basis, polynomial_degree

__all__ = ["KINDS", "Kind", "SimulatedRuns", "simulate_kind", "simulate_on_noise"]

Float = NDArray[np.float64]

DURATION = 1.0
"""Duration of every stimulus, s."""
_ACTIVE = 0.4
_RANK = 6
_DRIFT = 1.0
_LEAD_S = 6.0  # before the first onset
_TAIL_S = 14.0  # after the last
_BURN_IN = 100
_ON_NOISE_STREAM = 99  # kinds draw from the streams of their places in the table
_LIBRARY_CENTRE, _LIBRARY_SPREAD = 9.0, 4.0


@dataclass(frozen=True)
class Kind:
    """What one kind of data is made of; standard deviations in percent BOLD, of an HRF whose peak is 1.

    Attributes
    ----------
    tr : float
        Repetition time, s.
    gap : (float, float)
        Shortest and longest time between onsets, s; uniform between.
    hrf : str
        ``library``: its curves, all alike likely; ``typical``: those near its middle; ``gammas``: random double gammas; ``warped``:
        curves of the library, stretched and delayed; ``centred``: its curves, normally distributed about the tenth.
    noise : float
        Of the noise that units do not share.
    ar : (float, float)
        Range of the first coefficient of its autoregression; a unit draws its own.
    moving_average : float
        Coefficient of a moving average on top.
    shared : (int, float)
        Number of noise sources that all units share, and the standard deviation of each source's loadings.
    locked : bool
        Half of the shared sources' variance follows the trials, with random signs and amplitudes.
    mean, condition_sd, trial_sd : float
        Of the betas: a unit's mean, its tuning over conditions, and the spread of repeats about it.
    signed : bool
        Means are 0: half of the responses are negative.
    n_conditions, n_repeats, n_runs : int
        Of the design; trials are spread evenly over runs, and repeats over runs as far as possible.
    n_units : int
        Of which 40 % respond.
    """

    tr: float
    gap: tuple[float, float]
    hrf: str = "library"
    noise: float = 1.0
    ar: tuple[float, float] = (0.0, 0.0)
    moving_average: float = 0.0
    shared: tuple[int, float] = (2, 0.4)
    locked: bool = False
    mean: float = 0.8
    condition_sd: float = 0.55
    trial_sd: float = 0.3
    signed: bool = False
    n_conditions: int = 40
    n_repeats: int = 4
    n_runs: int = 4
    n_units: int = 160


KINDS: dict[str, Kind] = {
    "k1_fast": Kind(tr=1.0, gap=(3.0, 4.0), ar=(0.5, 0.5), noise=1.05),
    "k2_outside_library": Kind(tr=2.4, gap=(5.0, 6.0), ar=(0.35, 0.35), hrf="gammas", noise=1.1, mean=1.0, condition_sd=0.75),
    "k3_shared_noise": Kind(tr=1.5, gap=(4.0, 5.0), ar=(0.3, 0.3), hrf="warped", noise=1.2, shared=(3, 1.5)),
    "k4_low_snr": Kind(tr=2.0, gap=(2.5, 3.5), ar=(0.3, 0.3), noise=1.1, mean=0.5, condition_sd=0.35, n_conditions=80, n_repeats=2),
    "k5_high_snr": Kind(tr=1.6, gap=(6.0, 7.0), hrf="typical", shared=(0, 0.0), noise=1.1, mean=1.6, condition_sd=1.2),
    "k6_ar_by_unit": Kind(tr=1.0, gap=(4.0, 5.0), ar=(0.0, 0.8), hrf="gammas", noise=1.1),
    "k7_trial_variance": Kind(
        tr=1.5, gap=(5.0, 6.0), ar=(0.3, 0.3), hrf="typical", noise=1.1, condition_sd=0.25, trial_sd=0.8, n_conditions=20, n_repeats=8
    ),
    "k8_signed": Kind(tr=4 / 3, gap=(4.0, 5.0), ar=(0.8, 0.8), moving_average=-0.3, hrf="warped", noise=0.9, shared=(2, 1.0), signed=True),
    "k9_locked_noise": Kind(tr=1.6, gap=(6.0, 7.0), ar=(0.3, 0.3), hrf="warped", noise=1.5, shared=(2, 1.1), locked=True, condition_sd=0.7),
}
"""The kinds, by name."""

ON_NOISE = Kind(tr=2.5, gap=(4.0, 5.5), hrf="centred", n_runs=6)
"""Timing and responses of `simulate_on_noise`."""


@dataclass(frozen=True)
class SimulatedRuns:
    """A simulated data set and its truth.

    Attributes
    ----------
    runs : tuple of (n_volumes, n_units) float32 arrays
        BOLD of each run, arbitrary units; frame k is at k TR.
    tr : float
        Repetition time, s.
    run, onset, duration, condition : (n_trials,) arrays
        Run (counted from 0, ascending), onset after the run's first frame (s), duration (s) and condition of each trial.
    betas : (n_trials, n_units) float64 array
        True responses, percent of a unit's mean, for an HRF whose continuous peak is 1; 0 in units that do not respond.
    active : (n_units,) bool array
        Units that respond.
    """

    runs: tuple[NDArray[np.float32], ...]
    tr: float
    run: NDArray[np.intp]
    onset: Float
    duration: Float
    condition: NDArray[np.intp]
    betas: Float
    active: NDArray[np.bool_]


def simulate_kind(name: str, seed: int, library: HRFLibrary) -> SimulatedRuns:
    """Draw a data set.

    Parameters
    ----------
    name : str
        One of `KINDS`.
    seed : int
        The same seed gives the same data; seeds of different kinds are independent.
    library : HRFLibrary
        Unconvolved curves, the packaged ones (`conform_bids.bids.hrf_tables.load_default_library`).

    Raises
    ------
    KeyError
        For a kind that there is not.
    """
    kind = KINDS[name]
    generator = np.random.default_rng([seed, list(KINDS).index(name)])
    run, onset, condition = _draw_design(kind, generator)
    lengths = [int(np.ceil((onset[run == index].max() + _TAIL_S) / kind.tr)) for index in range(kind.n_runs)]
    active = _draw_active(kind.n_units, generator)
    betas = _draw_betas(kind, condition, active, generator)
    curves = _draw_hrfs(kind.hrf, int(active.sum()), library, generator)
    coefficients = generator.uniform(*kind.ar, kind.n_units)
    scale = kind.noise * np.exp(0.2 * generator.standard_normal(kind.n_units))
    loadings = kind.shared[1] * generator.standard_normal((kind.shared[0], kind.n_units))
    base = generator.uniform(500, 1200, kind.n_units)
    runs = []
    for index, length in enumerate(lengths):
        trials = run == index
        percent = _local_noise(length, coefficients, kind.moving_average, generator) * scale
        percent += _shared_courses(kind, length, onset[trials], library, generator) @ loadings
        drifts = polynomial_basis(length, polynomial_degree(length, kind.tr))[:, 1:] * np.sqrt(length)
        percent += _DRIFT * drifts @ generator.standard_normal((drifts.shape[1], kind.n_units)) / np.sqrt(drifts.shape[1])
        percent[:, active] += _responses(curves, kind.tr, length, onset[trials], betas[np.ix_(trials, active)])
        runs.append((base * (1 + percent / 100)).astype(np.float32))
    return SimulatedRuns(tuple(runs), kind.tr, run, onset, np.full(len(run), DURATION), condition, betas, active)


def simulate_on_noise(noise: Sequence[NDArray[np.floating]], tr: float, seed: int, library: HRFLibrary) -> SimulatedRuns:
    """Add known responses to measured noise, whose own task has been fitted out.

    Parameters
    ----------
    noise : sequence of (n_volumes, n_units) arrays
        BOLD of each run with its mean; all means positive.
    tr : float
        Repetition time, s.
    seed : int
        Seeds design and responses.
    library : HRFLibrary
        As in `simulate_kind`.

    Notes
    -----
    Each run takes as many trials as fit; conditions recur from run to run.
    """
    generator = np.random.default_rng([seed, _ON_NOISE_STREAM])
    n_units = noise[0].shape[1]
    last = min(len(part) for part in noise) * tr - _TAIL_S
    per_run = int((last - _LEAD_S) / np.mean(ON_NOISE.gap))
    kind = replace(ON_NOISE, tr=tr, n_runs=len(noise), n_conditions=per_run, n_repeats=len(noise), n_units=n_units)
    run, onset, condition = _draw_design(kind, generator)
    active = _draw_active(n_units, generator)
    betas = _draw_betas(kind, condition, active, generator)
    curves = _draw_hrfs(kind.hrf, int(active.sum()), library, generator)
    base = np.mean([part.mean(axis=0, dtype=np.float64) for part in noise], axis=0)
    runs = []
    for index, part in enumerate(noise):
        trials = run == index
        values = part.astype(np.float64)
        values[:, active] += base[active] / 100 * _responses(curves, tr, len(part), onset[trials], betas[np.ix_(trials, active)])
        runs.append(values.astype(np.float32))
    return SimulatedRuns(tuple(runs), tr, run, onset, np.full(len(run), DURATION), condition, betas, active)


def _draw_design(kind: Kind, generator: np.random.Generator) -> tuple[NDArray[np.intp], Float, NDArray[np.intp]]:
    """Run, onset and condition of each trial: every condition once before any comes again."""
    condition = np.concatenate([generator.permutation(kind.n_conditions) for _ in range(kind.n_repeats)])
    per_run = len(condition) // kind.n_runs
    run = np.repeat(np.arange(kind.n_runs), per_run)
    condition = condition[: len(run)]
    gaps = generator.uniform(*kind.gap, (kind.n_runs, per_run))
    gaps[:, 0] = _LEAD_S + generator.uniform(0, kind.tr, kind.n_runs)
    return run, gaps.cumsum(axis=1).ravel(), condition


def _draw_active(n_units: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    active = np.zeros(n_units, bool)
    active[generator.permutation(n_units)[: round(_ACTIVE * n_units)]] = True
    return active


def _draw_betas(kind: Kind, condition: NDArray[np.intp], active: NDArray[np.bool_], generator: np.random.Generator) -> Float:
    """Trial betas (n_trials, n_units): mean and tuning of a unit, and what varies from repeat to repeat."""
    n_active = int(active.sum())
    strength = generator.uniform(0.4, 1.6, n_active)
    tuning = generator.standard_normal((kind.n_conditions, _RANK)) @ generator.standard_normal((_RANK, n_active))
    tuning *= kind.condition_sd * generator.uniform(0.5, 1.5, n_active) / tuning.std(axis=0)
    tuning -= tuning.mean(axis=0)
    mean = 0.0 if kind.signed else kind.mean * strength
    betas = np.zeros((len(condition), len(active)))
    betas[:, active] = mean + tuning[condition] + kind.trial_sd * generator.standard_normal((len(condition), n_active))
    return betas


def _draw_hrfs(hrf: str, n_curves: int, library: HRFLibrary, generator: np.random.Generator) -> HRFLibrary:
    """A curve a unit."""
    if hrf == "gammas":
        delay = generator.uniform(4.5, 7.5, n_curves)
        table = np.zeros((n_curves, 7))
        table[:, 0], table[:, 1] = delay, delay + generator.uniform(6.0, 10.0, n_curves)
        table[:, 2:4] = generator.uniform(0.7, 1.3, (n_curves, 2))
        table[:, 4], table[:, 6] = generator.uniform(3.0, 8.0, n_curves), 1.0
        return library_from_parameters(table)
    last = library.n_hrfs - 1
    if hrf == "centred":
        index = np.clip(np.rint(generator.normal(_LIBRARY_CENTRE, _LIBRARY_SPREAD, n_curves)), 0, last).astype(int)
    elif hrf == "typical":
        index = generator.integers(last // 2 - 3, last // 2 + 4, n_curves)
    else:
        index = generator.integers(0, library.n_hrfs, n_curves)
    curves = library.curves[:, index]
    if hrf == "warped":
        stretch, delay = generator.uniform(0.8, 1.25, n_curves), generator.uniform(0.0, 1.0, n_curves)
        times = library.times
        warped = [np.interp((times - d) / s, times, curve, left=0.0) for curve, s, d in zip(curves.T, stretch, delay, strict=True)]
        curves = np.stack(warped, axis=1)
    return HRFLibrary(curves, BRIEF_STIMULUS, convolved=False)


def _local_noise(length: int, coefficients: Float, moving_average: float, generator: np.random.Generator) -> Float:
    """Noise of unit variance that no units share, (length, n_units)."""
    white = generator.standard_normal((length + _BURN_IN, len(coefficients)))
    noise = np.stack(
        [lfilter([1.0, moving_average], [1.0, -phi], column) for phi, column in zip(coefficients, white.T, strict=True)], axis=1
    )
    variance = (1 + 2 * coefficients * moving_average + moving_average**2) / (1 - coefficients**2)
    return np.asarray(noise[_BURN_IN:] / np.sqrt(variance))


def _shared_courses(kind: Kind, length: int, onset: Float, library: HRFLibrary, generator: np.random.Generator) -> Float:
    """Courses of the shared sources, of unit variance, (length, n_sources)."""
    n_sources = kind.shared[0]
    courses = lfilter([1.0], [1.0, -0.7], generator.standard_normal((length + _BURN_IN, n_sources)), axis=0)[_BURN_IN:]
    courses = courses - courses.mean(axis=0)
    if kind.locked:
        middle = library.curves[:, [library.n_hrfs // 2] * n_sources]
        evoked = HRFLibrary(middle, library.step, library.convolved)
        bursts = _responses(evoked, kind.tr, length, onset, generator.standard_normal((len(onset), n_sources)))
        courses = courses / courses.std(axis=0) + bursts / bursts.std(axis=0)
        courses = courses - courses.mean(axis=0)
    return np.asarray(courses / np.maximum(courses.std(axis=0), 1e-12))


def _responses(curves: HRFLibrary, tr: float, length: int, onset: Float, betas: Float) -> Float:
    """Percent signal (length, n_units) of trials, each unit with its own curve."""
    shapes = response_at(curves, DURATION, np.arange(length)[:, None] * tr - onset)
    return np.asarray(np.einsum("tnv,nv->tv", shapes, betas, optimize=True))
