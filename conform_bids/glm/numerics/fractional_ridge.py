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

from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.groups import UnitGroup, restrict_design
from conform_bids.glm.numerics.least_squares import RunFactor, StackedRuns
from conform_bids.glm.numerics.repeats import RepeatScorer
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
        self._scorings: dict[tuple[int, ...], _Scoring] = {}
        self._made: dict[tuple[int, tuple[int, ...]], RidgeSolver] = {}

    def of(self, group: UnitGroup) -> RidgeSolver | None:
        """Solver of a group of units; None for ordinary least squares."""
        if self._ridge is None:
            return None
        key = (group.hrf, group.runs)
        if key not in self._made:
            scoring = self._scoring(group.runs, self._ridge)
            self._made[key] = RidgeSolver(
                [self._factors[group.hrf][run] for run in group.runs], self._ridge, scoring, whole=len(group.runs) == self._design.n_runs
            )
        return self._made[key]

    def _scoring(self, runs: tuple[int, ...], ridge: RidgeChoice) -> _Scoring:
        if runs not in self._scorings:
            design = restrict_design(self._design, runs)
            pairs = pair_repeats(design.condition, design.run, design.folds, design.train) if ridge.cross_validate else None
            scorer = None if pairs is None or not pairs.any else RepeatScorer(design, pairs, self._device)
            weighing = () if scorer is None else tuple(_Weighing.of(scorer.weights[design.trials_of(run)]) for run in range(len(runs)))
            self._scorings[runs] = _Scoring(design, scorer, weighing)
        return self._scorings[runs]


@dataclass(frozen=True)
class _Scoring:
    """How fractions are scored in some runs: their design, and unless there is nothing to score by, a scorer and the weights."""

    design: Design
    scorer: RepeatScorer | None
    weighing: tuple[_Weighing, ...]


