"""Size and time to read of a store, against one array a trial as MOSAIC lays it out.

``python benchmarks/store.py [--trials 1000] [--folder DIR]`` writes one participant of 91,282 units of smooth noise in each layout, and
prints the size on disk and the time of 128 random trials, of all trials, and of all trials of 8,000 units; the file is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis
from scipy.ndimage import uniform_filter1d

from conform_bids.bids.trials import TRIAL_COLUMNS
from conform_bids.store.inputs import find_inputs
from conform_bids.store.reading import Store
from conform_bids.store.release import write_release

N_UNITS = 91_282
N_PARCEL = 8_000
BATCH = 128


def write_derivative(root: Path, n_trials: int) -> None:
    """A derivative of one session of betas on 91,282 grayordinates."""
    generator = np.random.default_rng(0)
    folder = root / "sub-01" / "func"
    folder.mkdir(parents=True)
    maker = {"Name": "conform-glm", "Version": "0"}
    description = {"Name": "betas", "BIDSVersion": "1.11.1", "DatasetType": "derivative", "GeneratedBy": [maker]}
    (root / "dataset_description.json").write_text(json.dumps(description))
    half = N_UNITS // 2
    models = [BrainModelAxis.from_surface(np.arange(half), half, f"CIFTI_STRUCTURE_CORTEX_{side}") for side in ("LEFT", "RIGHT")]
    betas = np.empty((n_trials, N_UNITS), dtype=np.float32)
    for row in betas:
        row[:] = uniform_filter1d(generator.standard_normal(N_UNITS, dtype=np.float32), 9)
    axes = (ScalarAxis([f"trial {k}" for k in range(n_trials)]), models[0] + models[1])
    stem = "sub-01_task-bench"
    Cifti2Image(betas, axes).to_filename(folder / f"{stem}_space-fsLR_den-91k_stat-effect_desc-conform_statmap.dscalar.nii")
    stimulus = np.arange(n_trials) // 2
    columns: dict[str, Any] = {"trial": np.arange(n_trials), "session_id": "n/a", "run_id": "01", "onset": 4.0 * np.arange(n_trials)}
    columns |= {"duration": 2.0, "trial_type": "image", "stim_id": [f"s{k}" for k in stimulus], "condition": stimulus, "repetition": 0}
    columns |= {"split": np.where(stimulus % 10 == 0, "test", "train"), "flag": "n/a"}
    pd.DataFrame(columns)[list(TRIAL_COLUMNS)].to_csv(folder / f"{stem}_desc-conform_trials.tsv", sep="\t", index=False)


def write_array_a_trial(path: Path, betas: np.ndarray) -> None:
    """One float64 dataset a trial, as MOSAIC's files."""
    with h5py.File(path, "w") as file:
        for place, row in enumerate(betas):
            file.create_dataset(f"betas/trial-{place:05d}", data=row.astype(np.float64))


def read_array_a_trial(path: Path, rows: np.ndarray, units: slice) -> np.ndarray:
    """Trials by name."""
    with h5py.File(path, "r") as file:
        return np.stack([file[f"betas/trial-{place:05d}"][units] for place in rows]).astype(np.float32)


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Shortest of a few runs, in milliseconds; the first warms the cache."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    """Write both layouts, time them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="Where to write (default: a temporary folder); it is removed.")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        write_derivative(root / "glm", given.trials)
        start = time.perf_counter()
        write_release([find_inputs("Bench", root / "glm")], root / "store")
        seconds = time.perf_counter() - start
        store = Store(root / "store")
        betas, rows = store.load()
        write_array_a_trial(root / "one.h5", betas)
        del betas
        chosen = np.random.default_rng(1).permutation(given.trials)[:BATCH]
        every = np.arange(given.trials)
        parcel = np.arange(N_PARCEL)
        batch, whole = rows.loc[chosen], slice(None)
        old = root / "one.h5"
        sizes = [(root / "store" / "betas" / "sub-Bench01_betas.h5").stat().st_size, old.stat().st_size]
        cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            f"{BATCH} random trials, ms": (lambda: store.load(batch), lambda: read_array_a_trial(old, chosen, whole)),
            "all trials, ms": (lambda: store.load(rows), lambda: read_array_a_trial(old, every, whole)),
            f"all trials, {N_PARCEL} units, ms": (
                lambda: store.load(rows, mask=parcel),
                lambda: read_array_a_trial(old, every, slice(0, N_PARCEL)),
            ),
        }
        print(f"{given.trials} trials of {N_UNITS} units; written with its tables and ceilings in {seconds:.1f} s")
        print(f"{'':34}{'store':>10}{'array a trial':>16}")
        print(f"{'size, MB':34}{sizes[0] / 1e6:10.0f}{sizes[1] / 1e6:16.0f}")
        for name, (ours, theirs) in cases.items():
            print(f"{name:34}{best(ours):10.0f}{best(theirs):16.0f}")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
