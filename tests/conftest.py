"""What tests share: reference cases, real and simulated data, and a way to run an app as a user would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from interruptions import Interruption

if TYPE_CHECKING:
    from conform_bids.simulate.dataset import SimulatedDataset

os.environ.update(NO_ET="1", NIPYPE_NO_ET="1", MPLBACKEND="Agg")

# started in the background, a shell has its children ignore SIGINT, and theirs in turn; tests send it
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"

settings.register_profile("local", deadline=None, max_examples=40)
settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return ROOT


@cache
def _load_case(name: str) -> Mapping[str, np.ndarray]:
    with np.load(DATA / "glm" / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    for array in arrays.values():
        array.flags.writeable = False
    return MappingProxyType(arrays)


@pytest.fixture(scope="session")
def reference_case() -> Callable[[str], Mapping[str, np.ndarray]]:
    """Load a case of tests/data/glm by name, as a read-only mapping of read-only arrays (keys: README.md beside them)."""
    return _load_case


@pytest.fixture(scope="session", params=["a_event_related", "c_unequal_runs_extra_regressors", "e_structured_noise"])
def each_reference_case(request: pytest.FixtureRequest) -> Mapping[str, np.ndarray]:
    """Every open case in turn."""
    return _load_case(request.param)


@pytest.fixture(scope="session")
def hrf_library_parameters() -> Path:
    """The reference's table of double-gamma parameters."""
    return DATA / "glm" / "hrf_library.tsv"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets: CONFORM_REAL_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("CONFORM_REAL_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not (folder / "haxby-slice" / "dataset_description.json").is_file():
        pytest.skip(f"no real data: set CONFORM_REAL_DATA to a folder that holds haxby-slice (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def simulated_dataset(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    """A small simulated dataset, the same for all tests, which must not write to it.

    Two participants, two sessions of two runs, 12 stimuli shown twice a run; volumes, grayordinates and surfaces.
    """
    from conform_bids.simulate.dataset import simulate_dataset
    from conform_bids.simulate.settings import SimulationSettings

    settings = SimulationSettings(n_subjects=2, n_sessions=2, n_runs=2, n_stimuli=12, repeats=2, voxel_size=10)
    return simulate_dataset(tmp_path_factory.mktemp("simulated") / "dataset", settings)


@pytest.fixture(scope="session")
def run_app() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m bids_app.<app> ARGUMENTS` in a process of its own, one thread, output captured.

    Keywords: ``env`` adds variables, ``cwd`` is the working folder, ``timeout`` (s) ends it.
    """

    def run(
        app: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"bids_app.{app}", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            cwd=cwd,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def interruption() -> Interruption:
    return Interruption()


@pytest.fixture
def start_session(interruption: Interruption, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in a session of its own; whatever is left of it goes at the end."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    started: list[subprocess.Popen[str]] = []

    def begin(*line: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [str(word) for word in line],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True, cwd=tmp_path,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        interruption.kill(process.pid)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


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
