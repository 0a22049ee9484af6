"""Noise regressors: where they come from, and how many help (GLMdenoise; Kay et al., 2013; GLMsingle's type C)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch

from conform_bids.glm.numerics.data import SCAN_UNITS, SHARES, CleanData
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.groups import block_units
from conform_bids.glm.numerics.least_squares import RANK_TOLERANCE, SpanFits, fit_spans
from conform_bids.glm.numerics.repeats import RepeatScorer
from conform_bids.glm.numerics.run_products import RunMatrices, sum_runs
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


def noise_regressors(data: CleanData, pool: BoolArray, n_pcs: int, compute: Compute) -> tuple[list[FloatArray], list[FloatArray]]:
    """Principal components of the noise pool's time courses, run by run; every unit counts the same.

    Returns
    -------
    covariances : list of (n_volumes, n_volumes) arrays
        Of each run: sum over units of y y', with y a time course of unit length, base nuisance out.
    pcs : list of (n_volumes, k) arrays
        Of each run: orthonormal, by decreasing variance; k = ``n_pcs`` where the pool and the run allow.
    """
    units = np.flatnonzero(pool)

    # both in one task, as scipy's decomposition keeps the interpreter from other threads, and products do not need it
    def of_run(run: int) -> tuple[FloatArray, FloatArray]:
        covariance = _pool_covariance(data, run, units)
        return covariance, _largest_components(covariance, n_pcs)

    covariances, pcs = zip(*map_blocks(of_run, range(data.n_runs), compute), strict=True)
    return list(covariances), list(pcs)


def _pool_covariance(data: CleanData, run: int, units: IntArray) -> FloatArray:
    gram = torch.zeros((len(data.bases[run].base),) * 2, dtype=torch.float64, device=data.device)
    for block in index_blocks(units, SCAN_UNITS):
        values = data.run_rows(run, block)
        squares = data.total[run, block, None]
        weights = to_tensor(np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0), data.device)
        gram += values.T @ (values * weights)
    return np.asarray(gram.cpu().numpy())


def _largest_components(covariance: FloatArray, n_pcs: int) -> FloatArray:
    size = len(covariance)
    variance, vectors = scipy.linalg.eigh(covariance, subset_by_index=[max(0, size - max(n_pcs, 1)), size - 1])
    rank = int((variance > 1e-6 * max(variance[-1], np.finfo(float).tiny)).sum())
    return np.ascontiguousarray(vectors[:, ::-1][:, : min(n_pcs, rank)])


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


def gain_curve(badness: FloatArray, compute: Compute) -> tuple[FloatArray, FloatArray]:
    """Gain of 0, 1, ... regressors over none, the median over units, and its standard error by a jackknife over groups of runs.

    Parameters
    ----------
    badness : (n_groups, n_pcs + 1, n_units) array
        From `count_badness`.
    compute : Compute
        Resources.

    Returns
    -------
    curve, error : (n_pcs + 1,) arrays
        The error is NaN with a single group.
    """
    total, n_groups = badness.sum(axis=0), len(badness)

    def curve_without(group: int | None) -> FloatArray:
        rest = total if group is None else (total - badness[group]) * n_groups / (n_groups - 1)
        trend = -(np.nanmedian if np.isnan(rest).any() else np.median)(rest, axis=1)
        return np.asarray(trend - trend[0])

    if n_groups < 2:
        return curve_without(None), np.full(badness.shape[1], np.nan)
    curve, *others = map_blocks(curve_without, [None, *range(n_groups)], compute)
    left_out = np.stack(others)
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return curve, np.sqrt((n_groups - 1) / n_groups * spread)


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

    reliability = np.concatenate(map_blocks(of_block, index_blocks(units, SCAN_UNITS, SHARES), compute))
    return float(np.nanmedian(reliability)) if np.isfinite(reliability).any() else float("nan")


class _RunTerms(NamedTuple):
    """What a run and HRF need to score 0..K noise regressors at once.

    Betas are ``weights @ directions @ Y``, those that the regressors are added to, and ``plain_weights @ plain_directions @ Y`` without
    any (compat with user regressors: the two differ). Adding regressor k to a model subtracts ``update[k]`` times a number a unit from
    its betas; that number is row k of ``probe @ Y``. ``gram`` holds the products of the updates, weighted by how many trials each trial
    predicts: twice below the diagonal, 0 above it.
    """

    directions: torch.Tensor
    weights: torch.Tensor
    probe: torch.Tensor
    update: torch.Tensor
    gram: torch.Tensor
    plain_directions: torch.Tensor
    plain_weights: torch.Tensor


def _count_terms(
    regressors: FloatArray, extra: FloatArray, added: FloatArray, partners: FloatArray, known: FloatArray | None, device: str
) -> list[_RunTerms]:
    """Nested models by orthogonalisation, one of each HRF: what regressor k adds to what is before it is a unit vector q_k.

    With W the noise regressors and M = W - U U'W their part outside of the design, M = Q B^-1 (Gram-Schmidt). The joint coefficients of
    W are B Q'Y, so that model k is model k - 1 less column k of V S^-1 U'W B times q_k'Y.
    """
    start = fit_spans(regressors, extra) if known is None else SpanFits(regressors @ known, known)
    inside = start.directions.swapaxes(1, 2) @ added
    directions, combine = _orthogonalise(added - start.directions @ inside)
    update = start.weights @ inside @ combine
    gram = update.swapaxes(1, 2) @ (partners[:, None] * update)
    steps = (to_tensor(term, device) for term in (directions.swapaxes(1, 2), update.swapaxes(1, 2), np.tril(gram) + np.tril(gram, -1)))
    here = start.on(device)
    plain = fit_spans(regressors, extra[:, :0]).on(device) if extra.shape[1] else here
    parts = (here.directions.transpose(1, 2), here.weights, *steps, plain.directions.transpose(1, 2), plain.weights)
    return [_RunTerms(*terms) for terms in zip(*parts, strict=True)]


class _CountFactor:
    """The terms of one HRF in all runs, named as in `_RunTerms`."""

    def __init__(self, runs: Sequence[_RunTerms], *, one_start: bool) -> None:
        self.probe = RunMatrices([run.probe for run in runs])
        self.update = RunMatrices([run.update for run in runs])
        self.gram = RunMatrices([run.gram for run in runs])
        self._start = RunMatrices([run.directions for run in runs]), RunMatrices([run.weights for run in runs])
        self._plain = self._start
        if not one_start:
            self._plain = RunMatrices([run.plain_directions for run in runs]), RunMatrices([run.plain_weights for run in runs])

    def plain_betas(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Betas (n_trials, n) without any regressors."""
        directions, weights = self._plain
        return weights.times(directions.times_data(values))

    def start_betas(self, values: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Betas (n_trials, n) that noise regressors are added to; None where these are the plain ones."""
        directions, weights = self._start
        return None if self._plain is self._start else weights.times(directions.times_data(values))


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
    spans: Sequence[FloatArray] | None = None,
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
    spans : sequence of (n_hrfs, n_trials, rank) arrays, optional
        Weights of `fit_spans` of the regressors, where they are known and the bases have no extra columns.

    Returns
    -------
    (n_groups, K + 1, n) float64 array
        Of groups of successive runs, one a run up to 12; their sum is the error.
    """
    n_pcs = min(pc.shape[1] for pc in pcs)
    n_groups = min(design.n_runs, MOST_GROUPS)
    group_of_run = torch.arange(design.n_runs, device=data.device) * n_groups // design.n_runs
    result = np.full((n_groups, n_pcs + 1, len(units)), np.nan)
    scorer = RepeatScorer(design, pairs, data.device)
    used = [hrf for hrf, _ in units_by_hrf(hrf_index[units])]

    def factorise(run: int) -> list[_RunTerms]:
        extra, partners = data.bases[run].extra, pairs.n_partners[design.trials_of(run)]
        known = None if spans is None else spans[run][used]
        return _count_terms(regressors[run][used], extra, extend_basis(extra, pcs[run][:, :n_pcs]), partners, known, data.device)

    one_start = not any(basis.extra.shape[1] for basis in data.bases)
    runs = map_blocks(factorise, range(design.n_runs), compute)
    stack = [partial(_CountFactor, [run[index] for run in runs], one_start=one_start) for index in range(len(used))]
    factors = dict(zip(used, map_blocks(lambda make: make(), stack, compute), strict=True))
    blocks = [
        (hrf, block) for hrf, members in units_by_hrf(hrf_index[units]) for block in index_blocks(members, block_units(design, compute))
    ]

    def score(task: tuple[int, IntArray]) -> None:
        hrf, block = task
        errors = _block_badness(data.rows(units[block]), design, factors[hrf], scorer, n_pcs)
        by_group = errors.new_zeros((n_groups, *errors.shape[1:]), dtype=torch.float64).index_add_(0, group_of_run, errors.double())
        result[:, :, block] = by_group.cpu().numpy()

    map_blocks(score, sorted(blocks, key=lambda task: -len(task[1])), compute)
    return result


def units_by_hrf(hrf_index: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Each HRF that occurs, and the positions of the units that have it."""
    for hrf in np.unique(hrf_index):
        yield int(hrf), np.flatnonzero(hrf_index == hrf)


def _block_badness(values: Sequence[torch.Tensor], design: Design, factor: _CountFactor, scorer: RepeatScorer, n_pcs: int) -> torch.Tensor:
    """Errors of a block of units by run, (n_runs, n_pcs + 1, n_units)."""
    plain = factor.plain_betas(values)
    z, means, inverses = scorer.standardise(plain)
    partners = scorer.partners @ z
    tested = z.square().mul_(scorer.test_weights[:, None])
    residual = torch.sub(scorer.weights[:, None] * z, partners)
    without = with_extra = torch.addcmul(tested, z, residual - partners)
    start = factor.start_betas(values)
    if start is not None:
        z = scorer.scale(start, means, inverses)
        residual = torch.sub(scorer.weights[:, None] * z, partners)
        with_extra = torch.addcmul(tested, z, residual - partners)
    errors = plain.new_empty((design.n_runs, n_pcs + 1, plain.shape[1]))
    n_trials = factor.update.n_columns
    errors[:, 0] = sum_runs(without, n_trials)
    first = errors[:, 0] if start is None else sum_runs(with_extra, n_trials)
    change = factor.probe.times_data(values)
    by_run = change.view(design.n_runs, n_pcs, change.shape[1])
    by_run.mul_(torch.stack([inverses[int(session)] for session in design.session])[:, None])
    # the square expanded, regressor by regressor, instead of forming K sets of betas
    steps = factor.gram.times(change).sub_(factor.update.times(residual), alpha=2).mul_(change)
    torch.add(steps.view_as(by_run).cumsum(1), first[:, None], out=errors[:, 1:])
    return errors
