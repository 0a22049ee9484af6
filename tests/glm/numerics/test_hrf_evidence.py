"""HRF by evidence against the marginal likelihood of the dense model, run by run in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import multivariate_normal

from conform_bids.glm.numerics.hrf_evidence import SCAN_LAMBDAS, EvidenceScan
from conform_bids.glm.numerics.hrf_selection import best_hrf
from conform_bids.glm.numerics.least_squares import RunFactor, factorise_run
from conform_bids.numerics.compute import Compute

FloatArray = npt.NDArray[np.float64]
N_VOLUMES, N_TRIALS, N_HRFS, N_UNITS = 40, 9, 4, 6


def _designs(rng: np.random.Generator, n_runs: int) -> list[FloatArray]:
    """Regressors of each run, (n_hrfs, n_volumes, n_trials); the last two trials of the last HRF are the same, so its rank is lower."""
    designs = rng.standard_normal((n_runs, N_HRFS, N_VOLUMES, N_TRIALS))
    designs[:, -1, :, -1] = designs[:, -1, :, -2]
    return list(designs)


def _factors(designs: list[FloatArray]) -> dict[int, list[RunFactor]]:
    none = np.zeros((N_VOLUMES, 0))
    return {hrf: [factorise_run(run[hrf], none, "cpu") for run in designs] for hrf in range(N_HRFS)}


def _scan(designs: list[FloatArray], data: list[FloatArray], blocks: list[slice]) -> FloatArray:
    scan = EvidenceScan(_factors(designs), np.full(len(designs), N_VOLUMES), data[0].shape[1], Compute())
    for block in blocks:
        for run, values in enumerate(data):
            rows = torch.from_numpy(np.ascontiguousarray(values[:, block].T, dtype=np.float32))
            scan.visit(run, block, rows, torch.from_numpy((values[:, block] ** 2).sum(axis=0)))
    return scan.result(Compute())


def _dense(designs: list[FloatArray], values: FloatArray, hrf: int) -> float:
    """Log marginal likelihood with flat mu (a very wide prior) and p(s2) ~ 1/s2 by integrating s2 on a grid."""
    design = np.zeros((len(values), N_TRIALS * len(designs)))
    for run, regressors in enumerate(designs):
        design[run * N_VOLUMES : (run + 1) * N_VOLUMES, run * N_TRIALS : (run + 1) * N_TRIALS] = regressors[hrf]
    mean = design.sum(axis=1)
    log_variance = np.linspace(-3, 3, 301)
    parts = []
    for ratio in SCAN_LAMBDAS:
        covariance = np.eye(len(values)) + ratio * design @ design.T
        flat = 1e4 * np.outer(mean, mean)
        parts.append([multivariate_normal.logpdf(values, cov=np.exp(size) * covariance + flat) for size in log_variance])
    return float(np.logaddexp.reduce(np.ravel(parts)))


def test_differences_between_hrfs_are_those_of_the_marginal_likelihood() -> None:
    rng = np.random.default_rng(5)
    designs = _designs(rng, 2)
    data = [run[1] @ rng.standard_normal((N_TRIALS, N_UNITS)) * 0.3 + rng.standard_normal((N_VOLUMES, N_UNITS)) for run in designs]
    found = _scan(designs, data, [slice(0, N_UNITS)])
    stacked = np.concatenate(data)
    expected = np.array([[_dense(designs, stacked[:, unit], hrf) for unit in range(2)] for hrf in range(N_HRFS)])
    np.testing.assert_allclose(found[:, :2] - found[0, :2], expected - expected[0], atol=2e-3)


def test_a_run_without_the_unit_has_no_say() -> None:
    rng = np.random.default_rng(5)
    designs = _designs(rng, 3)
    data = [rng.standard_normal((N_VOLUMES, N_UNITS)) for _ in designs]
    data[1][:, 2] = 0
    found = _scan(designs, data, [slice(0, N_UNITS)])[:, 2]
    alone = _scan([designs[0], designs[2]], [data[0], data[2]], [slice(0, N_UNITS)])[:, 2]
    np.testing.assert_allclose(found, alone, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 4])
def test_blocks_do_not_matter(size: int) -> None:
    rng = np.random.default_rng(5)
    designs = _designs(rng, 2)
    data = [rng.standard_normal((N_VOLUMES, N_UNITS)) for _ in designs]
    whole = _scan(designs, data, [slice(0, N_UNITS)])
    blocks = [slice(start, min(start + size, N_UNITS)) for start in range(0, N_UNITS, size)]
    np.testing.assert_allclose(_scan(designs, data, blocks), whole, rtol=1e-5)


def test_scale_of_the_data_does_not_matter_and_the_true_hrf_wins() -> None:
    rng = np.random.default_rng(5)
    designs = _designs(rng, 4)
    amplitudes = [1 + 0.7 * rng.standard_normal((N_TRIALS, N_UNITS)) for _ in designs]
    data = [run[2] @ own + 0.5 * rng.standard_normal((N_VOLUMES, N_UNITS)) for run, own in zip(designs, amplitudes, strict=True)]
    for factor in (1.0, 1e3):
        np.testing.assert_array_equal(best_hrf(_scan(designs, [factor * run for run in data], [slice(0, N_UNITS)])), 2)
