"""All figures of one fit, from the arrays that the engine left, the data, and the table of trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.names import build_name
from conform_bids.bids.spaces import Space
from conform_bids.glm.report.fit import MODEL_TITLES, UNIT_STATES, FigureContext, FitArrays
from conform_bids.glm.report.metrics import write_numbers
from conform_bids.glm.report.numbers import fit_numbers
from conform_bids.glm.report.quality import DISPLACED_MM
from conform_bids.glm.settings import GLMSettings
from conform_bids.report import figures as draw
from conform_bids.report.outliers import deviating

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw_figures"]


def draw_figures(
    result_dir: Path, space: Space, trials: pd.DataFrame, settings: GLMSettings, context: FigureContext, output_dir: Path
) -> list[Path]:
    """Draw the figures of one fit into ``sub-X/figures`` and write its numbers into ``sub-X[/ses-Y]/func``.

    Parameters
    ----------
    result_dir : Path
        The engine's folder: ``summary.json`` and one ``.npy`` an array.
    space : Space
        What the units are.
    trials : DataFrame
        The table of trials, a row a beta.
    settings : GLMSettings
        Of the run.
    context : FigureContext
        Names, runs, and what was set aside.
    output_dir : Path
        Root of the outputs.

    Returns
    -------
    list of Path
        The files written: figures, then the table of numbers and its sidecar.
    """
    fit = FitArrays(Path(result_dir), trials, context)

    def at(extension: str, suffix: str, **entities: str) -> Path:
        name = build_name({**context.entities, **entities}, suffix, extension)
        return Path(output_dir) / f"sub-{context.participant}" / "figures" / name

    figures = [*_draw_design(fit, at), *_draw_maps(fit, space, at), *_draw_choices(fit, settings, at), *_draw_quality(fit, at)]
    return [*figures, *write_numbers(fit_numbers(fit, space), Path(output_dir))]


def _draw_design(fit: FitArrays, at: Any) -> list[Path]:
    trials, runs = fit.trials, fit.context.runs
    onset = trials["onset"].to_numpy(dtype=float)
    spans = [run.n_volumes * run.repetition_time for run in runs]
    names = [str(name) for name in trials["stim_id"]]
    duration, labels = trials["duration"].to_numpy(dtype=float), fit.labels
    timing = draw.plot_raster(spans, fit.run_index, onset, duration, names, labels, at(".svg", "bold", desc="timing"))
    counts = trials["stim_id"].astype(str).value_counts(sort=False)
    tr = np.array([run.repetition_time for run in runs])[fit.run_index]
    start = np.array([run.start_time for run in runs])[fit.run_index]
    phase = np.mod(onset - start, tr)
    phase = np.where(tr - phase < 1e-3, 0.0, phase)  # a rounding error below the frame is on the frame
    longest = max((run.repetition_time for run in runs), default=1.0)
    tallies = {str(name): int(count) for name, count in sorted(counts.items(), key=str)}
    figures = [timing, draw.plot_onsets_and_repeats(tallies, phase, longest, at(".svg", "bold", desc="trials"))]
    if fit.collinearity:
        typical = [float(np.median(np.nan_to_num(run.inflation, posinf=1e6))) if len(run.inflation) else 0.0 for run in fit.collinearity]
        worst = int(np.argmax(typical))
        figures.append(
            draw.plot_collinearity(
                fit.collinearity[worst].correlation,
                labels[worst],
                np.array([run.by_distance() for run in fit.collinearity]),
                [run.inflation for run in fit.collinearity],
                labels,
                at(".svg", "bold", desc="collinearity"),
            )
        )
    return figures


def _draw_maps(fit: FitArrays, space: Space, at: Any) -> list[Path]:
    background = fit.array("mean")
    figures = []

    def add(values: NDArray[np.float64] | None, scale: draw.Scale, **entities: str) -> None:
        if values is not None and np.isfinite(values).any():
            path = at(".png", "statmap", **entities)
            figures.append(draw.plot_map(values, space, path, scale, background=background))

    onoff = fit.values("onoff_rsquared")
    add(onoff, _percent_scale("On/off R² (%)", onoff), stat="rsquared", desc="onoff")
    for model in fit.models:
        rsquared, ceiling = fit.values(f"{model}_rsquared"), fit.values(f"noise_ceiling_{model}")
        add(rsquared, _contrast_scale("R² (%)", rsquared), stat="rsquared", desc=model)
        add(ceiling, _percent_scale("Noise ceiling (%)", ceiling), stat="noiseceiling", desc=model)
    for stat, label, found in (
        ("reliability", "Odd-even reliability (r)", fit.reliability.get(fit.best)),
        ("singletrial", "Single-trial reliability (r)", fit.agreement.get(fit.best)),
    ):
        high = 1.0 if found is None else draw.robust_limit(found, most=1.0)
        add(found, draw.Scale(label, 0.0, high, floor=0.05 * high, start=0.18), stat=stat, desc=fit.best)
    if fit.survey is not None:
        tsnr = _mean_over_runs(fit.survey.tsnr)
        high = draw.robust_limit(tsnr, 99.0)
        add(tsnr, draw.Scale("Temporal SNR", 0.0, high, colour_map="viridis"), stat="tsnr", desc="preproc")
    states = fit.states
    if states is not None and (states > 0).any():
        present = [code for code in range(len(UNIT_STATES)) if (states == code).any()]
        codes = np.searchsorted(present, states).astype(float)
        add(codes, draw.Scale("", categories=tuple(UNIT_STATES[code] for code in present)), desc="setaside")
    return [*figures, *_draw_model_maps(fit, space, at)]


def _draw_model_maps(fit: FitArrays, space: Space, at: Any) -> list[Path]:
    """Where each unit stands among the choices: HRF, shrinkage, noise pool."""
    background, figures = fit.array("mean"), []

    def add(values: NDArray[np.float64], scale: draw.Scale, **entities: str) -> None:
        if np.isfinite(values).any():
            figures.append(draw.plot_map(values, space, at(".png", "statmap", **entities), scale, background=background))

    peaks = _times_to_peak(fit)
    if peaks is not None:
        low, high = _peak_range(fit)
        add(peaks, draw.Scale("HRF time to peak (s)", low, high, colour_map="viridis"), stat="hrfpeak", desc=fit.best)
    shrinkage = fit.values("conform_shrinkage")
    if shrinkage is not None and np.isfinite(shrinkage).any():
        low, high = (float(value) for value in np.percentile(shrinkage[np.isfinite(shrinkage)], [1, 99]))
        label = "log10 λ"
        add(shrinkage, draw.Scale(label, low, max(high, low + 1e-6), colour_map="cividis"), stat="shrinkage", desc="conform")
    fraction = fit.values("fraction")
    if fraction is not None:
        label = "Ridge fraction"
        add(fraction, draw.Scale(label, 0.0, 1.0, colour_map="cividis"), stat="fraction", desc="fithrfdenoiserr")
    pool, voters = fit.array("noise_pool"), fit.array("pc_voxels")
    if pool is not None and voters is not None and np.any(pool):
        codes = np.where(np.asarray(voters, bool), 2.0, np.where(np.asarray(pool, bool), 0.0, 1.0))
        names = (("noise pool", "#4c78a8"), ("neither", "#5b6470"), ("vote on their\nnumber", "#e69f00"))
        add(np.where(fit.valid, codes, np.nan), draw.Scale("", categories=names), desc="noisepool")
    return figures


def _mean_over_runs(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean over the runs that a unit has; NaN without any."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.asarray(np.where(known, values, 0).sum(axis=0) / np.where(count > 0, count, np.nan), dtype=np.float64)


def _times_to_peak(fit: FitArrays) -> NDArray[np.float64] | None:
    """Seconds to the peak of the chosen HRF; NaN in units that do not respond, where the choice means nothing."""
    index, library, times = fit.hrf_index(), fit.array("hrf_library"), fit.array("hrf_times")
    if index is None or library is None or times is None or library.ndim != 2 or library.shape[1] < 2:
        return None
    peaks = np.asarray(times, dtype=float)[np.argmax(np.asarray(library), axis=0)]
    chosen = np.asarray(index).astype(np.intp)
    return np.where(fit.responsive & (chosen >= 0), peaks[np.clip(chosen, 0, len(peaks) - 1)], np.nan)


def _peak_range(fit: FitArrays) -> tuple[float, float]:
    times, library = fit.array("hrf_times"), fit.array("hrf_library")
    peaks = np.asarray(times, dtype=float)[np.argmax(np.asarray(library), axis=0)]
    return float(peaks.min()), float(max(peaks.max(), peaks.min() + 0.1))


def _percent_scale(label: str, values: NDArray[np.float64] | None) -> draw.Scale:
    high = 1.0 if values is None else draw.robust_limit(values, most=100.0)
    return draw.Scale(label, 0.0, high, floor=0.05 * high, start=0.18)


def _contrast_scale(label: str, values: NDArray[np.float64] | None) -> draw.Scale:
    """From the lowest to the highest values: single trials explain much of any unit's variance, so that zero is far away."""
    finite = np.empty(0) if values is None else values[np.isfinite(values)]
    low = float(np.floor(np.percentile(finite, 2))) if finite.size else 0.0
    return draw.Scale(label, max(0.0, low), draw.robust_limit(finite, most=100.0), start=0.1)


