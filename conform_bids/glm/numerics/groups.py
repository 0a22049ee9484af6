"""Units that are fitted alike: the same HRF, the same runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.least_squares import RunFactor, factorise_hrfs
from conform_bids.numerics.blocks import block_size, index_blocks
from conform_bids.numerics.compute import Compute, map_blocks, to_tensor

__all__ = [
    "BLOCK_UNITS",
    "UnitGroup",
    "block_units",
    "factorise_library",
    "largest_first",
    "restrict_design",
    "trials_of_runs",
    "unit_groups",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
BLOCK_UNITS = 512
"""Units a block of the last stages: enough that threads rarely wait for the interpreter, few enough for the cache."""


@dataclass(frozen=True)
class UnitGroup:
    """A block of units with the same HRF that are present in the same runs.

    Attributes
    ----------
    hrf : int
        Index into the library.
    runs : tuple of int
        Runs that hold the units.
    units : (n,) int array
        Ascending.
    """

    hrf: int
    runs: tuple[int, ...]
    units: IntArray


def unit_groups(units: IntArray, hrf_index: IntArray, present: BoolArray, largest: int) -> list[UnitGroup]:
    """Blocks of at most ``largest`` units that share HRF and runs.

    Parameters
    ----------
    units : (n,) int array
        Units to group.
    hrf_index : (n_units,) int array
        HRF of each unit.
    present : (n_runs, n_units) bool array
        Runs that hold each unit.
    largest : int
        Units a block.
    """
    if present[:, units].all():
        patterns, pattern_of = np.ones((len(present), 1), bool), np.zeros(len(units), np.intp)
    else:
        patterns, pattern_of = np.unique(present[:, units], axis=1, return_inverse=True)
    keys = hrf_index[units] * patterns.shape[1] + pattern_of.ravel()
    groups: list[UnitGroup] = []
    for key in np.unique(keys):
        hrf, pattern = divmod(int(key), patterns.shape[1])
        runs = tuple(int(run) for run in np.flatnonzero(patterns[:, pattern]))
        groups.extend(UnitGroup(hrf, runs, block) for block in index_blocks(units[keys == key], largest))
    return groups


def largest_first(groups: Sequence[UnitGroup]) -> list[UnitGroup]:
    """Groups in the order in which threads end at nearly the same time."""
    return sorted(groups, key=lambda group: -len(group.units))


def block_units(design: Design, compute: Compute) -> int:
    """Units a block of the last stages, for every thread at once within the memory to spare."""
    bytes_per_unit = 4.0 * (12 * design.n_trials + 2 * sum(design.run_lengths))
    return block_size(bytes_per_unit, compute.memory_bytes / max(compute.n_threads, 1), smallest=16, largest=BLOCK_UNITS)


def restrict_design(design: Design, runs: Sequence[int]) -> Design:
    """The design of some runs alone; folds that lose all of their runs are left out."""
    if len(runs) == design.n_runs:
        return design
    position = {run: index for index, run in enumerate(runs)}
    trials = trials_of_runs(design, runs)
    folds = tuple(tuple(position[run] for run in fold if run in position) for fold in design.folds)
    return replace(
        design,
        run_lengths=tuple(design.run_lengths[run] for run in runs),
        run=np.array([position[int(run)] for run in design.run[trials]], dtype=np.intp),
        onset=design.onset[trials],
        duration=design.duration[trials],
        condition=design.condition[trials],
        train=design.train[trials],
        session=design.session[list(runs)],
        folds=tuple(fold for fold in folds if fold),
        polynomial_degree=tuple(design.polynomial_degree[run] for run in runs),
        regressors=tuple(design.regressors[run] for run in runs) if design.regressors else (),
    )


def trials_of_runs(design: Design, runs: Sequence[int]) -> IntArray:
    """Rows of the trials of some runs, ascending."""
    return np.flatnonzero(np.isin(design.run, list(runs)))


def factorise_library(
    regressors: Sequence[FloatArray],
    extras: Sequence[FloatArray],
    hrfs: Iterable[int],
    compute: Compute,
    filters: Sequence[FloatArray] | None = None,
) -> dict[int, list[RunFactor]]:
    """Decompose the regressors of some HRFs: by HRF, one factor a run.

    Parameters
    ----------
    regressors : sequence of (n_hrfs, n_volumes, n_trials) arrays
        Of each run, base nuisance out.
    extras : sequence of (n_volumes, p) arrays
        Of each run, taken out of the regressors.
    hrfs : iterable of int
        HRFs that are needed.
    compute : Compute
        Resources.
    filters : sequence of (n_volumes, n_volumes) arrays, optional
        Of each run; ``regressors`` have been filtered, the data that the factors will meet have not.
    """
    wanted = sorted(set(hrfs))

    def factorise(run: int) -> list[RunFactor]:
        found = factorise_hrfs(regressors[run][wanted], extras[run], compute.device)
        if filters is None:
            return found
        transposed = to_tensor(filters[run].T, compute.device)
        return [replace(factor, left=transposed @ factor.left) for factor in found]

    runs = map_blocks(factorise, range(len(regressors)), compute)
    return {hrf: [run[index] for run in runs] for index, hrf in enumerate(wanted)}
