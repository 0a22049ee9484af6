"""Parcellations: a label a unit, from a file (dseg, dlabel, label.gii) or by the name of an atlas in TemplateFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.names import parse_name
from conform_bids.bids.spaces import CiftiSpace, Space, SurfaceSpace, VolumeSpace
from conform_bids.bids.tables import read_tsv
from conform_bids.bids.volumes import read_volume_header, reading
from conform_bids.errors import ConformError, MissingInputError, UnusableInputError, UsageError

__all__ = ["Parcellation", "both_hemispheres", "find_parcellation", "read_parcellation"]

_EXTENSIONS = {"nifti": (".nii.gz", ".nii"), "cifti": (".dlabel.nii",), "gifti": (".label.gii", ".gii")}
_SUFFIXES = {"nifti": "dseg", "cifti": "dlabel", "gifti": "label"}
_NOTHING = ("", "???", "unknown", "background", "medial_wall", "medialwall", "medial wall", "freesurfer_defined_medial_wall")


@dataclass(frozen=True, eq=False)
class Parcellation:
    """A label a unit.

    Attributes
    ----------
    labels : (n_units,) int array
        Place in `names`, -1 outside of every parcel.
    names : tuple of str
        Of the parcels that hold a unit.
    """

    labels: NDArray[np.intp]
    names: tuple[str, ...]


def find_parcellation(given: str, kind: str, entities: Mapping[str, str], flag: str) -> tuple[Path, ...]:
    """Files of a parcellation: the one given (for surfaces, its other hemisphere as well), or those of an atlas in TemplateFlow.

    Parameters
    ----------
    given : str
        Path, or ``NAME[:key-label...]`` as ``Schaefer2018:desc-400Parcels7Networks``.
    kind : str
        ``nifti``, ``cifti`` or ``gifti``.
    entities : mapping
        Of what is to be parcellated; space, cohort, res and den count.
    flag : str
        The option, for messages.

    Raises
    ------
    UnusableInputError
        When the file is of another kind than the space.
    MissingInputError
        When it is not there; for an atlas, the message says what to fetch.
    """
    path = Path(given)
    if path.is_file():
        if not path.name.endswith(_EXTENSIONS[kind]) or (kind == "nifti" and path.name.endswith(_EXTENSIONS["cifti"])):
            place = entities.get("space", "boldref")
            raise UnusableInputError(
                f"{flag} {path}: not a parcellation for space {place} ({kind} needs {' or '.join(_EXTENSIONS[kind])}); choose the spaces "
                "that it fits by --output-spaces or --file-format"
            )
        return (path,) if kind != "gifti" else both_hemispheres(path, flag)
    if os.sep in given or "." in given:
        raise MissingInputError(f"{flag}: no file {given}")
    return _from_templateflow(given, kind, entities, flag)


def both_hemispheres(path: Path, flag: str) -> tuple[Path, ...]:
    """A GIFTI file and that of the other hemisphere beside it, left first.

    Raises
    ------
    MissingInputError
        When the other is not there.
    UnusableInputError
        When the name does not tell the hemisphere.
    """
    for letters in (("L", "R"), ("lh", "rh")):
        for here, there in (letters, letters[::-1]):
            for mark in (f"hemi-{here}", f".{here}.", f"{here}."):
                if mark in path.name:
                    other = path.with_name(path.name.replace(mark, mark.replace(here, there), 1))
                    if not other.is_file():
                        raise MissingInputError(f"{flag}: {other}: no such file; it is the other hemisphere of {path.name}")
                    return (path, other) if here == letters[0] else (other, path)
    raise UnusableInputError(f"{flag} {path}: its name does not tell the hemisphere (hemi-L, hemi-R)")


def _from_templateflow(given: str, kind: str, entities: Mapping[str, str], flag: str) -> tuple[Path, ...]:
    """Files of an atlas: those in the local TemplateFlow, else fetched where templateflow is installed and there is a network."""
    atlas, *modifiers = given.split(":")
    asked = {"atlas": atlas, **dict(item.partition("-")[::2] for item in modifiers)}
    if not atlas.isalnum() or not all(key and label for key, label in asked.items()):
        raise UsageError(f"{flag}: {given!r} is neither a file nor the name of an atlas, NAME[:key-label...]")
    space = entities.get("space")
    if space is None:
        raise MissingInputError(f"{flag} {given}: there is no atlas on the grid of a BOLD series; choose a template by --output-spaces")
    home = Path(os.environ.get("TEMPLATEFLOW_HOME") or Path("~/.cache/templateflow").expanduser())
    query = {**asked, **{key: entities[key] for key in ("cohort", "res", "den") if key in entities and kind != "nifti"}}
    found = _local(home / f"tpl-{space}", kind, query) or _fetched(space, kind, query)
    sides = ("L", "R") if kind == "gifti" else (None,)
    chosen = [[path for path in found if parse_name(path).entities.get("hemi") == side] for side in sides]
    wanted = f"tpl-{space}_*{'_'.join(f'{key}-{label}' for key, label in query.items())}*{_EXTENSIONS[kind][0]}"
    if not all(chosen):
        raise MissingInputError(
            f"{flag} {given}: no such atlas of {space} in {home}; where there is a network, fetch {wanted} "
            f"(python -m templateflow get {space} --atlas {atlas})"
        )
    if kind != "nifti" and any(len(paths) > 1 for paths in chosen):
        raise UsageError(
            f"{flag} {given}: several files ({', '.join(path.name for path in chosen[0])}); add what tells them apart, as :desc-NAME"
        )
    descs = {parse_name(path).entities.get("desc") for paths in chosen for path in paths}
    if len(descs) > 1:
        there = ", ".join(sorted(str(desc) for desc in descs))
        raise UsageError(f"{flag} {given}: several of that name; add which as {atlas}:desc-NAME, of {there}")
    return tuple(sorted(paths)[0] for paths in chosen)


def _local(folder: Path, kind: str, query: Mapping[str, str]) -> list[Path]:
    found = []
    for path in sorted(folder.glob(f"*{_EXTENSIONS[kind][0]}")) if folder.is_dir() else ():
        try:
            name = parse_name(path)
        except ValueError:
            continue
        suffix = name.suffix in (_SUFFIXES[kind], "dseg")
        if suffix and path.stat().st_size and all(name.entities.get(key) == label for key, label in query.items()):
            found.append(path)
    return found


def _fetched(space: str, kind: str, query: Mapping[str, str]) -> list[Path]:
    try:
        from templateflow import api
    except Exception:  # not installed, or its folder cannot be written to
        return []
    long_names = {"den": "density", "res": "resolution"}
    try:
        got = api.get(space, extension=_EXTENSIONS[kind][0], **{long_names.get(key, key): label for key, label in query.items()})
    except Exception:  # no network, a server's fault: what is missing is said by the caller
        return []
    paths = [Path(path) for path in (got if isinstance(got, list) else [got])]
    return [path for path in paths if path.is_file() and path.stat().st_size]


def read_parcellation(paths: Sequence[Path], space: Space) -> Parcellation:
    """Read the label of each unit; a volume of another grid in the same space is taken at the nearest voxel.

    Raises
    ------
    UnusableInputError
        When the file cannot be read, fits another kind of space, or has no parcel here.
    """
    try:
        if isinstance(space, VolumeSpace):
            values, names = _read_volume(paths[0], space)
        elif isinstance(space, CiftiSpace):
            values, names = _read_cifti(paths[0], space)
        elif isinstance(space, SurfaceSpace) and len(paths) == 2:
            values, names = _read_surfaces(paths, space)
        else:
            raise UnusableInputError(f"{paths[0]}: does not fit space {space.label}")
    except ConformError:
        raise
    except Exception as error:  # readers of corrupt files fail in a dozen ways
        raise UnusableInputError(f"{paths[0]}: not a parcellation that can be read ({error})") from error
    present = [value for value in np.unique(values).tolist() if value > 0 and names.get(value, "x").strip().lower() not in _NOTHING]
    if not present:
        raise UnusableInputError(f"{paths[0]}: no parcel holds a unit of space {space.label}")
    labels = np.full(len(values), -1, dtype=np.intp)
    for place, value in enumerate(present):
        labels[values == value] = place
    return Parcellation(labels, tuple(names.get(value, f"parcel {value}") for value in present))


def _read_volume(path: Path, space: VolumeSpace) -> tuple[NDArray[np.int64], dict[int, str]]:
    import nibabel as nib

    header = read_volume_header(path)
    if (header.n_volumes or 1) != 1:
        raise UnusableInputError(f"{path}: a parcellation is one volume, this has {header.n_volumes}")
    with reading(path):
        image: Any = nib.load(path)
        labels = np.asarray(image.dataobj).reshape(header.shape)
    centres = np.argwhere(space.mask) @ space.affine[:3, :3].T + space.affine[:3, 3]
    inverse = np.linalg.inv(header.affine)
    voxels = np.rint(centres @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < header.shape)).all(axis=1)
    values = np.zeros(len(voxels), dtype=np.int64)
    values[inside] = np.rint(np.nan_to_num(labels[tuple(voxels[inside].T)])).astype(np.int64)
    return values, _names_beside(path)


def _names_beside(path: Path) -> dict[int, str]:
    """Names by value, from the TSV (index, name) that BIDS puts beside a segmentation."""
    table = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".tsv")
    if not table.is_file():
        return {}
    rows = read_tsv(table)
    if not {"index", "name"} <= set(rows.columns):
        return {}
    return {int(index): str(name) for index, name in zip(rows["index"], rows["name"], strict=True) if str(index).isdigit()}


def _read_cifti(path: Path, space: CiftiSpace) -> tuple[NDArray[np.int64], dict[int, str]]:
    import nibabel as nib

    with reading(path):
        image: Any = nib.load(path)
        labels, models = image.header.get_axis(0), image.header.get_axis(1)
        data = np.asarray(image.dataobj)[0]
        names = {int(value): str(entry[0]) for value, entry in labels.label[0].items()}
    other = CiftiSpace.from_axis(models, label=space.label)
    value_of = dict(zip(_keys(other), np.rint(np.nan_to_num(data)).astype(np.int64).tolist(), strict=True))
    values = np.array([value_of.get(key, 0) for key in _keys(space)], dtype=np.int64)
    if not any(key in value_of for key in _keys(space)):
        raise UnusableInputError(f"{path}: none of its grayordinates is one of the betas'")
    _check_vertices(path, other.n_vertices, space.n_vertices)
    return values, names


def _check_vertices(path: Path, theirs: Mapping[str, int], ours: Mapping[str, int]) -> None:
    for structure, count in ours.items():
        if structure in theirs and theirs[structure] != count:
            raise UnusableInputError(f"{path}: its surfaces have {theirs[structure]} vertices, and the betas' {count}")


def _keys(space: CiftiSpace) -> list[tuple[Any, ...]]:
    names = np.array(space.structures)[space.structure]
    return [
        (str(name), int(vertex)) if vertex >= 0 else (str(name), *map(int, voxel))
        for name, vertex, voxel in zip(names, space.vertex, space.voxel, strict=True)
    ]


def _read_surfaces(paths: Sequence[Path], space: SurfaceSpace) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Both hemispheres; parcels of the right one are numbered after those of the left."""
    import nibabel as nib

    parts: list[NDArray[np.int64]] = []
    names: dict[int, str] = {}
    offset = 0
    for path, count, side in zip(paths, (space.n_left, space.n_right), "LR", strict=True):
        with reading(path):
            image: Any = nib.load(path)
            data = np.asarray(image.darrays[0].data).astype(np.int64)
            table = {int(key): str(name or "") for key, name in image.labeltable.get_labels_as_dict().items()}
        if len(data) != count:
            raise UnusableInputError(f"{path}: {len(data)} vertices, and the betas have {count}")
        own = {value: table.get(value, f"parcel {value}") for value in np.unique(data[data > 0]).tolist()}
        names |= {value + offset: name if name.strip().lower() in _NOTHING else f"{side} {name}" for value, name in own.items()}
        parts.append(np.where(data > 0, data + offset, 0))
        offset = max(names, default=0)
    return np.concatenate(parts), names
