"""Templates and persons' maps on disk: one HDF5 file each, which holds all that applying or extending them takes.

Layout ``transform``, version 1. Attributes of the file: ``layout``, ``version``, ``role`` (``template`` or ``person``), ``method``,
``space`` (label), ``grid_hash``, ``parcel_hash``, ``stimuli_hash`` (of the rows of the fit), ``rows`` (``stimuli``; or
``features``, where maps were fitted on weights of encoding models), ``fit_includes_test``, ``settings`` (JSON).
A person's file has ``/mean`` and ``/scale``, (n_units,): responses are standardised by them first. Both have a group a parcel,
``/parcels/<k>``, with ``units`` (indices into the grid) and ``weights`` (of the average over parcels), and a group a family of models in
it, ``families/<name>``, with the arrays of `SharedMap` or `FamilyTemplate`; a person's has the attribute ``weight`` of the sum over
families. A template's file has ``/space`` (the grid, as bytes of an .npz without pickles), ``/stimuli`` (identity of each row) and
``/covered``, too.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from conform_bids.align.numerics.data import Parcel, Standard
from conform_bids.align.numerics.maps import FamilyTemplate, ParcelMap, ParcelTemplate, PersonMap, SharedMap, Template
from conform_bids.align.numerics.options import AlignOptions, Setting
from conform_bids.bids.array_checks import check_file
from conform_bids.bids.derivatives import atomic_path
from conform_bids.bids.spaces import Space, load_space
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = [
    "VERSION",
    "TemplateFile",
    "parcel_hash",
    "read_person",
    "read_template",
    "read_template_space",
    "template_facts",
    "write_person",
    "write_template",
]

VERSION = 1
_LAYOUT = "transform"


@dataclass(frozen=True, eq=False)
class TemplateFile:
    """A template as read from disk.

    Attributes
    ----------
    template : Template
        Without members.
    space : Space
    stimuli : tuple of str
        Identity of each stimulus of its list.
    facts : dict
        Attributes of the file.
    """

    template: Template
    space: Space
    stimuli: tuple[str, ...]
    facts: dict[str, Any]


def parcel_hash(parcels: Sequence[Parcel]) -> str:
    """SHA-256 (hex) of the units and weights of parcels."""
    digest = hashlib.sha256()
    for parcel in parcels:
        digest.update(np.asarray(parcel.units, dtype="<i8").tobytes() + np.asarray(parcel.weights, dtype="<f8").tobytes())
    return digest.hexdigest()


def write_template(template: Template, space: Space, stimuli: Sequence[str], facts: Mapping[str, Any], path: Path) -> None:
    """Write a template, without its people's maps; atomic.

    Parameters
    ----------
    stimuli : sequence of str
        Identity of each stimulus of the template's list.
    facts : mapping
        Further attributes of the file.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        settings = {"options": asdict(template.options), "setting": asdict(template.setting), "n_units": template.n_units}
        _attributes(file, "template", space, template.parcels, settings, facts)
        _put(file, "covered", template.covered)
        _put(file, "space", _pack(space))
        _put(file, "stimuli", np.array([name.encode() for name in stimuli]))
        for index, (parcel, part) in enumerate(zip(template.parcels, template.parts, strict=True)):
            group = _parcel_group(file, index, parcel)
            _put(group, "coordinates", part.coordinates)
            for name, family in part.families.items():
                _put_fields(group.create_group(f"families/{name}"), family)


