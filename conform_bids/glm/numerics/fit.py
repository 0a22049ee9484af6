"""The whole fit of one set of runs, stage by stage: survey, on/off, HRF, noise regressors, betas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conform_bids.glm.numerics.conform_model import ConformFit, averages_hrfs, fit_conform, whitens
from conform_bids.glm.numerics.data import RunData, UnitSurvey, survey_units
from conform_bids.glm.numerics.denoise import (
    RepeatScorer,
    choose_count,
    count_badness,
    noise_pool,
    noise_regressors,
    pool_covariances,
)
from conform_bids.glm.numerics.design import Design, exact_regressors, nuisance_bases, rounded_regressors
from conform_bids.glm.numerics.estimate import Estimate, RidgeChoice, estimate_betas, estimate_separate_betas
from conform_bids.glm.numerics.hrf_selection import fit_onoff, library_rsquared
from conform_bids.glm.numerics.models import feasible_models
from conform_bids.glm.numerics.threshold import find_r2_threshold
from conform_bids.numerics.compute import Compute, limit_threads
from conform_bids.numerics.folds import RepeatPairs, pair_repeats
from conform_bids.numerics.hrf import HRFLibrary, response_at, sample_library_glmsingle
from conform_bids.numerics.linalg import extend_basis, project_out

__all__ = ["FitOptions", "FitResult", "ModelFit", "fit_models"]

FloatArray = npt.NDArray[np.float64]
Allocate = Callable[[str, tuple[int, ...]], npt.NDArray[np.float32]]
FALLBACK_VOTERS = 100
DENOISED = frozenset({"fithrfdenoise", "fithrfdenoiserr", "conform"})


@dataclass(frozen=True)
class FitOptions:
    """What decides a result; defaults are GLMsingle's.

    Attributes
    ----------
    models : tuple of str
        Of assumehrf, fithrf, fithrfdenoise, fithrfdenoiserr.
    compat : bool
        Reproduce GLMsingle: onsets rounded to volumes, user regressors only where it has them, constant units kept.
    n_pcs, pcs_stop : int, float
        Most noise regressors; see `choose_count`. ``pcs_stop <= 0``: that many, negated, without cross-validation.
    pcs_r2, noise_pool_r2 : float or None
        On/off R2 (percent) above which units vote, below which they may be noise; None: found from the data.
    brain_threshold : (float, float)
        Percentile and fraction of `noise_pool`.
    fractions : tuple of float
        Ridge fractions.
    autoscale, lss, percent : bool
        Match ridge betas to the ordinary ones; least squares separate for fithrf; percent signal change instead of raw units.
    whiten, hrf_averaging : str
        Of the model conform: auto, none or ar; auto, on or off.
    seed : int
        Of the mixture that finds the R2 threshold.
    """

    models: tuple[str, ...] = ("fithrf", "fithrfdenoiserr")
    compat: bool = False
    n_pcs: int = 10
    pcs_stop: float = 1.05
    pcs_r2: float | None = None
    noise_pool_r2: float | None = None
    brain_threshold: tuple[float, float] = (99.0, 0.1)
    fractions: tuple[float, ...] = tuple(round(1 - 0.05 * step, 2) for step in range(20))
    autoscale: bool = True
    lss: bool = False
    percent: bool = True
    whiten: str = "auto"
    hrf_averaging: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class ModelFit:
    """One model: betas (n_trials, n_units) float32, R2 (n_units,) and by run (n_runs, n_units) in percent; NaN where set aside."""

    betas: npt.NDArray[np.float32]
    rsquared: FloatArray
    rsquared_run: FloatArray


@dataclass(frozen=True)
class FitResult:
    """All that a fit gives; arrays are by unit unless said otherwise.

    Attributes
    ----------
    survey : UnitSurvey
        Means, and units that are not finite, empty or constant.
    valid : bool array
        Units that were fitted.
    onoff_beta, onoff_rsquared : float64 arrays
        Type A: one regressor for all trials, in the units of the betas; percent.
    models : dict of ModelFit
        By name.
    hrf_index : int array
        Index into the library; -1 where set aside. HRF 0 where no library was fitted.
    library_rsquared : (n_hrfs, n_units) float64 array
        R2 with each HRF.
    noise_pool, pc_voxels : bool arrays
        Units that gave noise regressors, and that voted on their number.
    noise_pool_threshold, pcs_threshold : float
        On/off R2, percent.
    pcs : list of (n_volumes, K) arrays
        Noise regressors of each run.
    n_pcs : int
        How many are used.
    pc_curve : (K + 1,) array
        Cross-validated gain; empty where nothing was cross-validated.
    fraction : float64 array
        Ridge fraction; NaN where none was fitted.
    ridge_badness : (n_fractions, n_units) array or None
        Cross-validation error.
    scale_offset : (2, n_units) array or None
        Applied to the ridge betas, raw units.
    conform : ConformFit or None
        What the model conform chose.
    notes : tuple of str
        Fallbacks that were taken.
    """

    survey: UnitSurvey
    valid: npt.NDArray[np.bool_]
    onoff_beta: FloatArray
    onoff_rsquared: FloatArray
    models: dict[str, ModelFit] = field(default_factory=dict)
    hrf_index: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    library_rsquared: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    noise_pool: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    pc_voxels: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    noise_pool_threshold: float = float("nan")
    pcs_threshold: float = float("nan")
    pcs: list[FloatArray] = field(default_factory=list)
    n_pcs: int = 0
    pc_curve: FloatArray = field(default_factory=lambda: np.zeros(0))
    fraction: FloatArray = field(default_factory=lambda: np.zeros(0))
    ridge_badness: FloatArray | None = None
    scale_offset: FloatArray | None = None
    conform: ConformFit | None = None
    notes: tuple[str, ...] = ()


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
        self.runs = runs
        self.survey = survey_units(runs)
        usable = self.survey.finite & ~self.survey.empty
        self.valid = usable if options.compat else usable & ~self.survey.constant
        self.units = np.flatnonzero(self.valid)
        bases = nuisance_bases(design, regressors_in_base=not options.compat)
        self.data = RunData(runs, bases, compute.device, self.survey.constant if options.compat else None)
        self.assumed = self._regressors(assumed, assumed_hrf=True)
        self.library = self._regressors(library, assumed_hrf=False) if set(options.models) != {"assumehrf"} else self.assumed
        self.pairs: RepeatPairs = pair_repeats(design.condition, design.run, design.folds, design.train)
        self.models: dict[str, ModelFit] = {}

    def _regressors(self, library: HRFLibrary, *, assumed_hrf: bool) -> list[FloatArray]:
        """Regressors of each run with every HRF, base nuisance out: (n_hrfs, n_volumes, n_trials) a run."""
        if self.options.compat:
            duration = float(np.median(self.design.duration)) if self.design.n_trials else 0.0
            curves = sample_library_glmsingle(library, duration, self.design.tr, assumed=assumed_hrf)
            columns = rounded_regressors(self.design, curves)
        else:
            columns = exact_regressors(self.design, lambda duration, times: response_at(library, duration, times))
        return [np.stack([project_out(basis.base, hrf) for hrf in columns(run)]) for run, basis in enumerate(self.data.bases)]

    def user_extras(self) -> list[FloatArray]:
        """Bases of user regressors that are fitted but stay in what R2 is measured on (compat)."""
        return [basis.extra for basis in self.data.bases]

    def extras_with(self, n_pcs: int, pcs: Sequence[FloatArray]) -> list[FloatArray]:
        """Extra bases of the denoised models. GLMsingle drops the user's regressors where it uses no noise regressor (quirk 2)."""
        if n_pcs == 0:
            return [basis.extra[:, :0] for basis in self.data.bases]
        return [
            np.column_stack([basis.extra, extend_basis(basis.extra, pc[:, :n_pcs])]) for basis, pc in zip(self.data.bases, pcs, strict=True)
        ]

    def estimate(
        self,
        name: str,
        regressors: Sequence[FloatArray],
        hrf_index: npt.NDArray[np.intp],
        extras: Sequence[FloatArray],
        ridge: RidgeChoice | None = None,
    ) -> Estimate:
        """Fit one model and keep its betas in the output's units; the estimate is returned for the ridge's choices."""
        betas = self.allocate(f"{name}_betas", (self.design.n_trials, self.data.n_units))
        betas[:] = np.nan
        estimate = estimate_betas(self.data, self.design, regressors, hrf_index, extras, self.units, self.compute, betas, ridge)
        if self.options.lss and name == "fithrf":
            estimate_separate_betas(self.data, self.design, regressors, hrf_index, extras, self.units, self.compute, betas)
        self._keep(name, betas, estimate.rsquared, estimate.rsquared_run)
        return estimate

    def _keep(self, name: str, betas: npt.NDArray[np.float32], rsquared: FloatArray, rsquared_run: FloatArray) -> None:
        if self.options.percent:
            scale = self.percent_scale().astype(np.float32)
            for row in betas:
                row *= scale
        self.models[name] = ModelFit(betas, rsquared, rsquared_run)

    def conform(self, covariances: Sequence[FloatArray], pcs: Sequence[FloatArray]) -> ConformFit:
        """Fit the model ``conform`` with the noise regressors that were chosen."""
        betas = self.allocate("conform_betas", (self.design.n_trials, self.data.n_units))
        betas[:] = np.nan
        fitted = fit_conform(
            self.runs,
            self.data,
            self.design,
            self.library,
            pcs,
            covariances,
            self.units,
            self.compute,
            betas,
            whiten=whitens(self.options.whiten, self.design) and any(covariance.any() for covariance in covariances),
            average_hrfs=averages_hrfs(self.options.hrf_averaging, self.design),
        )
        self._keep("conform", betas, fitted.estimate.rsquared, fitted.estimate.rsquared_run)
        return fitted

    def percent_scale(self) -> FloatArray:
        """Factor from raw to percent signal change; NaN where the mean is not a positive or negative number."""
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 100 / np.abs(self.survey.mean)
        return np.where(np.isfinite(scale), scale, np.nan)

    def choose_hrfs(self) -> tuple[npt.NDArray[np.intp], FloatArray]:
        """HRF of each unit: the one with the highest R2, the first of equals."""
        rsquared = library_rsquared(self.data, self.design, self.library, self.compute)
        index = np.argmax(np.where(np.isfinite(rsquared), rsquared, -np.inf), axis=0)
        return index, rsquared

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
        pool = self.valid & noise_pool(mean, onoff_rsquared, percentile=percentile, fraction=fraction, rsquared_below=threshold)
        if not pool.any():
            self.notes.append("The noise pool is empty, so no noise regressors were used.")
        return pool

    def voters(self, onoff_rsquared: FloatArray, threshold: float) -> npt.NDArray[np.bool_]:
        """Units that vote on the number of noise regressors; the best 100 where none passes the threshold."""
        with np.errstate(invalid="ignore"):
            chosen = self.valid & (onoff_rsquared > threshold)
        if not chosen.any():
            order = np.argsort(np.where(self.valid, np.nan_to_num(onoff_rsquared, nan=-np.inf), -np.inf))[::-1]
            chosen[order[:FALLBACK_VOTERS]] = True
            chosen &= self.valid
            self.notes.append(
                f"No unit has an on/off R2 above {threshold:.3g} %; the {int(chosen.sum())} best voted on the number of noise regressors."
            )
        return chosen

    def count_pcs(
        self, pcs: Sequence[FloatArray], hrf_index: npt.NDArray[np.intp], voters: npt.NDArray[np.bool_]
    ) -> tuple[int, FloatArray]:
        """Number of noise regressors, and the cross-validated gain of 0, 1, ... of them."""
        available = min(pc.shape[1] for pc in pcs)
        if self.options.pcs_stop <= 0:
            return min(round(-self.options.pcs_stop), available), np.zeros(0)
        if available == 0 or not self.pairs.any:
            return 0, np.zeros(0)
        badness = count_badness(self.data, self.design, self.library, hrf_index, pcs, self.pairs, np.flatnonzero(voters), self.compute)
        trend = -np.nanmedian(badness, axis=1)
        curve = trend - trend[0]
        return choose_count(curve, self.options.pcs_stop), curve

    def ridge(self) -> RidgeChoice:
        """How the fractional ridge chooses; fractions unique and descending."""
        fractions = tuple(sorted(set(self.options.fractions), reverse=True))
        scorer = RepeatScorer(self.design, self.pairs, self.compute.device) if len(fractions) > 1 else None
        return RidgeChoice(fractions, scorer, self.options.autoscale)


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
    with limit_threads(compute.n_threads):
        fit = _Fit(runs, design, library, assumed, options, compute, allocate)
        return _run_stages(fit)


