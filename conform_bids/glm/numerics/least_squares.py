"""Least squares of one run in the rotated coordinates that every model shares.

With X the run's single-trial regressors, orthogonal to the nuisance, and X = U S V' its singular value decomposition, the betas are
V S^-1 U'Y. All models need of the data is w = U'Y (one matrix product), and ridge regression only rescales the rotated betas.

R2 is measured on data that still hold the part e = E'Y which a basis E (noise regressors, and in compat the user's regressors) takes
out for the fit; with N = E'XV its residual sum of squares is yy - 2 (S b'w + (N b)'e) + |S b|^2 + |N b|^2 for rotated betas b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.run_products import RunMatrices, sum_runs
from conform_bids.numerics.compute import to_tensor

__all__ = [
    "RANK_TOLERANCE",
    "RunFactor",
    "SpanFits",
    "StackedRuns",
    "factorise_hrfs",
    "factorise_run",
    "fit_spans",
    "separate_trials_matrix",
]

FloatArray = npt.NDArray[np.float64]
RANK_TOLERANCE = 1e-6
WELL_CONDITIONED = 1e-4
"""Ratio of singular values down to which the Gram matrix, which squares it, gives them to eight digits."""


@dataclass(frozen=True)
class RunFactor:
    """Singular value decomposition of a run's regressors, nuisance out.

    Attributes
    ----------
    left : (n_volumes, rank) tensor
        U.
    singular : (rank,) float64 array
        S, descending; directions below 1e-6 of the largest are left out.
    right : (n_trials, rank) float64 array
        V.
    leak : (p, rank) float64 array
        N = E'XV, what the fitted regressors share with the basis E.
    extra : (n_volumes, p) tensor
        E.
    """

    left: torch.Tensor
    singular: FloatArray
    right: FloatArray
    leak: FloatArray
    extra: torch.Tensor

    @property
    def device(self) -> str:
        """Where the tensors are."""
        return str(self.left.device)

    @cached_property
    def rotation(self) -> torch.Tensor:
        """V as a float32 tensor, (n_trials, rank)."""
        return to_tensor(self.right, self.device)

    @cached_property
    def weights(self) -> torch.Tensor:
        """V S^-1, which turns U'Y into betas, (n_trials, rank)."""
        return to_tensor(self.right / self.singular, self.device)

    @cached_property
    def scale(self) -> torch.Tensor:
        """S as a column, (rank, 1)."""
        return to_tensor(self.singular, self.device)[:, None]

    @cached_property
    def leaked(self) -> torch.Tensor:
        """N as a float32 tensor, (p, rank)."""
        return to_tensor(self.leak, self.device)


def factorise_run(regressors: FloatArray, extra: FloatArray, device: str) -> RunFactor:
    """Decompose the regressors (n_volumes, n_trials) of a run with one HRF: `factorise_hrfs`."""
    return factorise_hrfs(regressors[None], extra, device)[0]


def factorise_hrfs(regressors: FloatArray, extra: FloatArray, device: str) -> list[RunFactor]:
    """Decompose a run's regressors with every HRF.

    Parameters
    ----------
    regressors : (n_hrfs, n_volumes, n_trials) float64 array
        Already orthogonal to the base nuisance.
    extra : (n_volumes, p) float64 array
        Orthonormal, orthogonal to the base nuisance; taken out of the regressors here.
    device : str
        Where the large factors go.
    """
    inside = extra.T @ regressors
    basis = to_tensor(extra, device)
    parts = _decompose(regressors - extra @ inside if extra.shape[1] else regressors, _largest_norms(regressors))
    return [
        RunFactor(left=to_tensor(left, device), singular=singular, right=right, leak=leak @ right, extra=basis)
        for (left, singular, right), leak in zip(parts, inside, strict=True)
    ]


def _largest_norms(regressors: FloatArray) -> FloatArray:
    """Length of the longest regressor of each HRF, (n_hrfs,)."""
    return np.asarray(np.linalg.norm(regressors, axis=1).max(axis=1, initial=0.0))


