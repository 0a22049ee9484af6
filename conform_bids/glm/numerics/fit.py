"""The whole fit of one set of runs, stage by stage: survey, on/off, HRF, noise regressors, betas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from conform_bids.glm.numerics.conform_model import ConformFit, averages_hrfs, fit_conform, whitens
from conform_bids.glm.numerics.data import Allocate, CleanData, UnitSurvey, clean_runs
from conform_bids.glm.numerics.denoise import (
    choose_count,
    choose_fewest,
    count_badness,
    gain_curve,
    noise_pool,
    noise_regressors,
    pool_reliability,
)
from conform_bids.glm.numerics.design import Design, exact_regressors, nuisance_bases, rounded_regressors
from conform_bids.glm.numerics.estimate import BetaSink, Estimate, estimate_betas, estimate_separate_betas
from conform_bids.glm.numerics.fractional_ridge import RidgeChoice
from conform_bids.glm.numerics.groups import block_units, factorise_library, unit_groups
from conform_bids.glm.numerics.hrf_selection import LibraryScan, OnOffScan, best_hrf
from conform_bids.glm.numerics.least_squares import RunFactor
from conform_bids.glm.numerics.models import feasible_models
from conform_bids.glm.numerics.outcome import FitOptions, FitResult, ModelFit
from conform_bids.glm.numerics.threshold import find_r2_threshold
from conform_bids.numerics.compute import Compute, keep_threads, limit_threads, map_blocks
from conform_bids.numerics.folds import RepeatPairs, pair_repeats
from conform_bids.numerics.hrf import HRFLibrary, response_at, sample_library_glmsingle
from conform_bids.numerics.linalg import extend_basis, project_out

__all__ = ["FitOptions", "FitResult", "ModelFit", "fit_models"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
FALLBACK_VOTERS = 100
DENOISED = frozenset({"fithrfdenoise", "fithrfdenoiserr", "conform"})


class _Fit:
    """State of a fit while its stages run; `fit_models` tells them in order."""

    def __init__(
        self,
        runs: Sequence[npt.NDArray[np.float32]],
        design: Design,
        library: HRFLibrary,
        assumed: HRFLibrary,
        options: FitOptions,
        compute: Compute,
        allocate: Allocate,
    ) -> None:
        self.design, self.options, self.compute, self.allocate = design, options, compute, allocate
        self.notes: list[str] = []
        n_units = runs[0].shape[1]
        self.bases = nuisance_bases(design, regressors_in_base=not options.compat)
        self.assumed = self._regressors(assumed, assumed_hrf=True)
        self.fits_library = set(options.models) != {"assumehrf"}
        self.library = self._regressors(library, assumed_hrf=False) if self.fits_library else self.assumed
        self.pairs: RepeatPairs = pair_repeats(design.condition, design.run, design.folds, design.train)
        self.models: dict[str, ModelFit] = {}
        self._factors: dict[str, dict[int, list[RunFactor]]] = {}

        self.onoff = OnOffScan(n_units, self.bases, self.assumed, compute.device)
        scans = [LibraryScan(design, self.bases, self.library, n_units, compute)] if self.fits_library else []
        data, self.survey = clean_runs(runs, self.bases, compute, self._room, [self.onoff, *scans], strict=options.compat)
        assert data is not None
        self.data: CleanData = data
        self.library_rsquared = scans[0].result() if scans else np.zeros((0, 0))
        self.spans = scans[0].spans() if scans else None
        self.hrf_index = best_hrf(self.library_rsquared) if scans else np.zeros(n_units, np.intp)
        self._set_aside(self.survey)

    def _set_aside(self, survey: UnitSurvey) -> None:
        """Which units are fitted, in which runs."""
        n_runs = self.design.n_runs
        self.near_zero = np.zeros(self.data.n_units, bool)
        if self.options.compat:
            self.valid = survey.finite & ~survey.empty
            self.present = np.repeat(self.valid[None], n_runs, axis=0)
        else:
            self.valid = 2 * survey.present.sum(axis=0) >= n_runs
            if self.options.percent:
                with np.errstate(invalid="ignore"):
                    self.near_zero = self.valid & (np.abs(survey.mean) < survey.deviation)
                self.valid &= ~self.near_zero
            self.present = survey.present & self.valid
        self.units = np.flatnonzero(self.valid)
        self.complete = self.valid & self.present.all(axis=0)

    def _room(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Memory while it is there, else what the caller gives."""
        if 4.0 * np.prod(shape) <= self.compute.memory_bytes / 2:
            return np.empty(shape, np.float32)
        return self.allocate(name, shape)

    def _regressors(self, library: HRFLibrary, *, assumed_hrf: bool) -> list[FloatArray]:
        """Regressors of each run with every HRF, base nuisance out: (n_hrfs, n_volumes, n_trials) a run."""
        if self.options.compat:
            duration = float(np.median(self.design.duration)) if self.design.n_trials else 0.0
            curves = sample_library_glmsingle(library, duration, self.design.tr, assumed=assumed_hrf)
            columns = rounded_regressors(self.design, curves)
        else:
            columns = exact_regressors(self.design, lambda duration, times: response_at(library, duration, times))
        return map_blocks(lambda run: project_out(self.bases[run].base, columns(run)), range(self.design.n_runs), self.compute)

    def user_extras(self) -> list[FloatArray]:
        """Bases of user regressors that are fitted but stay in what R2 is measured on (compat)."""
        return [basis.extra for basis in self.bases]

    def extras_with(self, n_pcs: int, pcs: Sequence[FloatArray]) -> list[FloatArray]:
        """Extra bases of the denoised models. GLMsingle drops the user's regressors where it uses no noise regressor (quirk 2)."""
        if n_pcs == 0:
            return [basis.extra[:, :0] for basis in self.bases]
        return [np.column_stack([basis.extra, extend_basis(basis.extra, pc[:, :n_pcs])]) for basis, pc in zip(self.bases, pcs, strict=True)]

    def factors(self, name: str, regressors: Sequence[FloatArray], extras: Sequence[FloatArray]) -> dict[int, list[RunFactor]]:
        """Factors of the HRFs in use, kept under a name for the models that share them."""
        if name not in self._factors:
            hrfs = [0] if name == "assumed" else [int(hrf) for hrf in np.unique(self.hrf_index[self.units])]
            self._factors = {name: factorise_library(regressors, extras, hrfs, self.compute)}
        return self._factors[name]

    def sink(self, name: str) -> BetaSink:
        """Room for the betas of a model, NaN where nothing will be written."""
        betas = self.allocate(f"{name}_betas", (self.design.n_trials, self.data.n_units))
        return BetaSink(betas, self.percent_scale() if self.options.percent else np.ones(self.data.n_units))

    def estimate(
        self, name: str, extras: Sequence[FloatArray], ridge: RidgeChoice | None = None, *, ordinary: str | None = None
    ) -> Estimate:
        """Fit one model and keep its betas in the output's units; the estimate is returned for the ridge's choices.

        ``ordinary`` names the model that the ordinary betas beside those of the ridge are kept as.
        """
        assumed = name == "assumehrf"
        regressors = self.assumed if assumed else self.library
        hrf_index = np.zeros_like(self.hrf_index) if assumed else self.hrf_index
        # the factors differ by what is taken out of the regressors, by which the models come in order
        label = "assumed" if assumed else f"extras-{sum(extra.shape[1] for extra in extras)}"
        groups = unit_groups(self.units, hrf_index, self.present, block_units(self.design, self.compute))
        sink, second = self.sink(name), None if ordinary is None else self.sink(ordinary)
        factors = self.factors(label, regressors, extras)
        estimate = estimate_betas(self.data, self.design, factors, groups, self.compute, sink, ridge, second)
        if self.options.lss and name == "fithrf":
            estimate_separate_betas(self.data, self.design, regressors, extras, groups, self.compute, sink)
        if ordinary is not None and second is not None and estimate.ordinary is not None:
            self.models[ordinary] = ModelFit(second.betas, estimate.ordinary.rsquared, estimate.ordinary.rsquared_run)
        self.models[name] = ModelFit(sink.betas, estimate.rsquared, estimate.rsquared_run)
        return estimate

    def conform(self, covariances: Sequence[FloatArray], pcs: Sequence[FloatArray]) -> tuple[ConformFit, npt.NDArray[np.float32] | None]:
        """Fit the model ``conform`` with the noise regressors that were chosen."""
        sink = self.sink("conform")
        ordinary = self.sink("conformols") if self.options.ordinary else None
        fitted = fit_conform(
            self.data,
            self.design,
            self.library,
            pcs,
            covariances,
            self.units,
            self.present,
            self.compute,
            sink,
            ordinary,
            whiten=whitens(self.options.whiten, self.design) and any(covariance.any() for covariance in covariances),
            average_hrfs=averages_hrfs(self.options.hrf_averaging, self.design),
        )
        self.models["conform"] = ModelFit(sink.betas, fitted.estimate.rsquared, fitted.estimate.rsquared_run)
        return fitted, None if ordinary is None else ordinary.betas

    def percent_scale(self) -> FloatArray:
        """Factor from raw to percent signal change; NaN where the mean is not a positive or negative number."""
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 100 / np.abs(self.survey.mean)
        return np.where(np.isfinite(scale), scale, np.nan)

    def thresholds(self, onoff_rsquared: FloatArray) -> tuple[float, float]:
        """On/off R2 below which a unit may be noise, and above which it votes on the number of noise regressors."""
        options = self.options
        if options.noise_pool_r2 is not None and options.pcs_r2 is not None:
            return options.noise_pool_r2, options.pcs_r2
        found = find_r2_threshold(onoff_rsquared[self.valid], options.seed)
        return (
            found if options.noise_pool_r2 is None else options.noise_pool_r2,
            found if options.pcs_r2 is None else options.pcs_r2,
        )

    def pool(self, onoff_rsquared: FloatArray, threshold: float) -> npt.NDArray[np.bool_]:
        """Noise pool; GLMsingle's percentile counts units outside of the brain too, ours the fitted ones."""
        mean = self.survey.mean if self.options.compat else np.where(self.valid, self.survey.mean, np.nan)
        percentile, fraction = self.options.brain_threshold
        pool = self.complete & noise_pool(mean, onoff_rsquared, percentile=percentile, fraction=fraction, rsquared_below=threshold)
        if not pool.any():
            self.notes.append("The noise pool is empty, so no noise regressors were used.")
        return pool

    def voters(self, onoff_rsquared: FloatArray, threshold: float) -> npt.NDArray[np.bool_]:
        """Units that vote on the number of noise regressors; the best 100 where none passes the threshold."""
        with np.errstate(invalid="ignore"):
            chosen = self.complete & (onoff_rsquared > threshold)
        if not chosen.any():
            order = np.argsort(np.where(self.complete, np.nan_to_num(onoff_rsquared, nan=-np.inf), -np.inf))[::-1]
            chosen[order[:FALLBACK_VOTERS]] = True
            chosen &= self.complete
            self.notes.append(
                f"No unit has an on/off R2 above {threshold:.3g} %; the {int(chosen.sum())} best voted on the number of noise regressors."
            )
        return chosen

    def count_pcs(self, pcs: Sequence[FloatArray], voters: BoolArray) -> tuple[int, FloatArray, FloatArray]:
        """Number of noise regressors, the cross-validated gain of 0, 1, ... of them, and its standard error."""
        available = min(pc.shape[1] for pc in pcs)
        if self.options.pcs_stop <= 0:
            return min(round(-self.options.pcs_stop), available), np.zeros(0), np.zeros(0)
        if available == 0 or not self.pairs.any or not voters.any():
            return 0, np.zeros(0), np.zeros(0)
        units = np.flatnonzero(voters)
        badness = count_badness(self.data, self.design, self.library, self.hrf_index, pcs, self.pairs, units, self.compute, self.spans)
        curve, error = gain_curve(badness, self.compute)
        if self.options.pcs_rule == "smallest":
            return choose_fewest(curve, error), curve, error
        return choose_count(curve, self.options.pcs_stop), curve, error

    def ridge(self) -> RidgeChoice:
        """How the fractional ridge chooses; fractions unique and descending."""
        fractions = tuple(sorted(set(self.options.fractions), reverse=True))
        return RidgeChoice(fractions, len(fractions) > 1, self.options.autoscale)


