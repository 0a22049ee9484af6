"""Filters in single precision, which are scored or held out: as those in double precision, and only where that can be."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.psn.numerics.filters import FilterPart, filter_parts, noise_choleskys, score_filters

LEVELS = ((0.8, 0.9), (1.0, 0.9), (0.8, 0.45), (0.0, 0.0))
TERMS = np.array([[1.0, 1.0], [2.0, 4.0], [4.0, 64.0]])


def covariances(seed: int, n_units: int = 40, rank: int = 8, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Of condition means over three trials, and of a trial's noise."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(n_units) + rng.standard_normal((n_units, n_units)) / 8
    noise = mixing @ mixing.T
    factor = rng.standard_normal((n_units, rank)) * np.sqrt(signal / rank)
    rows = rng.standard_normal((200, rank)) @ factor.T + rng.standard_normal((200, n_units)) @ np.linalg.cholesky(noise / 3).T
    return np.cov(rows.T), noise


def parts_of(data: np.ndarray, noise: np.ndarray, *, light: bool) -> list[FilterPart]:
    return filter_parts(data, noise, noise_choleskys(noise, LEVELS), 1 / 3, LEVELS, light=light)


def scores_of(parts: list[FilterPart], n_units: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(9)
    inputs = rng.standard_normal((30, n_units))
    targets = inputs + rng.standard_normal((30, n_units))
    found = score_filters(parts, TERMS, inputs, targets, np.repeat([2.0, 3.0], 15), np.ones(30))
    return found.linear, found.quadratic


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_double_precision(seed: int) -> None:
    data, noise = covariances(seed)
    light, double = parts_of(data, noise, light=True), parts_of(data, noise, light=False)
    assert [part.left.dtype for part in light[:3]] == [np.float32] * 3
    assert [part.left.dtype for part in double[:3]] == [np.float64] * 3
    for one, other in zip(light, double, strict=True):
        n = min(len(one.ratio), len(other.ratio))  # dimensions without signal may be more or less by one
        np.testing.assert_allclose(one.ratio[:n], other.ratio[:n], rtol=1e-4, atol=1e-4)
    for first, second in zip(scores_of(light, 40), scores_of(double, 40), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-3)
    mixed = [light[0], *double[1:]]
    for first, second in zip(scores_of(mixed, 40), scores_of(double, 40), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("which", ["noise nearly singular", "a unit of much signal", "a dimension of much signal"])
def test_double_precision_is_kept_where_single_does_not_hold(which: str) -> None:
    data, noise = covariances(0)
    if which == "noise nearly singular":
        noise = noise.copy()
        noise[:, 0] *= 1e-4
        noise[0] *= 1e-4
    elif which == "a unit of much signal":
        data = data.copy()
        data[3, 3] += 1e5
    else:
        data = data + 200.0
    parts = parts_of(data, noise, light=True)
    assert parts[1].left.dtype == np.float64


def test_nothing_is_left_of_no_signal_in_either_precision() -> None:
    noise, levels = covariances(1)[1], ((1.0, 1.0),)
    for light in (False, True):
        (part,) = filter_parts(noise / 3 - 0.05 * np.eye(40), noise, noise_choleskys(noise, levels), 1 / 3, levels, light=light)
        assert part.left.shape == (40, 0)
        assert not part.ratio.size
