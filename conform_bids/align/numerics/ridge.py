"""Ridge regression from one set of units to another, its penalty by exact leave-one-out; and the weights of a stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conform_bids.numerics.scores import correlate_columns

__all__ = ["ridge_map", "stack_weights"]

Array = NDArray[np.floating]


def ridge_map(source: Array, target: Array, alphas: Sequence[float]) -> NDArray[np.float32]:
    """Coefficients B of ``target ~ source @ B``; one penalty for all units, by the mean leave-one-out correlation.

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
    best, chosen = -np.inf, size
    for alpha in alphas:
        shrink = singular**2 / (singular**2 + alpha * size)
        fitted = left @ (shrink[:, None] * projected)
        leverage = np.square(left) @ shrink + 1 / len(left)  # the mean was taken from the data too
        held_out = target - (target - fitted) / (1 - leverage)[:, None]
        correlation = correlate_columns(np.asarray(target), held_out)
        score = float(np.nanmean(correlation)) if np.isfinite(correlation).any() else -np.inf
        if score > best:
            best, chosen = score, alpha * size
    coefficients: NDArray[np.float32] = (right.T @ ((singular / (singular**2 + chosen))[:, None] * projected)).astype(np.float32)
    return coefficients


def stack_weights(grams: NDArray[np.float64], moments: NDArray[np.float64], pooling: float = 2.0) -> NDArray[np.float64]:
    """Non-negative weights of predictions, partly pooled over parcels (stacking: Breiman, 1996).

    Parameters
    ----------
    grams : array, shape (n_parcels, n_families, n_families)
        Sums of products of leave-one-out predictions.
    moments : array, shape (n_parcels, n_families)
        Sums of products of the predictions with what they predict.
    pooling : float
        A parcel's sums count once, the mean over parcels this often.

    Returns
    -------
    array, shape (n_parcels, n_families)
    """
    from scipy.optimize import nnls

    mean_gram, mean_moment = grams.mean(axis=0), moments.mean(axis=0)
    weights = np.zeros(moments.shape)
    for index, (gram, moment) in enumerate(zip(grams, moments, strict=True)):
        total = gram + pooling * mean_gram
        total = total + np.eye(len(total)) * max(1e-9 * float(np.trace(total)), np.finfo(float).tiny)
        lower = np.linalg.cholesky(total)
        weights[index] = nnls(lower.T, np.linalg.solve(lower, moment + pooling * mean_moment))[0]
    return weights