def fit_models(
    runs: Sequence[npt.NDArray[np.float32]],
    design: Design,
    library: HRFLibrary,
    assumed: HRFLibrary,
    options: FitOptions,
    compute: Compute | None = None,
    allocate: Allocate | None = None,
) -> FitResult:
    """Estimate single-trial responses by GLMsingle's method (Prince et al., 2022, eLife 11:e77599).

    Parameters
    ----------
    runs : sequence of (n_volumes, n_units) float32 arrays
        BOLD of each run; may be memory maps.
    design : Design
        Trials and runs.
    library, assumed : HRFLibrary
        HRFs to choose from; the one of the on/off model and of assumehrf.
    options : FitOptions
        What decides the result.
    compute : Compute, optional
        Resources; they change nothing beyond rounding.
    allocate : callable, optional
        (name, shape) -> float32 array, for betas on disk.

    Returns
    -------
    FitResult
    """
    compute = compute or Compute()
    allocate = allocate or (lambda _, shape: np.empty(shape, np.float32))
    # threads take blocks; between blocks there are small matrices only, for which threads would wait on each other
    with limit_threads(1), keep_threads(compute):
        fit = _Fit(runs, design, library, assumed, options, compute, allocate)
        return _run_stages(fit)


def _run_stages(fit: _Fit) -> FitResult:
    options = fit.options
    models, notes = feasible_models(
        options.models, can_cross_validate=fit.pairs.any, pcs_stop=options.pcs_stop, n_fractions=len(set(options.fractions))
    )
    fit.notes.extend(notes)
    onoff_beta, onoff_rsquared = fit.onoff.result()
    onoff_rsquared[~fit.valid] = onoff_beta[~fit.valid] = np.nan
    if "assumehrf" in models:
        fit.estimate("assumehrf", fit.user_extras())
    if "fithrf" in models:
        fit.estimate("fithrf", fit.user_extras())
    result = _fit_denoised(fit, models, onoff_rsquared) if set(models) & DENOISED else {}
    kept = fit.valid | fit.survey.empty if options.compat else fit.valid
    return FitResult(
        survey=fit.survey,
        valid=fit.valid,
        near_zero=fit.near_zero,
        onoff_beta=onoff_beta * (fit.percent_scale() if options.percent else 1.0),
        onoff_rsquared=onoff_rsquared,
        models=fit.models,
        hrf_index=np.where(kept, fit.hrf_index, -1),
        library_rsquared=fit.library_rsquared,
        notes=tuple(fit.notes),
        **result,  # type: ignore[arg-type]
    )


