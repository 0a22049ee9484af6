"""How well betas of real BOLD decode: leave-one-run-out accuracy and odd-even reliability, beside GLMsingle's.

``python benchmarks/haxby.py DATASET [OUTPUT]`` fits DATASET (half a slice of Haxby et al., 2001) with conform-glm, as GLMsingle does
and with exact timing, and prints a table. OUTPUT keeps what is written; without it, it is removed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

MODELS = {"fithrf": "B", "fithrfdenoise": "C", "fithrfdenoiserr": "D"}
GLMSINGLE = {"fithrf": (0.72, 0.30), "fithrfdenoise": (0.72, 0.19), "fithrfdenoiserr": (0.74, 0.24)}
"""Accuracy and median odd-even correlation of GLMsingle itself on these data."""


@dataclass(frozen=True)
class Scores:
    """Accuracy (chance 1/8), and the median over units of the correlation of condition means of odd with those of even runs."""

    accuracy: float
    odd_even: float


def read_betas(output: Path, model: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Betas (trials, units) of the units that were fitted, and their trial table."""
    (path,) = output.glob(f"sub-*/func/*_stat-effect_desc-{model}_statmap.nii.gz")
    (table,) = output.glob(f"sub-*/func/*_desc-{model}_trials.tsv")
    values = np.asarray(nib.load(path).dataobj, dtype=np.float64)
    return values[np.isfinite(values).all(axis=-1)].T, pd.read_csv(table, sep="\t", keep_default_na=False)


def measure(output: Path, model: str) -> Scores:
    """Score the betas of a model in an output folder."""
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    betas, trials = read_betas(output, model)
    labels, runs = trials["trial_type"].to_numpy(), trials["run_id"].astype(int).to_numpy()
    classifier = make_pipeline(StandardScaler(), LinearSVC(C=1e-3, random_state=0))
    predicted = cross_val_predict(classifier, betas, labels, groups=runs, cv=LeaveOneGroupOut())
    halves = [np.stack([betas[(labels == label) & (runs % 2 == half)].mean(0) for label in sorted(set(labels))]) for half in (1, 0)]
    odd, even = ((half - half.mean(0)) / half.std(0) for half in halves)
    return Scores(float((predicted == labels).mean()), float(np.median((odd * even).mean(0))))


def main() -> None:
    """Fit, score, print."""
    dataset = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch)
        rows = [(f"GLMsingle {MODELS[model]}", *scores, "") for model, scores in GLMSINGLE.items()]
        for name, flags in (("--compat glmsingle", ["--compat", "glmsingle"]), ("exact timing", [])):
            output = root / name.strip("-").replace(" ", "_")
            command = [sys.executable, "-m", "bids_app.glm", str(dataset), str(output), "participant", "-w", f"{scratch}/work", *flags]
            start = time.perf_counter()
            subprocess.run([*command, "--model", *MODELS], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds = f"{time.perf_counter() - start:.1f}"
            for model, letter in MODELS.items():
                scores = measure(output, model)
                rows.append((f"conform-glm {letter}, {name}", scores.accuracy, scores.odd_even, seconds))
                seconds = ""
    print("| betas | 8-way accuracy | median odd-even r | s |\n|---|---|---|---|")
    for label, accuracy, reliability, seconds in rows:
        print(f"| {label} | {accuracy:.3f} | {reliability:.3f} | {seconds} |")


if __name__ == "__main__":
    main()
