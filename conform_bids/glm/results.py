"""Results of a fit on disk: one array a file, and a summary of numbers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.bids.derivatives import write_json
from conform_bids.bids.scratch import map_array
from conform_bids.errors import UnusableInputError
from conform_bids.glm.engine_glmsingle import fit_with_glmsingle
from conform_bids.glm.files import Plan
from conform_bids.glm.load import LoadedFit, hrf_libraries
from conform_bids.glm.numerics.fit import FitOptions, FitResult, fit_models
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.hrf import response_at, sample_library_glmsingle
from conform_bids.numerics.noise_ceiling import noise_ceiling
from conform_bids.wording import counted

__all__ = ["fit_and_store", "fit_options"]

HRF_STEP = 0.1
_LOGGER = logging.getLogger("conform.glm")


@dataclass(frozen=True)
class _Store:
    """A folder of arrays; large ones are memory maps that the engine fills."""

    folder: Path

    def allocate(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        path = self.folder / f"{name}.npy"
        array = map_array(path, shape)
        if name == "clean_data":
            path.unlink()  # scratch: it lives while it is mapped, and a killed process leaves nothing behind
        return array

    def put(self, name: str, array: npt.ArrayLike) -> None:
        np.save(self.folder / f"{name}.npy", np.asarray(array), allow_pickle=False)


def fit_options(plan: Plan) -> FitOptions:
    """What the settings mean for the engine."""
    settings = plan.settings
    return FitOptions(
        models=plan.models,
        compat=settings.compat == "glmsingle",
        n_pcs=settings.n_pcs,
        pcs_stop=settings.pcs_stop,
        pcs_r2=settings.pcs_r2,
        noise_pool_r2=settings.noise_pool_r2,
        brain_threshold=(settings.brain_threshold[0], settings.brain_threshold[1]),
        fractions=settings.fractions,
        autoscale=settings.autoscale,
        lss=settings.lss,
        percent=settings.units == "percent",
        whiten=settings.whiten,
        hrf_averaging=settings.hrf_averaging,
        pcs_rule=settings.pcs_rule,
        ordinary="ols" in settings.write,
        seed=plan.random_seed,
    )


def fit_and_store(plan: Plan, loaded: LoadedFit, folder: Path, compute: Compute) -> list[Path]:
    """Fit the models of a plan and store what they give.

    Returns
    -------
    list of Path
        ``summary.json`` and one ``.npy`` an array (see docs, "how it is built").

    Raises
    ------
    UnusableInputError
        When no unit can be fitted, naming the run that is to blame.
    """
    store = _Store(folder)
    library, assumed = hrf_libraries(plan, loaded.design.tr)
    options = fit_options(plan)
    if plan.settings.engine == "glmsingle":
        result = fit_with_glmsingle(loaded.runs, loaded.design, plan.settings, options, library, assumed, folder)
        for name, model in result.models.items():
            store.put(f"{name}_betas", model.betas)
    else:
        result = fit_models(loaded.runs, loaded.design, library, assumed, options, compute, store.allocate)
    if not (result.valid.any() and result.survey.present.any(axis=1).all()):  # a run without any usable unit is a broken file
        raise UnusableInputError(_why_nothing_is_left(plan, loaded, result))
    _store_arrays(store, plan, loaded, result)
    _store_curves(store, plan, loaded)
    write_json(_summary(plan, loaded, result, library.names), folder / "summary.json")
    for line in _told(plan, result):
        _LOGGER.info(line)
    return [*sorted(folder.glob("*.npy")), folder / "summary.json"]


def _why_nothing_is_left(plan: Plan, loaded: LoadedFit, result: FitResult) -> str:
    """Name the run without a usable unit; there may be none, where each run lacks others."""
    if result.near_zero.any():
        return (
            f"{plan.runs[0].bold[0]}: nothing to fit, as no unit has a mean that percent signal change could be of (are these residuals?); "
            "--units raw needs none"
        )
    for run, values in zip(plan.runs, loaded.runs, strict=True):
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(values).all(axis=0) & (np.ptp(values, axis=0) > 0)
        if not usable.any():
            return f"{run.bold[0]}: nothing to fit, as every unit is constant, empty or not finite"
    return f"{plan.runs[0].bold[0]}: nothing to fit, as no unit is usable in enough runs of the fit"


def _store_arrays(store: _Store, plan: Plan, loaded: LoadedFit, result: FitResult) -> None:
    store.put("mean", result.survey.mean)
    store.put("valid", result.valid)
    store.put("onoff_rsquared", result.onoff_rsquared)
    store.put("onoff_beta", result.onoff_beta)
    store.put("hrf_index", result.hrf_index)
    if result.near_zero.size:
        store.put("near_zero", result.near_zero)
    absent = _absent(plan, result)
    for name, model in result.models.items():
        store.put(f"{name}_rsquared", model.rsquared)
        store.put(f"{name}_rsquared_run", model.rsquared_run)
        if plan.has_repeats:
            store.put(f"noise_ceiling_{name}", _ceiling(model.betas, loaded, absent))
    if result.ordinary is not None and plan.has_repeats:
        store.put("noise_ceiling_conformols", _ceiling(result.ordinary, loaded, absent))
    if "fithrfdenoiserr" in result.models:
        store.put("fraction", result.fraction)
    if result.conform is not None:
        store.put("conform_hrf_index", np.where(result.valid, result.conform.hrf_index, -1))
        store.put("conform_scale", result.conform.estimate.scale)
        store.put("conform_shrinkage", result.conform.estimate.shrinkage)
    if result.noise_pool.size:
        store.put("noise_pool", result.noise_pool)
        store.put("pc_voxels", result.pc_voxels)
        store.put("pc_curve", result.pc_curve)
        store.put("pc_curve_se", result.pc_curve_se)
        for run, pcs in enumerate(result.pcs):
            store.put(f"pcs_{run:03d}", pcs)


def _store_curves(store: _Store, plan: Plan, loaded: LoadedFit) -> None:
    """Curves as modelled, for the report and the table: on a 0.1-s grid, or in compat at the volumes, as they were used."""
    library, assumed = hrf_libraries(plan, loaded.design.tr)
    duration = float(np.median(loaded.design.duration))
    if plan.settings.compat:
        curves = sample_library_glmsingle(library, duration, loaded.design.tr).astype(np.float64)
        times = np.arange(len(curves)) * loaded.design.tr
        own: Callable[[], npt.NDArray[Any]] = lambda: sample_library_glmsingle(assumed, duration, loaded.design.tr, assumed=True)  # noqa: E731
        assumed_curve = np.interp(times, np.arange(len(own())) * loaded.design.tr, own()[:, 0], right=0.0)
    else:
        times = np.round(np.arange(0, 50 + HRF_STEP / 2, HRF_STEP), 3)
        curves = response_at(library, duration, times)
        assumed_curve = response_at(assumed, duration, times)[:, 0]
    store.put("hrf_times", times)
    store.put("hrf_library", curves)
    store.put("assumed_hrf", assumed_curve)


def _summary(plan: Plan, loaded: LoadedFit, result: FitResult, hrf_names: tuple[str, ...]) -> dict[str, Any]:
    survey, trials = result.survey, loaded.trials
    aside = ~result.valid & ~(result.near_zero if result.near_zero.size else np.zeros_like(result.valid))
    counts = trials.groupby("condition").size()
    sessions = [run.session for run in plan.runs if run.session is not None]
    return {
        "n_units": len(result.valid),
        "n_valid": int(result.valid.sum()),
        "n_set_aside": {
            "constant": int((survey.constant & survey.finite & ~survey.empty & aside).sum()),
            "nan": int((~survey.finite & aside).sum()),
            "empty": int(survey.empty.sum()),
            "near_zero_mean": int(result.near_zero.sum()),
        },
        "n_absent_from_runs": int(_absent(plan, result).any(axis=0).sum()),
        "n_trials": len(trials),
        "n_flagged": dict(Counter(flag for flag in trials["flag"] if flag != "n/a")),
        "n_conditions": len(counts),
        "n_repeated": int((counts > 1).sum()),
        "n_runs": len(plan.runs),
        "sessions": list(dict.fromkeys(sessions)),
        "noise_pool_threshold": _number(result.noise_pool_threshold),
        "pcs_threshold": _number(result.pcs_threshold),
        "n_pcs": result.n_pcs,
        "n_pcs_cross_validated": bool(result.pc_curve.size),
        "pc_curve": [round(float(gain), 6) for gain in result.pc_curve],
        "pc_curve_se": [round(float(error), 6) for error in result.pc_curve_se],
        "autoregression": [] if result.conform is None else [round(float(value), 6) for value in result.conform.autoregression],
        "hrfs_averaged": result.conform is not None and result.conform.averaged,
        "n_noise_pool": int(result.noise_pool.sum()),
        "pool_reliability": _number(result.pool_reliability),
        "notes": list(dict.fromkeys((*plan.notes, *result.notes, *_more_notes(plan, loaded, result)))),
        "polynomial_degree": list(loaded.design.polynomial_degree),
        "hrf_names": list(hrf_names),
        "fractions": sorted(set(plan.settings.fractions), reverse=True),
        "models": list(result.models),
        "units": plan.settings.units,
    }


def _absent(plan: Plan, result: FitResult) -> npt.NDArray[np.bool_]:
    """Runs that fitted units are absent from, (n_runs, n_units); none for GLMsingle, which fits what is constant in a run."""
    as_glmsingle = plan.settings.compat is not None or plan.settings.engine == "glmsingle"
    return np.asarray(~result.survey.present & result.valid & (not as_glmsingle))


def _ceiling(betas: npt.NDArray[np.float32], loaded: LoadedFit, absent: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Noise ceiling of every unit, of the trials of the runs that have it."""
    design = loaded.design
    sessions = design.session[design.run]
    ceiling = noise_ceiling(betas, design.condition, sessions)
    partial = np.flatnonzero(absent.any(axis=0))
    patterns, which = np.unique(absent[:, partial], axis=1, return_inverse=True)
    for index, pattern in enumerate(patterns.T):
        rows, units = np.flatnonzero(~pattern[design.run]), partial[np.ravel(which) == index]
        ceiling[units] = noise_ceiling(betas[np.ix_(rows, units)], design.condition[rows], sessions[rows])
    return ceiling


