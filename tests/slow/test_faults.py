"""A drill: apps are killed, run out of disk, cannot write, or are given broken files, again and again; then they are run once more.

After every fault no half file may stand under a final name and the exit status has to be true; the next run has to end with what a run
without a fault writes. Kinds that need a mount are left out, and said so, where one cannot be made.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.stimuli.feature_files import write_features
from conform_bids.stimuli.features import FeatureTable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = 32
SEED = 20261124
APPS = ("glm", "psn", "align", "encode")
STATUS = {
    "SIGKILL": {-signal.SIGKILL},
    "SIGTERM": {143, -signal.SIGTERM},  # the latter before Python has got as far as our own code
    "full disk": {1},
    "read-only output": {1, 2},
    "corrupt input": {65},  # of the one participant that there is
}
KINDS = tuple(STATUS)
READS = {"glm": "*_bold.func.gii", "psn": "*_desc-conform_statmap.func.gii", "align": "*_desc-psn_statmap.func.gii",
         "encode": "*_desc-trialavg_statmap.func.gii"}  # fmt: skip
"""Images that each app cannot do without."""


@dataclass(frozen=True)
class Drill:
    """An app, what it reads, how long it takes, and what it writes when it is left alone."""

    app: str
    data: Path
    options: tuple[str, ...]
    seconds: float
    reference: Path

    def start(self, out: Path, work: Path) -> subprocess.Popen[str]:
        """Begin a run in a session of its own, so that it can be killed with all its workers."""
        command = [sys.executable, "-m", f"bids_app.{self.app}", self.data, out, "participant", "-w", work, *self.options]
        command += ["--skip-bids-validation", "--nprocs", "1", "--output-spaces", "fsaverage5"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ET": "1", "NIPYPE_NO_ET": "1"}
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
        )

    def run(self, out: Path, work: Path) -> tuple[int, str]:
        """A run to its end: exit status and what it said."""
        process = self.start(out, work)
        try:
            text, _ = process.communicate(timeout=900)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, text


@pytest.fixture(scope="module")
def drills(tmp_path_factory: pytest.TempPathFactory) -> list[Drill]:
    """Every app of the chain on a tiny dataset, run once without a fault."""
    from conform_bids.simulate.dataset import simulate_dataset
    from conform_bids.simulate.settings import SimulationSettings

    folder = tmp_path_factory.mktemp("drills")
    settings = SimulationSettings(
        n_subjects=1, n_sessions=1, n_runs=2, n_stimuli=20, repeats=2, file_formats=("gifti",), test_fraction=0.25
    )
    data = simulate_dataset(folder / "dataset", settings).path
    found: list[Drill] = []
    for app in APPS:
        options: tuple[str, ...] = ()
        if app == "encode":
            _write_features(data, folder / "features.npz")
            options = ("--features", str(folder / "features.npz"), "--bootstraps", "10")
        drill = Drill(app, data, options, 0.0, folder / "reference" / app)
        start = time.monotonic()
        code, text = drill.run(drill.reference, folder / "work" / app)
        assert code == 0, text
        found.append(Drill(app, data, options, time.monotonic() - start, drill.reference))
        if app in ("glm", "psn"):  # what the next ones read; a copy, as a drill breaks files of it
            data = folder / "inputs" / app
            shutil.copytree(drill.reference, data)
    return found


def _write_features(derivative: Path, path: Path) -> None:
    names = sorted({str(name) for table in derivative.rglob("*_trials.tsv") for name in pd.read_csv(table, sep="\t")["stim_id"]})
    values = np.random.default_rng(0).standard_normal((len(names), 4))
    write_features(FeatureTable(values, names, ["n/a"] * len(names)), path)


@pytest.fixture(scope="module")
def compare(repository: Path) -> Callable[[Path, Path], list[str]]:
    found: Callable[[Path, Path], list[str]] = runpy.run_path(str(repository / "ci" / "compare_trees.py"))["compare"]
    return found


def _mounted(folder: Path, options: str) -> bool:
    folder.mkdir(parents=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    for _ in range(20):
        if subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.5)
    subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def _half_files(folder: Path) -> Iterator[str]:
    """Files under final names that do not open as what they are."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or "log" in path.parts or "logs" in path.parts:
            continue
        try:
            if path.name.endswith((".nii.gz", ".gii", ".nii")):
                image = nib.load(path)
                _ = [part.data.sum() for part in image.darrays] if hasattr(image, "darrays") else image.get_fdata().sum()
            elif path.suffix == ".h5":
                with h5py.File(path) as file:
                    file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".tsv":
                pd.read_csv(path, sep="\t")
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>")
        except Exception as error:  # whatever a half file makes of its reader
            yield f"{path.relative_to(folder)}: {type(error).__name__}: {error}"


