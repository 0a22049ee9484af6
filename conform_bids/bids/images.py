"""Images to arrays and back: NIfTI volumes with a mask, CIFTI-2, and GIFTI pairs behind one set of functions.

Arrays are ``(T, V)`` or ``(K, V)``, float32 and C-order, over the units of a `Space`. Nothing that a file declares is
believed before it is compared with the file's size, and whatever is wrong with a file is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from conform_bids.bids import gifti, grayordinates, volumes
from conform_bids.bids.names import relative_path
from conform_bids.bids.spaces import MAP_EXTENSIONS, CiftiSpace, Space, SurfaceSpace, VolumeSpace, intersect_spaces, load_space
from conform_bids.errors import UnusableInputError

__all__ = [
    "BoldHeader",
    "CiftiSpace",
    "Space",
    "SurfaceSpace",
    "VolumeSpace",
    "describe_bold",
    "intersect_spaces",
    "iter_maps",
    "load_space",
    "map_paths",
    "read_bold",
    "read_maps",
    "read_space",
    "refuse_bombs",
    "write_maps",
]

_DEFAULT_DTYPES = {"b": np.uint8, "u": np.int32, "i": np.int32, "f": np.float32}
_HEMISPHERES = ("CortexLeft", "CortexRight")
Room = volumes.Room
_AnyHeader = volumes.VolumeHeader | grayordinates.CiftiHeader | tuple[gifti.GiftiHeader, gifti.GiftiHeader]


@dataclass(frozen=True)
class BoldHeader:
    """A BOLD series as its headers describe it.

    Attributes
    ----------
    n_volumes : int
        Time points.
    repetition_time_s : float or None
        Seconds; None where the header does not say (GIFTI never does), and the sidecar must.
    n_units_total : int
        Voxels of the grid, grayordinates, or vertices of both hemispheres; no mask is applied.
    grid : str
        `Space.grid_hash` of the grid.
    """

    n_volumes: int
    repetition_time_s: float | None
    n_units_total: int
    grid: str


def _read_header(files: Sequence[str | Path]) -> _AnyHeader:
    paths = [Path(file) for file in files]
    if len(paths) == 2:
        left, right = (gifti.read_gifti_header(path) for path in paths)
        if left.n_maps != right.n_maps:
            raise UnusableInputError(f"{right.path}: {right.n_maps} time points, but {left.n_maps} in {left.path.name}")
        return left, right
    if len(paths) != 1:
        raise ValueError(f"an image is one file or two hemispheres, not {len(paths)} files")
    if paths[0].name.endswith(".gii"):
        raise UnusableInputError(f"{paths[0]}: one hemisphere only; the left and the right are fitted together")
    if paths[0].name.endswith((".dtseries.nii", ".dscalar.nii")):
        return grayordinates.read_cifti_header(paths[0])
    return volumes.read_volume_header(paths[0])


def _space_of(header: _AnyHeader, label: str, density: str | None, resolution: str | None) -> Space:
    if isinstance(header, tuple):
        left, right = header
        return SurfaceSpace(
            label=label,
            density=density,
            resolution=resolution,
            source=str(left.path),
            n_left=left.n_vertices,
            n_right=right.n_vertices,
        )
    if isinstance(header, grayordinates.CiftiHeader):
        return header.space(label, density, resolution)
    return volumes.volume_space(header, None, label, density, resolution)


def read_space(
    files: Sequence[str | Path], mask: str | Path | None, label: str, density: str | None = None, resolution: str | None = None
) -> Space:
    """Read the space of an image: its geometry and, for volumes, the mask.

    Parameters
    ----------
    files : sequence of path
        One file, or the left and the right hemisphere's for GIFTI.
    mask : path or None
        Mask of a volume; without it every voxel is a unit. CIFTI and GIFTI take none.
    label, density, resolution
        Entities of the file name.

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter when a file is corrupt, or the mask empty or of another grid.
    """
    space = _space_of(_read_header(files), label, density, resolution)
    if mask is None or not isinstance(space, VolumeSpace):
        return space
    inside, mask_header = volumes.read_mask(mask)
    if not volumes.volume_space(mask_header, inside, label, density, resolution).same_grid(space):
        raise UnusableInputError(
            f"{mask}: the mask is of another grid than {files[0]} (shape {mask_header.shape} against {space.shape}, or another affine)"
        )
    return replace(space, mask=inside)


def refuse_bombs(files: Iterable[str | Path], memory_gb: float) -> None:
    """Refuse packed volumes that are next to nothing when packed; for jobs that want more memory than there is.

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter naming the first such file.
    """
    for path in map(Path, files):
        if path.name.endswith(".nii.gz"):
            volumes.refuse_bomb(path, volumes.read_volume_header(path).n_bytes, memory_gb)


def describe_bold(files: Sequence[str | Path]) -> BoldHeader:
    """Describe a BOLD series from headers alone.

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter when a header cannot be read, declares more than the file can hold, or is not a series'.
    """
    header = _read_header(files)
    space = _space_of(header, "", None, None)
    n_units = int(np.prod(space.shape)) if isinstance(space, VolumeSpace) else space.n_units
    repetition_time = None if isinstance(header, tuple) else header.repetition_time_s
    return BoldHeader(_series_length(header), repetition_time, n_units, space.grid_hash)


def _series_length(header: _AnyHeader) -> int:
    if isinstance(header, tuple):
        return header[0].n_maps
    if isinstance(header, grayordinates.CiftiHeader):
        if not header.is_series:
            raise UnusableInputError(f"{header.path}: no series axis; a dense series (.dtseries.nii) was expected")
        return header.n_maps
    if header.n_volumes is None:
        raise UnusableInputError(f"{header.path}: a 3-D image, where a BOLD series was expected")
    return header.n_volumes


def read_bold(files: Sequence[str | Path], space: Space, *, n_volumes: int | None = None, room: Room | None = None) -> NDArray[np.float32]:
    """Read a BOLD series at the units of `space`.

    At most one volume, or a block of grayordinates, stands in memory beside the result. NaN and Inf are kept.

    Parameters
    ----------
    n_volumes : int, optional
        Time points that there must be.
    room : callable, optional
        (T, V) -> float32 array, which is filled: of volumes and surfaces row by row, so that it may be a memory map.

    Returns
    -------
    ndarray of float32, shape (T, V), C order

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter, naming the file, when it is truncated, corrupt, of another grid or of another length.
    """
    header = _read_header(files)
    length = _series_length(header)
    if n_volumes is not None and length != n_volumes:
        raise UnusableInputError(f"{files[0]}: {length} volumes, where {n_volumes} were expected")
    return _read_values(header, space, room or _in_memory)


def read_maps(paths: Sequence[str | Path], space: Space) -> NDArray[np.float32]:
    """Read maps at the units of `space`, shape (K, V); K is 1 for a 3-D volume.

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    return _read_values(_read_header(paths), space, _in_memory)


