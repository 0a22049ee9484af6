"""Several datasets in one call: which of ``-d NAME=PATH`` are datasets of people, and what their people are called in the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from conform_bids.bids.datasets import FMRIPREP, RAW
from conform_bids.bids.derivatives import lock_file, write_json, write_tsv
from conform_bids.bids.index import Dataset, open_dataset
from conform_bids.bids.names import natural_key
from conform_bids.bids.selection import shorten
from conform_bids.bids.tables import read_tsv
from conform_bids.errors import MissingInputError, UsageError

__all__ = [
    "NamedDataset",
    "SourcePerson",
    "is_dataset_name",
    "named_datasets",
    "open_datasets",
    "read_participants",
    "write_participants",
]


NO_PEOPLE = frozenset({RAW, FMRIPREP, "freesurfer", "smriprep", "mriqc", "tedana", "store"})
"""What lies beside a dataset's raw data under these names is no dataset of its own; nor is a store, in which people have no folders."""


def is_dataset_name(name: str) -> bool:
    """Whether a name can be that of a dataset of people: letters and digits, as it becomes part of their labels."""
    return name.isascii() and name.isalnum() and name.lower() not in NO_PEOPLE


@dataclass(frozen=True)
class SourcePerson:
    """A participant: ``label`` in the output, and which ``participant`` of which ``dataset`` (empty without a name) that is."""

    label: str
    dataset: str
    participant: str

    @classmethod
    def of(cls, dataset: Dataset, participant: str) -> SourcePerson:
        """A participant of a dataset."""
        return cls(dataset.label_of(participant), dataset.name or "", participant)

    @property
    def field(self) -> dict[str, str] | None:
        """For sidecars; None where there is one dataset, in which people keep their labels."""
        return {"Dataset": self.dataset, "Participant": f"sub-{self.participant}"} if self.dataset else None


@dataclass(frozen=True)
class NamedDataset:
    """One dataset of a call.

    Attributes
    ----------
    name : str
    path : Path
    derivatives : dict of str to Path
        What else belongs to it, by names without that of the dataset.
    """

    name: str
    path: Path
    derivatives: dict[str, Path]


def named_datasets(derivatives: Mapping[str, Path]) -> tuple[NamedDataset, ...]:
    """Datasets of people among those of ``-d NAME=PATH``: their names are letters and digits alone.

    ``raw``, names of common tools (``fmriprep``, ``freesurfer``) and of what made a derivative (``conform-glm``) are no datasets of their
    own. ``NAME.OTHER=PATH`` belongs to the dataset NAME; what is named without a dataset belongs to the only one, or is shared.

    Raises
    ------
    UsageError
        When it does not say of which dataset something is.
    """
    named = {name: path for name, path in derivatives.items() if is_dataset_name(name)}
    calls = []
    for name, path in named.items():
        prefix = f"{name}."
        own = {key.removeprefix(prefix): place for key, place in derivatives.items() if key.startswith(prefix)}
        calls.append(NamedDataset(name, path, own))
    for key, place in derivatives.items():
        dataset, dot, _ = key.partition(".")
        if key in named or (dot and dataset in named):
            continue
        if dot and is_dataset_name(dataset):
            raise UsageError(f"--derivatives {key}: no dataset is called {dataset}; there are {', '.join(named) or 'none'}")
        if len(calls) > 1 and key in (RAW, FMRIPREP):
            raise UsageError(f"--derivatives {key}: of which of {', '.join(named)}? Write NAME.{key}=PATH")
        for call in calls:
            call.derivatives.setdefault(key, place)
    return tuple(calls)


