"""What the machine grants: memory, processors and the computing device.

A container or a batch job often has far less than the machine: the limits of its control groups (versions 1 and 2)
count here, at every level of the hierarchy. A GB is 10^9 bytes.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from conform_bids.errors import UsageError
from conform_bids.memory import available_memory_gb, cgroup_folders, number, read_text
from conform_bids.wording import counted

__all__ = ["available_cpus", "available_memory_gb", "parse_memory", "resolve_device"]

_BYTES_PER_GB = 1e9
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
    for folder in cgroup_folders(root, ""):
        quota, _, period = read_text(folder / "cpu.max").partition(" ")
        bounds += _cpu_quota(quota, period)
    for folder in cgroup_folders(root, "cpu"):
        bounds += _cpu_quota(read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us"))
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
        raise UsageError(f"--device {requested}: {_cuda_found(n_devices)}; use --device cpu")
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


def _cuda_found(n_devices: int) -> str:
    if n_devices:
        return f"PyTorch finds {counted(n_devices, 'CUDA device')} here"
    import torch

    if torch.version.cuda is None:
        return "PyTorch is installed without CUDA here"
    return "PyTorch finds no CUDA device here (a container needs docker run --gpus all, or apptainer run --nv)"


def _cpu_quota(quota: str, period: str) -> list[float]:
    allowed, each = number(quota), number(period)
    return [allowed / each] if allowed is not None and each and allowed > 0 else []
