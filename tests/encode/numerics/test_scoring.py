"""Scores of predictions, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.encode.numerics.scoring import bootstrap_medians, chance_correlation, normalise_by_ceiling, score_units


def responses(n: int, units: int, seed: int = 0, quality: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n, units))
    return signal, quality * signal + np.sqrt(1 - quality**2) * rng.standard_normal((n, units))


def test_scores_are_those_of_the_textbook() -> None:
    predicted, measured = responses(40, 5)
    measured[:, 4] = 2.0
    maps = score_units(predicted, measured, np.array([50.0, 9.0, np.nan, 100.0, 50.0]))
    for unit in range(4):
        r = np.corrcoef(predicted[:, unit], measured[:, unit])[0, 1]
        assert maps["correlation"][unit] == pytest.approx(r)
        residual = np.var(measured[:, unit] - predicted[:, unit]) + np.mean(measured[:, unit] - predicted[:, unit]) ** 2
        assert maps["rsquared"][unit] == pytest.approx(1 - residual / np.var(measured[:, unit]))
    assert np.isnan([maps[name][4] for name in maps]).all()
    np.testing.assert_array_equal(np.isnan(maps["noiseceilingnormalized"]), [False, True, True, False, True])
    assert maps["noiseceilingnormalized"][0] == pytest.approx(maps["correlation"][0] / np.sqrt(0.5))


def test_a_ceiling_of_ten_percent_is_too_low() -> None:
    np.testing.assert_array_equal(np.isnan(normalise_by_ceiling(np.full(3, 0.2), np.array([10.0, 10.1, 0.0]))), [True, False, True])


def test_chance_is_passed_by_one_in_twenty() -> None:
    predicted, measured = responses(30, 20_000, quality=0.0)
    above = (score_units(predicted, measured, np.full(20_000, np.nan))["correlation"] > chance_correlation(30)).mean()
    assert above == pytest.approx(0.05, abs=0.006)
    assert chance_correlation(3) == 1.0


def test_intervals_hold_the_number_and_narrow_with_stimuli() -> None:
    widths = []
    for n in (20, 320):
        predicted, measured = responses(n, 200)
        found = bootstrap_medians(predicted, measured, np.full(200, 40.0), n_resamplings=400, seed=1)
        for name in ("median_correlation", "median_rsquared", "median_noiseceilingnormalized"):
            assert found[name].low < found[name].value < found[name].high, name
        widths.append(found["median_correlation"].high - found["median_correlation"].low)
    assert widths[1] < 0.5 * widths[0]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        predicted, measured = responses(60, 1, seed)
        found = bootstrap_medians(predicted, measured, np.full(1, 40.0), n_resamplings=300, seed=seed)["median_correlation"]
        inside += found.low < 0.6 < found.high
    assert 0.88 < inside / 200 < 0.99


def test_few_stimuli_give_wide_intervals_that_hold_the_number() -> None:
    predicted, measured = responses(8, 300)
    found = bootstrap_medians(predicted, measured, np.full(300, 40.0), n_resamplings=200, seed=1)
    for name in ("median_correlation", "median_rsquared"):
        assert found[name].low < found[name].value < found[name].high, name
        assert found[name].high - found[name].low > 0.1
    assert np.isnan(found["units_above_chance"].low)


def test_the_same_seed_gives_the_same_interval_and_none_is_given_without_resamplings() -> None:
    predicted, measured = responses(30, 20)
    first, second = (bootstrap_medians(predicted, measured, np.full(20, 30.0), n_resamplings=50, seed=2) for _ in range(2))
    assert first == second
    plain = bootstrap_medians(predicted, measured, np.full(20, 30.0), n_resamplings=0, seed=2)
    assert np.isnan(plain["median_correlation"].low)
    assert plain["median_correlation"].value == first["median_correlation"].value
