"""Signals, power cuts and full disks: nothing half written, the exit status says so, and a second run completes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

DENOISED = "sub-01/func/sub-01_task-shapes_space-T1w_stat-effect_desc-psn_statmap.nii.gz"
FLAGS = ("participant", "--skip-bids-validation", "--method", "wiener", "--nprocs", "1")


def check_whole(out: Path) -> None:
    """No file under a final name is half written."""
    for path in (path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.name.endswith(".nii.gz"):
            with gzip.open(path) as stream:
                image = nib.Nifti1Image.from_bytes(stream.read())
            assert np.asarray(image.dataobj).shape == image.shape
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                assert file.attrs
        elif path.suffix == ".tsv":
            assert path.read_text().endswith("\n"), path
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path


def temporaries(out: Path) -> list[Path]:
    return list(out.rglob(".conform-*")) + list(out.rglob(".conform.lock*"))


def members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_betas: Any, beta_spec: Any) -> Path:
    return make_betas(tmp_path_factory.mktemp("interrupted") / "glm", beta_spec(test=(3, 4)))[0]


@pytest.fixture(scope="module")
def reference(dataset: Path, run_psn: Any, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Denoised responses of an undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    assert run_psn(dataset, folder / "out", *FLAGS, "-w", folder / "work").status == 0
    return denoised(folder / "out")


def denoised(out: Path) -> np.ndarray:
    return np.asarray(nib.load(out / DENOISED).dataobj)


@pytest.fixture
def start(dataset: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a run in a session of its own; whatever is left of it goes at the end."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "bids_app.psn", str(dataset), str(tmp_path / "out"), *FLAGS, "-w", str(tmp_path / "work")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True, cwd=tmp_path
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status", "stage"), [(signal.SIGTERM, 143, "work/**/fit"), (signal.SIGKILL, -9, "out/sub-01/func/*")])
def test_an_end_from_outside_leaves_nothing_half(
    number: int, status: int, stage: str, start: Any, dataset: Path, tmp_path: Path, run_psn: Any, reference: np.ndarray
) -> None:
    process = start()
    wait_for(stage, tmp_path, process)
    if number == signal.SIGKILL:  # a power cut: all processes at once
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    shown, _ = process.communicate(timeout=30)
    assert process.returncode == status, shown
    assert "Traceback" not in shown
    for pid in members(process.pid) if number == signal.SIGKILL else []:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while members(process.pid):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.1)
    assert number == signal.SIGKILL or not temporaries(tmp_path / "out")
    check_whole(tmp_path / "out")
    again = run_psn(dataset, tmp_path / "out", *FLAGS, "-w", tmp_path / "work")
    assert again.status == 0, again.stdout + again.stderr
    check_whole(tmp_path / "out")
    np.testing.assert_array_equal(denoised(tmp_path / "out"), reference)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Mount a small file system under a name; a second call for the name changes its size."""
    mounted: list[Path] = []

    def mount(name: str, size: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        options = f"remount,size={size}" if folder in mounted else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        if folder not in mounted:
            mounted.append(folder)
        return folder

    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.parametrize(("name", "size"), [("out", "100k"), ("work", "64k"), ("work", "300k")])
def test_a_full_disk_is_named_and_a_second_run_completes(
    name: str, size: str, small_disk: Any, dataset: Path, tmp_path: Path, run_app: Any, run_psn: Any, reference: np.ndarray
) -> None:
    """The work folder fills while betas are turned into rows of units, or while results are stored."""
    folder = small_disk(name, size)
    done = run_app("psn", dataset, tmp_path / "out", *FLAGS, "-w", tmp_path / "work")
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    assert "o space left on device" in text
    assert str(folder) in text
    assert "Traceback" not in text
    check_whole(tmp_path / "out")
    assert not temporaries(tmp_path / "out")
    small_disk(name, "200m")
    again = run_psn(dataset, tmp_path / "out", *FLAGS, "-w", tmp_path / "work")
    assert again.status == 0, again.stdout + again.stderr
    np.testing.assert_array_equal(denoised(tmp_path / "out"), reference)