def _decompose(matrices: FloatArray, norms: FloatArray) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
    """U (rows, rank), S (rank,) descending, V (columns, rank) of each matrix.

    By the Gram matrices, all at once and several times faster, where that is as good.
    """
    n_rows, n_columns = matrices.shape[1:]
    if not 0 < n_columns <= n_rows:
        return [_decompose_exactly(matrix, norm) for matrix, norm in zip(matrices, norms, strict=True)]
    values, vectors = (part.numpy()[..., ::-1] for part in torch.linalg.eigh(torch.from_numpy(matrices.swapaxes(1, 2) @ matrices)))
    parts = []
    for matrix, norm, squares, right in zip(matrices, norms, values, vectors, strict=True):
        if squares[-1] > (WELL_CONDITIONED * max(norm, np.sqrt(squares[0]))) ** 2:
            singular, right = np.sqrt(squares), np.ascontiguousarray(right)
            parts.append((matrix @ (right / singular), singular, right))
        else:
            parts.append(_decompose_exactly(matrix, norm))
    return parts


def _decompose_exactly(matrix: FloatArray, norm: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    keep = singular > RANK_TOLERANCE * max(norm, singular.max(initial=0.0), np.finfo(float).tiny)
    return left[:, keep], singular[keep], right[keep].T


@dataclass(frozen=True)
class SpanFits:
    """Orthonormal bases U of what the regressors of each HRF span, and what turns U'Y into ordinary betas; arrays or tensors.

    Attributes
    ----------
    directions : (n_hrfs, n_volumes, rank)
        U, padded with zeros to the same rank.
    weights : (n_hrfs, n_trials, rank)
        Betas are weights @ U'Y.
    """

    directions: Any
    weights: Any

    def on(self, device: str) -> SpanFits:
        """Float32 tensors on the device."""
        return SpanFits(to_tensor(self.directions, device), to_tensor(self.weights, device))


def fit_spans(regressors: FloatArray, extra: FloatArray) -> SpanFits:
    """Basis and weights of a run's regressors with every HRF, the basis ``extra`` taken out of them.

    By Cholesky's decomposition of the Gram matrices, a third of the work of a singular value decomposition, where they are well
    conditioned.

    Parameters
    ----------
    regressors : (n_hrfs, n_volumes, n_trials) float64 array
        Base nuisance out.
    extra : (n_volumes, p) float64 array
        Orthonormal, orthogonal to the base nuisance.
    """
    norms, (n_rows, n_columns) = _largest_norms(regressors), regressors.shape[1:]
    clean = regressors - extra @ (extra.T @ regressors) if extra.shape[1] else regressors
    good, weights = np.zeros(len(clean), bool), np.zeros((len(clean), n_columns, 0))
    if 0 < n_columns <= n_rows:
        lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(clean.swapaxes(1, 2) @ clean))
        identity = torch.eye(n_columns, dtype=torch.float64).expand_as(lower)
        inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
        # pivots can be large where the smallest singular value is not; one over the norm of the inverse is never above that value
        good = (failed == 0).numpy() & (inverse.flatten(1).norm(dim=1).numpy() * WELL_CONDITIONED * norms < 1)
        weights = inverse.numpy().swapaxes(1, 2)
    if good.all():
        return SpanFits(clean @ weights, weights)
    parts = iter(_decompose(clean[~good], norms[~good]))
    each = [(clean[k] @ weights[k], weights[k]) if fine else _span(*next(parts)) for k, fine in enumerate(good)]
    rank = max(part.shape[1] for _, part in each)
    padded = ([np.pad(part[k], ((0, 0), (0, rank - part[k].shape[1]))) for part in each] for k in (0, 1))
    return SpanFits(*(np.stack(arrays) for arrays in padded))


