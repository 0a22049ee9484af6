"""From a dataset to jobs: which betas are pooled, by which model; nothing large is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from conform_bids.bids.betas import BetaMaps, choose_dataset, find_betas
from conform_bids.bids.images import read_space
from conform_bids.bids.index import Dataset
from conform_bids.bids.names import ENTITY_ORDER, natural_key
from conform_bids.bids.parcellations import find_parcellation
from conform_bids.bids.selection import Selection
from conform_bids.bids.spaces import VolumeSpace
from conform_bids.errors import UnusableInputError
from conform_bids.jobs import ParticipantPlan, Resources
from conform_bids.psn.files import Plan, PlannedBetas
from conform_bids.psn.pooling import PooledTrials, pool_trials
from conform_bids.psn.settings import PSNSettings

__all__ = ["plan_participant"]

MAKER = "conform-glm"
PREFERRED = ("conform", "fithrfdenoiserr")
BASE_GB = 0.6
"""Python, scipy and nibabel."""
SLOPPY_NOTE = "Made with --sloppy, with two folds of conditions: not for use."


def plan_participant(
    participant: str,
    dataset: Dataset,
    selection: Selection,
    settings: PSNSettings,
    resources: Resources,
    output_dir: Path,
) -> ParticipantPlan:
    """Plan every task and space of a participant.

    Raises
    ------
    MissingInputError
        When there are no betas of what was asked for; the message lists what there is.
    UnusableInputError
        When sessions cannot be pooled, or no condition repeats.
    """
    name = choose_dataset(dataset, MAKER)
    found = find_betas(dataset, name, participant, replace(selection, sessions=(), runs=()))
    planner = _Planner(dataset, name, selection, settings, resources, output_dir)
    warnings: list[str] = []
    jobs = [planner.plan_space(participant, group, warnings) for group in _group(found).values()]
    return ParticipantPlan(participant, tuple(jobs), tuple(dict.fromkeys(warnings)))


def _group(found: Sequence[BetaMaps]) -> dict[tuple[object, ...], list[BetaMaps]]:
    """Betas that share every entity but session and run, whatever their model."""
    groups: dict[tuple[object, ...], list[BetaMaps]] = {}
    for maps in found:
        shared = tuple((key, label) for key, label in maps.entities.items() if key not in ("ses", "run"))
        groups.setdefault((maps.kind, shared), []).append(maps)
    return groups


@dataclass(frozen=True)
class _Planner:
    dataset: Dataset
    name: str
    selection: Selection
    settings: PSNSettings
    resources: Resources
    output_dir: Path

    def plan_space(self, participant: str, found: list[BetaMaps], warnings: list[str]) -> Plan:
        """The job of one task and space; what is left out or assumed joins the warnings and its notes."""
        desc, notes = self._choose_desc(found)
        chosen = [maps for maps in found if maps.desc == desc]
        _check_fits(chosen)
        chosen.sort(key=lambda maps: (natural_key(maps.entities.get("ses", "")), natural_key(maps.entities.get("run", ""))))
        betas = [self._plan_betas(maps) for maps in chosen]
        pooled = pool_trials(betas, self.settings, self.selection.sessions, self.selection.runs)
        used = [betas[index] for index in np.unique(pooled.source)]
        if desc == "conform" and self.settings.rescale and not all(planned.scale for planned in used):
            notes.append("no stat-scale map beside the betas of desc-conform, so their amplitudes stay shrunk")
        notes += [*pooled.warnings, *([SLOPPY_NOTE] if self.resources.sloppy else [])]
        entities = {key: chosen[0].entities[key] for key in ENTITY_ORDER if key in chosen[0].entities and key not in ("ses", "run")}
        entities |= {key: label for key, label in chosen[0].entities.items() if key not in (*entities, "ses", "run")}
        labels = "_".join(f"{key}-{label}" for key, label in entities.items())
        warnings += [f"{labels}: {note}" for note in notes]
        zscore = self.settings.session_zscore
        plan = Plan(
            participant=participant,
            entities=entities,
            kind=chosen[0].kind,
            desc=desc,
            betas=tuple(used),
            settings=self.settings,
            random_seed=self.resources.random_seed,
            output_dir=self.output_dir,
            sessions=self.selection.sessions,
            runs=self.selection.runs,
            zscore=len(pooled.sessions) > 1 if zscore is None else zscore,
            has_split=pooled.split_given,
            units=_units(chosen),
            parcellation=self._parcellation(self.settings.parcellation, chosen[0], "--parcellation"),
            groups=self._parcellation(self.settings.unit_groups, chosen[0], "--unit-groups"),
            stimuli=self._stimuli(participant),
            notes=tuple(notes),
            sloppy=self.resources.sloppy,
            n_threads=self.resources.n_threads,
            device=self.resources.device,
        )
        return _with_memory(plan, pooled, self.resources)

    def _choose_desc(self, found: Sequence[BetaMaps]) -> tuple[str, list[str]]:
        """Model to read: the one asked for, else the best that there is."""
        available = list(dict.fromkeys(maps.desc for maps in found))
        asked = self.settings.input_desc
        if asked is not None and asked not in available:
            from conform_bids.errors import MissingInputError

            place = found[0].files[0].parent
            raise MissingInputError(f"{place}: no betas of desc-{asked}; there are: {', '.join(available)}")
        desc = asked or next((name for name in PREFERRED if name in available), available[0])
        notes = []
        if asked is None and desc != PREFERRED[0]:
            notes.append(f"there are no betas of desc-{PREFERRED[0]}; those of desc-{desc} are read")
        have = {maps.entities.get("ses") for maps in found if maps.desc == desc}
        lack = {maps.entities.get("ses") for maps in found} - have
        if lack and None not in have:
            sessions = ", ".join(sorted(str(label) for label in lack if label is not None))
            notes.append(f"session {sessions} has no betas of desc-{desc} and is left out")
        return desc, notes

    def _plan_betas(self, maps: BetaMaps) -> PlannedBetas:
        scale = maps.scale if self.settings.rescale and maps.desc == "conform" else ()
        read = [*maps.files, maps.trials, *([maps.mask] if maps.mask is not None else []), *scale]
        sources = tuple(self.dataset.bids_uri(path) for path in read)
        return PlannedBetas(maps.entities.get("ses"), maps.files, maps.trials, maps.mask, scale, sources)

    def _parcellation(self, given: str | None, maps: BetaMaps, flag: str) -> tuple[Path, ...]:
        if given is None or given in ("auto", "whole", "clusters"):
            return ()
        return find_parcellation(given, maps.kind, maps.entities, flag)

    def _stimuli(self, participant: str) -> Path | None:
        path = self.dataset.derivatives[self.name] / "stimuli" / f"sub-{participant}_stimuli.tsv"
        return path if path.is_file() else None


def _check_fits(chosen: Sequence[BetaMaps]) -> None:
    """Refuse betas of both kinds of fit, by session and over sessions: their trials are the same."""
    whole = [maps for maps in chosen if "ses" not in maps.entities]
    if whole and len(chosen) > len(whole):
        other = next(maps for maps in chosen if "ses" in maps.entities)
        raise UnusableInputError(
            f"{whole[0].files[0]} and {other.files[0].name} hold the same trials, fitted over sessions and by session; choose by "
            "--bids-filter-file, betas: session"
        )


def _units(chosen: Sequence[BetaMaps]) -> str:
    units = [str(maps.metadata.get("Units") or "arbitrary") for maps in chosen]
    for maps, unit in zip(chosen, units, strict=True):
        if unit != units[0]:
            other = f"{chosen[0].files[0].name}: {units[0]}"
            raise UnusableInputError(f"{maps.files[0]}: sessions differ in units, by their sidecars ({unit}; {other})")
    return units[0]


def _with_memory(plan: Plan, pooled: PooledTrials, resources: Resources) -> Plan:
    """Declare what the largest node takes: one file of betas being read, or the parcels that threads work on."""
    n_units = 0
    for betas in plan.betas:
        if all(path.exists() and path.stat().st_size > 0 for path in (*betas.files, *([betas.mask] if betas.mask else []))):
            space = read_space(betas.files, betas.mask, plan.entities.get("space", "boldref"))
            n_units = max(n_units, int(np.prod(space.shape)) if isinstance(space, VolumeSpace) and betas.mask is None else space.n_units)
    n_trials, n_conditions = len(pooled.trials), len(pooled.conditions)
    largest = max(np.bincount(pooled.source))
    read = 4e-9 * n_units * largest * 1.3
    whole = plan.settings.parcellation == "whole" or (plan.settings.parcellation == "auto" and n_units <= 2 * plan.settings.parcel_size)
    n = n_units if whole else 2 * plan.settings.parcel_size if plan.settings.makes_clusters else min(n_units, 3000)
    n = min(n, n_units)
    square = min(n, 3000)
    kept = 160e-9 * (square + n_conditions / 5) * min(square, n_conditions)  # outputs of folds along dimensions, for gains of units
    parcel = 8e-9 * (30 * square * square + 8 * n * n_trials) + kept
    block = 4e-9 * n_conditions * n_units if not resources.low_mem else 0.1
    mem = BASE_GB + max(read, plan.n_threads * parcel + 8e-9 * n_units * 60, min(block, 1.0) * 2)
    return replace(plan, mem_gb=round(mem, 2), block_gb=0.1 if resources.low_mem else 0.5)
