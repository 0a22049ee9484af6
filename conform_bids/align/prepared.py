"""People as the participant level prepared them, read back for the group: which belong together, on which grid, with which stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.align.numerics.data import PersonData, Standard
from conform_bids.align.results import reliability_of, responses_standard
from conform_bids.align.stimuli import SharedStimuli, share_names, share_stimuli
from conform_bids.bids.conditions import read_conditions
from conform_bids.bids.images import map_paths, read_maps, read_space
from conform_bids.bids.names import natural_key, parse_name
from conform_bids.bids.scratch import map_array
from conform_bids.bids.sidecars import read_json
from conform_bids.bids.spaces import Space, VolumeSpace
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError

__all__ = ["Gathered", "PreparedPerson", "check_alike", "common_space", "find_prepared", "gather", "shared_entities"]

_SPACE = ("space", "cohort", "res", "den")
_KINDS = {".nii.gz": "nifti", ".dscalar.nii": "cifti", ".func.gii": "gifti"}


@dataclass(frozen=True, eq=False)
class PreparedPerson:
    """One person's files.

    Attributes
    ----------
    participant : str
    entities : dict
        Of the files.
    kind : str
    root : Path
        The output folder.
    content : dict
        Sidecar of the responses.
    conditions : DataFrame
    """

    participant: str
    entities: dict[str, str]
    kind: str
    root: Path
    content: dict[str, Any]
    conditions: pd.DataFrame

    @property
    def has_tuning(self) -> bool:
        """Whether weights of an encoding model were prepared, too."""
        return self.content.get("HasTuning") is True

    def tuning_fields(self) -> dict[str, Any]:
        """Sidecar of these weights.

        Raises
        ------
        UnusableInputError
            When it cannot be read, or names no features.
        """
        path = self.root / self.files("tuning", "prepared")[0]
        try:
            content = read_json(path.with_name(path.name.split(".")[0] + ".json"))
            features = content["Features"]
            if not isinstance(features, list) or len(set(map(str, features))) < len(features):
                raise ValueError("Features is no list of distinct names")
        except (OSError, ValueError, KeyError) as error:
            raise UnusableInputError(f"{path}: its sidecar cannot be used ({error})") from error
        return content

    @property
    def dataset(self) -> str:
        """Name of the dataset that the person is of; empty where there is one."""
        source = self.content.get("SourceParticipant")
        return str(source.get("Dataset", "")) if isinstance(source, dict) else ""

    def files(self, stat: str, desc: str) -> tuple[str, ...]:
        """Names of a map, relative to the output folder."""
        return map_paths(self.kind, {**self.entities, "stat": stat, "desc": desc}, "statmap")

    def read(self, stat: str, desc: str, space: Space) -> npt.NDArray[np.float32]:
        """Values (n_maps, n_units)."""
        return read_maps([self.root / name for name in self.files(stat, desc)], space)

    def own_space(self) -> Space:
        """Grid of the person's maps; for volumes, the voxels that have a ceiling or a response."""
        entities = self.entities
        paths = [self.root / name for name in self.files("effect", "prepared")]
        space = read_space(paths, None, entities["space"], entities.get("den"), entities.get("res"))
        if not isinstance(space, VolumeSpace):
            return space
        used = np.isfinite(read_maps(paths, space)).any(axis=0)
        return replace(space, mask=space.to_volume(used))


def find_prepared(output_dir: Path, participants: Sequence[str]) -> list[list[PreparedPerson]]:
    """Prepared people of an output folder, by task and space.

    People of several datasets are put together whatever their tasks are called, where each dataset has but one task.

    Raises
    ------
    MissingInputError
        When there is none.
    """
    found = [
        _prepared(output_dir, participant, table)
        for participant in sorted(participants, key=natural_key)
        for table in sorted((output_dir / f"sub-{participant}" / "func").glob("*_desc-prepared_trials.tsv"))
    ]
    if not found:
        raise MissingInputError(f"{output_dir}: no participant is prepared; run the level participant first, without --template")
    by_space: dict[tuple[Any, ...], list[PreparedPerson]] = {}
    for person in found:
        by_space.setdefault((person.kind, *(person.entities.get(key) for key in _SPACE)), []).append(person)
    return [group for people in by_space.values() for group in _by_task(people)]


def _by_task(people: Sequence[PreparedPerson]) -> list[list[PreparedPerson]]:
    tasks: dict[str, set[tuple[Any, ...]]] = {}
    groups: dict[tuple[Any, ...], list[PreparedPerson]] = {}
    for person in people:
        task = tuple((key, label) for key, label in person.entities.items() if key != "sub")
        tasks.setdefault(person.dataset, set()).add(task)
        groups.setdefault(task, []).append(person)
    if len(tasks) > 1 and all(len(own) == 1 for own in tasks.values()):
        return [list(people)]
    return list(groups.values())


