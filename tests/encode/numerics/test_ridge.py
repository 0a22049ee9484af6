"""Ridge regression against refits by the normal equations, himalaya's outputs, and properties that hold for any data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.encode.numerics.ridge import contiguous_folds, default_alphas, fit_ridge, score_ridge
from conform_bids.numerics.compute import Compute

REFERENCE = Path(__file__).parents[2] / "data" / "encode" / "himalaya_ridgecv.npz"
ALPHAS = np.geomspace(0.1, 1e4, 6)


def problem(n: int, p: int, units: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, p)) + 3 * rng.standard_normal(p)
    weights = rng.standard_normal((p, units)) * rng.choice([0, 0.3, 1], units)
    return features, features @ weights + 2 * rng.standard_normal((n, units)) + 5


def solve(features: np.ndarray, responses: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercept by the normal equations."""
    x, y = features - features.mean(0), responses - responses.mean(0)
    weights = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ y)
    return weights, responses.mean(0) - features.mean(0) @ weights


def left_out_scores(features: np.ndarray, responses: np.ndarray, folds: list[np.ndarray]) -> np.ndarray:
    """The same cross-validation, every model fitted again."""
    errors, total = np.zeros((len(ALPHAS), responses.shape[1])), np.zeros(responses.shape[1])
    for rows in folds:
        kept = np.setdiff1d(np.arange(len(features)), rows)
        total += np.square(responses[rows] - responses[kept].mean(0)).sum(0)
        for k, alpha in enumerate(ALPHAS):
            weights, intercept = solve(features[kept], responses[kept], alpha)
            errors[k] += np.square(responses[rows] - features[rows] @ weights - intercept).sum(0)
    return 1 - errors / total


