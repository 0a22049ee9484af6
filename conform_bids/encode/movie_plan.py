"""From a dataset to the jobs of continuous movies: which runs show what, what is held out; nothing large is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.bids.betas import BETA_KINDS, choose_dataset
from conform_bids.bids.bold import BoldSeries, find_bold
from conform_bids.bids.collection import SourcePerson
from conform_bids.bids.events import build_trial_table
from conform_bids.bids.index import BIDSFile, Dataset
from conform_bids.bids.names import ENTITY_ORDER
from conform_bids.bids.runs import PlannedRun, check_repetition_times, group_series, plan_run, run_events, timing_notes
from conform_bids.bids.selection import Selection, check_one_space
from conform_bids.bids.series import hemisphere_pair, single_file
from conform_bids.bids.splits import HELD_OUT
from conform_bids.bids.trials import TrialTable, stimulus_table
from conform_bids.encode.files import Plan
from conform_bids.encode.numerics.movies import default_delays
from conform_bids.encode.settings import EncodeSettings
from conform_bids.errors import MissingInputError, NoTrialsError, UnusableInputError, UsageError
from conform_bids.jobs import ParticipantPlan, Resources
from conform_bids.stimuli.feature_files import read_features

__all__ = ["SHORT_VOLUMES", "draw_movies", "movie_trials", "plan_movies"]

SHORT_VOLUMES = 5
"""A stimulus of fewer volumes than this is no movie, most likely."""
BASE_GB, BACKBONE_GB = 0.9, 0.7
N_FEATURES = 1300
MODELS = ("conform", "fithrfdenoiserr", "fithrfdenoise", "fithrf")
_SPACE = ("space", "cohort", "res", "den")


def movie_trials(runs: Sequence[PlannedRun], settings: EncodeSettings) -> TrialTable:
    """Presentations of stimuli in the runs of a fit, as their events say.

    Raises
    ------
    MissingInputError, UnusableInputError, UsageError
        As of `conform_bids.bids.events.build_trial_table`.
    """
    return build_trial_table(
        [run_events(run) for run in runs],
        condition_column=settings.condition_column,
        trial_filter=settings.trial_filter,
        split=settings.split,
    )


def plan_movies(
    participant: str,
    dataset: Dataset,
    selection: Selection,
    settings: EncodeSettings,
    resources: Resources,
    output_dir: Path,
    tables: tuple[Path, ...],
    stimuli_dir: Path | None,
) -> ParticipantPlan:
    """Plan every task of a participant; a job is all runs of a task.

    Parameters
    ----------
    tables : tuple of Path
        Of features.
    stimuli_dir : Path or None
        Where the files of the movies are.

    Raises
    ------
    MissingInputError
        When no run has both BOLD and events, or there is no map of HRFs where these are asked for.
    UnusableInputError
        Naming the file, when an input is there but cannot be used.
    UsageError
        When BOLD is in several spaces.
    """
    series = find_bold(dataset, participant, selection)
    check_one_space(series, "BOLD is")
    if all(found.events is None for found in series):
        raise MissingInputError(f"sub-{participant}: no run has events, so nothing says which movie was shown when")
    warnings = [warning for found in series for warning in found.warnings]
    person = SourcePerson.of(dataset, participant)
    jobs = []
    for group in group_series(series).values():
        named = {key: label for key, label in group[0].entities.items() if key not in ("run", "ses")} | {"sub": person.label}
        draft = Plan(
            participant=person.label,
            source=person,
            entities={key: named[key] for key in ENTITY_ORDER if key in named} | named,
            kind=group[0].kind,
            desc="preproc",
            averaged=True,
            responses=(),
            observed=None,
            snr=(),
            stimuli=None,
            feature_files=tables,
            stimuli_dir=stimuli_dir,
            settings=settings,
            random_seed=resources.random_seed,
            output_dir=output_dir,
            n_spaces=len(tables) + (settings.chosen_backbone is not None),
            n_threads=resources.n_threads,
            device=resources.device,
        )
        job = _plan_task(dataset, draft, group, warnings)
        jobs += [] if job is None else [job]
    if not jobs:
        raise MissingInputError(f"sub-{participant}: no run has a stimulus to model: {'; '.join(dict.fromkeys(warnings))}")
    return ParticipantPlan(person.label, tuple(jobs), tuple(dict.fromkeys(warnings)))


def _plan_task(dataset: Dataset, draft: Plan, series: list[BoldSeries], warnings: list[str]) -> Plan | None:
    """The job of a task; None where no run shows anything."""
    settings = draft.settings
    notes = [f"{found.files[0].name}: no events, so the run is left out" for found in series if found.events is None]
    series = [found for found in series if found.events is not None]
    planned = [plan_run(dataset, found, with_confounds=bool(settings.confounds)) for found in series]
    runs, n_units = [run for run, _ in planned], max((units or 0 for _, units in planned), default=0)
    for run in runs:
        if run.n_volumes is None or not run.repetition_time:
            raise UnusableInputError(f"{run.bold[0]}: empty, or its content is not here; movies are planned from the length of runs")
    if not runs:
        warnings += notes
        return None
    try:
        table = movie_trials(runs, settings)
    except NoTrialsError as error:
        warnings += [*notes, f"{error}; left out"]
        return None
    shown = set(table.run_index.tolist())
    notes += [f"{run.events.name}: no stimulus, so the run is left out" for index, run in enumerate(runs) if index not in shown]
    runs = [run for index, run in enumerate(runs) if index in shown]
    check_repetition_times(runs)
    table = movie_trials(runs, settings)
    trials = _of_known(draft, table)
    notes += [*timing_notes(series), *table.warnings, *_movie_notes(trials, runs)]
    has_split = bool((trials["split"] != "n/a").any())
    drawn = () if has_split else draw_movies(trials, settings.test_fraction, draft.random_seed)
    held = set(drawn) | set(trials.loc[trials["split"].isin(HELD_OUT), "stim_id"])
    notes += [] if has_split else [_split_note(drawn, settings)]
    repeats = trials.loc[trials["stim_id"].isin(held), "stim_id"].value_counts()
    if held and not (repeats > 1).any():
        notes.append("no held-out movie was shown more than once: there is no noise ceiling")
    maps, uris, library_note = _hrf_maps(dataset, draft) if settings.hrf == "glm" else ((), (), [])
    notes += library_note
    plan = replace(
        draft,
        runs=tuple(runs),
        has_split=has_split,
        has_held_out=bool(held),
        drawn=drawn,
        has_repeats=bool((repeats > 1).any()),
        hrf_index=maps,
        other_sources=uris,
        notes=tuple(notes),
    )
    label = "_".join(f"{key}-{text}" for key, text in plan.entities.items())
    warnings += [f"{label}: {note}" for note in notes]
    return _with_memory(plan, n_units)


def _of_known(draft: Plan, table: TrialTable) -> pd.DataFrame:
    """Trials whose stimuli have features, as far as names tell; all of them where none does."""
    stimuli = stimulus_table(table, draft.stimuli_dir)
    known = set(stimuli["stim_id"])
    for path in draft.feature_files:
        features = read_features(path)
        names, hashes = set(features.stim_ids), set(features.sha256) - {"n/a"}
        known &= set(stimuli["stim_id"][stimuli["stim_id"].isin(names) | stimuli["sha256"].isin(hashes)])
    if draft.settings.chosen_backbone is not None:
        known &= set(stimuli["stim_id"][stimuli["stim_file"] != "n/a"])
    trials = table.trials.assign(run=table.run_index)
    return trials[trials["stim_id"].isin(known)] if known else trials


def draw_movies(trials: pd.DataFrame, fraction: float, seed: int) -> tuple[str, ...]:
    """Movies that are held out where no split is given: a share of them by chance, those that repeat before others."""
    counts = trials["stim_id"].value_counts()
    names = sorted(counts.index)
    if not fraction or len(names) < 2:
        return ()
    n = min(len(names) - 1, max(1, round(fraction * len(names))))
    shuffled = [str(name) for name in np.random.default_rng(seed).permutation(names)]
    return tuple(sorted(sorted(shuffled, key=lambda name: counts[name] == 1)[:n]))


def _split_note(drawn: tuple[str, ...], settings: EncodeSettings) -> str:
    if drawn:
        some = ", ".join(map(repr, drawn[:3])) + (", ..." if len(drawn) > 3 else "")
        return f"NO SPLIT IS GIVEN: {len(drawn)} movies are drawn and held out for the scores: {some}"
    why = "there is one movie only" if settings.test_fraction else "--test-fraction is 0"
    return f"NO SPLIT IS GIVEN, and {why}: models are fitted on everything, and there are no scores of test movies"


def _movie_notes(trials: pd.DataFrame, runs: Sequence[PlannedRun]) -> list[str]:
    """What is odd about the times at which movies were shown."""
    notes = []
    repetition_time = float(runs[0].repetition_time or 0)
    median = float(trials["duration"].median())
    if median < SHORT_VOLUMES * repetition_time:
        notes.append(
            f"stimuli last {median:g} s (median), {median / repetition_time:.1f} volumes: --design trials is for stimuli as short as that"
        )
    for _, row in trials.iterrows():
        run = runs[int(row["run"])]
        end, stop = float(row["onset"] + row["duration"]), float(run.n_volumes or 0) * repetition_time
        if end > stop + repetition_time:
            notes.append(
                f"{run.label}: {row['stim_id']!r} lasts until {end:g} s, and the run ends at {stop:g} s: what was recorded of it is used"
            )
    return notes


def _hrf_maps(dataset: Dataset, draft: Plan) -> tuple[tuple[tuple[Path, ...], ...], tuple[str, ...], list[str]]:
    """Maps ``stat-hrfindex`` of the participant in the space of a plan, one a fit, and their BIDS URIs."""
    name = choose_dataset(dataset, "conform-glm")
    wanted = {key: draft.entities.get(key) for key in _SPACE}
    found = [
        file
        for file in dataset.files(name, draft.source.participant, suffix="statmap", extensions=tuple(BETA_KINDS), stat="hrfindex")
        if BETA_KINDS[file.extension] == draft.kind and {key: file.entities.get(key) for key in _SPACE} == wanted
    ]
    of_model = {model: [file for file in found if file.entities.get("desc") == model] for model in MODELS}
    chosen = next((files for files in of_model.values() if files), [])
    if not chosen:
        space = draft.entities.get("space", "boldref")
        raise MissingInputError(
            f"{dataset.derivatives[name]}: no map of HRFs (*_stat-hrfindex_*_statmap) of sub-{draft.source.participant} in space {space} "
            f"({draft.kind}); --hrf fir needs none"
        )
    groups: dict[tuple[Any, ...], list[BIDSFile]] = {}
    for file in chosen:
        key = tuple(sorted((key, label) for key, label in file.entities.items() if key != "hemi"))
        groups.setdefault(key, []).append(file)
    maps = tuple(hemisphere_pair(group) if draft.kind == "gifti" else single_file(group) for group in groups.values())
    for files in maps:
        settings = dataset.sidecar(files[0]).get("Settings")
        own = settings.get("hrf_library") if isinstance(settings, dict) else None
        if own and draft.settings.hrf_library is None:
            raise UsageError(f"{files[0]}: its HRFs are of the library {own}; name that file by --hrf-library")
    notes = [f"HRFs of {len(maps)} fits of conform-glm: each unit has the one that it has most often"] if len(maps) > 1 else []
    return maps, tuple(dataset.bids_uri(path) for files in maps for path in files), notes


def _with_memory(plan: Plan, n_units: int) -> Plan:
    """Declare what the largest node takes: a run as it is read, all responses, and the regressors with what their fit needs."""
    volumes = [int(run.n_volumes or 0) for run in plan.runs]
    repetition_time = float(plan.runs[0].repetition_time or 2)
    n_delays = len(plan.settings.delays or default_delays(repetition_time)) if plan.settings.hrf == "fir" else 1
    n_regressors = (plan.settings.components or N_FEATURES) * plan.n_spaces * n_delays
    responses = 4e-9 * n_units * (2 * sum(volumes) + max(volumes))
    regressors = 8e-9 * sum(volumes) * n_regressors * 3 + 8e-9 * min(sum(volumes), n_regressors) ** 2 * 4
    weights = 4e-9 * n_units * n_regressors * 2
    base = BASE_GB + (BACKBONE_GB if plan.settings.chosen_backbone else 0)
    return replace(plan, mem_gb=round(base + responses + regressors + weights, 2))
