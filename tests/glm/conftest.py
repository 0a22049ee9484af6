"""Datasets for conform-glm, fits of them in this process, and runs of the app, each made once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

if TYPE_CHECKING:
    from conform_bids.glm.files import Plan
    from conform_bids.glm.load import LoadedFit

RunApp = Callable[..., subprocess.CompletedProcess[str]]


def tree(folder: Path) -> list[str]:
    """Files of an output folder, those that bear the name of a run aside."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if "/log/" not in name and not (name.startswith("logs/") and name.count("/") > 1))


@dataclass(frozen=True)
class RunData:
    """One run of a dataset to be written: series (units, volumes), events, confounds."""

    series: np.ndarray
    events: pd.DataFrame
    run: str
    session: str | None = None
    confounds: pd.DataFrame | None = None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")


def write_dataset(
    root: Path, runs: list[RunData], repetition_time: float, *, participant: str = "01", task: str = "case", start_time: float = 0.0
) -> Path:
    """A raw dataset and its fMRIPrep-shaped derivative; units are the voxels of a row."""
    description = {"Name": "case", "BIDSVersion": "1.10.0"}
    _write_json(root / "dataset_description.json", description)
    fmriprep = root / "derivatives" / "fmriprep"
    generated = {"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.2.0"}]}
    _write_json(fmriprep / "dataset_description.json", {**description, **generated})
    for run in runs:
        folders = f"sub-{participant}/" + (f"ses-{run.session}/" if run.session else "") + "func"
        session = f"_ses-{run.session}" if run.session else ""
        stem = f"{folders}/sub-{participant}{session}_task-{task}_run-{run.run}"
        _write_table(root / f"{stem}_events.tsv", run.events)
        series = run.series.astype(np.float32)[:, None, None, :]
        image = nib.Nifti1Image(series, np.diag([2.0, 2.0, 2.0, 1.0]))
        image.header.set_zooms((2.0, 2.0, 2.0, repetition_time))
        (fmriprep / stem).parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, fmriprep / f"{stem}_space-T1w_desc-preproc_bold.nii.gz")
        nib.save(image.__class__(np.ones(series.shape[:3], np.uint8), image.affine), fmriprep / f"{stem}_space-T1w_desc-brain_mask.nii.gz")
        timing = {"RepetitionTime": repetition_time, "TaskName": task, "SliceTimingCorrected": bool(start_time), "StartTime": start_time}
        _write_json(fmriprep / f"{stem}_space-T1w_desc-preproc_bold.json", timing)
        if run.confounds is not None:
            _write_table(fmriprep / f"{stem}_desc-confounds_timeseries.tsv", run.confounds)
    return root


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """`write_dataset(root, runs, repetition_time, ...)`."""
    return write_dataset


@pytest.fixture(scope="session")
def run_data() -> type[RunData]:
    return RunData


@dataclass(frozen=True)
class FileFit:
    """A fit from files to files, done in this process."""

    plan: Plan
    loaded: LoadedFit
    folder: Path
    summary: Mapping[str, Any]
    written: tuple[Path, ...]

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy")

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.npy").is_file()

    def output(self, ending: str) -> Path:
        (path,) = [path for path in self.written if path.name.endswith(ending)]
        return path

    def table(self, ending: str) -> pd.DataFrame:
        return pd.read_csv(self.output(ending), sep="\t", dtype={"session_id": str, "run_id": str}, keep_default_na=False)

    def sidecar(self, ending: str) -> dict[str, Any]:
        return dict(json.loads(self.output(ending).read_text()))


def plan_files(dataset: Path, output: Path, *flags: str, opened: Any = None) -> tuple[Any, Any]:
    """Configuration and plan of the first participant, as the command line makes them; ``opened`` is the dataset where it is already."""
    from bids_app.cli import parse
    from bids_app.glm.__main__ import APP
    from bids_app.plan import selection_of
    from conform_bids.bids.index import open_dataset
    from conform_bids.glm.planner import plan_participant
    from conform_bids.jobs import Resources

    config = parse(APP, [str(dataset), str(output), "participant", *flags])
    selection, _ = selection_of(APP, config)
    opened = opened or open_dataset(dataset, participants=config.bids.participant_label)
    resources = Resources(random_seed=config.execution.random_seed, low_mem=config.execution.low_mem, sloppy=config.execution.sloppy)
    return config, plan_participant(opened.participants[0], opened, selection, config.settings, resources, output)


