"""A tiny dataset to break, and ways to run conform-glm on it as a user or a batch system would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

SHAPE = (6, 5, 4)
N_VOLUMES = 60
TR = 2.0
SPACE = "MNI152NLin2009cAsym"
RUNS = ("1", "2", "3")
ONSETS = tuple(4.0 + 9.0 * k for k in range(12))


@dataclass(frozen=True)
class Tiny:
    """Paths of a tiny raw dataset with fMRIPrep's derivative."""

    root: Path

    @property
    def fmriprep(self) -> Path:
        return self.root / "derivatives" / "fmriprep"

    def events(self, participant: str = "01", run: str = "1") -> Path:
        return self.root / f"sub-{participant}" / "func" / f"sub-{participant}_task-x_run-{run}_events.tsv"

    def derived(self, ending: str, participant: str = "01", run: str = "1") -> Path:
        return self.fmriprep / f"sub-{participant}" / "func" / f"sub-{participant}_task-x_run-{run}_{ending}"

    def bold(self, participant: str = "01", run: str = "1") -> Path:
        return self.derived(f"space-{SPACE}_desc-preproc_bold.nii.gz", participant, run)

    def mask(self, participant: str = "01", run: str = "1") -> Path:
        return self.derived(f"space-{SPACE}_desc-brain_mask.nii.gz", participant, run)

    def confounds(self, participant: str = "01", run: str = "1") -> Path:
        return self.derived("desc-confounds_timeseries.tsv", participant, run)

    def sidecar(self, participant: str = "01", run: str = "1") -> Path:
        return self.derived(f"space-{SPACE}_desc-preproc_bold.json", participant, run)


