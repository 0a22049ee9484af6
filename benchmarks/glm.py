"""How fast conform-glm fits, held against the machine's own matrix-product rate measured in the same process with the same threads.

``python benchmarks/glm.py`` runs the small sizes; ``--sizes 10k 91k nsd bold5000`` chooses; ``--threads 1 2`` compares threads;
``--models compat default`` chooses what is fitted; ``--memory 8`` (GB) is what the engine may take before it works out of core;
``--all-units`` fits all of bold5000 in place of a part; ``--files WORK --sizes nsd`` runs conform-glm itself
on data of that size, written to WORK as CIFTI and read back.

The limit counts the products that the method needs: one product a run and HRF for the choice of the HRF (twice in the default model),
one a run for every set of betas, cross-validation by nested projections, decompositions of the designs. "x limit" is the time over the
time that these would take at the machine's rate; elementwise work, reading and reordering are what lies above 1. Each figure is the
fastest of some fits, five of the small sizes, as the first ones also pay for memory that the machine has not handed out yet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from machine import peak_anonymous_gb, peak_resident_gb

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library
from conform_bids.glm.numerics.design import Design, exact_regressors
from conform_bids.glm.numerics.fit import FitOptions, FitResult, fit_models
from conform_bids.numerics.compute import Compute, gemm_rate
from conform_bids.numerics.folds import leave_one_run_out
from conform_bids.numerics.hrf import response_at

N_HRFS, BASE_COLUMNS = 20, 4
OPTIONS = {
    "compat": FitOptions(models=("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr"), compat=True),
    "default": FitOptions(models=("conform",)),
    "averaged": FitOptions(models=("conform",), hrf_averaging="on"),
}


@dataclass(frozen=True)
class Size:
    """Units, runs, volumes a run, trials of all runs, and units that are fitted where all would take too long."""

    units: int
    runs: int
    volumes: int
    trials: int
    interval: float
    fitted: int | None = None


SIZES = {
    "1.25k": Size(1_250, 6, 200, 360, 5.0),
    "5k": Size(5_000, 6, 200, 360, 5.0),
    "10k": Size(10_000, 6, 200, 360, 5.0),
    "91k": Size(91_282, 6, 200, 360, 5.0),
    "nsd": Size(91_282, 12, 226, 744, 5.8),
    "bold5000": Size(91_282, 142, 194, 5_254, 10.0, fitted=8_192),
}


def make_design(size: Size, rng: np.random.Generator) -> Design:
    """Trials at even intervals with jitter, three repeats a condition over the runs."""
    per_run = np.full(size.runs, size.trials // size.runs)
    per_run[: size.trials % size.runs] += 1
    tr = size.interval * per_run.max() / (size.volumes - 8)
    run = np.repeat(np.arange(size.runs), per_run)
    onset = np.concatenate([np.arange(n) * size.interval + rng.uniform(0, 0.4 * size.interval, n) for n in per_run])
    condition = rng.permutation(np.arange(size.trials) // 3)
    return Design(
        tr=tr,
        run_lengths=(size.volumes,) * size.runs,
        run=run,
        onset=onset,
        duration=np.full(size.trials, 1.0),
        condition=condition,
        train=np.ones(size.trials, bool),
        session=np.zeros(size.runs, dtype=np.intp),
        folds=leave_one_run_out(size.runs),
        polynomial_degree=(BASE_COLUMNS - 1,) * size.runs,
    )


def make_run(regressors: npt.NDArray[np.floating], active: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """BOLD (volumes, units) of a run, from its regressors (volumes, trials) and which units respond."""
    values = rng.standard_normal((len(regressors), len(active)), dtype=np.float32) * 8 + 800
    values += regressors.astype(np.float32) @ ((rng.standard_normal((regressors.shape[1], len(active)), dtype=np.float32) * 6 + 8) * active)
    return values


def make_runs(design: Design, n_units: int, rng: np.random.Generator, folder: Path | None) -> list[npt.NDArray[np.float32]]:
    """BOLD in which two units of five respond, as the engine gets it: in memory, or as memory maps in a folder."""
    library = load_default_library()
    columns = exact_regressors(design, lambda duration, times: response_at(library, duration, times))
    active = rng.random(n_units) < 0.4
    runs = []
    for run in range(design.n_runs):
        values = make_run(columns(run)[8], active, rng)
        if folder is None:
            runs.append(values)
        else:
            np.save(folder / f"run-{run:03d}.npy", values)
            runs.append(np.load(folder / f"run-{run:03d}.npy", mmap_mode="r"))
    return runs


def needed_flops(design: Design, options: FitOptions, result: FitResult) -> float:
    """Products that the method needs; see the module's text."""
    voters, pool, units = int(result.pc_voxels.sum()), int(result.noise_pool.sum()), len(result.valid)
    total = 0.0
    averaged = result.conform is not None and result.conform.averaged
    n_fractions, used = len(options.fractions), len(np.unique(result.hrf_index))
    for run, volumes in enumerate(design.run_lengths):
        rows = design.trials_of(run)
        trials = rows.stop - rows.start
        project, rotate = 2.0 * volumes * trials, 2.0 * trials * trials
        decompose = 2.0 * volumes * trials**2 + 9.0 * trials**3
        total += units * 4.0 * volumes * BASE_COLUMNS + units * N_HRFS * project + N_HRFS * 2.0 * volumes * trials**2
        total += pool * 2.0 * volumes**2 + voters * (project + rotate + 2.0 * options.n_pcs * (volumes + trials)) + used * decompose
        for model in options.models:
            if model == "conform":
                fitted = N_HRFS if averaged else 1
                total += units * (N_HRFS * project + fitted * (project + rotate + 8.0 * 9 * trials)) + N_HRFS * 2.0 * volumes * trials**2
                total += (N_HRFS if averaged else used) * decompose
            elif model == "fithrfdenoiserr":
                # beside fithrfdenoise, which has projected the data, what the penalties cost is all that comes on top
                shared = "fithrfdenoise" in options.models
                total += units * ((2 + n_fractions) * rotate + (0 if shared else project + rotate)) + (0 if shared else used * decompose)
            else:
                total += units * (project + rotate) + used * decompose
    return total


