"""What the units of an array are: voxels of a masked volume, CIFTI grayordinates, or vertices of both hemispheres.

A `Space` holds the geometry that is needed to write a map back as the input was; arrays are ``(V,)`` or ``(K, V)`` over its
units. Nothing here reads or writes images (that is `conform_bids.bids.images`), so nibabel is not imported with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conform_bids.bids.array_checks import check_npz
from conform_bids.bids.derivatives import atomic_path
from conform_bids.errors import UnusableInputError

__all__ = ["CiftiSpace", "Space", "SurfaceSpace", "VolumeSpace", "intersect_spaces", "load_space"]

CORTEX_LEFT = "CIFTI_STRUCTURE_CORTEX_LEFT"
CORTEX_RIGHT = "CIFTI_STRUCTURE_CORTEX_RIGHT"
MAP_EXTENSIONS = {"nifti": ".nii.gz", "cifti": ".dscalar.nii", "gifti": ".func.gii"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Space:
    """Base of the spaces.

    Attributes
    ----------
    label : str
        As in the file name: ``T1w``, ``MNI152NLin2009cAsym``, ``fsLR``, ``fsaverage``.
    density, resolution : str or None
        Labels of ``den-`` and ``res-``.
    source : str
        File that it was read from, for error messages; no part of the geometry.
    """

    kind: ClassVar[str]

    label: str
    density: str | None = None
    resolution: str | None = None
    source: str = ""

    @property
    def n_units(self) -> int:
        """Number of voxels, vertices or grayordinates, V."""
        raise NotImplementedError

    @property
    def extension(self) -> str:
        """Extension of the maps of this space."""
        return MAP_EXTENSIONS[self.kind]

    def _geometry(self) -> list[Any]:
        """Plain values and arrays that define the grid, in a fixed order."""
        raise NotImplementedError

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays that `save` writes; `_from_arrays` takes them back."""
        raise NotImplementedError

    @cached_property
    def grid_hash(self) -> str:
        """SHA-256 (hex) of the grid: equal where arrays of two people may be put side by side.

        The mask of a volume is no part of it. Affines count to 0.001 mm, as writers round differently.
        """
        digest = hashlib.sha256(self.kind.encode())
        for part in self._geometry():
            if isinstance(part, np.ndarray):
                digest.update(f"{part.dtype.str}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
            else:
                digest.update(json.dumps(part).encode())
        return digest.hexdigest()

    def same_grid(self, other: Space) -> bool:
        """Whether the two describe the same units, masks aside."""
        return self.grid_hash == other.grid_hash

    def save(self, path: str | Path) -> None:
        """Write as ``.npz`` without pickles; atomic. `load_space` reads it."""
        identity = {"kind": self.kind, "label": self.label, "density": self.density, "resolution": self.resolution, "source": self.source}
        with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, identity=np.array(json.dumps(identity)), **self._arrays())


def _rounded(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.round(affine, 3) + 0.0)  # + 0.0: minus zero becomes zero


