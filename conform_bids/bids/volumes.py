"""NIfTI volumes, one at a time: a run never stands in memory as a dense 4-D array.

Headers are read by nibabel, voxels by us in file order, so that a gzipped run is decompressed once and only voxels of the mask
are kept.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.derivatives import atomic_path
from conform_bids.bids.spaces import VolumeSpace
from conform_bids.errors import ConformError, MissingInputError, UnusableInputError
from conform_bids.memory import MAX_DEFLATE_RATIO, available_memory_gb

__all__ = [
    "Room",
    "VolumeHeader",
    "check_size",
    "iter_volumes",
    "read_mask",
    "read_volume_header",
    "read_volumes",
    "reading",
    "refuse_bomb",
    "room_for",
    "volume_space",
    "write_volumes",
]

Room = Callable[[tuple[int, int]], NDArray[np.float32]]
"""(n_volumes, n_units) -> float32 array to read into, in memory or a memory map."""
BOMB_RATIO = 100
"""Measured data take at least a hundredth of their size when they are packed; a brain in a wide empty frame, about a tenth."""

_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # no time stamp, fastest, unknown system: bytes are reproducible
_GZIP_LEVEL = 1
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever a corrupt file makes nibabel, zlib or expat raise into an `UnusableInputError` that names the file."""
    try:
        yield
    except ConformError:
        raise
    except FileNotFoundError as error:
        hint = " (a link to content that is not here; `datalad get` fetches it)" if Path(path).is_symlink() else ""
        raise MissingInputError(f"{path}: no such file{hint}") from error
    except Exception as error:  # readers of corrupt headers fail in a dozen ways, none of them a bug of ours
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnusableInputError(f"{path}: cannot be read, truncated or corrupt ({reason})") from error


def room_for(path: Path, shape: tuple[int, int], room: Room) -> NDArray[np.float32]:
    """What ``room`` gives for the values of a file; what ails the disk that it is on is no fault of the file.

    Raises
    ------
    UnusableInputError
        When the file declares more than any memory holds.
    """
    try:
        return room(shape)
    except (MemoryError, ValueError) as error:
        raise UnusableInputError(f"{path}: cannot be read, truncated or corrupt ({error})") from error


def check_size(path: str | Path, declared: int, *, compressed: bool) -> None:
    """Refuse a file whose header declares more bytes than it can hold, or a bomb, before anything is allocated.

    Raises
    ------
    UnusableInputError
        Naming the file, and both sizes.
    """
    size = Path(path).stat().st_size
    if declared > size * (MAX_DEFLATE_RATIO if compressed else 1):
        raise UnusableInputError(f"{path}: truncated, or a corrupt header: it declares {declared:,} bytes of data, the file has {size:,}")
    if compressed and declared > available_memory_gb() * 1e9:
        refuse_bomb(path, declared, available_memory_gb())


def refuse_bomb(path: str | Path, declared: int, memory_gb: float) -> None:
    """Refuse a file that would fill the memory with next to nothing; for what declares more than the memory.

    Sound images larger than the memory pass, as they are read in pieces: no image of something packs as well as a bomb.

    Raises
    ------
    UnusableInputError
        Naming the file, and what it declares.
    """
    times = declared // max(Path(path).stat().st_size, 1)
    if times > BOMB_RATIO:
        raise UnusableInputError(
            f"{path}: declares {declared:,} bytes of data, {times:,} times its size, which nothing that was measured does, "
            f"where there is memory for {memory_gb:.1f} GB (--mem)"
        )


@dataclass(frozen=True)
class VolumeHeader:
    """What the header of a NIfTI file says.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        Voxels along x, y, z.
    n_volumes : int or None
        None for a 3-D image.
    dtype : dtype
        On disk.
    offset : int
        Byte of the first voxel.
    slope, inter : float
        Stored value times slope plus inter is the value.
    affine : ndarray, shape (4, 4)
    zooms, sform_code, qform_code, qform, unit
        As in `VolumeSpace`; a qform or zooms that make no sense beside a sound affine count as unset.
    repetition_time_s : float or None
        None where the header gives no unit of time.
    """

    path: Path
    shape: tuple[int, int, int]
    n_volumes: int | None
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: NDArray[np.float64]
    zooms: tuple[float, float, float]
    sform_code: int
    qform_code: int
    qform: NDArray[np.float64]
    unit: str
    repetition_time_s: float | None

    @property
    def n_bytes(self) -> int:
        """Size of the file once it is unpacked."""
        return self.offset + prod(self.shape) * (self.n_volumes or 1) * self.dtype.itemsize


