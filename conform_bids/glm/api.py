"""Single-trial responses from Python: arrays in, arrays out; no files, no BIDS."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library, read_hrf_table
from conform_bids.bids.trials import TRIAL_COLUMNS
from conform_bids.errors import ConformError
from conform_bids.glm.arrays import (
    Timing,
    build_array_design,
    build_trials,
    read_bold_arrays,
    read_confound_arrays,
    read_event_frames,
    split_nuisance,
)
from conform_bids.glm.files import Plan
from conform_bids.glm.settings import GLMSettings
from conform_bids.glm.single_trials import SingleTrialFit, collect_fit
from conform_bids.numerics.hrf import HRFLibrary
from conform_bids.options import from_mapping

if TYPE_CHECKING:
    from conform_bids.glm.numerics.outcome import FitResult

__all__ = ["fit_single_trials"]

_NOT_FOR_ARRAYS = frozenset({"engine", "trial_filter", "fit_scope", "session_groups", "write", "dataset_config"})
"""Settings of the app about files, or which events of a file are used: of a data frame the caller decides."""
_TAKEN = frozenset({"model", "confounds", "split", "cv_folds", "nuisance_events", "condition_column", "hrf_library", "assumed_hrf"})
"""Settings that have a keyword of their own, or a column of the events."""


def fit_single_trials(
    bold: Any,
    events: Any,
    repetition_time: float,
    *,
    models: Sequence[str] | str | None = None,
    confounds: Any = None,
    start_time: float | Sequence[float] = 0.0,
    sessions: Sequence[Hashable] | None = None,
    cv_folds: Sequence[Sequence[int]] | None = None,
    condition_column: str | None = None,
    stimulus_duration: float | None = None,
    nuisance_events: Sequence[str] = (),
    hrf_library: HRFLibrary | npt.ArrayLike | str | os.PathLike[str] | None = None,
    assumed_hrf: HRFLibrary | npt.ArrayLike | str | os.PathLike[str] | None = None,
    whiten: str = "auto",
    hrf_averaging: str = "auto",
    units: str = "percent",
    ordinary: bool = False,
    compat: bool = False,
    polynomial_degree: int | None = None,
    n_threads: int | None = None,
    device: str = "cpu",
    memory_gb: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> SingleTrialFit:
    """Estimate the response to every single trial, in every unit (voxel, vertex or grayordinate).

    The same engine as that of the app conform-glm, without files.

    Parameters
    ----------
    bold : (volumes, units) array, or a list of them, one a run
        Preprocessed series, not standardised (percent signal change needs the mean). A unit that is constant, empty or not finite
        in a run is left out of that run, and set aside where that holds for more than half of the runs. Memory maps are read block
        by block.
    events : DataFrame, or a list of them, one a run
        Columns ``onset`` and ``duration`` (s, from the start of the run) and the condition's name: the first of stim_id, stim_file
        and trial_type that is there, or ``condition_column``. Onsets need not fall on volumes. A column ``split`` (train, test)
        keeps test stimuli out of cross-validation.
    repetition_time : float
        Seconds from volume to volume.
    models : sequence of str
        Of assumehrf, fithrf, fithrfdenoise, fithrfdenoiserr (GLMsingle's types A to D) and conform (default: conform; with
        ``compat`` fithrf and fithrfdenoiserr).
    confounds : (volumes, regressors) array or DataFrame, or a list of them, one a run
        Regressed out with the drifts. Values missing at a column's start become its mean.
    start_time : float, or one a run
        Seconds from the run's start to the time that the first volume stands for (fMRIPrep's StartTime: half the repetition time
        where slice timing was corrected).
    sessions : sequence, one label a run
        Betas are standardised within sessions in cross-validation and for noise ceilings (default: one session).
    cv_folds : sequence of sequences of int
        Runs, counted from 0, that each cross-validation fold leaves out (default: one run a fold).
    stimulus_duration : float
        Seconds, in place of the events' durations.
    nuisance_events : sequence of str
        Values of trial_type that are modelled, one regressor each a run, and get no beta (button presses and the like).
    hrf_library, assumed_hrf : HRFLibrary, array or path
        HRFs to choose from, and the one of assumehrf and the on/off model. An array is (samples, HRFs), sampled at the repetition
        time and convolved with the stimulus already, as GLMsingle's ``hrflibrary``; a path is a table as of ``--hrf-library``.
    whiten, hrf_averaging : str
        Of conform: auto, none or ar; auto, on or off.
    units : str
        Of the betas: percent (signal change) or raw.
    ordinary : bool
        Keep conform's least-squares betas, not shrunk, beside its own.
    compat : bool
        Reproduce GLMsingle number for number; not with conform.
    polynomial_degree : int
        Of the drifts of each run (default: half its minutes, rounded).
    n_threads : int
        Default: all that this process may use. As ``device`` (cpu, cuda, cuda:N) and ``memory_gb`` (of temporary arrays), it
        changes nothing beyond rounding.
    seed : int
        Of the mixture model that finds the noise pool's threshold.
    **options
        Any other option of conform-glm about the model, by the name of its flag with underscores: n_pcs, pcs_stop, pcs_rule,
        pcs_r2, noise_pool_r2, brain_threshold, fractions, autoscale, lss.

    Returns
    -------
    SingleTrialFit

    Raises
    ------
    TypeError, ValueError
        Saying what is wrong, with the run and the row.

    Examples
    --------
    Two runs of two units, of which the first responds to pictures of faces twice as much as to those of houses:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from conform_bids.glm import fit_single_trials
    >>> rng = np.random.default_rng(0)
    >>> frames = np.arange(150) * 2.0
    >>> bold, events = [], []
    >>> for run in range(2):
    ...     onsets = 3.3 + 9.7 * np.arange(28)
    ...     names = rng.permutation(["face"] * 14 + ["house"] * 14)
    ...     delays = np.clip(frames[:, None] - onsets, 0, None)
    ...     signal = delays**5 * np.exp(-delays) / 21 @ np.where(names == "face", 2.0, 1.0)
    ...     series = 1000 + rng.normal(size=(150, 2)) * 5
    ...     series[:, 0] += 10 * signal
    ...     bold.append(series)
    ...     events.append(pd.DataFrame({"onset": onsets, "duration": 0.5, "trial_type": names}))
    >>> fit = fit_single_trials(bold, events, 2.0)
    >>> fit.betas.shape
    (56, 2)
    >>> means, names = fit.best.condition_means()
    >>> names
    ['face', 'house']
    >>> bool(means[0, 0] > 1.5 * means[1, 0])
    True
    """
    from conform_bids.glm.numerics.fit import fit_models
    from conform_bids.glm.results import fit_options
    from conform_bids.numerics.compute import Compute

    runs = read_bold_arrays(bold)
    timing = Timing.of([len(run) for run in runs], repetition_time, start_time)
    settings = _settings(
        models or (("fithrf", "fithrfdenoiserr") if compat else ("conform",)),
        options,
        compat="glmsingle" if compat else None,
        units=units,
        whiten=whiten,
        hrf_averaging=hrf_averaging,
        polynomial_degree=polynomial_degree,
        stimulus_duration=stimulus_duration,
    )
    library = _library(hrf_library, timing.repetition_time, "hrf_library") or load_default_library()
    assumed = _library(assumed_hrf, timing.repetition_time, "assumed_hrf", single=True) or load_default_assumed_hrf()
    frames, nuisance = split_nuisance(read_event_frames(events, timing), tuple(nuisance_events), timing, assumed, compat=compat)
    regressors = [np.column_stack(columns) for columns in zip(read_confound_arrays(confounds, timing), nuisance, strict=True)]
    trials = build_trials(frames, timing, condition_column, stimulus_duration)
    design, trials = build_array_design(
        trials, timing, tuple(regressors), assumed, sessions=sessions, cv_folds=cv_folds, degree=polynomial_degree, compat=compat
    )
    plan = Plan("array", {}, "nifti", (), settings.model, settings, int(seed), Path())
    engine_options = replace(fit_options(plan), ordinary=ordinary)
    compute = Compute(_device(device), _threads(n_threads), memory_gb * 1e9)
    result = fit_models(runs, design, library, assumed, engine_options, compute)
    _check_fitted(result)
    return collect_fit(result, design, _trial_table(trials, sessions), library, settings.units)


def _check_fitted(result: FitResult) -> None:
    """Refuse a fit in which every unit was set aside."""
    if result.valid.any():
        return
    if result.near_zero.any():
        raise ValueError("bold cannot be in percent: no unit has a mean above its own noise (is it standardised?); units='raw' needs none")
    raise ValueError("bold cannot be fitted: no unit is finite and varies in half of the runs")


def _settings(models: Sequence[str] | str, options: Mapping[str, Any], **named: Any) -> GLMSettings:
    """Settings of the app; its messages, which speak of flags, are turned to speak of keywords."""
    known = {entry.name for entry in fields(GLMSettings)} - _NOT_FOR_ARRAYS - _TAKEN
    for name in options:
        if name not in known:
            raise TypeError(f"fit_single_trials() has no option {name!r}; those of the model are {', '.join(sorted(known))}")
    model = (models,) if isinstance(models, str) else tuple(models)
    try:
        return from_mapping(GLMSettings, {"model": model, **named, **options})
    except ConformError as error:
        message = re.sub(r"--(?:no-)?([a-z][\w-]*)", lambda flag: flag[1].replace("-", "_"), str(error))
        raise ValueError(re.sub(r"^model\b", "models", message)) from error


def _library(given: Any, tr: float, name: str, *, single: bool = False) -> HRFLibrary | None:
    """The HRFs that the caller gave, in any of three forms."""
    if given is None:
        return None
    if isinstance(given, HRFLibrary):
        library = given
    elif isinstance(given, str | os.PathLike):
        try:
            library = read_hrf_table(Path(given), tr)
        except ConformError as error:
            raise ValueError(f"{name}: {error}") from error
    else:
        curves = np.asarray(given, dtype=np.float64)
        try:
            library = HRFLibrary(curves[:, None] if curves.ndim == 1 else curves, tr, convolved=True)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if single and library.n_hrfs != 1:
        raise ValueError(f"{name} is one curve, and there are {library.n_hrfs}")
    return library


def _device(device: str) -> str:
    import torch

    if device == "cpu" or (re.fullmatch(r"cuda(:\d+)?", device) and torch.cuda.is_available()):
        return device
    raise ValueError(f"device is {device!r}; it is cpu, or cuda or cuda:N where PyTorch finds such a device")


def _threads(n_threads: int | None) -> int:
    if n_threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_threads < 1:
        raise ValueError(f"n_threads is {n_threads}, below 1")
    return int(n_threads)


def _trial_table(trials: pd.DataFrame, sessions: Sequence[Hashable] | None) -> pd.DataFrame:
    """The trial table in the columns of the app's, the caller's own at the end."""
    run = trials["run_index"]
    session = ["n/a"] * len(trials) if sessions is None else [str(sessions[index]) for index in run]
    full = trials.assign(session_id=session, run_id=(run + 1).astype(str))
    own = [column for column in trials.columns if column not in TRIAL_COLUMNS and column != "run_index"]
    return full[[*TRIAL_COLUMNS, *own]].astype(TRIAL_COLUMNS)
