"""Small derivatives of people who share stimuli, with maps of their own, and runs of conform-align on them."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from in_process import run_here

SHAPE = (8, 6, 5)
N_UNITS = int(np.prod(SHAPE))
N_LATENT = 6
SPACE = "space-MNI152NLin2009cAsym_res-2"


@dataclass(frozen=True)
class PeopleSpec:
    """What a dataset is made of.

    Attributes
    ----------
    people : sequence of str
    stimuli : int
        That all see.
    test : int
        The last of them are held out.
    shift : float
        Standard deviation, in voxels, by which a person's map is displaced; 0: anatomy is right.
    noise : float
        Standard deviation of a trial's noise; there are two trials.
    maker : str
        conform-psn (averages) or conform-glm (single trials).
    hashes : bool
        Whether the table of stimuli has them.
    own : int
        Stimuli of a person's own.
    shape : tuple of int
        Of the grid.
    """

    people: Sequence[str] = ("01", "02", "03", "04")
    stimuli: int = 60
    test: int = 20
    shift: float = 1.6
    noise: float = 0.7
    maker: str = "conform-psn"
    hashes: bool = True
    own: int = 2
    space: str = SPACE
    kind: str = "nifti"
    seed: int = 0
    spacing: float = 2.0
    rename: str = ""
    task: str = "images"
    shape: tuple[int, int, int] = SHAPE


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _tuning(generator: np.random.Generator, spec: PeopleSpec) -> Callable[[np.random.Generator], np.ndarray]:
    """A smooth random map (latent, units) in a larger box, and what a person has of it."""
    from scipy.ndimage import gaussian_filter, shift

    box = tuple(n + 8 for n in SHAPE)
    fields = np.stack([gaussian_filter(generator.standard_normal(box), 1.2) for _ in range(N_LATENT)])
    fields /= fields.std()

    def of_person(own: np.random.Generator) -> np.ndarray:
        moved = [shift(each, spec.shift * own.standard_normal(3), order=1, mode="wrap") for each in fields]
        return np.stack([each[4:-4, 4:-4, 4:-4].ravel() for each in moved])

    return of_person


def _save(values: np.ndarray, folder: Path, stem: str, spec: PeopleSpec, content: dict[str, Any]) -> None:
    """Maps (k, units), with their sidecar; a single one is 3-D."""
    if spec.kind == "nifti":
        data = values.T.reshape(*spec.shape, len(values)).astype(np.float32)
        affine = np.diag([spec.spacing] * 3 + [1.0])
        nib.save(nib.Nifti1Image(data if len(values) > 1 else data[..., 0], affine), folder / f"{stem}.nii.gz")
        _json(folder / f"{stem}.json", content)
        return
    half = N_UNITS // 2
    for side, part in (("L", values[:, :half]), ("R", values[:, half:])):
        name = stem.replace("_space-", f"_hemi-{side}_space-")
        image = nib.gifti.GiftiImage(darrays=[nib.gifti.GiftiDataArray(row.astype(np.float32)) for row in part])
        nib.save(image, folder / f"{name}.func.gii")
        _json(folder / f"{name}.json", content)


def write_people(root: Path, spec: PeopleSpec | None = None) -> Path:
    """A derivative as conform-psn (or -glm) writes it, of people who see the same stimuli."""
    spec = spec or PeopleSpec()
    generator = np.random.default_rng(7)
    latent = generator.standard_normal((spec.stimuli, N_LATENT))
    of_person = _tuning(generator, spec)
    for person in spec.people:
        own = np.random.default_rng([spec.seed, int(person)])
        tuning = of_person(own)
        everything = np.concatenate([latent, own.standard_normal((spec.own, N_LATENT))])
        signal = everything @ tuning
        write_person(root, spec, person, signal, spec.noise * signal.std(), own)
    return root


def write_person(root: Path, spec: PeopleSpec, person: str, signal: np.ndarray, noise: Any, generator: np.random.Generator) -> None:
    """One person of a derivative: two trials of each stimulus, of this signal (stimuli, units) and noise (standard deviation)."""
    described = {"Name": f"{spec.maker} outputs", "BIDSVersion": "1.11.1", "DatasetType": "derivative"}
    _json(root / "dataset_description.json", {**described, "GeneratedBy": [{"Name": spec.maker, "Version": "0"}]})
    trials = [signal + noise * generator.standard_normal(signal.shape) for _ in range(2)]
    names = [f"{spec.rename}s{k:03d}" for k in range(spec.stimuli)] + [f"{spec.rename}own{person}{k}" for k in range(spec.own)]
    split = ["train"] * (spec.stimuli - spec.test) + ["test"] * spec.test + ["train"] * spec.own
    if not spec.test:
        split = ["n/a"] * len(names)
    folder = root / f"sub-{person}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    _save_person(folder, f"sub-{person}_task-{spec.task}", spec, trials, names, split)
    contents = [hashlib.sha256((name.removeprefix(spec.rename)).encode()).hexdigest() if spec.hashes else "n/a" for name in names]
    stimuli = pd.DataFrame({"stim_id": names, "stim_file": "n/a", "sha256": contents})
    (root / "stimuli").mkdir(exist_ok=True)
    stimuli.to_csv(root / "stimuli" / f"sub-{person}_stimuli.tsv", sep="\t", index=False)


def _save_person(folder: Path, stem: str, spec: PeopleSpec, trials: list[np.ndarray], names: list[str], split: list[str]) -> None:
    place = folder.relative_to(folder.parents[1]).as_posix()
    n = len(names)
    if spec.maker == "conform-glm":
        table = pd.DataFrame(
            {
                "trial": range(2 * n), "session_id": "n/a", "run_id": "01", "onset": np.arange(2.0 * n), "duration": 1.0,
                "trial_type": "image", "stim_id": names * 2, "condition": 0, "repetition": [0] * n + [1] * n, "split": split * 2,
                "flag": "n/a",
            }
        )  # fmt: skip
        table.to_csv(folder / f"{stem}_desc-conform_trials.tsv", sep="\t", index=False)
        content = {"TrialTable": f"bids::{place}/{stem}_desc-conform_trials.tsv"}
        _save(np.concatenate(trials), folder, f"{stem}_{spec.space}_stat-effect_desc-conform_statmap", spec, content)
        return
    table = pd.DataFrame({"condition": range(n), "stim_id": names, "n_trials": 2, "split": split, "fold": 0})
    table.to_csv(folder / f"{stem}_{spec.space}_desc-psn_trials.tsv", sep="\t", index=False)
    content = {"TrialTable": f"bids::{place}/{stem}_{spec.space}_desc-psn_trials.tsv"}
    mean = np.mean(trials, axis=0)
    for desc in ("psn", "trialavg"):
        _save(mean, folder, f"{stem}_{spec.space}_stat-effect_desc-{desc}_statmap", spec, content)
        ceiling = np.full((1, mean.shape[1]), 100 / (1 + spec.noise**2 / 2))
        _save(ceiling, folder, f"{stem}_{spec.space}_stat-noiseceiling_desc-{desc}_statmap", spec, {})
    _save(np.full((1, mean.shape[1]), 1 / spec.noise), folder, f"{stem}_{spec.space}_stat-ncsnr_desc-psn_statmap", spec, {})


@pytest.fixture(scope="session")
def validator_errors(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[Any]]:
    """Errors of an output folder: of the stock validator, and of the extended schema with the short .bidsignore."""
    from conform_bids.bids.derivatives import BIDSIGNORE_SHORT

    validator = Path(sys.executable).with_name("bids-validator-deno")

    def check(folder: Path, *arguments: str) -> list[Any]:
        run = subprocess.run([validator, folder, "--json", *arguments], capture_output=True, text=True, timeout=120, check=False)
        issues = [item for item in json.loads(run.stdout)["issues"]["issues"] if item["severity"] == "error"]
        return issues or ([run.stderr] if run.returncode else [])

    def both(folder: Path) -> list[Any]:
        if not validator.exists():
            pytest.skip("bids-validator-deno is not installed")
        pytest.importorskip("bidsschematools")
        place = tmp_path_factory.mktemp("validated")
        schema = place / "schema.json"
        subprocess.run([sys.executable, repository / "tests" / "extended_schema.py", schema], check=True, timeout=60)
        shutil.copytree(folder, place / "copy")
        (place / "copy" / ".bidsignore").write_text("".join(f"{line}\n" for line in BIDSIGNORE_SHORT))
        return [*check(folder), *check(place / "copy", "-s", schema.as_uri())]

    return both


@pytest.fixture(scope="session")
def people_spec() -> type[PeopleSpec]:
    return PeopleSpec


@pytest.fixture(scope="session")
def make_people() -> Callable[..., Path]:
    """`write_people(root, spec)`."""
    return write_people


@pytest.fixture(scope="session")
def make_person() -> Callable[..., None]:
    """`write_person(root, spec, person, signal, noise, generator)`."""
    return write_person


@pytest.fixture(scope="session")
def run_align() -> Callable[..., SimpleNamespace]:
    return functools.partial(run_here, "align")
