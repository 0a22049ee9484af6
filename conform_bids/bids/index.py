"""A dataset as an app sees it: the raw data and its derivatives, by participant.

Heavy libraries stay out: pybids is imported when the first participant's files are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conform_bids.bids.datasets import FMRIPREP, RAW, Roots, absolute, find_roots
from conform_bids.bids.layout import DatasetIndex
from conform_bids.bids.names import Name, clean_label, natural_key, parse_name, short_key
from conform_bids.bids.selection import NATIVE_SPACE, Selection, SpaceRequest, matches_filter, shorten
from conform_bids.bids.sidecars import inherited_files, read_sidecar
from conform_bids.errors import MissingInputError

__all__ = ["FMRIPREP", "NATIVE_SPACE", "RAW", "BIDSFile", "Dataset", "Selection", "SpaceRequest", "open_dataset"]


@dataclass(frozen=True)
class BIDSFile:
    """One file of a participant.

    Attributes
    ----------
    path : Path
        Absolute; a symbolic link stays one.
    dataset : str
        ``raw``, or the name of the derivative.
    entities, suffix, extension
        As `conform_bids.bids.names.Name`.
    """

    path: Path
    dataset: str
    entities: dict[str, str]
    suffix: str
    extension: str

    @property
    def datatype(self) -> str:
        """Folder that it lies in: ``func``, ``anat``, ..."""
        return self.path.parent.name


class Dataset:
    """A raw dataset and derivatives of it; made by `open_dataset`.

    Attributes
    ----------
    bids_dir : Path
        The folder that the user named.
    raw : Path or None
        Root of the raw dataset.
    derivatives : mapping of str to Path
        Name to root; fMRIPrep's is called ``fmriprep`` whatever its folder is called.
    participants : tuple of str
        Sorted labels without ``sub-``: those that were asked for, else all that there are.
    warnings : list of str
        What the user should know, without repeats; it grows as files are read.
    name : str or None
        What the dataset is called in a call on several (``-d NAME=PATH``); it joins the labels of its people.
    given : frozenset of str
        Derivatives that the user named, not found.
    """

    def __init__(
        self,
        bids_dir: Path,
        roots: Roots,
        *,
        database_dir: Path | None,
        warnings: list[str],
        name: str | None = None,
        given: frozenset[str] = frozenset(),
    ) -> None:
        self.bids_dir = bids_dir
        self.name = name
        self.given = given
        self.raw = roots.raw
        self.derivatives: Mapping[str, Path] = dict(roots.derivatives)
        self.participants: tuple[str, ...] = ()
        self.warnings = warnings
        self._descriptions = roots.descriptions
        self._roots = {**({RAW: roots.raw} if roots.raw is not None else {}), **roots.derivatives}
        self._indexes = {
            name: DatasetIndex(
                root,
                name,
                is_derivative=name != RAW,
                other_roots=[other for other in self._roots.values() if other != root],
                database_dir=database_dir,
                warn=self.warn,
            )
            for name, root in self._roots.items()
        }
        self._files: dict[tuple[str, str], list[BIDSFile]] = {}
        self._listings: dict[Path, list[tuple[Path, Name]]] = {}

    def warn(self, message: str) -> None:
        """Record a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def label_of(self, participant: str) -> str:
        """Label of a participant in the output."""
        return participant if self.name is None else clean_label(self.name + participant)

    def sources(self) -> dict[str, Path]:
        """Roots by their names in BIDS URIs, which begin with that of the dataset where it has one."""
        return {self._uri_name(name): root for name, root in self._roots.items()}

    def _uri_name(self, name: str) -> str:
        if self.name is None:
            return name
        return self.name if self._roots[name] == self.bids_dir else f"{self.name}-{name}"

    def generated_by(self, name: str) -> str | None:
        """Name of the pipeline that made a derivative, as its description has it; None when it says nothing, or for raw."""
        description = self._descriptions.get(name)
        return description.generated_by if description else None

    @cached_property
    def available_participants(self) -> tuple[str, ...]:
        """Labels that there is a folder for: in the derivative that the user named, else in any of the datasets."""
        named = [name for name, root in self.derivatives.items() if root == self.bids_dir]
        labels: set[str] = set()
        for name in named or self._indexes:
            labels |= self._indexes[name].participants()
        return tuple(sorted(labels, key=natural_key))

    def files(
        self,
        dataset_name: str,
        participant: str,
        *,
        suffix: str | Sequence[str] | None = None,
        extensions: Sequence[str] = (),
        **entities: Any,
    ) -> list[BIDSFile]:
        """Files of a participant, sorted by name (numbers by their value).

        Parameters
        ----------
        dataset_name : str
            ``raw`` or a key of ``derivatives``; one that is not there has no files.
        suffix : str or sequence of str, optional
            Any of these.
        extensions : sequence of str
            Any of these, with the dot; empty is all.
        **entities
            Long or short names, with a label, a list of labels, ``"*"`` (any) or None (absent); numbers match whatever
            their padding.
        """
        query = {short_key(key): value for key, value in entities.items()}
        if suffix is not None:
            query["suffix"] = suffix
        return [
            file
            for file in self._participant_files(dataset_name, participant)
            if (not extensions or file.extension in extensions)
            and matches_filter(query, file.entities, suffix=file.suffix, extension=file.extension, datatype=file.datatype)
        ]

    def _participant_files(self, dataset_name: str, participant: str) -> list[BIDSFile]:
        key = (dataset_name, participant)
        if key not in self._files:
            index = self._indexes.get(dataset_name)
            found = []
            for path in index.paths(participant) if index else ():
                try:
                    name = parse_name(path)
                except ValueError:
                    continue  # not a BIDS name, so nothing that we could use
                if name.entities.get("sub") == participant:
                    found.append(BIDSFile(path, dataset_name, name.entities, name.suffix, name.extension))
            self._files[key] = sorted(found, key=lambda file: natural_key(file.path.as_posix()))
        return self._files[key]

    def sidecar(self, path: Path) -> dict[str, Any]:
        """Metadata of a file, by the inheritance principle; empty or broken sidecars count as ``{}``, with a warning."""
        return read_sidecar(absolute(path), self._root_of(path)[1], list_folder=self._list_folder, warn=self.warn)

    def inherited(
        self,
        dataset_name: str,
        participant: str,
        entities: Mapping[str, str],
        *,
        suffix: str,
        extension: str,
        same: Any = str.__eq__,
    ) -> list[Path]:
        """Files of the dataset that apply to the entities of a series, from the root down, the closest last.

        Parameters
        ----------
        same
            Compares two labels.
        """
        root = self._roots.get(dataset_name)
        if root is None:
            return []
        folders = [root, root / f"sub-{participant}"]
        if "ses" in entities:
            folders.append(folders[-1] / f"ses-{entities['ses']}")
        folders.append(folders[-1] / "func")
        return inherited_files(folders, entities, suffix=suffix, extension=extension, list_folder=self._list_folder, same=same)

    def _list_folder(self, folder: Path) -> list[tuple[Path, Name]]:
        if folder not in self._listings:
            listing = []
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            for name in names:
                try:
                    listing.append((folder / name, parse_name(name)))
                except ValueError:
                    continue
            self._listings[folder] = listing
        return self._listings[folder]

    def bids_uri(self, path: Path) -> str:
        """BIDS URI of a file: ``bids:fmriprep:sub-01/func/...``, ``bids:raw:...``.

        Raises
        ------
        ValueError
            When it lies in none of the datasets.
        """
        name, root = self._root_of(path)
        return f"bids:{self._uri_name(name)}:{absolute(path).relative_to(root).as_posix()}"

    def _root_of(self, path: Path) -> tuple[str, Path]:
        place = absolute(path)
        holders = [(name, root) for name, root in self._roots.items() if root in place.parents]
        if not holders:
            raise ValueError(f"{path} lies in none of the datasets {', '.join(map(str, self._roots.values()))}")
        return max(holders, key=lambda holder: len(holder[1].parts))


