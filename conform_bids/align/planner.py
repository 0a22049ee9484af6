"""From a dataset to jobs: which responses are prepared, or aligned to a template; nothing large is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from conform_bids.align.files import Plan, TuningInput
from conform_bids.align.settings import AlignSettings
from conform_bids.align.transforms import template_facts
from conform_bids.align.tuning_weights import BY_TUNING, ENCODE, find_weights
from conform_bids.bids.averages import PlannedMaps, table_of
from conform_bids.bids.collection import SourcePerson
from conform_bids.bids.images import read_space
from conform_bids.bids.index import Dataset
from conform_bids.bids.names import parse_name
from conform_bids.bids.responses import FoundResponses, find_responses
from conform_bids.bids.selection import Selection
from conform_bids.bids.splits import HELD_OUT
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.jobs import ParticipantPlan, Resources

__all__ = ["find_template", "plan_participant", "usable_participants"]

MAKERS = ("conform-psn", "conform-glm")
PREFERRED = ("psn", "trialavg", "conform", "fithrfdenoiserr")
UNALIGNED = ("fsnative", "T1w", "anat", "func", "boldref", "individual")
"""Spaces of a person's own: units of different people have nothing to do with each other."""
BASE_GB = 0.6
_SPACE = ("space", "cohort", "res", "den")


def usable_participants(settings: AlignSettings, output_dir: Path, participants: Sequence[str]) -> frozenset[str] | None:
    """Those who are prepared; None where the level group aligns nobody who is not (``--store``, ``--split-only``, ``--template``)."""
    if settings.store or settings.split_only or settings.template is not None:
        return None
    return frozenset(label for label in participants if any((output_dir / f"sub-{label}" / "func").glob("*_desc-prepared_trials.tsv")))


def plan_participant(
    participant: str,
    dataset: Dataset,
    selection: Selection,
    settings: AlignSettings,
    resources: Resources,
    output_dir: Path,
) -> ParticipantPlan:
    """Plan every task of a participant.

    Raises
    ------
    MissingInputError
        When there are no responses of what was asked for, or no template where ``--template`` says.
    UnusableInputError
        When people's units have nothing to do with each other in the space that there is.
    UsageError
        When there are several spaces.
    """
    found = find_responses(
        dataset,
        participant,
        selection,
        makers=MAKERS,
        preferred=PREFERRED,
        desc=settings.input_desc,
        split=settings.split,
        refused=UNALIGNED,
    )
    for responses in found:
        _check_common(responses)
    warnings: list[str] = []
    person = SourcePerson.of(dataset, participant)
    weights = [find_weights(dataset, participant, responses.entities) for responses in found]
    jobs = [
        _plan_task(person, responses, own, settings, resources, output_dir, warnings) for responses, own in zip(found, weights, strict=True)
    ]
    return ParticipantPlan(person.label, tuple(jobs), tuple(dict.fromkeys(warnings)))


def _check_common(responses: FoundResponses) -> None:
    label = responses.entities.get("space", "func")
    if label in UNALIGNED:
        raise UnusableInputError(
            f"{responses.responses[0].files[0]}: space {label} is a person's own, in which units of different people have nothing to do "
            "with each other; run conform-glm (and conform-psn) in a common space, such as fsLR, fsaverage or MNI152NLin2009cAsym"
        )


def find_template(given: str, entities: dict[str, str]) -> Path:
    """File of the template to align to: the one given, or that of a folder that has the task and space.

    Raises
    ------
    MissingInputError
        When there is none, or there are several; the message lists them.
    """
    path = Path(given).absolute()
    if path.is_file():
        return path
    there = sorted(path.glob("tpl-*/func/tpl-*_xfm.h5")) or sorted(path.glob("func/tpl-*_xfm.h5"))
    keys = ("task", *_SPACE)
    fitting = [each for each in there if all(parse_name(each).entities.get(key) == entities.get(key) for key in keys)]
    if not fitting:  # stimuli are shared across tasks of other names
        fitting = [each for each in there if all(parse_name(each).entities.get(key) == entities.get(key) for key in _SPACE)]
    if len(fitting) != 1:
        listing = f" (there are: {', '.join(each.name for each in there)})" if there else ""
        what = "several templates" if fitting else "no template"
        raise MissingInputError(f"--template {given}: {what} for {'_'.join(f'{k}-{entities[k]}' for k in keys if k in entities)}{listing}")
    return fitting[0]


