"""The BOLD runs of a fit, block by block, drifts out; and what is wrong with units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.design import NuisanceBases
from conform_bids.numerics.blocks import unit_blocks
from conform_bids.numerics.compute import to_tensor

__all__ = ["RunData", "UnitSurvey", "survey_units"]

FloatArray = npt.NDArray[np.float64]
Units = slice | npt.NDArray[np.intp]
SURVEY_BLOCK = 4096


@dataclass(frozen=True)
class UnitSurvey:
    """What a look at every unit of every run gives.

    Attributes
    ----------
    mean : (n_units,) float64 array
        Over all volumes of all runs; NaN where any volume is not finite.
    finite, empty, constant : (n_units,) bool arrays
        No NaN or infinity; zero throughout; the same non-zero value throughout at least one run.
    """

    mean: FloatArray
    finite: npt.NDArray[np.bool_]
    empty: npt.NDArray[np.bool_]
    constant: npt.NDArray[np.bool_]


def survey_units(runs: Sequence[npt.NDArray[np.float32]]) -> UnitSurvey:
    """Mean over all runs, and which units are not finite, empty or constant.

    Parameters
    ----------
    runs : sequence of (n_volumes, n_units) float32 arrays
        May be memory maps.
    """
    n_units = runs[0].shape[1]
    total, largest = np.zeros(n_units), np.zeros(n_units)
    finite, constant = np.ones(n_units, bool), np.zeros(n_units, bool)
    for run in runs:
        for block in unit_blocks(n_units, SURVEY_BLOCK):
            values = np.asarray(run[:, block])
            with np.errstate(invalid="ignore", over="ignore"):
                total[block] += values.sum(axis=0, dtype=np.float64)
                finite[block] &= np.isfinite(values).all(axis=0)
                largest[block] = np.maximum(largest[block], np.abs(values).max(axis=0))
                constant[block] |= (values == values[:1]).all(axis=0)
    empty = finite & (largest == 0)
    mean = total / sum(len(run) for run in runs)
    mean[~finite] = np.nan
    return UnitSurvey(mean=mean, finite=finite, empty=empty, constant=constant & finite & ~empty)


class RunData:
    """Blocks of the data of all runs, whitened where that is asked for, base nuisance out, on the device.

    Parameters
    ----------
    runs : sequence of (n_volumes, n_units) float32 arrays
        BOLD; may be memory maps.
    bases : sequence of NuisanceBases
        One a run.
    device : str
        Where blocks go.
    rounding_noise : (n_units,) bool array, optional
        Units whose projection is done as GLMsingle does it, by a dense float32 matrix on the raw data, so that a constant unit keeps
        the rounding noise that enters GLMsingle's median (quirk 11); compat only.
    filters : sequence of (n_volumes, n_volumes) arrays, optional
        Applied to the data of each run before the base, which has to be filtered already, is taken out.
    """

    def __init__(
        self,
        runs: Sequence[npt.NDArray[np.float32]],
        bases: Sequence[NuisanceBases],
        device: str,
        rounding_noise: npt.NDArray[np.bool_] | None = None,
        filters: Sequence[FloatArray] | None = None,
    ) -> None:
        self.runs = runs
        self.bases = bases
        self.device = device
        self.n_units = runs[0].shape[1]
        self._filters = None if filters is None else [to_tensor(matrix, device) for matrix in filters]
        self._base = [to_tensor(basis.base, device) for basis in bases]
        self._noisy = rounding_noise if rounding_noise is not None and rounding_noise.any() else None

    def block(self, run: int, units: Units) -> torch.Tensor:
        """Data of a run, (n_volumes, n_block) float32, base nuisance out."""
        raw = np.asarray(self.runs[run][:, units], dtype=np.float32)
        # the mean goes first: at 1e4 raw units a float32 product would leave rounding of the size of weak responses
        with np.errstate(invalid="ignore"):  # units that are not finite are set aside by the caller
            centred = raw - raw.mean(axis=0, dtype=np.float64).astype(np.float32)
        data = to_tensor(centred, self.device)
        if self._filters is not None:
            data = self._filters[run] @ data
        data = data - self._base[run] @ (self._base[run].T @ data)
        if self._noisy is not None and self._noisy[units].any():
            noisy = np.flatnonzero(self._noisy[units])
            base = self.bases[run].base
            projector = (np.eye(len(base)) - base @ base.T).astype(np.float32)
            data[:, torch.from_numpy(noisy).to(self.device)] = to_tensor(projector @ raw[:, noisy], self.device)
        return data
