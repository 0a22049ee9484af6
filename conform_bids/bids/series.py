"""Which files of a derivative a user asks for, whatever they hold: BOLD series, single-trial betas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from conform_bids.bids.index import NATIVE_SPACE, BIDSFile, Dataset, Selection
from conform_bids.bids.names import build_name, natural_key, parse_name, same_label
from conform_bids.bids.selection import matches_filter, shorten
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = ["Kind", "check_content", "hemisphere_pair", "select_by_filter", "select_labels", "select_spaces", "single_file"]

Kind = Literal["nifti", "cifti", "gifti"]
_HEMISPHERES = ("L", "R")


def select_labels(dataset: Dataset, participant: str, files: list[BIDSFile], selection: Selection, what: str) -> list[BIDSFile]:
    """Files of the sessions, tasks and runs asked for; what is absent beside others that are there is a warning of the dataset.

    Parameters
    ----------
    what : str
        What the files hold, for messages: ``BOLD``, ``betas``.

    Raises
    ------
    MissingInputError
        When nothing matches; the message lists what there is.
    """
    for key, word, asked in (
        ("ses", "session", selection.sessions),
        ("task", "task", selection.tasks),
        ("run", "run", selection.runs),
    ):
        if not asked:
            continue
        available = sorted({file.entities[key] for file in files if key in file.entities}, key=natural_key)
        absent = [label for label in asked if not any(same_label(label, other) for other in available)]
        if len(absent) == len(asked):
            raise MissingInputError(f"sub-{participant}: no {what} of {word} {shorten(asked)}; there are: {shorten(available)}")
        for label in absent:
            dataset.warn(f"sub-{participant}: no {what} of {word} {label}; there are: {shorten(available)}")
        files = [file for file in files if key in file.entities and any(same_label(file.entities[key], label) for label in asked)]
    return files


def select_by_filter(participant: str, files: list[BIDSFile], selection: Selection, key: str, what: str) -> list[BIDSFile]:
    """Files that pass ``--bids-filter-file``; ``key`` is that of their kind in it.

    Raises
    ------
    MissingInputError
        When none passes.
    """
    for entity, wanted in selection.filter_for(key).items():
        kept = [file for file in files if _passes({entity: wanted}, file)]
        if not kept:
            available = {str(_attribute(file, entity)) for file in files}
            there_are = shorten(sorted(available - {"None"}, key=natural_key))
            raise MissingInputError(
                f"sub-{participant}: no {what} passes --bids-filter-file, {key}: {entity} = {wanted!r}; there are: {there_are}"
            )
        files = kept
    return files


def _passes(query: Mapping[str, Any], file: BIDSFile) -> bool:
    return matches_filter(query, file.entities, suffix=file.suffix, extension=file.extension, datatype=file.datatype)


def _attribute(file: BIDSFile, key: str) -> str | None:
    if key in ("suffix", "extension", "datatype"):
        return str(getattr(file, key))
    return file.entities.get(key)


def select_spaces(
    dataset: Dataset, participant: str, files: list[BIDSFile], selection: Selection, kinds: Mapping[str, Kind], what: str
) -> list[BIDSFile]:
    """Files of the spaces and formats asked for.

    Parameters
    ----------
    kinds : mapping
        Kind of image by extension.

    Raises
    ------
    MissingInputError
        When nothing matches; the message lists what there is.
    """
    available = shorten(sorted({_describe_space(file, kinds) for file in files}, key=natural_key), 40)
    if selection.file_formats:
        files = [file for file in files if kinds[file.extension] in selection.file_formats]
        if not files:
            formats = ", ".join(selection.file_formats)
            raise MissingInputError(f"sub-{participant}: no {what} of format {formats}; there are: {available}")
    if not selection.spaces:
        return files
    absent = [space for space in selection.spaces if not any(space.matches(file.entities) for file in files)]
    if len(absent) == len(selection.spaces):
        raise MissingInputError(f"sub-{participant}: no {what} in space {', '.join(map(str, absent))}; there are: {available}")
    for space in absent:
        dataset.warn(f"sub-{participant}: no {what} in space {space}; there are: {available}")
    return [file for file in files if any(space.matches(file.entities) for space in selection.spaces)]


def _describe_space(file: BIDSFile, kinds: Mapping[str, Kind]) -> str:
    modifiers = [f"{key}-{file.entities[key]}" for key in ("res", "den", "cohort") if key in file.entities]
    return f"{':'.join([file.entities.get('space', NATIVE_SPACE), *modifiers])} ({kinds[file.extension]})"


def single_file(group: Sequence[BIDSFile]) -> tuple[Path, ...]:
    """The one file of a group.

    Raises
    ------
    UnusableInputError
        When there are more.
    """
    if len(group) > 1:
        listing = ", ".join(file.path.name for file in group)
        raise UnusableInputError(f"{group[0].path.parent}: {listing} would share their outputs; choose by --bids-filter-file")
    return (group[0].path,)


def hemisphere_pair(group: Sequence[BIDSFile]) -> tuple[Path, ...]:
    """The left and the right hemisphere's file of a group.

    Raises
    ------
    UnusableInputError
        When one is missing.
    """
    pair: list[Path] = []
    for hemisphere in _HEMISPHERES:
        side = [file for file in group if file.entities.get("hemi") == hemisphere]
        if not side:
            present = group[0]
            name = parse_name(present.path)
            expected = build_name({**name.entities, "hemi": hemisphere}, name.suffix, name.extension)
            raise UnusableInputError(f"{present.path.parent / expected}: missing; hemispheres are fitted together")
        pair.extend(single_file(side))
    return tuple(pair)


def check_content(path: Path) -> None:
    """Refuse a link to content that is not here.

    Raises
    ------
    MissingInputError
        Naming it.
    """
    if path.is_symlink() and not path.exists():
        raise MissingInputError(f"{path}: a link to content that is not here; `datalad get` fetches it")