def open_datasets(
    bids_dir: Path,
    derivatives: Mapping[str, Path],
    participants: Sequence[str] = (),
    database_dir: Path | None = None,
    reads: Sequence[str] = (FMRIPREP,),
) -> tuple[Dataset, ...]:
    """Open bids_dir, or in its place the datasets of ``-d NAME=PATH``, whose people are then called ``<NAME><label>``.

    Parameters
    ----------
    bids_dir : Path
    derivatives : mapping of str to Path
        Of ``-d``. ``NAME.OTHER=PATH`` is a derivative of the dataset NAME, as ``nsd.conform-encode``.
    participants : sequence of str
        Labels, in a dataset or as in the output; empty is all.
    database_dir : Path, optional
    reads : sequence of str
        As of `open_dataset`.

    Raises
    ------
    MissingInputError
        When a label matches nobody; also as `open_dataset`.
    UsageError
        When two people would have one label, or a derivative belongs to no dataset.
    """
    calls = named_datasets(derivatives)
    if not calls:
        return (open_dataset(bids_dir, derivatives=derivatives, participants=participants, database_dir=database_dir, reads=reads),)
    opened = [
        open_dataset(call.path, derivatives=call.derivatives, database_dir=database_dir, name=call.name, reads=reads) for call in calls
    ]
    _check_labels(opened)
    asked = list(dict.fromkeys(str(label).removeprefix("sub-") for label in participants))
    if asked:
        _choose(opened, asked)
    return tuple(dataset for dataset in opened if dataset.participants)


def _check_labels(datasets: Iterable[Dataset]) -> None:
    seen: dict[str, str] = {}
    for dataset in datasets:
        for participant in dataset.participants:
            label, who = dataset.label_of(participant), f"sub-{participant} of {dataset.name}"
            if label in seen:
                raise UsageError(f"sub-{label} would be {seen[label]} and {who}; give a dataset another name by -d NAME=PATH")
            seen[label] = who


def _choose(datasets: Sequence[Dataset], asked: Sequence[str]) -> None:
    """Leave the people who were asked for, by their label in the output or in their dataset."""
    known = {label for dataset in datasets for own in dataset.participants for label in (own, dataset.label_of(own))}
    absent = [label for label in asked if label not in known]
    if absent:
        there = [dataset.label_of(own) for dataset in datasets for own in dataset.participants]
        raise MissingInputError(
            f"no participant {shorten(absent)} in {', '.join(str(each.name) for each in datasets)}; there are {shorten(there)}"
        )
    for dataset in datasets:
        dataset.participants = tuple(own for own in dataset.participants if own in asked or dataset.label_of(own) in asked)


_DESCRIBED = {
    "participant_id": {"Description": "Participant in this folder."},
    "dataset": {"Description": "Dataset that the participant is of, as it was named."},
    "original_id": {"Description": "Participant in that dataset."},
}


def read_participants(output_dir: Path) -> dict[str, tuple[str, str]]:
    """Dataset and label there (``sub-01``) of each person of participants.tsv, by label here; empty where people are of one dataset.

    Raises
    ------
    UnusableInputError
        When the file cannot be read, or lacks a column.
    """
    path = output_dir / "participants.tsv"
    if not path.is_file():
        return {}
    table = read_tsv(path, required=tuple(_DESCRIBED), quoted=False).fillna("n/a")
    return {str(row[0]): (str(row[1]), str(row[2])) for row in table[list(_DESCRIBED)].itertuples(index=False)}


def write_participants(output_dir: Path, datasets: Sequence[Dataset]) -> None:
    """Write or complete participants.tsv, which maps people of named datasets back; nothing where no dataset has a name.

    It has a row for each folder of a participant, so that the order of jobs does not show.
    """
    people = {
        f"sub-{dataset.label_of(own)}": (str(dataset.name), f"sub-{own}")
        for dataset in datasets
        if dataset.name
        for own in dataset.participants
    }
    if not people:
        return
    path = output_dir / "participants.tsv"
    with lock_file(output_dir):
        people = read_participants(output_dir) | people
        there = sorted((folder.name for folder in output_dir.glob("sub-*") if folder.is_dir()), key=natural_key)
        rows = [(name, *people.get(name, ("n/a", "n/a"))) for name in there]
        write_tsv(pd.DataFrame(rows, columns=list(_DESCRIBED)), path)
        write_json(_DESCRIBED, path.with_suffix(".json"))
