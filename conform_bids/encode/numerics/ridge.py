"""Ridge regression of many units on the same features: a penalty for each unit, chosen by exact cross-validation.

One eigendecomposition of the features serves all units and penalties; what is left are matrix products. The intercept is not penalised.

Solvers are called by what is minimised and how: for every unit u and penalty a,

    sum over stimuli of (y_u - b_u - x w_u)^2  +  a |w_u|^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.numerics.blocks import block_size, unit_blocks
from conform_bids.numerics.compute import Compute, map_blocks

__all__ = ["Folds", "RidgeFit", "contiguous_folds", "default_alphas", "fit_ridge", "score_ridge"]

FloatArray = npt.NDArray[np.floating[Any]]
Folds = Sequence[npt.NDArray[np.intp]]
LARGEST_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """Ridge models of units; a prediction is ``features @ weights + intercept``.

    Attributes
    ----------
    weights : (n_features, n_units) array
        NaN for units whose responses do not vary or are not finite.
    intercept : (n_units,) array
    alphas : (n_units,) float64 array
        Penalty that was chosen.
    cv_rsquared : (n_units,) float64 array
        Share of the variance that is predicted of responses that were left out, at that penalty.
    cv_scores : (n_alphas, n_units) float64 array
        The same for each penalty.
    """

    weights: FloatArray
    intercept: FloatArray
    alphas: npt.NDArray[np.float64]
    cv_rsquared: npt.NDArray[np.float64]
    cv_scores: npt.NDArray[np.float64]


def default_alphas(features: FloatArray, n_alphas: int = 12) -> npt.NDArray[np.float64]:
    """Penalties in equal ratios, from .001 to 10,000 times the features' sum of squares a dimension (their trace over min(n, p))."""
    centred = np.asarray(features, dtype=np.float64) - np.mean(features, axis=0, dtype=np.float64)
    scale = float(np.einsum("ij,ij->", centred, centred)) / max(1, min(centred.shape[0] - 1, centred.shape[1]))
    return np.geomspace(1e-3, 1e4, n_alphas) * (scale if scale > 0 else 1.0)


def contiguous_folds(n: int, n_folds: int) -> list[npt.NDArray[np.intp]]:
    """Rows of each of ``n_folds`` folds, neighbours together, the first ones larger by one where n is no multiple (as scikit-learn)."""
    if not 2 <= n_folds <= n:
        raise ValueError(f"{n_folds} folds of {n} stimuli; 2 to {n} are possible")
    return [np.asarray(rows, dtype=np.intp) for rows in np.array_split(np.arange(n), n_folds)]


@dataclass(frozen=True, eq=False)
class _Design:
    """Features in their own principal axes: centred features are ``left diag(root) right'``."""

    mean: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]
    root: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]


def _decompose(features: FloatArray) -> _Design:
    """Singular value decomposition by the smaller Gram matrix, in double precision; directions without variance are dropped."""
    table = np.asarray(features, dtype=np.float64)
    mean = table.mean(axis=0)
    centred = table - mean
    n, p = centred.shape
    values, vectors = np.linalg.eigh(centred.T @ centred if p <= n else centred @ centred.T)
    keep = values > values[-1] * max(n, p) * np.finfo(np.float64).eps if values[-1] > 0 else np.zeros(len(values), dtype=bool)
    root, vectors = np.sqrt(values[keep]), vectors[:, keep]
    if p <= n:
        return _Design(mean, centred @ vectors / root, root, vectors)
    return _Design(mean, vectors, root, centred.T @ vectors / root)


