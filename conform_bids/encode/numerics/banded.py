"""Banded ridge regression: several feature spaces, a penalty for each space and unit, and who predicts what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.ridge import Folds, fit_ridge, score_ridge
from conform_bids.numerics.compute import Compute

__all__ = ["BandedFit", "fit_banded", "split_rsquared"]

FloatArray = npt.NDArray[np.floating[Any]]
SMALLEST_SHARE = 1e-4
"""Share of the prior variance that a feature space has at least; its penalty stays finite."""
CONCENTRATIONS = (0.1, 1.0)


@dataclass(frozen=True, eq=False)
class BandedFit:
    """Banded ridge models of units; a prediction is the sum over spaces of ``features @ weights``, plus ``intercept``.

    Attributes
    ----------
    weights : tuple of (n_features, n_units) arrays
        One a feature space.
    intercept : (n_units,) array
    alphas : (n_spaces, n_units) float64 array
        Penalty on the weights of each space.
    cv_rsquared : (n_units,) float64 array
        Share of the variance that is predicted of responses that were left out.
    """

    weights: tuple[FloatArray, ...]
    intercept: FloatArray
    alphas: npt.NDArray[np.float64]
    cv_rsquared: npt.NDArray[np.float64]


def fit_banded(
    spaces: Sequence[FloatArray],
    responses: FloatArray,
    alphas: Sequence[float] | npt.NDArray[np.floating[Any]],
    *,
    n_candidates: int = 30,
    seed: int = 0,
    folds: Folds | None = None,
    compute: Compute | None = None,
) -> BandedFit:
    """Fit a banded ridge model to each unit: the split of the prior variance over spaces, and its size, by cross-validation.

    Parameters
    ----------
    spaces : sequence of (n_stimuli, n_features) arrays
        Feature spaces; each is brought to a mean variance of 1 a dimension first, so that they compete on equal terms.
    responses : (n_stimuli, n_units) array
    alphas : sequence of float
        Penalties to choose from, for features of that variance.
    n_candidates : int
        Splits that are tried for all units: even, nearly all to one space, and random ones, from Dirichlet distributions of concentration
        .1 and 1 (Dupré la Tour et al., 2022, NeuroImage 264:119728).
    seed : int
        Of the random ones.
    folds, compute
        As of `fit_ridge`.

    Raises
    ------
    ValueError
        When there are fewer than two spaces, or a space does not vary.
    """
    if len(spaces) < 2:
        raise ValueError(f"{len(spaces)} feature space; banded ridge needs two at least")
    scales = [_scale(space) for space in spaces]
    grid = np.asarray(alphas, dtype=np.float64)
    candidates = _candidates(len(spaces), n_candidates, seed)
    best = np.full(responses.shape[1], -np.inf)
    chosen = np.zeros(responses.shape[1], dtype=np.intp)
    for index, shares in enumerate(candidates):
        scores = score_ridge(_join(spaces, scales, shares), responses, grid, folds=folds, compute=compute)
        score = np.where(np.isfinite(scores), scores, -np.inf).max(axis=0)
        better = score > best
        chosen[better], best[better] = index, score[better]
    return _solve(spaces, scales, responses, grid, candidates, chosen, folds, compute)


def _solve(
    spaces: Sequence[FloatArray],
    scales: Sequence[float],
    responses: FloatArray,
    grid: npt.NDArray[np.float64],
    candidates: npt.NDArray[np.float64],
    chosen: npt.NDArray[np.intp],
    folds: Folds | None,
    compute: Compute | None,
) -> BandedFit:
    """Models of all stimuli, the units of each candidate together."""
    n_units = responses.shape[1]
    edges = np.cumsum([0, *(space.shape[1] for space in spaces)])
    dtype: type[np.floating[Any]] = np.float64 if responses.dtype == np.float64 else np.float32
    weights: tuple[FloatArray, ...] = tuple(np.full((space.shape[1], n_units), np.nan, dtype=dtype) for space in spaces)
    intercept: FloatArray = np.full(n_units, np.nan, dtype=dtype)
    penalties, score = np.full((len(spaces), n_units), np.nan), np.full(n_units, np.nan)
    for index in np.unique(chosen):
        units = np.flatnonzero(chosen == index)
        shares = candidates[index]
        fit = fit_ridge(_join(spaces, scales, shares), np.asarray(responses[:, units]), grid, folds=folds, compute=compute)
        for band, scale in enumerate(scales):
            factor = np.sqrt(shares[band]) / scale
            weights[band][:, units] = fit.weights[edges[band] : edges[band + 1]] * dtype(factor)
            penalties[band, units] = fit.alphas / factor**2
        intercept[units], score[units] = fit.intercept, fit.cv_rsquared
    return BandedFit(weights, intercept, penalties, score)


def _scale(space: FloatArray) -> float:
    """Root of the mean variance of the features of a space."""
    scale = float(np.sqrt(np.asarray(space, dtype=np.float64).var(axis=0).mean()))
    if not np.isfinite(scale) or scale == 0:
        raise ValueError("a feature space does not vary, or is not finite")
    return scale


def _join(spaces: Sequence[FloatArray], scales: Sequence[float], shares: npt.NDArray[np.float64]) -> FloatArray:
    parts = [
        np.asarray(space, dtype=np.float64) * (np.sqrt(share) / scale) for space, scale, share in zip(spaces, scales, shares, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _candidates(n_spaces: int, n_candidates: int, seed: int) -> npt.NDArray[np.float64]:
    """Splits of the prior variance, (n, n_spaces): even, one space nearly alone, random."""
    alone = np.eye(n_spaces)
    rng = np.random.default_rng(seed)
    n_random = max(0, n_candidates - 1 - n_spaces)
    drawn = [rng.dirichlet(np.full(n_spaces, CONCENTRATIONS[k % len(CONCENTRATIONS)])) for k in range(n_random)]
    shares = np.maximum(np.array([np.full(n_spaces, 1 / n_spaces), *alone, *drawn]), SMALLEST_SHARE)
    normalised: npt.NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return normalised


def split_rsquared(predictions: Sequence[FloatArray], offset: FloatArray, responses: FloatArray) -> npt.NDArray[np.float64]:
    """Share of R2 that each feature space predicts, by the product measure; the shares add up to R2.

    Parameters
    ----------
    predictions : sequence of (n, n_units) arrays
        Of each space alone, about its mean over train stimuli.
    offset : (n_units,) array
        Mean response to train stimuli.
    responses : (n, n_units) array
        Measured.

    Returns
    -------
    (n_spaces, n_units) array
        Sum over stimuli of p_b (2 y - p) over the sum of y^2, y about its mean, p the sum of the p_b; what the means of train and test
        differ by is shared evenly among the spaces (Dupré la Tour et al., 2022, NeuroImage 264:119728, equation 12).
    """
    measured = np.asarray(responses, dtype=np.float64)
    centre = measured.mean(axis=0)
    measured = measured - centre
    shift = (np.asarray(offset, dtype=np.float64) - centre) / len(predictions)
    total = sum(np.asarray(part, dtype=np.float64) for part in predictions) + len(predictions) * shift
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [
            np.einsum("ij,ij->j", np.asarray(part, dtype=np.float64) + shift, 2 * measured - total)
            / np.einsum("ij,ij->j", measured, measured)
            for part in predictions
        ]
    return np.stack(shares)
