"""conform-glm run again, interrupted, killed and given a corrupt file."""

from __future__ import annotations

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

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow
MAP = "sub-01/func/sub-01_task-case_space-T1w_stat-effect_desc-conform_statmap.nii.gz"


def write_participant(root: Path, participant: str, make_dataset: Any, run_data: Any) -> None:
    generator = np.random.default_rng(int(participant))
    runs = []
    for run in ("1", "2"):
        series = 500 + 3 * generator.standard_normal((30, 50))
        events = pd.DataFrame({"onset": 4 + 9.0 * np.arange(8), "duration": 1.0, "trial_type": list("abcdabcd"), "split": "train"})
        runs.append(run_data(series, events, run))
    make_dataset(root, runs, 2.0, participant=participant)


@pytest.fixture
def dataset(tmp_path: Path, make_dataset: Any, run_data: Any) -> Path:
    """One participant, two runs of 30 voxels."""
    write_participant(tmp_path / "data", "01", make_dataset, run_data)
    return tmp_path / "data"


@pytest.fixture
def again(tmp_path: Path, dataset: Path, run_glm: Callable[..., Any]) -> Callable[..., Any]:
    """Run over the same output and work folders."""
    return lambda *flags, here=False: run_glm(tmp_path, dataset, "participant", "--skip-bids-validation", *flags, here=here)