def iter_maps(paths: Sequence[str | Path], space: Space) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Read maps part by part, in the order of the file: no more than a few tens of megabytes are in memory.

    Yields
    ------
    rows, columns : slice
        Maps and units of the part: one map after the other for volumes and surfaces, blocks of grayordinates for CIFTI.
    values : ndarray of float32, shape (rows, columns)

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter when the grid is another, or a file is truncated or corrupt.
    """
    header = _read_header(paths)
    if not _space_of(header, space.label, space.density, space.resolution).same_grid(space):
        raise UnusableInputError(f"{paths[0]}: its grid is not that of {space.source or 'the others'}")
    if isinstance(header, grayordinates.CiftiHeader):
        for first, block in grayordinates.iter_grayordinates(header):
            yield slice(0, header.n_maps), slice(first, first + block.shape[1]), _single(block)
        return
    every = slice(0, space.n_units)
    if isinstance(header, volumes.VolumeHeader):
        assert isinstance(space, VolumeSpace)
        maps: Iterator[NDArray[Any]] = volumes.iter_volumes(header, space)
    else:
        left, right = header
        maps = (np.concatenate(halves) for halves in zip(gifti.read_arrays(left), gifti.read_arrays(right), strict=True))
    for place, values in enumerate(maps):
        yield slice(place, place + 1), every, _single(values)[np.newaxis]


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _in_memory(shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.empty(shape, dtype=np.float32)


def _read_values(header: _AnyHeader, space: Space, room: Room) -> NDArray[np.float32]:
    if isinstance(header, tuple) and isinstance(space, SurfaceSpace):
        return _read_hemispheres(header, space, room)
    if isinstance(header, grayordinates.CiftiHeader) and isinstance(space, CiftiSpace):
        return grayordinates.read_grayordinates(header, space, room)
    if isinstance(header, volumes.VolumeHeader) and isinstance(space, VolumeSpace):
        return volumes.read_volumes(header, space, room)
    path = header[0].path if isinstance(header, tuple) else header.path
    raise UnusableInputError(f"{path}: another kind of image than {space.source or space.kind}")


def _read_hemispheres(headers: tuple[gifti.GiftiHeader, gifti.GiftiHeader], space: SurfaceSpace, room: Room) -> NDArray[np.float32]:
    for header, expected in zip(headers, (space.n_left, space.n_right), strict=True):
        if header.n_vertices != expected:
            raise UnusableInputError(f"{header.path}: {header.n_vertices} vertices, but {expected} in {space.source or 'the other runs'}")
    values = room((headers[0].n_maps, space.n_units))
    with np.errstate(over="ignore", invalid="ignore"):
        for header, half in zip(headers, space.split(values), strict=True):
            for row, array in zip(half, gifti.read_arrays(header), strict=True):
                row[:] = array
    return values


def write_maps(
    values: ArrayLike,
    space: Space,
    paths: Sequence[str | Path],
    map_names: Sequence[str] | None = None,
    dtype: DTypeLike | None = None,
    *,
    n_threads: int = 1,
) -> None:
    """Write maps with the geometry of `space`; each file is atomic, and its bytes are the same every time.

    Parameters
    ----------
    values : array_like, shape (V,) or (K, V)
        ``(V,)`` gives a 3-D volume, or one map. A memory-mapped array is read a map (or a block of grayordinates) at a time.
    paths : sequence of path
        One, or the left and the right hemisphere's for GIFTI.
    map_names : sequence of str, optional
        A name a map; NIfTI keeps that of a single map only.
    dtype : dtype, optional
        On disk: float32 for floats, int32 for integers, uint8 for booleans by default. GIFTI writes any integer as int32, as it
        has no other.
    n_threads : int
        Threads that compress volumes; the bytes do not depend on it.

    Notes
    -----
    Voxels outside of the mask are NaN in float maps, 0 in integer maps and masks.

    Raises
    ------
    ValueError
        When shapes do not fit, or NaN would have to become an integer.
    """
    array: NDArray[Any] = np.asanyarray(values)
    target = np.dtype(dtype if dtype is not None else _DEFAULT_DTYPES[array.dtype.kind])
    target = np.dtype(np.uint8) if target.kind == "b" else target
    if array.ndim not in (1, 2) or array.shape[-1] != space.n_units:
        raise ValueError(f"values of shape {array.shape} do not fit a space of {space.n_units} units")
    if target.kind != "f" and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"NaN or Inf cannot be written as {target}")
    maps = np.atleast_2d(array)
    if map_names is not None and len(map_names) != len(maps):
        raise ValueError(f"{len(map_names)} names for {len(maps)} maps")
    if isinstance(space, VolumeSpace):
        volumes.write_volumes(array, space, paths[0], map_names, target, n_threads)
    elif isinstance(space, CiftiSpace):
        grayordinates.write_grayordinates(maps, space, paths[0], map_names, target)
    elif isinstance(space, SurfaceSpace):
        for half, path, structure in zip(space.split(maps), paths, _HEMISPHERES, strict=True):
            gifti.write_arrays(half, path, map_names, target, structure)


def map_paths(space_kind: str, entities: Mapping[str, str], suffix: str) -> tuple[str, ...]:
    """Names of a map's files, relative to the output folder: one, or the left and the right hemisphere's for GIFTI.

    Parameters
    ----------
    space_kind : str
        ``nifti``, ``cifti`` or ``gifti``.
    entities : mapping
        Entities of the map; ``hemi`` is added here.
    suffix : str
        ``statmap``, ``mask``, ...
    """
    extension = MAP_EXTENSIONS[space_kind]
    if space_kind == "gifti":
        return tuple(relative_path({**entities, "hemi": hemi}, suffix, extension) for hemi in ("L", "R"))
    return (relative_path(dict(entities), suffix, extension),)
