"""What the settings mean for the runs of one fit: its trials, folds, session groups and models."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from conform_bids.bids.events import RunEvents, build_trial_table
from conform_bids.bids.trials import TrialTable
from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.glm.files import PlannedRun
from conform_bids.glm.numerics.models import feasible_models
from conform_bids.glm.settings import GLMSettings

__all__ = [
    "build_trials",
    "check_glmsingle",
    "check_repetition_times",
    "choose_models",
    "cross_validation_folds",
    "design_notes",
    "session_groups",
]

INSTALL = "pip install git+https://github.com/cvnlab/GLMsingle"


def build_trials(runs: Sequence[PlannedRun], settings: GLMSettings) -> TrialTable:
    """Trial table of the runs of a fit, whose lengths are known."""
    events = [
        RunEvents(
            session=run.session,
            run=run.run,
            path=run.events,
            n_volumes=int(run.n_volumes or 0),
            repetition_time=float(run.repetition_time or 0),
            start_time=0.0 if settings.compat else run.start_time,
        )
        for run in runs
    ]
    return build_trial_table(
        events,
        condition_column=settings.condition_column,
        trial_filter=settings.trial_filter,
        nuisance_events=settings.nuisance_events,
        stimulus_duration=settings.stimulus_duration,
        split=settings.split,
    )


def check_repetition_times(runs: Sequence[PlannedRun]) -> None:
    """Make sure that the runs of a fit share their repetition time.

    Raises
    ------
    UnusableInputError
        Naming two runs that differ.
    """
    times = [round(float(run.repetition_time or 0), 6) for run in runs]
    for run, time in zip(runs, times, strict=True):
        if time != times[0]:
            raise UnusableInputError(
                f"{run.bold[0]}: its repetition time is {time:g} s, and that of {runs[0].bold[0].name} {times[0]:g} s; "
                "the runs of a fit must share one"
            )


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
    usable = table.trials["split"].isin(["train", "n/a"]).to_numpy()
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
    """What a reader of the results has to know of the design: durations that compat makes one, folds that count other runs."""
    notes = []
    durations = table.trials["duration"]
    if settings.compat and float(durations.max()) - float(durations.min()) > 1e-3:
        notes.append(
            f"stimuli last {durations.min():g} to {durations.max():g} s; --compat models all of them with the median, "
            f"{durations.median():g} s"
        )
    if settings.cv_folds and dropped:
        labels = ", ".join(f"{number} is {_run_label(run)}" for number, run in enumerate(runs, start=1))
        notes.append(f"--cv-folds counts the runs that are fitted: {labels}")
    return notes


def _run_label(run: PlannedRun) -> str:
    parts = [f"{key}-{label}" for key, label in (("ses", run.session), ("run", run.run)) if label is not None]
    return "_".join(parts) or run.bold[0].name


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
