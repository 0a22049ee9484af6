"""What the figures and numbers of one fit are made from: the engine's arrays, the table of trials, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.glm.report.quality import (
    CONSTANT,
    EMPTY,
    NOT_FINITE,
    RunCollinearity,
    SeriesSurvey,
    collinearity,
    read_motion,
    single_trial_agreement,
    survey_series,
)
from conform_bids.numerics.linalg import polynomial_degree
from conform_bids.numerics.scores import odd_even_reliability

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MODEL_TITLES", "UNIT_STATES", "FigureContext", "FitArrays", "RunTiming"]

MODEL_TITLES = {
    "assumehrf": "assumed HRF",
    "fithrf": "fitted HRF",
    "fithrfdenoise": "fitted HRF, denoised",
    "fithrfdenoiserr": "fitted HRF, denoised, ridge",
    "conform": "conform: denoised, evidence ridge",
}

UNIT_STATES = (
    ("fitted in\nall runs", "#4c78a8"),
    ("fitted without\nsome runs", "#72b7b2"),
    ("not finite", "#d55e00"),
    ("zero\nthroughout", "#8c8c8c"),
    ("constant", "#e69f00"),
    ("mean near zero", "#cc79a7"),
    ("for another\nreason", "#6b4c9a"),
)
"""Name and colour of what became of a unit."""

_MOST_UNITS = 20_000
"""Responsive units whose mean over time is shown; more add nothing but reading."""


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
    confounds : Path or None
        fMRIPrep's table of confounds, for the motion.
    """

    session_id: str | None
    run_id: str | None
    n_volumes: int
    repetition_time: float
    start_time: float = 0.0
    confounds: Path | None = None

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
    series : tuple of ndarray, shape (volumes, units)
        The data of each run, memory-mapped; empty where they are not at hand.
    regressors : tuple of ndarray, shape (volumes, regressors)
        Confounds in the model of each run; empty where there are none.
    near_zero : ndarray of bool, shape (units,), or None
        Units that were set aside as their mean is near zero.
    """

    entities: Mapping[str, str]
    runs: tuple[RunTiming, ...]
    trials_set_aside: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    series: tuple[NDArray[np.floating], ...] = ()
    regressors: tuple[NDArray[np.floating], ...] = ()
    near_zero: NDArray[np.bool_] | None = None

    @property
    def participant(self) -> str:
        """Label without ``sub-``."""
        return self.entities["sub"]


class FitArrays:
    """The engine's folder, its arrays memory-mapped, and what is derived from them once."""

    def __init__(self, result_dir: Path, trials: pd.DataFrame, context: FigureContext) -> None:
        self.folder = result_dir
        self.summary: dict[str, Any] = json.loads((result_dir / "summary.json").read_text(encoding="utf-8"))
        self.trials, self.context = trials, context
        self.models: list[str] = list(self.summary["models"])

    def array(self, name: str) -> NDArray[Any] | None:
        """An array of the engine, memory-mapped; None where it made none."""
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
        """Units that were fitted."""
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

    @cached_property
    def labels(self) -> list[str]:
        """Names of the runs in figures and tables; without the session where there is one only, which the fit's title has."""
        runs = self.context.runs
        if len({run.session_id for run in runs}) > 1 or any(run.run_id is None for run in runs):
            return [run.label for run in runs]
        return [f"run {run.run_id}" for run in runs]

    @cached_property
    def best(self) -> str:
        """The most refined model."""
        return self.models[-1]

    @cached_property
    def sessions(self) -> NDArray[np.intp]:
        """Session of each trial."""
        labels = [run.session_id or "n/a" for run in self.context.runs]
        return np.unique(labels, return_inverse=True)[1][self.run_index].astype(np.intp)

    @cached_property
    def agreement(self) -> dict[str, NDArray[np.float64]]:
        """Correlation of single trials of the same condition, by model."""
        condition = self.trials["condition"].to_numpy()
        found = {}
        for model in self.models:
            betas = self.array(f"{model}_betas")
            if betas is not None:
                found[model] = np.where(self.valid, single_trial_agreement(betas, condition, self.sessions), np.nan)
        return {model: values for model, values in found.items() if np.isfinite(values).any()}

    @cached_property
    def degrees(self) -> list[int]:
        """Degree of the drifts of each run."""
        given = self.summary.get("polynomial_degree") or []
        runs = self.context.runs
        return list(given) if len(given) == len(runs) else [polynomial_degree(run.n_volumes, run.repetition_time) for run in runs]

    @cached_property
    def survey(self) -> SeriesSurvey | None:
        """Temporal SNR and state of every unit in every run, where the data are at hand."""
        series = self.context.series
        return survey_series(series, self.degrees) if series and len(series) == len(self.context.runs) else None

    @cached_property
    def motion(self) -> list[dict[str, NDArray[np.float64]]]:
        """Framewise displacement and DVARS of each run, where its confounds have them."""
        return [read_motion(run.confounds) for run in self.context.runs]

    @cached_property
    def collinearity(self) -> list[RunCollinearity]:
        """Resemblance of the trials of each run, with the assumed HRF; empty without one."""
        times, curve = self.array("hrf_times"), self.array("assumed_hrf")
        if times is None or curve is None:
            return []
        onset = self.trials["onset"].to_numpy(dtype=float)
        found = []
        for index, run in enumerate(self.context.runs):
            given = self.context.regressors
            regressors = given[index] if len(given) > index else np.zeros((run.n_volumes, 0))
            here = self.run_index == index
            own, counted = onset[here] - run.start_time, (self.trials["flag"].astype(str) == "n/a").to_numpy()[here]
            response = (np.asarray(times, dtype=float), np.asarray(curve, dtype=float).ravel())
            found.append(
                collinearity(
                    own, run.n_volumes, run.repetition_time, response, self.degrees[index], np.asarray(regressors, dtype=float), counted
                )
            )
        return found

    @cached_property
    def trial_means(self) -> NDArray[np.float64]:
        """Mean response of the responsive units in each trial, of the most refined model."""
        betas = self.array(f"{self.best}_betas")
        if betas is None:
            return np.full(len(self.trials), np.nan)
        members = np.flatnonzero(self.responsive)
        members = members[np.linspace(0, len(members) - 1, min(len(members), _MOST_UNITS)).astype(np.intp)]
        values = np.asarray(betas[:, members], dtype=np.float64)
        known = np.isfinite(values)
        return np.where(known, values, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)

    def by_run(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean of a number a trial over each run; NaN where the run has none."""
        rows = [values[(self.run_index == index) & np.isfinite(values)] for index in range(len(self.context.runs))]
        return np.array([row.mean() if row.size else np.nan for row in rows])

    @cached_property
    def states(self) -> NDArray[np.intp] | None:
        """Index into `UNIT_STATES` of each unit: fitted, fitted without some runs, or why it was set aside."""
        if self.survey is None:
            return None
        state = self.survey.state
        codes = np.select([(state == kind).any(axis=0) for kind in (NOT_FINITE, EMPTY, CONSTANT)], [2, 3, 4], 6)
        if self.context.near_zero is not None:
            codes = np.where(self.context.near_zero, 5, codes)
        return np.where(self.valid, np.where((state != 0).any(axis=0), 1, 0), codes).astype(np.intp)


def _label(value: Any) -> str:
    """A label of the table as text; missing values are n/a."""
    return "n/a" if value is None or value != value else str(value)