@pytest.fixture
def again_here(again: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The same in this process, whose environment stays as it was."""
    for name in ("LOGNAME", "NO_ET", "NIPYPE_NO_ET", "MPLBACKEND", "TEMPLATEFLOW_AUTOUPDATE"):
        if name in os.environ:
            monkeypatch.setenv(name, os.environ[name])
    return lambda *flags: again(*flags, here=True)


def times(folder: Path, pattern: str) -> dict[str, int]:
    found = {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob(pattern)}
    assert found
    return found


def test_a_life_of_runs(dataset: Path, again_here: Callable[..., Any], run_app: Any, tmp_path: Path) -> None:
    first = again_here()
    assert first.process.returncode == 0, first.process.stderr
    fitted, saved = times(first.work, "fit/*.npy"), times(first.output, "*.nii.gz")
    # a second run computes nothing
    second = again_here()
    assert second.process.returncode == 0, second.process.stderr
    assert times(first.work, "fit/*.npy") == fitted
    assert times(first.output, "*.nii.gz") == saved
    # what was deleted comes back, without a fit
    bytes_before = (first.output / MAP).read_bytes()
    (first.output / MAP).unlink()
    table = next(first.output.rglob("*_desc-conform_trials.tsv"))
    table.unlink()
    assert again_here().process.returncode == 0
    assert (first.output / MAP).read_bytes() == bytes_before
    assert table.is_file()
    assert times(first.work, "fit/*.npy") == fitted
    # other resources are no reason to fit again; other settings are refused
    assert again_here("--low-mem").process.returncode == 0
    assert times(first.work, "fit/*.npy") == fitted
    refused = again_here("--n-pcs", "3")
    assert refused.process.returncode == 2
    assert "--overwrite" in refused.process.stderr
    assert "n_pcs" in refused.process.stderr or "n-pcs" in refused.process.stderr
    # the written configuration repeats the run, and nothing is computed
    toml = max((first.output / "logs").glob("*/conform.toml"), key=lambda path: path.stat().st_mtime_ns)
    repeated = run_app("glm", "--config-file", toml, cwd=tmp_path)
    assert repeated.returncode == 0, repeated.stderr
    assert times(first.work, "fit/*.npy") == fitted
    # a changed input is read again
    bold = next((dataset / "derivatives").rglob("*_run-1_*_bold.nii.gz"))
    image = nib.load(bold)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., ::-1].copy(), image.affine, image.header), bold)
    changed = again_here()
    assert changed.process.returncode == 0, changed.process.stderr
    assert (first.output / MAP).read_bytes() != bytes_before
    # --overwrite takes other settings, and leaves nothing of the former ones
    overwritten = again_here("--model", "fithrf", "--units", "raw", "--overwrite")
    assert overwritten.process.returncode == 0, overwritten.process.stderr
    fithrf = first.output / MAP.replace("conform", "fithrf")
    assert json.loads(fithrf.with_name(fithrf.name.replace(".nii.gz", ".json")).read_text())["Units"] == "arbitrary"
    assert not [path for path in first.output.rglob("*conform*") if "desc-conform" in path.name]
    assert list((first.output / "sub-01" / "figures").glob("*desc-fithrf_*"))
    assert not list(first.output.rglob("*.conform-*"))


def test_changed_events_are_read_again(dataset: Path, again_here: Callable[..., Any]) -> None:
    first = again_here("--model", "fithrf")
    assert first.process.returncode == 0, first.process.stderr
    changing = first.output / MAP.replace("conform", "fithrf")
    before = changing.read_bytes()
    events = next(dataset.rglob("*_run-2_events.tsv"))
    events.write_text(events.read_text().replace("\n4.0\t", "\n6.0\t"))
    assert again_here("--model", "fithrf").process.returncode == 0
    assert changing.read_bytes() != before
    assert "\t6.0\t" in next(first.output.rglob("*_trials.tsv")).read_text()


def test_a_corrupt_participant_leaves_the_other_complete(
    tmp_path: Path, dataset: Path, again: Callable[..., Any], make_dataset: Any, run_data: Any
) -> None:
    write_participant(dataset, "02", make_dataset, run_data)
    corrupt = dataset / "derivatives/fmriprep/sub-02/func/sub-02_task-case_run-2_space-T1w_desc-preproc_bold.nii.gz"
    content = corrupt.read_bytes()
    corrupt.write_bytes(content[: len(content) * 2 // 3])
    done = again()
    assert done.process.returncode == 1
    lines = done.process.stdout.splitlines()[-2:]
    assert lines[0] == "conform-glm: sub-01: completed"
    assert lines[1].startswith("conform-glm: sub-02: failed: ")
    assert corrupt.name in lines[1]
    assert (done.output / MAP).is_file()
    assert not list(done.output.glob("sub-02/func/*_statmap.nii.gz"))
    for label in ("01", "02"):
        assert (done.output / f"sub-{label}.html").is_file()
    assert corrupt.name in (done.output / "sub-02.html").read_text()
    corrupt.write_bytes(content)
    mended = again()
    assert mended.process.returncode == 0, mended.process.stderr
    assert (done.output / MAP.replace("sub-01", "sub-02")).is_file()


@pytest.fixture
def started(simulated_dataset: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A run of one session's surfaces in the background; it is ended with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bids_app.glm", simulated_dataset.path, tmp_path / "out", "participant", "-w", tmp_path / "work"]
        command += ["--participant-label", "01", "--session-label", "01", "--file-format", "gifti", "--nprocs", "1", "--device", "cpu"]
        process = subprocess.Popen(
            [*map(str, command), "--skip-bids-validation"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def worker_in(folder: Path, *, limit_s: float = 60) -> int:
    """Process whose working folder is a node's of ``folder``: the worker that runs it."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if where.startswith(f"{folder}/") and Path(where).name in ("load", "fit", "save", "figures"):
                return int(entry.name)
        time.sleep(0.01)
    raise TimeoutError(f"nothing ran in {folder}")


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_a_killed_worker_ends_the_run_with_a_clear_error(started: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = started()
    os.kill(worker_in(tmp_path / "work"), signal.SIGKILL)
    start = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert process.returncode == 1
    (line,) = [line for line in output.splitlines() if line.startswith("conform-glm: sub-01: failed")]
    assert "killed" in line
    assert "memory" in line
    assert "Traceback" not in errors


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_sigterm_leaves_no_half_file_and_a_second_run_completes(started: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    process = started()
    worker = worker_in(tmp_path / "work")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    end = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
    whole = sorted((tmp_path / "out").rglob("*"))
    assert not [path for path in whole if ".conform-" in path.name]
    for path in whole:
        if path.name.endswith((".nii.gz", ".func.gii")):
            nib.load(path).darrays if path.suffix == ".gii" else np.asarray(nib.load(path).dataobj)
    second = started()
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "sub-01: completed" in output


def test_reports_only_needs_no_work_folder(again_here: Callable[..., Any]) -> None:
    first = again_here("--model", "fithrf")
    assert first.process.returncode == 0, first.process.stderr
    shutil.rmtree(first.work)
    (first.output / "sub-01.html").unlink()
    second = again_here("--model", "fithrf", "--reports-only")
    assert second.process.returncode == 0, second.process.stderr
    assert (first.output / "sub-01.html").is_file()
    assert not first.work.exists()
