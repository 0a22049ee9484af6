"""Banded ridge: himalaya's scores, the truth of a simulation, and shares that add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conform_bids.encode.numerics.banded import fit_banded, split_rsquared
from conform_bids.encode.numerics.ridge import contiguous_folds, default_alphas, fit_ridge
from conform_bids.encode.numerics.scoring import coefficient_of_determination

REFERENCE = Path(__file__).parents[2] / "data" / "encode" / "himalaya_ridgecv.npz"


@pytest.fixture(scope="module")
def world() -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray]:
    """Two spaces of which units use the first, the second, both or none; train and test."""
    rng = np.random.default_rng(3)
    spaces = [rng.standard_normal((200, 10)), 20 * rng.standard_normal((200, 60))]
    use = np.repeat([[1, 0], [0, 1], [1, 1], [0, 0]], 5, axis=0)
    parts = [space @ rng.standard_normal((space.shape[1], 20)) for space in spaces]
    signal = sum(part / part.std(0) * use[:, k] for k, part in enumerate(parts))
    responses = signal + 0.7 * rng.standard_normal((200, 20))
    return [space[:120] for space in spaces], responses[:120], [space[120:] for space in spaces], responses[120:]


def predict(fit: object, spaces: list[np.ndarray]) -> np.ndarray:
    return sum(space @ weights for space, weights in zip(spaces, fit.weights, strict=True)) + fit.intercept  # type: ignore[attr-defined]


def test_scores_reach_himalayas() -> None:
    with np.load(REFERENCE, allow_pickle=False) as case:
        cut = case["X"].shape[1] // 2
        spaces, tests = [case["X"][:, :cut], case["X"][:, cut:]], [case["Xt"][:, :cut], case["Xt"][:, cut:]]
        fit = fit_banded(spaces, case["Y"].astype(np.float64), case["alphas"], folds=contiguous_folds(150, 5))
        found = coefficient_of_determination(predict(fit, tests), case["Yt"])
        difference = found - case["banded_r2"]
    assert difference.mean() > -0.002
    assert np.median(np.abs(difference)) < 0.01
    assert (np.abs(difference) < 0.02).mean() > 0.9


def test_units_are_told_by_the_space_that_they_use(world: tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray]) -> None:
    train, responses, test, measured = world
    alphas = np.geomspace(1e-2, 1e5, 10)
    fit = fit_banded(train, responses, alphas)
    ratio = np.log10(fit.alphas[1] / fit.alphas[0] * 400)
    assert np.median(ratio[:5]) > np.median(ratio[10:15]) > np.median(ratio[5:10])
    joined = fit_ridge(np.concatenate(train, axis=1), responses, np.geomspace(1e-2, 1e7, 20))
    plain = np.concatenate(test, axis=1) @ joined.weights + joined.intercept
    gain = coefficient_of_determination(predict(fit, test), measured) - coefficient_of_determination(plain, measured)
    assert gain[:5].mean() > 0.1, "a space that says nothing costs ridge, and not banded ridge"
    assert gain.mean() > 0


def test_shares_add_up_and_say_who_predicts(world: tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray]) -> None:
    train, responses, test, measured = world
    fit = fit_banded(train, responses, np.geomspace(1e-2, 1e5, 10))
    parts = [(own - seen.mean(0)) @ weights for own, seen, weights in zip(test, train, fit.weights, strict=True)]
    shares = split_rsquared(parts, responses.mean(0), measured)
    np.testing.assert_allclose(shares.sum(0), coefficient_of_determination(predict(fit, test), measured), atol=1e-10)
    assert shares[0, :5].mean() > 0.4 > 0.1 > abs(shares[1, :5].mean())
    assert shares[1, 5:10].mean() > 0.2 > 0.1 > abs(shares[0, 5:10].mean())


def test_the_scale_of_a_space_does_not_matter(world: tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray]) -> None:
    train, responses, _, _ = world
    alphas = default_alphas(np.concatenate([space / space.std() for space in train], axis=1), 6)
    first = fit_banded(train, responses, alphas, n_candidates=6)
    second = fit_banded([100 * train[0], train[1]], responses, alphas, n_candidates=6)
    np.testing.assert_allclose(100 * second.weights[0], first.weights[0], rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(second.alphas[0], 1e4 * first.alphas[0], rtol=1e-9)


@pytest.mark.parametrize("spaces", [1, "constant"])
def test_what_makes_no_bands_is_refused(spaces: object) -> None:
    features = np.random.default_rng(0).standard_normal((20, 3))
    given = [features] if spaces == 1 else [features, np.ones((20, 2))]
    with pytest.raises(ValueError, match="space"):
        fit_banded(given, features[:, :1], [1.0])