def _plan_task(
    person: SourcePerson,
    found: FoundResponses,
    weights: TuningInput | None,
    settings: AlignSettings,
    resources: Resources,
    output_dir: Path,
    warnings: list[str],
) -> Plan:
    """The job of one task; what is left out or assumed joins the warnings and its notes."""
    notes: list[str] = []
    if weights is not None:
        _check_weights(weights, settings)
        notes.append(BY_TUNING)
    if found.splits == {"n/a"} and weights is None:
        notes.append("NO SPLIT IS GIVEN: maps are fitted on all stimuli, and there are no held-out stimuli to score them on")
    if not found.averaged:
        notes.append(f"single trials of desc-{found.desc} are averaged by stimulus; conform-psn would denoise them")
    warnings += [f"{found.labels}: {note}" for note in notes]
    template = None if settings.template is None else find_template(settings.template, found.entities)
    facts = {} if template is None else template_facts(template)
    if template is not None and (facts.get("rows") == "features") != (weights is not None):
        needs = f"made by weights of {ENCODE}: give -d {ENCODE}=PATH" if weights is None else f"made by responses: leave out -d {ENCODE}"
        raise UsageError(f"--template {template}: {needs}")
    plan = Plan(
        participant=person.label,
        source=person,
        entities={**found.entities, "sub": person.label},
        kind=found.kind,
        desc=found.desc,
        averaged=found.averaged,
        responses=found.responses,
        observed=found.observed,
        snr=found.map_beside("ncsnr", "psn") if found.averaged else (),
        ceiling=found.map_beside("noiseceiling", found.desc) if found.averaged else (),
        apply_to=tuple((desc, _applied(found, desc)) for desc in settings.apply_to),
        settings=settings,
        random_seed=resources.random_seed,
        output_dir=output_dir,
        stimuli=found.stimuli,
        weights=weights,
        template=template,
        method=str(facts.get("method", "")),
        template_name=str(facts.get("template_name", "")),
        has_held_out=bool(found.splits & set(HELD_OUT)),
        notes=tuple(notes),
        n_threads=resources.n_threads,
        device=resources.device,
    )
    return _with_memory(plan)


def _check_weights(weights: TuningInput, settings: AlignSettings) -> None:
    if settings.align_on != "train":
        raise UsageError(f"--align-on {settings.align_on} has no effect with {weights.file.name}: maps are fitted on its features")


def _applied(found: FoundResponses, desc: str) -> PlannedMaps:
    if desc not in found.averages:
        place = found.responses[0].files[0].parent
        raise MissingInputError(f"--apply-to {desc}: {place} has no averages of that desc; there are: {', '.join(sorted(found.descs))}")
    return found.averages[desc]


def _with_memory(plan: Plan) -> Plan:
    """Declare what the largest node takes: one file of maps, as it is read, and its copies."""
    n_units = read_space(plan.responses[0].files, None, plan.entities.get("space", "boldref")).n_units
    rows = max(len(table_of(maps.trials, None)) for maps in (*plan.responses, *(maps for _, maps in plan.apply_to)))
    copies = 3 if plan.averaged else 6
    held = 0.0 if plan.weights is None else 3e-9 * plan.weights.file.stat().st_size * 2  # compressed by half or so
    return replace(plan, mem_gb=round(BASE_GB + 4e-9 * n_units * rows * copies + held, 2))
