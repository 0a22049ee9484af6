"""Ridge regression from one set of units to another, its penalty by exact leave-one-out; and the weights of a stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ridge_map", "stack_weights"]

Array = NDArray[np.floating]


def ridge_map(source: Array, target: Array, alphas: Sequence[float]) -> NDArray[np.float32]:
    """Coefficients B of ``target ~ source @ B``; one penalty for all units, by the leave-one-out error.

    (A correlation would not do: what is left of a mean without a row is minus that row, and a prediction of nothing else correlates at -1.)

    Parameters
    ----------
    source : array, shape (n_stimuli, n_source)
        Standardised.
    target : array, shape (n_stimuli, n_target)
        Standardised.
    alphas : sequence of float
        Penalties, as multiples of the mean squared singular value of ``source``.

    Returns
    -------
    array, shape (n_source, n_target)
    """
    left, singular, right = np.linalg.svd(np.asarray(source, dtype=np.float64), full_matrices=False)
    projected = left.T @ target
    size = max(float(np.square(singular).mean()), np.finfo(float).tiny)
    best, chosen = np.inf, size
    for alpha in alphas:
        shrink = singular**2 / (singular**2 + alpha * size)
        fitted = left @ (shrink[:, None] * projected)
        leverage = np.square(left) @ shrink + 1 / len(left)  # the mean was taken from the data too
        residual = (target - fitted) / (1 - leverage)[:, None]
        error = float(np.square(residual).mean())
        if error < best:
            best, chosen = error, alpha * size
    coefficients: NDArray[np.float32] = (right.T @ ((singular / (singular**2 + chosen))[:, None] * projected)).astype(np.float32)
    return coefficients


def stack_weights(gram: NDArray[np.float64], moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative weights of predictions by least squares (stacking: Breiman, 1996).

    Parameters
    ----------
    gram : array, shape (n_families, n_families)
        Sums of products of predictions of what no model has seen.
    moment : array, shape (n_families,)
        Sums of products of the predictions with what they predict.
    """
    from scipy.optimize import nnls

    regular = gram + np.eye(len(gram)) * max(1e-9 * float(np.trace(gram)), np.finfo(float).tiny)
    lower = np.linalg.cholesky(regular)
    weights: NDArray[np.float64] = nnls(lower.T, np.linalg.solve(lower, moment))[0]
    return weights
