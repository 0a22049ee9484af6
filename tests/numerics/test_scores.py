"""Correlations, condition means and odd-even reliability against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.numerics import blocks
from conform_bids.numerics.blocks import value_blocks
from conform_bids.numerics.scores import condition_means, correlate_columns, odd_even_reliability


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_correlation_is_numpys_also_far_from_zero(dtype):
    rng = np.random.default_rng(0)
    a = (1e4 + rng.standard_normal((50, 7))).astype(dtype)
    b = (0.5 * a + rng.standard_normal((50, 7))).astype(dtype)
    expected = [np.corrcoef(a[:, unit].astype(float), b[:, unit].astype(float))[0, 1] for unit in range(7)]
    np.testing.assert_allclose(correlate_columns(a, b), expected, rtol=1e-9)


def test_correlation_is_nan_for_constant_and_nan_columns():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 10, 4))
    a[:, 0] = 0.1
    b[3, 1] = np.nan
    a[2, 2] = np.inf
    assert np.isnan(correlate_columns(a, b)[:3]).all()
    assert np.isfinite(correlate_columns(a, b)[3])
    assert np.isnan(correlate_columns(a[:1], b[:1])).all()


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_correlation_stays_within_bounds(n_rows, seed):
    a = np.random.default_rng(seed).standard_normal((n_rows, 3))
    np.testing.assert_allclose(correlate_columns(a, 3 * a - 2), 1.0, rtol=1e-12)
    assert (np.abs(correlate_columns(a, -a)) <= 1).all()


def test_condition_means_are_means():
    rng = np.random.default_rng(2)
    betas, condition = rng.standard_normal((30, 5)).astype(np.float32), rng.choice(["b", "a", "c"], 30)
    means, labels, counts = condition_means(betas, condition)
    assert list(labels) == ["a", "b", "c"] and counts.sum() == 30
    for row, label in enumerate(labels):
        np.testing.assert_allclose(means[row], betas[condition == label].astype(float).mean(0), rtol=1e-12)
    assert condition_means(np.empty((0, 3)), [])[0].shape == (0, 3)


def test_reliability_by_definition_and_in_blocks(monkeypatch):
    rng = np.random.default_rng(3)
    run, condition = np.repeat(np.arange(4), 10), np.tile(np.arange(10), 4)
    condition[39] = 77  # in an even-numbered half only: left out
    betas = rng.standard_normal((10, 6))[np.minimum(condition, 9)] + rng.standard_normal((40, 6))
    kept = condition != 77
    halves = [condition_means(betas[kept & (run % 2 == half)], condition[kept & (run % 2 == half)])[0] for half in (0, 1)]
    expected = [np.corrcoef(halves[0][:, unit], halves[1][:, unit])[0, 1] for unit in range(6)]
    np.testing.assert_allclose(odd_even_reliability(betas, condition, run), expected, rtol=1e-9)
    monkeypatch.setattr(blocks, "BLOCK_VALUES", 50)
    np.testing.assert_allclose(odd_even_reliability(betas, condition, run), expected, rtol=1e-9)


def test_reliability_needs_shared_conditions():
    betas = np.random.default_rng(4).standard_normal((8, 2))
    assert np.isnan(odd_even_reliability(betas, np.arange(8), np.repeat([0, 1], 4))).all()
    assert np.isnan(odd_even_reliability(betas, np.tile([0, 1], 4), np.repeat([0, 1], 4))).all(), "two conditions always give +-1"
    assert np.isnan(odd_even_reliability(betas, np.tile([0, 1, 2, 3], 2), np.zeros(8, int))).all(), "a single run"


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="equal matrices"):
        correlate_columns(np.zeros((3, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="one condition"):
        condition_means(np.zeros((3, 2)), [1, 2])
    with pytest.raises(ValueError, match="one run"):
        odd_even_reliability(np.zeros((3, 2)), [1, 2, 3], [0])


def test_blocks_cover_every_unit_once():
    covered = np.concatenate([np.arange(1_000_003)[block] for block in value_blocks(500, 1_000_003)])
    np.testing.assert_array_equal(covered, np.arange(1_000_003))
