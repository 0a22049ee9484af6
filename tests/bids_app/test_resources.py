"""Memory, processors and the device, on made-up machines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_app import resources
from bids_app.resources import available_cpus, available_memory_gb, parse_memory, resolve_device
from conform_bids.errors import UsageError

GIB = 2**30


def machine(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 99999999 kB\nMemAvailable: 16000000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [
        ("8G", 8),
        ("8GB", 8),
        ("8 gb", 8),
        ("500", 0.5),
        ("500M", 0.5),
        ("1.5T", 1500),
        ("2GiB", 2 * GIB / 1e9),
        ("64k", 6.4e-5),
        ("1000000B", 1e-3),
    ],
)
def test_amounts_of_memory(text: str, gigabytes: float) -> None:
    assert parse_memory(text) == pytest.approx(gigabytes)


def test_a_bare_number_takes_the_default_unit() -> None:
    assert parse_memory("8", default_unit="G") == 8


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "1e3", "nan", "inf", "8GG", "8 X", "8G 4M", "٣G" + "x", "9" * 400])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError):
        parse_memory(text)


@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_memory(text) > 0


def test_without_limits_the_machine_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"})
    assert available_memory_gb(root) == pytest.approx(16000000 * 1024 / 1e9)


def test_version_2_limits_count_at_every_level(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
        "sys/fs/cgroup/slurm/memory.max": "max",
        "sys/fs/cgroup/slurm/job_1/memory.max": "4000000000",
        "sys/fs/cgroup/slurm/job_1/memory.current": "1500000000",
        "sys/fs/cgroup/slurm/job_1/memory.stat": "anon 500000000\nfile 1000000000\nshmem 200000000\n",
        "sys/fs/cgroup/slurm/job_1/step_0/memory.max": "9000000000",
    }
    # of the 1.5 GB in use, 0.8 GB of page cache can be had back
    assert available_memory_gb(machine(tmp_path, files)) == pytest.approx(3.3)


def test_version_1_limits_count_within_a_container(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "700000000",
        "sys/fs/cgroup/memory/memory.stat": "cache 1\ntotal_cache 200000000\ntotal_shmem 0\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    root = machine(tmp_path, files)
    assert available_memory_gb(root) == pytest.approx(1.5)
    assert available_cpus(root) == 1


def test_no_limit_in_version_1_is_a_huge_number(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "5:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert available_memory_gb(machine(tmp_path, files)) > 16


def test_an_overdrawn_limit_leaves_nothing_rather_than_less(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.current": "2000"}
    assert available_memory_gb(machine(tmp_path, files)) == 0


@pytest.mark.parametrize("cgroup", ["", "garbage", "0::/\n", "::::\n0::/../../x\n"])
def test_strange_files_are_no_reason_to_fail(tmp_path: Path, cgroup: str) -> None:
    files = {"proc/self/cgroup": cgroup, "proc/meminfo": "MemAvailable: what\n", "sys/fs/cgroup/cpu.max": "oops"}
    root = machine(tmp_path, files)
    assert available_memory_gb(root) == 4.0
    assert available_cpus(root) >= 1


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 1), ("max 100000", None), ("100000 100000", 1)])
def test_processor_quota(tmp_path: Path, quota: str, expected: int | None) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/cpu.max": quota})
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert available_cpus(root) == (expected or affinity)


def test_this_machine() -> None:
    assert 0 < available_memory_gb() < 1e5
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_has_nvidia_device", lambda: True)
    monkeypatch.setattr(resources, "_cuda_device_count", lambda: 2)
    assert [resolve_device(name) for name in ("cpu", "auto", "cuda", "cuda:1", " CUDA:0 ")] == ["cpu", "cuda", "cuda", "cuda:1", "cuda:0"]
    assert resolve_device("auto", no_gpu=True) == "cpu"
    with pytest.raises(UsageError, match="finds 2 CUDA devices here"):
        resolve_device("cuda:2")
    for wrong in ("gpu", "cuda:", "cuda:-1", "cuda:2", "mps", ""):
        with pytest.raises(UsageError, match="--device"):
            resolve_device(wrong)
    with pytest.raises(UsageError, match="--no-gpu"):
        resolve_device("cuda", no_gpu=True)
    monkeypatch.setattr(resources, "_cuda_device_count", lambda: 0)
    assert resolve_device("auto") == "cpu"
    for built, told in ((None, "installed without CUDA"), ("13.0", "no CUDA device here.*--gpus all")):
        monkeypatch.setattr(torch.version, "cuda", built)
        with pytest.raises(UsageError, match=told):
            resolve_device("cuda")


def test_auto_without_a_driver_imports_no_torch() -> None:
    code = "\n".join(
        (
            "import sys",
            "from bids_app import resources",
            "resources._has_nvidia_device = lambda: False",
            "resources.resolve_device('auto'), resources.available_memory_gb()",
            "sys.exit(any(name in sys.modules for name in ('torch', 'nipype', 'numpy')))",
        )
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
