"""Random smooth functions of space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["smooth_fields"]

_N_WAVES = 200


def smooth_fields(
    positions: NDArray[np.float64], n_fields: int, length_scale: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Random functions of space with unit variance and a Gaussian correlation, by random Fourier features.

    The fields depend on the generator and the positions alone: two sets of positions see the same functions.

    Parameters
    ----------
    positions : ndarray, shape (n, 3)
        In mm.
    n_fields : int
        Number of functions.
    length_scale : float
        Distance (mm) at which the correlation has fallen to exp(-1/2).

    Returns
    -------
    ndarray, shape (n_fields, n)

    Notes
    -----
    Rahimi & Recht 2007, Random features for large-scale kernel machines.
    """
    frequencies = generator.standard_normal((3, _N_WAVES)) / length_scale
    phases = generator.uniform(0, 2 * np.pi, _N_WAVES)
    weights = generator.standard_normal((n_fields, _N_WAVES))
    return np.asarray(np.sqrt(2 / _N_WAVES) * weights @ np.cos(positions @ frequencies + phases).T, dtype=np.float64)
