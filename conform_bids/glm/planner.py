"""From a dataset to jobs: which runs are fitted together, with which models; nothing large is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conform_bids.bids.bold import BoldSeries, find_bold, spatial_reference
from conform_bids.bids.index import Dataset
from conform_bids.bids.names import ENTITY_ORDER, parse_name
from conform_bids.bids.runs import PlannedRun, check_repetition_times, group_series, plan_run, timing_notes
from conform_bids.bids.selection import Selection
from conform_bids.bids.sidecars import STANDARD_SPACES
from conform_bids.bids.trials import TrialTable, read_trials
from conform_bids.errors import MissingInputError, NoTrialsError, UnusableInputError
from conform_bids.glm.files import Plan, output_tables
from conform_bids.glm.planning import build_trials, check_glmsingle, choose_models, design_notes, fit_scope
from conform_bids.glm.settings import GLMSettings
from conform_bids.jobs import ParticipantPlan, Resources

__all__ = ["plan_participant"]

BASE_GB = 0.9
"""Python, torch and nibabel."""
CLEAN_SHARE = 0.2
"""Share of the memory up to which a fit's data stay in it between the passes over them."""
SLOPPY_PCS, SLOPPY_FRACTIONS = 2, (1.0, 0.6, 0.2)
SLOPPY_NOTE = "Made with --sloppy, with few noise regressors and ridge fractions to choose from and no average over HRFs: not for use."


def plan_participant(
    participant: str,
    dataset: Dataset,
    selection: Selection,
    settings: GLMSettings,
    resources: Resources,
    output_dir: Path,
) -> ParticipantPlan:
    """Plan every fit of a participant.

    Raises
    ------
    MissingInputError
        When no run of what was asked for has both BOLD and events.
    UnusableInputError
        Naming the file, when an input is there but cannot be used.
    UsageError
        When folds or session groups name what is not there, or the engine asked for is not.
    """
    if settings.engine == "glmsingle":
        check_glmsingle(settings.model)
    warnings: list[str] = []
    series = find_bold(dataset, participant, selection)
    if all(found.events is None for found in series):
        raise MissingInputError(f"sub-{participant}: no run has events, so there is nothing to fit")
    for found in series:
        warnings += found.warnings
    planner = _Planner(dataset, _sloppy(settings) if resources.sloppy else settings, resources, output_dir)
    jobs: list[Plan] = []
    for group in group_series(series).values():
        jobs += planner.plan_task(participant, group, warnings)
    if not jobs:
        reasons = "; ".join(dict.fromkeys(warning for warning in warnings if "left out" in warning))
        raise MissingInputError(f"sub-{participant}: no run has a trial to model: {reasons}")
    jobs = [_keep_tables_of_others(job) for job in _mark_differing_runs(jobs)]
    return ParticipantPlan(participant, tuple(jobs), tuple(dict.fromkeys(warnings)))