def _run_stages(fit: _Fit) -> FitResult:
    options = fit.options
    models, notes = feasible_models(
        options.models, can_cross_validate=fit.pairs.any, pcs_stop=options.pcs_stop, n_fractions=len(set(options.fractions))
    )
    fit.notes.extend(notes)
    onoff_beta, onoff_rsquared = fit_onoff(fit.data, fit.design, fit.assumed, fit.compute)
    onoff_rsquared[~fit.valid] = onoff_beta[~fit.valid] = np.nan
    result: dict[str, object] = {}
    hrf_index = np.zeros(fit.data.n_units, np.intp)
    if "assumehrf" in models:
        fit.estimate("assumehrf", fit.assumed, hrf_index, fit.user_extras())
    if set(models) != {"assumehrf"}:
        hrf_index, result["library_rsquared"] = fit.choose_hrfs()
    if "fithrf" in models:
        fit.estimate("fithrf", fit.library, hrf_index, fit.user_extras())
    if set(models) & DENOISED:
        result |= _fit_denoised(fit, models, hrf_index, onoff_rsquared)
    kept = fit.valid | fit.survey.empty if options.compat else fit.valid
    return FitResult(
        survey=fit.survey,
        valid=fit.valid,
        onoff_beta=onoff_beta * (fit.percent_scale() if options.percent else 1.0),
        onoff_rsquared=onoff_rsquared,
        models=fit.models,
        hrf_index=np.where(kept, hrf_index, -1),
        notes=tuple(fit.notes),
        **result,  # type: ignore[arg-type]
    )