@pytest.mark.parametrize(("n", "p"), [(30, 8), (20, 20), (15, 40)])
@pytest.mark.parametrize("kind", ["one by one", "folds", "uneven"])
def test_scores_are_those_of_models_that_are_fitted_again(n: int, p: int, kind: str) -> None:
    features, responses = problem(n, p, 7)
    folds = {
        "one by one": [np.array([row]) for row in range(n)],
        "folds": contiguous_folds(n, 4),
        "uneven": [np.arange(0, n, 3), np.array([1, 2, 4]), np.array([5])],
    }[kind]
    fit = fit_ridge(features, responses, ALPHAS, folds=None if kind == "one by one" else folds)
    expected = left_out_scores(features, responses, folds)
    np.testing.assert_allclose(fit.cv_scores, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(fit.alphas, ALPHAS[expected.argmax(0)])
    np.testing.assert_allclose(fit.cv_rsquared, expected.max(0), rtol=1e-8, atol=1e-10)
    for unit in range(responses.shape[1]):
        weights, intercept = solve(features, responses[:, [unit]], fit.alphas[unit])
        np.testing.assert_allclose(fit.weights[:, [unit]], weights, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(fit.intercept[unit], intercept[0], rtol=1e-7, atol=1e-8)


def test_a_fit_equals_himalayas() -> None:
    with np.load(REFERENCE, allow_pickle=False) as case:
        features, responses, alphas = case["X"], case["Y"], case["alphas"]
        fit = fit_ridge(features, responses.astype(np.float64), alphas, folds=contiguous_folds(len(features), 5))
        np.testing.assert_allclose(fit.alphas, case["ridgecv_best_alphas"], rtol=1e-9)
        scale = np.abs(case["ridgecv_coef"]).max()
        np.testing.assert_allclose(fit.weights, case["ridgecv_coef"], atol=1e-6 * scale)
        np.testing.assert_allclose(case["Xt"] @ fit.weights + fit.intercept, case["ridgecv_pred"], atol=1e-5)


def test_single_precision_stays_near_double() -> None:
    features, responses = problem(60, 25, 12)
    exact, single = fit_ridge(features, responses, ALPHAS), fit_ridge(features, responses.astype(np.float32), ALPHAS)
    assert single.weights.dtype == np.float32
    np.testing.assert_allclose(single.cv_scores, exact.cv_scores, atol=2e-5)
    same = single.alphas == exact.alphas
    assert same.mean() > 0.8
    np.testing.assert_allclose(single.weights[:, same], exact.weights[:, same], atol=1e-4 * np.abs(exact.weights).max())


@given(seed=st.integers(0, 10_000), memory=st.sampled_from([1e3, 1e5, 1e9]), threads=st.sampled_from([1, 2]))
@settings(max_examples=15, deadline=None)
def test_blocks_threads_and_the_order_of_units_do_not_matter(seed: int, memory: float, threads: int) -> None:
    features, responses = problem(20, 6, 40, seed)
    whole = fit_ridge(features, responses, ALPHAS)
    order = np.random.default_rng(seed).permutation(40)
    parts = fit_ridge(features, responses[:, order], ALPHAS, compute=Compute("cpu", threads, memory))
    np.testing.assert_allclose(parts.weights, whole.weights[:, order], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(parts.alphas, whole.alphas[order])


@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100), shift=st.floats(-50, 50))
@settings(max_examples=15, deadline=None)
def test_the_scale_of_features_goes_with_the_penalty_and_their_offset_into_the_intercept(seed: int, factor: float, shift: float) -> None:
    features, responses = problem(25, 5, 6, seed)
    first = fit_ridge(features, responses, ALPHAS)
    second = fit_ridge(factor * features + shift, responses, factor**2 * ALPHAS)
    np.testing.assert_allclose(second.weights * factor, first.weights, rtol=1e-6, atol=1e-8)
    predicted = (factor * features + shift) @ second.weights + second.intercept
    np.testing.assert_allclose(predicted, features @ first.weights + first.intercept, rtol=1e-6, atol=1e-6)


def test_units_that_cannot_be_fitted_are_set_aside() -> None:
    features, responses = problem(20, 4, 5)
    responses[3, 1], responses[:, 2] = np.nan, 7.0
    fit = fit_ridge(features, responses, ALPHAS)
    np.testing.assert_array_equal(np.isnan(fit.intercept), [False, True, True, False, False])
    np.testing.assert_array_equal(np.isnan(fit.alphas), np.isnan(fit.intercept))
    clean = fit_ridge(features, responses[:, [0, 3, 4]], ALPHAS)
    np.testing.assert_allclose(fit.weights[:, [0, 3, 4]], clean.weights, rtol=1e-10)


def test_scores_alone_are_those_of_the_fit() -> None:
    features, responses = problem(24, 6, 9)
    folds = contiguous_folds(24, 3)
    fit = fit_ridge(features, responses, ALPHAS, folds=folds)
    np.testing.assert_array_equal(score_ridge(features, responses, ALPHAS, folds=folds), fit.cv_scores)


def test_default_penalties_follow_the_scale_of_the_features() -> None:
    features, _ = problem(40, 10, 1)
    np.testing.assert_allclose(default_alphas(3 * features), 9 * default_alphas(features))
    assert np.all(np.diff(default_alphas(features)) > 0)


@pytest.mark.parametrize("fault", ["rows", "few", "nan", "alpha", "fold"])
def test_what_cannot_be_fitted_is_refused(fault: str) -> None:
    features, responses = problem(10, 3, 2)
    alphas, folds = ALPHAS, None
    if fault == "rows":
        responses = responses[:-1]
    elif fault == "few":
        features, responses = features[:2], responses[:2]
    elif fault == "nan":
        features[0, 0] = np.nan
    elif fault == "alpha":
        alphas = np.array([0.0, 1.0])
    elif fault == "fold":
        folds = [np.arange(9)]
    with pytest.raises(ValueError, match=r"table|stimuli|finite|positive|fold"):
        fit_ridge(features, responses, alphas, folds=folds)


def test_more_folds_than_stimuli_are_refused() -> None:
    with pytest.raises(ValueError, match="6 folds of 5"):
        contiguous_folds(5, 6)
