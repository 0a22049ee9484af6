"""From a dataset to jobs: which responses are predicted from which features; nothing large is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from conform_bids.bids.averages import table_of
from conform_bids.bids.collection import SourcePerson
from conform_bids.bids.images import read_space
from conform_bids.bids.index import Dataset
from conform_bids.bids.responses import FoundResponses, find_responses
from conform_bids.bids.selection import Selection
from conform_bids.bids.splits import HELD_OUT
from conform_bids.encode.features import find_feature_files
from conform_bids.encode.files import Plan
from conform_bids.encode.model_files import read_card
from conform_bids.encode.movie_plan import plan_movies
from conform_bids.encode.questions import check_questions
from conform_bids.encode.settings import EncodeSettings
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.jobs import ParticipantPlan, Resources

__all__ = ["find_stimuli", "plan_participant"]

MAKERS = ("conform-psn", "conform-align", "conform-glm")
PREFERRED = ("psn", "trialavg", "conform", "fithrfdenoiserr")
BASE_GB = 0.8
BACKBONE_GB = 0.7
N_FEATURES = 2000
"""Features of a table that is not read yet, for the estimate of memory."""


def plan_participant(
    participant: str,
    dataset: Dataset,
    selection: Selection,
    settings: EncodeSettings,
    resources: Resources,
    output_dir: Path,
) -> ParticipantPlan:
    """Plan every task of a participant.

    Raises
    ------
    MissingInputError
        When there are no responses of what was asked for, no features, or no stimuli to compute them from.
    UsageError
        When responses are in several spaces, or feature spaces are too few for the estimator.
    """
    tables = tuple(find_feature_files(settings.features))
    n_spaces = len(tables) + (settings.chosen_backbone is not None)
    if settings.estimator == "banded" and n_spaces < 2:
        raise UsageError(f"--estimator banded needs two feature spaces or more; there is {n_spaces}")
    check_questions(settings, tables)
    if settings.is_movie:
        folder = find_stimuli(dataset, settings)
        return plan_movies(participant, dataset, selection, settings, resources, output_dir, tables, folder)
    person = SourcePerson.of(dataset, participant)
    seen = _check_person(person.label, settings)
    folder = find_stimuli(dataset, settings)
    found = find_responses(
        dataset, participant, selection, makers=MAKERS, preferred=PREFERRED, desc=settings.input_desc, split=settings.split
    )
    warnings: list[str] = []
    jobs = []
    for responses in found:
        notes = [*seen, *_notes(responses, settings)]
        warnings += [f"{responses.labels}: {note}" for note in notes]
        has_split = responses.splits != {"n/a"}
        plan = Plan(
            participant=person.label,
            source=person,
            entities={**responses.entities, "sub": person.label},
            kind=responses.kind,
            desc=responses.desc,
            averaged=responses.averaged,
            responses=responses.responses,
            observed=responses.observed,
            snr=responses.map_beside("ncsnr", "psn") if responses.averaged else (),
            stimuli=responses.stimuli,
            feature_files=tables,
            stimuli_dir=folder,
            settings=settings,
            random_seed=resources.random_seed,
            output_dir=output_dir,
            has_split=has_split,
            has_held_out=bool(responses.splits & set(HELD_OUT)) if has_split else settings.test_fraction > 0,
            n_spaces=n_spaces,
            notes=tuple(notes),
            n_threads=resources.n_threads,
            device=resources.device,
        )
        jobs.append(_with_memory(plan))
    return ParticipantPlan(person.label, tuple(jobs), tuple(dict.fromkeys(warnings)))


def _check_person(participant: str, settings: EncodeSettings) -> list[str]:
    """Whether a population model may be tested on a person: not if it was trained on that one."""
    if settings.model is None:
        return []
    card = read_card(settings.model)
    name = f"sub-{participant}"
    if name in card.people:
        if not settings.allow_seen:
            raise UsageError(
                f"{name}: the model in {settings.model} was trained on this person ({len(card.people)} people: {', '.join(card.people[:5])}"
                f"{', ...' if len(card.people) > 5 else ''}), so that scores would not be those of a new person; --allow-seen goes on "
                "(also where it is another person of the same label)"
            )
        return [f"THE MODEL WAS TRAINED ON {name}: its scores are not those of a new person"]
    alike = [person for person in card.people if person.endswith(participant)]
    return [f"the model was trained on {alike[0]}: see that this is another person than {name}"] if alike else []


def find_stimuli(dataset: Dataset, settings: EncodeSettings) -> Path | None:
    """Folder of the stimulus files; None where they are of no use.

    A backbone needs them; beside tables of features they tell movies apart by content, and illustrate ``--influence``.

    Raises
    ------
    MissingInputError
        When there is no folder, and it was named or is needed.
    """
    folder = settings.stimuli_dir or (dataset.raw / "stimuli" if dataset.raw is not None else None)
    if folder is not None and folder.is_dir() and (settings.chosen_backbone is not None or settings.sees_stimuli):
        return folder
    if settings.stimuli_dir is not None:
        raise MissingInputError(f"--stimuli-dir {settings.stimuli_dir}: no such folder")
    if settings.chosen_backbone is None:
        return None
    where = f"{folder}: no such folder" if folder is not None else f"{dataset.bids_dir}: no raw dataset"
    raise MissingInputError(
        f"{where}; the stimuli are needed to compute features from: name them by --stimuli-dir or -d raw=PATH, or give --features"
    )


def _notes(responses: FoundResponses, settings: EncodeSettings) -> list[str]:
    notes = []
    if responses.splits == {"n/a"}:
        drawn = f"{settings.test_fraction:.0%} of the stimuli are drawn and held out for the scores"
        held = drawn if settings.test_fraction > 0 else "models are fitted on all stimuli, and there are no scores"
        notes.append(f"NO SPLIT IS GIVEN: {held}")
    if responses.fit_includes_test and (responses.splits != {"n/a"} or settings.test_fraction > 0):
        notes.append(
            f"WHAT MADE desc-{responses.desc} SAW TEST STIMULI (FitIncludesTest): responses to train stimuli may hold some of the noise "
            "that scores are taken of; give conform-glm and conform-psn the split for scores that are independent"
        )
    if not responses.averaged:
        notes.append(f"single trials of desc-{responses.desc} are averaged by stimulus; conform-psn would denoise them")
    return notes


def _with_memory(plan: Plan) -> Plan:
    """Declare what the largest node takes: responses as they are read, and their copies, and the features."""
    n_units = read_space(plan.responses[0].files, None, plan.entities.get("space", "boldref")).n_units
    rows = max(len(table_of(maps.trials, None)) for maps in plan.responses)
    n_features = (plan.settings.components or N_FEATURES) * plan.n_spaces
    responses = 4e-9 * n_units * rows * (3 if plan.averaged else 6)
    weights = 4e-9 * n_units * n_features * 2
    features = 8e-9 * n_features * max(n_features, rows) * 4
    base = BASE_GB + (BACKBONE_GB if plan.settings.chosen_backbone else 0)
    return replace(plan, mem_gb=round(base + responses + weights + features, 2))
