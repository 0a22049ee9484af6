"""From a dataset to jobs: which responses are prepared, or aligned to a template; nothing large is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conform_bids.align.files import Plan
from conform_bids.align.settings import AlignSettings
from conform_bids.align.transforms import template_facts
from conform_bids.bids.averages import PlannedMaps, table_of
from conform_bids.bids.betas import BetaMaps, choose_dataset, find_betas
from conform_bids.bids.images import map_paths, read_space
from conform_bids.bids.index import Dataset
from conform_bids.bids.names import ENTITY_ORDER, natural_key, parse_name
from conform_bids.bids.selection import Selection
from conform_bids.bids.splits import HELD_OUT
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.jobs import ParticipantPlan, Resources

__all__ = ["find_template", "plan_participant"]

MAKERS = ("conform-psn", "conform-glm")
PREFERRED = ("psn", "trialavg", "conform", "fithrfdenoiserr")
OBSERVED = "trialavg"
UNALIGNED = ("fsnative", "T1w", "anat", "func", "boldref", "individual")
"""Spaces of a person's own: units of different people have nothing to do with each other."""
BASE_GB = 0.6
_SPACE = ("space", "cohort", "res", "den")


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
    name = _choose_dataset(dataset)
    found = find_betas(dataset, name, participant, selection)
    _check_space(found)
    planner = _Planner(dataset, name, settings, resources, output_dir)
    groups: dict[tuple[object, ...], list[BetaMaps]] = {}
    for maps in found:
        groups.setdefault(tuple(item for item in maps.entities.items() if item[0] not in ("ses", "run")), []).append(maps)
    warnings: list[str] = []
    jobs = [planner.plan_task(participant, group, warnings) for group in groups.values()]
    return ParticipantPlan(participant, tuple(jobs), tuple(dict.fromkeys(warnings)))


def _choose_dataset(dataset: Dataset) -> str:
    """conform-psn's derivative, else conform-glm's."""
    errors = []
    for maker in MAKERS:
        try:
            return choose_dataset(dataset, maker)
        except MissingInputError as error:
            errors.append(str(error))
    raise MissingInputError(f"{dataset.bids_dir}: neither a conform-psn nor a conform-glm derivative; {errors[0].partition(': ')[2]}")


def _check_space(found: Sequence[BetaMaps]) -> None:
    spaces = {(maps.kind, *((key, maps.entities.get(key)) for key in _SPACE)): maps for maps in found}
    if len(spaces) > 1:
        listing = "; ".join(f"{_name_space(maps)} ({maps.kind})" for maps in spaces.values())
        raise UsageError(
            f"responses are in several spaces, and people are aligned in one: {listing}; choose by --output-spaces or --file-format"
        )
    (maps,) = spaces.values()
    label = maps.entities.get("space", "func")
    if label in UNALIGNED:
        raise UnusableInputError(
            f"{maps.files[0]}: space {label} is a person's own, in which units of different people have nothing to do with each other; run "
            "conform-glm (and conform-psn) in a common space, such as fsLR, fsaverage or MNI152NLin2009cAsym"
        )


def _name_space(maps: BetaMaps) -> str:
    modifiers = [f"{key}-{maps.entities[key]}" for key in ("res", "den", "cohort") if key in maps.entities]
    return ":".join([maps.entities.get("space", "func"), *modifiers])


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


