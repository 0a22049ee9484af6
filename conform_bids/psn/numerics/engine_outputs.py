"""What the engine writes for every unit: responses of conditions, maps, scaling and status, a block of units at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.engine_data import Allocate, EngineOptions, TrialSet
from conform_bids.psn.numerics.sessions import scale_units
from conform_bids.psn.numerics.trials import Trials
from conform_bids.psn.numerics.variances import unit_variances

__all__ = ["MAPS", "Outputs", "Prepared", "SortedTrials", "sort_trials"]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]
MAPS = ("ncsnr", "noise_ceiling_before", "noise_ceiling_after", "signal_variance", "noise_variance", "dimensions", "a", "cv_gain")
BLOCK = 2048
"""Units that are worked on at a time where they need not be together."""


@dataclass(frozen=True, eq=False)
class SortedTrials:
    """Trials in the order of their conditions.

    Attributes
    ----------
    trials : TrialSet
        Condition (ascending), session and split of each.
    column : (n_trials,) int array
        Of the betas, for each of them.
    repetition : (n_trials,) int array
        Which repeat of its condition each of them is.
    """

    trials: TrialSet
    column: IntArray
    repetition: IntArray

    def means(self, rows: npt.NDArray[np.floating]) -> FloatArray:
        """Each unit's mean over the trials of a condition that it has, (n_conditions, n_units); NaN where it has none."""
        values = np.asarray(rows, dtype=np.float64)
        return Trials(values, self.trials.condition, self.repetition, self.trials.n_conditions).means


def sort_trials(trials: TrialSet) -> SortedTrials:
    """Trials in the order of their conditions; those of one condition in the order that they have."""
    column = np.argsort(trials.condition, kind="stable")
    condition = np.asarray(trials.condition[column], dtype=np.intp)
    starts = np.searchsorted(condition, np.arange(trials.n_conditions))
    return SortedTrials(
        TrialSet(condition, trials.session[column], trials.train[column]), column, np.arange(len(condition)) - starts[condition]
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """Units that were read and standardised.

    Attributes
    ----------
    units : (k,) int array
        Rows of the betas.
    rows : (n_trials, k) array
        Standardised responses, trials in the order of their conditions; NaN where missing.
    means : (n_conditions, k) float64 array
        Standardised condition means, each unit over the trials that it has.
    offset, gain : (k,) float64 arrays
        From standardised responses to outputs.
    """

    units: IntArray
    rows: npt.NDArray[np.floating]
    means: FloatArray
    offset: FloatArray
    gain: FloatArray


@dataclass(frozen=True, eq=False)
class Outputs:
    """Arrays and maps of all units; parts of them are written from several threads, each to units of its own.

    Attributes
    ----------
    arrays, maps, mean, sd, session_mean, session_sd, status
        As of `conform_bids.psn.numerics.engine_data.EngineResult`.
    scale : (n_units,) float64 array
        Factor of deviations from each unit's mean.
    options : EngineOptions
        Standardising and units of the outputs.
    """

    arrays: dict[str, Float32Array]
    maps: dict[str, Float32Array]
    mean: FloatArray
    sd: FloatArray
    session_mean: FloatArray
    session_sd: FloatArray
    status: npt.NDArray[np.uint8]
    scale: FloatArray
    options: EngineOptions

    @classmethod
    def make(
        cls, n_units: int, trials: TrialSet, options: EngineOptions, allocate: Allocate | None, scale: npt.NDArray[np.floating] | None
    ) -> Outputs:
        """Room for everything that is asked for; every unit has to be written."""
        names = ("psn", "trialavg", *(("crossfit",) if options.crossfit else ()), *dict.fromkeys(options.write))
        give = allocate or (lambda name, shape: np.empty(shape, dtype=np.float32))
        arrays = {name: give(name, (n_units, trials.n_trials if name == "noise" else trials.n_conditions)) for name in names}
        factor = np.ones(n_units)
        if scale is not None and options.rescale:
            usable = np.isfinite(scale) & (np.asarray(scale) > 0)
            factor[usable] = np.asarray(scale, dtype=np.float64)[usable]
        n_sessions = len(np.unique(trials.session))
        return cls(
            arrays=arrays,
            maps={name: np.full(n_units, np.nan, dtype=np.float32) for name in MAPS},
            mean=np.full(n_units, np.nan),
            sd=np.full(n_units, np.nan),
            session_mean=np.zeros((n_units, n_sessions)),
            session_sd=np.ones((n_units, n_sessions)),
            status=np.full(n_units, 3, dtype=np.uint8),
            scale=factor,
            options=options,
        )

    def prepare(self, betas: npt.NDArray[np.float32], ordered: SortedTrials, units: IntArray) -> Prepared:
        """Read and standardise units, and write all that does not depend on a denoiser.

        More units than the exact form takes are read in blocks, and kept in single precision.
        """
        if len(units) <= max(self.options.dual_above, BLOCK):
            return self._prepare_block(betas, ordered, units)
        rows = np.empty((len(ordered.column), len(units)), dtype=np.float32)
        means = np.empty((ordered.trials.n_conditions, len(units)))
        offset, gain = np.empty(len(units)), np.empty(len(units))
        for start in range(0, len(units), BLOCK):
            block = slice(start, start + BLOCK)
            part = self._prepare_block(betas, ordered, units[block])
            rows[:, block], means[:, block], offset[block], gain[block] = part.rows, part.means, part.offset, part.gain
        return Prepared(units, rows, means, offset, gain)

    def _prepare_block(self, betas: npt.NDArray[np.float32], ordered: SortedTrials, units: IntArray) -> Prepared:
        zscore = self.options.session_zscore
        rows, scaling = scale_units(betas[units][:, ordered.column], ordered.trials, zscore=zscore)
        self.mean[units], self.sd[units] = scaling.mean, scaling.sd
        self.session_mean[units], self.session_sd[units] = scaling.session_mean, scaling.session_sd
        offset, gain = scaling.to_output(self.scale[units], zscored=zscore, output_units=self.options.output_units)
        prepared = Prepared(units, rows, ordered.means(rows), offset, gain)
        self.write("trialavg", prepared, prepared.means)
        if "noise" in self.arrays:
            deviations = (rows - prepared.means[ordered.trials.condition]) * gain
            noise = np.empty((len(units), len(rows)), dtype=np.float32)
            noise[:, ordered.column] = deviations.T
            self.arrays["noise"][units] = noise
        train = ordered.trials.train
        variances = unit_variances(rows if train.all() else rows[train], ordered.trials.condition[train])
        self.maps["ncsnr"][units] = variances.ncsnr
        self.maps["noise_ceiling_before"][units] = variances.ceiling
        with np.errstate(over="ignore"):
            self.maps["signal_variance"][units] = np.maximum(variances.signal, 0.0) * gain**2
            self.maps["noise_variance"][units] = variances.noise * gain**2
        return prepared

    def write(self, name: str, prepared: Prepared, values: FloatArray) -> None:
        """Bring standardised responses of conditions, (n_conditions, k), to output units and write them, where they are asked for."""
        if name in self.arrays:
            with np.errstate(over="ignore", invalid="ignore"):
                self.arrays[name][prepared.units] = (values * prepared.gain + prepared.offset).T

    def write_denoised(self, prepared: Prepared, psn: FloatArray, crossfit: FloatArray) -> None:
        """Write denoised responses, cross-fitted ones, and what was removed."""
        self.write("psn", prepared, psn)
        self.write("crossfit", prepared, crossfit)
        if "removed" in self.arrays:
            self.arrays["removed"][prepared.units] = ((prepared.means - psn) * prepared.gain).T
