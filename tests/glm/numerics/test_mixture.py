"""The mixture behind the R2 threshold against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.special

from conform_bids.glm.numerics.mixture import CollapsedError, fit_two_normals


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_values", [40, 900])
def test_the_mixture_is_that_of_scikit_learn(seed: int, n_values: int) -> None:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.gamma(1, 0.3, n_values), rng.normal(6, 3, n_values // 5)])
    expected = GaussianMixture(n_components=2, tol=1e-10, reg_covar=0.0, n_init=3, max_iter=100, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected.fit(values[:, None])
    found = fit_two_normals(values, seed=seed)
    order, known = np.argsort(found.means), np.argsort(expected.means_.ravel())
    np.testing.assert_allclose(found.means[order], expected.means_.ravel()[known], rtol=1e-9)
    np.testing.assert_allclose(found.variances[order], expected.covariances_.ravel()[known], rtol=1e-9)
    np.testing.assert_allclose(found.weights[order], expected.weights_[known], rtol=1e-9)
    grid = np.linspace(-1, 12, 50)
    posterior = expected.predict_proba(grid[:, None])
    odds = found.log_odds(grid) * (1 if order[0] == 0 else -1)
    np.testing.assert_allclose(scipy.special.expit(odds), posterior[:, known[0]], atol=1e-9)


def test_a_component_without_variance_is_refused_unless_a_least_is_given() -> None:
    values = np.array([0.0] * 20 + [1.0] * 20)
    with pytest.raises(CollapsedError):
        fit_two_normals(values, seed=0)
    assert (fit_two_normals(values, seed=0, least_variance=1e-6).variances >= 1e-6).all()
