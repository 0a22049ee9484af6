"""CIFTI-2 files: dense series and dense scalars, read and written in blocks of grayordinates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.cifti2.cifti2 import Cifti2Header, Cifti2Matrix
from nibabel.cifti2.cifti2_axes import BrainModelAxis, ScalarAxis, SeriesAxis
from nibabel.cifti2.parse_cifti2 import Cifti2Extension, Cifti2Parser
from numpy.typing import NDArray

from conform_bids.bids.derivatives import atomic_path
from conform_bids.bids.spaces import CiftiSpace
from conform_bids.bids.volumes import Room, check_size, reading, room_for
from conform_bids.errors import UnusableInputError

__all__ = ["CiftiHeader", "iter_grayordinates", "read_cifti_header", "read_grayordinates", "write_grayordinates"]

_BLOCK_BYTES = 4 * 2**20  # what a cache holds: each block is transposed
_MAX_VERTICES = 10**8
_NIFTI_2_BYTES = 540
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class CiftiHeader:
    """What a CIFTI-2 file says of itself; ``dtype`` and the following three are about the bytes on disk."""

    path: Path
    n_maps: int
    is_series: bool
    brain_models: BrainModelAxis
    repetition_time_s: float | None
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float

    def space(self, label: str, density: str | None, resolution: str | None) -> CiftiSpace:
        """The grayordinates as a space."""
        return CiftiSpace.from_axis(self.brain_models, label=label, density=density, resolution=resolution, source=str(self.path))


def read_cifti_header(path: str | Path) -> CiftiHeader:
    """Read and check the header of a ``.dtseries.nii`` or ``.dscalar.nii``.

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter also when it is not CIFTI-2, or its second axis is not one of brain models.
    """
    path = Path(path)
    with reading(path):
        # as the NIfTI-2 image that it is, since nibabel would copy the description of every grayordinate one by one
        image = nib.nifti2.Nifti2Image.from_filename(path) if _is_nifti_2(path) else None
        xml = [] if image is None else [part.content for part in image.header.extensions if part.get_code() == Cifti2Extension.code]
        if image is None or not xml:
            raise UnusableInputError(f"{path}: not a CIFTI-2 image")
        shape = image.shape[4:]
        if image.shape[:4] != (1, 1, 1, 1) or len(shape) != 2:
            raise UnusableInputError(f"{path}: a CIFTI-2 matrix of {len(shape)} dimensions, where 2 were expected")
        rows, models = _parse_axes(xml[0])
        if not isinstance(models, BrainModelAxis):
            kind = type(models).__name__
            raise UnusableInputError(f"{path}: no brain models along its second axis ({kind}); parcellated files are not read")
        if (len(rows), len(models)) != shape:
            raise UnusableInputError(f"{path}: its axes say {len(rows)} x {len(models)}, its data are {shape[0]} x {shape[1]}")
        _check_models(path, models)
        proxy: Any = image.dataobj
        if proxy.dtype.kind not in "iuf":
            raise UnusableInputError(f"{path}: values are not numbers (data type {proxy.dtype})")
        check_size(path, int(proxy.offset) + shape[0] * shape[1] * proxy.dtype.itemsize, compressed=False)
        is_series = isinstance(rows, SeriesAxis)
        return CiftiHeader(
            path=path,
            n_maps=len(rows),
            is_series=is_series,
            brain_models=models,
            repetition_time_s=float(rows.step) if is_series and rows.unit == "SECOND" and rows.step > 0 else None,
            dtype=proxy.dtype,
            offset=int(proxy.offset),
            slope=float(proxy.slope),
            inter=float(proxy.inter),
        )


def _is_nifti_2(path: Path) -> bool:
    with open(path, "rb") as stream:
        start = stream.read(4)
    if len(start) < 4:
        raise EOFError("empty file")
    return _NIFTI_2_BYTES in (int.from_bytes(start, "little"), int.from_bytes(start, "big"))


@lru_cache(maxsize=4)
def _parse_axes(xml: bytes) -> tuple[Any, Any]:
    """The two axes; kept, as the runs of a study say the same, and reading it takes longer than reading the data of a short run."""
    parser = Cifti2Parser()
    parser.parse(string=xml)
    header: Any = parser.header
    axes = header.get_axis(0), header.get_axis(1)
    for name in ("vertex", "voxel"):  # which spaces share
        if isinstance(axes[1], BrainModelAxis):
            getattr(axes[1], name).setflags(write=False)
    return axes


def _check_models(path: Path, models: BrainModelAxis) -> None:
    """Refuse vertices and voxels outside of their surface or volume, and surfaces too large to be one."""
    for name, count in models.nvertices.items():
        if not 0 < count < _MAX_VERTICES or models.vertex[models.name == name].max() >= count:
            raise UnusableInputError(f"{path}: {name} has vertices outside of its surface of {count}")
    voxels = models.voxel[~models.surface_mask]
    if len(voxels) and (voxels.max(axis=0) >= np.array(models.volume_shape)).any():
        raise UnusableInputError(f"{path}: voxels outside of its volume of shape {models.volume_shape}")


def read_grayordinates(header: CiftiHeader, space: CiftiSpace, room: Room) -> NDArray[np.float32]:
    """Read all maps or time points, into what ``room`` gives for (T, V).

    Returns
    -------
    ndarray of float32, shape (T, V), C order

    Raises
    ------
    UnusableInputError
        When the grayordinates are others than `space`'s, or the file is truncated.
    """
    if not header.space(space.label, None, None).same_grid(space):
        raise UnusableInputError(f"{header.path}: its grayordinates are not those of {space.source or 'the other runs'}")
    values = room_for(header.path, (header.n_maps, space.n_units), room)
    with np.errstate(over="ignore", invalid="ignore"):
        for first, block in iter_grayordinates(header):
            values[:, first : first + block.shape[1]] = block
    return values


def iter_grayordinates(header: CiftiHeader) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield blocks of grayordinates: the first one's place, and their values in all maps, ``(T, block)``, scaled.

    Raises
    ------
    UnusableInputError
        When the file is truncated.
    """
    n_maps, n_units = header.n_maps, len(header.brain_models)
    per_unit = n_maps * header.dtype.itemsize
    step = max(1, _BLOCK_BYTES // per_unit)
    scaled = (header.slope, header.inter) != (1.0, 0.0)
    with reading(header.path), open(header.path, "rb") as stream:
        stream.seek(header.offset)
        for first in range(0, n_units, step):  # a grayordinate's values lie side by side on disk
            last = min(first + step, n_units)
            raw = stream.read((last - first) * per_unit)
            if len(raw) < (last - first) * per_unit:
                raise UnusableInputError(f"{header.path}: truncated in its data")
            block = np.frombuffer(raw, dtype=header.dtype).reshape(last - first, n_maps)
            yield first, (block * np.float64(header.slope) + header.inter if scaled else block).T


@lru_cache(maxsize=2)
def _brain_models_of(space: CiftiSpace) -> Any:
    """The second dimension of a file; kept, as an app writes many files of the same grayordinates."""
    return space.axis().to_mapping(1)


def write_grayordinates(
    values: NDArray[Any], space: CiftiSpace, path: str | Path, names: Sequence[str] | None, dtype: np.dtype[Any]
) -> None:
    """Write maps ``(K, V)`` as a dense scalar file with a name a map; atomic, in blocks of grayordinates."""
    n_maps, n_units = values.shape
    labels = [_NOT_XML.sub(" ", name) for name in names] if names else [f"map-{k:05d}" for k in range(n_maps)]
    matrix = Cifti2Matrix()
    matrix.extend([ScalarAxis(labels).to_mapping(0), _brain_models_of(space)])
    header = nib.nifti2.Nifti2Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((1, 1, 1, 1, n_maps, n_units))
    header.set_intent("NIFTI_INTENT_CONNECTIVITY_DENSE_SCALARS", name="ConnDenseScalar")
    header.extensions.append(Cifti2Extension.from_bytes(Cifti2Header(matrix).to_xml()))
    header.set_slope_inter(1, 0)
    header["pixdim"][:4] = 1
    step = max(1, _BLOCK_BYTES // (n_maps * dtype.itemsize))
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
        header.write_to(stream)
        stream.write(b"\x00" * (int(header["vox_offset"]) - stream.tell()))
        for first in range(0, n_units, step):
            block = np.ascontiguousarray(values[:, first : first + step].T, dtype=dtype)
            stream.write(block.tobytes())
