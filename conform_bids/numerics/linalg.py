"""Bases and projections in float64; small matrices only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["extend_basis", "orthonormal_basis", "polynomial_basis", "polynomial_degree", "project_out"]

FloatArray = npt.NDArray[np.float64]


def polynomial_degree(n_volumes: int, repetition_time: float) -> int:
    """Drift degree of a run: half of its minutes, .5 rounded up (the rule of GLMdenoise; Kay et al., 2013).

    Parameters
    ----------
    n_volumes : int
        Volumes of the run.
    repetition_time : float
        Seconds a volume.
    """
    return int(np.floor(n_volumes * repetition_time / 60 / 2 + 0.5))


def polynomial_basis(n_volumes: int, degree: int) -> FloatArray:
    """Orthonormal basis of the polynomials up to ``degree`` on a run, shape (n_volumes, degree + 1).

    Legendre polynomials are nearly orthogonal on an even grid, so that high degrees stay well conditioned.
    """
    time = np.linspace(-1.0, 1.0, n_volumes) if n_volumes > 1 else np.zeros(1)
    return orthonormal_basis(np.asarray(np.polynomial.legendre.legvander(time, min(degree, n_volumes - 1)), dtype=np.float64))


def orthonormal_basis(matrix: FloatArray, tolerance: float = 1e-9) -> FloatArray:
    """Orthonormal basis of a matrix's column space, shape (rows, rank).

    Columns are scaled to unit length first, so that rank does not depend on their units; a column counts as dependent when what is
    left of it is below ``tolerance`` of its length.
    """
    length = np.linalg.norm(matrix, axis=0)
    scaled = matrix[:, length > 0] / length[length > 0]
    if scaled.shape[1] == 0:
        return np.zeros((matrix.shape[0], 0))
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    return np.ascontiguousarray(left[:, singular > tolerance * singular[0]])


def extend_basis(basis: FloatArray, columns: FloatArray, tolerance: float = 1e-8) -> FloatArray:
    """Orthonormal vectors that ``columns`` add to ``basis``, one after the other, shape (rows, number added).

    The first k vectors span what the first k columns add, so that nested models are nested bases. A column that adds less than
    ``tolerance`` of its length is passed over.
    """
    added = np.zeros((basis.shape[0], 0))
    for column in columns.T:
        length = np.linalg.norm(column)
        if length == 0:
            continue
        rest = column / length
        for _ in range(2):  # twice is enough (Kahan): the second pass removes what rounding left in the first
            rest = rest - basis @ (basis.T @ rest)
            rest = rest - added @ (added.T @ rest)
        left = np.linalg.norm(rest)
        if left > tolerance:
            added = np.column_stack([added, rest / left])
    return added


def project_out(basis: FloatArray, matrix: FloatArray) -> FloatArray:
    """Remove the span of an orthonormal ``basis`` (rows, k) from the columns of ``matrix`` (..., rows, n)."""
    return matrix - basis @ (basis.T @ matrix)
