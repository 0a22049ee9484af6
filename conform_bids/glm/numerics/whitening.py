"""Serial correlation of the noise: one autoregressive model for all units and runs, from the noise pool.

The autocovariance of residuals is biased, as removing drifts and regressors removes low frequencies; the bias is linear in the true
autocovariance and is solved for (Worsley et al., 2002, NeuroImage 15:1-15, appendix A.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg

from conform_bids.numerics.linalg import project_out

__all__ = ["autoregression", "fit_autoregression", "whitening_filter"]

FloatArray = npt.NDArray[np.float64]
N_LAGS = 8


def fit_autoregression(grams: Sequence[FloatArray], nuisances: Sequence[FloatArray], order: int) -> FloatArray:
    """Coefficients of an autoregressive model that all runs share.

    Parameters
    ----------
    grams : sequence of (n_volumes, n_volumes) arrays
        Of each run, Y Y' of the noise pool's time courses, each scaled to unit length.
    nuisances : sequence of (n_volumes, k) arrays
        Orthonormal bases of all that was, or is here, taken out of the time courses.
    order : int
        Number of coefficients.

    Returns
    -------
    (order,) float64 array
        phi of y[t] = sum_k phi[k] y[t-1-k] + white noise; zeros where the data allow no stable model.
    """
    n_lags = max(N_LAGS, order)
    observed, bias = np.zeros(n_lags + 1), np.zeros((n_lags + 1, n_lags + 1))
    for gram, nuisance in zip(grams, nuisances, strict=True):
        clean = project_out(nuisance, project_out(nuisance, gram).T)
        residual = np.eye(len(gram)) - nuisance @ nuisance.T
        for lag in range(n_lags + 1):
            observed[lag] += np.trace(clean, offset=lag)
            # column j of the bias: expected lagged sums when the true autocovariance is 1 at lag j alone
            shifted = np.eye(len(gram), k=lag)
            shifted = shifted + shifted.T if lag else shifted
            seen = residual @ shifted @ residual
            bias[:, lag] += [np.trace(seen, offset=row) for row in range(n_lags + 1)]
    covariance = np.linalg.lstsq(bias, observed, rcond=None)[0]
    return autoregression(covariance, order)


def autoregression(covariance: FloatArray, order: int) -> FloatArray:
    """Coefficients of order ``order`` from autocovariances at lags 0 to at least ``order`` (Yule-Walker); stable, or zeros."""
    if covariance[0] <= 0:
        return np.zeros(order)
    rho = covariance[: order + 1] / covariance[0]
    smallest = np.linalg.eigvalsh(scipy.linalg.toeplitz(rho)).min()
    if smallest < 1e-3:  # no process has this autocovariance: shrink it to one that has
        rho = np.concatenate([[1.0], rho[1:] * (1 - 1e-3) / (1 - smallest + 1e-3)])
    coefficients: FloatArray = scipy.linalg.solve_toeplitz(rho[:-1], rho[1:])
    return coefficients


def whitening_filter(coefficients: FloatArray, n_volumes: int) -> FloatArray:
    """Lower-triangular filter that makes the autoregressive noise white, (n_volumes, n_volumes).

    The first rows use the process's stationary distribution, so that no volume is lost; the innovations have unit variance.
    """
    order = len(coefficients)
    if order == 0 or not coefficients.any():
        return np.eye(n_volumes)
    result = np.eye(n_volumes)
    for lag, coefficient in enumerate(coefficients, start=1):
        result -= coefficient * np.eye(n_volumes, k=-lag)
    start = min(order, n_volumes)
    result[:start] = 0
    lower = np.linalg.cholesky(_stationary_covariance(coefficients)[:start, :start])
    result[:start, :start] = np.linalg.inv(lower)
    return result


def _stationary_covariance(coefficients: FloatArray) -> FloatArray:
    """Covariance of ``order`` successive values of the process with unit innovations."""
    order = len(coefficients)
    companion = np.zeros((order, order))
    companion[0] = coefficients
    companion[1:, :-1] = np.eye(order - 1)
    innovation = np.zeros((order, order))
    innovation[0, 0] = 1
    covariance: FloatArray = scipy.linalg.solve_discrete_lyapunov(companion, innovation)
    return covariance