@dataclass(frozen=True, eq=False, kw_only=True)
class VolumeSpace(Space):
    """Voxels of a volume that lie in a mask, in C order.

    Attributes
    ----------
    shape : tuple of int
        Voxels along x, y, z.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm.
    mask : ndarray of bool, shape `shape`
    zooms : tuple of float
        Voxel sizes as the header says, in `unit`.
    sform_code, qform_code : int
        NIfTI codes of the two transforms, 0 where one is not set.
    qform : ndarray, shape (4, 4)
        The qform; as `affine` where it is not set.
    unit : str
        Spatial unit of the header (``mm``, ``unknown``, ...).
    """

    kind: ClassVar[str] = "nifti"

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    zooms: tuple[float, float, float]
    sform_code: int = 1
    qform_code: int = 1
    qform: NDArray[np.float64]
    unit: str = "mm"

    @cached_property
    def n_units(self) -> int:
        """Number of voxels in the mask."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def disk_index(self) -> NDArray[np.intp]:
        """Position of each unit in the file, where x runs fastest, shape (V,)."""
        return np.asarray(np.ravel_multi_index(np.nonzero(self.mask), self.shape, order="F"))

    def to_volume(self, values: ArrayLike, fill: float = np.nan) -> NDArray[Any]:
        """Put values ``(V,)`` on the grid, `fill` outside of the mask; integers and booleans get 0 there."""
        array = np.asarray(values)
        outside = fill if array.dtype.kind == "f" else 0
        volume = np.full(self.shape, outside, dtype=array.dtype)
        volume[self.mask] = array
        return volume

    def same_grid(self, other: Space) -> bool:
        """Whether shapes are equal and no corner lies apart by more than a hundredth of a voxel."""
        if not isinstance(other, VolumeSpace) or self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], [1], indexing="ij")).reshape(4, -1)
        apart = np.abs((self.affine - other.affine) @ corners).max()
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(apart < 0.01 * sizes.min())

    def _geometry(self) -> list[Any]:
        return [list(self.shape), _rounded(self.affine)]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        codes = np.array([self.sform_code, self.qform_code])
        return {
            "affine": self.affine,
            "mask": self.mask,
            "zooms": np.array(self.zooms),
            "codes": codes,
            "qform": self.qform,
            "unit": np.array(self.unit),
        }

    @classmethod
    def _from_arrays(cls, identity: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> VolumeSpace:
        mask = arrays["mask"].astype(bool)
        x, y, z = mask.shape
        return cls(
            **identity,
            shape=(x, y, z),
            affine=arrays["affine"],
            mask=mask,
            zooms=(float(arrays["zooms"][0]), float(arrays["zooms"][1]), float(arrays["zooms"][2])),
            sform_code=int(arrays["codes"][0]),
            qform_code=int(arrays["codes"][1]),
            qform=arrays["qform"],
            unit=str(arrays["unit"]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class CiftiSpace(Space):
    """Grayordinates of a CIFTI-2 file: cortical vertices and subcortical voxels, in the file's order.

    Attributes
    ----------
    structures : tuple of str
        CIFTI names of the structures, in order of appearance.
    structure : ndarray of int, shape (V,)
        Index into `structures`.
    vertex : ndarray of int, shape (V,)
        Vertex on the structure's surface, -1 for voxels.
    voxel : ndarray of int, shape (V, 3)
        Voxel indices, -1 for vertices.
    n_vertices : mapping
        Vertices of the whole surface, by structure.
    volume_shape, volume_affine
        Grid of the voxels, None where there are none.
    """

    kind: ClassVar[str] = "cifti"

    structures: tuple[str, ...]
    structure: NDArray[np.int64]
    vertex: NDArray[np.int64]
    voxel: NDArray[np.int64]
    n_vertices: Mapping[str, int]
    volume_shape: tuple[int, int, int] | None = None
    volume_affine: NDArray[np.float64] | None = None

    @property
    def n_units(self) -> int:
        """Number of grayordinates."""
        return len(self.structure)

    @classmethod
    def from_axis(cls, axis: Any, **identity: Any) -> CiftiSpace:
        """Build from a nibabel ``BrainModelAxis``; `identity` is label, density, resolution and source."""
        names, first, inverse = np.unique(axis.name, return_index=True, return_inverse=True)
        order = np.argsort(first)
        shape = axis.volume_shape
        return cls(
            **identity,
            structures=tuple(str(names[k]) for k in order),
            structure=np.argsort(order)[inverse].astype(np.int64),
            vertex=np.asarray(axis.vertex, dtype=np.int64),
            voxel=np.asarray(axis.voxel, dtype=np.int64),
            n_vertices={str(name): int(count) for name, count in axis.nvertices.items()},
            volume_shape=None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2])),
            volume_affine=None if axis.affine is None else np.asarray(axis.affine, dtype=np.float64),
        )

    def axis(self) -> Any:
        """The nibabel ``BrainModelAxis`` of the grayordinates."""
        from nibabel.cifti2.cifti2_axes import BrainModelAxis

        return BrainModelAxis(
            np.array(self.structures)[self.structure],
            voxel=self.voxel,
            vertex=self.vertex,
            affine=self.volume_affine,
            volume_shape=self.volume_shape,
            nvertices=dict(self.n_vertices),
        )

    def cortex_left(self, values: ArrayLike) -> NDArray[np.float64] | None:
        """Values ``(V,)`` on all vertices of the left cortex, NaN where the file has none; None without that cortex."""
        return self._cortex(CORTEX_LEFT, values)

    def cortex_right(self, values: ArrayLike) -> NDArray[np.float64] | None:
        """As `cortex_left`, of the right cortex."""
        return self._cortex(CORTEX_RIGHT, values)

    def _cortex(self, name: str, values: ArrayLike) -> NDArray[np.float64] | None:
        if name not in self.n_vertices:
            return None
        units = self.structure == self.structures.index(name)
        surface = np.full(self.n_vertices[name], np.nan)
        surface[self.vertex[units]] = np.asarray(values)[units]
        return surface

    def subcortex(self, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Values of the voxels as a volume cropped to them, and its affine; NaN elsewhere; None without voxels."""
        units = self.vertex < 0
        if self.volume_affine is None or not units.any():
            return None
        voxels = self.voxel[units]
        corner = voxels.min(axis=0)
        volume = np.full(voxels.max(axis=0) - corner + 1, np.nan)
        volume[tuple((voxels - corner).T)] = np.asarray(values)[units]
        affine = self.volume_affine.copy()
        affine[:3, 3] = (self.volume_affine @ np.append(corner, 1))[:3]
        return volume, affine

    def _geometry(self) -> list[Any]:
        counts = [[name, int(self.n_vertices.get(name, 0))] for name in self.structures]
        parts: list[Any] = [counts, self.structure, self.vertex, self.voxel]
        if self.volume_shape is not None and self.volume_affine is not None:
            parts += [list(self.volume_shape), _rounded(self.volume_affine)]
        return parts

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {
            "structures": np.array(self.structures),
            "structure": self.structure,
            "vertex": self.vertex,
            "voxel": self.voxel,
            "n_vertices": np.array([self.n_vertices.get(name, 0) for name in self.structures], dtype=np.int64),
        }
        if self.volume_shape is not None and self.volume_affine is not None:
            arrays |= {"volume_shape": np.array(self.volume_shape), "volume_affine": self.volume_affine}
        return arrays

    @classmethod
    def _from_arrays(cls, identity: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> CiftiSpace:
        structures = tuple(str(name) for name in arrays["structures"])
        counts = dict(zip(structures, (int(count) for count in arrays["n_vertices"]), strict=True))
        shape = arrays.get("volume_shape")
        return cls(
            **identity,
            structures=structures,
            structure=arrays["structure"],
            vertex=arrays["vertex"],
            voxel=arrays["voxel"],
            n_vertices={name: count for name, count in counts.items() if count},
            volume_shape=None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2])),
            volume_affine=arrays.get("volume_affine"),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class SurfaceSpace(Space):
    """Vertices of the left hemisphere, then of the right.

    Attributes
    ----------
    n_left, n_right : int
        Vertices of each hemisphere.
    """

    kind: ClassVar[str] = "gifti"

    n_left: int
    n_right: int

    @property
    def n_units(self) -> int:
        """Vertices of both hemispheres."""
        return self.n_left + self.n_right

    def split(self, values: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Cut ``(..., V)`` into the left ``(..., n_left)`` and the right ``(..., n_right)`` hemisphere."""
        array = np.asanyarray(values)
        return array[..., : self.n_left], array[..., self.n_left :]

    def _geometry(self) -> list[Any]:
        return [self.label, self.n_left, self.n_right]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"n_vertices": np.array([self.n_left, self.n_right])}

    @classmethod
    def _from_arrays(cls, identity: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> SurfaceSpace:
        left, right = (int(count) for count in arrays["n_vertices"])
        return cls(**identity, n_left=left, n_right=right)


_CLASSES: dict[str, type[VolumeSpace] | type[CiftiSpace] | type[SurfaceSpace]] = {
    "nifti": VolumeSpace,
    "cifti": CiftiSpace,
    "gifti": SurfaceSpace,
}


def load_space(path: str | Path) -> Space:
    """Read what `Space.save` wrote.

    Raises
    ------
    UnusableInputError
        When the file is not one of ours, or holds pickled objects.
    """
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        identity = json.loads(str(arrays.pop("identity")))
        return _CLASSES[identity.pop("kind")]._from_arrays(identity, arrays)
    except Exception as error:  # zip, NumPy, JSON and our own lookups each fail in their own way on a foreign file
        raise UnusableInputError(f"{path}: not a space that conform saved ({error})") from error


def intersect_spaces(spaces: Sequence[Space]) -> Space:
    """The space of units that all runs have: for volumes, voxels in every mask; else the common grid.

    Raises
    ------
    UnusableInputError
        When grids differ, naming the file that does not fit the first, or when no voxel is in every mask.
    """
    first = spaces[0]
    for other in spaces[1:]:
        if not first.same_grid(other):
            raise UnusableInputError(f"{other.source or 'an image'}: its grid is not that of {first.source or 'the first run'}")
    if not isinstance(first, VolumeSpace):
        return first
    mask = np.logical_and.reduce([space.mask for space in spaces if isinstance(space, VolumeSpace)])
    if not mask.any():
        raise UnusableInputError(f"{spaces[-1].source or 'the masks'}: no voxel is in the masks of all {len(spaces)} runs")
    return replace(first, mask=mask)