def shared_entities(people: Sequence[PreparedPerson]) -> dict[str, str]:
    """Entities of all people, ``sub`` aside."""
    first, *others = (person.entities for person in people)
    return {key: label for key, label in first.items() if key != "sub" and all(other.get(key) == label for other in others)}


_DECISIVE = {"input_desc": "--input-desc", "split": "--split"}
"""Settings that decide what is prepared."""


def check_alike(people: Sequence[PreparedPerson]) -> None:
    """Refuse people who were prepared with other settings than the first.

    Raises
    ------
    UnusableInputError
        Naming the person and the setting.
    """

    def of(person: PreparedPerson, key: str) -> Any:
        settings = person.content.get("Settings")
        return settings.get(key) if isinstance(settings, dict) else None

    for person in people[1:]:
        for key, flag in _DECISIVE.items():
            first, own = of(people[0], key), of(person, key)
            if first != own:
                raise UnusableInputError(
                    f"sub-{people[0].participant} was prepared with {flag} {first or '(not given)'}, and sub-{person.participant} with "
                    f"{own or '(not given)'}: prepare them alike, by the level participant with --overwrite"
                )


def _prepared(output_dir: Path, participant: str, table: Path) -> PreparedPerson:
    entities = {key: label for key, label in parse_name(table).entities.items() if key != "desc"}
    for kind in _KINDS.values():
        names = map_paths(kind, {**entities, "stat": "effect", "desc": "prepared"}, "statmap")
        if all((output_dir / name).is_file() for name in names):
            path = output_dir / names[0]
            try:
                content = read_json(path.with_name(path.name.split(".")[0] + ".json"))
            except (OSError, ValueError) as error:
                raise UnusableInputError(f"{path}: its sidecar cannot be read ({error})") from error
            return PreparedPerson(participant, entities, kind, output_dir, content, read_conditions(table))
    raise MissingInputError(f"{table}: the maps of desc-prepared that it belongs to are gone; run the level participant again")


def common_space(people: Sequence[PreparedPerson]) -> Space:
    """Grid of all: for volumes, the voxels that at least half of the people have.

    Raises
    ------
    UnusableInputError
        When grids differ, naming the file.
    """
    first = people[0].own_space()
    total = np.zeros(first.mask.shape, int) if isinstance(first, VolumeSpace) else None
    for person in people:
        space = person.own_space()
        if not first.same_grid(space):
            raise UnusableInputError(
                f"{person.root / person.files('effect', 'prepared')[0]}: its grid is not that of sub-{people[0].participant}; "
                "grids are never resampled"
            )
        if total is not None and isinstance(space, VolumeSpace):
            total += space.mask
    if total is None or not isinstance(first, VolumeSpace):
        return first
    return replace(first, mask=2 * total >= len(people))


@dataclass(frozen=True, eq=False)
class Gathered:
    """People who share enough stimuli, and their responses to these.

    Attributes
    ----------
    people : tuple of PreparedPerson
    fitted, held_out : SharedStimuli
        Of these people.
    training, test : tuple of PersonData
        Responses to the stimuli of the fit (with ``--align-on all``: of train alone in ``training_only``), and to held-out ones; empty
        where people share none.
    training_only : tuple of PersonData
        Responses to shared train stimuli, for scores.
    left_out : tuple of str
        Participants who share too few stimuli.
    by_features : bool
        Whether the rows of the fit are features of encoding models (``fitted`` names them, ``training`` holds weights), not stimuli.
    """

    people: tuple[PreparedPerson, ...]
    fitted: SharedStimuli
    held_out: SharedStimuli
    training: tuple[PersonData, ...]
    training_only: tuple[PersonData, ...]
    test: tuple[PersonData, ...]
    left_out: tuple[str, ...]
    by_features: bool = False


