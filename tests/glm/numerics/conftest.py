"""Small designs and data for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.glm.numerics.design import Design
from conform_bids.numerics.folds import leave_one_run_out
from conform_bids.numerics.hrf import response_at
from conform_bids.numerics.linalg import polynomial_degree


@pytest.fixture
def make_design() -> Callable[..., Design]:
    """Random event-related designs."""

    def make(
        seed: int = 0,
        run_lengths: tuple[int, ...] = (90, 80, 100),
        n_trials: int = 12,
        n_conditions: int = 6,
        tr: float = 1.5,
        on_grid: bool = True,
        n_regressors: int = 0,
        **changes: Any,
    ) -> Design:
        rng = np.random.default_rng(seed)
        runs, onsets, conditions = [], [], []
        for run, length in enumerate(run_lengths):
            volumes = np.sort(rng.choice(np.arange(1, length - 8), n_trials, replace=False))
            runs += [run] * n_trials
            onsets += list((volumes + (0 if on_grid else rng.uniform(-0.4, 0.4, n_trials))) * tr)
            conditions += list(rng.permutation(np.arange(n_trials) % n_conditions))
        values: dict[str, Any] = {
            "tr": tr,
            "run_lengths": run_lengths,
            "run": np.array(runs),
            "onset": np.array(onsets),
            "duration": np.full(len(runs), 1.0),
            "condition": np.array(conditions),
            "train": np.ones(len(runs), bool),
            "session": np.zeros(len(run_lengths), int),
            "folds": leave_one_run_out(len(run_lengths)),
            "polynomial_degree": tuple(polynomial_degree(length, tr) for length in run_lengths),
            "regressors": tuple(rng.standard_normal((length, n_regressors)).cumsum(0) for length in run_lengths),
        }
        return Design(**(values | changes))

    return make


@pytest.fixture
def simulate_runs() -> Callable[..., list[np.ndarray]]:
    """BOLD of a design: HRFs of the library, drifts, shared noise and white noise."""

    def simulate(design: Design, n_units: int = 40, seed: int = 1, noise: float = 3.0, structured: float = 0.3) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        library = load_default_library()
        hrf = rng.integers(0, library.n_hrfs, n_units)
        tuning = rng.normal(2, 1.5, (int(design.condition.max()) + 1, n_units)) * (np.arange(n_units) < n_units // 2)
        base = rng.uniform(400, 900, n_units)
        shared = rng.standard_normal((3, n_units))
        runs = []
        for run, length in enumerate(design.run_lengths):
            trials = design.trials_of(run)
            frames = np.arange(length) * design.tr
            delays = frames[:, None] - design.onset[trials]
            responses = response_at(library, 1.0, delays)[:, :, hrf]
            signal = np.einsum("tnv,nv->tv", responses, tuning[design.condition[trials]])
            drift = np.linspace(-1, 1, length)[:, None] * rng.normal(0, 3, n_units)
            shared_noise = rng.standard_normal((length, 3)).cumsum(0) @ shared * structured
            values = base * (1 + (signal + drift + shared_noise + noise * rng.standard_normal((length, n_units))) / 100)
            runs.append(values.astype(np.float32))
        return runs

    return simulate