def _fit_denoised(fit: _Fit, models: Sequence[str], hrf_index: npt.NDArray[np.intp], onoff_rsquared: FloatArray) -> dict[str, object]:
    """Models with noise regressors; fields of the result."""
    options = fit.options
    pool_threshold, pcs_threshold = fit.thresholds(onoff_rsquared)
    pool, voters = fit.pool(onoff_rsquared, pool_threshold), fit.voters(onoff_rsquared, pcs_threshold)
    wanted = options.n_pcs if options.pcs_stop > 0 else round(-options.pcs_stop)
    covariances = pool_covariances(fit.data, pool, fit.compute)
    pcs = noise_regressors(covariances, wanted)
    n_pcs, curve = fit.count_pcs(pcs, hrf_index, voters)
    extras = fit.extras_with(n_pcs, pcs)
    result: dict[str, object] = {"noise_pool": pool, "pc_voxels": voters, "noise_pool_threshold": pool_threshold}
    result |= {"pcs_threshold": pcs_threshold, "pcs": pcs, "n_pcs": n_pcs, "pc_curve": curve}
    if "fithrfdenoise" in models:
        fit.estimate("fithrfdenoise", fit.library, hrf_index, extras)
    if "fithrfdenoiserr" in models:
        ridge = fit.estimate("fithrfdenoiserr", fit.library, hrf_index, extras, fit.ridge())
        result |= {"ridge_badness": ridge.badness, "scale_offset": ridge.scale_offset}
        fraction = np.full(fit.data.n_units, np.nan) if ridge.fraction is None else ridge.fraction
        # GLMsingle gives an all-zero unit HRF 0 and fraction 1 (quirk 11)
        result["fraction"] = np.where(fit.survey.empty, 1.0, fraction) if options.compat else fraction
    if "conform" in models:
        result["conform"] = fit.conform(covariances, [pc[:, :n_pcs] for pc in pcs])
    return result
