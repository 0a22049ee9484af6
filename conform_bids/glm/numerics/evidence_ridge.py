"""Label-free ridge: single-trial betas shrunk towards the unit's own mean response, as much as the data say.

Model of a unit: y = X(mu 1 + w) + e, w ~ N(0, lambda s2 I), e ~ N(0, s2 I), mu with a flat prior, nuisance out of y and X. With X of
a run = U S V', c = S U'y and a = V'1, everything is closed form: the evidence of each lambda of a grid, and the posterior mean of the
betas given it. Betas are averaged over the grid by the evidence; no cross-validation and no condition labels are involved, so it
works with one run and without repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import RunData
from conform_bids.glm.numerics.denoise import units_by_hrf
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.hrf_selection import percent_explained
from conform_bids.glm.numerics.least_squares import RunFactor, factorise_run, residual_sum_of_squares
from conform_bids.numerics.blocks import block_size, index_blocks
from conform_bids.numerics.compute import Compute, to_numpy, to_tensor

__all__ = ["LAMBDAS", "EvidenceEstimate", "estimate_evidence_betas"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
LAMBDAS = 10.0 ** np.linspace(-3, 1, 9)
"""Grid of the ratio of the variance of responses to that of the noise."""


@dataclass(frozen=True)
class EvidenceEstimate:
    """Betas and what they were shrunk by.

    Attributes
    ----------
    betas : (n_trials, n_units) float32 array
        In the units of the data.
    rsquared : (n_units,) float64 array
        Percent, of the betas with the chosen HRF, nuisance out.
    rsquared_run : (n_runs, n_units) float64 array
        Percent within each run.
    shrinkage : (n_units,) float64 array
        Posterior mean of log10 lambda, with the chosen HRF.
    scale : (n_units,) float64 array
        Slope of the ordinary betas on these: multiplying by it undoes the shrinkage of amplitudes.
    """

    betas: npt.NDArray[np.float32]
    rsquared: FloatArray
    rsquared_run: FloatArray
    shrinkage: FloatArray
    scale: FloatArray


class _EvidenceSolver:
    """Closed forms of one HRF, its runs stacked."""

    def __init__(self, factors: Sequence[RunFactor], n_free: int) -> None:
        device = factors[0].device
        energy = np.concatenate([factor.singular**2 for factor in factors])
        sums = np.concatenate([factor.right.sum(0) for factor in factors])
        shrink = 1 / (1 + LAMBDAS[:, None] * energy)
        information = np.maximum((sums**2 * energy * shrink).sum(1), np.finfo(float).tiny)
        self.n_free = n_free
        self.factors = factors
        self.information = torch.from_numpy(information).to(device)
        self.penalty = torch.from_numpy(-np.log(shrink).sum(1) + np.log(information)).to(device)
        self.shrink = to_tensor(shrink, device)
        self.gain = to_tensor(LAMBDAS[:, None] * shrink, device)
        self.linear = to_tensor(sums * shrink, device)
        self.sums = to_tensor(sums, device)[:, None]
        self.singular = to_tensor(np.sqrt(energy), device)[:, None]
        self.unseen = [to_tensor(1 - factor.right @ factor.right.sum(0), device)[:, None] for factor in factors]
        self.rotations = [to_tensor(factor.right, device) for factor in factors]

    def log_evidence(self, cross: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log evidence (n_lambdas, n_units) and the mean response mu given each lambda, from c (rank, n_units) and y'y."""
        score = (self.linear @ cross).double()
        explained = (self.gain @ cross.square()).double() + score.square() / self.information[:, None]
        rest = torch.clamp(total.double() - explained, min=1e-9 * total.double().clamp(min=1e-30))
        evidence = -0.5 * (self.n_free - 1) * rest.log() - 0.5 * self.penalty[:, None]
        return evidence, (score / self.information[:, None]).float()

    def solve(self, projected: Sequence[torch.Tensor], total: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Betas (n_trials, n_units), their rotated form a run, and the log evidence of each lambda."""
        cross = self.singular * torch.cat(list(projected))
        evidence, mean = self.log_evidence(cross, total)
        weight = torch.softmax(evidence, dim=0).float()
        rotated = cross * (self.gain.T @ weight) + self.sums * (self.shrink.T @ (weight * mean))
        parts = list(rotated.split([part.shape[0] for part in projected]))
        average = (weight * mean).sum(0)
        betas = [rotation @ part + unseen * average for rotation, part, unseen in zip(self.rotations, parts, self.unseen, strict=True)]
        return torch.cat(betas), parts, evidence

    def ordinary(self, projected: Sequence[torch.Tensor]) -> torch.Tensor:
        """Ordinary least-squares betas."""
        betas = [factor.weights() @ part for factor, part in zip(self.factors, projected, strict=True)]
        return torch.cat(betas)


def estimate_evidence_betas(
    data: RunData,
    design: Design,
    regressors: Sequence[FloatArray],
    hrf_index: IntArray,
    extras: Sequence[FloatArray],
    units: IntArray,
    compute: Compute,
    betas: npt.NDArray[np.float32],
    *,
    average_hrfs: bool,
) -> EvidenceEstimate:
    """Estimate betas by evidence ridge; parameters as in `estimate_betas`.

    Parameters
    ----------
    average_hrfs : bool
        Average betas over all HRFs of the library by their evidence, instead of taking those of ``hrf_index``.
    """
    n_units = data.n_units
    residual, total = np.full((design.n_runs, n_units), np.nan), np.full((design.n_runs, n_units), np.nan)
    shrinkage, scale = np.full(n_units, np.nan), np.full(n_units, np.nan)
    used = sum(basis.base.shape[1] for basis in data.bases) + sum(extra.shape[1] for extra in extras)
    n_free = sum(design.run_lengths) - used
    size = block_size(4.0 * (8 * design.n_trials + 3 * sum(design.run_lengths)), compute.memory_bytes, largest=2048)

    def solver_of(hrf: int) -> _EvidenceSolver:
        factors = [factorise_run(regressors[run][hrf], extra, data.device) for run, extra in enumerate(extras)]
        return _EvidenceSolver(factors, n_free)

    library = [solver_of(hrf) for hrf in range(len(regressors[0]))] if average_hrfs else []
    log_lambda = torch.from_numpy(np.log10(LAMBDAS))
    for hrf, members in units_by_hrf(hrf_index[units]):
        solver = library[hrf] if average_hrfs else solver_of(hrf)
        for part in index_blocks(members, size):
            block = units[part]
            values = [data.block(run, block) for run in range(design.n_runs)]
            totals = torch.stack([_clean_total(v, f) for v, f in zip(values, solver.factors, strict=True)]).sum(0)
            projected = [factor.left.T @ v for factor, v in zip(solver.factors, values, strict=True)]
            chosen, rotated, evidence = solver.solve(projected, totals)
            final = _average(library, values, totals) if average_hrfs else chosen
            ordinary = solver.ordinary(projected)
            betas[:, block] = to_numpy(final)
            scale[block] = to_numpy(_slope(final, ordinary))
            weight = torch.softmax(evidence, dim=0)
            shrinkage[block] = (weight * log_lambda.to(weight.device)[:, None]).sum(0).cpu().numpy()
            sums = [v.square().sum(0) for v in values]
            residual[:, block] = to_numpy(
                torch.stack(
                    [
                        residual_sum_of_squares(f, s, b, w, v)
                        for f, s, b, w, v in zip(solver.factors, sums, rotated, projected, values, strict=True)
                    ]
                )
            )
            total[:, block] = to_numpy(torch.stack(sums))
    rsquared = percent_explained(residual.sum(0), total.sum(0))
    return EvidenceEstimate(betas, rsquared, percent_explained(residual, total), shrinkage, scale)


def _clean_total(values: torch.Tensor, factor: RunFactor) -> torch.Tensor:
    """Sum of squares of a run's data with the noise regressors out, by unit."""
    total = values.square().sum(0)
    if factor.extra.shape[1]:
        total = total - (factor.extra.T @ values).square().sum(0)
    return total


def _average(library: Sequence[_EvidenceSolver], values: Sequence[torch.Tensor], totals: torch.Tensor) -> torch.Tensor:
    """Betas averaged over HRFs, weighted by their evidence; one pass, rescaled as larger evidence is met."""
    top: torch.Tensor | None = None
    for solver in library:
        projected = [factor.left.T @ v for factor, v in zip(solver.factors, values, strict=True)]
        betas, _, evidence = solver.solve(projected, totals)
        log_weight = torch.logsumexp(evidence, dim=0)
        if top is None:
            top, mass, result = log_weight, torch.ones_like(log_weight), betas
            continue
        new_top = torch.maximum(top, log_weight)
        keep, add = (top - new_top).exp(), (log_weight - new_top).exp()
        result = result * keep.float() + betas * add.float()
        mass, top = mass * keep + add, new_top
    return result / mass.float()


def _slope(betas: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
    """Slope of the ordinary betas on the shrunken ones, by unit; NaN where those do not vary."""
    centred = betas - betas.mean(0)
    variance = centred.square().sum(0)
    slope = (centred * (ordinary - ordinary.mean(0))).sum(0) / variance
    return torch.where(variance > 0, slope, torch.full_like(slope, torch.nan))
