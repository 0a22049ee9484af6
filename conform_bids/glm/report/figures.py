"""All figures of one fit, and its numbers, from the arrays that the engine left and the table of trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.names import build_name
from conform_bids.bids.spaces import Space
from conform_bids.glm.report.metrics import FitNumbers, write_numbers
from conform_bids.glm.settings import GLMSettings
from conform_bids.numerics.scores import odd_even_reliability
from conform_bids.report import figures as draw

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MODEL_TITLES", "FigureContext", "RunTiming", "draw_figures"]

MODEL_TITLES = {
    "assumehrf": "assumed HRF",
    "fithrf": "fitted HRF",
    "fithrfdenoise": "fitted HRF, denoised",
    "fithrfdenoiserr": "fitted HRF, denoised, ridge",
    "conform": "conform: denoised, white noise, evidence ridge",
}


@dataclass(frozen=True)
class RunTiming:
    """One run of the fit.

    Attributes
    ----------
    session_id, run_id : str or None
        Labels as in the table of trials (None: n/a).
    n_volumes : int
    repetition_time : float
        Seconds.
    start_time : float
        Seconds from the run's time zero to the moment that the first volume stands for.
    """

    session_id: str | None
    run_id: str | None
    n_volumes: int
    repetition_time: float
    start_time: float = 0.0

    @property
    def label(self) -> str:
        """Name of the run in figures."""
        parts = [f"{key} {label}" for key, label in (("ses", self.session_id), ("run", self.run_id)) if label]
        return " · ".join(parts) or "run"


@dataclass(frozen=True)
class FigureContext:
    """What figures and numbers need to know beside arrays and trials.

    Attributes
    ----------
    entities : mapping
        Entities of the fit's outputs, ``sub`` and space included.
    runs : tuple of RunTiming
        In the order of the fit.
    trials_set_aside : tuple of (str, str)
        Reason, and file and line, of each trial that was left out.
    notes : tuple of str
        Warnings of the planning, shown beside those of the engine.
    mean_framewise_displacement : float or None
        Mean over the runs, mm.
    """

    entities: Mapping[str, str]
    runs: tuple[RunTiming, ...]
    trials_set_aside: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    mean_framewise_displacement: float | None = None

    @property
    def participant(self) -> str:
        """Label without ``sub-``."""
        return self.entities["sub"]


class _Fit:
    """The engine's folder, its arrays memory-mapped, and what is derived from them once."""

    def __init__(self, result_dir: Path, trials: pd.DataFrame, context: FigureContext) -> None:
        self.folder = result_dir
        self.summary: dict[str, Any] = json.loads((result_dir / "summary.json").read_text(encoding="utf-8"))
        self.trials, self.context = trials, context
        self.models: list[str] = list(self.summary["models"])

    def array(self, name: str) -> NDArray[Any] | None:
        path = self.folder / f"{name}.npy"
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None

    def hrf_index(self) -> NDArray[Any] | None:
        """HRF of each unit, of the most refined model that was fitted."""
        own = self.array("conform_hrf_index") if self.models[-1:] == ["conform"] else None
        return self.array("hrf_index") if own is None else own

    def values(self, name: str) -> NDArray[np.float64] | None:
        """An array of one number a unit, NaN where the unit was set aside."""
        array = self.array(name)
        return None if array is None else np.where(self.valid, np.asarray(array, dtype=float), np.nan)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        return np.asarray(np.load(self.folder / "valid.npy", allow_pickle=False), dtype=bool)

    @cached_property
    def responsive(self) -> NDArray[np.bool_]:
        """Units whose on/off R2 exceeds the threshold of the vote on noise regressors; the best 5 % where few do or none is set."""
        rsquared = self.values("onoff_rsquared")
        if rsquared is None:
            return self.valid
        score = np.where(np.isfinite(rsquared), rsquared, -np.inf)
        threshold = self.summary.get("pcs_threshold")
        chosen = score > threshold if threshold is not None and np.isfinite(threshold) else np.zeros(len(score), bool)
        if chosen.sum() < 20 and self.valid.any():
            chosen = self.valid & (score >= np.quantile(score[self.valid], 0.95))
        return chosen & self.valid

    @cached_property
    def run_index(self) -> NDArray[np.intp]:
        """Run of each trial."""
        rows = {(run.session_id or "n/a", run.run_id or "n/a"): index for index, run in enumerate(self.context.runs)}
        labels = zip(self.trials["session_id"], self.trials["run_id"], strict=True)
        return np.array([rows[_label(session), _label(run)] for session, run in labels], dtype=np.intp)

    @cached_property
    def reliability(self) -> dict[str, NDArray[np.float64]]:
        """Odd-even correlation of condition means, by model."""
        condition = self.trials["condition"].to_numpy()
        found = {}
        for model in self.models:
            betas = self.array(f"{model}_betas")
            if betas is not None:
                found[model] = np.where(self.valid, odd_even_reliability(betas, condition, self.run_index), np.nan)
        return {model: values for model, values in found.items() if np.isfinite(values).any()}


