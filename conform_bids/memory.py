"""Memory that a process may take: the least of what the machine and the control groups (versions 1 and 2) of the process leave.

Control groups count at every level of the hierarchy. A GB is 10^9 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MAX_DEFLATE_RATIO", "available_memory_gb", "cgroup_folders", "number", "read_text"]

MAX_DEFLATE_RATIO = 1032
"""Bytes that one byte of a deflated stream (gzip, zip, HDF5) can stand for at most (zlib's technical notes)."""

_BYTES_PER_GB = 1e9
_UNLIMITED = 1 << 60  # control groups (version 1) write a number near 2^63 for no limit
_FALLBACK_GB = 4.0


def available_memory_gb(root: Path = Path("/")) -> float:
    """Memory that this process may still take, in GB: the least of what the machine and its control groups leave.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are.
    """
    bounds = [left for left in (_meminfo_available(root), *_cgroup_memory_left(root)) if left is not None]
    return max(min(bounds, default=_FALLBACK_GB * _BYTES_PER_GB), 0.0) / _BYTES_PER_GB


def read_text(path: Path) -> str:
    """Content of a small file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def number(text: str) -> float | None:
    """The number that a text is; None for other text."""
    try:
        return float(text)
    except ValueError:
        return None


def _meminfo_available(root: Path) -> float | None:
    for line in read_text(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            kibibytes = number(value.replace("kB", ""))
            return None if kibibytes is None else kibibytes * 1024
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if root == Path("/") else None
    except (ValueError, OSError):
        return None


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of those above it; ``controller`` is empty for version 2."""
    base = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        mounts = [base] if not controller else [base / controllers, base / controller]
        mount = next((candidate for candidate in mounts if candidate.is_dir()), None)
        if mount is None:
            continue
        # within a container the path may be that of the host, which is not there: its parts above still count
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def _cgroup_memory_left(root: Path) -> Iterator[float]:
    files = {"": ("memory.max", "memory.current", "file"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")}
    for controller, (limit_file, usage_file, cache_key) in files.items():
        for folder in cgroup_folders(root, controller):
            limit = number(read_text(folder / limit_file))
            if limit is None or limit >= _UNLIMITED:
                continue
            usage = number(read_text(folder / usage_file)) or 0.0
            yield limit - max(usage - _reclaimable(folder, cache_key), 0.0)


def _reclaimable(folder: Path, cache_key: str) -> float:
    """Bytes of the page cache, which the kernel gives back when memory is short (shared memory is counted in it, but stays)."""
    entries = dict(line.split(maxsplit=1) for line in read_text(folder / "memory.stat").splitlines() if " " in line)
    shared = number(entries.get("total_shmem" if cache_key == "total_cache" else "shmem", "")) or 0.0
    return max((number(entries.get(cache_key, "")) or 0.0) - shared, 0.0)
