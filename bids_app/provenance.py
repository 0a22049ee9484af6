"""Where results come from: versions, machine, container, device, seed, command line.

The log of a run (``provenance.json``) holds all of it; what reports show holds no path of the machine.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_app.app import App
from bids_app.config import RunConfig
from bids_app.resources import available_cpus
from conform_bids.jobs import Resources

__all__ = ["about", "collect", "device_name", "package_versions", "write_provenance"]

PACKAGES = ("numpy", "scipy", "torch", "nipype", "nibabel", "nilearn", "pybids", "pandas", "scikit-learn", "matplotlib")


def package_versions() -> dict[str, str]:
    """Versions of the main packages, read from their metadata without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def collect(app: App, config: RunConfig, resources: Resources) -> dict[str, Any]:
    """List all that may bear on a run's results or its failure; for the log, as it holds paths and names of the machine."""
    from conform_bids.bids.derivatives import container_record

    return {
        "app": app.command,
        "version": app.version,
        "run": config.run_id,
        "command_line": list(config.command_line),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": platform.node(),
        "packages": package_versions(),
        "container": container_record(),
        "device": resources.device,
        "device_name": device_name(resources.device),
        "cpus": os.cpu_count(),
        "nprocs": config.execution.nprocs or available_cpus(),
        "threads": resources.n_threads,
        "memory_gb": round(resources.memory_gb, 2),
        "random_seed": resources.random_seed,
        "sloppy": resources.sloppy,
    }


def about(record: Mapping[str, Any]) -> dict[str, str]:
    """What reports show of `collect`'s record."""
    facts = {
        str(record["app"]): str(record["version"]),
        "Run": str(record["run"]),
        "Python": str(record["python"]),
        **{name: str(number) for name, number in record["packages"].items()},
        "Platform": f"{platform.system()} {record['machine']}",
        "Device": str(record["device_name"]),
        "Threads": str(record["threads"]),
        "Random seed": str(record["random_seed"]),
    }
    if record["container"]:
        facts["Container"] = " ".join(str(value) for value in record["container"].values())
    if record["sloppy"]:
        facts["Sloppy"] = "yes: fast, inaccurate settings; not for use"
    return facts


def device_name(device: str) -> str:
    """Name of the GPU, or of the processor."""
    if device.startswith("cuda"):
        try:
            import torch

            return str(torch.cuda.get_device_name(device))
        except (ImportError, RuntimeError, AssertionError):
            return device
    return _processor()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_provenance(record: Mapping[str, Any], path: Path) -> None:
    """Write the record beside the run's configuration."""
    from conform_bids.bids.derivatives import write_json

    write_json(dict(record), path)
