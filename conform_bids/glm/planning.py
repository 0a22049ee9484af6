"""What the settings mean for the runs of one fit: its trials, folds, session groups and models."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from conform_bids.bids.events import build_trial_table
from conform_bids.bids.hrf_tables import load_default_assumed_hrf, read_hrf_table
from conform_bids.bids.names import parse_name
from conform_bids.bids.runs import PlannedRun, run_events
from conform_bids.bids.trials import TrialTable
from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.glm.numerics.efficiency import largest_correlation, trial_variance_inflation
from conform_bids.glm.numerics.models import feasible_models
from conform_bids.glm.settings import GLMSettings
from conform_bids.numerics.hrf import HRFLibrary, response_at
from conform_bids.numerics.linalg import polynomial_basis, polynomial_degree, project_out
from conform_bids.store.conventions import apply_convention
from conform_bids.store.dataset_config import DatasetConfig, read_config

__all__ = [
    "COLLINEAR",
    "SAME_VOLUME",
    "assumed_hrf",
    "build_trials",
    "check_glmsingle",
    "choose_models",
    "collinear_flags",
    "cross_validation_folds",
    "dataset_config",
    "design_notes",
    "fit_scope",
    "session_groups",
    "usable_trials",
]

INSTALL = "pip install git+https://github.com/cvnlab/GLMsingle"
COLLINEAR = "collinear with other trials"
SAME_VOLUME = "in one volume with another trial"
PARALLEL = 0.99
"""Regressors that correlate above this count as one."""
INFLATED = 1e4
"""Variance inflation of trials that cannot be told from the others: the standard error is a hundredfold. Designs with a trial every 2 s
stay below a tenth of it."""


def build_trials(runs: Sequence[PlannedRun], settings: GLMSettings) -> TrialTable:
    """Trial table of the runs of a fit, whose lengths are known; trials that cannot be told from others are flagged."""
    events = [run_events(run, from_start=settings.compat is not None) for run in runs]
    config = dataset_config(settings)
    table = build_trial_table(
        events,
        condition_column=settings.condition_column if config is None else "stim_id",
        trial_filter=settings.trial_filter,
        nuisance_events=settings.nuisance_events,
        stimulus_duration=settings.stimulus_duration,
        split=settings.split,
        prepare=None if config is None else lambda path, table: apply_convention(config, parse_name(path).entities, table, str(path)),
    )
    return _flag_collinear(table, runs, settings)


def dataset_config(settings: GLMSettings) -> DatasetConfig | None:
    """The description of the dataset that the user gave."""
    return None if settings.dataset_config is None else read_config(settings.dataset_config)


def fit_scope(settings: GLMSettings) -> str:
    """What --fit-scope says, or, where that is auto, the description of the dataset; groups of sessions are no scope here."""
    config = dataset_config(settings)
    if settings.fit_scope == "auto" and config is not None and config.fit.scope in ("session", "subject"):
        return config.fit.scope
    return settings.fit_scope


def assumed_hrf(settings: GLMSettings, repetition_time: float) -> HRFLibrary:
    """The assumed HRF: the packaged one, or the user's.

    Raises
    ------
    UnusableInputError
        When the file holds several curves.
    """
    if settings.assumed_hrf is None:
        return load_default_assumed_hrf()
    assumed = read_hrf_table(settings.assumed_hrf, repetition_time)
    if assumed.n_hrfs != 1:
        raise UnusableInputError(f"{settings.assumed_hrf}: the assumed HRF is one curve, and there are {assumed.n_hrfs}")
    return assumed


def usable_trials(settings: GLMSettings, table: TrialTable) -> npt.NDArray[np.bool_]:
    """Trials that take part in cross-validation: of the training stimuli and, but for GLMsingle's sake, without a flag."""
    usable = table.trials["split"].isin(["train", "n/a"])
    if not settings.compat:
        usable &= table.trials["flag"] == "n/a"  # an estimate that is not reliable would weigh on every unit's choices
    return np.asarray(usable.to_numpy(dtype=bool))


def _flag_collinear(table: TrialTable, runs: Sequence[PlannedRun], settings: GLMSettings) -> TrialTable:
    """Flag trials whose regressors, with the assumed HRF and drifts out, cannot be told from those of others in their run."""
    flags = table.trials["flag"].to_numpy(dtype=object).copy()
    durations = table.trials["duration"].to_numpy(dtype=np.float64).round(1)
    if settings.compat:
        durations = np.full(len(durations), np.median(durations))
    for index, run in enumerate(runs):
        rows = np.flatnonzero(table.run_index == index)
        tr, n_volumes = float(run.repetition_time or 0), int(run.n_volumes or 0)
        onset = table.trials["onset"].to_numpy(dtype=np.float64)[rows] - (0.0 if settings.compat else run.start_time)
        reason = COLLINEAR
        if settings.compat:
            onset, reason = np.floor(onset / tr + 0.5) * tr, SAME_VOLUME
        delays = np.arange(n_volumes)[:, None] * tr - onset
        columns = np.zeros(delays.shape)
        for duration in np.unique(durations[rows]):
            same = durations[rows] == duration
            columns[:, same] = response_at(assumed_hrf(settings, tr), float(duration), delays[:, same])[..., 0]
        degree = polynomial_degree(n_volumes, tr) if settings.polynomial_degree is None else settings.polynomial_degree
        columns = project_out(polynomial_basis(n_volumes, degree), columns)
        found = collinear_flags(columns, onset, reason)
        flags[rows] = np.where(flags[rows] == "n/a", found, flags[rows])
    return replace(table, trials=table.trials.assign(flag=flags.astype(str)))