def measure(name: str, size: Size, label: str, threads: int, memory_gb: float) -> None:
    """Fit one size and print its row."""
    rng = np.random.default_rng(0)
    design = make_design(size, rng)
    n_units = size.fitted or size.units
    options = OPTIONS[label]
    compute = Compute(n_threads=threads, memory_bytes=memory_gb * 1e9)
    library, assumed = load_default_library(), load_default_assumed_hrf()
    with tempfile.TemporaryDirectory() as folder:
        on_disk = Path(folder) if 4.0 * n_units * sum(design.run_lengths) > memory_gb * 1e9 / 4 else None
        runs = make_runs(design, n_units, rng, on_disk)
        fit_models([run[:, :64] for run in runs], design, library, assumed, replace(options, n_pcs=2), compute)
        rate = gemm_rate(compute)

        def allocate(array: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
            if on_disk is None:
                return np.empty(shape, np.float32)
            return np.lib.format.open_memmap(on_disk / f"{array}.npy", mode="w+", dtype=np.float32, shape=shape)

        seconds = np.inf
        with peak_anonymous_gb() as anonymous, peak_resident_gb() as resident:
            for _ in range(1 if name in ("nsd", "bold5000") else 2 if n_units > 50_000 else 5):
                started = time.perf_counter()
                result = fit_models(runs, design, library, assumed, options, compute, allocate)
                seconds = min(seconds, time.perf_counter() - started)
    flops = needed_flops(design, options, result)
    scaled = f" (all {size.units:,}: {seconds * size.units / n_units:.0f} s, extrapolated)" if size.fitted else ""
    print(
        f"| {name} | {label} | {threads} | {n_units:,} | {seconds:.2f}{scaled} | {n_units / seconds:,.0f} | {flops / seconds / 1e9:.0f} | "
        f"{rate / 1e9:.0f} | {flops / seconds / rate:.0%} | {seconds * rate / flops:.1f} | {resident[0]:.2f} | {anonymous[0]:.2f} |",
        flush=True,
    )


def write_session(root: Path, size: Size) -> None:
    """One session (or a subject of one) as fMRIPrep leaves it: CIFTI series of 91,282 grayordinates, confounds, events."""
    import nibabel as nib
    from nibabel.cifti2 import BrainModelAxis, SeriesAxis

    rng = np.random.default_rng(0)
    design = make_design(size, rng)
    derivative, place = root / "derivatives" / "fmriprep", "sub-01/ses-01/func"
    (root / place).mkdir(parents=True)
    (derivative / place).mkdir(parents=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "session", "BIDSVersion": "1.10.0"}))
    generated = {"Name": "fMRIPrep", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}
    (derivative / "dataset_description.json").write_text(json.dumps(generated))
    cortex = [np.arange(29_696), np.arange(29_716)]
    axes = [BrainModelAxis.from_surface(v, 32_492, name) for v, name in zip(cortex, ("cortex_left", "cortex_right"), strict=True)]
    mask = np.zeros((91, 109, 91), bool)
    mask.flat[: size.units - sum(map(len, cortex))] = True
    axes.append(BrainModelAxis.from_mask(mask, affine=np.diag([2.0, 2, 2, 1]), name="thalamus_left"))
    models = axes[0] + axes[1] + axes[2]
    library = load_default_library()
    columns = exact_regressors(design, lambda duration, times: response_at(library, duration, times))
    active = rng.random(size.units) < 0.4
    for run in range(design.n_runs):
        values = make_run(columns(run)[8], active, rng)
        stem = f"{place}/sub-01_ses-01_task-nsd_run-{run + 1:03d}"
        header = nib.Cifti2Header.from_axes((SeriesAxis(0, design.tr, len(values), "SECOND"), models))
        nib.Cifti2Image(values, header=header).to_filename(derivative / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii")
        (derivative / f"{stem}_space-fsLR_den-91k_bold.json").write_text(json.dumps({"RepetitionTime": design.tr, "StartTime": 0.0}))
        rows = design.trials_of(run)
        lines = [f"{design.onset[t]:.3f}\t1.0\tstim{design.condition[t]:04d}" for t in range(rows.start, rows.stop)]
        (root / f"{stem}_events.tsv").write_text("onset\tduration\tstim_id\n" + "\n".join(lines) + "\n")
        (root / f"{stem}_bold.json").write_text(json.dumps({"RepetitionTime": design.tr, "TaskName": "nsd"}))


def measure_files(work: Path, name: str, labels: Sequence[str], threads: int, memory_gb: float) -> None:
    """Run conform-glm on files, from the command to the last file."""
    root = work / name
    if not root.exists():
        write_session(root, SIZES[name])
    for label in labels:
        extra = ["--compat"] if label == "compat" else []
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            command = [sys.executable, "-m", "bids_app.glm", str(root), f"{scratch}/out", "participant", "-w", f"{scratch}/work"]
            command += [
                "--mem",
                f"{memory_gb:g}G",
                "--nprocs",
                str(threads),
                "--omp-nthreads",
                str(threads),
                "--skip-bids-validation",
                *extra,
            ]
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, tree_memory_gb(process.pid))
                time.sleep(0.2)
            seconds = time.perf_counter() - started
            if process.returncode:
                print((process.stderr.read() if process.stderr else b"").decode()[-2000:])
            print(f"conform-glm {label}, {name} through files: {seconds:.0f} s, {peak:.2f} GB, exit {process.returncode}", flush=True)


