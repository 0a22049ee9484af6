"""What the command line costs: help, planning in a large dataset, a second run, and how soon a killed worker is noticed.

``python benchmarks/spine.py`` prints a table; ``python benchmarks/spine.py WORK`` keeps the datasets in WORK for the next time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

APP = [sys.executable, "-m", "bids_app.glm"]
SUBJECTS, SESSIONS, RUNS = 100, 4, 10


def write_large_dataset(root: Path) -> int:
    """Build 100 subjects x 4 sessions x 10 runs of seven empty files; the number of files."""
    derivative = root / "derivatives" / "fmriprep"
    derivative.mkdir(parents=True)
    description = {"Name": "large", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    generated = {**description, "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}
    (derivative / "dataset_description.json").write_text(json.dumps(generated))
    raw_endings = ("bold.nii.gz", "bold.json", "events.tsv")
    space = "space-MNI152NLin2009cAsym"
    endings = (f"{space}_desc-preproc_bold.nii.gz", f"{space}_desc-preproc_bold.json", f"{space}_desc-brain_mask.nii.gz")
    count = 0
    for subject in range(1, SUBJECTS + 1):
        for session in range(1, SESSIONS + 1):
            place = f"sub-{subject:03d}/ses-{session:02d}/func"
            (root / place).mkdir(parents=True)
            (derivative / place).mkdir(parents=True)
            for run in range(1, RUNS + 1):
                stem = f"{place}/sub-{subject:03d}_ses-{session:02d}_task-nsd_run-{run:02d}"
                names = [root / f"{stem}_{ending}" for ending in raw_endings]
                names += [derivative / f"{stem}_{ending}" for ending in (*endings, "desc-confounds_timeseries.tsv")]
                for path in names:
                    path.touch()
                count += len(names)
    return count


def peak_memory_mb(process: subprocess.Popen[str], peaks: list[float]) -> None:
    """Keep the peak resident memory of a process while it lives (Linux)."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        peaks += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
        time.sleep(0.01)


def timed(*arguments: object) -> tuple[float, float]:
    """Seconds and peak memory (MB) of the app with some arguments; it has to succeed."""
    start = time.perf_counter()
    command = [*APP, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks: list[float] = []
    watcher = threading.Thread(target=peak_memory_mb, args=(process, peaks))
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise RuntimeError(errors)
    return seconds, max(peaks, default=float("nan"))


def worker_in(folder: Path) -> int:
    """Process that runs a node of the work folder: its working folder is the node's."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if where.startswith(f"{folder}/") and Path(where).name == "fit":
                return int(entry.name)
        time.sleep(0.01)
    raise TimeoutError(f"no worker in {folder}")


def seconds_from_kill_to_error(dataset: Path, root: Path) -> tuple[float, float]:
    """Kill a worker within a fit, as the kernel does when memory is short: seconds to the error, and to the end of the other work."""
    work = root / "killed_work"
    command = [*APP, dataset, root / "killed_out", "participant", "-w", work, "--participant-label", "01", "--skip-bids-validation"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    os.kill(worker_in(work), signal.SIGKILL)
    start = time.perf_counter()
    said = next((time.perf_counter() - start for line in process.stdout if "worker process was killed" in line), float("nan"))
    process.communicate()
    if process.returncode == 0:
        raise RuntimeError("a killed worker was no failure")
    return said, time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        kept = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else root
        large, demo = kept / "large", kept / "demo"
        n_files = SUBJECTS * SESSIONS * RUNS * 7 if large.is_dir() else write_large_dataset(large)
        rows = [("--help", min(timed("--help")[0] for _ in range(3)), None, "0.5 s")]
        flags = ("participant", "--participant-label", "001", "--skip-bids-validation", "--dry-run")
        seconds, memory = timed(large, root / "large_out", *flags)
        rows.append((f"plan one participant of {n_files} files (--dry-run --skip-bids-validation)", seconds, memory, "5 s, 300 MB"))
        from conform_bids.simulate.dataset import simulate_dataset

        simulate_dataset(demo)
        run = (demo, root / "demo_out", "participant", "group", "-w", root / "demo_work")
        rows.append(("first run on the demo dataset", timed(*run)[0], None, ""))
        rows.append(("second run over the same work folder", timed(*run)[0], None, "15 s"))
        said, ended = seconds_from_kill_to_error(demo, root)
        rows.append(("from SIGKILL of a worker to the error", said, None, "10 s"))
        rows.append(("... and to the end of what the other workers had to do", ended, None, ""))
    print("| what | s | peak MB | target |\n|---|---|---|---|")
    for what, seconds, memory, target in rows:
        print(f"| {what} | {seconds:.2f} | {'' if memory is None else f'{memory:.0f}'} | {target} |")


if __name__ == "__main__":
    main()
