"""Symmetric matrices: positive parts, and the held-out likelihood of every level of shrinkage from one decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch

from conform_bids.errors import UnusableInputError

__all__ = [
    "LEVELS",
    "Precision",
    "ShrinkageChoice",
    "choose_shrinkage",
    "decompose",
    "eigh",
    "is_positive_definite",
    "positive_part",
    "shrink",
    "solve_lower",
]

FloatArray = npt.NDArray[np.float64]
Precision = TypeVar("Precision", np.float32, np.float64)
LEVELS: FloatArray = np.linspace(0.0, 1.0, 51)
"""Levels of shrinkage that are compared: what is left of a covariance off its diagonal."""


def decompose(matrix: npt.NDArray[Precision]) -> tuple[npt.NDArray[Precision], npt.NDArray[Precision]]:
    """Eigenvalues, ascending, and eigenvectors in columns, of a symmetric matrix, in its precision."""
    values, vectors = torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(matrix)))
    return values.numpy(), vectors.numpy()


def solve_lower(triangle: npt.NDArray[Precision], right: npt.NDArray[Precision], *, transposed: bool = False) -> npt.NDArray[Precision]:
    """L^-1 B, or L'^-1 B if ``transposed``, of a lower triangle L."""
    lower = torch.from_numpy(triangle)
    solved: npt.NDArray[Precision] = torch.linalg.solve_triangular(
        lower.T if transposed else lower, torch.from_numpy(right), upper=transposed
    ).numpy()
    return solved


def eigh(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues, descending, and eigenvectors in columns, of a symmetric matrix; the largest entry of each vector is positive."""
    values, vectors = decompose(matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    sign = np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    return np.ascontiguousarray(values), vectors * sign


def is_positive_definite(matrix: FloatArray) -> bool:
    """Whether a Cholesky factorisation succeeds."""
    return bool(scipy.linalg.lapack.dpotrf(matrix, lower=1, clean=0)[1] == 0)


def positive_part(matrix: FloatArray) -> FloatArray:
    """Nearest positive semi-definite matrix in the Frobenius norm (Higham, 1988): negative eigenvalues become 0."""
    symmetric = (matrix + matrix.T) / 2
    if is_positive_definite(symmetric):
        return symmetric
    values, vectors = decompose(symmetric)
    kept = values > 0
    if 2 * int(kept.sum()) <= len(values):
        factor = vectors[:, kept] * np.sqrt(values[kept])
        return factor @ factor.T
    factor = vectors[:, ~kept] * np.sqrt(-values[~kept])
    return symmetric + factor @ factor.T


def shrink(covariance: FloatArray, level: float) -> FloatArray:
    """Multiply a covariance by ``level`` off its diagonal."""
    shrunken = covariance * level
    np.fill_diagonal(shrunken, np.diag(covariance))
    return shrunken


@dataclass(frozen=True)
class ShrinkageChoice:
    """Level with the best held-out likelihood.

    Attributes
    ----------
    level : float
        One of `LEVELS`; 1 leaves the covariance as it is.
    likelihood : (51,) float array
        Mean negative log likelihood of the held-out samples at each level; NaN where the covariance is singular.
    """

    level: float
    likelihood: FloatArray


def choose_shrinkage(factor: FloatArray, held_out: FloatArray) -> ShrinkageChoice:
    """Level of shrinkage towards the diagonal under which held-out samples are likeliest (GSN; Kay et al., 2024).

    With d the diagonal of the covariance and K its correlation matrix, the shrunken covariance is d^1/2 [(1 - l) I + l K] d^1/2: one
    decomposition of K, or of the Gram matrix of its factor where that is smaller, gives the Gaussian likelihood at every level.

    Parameters
    ----------
    factor : (n_rows, n_units) float64 array
        The covariance of the training samples is ``factor.T @ factor``.
    held_out : (n_samples, n_units) float64 array
        Samples of mean zero.

    Returns
    -------
    ShrinkageChoice
        The first level with the least negative log likelihood.

    Raises
    ------
    UnusableInputError
        If there is nothing to hold out, or no level gives a likelihood.
    """
    diagonal = np.einsum("ij,ij->j", factor, factor)
    if not len(held_out) or not len(factor):
        raise UnusableInputError("too few conditions repeat to choose a level of shrinkage")
    varies = diagonal > 0
    if not varies.all():  # such a unit's variance is unknown to the training samples: it has no part in the choice
        factor, held_out, diagonal = factor[:, varies], held_out[:, varies], diagonal[varies]
    if not len(diagonal):
        raise UnusableInputError("no unit varies in the conditions that shrinkage is chosen on")
    scale = np.sqrt(diagonal)
    values, energy, rest = _correlation_spectrum(factor / scale, held_out / scale)
    n_units, rank = len(diagonal), int((values > 0).sum())
    likelihood = np.full(len(LEVELS), np.nan)
    constant = n_units * np.log(2 * np.pi) + 2 * np.log(scale).sum()
    for index, level in enumerate(LEVELS):
        spread, bulk = 1 - level + level * values, 1 - level
        if rank < n_units and index == len(LEVELS) - 1:
            continue
        quadratic = (energy / spread).sum() + (rest / bulk if len(values) < n_units else 0.0)
        logdet = np.log(spread).sum() + ((n_units - len(values)) * np.log(bulk) if len(values) < n_units else 0.0)
        likelihood[index] = 0.5 * (constant + logdet + quadratic)
    if not np.isfinite(likelihood).any():
        raise UnusableInputError("no level of shrinkage gives the held-out responses a likelihood")
    return ShrinkageChoice(float(LEVELS[np.nanargmin(likelihood)]), likelihood)


def _correlation_spectrum(factor: FloatArray, samples: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Eigenvalues of ``factor.T @ factor`` (0 where they are rounding), mean squares along eigenvectors, and mean squares beside them."""
    n_rows, n_units = factor.shape
    total = float(np.einsum("ij,ij->", samples, samples) / len(samples))
    small = n_rows < n_units
    values, vectors = decompose(factor @ factor.T if small else factor.T @ factor)
    rounding = max(factor.shape) * np.finfo(np.float64).eps * values[-1]
    if small:
        kept = values > rounding
        values = values[kept]
        projected = (samples @ factor.T) @ (vectors[:, kept] / np.sqrt(values))
    else:
        values = np.where(values > rounding, values, 0.0)
        projected = samples @ vectors
    energy = np.einsum("ij,ij->j", projected, projected) / len(samples)
    return values, energy, max(total - float(energy.sum()), 0.0)