def tree_memory_gb(pid: int) -> float:
    """Memory of a process and its children without pages that the kernel can take back (Linux: private and anonymous)."""
    total = 0.0
    try:
        total += sum(
            int(line.split()[1]) / 1e6
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Anonymous:")
        )
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return total
    return total + sum(tree_memory_gb(int(child)) for child in children)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["1.25k", "5k", "10k"])
    parser.add_argument("--models", nargs="+", choices=list(OPTIONS), default=["compat", "default"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--memory", type=float, default=4.0, help="GB")
    parser.add_argument("--all-units", action="store_true", help="of bold5000 too (13 GB of temporary files)")
    parser.add_argument("--files", type=Path)
    arguments = parser.parse_args()
    if arguments.files:
        for name in arguments.sizes:
            measure_files(arguments.files, name, arguments.models, max(arguments.threads), arguments.memory)
        return
    names = ["size", "models", "threads", "units", "seconds", "units/s", "GFLOP/s", "machine GFLOP/s", "share", "x limit", "peak RSS, GB"]
    names.append("without mapped files")
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for name in arguments.sizes:
        for label in arguments.models:
            for threads in arguments.threads:
                size = replace(SIZES[name], fitted=None) if arguments.all_units else SIZES[name]
                measure(name, size, label, threads, arguments.memory)


if __name__ == "__main__":
    main()