def fit_ridge(
    features: FloatArray,
    responses: FloatArray,
    alphas: Sequence[float] | npt.NDArray[np.floating[Any]],
    *,
    folds: Folds | None = None,
    compute: Compute | None = None,
) -> RidgeFit:
    """Fit a ridge model to each unit, with the penalty that predicts left-out stimuli best.

    Parameters
    ----------
    features : (n_stimuli, n_features) array
    responses : (n_stimuli, n_units) array
        May be a memory map; it is read a block of units at a time. Double precision is kept, anything else is single.
    alphas : sequence of float
        Penalties to choose from, above 0.
    folds : sequence of int arrays, optional
        Rows that are left out together (runs, say); by default each stimulus by itself, in closed form.
    compute : Compute, optional

    Returns
    -------
    RidgeFit
        The models are of all stimuli. A score holds the squared errors of all left-out predictions against those of predicting by the
        mean of the stimuli that were fitted on; with folds of one size the penalty is that of the least mean squared error over folds.

    Raises
    ------
    ValueError
        When shapes do not fit, features are not finite, penalties are not positive, or folds leave nothing to fit on.

    Notes
    -----
    Leave-one-out errors are r_i / (1 - h_i), r the residual and h the diagonal of the hat matrix, the intercept's 1 / n included
    (Allen, 1974, Technometrics 16:125). Folds are fitted by taking their rows out of the moments of all (Gram matrix and X'Y), in the
    principal axes of the features, so that a fold costs an eigendecomposition of the rank, not another pass over the responses.
    Cost: 2 n r V for each penalty and two more for X'Y and the weights (r the rank, V units).
    """
    compute = compute or Compute()
    problem = _Problem(features, responses, alphas, folds, compute)
    n_units = responses.shape[1]
    weights = np.empty((features.shape[1], n_units), dtype=problem.dtype)
    intercept = np.empty(n_units, dtype=problem.dtype)
    scores = np.empty((len(problem.grid), n_units))
    chosen = np.empty(n_units, dtype=np.intp)

    def fit(units: slice) -> None:
        block, mean, usable = problem.block(units)
        projected = problem.left.T @ block
        scores[:, units] = np.where(usable, problem.scorer.scores(block, projected), np.nan)
        chosen[units] = np.argmax(np.where(usable, scores[:, units], 0), axis=0)
        fitted = problem.solve(projected, problem.grid[chosen[units]])
        fitted[:, ~usable] = np.nan
        weights[:, units] = fitted
        intercept[units] = mean - problem.design.mean.astype(problem.dtype) @ fitted

    map_blocks(fit, unit_blocks(n_units, problem.block_size), compute)
    best = np.take_along_axis(scores, chosen[None], axis=0)[0]
    return RidgeFit(weights, intercept, np.where(np.isfinite(best), problem.grid[chosen], np.nan), best, scores)


def score_ridge(
    features: FloatArray,
    responses: FloatArray,
    alphas: Sequence[float] | npt.NDArray[np.floating[Any]],
    *,
    folds: Folds | None = None,
    compute: Compute | None = None,
) -> npt.NDArray[np.float64]:
    """Cross-validated scores alone, as ``cv_scores`` of `fit_ridge`, whose parameters these are."""
    compute = compute or Compute()
    problem = _Problem(features, responses, alphas, folds, compute)
    scores = np.empty((len(problem.grid), responses.shape[1]))

    def score(units: slice) -> None:
        block, _, usable = problem.block(units)
        scores[:, units] = np.where(usable, problem.scorer.scores(block, problem.left.T @ block), np.nan)

    map_blocks(score, unit_blocks(responses.shape[1], problem.block_size), compute)
    return scores


class _Problem:
    """Features in their principal axes, responses block by block, and what scores penalties."""

    def __init__(
        self,
        features: FloatArray,
        responses: FloatArray,
        alphas: Sequence[float] | npt.NDArray[np.floating[Any]],
        folds: Folds | None,
        compute: Compute,
    ) -> None:
        self.grid = np.asarray(alphas, dtype=np.float64).ravel()
        _check(features, responses, self.grid, folds)
        self.dtype: type[np.floating[Any]] = np.float64 if responses.dtype == np.float64 else np.float32
        self.design = _decompose(features)
        self._responses, self._device = responses, compute.device
        self.left, self._right, self._root = (
            _tensor(each, self.dtype, compute.device) for each in (self.design.left, self.design.right, self.design.root)
        )
        if folds is None:
            self.scorer: _LeaveOneOut | _LeaveFoldsOut = _LeaveOneOut(self.design, self.grid, self.dtype, compute.device)
        else:
            self.scorer = _LeaveFoldsOut(self.design, self.grid, folds, self.dtype, compute.device)
        bytes_per_unit = np.dtype(self.dtype).itemsize * 3 * (len(features) + features.shape[1])
        self.block_size = block_size(bytes_per_unit, compute.memory_bytes / compute.n_threads, smallest=16, largest=LARGEST_BLOCK)

    def block(self, units: slice) -> tuple[torch.Tensor, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Centred responses of some units, their means, and which of them can be fitted (the others are 0)."""
        values = np.array(self._responses[:, units], dtype=self.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = values.mean(axis=0, dtype=np.float64)
            spread = values.std(axis=0, dtype=np.float64)
        usable = np.isfinite(mean) & (spread > 16 * np.finfo(self.dtype).eps * np.abs(mean))
        values[:, ~usable] = 0
        mean = np.where(usable, mean, 0)
        values -= mean.astype(self.dtype)
        return torch.from_numpy(values).to(self._device), mean, usable

    def solve(self, projected: torch.Tensor, penalty: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Weights of the features, (n_features, n_units), with a penalty for each unit."""
        penalties = torch.from_numpy(penalty.astype(self.dtype)).to(self._device)
        shrunk = projected * (self._root[:, None] / (self._root[:, None] ** 2 + penalties))
        return np.asarray((self._right @ shrunk).cpu().numpy())


def _check(features: FloatArray, responses: FloatArray, grid: npt.NDArray[np.float64], folds: Folds | None) -> None:
    if features.ndim != 2 or responses.ndim != 2 or len(features) != len(responses):
        raise ValueError(f"features {features.shape} and responses {responses.shape} are not two tables with a row a stimulus")
    if len(features) < 3:
        raise ValueError(f"{len(features)} stimuli; cross-validation needs three at least")
    if not np.isfinite(features).all():
        raise ValueError("features are not finite")
    if not len(grid) or not (grid > 0).all() or not np.isfinite(grid).all():
        raise ValueError("penalties are positive numbers")
    for rows in folds or ():
        if not 0 < len(rows) <= len(features) - 2:
            raise ValueError(f"a fold of {len(rows)} of {len(features)} stimuli leaves nothing to fit on, or leaves nothing out")


def _tensor(array: npt.NDArray[Any], dtype: Any, device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype)).to(device)