def _label(value: Any) -> str:
    """A label of the table as text; missing values are n/a."""
    return "n/a" if value is None or value != value else str(value)


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
    fit = _Fit(Path(result_dir), trials, context)

    def at(extension: str, suffix: str, **entities: str) -> Path:
        name = build_name({**context.entities, **entities}, suffix, extension)
        return Path(output_dir) / f"sub-{context.participant}" / "figures" / name

    figures = [*_draw_design(fit, at), *_draw_maps(fit, space, at), *_draw_choices(fit, settings, at), *_draw_quality(fit, at)]
    return [*figures, *write_numbers(_numbers(fit, space), Path(output_dir))]


def _draw_design(fit: _Fit, at: Any) -> list[Path]:
    trials, runs = fit.trials, fit.context.runs
    onset = trials["onset"].to_numpy(dtype=float)
    spans = [run.n_volumes * run.repetition_time for run in runs]
    names = [str(name) for name in trials["stim_id"]]
    duration, labels = trials["duration"].to_numpy(dtype=float), [run.label for run in runs]
    timing = draw.plot_raster(spans, fit.run_index, onset, duration, names, labels, at(".svg", "bold", desc="timing"))
    counts = trials["stim_id"].astype(str).value_counts(sort=False)
    tr = np.array([run.repetition_time for run in runs])[fit.run_index]
    start = np.array([run.start_time for run in runs])[fit.run_index]
    phase = np.mod(onset - start, tr)
    phase = np.where(tr - phase < 1e-3, 0.0, phase)  # a rounding error below the frame is on the frame
    longest = max((run.repetition_time for run in runs), default=1.0)
    return [
        timing,
        draw.plot_onsets_and_repeats(
            {str(name): int(count) for name, count in sorted(counts.items(), key=str)}, phase, longest, at(".svg", "bold", desc="trials")
        ),
    ]


def _draw_maps(fit: _Fit, space: Space, at: Any) -> list[Path]:
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
    pool, voters = fit.array("noise_pool"), fit.array("pc_voxels")
    if pool is not None and voters is not None and np.any(pool):
        codes = np.where(np.asarray(voters, bool), 2.0, np.where(np.asarray(pool, bool), 0.0, 1.0))
        names = (("noise pool", "#4c78a8"), ("neither", "#5b6470"), ("vote on their\nnumber", "#e69f00"))
        add(np.where(fit.valid, codes, np.nan), draw.Scale("", categories=names), desc="noisepool")
    return figures


def _percent_scale(label: str, values: NDArray[np.float64] | None) -> draw.Scale:
    high = 1.0 if values is None else draw.robust_limit(values, most=100.0)
    return draw.Scale(label, 0.0, high, floor=0.05 * high, start=0.18)


def _contrast_scale(label: str, values: NDArray[np.float64] | None) -> draw.Scale:
    """From the lowest to the highest values: single trials explain much of any unit's variance, so that zero is far away."""
    finite = np.empty(0) if values is None else values[np.isfinite(values)]
    low = float(np.floor(np.percentile(finite, 2))) if finite.size else 0.0
    return draw.Scale(label, max(0.0, low), draw.robust_limit(finite, most=100.0), start=0.1)


