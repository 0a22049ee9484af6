"""Final betas: ordinary, one trial at a time, or with fractional ridge regression (GLMsingle's types A to D)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import CleanData
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.fractional_ridge import RidgeChoice, RidgeSolvers, match_ordinary
from conform_bids.glm.numerics.groups import UnitGroup, largest_first, trials_of_runs
from conform_bids.glm.numerics.hrf_selection import percent_explained
from conform_bids.glm.numerics.least_squares import RunFactor, StackedRuns, separate_trials_matrix
from conform_bids.numerics.blocks import unit_blocks
from conform_bids.numerics.compute import Compute, map_blocks, to_numpy, to_tensor
from conform_bids.numerics.linalg import project_out

__all__ = ["BetaSink", "Estimate", "estimate_betas", "estimate_separate_betas"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Estimate:
    """How well one model fits, and what its ridge chose.

    Attributes
    ----------
    rsquared : (n_units,) float64 array
        Percent over all runs; of the betas before scaling, for fractional ridge.
    rsquared_run : (n_runs, n_units) float64 array
        Percent within each run.
    fraction : (n_units,) float64 array or None
        Ridge fraction chosen.
    scale_offset : (2, n_units) float64 array or None
        Scale and offset that were applied to the ridge betas.
    badness : (n_fractions, n_units) float64 array or None
        Cross-validation error of each fraction.
    ordinary : Estimate or None
        Of the ordinary betas, where they were asked for beside those of fractional ridge.
    """

    rsquared: FloatArray
    rsquared_run: FloatArray
    fraction: FloatArray | None = None
    scale_offset: FloatArray | None = None
    badness: FloatArray | None = None
    ordinary: Estimate | None = None


class BetaSink:
    """Where betas go: block by block beside each other, and at the end every row into the order of the units.

    Writing a block to units that are scattered over the rows would cost several times more.

    Parameters
    ----------
    betas : (n_trials, n_units) float32 array
        Filled here, NaN where nothing is fitted; may be a memory map.
    scale : (n_units,) float array
        From the units of the data to those of the output.
    """

    def __init__(self, betas: npt.NDArray[np.float32], scale: FloatArray) -> None:
        self.betas = betas
        self._scale = torch.from_numpy(scale.astype(np.float32))
        self._start: dict[int, int] = {}
        self._order = np.arange(betas.shape[1])

    def open(self, groups: Sequence[UnitGroup]) -> None:
        """Lay out the blocks that will be put."""
        position = 0
        for group in groups:
            self._start[id(group)] = position
            position += len(group.units)
        fitted = np.concatenate([group.units for group in groups]) if groups else np.zeros(0, np.intp)
        rest = np.ones(self.betas.shape[1], bool)
        rest[fitted] = False
        self._order = np.concatenate([fitted, np.flatnonzero(rest)])
        self.betas[:, position:] = np.nan

    def put(self, group: UnitGroup, design: Design, betas: torch.Tensor) -> None:
        """Keep the betas (n_trials of the group's runs, n) of a group."""
        start = self._start[id(group)]
        block = torch.from_numpy(self.betas)[:, start : start + len(group.units)]
        scale = self._scale[torch.from_numpy(group.units)]
        if len(group.runs) == design.n_runs:
            torch.mul(betas.to("cpu"), scale, out=block)
        else:
            block.fill_(torch.nan)
            block[torch.from_numpy(trials_of_runs(design, group.runs))] = betas.to("cpu") * scale

    def close(self, compute: Compute) -> None:
        """Bring every row into the order of the units."""
        if (self._order[:-1] < self._order[1:]).all():
            return

        place = torch.from_numpy(np.argsort(self._order))

        def reorder(rows: slice) -> None:
            block = torch.from_numpy(self.betas[rows])
            block.copy_(block.index_select(1, place))

        map_blocks(reorder, unit_blocks(len(self.betas), 16), compute)


def estimate_betas(
    data: CleanData,
    design: Design,
    factors: Mapping[int, Sequence[RunFactor]],
    groups: Sequence[UnitGroup],
    compute: Compute,
    sink: BetaSink,
    ridge: RidgeChoice | None = None,
    ordinary: BetaSink | None = None,
) -> Estimate:
    """Fit the single-trial model, each unit with its HRF.

    Parameters
    ----------
    data : CleanData
        BOLD, base nuisance out.
    design : Design
        Trials and runs.
    factors : mapping of sequences of RunFactor
        By HRF, one a run, with what is taken out beside the base: `factorise_library`.
    groups : sequence of UnitGroup
        Units to fit.
    compute : Compute
        Resources.
    sink : BetaSink
        Where betas go.
    ridge : RidgeChoice, optional
        Fractional ridge in place of ordinary least squares.
    ordinary : BetaSink, optional
        Where the ordinary betas go as well, beside those of fractional ridge.
    """
    n_units = data.n_units
    total = np.full((design.n_runs, n_units), np.nan)
    residual, ordinary_residual = np.full_like(total, np.nan), np.full_like(total if ordinary else total[:0], np.nan)
    fraction = np.full(n_units, np.nan)
    scale_offset = np.full((2, n_units), np.nan)
    badness = np.full((len(ridge.fractions) if ridge is not None else 0, n_units), np.nan)
    solvers = RidgeSolvers(design, factors, ridge, data.device)

    @cache
    def stack_of(hrf: int, runs: tuple[int, ...]) -> StackedRuns:
        return StackedRuns([factors[hrf][run] for run in runs], whole=len(runs) == design.n_runs)

    def fit(group: UnitGroup) -> None:
        rows, where = data.rows(group.units), np.ix_(np.array(group.runs), group.units)
        values = [rows[run] for run in group.runs]
        total[where] = sums = data.total[where]
        solver = solvers.of(group)
        stack = stack_of(group.hrf, group.runs) if solver is None else solver.stack
        projected = stack.project(values)
        betas = stack.ordinary_betas(projected)
        if solver is None or ordinary is not None:
            (ordinary or sink).put(group, design, betas)
            (residual if solver is None else ordinary_residual)[where] = sums - to_numpy(stack.explained(values, projected))
        if solver is None:
            return
        chosen, rotated, errors = solver.solve(projected, betas)
        shrunk = stack.betas(rotated)
        scaling = match_ordinary(shrunk, betas) if solver.ridge.autoscale else None
        sink.put(group, design, shrunk if scaling is None else shrunk.mul_(scaling[0]).add_(scaling[1]))
        residual[where] = sums - to_numpy(stack.explained(values, projected, rotated))
        fraction[group.units] = chosen
        scale_offset[:, group.units] = [[1.0], [0.0]] if scaling is None else to_numpy(scaling)
        badness[:, group.units] = to_numpy(errors)

    sinks = [sink] if ordinary is None else [sink, ordinary]
    for each in sinks:
        each.open(groups)
    map_blocks(fit, largest_first(groups), compute)
    for each in sinks:
        each.close(compute)
    if ridge is None:
        return _explained(residual, total)
    return replace(
        _explained(residual, total),
        fraction=fraction,
        scale_offset=scale_offset,
        badness=badness if ridge.cross_validate else None,
        ordinary=None if ordinary is None else _explained(ordinary_residual, total),
    )


def _explained(residual: FloatArray, total: FloatArray) -> Estimate:
    """R2 over all runs and by run, from sums of squares (n_runs, n_units)."""
    known = np.isfinite(total).any(axis=0)
    rsquared = np.where(known, percent_explained(np.nansum(residual, axis=0), np.nansum(total, axis=0)), np.nan)
    return Estimate(rsquared, percent_explained(residual, total))


def estimate_separate_betas(
    data: CleanData,
    design: Design,
    regressors: Sequence[FloatArray],
    extras: Sequence[FloatArray],
    groups: Sequence[UnitGroup],
    compute: Compute,
    sink: BetaSink,
) -> None:
    """Replace betas by those of least squares separate (Mumford et al., 2012).

    Parameters
    ----------
    regressors : sequence of (n_hrfs, n_volumes, n_trials) arrays
        Of each run, base nuisance out.
    extras : sequence of (n_volumes, p) arrays
        Of each run, orthonormal and orthogonal to the base; taken out of the regressors.
    data, design, groups, compute, sink
        As in `estimate_betas`.
    """
    tasks = [(hrf, run) for hrf in sorted({group.hrf for group in groups}) for run in range(design.n_runs)]
    solve = {}
    for hrf, run in tasks:
        clean = project_out(extras[run], regressors[run][hrf])
        solve[hrf, run] = to_tensor(separate_trials_matrix(clean) @ clean.T, data.device)

    def fit(group: UnitGroup) -> None:
        rows = data.rows(group.units)
        sink.put(group, design, torch.cat([solve[group.hrf, run] @ rows[run].T for run in group.runs]))

    sink.open(groups)
    map_blocks(fit, groups, compute)
    sink.close(compute)