def write_person(person: PersonMap, space: Space, facts: Mapping[str, Any], path: Path) -> None:
    """Write a person's map; atomic."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        _attributes(file, "person", space, person.parcels, {}, facts)
        _put(file, "mean", person.standard.mean)
        _put(file, "scale", person.standard.scale)
        for index, (parcel, maps) in enumerate(zip(person.parcels, person.maps, strict=True)):
            group = _parcel_group(file, index, parcel)
            for name, family in maps.families.items():
                part = group.create_group(f"families/{name}")
                part.attrs["weight"] = float(maps.weights.get(name, 0.0))
                _put_fields(part, family)


def read_template(path: Path) -> TemplateFile:
    """Read what `write_template` wrote.

    Raises
    ------
    MissingInputError, UnusableInputError
        When there is no such file, or it is none of a template.
    """
    with _Opened(path, "template") as file:
        settings = json.loads(str(file.attrs["settings"]))
        parcels, parts = [], []
        for group in _parcels(file):
            parcels.append(_parcel(group))
            families = {name: FamilyTemplate(**_get_fields(part, FamilyTemplate)) for name, part in group["families"].items()}
            parts.append(ParcelTemplate(families, _get(group, "coordinates")))
        template = Template(
            options=AlignOptions(**{key: _tuples(value) for key, value in settings["options"].items()}),
            setting=Setting(**{key: _tuples(value) for key, value in settings["setting"].items()}),
            parcels=tuple(parcels),
            n_units=int(settings["n_units"]),
            covered=np.asarray(file["covered"][()], dtype=bool),
            parts=tuple(parts),
            members=(),
        )
        stimuli = tuple(name.decode() for name in file["stimuli"][()])
        return TemplateFile(template, _unpack(file["space"][()]), stimuli, _facts(file))


def template_facts(path: Path) -> dict[str, Any]:
    """Attributes of a template's file, without its arrays.

    Raises
    ------
    MissingInputError, UnusableInputError
        As `read_template`.
    """
    with _Opened(path, "template") as file:
        return _facts(file)


def read_template_space(path: Path) -> Space:
    """The grid of a template.

    Raises
    ------
    MissingInputError, UnusableInputError
        As `read_template`.
    """
    with _Opened(path, "template") as file:
        return _unpack(file["space"][()])


def read_person(path: Path) -> PersonMap:
    """Read what `write_person` wrote.

    Raises
    ------
    MissingInputError, UnusableInputError
        When there is no such file, or it is none of a person.
    """
    with _Opened(path, "person") as file:
        parcels, maps = [], []
        for group in _parcels(file):
            parcels.append(_parcel(group))
            families = {name: SharedMap(**_get_fields(part, SharedMap)) for name, part in group["families"].items()}
            weights = {name: float(part.attrs["weight"]) for name, part in group["families"].items()}
            maps.append(ParcelMap(families, weights))
        standard = Standard(np.asarray(file["mean"][()]), np.asarray(file["scale"][()]))
        return PersonMap(standard, tuple(parcels), tuple(maps))


class _Opened:
    """An HDF5 file of ours; whatever is wrong with it is an error that names it."""

    def __init__(self, path: Path, role: str) -> None:
        self._path, self._role = path, role
        self._file: Any = None

    def __enter__(self) -> Any:
        import h5py

        if not self._path.is_file():
            raise MissingInputError(f"{self._path}: no such file")
        try:
            self._file = h5py.File(self._path, "r")
        except OSError as error:
            raise UnusableInputError(f"{self._path}: not a {self._role} of conform-align, or broken ({error})") from error
        attributes = self._file.attrs
        if attributes.get("layout") != _LAYOUT or attributes.get("role") != self._role:
            self._file.close()
            raise UnusableInputError(f"{self._path}: not a {self._role} of conform-align")
        if int(attributes["version"]) > VERSION:
            self._file.close()
            raise UnusableInputError(f"{self._path}: of a later version; this conform reads up to {VERSION}")
        try:
            check_file(self._file)
        except ValueError as error:
            self._file.close()
            raise UnusableInputError(f"{self._path}: not a {self._role} of conform-align, or broken ({error})") from error
        return self._file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.close()
        if isinstance(error, OSError | KeyError | ValueError | TypeError | AttributeError):
            raise UnusableInputError(f"{self._path}: not a {self._role} of conform-align, or broken ({error})") from error


def _attributes(
    file: Any, role: str, space: Space, parcels: Sequence[Parcel], settings: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    known = {"layout": _LAYOUT, "version": VERSION, "role": role, "space": space.label, "grid_hash": space.grid_hash}
    for key, value in {**known, "parcel_hash": parcel_hash(parcels), **facts}.items():
        file.attrs[key] = value
    file.attrs["settings"] = json.dumps(dict(settings), sort_keys=True)


def _facts(file: Any) -> dict[str, Any]:
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items() if key != "settings"}


def _parcel_group(file: Any, index: int, parcel: Parcel) -> Any:
    group = file.create_group(f"parcels/{index}")
    _put(group, "units", np.asarray(parcel.units, dtype=np.int64))
    _put(group, "weights", parcel.weights)
    group.create_group("families")
    return group


def _parcels(file: Any) -> list[Any]:
    return [file["parcels"][str(index)] for index in range(len(file["parcels"]))]


def _parcel(group: Any) -> Parcel:
    return Parcel(np.asarray(group["units"][()], dtype=np.intp), np.asarray(group["weights"][()], dtype=np.float64))


def _put(group: Any, name: str, values: Any) -> None:
    if values is not None:
        group.create_dataset(name, data=np.asarray(values), track_times=False)


def _get(group: Any, name: str) -> Any:
    return np.asarray(group[name][()]) if name in group else None


def _put_fields(group: Any, record: Any) -> None:
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, int | float):
            group.attrs[entry.name] = value
        else:
            _put(group, entry.name, value)


def _get_fields(group: Any, kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name in group.attrs:
            found[entry.name] = group.attrs[entry.name].item()
        else:
            found[entry.name] = _get(group, entry.name)
    return found


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _pack(space: Space) -> Any:
    """A space in bytes; where it came from by name alone, as paths of a machine do not belong into a shared file."""
    space = replace(space, source=Path(space.source).name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.npz"
        space.save(path)
        return np.frombuffer(path.read_bytes(), dtype=np.uint8)


def _unpack(content: Any) -> Space:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "space.npz"
        path.write_bytes(np.asarray(content, dtype=np.uint8).tobytes())
        return load_space(path)
