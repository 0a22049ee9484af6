"""Principal components of features: against the singular value decomposition, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.encode.numerics.reduction import Reduction, fit_reduction


def _features(n: int, n_features: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, n_features + 1) ** -0.7
    return (generator.normal(size=(n, n_features)) * spectrum + generator.normal(size=n_features)).astype(np.float32)


@pytest.mark.parametrize(("n", "n_features"), [(40, 90), (90, 40), (50, 50)])
def test_against_the_singular_value_decomposition(n: int, n_features: int) -> None:
    features = _features(n, n_features)
    found = fit_reduction(features, 12)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.variances, singular[:12] ** 2 / (n - 1), rtol=1e-8)
    np.testing.assert_allclose(np.abs(np.sum(found.basis * right[:12].T, axis=0)), 1.0, rtol=1e-8)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(12), atol=1e-8)
    assert found.explained == pytest.approx((singular[:12] ** 2).sum() / (singular**2).sum())
    scores = found.apply(features)
    assert scores.dtype == np.float32 and scores.shape == (n, 12)
    np.testing.assert_allclose(np.abs(scores), np.abs(left[:, :12] * singular[:12]), atol=1e-4)


def test_new_stimuli_go_through_the_same_map() -> None:
    train, new = _features(60, 30), _features(20, 30, seed=1) + 5
    found = fit_reduction(train, 10)
    again = Reduction.from_arrays({name: values.copy() for name, values in found.arrays().items()})
    np.testing.assert_array_equal(again.apply(new), found.apply(new))
    np.testing.assert_allclose(found.apply(new), (new - train.mean(axis=0)) @ found.basis, atol=1e-4)
    np.testing.assert_array_equal(fit_reduction(train, 10).basis, found.basis)
    assert again.explained == found.explained
    # the order of the training stimuli decides nothing, signs included
    np.testing.assert_allclose(fit_reduction(train[::-1], 10).apply(new), found.apply(new), atol=1e-3)


def test_weights_of_components_become_weights_of_features() -> None:
    features = _features(60, 30)
    found = fit_reduction(features, 10)
    weights = np.random.default_rng(2).normal(size=(10, 4))
    expected = found.apply(features) @ weights
    np.testing.assert_allclose((features - found.mean) @ found.expand(weights), expected, atol=1e-4)


def test_what_cannot_be_reduced() -> None:
    features = _features(20, 30)
    with pytest.raises(ValueError, match="20 components of features that have 19 dimensions in the 20 training stimuli"):
        fit_reduction(features, 20)
    with pytest.raises(ValueError, match="have 0 dimensions"):
        fit_reduction(np.ones((5, 3)), 1)
    with pytest.raises(ValueError, match="finite"):
        fit_reduction(np.full((5, 3), np.nan), 1)
    with pytest.raises(ValueError, match="at least one"):
        fit_reduction(features, 0)
    with pytest.raises(ValueError, match="two at least"):
        fit_reduction(features[:1], 1)
    with pytest.raises(ValueError, match="fitted on 30 features"):
        fit_reduction(features, 3).apply(features[:, :20])
    with pytest.raises(ValueError, match="variances, total_variance"):
        Reduction.from_arrays({"mean": np.zeros(3), "basis": np.zeros((3, 2))})
    arrays = fit_reduction(features, 3).arrays()
    with pytest.raises(ValueError, match="do not fit"):
        Reduction.from_arrays({**arrays, "basis": arrays["basis"][:, :2]})