def _told(plan: Plan, result: FitResult) -> Iterator[str]:
    """Lines for the log: how the number of noise regressors was found, and what the noise pool holds."""
    if not result.noise_pool.any():
        return
    yield f"{plan.name}: {counted(result.n_pcs, 'noise regressor')} from {counted(int(result.noise_pool.sum()), 'unit')} of the noise pool"
    if result.pc_curve.size:
        errors = result.pc_curve_se if result.pc_curve_se.size else np.full(result.pc_curve.shape, np.nan)  # GLMsingle gives none
        curve = ", ".join(f"{k}: {gain:.4g} ({error:.2g})" for k, (gain, error) in enumerate(zip(result.pc_curve, errors, strict=True)))
        yield f"{plan.name}: cross-validated gain by number of noise regressors (standard error): {curve}"
    if np.isfinite(result.pool_reliability):
        yield f"{plan.name}: odd-even reliability of the noise pool {result.pool_reliability:.3f}; well above 0, the pool holds signal"


def _more_notes(plan: Plan, loaded: LoadedFit, result: FitResult) -> Iterator[str]:
    """What only shows once the data are read: fewer noise regressors than were asked for, units without a mean."""
    settings = plan.settings
    wanted = round(-settings.pcs_stop) if settings.pcs_stop <= 0 else settings.n_pcs
    available = min((pcs.shape[1] for pcs in result.pcs), default=wanted)
    if result.noise_pool.any() and available < wanted:
        option = "--pcs-stop" if settings.pcs_stop <= 0 else "--n-pcs"
        yield f"{option} asks for up to {wanted} noise regressors; the noise pool and the shortest run give {available}"
    absent = _absent(plan, result)
    if absent.any():
        yield (
            f"{counted(int(absent.any(axis=0).sum()), 'unit is', 'units are')} absent from some runs (constant, not finite or outside of "
            "the mask there); the betas of those runs' trials are NaN"
        )
    if result.near_zero.any():
        yield (
            f"{counted(int(result.near_zero.sum()), 'unit was', 'units were')} set aside, as the mean is smaller than the standard "
            "deviation, so that no percentage can be taken of it; --units raw keeps them"
        )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
