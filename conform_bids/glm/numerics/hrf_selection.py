"""On/off response and the fit of every HRF of a library (GLMsingle's types A and B), worked out while the data pass by once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.design import Design, NuisanceBases
from conform_bids.glm.numerics.least_squares import RunFactor, factorise_hrfs, fit_spans
from conform_bids.numerics.compute import Compute, map_blocks, to_numpy, to_tensor
from conform_bids.numerics.linalg import project_out

__all__ = ["LibraryScan", "OnOffScan", "best_hrf", "percent_explained"]

FloatArray = npt.NDArray[np.float64]


def percent_explained(residual: FloatArray, total: FloatArray) -> FloatArray:
    """R2 in percent, 100 (1 - residual / total); NaN where there is no variance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, 100 * (1 - residual / total), np.nan)


def best_hrf(merit: FloatArray) -> npt.NDArray[np.intp]:
    """HRF of each unit, (n_units,): the one with the highest R2 or evidence of (n_hrfs, n_units), the first of equals."""
    return np.argmax(np.where(np.isfinite(merit), merit, -np.inf), axis=0)


class OnOffScan:
    """One regressor for all trials and runs.

    Parameters
    ----------
    n_units : int
        Number of units.
    bases : sequence of NuisanceBases
        Of each run.
    regressors : sequence of (1, n_volumes, n_trials) arrays
        Of each run with the assumed HRF, base nuisance out.
    device : str
        Where blocks come from.
    """

    def __init__(self, n_units: int, bases: Sequence[NuisanceBases], regressors: Sequence[FloatArray], device: str) -> None:
        summed = [columns[0].sum(axis=1, keepdims=True) for columns in regressors]
        clean = [project_out(basis.extra, column) for basis, column in zip(bases, summed, strict=True)]
        self._columns = [to_tensor(np.stack([column[:, 0] for column in pair]), device) for pair in zip(clean, summed, strict=True)]
        # by run, as a unit that is absent from a run has no share of it
        self._gram = np.array([float((column**2).sum()) for column in clean])
        self._fitted_gram = np.array([float((column**2).sum()) for column in summed])
        self._products = np.zeros((2, len(summed), n_units))
        self._total = np.zeros((len(summed), n_units))

    def visit(self, run: int, units: slice, values: torch.Tensor, total: torch.Tensor) -> None:
        """See `RunScan`."""
        self._products[:, run, units] = to_numpy(self._columns[run] @ values.T)
        self._total[run, units] = to_numpy(total)

    def result(self) -> tuple[FloatArray, FloatArray]:
        """Beta in the units of the data and R2 in percent of the variance (drifts out) over the runs that hold the unit, (n_units,)."""
        here = self._total > 0
        gram, fitted_gram = self._gram @ here, self._fitted_gram @ here
        cross, fitted = self._products.sum(axis=1)
        beta = np.divide(cross, gram, out=np.zeros_like(cross), where=gram > 0)
        total = self._total.sum(axis=0)
        return beta, percent_explained(total - 2 * beta * fitted + beta**2 * fitted_gram, total)


class LibraryScan:
    """R2 of the single-trial model with every HRF of the library: one matrix product a run.

    Parameters
    ----------
    design : Design
        Trials and runs.
    bases : sequence of NuisanceBases
        Of each run.
    regressors : sequence of (n_hrfs, n_volumes, n_trials) arrays
        Of each run, base nuisance out.
    n_units : int
        Number of units.
    compute : Compute
        Resources.
    """

    def __init__(
        self,
        design: Design,
        bases: Sequence[NuisanceBases],
        regressors: Sequence[FloatArray],
        n_units: int,
        compute: Compute,
    ) -> None:
        self._n_hrfs = len(regressors[0])

        def products(run: int) -> _RunTerms:
            return _run_terms(regressors[run], bases[run].extra, compute.device)

        self._runs = map_blocks(products, range(design.n_runs), compute)
        self._residual = np.zeros((self._n_hrfs, n_units))
        self._total = np.zeros(n_units)

    def visit(self, run: int, units: slice, values: torch.Tensor, total: torch.Tensor) -> None:
        """See `RunScan`."""
        directions, leaks, extra, _ = self._runs[run]
        shape = (self._n_hrfs, -1, len(values))
        if len(directions):
            explained = (directions @ values.T).square_().view(shape).sum(1)
        else:
            explained = values.new_zeros((self._n_hrfs, len(values)))
        if len(leaks):
            inside = (leaks @ values.T).view(shape)
            explained += (inside * (2 * (extra @ values.T) - inside)).sum(1)
        self._residual[:, units] += to_numpy(total - explained)
        self._total[units] += to_numpy(total)

    def spans(self) -> list[FloatArray] | None:
        """Weights of `fit_spans` of each run; None where a run's fit has a basis taken out of the regressors."""
        weights = [run.weights for run in self._runs if run.weights is not None]
        return weights if len(weights) == len(self._runs) else None

    def result(self) -> FloatArray:
        """R2 in percent over all runs, (n_hrfs, n_units)."""
        return percent_explained(self._residual, self._total)


class _RunTerms(NamedTuple):
    """What turns a run's data into the share that every HRF explains.

    Attributes
    ----------
    directions : (n_hrfs * rank, n_volumes) tensor
        Transposed orthonormal bases U of the regressors, padded to the same rank: |U'y|^2 is explained.
    leaks : (n_hrfs * p, n_volumes) tensor
        N S^-1 U', which gives the part N b of the fit that lies in the basis E of `least_squares`; no rows without such a basis.
    extra : (p, n_volumes) tensor
        E'.
    weights : (n_hrfs, n_trials, rank) array or None
        What turns U'y into betas, where there is no basis E.
    """

    directions: torch.Tensor
    leaks: torch.Tensor
    extra: torch.Tensor
    weights: FloatArray | None


def _run_terms(regressors: FloatArray, extra: FloatArray, device: str) -> _RunTerms:
    if extra.shape[1] == 0:
        nothing = to_tensor(np.zeros((0, len(extra))), device)
        spans = fit_spans(regressors, extra)
        directions = spans.directions.transpose(0, 2, 1).reshape(-1, len(extra))
        return _RunTerms(to_tensor(directions, device), nothing, nothing, spans.weights)
    factors = factorise_hrfs(regressors, extra, device)
    rank = max(factor.left.shape[1] for factor in factors)
    padded = [torch.nn.functional.pad(factor.left.T, (0, 0, 0, rank - factor.left.shape[1])) for factor in factors]
    return _RunTerms(torch.cat(padded), torch.cat([_leak(factor) for factor in factors]), to_tensor(extra.T, device), None)


def _leak(factor: RunFactor) -> torch.Tensor:
    return to_tensor(factor.leak / factor.singular, factor.device) @ factor.left.T
