"""Noise regressors: where they come from, and how many help (GLMdenoise; Kay et al., 2013; GLMsingle's type C)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import RunData
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.least_squares import RANK_TOLERANCE, RunFactor, factorise_run
from conform_bids.numerics.blocks import block_size, index_blocks
from conform_bids.numerics.compute import Compute, to_numpy, to_tensor
from conform_bids.numerics.folds import RepeatPairs
from conform_bids.numerics.linalg import extend_basis

__all__ = ["RepeatScorer", "choose_count", "count_badness", "noise_pool", "noise_regressors", "pool_covariances", "units_by_hrf"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]


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


def pool_covariances(data: RunData, pool: BoolArray, compute: Compute) -> list[FloatArray]:
    """Covariance over time of the pool, run by run; every unit counts the same.

    Returns
    -------
    list of (n_volumes, n_volumes) arrays
        Sum over units of y y', with y a time course of unit length, base nuisance out.
    """
    units = np.flatnonzero(pool)
    result = []
    for run, basis in enumerate(data.bases):
        n_volumes = len(basis.base)
        gram = torch.zeros((n_volumes, n_volumes), dtype=torch.float64, device=data.device)
        size = block_size(4.0 * 4 * n_volumes, compute.memory_bytes)
        for block in index_blocks(units, size):
            values = data.block(run, block)
            length = values.square().sum(0).sqrt()
            values = values[:, length > 0] / length[length > 0]
            gram += (values @ values.T).double()
        result.append(gram.cpu().numpy())
    return result


def noise_regressors(covariances: Sequence[FloatArray], n_pcs: int) -> list[FloatArray]:
    """Principal components of the noise pool's time courses, from `pool_covariances`.

    Returns
    -------
    list of (n_volumes, k) arrays
        One a run, orthonormal, by decreasing variance; k = ``n_pcs`` where the pool and the run allow.
    """
    result = []
    for covariance in covariances:
        variance, vectors = np.linalg.eigh(covariance)
        rank = int((variance > 1e-6 * max(variance[-1], np.finfo(float).tiny)).sum())
        result.append(np.ascontiguousarray(vectors[:, ::-1][:, : min(n_pcs, rank)]))
    return result


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


@dataclass(frozen=True)
class _CountFactor:
    """What a run and HRF need to score 0..K noise regressors at once.

    ``plain`` is the fit without any, ``start`` the one that the regressors are added to (compat with user regressors: the two differ).
    Adding regressor k to a model subtracts ``update[:, k]`` times a number a unit from its betas; that number is row k of ``probe`` Y.
    """

    plain: RunFactor
    start: RunFactor
    probe: torch.Tensor
    update: torch.Tensor


def _count_factor(regressors: FloatArray, extra: FloatArray, pcs: FloatArray, first_is_plain: bool, device: str) -> _CountFactor:
    """Nested models by orthogonalisation: what regressor k adds to design and regressors before it is a unit vector q_k.

    With W the noise regressors and M = W - U U'W their part outside of the design, M = Q B^-1 (Gram-Schmidt). The joint coefficients of
    W are B Q'Y, so that model k is model k - 1 less column k of V S^-1 U'W B times q_k'Y. A regressor that adds nothing (it lies in
    the design) leaves the model as it is.
    """
    start = factorise_run(regressors, extra, device)
    plain = factorise_run(regressors, np.zeros((len(extra), 0)), device) if first_is_plain else start
    added = extend_basis(extra, pcs)
    left = start.left.double().cpu().numpy()
    inside = left.T @ added
    outside = added - left @ inside
    directions, combine = np.zeros_like(outside), np.zeros((added.shape[1],) * 2)
    for k in range(added.shape[1]):
        overlap = directions.T @ outside[:, k]
        rest = outside[:, k] - directions @ overlap
        length = float(np.linalg.norm(rest))
        if length > RANK_TOLERANCE:
            directions[:, k] = rest / length
            combine[:, k] = (np.eye(len(combine))[:, k] - combine @ overlap) / length
    return _CountFactor(
        plain=plain,
        start=start,
        probe=to_tensor(directions.T, device),
        update=to_tensor((start.right / start.singular) @ inside @ combine, device),
    )


def count_badness(
    data: RunData,
    design: Design,
    regressors: Sequence[FloatArray],
    hrf_index: IntArray,
    pcs: Sequence[FloatArray],
    pairs: RepeatPairs,
    units: IntArray,
    compute: Compute,
) -> FloatArray:
    """Cross-validation error with 0, 1, ... K noise regressors (ALGORITHM: lower is better).

    Betas are standardised within a session by the mean and SD of the betas without regressors; the error is the summed squared
    difference between a trial, with k regressors, and every repeat of it in held-out runs, without.

    Parameters
    ----------
    data, design, regressors, compute
        As in `library_rsquared`.
    hrf_index : (n_units,) int array
        HRF of each unit.
    pcs : sequence of (n_volumes, K) arrays
        Noise regressors of each run.
    pairs : RepeatPairs
        Which trials predict which.
    units : (n,) int array
        Units to score.

    Returns
    -------
    (K + 1, n) float64 array
    """
    n_pcs = min(pc.shape[1] for pc in pcs)
    result = np.full((n_pcs + 1, len(units)), np.nan)
    scorer = RepeatScorer(design, pairs, data.device)
    size = block_size(4.0 * (6 * design.n_trials + 3 * max(design.run_lengths)), compute.memory_bytes, largest=4096)
    for hrf, members in units_by_hrf(hrf_index[units]):
        factors = [
            _count_factor(regressors[run][hrf], basis.extra, pcs[run][:, :n_pcs], basis.extra.shape[1] > 0, data.device)
            for run, basis in enumerate(data.bases)
        ]
        for block in index_blocks(members, size):
            result[:, block] = to_numpy(_block_badness(data, design, factors, scorer, units[block], n_pcs))
    return result


def units_by_hrf(hrf_index: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Each HRF that occurs, and the positions of the units that have it."""
    for hrf in np.unique(hrf_index):
        yield int(hrf), np.flatnonzero(hrf_index == hrf)