def _draw_choices(fit: FitArrays, settings: GLMSettings, at: Any) -> list[Path]:
    """HRF, noise regressors, ridge fraction."""
    figures = []
    index, library, times = fit.hrf_index(), fit.array("hrf_library"), fit.array("hrf_times")
    if index is not None and library is not None and times is not None and library.ndim == 2 and library.shape[1] > 1:
        chosen = np.asarray(index)[fit.responsive]
        reference = fit.array("assumed_hrf")
        figures.append(
            draw.plot_curves_by_share(
                np.asarray(times), np.asarray(library), chosen[chosen >= 0].astype(np.int64), at(".svg", "bold", desc="hrf"),
                reference=None if reference is None else np.asarray(reference).ravel(), n_shown=f" of {len(chosen):,} responsive units",
            )
        )  # fmt: skip
    curve = fit.array("pc_curve")
    if curve is not None and np.isfinite(curve).all() and len(curve) > 1:
        note = "" if fit.summary.get("n_pcs_cross_validated", True) else " (as set, not cross-validated)"
        pool_r = fit.summary.get("pool_reliability")
        remark = "" if pool_r is None else f"odd-even r of the noise pool: {pool_r:.2f}"
        figures.append(
            draw.plot_curve(
                np.arange(len(curve)),
                np.asarray(curve) - curve[0],
                at(".svg", "bold", desc="pcs"),
                chosen=float(fit.summary["n_pcs"]),
                note=note,
                band=fit.array("pc_curve_se"),
                remark=remark,
                xlabel="Noise regressors",
                ylabel="Gain in prediction of repeats\n(sum of squared z-scores)",
            )
        )
    fraction = fit.values("fraction")
    if fraction is not None and np.isfinite(fraction).any():
        levels = np.array(sorted(set(fit.summary.get("fractions") or settings.fractions)))
        middle = (levels[1:] + levels[:-1]) / 2
        edges = np.r_[max(0.0, levels[0] - 0.025), middle, levels[-1] + 0.025]
        figures.append(
            draw.plot_histogram(
                fraction, at(".svg", "bold", desc="fraction"), xlabel="Ridge fraction (1: no regularisation)", bins=list(edges),
                subset=fit.responsive, names=("all units", "responsive units"),
            )
        )  # fmt: skip
    return figures


