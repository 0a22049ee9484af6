"""Bases that responses are projected on, and the order of their dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UsageError
from conform_bids.psn.numerics.gsn import SignalNoise
from conform_bids.psn.numerics.spectral import eigh

__all__ = ["BASES", "ORDERS", "Basis", "make_basis"]

FloatArray = npt.NDArray[np.float64]
BASES = ("signal", "difference", "noise", "pca", "random")
"""Eigenvectors of: signal covariance; signal less noise of a condition mean; noise; condition means as they are; or random."""
ORDERS = ("eigenvalues", "signalvariance", "prediction")
"""Dimensions in the order of: eigenvalues; signal variance; signal less noise variance of a condition mean."""
RANDOM_SEED = 42
NULL = 1e-9
"""Of the largest eigenvalue: below it a direction is as good as any other of the null space."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Orthonormal dimensions, best first.

    Attributes
    ----------
    vectors : (n_units, n_dimensions) float64 array
        One dimension a column.
    eigenvalues : (n_dimensions,) float64 array or None
        Of the matrix that the dimensions come from; None for random dimensions and those of the caller.
    signal, noise : (n_dimensions,) float64 arrays
        Variance of the signal, and of a single trial's noise, along each dimension; in a null space, the mean over its dimensions.
    """

    vectors: FloatArray
    eigenvalues: FloatArray | None
    signal: FloatArray
    noise: FloatArray


def make_basis(
    model: SignalNoise,
    means: FloatArray,
    basis: str | FloatArray = "signal",
    order: str = "eigenvalues",
) -> Basis:
    """Dimensions of a basis in their order.

    Parameters
    ----------
    model : SignalNoise
        Covariances.
    means : (n_conditions, n_units) float64 array
        Condition means, for ``pca``.
    basis : str or (n_units, n_dimensions) array
        One of `BASES`, or directions of the caller: scaled to unit length, and made orthonormal where they are not.
    order : str
        One of `ORDERS`; random dimensions and those of the caller have no eigenvalues and go by signal variance.

    Raises
    ------
    UsageError
        If the name is unknown or the directions do not fit.
    """
    vectors, eigenvalues = _directions(model, means, basis)
    signal = np.maximum(np.einsum("ij,ij->j", vectors, model.signal @ vectors), 0.0)
    noise = np.maximum(np.einsum("ij,ij->j", vectors, model.noise @ vectors), 0.0)
    if eigenvalues is not None and isinstance(basis, str) and basis in ("signal", "pca"):
        null = eigenvalues <= NULL * eigenvalues[0]
        if null.any():  # the directions of a null space are arbitrary: what depends on them would change with the machine
            signal[null], noise[null] = signal[null].mean(), noise[null].mean()
    if order not in ORDERS:
        raise UsageError(f"no order {order!r} of dimensions; there are {', '.join(ORDERS)}")
    if order == "prediction":
        rank = np.argsort(-(signal - noise / model.n_averaged), kind="stable")
    elif order == "signalvariance" or eigenvalues is None:
        rank = np.argsort(-signal, kind="stable")
    else:
        return Basis(vectors, eigenvalues, signal, noise)
    return Basis(vectors[:, rank], None if eigenvalues is None else eigenvalues[rank], signal[rank], noise[rank])


def _directions(model: SignalNoise, means: FloatArray, basis: str | FloatArray) -> tuple[FloatArray, FloatArray | None]:
    if not isinstance(basis, str):
        return _orthonormal(np.asarray(basis, dtype=np.float64), len(model.signal)), None
    if basis == "random":
        draws = np.random.RandomState(RANDOM_SEED).randn(len(model.signal), len(model.signal))
        return np.linalg.qr(draws)[0], None
    if basis == "pca":
        centred = means - means.mean(axis=0)
        source = centred.T @ centred / (len(means) - 1)
    elif basis == "signal":
        source = model.signal
    elif basis == "difference":
        source = model.signal - model.noise / model.n_averaged
    elif basis == "noise":
        source = model.noise
    else:
        raise UsageError(f"no basis {basis!r}; there are {', '.join(BASES)}")
    values, vectors = eigh(source)
    return vectors, values


def _orthonormal(directions: FloatArray, n_units: int) -> FloatArray:
    """Unit-length columns, by QR where they are not orthogonal."""
    if directions.ndim != 2 or directions.shape[0] != n_units or not 1 <= directions.shape[1] <= n_units:
        raise UsageError(f"a basis of {n_units} units needs shape ({n_units}, 1 to {n_units}), got {directions.shape}")
    length = np.linalg.norm(directions, axis=0)
    if not np.isfinite(directions).all() or not length.all():
        raise UsageError("a basis needs finite directions, none of them zero")
    scaled = directions / length
    if np.allclose(scaled.T @ scaled, np.eye(scaled.shape[1]), atol=1e-8):
        return scaled
    orthonormal, triangle = np.linalg.qr(scaled)
    if np.abs(np.diag(triangle)).min() < 1e-10:
        raise UsageError("the directions of a basis depend on each other")
    return orthonormal
