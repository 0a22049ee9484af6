"""Fractional ridge regression, its fraction chosen by how well repeats predict each other (GLMsingle's type D).

The penalty is set by how long the betas are, as a fraction of the unregularised ones (Rokem & Kay, 2020). The reference's grid of
penalties and its linear interpolation over log(1 + alpha) are kept, as they decide what a fraction means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.denoise import RepeatScorer
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.groups import UnitGroup, restrict_design
from conform_bids.glm.numerics.least_squares import RunFactor
from conform_bids.numerics.compute import to_numpy, to_tensor
from conform_bids.numerics.folds import pair_repeats

__all__ = ["RidgeChoice", "RidgeSolver", "RidgeSolvers", "alpha_grid", "match_ordinary"]

FloatArray = npt.NDArray[np.float64]


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


def match_ordinary(ridge: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
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


class RidgeSolvers:
    """Solvers by HRF and runs, made when first needed; making one twice at a time does no harm."""

    def __init__(self, design: Design, factors: Mapping[int, Sequence[RunFactor]], ridge: RidgeChoice | None, device: str) -> None:
        self._design, self._factors, self._ridge, self._device = design, factors, ridge, device
        self._scorers: dict[tuple[int, ...], tuple[Design, RepeatScorer | None]] = {}
        self._made: dict[tuple[int, tuple[int, ...]], RidgeSolver] = {}

    def of(self, group: UnitGroup) -> RidgeSolver | None:
        """Solver of a group of units; None for ordinary least squares."""
        if self._ridge is None:
            return None
        key = (group.hrf, group.runs)
        if key not in self._made:
            design, scorer = self._scorer(group.runs, self._ridge)
            self._made[key] = RidgeSolver([self._factors[group.hrf][run] for run in group.runs], design, self._ridge, scorer)
        return self._made[key]

    def _scorer(self, runs: tuple[int, ...], ridge: RidgeChoice) -> tuple[Design, RepeatScorer | None]:
        if runs not in self._scorers:
            design = restrict_design(self._design, runs)
            pairs = pair_repeats(design.condition, design.run, design.folds, design.train) if ridge.cross_validate else None
            self._scorers[runs] = design, None if pairs is None or not pairs.any else RepeatScorer(design, pairs, self._device)
        return self._scorers[runs]


class RidgeSolver:
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
        roots = np.repeat([weighing.root for weighing in self.weighing], self.ranks if self.weighing else [])
        self.root = to_tensor(roots, device)[:, None]
        self.twice_inverse_root = to_tensor(np.divide(2.0, roots, out=np.zeros_like(roots), where=roots > 0), device)[:, None]

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
            badness = self._badness(stacked, ordinary, alphas, self.scorer)
            best = torch.where(badness.isnan(), torch.inf, badness).argmin(0)
        alpha = alphas.gather(0, best[None])
        shrunk = stacked * (self.squared_singular / (self.squared_singular + alpha))
        return np.asarray(self.ridge.fractions)[best.cpu().numpy()], list(shrunk.split(self.ranks)), badness

    def _badness(self, rotated: torch.Tensor, ordinary: torch.Tensor, alphas: torch.Tensor, scorer: RepeatScorer) -> torch.Tensor:
        """Cross-validation error (n_fractions, n_units): the square expanded, so that no betas are formed.

        A run's sum of c_i (b_i - m)^2 / s^2 - 2 g_i (b_i - m) / s, with b = V r, r = S^2 / (S^2 + alpha) rotated, is
        q'(q - 2 l) plus a constant, with q = sqrt(c) r / s, where all its c are the same; trials with another weight add what they
        differ by.
        """
        z, means, inverses = scorer.standardise(ordinary)
        partners, constant = scorer.targets(z)
        inverse = scorer.by_trial(inverses)
        shift = scorer.by_trial(means) * inverse
        constant = constant + (shift * torch.addcmul(2 * partners, scorer.weights[:, None], shift)).sum(0)
        target = torch.addcmul(partners, scorer.weights[:, None], shift)
        linear = torch.cat([rotation.T @ target[self.design.trials_of(run)] for run, rotation in enumerate(self.rotations)])
        scaled = rotated * self.squared_singular
        if len(inverse) > 1:  # sessions that differ
            inverse = torch.cat(
                [inverses[int(session)].expand(rank, -1) for session, rank in zip(self.design.session, self.ranks, strict=True)]
            )
        scaled *= inverse
        extra = torch.zeros_like(alphas)
        for weighing, part, s2 in zip(self.weighing, scaled.split(self.ranks), self.squared_singular.split(self.ranks), strict=True):
            if len(weighing.others):
                shrunk = torch.add(s2[:, None], alphas)
                torch.div(part[:, None, :], shrunk, out=shrunk)
                extra += (weighing.excess @ (weighing.others @ shrunk.flatten(1)).square_()).view_as(alphas)
        curve = self.curve.at(alphas, scaled * self.root, linear * self.twice_inverse_root, self.squared_singular)
        return curve.add_(constant).add_(extra)


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