def _span(left: FloatArray, singular: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    return left, right / singular


class StackedRuns:
    """Factors of some runs with one HRF, their rows one below the other: what models need of a block of units.

    Parameters
    ----------
    factors : sequence of RunFactor
        One a run.
    whole : bool
        Whether these are all runs, as for most units: the factors are copied, to be used in one call. There can be as many other sets of
        runs as units, each with every HRF, and their factors are referred to.

    Attributes
    ----------
    ranks : list of int
        Rows of each run in stacked tensors.
    scale : (rank, 1) tensor
        S of all runs.
    """

    def __init__(self, factors: Sequence[RunFactor], *, whole: bool) -> None:
        self.ranks = [factor.right.shape[1] for factor in factors]
        self.n_trials = [factor.right.shape[0] for factor in factors]
        self.scale = torch.cat([factor.scale for factor in factors])
        self._left = RunMatrices([factor.left.T for factor in factors], copy=whole)
        self._weights = RunMatrices([factor.weights for factor in factors], copy=whole)
        self._rotation = RunMatrices([factor.rotation for factor in factors], copy=whole)
        self._back = RunMatrices([factor.rotation.T for factor in factors], copy=whole)
        self._extra = RunMatrices([factor.extra.T for factor in factors], copy=whole)
        self._leaked = RunMatrices([factor.leaked for factor in factors], copy=whole)

    def project(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Products w = U'Y, (rank, n), with the runs (n, n_volumes) of a block."""
        return self._left.times_data(values)

    def ordinary_betas(self, projected: torch.Tensor) -> torch.Tensor:
        """V S^-1 w, (n_trials, n)."""
        return self._weights.times(projected)

    def betas(self, rotated: torch.Tensor) -> torch.Tensor:
        """V b, (n_trials, n), of rotated betas b (rank, n)."""
        return self._rotation.times(rotated)

    def rotate(self, betas: torch.Tensor) -> torch.Tensor:
        """V' of each run times its rows of betas (n_trials, n), (rank, n)."""
        return self._back.times(betas)

    def explained(self, values: Sequence[torch.Tensor], projected: torch.Tensor, rotated: torch.Tensor | None = None) -> torch.Tensor:
        """How far betas bring the sum of squares of each run down, (n_runs, n), in data that still hold the part of the bases E.

        Parameters
        ----------
        values : sequence of (n, n_volumes) tensors
            The data, base nuisance out; only their products with E are used.
        projected : (rank, n) tensor
            w of `project`.
        rotated : (rank, n) tensor, optional
            Rotated betas b = V'beta; S^-1 w, those of the ordinary betas, by default.
        """
        if rotated is None:
            squares = projected.square()
        else:
            fitted = rotated * self.scale
            squares = torch.sub(projected, fitted, alpha=0.5).mul_(fitted).mul_(2)
        result = sum_runs(squares, self.ranks)
        if any(self._extra.n_rows):
            inside = self._leaked.times(projected / self.scale if rotated is None else rotated)
            inside.mul_(self._extra.times_data(values).sub_(inside, alpha=0.5))
            result.add_(sum_runs(inside, self._extra.n_rows), alpha=2)
        return result


def separate_trials_matrix(regressors: FloatArray) -> FloatArray:
    """Least squares separate (Mumford et al., 2012) as one matrix: betas = matrix @ (X'Y), shape (n_trials, n_trials).

    Each trial is fitted beside the sum of all other trials of the run. With a = x_i, b = sum of the others, the first coefficient of
    the 2 x 2 system is (b'b a'y - a'b b'y) / (a'a b'b - (a'b)^2), which is linear in X'Y.

    Parameters
    ----------
    regressors : (n_volumes, n_trials) float64 array
        All nuisance out.
    """
    gram = regressors.T @ regressors
    own = np.diag(gram)
    with_all = gram.sum(axis=1)
    with_others = with_all - own
    others = gram.sum() - 2 * with_all + own
    determinant = own * others - with_others**2
    alone = determinant <= 1e-10 * np.maximum(own * others, np.finfo(float).tiny)
    safe = np.where(alone, 1.0, determinant)
    n_trials = len(own)
    # b'y is the sum over all trials less the trial's own
    matrix = -np.outer(with_others / safe, np.ones(n_trials))
    matrix[np.diag_indices(n_trials)] += others / safe + with_others / safe
    single = np.diag(np.divide(1.0, own, out=np.zeros_like(own), where=own > 0))
    return np.where(alone[:, None], single, matrix)
