"""The noise ceiling recovers what was simulated, is NSD's estimate in NSD's setting, and says NaN where it cannot know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.numerics import blocks, scores
from conform_bids.numerics import noise_ceiling as module
from conform_bids.numerics.noise_ceiling import noise_ceiling, noise_ceiling_snr, snr_to_ceiling


def simulate(rng, condition, n_units, snr):
    signal = snr * rng.standard_normal((condition.max() + 1, n_units))
    return signal[condition] + rng.standard_normal((len(condition), n_units))


@pytest.mark.parametrize("n_conditions", [6, 200])
@pytest.mark.parametrize("snr", [0.5, 2.0])
def test_recovers_known_snr_with_few_and_with_many_conditions(n_conditions, snr):
    rng = np.random.default_rng(0)
    condition = rng.permutation(np.repeat(np.arange(n_conditions), 12))
    ratio = noise_ceiling_snr(simulate(rng, condition, 3000, snr), condition)
    # The squared ratio is what is estimated without bias (12 repeats: the pooled noise has many degrees of freedom).
    assert np.mean(ratio**2) == pytest.approx(snr**2, rel=0.06)


def test_ceiling_is_the_squared_correlation_with_the_true_signal():
    rng = np.random.default_rng(1)
    condition = np.repeat(np.arange(400), 3)
    signal = 0.8 * rng.standard_normal((400, 300))
    betas = signal[condition] + rng.standard_normal((1200, 300))
    means = scores.condition_means(betas, condition)[0]
    explained = 100 * scores.correlate_columns(means, signal) ** 2
    assert np.median(noise_ceiling(betas, condition)) == pytest.approx(np.median(explained), abs=1.5)


def test_agrees_with_the_formula_of_nsd():
    rng = np.random.default_rng(2)
    condition = np.repeat(np.arange(1500), 3)
    betas = simulate(rng, condition, 40, 0.7)
    z = (betas - betas.mean(0)) / betas.std(0, ddof=1)
    noise_sd = np.sqrt(z.reshape(1500, 3, 40).var(axis=1, ddof=1).mean(0))
    ncsnr = np.sqrt(np.maximum(1 - noise_sd**2, 0)) / noise_sd
    np.testing.assert_allclose(noise_ceiling(betas, condition), 100 * ncsnr**2 / (ncsnr**2 + 1 / 3), rtol=2e-3, atol=0.05)


def test_unequal_repeats_average_one_over_n():
    rng = np.random.default_rng(3)
    condition = np.r_[np.repeat(np.arange(50), 3), np.repeat(np.arange(50, 80), 2), np.arange(80, 100)]
    betas = simulate(rng, condition, 20, 1.0)
    ncsnr = noise_ceiling_snr(betas, condition)
    weight = (50 / 3 + 30 / 2 + 20 / 1) / 100
    np.testing.assert_allclose(noise_ceiling(betas, condition), 100 * ncsnr**2 / (ncsnr**2 + weight), rtol=1e-12)
    np.testing.assert_allclose(noise_ceiling(betas, condition, n_averaged=1), 100 * ncsnr**2 / (ncsnr**2 + 1), rtol=1e-12)


def test_sessions_take_out_gain_and_level():
    rng = np.random.default_rng(4)
    sessions = np.repeat(np.arange(4), 150)
    condition = np.concatenate([rng.permutation(np.arange(150)) for _ in range(4)])
    betas = simulate(rng, condition, 500, 1.0)
    shifted = betas * np.array([1, 5, 0.2, 2])[sessions, None] + np.array([0, 40, -3, 9])[sessions, None]
    expected = np.mean(noise_ceiling_snr(betas, condition) ** 2)
    assert np.mean(noise_ceiling_snr(shifted, condition, sessions) ** 2) == pytest.approx(expected, rel=0.03)
    assert np.mean(noise_ceiling_snr(shifted, condition) ** 2) < 0.2 * expected


def test_nan_where_nothing_can_be_known():
    rng = np.random.default_rng(5)
    condition = np.repeat(np.arange(20), 3)
    betas = simulate(rng, condition, 5, 1.0)
    betas[7, 1] = np.nan
    betas[:, 2] = 0.1
    ceiling = noise_ceiling(betas, condition)
    assert np.isnan(ceiling[[1, 2]]).all() and np.isfinite(ceiling[[0, 3, 4]]).all()
    assert np.isnan(noise_ceiling(betas, np.arange(60))).all(), "no condition repeats"
    assert np.isnan(noise_ceiling(betas, np.zeros(60, int))).all(), "one condition only: no signal to speak of"
    assert noise_ceiling(np.empty((0, 4)), np.empty(0)).shape == (4,)


def test_repeats_that_agree_give_the_full_ceiling():
    condition = np.repeat(np.arange(20), 2)
    betas = np.random.default_rng(6).integers(-8, 8, (20, 3)).astype(float)[condition]
    np.testing.assert_allclose(noise_ceiling(betas, condition), 100.0, atol=1e-9)


@given(st.floats(0, 1e3), st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_a_ceiling_is_a_percentage(ratio, counts):
    ceiling = snr_to_ceiling(np.array([ratio, np.inf]), counts)
    assert 0 <= ceiling[0] <= 100 and ceiling[1] == 100


@pytest.mark.parametrize("seed", range(4))
def test_order_scale_and_blocks_do_not_matter(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    condition = rng.integers(0, 15, 60)
    betas = simulate(rng, condition, 23, 1.0).astype(np.float32)
    expected = noise_ceiling(betas, condition)
    order = rng.permutation(60)
    np.testing.assert_allclose(noise_ceiling(betas[order] * np.float32(-64), condition[order]), expected, rtol=1e-6)
    monkeypatch.setattr(blocks, "BLOCK_VALUES", 200)
    np.testing.assert_allclose(noise_ceiling(betas, condition), expected, rtol=1e-12)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="one condition"):
        noise_ceiling(np.zeros((4, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="session"):
        noise_ceiling(np.zeros((4, 2)), np.zeros(4), sessions=np.zeros(3))
    with pytest.raises(ValueError, match="n_averaged"):
        noise_ceiling(np.zeros((4, 2)), np.zeros(4), n_averaged=0)
    assert module.__all__ == ["noise_ceiling", "noise_ceiling_snr", "snr_to_ceiling"]
