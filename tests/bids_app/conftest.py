"""A tiny dataset, and the toy app run in this process or in one of its own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _toy_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy app by its name, here and in processes that this one starts."""
    monkeypatch.syspath_prepend(str(HERE))
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *([path] if path else [])]))
    for name in ("LOGNAME", "NO_ET", "NIPYPE_NO_ET", "MPLBACKEND", "TEMPLATEFLOW_AUTOUPDATE"):
        if name in os.environ:
            monkeypatch.setenv(name, os.environ[name])  # so that what a run sets is undone


@pytest.fixture
def toy(_toy_importable: None) -> ModuleType:
    return importlib.import_module("toy_app")


def write_bold(path: Path, value: float = 2.0, n_volumes: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.full((3, 4, 2, n_volumes), value, np.float32), np.eye(4))
    image.header.set_zooms((1.0, 1.0, 1.0, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def _write_dataset(root: Path, participants: tuple[str, ...] = ("01", "02"), *, preprocessed: bool = True) -> Path:
    """A raw dataset with one task in two runs and its fMRIPrep-shaped derivative (space T1w)."""
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "toy", "BIDSVersion": "1.10.0", "License": "CC0"}))
    (root / "README").write_text("A toy dataset of which nothing can be learned.\n" * 4)
    (root / "task-toy_bold.json").write_text(json.dumps({"TaskName": "toy", "RepetitionTime": 2.0}))
    rows = "".join(f"sub-{label}\n" for label in participants)
    (root / "participants.tsv").write_text(f"participant_id\n{rows}")
    fmriprep = root / "derivatives" / "fmriprep"
    if preprocessed:
        fmriprep.mkdir(parents=True)
        description = {"Name": "fMRIPrep", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}
        (fmriprep / "dataset_description.json").write_text(json.dumps(description))
    for label in participants:
        for run in ("01", "02"):
            stem = f"sub-{label}/func/sub-{label}_task-toy_run-{run}"
            write_bold(root / f"{stem}_bold.nii.gz")
            (root / f"{stem}_events.tsv").write_text("onset\tduration\ttrial_type\n0\t1\ta\n2\t1\tb\n")
            if preprocessed:
                write_bold(fmriprep / f"{stem}_space-T1w_desc-preproc_bold.nii.gz", value=float(run) + 1)
                sidecar = fmriprep / f"{stem}_space-T1w_desc-preproc_bold.json"
                sidecar.write_text(json.dumps({"RepetitionTime": 2.0, "TaskName": "toy"}))
    return root


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return _write_dataset(tmp_path / "data")


@pytest.fixture
def write_dataset() -> Callable[..., Path]:
    """Write a dataset: ``(root, participants=("01", "02"), *, preprocessed=True)``."""
    return _write_dataset


@pytest.fixture
def run_toy(tmp_path: Path, toy: ModuleType) -> Callable[..., int]:
    """Run the toy app in this process, with a work folder and one CPU; the exit status."""

    def run(*arguments: object) -> int:
        typed = [str(argument) for argument in arguments]
        if not any(flag in typed for flag in ("-w", "--work-dir", "--config-file")):
            typed += ["-w", str(tmp_path / "work")]
        status: int = toy.main(toy.APP, [*typed, "--nprocs", "1", "--device", "cpu"])
        return status

    return run


@pytest.fixture
def toy_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the toy app as a user does, in a process of its own."""

    def run(*arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(HERE / "toy_app.py"), *map(str, arguments)],
            capture_output=True, text=True, timeout=120, check=False, cwd=cwd or tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )  # fmt: skip

    return run