@dataclass(frozen=True)
class Done:
    """How a process of the app ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    def expect(self, status: int, *told: str) -> Done:
        """Check the exit status, that all of these were told, and that no traceback was."""
        assert self.returncode == status, self.text
        for fragment in told:
            assert fragment in self.text, f"{fragment!r} is not in:\n{self.text}"
        assert "Traceback" not in self.text, self.text
        return self


def write_json(content: Mapping[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_volume(values: np.ndarray, path: Path, *, tr: float | None = None, affine: np.ndarray | None = None) -> None:
    """Write a NIfTI file; without ``tr`` its header gives no unit of time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([3.0, 3.0, 3.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec" if tr else "unknown")
    if values.ndim == 4:
        image.header.set_zooms((3.0, 3.0, 3.0, tr or 0.0))
    nib.save(image, path)


def event_rows(names: Sequence[str], onsets: Sequence[float] = ONSETS) -> str:
    rows = [f"{onset:g}\t1\t{name}" for onset, name in zip(onsets, names, strict=True)]
    return "\n".join(["onset\tduration\ttrial_type", *rows]) + "\n"


def conditions(run: int) -> list[str]:
    """Six conditions, each twice a run, in an order of the run's own."""
    return [f"c{k}" for k in np.random.default_rng(run).permutation(np.repeat(np.arange(6), 2))]


def bold_values(seed: int, n_volumes: int = N_VOLUMES) -> np.ndarray:
    """Responses to the trials in half of the voxels, over noise; float32, shape SHAPE + (n_volumes,)."""
    generator = np.random.default_rng(seed)
    times = np.arange(n_volumes) * TR
    response = sum(np.clip(times - onset, 0, None) ** 3 * np.exp(-np.clip(times - onset, 0, None) / 1.5) for onset in ONSETS)
    gain = generator.uniform(0, 4, SHAPE)
    gain[:3] = 0
    noise = generator.normal(0, 4, (*SHAPE, n_volumes))
    return (1000 + gain[..., None] * response / response.max() * 5 + noise).astype(np.float32)


def build_tiny(root: Path, participants: Sequence[str] = ("01", "02")) -> Tiny:
    """Write the dataset."""
    tiny = Tiny(root)
    write_json(
        {"Name": "tiny", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "CC0", "Authors": ["A"]},
        root / "dataset_description.json",
    )
    (root / "README").write_text("A tiny dataset for tests.\n")
    write_json({"TaskName": "x", "RepetitionTime": TR}, root / "task-x_bold.json")
    made_by = {
        "Name": "fMRIPrep",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.1"}],
    }
    write_json(made_by, tiny.fmriprep / "dataset_description.json")
    for number, participant in enumerate(participants):
        for run in RUNS:
            seed = 10 * number + int(run)
            raw_bold = tiny.events(participant, run).with_name(f"sub-{participant}_task-x_run-{run}_bold.nii.gz")
            write_volume(bold_values(seed, 4), raw_bold, tr=TR)
            tiny.events(participant, run).write_text(event_rows(conditions(int(run))))
            write_volume(bold_values(seed), tiny.bold(participant, run), tr=TR)
            write_json(
                {"RepetitionTime": TR, "StartTime": 0.0, "SliceTimingCorrected": True, "SkullStripped": False},
                tiny.sidecar(participant, run),
            )
            mask = np.ones(SHAPE, dtype=np.uint8)
            mask[0] = 0
            write_volume(mask, tiny.mask(participant, run))
            motion = np.random.default_rng(seed).normal(0, 0.01, (N_VOLUMES, 2))
            lines = ["trans_x\ttrans_x_derivative1", *(f"{x:.5f}\t{'n/a' if k == 0 else f'{y:.5f}'}" for k, (x, y) in enumerate(motion))]
            tiny.confounds(participant, run).write_text("\n".join(lines) + "\n")
    return tiny


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The dataset as it should be; tests must not write to it."""
    return build_tiny(tmp_path_factory.mktemp("pristine") / "ds")


@pytest.fixture
def tiny(pristine: Tiny, tmp_path: Path) -> Tiny:
    """A copy of the dataset, to break."""
    return Tiny(Path(shutil.copytree(pristine.root, tmp_path / "ds", symlinks=True)))


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **changes}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bids_app.glm", *map(str, arguments)]


RunGLM = Callable[..., Done]


def run_app(
    bids_dir: Path,
    output_dir: Path,
    *arguments: object,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
    validate: bool = False,
    timeout: float = 120,
) -> Done:
    """Run conform-glm in a process of its own; the work folder is beside ``output_dir`` and nothing is validated, unless asked."""
    options = [] if validate else ["--skip-bids-validation"]
    if "-w" not in arguments:
        options += ["-w", str(output_dir.parent / "work")]
    done = subprocess.run(
        [*prefix, python, *command(bids_dir, output_dir, "participant", "--nprocs", "2", *options, *arguments)[1:]],
        capture_output=True, text=True, timeout=timeout, check=False, cwd=output_dir.parent, env=environment(**(env or {})),
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def run_glm() -> RunGLM:
    """`run_app`, for tests."""
    return run_app


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """What writes and describes a tiny dataset."""
    return SimpleNamespace(
        dataset=build_tiny, volume=write_volume, json=write_json, events=event_rows, conditions=conditions, bold=bold_values,
        shape=SHAPE, n_volumes=N_VOLUMES, onsets=ONSETS, tr=TR, command=command, environment=environment, Tiny=Tiny, Done=Done,
    )  # fmt: skip


@pytest.fixture
def plan_glm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunGLM:
    """Plan a run in this process (``--dry-run``): what goes wrong before anything is computed."""

    def run(bids_dir: Path, output_dir: Path, *arguments: object, validate: bool = False) -> Done:
        from bids_app.glm.__main__ import APP
        from bids_app.run import main

        options = [] if validate else ["--skip-bids-validation"]
        work = [] if "-w" in arguments else ["-w", tmp_path / "work"]
        capsys.readouterr()
        try:
            status = main(APP, [str(item) for item in (bids_dir, output_dir, "participant", *work, "--dry-run", *options, *arguments)])
        except SystemExit as ended:  # argparse
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return run