@dataclass(frozen=True)
class _Planner:
    dataset: Dataset
    settings: GLMSettings
    resources: Resources
    output_dir: Path

    def plan_task(self, participant: str, series: list[BoldSeries], warnings: list[str]) -> list[Plan]:
        """Fits of one task and space; what is left out or assumed joins the warnings, and the notes of each fit."""
        notes = [f"{found.files[0].name}: no events, so the run is left out" for found in series if found.events is None]
        series = [found for found in series if found.events is not None]
        if not series:
            warnings += notes
            return []
        units: dict[Path, int] = {}
        runs = [self._plan_run(found, units) for found in series]
        notes += timing_notes(series) if self.settings.compat is None else []
        warnings += notes
        entities = {key: label for key, label in series[0].entities.items() if key not in ("run", "ses")}
        sessions: dict[str | None, list[PlannedRun]] = {}
        for run in runs:
            sessions.setdefault(run.session, []).append(run)
        by_session = self._fit_by_session(list(sessions.values()))
        fits = list(sessions.items()) if by_session else [(None, runs)]
        standard = series[0].space_label in STANDARD_SPACES
        draft = Plan(
            participant=participant,
            entities=entities,
            kind=series[0].kind,
            runs=(),
            models=self.settings.model,
            settings=self.settings,
            random_seed=self.resources.random_seed,
            output_dir=self.output_dir,
            stimuli_dir=self.dataset.raw / "stimuli" if self.dataset.raw is not None else None,
            spatial_reference=None if standard else spatial_reference(self.dataset, series[0]),
            n_threads=self.resources.n_threads,
            device=self.resources.device,
            notes=tuple(notes),
        )
        plans = []
        for session, fit in fits:
            labels = _ordered({**entities, "ses": session} if session is not None else entities)
            plan = self._plan_fit(replace(draft, entities=labels), fit, units, warnings)
            plans += [] if plan is None else [plan]
        return plans

    def _plan_run(self, found: BoldSeries, units: dict[Path, int]) -> PlannedRun:
        run, n_units = plan_run(self.dataset, found, with_confounds=bool(self.settings.confounds))
        if n_units is not None:
            units[found.files[0]] = n_units
        return run

    def _fit_by_session(self, sessions: list[list[PlannedRun]]) -> bool:
        scope = fit_scope(self.settings)
        if scope != "auto":
            return scope == "session"
        if len(sessions) == 1:
            return True
        return all(self._repeats(session) for session in sessions)

    def _repeats(self, runs: Sequence[PlannedRun]) -> bool:
        """Whether conditions repeat across the runs of a session; one without trials, or not at hand, has no say."""
        try:
            table = self._trials(runs)
        except NoTrialsError:
            return True
        return table is None or _repeats_across_runs(table)

    def _trials(self, runs: Sequence[PlannedRun]) -> TrialTable | None:
        """Trial table, where every file is at hand; a plan can be made where content is still to be fetched."""
        if any(run.n_volumes is None or not _has_content(run.events) for run in runs):
            return None
        if any(run.repetition_time is None for run in runs):
            return None
        return build_trials(runs, self.settings)

    def _plan_fit(self, draft: Plan, runs: list[PlannedRun], units: dict[Path, int], warnings: list[str]) -> Plan | None:
        """Complete a plan by its runs and what they allow; None where there is no trial."""
        try:
            table = self._trials(runs)
        except NoTrialsError as error:
            warnings.append(f"{error}; left out")
            return None
        n_units = max((units.get(run.bold[0], 0) for run in runs), default=0)
        if table is None:
            return _with_memory(replace(draft, runs=tuple(runs)), n_units, 0, self.resources)
        with_trials = {int(run) for run in table.run_index}
        notes = [
            f"{run.events.name}: no trial to model, so the run is left out" for index, run in enumerate(runs) if index not in with_trials
        ]
        runs = [run for index, run in enumerate(runs) if index in with_trials]
        check_repetition_times(runs)
        table = build_trials(runs, self.settings)
        models, fallbacks = choose_models(self.settings, table, runs)
        notes += [*table.warnings, *design_notes(self.settings, table, runs, dropped=bool(notes)), *fallbacks]
        notes += [SLOPPY_NOTE] if self.resources.sloppy else []
        warnings += [f"{self._label(draft.entities)}: {note}" for note in notes]
        plan = replace(
            draft,
            runs=tuple(runs),
            models=models,
            settings=self.settings.for_models(models),
            has_repeats=bool((table.trials["repetition"] > 0).any()),
            notes=(*draft.notes, *notes),
        )
        return _with_memory(plan, n_units, len(table.trials), self.resources)

    @staticmethod
    def _label(entities: dict[str, str]) -> str:
        return "_".join(f"{key}-{label}" for key, label in _ordered(entities).items())