def _draw_choices(fit: _Fit, settings: GLMSettings, at: Any) -> list[Path]:
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
        figures.append(
            draw.plot_curve(
                np.arange(len(curve)),
                np.asarray(curve) - curve[0],
                at(".svg", "bold", desc="pcs"),
                chosen=float(fit.summary["n_pcs"]),
                note=note,
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


def _draw_quality(fit: _Fit, at: Any) -> list[Path]:
    """Reliability and R2, over units and over runs."""
    figures = []
    if fit.reliability:
        rows = {MODEL_TITLES.get(model, model): values for model, values in fit.reliability.items()}
        path = at(".svg", "bold", desc="reliability")
        label = "Odd-even correlation of condition betas (r)"
        figures.append(draw.plot_distributions(rows, path, xlabel=label, limits=(-1, 1), subset=fit.responsive, zero=True))
    model = fit.models[-1]
    by_run = fit.array(f"{model}_rsquared_run")
    if by_run is not None and by_run.ndim == 2 and len(by_run) == len(fit.context.runs):
        labels = [run.label for run in fit.context.runs]
        rows_by_run = [np.asarray(row)[fit.responsive] for row in by_run]
        label = "R² in responsive units (%)"
        figures.append(draw.plot_boxes(rows_by_run, labels, at(".svg", "bold", desc="runs"), ylabel=label, xlabel=""))
    return figures


def _numbers(fit: _Fit, space: Space) -> FitNumbers:
    summary, context = fit.summary, fit.context
    values: dict[tuple[str, str], float] = {}

    def put(metric: str, value: Any, model: str = "") -> None:
        values[metric, model] = float("nan") if value is None else float(value)

    put("n_units", summary["n_units"])
    put("n_units_valid", summary["n_valid"])
    for reason, count in summary.get("n_set_aside", {}).items():
        put(f"n_units_{reason}", count)
    put("n_units_responsive", fit.responsive.sum())
    for key in ("n_trials", "n_conditions", "n_repeated", "n_runs", "n_noise_pool", "noise_pool_threshold", "pcs_threshold", "n_pcs"):
        put(key, summary.get(key))
    put("n_trials_set_aside", len(context.trials_set_aside))
    put("mean_framewise_displacement", context.mean_framewise_displacement)
    put("median_onoff_rsquared", _median(fit.values("onoff_rsquared"), fit.valid))
    for model in fit.models:
        for metric, array in (("rsquared", fit.values(f"{model}_rsquared")), ("noise_ceiling", fit.values(f"noise_ceiling_{model}"))):
            put(f"median_{metric}", _median(array, fit.valid), model)
            put(f"median_{metric}_responsive", _median(array, fit.responsive), model)
        put("median_odd_even_r", _median(fit.reliability.get(model), fit.valid), model)
        put("median_odd_even_r_responsive", _median(fit.reliability.get(model), fit.responsive), model)
    if (fraction := fit.values("fraction")) is not None:
        put("median_fraction", _median(fraction, fit.valid))
        put("median_fraction_responsive", _median(fraction, fit.responsive))
    percent = {metric: "%" for metric, _ in values if "rsquared" in metric or "ceiling" in metric or "threshold" in metric}
    per_run = np.bincount(fit.run_index, minlength=len(context.runs))
    runs = tuple(
        {
            "Label": run.label,
            "Volumes": run.n_volumes,
            "RepetitionTime": run.repetition_time,
            "StartTime": run.start_time,
            "Trials": int(count),
        }
        for run, count in zip(context.runs, per_run, strict=True)
    )
    notes = tuple(dict.fromkeys([*map(str, summary.get("notes", [])), *context.notes]))
    units = {**percent, "mean_framewise_displacement": "mm"}
    return FitNumbers(dict(context.entities), values, units, notes, context.trials_set_aside, runs, draw.has_mesh(space))


def _median(values: NDArray[np.float64] | None, members: NDArray[np.bool_]) -> float:
    shown = np.empty(0) if values is None else values[members & np.isfinite(values)]
    return float(np.median(shown)) if shown.size else float("nan")