def collinear_flags(columns: npt.NDArray[np.float64], onset: npt.NDArray[np.float64], together: str) -> npt.NDArray[np.object_]:
    """Flags of a run's trials that cannot be told apart, n/a for the others.

    Parameters
    ----------
    columns : (n_volumes, n_trials) array
        Regressors, drifts out.
    onset : (n_trials,) array
        Seconds.
    together : str
        Flag of those that share their onset with another.
    """
    bad = (largest_correlation(columns) > PARALLEL) | (trial_variance_inflation(columns) > INFLATED)
    counts = Counter(onset.tolist())
    reasons = [together if counts[value] > 1 else COLLINEAR for value in onset.tolist()]
    return np.where(bad, np.array(reasons, dtype=object), "n/a")


def check_glmsingle(models: Sequence[str]) -> None:
    """Refuse what the package cannot do, before anything is computed.

    Raises
    ------
    UsageError
        When the package is not installed, or a model has no counterpart of single trials in it.
    """
    if importlib.util.find_spec("glmsingle") is None:
        raise UsageError(f"--engine glmsingle: the GLMsingle package is not installed here; install it with `{INSTALL}`")
    if "assumehrf" in models:
        raise UsageError("--engine glmsingle: GLMsingle gives no single-trial betas with an assumed HRF; leave out --model assumehrf")


def choose_models(settings: GLMSettings, table: TrialTable, runs: Sequence[PlannedRun]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models that can be fitted, and what the report has to say about it."""
    folds = cross_validation_folds(settings, len(runs))
    session_groups(settings, runs)
    usable = usable_trials(settings, table)
    condition = table.trials["condition"].to_numpy()
    can_cross_validate = False
    for fold in folds:
        inside = [run in fold for run in table.run_index]
        held = {c for c, test, use in zip(condition, inside, usable, strict=True) if test and use}
        can_cross_validate |= any(use and not test and c in held for c, test, use in zip(condition, inside, usable, strict=True))
    return feasible_models(
        settings.model,
        can_cross_validate=can_cross_validate,
        pcs_stop=settings.pcs_stop,
        n_fractions=len(set(settings.fractions)),
    )


def design_notes(settings: GLMSettings, table: TrialTable, runs: Sequence[PlannedRun], *, dropped: bool) -> list[str]:
    """What a reader of the results has to know: durations that compat makes one, trials with a flag, folds that count other runs."""
    notes = []
    durations = table.trials["duration"]
    if settings.compat and float(durations.max()) - float(durations.min()) > 1e-3:
        notes.append(
            f"stimuli last {durations.min():g} to {durations.max():g} s; --compat models all of them with the median, "
            f"{durations.median():g} s"
        )
    flagged = Counter(flag for flag in table.trials["flag"] if flag != "n/a")
    if flagged:
        told = ", ".join(f"{reason} ({count})" for reason, count in flagged.items())
        notes.append(f"{sum(flagged.values())} of {len(table.trials)} trials are flagged: {told}")
    if settings.cv_folds and dropped:
        labels = ", ".join(f"{number} is {run.label}" for number, run in enumerate(runs, start=1))
        notes.append(f"--cv-folds counts the runs that are fitted: {labels}")
    return notes


def cross_validation_folds(settings: GLMSettings, n_runs: int) -> tuple[tuple[int, ...], ...]:
    """Runs that each fold leaves out, counted from 0; one run a fold by default.

    Raises
    ------
    UsageError
        When a fold names a run beyond the fit's.
    """
    if not settings.cv_folds:
        return tuple((run,) for run in range(n_runs))
    folds = tuple(tuple(int(run) - 1 for run in fold) for fold in settings.cv_folds)
    for fold in folds:
        if max(fold) >= n_runs:
            raise UsageError(f"--cv-folds: run {max(fold) + 1} of a fit that has {n_runs}")
    return folds


def session_groups(settings: GLMSettings, runs: Sequence[PlannedRun]) -> list[int]:
    """Group of each run for standardising betas: its session's, or that of ``--session-groups``.

    Raises
    ------
    UsageError
        When groups are given and a session is in none.
    """
    labels = [run.session for run in runs]
    if not settings.session_groups:
        order = list(dict.fromkeys(labels))
        return [order.index(label) for label in labels]
    group_of = {session.removeprefix("ses-"): index for index, group in enumerate(settings.session_groups) for session in group}
    for label in labels:
        if label not in group_of:
            raise UsageError(f"--session-groups: session {label} is in no group")
    return [group_of[str(label)] for label in labels]
