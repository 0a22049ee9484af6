"""BIDS file names: parsed as they are, built in the order that the standard and its validator demand."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

__all__ = [
    "ENTITY_ORDER",
    "LONG_NAMES",
    "Name",
    "bare_label",
    "build_name",
    "clean_label",
    "natural_key",
    "parse_name",
    "relative_path",
    "same_label",
    "short_key",
    "sidecar_of",
]

ENTITY_ORDER: tuple[str, ...] = (
    "sub",
    "tpl",
    "ses",
    "task",
    "acq",
    "ce",
    "rec",
    "dir",
    "run",
    "echo",
    "part",
    "hemi",
    "space",
    "cohort",
    "from",
    "to",
    "mode",
    "atlas",
    "seg",
    "scale",
    "res",
    "den",
    "stat",
    "label",
    "desc",
)
"""Short keys in the order of a file name; ``cohort`` follows the space that it qualifies, as fMRIPrep writes it."""

LONG_NAMES: Mapping[str, str] = {
    "subject": "sub",
    "participant": "sub",
    "template": "tpl",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "hemisphere": "hemi",
    "segmentation": "seg",
    "resolution": "res",
    "density": "den",
    "description": "desc",
}
"""The standard's (and pybids') long entity names, and the short keys that stand in file names."""

_LABEL = re.compile(r"[0-9A-Za-z+]+")
_KEY = re.compile(r"[A-Za-z]+")
_WORD = re.compile(r"[0-9A-Za-z]+")
_DIGITS = re.compile(r"(\d+)")
_RANK = {key: rank for rank, key in enumerate(ENTITY_ORDER)}


@dataclass(frozen=True)
class Name:
    """A parsed file name.

    Attributes
    ----------
    entities : dict of str to str
        Short key to label, both exactly as in the file name and in its order (``{"sub": "01", "run": "01"}``).
    suffix : str
        What stands before the extension (``bold``).
    extension : str
        From the first dot on, the dot included: ``.nii.gz``, ``.dtseries.nii``, ``.func.gii``.
    """

    entities: dict[str, str]
    suffix: str
    extension: str


def parse_name(path: str | os.PathLike[str]) -> Name:
    """Parse the last component of a path.

    Labels are taken as they are (never turned into numbers), and so are entities that this package does not know.

    Raises
    ------
    ValueError
        When the name is not of the form ``key-label[_key-label...]_suffix.extension``, or repeats an entity.
    """
    name = PurePath(path).name
    stem, dot, rest = name.partition(".")
    *pairs, suffix = stem.split("_")
    if not _WORD.fullmatch(suffix):
        raise ValueError(f"{name}: not a BIDS file name (no suffix)")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, dash, label = pair.partition("-")
        if not dash or not label or not _KEY.fullmatch(key):
            raise ValueError(f"{name}: not a BIDS file name ({pair!r} is not a key and a label)")
        if key in entities:
            raise ValueError(f"{name}: not a BIDS file name ({key!r} stands in it twice)")
        entities[key] = label
    return Name(entities, suffix, dot + rest)


def build_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Build a file name, its entities in the standard's order.

    Entities that the order does not know follow the last known one but ``desc``, in alphabetical order, so that no
    two inputs can share an output.

    Raises
    ------
    ValueError
        For a label that is not alphanumeric (``+`` is allowed, as in BIDS), a malformed key, suffix or extension.
    """
    for key, label in entities.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"entity {key!r} is not made of letters")
        if not _LABEL.fullmatch(label):
            raise ValueError(f"label {label!r} of entity {key!r} is not alphanumeric")
    if not _WORD.fullmatch(suffix):
        raise ValueError(f"suffix {suffix!r} is not alphanumeric")
    if not re.fullmatch(r"(\.[0-9A-Za-z]+)+", extension):
        raise ValueError(f"extension {extension!r} does not start with a dot")
    unknown_rank = _RANK["desc"] - 0.5
    ordered = sorted(entities, key=lambda key: (_RANK.get(key, unknown_rank), key))
    return "_".join([*(f"{key}-{entities[key]}" for key in ordered), suffix]) + extension


def relative_path(entities: Mapping[str, str], suffix: str, extension: str, datatype: str = "func") -> str:
    """Path of a file within its dataset, POSIX style: ``sub-01/ses-02/func/sub-01_ses-02_task-x_bold.nii.gz``.

    A name without ``sub`` but with ``tpl`` lies in ``tpl-<label>/``; one with neither lies in the root.

    Raises
    ------
    ValueError
        As `build_name`.
    """
    name = build_name(entities, suffix, extension)
    owner = next((key for key in ("sub", "tpl") if key in entities), None)
    if owner is None:
        return name
    folders = [f"{key}-{entities[key]}" for key in (owner, "ses") if key in entities]
    return "/".join([*folders, *([datatype] if datatype else []), name])


def sidecar_of(path: str) -> str:
    """Name of a file's JSON sidecar: that of the file up to the first dot, POSIX style."""
    folder, _, name = path.rpartition("/")
    stem = name.split(".")[0]
    return f"{folder}/{stem}.json" if folder else f"{stem}.json"


def clean_label(text: str) -> str:
    """Drop from ``text`` whatever may not stand in a label; ``n/a`` becomes ``na``.

    Raises
    ------
    ValueError
        When nothing is left.
    """
    label = "".join(_WORD.findall(text))
    if not label:
        raise ValueError(f"{text!r} holds no letter or digit to make a label of")
    return label


def short_key(entity: str) -> str:
    """Short key of an entity given by its long or short name (``session`` or ``ses``)."""
    return LONG_NAMES.get(entity, entity)


def same_label(first: str, second: str) -> bool:
    """Whether two labels are the same; numbers are compared without their padding, so ``1`` is ``01``."""
    return first == second or bare_label(first) == bare_label(second)


def bare_label(label: str) -> str:
    """Label without the padding of a number: ``1`` for ``01``."""
    return (label.lstrip("0") or "0") if label.isascii() and label.isdigit() else label


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which ``2`` comes before ``10``."""
    parts = (part for part in _DIGITS.split(text) if part)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts)
