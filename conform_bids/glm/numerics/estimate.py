"""Final betas: ordinary, one trial at a time, or with fractional ridge regression (GLMsingle's types A to D).

Fractional ridge (Rokem & Kay, 2020): the penalty is set by how long the betas are, as a fraction of the unregularised ones. The
reference's grid of penalties and its linear interpolation over log(1 + alpha) are kept, as they decide what a fraction means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import CleanData
from conform_bids.glm.numerics.denoise import RepeatScorer
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.groups import UnitGroup, restrict_design, trials_of_runs
from conform_bids.glm.numerics.hrf_selection import percent_explained
from conform_bids.glm.numerics.least_squares import (
    RunFactor,
    residual_sum_of_squares,
    separate_trials_matrix,
)
from conform_bids.numerics.blocks import unit_blocks
from conform_bids.numerics.compute import Compute, map_blocks, to_numpy, to_tensor
from conform_bids.numerics.folds import pair_repeats
from conform_bids.numerics.linalg import project_out

__all__ = ["BetaSink", "Estimate", "RidgeChoice", "alpha_grid", "estimate_betas", "estimate_separate_betas"]

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
    """

    rsquared: FloatArray
    rsquared_run: FloatArray
    fraction: FloatArray | None = None
    scale_offset: FloatArray | None = None
    badness: FloatArray | None = None


@dataclass(frozen=True)
class RidgeChoice:
    """How fractional ridge chooses.

    Attributes
    ----------
    fractions : tuple of float
        To choose from, descending; a single one is used as it is.
    cross_validate : bool
        Choose by how well repeats predict each other; needed for more than one fraction.
    autoscale : bool
        Scale and shift the ridge betas of a unit to match the unregularised ones.
    """

    fractions: tuple[float, ...]
    cross_validate: bool
    autoscale: bool


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
        self._scale = scale.astype(np.float32)
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
        block = self.betas[:, start : start + len(group.units)]
        if len(group.runs) == design.n_runs:
            np.multiply(to_numpy(betas), self._scale[group.units], out=block)
        else:
            block[:] = np.nan
            block[trials_of_runs(design, group.runs)] = to_numpy(betas) * self._scale[group.units]

    def close(self, compute: Compute) -> None:
        """Bring every row into the order of the units."""
        if (self._order[:-1] < self._order[1:]).all():
            return

        def reorder(rows: slice) -> None:
            for row in self.betas[rows]:
                row[self._order] = row.copy()

        map_blocks(reorder, unit_blocks(len(self.betas), 16), compute)