def _fit_denoised(fit: _Fit, models: Sequence[str], onoff_rsquared: FloatArray) -> dict[str, object]:
    """Models with noise regressors; fields of the result."""
    options = fit.options
    pool_threshold, pcs_threshold = fit.thresholds(onoff_rsquared)
    pool, voters = fit.pool(onoff_rsquared, pool_threshold), fit.voters(onoff_rsquared, pcs_threshold)
    wanted = options.n_pcs if options.pcs_stop > 0 else round(-options.pcs_stop)
    covariances, pcs = noise_regressors(fit.data, pool, wanted, fit.compute)
    n_pcs, curve, curve_se = fit.count_pcs(pcs, voters)
    extras = fit.extras_with(n_pcs, pcs)
    result: dict[str, object] = {"noise_pool": pool, "pc_voxels": voters, "noise_pool_threshold": pool_threshold}
    result |= {"pcs_threshold": pcs_threshold, "pcs": pcs, "n_pcs": n_pcs, "pc_curve": curve, "pc_curve_se": curve_se}
    if fit.pairs.any:
        result["pool_reliability"] = pool_reliability(fit.data, fit.design, fit.library, fit.hrf_index, pool & fit.complete, fit.compute)
    if "fithrfdenoiserr" in models:
        ridge = fit.estimate("fithrfdenoiserr", extras, fit.ridge(), ordinary="fithrfdenoise" if "fithrfdenoise" in models else None)
        result |= {"ridge_badness": ridge.badness, "scale_offset": ridge.scale_offset}
        fraction = np.full(fit.data.n_units, np.nan) if ridge.fraction is None else ridge.fraction
        # GLMsingle gives an all-zero unit HRF 0 and fraction 1 (quirk 11)
        result["fraction"] = np.where(fit.survey.empty, 1.0, fraction) if options.compat else fraction
    elif "fithrfdenoise" in models:
        fit.estimate("fithrfdenoise", extras)
    if "conform" in models:
        result["conform"], result["ordinary"] = fit.conform(covariances, [pc[:, :n_pcs] for pc in pcs])
    return result