def read_volume_header(path: str | Path) -> VolumeHeader:
    """Read and check the header of a 3-D or 4-D NIfTI file.

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    path = Path(path)
    with reading(path):
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise UnusableInputError(f"{path}: not a NIfTI image")
        proxy: Any = image.dataobj
        shape = tuple(int(n) for n in image.shape)
        while len(shape) > 4 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) not in (3, 4) or min(shape) < 1:
            raise UnusableInputError(f"{path}: an image of shape {shape}, where 3-D or 4-D was expected")
        if proxy.dtype.kind not in "iuf":
            raise UnusableInputError(f"{path}: voxels are not numbers (data type {proxy.dtype})")
        affine = np.asarray(image.affine, dtype=np.float64)
        if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
            raise UnusableInputError(f"{path}: its affine is not invertible")
        check_size(path, int(proxy.offset) + prod(shape) * proxy.dtype.itemsize, compressed=path.name.endswith(".gz"))
        header = image.header
        qform, qform_code = _qform(header, affine)
        return VolumeHeader(
            path=path,
            shape=(shape[0], shape[1], shape[2]),
            n_volumes=shape[3] if len(shape) == 4 else None,
            dtype=proxy.dtype,
            offset=int(proxy.offset),
            slope=float(proxy.slope),
            inter=float(proxy.inter),
            affine=affine,
            zooms=_zooms(header, affine),
            sform_code=int(header["sform_code"]),
            qform_code=qform_code,
            qform=qform,
            unit=header.get_xyzt_units()[0],
            repetition_time_s=_repetition_time(header) if len(shape) == 4 else None,
        )


def _qform(header: Any, affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    try:
        qform, code = header.get_qform(coded=True)
    except ValueError:  # no quaternion of length one; the affine is then the sform
        return affine, 0
    return (affine, 0) if qform is None or not np.isfinite(qform).all() else (np.asarray(qform), int(code))


def _zooms(header: Any, affine: NDArray[np.float64]) -> tuple[float, float, float]:
    zooms = np.array(header.get_zooms()[:3], dtype=np.float64)
    if not (np.isfinite(zooms) & (zooms > 0)).all():
        zooms = np.linalg.norm(affine[:3, :3], axis=0)
    return float(zooms[0]), float(zooms[1]), float(zooms[2])


def _repetition_time(header: Any) -> float | None:
    seconds = float(header.get_zooms()[3]) * _SECONDS.get(header.get_xyzt_units()[1], float("nan"))
    return seconds if np.isfinite(seconds) and seconds > 0 else None


def volume_space(
    header: VolumeHeader, mask: NDArray[np.bool_] | None, label: str, density: str | None, resolution: str | None
) -> VolumeSpace:
    """The space of a volume; every voxel where there is no mask."""
    return VolumeSpace(
        label=label,
        density=density,
        resolution=resolution,
        source=str(header.path),
        shape=header.shape,
        affine=header.affine,
        mask=np.ones(header.shape, dtype=bool) if mask is None else mask,
        zooms=header.zooms,
        sform_code=header.sform_code,
        qform_code=header.qform_code,
        qform=header.qform,
        unit=header.unit,
    )


def read_mask(path: str | Path) -> tuple[NDArray[np.bool_], VolumeHeader]:
    """Read a 3-D mask: voxels that are neither 0 nor NaN.

    Raises
    ------
    UnusableInputError
        When it is 4-D, or empty.
    """
    header = read_volume_header(path)
    if (header.n_volumes or 1) != 1:
        raise UnusableInputError(f"{path}: a mask is one volume, this has {header.n_volumes}")
    with reading(path):
        flat = next(_raw_volumes(header))
        if (header.slope, header.inter) != (1.0, 0.0):
            flat = flat.astype(np.float64) * header.slope + header.inter
    mask = ((flat != 0) & np.isfinite(flat)).reshape(header.shape, order="F")
    if not mask.any():
        raise UnusableInputError(f"{path}: the mask is empty")
    return np.ascontiguousarray(mask), header


def _raw_volumes(header: VolumeHeader) -> Iterator[NDArray[Any]]:
    """Yield each volume as stored, flat and in file order; the array is overwritten by the next."""
    buffer = bytearray(prod(header.shape) * header.dtype.itemsize)
    with open(header.path, "rb") as file:
        stream: IO[bytes] = gzip.GzipFile(fileobj=file) if header.path.name.endswith(".gz") else file  # type: ignore[assignment]
        _skip(stream, header.offset)
        for volume in range(header.n_volumes or 1):
            if _fill(stream, buffer) < len(buffer):
                raise UnusableInputError(f"{header.path}: truncated in volume {volume + 1} of {header.n_volumes or 1}")
            yield np.frombuffer(buffer, dtype=header.dtype)
        stream.read(1 << 16)  # reaching the end makes gzip check its checksum


def _skip(stream: IO[bytes], n_bytes: int) -> None:
    while n_bytes > 0:
        skipped = len(stream.read(min(n_bytes, 1 << 20)))
        if not skipped:
            break
        n_bytes -= skipped


def _fill(stream: Any, buffer: bytearray) -> int:
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        count = stream.readinto(view[filled:])
        if not count:
            break
        filled += count
    return filled


def read_volumes(header: VolumeHeader, space: VolumeSpace, room: Room) -> NDArray[np.float32]:
    """Read the voxels of the mask, volume by volume, into what ``room`` gives for (n_volumes, V).

    Returns
    -------
    ndarray of float32, shape (n_volumes, V), C order
        NaN and Inf are kept.

    Raises
    ------
    UnusableInputError
        When the grid is another, or the file is truncated or corrupt.
    """
    here = volume_space(header, np.ones((1, 1, 1), dtype=bool), space.label, None, None)
    if not here.same_grid(space):
        grids = f"shape {header.shape} against {space.shape}, or another affine"
        raise UnusableInputError(f"{header.path}: its grid is not that of {space.source or 'the mask'} ({grids})")
    values = room_for(header.path, (header.n_volumes or 1, space.n_units), room)
    with np.errstate(over="ignore", invalid="ignore"):
        for row, volume in zip(values, iter_volumes(header, space), strict=True):
            row[:] = volume
    return values


def iter_volumes(header: VolumeHeader, space: VolumeSpace) -> Iterator[NDArray[Any]]:
    """Yield the voxels of the mask of each volume, scaled, in turn; one volume is in memory at a time. The grid is not compared.

    Raises
    ------
    UnusableInputError
        When the file is truncated or corrupt.
    """
    scaled = (header.slope, header.inter) != (1.0, 0.0)
    with reading(header.path):
        for raw in _raw_volumes(header):
            kept = raw[space.disk_index]
            yield kept.astype(np.float64) * header.slope + header.inter if scaled else kept


def write_volumes(
    values: NDArray[Any], space: VolumeSpace, path: str | Path, names: Sequence[str] | None, dtype: np.dtype[Any], n_threads: int
) -> None:
    """Stream maps ``(V,)`` or ``(K, V)`` into a (gzipped) NIfTI file, volume by volume; atomic.

    Voxels outside of the mask are NaN in float maps, 0 in others.
    """
    rows = values[np.newaxis] if values.ndim == 1 else values
    header = _output_header(values, space, names, dtype)

    def blocks() -> Iterator[bytes]:
        volume = np.full(prod(space.shape), np.nan if dtype.kind == "f" else 0, dtype=dtype)
        for row in rows:
            volume[space.disk_index] = row
            yield volume.tobytes()

    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as stream:
        if Path(path).name.endswith(".gz"):
            _write_gzip(stream, header, blocks(), n_threads)
        else:
            stream.write(header)
            for block in blocks():
                stream.write(block)


def _output_header(values: NDArray[Any], space: VolumeSpace, names: Sequence[str] | None, dtype: np.dtype[Any]) -> bytes:
    shape = space.shape if values.ndim == 1 else (*space.shape, len(values))
    header: Any = nib.Nifti1Header() if max(shape) < 2**15 else nib.Nifti2Header()  # dimensions are 16-bit in NIfTI-1
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_zooms((*space.zooms, 1.0)[: len(shape)])
    if space.qform_code:
        header.set_qform(space.qform, space.qform_code)
    if space.sform_code:
        header.set_sform(space.affine, space.sform_code)
    header.set_xyzt_units(space.unit, "unknown")  # the fourth dimension is trials, no time
    header.set_slope_inter(1, 0)
    if dtype.kind == "f":
        header.set_intent("estimate", name=names[0].encode("ascii", "replace").decode()[:15] if names and len(names) == 1 else "")
    stream = io.BytesIO()
    header.write_to(stream)
    return stream.getvalue()


def _write_gzip(stream: IO[bytes], header: bytes, blocks: Iterator[bytes], n_threads: int) -> None:
    """Write one gzip member; blocks are deflated side by side, and the bytes do not depend on the number of threads."""
    checksum, size = zlib.crc32(header), len(header)
    stream.write(_GZIP_HEADER + _deflate(header))
    pending: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, n_threads)) as pool:
        for block in blocks:
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            pending.append(pool.submit(_deflate, block))
            if len(pending) > n_threads + 1:
                stream.write(pending.popleft().result())
        for future in pending:
            stream.write(future.result())
    stream.write(b"\x03\x00" + struct.pack("<II", checksum, size & 0xFFFFFFFF))  # an empty last block, and the trailer


def _deflate(block: bytes) -> bytes:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
