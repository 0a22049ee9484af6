"""Noise regressors: where they come from, and how many help (GLMdenoise; Kay et al., 2013; GLMsingle's type C)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch

from conform_bids.glm.numerics.data import SCAN_UNITS, CleanData
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.groups import block_units
from conform_bids.glm.numerics.least_squares import RANK_TOLERANCE, fit_spans
from conform_bids.glm.numerics.repeats import RepeatScorer
from conform_bids.numerics.blocks import index_blocks
from conform_bids.numerics.compute import Compute, map_blocks, to_numpy, to_tensor
from conform_bids.numerics.folds import RepeatPairs
from conform_bids.numerics.linalg import extend_basis
from conform_bids.numerics.scores import odd_even_reliability

__all__ = [
    "choose_count",
    "choose_fewest",
    "count_badness",
    "gain_curve",
    "noise_pool",
    "noise_regressors",
    "pool_covariances",
    "pool_reliability",
    "units_by_hrf",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
POOL_SAMPLE = 2048
MOST_GROUPS = 12
"""Groups of runs that are left out, one at a time, for the standard error of the curve."""


def noise_pool(mean: FloatArray, onoff_rsquared: FloatArray, *, percentile: float, fraction: float, rsquared_below: float) -> BoolArray:
    """Units that are in the brain (bright) and do not respond.

    Parameters
    ----------
    mean : (n_units,) array
        Mean of the raw data; NaN counts as outside.
    onoff_rsquared : (n_units,) array
        Percent.
    percentile, fraction : float
        A bright unit exceeds ``fraction`` of this ``percentile`` of the means.
    rsquared_below : float
        Percent.
    """
    known = mean[np.isfinite(mean)]
    if len(known) == 0:
        return np.zeros(len(mean), bool)
    with np.errstate(invalid="ignore"):
        return (mean > np.percentile(known, percentile) * fraction) & (onoff_rsquared < rsquared_below)


def pool_covariances(data: CleanData, pool: BoolArray, compute: Compute) -> list[FloatArray]:
    """Covariance over time of the pool, run by run; every unit counts the same.

    Returns
    -------
    list of (n_volumes, n_volumes) arrays
        Sum over units of y y', with y a time course of unit length, base nuisance out.
    """
    units = np.flatnonzero(pool)

    def of_run(run: int) -> FloatArray:
        gram = torch.zeros((len(data.bases[run].base),) * 2, dtype=torch.float64, device=data.device)
        for block in index_blocks(units, SCAN_UNITS):
            values = data.run_rows(run, block)
            squares = data.total[run, block, None]
            weights = to_tensor(np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0), data.device)
            gram += values.T @ (values * weights)
        return np.asarray(gram.cpu().numpy())

    return map_blocks(of_run, range(data.n_runs), compute)


def noise_regressors(covariances: Sequence[FloatArray], n_pcs: int, compute: Compute) -> list[FloatArray]:
    """Principal components of the noise pool's time courses, from `pool_covariances`.

    Returns
    -------
    list of (n_volumes, k) arrays
        One a run, orthonormal, by decreasing variance; k = ``n_pcs`` where the pool and the run allow.
    """

    def of_run(covariance: FloatArray) -> FloatArray:
        size = len(covariance)
        variance, vectors = scipy.linalg.eigh(covariance, subset_by_index=[max(0, size - max(n_pcs, 1)), size - 1])
        rank = int((variance > 1e-6 * max(variance[-1], np.finfo(float).tiny)).sum())
        return np.ascontiguousarray(vectors[:, ::-1][:, : min(n_pcs, rank)])

    return map_blocks(of_run, covariances, compute)


def choose_count(curve: FloatArray, stop: float) -> int:
    """Smallest number of regressors whose gain is within a factor of the best (GLMsingle's ``pcstop``).

    Parameters
    ----------
    curve : (n_pcs + 1,) array
        Cross-validated gain with 0, 1, ... regressors, 0 for none.
    stop : float
        1.05: stop once the gain times 1.05 reaches the maximum.
    """
    best, chosen = -np.inf, 0
    for count, gain in enumerate(curve):
        if gain > best:
            best, chosen = float(gain), count
            if best * stop >= curve.max():
                break
    return chosen


def choose_fewest(curve: FloatArray, error: FloatArray) -> int:
    """Smallest number of regressors whose gain is within a standard error of the best.

    Parameters
    ----------
    curve, error : (n_pcs + 1,) arrays
        From `gain_curve`.
    """
    best = int(np.argmax(curve))
    return int(np.flatnonzero(curve >= curve[best] - error[best])[0])


def gain_curve(badness: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gain of 0, 1, ... regressors over none, the median over units, and its standard error by a jackknife over groups of runs.

    Parameters
    ----------
    badness : (n_groups, n_pcs + 1, n_units) array
        From `count_badness`.

    Returns
    -------
    curve, error : (n_pcs + 1,) arrays
        The error is NaN with a single group.
    """

    def curve_of(total: FloatArray) -> FloatArray:
        trend = -np.nanmedian(total, axis=1)
        return np.asarray(trend - trend[0])

    total, n_groups = badness.sum(axis=0), len(badness)
    if n_groups < 2:
        return curve_of(total), np.full(badness.shape[1], np.nan)
    left_out = np.stack([curve_of((total - group) * n_groups / (n_groups - 1)) for group in badness])
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return curve_of(total), np.sqrt((n_groups - 1) / n_groups * spread)


def pool_reliability(
    data: CleanData, design: Design, regressors: Sequence[FloatArray], hrf_index: IntArray, pool: BoolArray, compute: Compute
) -> float:
    """How far the noise pool responds to conditions: correlation of its condition means between odd and even runs.

    Of ordinary betas of at most 2,000 of its units with the HRF that most of them chose; the median over units.

    Parameters
    ----------
    data, design, regressors, hrf_index, compute
        As in `count_badness`.
    pool : (n_units,) bool array
        Units that gave noise regressors.
    """
    units = np.flatnonzero(pool)
    if len(units) == 0:
        return float("nan")
    hrf = int(np.bincount(hrf_index[units]).argmax())
    units = units[np.linspace(0, len(units) - 1, min(len(units), POOL_SAMPLE)).astype(np.intp)]
    fits = [fit_spans(regressors[run][[hrf]], data.bases[run].extra).on(data.device) for run in range(design.n_runs)]

    def of_block(block: IntArray) -> FloatArray:
        betas = torch.cat([fit.weights[0] @ (fit.directions[0].T @ values.T) for fit, values in zip(fits, data.rows(block), strict=True)])
        chosen = design.train
        return odd_even_reliability(to_numpy(betas)[chosen], design.condition[chosen], design.run[chosen])

    reliability = np.concatenate(map_blocks(of_block, index_blocks(units, SCAN_UNITS), compute))
    return float(np.nanmedian(reliability)) if np.isfinite(reliability).any() else float("nan")


@dataclass(frozen=True)
class _CountFactor:
    """What a run and HRF need to score 0..K noise regressors at once.

    ``plain`` are directions and weights of the fit without any, ``start`` those that the regressors are added to (compat with user
    regressors: the two differ). Adding regressor k to a model subtracts ``update[:, k]`` times a number a unit from its betas; that
    number is row k of ``probe`` Y. ``gram`` holds the products of the updates, weighted by how many trials each trial predicts: twice
    below the diagonal, 0 above it.
    """

    plain: tuple[torch.Tensor, torch.Tensor]
    start: tuple[torch.Tensor, torch.Tensor]
    probe: torch.Tensor
    update: torch.Tensor
    gram: torch.Tensor


def _count_factors(regressors: FloatArray, extra: FloatArray, added: FloatArray, weights: FloatArray, device: str) -> list[_CountFactor]:
    """Nested models by orthogonalisation, one of each HRF: what regressor k adds to what is before it is a unit vector q_k.

    With W the noise regressors and M = W - U U'W their part outside of the design, M = Q B^-1 (Gram-Schmidt). The joint coefficients of
    W are B Q'Y, so that model k is model k - 1 less column k of V S^-1 U'W B times q_k'Y.
    """
    start = fit_spans(regressors, extra)
    inside = start.directions.swapaxes(1, 2) @ added
    directions, combine = _orthogonalise(added - start.directions @ inside)
    update = start.weights @ inside @ combine
    gram = update.swapaxes(1, 2) @ (weights[:, None] * update)
    here = start.on(device)
    starts = list(zip(here.directions, here.weights, strict=True))
    plains = starts
    if extra.shape[1]:
        plain = fit_spans(regressors, extra[:, :0]).on(device)
        plains = list(zip(plain.directions, plain.weights, strict=True))
    terms = (to_tensor(term, device) for term in (directions.swapaxes(1, 2), update, np.tril(gram) + np.tril(gram, -1)))
    return [_CountFactor(*parts) for parts in zip(plains, starts, *terms, strict=True)]


def _orthogonalise(columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Q and B of each of some matrices M = Q B^-1 (n, n_rows, k); both are zero where a column adds nothing to those before it."""
    directions, combine = np.zeros_like(columns), np.zeros((len(columns), *columns.shape[2:] * 2))
    for k in range(columns.shape[2]):
        column = columns[:, :, k, None]
        overlap = directions.swapaxes(1, 2) @ column
        rest = (column - directions @ overlap)[..., 0]
        length = np.linalg.norm(rest, axis=1)
        inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > RANK_TOLERANCE)[:, None]
        directions[:, :, k] = rest * inverse
        combine[:, :, k] = -(combine @ overlap)[..., 0] * inverse
        combine[:, k, k] += inverse[:, 0]
    return directions, combine


def count_badness(
    data: CleanData,
    design: Design,
    regressors: Sequence[FloatArray],
    hrf_index: IntArray,
    pcs: Sequence[FloatArray],
    pairs: RepeatPairs,
    units: IntArray,
    compute: Compute,
) -> FloatArray:
    """Cross-validation error with 0, 1, ... K noise regressors (ALGORITHM: lower is better), by the runs that it comes from.

    Betas are standardised within a session by the mean and SD of the betas without regressors; the error is the summed squared
    difference between a trial, with k regressors, and every repeat of it in held-out runs, without.

    Parameters
    ----------
    data, design, compute
        As in `estimate_betas`.
    regressors : sequence of (n_hrfs, n_volumes, n_trials) arrays
        Of each run, base nuisance out.
    hrf_index : (n_units,) int array
        HRF of each unit.
    pcs : sequence of (n_volumes, K) arrays
        Noise regressors of each run.
    pairs : RepeatPairs
        Which trials predict which.
    units : (n,) int array
        Units to score; present in every run.

    Returns
    -------
    (n_groups, K + 1, n) float64 array
        Of groups of successive runs, one a run up to 12; their sum is the error.
    """
    n_pcs = min(pc.shape[1] for pc in pcs)
    n_groups = min(design.n_runs, MOST_GROUPS)
    first_runs = np.unique(np.arange(design.n_runs) * n_groups // design.n_runs, return_index=True)[1]
    result = np.full((n_groups, n_pcs + 1, len(units)), np.nan)
    scorer = RepeatScorer(design, pairs, data.device)
    used = [hrf for hrf, _ in units_by_hrf(hrf_index[units])]

    def factorise(run: int) -> list[_CountFactor]:
        extra, weights = data.bases[run].extra, pairs.n_partners[design.trials_of(run)]
        return _count_factors(regressors[run][used], extra, extend_basis(extra, pcs[run][:, :n_pcs]), weights, data.device)

    factors = dict(zip(used, zip(*map_blocks(factorise, range(design.n_runs), compute), strict=True), strict=True))
    blocks = [
        (hrf, block) for hrf, members in units_by_hrf(hrf_index[units]) for block in index_blocks(members, block_units(design, compute))
    ]

    def score(task: tuple[int, IntArray]) -> None:
        hrf, block = task
        errors = _block_badness(data.rows(units[block]), design, factors[hrf], scorer, n_pcs)
        result[:, :, block] = np.add.reduceat(to_numpy(errors), first_runs, axis=0, dtype=np.float64)

    map_blocks(score, blocks, compute)
    return result


def units_by_hrf(hrf_index: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Each HRF that occurs, and the positions of the units that have it."""
    for hrf in np.unique(hrf_index):
        yield int(hrf), np.flatnonzero(hrf_index == hrf)


def _block_badness(
    values: Sequence[torch.Tensor], design: Design, factors: Sequence[_CountFactor], scorer: RepeatScorer, n_pcs: int
) -> torch.Tensor:
    """Errors of a block of units by run, (n_runs, n_pcs + 1, n_units)."""
    plain = _betas(values, design, [factor.plain for factor in factors])
    z, means, inverses = scorer.standardise(plain)
    partners = scorer.partners @ z
    tested = z.square().mul_(scorer.test_weights[:, None])
    residual = torch.sub(scorer.weights[:, None] * z, partners)
    without = with_extra = torch.addcmul(tested, z, residual - partners)
    if any(factor.start is not factor.plain for factor in factors):
        z = scorer.scale(_betas(values, design, [factor.start for factor in factors]), means, inverses)
        residual = torch.sub(scorer.weights[:, None] * z, partners)
        with_extra = torch.addcmul(tested, z, residual - partners)
    errors = plain.new_empty((design.n_runs, n_pcs + 1, plain.shape[1]))
    for run, factor in enumerate(factors):
        rows = design.trials_of(run)
        errors[run, 0] = without[rows].sum(0)
        first = errors[run, 0] if with_extra is without else with_extra[rows].sum(0)
        change = (factor.probe @ values[run].T).mul_(inverses[int(design.session[run])])
        # the square expanded, regressor by regressor, instead of forming K sets of betas
        steps = torch.addmm(factor.gram @ change, factor.update.T, residual[rows], alpha=-2).mul_(change)
        torch.add(steps.cumsum(0), first, out=errors[run, 1:])
    return errors


def _betas(values: Sequence[torch.Tensor], design: Design, fits: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Betas (n_trials, n_units) of all runs from the directions and weights of each."""
    result = values[0].new_empty((design.n_trials, len(values[0])))
    for run, (directions, weights) in enumerate(fits):
        torch.mm(weights, directions.T @ values[run].T, out=result[design.trials_of(run)])
    return result