@dataclass(frozen=True)
class _Planner:
    dataset: Dataset
    name: str
    settings: AlignSettings
    resources: Resources
    output_dir: Path

    def plan_task(self, participant: str, found: list[BetaMaps], warnings: list[str]) -> Plan:
        """The job of one task; what is left out or assumed joins the warnings and its notes."""
        by_desc: dict[str, list[BetaMaps]] = {}
        for maps in found:
            by_desc.setdefault(maps.desc, []).append(maps)
        desc = self._choose_desc(by_desc)
        chosen = sorted(by_desc[desc], key=lambda maps: [natural_key(maps.entities.get(key, "")) for key in ("ses", "run")])
        averaged = "trial" not in _columns(chosen[0].trials)
        notes: list[str] = []
        if averaged and len(chosen) > 1:
            raise UnusableInputError(f"{chosen[0].files[0]} and {chosen[1].files[0].name}: averages of several sessions; pool them first")
        entities = self._entities(chosen[0])
        split_of = {value for maps in chosen for value in table_of(maps.trials, self.settings.split)["split"]}
        if split_of == {"n/a"}:
            notes.append("NO SPLIT IS GIVEN: maps are fitted on all stimuli, and there are no held-out stimuli to score them on")
        if not averaged:
            notes.append(f"single trials of desc-{desc} are averaged by stimulus; conform-psn would denoise them")
        labels = "_".join(f"{key}-{label}" for key, label in entities.items())
        warnings += [f"{labels}: {note}" for note in notes]
        template = None if self.settings.template is None else find_template(self.settings.template, entities)
        facts = {} if template is None else template_facts(template)
        plan = Plan(
            participant=participant,
            entities=entities,
            kind=chosen[0].kind,
            desc=desc,
            averaged=averaged,
            responses=tuple(map(self._planned, chosen)),
            observed=self._planned(by_desc[OBSERVED][0]) if averaged and desc != OBSERVED and OBSERVED in by_desc else None,
            snr=self._beside(chosen[0], "ncsnr", "psn") if averaged else (),
            ceiling=self._beside(chosen[0], "noiseceiling", desc) if averaged else (),
            apply_to=tuple((other, self._applied(by_desc, other)) for other in self.settings.apply_to),
            settings=self.settings,
            random_seed=self.resources.random_seed,
            output_dir=self.output_dir,
            stimuli=self._stimuli(participant),
            template=template,
            method=str(facts.get("method", "")),
            template_name=str(facts.get("template_name", "")),
            has_held_out=bool(split_of & set(HELD_OUT)),
            notes=tuple(notes),
            n_threads=self.resources.n_threads,
            device=self.resources.device,
        )
        return _with_memory(plan)

    def _choose_desc(self, by_desc: dict[str, list[BetaMaps]]) -> str:
        asked = self.settings.input_desc
        if asked is None:
            return next((desc for desc in PREFERRED if desc in by_desc), next(iter(by_desc)))
        if asked not in by_desc:
            place = next(iter(by_desc.values()))[0].files[0].parent
            raise MissingInputError(f"{place}: no responses of desc-{asked}; there are: {', '.join(by_desc)}")
        return asked

    def _applied(self, by_desc: dict[str, list[BetaMaps]], desc: str) -> PlannedMaps:
        maps = by_desc.get(desc, [])
        if len(maps) != 1 or "trial" in _columns(maps[0].trials):
            place = next(iter(by_desc.values()))[0].files[0].parent
            there = ", ".join(sorted(by_desc))
            raise MissingInputError(f"--apply-to {desc}: {place} has no averages of that desc; there are: {there}")
        return self._planned(maps[0])

    @staticmethod
    def _entities(maps: BetaMaps) -> dict[str, str]:
        kept = {key: label for key, label in maps.entities.items() if key not in ("ses", "run")}
        return {**{key: kept[key] for key in ENTITY_ORDER if key in kept}, **kept}

    def _planned(self, maps: BetaMaps) -> PlannedMaps:
        sources = tuple(self.dataset.bids_uri(path) for path in (*maps.files, maps.trials))
        return PlannedMaps(maps.entities.get("ses"), maps.files, maps.trials, sources)

    def _beside(self, maps: BetaMaps, stat: str, desc: str) -> tuple[Path, ...]:
        """A map of the same entities; empty where it is not there."""
        folder = self.dataset.derivatives[self.name]
        paths = tuple(folder / path for path in map_paths(maps.kind, {**maps.entities, "stat": stat, "desc": desc}, "statmap"))
        return paths if all(path.is_file() for path in paths) else ()

    def _stimuli(self, participant: str) -> Path | None:
        path = self.dataset.derivatives[self.name] / "stimuli" / f"sub-{participant}_stimuli.tsv"
        return path if path.is_file() else None


def _columns(path: Path) -> list[str]:
    from conform_bids.bids.conditions import read_rows

    return list(read_rows(path, None)[1])


def _with_memory(plan: Plan) -> Plan:
    """Declare what the largest node takes: one file of maps, as it is read, and its copies."""
    n_units = read_space(plan.responses[0].files, None, plan.entities.get("space", "boldref")).n_units
    rows = max(len(table_of(maps.trials, None)) for maps in (*plan.responses, *(maps for _, maps in plan.apply_to)))
    copies = 3 if plan.averaged else 6
    return replace(plan, mem_gb=round(BASE_GB + 4e-9 * n_units * rows * copies, 2))