def _draw_quality(fit: FitArrays, at: Any) -> list[Path]:
    """Reliability over units; quality over runs; responses over the course of the fit."""
    figures = []
    for desc, found, label in (
        ("reliability", fit.reliability, "Odd-even correlation of condition betas (r)"),
        ("repeats", fit.agreement, "Correlation of single trials of the same condition (r)"),
    ):
        if found:
            rows = {MODEL_TITLES.get(model, model): values for model, values in found.items()}
            path = at(".svg", "bold", desc=desc)
            figures.append(draw.plot_distributions(rows, path, xlabel=label, limits=(-1, 1), subset=fit.responsive, zero=True))
    labels = fit.labels
    if panels := _run_panels(fit):
        figures.append(draw.plot_runs(panels, labels, at(".svg", "bold", desc="runs")))
    if np.isfinite(fit.trial_means).any():
        unit = "%" if fit.summary.get("units", "percent") == "percent" else "raw units"
        odd = deviating(fit.by_run(fit.trial_means))
        label = f"Mean response of\nresponsive units ({unit})"
        figures.append(draw.plot_course(fit.trial_means, fit.run_index, labels, at(".svg", "bold", desc="drift"), ylabel=label, odd=odd))
    return figures


def _run_panels(fit: FitArrays) -> list[draw.RunPanel]:
    """Quantities by run, of those that can be had."""
    panels = []
    by_run = fit.array(f"{fit.best}_rsquared_run")
    if by_run is not None and by_run.ndim == 2 and len(by_run) == len(fit.context.runs):
        panels.append(draw.RunPanel("R² (%),\nresponsive", [np.asarray(row)[fit.responsive] for row in by_run]))
    if fit.survey is not None:
        panels.append(draw.RunPanel("Temporal SNR", [row[fit.valid] for row in fit.survey.tsnr]))
    for name, label, line in (("framewise_displacement", "FD (mm)", DISPLACED_MM), ("std_dvars", "DVARS (std.)", None)):
        rows = [run.get(name, np.empty(0)) for run in fit.motion]
        if any(row.size for row in rows):
            panels.append(draw.RunPanel(label, rows, "high", line))
    return panels
