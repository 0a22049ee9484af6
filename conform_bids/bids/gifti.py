"""GIFTI functional files, one array at a time.

The reader is ours, as nibabel's keeps a whole file in memory twice, follows references to other files, and trusts declared
sizes. The writer streams: a run's worth of trials as XML text would not fit either.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.derivatives import atomic_path
from conform_bids.bids.volumes import check_size, reading
from conform_bids.errors import UnusableInputError

__all__ = ["GiftiHeader", "read_arrays", "read_gifti_header", "write_arrays"]

_DTYPES = {
    "NIFTI_TYPE_UINT8": "u1",
    "NIFTI_TYPE_INT8": "i1",
    "NIFTI_TYPE_INT16": "i2",
    "NIFTI_TYPE_UINT16": "u2",
    "NIFTI_TYPE_INT32": "i4",
    "NIFTI_TYPE_UINT32": "u4",
    "NIFTI_TYPE_FLOAT32": "f4",
    "NIFTI_TYPE_FLOAT64": "f8",
}
_CHUNK = 1 << 20
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class GiftiHeader:
    """Number of maps and of vertices, as the head of the file declares them.

    Attributes
    ----------
    n_arrays : int
        DataArrays in the file.
    n_maps, n_vertices : int
        Time points or maps (the columns of a single 2-D DataArray count too), and vertices.
    """

    def __init__(self, path: Path, n_arrays: int, shape: tuple[int, ...]) -> None:
        self.path, self.n_arrays, self.n_vertices = path, n_arrays, shape[0]
        self.columns = shape[1] if len(shape) == 2 else 1
        self.n_maps = n_arrays * self.columns


class _Parser:
    """Expat with handlers that gather each DataArray's attributes and text."""

    def __init__(self, path: Path, *, with_data: bool) -> None:
        self.path, self.with_data = path, with_data
        self.root: dict[str, str] | None = None
        self.started: list[dict[str, str]] = []
        self.finished: list[tuple[dict[str, str], bytes]] = []
        self._text: list[str] | None = None
        self.expat = expat.ParserCreate()
        self.expat.buffer_text = True
        self.expat.buffer_size = _CHUNK
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.CharacterDataHandler = self._characters
        self.expat.EntityDeclHandler = self._entity

    def _entity(self, *_: Any) -> None:
        raise UnusableInputError(f"{self.path}: declares XML entities, which no GIFTI file needs")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self.root is None:
            if tag != "GIFTI":
                raise UnusableInputError(f"{self.path}: not a GIFTI file")
            self.root = attributes
        elif tag == "DataArray":
            self.started.append(attributes)
        elif tag == "Data" and self.with_data:
            self._text = []

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, tag: str) -> None:
        if tag == "Data" and self._text is not None:
            self.finished.append((self.started[-1], "".join(self._text).encode("ascii")))
            self._text = None