class _LeaveOneOut:
    """Scores of exact leave-one-out predictions, for every penalty."""

    def __init__(self, design: _Design, grid: npt.NDArray[np.float64], dtype: Any, device: str) -> None:
        n = len(design.left)
        kept = design.root**2 / (design.root**2 + grid[:, None])
        leverage = 1 / n + np.square(design.left) @ kept.T
        self._left = _tensor(design.left, dtype, device)
        self._kept = _tensor(kept, dtype, device)
        self._weight = _tensor(1 / (1 - leverage).T, dtype, device)
        self._null = (n / (n - 1)) ** 2

    def scores(self, block: torch.Tensor, projected: torch.Tensor) -> npt.NDArray[np.float64]:
        """R2, (n_alphas, n_units), of centred responses (n, n_units) and their projection."""
        total = self._null * block.square().sum(0, dtype=torch.float64)
        errors = torch.empty((len(self._kept), block.shape[1]), dtype=torch.float64, device=block.device)
        residual = torch.empty_like(block)
        for k in range(len(self._kept)):
            torch.addmm(block, self._left, projected * self._kept[k, :, None], alpha=-1, out=residual)
            residual *= self._weight[k, :, None]
            errors[k] = torch.linalg.vector_norm(residual, dim=0, dtype=torch.float64).square()
        return np.asarray((1 - errors / total).cpu().numpy())


@dataclass(frozen=True, eq=False)
class _Fold:
    """Stimuli that are left out together: their coordinates, the others' mean, principal axes, and what each penalty leaves of these."""

    rows: torch.Tensor
    n_train: int
    own: torch.Tensor
    mean: torch.Tensor
    vectors: torch.Tensor
    rotated: torch.Tensor
    shrink: torch.Tensor


class _LeaveFoldsOut:
    """Scores of predictions of folds from all other stimuli, for every penalty."""

    def __init__(self, design: _Design, grid: npt.NDArray[np.float64], folds: Folds, dtype: Any, device: str) -> None:
        coordinates = design.left * design.root
        gram = coordinates.T @ coordinates
        self._root, self._grid = _tensor(design.root, dtype, device), grid
        self._parts: list[_Fold] = []
        for rows in folds:
            own = coordinates[rows]
            n_train = len(coordinates) - len(rows)
            mean = (coordinates.sum(axis=0) - own.sum(axis=0)) / n_train
            values, vectors = np.linalg.eigh(gram - own.T @ own - n_train * np.outer(mean, mean))
            shrink = 1 / (np.maximum(values, 0) + grid[:, None])
            arrays = (_tensor(each, dtype, device) for each in (own, mean, vectors, (own - mean) @ vectors, shrink))
            self._parts.append(_Fold(torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(device), n_train, *arrays))

    def scores(self, block: torch.Tensor, projected: torch.Tensor) -> npt.NDArray[np.float64]:
        """R2 over all folds, (n_alphas, n_units), of centred responses (n, n_units) and their projection."""
        moment = projected * self._root[:, None]
        errors = torch.zeros((len(self._grid), block.shape[1]), dtype=torch.float64, device=block.device)
        total = torch.zeros(block.shape[1], dtype=torch.float64, device=block.device)
        whole = block.sum(0)
        for fold in self._parts:
            test = block[fold.rows]
            centre = (whole - test.sum(0)) / fold.n_train
            solved = fold.vectors.T @ (moment - fold.own.T @ test - fold.n_train * fold.mean[:, None] * centre)
            target = test - centre
            total += target.square().sum(0, dtype=torch.float64)
            for k in range(len(self._grid)):
                error = torch.addmm(target, fold.rotated, solved * fold.shrink[k, :, None], alpha=-1)
                errors[k] += torch.linalg.vector_norm(error, dim=0, dtype=torch.float64).square()
        return np.asarray((1 - errors / total).cpu().numpy())
