"""On/off response and the choice of an HRF a unit (GLMsingle's types A and B)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import RunData
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.least_squares import RunFactor, factorise_run, residual_sum_of_squares
from conform_bids.numerics.blocks import block_size, unit_blocks
from conform_bids.numerics.compute import Compute, to_numpy, to_tensor
from conform_bids.numerics.linalg import project_out

__all__ = ["fit_onoff", "library_rsquared", "percent_explained"]

FloatArray = npt.NDArray[np.float64]


def percent_explained(residual: FloatArray, total: FloatArray) -> FloatArray:
    """R2 in percent, 100 (1 - residual / total); NaN where there is no variance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, 100 * (1 - residual / total), np.nan)


def fit_onoff(data: RunData, design: Design, regressors: Sequence[FloatArray], compute: Compute) -> tuple[FloatArray, FloatArray]:
    """One regressor for all trials and runs.

    Parameters
    ----------
    data : RunData
        BOLD, base nuisance out.
    design : Design
        Trials and runs.
    regressors : sequence of (1, n_volumes, n_trials) arrays
        Of each run with the assumed HRF, base nuisance out.
    compute : Compute
        Resources.

    Returns
    -------
    beta : (n_units,) float64 array
        In the units of the data.
    rsquared : (n_units,) float64 array
        Percent of the variance (drifts out) over all runs.
    """
    n_units = data.n_units
    cross, fitted, total = np.zeros(n_units), np.zeros(n_units), np.zeros(n_units)
    gram = fitted_gram = 0.0
    size = block_size(4.0 * 3 * max(design.run_lengths), compute.memory_bytes)
    for run in range(design.n_runs):
        regressor = regressors[run][0].sum(axis=1, keepdims=True)
        clean = project_out(data.bases[run].extra, regressor)
        gram += float(clean[:, 0] @ clean[:, 0])
        fitted_gram += float(regressor[:, 0] @ regressor[:, 0])
        columns = to_tensor(np.column_stack([clean, regressor]), data.device)
        for block in unit_blocks(n_units, size):
            values = data.block(run, block)
            products = to_numpy(columns.T @ values)
            cross[block] += products[0]
            fitted[block] += products[1]
            total[block] += to_numpy(values.square().sum(0))
    beta = cross / gram if gram > 0 else np.zeros(n_units)
    residual = total - 2 * beta * fitted + beta**2 * fitted_gram
    return beta, percent_explained(residual, total)


def library_rsquared(data: RunData, design: Design, regressors: Sequence[FloatArray], compute: Compute) -> FloatArray:
    """R2 of the single-trial model with every HRF of the library: one matrix product a run and HRF.

    Parameters
    ----------
    data, design, compute
        As in `fit_onoff`.
    regressors : sequence of (n_hrfs, n_volumes, n_trials) arrays
        Of each run, base nuisance out.

    Returns
    -------
    (n_hrfs, n_units) float64 array
        Percent, over all runs.
    """
    residual = np.zeros((len(regressors[0]), data.n_units))
    total = np.zeros(data.n_units)
    for run in range(design.n_runs):
        factors = [factorise_run(columns, data.bases[run].extra, data.device) for columns in regressors[run]]
        stacked = torch.cat([factor.left for factor in factors], dim=1).T.contiguous()
        size = block_size(4.0 * (3 * design.run_lengths[run] + 2 * len(stacked)), compute.memory_bytes)
        for block in unit_blocks(data.n_units, size):
            values = data.block(run, block)
            block_total = values.square().sum(0)
            residual[:, block] += to_numpy(_residual_by_hrf(factors, stacked @ values, values, block_total))
            total[block] += to_numpy(block_total)
    return percent_explained(residual, total)


def _residual_by_hrf(factors: Sequence[RunFactor], projected: torch.Tensor, values: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Residual sum of squares (n_hrfs, n_units) from the stacked products U'Y of all HRFs."""
    result, row = [], 0
    for factor in factors:
        rank = factor.left.shape[1]
        part = projected[row : row + rank]
        row += rank
        if factor.extra.shape[1]:
            rotated = part / to_tensor(factor.singular, factor.device)[:, None]
            result.append(residual_sum_of_squares(factor, total, rotated, part, values))
        else:
            result.append(total - part.square().sum(0))
    return torch.stack(result)
