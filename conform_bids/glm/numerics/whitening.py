"""Serial correlation of the noise: one autoregressive model for all units and runs, from the noise pool.

The autocovariance of residuals is biased, as removing drifts and regressors removes low frequencies. What a model of the noise would
look like after the same removal is known exactly, so the model is fitted to the residuals as they are (the idea of Worsley et al.,
2002, NeuroImage 15:1-15, appendix A.3, with the whole autocovariance of the model instead of its first lags).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize
import scipy.signal

from conform_bids.numerics.linalg import project_out

__all__ = ["autoregression_of", "fit_autoregression", "whitening_filter"]

FloatArray = npt.NDArray[np.float64]
LAGS_PER_COEFFICIENT = 2
LARGEST_REFLECTION = 0.98


def fit_autoregression(covariances: Sequence[FloatArray], nuisances: Sequence[FloatArray], order: int) -> FloatArray:
    """Coefficients of a stable autoregressive model that all runs share.

    Parameters
    ----------
    covariances : sequence of (n_volumes, n_volumes) arrays
        Of each run, Y Y' of the noise pool's time courses, each scaled to unit length.
    nuisances : sequence of (n_volumes, k) arrays
        Orthonormal bases of all that was, or is here, taken out of the time courses.
    order : int
        Number of coefficients.

    Returns
    -------
    (order,) float64 array
        phi of y[t] = sum_k phi[k] y[t-1-k] + white noise.
    """
    n_lags = LAGS_PER_COEFFICIENT * order
    observed = np.zeros(n_lags + 1)
    expected = np.zeros((n_lags + 1, max(map(len, covariances))))
    for covariance, nuisance in zip(covariances, nuisances, strict=True):
        clean = project_out(nuisance, project_out(nuisance, covariance).T)
        total = np.trace(clean)
        if total <= 0:
            continue
        observed += np.array([np.trace(clean, offset=lag) for lag in range(n_lags + 1)]) / total
        expected[:, : len(clean)] += _lagged_sums_by_lag(nuisance, n_lags)
    if observed[0] <= 0:
        return np.zeros(order)
    target = observed[1:] / observed[0]

    def misfit(parameters: FloatArray) -> FloatArray:
        sums = expected @ _autocorrelation(np.tanh(parameters), expected.shape[1])
        result: FloatArray = sums[1:] / sums[0] - target
        return result

    limit = np.arctanh(LARGEST_REFLECTION)
    fitted = scipy.optimize.least_squares(misfit, np.full(order, 1e-3), bounds=(-limit, limit))
    return autoregression_of(np.tanh(fitted.x))


def _lagged_sums_by_lag(nuisance: FloatArray, n_lags: int) -> FloatArray:
    """Expected sum over time of r[t] r[t + row] when the noise has autocovariance 1 at lag ``column`` alone, (n_lags + 1, n_volumes).

    With R the projector out of the nuisance and D_k the shift by k, it is tr(D_k R (D_j + D_j') R) for column j > 0.
    """
    n_volumes = len(nuisance)
    projector = np.eye(n_volumes) - nuisance @ nuisance.T
    result = np.zeros((n_lags + 1, n_volumes))
    # the memory of rows of 2 n - 1, seen as rows of 2 n: each starts one further on, so that a column holds one offset
    by_offset = np.zeros((n_volumes, 2 * n_volumes))
    padded = by_offset.ravel()[: n_volumes * (2 * n_volumes - 1)].reshape(n_volumes, 2 * n_volumes - 1)
    for row in range(min(n_lags + 1, n_volumes)):
        # R[:, :-row] R[row:], with the identity of the second R multiplied out
        left = projector[:, : n_volumes - row]
        padded[:, :n_volumes] = (left @ nuisance[row:]) @ -nuisance.T
        padded[:, row:n_volumes] += left
        sums = by_offset.sum(axis=0)
        # offsets 0 to n - 1, nothing, then -(n - 1) to -1
        result[row] = sums[:n_volumes] + np.append(0.0, sums[n_volumes + 1 :][::-1])
    return result / max(n_volumes - nuisance.shape[1], 1)


def autoregression_of(reflections: FloatArray) -> FloatArray:
    """Coefficients of the stable process with these reflection coefficients, each within (-1, 1) (Levinson-Durbin)."""
    coefficients = np.zeros(0)
    for reflection in reflections:
        coefficients = _extend(coefficients, reflection)
    return coefficients


def _extend(coefficients: FloatArray, reflection: float) -> FloatArray:
    return np.append(coefficients - reflection * coefficients[::-1], reflection)


def _autocorrelation(reflections: FloatArray, n_lags: int) -> FloatArray:
    """Autocorrelation, at lags 0 to ``n_lags - 1``, of the process with these reflection coefficients."""
    coefficients, unexplained = np.zeros(0), 1.0
    result = np.ones(max(n_lags, len(reflections) + 1))
    for lag, reflection in enumerate(reflections, start=1):
        # Levinson's recursion read the other way round: its reflection coefficient is known, the correlation is not
        result[lag] = coefficients @ result[1:lag][::-1] + reflection * unexplained
        unexplained *= 1 - reflection**2
        coefficients = _extend(coefficients, reflection)
    order, polynomial = len(coefficients), np.append(1.0, -coefficients)
    beyond = len(result) - order - 1
    if beyond:
        past = scipy.signal.lfiltic([1.0], polynomial, result[1 : order + 1][::-1])
        result[order + 1 :] = scipy.signal.lfilter([1.0], polynomial, np.zeros(beyond), zi=past)[0]
    return result[:n_lags]


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
