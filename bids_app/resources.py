"""What the machine grants: memory, processors and the computing device.

A container or a batch job often has far less than the machine: the limits of its control groups (versions 1 and 2)
count here, at every level of the hierarchy. A GB is 10^9 bytes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from conform_bids.errors import UsageError

__all__ = ["available_cpus", "available_memory_gb", "parse_memory", "resolve_device"]

_BYTES_PER_GB = 1e9
_UNLIMITED = 1 << 60  # control groups (version 1) write a number near 2^63 for no limit
_FALLBACK_GB = 4.0
_UNITS = {"B": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY_UNITS = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?:(?P<unit>[KMGT])(?P<binary>i)?B?|(?P<bytes>B))?\s*", re.IGNORECASE)
_DEVICE = re.compile(r"auto|cpu|cuda(?::\d+)?")


def parse_memory(text: str, default_unit: str = "M") -> float:
    """Read an amount of memory, as ``8G``, ``500``, ``1.5 TB`` or ``2GiB``.

    Parameters
    ----------
    text : str
        Number with an optional unit: B, K, M, G or T (powers of 1000), KiB, MiB, GiB or TiB (powers of 1024).
    default_unit : str
        Unit of a bare number: B, K, M, G or T.

    Returns
    -------
    float
        GB, above zero.

    Raises
    ------
    UsageError
        When it is not an amount of memory, or none at all.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not an amount of memory: give a number and a unit, as 8G or 500M")
    unit = (match["unit"] or match["bytes"] or default_unit).upper()
    factor = _BINARY_UNITS[unit] if match["binary"] else _UNITS[unit]
    gigabytes = float(match["number"]) * factor / _BYTES_PER_GB
    if not 0 < gigabytes < math.inf:
        raise UsageError(f"{text!r}: the memory must be more than nothing")
    return gigabytes


def available_memory_gb(root: Path = Path("/")) -> float:
    """Memory that this process may still take, in GB: the least of what the machine and its control groups leave.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are.
    """
    bounds = [left for left in (_meminfo_available(root), *_cgroup_memory_left(root)) if left is not None]
    return max(min(bounds, default=_FALLBACK_GB * _BYTES_PER_GB), 0.0) / _BYTES_PER_GB


def available_cpus(root: Path = Path("/")) -> int:
    """Processors that this process may use: its affinity, and the quota of its control groups; at least one.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are.
    """
    try:
        bounds = [float(len(os.sched_getaffinity(0)))]
    except AttributeError:  # macOS
        bounds = [float(os.cpu_count() or 1)]
    for folder in _cgroup_folders(root, ""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        bounds += _cpu_quota(quota, period)
    for folder in _cgroup_folders(root, "cpu"):
        bounds += _cpu_quota(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
    return max(1, math.floor(min(bounds) + 1e-9))


def resolve_device(requested: str, no_gpu: bool = False) -> str:
    """Choose where the arrays live.

    Parameters
    ----------
    requested : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    no_gpu : bool
        Use the CPU whatever there is.

    Returns
    -------
    str
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    UsageError
        For an unknown device, for CUDA that is asked for but absent, or forbidden at the same time.
    """
    device = requested.strip().lower()
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"--device: {requested!r} is not one of auto, cpu, cuda, cuda:N")
    if no_gpu and device.startswith("cuda"):
        raise UsageError(f"--device {requested} and --no-gpu contradict each other")
    if no_gpu or device == "cpu" or (device == "auto" and not _has_nvidia_device()):
        return "cpu"
    n_devices = _cuda_device_count()
    if device == "auto":
        return "cuda" if n_devices else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= n_devices:
        raise UsageError(
            f"--device {requested}: PyTorch finds {n_devices or 'no'} CUDA device{'s' if n_devices > 1 else ''} here; use --device cpu"
        )
    return device


def _has_nvidia_device() -> bool:
    # importing torch takes seconds: look for the driver's files first (WSL has /dev/dxg)
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"))


def _cuda_device_count() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _meminfo_available(root: Path) -> float | None:
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            kibibytes = _number(value.replace("kB", ""))
            return None if kibibytes is None else kibibytes * 1024
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if root == Path("/") else None
    except (ValueError, OSError):
        return None


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of those above it; ``controller`` is empty for version 2."""
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
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
        for folder in _cgroup_folders(root, controller):
            limit = _number(_read(folder / limit_file))
            if limit is None or limit >= _UNLIMITED:
                continue
            usage = _number(_read(folder / usage_file)) or 0.0
            yield limit - max(usage - _reclaimable(folder, cache_key), 0.0)


def _reclaimable(folder: Path, cache_key: str) -> float:
    """Bytes of the page cache, which the kernel gives back when memory is short (shared memory is counted in it, but stays)."""
    entries = dict(line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    shared = _number(entries.get("total_shmem" if cache_key == "total_cache" else "shmem", "")) or 0.0
    return max((_number(entries.get(cache_key, "")) or 0.0) - shared, 0.0)


def _cpu_quota(quota: str, period: str) -> list[float]:
    allowed, each = _number(quota), _number(period)
    return [allowed / each] if allowed is not None and each and allowed > 0 else []
