"""Which stimuli a person sees in which run, and when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.settings import SimulationSettings

__all__ = ["draw_onsets", "draw_orders"]

_LEAD_IN_S = 8.0

Order = NDArray[np.int_]


def _passes(stimuli: Order, repeats: int, generator: np.random.Generator) -> Order:
    """Every stimulus once, then once more, ...: repeats lie far apart."""
    return np.concatenate([generator.permutation(stimuli) for _ in range(repeats)])


def draw_orders(settings: SimulationSettings, generator: np.random.Generator) -> list[list[Order]]:
    """Draw the order of a person's trials.

    Returns
    -------
    list of list of ndarray of int
        By session and run: indices of the stimuli in the order of their trials.
    """
    everything = np.arange(settings.n_stimuli)
    sessions, runs = settings.n_sessions, settings.n_runs
    if settings.repeats_over == "run":
        return [[_passes(everything, settings.repeats, generator) for _ in range(runs)] for _ in range(sessions)]
    if settings.repeats_over == "subject":
        dealt = np.array_split(_passes(everything, settings.repeats, generator), sessions * runs)
        return [dealt[session * runs : (session + 1) * runs] for session in range(sessions)]
    if settings.repeats_over == "session":
        of_sessions = [everything] * sessions
    else:
        of_sessions = np.array_split(generator.permutation(everything), sessions)
    return [np.array_split(_passes(stimuli, settings.repeats, generator), runs) for stimuli in of_sessions]


def draw_onsets(n_trials: int, settings: SimulationSettings, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw the onsets (s) of a run's trials, jittered, ascending."""
    jitter = settings.onset_interval / 7 * generator.uniform(-1, 1, n_trials)
    onsets = _LEAD_IN_S + settings.onset_interval * np.arange(n_trials) + jitter
    if settings.on_grid:
        return np.asarray(np.rint(onsets / settings.repetition_time) * settings.repetition_time)
    return np.asarray(np.round(onsets, 3))
