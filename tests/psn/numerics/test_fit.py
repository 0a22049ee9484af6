"""A fit from end to end: what must not change it, what it sets aside, what it refuses, and no signal made of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.psn.numerics.fit import CALIBRATED_METHODS, METHODS, FitOptions, fit_parcel

PRESETS = [method for method in METHODS if method not in CALIBRATED_METHODS]


def small(seed: int, n_units: int = 9, n_conditions: int = 24, n_trials: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((n_conditions, 3)) @ rng.standard_normal((3, n_units)) * 0.6
    condition = np.repeat(np.arange(n_conditions), n_trials)
    return truth[condition] + rng.standard_normal((len(condition), n_units)) + 2, condition


def averages(values: np.ndarray, condition: np.ndarray) -> np.ndarray:
    return np.stack([values[condition == label].mean(axis=0) for label in np.unique(condition)])


@pytest.mark.parametrize("method", METHODS)
def test_fit_applies_to_averages_and_single_trials(method: str) -> None:
    values, condition = small(0)
    fit = fit_parcel(values, condition, FitOptions(method))
    means = averages(values, condition)
    denoised = fit.apply(means, 3)
    assert denoised.shape == means.shape and np.isfinite(denoised).all()
    assert np.allclose(denoised, means.mean(axis=0) + (means - means.mean(axis=0)) @ fit.denoiser.matrix(3).T, atol=1e-9)
    assert np.array_equal(fit.denoiser.apply(means, 3), denoised)
    single = np.concatenate([fit.apply(values[:2], 1), fit.apply(values[2:], 1)])
    assert np.allclose(single, fit.apply(values, 1))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4)
@given(seed=st.integers(0, 1000))
def test_order_of_units_does_not_matter(method: str, seed: int) -> None:
    values, condition = small(seed)
    order = np.random.default_rng(seed).permutation(values.shape[1])
    means = averages(values, condition)
    first = fit_parcel(values, condition, FitOptions(method)).apply(means, 3)
    second = fit_parcel(values[:, order], condition, FitOptions(method)).apply(means[:, order], 3)
    assert np.allclose(first[:, order], second, atol=1e-5)  # scores of filters are in single precision


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50), power=st.sampled_from([-6, 4]))
def test_units_of_measurement_do_not_matter(method: str, seed: int, shift: float, power: int) -> None:
    values, condition = small(seed)
    means, scale = averages(values, condition), 10.0**power
    first = fit_parcel(values, condition, FitOptions(method)).apply(means, 3)
    second = fit_parcel(scale * values + shift * scale, condition, FitOptions(method)).apply(scale * means + shift * scale, 3)
    assert np.allclose(second / scale - shift, first, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=3)
@given(seed=st.integers(0, 1000))
def test_order_of_trials_does_not_matter(method: str, seed: int) -> None:
    values, condition = small(seed)
    repetition = np.tile(np.arange(3), 24)
    order = np.random.default_rng(seed).permutation(len(condition))
    means = averages(values, condition)
    first = fit_parcel(values, condition, FitOptions(method), repetition).apply(means, 3)
    second = fit_parcel(values[order], condition[order], FitOptions(method), repetition[order]).apply(means, 3)
    assert np.allclose(first, second, atol=1e-8)


@pytest.mark.parametrize("method", ["stacked", "calibrated"])
def test_scale_of_single_units_does_not_matter(method: str) -> None:
    values, condition = small(5)
    scale = 10.0 ** np.linspace(-8, 8, values.shape[1])
    means = averages(values, condition)
    first = fit_parcel(values, condition, FitOptions(method)).apply(means, 3)
    second = fit_parcel(values * scale, condition, FitOptions(method)).apply(means * scale, 3)
    assert np.allclose(second / scale, first, atol=1e-6)


@pytest.mark.parametrize("method", [*PRESETS, "crossvalidated"])
def test_methods_in_units_of_the_data_refuse_scales_that_one_covariance_cannot_hold(method: str) -> None:
    values, condition = small(5)
    with pytest.raises(UnusableInputError, match="factor"):
        fit_parcel(values * 10.0 ** np.linspace(-4, 4, values.shape[1]), condition, FitOptions(method))


@pytest.mark.parametrize("method", METHODS)
def test_dead_units_are_set_aside(method: str) -> None:
    values, condition = small(1, n_units=12)
    alone = fit_parcel(values[:, 3:], condition, FitOptions(method)).apply(averages(values, condition)[:, 3:], 3)
    values[:, 0], values[:, 1], values[:, 2] = 0.0, 7.1, np.nan
    fit = fit_parcel(values, condition, FitOptions(method))
    assert fit.survey.constant.tolist() == [True, True] + [False] * 10
    assert fit.survey.absent.tolist() == [False, False, True] + [False] * 9
    denoised = fit.apply(averages(values, condition), 3)
    assert np.isnan(denoised[:, :3]).all()
    assert np.allclose(denoised[:, 3:], alone)


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_come_out_the_same(method: str) -> None:
    values, condition = small(2)
    doubled = np.concatenate([values, values], axis=1)
    fit = fit_parcel(doubled, condition, FitOptions(method))
    means = averages(doubled, condition)
    denoised = fit.apply(means, 3)
    assert np.isfinite(denoised).all()
    assert np.allclose(denoised[:, :9], denoised[:, 9:], atol=1e-6)
    assert np.abs(denoised - means.mean(axis=0)).max() < 3 * np.abs(means - means.mean(axis=0)).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("n_units", "n_conditions", "n_trials"), [(20, 21, 2), (20, 20, 2), (40, 12, 2), (30, 10, 4), (1, 24, 3), (2, 8, 3)]
)
def test_few_degrees_of_freedom(method: str, n_units: int, n_conditions: int, n_trials: int) -> None:
    values, condition = small(3, n_units, n_conditions, n_trials)
    means = averages(values, condition)
    denoised = fit_parcel(values, condition, FitOptions(method)).apply(means, n_trials)
    assert np.isfinite(denoised).all()
    centred = means - means.mean(axis=0)
    assert np.square(denoised - means.mean(axis=0)).sum() < 1.2 * np.square(centred).sum()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_too_little_is_refused(method: str) -> None:
    values, condition = small(4)
    options = FitOptions(method)
    with pytest.raises(UnusableInputError, match=r"there are 2\b"):
        fit_parcel(values[:6], condition[:6], options)
    with pytest.raises(UnusableInputError, match="0 repeat"):
        fit_parcel(values[::3], condition[::3], options)
    with pytest.raises(UnusableInputError, match="do not vary"):
        fit_parcel(np.ones_like(values), condition, options)
    with pytest.raises(UnusableInputError, match="infinite"):
        fit_parcel(np.where(values > 4, np.inf, values), condition, options)
    with pytest.raises(UnusableInputError, match="no trial holds"):
        fit_parcel(np.full_like(values, np.nan), condition, options)


@pytest.mark.parametrize("method", METHODS)
def test_single_trial_conditions(method: str) -> None:
    values, condition = small(6, n_conditions=30)
    first = np.tile(np.arange(3), 30) == 0
    kept = first | (condition % 2 == 0)
    fit = fit_parcel(values[kept], condition[kept], FitOptions(method))
    means, counts = averages(values[kept], condition[kept]), fit.trials.counts
    assert set(counts) == {1, 3}
    assert np.isfinite(fit.apply(means, counts)).all()


def test_units_missing_in_trials() -> None:
    values, condition = small(7, n_conditions=60)
    rng = np.random.default_rng(7)
    with_gaps = values.copy()
    with_gaps[rng.permutation(180)[:20], rng.integers(0, 9, 20)] = np.nan
    means = averages(values, condition)
    for method in METHODS:
        whole = fit_parcel(values, condition, FitOptions(method)).apply(means, 3)
        gaps = fit_parcel(with_gaps, condition, FitOptions(method))
        assert len(gaps.units) == 9
        assert np.corrcoef(gaps.apply(means, 3).ravel(), whole.ravel())[0, 1] > 0.9, method


def test_averages_posing_as_trials_are_refused() -> None:
    values, condition = small(8)
    with pytest.raises(UnusableInputError, match="averages"):
        fit_parcel(averages(values, condition)[condition], condition)


@pytest.mark.parametrize("method", METHODS)
def test_a_unit_without_noise_is_kept_as_it_is(method: str) -> None:
    values, condition = small(8, n_conditions=60)
    values[:, 4] = averages(values, condition)[condition, 4]
    means = averages(values, condition)
    denoised = fit_parcel(values, condition, FitOptions(method)).apply(means, 3)
    assert np.isfinite(denoised).all()
    if method in ("stacked", "calibrated"):
        assert np.allclose(denoised[:, 4], means[:, 4], atol=0.05 * means[:, 4].std())


@pytest.mark.parametrize("method", ["stacked", "calibrated", "wiener"])
def test_cross_fitted_reliability_of_noise_is_zero(method: str) -> None:
    after, prediction = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        mixing = rng.standard_normal((30, 30)) / 4 + np.eye(30)
        values = rng.standard_normal((240, 30)) @ mixing
        result = fit_parcel(values, np.repeat(np.arange(80), 3), FitOptions(method)).crossfit()
        after.append(np.nan_to_num(result.reliability_after).mean())  # 0 where nothing is left
        prediction.append(np.nan_to_num(result.prediction).mean())
    for score in (after, prediction):
        assert abs(np.mean(score)) < 3 * max(np.std(score) / np.sqrt(5), 0.015)


def test_cross_fitted_reliability_of_signal(simulate: Callable[..., Any]) -> None:
    simulated = simulate(snr=0.5, n_conditions=100)
    result = fit_parcel(simulated.values, simulated.condition).crossfit()
    assert np.median(result.reliability_after) > np.median(result.reliability_before) + 0.2
    assert np.median(result.prediction) > np.median(result.reliability_before)
    assert np.median(result.gain) > 0.1
    error = np.square(result.denoised - simulated.truth).sum()
    assert error < 0.6 * np.square(simulated.trials.means - simulated.truth).sum()
    assert sorted(np.unique(result.fold)) == [0, 1, 2, 3, 4]


def test_options_that_say_nothing_are_refused() -> None:
    for wrong in ({"method": "best"}, {"method": "stacked", "level": "unit"}):
        with pytest.raises(UsageError):
            FitOptions(**wrong)
    values, condition = small(9)
    for options in (FitOptions("standard", level="group"), FitOptions("standard", basis="own"), FitOptions("standard", allowed=(99,))):
        with pytest.raises(UsageError):
            fit_parcel(values, condition, options)
