"""The numbers of one fit that reports show, from its arrays."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.spaces import Space
from conform_bids.glm.report.fit import FitArrays
from conform_bids.glm.report.metrics import FitNumbers
from conform_bids.glm.report.quality import DISPLACED_MM
from conform_bids.report.maps import has_mesh
from conform_bids.report.outliers import deviating

__all__ = ["fit_numbers"]

_UNITS = {
    "mean_framewise_displacement": "mm",
    "share_displaced": "%",
    "largest_run_deviation": "%",
}


def fit_numbers(fit: FitArrays, space: Space) -> FitNumbers:
    """Collect all numbers: of the fit, of each model, of each run."""
    values = {**_counts(fit), **_by_model(fit), **_quality(fit)}
    percent = {metric: "%" for metric, _ in values if "rsquared" in metric or "ceiling" in metric or "threshold" in metric}
    notes = tuple(dict.fromkeys([*map(str, fit.summary.get("notes", [])), *fit.context.notes]))
    return FitNumbers(
        entities=dict(fit.context.entities),
        values=values,
        units={**percent, **_UNITS},
        notes=notes,
        trials_set_aside=fit.context.trials_set_aside,
        trials_flagged=_flagged(fit),
        runs=tuple(_runs(fit)),
        drawn_as_maps=has_mesh(space),
    )


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _counts(fit: FitArrays) -> dict[tuple[str, str], float]:
    summary = fit.summary
    values = {"n_units": _number(summary["n_units"]), "n_units_valid": _number(summary["n_valid"])}
    values |= {f"n_units_{reason}": _number(count) for reason, count in summary.get("n_set_aside", {}).items()}
    if fit.states is not None:
        values["n_units_partial"] = float((fit.states == 1).sum())
    values["n_units_responsive"] = float(fit.responsive.sum())
    for key in ("n_trials", "n_conditions", "n_repeated", "n_runs", "n_noise_pool", "noise_pool_threshold", "pcs_threshold", "n_pcs"):
        values[key] = _number(summary.get(key))
    values["pool_reliability"] = _number(summary.get("pool_reliability"))
    values["n_trials_set_aside"] = float(len(fit.context.trials_set_aside))
    values["n_trials_flagged"] = float((fit.trials["flag"].astype(str) != "n/a").sum())
    values["median_onoff_rsquared"] = _median(fit.values("onoff_rsquared"), fit.valid)
    if (fraction := fit.values("fraction")) is not None:
        values["median_fraction"] = _median(fraction, fit.valid)
        values["median_fraction_responsive"] = _median(fraction, fit.responsive)
    return {(metric, ""): value for metric, value in values.items()}


def _by_model(fit: FitArrays) -> dict[tuple[str, str], float]:
    values = {}
    for model in fit.models:
        arrays = {
            "rsquared": fit.values(f"{model}_rsquared"),
            "noise_ceiling": fit.values(f"noise_ceiling_{model}"),
            "odd_even_r": fit.reliability.get(model),
            "single_trial_r": fit.agreement.get(model),
        }
        for metric, array in arrays.items():
            values[f"median_{metric}", model] = _median(array, fit.valid)
            values[f"median_{metric}_responsive", model] = _median(array, fit.responsive)
    return values


def _quality(fit: FitArrays) -> dict[tuple[str, str], float]:
    """Of the data and the design."""
    displacement = [run["framewise_displacement"] for run in fit.motion if "framewise_displacement" in run]
    dvars = [float(np.nanmean(run["std_dvars"])) for run in fit.motion if "std_dvars" in run]
    inflation = np.concatenate([run.inflation for run in fit.collinearity]) if fit.collinearity else np.empty(0)
    neighbours = np.array([run.by_distance(1)[0] for run in fit.collinearity])
    tsnr = np.empty(0) if fit.survey is None else fit.survey.tsnr[:, fit.valid]
    means = fit.by_run(fit.trial_means)
    means = means[np.isfinite(means)]
    centre = float(np.median(means)) if means.size else float("nan")
    values = {
        "median_tsnr": _mean([_median(np.asarray(row), np.isfinite(row)) for row in tsnr]),
        "mean_framewise_displacement": _mean([float(np.nanmean(run)) for run in displacement]),
        "share_displaced": _mean([_share_displaced(run) for run in displacement]),
        "mean_std_dvars": _mean(dvars),
        "median_variance_inflation": float(np.median(inflation)) if inflation.size else float("nan"),
        "max_variance_inflation": float(inflation.max()) if inflation.size else float("nan"),
        "mean_neighbour_r": _mean(neighbours),
        "design_efficiency": _efficiency(fit),
        "largest_run_deviation": 100 * float(np.abs(means - centre).max()) / abs(centre) if means.size > 1 and centre else float("nan"),
    }
    return {(metric, ""): value for metric, value in values.items()}


def _efficiency(fit: FitArrays) -> float:
    """Of all runs: one over the mean variance of the betas of their trials without a flag."""
    sound = fit.run_index[(fit.trials["flag"].astype(str) == "n/a").to_numpy()]
    counts = np.bincount(sound, minlength=len(fit.collinearity))
    runs = [(count, run.efficiency) for count, run in zip(counts, fit.collinearity, strict=False) if count]
    if not runs or min(efficiency for _, efficiency in runs) <= 0:
        return 0.0 if runs else float("nan")
    return float(sum(count for count, _ in runs) / sum(count / efficiency for count, efficiency in runs))


def _mean(values: Any) -> float:
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    return float(array.mean()) if array.size else float("nan")


def _share_displaced(displacement: NDArray[np.float64]) -> float:
    known = displacement[np.isfinite(displacement)]
    return 100 * float((known > DISPLACED_MM).mean())


def _runs(fit: FitArrays) -> list[dict[str, Any]]:
    """A record a run; numbers that cannot be had are left out."""
    context = fit.context
    per_run = np.bincount(fit.run_index, minlength=len(context.runs))
    by_run = fit.array(f"{fit.best}_rsquared_run")
    rsquared = [_median(row, fit.responsive) for row in by_run] if by_run is not None and len(by_run) == len(context.runs) else []
    tsnr = [] if fit.survey is None else [_median(row, fit.valid) for row in fit.survey.tsnr]
    means = fit.by_run(fit.trial_means)
    remarks = _remarks({"R² low": (rsquared, "low"), "tSNR low": (tsnr, "low"), "responses deviate": (means, "both")}, len(context.runs))
    records = []
    for index, (run, count, motion) in enumerate(zip(context.runs, per_run, fit.motion, strict=True)):
        numbers: dict[str, float] = {"MeanBeta": means[index]}
        if rsquared:
            numbers["MedianRSquared"] = rsquared[index]
        if tsnr:
            numbers["MedianTSNR"] = tsnr[index]
        if "framewise_displacement" in motion:
            share = _share_displaced(motion["framewise_displacement"])
            numbers |= {"MeanFD": float(np.nanmean(motion["framewise_displacement"])), "ShareDisplaced": share}
            remarks[index] += ["moved"] if share > 20 else []
        if "std_dvars" in motion:
            numbers["MeanStdDVARS"] = float(np.nanmean(motion["std_dvars"]))
        if fit.collinearity and len(fit.collinearity[index].inflation):
            numbers["MedianVarianceInflation"] = float(np.median(fit.collinearity[index].inflation))
            numbers["DesignEfficiency"] = fit.collinearity[index].efficiency
        records.append(
            {
                "Label": fit.labels[index],
                "Volumes": run.n_volumes,
                "RepetitionTime": run.repetition_time,
                "StartTime": run.start_time,
                "Trials": int(count),
                **{key: round(float(value), 4) for key, value in numbers.items() if np.isfinite(value)},
                "Remarks": remarks[index],
            }
        )
    return records


def _remarks(measures: dict[str, tuple[Any, str]], n_runs: int) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(n_runs)]
    for remark, (values, side) in measures.items():
        for index in np.flatnonzero(deviating(values, side)) if len(values) else ():
            found[index].append(remark)
    return found


def _flagged(fit: FitArrays) -> tuple[tuple[str, str, int], ...]:
    """Reason, run and number of the trials whose estimate is unreliable."""
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for flag, run in zip(fit.trials["flag"].astype(str), fit.run_index, strict=True):
        if flag != "n/a":
            counts[flag, int(run)] += 1
    return tuple((reason, fit.labels[run], count) for (reason, run), count in counts.items())


def _median(values: NDArray[np.floating] | None, members: NDArray[np.bool_]) -> float:
    shown = np.empty(0) if values is None else np.asarray(values)[members & np.isfinite(values)]
    return float(np.median(shown)) if shown.size else float("nan")
