"""What `conform_bids.glm.fit_single_trials` gives: estimates by model, and what was chosen on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.numerics.hrf import HRFLibrary
from conform_bids.numerics.noise_ceiling import noise_ceiling
from conform_bids.numerics.scores import condition_means, odd_even_reliability
from conform_bids.wording import counted

if TYPE_CHECKING:
    from conform_bids.glm.numerics.design import Design
    from conform_bids.glm.numerics.fit import FitResult

__all__ = ["SingleTrialFit", "SingleTrialModel", "collect_fit"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
_PREFERRED = ("conform", "fithrfdenoiserr", "fithrfdenoise", "fithrf", "assumehrf")


@dataclass(frozen=True)
class SingleTrialModel:
    """One model's estimates; arrays by unit, NaN where a unit was set aside.

    Attributes
    ----------
    name : str
        assumehrf, fithrf, fithrfdenoise, fithrfdenoiserr or conform.
    betas : (trials, units) float32 array
        Response to each trial, percent signal change (the series' own units with ``units="raw"``); row k is row k of ``trials``. NaN
        in the trials of a run from which a unit is absent.
    r2 : (units,) array
        Variance explained over all runs, drifts (and what the model takes out first) aside, percent.
    r2_run : (runs, units) array
        The same within each run.
    hrf_index : (units,) int array or None
        HRF that was chosen, index into the library's curves; -1 where set aside. None for assumehrf.
    noise_ceiling : (units,) array
        Share of the variance of condition means that is not noise, percent (Allen et al., 2022); NaN where nothing repeats.
    reliability : (units,) array
        Correlation of condition means between odd and even runs; NaN where they share fewer than three conditions.
    scale : (units,) array or None
        Of conform: slope of the least-squares betas on these; betas times it have the amplitude of unshrunken ones.
    shrinkage : (units,) array or None
        Of conform: log10 of the variance of responses over that of the noise, by which betas were shrunk.
    ordinary : (trials, units) float32 array or None
        Of conform, with ``ordinary=True``: its least-squares betas, not shrunk.
    fraction : (units,) array or None
        Of fithrfdenoiserr: ridge fraction that was chosen.
    trials : DataFrame
        The trial table of the fit.
    """

    name: str
    betas: npt.NDArray[np.float32]
    r2: FloatArray
    r2_run: FloatArray
    hrf_index: npt.NDArray[np.intp] | None
    noise_ceiling: FloatArray
    reliability: FloatArray
    scale: FloatArray | None
    shrinkage: FloatArray | None
    ordinary: npt.NDArray[np.float32] | None
    fraction: FloatArray | None
    trials: pd.DataFrame = field(repr=False)

    def condition_means(self) -> tuple[FloatArray, list[str]]:
        """Average the betas of each condition: (conditions, units), and the conditions' names in that order.

        A unit that is absent from a run is averaged over the other runs.
        """
        condition = self.trials["condition"].to_numpy()
        means, _, _ = condition_means(self.betas, condition)
        partly = np.flatnonzero(np.isnan(self.betas).any(axis=0) & ~np.isnan(self.betas).all(axis=0))
        for row in range(len(means)):
            some = self.betas[condition == row][:, partly]
            counts = np.isfinite(some).sum(axis=0)
            means[row, partly] = np.where(counts > 0, np.nansum(some, axis=0, dtype=np.float64) / np.maximum(counts, 1), np.nan)
        return means, sorted(set(self.trials["stim_id"]))

    def __repr__(self) -> str:
        """Name, shape and median quality."""
        numbers = (
            ("R2", self.r2, "{:.1f} %"),
            ("noise ceiling", self.noise_ceiling, "{:.1f} %"),
            ("odd-even r", self.reliability, "{:.2f}"),
        )
        told = [f"{what} {shape.format(np.nanmedian(values))}" for what, values, shape in numbers if np.isfinite(values).any()]
        return f"{self.name}: betas {self.betas.shape[0]} trials x {self.betas.shape[1]} units; median {', '.join(told)}"


@dataclass(frozen=True)
class SingleTrialFit:
    """What `fit_single_trials` gives; ``fit["fithrf"]`` is a model, and ``fit.betas`` and its like are the best model's.

    Attributes
    ----------
    models : dict of SingleTrialModel
        By name, the one to prefer first.
    trials : DataFrame
        The trial table, chronological: trial, session_id, run_id (from 1), onset, duration, trial_type, stim_id, condition,
        repetition, split, flag (why the estimate is unreliable, else n/a), then the events' other columns.
    mean : (units,) array
        Mean of the series over all volumes.
    valid : (units,) bool array
        Units that were fitted; the others are constant, empty or not finite in more than half of the runs, or have no mean that a
        percentage could be of.
    present : (runs, units) bool array
        Where the series of a unit is finite and varies.
    onoff_r2, onoff_beta : (units,) arrays
        The on/off model, one regressor for all trials with the assumed HRF: variance explained (percent) and response.
    noise_pool : (units,) bool array
        Units whose series gave the noise regressors.
    noise_regressors : list of (volumes, n_pcs) arrays
        Those that were used, of each run.
    pc_curve, pc_curve_se : (n_pcs tried + 1,) arrays
        Cross-validated gain by the number of noise regressors, and its standard error over runs; empty where nothing was
        cross-validated.
    pool_reliability : float
        Median odd-even reliability of the noise pool: well above 0, its regressors take signal with them.
    autoregression : (order,) array
        Coefficients by which conform made the noise white; empty where it did not.
    library : HRFLibrary
        The HRFs that ``hrf_index`` counts.
    units : str
        Of the betas, ``percent`` or ``raw``.
    notes : tuple of str
        Fallbacks that were taken, and what was set aside.
    """

    models: dict[str, SingleTrialModel]
    trials: pd.DataFrame
    mean: FloatArray
    valid: npt.NDArray[np.bool_]
    present: npt.NDArray[np.bool_]
    onoff_r2: FloatArray
    onoff_beta: FloatArray
    noise_pool: npt.NDArray[np.bool_]
    noise_regressors: list[FloatArray]
    pc_curve: FloatArray
    pc_curve_se: FloatArray
    pool_reliability: float
    autoregression: FloatArray
    library: HRFLibrary
    units: str
    notes: tuple[str, ...]

    def __getitem__(self, model: str) -> SingleTrialModel:
        """Return the model of that name."""
        if model not in self.models:
            raise KeyError(f"{model!r} was not fitted; there are {', '.join(self.models)}")
        return self.models[model]

    @property
    def best(self) -> SingleTrialModel:
        """The model to prefer: conform where it was fitted, else the one with the most of GLMsingle's steps."""
        return next(iter(self.models.values()))

    @property
    def betas(self) -> npt.NDArray[np.float32]:
        """Betas of `best`, (trials, units)."""
        return self.best.betas

    @property
    def r2(self) -> FloatArray:
        """Variance explained by `best`, percent."""
        return self.best.r2

    @property
    def noise_ceiling(self) -> FloatArray:
        """Noise ceiling of `best`, percent."""
        return self.best.noise_ceiling

    @property
    def reliability(self) -> FloatArray:
        """Odd-even reliability of `best`."""
        return self.best.reliability

    @property
    def n_pcs(self) -> int:
        """Number of noise regressors."""
        return int(self.noise_regressors[0].shape[1])

    def __repr__(self) -> str:
        """What was fitted, a line a model, and the notes."""
        units = "percent signal change" if self.units == "percent" else "raw units"
        n_conditions = self.trials["condition"].nunique()
        lines = [
            f"SingleTrialFit: {counted(len(self.noise_regressors), 'run')}, {counted(len(self.trials), 'trial')} of "
            f"{counted(n_conditions, 'condition')}, "
            f"{int(self.valid.sum())} of {len(self.valid)} units fitted, betas in {units}, {counted(self.n_pcs, 'noise regressor')}"
        ]
        lines += [f"  {model!r}" for model in self.models.values()] + [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def collect_fit(result: FitResult, design: Design, trials: pd.DataFrame, library: HRFLibrary, units: str) -> SingleTrialFit:
    """Bring the engine's result into the caller's form.

    Parameters
    ----------
    result, design
        Of the engine.
    trials : DataFrame
        The trial table.
    library : HRFLibrary
        The HRFs that were chosen from.
    units : str
        Of the betas: percent or raw.
    """
    condition, sessions = design.condition, design.session[design.run]
    models = {}
    for name in sorted(result.models, key=_PREFERRED.index):
        fitted = result.models[name]
        own = result.conform if name == "conform" else None
        index = result.hrf_index if own is None else own.hrf_index
        models[name] = SingleTrialModel(
            name=name,
            betas=fitted.betas,
            r2=fitted.rsquared,
            r2_run=fitted.rsquared_run,
            hrf_index=None if name == "assumehrf" else np.where(result.valid, index, -1),
            noise_ceiling=_by_runs_there(lambda b, rows: noise_ceiling(b, condition[rows], sessions[rows]), fitted.betas, design),
            reliability=_by_runs_there(lambda b, rows: odd_even_reliability(b, condition[rows], design.run[rows]), fitted.betas, design),
            scale=None if own is None else own.estimate.scale,
            shrinkage=None if own is None else own.estimate.shrinkage,
            ordinary=None if own is None else result.ordinary,
            fraction=result.fraction if name == "fithrfdenoiserr" else None,
            trials=trials,
        )
    n_volumes = design.run_lengths
    return SingleTrialFit(
        models=models,
        trials=trials,
        mean=result.survey.mean,
        valid=result.valid,
        present=result.survey.present,
        onoff_r2=result.onoff_rsquared,
        onoff_beta=result.onoff_beta,
        noise_pool=result.noise_pool if result.noise_pool.size else np.zeros(len(result.valid), bool),
        noise_regressors=[pc[:, : result.n_pcs] for pc in result.pcs] or [np.zeros((length, 0)) for length in n_volumes],
        pc_curve=result.pc_curve,
        pc_curve_se=result.pc_curve_se,
        pool_reliability=result.pool_reliability,
        autoregression=np.zeros(0) if result.conform is None else result.conform.autoregression,
        library=library,
        units=units,
        notes=(*result.notes, *_set_aside(result)),
    )


def _by_runs_there(
    score: Callable[[npt.NDArray[np.float32], IntArray], FloatArray], betas: npt.NDArray[np.float32], design: Design
) -> FloatArray:
    """Score of every unit, from the trials of the runs that have it; ``score`` takes betas and their rows in the trial table."""
    scores = np.array(score(betas, np.arange(design.n_trials)))
    runs = np.unique(design.run)
    absent = np.isnan(betas[np.searchsorted(design.run, runs)])
    partly = np.flatnonzero(absent.any(axis=0) & ~absent.all(axis=0))
    patterns, which = np.unique(absent[:, partly], axis=1, return_inverse=True)
    for index, pattern in enumerate(patterns.T):
        rows, units = np.flatnonzero(np.isin(design.run, runs[~pattern])), partly[np.ravel(which) == index]
        scores[units] = score(betas[np.ix_(rows, units)], rows)
    return scores


def _set_aside(result: FitResult) -> list[str]:
    """Notes on units that were not fitted, or not in every run."""
    survey = result.survey
    near_zero = result.near_zero if result.near_zero.size else np.zeros_like(result.valid)
    left_out = ~result.valid & ~near_zero
    counts = {
        "constant": int((survey.constant & ~survey.empty & survey.finite & left_out).sum()),
        "empty": int((survey.empty & left_out).sum()),
        "not finite": int((~survey.finite & left_out).sum()),
        "with a mean below their own noise (units='raw' keeps them)": int(near_zero.sum()),
    }
    told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    partly = int((result.valid & ~survey.present.all(axis=0)).sum())
    notes = [f"{counted(int((~result.valid).sum()), 'unit was', 'units were')} set aside: {told}"] if told else []
    return notes + ([f"{counted(partly, 'unit is', 'units are')} absent from some runs, whose betas are NaN there"] if partly else [])