def fit_files(dataset: Path, folder: Path, *flags: str, opened: Any = None) -> list[FileFit]:
    """Plan, load, fit and save, with the flags of the command line but without Nipype; ``opened``: see `plan_files`."""
    from conform_bids.bids.spaces import load_space
    from conform_bids.bids.tables import read_tsv
    from conform_bids.glm.load import load_fit, read_loaded
    from conform_bids.glm.results import fit_and_store
    from conform_bids.glm.save import save_outputs
    from conform_bids.numerics.compute import Compute

    _, planned = plan_files(dataset, folder / "out", *flags, opened=opened)
    fits = []
    for plan in planned.jobs:
        work = folder / plan.name
        for part in ("load", "fit"):
            (work / part).mkdir(parents=True)
        loaded = read_loaded(load_fit(plan, work / "load"))
        results = fit_and_store(plan, loaded, work / "fit", Compute())
        summary = json.loads((work / "fit" / "summary.json").read_text())
        arrays = [path for path in results if path.suffix == ".npy"]
        stimuli = read_tsv(work / "load" / "stimuli.tsv").fillna("n/a")
        written = save_outputs(plan, loaded, load_space(work / "load" / "space.npz"), arrays, summary, stimuli, 1)
        fits.append(FileFit(plan, loaded, work / "fit", summary, tuple(written)))
    return fits


@pytest.fixture(scope="session")
def plan_dataset() -> Callable[..., tuple[Any, Any]]:
    return plan_files


@pytest.fixture(scope="session")
def fit_dataset() -> Callable[..., list[FileFit]]:
    return fit_files


@dataclass(frozen=True)
class AppRun:
    """A run of the app on a dataset, in a process of its own."""

    dataset: Path
    output: Path
    work: Path
    process: subprocess.CompletedProcess[str]
    arguments: tuple[str, ...] = field(default=())

    def files(self) -> list[str]:
        return tree(self.output)

    def find(self, pattern: str) -> Path:
        (path,) = self.output.glob(pattern)
        return path

    def sidecar(self, pattern: str) -> dict[str, Any]:
        return dict(json.loads(self.find(pattern).read_text()))

    def table(self, pattern: str) -> pd.DataFrame:
        return pd.read_csv(self.find(pattern), sep="\t", dtype=str, keep_default_na=False)

    def at(self, output: Path) -> AppRun:
        return replace(self, output=output)


def run_here(_app: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Like the fixture run_app, but in this process, one node after the other: no time goes into imports and workers."""
    from bids_app.glm.__main__ import APP
    from bids_app.run import main

    typed = [*map(str, arguments), "--debug", "workflow"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main(APP, typed)
    return subprocess.CompletedProcess(typed, status, output.getvalue(), errors.getvalue())


def _run(run_app: RunApp, folder: Path, dataset: Path, *arguments: str) -> AppRun:
    output, work = folder / "out", folder / "work"
    flags = ("-w", str(work), "--nprocs", str(min(2, os.cpu_count() or 1)), "--omp-nthreads", "1", "--device", "cpu", *arguments)
    process = run_app("glm", dataset, output, *flags, cwd=folder)
    return AppRun(dataset, output, work, process, flags)


@pytest.fixture(scope="session")
def simulated_run(simulated_dataset: Any, run_app: RunApp, tmp_path_factory: pytest.TempPathFactory) -> AppRun:
    """All models on the shared simulated dataset; tests must not write to its output."""
    models = ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr", "conform")
    folder = tmp_path_factory.mktemp("simulated_run")
    return _run(run_app, folder, simulated_dataset.path, "participant", "group", "--model", *models)


@pytest.fixture(scope="session")
def haxby_run(real_data: Path, run_app: RunApp, tmp_path_factory: pytest.TempPathFactory) -> AppRun:
    """The real half slice with GLMsingle's three models of single trials, as GLMsingle fits them."""
    folder = tmp_path_factory.mktemp("haxby_run")
    models = ("fithrf", "fithrfdenoise", "fithrfdenoiserr")
    return _run(run_app, folder, real_data / "haxby-slice", "participant", "group", "--model", *models, "--compat", "glmsingle")


@pytest.fixture(scope="session")
def run_glm(run_app: RunApp) -> Callable[..., AppRun]:
    """`run_glm(folder, dataset, *arguments)`: output and work folder go to ``folder``; ``here=True`` runs it in this process."""
    return lambda folder, dataset, *arguments, here=False: _run(run_here if here else run_app, folder, dataset, *arguments)