def estimate_betas(
    data: CleanData,
    design: Design,
    factors: Mapping[int, Sequence[RunFactor]],
    groups: Sequence[UnitGroup],
    compute: Compute,
    sink: BetaSink,
    ridge: RidgeChoice | None = None,
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
    """
    n_units = data.n_units
    residual, total = np.full((design.n_runs, n_units), np.nan), np.full((design.n_runs, n_units), np.nan)
    fraction = np.full(n_units, np.nan)
    scale_offset = np.full((2, n_units), np.nan)
    badness = np.full((len(ridge.fractions) if ridge is not None else 0, n_units), np.nan)
    solvers = _RidgeSolvers(design, factors, ridge, data.device)

    def fit(group: UnitGroup) -> None:
        rows = data.rows(group.units)
        chosen = [factors[group.hrf][run] for run in group.runs]
        where = np.ix_(np.array(group.runs), group.units)
        total[where] = data.total[where]
        totals = to_tensor(total[where], data.device)
        block = _fit_block([rows[run] for run in group.runs], totals, chosen, solvers.of(group))
        sink.put(group, design, block.betas)
        residual[where] = to_numpy(block.residual)
        if ridge is not None:
            fraction[group.units], scale_offset[:, group.units] = block.fraction, to_numpy(block.scale_offset)
            badness[:, group.units] = to_numpy(block.badness)

    sink.open(groups)
    map_blocks(fit, groups, compute)
    sink.close(compute)
    known = np.isfinite(total).any(axis=0)
    rsquared = np.where(known, percent_explained(np.nansum(residual, axis=0), np.nansum(total, axis=0)), np.nan)
    by_run = percent_explained(residual, total)
    if ridge is None:
        return Estimate(rsquared, by_run)
    return Estimate(rsquared, by_run, fraction, scale_offset, badness if ridge.cross_validate else None)


@dataclass
class _BlockFit:
    """Tensors of one block of units: betas (n_trials, n), residual sums of squares (n_runs, n), and the ridge's choices."""

    betas: torch.Tensor
    residual: torch.Tensor
    fraction: FloatArray
    scale_offset: torch.Tensor
    badness: torch.Tensor


def _fit_block(
    values: Sequence[torch.Tensor], totals: torch.Tensor, factors: Sequence[RunFactor], solver: _RidgeSolver | None
) -> _BlockFit:
    projected = [factor.left.T @ block.T for factor, block in zip(factors, values, strict=True)]
    rotated = [part / factor.scale for factor, part in zip(factors, projected, strict=True)]
    betas = _rotate(factors, rotated)
    none = betas.new_zeros((2, betas.shape[1]))
    fraction, scale_offset, badness = np.ones(betas.shape[1]), none, none
    if solver is not None:
        ordinary = betas
        fraction, rotated, badness = solver.solve(rotated, ordinary)
        betas = _rotate(factors, rotated)
        if solver.ridge.autoscale:
            scale_offset = _match(betas, ordinary)
            betas = betas * scale_offset[0] + scale_offset[1]
        else:
            scale_offset = torch.stack([torch.ones_like(none[0]), none[0]])
    residual = [
        residual_sum_of_squares(factor, total, b, w, block)
        for factor, total, b, w, block in zip(factors, totals, rotated, projected, values, strict=True)
    ]
    return _BlockFit(betas, torch.stack(residual), fraction, scale_offset, badness)


def _rotate(factors: Sequence[RunFactor], rotated: Sequence[torch.Tensor]) -> torch.Tensor:
    """Betas (n_trials, n_units) of all runs from their rotated form."""
    return torch.cat([factor.rotation @ part for factor, part in zip(factors, rotated, strict=True)])


def _match(ridge: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
    """Scale and offset (2, n_units) that bring the ridge betas nearest to the ordinary ones; none where the scale is negative."""
    ridge_mean, ordinary_mean = ridge.mean(0), ordinary.mean(0)
    centred = ridge - ridge_mean
    variance = centred.square().sum(0)
    flat = variance <= 0
    scale = (centred * (ordinary - ordinary_mean)).sum(0) / torch.where(flat, torch.ones_like(variance), variance)
    unscaled = flat | (scale < 0)
    scale = torch.where(unscaled, torch.ones_like(scale), scale)
    offset = torch.where(unscaled, torch.zeros_like(scale), ordinary_mean - scale * ridge_mean)
    return torch.stack([scale, offset])


def alpha_grid(singular: FloatArray) -> FloatArray:
    """Penalties of the reference implementation: 0, then five a decade from 1e-2 of the smallest to 1e4 of the largest eigenvalue."""
    low = np.floor(np.log10(1e-2 * singular.min() ** 2))
    high = np.ceil(np.log10(1e4 * singular.max() ** 2))
    return np.concatenate([[0.0], 10 ** np.arange(low, high, 0.2)])


class _RidgeSolvers:
    """Solvers by HRF and runs, made when first needed; making one twice at a time does no harm."""

    def __init__(self, design: Design, factors: Mapping[int, Sequence[RunFactor]], ridge: RidgeChoice | None, device: str) -> None:
        self._design, self._factors, self._ridge, self._device = design, factors, ridge, device
        self._scorers: dict[tuple[int, ...], tuple[Design, RepeatScorer | None]] = {}
        self._made: dict[tuple[int, tuple[int, ...]], _RidgeSolver] = {}

    def of(self, group: UnitGroup) -> _RidgeSolver | None:
        """Solver of a group of units; None for ordinary least squares."""
        if self._ridge is None:
            return None
        key = (group.hrf, group.runs)
        if key not in self._made:
            design, scorer = self._scorer(group.runs, self._ridge)
            self._made[key] = _RidgeSolver([self._factors[group.hrf][run] for run in group.runs], design, self._ridge, scorer)
        return self._made[key]

    def _scorer(self, runs: tuple[int, ...], ridge: RidgeChoice) -> tuple[Design, RepeatScorer | None]:
        if runs not in self._scorers:
            design = restrict_design(self._design, runs)
            pairs = pair_repeats(design.condition, design.run, design.folds, design.train) if ridge.cross_validate else None
            self._scorers[runs] = design, None if pairs is None or not pairs.any else RepeatScorer(design, pairs, self._device)
        return self._scorers[runs]


class _RidgeSolver:
    """Fractional ridge of the units of one HRF; the runs share the grid of penalties and each unit's penalty."""

    def __init__(self, factors: Sequence[RunFactor], design: Design, ridge: RidgeChoice, scorer: RepeatScorer | None) -> None:
        self.ridge, self.design, self.scorer = ridge, design, scorer
        device = factors[0].device
        eigenvalues = np.concatenate([factor.singular for factor in factors]) ** 2
        grid = alpha_grid(np.sqrt(eigenvalues)) if len(eigenvalues) else np.zeros(1)
        shrink = eigenvalues / (eigenvalues + grid[:, None])
        self.grid = torch.from_numpy(np.log1p(grid)).to(device)
        self.curve = _PenaltyCurve(grid, device)
        self.squared_shrink = torch.from_numpy(shrink**2).to(device)
        self.squared_singular = to_tensor(eigenvalues, device)[:, None]
        self.ranks = [factor.right.shape[1] for factor in factors]
        self.rotations = [factor.rotation for factor in factors]
        self.weighing = [] if scorer is None else [_Weighing.of(f, scorer.weights[design.trials_of(r)]) for r, f in enumerate(factors)]

    def penalties(self, rotated: torch.Tensor) -> torch.Tensor:
        """Penalty of every fraction and unit, (n_fractions, n_units), from the rotated betas of all runs."""
        energy = rotated.double().square_()
        total = energy.sum(0)
        relative = self.squared_shrink @ energy / torch.where(total > 0, total, torch.ones_like(total))
        length = relative.sqrt().T.flip(1).contiguous()
        alphas = self.grid.flip(0).contiguous()
        asked = torch.tensor(self.ridge.fractions, dtype=torch.float64, device=length.device)
        return _interpolate(asked.expand(len(length), -1).contiguous(), length, alphas).expm1().float().T.contiguous()

    def solve(self, rotated: Sequence[torch.Tensor], ordinary: torch.Tensor) -> tuple[FloatArray, list[torch.Tensor], torch.Tensor]:
        """Fraction chosen a unit, the rotated ridge betas a run, and the error of every fraction."""
        stacked = torch.cat(list(rotated))
        alphas = self.penalties(stacked)
        if self.scorer is None or len(self.ridge.fractions) == 1:
            best = torch.zeros(alphas.shape[1], dtype=torch.long, device=alphas.device)
            badness = alphas.new_full(alphas.shape, torch.nan)
        else:
            badness = self._badness(rotated, ordinary, alphas, self.scorer)
            best = torch.where(badness.isnan(), torch.inf, badness).argmin(0)
        alpha = alphas.gather(0, best[None])
        shrunk = stacked * (self.squared_singular / (self.squared_singular + alpha))
        return np.asarray(self.ridge.fractions)[best.cpu().numpy()], list(shrunk.split(self.ranks)), badness

    def _badness(self, rotated: Sequence[torch.Tensor], ordinary: torch.Tensor, alphas: torch.Tensor, scorer: RepeatScorer) -> torch.Tensor:
        """Cross-validation error (n_fractions, n_units): the square expanded, so that no betas are formed.

        A run's sum of c_i (b_i - m)^2 / s^2 - 2 g_i (b_i - m) / s, with b = V r, r = S^2 / (S^2 + alpha) rotated, is
        q'(q - 2 l) plus a constant, with q = sqrt(c) r / s, where all its c are the same; trials with another weight add what they
        differ by.
        """
        z, means, inverses = scorer.standardise(ordinary)
        partners, constant = scorer.targets(z)
        gains, slopes = [], []
        extra = torch.zeros_like(alphas)
        for run, (part, s2, weighing) in enumerate(zip(rotated, self.squared_singular.split(self.ranks), self.weighing, strict=True)):
            rows, session = self.design.trials_of(run), int(self.design.session[run])
            weights, mean, inverse = scorer.weights[rows], means[session], inverses[session]
            linear = self.rotations[run].T @ (weights[:, None] * (mean * inverse) + partners[rows])
            constant = constant + weights.sum() * (mean * inverse).square() + 2 * mean * inverse * partners[rows].sum(0)
            scaled = part * s2 * inverse
            gains.append(scaled * weighing.root)
            slopes.append(linear * (2 / weighing.root if weighing.root > 0 else 0.0))
            if len(weighing.others):
                shrunk = torch.add(s2[:, None], alphas).reciprocal_().mul_(scaled[:, None, :])
                extra += (weighing.excess @ (weighing.others @ shrunk.flatten(1)).square_()).view_as(alphas)
        return constant + self.curve.at(alphas, torch.cat(gains), torch.cat(slopes), self.squared_singular) + extra


@dataclass(frozen=True)
class _Weighing:
    """How trials of a run weigh in the error: most of them the same.

    Attributes
    ----------
    root : float
        Root of the most frequent weight above zero, 0 where no trial has a weight.
    others : (k, rank) tensor
        Rows of V of the trials with another weight.
    excess : (k,) tensor
        Their weights less the frequent one.
    """

    root: float
    others: torch.Tensor
    excess: torch.Tensor

    @classmethod
    def of(cls, factor: RunFactor, weights: torch.Tensor) -> _Weighing:
        values, counts = np.unique(to_numpy(weights[weights > 0]), return_counts=True)
        usual = float(values[counts.argmax()]) if len(values) else 0.0
        different = weights != usual
        return cls(float(np.sqrt(usual)), factor.rotation[different], weights[different] - usual)


class _PenaltyCurve:
    """Sums over directions i of q_i (q_i - l_i), q_i = g_i / (s_i + alpha), as a smooth function of the penalty alpha.

    It is worked out with its derivative on a fine grid of penalties, by matrix products, and read off by cubic Hermite interpolation in
    log(alpha + alpha_1), alpha_1 the smallest penalty of the grid: with ten points a decade the error is below 1e-6 of the sums.
    """

    def __init__(self, grid: FloatArray, device: str) -> None:
        self._offset = float(grid[1]) if len(grid) > 1 else 1.0
        low, high = np.log(self._offset), np.log(grid[-1] + self._offset)
        n_points = max(2, int(np.ceil((high - low) / (np.log(10) / 10))) + 1)
        self._low, self._step = low, max((high - low) / (n_points - 1), 1e-12)
        points = np.exp(np.linspace(low, low + self._step * (n_points - 1), n_points))
        self._points = torch.from_numpy(points).to(device)[:, None]
        self._penalties = self._points - self._offset

    def at(self, alphas: torch.Tensor, gain: torch.Tensor, slope: torch.Tensor, squared_singular: torch.Tensor) -> torch.Tensor:
        """Values at the penalties (m, n_units), from g, l (n_directions, n_units) and s (n_directions, 1)."""
        inverse = 1 / (squared_singular.double().T + self._penalties)
        # d/dt with t = log(alpha + alpha_1) is (alpha + alpha_1) d/dalpha
        falling = -inverse.square() * self._points
        squares, products = gain.square(), gain * slope
        value = inverse.square().float() @ squares - inverse.float() @ products
        derivative = ((2 * inverse * falling).float() @ squares - falling.float() @ products) * self._step
        position = (((alphas.double() + self._offset).log() - self._low) / self._step).clamp(0, len(value) - 1)
        left = position.floor().clamp(max=len(value) - 2).long()
        share = (position - left).float()
        rest = 1 - share
        start, stop = value.gather(0, left), value.gather(0, left + 1)
        rise, fall = derivative.gather(0, left), derivative.gather(0, left + 1)
        bend = share * rest
        return start + share.square() * (3 - 2 * share) * (stop - start) + bend * (rest * rise - share * fall)


def _interpolate(asked: torch.Tensor, known: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Row-wise linear interpolation, (n, m) from ascending ``known`` (n, k) and ``values`` (k,); flat beyond the ends."""
    right = torch.searchsorted(known, asked, right=True).clamp(1, known.shape[1] - 1) if known.shape[1] > 1 else None
    if right is None:
        return values[0].expand_as(asked)
    low, high = known.gather(1, right - 1), known.gather(1, right)
    width = high - low
    share = torch.where(width > 0, (asked - low) / torch.where(width > 0, width, torch.ones_like(width)), torch.ones_like(width))
    return values[right - 1] + share.clamp(0, 1) * (values[right] - values[right - 1])


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
