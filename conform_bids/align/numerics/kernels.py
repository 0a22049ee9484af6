"""Smoothing within a parcel, and the spatial covariance of tuning maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SpatialBasis", "smoothing_kernel", "spatial_basis"]

Array = NDArray[np.floating]


def _squared_distances(coordinates: Array) -> NDArray[np.float64]:
    points = np.asarray(coordinates, dtype=np.float64)
    points = points - points.mean(axis=0)
    size = np.square(points).sum(axis=1)
    squared: NDArray[np.float64] = np.maximum(size[:, None] + size - 2 * points @ points.T, 0)
    return squared


def smoothing_kernel(coordinates: Array | None, width: float, n_units: int) -> NDArray[np.float32]:
    """Matrix K of Gaussian smoothing, shape (n_units, n_units): ``values @ K`` is smoothed, and a constant stays what it is.

    Parameters
    ----------
    coordinates : array, shape (n_units, n_dimensions), or None
        In spacings of units; None: no smoothing.
    width : float
        Standard deviation in spacings; 0: the identity.
    n_units : int
    """
    if coordinates is None or width <= 0:
        return np.eye(n_units, dtype=np.float32)
    kernel = np.exp(-_squared_distances(coordinates) / (2 * width**2))
    smoothing: NDArray[np.float32] = np.ascontiguousarray((kernel / kernel.sum(axis=1, keepdims=True)).T, dtype=np.float32)
    return smoothing


@dataclass(frozen=True, eq=False)
class SpatialBasis:
    """Eigenvectors and eigenvalues of a spatial covariance.

    Attributes
    ----------
    vectors : float32 array, shape (n_units, n_units)
        U, orthonormal.
    values : float array, shape (n_units,)
        kappa; mean 1.
    """

    vectors: NDArray[np.float32]
    values: NDArray[np.float64]


def spatial_basis(coordinates: Array, kernel: tuple[float, float]) -> SpatialBasis:
    """Eigenbasis of K = (1 - rho) exp(-d^2 / 2 l^2) + rho I.

    Parameters
    ----------
    coordinates : array, shape (n_units, n_dimensions)
        In spacings.
    kernel : (float, float)
        l (spacings) and rho.
    """
    length, own = kernel
    covariance = (1 - own) * np.exp(-_squared_distances(coordinates) / (2 * length**2))
    covariance[np.diag_indices_from(covariance)] += own
    values, vectors = np.linalg.eigh(covariance)
    return SpatialBasis(vectors.astype(np.float32), np.maximum(values, 1e-3 * own + 1e-6))