def gather(people: Sequence[PreparedPerson], space: Space, align_on: str, min_shared: int, folder: Path) -> Gathered:
    """Read what people share; arrays lie in ``folder``.

    Raises
    ------
    UnusableInputError
        When fewer than two people share enough stimuli (or features), saying how many each shares; when some have weights to align by,
        and others none.
    """
    by_features = _by_features(people, align_on)
    names = [[str(name) for name in person.tuning_fields()["Features"]] for person in people] if by_features else None
    kept, left_out = list(people), []
    while True:
        chosen = [people.index(person) for person in kept]
        fitted, held_out = _shared(kept, align_on == "all")
        if names is not None:
            fitted = share_names([names[index] for index in chosen])
        counts = [len(rows) for rows, _ in fitted.rows]
        few = [index for index, count in enumerate(counts) if count < min_shared]
        if len(kept) - len(few) < 2:
            raise UnusableInputError(_too_few(kept, counts, min_shared, by_features))
        if not few:
            break
        left_out += [kept[index].participant for index in few]
        kept = [person for index, person in enumerate(kept) if index not in few]
    train = fitted if align_on != "all" else _shared(kept, False)[0]
    training, training_only, test = [], [], []
    for index, person in enumerate(kept):
        reliability = reliability_of(person.read("noiseceiling", "prepared", space)[0])
        values, standard = person.read("effect", "prepared", space), None
        if by_features:
            standard = responses_standard(values, person.conditions)
            values = person.read("tuning", "prepared", space)
            if names is not None and len(values) != len(names[people.index(person)]):
                raise UnusableInputError(
                    f"{person.root / person.files('tuning', 'prepared')[0]}: its sidecar names another number of features"
                )
        training.append(_person(values, fitted.rows[index], reliability, folder / f"{person.participant}_fit.npy", standard))
        same = train is fitted
        training_only.append(
            training[-1] if same else _person(values, train.rows[index], reliability, folder / f"{person.participant}_train.npy")
        )
        del values
        if len(held_out.names):
            test.append(_held_out(person, held_out.rows[index], space, folder))
    found = tuple(training), tuple(training_only), tuple(test)
    return Gathered(tuple(kept), fitted, held_out, *found, tuple(left_out), by_features)


def _by_features(people: Sequence[PreparedPerson], align_on: str) -> bool:
    """Whether people are aligned by weights of encoding models."""
    without = [person.participant for person in people if not person.has_tuning]
    if len(without) == len(people):
        return False
    if without:
        raise UnusableInputError(
            f"sub-{without[0]} was prepared without weights of conform-encode, and others with them: prepare all alike, with or without "
            "-d conform-encode=PATH"
        )
    if align_on == "all":
        raise UsageError("--align-on all has no effect on people who were prepared with -d conform-encode: maps are fitted on features")
    return True


def _too_few(people: Sequence[PreparedPerson], counts: Sequence[int], min_shared: int, by_features: bool) -> str:
    listing = ", ".join(f"sub-{person.participant}: {count}" for person, count in zip(people, counts, strict=True))
    if by_features:
        return (
            f"people share too few features to fit a template: {listing}; --min-shared is {min_shared}. Features are the same where their "
            "names and the cards of what made them are"
        )
    return (
        f"people share too few stimuli to fit a template: {listing}; --min-shared is {min_shared}. Stimuli are the same by the SHA-256 of "
        "their files, else by stim_id within a dataset. People who share none can be aligned by their tuning: -d conform-encode=PATH"
    )


def _shared(people: Sequence[PreparedPerson], includes_test: bool) -> tuple[SharedStimuli, SharedStimuli]:
    return share_stimuli([person.conditions for person in people], includes_test, [person.dataset for person in people])


def _held_out(person: PreparedPerson, rows: tuple[Any, Any], space: Space, folder: Path) -> PersonData:
    """Trial averages of held-out stimuli: those prepared beside the responses, or the responses where the person had no held-out ones."""
    own, places = rows
    desc = "observed" if person.content.get("HasHeldOut") else "prepared"
    values = person.read("effect", desc, space)
    if desc == "observed":
        table = read_conditions(person.root / _table_name(person, desc))
        place = {stim_id: index for index, stim_id in enumerate(table["stim_id"])}
        names = person.conditions["stim_id"].to_numpy()[own]
        known = np.array([name in place for name in names], dtype=bool)
        own, places = np.array([place[name] for name in names[known]], dtype=np.intp), places[known]
    reliability = reliability_of(person.read("noiseceiling", desc, space)[0])
    return _person(values, (own, places), reliability, folder / f"{person.participant}_test.npy")


def _table_name(person: PreparedPerson, desc: str) -> str:
    from conform_bids.bids.names import relative_path

    return relative_path({**person.entities, "desc": desc}, "trials", ".tsv")


def _person(
    values: npt.NDArray[np.float32], rows: tuple[Any, Any], reliability: Any, path: Path, applied: Standard | None = None
) -> PersonData:
    own, places = rows
    stored = map_array(path, (values.shape[1], max(1, len(own))))
    for start in range(0, values.shape[1], 4096):
        stored[start : start + 4096, : len(own)] = values[own, start : start + 4096].T
    return PersonData(stored[:, : len(own)].T, places, reliability, applied=applied)