class RidgeSolver:
    """Fractional ridge of the units of one HRF; the runs share the grid of penalties and each unit's penalty."""

    def __init__(self, factors: Sequence[RunFactor], ridge: RidgeChoice, scoring: _Scoring, *, whole: bool) -> None:
        self.ridge, self.scoring, self.stack = ridge, scoring, StackedRuns(factors, whole=whole)
        device = factors[0].device
        eigenvalues = np.concatenate([factor.singular for factor in factors]) ** 2
        grid = _needed_grid(eigenvalues, min(ridge.fractions))
        self.grid = torch.from_numpy(np.log1p(grid)).to(device)
        # of the squares of w, which are those of the rotated betas times the eigenvalues
        self.lengths = to_tensor(eigenvalues / (eigenvalues + grid[:, None]) ** 2, device)
        self.squared_singular = to_tensor(eigenvalues, device)[:, None]
        # rows of V of the trials that do not weigh as most
        self.others = [factor.rotation[part.rows] for factor, part in zip(factors, scoring.weighing, strict=False)]
        if scoring.scorer is not None:
            usual = np.repeat([part.usual for part in scoring.weighing], self.stack.ranks)
            self.curve = _PenaltyCurve(eigenvalues, usual, grid[-1], device)

    def penalties(self, projected: torch.Tensor) -> torch.Tensor:
        """Penalty of every fraction and unit, (n_fractions, n_units), from w of all runs."""
        squares = (self.lengths @ projected.square()).double()
        total = squares[:1]
        relative = squares / torch.where(total > 0, total, torch.ones_like(total))
        length = relative.sqrt_().T.flip(1).contiguous()
        alphas = self.grid.flip(0).contiguous()
        asked = torch.tensor(self.ridge.fractions, dtype=torch.float64, device=length.device)
        return _interpolate(asked.expand(len(length), -1).contiguous(), length, alphas).expm1().float().T.contiguous()

    def solve(self, projected: torch.Tensor, ordinary: torch.Tensor) -> tuple[FloatArray, torch.Tensor, torch.Tensor]:
        """Fraction chosen a unit, the rotated ridge betas, and the error of every fraction, from w and ordinary betas of all runs."""
        alphas = self.penalties(projected)
        scaled = projected * self.stack.scale
        if self.scoring.scorer is None or len(self.ridge.fractions) == 1:
            best = torch.zeros(alphas.shape[1], dtype=torch.long, device=alphas.device)
            badness = alphas.new_full(alphas.shape, torch.nan)
        else:
            badness = self._badness(scaled, ordinary, alphas, self.scoring.scorer)
            best = torch.where(badness.isnan(), torch.inf, badness).argmin(0)
        alpha = alphas.gather(0, best[None])
        return np.asarray(self.ridge.fractions)[best.cpu().numpy()], scaled.div_(self.squared_singular + alpha), badness

    def _badness(self, scaled: torch.Tensor, ordinary: torch.Tensor, alphas: torch.Tensor, scorer: RepeatScorer) -> torch.Tensor:
        """Cross-validation error (n_fractions, n_units): the square expanded, so that no betas are formed.

        A run's sum of c_i (b_i - m)^2 / s^2 - 2 g_i (b_i - m) / s, with b = V r, r = S w / (S^2 + alpha), is q'(q - 2 l) plus a
        constant, with q = sqrt(c) r / s, where all its c are the same; trials with another weight add what they differ by.
        """
        z, means, inverses = scorer.standardise(ordinary)
        targets, constant = scorer.targets(z)
        constant += scorer.shift_targets(targets, {session: means[session] * inverse for session, inverse in inverses.items()})
        linear = self.stack.rotate(targets)
        scaled = scaled * self._of_runs(inverses)
        result = self.curve.at(alphas, scaled, linear).add_(constant)
        parts = zip(scaled.split(self.stack.ranks), self.squared_singular.split(self.stack.ranks), strict=True)
        # one room for all runs: what is this large would be asked of the system, and given back to it, again and again
        room = alphas.new_empty((max(self.stack.ranks), *alphas.shape))
        for weighing, others, (part, s2) in zip(self.scoring.weighing, self.others, parts, strict=True):
            if len(others):
                shrunk = torch.add(s2[:, None], alphas, out=room[: len(part)])
                torch.div(part[:, None, :], shrunk, out=shrunk)
                result += (weighing.excess @ (others @ shrunk.flatten(1)).square_()).view_as(alphas)
        return result

    def _of_runs(self, of_sessions: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """What each session has (n_units,), for the rows of every run (rank, n_units), or once (1, n_units) for all of them."""
        if len(of_sessions) == 1:
            return next(iter(of_sessions.values()))[None]
        runs = zip(self.scoring.design.session, self.stack.ranks, strict=True)
        return torch.cat([of_sessions[int(session)].expand(rank, -1) for session, rank in runs])


def _needed_grid(eigenvalues: FloatArray, fraction: float) -> FloatArray:
    """The grid of penalties up to the first that makes the betas of every unit as short as the smallest fraction."""
    if not len(eigenvalues):
        return np.zeros(1)
    grid = alpha_grid(np.sqrt(eigenvalues))
    enough = (1 / fraction - 1) * eigenvalues.max() if fraction > 0 else np.inf
    return grid[: max(2, int(np.searchsorted(grid, enough)) + 1)]


@dataclass(frozen=True)
class _Weighing:
    """How trials of a run weigh in the error: most of them the same.

    Attributes
    ----------
    usual : float
        The most frequent weight above zero, 0 where no trial has a weight.
    rows : (k,) int tensor
        Trials of the run with another weight.
    excess : (k,) tensor
        Their weights less the usual one.
    """

    usual: float
    rows: torch.Tensor
    excess: torch.Tensor

    @classmethod
    def of(cls, weights: torch.Tensor) -> _Weighing:
        """From the weights of a run's trials, (n_trials,)."""
        values, counts = np.unique(to_numpy(weights[weights > 0]), return_counts=True)
        usual = float(values[counts.argmax()]) if len(values) else 0.0
        rows = torch.nonzero(weights != usual)[:, 0]
        return cls(usual, rows, weights[rows] - usual)


class _PenaltyCurve:
    """Sums over directions i of q_i (q_i - 2 l_i), q_i = c_i g_i / (s_i + alpha), as a smooth function of the penalty alpha.

    It is worked out with its derivative on a fine grid of penalties, by matrix products, and read off by cubic Hermite interpolation in
    t = log(alpha + s_0), s_0 a tenth of the smallest s: with ten points a decade the error is about 1e-6 of the sum of squares.

    Parameters
    ----------
    eigenvalues : (n_directions,) array
        s.
    weights : (n_directions,) array
        The squares of c.
    largest : float
        Largest penalty that is asked for.
    device : str
        Where units are.
    """

    def __init__(self, eigenvalues: FloatArray, weights: FloatArray, largest: float, device: str) -> None:
        self._offset = 0.1 * float(eigenvalues.min()) if len(eigenvalues) else 1.0
        low, high = np.log(self._offset), np.log(largest + self._offset)
        self._n_points = max(2, int(np.ceil((high - low) / (np.log(10) / 10))) + 1)
        self._low, self._step = low, max((high - low) / (self._n_points - 1), 1e-12)
        points = np.exp(low + self._step * np.arange(self._n_points))[:, None]
        inverse = 1 / (eigenvalues + points - self._offset)
        # d/dt is (alpha + s_0) d/dalpha, here of a step of the grid
        falling = -inverse * points * self._step
        self._squares = to_tensor(np.concatenate([inverse**2, 2 * inverse**2 * falling]) * weights, device)
        self._products = to_tensor(np.concatenate([inverse, inverse * falling]) * -2, device)

    def at(self, alphas: torch.Tensor, gain: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
        """Values at the penalties (m, n_units), from g and c l (n_directions, n_units)."""
        both = torch.addmm(self._squares @ gain.square(), self._products, gain * linear)
        value, derivative = both.split(self._n_points)
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
