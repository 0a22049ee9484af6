"""Spans of regressors, for all HRFs at once: as by singular value decomposition, and for each HRF by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.glm.numerics.least_squares import RANK_TOLERANCE, StackedRuns, factorise_run, fit_spans

TIMES = np.arange(80) * 1.5


def regressors_of(interval: float, seed: int, n_hrfs: int = 5) -> np.ndarray:
    """Responses to 45 trials with jitter, HRFs of several peaks: with short intervals trials can hardly be told apart."""
    rng = np.random.default_rng(seed)
    onsets = np.cumsum(interval * rng.uniform(0.4, 1.6, 45))
    delays = np.maximum(TIMES[:, None] - onsets, 0)
    peaks = np.linspace(4, 9, n_hrfs)[:, None, None]
    found = (delays / peaks) ** peaks * np.exp(peaks - delays)
    return found - found.mean(axis=1, keepdims=True)


def rank_of(matrix: np.ndarray) -> int:
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int((singular > RANK_TOLERANCE * max(np.linalg.norm(matrix, axis=0).max(), singular[0])).sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), interval=st.sampled_from([1.2, 1.6, 2.0, 2.6]), p=st.sampled_from([0, 3]))
def test_spans_of_rapid_designs(seed: int, interval: float, p: int) -> None:
    regressors = regressors_of(interval, seed)
    extra = np.linalg.qr(np.random.default_rng(seed).standard_normal((80, p)))[0]
    found = fit_spans(regressors, extra)
    for hrf, (directions, weights) in enumerate(zip(found.directions, found.weights, strict=True)):
        clean = regressors[hrf] - extra @ (extra.T @ regressors[hrf])
        used = np.linalg.norm(directions, axis=0) > 0
        assert used.sum() == rank_of(clean)
        np.testing.assert_allclose(directions[:, used].T @ directions[:, used], np.eye(used.sum()), atol=1e-6)
        np.testing.assert_allclose(clean @ weights, directions, atol=1e-6)
        alone = fit_spans(regressors[[hrf]], extra)
        np.testing.assert_allclose(directions @ directions.T, alone.directions[0] @ alone.directions[0].T, atol=1e-9)


@pytest.mark.parametrize("n_trials", [0, 1])
def test_spans_of_few_trials(n_trials: int) -> None:
    found = fit_spans(regressors_of(2.0, 0)[:, :, :n_trials], np.zeros((80, 0)))
    assert found.directions.shape == (5, 80, n_trials)
    assert found.weights.shape == (5, n_trials, n_trials)


def test_factors_of_some_runs_are_referred_to_and_give_the_same() -> None:
    """There can be as many sets of runs as units: copies of their factors would fill the memory."""
    rng = np.random.default_rng(0)
    factors = [factorise_run(regressors_of(3.0, seed)[0], np.linalg.qr(rng.standard_normal((80, 2)))[0], "cpu") for seed in range(3)]
    values = [torch.from_numpy(rng.standard_normal((4, 80), dtype=np.float32)) for _ in factors]
    whole, part = StackedRuns(factors, whole=True), StackedRuns(factors, whole=False)
    own = {factor.left.untyped_storage().data_ptr() for factor in factors}
    assert {matrix.untyped_storage().data_ptr() for matrix in part._left._matrices} == own
    projected = whole.project(values)
    torch.testing.assert_close(part.project(values), projected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(part.ordinary_betas(projected), whole.ordinary_betas(projected), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(part.explained(values, projected), whole.explained(values, projected), atol=1e-3, rtol=1e-3)
