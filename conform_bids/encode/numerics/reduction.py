"""Principal components of features, fitted on training stimuli alone; every other stimulus goes through the same map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.population import FloatArray

__all__ = ["Reduction", "fit_reduction"]


@dataclass(frozen=True, eq=False)
class Reduction:
    """Map of features to their leading principal components.

    Attributes
    ----------
    mean : (n_features,) float64 array
        Of the training stimuli.
    basis : (n_features, d) float64 array
        Orthonormal columns, by falling variance; the largest entry of each is positive.
    variances : (d,) float64 array
        Of the training stimuli along the columns (n - 1 in the denominator).
    total_variance : float
        Of the training stimuli, over all directions.
    """

    mean: npt.NDArray[np.float64]
    basis: npt.NDArray[np.float64]
    variances: npt.NDArray[np.float64]
    total_variance: float

    @property
    def explained(self) -> float:
        """Share of the training stimuli's variance that is kept, 0 to 1."""
        return float(self.variances.sum() / self.total_variance)

    def apply(self, features: FloatArray) -> npt.NDArray[np.float32]:
        """Components of stimuli.

        Parameters
        ----------
        features : (n, n_features) array

        Returns
        -------
        (n, d) float32 array

        Raises
        ------
        ValueError
            When the features are not as many as those of the training stimuli.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features of shape {features.shape}; the reduction was fitted on {len(self.mean)} features")
        return ((features - self.mean) @ self.basis).astype(np.float32)

    def expand(self, weights: FloatArray) -> npt.NDArray[np.float32]:
        """Weights of the features, given those of the components.

        Parameters
        ----------
        weights : (d, n_units) array

        Returns
        -------
        (n_features, n_units) float32 array
            A prediction from ``features - mean`` with it is the one from components with ``weights``.
        """
        return self.basis.astype(np.float32) @ np.asarray(weights, dtype=np.float32)

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """All of it as named arrays, to be saved beside a model."""
        return {"mean": self.mean, "basis": self.basis, "variances": self.variances, "total_variance": np.array(self.total_variance)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Reduction:
        """What `arrays` gave.

        Raises
        ------
        ValueError
            When one is absent, or they do not fit each other.
        """
        absent = [name for name in ("mean", "basis", "variances", "total_variance") if name not in arrays]
        if absent:
            raise ValueError(f"a reduction has {', '.join(absent)}, too")
        mean, basis, variances = (np.asarray(arrays[name], dtype=np.float64) for name in ("mean", "basis", "variances"))
        total = np.asarray(arrays["total_variance"], dtype=np.float64)
        if mean.ndim != 1 or variances.ndim != 1 or basis.shape != (len(mean), len(variances)) or total.size != 1:
            raise ValueError(f"mean {mean.shape}, basis {basis.shape} and variances {variances.shape} do not fit each other")
        return cls(mean, basis, variances, float(total.reshape(())))


def fit_reduction(features: FloatArray, n_components: int) -> Reduction:
    """Principal components of training stimuli, exact.

    Parameters
    ----------
    features : (n_stimuli, n_features) array
        Of training stimuli, each once.
    n_components : int
        d.

    Raises
    ------
    ValueError
        When values are not finite, or the stimuli do not span d dimensions (n stimuli span n - 1 at most).

    Notes
    -----
    One eigendecomposition, in double precision, of the smaller of the features' covariance and the stimuli's Gram matrix
    (n F min(n, F) operations).
    """
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError("features are a table of finite numbers")
    if n_components < 1:
        raise ValueError(f"{n_components} components; at least one is needed")
    n, n_features = table.shape
    if n < 2:
        raise ValueError(f"{n} training stimuli; components need two at least")
    mean = table.mean(axis=0)
    centred = table - mean
    wide = n < n_features
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    rank = int((values > values[0] * max(n, n_features) * np.finfo(np.float64).eps).sum()) if values[0] > 0 else 0
    if n_components > rank:
        raise ValueError(f"{n_components} components of features that have {rank} dimensions in the {n} training stimuli")
    values, vectors = values[:n_components], vectors[:, :n_components]
    basis = centred.T @ vectors / np.sqrt(values) if wide else vectors
    largest = np.abs(basis).argmax(axis=0)
    basis = basis * np.where(basis[largest, np.arange(n_components)] < 0, -1.0, 1.0)
    total = float(np.einsum("ij,ij->", centred, centred)) / (n - 1)
    return Reduction(mean, np.ascontiguousarray(basis), values / (n - 1), total)
