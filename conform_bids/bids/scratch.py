"""Arrays on disk that are filled piece by piece, and room for them: a full disk is an error, never the end of the process.

A page of a memory map that the disk has no room for ends the process by SIGBUS, and a HDF5 file that cannot be flushed may crash it;
both tell nobody which disk is full. So room is taken, or asked for, before anything is written.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["map_array", "require_room", "reserve_room"]

_MARGIN = 1 << 20


def map_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float32]]:
    """A new .npy file of float32 as a writable memory map, zeros, its blocks on the disk already.

    Raises
    ------
    OSError
        ENOSPC, naming the file, when the disk has no room for it; the file is removed.
    """
    require_room(path, 4 * int(np.prod(shape)), margin=0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    try:
        _take_blocks(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _full(path) from error
    return array


def _take_blocks(path: Path) -> None:
    """Have the file system set blocks aside, where it can."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise


def require_room(path: Path, n_bytes: int, margin: int = _MARGIN) -> None:
    """Refuse to write what the disk has no room for.

    Parameters
    ----------
    path : Path
        Of the file.
    n_bytes : int
        That will be written.
    margin : int
        Bytes that must be left.

    Raises
    ------
    OSError
        ENOSPC, naming the file.
    """
    if shutil.disk_usage(path.parent).free < n_bytes + margin:
        raise _full(path)


def reserve_room(path: Path, n_bytes: int) -> None:
    """Have the file system set room aside for a file that is there, where it can; what is not used of it is cut off by the caller.

    HDF5 does not survive a disk that fills up while it writes (the process ends by a segmentation fault), so it has to know before.

    Raises
    ------
    OSError
        ENOSPC, naming the file.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _full(path) from error


def _full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
