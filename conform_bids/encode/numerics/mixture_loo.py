"""Leave-one-out residuals of a mixture prior, in closed form."""

from __future__ import annotations

import numpy as np

from conform_bids.encode.numerics.mixture import PriorModel
from conform_bids.encode.numerics.population import Context, FloatArray

__all__ = ["loo_residuals"]

UNITS_AT_A_TIME = 1000


def loo_residuals(model: PriorModel, context: Context) -> FloatArray:
    """Response minus its prediction from the other stimuli, (n_context, n_units), in float64.

    In one Gaussian with covariance S of the responses, the left-out residual is ``(S^-1 r)_i / (S^-1)_ii``; the components' and levels'
    probabilities are those of the whole context divided by the left-out stimulus' own likelihood. The person's component means are not
    pooled here: pooling looks at all stimuli.

    Parameters
    ----------
    model : PriorModel
    context : Context
    """
    rows = model.basis.apply(np.asarray(context.features), np.float64)
    y = np.asarray(context.responses, dtype=np.float64)
    factors = _factorise(model, rows)
    blocks = [_block(model, factors, y[:, i : i + UNITS_AT_A_TIME]) for i in range(0, y.shape[1], UNITS_AT_A_TIME)]
    return np.concatenate(blocks, axis=1)


def _factorise(model: PriorModel, rows: FloatArray) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
    """Eigenvalues and vectors of each component's kernel, and its mean in them."""
    prior, factors = model.population(), []
    for mean, covariance in zip(prior.means, prior.covariances, strict=True):
        values, vectors = np.linalg.eigh(rows @ covariance @ rows.T)
        factors.append((np.maximum(values, 0), vectors, vectors.T @ (rows @ mean)))
    return factors


def _block(model: PriorModel, factors: list[tuple[FloatArray, FloatArray, FloatArray]], y: FloatArray) -> FloatArray:
    """Running sums over components and levels, shifted by the largest exponent so far."""
    levels, log_shares = model.mixture.levels, model.mixture.log_shares
    top, mass, total = np.full(y.shape, -np.inf), np.zeros(y.shape), np.zeros(y.shape)
    for (values, vectors, centre), shares in zip(factors, log_shares, strict=True):
        rotated = vectors.T @ y
        for s, noise, log_share in zip(levels.scale, levels.noise, shares, strict=True):
            inverse = 1 / (s**2 * values + noise)
            residual = rotated - (s * centre)[:, None]
            solved = vectors @ (inverse[:, None] * residual)
            diagonal = ((vectors**2) @ inverse)[:, None]
            evidence = log_share + 0.5 * (np.log(inverse).sum() - (inverse[:, None] * residual**2).sum(axis=0))
            without = evidence + 0.5 * (solved**2 / diagonal - np.log(diagonal))
            highest = np.maximum(top, without)
            old, new = np.exp(top - highest), np.exp(without - highest)
            mass, total, top = mass * old + new, total * old + new * solved / diagonal, highest
    return np.asarray(total / mass)
