"""Responses to stimuli in derivatives: conform-psn's or conform-align's averages, or conform-glm's single trials, one set a task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from conform_bids.bids.averages import PlannedMaps, table_of
from conform_bids.bids.betas import BetaMaps, choose_dataset, find_betas
from conform_bids.bids.conditions import read_rows
from conform_bids.bids.images import map_paths
from conform_bids.bids.index import Dataset
from conform_bids.bids.names import ENTITY_ORDER, natural_key
from conform_bids.bids.selection import Selection, check_one_space
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = ["OBSERVED", "FoundResponses", "find_responses"]

OBSERVED = "trialavg"
"""Averages of trials that are not denoised: what scores are of."""


@dataclass(frozen=True)
class FoundResponses:
    """Responses of one person in one task and space.

    Attributes
    ----------
    entities : dict
        Without ``ses`` and ``run``, in the order of a file name.
    kind : str
        ``nifti``, ``cifti`` or ``gifti``.
    desc : str
        Of the responses.
    averaged : bool
        Whether they have a row a condition already; else they are single trials of one or more sessions.
    responses : tuple of PlannedMaps
    observed : PlannedMaps or None
        Trial averages that are not denoised, beside denoised ones.
    stimuli : Path or None
        The participant's table of stimuli.
    splits : frozenset of str
        Splits that occur.
    averages : dict of str to PlannedMaps
        By desc, all responses of the task that have a row a condition.
    descs : tuple of str
        Of all responses of the task.
    folder : Path
        The derivative.
    fit_includes_test : bool
        Whether what made the responses saw test stimuli, as the sidecar of any of them says.
    """

    entities: dict[str, str]
    kind: str
    desc: str
    averaged: bool
    responses: tuple[PlannedMaps, ...]
    observed: PlannedMaps | None
    stimuli: Path | None
    splits: frozenset[str]
    averages: dict[str, PlannedMaps]
    descs: tuple[str, ...]
    folder: Path
    fit_includes_test: bool = False

    @property
    def labels(self) -> str:
        """Entities as in a file name, for messages."""
        return "_".join(f"{key}-{label}" for key, label in self.entities.items())

    def map_beside(self, stat: str, desc: str) -> tuple[Path, ...]:
        """Files of a map of the same task and space, one a hemisphere; empty where it is not there."""
        paths = tuple(self.folder / path for path in map_paths(self.kind, {**self.entities, "stat": stat, "desc": desc}, "statmap"))
        return paths if all(path.is_file() for path in paths) else ()


def find_responses(
    dataset: Dataset,
    participant: str,
    selection: Selection,
    *,
    makers: Sequence[str],
    preferred: Sequence[str],
    desc: str | None = None,
    split: str | None = None,
    refused: Collection[str] = (),
) -> list[FoundResponses]:
    """Find the responses of a participant, one record a task.

    Parameters
    ----------
    makers : sequence of str
        Apps whose derivative is read, the first that there is.
    preferred : sequence of str
        Which desc is taken where several are there and none is asked for.
    desc : str, optional
        The one asked for.
    split : str, optional
        Column of the tables, or a file, that says what is train and test.
    refused : collection of str
        Spaces that the app does not take, which are then not proposed where there are several.

    Raises
    ------
    MissingInputError, UnusableInputError
        When there is nothing of what was asked for.
    UsageError
        When responses are in several spaces.
    """
    name = _choose_maker(dataset, makers)
    found = find_betas(dataset, name, participant, selection)
    check_one_space(found, "responses are", refused)
    tasks: dict[tuple[object, ...], list[BetaMaps]] = {}
    for maps in found:
        tasks.setdefault(tuple(item for item in maps.entities.items() if item[0] not in ("ses", "run")), []).append(maps)
    return [_describe(dataset, name, participant, group, preferred, desc, split) for group in tasks.values()]


def _choose_maker(dataset: Dataset, makers: Sequence[str]) -> str:
    errors = []
    for maker in makers:
        try:
            return choose_dataset(dataset, maker)
        except MissingInputError as error:
            errors.append(str(error))
    listing = ", ".join(makers)
    raise MissingInputError(f"{dataset.bids_dir}: no derivative of any of {listing}; {errors[0].partition(': ')[2]}")


def _describe(
    dataset: Dataset, name: str, participant: str, found: Sequence[BetaMaps], preferred: Sequence[str], desc: str | None, split: str | None
) -> FoundResponses:
    by_desc: dict[str, list[BetaMaps]] = {}
    for maps in found:
        by_desc.setdefault(maps.desc, []).append(maps)
    chosen_desc = _choose_desc(by_desc, preferred, desc)
    chosen = sorted(by_desc[chosen_desc], key=lambda maps: [natural_key(maps.entities.get(key, "")) for key in ("ses", "run")])
    averaged = _is_averaged(chosen[0])
    if averaged and len(chosen) > 1:
        raise UnusableInputError(f"{chosen[0].files[0]} and {chosen[1].files[0].name}: averages of several sessions; pool them first")
    kept = {key: label for key, label in chosen[0].entities.items() if key not in ("ses", "run")}
    folder = dataset.derivatives[name]
    stimuli = folder / "stimuli" / f"sub-{participant}_stimuli.tsv"
    observed = by_desc[OBSERVED][0] if averaged and chosen_desc != OBSERVED and OBSERVED in by_desc else None
    return FoundResponses(
        entities={**{key: kept[key] for key in ENTITY_ORDER if key in kept}, **kept},
        kind=chosen[0].kind,
        desc=chosen_desc,
        averaged=averaged,
        responses=tuple(_planned(dataset, maps) for maps in chosen),
        observed=None if observed is None else _planned(dataset, observed),
        stimuli=stimuli if stimuli.is_file() else None,
        splits=frozenset(str(value) for maps in chosen for value in table_of(maps.trials, split)["split"]),
        averages={key: _planned(dataset, maps[0]) for key, maps in by_desc.items() if len(maps) == 1 and _is_averaged(maps[0])},
        descs=tuple(by_desc),
        folder=folder,
        fit_includes_test=any(maps.metadata.get("FitIncludesTest") is True for maps in chosen),
    )


def _choose_desc(by_desc: dict[str, list[BetaMaps]], preferred: Sequence[str], asked: str | None) -> str:
    if asked is None:
        return next((desc for desc in preferred if desc in by_desc), next(iter(by_desc)))
    if asked not in by_desc:
        place = next(iter(by_desc.values()))[0].files[0].parent
        raise MissingInputError(f"{place}: no responses of desc-{asked}; there are: {', '.join(by_desc)}")
    return asked


def _planned(dataset: Dataset, maps: BetaMaps) -> PlannedMaps:
    sources = tuple(dataset.bids_uri(path) for path in (*maps.files, maps.trials))
    return PlannedMaps(maps.entities.get("ses"), maps.files, maps.trials, sources)


def _is_averaged(maps: BetaMaps) -> bool:
    return "trial" not in read_rows(maps.trials, None)[1]