def _interrupt(drill: Drill, kind: str, moment: float, out: Path, work: Path) -> int:
    """Start a run and kill it at a moment; the exit status, 0 where it was done before."""
    process = drill.start(out, work)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        if kind == "SIGKILL":
            os.killpg(process.pid, signal.SIGKILL)  # as a cluster ends a job: with all that it started
        else:
            process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    return process.returncode


def _corrupt(drill: Drill, rng: np.random.Generator) -> tuple[Path, bytes]:
    """Cut a random image that the app reads short; the file, and what it held."""
    images = sorted(path for path in drill.data.rglob(READS[drill.app]) if "stat-effect" in path.name or drill.app == "glm")
    path = images[int(rng.integers(len(images)))]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path, content


def _rounds(rng: np.random.Generator) -> list[tuple[int, str]]:
    """App (by its place) and kind of each round: every pair once, then drawn ones; in a drawn order."""
    pairs = list(itertools.product(range(len(APPS)), KINDS))
    pairs += [pairs[k] for k in rng.integers(len(pairs), size=ROUNDS - len(pairs))]
    return [pairs[k] for k in rng.permutation(len(pairs))]


def test_every_app_meets_every_fault() -> None:
    assert set(_rounds(np.random.default_rng(SEED))) == set(itertools.product(range(len(APPS)), KINDS))


def _round(drill: Drill, kind: str, folder: Path, rng: np.random.Generator, compare: Callable[[Path, Path], list[str]]) -> list[str] | None:
    """One fault, and the run after it: what was not as it should be; None where the fault needs a mount that cannot be made."""
    out, work = folder / "out", folder / "work"
    mounted = kind in ("full disk", "read-only output")
    if mounted and not _mounted(out, "ro" if kind == "read-only output" else f"size={int(rng.integers(8, 400))}k"):
        return None
    restore: tuple[Path, bytes] | None = None
    if kind in ("SIGKILL", "SIGTERM"):
        code = _interrupt(drill, kind, float(rng.uniform(0.5, max(1.0, drill.seconds))), out, work)
    else:
        restore = _corrupt(drill, rng) if kind == "corrupt input" else None
        code, _ = drill.run(out, work)
    finished = kind in ("SIGKILL", "SIGTERM") and code == 0
    failures = [] if finished or code in STATUS[kind] else [f"exit status {code}, not {sorted(STATUS[kind])}"]
    failures += [f"half a file: {line}" for line in _half_files(out)]
    if mounted:
        _unmount(out)
    if restore is not None:
        restore[0].write_bytes(restore[1])
    code, text = drill.run(out, work)
    if code:
        failures.append(f"the next run ended with {code}: {text[-400:]}")
    failures += [f"after the next run: {line}" for line in compare(drill.reference, out)]
    failures += [f"left behind: {path.relative_to(out)}" for path in out.rglob(".conform*")]
    shutil.rmtree(folder, ignore_errors=True)
    return failures


def test_faults_leave_nothing_half_done(drills: list[Drill], tmp_path: Path, compare: Callable[[Path, Path], list[str]]) -> None:
    rng, failures, counts, left_out = np.random.default_rng(SEED), list[str](), dict[str, int](), 0
    for number, (place, kind) in enumerate(_rounds(rng)):
        found = _round(drills[place], kind, tmp_path / f"round{number:02d}", rng, compare)
        if found is None:
            left_out += 1
            continue
        counts[kind] = counts.get(kind, 0) + 1
        failures += [f"round {number}, {drills[place].app}, {kind}: {line}" for line in found]
        print(f"round {number}, {drills[place].app}, {kind}: {len(found)} failures", flush=True)
    done = sum(counts.values())
    print(f"\n{done} rounds ({', '.join(f'{kind} {n}' for kind, n in counts.items())}), {left_out} left out, {len(failures)} failures")
    if left_out:
        print("rounds that need a mount were left out: no tmpfs can be mounted here")
    assert not failures, "\n".join(failures[:40])
    assert done >= 30 or left_out