def read_gifti_header(path: str | Path) -> GiftiHeader:
    """Read the head of a GIFTI file, up to its first DataArray.

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    path = Path(path)
    parser = _Parser(path, with_data=False)
    with reading(path), open(path, "rb") as stream:
        while not parser.started:
            chunk = stream.read(_CHUNK)
            parser.expat.Parse(chunk, not chunk)
            if not chunk:
                break
        if not parser.started or parser.root is None:
            raise UnusableInputError(f"{path}: holds no data arrays")
        declared = parser.root.get("NumberOfDataArrays", "")
        if not declared.isdecimal() or int(declared) < 1:
            raise UnusableInputError(f"{path}: does not say how many data arrays it holds")
        shape, dtype = _array_type(path, parser.started[0])
        if len(shape) == 2 and int(declared) != 1:
            raise UnusableInputError(f"{path}: several 2-D data arrays; one, or 1-D ones, were expected")
        check_size(path, int(declared) * prod(shape) * dtype.itemsize, compressed=True)
    return GiftiHeader(path, int(declared), shape)


def _array_type(path: Path, attributes: dict[str, str]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape = tuple(int(attributes[f"Dim{k}"]) for k in range(int(attributes["Dimensionality"])))
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise UnusableInputError(f"{path}: a data array of shape {shape}, where one value a vertex was expected")
    if attributes["DataType"] not in _DTYPES:
        raise UnusableInputError(f"{path}: data type {attributes['DataType']} is not a number's")
    return shape, np.dtype(_DTYPES[attributes["DataType"]])


def read_arrays(header: GiftiHeader) -> Iterator[NDArray[Any]]:
    """Yield the maps of a file one after the other, each ``(n_vertices,)`` in the type on disk.

    Raises
    ------
    UnusableInputError
        When the file is truncated or corrupt, holds another number of arrays than it declares, or refers to another file.
    """
    parser = _Parser(header.path, with_data=True)
    n_read = 0
    with reading(header.path), open(header.path, "rb") as stream:
        chunk = b" "
        while chunk:
            chunk = stream.read(_CHUNK)
            parser.expat.Parse(chunk, not chunk)
            for attributes, text in parser.finished:
                n_read += 1
                if n_read > header.n_arrays:
                    break
                array = _decode(header, attributes, text)
                yield from array.T if array.ndim == 2 else (array,)
            parser.finished.clear()
        if n_read != header.n_arrays:
            raise UnusableInputError(f"{header.path}: declares {header.n_arrays} data arrays, holds {n_read}")


def _decode(header: GiftiHeader, attributes: dict[str, str], text: bytes) -> NDArray[Any]:
    shape, dtype = _array_type(header.path, attributes)
    if shape[0] != header.n_vertices or shape[1:] != ((header.columns,) if header.columns > 1 else ()):
        raise UnusableInputError(f"{header.path}: data arrays of different sizes ({shape[0]} and {header.n_vertices} vertices)")
    encoding = attributes.get("Encoding", "")
    order = "F" if attributes.get("ArrayIndexingOrder") == "ColumnMajorOrder" else "C"
    if encoding == "ASCII":
        flat = np.array(text.split(), dtype=np.float64)
    elif encoding in ("Base64Binary", "GZipBase64Binary"):
        raw = base64.b64decode(text)
        if encoding == "GZipBase64Binary":
            raw = zlib.decompressobj().decompress(raw, prod(shape) * dtype.itemsize + 1)  # never more than was declared
        flat = np.frombuffer(raw, dtype=dtype.newbyteorder(">" if attributes.get("Endian") == "BigEndian" else "<"))
    else:
        raise UnusableInputError(f"{header.path}: encoding {encoding!r} is not read; data must be in the file itself")
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def write_arrays(maps: NDArray[Any], path: str | Path, names: Sequence[str] | None, dtype: np.dtype[Any], structure: str) -> None:
    """Write maps ``(K, V)`` of one hemisphere as a GIFTI file, a DataArray each; atomic.

    Parameters
    ----------
    structure : str
        ``CortexLeft`` or ``CortexRight``.
    """
    on_disk = {"f": "NIFTI_TYPE_FLOAT32", "b": "NIFTI_TYPE_UINT8"}.get(dtype.kind, "NIFTI_TYPE_INT32")
    on_disk = "NIFTI_TYPE_UINT8" if dtype == np.uint8 else on_disk  # GIFTI knows these three only
    intent = "NIFTI_INTENT_ESTIMATE" if dtype.kind == "f" else "NIFTI_INTENT_NONE"
    with atomic_path(Path(path)) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/frs/download.php/1594/gifti.dtd">\n'
            f'<GIFTI Version="1.0" NumberOfDataArrays="{len(maps)}">\n{_metadata("AnatomicalStructurePrimary", structure)}<LabelTable/>\n'
        )
        for k, row in enumerate(maps):
            data = np.ascontiguousarray(row, dtype="<" + _DTYPES[on_disk]).tobytes()
            stream.write(
                f'<DataArray Intent="{intent}" DataType="{on_disk}" ArrayIndexingOrder="RowMajorOrder" Dimensionality="1" '
                f'Dim0="{len(row)}" Encoding="GZipBase64Binary" Endian="LittleEndian" ExternalFileName="" ExternalFileOffset="">\n'
                f"{_metadata('Name', names[k] if names else f'map-{k:05d}')}"
                f"<Data>{base64.b64encode(zlib.compress(data, 1)).decode('ascii')}</Data>\n</DataArray>\n"
            )
        stream.write("</GIFTI>\n")


def _metadata(name: str, value: str) -> str:
    return f"<MetaData><MD><Name>{name}</Name><Value>{escape(_NOT_XML.sub(' ', value))}</Value></MD></MetaData>\n"
