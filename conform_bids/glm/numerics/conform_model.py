"""The model ``conform``: noise regressors and serial correlation out first, then HRF, then label-free shrinkage.

It takes the noise regressors and their number as GLMdenoise finds them, makes the noise white by one autoregressive model of the noise
pool, chooses the HRF of each unit again on what is left, now by evidence, and estimates betas by evidence ridge. No step after the
count of regressors sees a condition label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import CleanData
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.estimate import BetaSink
from conform_bids.glm.numerics.evidence_ridge import EvidenceEstimate, estimate_evidence_betas
from conform_bids.glm.numerics.groups import block_units, factorise_library, unit_groups
from conform_bids.glm.numerics.hrf_evidence import EvidenceScan
from conform_bids.glm.numerics.hrf_selection import best_hrf
from conform_bids.glm.numerics.whitening import fit_autoregression, whitening_filter
from conform_bids.numerics.compute import Compute, map_blocks, to_tensor
from conform_bids.numerics.linalg import orthonormal_basis, project_out

__all__ = ["ConformFit", "averages_hrfs", "fit_conform", "whitens"]

FloatArray = npt.NDArray[np.float64]
ORDER = 4
BLOCK_SECONDS = 8.0
"""Stimuli of this duration and longer count as blocks, whose responses look like the noise that whitening removes."""
FAST_SECONDS = 3.5
"""Below this median distance between onsets responses overlap so much that averaging over HRFs pays."""


@dataclass(frozen=True)
class ConformFit:
    """What the model gives.

    Attributes
    ----------
    estimate : EvidenceEstimate
        Betas, R2, shrinkage and scale.
    hrf_index : (n_units,) int array
        HRF chosen with noise regressors and serial correlation out.
    autoregression : (order,) float64 array
        Coefficients; empty where the data were not whitened.
    averaged : bool
        Whether betas are averages over the HRFs of the library.
    """

    estimate: EvidenceEstimate
    hrf_index: npt.NDArray[np.intp]
    autoregression: FloatArray
    averaged: bool


def whitens(setting: str, design: Design) -> bool:
    """Whether to whiten: ``ar``, ``none``, or ``auto``, which whitens event-related designs and leaves blocks alone."""
    return setting == "ar" or (setting == "auto" and float(np.median(design.duration)) < BLOCK_SECONDS)


def averages_hrfs(setting: str, design: Design) -> bool:
    """Whether to average over HRFs: ``on``, ``off``, or ``auto``, which averages where trials follow each other fast."""
    if setting != "auto":
        return setting == "on"
    gaps = [np.diff(design.onset[design.trials_of(run)]) for run in range(design.n_runs)]
    distances = np.concatenate(gaps) if gaps else np.zeros(0)
    return len(distances) > 0 and float(np.median(distances)) < FAST_SECONDS


@dataclass(frozen=True)
class _Whitened:
    """The data with noise regressors and serial correlation out, never formed: what is needed of them lies in the factors and here.

    With F the filter and Q a basis of the filtered nuisance, a factor U of the filtered design is orthogonal to Q, so that
    U'(1 - QQ')Fy = (F'U)'y; and |(1 - QQ')Fy|^2 = |Fy|^2 - |(F'Q)'y|^2.
    """

    data: CleanData
    sums: FloatArray

    @property
    def n_units(self) -> int:
        return self.data.n_units

    def totals(self, units: npt.NDArray[np.intp]) -> FloatArray:
        return self.sums[:, units]

    def rows(self, units: npt.NDArray[np.intp]) -> list[torch.Tensor]:
        return self.data.rows(units)


class _Filter:
    """Sums of squares of the filtered data, filtered nuisance out."""

    def __init__(self, coefficients: FloatArray, matrices: Sequence[FloatArray], nuisances: Sequence[FloatArray], device: str) -> None:
        self._coefficients = [float(value) for value in coefficients]
        order = len(self._coefficients)
        self._starts = [to_tensor(matrix[:order, :order].T, device) for matrix in matrices]
        self._nuisances = [to_tensor(nuisance.T @ matrix, device) for matrix, nuisance in zip(matrices, nuisances, strict=True)]

    def total(self, run: int, values: torch.Tensor) -> torch.Tensor:
        """Of a run (n, n_volumes), (n,)."""
        filtered = values
        order = len(self._coefficients)
        if order:
            filtered = values.clone()
            for lag, coefficient in enumerate(self._coefficients, start=1):
                filtered[:, lag:].sub_(values[:, :-lag], alpha=coefficient)
            filtered[:, :order] = values[:, :order] @ self._starts[run]
        length = torch.linalg.vector_norm(filtered, dim=1).square()
        nuisance = (self._nuisances[run] @ values.T).square_().sum(0)
        return torch.clamp(length - nuisance, min=0)


def fit_conform(
    data: CleanData,
    design: Design,
    regressors: Sequence[FloatArray],
    pcs: Sequence[FloatArray],
    covariances: Sequence[FloatArray],
    units: npt.NDArray[np.intp],
    present: npt.NDArray[np.bool_],
    compute: Compute,
    sink: BetaSink,
    ordinary: BetaSink | None = None,
    *,
    whiten: bool,
    average_hrfs: bool,
) -> ConformFit:
    """Fit the model.

    Parameters
    ----------
    data : CleanData
        BOLD with drifts and user regressors out.
    design, compute, sink, ordinary
        As in `estimate_evidence_betas`.
    regressors : sequence of (n_hrfs, n_volumes, n_trials) arrays
        Of each run, drifts and user regressors out.
    pcs : sequence of (n_volumes, k) arrays
        The noise regressors that are used.
    covariances : sequence of (n_volumes, n_volumes) arrays
        Of the noise pool, `noise_regressors`.
    units : (n,) int array
        Units to fit.
    present : (n_runs, n_units) bool array
        Runs that hold each unit.
    whiten, average_hrfs : bool
        See `whitens` and `averages_hrfs`.
    """
    nuisances = [orthonormal_basis(np.column_stack([basis.base, pc])) for basis, pc in zip(data.bases, pcs, strict=True)]
    coefficients = fit_autoregression(covariances, nuisances, ORDER) if whiten else np.zeros(0)
    # a run as short as the filter's start-up has nothing to filter
    if not coefficients.any() or min(design.run_lengths) <= ORDER:
        coefficients = np.zeros(0)
    matrices = [whitening_filter(coefficients, length) for length in design.run_lengths]
    filters = matrices if coefficients.size else None
    filtered = [orthonormal_basis(matrix @ nuisance) for matrix, nuisance in zip(matrices, nuisances, strict=True)]

    def filtered_columns(run: int) -> FloatArray:
        return project_out(filtered[run], regressors[run] if filters is None else matrices[run] @ regressors[run])

    columns = map_blocks(filtered_columns, range(design.n_runs), compute)
    none = [np.zeros((len(basis), 0)) for basis in filtered]
    n_free = np.array(design.run_lengths) - np.array([basis.shape[1] for basis in filtered])
    factors = factorise_library(columns, none, range(len(regressors[0])), compute, filters)
    evidence_scan = EvidenceScan(factors, n_free, data.n_units, compute)
    data_filter = _Filter(coefficients, matrices, filtered, compute.device)
    sums = np.zeros((design.n_runs, data.n_units))

    def visit(run: int, block: slice, values: torch.Tensor) -> None:
        total = data_filter.total(run, values)
        sums[run, block] = total.cpu().numpy()
        evidence_scan.visit(run, block, values, total)

    data.scan(visit, compute)
    index = best_hrf(evidence_scan.result(compute))
    if not average_hrfs:
        factors = {int(hrf): factors[int(hrf)] for hrf in np.unique(index[units])}
    groups = unit_groups(units, index, present, block_units(design, compute))
    whitened = _Whitened(data, sums)
    estimate = estimate_evidence_betas(whitened, design, factors, groups, n_free, compute, sink, ordinary, average_hrfs=average_hrfs)
    return ConformFit(estimate, index, coefficients, average_hrfs)