def _sloppy(settings: GLMSettings) -> GLMSettings:
    """Few noise regressors and ridge fractions to choose from: fast, for a test of an installation."""
    fractions = settings.fractions if len(settings.fractions) <= len(SLOPPY_FRACTIONS) else SLOPPY_FRACTIONS
    return settings.for_models(settings.model, n_pcs=min(settings.n_pcs, SLOPPY_PCS), fractions=fractions, hrf_averaging="off")


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _repeats_across_runs(table: TrialTable) -> bool:
    runs_of: dict[int, set[int]] = {}
    for condition, run in zip(table.trials["condition"], table.run_index, strict=True):
        runs_of.setdefault(int(condition), set()).add(int(run))
    return any(len(runs) > 1 for runs in runs_of.values())


def _ordered(entities: dict[str, str]) -> dict[str, str]:
    return {key: entities[key] for key in ENTITY_ORDER if key in entities}


def _with_memory(plan: Plan, n_units: int, n_trials: int, resources: Resources) -> Plan:
    """Declare what the fit takes: a run being read, or a volume by each thread; blocks, regressors of 20 HRFs, clean data where they fit.

    The engine keeps the clean data in memory up to half of what it may take, and in a scratch file beyond.
    """
    volumes = [run.n_volumes or 300 for run in plan.runs]
    read = 4e-9 * n_units * max(volumes) + 16e-9 * n_units * resources.n_threads
    regressors = 8e-9 * 21 * n_trials * max(volumes) * (4 if "conform" in plan.models else 3)
    # each thread decomposes a run's regressors with all HRFs at once: about four copies meanwhile
    regressors += 4 * resources.n_threads * 8e-9 * 21 * n_trials / len(plan.runs) * max(volumes)
    per_unit = 8e-9 * n_units * 200
    block = 0.15 if resources.low_mem else min(1.0, max(0.15, 0.15 * resources.memory_gb))
    clean = 4e-9 * n_units * sum(volumes)
    work = block * 1.5
    if not resources.low_mem and clean <= CLEAN_SHARE * resources.memory_gb:
        block = max(block, 2.1 * clean)
        work = max(work, clean + 0.5)
    return replace(plan, mem_gb=round(BASE_GB + max(read * 1.3, regressors + work) + per_unit, 2), block_gb=block)


def _mark_differing_runs(jobs: list[Plan]) -> list[Plan]:
    """Give tables the space in their names where spaces do not have the same runs, as they would overwrite each other."""
    seen: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    keys = []
    for job in jobs:
        key = tuple((name, label) for name, label in job.entities.items() if name not in ("space", "res", "den"))
        keys.append(key)
        seen.setdefault(key, set()).add((tuple((run.session, run.run) for run in job.runs), job.models))
    return [replace(job, space_in_tables=len(seen[key]) > 1) for job, key in zip(jobs, keys, strict=True)]


def _keep_tables_of_others(job: Plan) -> Plan:
    """Give tables the space in their names where an earlier run wrote those without it, for another space and other runs."""
    ours = {(run.session or "n/a", run.run or "n/a") for run in job.runs}
    for table in output_tables(job):
        path = job.output_dir / table.path
        if table.key != "trials" or job.space_in_tables or not path.exists():
            continue
        if not any(_goes_by(other.name, job.entities, str(table.model)) for other in path.parent.glob("*_statmap.*")):
            continue
        try:
            trials = read_trials(path)
        except UnusableInputError:
            continue  # which will be written anew
        if set(zip(trials["session_id"], trials["run_id"], strict=True)) != ours:
            return replace(job, space_in_tables=True)
    return job


def _goes_by(name: str, entities: Mapping[str, str], model: str) -> bool:
    """Whether a file holds betas of the same fit in another space."""
    try:
        theirs = dict(parse_name(name).entities)
    except ValueError:
        return False
    if theirs.pop("stat", None) != "effect" or theirs.pop("desc", None) != model:
        return False
    theirs.pop("hemi", None)
    space = ("space", "res", "den")
    own = {key: label for key, label in entities.items() if key not in space}
    return {key: label for key, label in theirs.items() if key not in space} == own and theirs != dict(entities)
