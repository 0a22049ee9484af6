"""HRFs of units: the library's, and others; late ones lie together on the cortex."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conform_bids.numerics.hrf import BRIEF_STIMULUS, HRFLibrary, library_from_parameters
from conform_bids.simulate.settings import SimulationSettings

__all__ = ["N_OUTSIDE", "choose_hrfs", "extend_library"]

_N_WARPED = 10
_N_GAMMAS = 10
N_OUTSIDE = _N_WARPED + _N_GAMMAS
"""Curves outside of the library."""

_CENTRE = 0.45  # place in the library that is the most frequent, as a fraction of its length
_SMOOTH_SHARE = 0.8  # of the variance of the place


def extend_library(library: HRFLibrary, generator: np.random.Generator) -> HRFLibrary:
    """The library and, behind it, `N_OUTSIDE` curves that are not in it, from early to late.

    Half of them are curves of the library, stretched and delayed; half are random double gammas.
    """
    times = library.times
    outside = []
    for _ in range(_N_WARPED):
        base = library.curves[:, int(generator.integers(2, max(3, library.n_hrfs - 4)))]
        stretch, delay = generator.uniform(0.75, 1.35), generator.uniform(0, 1.2)
        outside.append(np.interp((times - delay) / stretch, times, base, left=0.0))
    table = np.zeros((_N_GAMMAS, 7))
    table[:, 0] = generator.uniform(4.5, 7.5, _N_GAMMAS)
    table[:, 1] = table[:, 0] + generator.uniform(6.0, 10.0, _N_GAMMAS)
    table[:, 2:4] = generator.uniform(0.7, 1.3, (_N_GAMMAS, 2))
    table[:, 4] = generator.uniform(3.0, 8.0, _N_GAMMAS)
    table[:, 6] = 1.0
    gammas = library_from_parameters(table, n_samples=len(times)).curves
    outside += list((gammas / gammas.max(axis=0)).T)
    outside.sort(key=lambda curve: int(curve.argmax()))
    curves = np.concatenate([library.curves, np.stack(outside, axis=1)], axis=1)
    names = (*library.names, *(f"outside{index:02d}" for index in range(N_OUTSIDE)))
    return HRFLibrary(curves, BRIEF_STIMULUS, convolved=False, names=names)


def choose_hrfs(
    delay: NDArray[np.float64], n_library: int, settings: SimulationSettings, generator: np.random.Generator
) -> NDArray[np.int_]:
    """Choose each site's curve: normally distributed about the middle of the library, and smooth in space.

    Parameters
    ----------
    delay : ndarray, shape (n_sites,)
        Smooth field of unit variance.
    n_library : int
        Curves of the library; those outside of it follow.

    Returns
    -------
    ndarray of int, shape (n_sites,)
        Column of the extended library.
    """
    noise = generator.standard_normal(len(delay))
    place = settings.hrf_spread * (np.sqrt(_SMOOTH_SHARE) * delay + np.sqrt(1 - _SMOOTH_SHARE) * noise)
    inside = np.clip(np.rint(_CENTRE * n_library + place), 0, n_library - 1)
    outside = np.clip(np.rint(_CENTRE * N_OUTSIDE + place * N_OUTSIDE / n_library), 0, N_OUTSIDE - 1)
    elsewhere = generator.random(len(delay)) < settings.outside_library
    return np.where(elsewhere, n_library + outside, inside).astype(int)
