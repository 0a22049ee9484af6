"""HDF5, npz and parquet files of others: what a file declares is looked at before anything of it is read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from conform_bids.memory import MAX_DEFLATE_RATIO, available_memory_gb

__all__ = ["check_array", "check_file", "check_npz", "check_parquet"]

_MARGIN = 1024


def check_file(file: Any) -> None:
    """Look at every group and array of an open file that is about to be read whole.

    Parameters
    ----------
    file : h5py.File

    Raises
    ------
    ValueError
        As `check_array`; or when arrays together declare more than the memory that there is.
    """
    import h5py

    declared, groups, seen = 0, [file], set()
    while groups:
        group = groups.pop()
        for name in group:
            item = _item(group, name)
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:  # a second name of what was looked at; a group may be its own member
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            else:
                check_array(group, name)
                declared += item.size * item.dtype.itemsize
    if declared > available_memory_gb() * 1e9:
        raise ValueError(f"its arrays declare {declared:,} bytes, more than the memory that there is")


def check_array(group: Any, name: str, *, largest: int | None = None) -> Any:
    """An array of a group, once it is clear that it lies in this file, holds plain values, and is no larger than the file can hold.

    Parameters
    ----------
    group : h5py.Group
    name : str
    largest : int, optional
        Bytes that are read at most (default: what memory there is).

    Returns
    -------
    h5py.Dataset

    Raises
    ------
    ValueError
        Saying which of these is not so.
    """
    import h5py

    dataset = _item(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name} is a link or a group")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"the values of {name} are in another file")
    if dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is None:
        raise ValueError(f"{name} holds objects ({dataset.dtype}), not numbers or text")
    if dataset.size and dataset.id.get_storage_size() == 0:
        raise ValueError(f"{name} was declared and never written")
    _check_size(name, dataset.size * dataset.dtype.itemsize, os.stat(Path(group.file.filename)).st_size, largest)
    return dataset


def check_npz(path: str | os.PathLike[str]) -> None:
    """Look at every array of an npz file that is about to be read.

    Raises
    ------
    ValueError
        When one holds pickled objects, or they declare more than the file can hold, or than the memory that there is.
    OSError, zipfile.BadZipFile
        When it is no archive.
    """
    size = os.stat(path).st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_size("it", sum(member.file_size for member in members), size)
        for member in members:
            _check_header(archive, member)


def check_parquet(path: str | os.PathLike[str]) -> None:
    """Look at what a parquet file declares, which is about to be read whole.

    Raises
    ------
    ValueError
        When it declares more than the memory that there is: a column of one value takes no room in the file, whatever its length.
    OSError, pyarrow.ArrowException
        When it is no parquet file.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        found = file.metadata
        stored = sum(found.row_group(k).total_byte_size for k in range(found.num_row_groups))
        declared = max(stored, found.num_rows * found.num_columns)  # a byte a value at least
    if declared > available_memory_gb() * 1e9:
        raise ValueError(f"it declares {declared:,} bytes, more than the memory that there is")


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Hold the shape that an array declares against the bytes that it has."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds pickled objects, which are never loaded; save plain arrays of numbers and text")
    declared = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if declared > member.file_size:
        raise ValueError(f"{member.filename} declares {declared:,} bytes and has {member.file_size:,}")


def _check_size(name: str, declared: int, stored: int, largest: int | None = None) -> None:
    limit = available_memory_gb() * 1e9 if largest is None else largest
    if declared > min(limit, MAX_DEFLATE_RATIO * stored + _MARGIN):
        raise ValueError(f"{name} declares {declared:,} bytes, more than the file can hold, or than conform may take")


def _item(group: Any, name: str) -> Any:
    """What bears a name in a group, where it is no link that may lead out of the file."""
    import h5py

    link = group.get(name, getlink=True)
    if link is None:
        raise ValueError(f"it has no {name}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link or a group")
    return group[name]