class RepeatScorer:
    """Standardisation and pair sums shared by the two cross-validations."""

    def __init__(self, design: Design, pairs: RepeatPairs, device: str) -> None:
        sessions = design.session[design.run]
        self.session_of_run = design.session
        self.weights = to_tensor(pairs.n_partners, device)
        self.test_weights = to_tensor(pairs.test_counts, device)
        matrix = pairs.partner_matrix.tocsr()  # type: ignore[attr-defined]
        matrix.sum_duplicates()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.partners = torch.sparse_csr_tensor(
                torch.from_numpy(matrix.indptr.astype(np.int64)),
                torch.from_numpy(matrix.indices.astype(np.int64)),
                torch.from_numpy(matrix.data.astype(np.float32)),
                size=matrix.shape,
                check_invariants=True,
            ).to(device)
        self.trials_of_session = {
            int(session): torch.from_numpy(np.flatnonzero((sessions == session) & design.train)).to(device)
            for session in np.unique(design.session)
        }
        self.session_of_trial = torch.from_numpy(sessions.astype(np.int64)).to(device)

    def standardise(self, betas: torch.Tensor) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """z-scores (n_trials, n_units) by session, and the mean and 1/SD of each session (0 where the SD is 0)."""
        z = torch.zeros_like(betas)
        means, inverses = {}, {}
        for session, rows in self.trials_of_session.items():
            part = betas[rows]
            mean = part.mean(0) if len(rows) else torch.zeros_like(betas[0])
            deviation = part.std(0, correction=1) if len(rows) > 1 else torch.zeros_like(mean)
            inverse = torch.where(deviation > 0, 1 / deviation, torch.zeros_like(deviation))
            own = self.session_of_trial == session
            z[own] = (betas[own] - mean) * inverse
            means[session], inverses[session] = mean, inverse
        return z, means, inverses

    def targets(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of each trial's partners (n_trials, n_units), and the constant of the error (n_units,)."""
        return self.partners @ z, (self.test_weights[:, None] * z.square()).sum(0)


def _block_badness(
    data: RunData, design: Design, factors: Sequence[_CountFactor], scorer: RepeatScorer, units: IntArray, n_pcs: int
) -> torch.Tensor:
    plain = torch.empty((design.n_trials, len(units)), device=data.device)
    start = plain if all(factor.plain is factor.start for factor in factors) else torch.empty_like(plain)
    changes = []
    for run, factor in enumerate(factors):
        values = data.block(run, units)
        projected = factor.start.left.T @ values
        rows = design.trials_of(run)
        start[rows] = factor.start.weights() @ projected
        if start is not plain:
            plain[rows] = factor.plain.weights() @ (factor.plain.left.T @ values)
        changes.append(factor.probe @ values)
    z, means, inverses = scorer.standardise(plain)
    partners, constant = scorer.targets(z)
    errors = torch.zeros((n_pcs + 1, len(units)), device=data.device)
    errors[0] = (scorer.weights[:, None] * z.square() - 2 * z * partners).sum(0)
    for run, factor in enumerate(factors):
        rows = design.trials_of(run)
        session = int(design.session[run])
        z_start = (start[rows] - means[session]) * inverses[session]
        errors[1:] += _nested_errors(z_start, partners[rows], scorer.weights[rows], factor.update, changes[run] * inverses[session])
    return errors + constant


def _nested_errors(
    z: torch.Tensor, partners: torch.Tensor, weights: torch.Tensor, update: torch.Tensor, change: torch.Tensor
) -> torch.Tensor:
    """Error of a run's trials with 1..K regressors, (K, n_units), by expanding the square instead of forming K sets of betas."""
    weighted = weights[:, None] * z
    error = (z * (weighted - 2 * partners)).sum(0)
    slope = update.T @ (weighted - partners)
    gram = update.T @ (weights[:, None] * update)
    result = []
    for k in range(len(change)):
        correction = gram[k, :k] @ change[:k] if k else torch.zeros_like(error)
        error = error - 2 * change[k] * (slope[k] - correction) + gram[k, k] * change[k].square()
        result.append(error)
    return torch.stack(result) if result else z.new_zeros((0, z.shape[1]))
