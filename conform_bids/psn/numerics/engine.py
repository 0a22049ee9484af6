"""Whole brains: parcels of units, denoised one by one in threads, from a units-major array that is read once a parcel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conform_bids.numerics.compute import Compute
from conform_bids.psn.numerics.engine_data import (
    LARGE_OUTPUTS,
    METHODS,
    Allocate,
    EngineOptions,
    EngineResult,
    NullCheck,
    ParcelDecomposition,
    ParcelRecord,
    StoreParcel,
    TrialSet,
)

__all__ = [
    "LARGE_OUTPUTS",
    "METHODS",
    "Allocate",
    "EngineOptions",
    "EngineResult",
    "NullCheck",
    "ParcelDecomposition",
    "ParcelRecord",
    "StoreParcel",
    "TrialSet",
    "denoise_parcels",
]

IntArray = npt.NDArray[np.intp]


def denoise_parcels(
    betas: npt.NDArray[np.float32],
    trials: TrialSet,
    parcel: IntArray,
    options: EngineOptions,
    compute: Compute,
    allocate: Allocate | None = None,
    store: StoreParcel | None = None,
    scale: npt.NDArray[np.floating] | None = None,
    groups: IntArray | None = None,
) -> EngineResult:
    """Denoise every parcel.

    Parameters
    ----------
    betas : (n_units, n_trials) float32 array
        Responses, a row a unit, in memory or memory-mapped; NaN or infinite where a unit is missing in a trial.
    trials : TrialSet
        Condition, session and split of the columns.
    parcel : (n_units,) int array
        Parcel of each unit, 0 or above; -1 for units that no parcel holds: these have trial averages and maps, and ``psn`` as
        ``options.outside`` says.
    options : EngineOptions
        Method and guards.
    compute : Compute
        Threads take whole parcels.
    allocate : callable, optional
        Gives the large arrays; by default they are kept in memory.
    store : callable, optional
        Takes each parcel's decomposition.
    scale : (n_units,) array, optional
        Slope of unregularised on given betas, a unit; not positive or NaN counts as 1.
    groups : (n_units,) int array, optional
        For ``threshold_level="group"``.

    Returns
    -------
    EngineResult

    Raises
    ------
    ValueError
        If shapes disagree.
    UsageError
        If options contradict each other.
    UnusableInputError
        If no condition repeats, there are fewer than 3 train conditions, or no parcel holds a unit that varies.
    """
    raise NotImplementedError
