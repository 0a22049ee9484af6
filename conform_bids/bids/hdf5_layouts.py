"""HDF5 files that apps exchange: what is where in them, in one place, with a version.

Decomposition (conform-psn), version 1
--------------------------------------
Attributes of the file: ``layout`` = ``decomposition``, ``version``, ``software``, ``method``, ``space`` (label), ``grid_hash``,
``n_units``, and whatever the writer adds as JSON in ``settings``. Datasets: ``/centre`` and ``/spread``, ``(n_units,)``: what a unit's
responses are less, and divided by, before a parcel's denoiser takes them; its output goes back the same way.

A group a parcel, ``/parcels/<label>``, with the attributes ``action`` (``denoised``, ``passed`` or ``zeroed``) and ``n_averaged``, and
the datasets ``units`` (indices into the space), ``mean``, ``basis`` (units, dimensions), ``eigenvalues``, and the denoiser as factors:
``components/<k>/`` with ``left`` and ``right`` (units, dimensions), ``signal_to_noise`` and ``terms`` (weight, power, a). With t trials
averaged, its gain along a dimension of ratio l is the sum over terms of weight (l t)^power / ((l t)^power + a), and

    denoised = mean + sum over components of left diag(gain) right' (response - mean).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.bids.array_checks import check_file
from conform_bids.bids.derivatives import atomic_path
from conform_bids.bids.scratch import require_room
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = [
    "DECOMPOSITION_VERSION",
    "ComponentRecord",
    "Decomposition",
    "DecompositionWriter",
    "ParcelRecord",
    "read_decomposition",
]

DECOMPOSITION_VERSION = 1
ACTIONS = ("denoised", "passed", "zeroed")
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ComponentRecord:
    """One factored part of a denoiser.

    Attributes
    ----------
    left, right : (n_units, n_dimensions) arrays
    signal_to_noise : (n_dimensions,) array
    terms : (n_terms, 3) array
        Weight, power, a.
    """

    left: Array
    right: Array
    signal_to_noise: Array
    terms: Array


@dataclass(frozen=True, eq=False)
class ParcelRecord:
    """What is kept of a parcel.

    Attributes
    ----------
    label : str
        Name of its group.
    units : (n,) int array
        Indices into the space.
    mean : (n,) array
        Taken out before the map and added after it.
    basis : (n, k) array
    eigenvalues : (k,) array
    components : sequence of ComponentRecord
        None where the parcel was passed through or set to its mean.
    n_averaged : float
        Trials averaged in the responses that it was made for.
    action : str
        ``denoised``; ``passed`` where responses stay as they are; ``zeroed`` where they become ``mean``.
    """

    label: str
    units: Array
    mean: Array
    basis: Array
    eigenvalues: Array
    components: tuple[ComponentRecord, ...]
    n_averaged: float
    action: str = "denoised"


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A decomposition file.

    Attributes
    ----------
    attributes : mapping
        Of the file.
    centre, spread : (n_units,) arrays
    parcels : sequence of ParcelRecord
    settings : mapping
        Of the fit.
    """

    attributes: Mapping[str, Any]
    centre: Array
    spread: Array
    parcels: tuple[ParcelRecord, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_units(self) -> int:
        """Units of the space."""
        return len(self.centre)


class DecompositionWriter:
    """Writes a decomposition parcel by parcel, in any order; a context manager, atomic. Arrays are stored in single precision.

    Parameters
    ----------
    path : Path
        The file; it is there once the context is left without an error.
    attributes, settings : mapping
        Of the file; settings become JSON.
    """

    def __init__(self, path: Path, attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self._path = path
        self._attributes = attributes
        self._settings = settings
        self._stack = ExitStack()
        self._file: Any = None

    def __enter__(self) -> DecompositionWriter:
        import h5py

        require_room(self._path, 0)
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._file = self._stack.enter_context(h5py.File(temporary, "w"))
        self._file.attrs["layout"] = "decomposition"
        self._file.attrs["version"] = DECOMPOSITION_VERSION
        self._file.attrs["settings"] = json.dumps(dict(self._settings), sort_keys=True)
        for key, value in self._attributes.items():
            self._file.attrs[key] = value
        self._file.create_group("parcels")
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, parcel: ParcelRecord) -> None:
        """Write a parcel.

        Raises
        ------
        OSError
            ENOSPC when the disk has no room for it.
        """
        parts = [factor for part in parcel.components for factor in (part.left, part.right)]
        require_room(self._path, sum(4 * array.size for array in (parcel.basis, *parts)))
        _write_parcel(self._file["parcels"].create_group(parcel.label), parcel)

    def annotate(self, label: str, action: str) -> None:
        """Say what became of a parcel, where that is only known later."""
        self._file[f"parcels/{label}"].attrs["action"] = action

    def finish(self, centre: Array, spread: Array) -> None:
        """Write what all units have."""
        self._file.attrs["n_units"] = len(centre)
        _put(self._file, "centre", centre)
        _put(self._file, "spread", spread)


def _write_parcel(group: Any, parcel: ParcelRecord) -> None:
    group.attrs["action"] = parcel.action
    group.attrs["n_averaged"] = float(parcel.n_averaged)
    group.create_dataset("units", data=np.asarray(parcel.units, dtype=np.int64), track_times=False)
    for name in ("mean", "basis", "eigenvalues"):
        _put(group, name, getattr(parcel, name))
    components = group.create_group("components")
    for number, component in enumerate(parcel.components):
        part = components.create_group(str(number))
        for name in ("left", "right", "signal_to_noise", "terms"):
            _put(part, name, getattr(component, name))


def _put(group: Any, name: str, values: Array) -> None:
    """Write an array, single precision (an infinite ratio stays infinite), the same bytes every time."""
    with np.errstate(over="ignore"):
        group.create_dataset(name, data=np.asarray(values, dtype=np.float32), track_times=False)


def read_decomposition(path: str | Path) -> Decomposition:
    """Read what `DecompositionWriter` wrote; arrays become double precision.

    Raises
    ------
    MissingInputError
        When there is no such file.
    UnusableInputError
        When it is not a decomposition, is of a later version, or its arrays do not fit each other.
    """
    import h5py

    if not Path(path).exists():
        raise MissingInputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("layout") != "decomposition":
                raise UnusableInputError(f"{path}: not a decomposition of conform-psn")
            version = int(file.attrs["version"])
            if version > DECOMPOSITION_VERSION:
                raise UnusableInputError(f"{path}: of version {version}; this conform reads up to {DECOMPOSITION_VERSION}")
            check_file(file)
            attributes = {key: _plain(value) for key, value in file.attrs.items()}
            settings = json.loads(attributes.pop("settings", "{}"))
            centre, spread = _get(file, "centre"), _get(file, "spread")
            parcels = tuple(_read_parcel(str(label), group) for label, group in file["parcels"].items())
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnusableInputError(f"{path}: not a decomposition of conform-psn, or broken ({error})") from error
    found = Decomposition(attributes, centre, spread, parcels, settings)
    _check(path, found)
    return found


def _check(path: str | Path, found: Decomposition) -> None:
    for parcel in found.parcels:
        n = len(parcel.units)
        shapes = [
            parcel.mean.shape == (n,),
            parcel.basis.shape[:1] == (n,),
            parcel.action in ACTIONS,
            found.spread.shape == found.centre.shape,
        ]
        shapes += [n == 0 or (parcel.units.min() >= 0 and parcel.units.max() < found.n_units)]
        for part in parcel.components:
            shapes += [part.left.shape == part.right.shape == (n, len(part.signal_to_noise)), part.terms.ndim == 2]
        if not all(shapes):
            raise UnusableInputError(f"{path}: the arrays of parcel {parcel.label} do not fit each other")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _get(group: Any, name: str) -> Array:
    return np.asarray(group[name][()], dtype=np.float64)


def _read_parcel(label: str, group: Any) -> ParcelRecord:
    components = [
        ComponentRecord(*(_get(part, name) for name in ("left", "right", "signal_to_noise", "terms")))
        for part in group["components"].values()
    ]
    return ParcelRecord(
        label=label,
        units=np.asarray(group["units"][()], dtype=np.intp),
        mean=_get(group, "mean"),
        basis=_get(group, "basis"),
        eigenvalues=_get(group, "eigenvalues"),
        components=tuple(components),
        n_averaged=float(group.attrs["n_averaged"]),
        action=str(group.attrs["action"]),
    )
