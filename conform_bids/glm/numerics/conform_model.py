"""The model ``conform``: noise regressors and serial correlation out first, then HRF, then label-free shrinkage.

It takes the noise regressors and their number as GLMdenoise finds them, makes the noise white by one autoregressive model of the noise
pool, chooses the HRF of each unit again on what is left, and estimates betas by evidence ridge. No step after the count of regressors
sees a condition label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.glm.numerics.data import RunData
from conform_bids.glm.numerics.design import Design, NuisanceBases
from conform_bids.glm.numerics.evidence_ridge import EvidenceEstimate, estimate_evidence_betas
from conform_bids.glm.numerics.hrf_selection import library_rsquared
from conform_bids.glm.numerics.whitening import fit_autoregression, whitening_filter
from conform_bids.numerics.compute import Compute
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


def fit_conform(
    runs: Sequence[npt.NDArray[np.float32]],
    data: RunData,
    design: Design,
    regressors: Sequence[FloatArray],
    pcs: Sequence[FloatArray],
    covariances: Sequence[FloatArray],
    units: npt.NDArray[np.intp],
    compute: Compute,
    betas: npt.NDArray[np.float32],
    *,
    whiten: bool,
    average_hrfs: bool,
) -> ConformFit:
    """Fit the model.

    Parameters
    ----------
    runs : sequence of (n_volumes, n_units) float32 arrays
        BOLD of each run.
    data : RunData
        The same with drifts and user regressors out.
    design, units, compute, betas
        As in `estimate_evidence_betas`.
    regressors : sequence of (n_hrfs, n_volumes, n_trials) arrays
        Of each run, drifts and user regressors out.
    pcs : sequence of (n_volumes, k) arrays
        The noise regressors that are used.
    covariances : sequence of (n_volumes, n_volumes) arrays
        Of the noise pool, `pool_covariances`.
    whiten, average_hrfs : bool
        See `whitens` and `averages_hrfs`.
    """
    nuisances = [orthonormal_basis(np.column_stack([basis.base, pc])) for basis, pc in zip(data.bases, pcs, strict=True)]
    coefficients = fit_autoregression(covariances, nuisances, ORDER) if whiten else np.zeros(0)
    filters = [whitening_filter(coefficients, length) for length in design.run_lengths]
    bases = [
        NuisanceBases(orthonormal_basis(matrix @ nuisance), np.zeros((len(matrix), 0)))
        for matrix, nuisance in zip(filters, nuisances, strict=True)
    ]
    clean = RunData(runs, bases, compute.device, filters=filters if coefficients.any() else None)
    columns = [
        np.stack([project_out(basis.base, matrix @ hrf) for hrf in library])
        for basis, matrix, library in zip(bases, filters, regressors, strict=True)
    ]
    rsquared = library_rsquared(clean, design, columns, compute)
    index = np.argmax(np.where(np.isfinite(rsquared), rsquared, -np.inf), axis=0)
    extras = [basis.extra for basis in bases]
    estimate = estimate_evidence_betas(clean, design, columns, index, extras, units, compute, betas, average_hrfs=average_hrfs)
    return ConformFit(estimate, index, coefficients, average_hrfs)
