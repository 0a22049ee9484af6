"""The R2 threshold, and the choice of the number of noise regressors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.glm.numerics.denoise import choose_count, noise_pool
from conform_bids.glm.numerics.fractional_ridge import alpha_grid
from conform_bids.glm.numerics.models import feasible_models
from conform_bids.glm.numerics.threshold import find_r2_threshold, robust_range


def test_threshold_lies_between_two_populations() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.3, 0.2, 3000), rng.normal(8, 2, 600), [np.nan] * 5])
    threshold = find_r2_threshold(values)
    assert 0.7 < threshold < 3
    assert find_r2_threshold(values) == threshold  # seeded
    assert find_r2_threshold(values, seed=7) == pytest.approx(threshold, rel=1e-2)


@pytest.mark.parametrize("values", [[], [np.nan], [1.0] * 30, [0.0, 1.0, 2.0]])
def test_threshold_of_too_little_is_the_median(values: list[float]) -> None:
    known = [value for value in values if value == value]
    assert find_r2_threshold(np.array(values)) == (np.median(known) if known else 0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_robust_range_holds_the_middle(values: list[float]) -> None:
    array = np.array(values)
    low, high = robust_range(array)
    assert array.min() <= low <= np.median(array) <= high <= array.max() or low <= high


def test_robust_range_drops_an_outlier() -> None:
    values = np.random.default_rng(1).standard_normal(2000)
    spiked = np.append(values, [1e4] * 10)
    assert robust_range(spiked)[1] < 10
    assert robust_range(values)[1] == pytest.approx(values.max(), rel=0.3)


@pytest.mark.parametrize(
    ("curve", "stop", "expected"),
    [
        ([0, 5, 10, 10.2], 1.05, 2),  # 10 * 1.05 reaches the maximum
        ([0, 5, 10, 10.2], 1.0, 3),
        ([0, -1, -2], 1.05, 0),
        ([0, -1, 3, 2.9], 1.05, 2),
        ([0], 1.05, 0),
    ],
)
def test_count_is_the_smallest_that_is_good_enough(curve: list[float], stop: float, expected: int) -> None:
    assert choose_count(np.array(curve, float), stop) == expected


def test_noise_pool_is_bright_and_does_not_respond() -> None:
    mean = np.array([1000.0, 1000, 50, np.nan, 1000])
    rsquared = np.array([0.1, 5.0, 0.1, 0.1, np.nan])
    pool = noise_pool(mean, rsquared, percentile=99, fraction=0.1, rsquared_below=1.0)
    assert pool.tolist() == [True, False, False, False, False]
    assert not noise_pool(np.full(3, np.nan), np.zeros(3), percentile=99, fraction=0.1, rsquared_below=1).any()


def test_alpha_grid_has_five_penalties_a_decade() -> None:
    grid = alpha_grid(np.array([3.0, 1.0, 0.5]))
    assert grid[0] == 0
    np.testing.assert_allclose(np.diff(np.log10(grid[1:])), 0.2)
    assert grid[1] <= 1e-2 * 0.25 < grid[1] * 10
    assert grid[-1] * 10**0.2 >= 1e4 * 9


@pytest.mark.parametrize(
    ("models", "repeats", "stop", "n_fractions", "expected"),
    [
        (("fithrf", "fithrfdenoiserr"), True, 1.05, 20, ("fithrf", "fithrfdenoiserr")),
        (("fithrf", "fithrfdenoiserr"), False, 1.05, 20, ("fithrf",)),
        (("fithrfdenoiserr",), False, -3, 20, ("fithrfdenoise",)),
        (("fithrfdenoiserr",), False, -3, 1, ("fithrfdenoiserr",)),
        (("assumehrf", "fithrfdenoise"), False, 1.05, 1, ("assumehrf", "fithrf")),
    ],
)
def test_models_fall_back_to_what_the_design_allows(
    models: tuple[str, ...], repeats: bool, stop: float, n_fractions: int, expected: tuple[str, ...]
) -> None:
    feasible, notes = feasible_models(models, can_cross_validate=repeats, pcs_stop=stop, n_fractions=n_fractions)
    assert feasible == expected
    assert len(notes) == sum(model not in expected for model in models)
