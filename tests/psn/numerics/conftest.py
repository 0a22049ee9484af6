"""Reference cases as trials, and small simulated responses with known truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from conform_bids.psn.numerics.gsn import SignalNoise, estimate_signal_noise
from conform_bids.psn.numerics.trials import Trials, group_trials

DATA = Path(__file__).resolve().parents[2] / "data" / "psn"
CASES = ("case1_even", "case2_twotrials", "case3_uneven_nan")


@dataclass(frozen=True, eq=False)
class Case:
    """A reference case: its arrays, trials and our covariances."""

    name: str
    arrays: Mapping[str, np.ndarray]
    trials: Trials
    model: SignalNoise


@cache
def load_case(name: str) -> Case:
    with np.load(DATA / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    n_units, n_conditions, n_trials = arrays["data"].shape
    values = arrays["data"].transpose(1, 2, 0).reshape(-1, n_units).astype(float)
    condition = np.repeat(np.arange(n_conditions), n_trials)
    trials = group_trials(values, condition, np.tile(np.arange(n_trials), n_conditions))[0]
    return Case(name, MappingProxyType(arrays), trials, estimate_signal_noise(trials))


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every reference case in turn."""
    return load_case(request.param)


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Callable[[str], Case]:
    """A reference case by name."""
    return load_case


@dataclass(frozen=True, eq=False)
class Simulated:
    """Trials in random order, their conditions, and the true responses, (n_conditions, n_units)."""

    values: np.ndarray
    condition: np.ndarray
    truth: np.ndarray

    @property
    def trials(self) -> Trials:
        return group_trials(self.values, self.condition)[0]


@pytest.fixture(scope="session")
def simulate() -> Callable[..., Simulated]:
    """Low-dimensional signal in correlated noise; ``counts`` is the number of trials of each condition, or one for all."""

    def make(
        n_units: int = 40, n_conditions: int = 60, counts: int | np.ndarray = 3, snr: float = 0.3, rank: int = 8, seed: int = 0
    ) -> Simulated:
        rng = np.random.default_rng(seed)
        patterns = rng.standard_normal((rank, n_units)) / np.sqrt(np.arange(1, rank + 1))[:, None]
        signal = rng.standard_normal((n_conditions, rank)) @ patterns
        signal *= np.sqrt(snr / np.mean(signal**2)) if snr else 0.0
        truth = signal + rng.standard_normal(n_units)
        condition = np.repeat(np.arange(n_conditions), counts)
        shared = rng.standard_normal((4, n_units)) / 2
        noise = rng.standard_normal((len(condition), 4)) @ shared * np.sqrt(0.5) + np.sqrt(0.5) * rng.standard_normal(
            (len(condition), n_units)
        )
        order = rng.permutation(len(condition))
        return Simulated((truth[condition] + noise)[order], condition[order], truth)

    return make
