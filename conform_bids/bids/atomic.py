"""Writes that leave no half file under a final name, and a lock that jobs on several machines share.

The module is light; other modules take these names from `conform_bids.bids.derivatives`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conform_bids.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["atomic_path", "lock_file", "remove_left_behind", "write_json", "write_text", "write_tsv"]

TEMPORARY_PREFIX = ".conform-"
LOCK_NAME = ".conform.lock"
LOCK_TIMEOUT_S = 120.0
STALE_LOCK_S = 600.0
LEFT_BEHIND_S = 3600.0
"""Age at which a temporary file of a process that cannot be asked (on another machine, in another container) counts as left behind."""
_HOLDER = "holder"
_POLL_S = 0.05
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the place of ``path``, on any failure it is removed.

    The temporary name starts with a dot and keeps the extension, as image writers go by it. The content is on the disk
    (fsync) before the rename, so that a power cut leaves the old file or the new one. Missing folders are made.

    Parameters
    ----------
    path : path-like
        Final name. A symbolic link there (an annexed file, say) is replaced, not followed.

    Raises
    ------
    OSError
        As the file system gave it (a full disk: ENOSPC); FileNotFoundError when the block wrote nothing.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    extension = "".join(final.name.lstrip(".").partition(".")[1:])
    temporary = final.with_name(_temporary_name(extension))
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, final)
    except BaseException as error:  # an interrupt must not leave it behind either
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(final)  # a full disk at a write does not say which file
        raise
    with contextlib.suppress(OSError):  # some network file systems refuse it on folders
        _flush(final.parent)


def _temporary_name(extension: str = "") -> str:
    """A name of its own that says whose it is, for `remove_left_behind`."""
    return f"{TEMPORARY_PREFIX}{_machine()}-{os.getpid()}-{secrets.token_hex(6)}{extension}"


def remove_left_behind(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Remove temporary files, and folders of locks, that processes left behind which were killed meanwhile; those of living ones stay.

    Parameters
    ----------
    paths : iterable of path-like
        Files, and folders with all that is below them but for what symbolic links lead to.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed = []
    for given in map(Path, paths):
        below = (Path(place, name) for place, folders, names in os.walk(given) for name in (*folders, *names))
        for path in itertools.chain((given,), below):
            if path.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(OSError):  # another run may be tidying up too, or it may not be ours to remove
                    if _is_left_behind(path):
                        _remove_one(path)
                        removed.append(path)
    return removed


def _remove_one(path: Path) -> None:
    """Remove a file, or the folder of a lock, which holds nothing but the name of its holder."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    (path / _HOLDER).unlink(missing_ok=True)
    path.rmdir()


def _is_left_behind(path: Path) -> bool:
    machine, _, rest = path.name.removeprefix(TEMPORARY_PREFIX).partition("-")
    process = rest.partition("-")[0]
    if machine == _machine() and process.isdecimal():
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:  # of another user, so it is there
            return False
        return False
    return time.time() - path.lstat().st_mtime > LEFT_BEHIND_S


@functools.cache
def _machine() -> str:
    """What tells apart where numbers of processes mean the same: a machine, from one start to the next, and a container on it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a JSON object atomically; NumPy values become plain ones and paths become POSIX strings.

    Raises
    ------
    ValueError
        For NaN or an infinity, which JSON has not.
    TypeError
        For a value that JSON cannot hold.
    """
    write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n", path)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_tsv(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table as BIDS has it (tabs, one header line, ``n/a`` for what is missing, no index), atomically."""
    write_text(table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"), path)


@contextlib.contextmanager
def lock_file(folder: str | os.PathLike[str], *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock of ``folder`` (made when absent) against every other process, on this machine or another.

    ``flock`` where the file system has it; elsewhere (NFS without a lock daemon, some FUSE) a folder made beside, which is
    atomic everywhere and counts as left behind after ten minutes. Not re-entrant.

    Parameters
    ----------
    timeout_s : float
        Seconds to wait for another holder.

    Raises
    ------
    UsageError
        When the folder cannot be written to, or the lock was not to be had in time; the message says what to do.
    """
    root = Path(folder)
    deadline = time.monotonic() + timeout_s
    try:
        root.mkdir(parents=True, exist_ok=True)
        release = _acquire(root, deadline)
    except OSError as error:
        raise UsageError(f"{root}: cannot be written to ({error.strerror or error})") from error
    try:
        yield
    finally:
        release()


def _acquire(root: Path, deadline: float) -> Any:
    path = root / LOCK_NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _BUSY:  # no locks here at all
                path.unlink(missing_ok=True)
                return _acquire_folder(root, deadline)
            _wait(path, deadline)
            continue
        if _is_same_file(path, descriptor):
            return lambda: _release(path, descriptor)
        os.close(descriptor)  # the former holder removed it between our open and our lock


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()  # before the unlock: who waits on this file sees that it is gone, and opens the next one
    os.close(descriptor)


def _acquire_folder(root: Path, deadline: float) -> Any:
    path = root / f"{LOCK_NAME}.d"
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_LOCK_S:
                    _remove_folder(path)
                    continue
            _wait(path, deadline)
            continue
        with contextlib.suppress(OSError):
            (path / _HOLDER).write_text(f"{socket.gethostname()} {os.getpid()}\n", encoding="utf-8")
        return lambda: _remove_folder(path)


def _remove_folder(path: Path) -> None:
    # renamed first, so that of two processes that find it stale only one removes it; the next run removes what a kill leaves here
    aside = path.with_name(_temporary_name())
    with contextlib.suppress(OSError):
        path.rename(aside)
        _remove_one(aside)


def _wait(path: Path, deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise UsageError(
            f"{path}: another run has held this lock for too long; wait for it to end, or, if none is running, remove {path.name}"
        )
    time.sleep(_POLL_S)