def open_dataset(
    bids_dir: str | os.PathLike[str],
    *,
    derivatives: Mapping[str, str | os.PathLike[str]] | None = None,
    participants: Sequence[str] = (),
    database_dir: str | os.PathLike[str] | None = None,
    name: str | None = None,
    reads: Sequence[str] = (FMRIPREP,),
) -> Dataset:
    """Open a raw dataset with its derivatives, or a derivative with its raw dataset.

    Nothing is indexed yet, so this is quick however large the dataset.

    Parameters
    ----------
    bids_dir : path-like
        A raw dataset (derivatives are found in its ``derivatives`` folder), or a derivative (its raw dataset is found by
        DatasetLinks, SourceDatasets, ``sourcedata/raw`` or two folders up).
    derivatives : mapping of str to path, optional
        ``-d NAME=PATH``: adds a derivative or overrides one that was found; ``raw`` names the raw dataset.
    participants : sequence of str
        Labels, with or without ``sub-``; empty is all that ``bids_dir`` has (and, where it is raw, its derivatives).
    database_dir : path-like, optional
        Folder that keeps pybids' index of the whole datasets, for many jobs to share.
    name : str, optional
        What the dataset is called, where there are several.
    reads : sequence of str
        What makes the derivatives that are read, first choice first: a wrong ``bids_dir`` is answered with one of them.

    Raises
    ------
    UnusableInputError
        When a folder is not a BIDS dataset, or its description is broken.
    MissingInputError
        When a folder is not there, or a participant is in none of the datasets.
    UsageError
        When there are several fMRIPrep derivatives to choose from.
    """
    warnings: list[str] = []
    roots = find_roots(absolute(bids_dir), derivatives or {}, warnings.append, reads)
    database = absolute(database_dir) if database_dir is not None else None
    given = frozenset(derivatives or {})
    dataset = Dataset(absolute(bids_dir), roots, database_dir=database, warnings=warnings, name=name, given=given)
    available = dataset.available_participants
    asked = list(dict.fromkeys(str(label).removeprefix("sub-") for label in participants))
    absent = [label for label in asked if label not in available]
    if absent:
        raise MissingInputError(
            f"{dataset.bids_dir}: no participant {shorten(absent)}; there are {shorten(available)}"
            if available
            else f"{dataset.bids_dir}: no participants at all (no folder sub-<label>)"
        )
    if not available:
        raise MissingInputError(f"{dataset.bids_dir}: no participants (no folder sub-<label>)")
    dataset.participants = tuple(sorted(asked, key=natural_key)) if asked else available
    return dataset
