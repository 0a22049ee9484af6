"""Variance inflation, resemblance and efficiency against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.glm.numerics.efficiency import design_efficiency, largest_correlation, trial_variance_inflation


@pytest.fixture
def design() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((60, 12)) + 0.8


def test_inflation_is_one_over_what_the_others_do_not_explain(design: np.ndarray) -> None:
    inflation = trial_variance_inflation(design)
    for trial in range(design.shape[1]):
        others = np.delete(design, trial, axis=1)
        rest = design[:, trial] - others @ np.linalg.lstsq(others, design[:, trial], rcond=None)[0]
        assert inflation[trial] == pytest.approx((design[:, trial] @ design[:, trial]) / (rest @ rest))


def test_inflation_does_not_depend_on_the_height_of_regressors(design: np.ndarray) -> None:
    np.testing.assert_allclose(trial_variance_inflation(design * np.geomspace(1e-3, 1e3, 12)), trial_variance_inflation(design))


def test_trials_apart_inflate_nothing() -> None:
    np.testing.assert_allclose(trial_variance_inflation(np.eye(9)[:, :4] * 3), 1)
    np.testing.assert_array_equal(largest_correlation(np.eye(9)[:, :4]), 0)


def test_only_what_cannot_be_told_apart_is_infinite(design: np.ndarray) -> None:
    columns = design.copy()
    columns[:, 3] = columns[:, 1] + columns[:, 2]
    columns[:, 7] = 0
    assert np.flatnonzero(np.isinf(trial_variance_inflation(columns))).tolist() == [1, 2, 3, 7]
    assert design_efficiency(columns) == 0


def test_parallel_regressors_correlate_wholly(design: np.ndarray) -> None:
    columns = design.copy()
    columns[:, 5] = -2 * columns[:, 4]
    largest = largest_correlation(columns)
    np.testing.assert_allclose(largest[[4, 5]], 1)
    assert (np.delete(largest, [4, 5]) < 0.99).all()


def test_efficiency_is_one_over_the_mean_variance(design: np.ndarray) -> None:
    generator = np.random.default_rng(1)
    noise = generator.standard_normal((60, 4000))
    variance = np.linalg.lstsq(design, noise, rcond=None)[0].var(axis=1)
    assert design_efficiency(design) == pytest.approx(1 / variance.mean(), rel=0.05)
    assert design_efficiency(2 * design) == pytest.approx(4 * design_efficiency(design))
    with_a_faint_trial = np.column_stack([design, 1e-4 * np.random.default_rng(5).standard_normal(len(design))])
    assert design_efficiency(with_a_faint_trial) < 1e-3 * design_efficiency(design)
    counted = np.arange(design.shape[1] + 1) < design.shape[1]
    assert design_efficiency(with_a_faint_trial, counted) == pytest.approx(design_efficiency(design), rel=0.1)


@pytest.mark.parametrize("function", [trial_variance_inflation, largest_correlation])
def test_a_run_without_trials(function) -> None:  # type: ignore[no-untyped-def]
    assert function(np.zeros((10, 0))).shape == (0,)
    assert design_efficiency(np.zeros((10, 0))) == 0
