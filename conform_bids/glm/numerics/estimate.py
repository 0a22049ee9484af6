"""Final betas: ordinary, one trial at a time, or with fractional ridge regression (GLMsingle's types A to D).

Fractional ridge (Rokem & Kay, 2020): the penalty is set by how long the betas are, as a fraction of the unregularised ones. The
reference's grid of penalties and its linear interpolation over log(1 + alpha) are kept, as they decide what a fraction means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import RunData
from conform_bids.glm.numerics.denoise import RepeatScorer, units_by_hrf
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.hrf_selection import percent_explained
from conform_bids.glm.numerics.least_squares import (
    RunFactor,
    factorise_run,
    residual_sum_of_squares,
    separate_trials_matrix,
)
from conform_bids.numerics.blocks import block_size, index_blocks
from conform_bids.numerics.compute import Compute, to_numpy, to_tensor
from conform_bids.numerics.linalg import project_out

__all__ = ["Estimate", "RidgeChoice", "alpha_grid", "estimate_betas", "estimate_separate_betas"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Estimate:
    """Betas of one model and how well they fit.

    Attributes
    ----------
    betas : (n_trials, n_units) float32 array
        In the units of the data; only the units asked for are written.
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

    betas: npt.NDArray[np.float32]
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
    scorer : RepeatScorer or None
        Cross-validation; needed for more than one fraction.
    autoscale : bool
        Scale and shift the ridge betas of a unit to match the unregularised ones.
    """

    fractions: tuple[float, ...]
    scorer: RepeatScorer | None
    autoscale: bool


def estimate_betas(
    data: RunData,
    design: Design,
    regressors: Sequence[FloatArray],
    hrf_index: IntArray,
    extras: Sequence[FloatArray],
    units: IntArray,
    compute: Compute,
    betas: npt.NDArray[np.float32],
    ridge: RidgeChoice | None = None,
) -> Estimate:
    """Fit the single-trial model, each unit with its HRF.

    Parameters
    ----------
    data, design, regressors, compute
        As in `library_rsquared`.
    hrf_index : (n_units,) int array
        HRF of each unit.
    extras : sequence of (n_volumes, p) arrays
        Of each run, orthonormal and orthogonal to the base nuisance: noise regressors (and in compat the user's).
    units : (n,) int array
        Units to fit.
    betas : (n_trials, n_units) float32 array
        Filled here; may be a memory map.
    ridge : RidgeChoice, optional
        Fractional ridge in place of ordinary least squares.
    """
    n_units = data.n_units
    residual, total = np.full((design.n_runs, n_units), np.nan), np.full((design.n_runs, n_units), np.nan)
    fraction = scale_offset = badness = None
    if ridge is not None:
        fraction, scale_offset = np.full(n_units, np.nan), np.full((2, n_units), np.nan)
        badness = np.full((len(ridge.fractions), n_units), np.nan) if ridge.scorer is not None else None
    size = block_size(4.0 * (8 * design.n_trials + 4 * max(design.run_lengths) + 600), compute.memory_bytes, largest=2048)
    for hrf, members in units_by_hrf(hrf_index[units]):
        factors = [factorise_run(regressors[run][hrf], extra, data.device) for run, extra in enumerate(extras)]
        solver = _RidgeSolver(factors, design, ridge) if ridge is not None else None
        for part in index_blocks(members, size):
            block = units[part]
            fit = _fit_block(data, factors, solver, block)
            betas[:, block] = to_numpy(fit.betas)
            residual[:, block], total[:, block] = to_numpy(fit.residual), to_numpy(fit.total)
            if solver is not None and fraction is not None and scale_offset is not None:
                fraction[block], scale_offset[:, block] = fit.fraction, to_numpy(fit.scale_offset)
                if badness is not None:
                    badness[:, block] = to_numpy(fit.badness)
    rsquared = percent_explained(residual.sum(0), total.sum(0))
    return Estimate(betas, rsquared, percent_explained(residual, total), fraction, scale_offset, badness)


@dataclass
class _BlockFit:
    """Tensors of one block of units: betas (n_trials, n), residual and total sums of squares (n_runs, n), and the ridge's choices."""

    betas: torch.Tensor
    residual: torch.Tensor
    total: torch.Tensor
    fraction: FloatArray
    scale_offset: torch.Tensor
    badness: torch.Tensor


def _fit_block(data: RunData, factors: Sequence[RunFactor], solver: _RidgeSolver | None, units: IntArray) -> _BlockFit:
    values = [data.block(run, units) for run in range(len(factors))]
    projected = [factor.left.T @ block for factor, block in zip(factors, values, strict=True)]
    rotated = [part / to_tensor(factor.singular, data.device)[:, None] for factor, part in zip(factors, projected, strict=True)]
    rotations = [to_tensor(factor.right, data.device) for factor in factors]
    betas = torch.cat([rotation @ part for rotation, part in zip(rotations, rotated, strict=True)])
    none = betas.new_zeros((2, len(units)))
    fraction, scale_offset, badness = np.ones(len(units)), none, none
    if solver is not None:
        ordinary = betas
        fraction, shrunk, badness = solver.solve(rotated, ordinary)
        rotated = shrunk
        betas = torch.cat([rotation @ part for rotation, part in zip(rotations, rotated, strict=True)])
        if solver.ridge.autoscale:
            scale_offset = _match(betas, ordinary)
            betas = betas * scale_offset[0] + scale_offset[1]
        else:
            scale_offset = torch.stack([torch.ones_like(none[0]), none[0]])
    totals = [block.square().sum(0) for block in values]
    residual = [
        residual_sum_of_squares(factor, total, b, w, block)
        for factor, total, b, w, block in zip(factors, totals, rotated, projected, values, strict=True)
    ]
    return _BlockFit(betas, torch.stack(residual), torch.stack(totals), fraction, scale_offset, badness)


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


class _RidgeSolver:
    """Fractional ridge of the units of one HRF; the runs share the grid of penalties and each unit's penalty."""

    def __init__(self, factors: Sequence[RunFactor], design: Design, ridge: RidgeChoice) -> None:
        self.ridge = ridge
        self.design = design
        device = factors[0].device
        self.singular = [to_tensor(factor.singular**2, device)[:, None] for factor in factors]
        eigenvalues = np.concatenate([factor.singular for factor in factors]) ** 2
        grid = alpha_grid(np.sqrt(eigenvalues)) if len(eigenvalues) else np.zeros(1)
        shrink = eigenvalues / (eigenvalues + grid[:, None])
        self.grid = torch.from_numpy(np.log1p(grid)).to(device)
        self.squared_shrink = torch.from_numpy(shrink**2).to(device)
        self.rotations = [to_tensor(factor.right, device) for factor in factors]

    def penalties(self, rotated: Sequence[torch.Tensor]) -> torch.Tensor:
        """Penalty of every fraction and unit, (n_fractions, n_units)."""
        energy = torch.cat(list(rotated)).double().square()
        total = energy.sum(0)
        relative = self.squared_shrink @ energy / torch.where(total > 0, total, torch.ones_like(total))
        length = relative.sqrt().T.flip(1).contiguous()
        alphas = self.grid.flip(0).contiguous()
        asked = torch.tensor(self.ridge.fractions, dtype=torch.float64, device=length.device)
        return _interpolate(asked.expand(len(length), -1).contiguous(), length, alphas).T.expm1().float()

    def solve(self, rotated: Sequence[torch.Tensor], ordinary: torch.Tensor) -> tuple[FloatArray, list[torch.Tensor], torch.Tensor]:
        """Fraction chosen a unit, the rotated ridge betas a run, and the error of every fraction."""
        alphas = self.penalties(rotated)
        if self.ridge.scorer is None or len(self.ridge.fractions) == 1:
            best = torch.zeros(alphas.shape[1], dtype=torch.long, device=alphas.device)
            badness = alphas.new_full(alphas.shape, torch.nan)
        else:
            badness = self._badness(rotated, ordinary, alphas, self.ridge.scorer)
            best = torch.where(badness.isnan(), torch.inf, badness).argmin(0)
        alpha = alphas.gather(0, best[None])
        shrunk = [part * (s2 / (s2 + alpha)) for part, s2 in zip(rotated, self.singular, strict=True)]
        return np.asarray(self.ridge.fractions)[best.cpu().numpy()], shrunk, badness

    def _badness(self, rotated: Sequence[torch.Tensor], ordinary: torch.Tensor, alphas: torch.Tensor, scorer: RepeatScorer) -> torch.Tensor:
        """Cross-validation error (n_fractions, n_units): the square expanded, so that betas are formed for its first term alone."""
        z, means, inverses = scorer.standardise(ordinary)
        partners, constant = scorer.targets(z)
        result = constant.expand(len(alphas), -1).clone()
        for run, part in enumerate(rotated):
            rows, session = self.design.trials_of(run), int(self.design.session[run])
            weights, mean, inverse = scorer.weights[rows], means[session], inverses[session]
            rotation = self.rotations[run]
            even = bool((weights == weights[0]).all()) if len(weights) else True
            weighted_rotation = (rotation * weights.sqrt()[:, None])[weights > 0]
            # sum of c_i (b_i - m)^2 / s^2 - 2 g_i (b_i - m) / s, with b = V(shrink * rotated)
            linear = rotation.T @ (weights[:, None] * mean * inverse + partners[rows]) * inverse
            offset = weights.sum() * (mean * inverse).square() + 2 * mean * inverse * partners[rows].sum(0)
            squared_inverse = inverse.square()
            for index, alpha in enumerate(alphas):
                shrunk = part * (self.singular[run] / (self.singular[run] + alpha))
                if even:
                    energy = weights[0] * shrunk.square().sum(0) if len(weights) else offset * 0
                else:
                    energy = (weighted_rotation @ shrunk).square().sum(0)
                result[index] += energy * squared_inverse - 2 * (shrunk * linear).sum(0) + offset
        return result


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
    data: RunData,
    design: Design,
    regressors: Sequence[FloatArray],
    hrf_index: IntArray,
    extras: Sequence[FloatArray],
    units: IntArray,
    compute: Compute,
    betas: npt.NDArray[np.float32],
) -> None:
    """Replace betas by those of least squares separate (Mumford et al., 2012); parameters as in `estimate_betas`."""
    size = block_size(4.0 * (3 * design.n_trials + 3 * max(design.run_lengths)), compute.memory_bytes)
    for hrf, members in units_by_hrf(hrf_index[units]):
        for run, extra in enumerate(extras):
            clean = project_out(extra, regressors[run][hrf])
            solve = to_tensor(separate_trials_matrix(clean) @ clean.T, data.device)
            for part in index_blocks(members, size):
                block = units[part]
                betas[design.trials_of(run), block] = to_numpy(solve @ data.block(run, block))
