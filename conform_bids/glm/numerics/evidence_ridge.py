"""Label-free ridge: single-trial betas shrunk towards the unit's own mean response, as much as the data say.

Model of a unit: y = X(mu 1 + w) + e, w ~ N(0, lambda s2 I), e ~ N(0, s2 I), mu with a flat prior, nuisance out of y and X. With X of
a run = U S V', c = S U'y and a = V'1, everything is closed form: the evidence of each lambda of a grid, and the posterior mean of the
betas given it. Betas are averaged over the grid by the evidence; no cross-validation and no condition labels are involved, so it
works with one run and without repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.estimate import BetaSink
from conform_bids.glm.numerics.groups import UnitGroup, largest_first
from conform_bids.glm.numerics.hrf_selection import percent_explained
from conform_bids.glm.numerics.least_squares import RunFactor, StackedRuns
from conform_bids.numerics.compute import Compute, map_blocks, to_tensor

__all__ = ["LAMBDAS", "EvidenceEstimate", "WhiteningData", "estimate_evidence_betas"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
LAMBDAS = 10.0 ** np.linspace(-3, 1, 9)
"""Grid of the ratio of the variance of responses to that of the noise."""


@dataclass(frozen=True)
class EvidenceEstimate:
    """How well betas fit, and what they were shrunk by.

    Attributes
    ----------
    rsquared : (n_units,) float64 array
        Percent, of the betas with the chosen HRF, nuisance out.
    rsquared_run : (n_runs, n_units) float64 array
        Percent within each run.
    shrinkage : (n_units,) float64 array
        Posterior mean of log10 lambda, with the chosen HRF.
    scale : (n_units,) float64 array
        Slope of the ordinary betas on these: multiplying by it undoes the shrinkage of amplitudes.
    """

    rsquared: FloatArray
    rsquared_run: FloatArray
    shrinkage: FloatArray
    scale: FloatArray


class WhiteningData(Protocol):
    """Where the rows of a fit come from."""

    @property
    def n_units(self) -> int:
        """Number of units."""

    def totals(self, units: IntArray) -> FloatArray:
        """Sums of squares, all nuisance out, (n_runs, n)."""

    def rows(self, units: IntArray) -> list[torch.Tensor]:
        """Runs of some units, (n, n_volumes) each; products with factors that are free of nuisance need no more."""


class _EvidenceSolver:
    """Closed forms of one HRF, its runs stacked.

    Betas are V b + u m, with b the rotated betas, m the mean response and u = 1 - VV'1 what the design does not see of the mean.
    """

    def __init__(self, factors: Sequence[RunFactor], n_free: int, *, whole: bool) -> None:
        device = factors[0].device
        energy = np.concatenate([factor.singular**2 for factor in factors])
        sums = np.concatenate([factor.right.sum(0) for factor in factors])
        shrink = 1 / (1 + LAMBDAS[:, None] * energy)
        information = np.maximum((sums**2 * energy * shrink).sum(1), np.finfo(float).tiny)
        unseen = [1 - factor.right @ factor.right.sum(0) for factor in factors]
        self.n_free = n_free
        self.stack = StackedRuns(factors, whole=whole)
        self.n_trials = sum(len(part) for part in unseen)
        self.information = torch.from_numpy(information).to(device)
        self.penalty = torch.from_numpy(-np.log(shrink).sum(1) + np.log(information)).to(device)
        self.gain = to_tensor(LAMBDAS[:, None] * shrink, device)
        self.linear = to_tensor(sums * shrink, device)
        self.sums = to_tensor(sums, device)
        # a full design sees all of the mean, and rounding alone would be left
        self.unseen = [to_tensor(part, device)[:, None] if np.abs(part).max(initial=0.0) > 1e-6 else None for part in unseen]
        self.unseen_sum = float(sum(part.sum() for part in unseen))
        self.unseen_squares = float(sum((part**2).sum() for part in unseen))

    def log_evidence(self, cross: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log evidence (n_lambdas, n_units) and the mean response mu given each lambda, from c (rank, n_units) and y'y."""
        score = (self.linear @ cross).double()
        explained = (self.gain @ cross.square()).double() + score.square() / self.information[:, None]
        rest = torch.clamp(total - explained, min=1e-9 * total.clamp(min=1e-30))
        evidence = -0.5 * (self.n_free - 1) * rest.log() - 0.5 * self.penalty[:, None]
        return evidence, (score / self.information[:, None]).float()

    def solve(self, projected: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated betas (rank, n_units), mean response (n_units,), and log evidence of each lambda (n_lambdas, n_units)."""
        cross = self.stack.scale * projected
        evidence, mean = self.log_evidence(cross, total)
        weight = torch.softmax(evidence, dim=0).float()
        weighted_mean = weight * mean
        rotated = cross.mul_(self.gain.T @ weight).add_(self.linear.T @ weighted_mean)
        return rotated, weighted_mean.sum(0), evidence

    def betas(self, rotated: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Betas (n_trials, n_units)."""
        result = self.stack.betas(rotated)
        for part, unseen in zip(result.split(self.stack.n_trials), self.unseen, strict=True):
            if unseen is not None:
                part.addcmul_(unseen, mean)
        return result

    def slope(self, rotated: torch.Tensor, mean: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """Slope of the ordinary betas on these, (n_units,); NaN where these do not vary. V drops out of the sums."""
        ordinary = projected / self.stack.scale
        total = (self.sums @ rotated + self.unseen_sum * mean).double()
        ordinary_total = (self.sums @ ordinary).double()
        products = (rotated * ordinary).sum(0).double() - total * ordinary_total / self.n_trials
        squares = rotated.square().sum(0).double() + self.unseen_squares * mean.double().square()
        variance = squares - total.square() / self.n_trials
        return torch.where(variance > 1e-6 * squares, products / variance, torch.full_like(variance, torch.nan))


def estimate_evidence_betas(
    data: WhiteningData,
    design: Design,
    factors: Mapping[int, Sequence[RunFactor]],
    groups: Sequence[UnitGroup],
    n_free: npt.NDArray[np.intp],
    compute: Compute,
    sink: BetaSink,
    ordinary: BetaSink | None = None,
    *,
    average_hrfs: bool,
) -> EvidenceEstimate:
    """Estimate betas by evidence ridge.

    Parameters
    ----------
    data : WhiteningData
        BOLD, and its sums of squares with all nuisance out.
    design : Design
        Trials and runs.
    factors : mapping of sequences of RunFactor
        By HRF, one a run, all nuisance out.
    groups : sequence of UnitGroup
        Units to fit.
    n_free : (n_runs,) int array
        Volumes less nuisance columns.
    compute : Compute
        Resources.
    sink, ordinary : BetaSink
        Where the betas go, and if wanted the ordinary least-squares ones of the same model.
    average_hrfs : bool
        Average betas over all HRFs of ``factors`` by their evidence, instead of taking those of each unit's HRF.
    """
    n_units = data.n_units
    residual, total = np.full((design.n_runs, n_units), np.nan), np.full((design.n_runs, n_units), np.nan)
    shrinkage, scale = np.full(n_units, np.nan), np.full(n_units, np.nan)
    log_lambda = torch.from_numpy(np.log10(LAMBDAS)).to(compute.device)

    @cache
    def solver_of(hrf: int, runs: tuple[int, ...]) -> _EvidenceSolver:
        return _EvidenceSolver([factors[hrf][run] for run in runs], int(n_free[list(runs)].sum()), whole=len(runs) == design.n_runs)

    def fit(group: UnitGroup) -> None:
        units = group.units
        solver = solver_of(group.hrf, group.runs)
        rows = data.rows(units)
        values = [rows[run] for run in group.runs]
        totals = torch.from_numpy(data.totals(units)[list(group.runs)]).to(compute.device)
        projected = solver.stack.project(values)
        rotated, mean, evidence = solver.solve(projected, totals.sum(0))
        if average_hrfs:
            library = [solver_of(hrf, group.runs) for hrf in sorted(factors)]
            betas = _average(library, values, totals.sum(0))
            scale[units] = _slope(betas, solver.stack.ordinary_betas(projected)).cpu().numpy()
        else:
            betas = solver.betas(rotated, mean)
            scale[units] = solver.slope(rotated, mean, projected).cpu().numpy()
        sink.put(group, design, betas)
        if ordinary is not None:
            ordinary.put(group, design, solver.stack.ordinary_betas(projected))
        weight = torch.softmax(evidence, dim=0)
        shrinkage[units] = (weight * log_lambda[:, None]).sum(0).cpu().numpy()
        where = np.ix_(np.array(group.runs), units)
        residual[where] = (totals - solver.stack.explained(values, projected, rotated)).cpu().numpy()
        total[where] = totals.cpu().numpy()

    sinks = [sink] if ordinary is None else [sink, ordinary]
    for each in sinks:
        each.open(groups)
    map_blocks(fit, largest_first(groups), compute)
    for each in sinks:
        each.close(compute)
    known = np.isfinite(total).any(axis=0)
    rsquared = np.where(known, percent_explained(np.nansum(residual, axis=0), np.nansum(total, axis=0)), np.nan)
    return EvidenceEstimate(rsquared, percent_explained(residual, total), shrinkage, scale)


def _average(library: Sequence[_EvidenceSolver], values: Sequence[torch.Tensor], total: torch.Tensor) -> torch.Tensor:
    """Betas averaged over HRFs, weighted by their evidence; one pass, rescaled as larger evidence is met."""
    top: torch.Tensor | None = None
    for solver in library:
        rotated, mean, evidence = solver.solve(solver.stack.project(values), total)
        betas = solver.betas(rotated, mean)
        log_weight = torch.logsumexp(evidence, dim=0)
        if top is None:
            top, mass, result = log_weight, torch.ones_like(log_weight), betas
            continue
        new_top = torch.maximum(top, log_weight)
        keep, add = (top - new_top).exp(), (log_weight - new_top).exp()
        result.mul_(keep.float()).add_(betas.mul_(add.float()))
        mass, top = mass * keep + add, new_top
    return result / mass.float()


def _slope(betas: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
    """Slope of the ordinary betas on the shrunken ones, by unit; NaN where those do not vary."""
    centred = betas - betas.mean(0)
    variance = centred.square().sum(0)
    slope = (centred * (ordinary - ordinary.mean(0))).sum(0) / variance
    return torch.where(variance > 0, slope, torch.full_like(slope, torch.nan)).double()
