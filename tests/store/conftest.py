"""Small derivatives of single-trial betas of two datasets, with planted duplicates of stimuli, and the store of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis
from PIL import Image

from conform_bids.bids.trials import TRIAL_COLUMNS
from conform_bids.store.inputs import find_inputs
from conform_bids.store.release import write_release

N_UNITS = 50
SHAPE = (5, 5, 2)


def _json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def picture(path: Path, content: int, size: int = 64, **options: int) -> None:
    """An image whose look is decided by its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(content).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(path, **options)


def _save_maps(folder: Path, stem: str, kind: str, values: np.ndarray) -> None:
    space = {"cifti": "space-fsLR_den-91k", "nifti": "space-MNI152NLin2009cAsym_res-2", "gifti": "space-fsaverage5"}[kind]
    tail = f"{space}_stat-effect_desc-conform_statmap"
    content = {"Units": "percent signal change", "SkullStripped": True, "FitIncludesTest": False}
    if kind == "cifti":
        half = N_UNITS // 2
        models = [BrainModelAxis.from_surface(np.arange(half), 60, f"CIFTI_STRUCTURE_CORTEX_{side}") for side in ("LEFT", "RIGHT")]
        axes = (ScalarAxis([f"trial {k}" for k in range(len(values))]), models[0] + models[1])
        Cifti2Image(values.astype(np.float32), axes).to_filename(folder / f"{stem}_{tail}.dscalar.nii")
    elif kind == "nifti":
        data = values.T.reshape(*SHAPE, len(values)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"{stem}_{tail}.nii.gz")
        inside = np.ones(SHAPE, dtype=np.uint8)
        inside[0, 0, 0] = 0
        nib.save(nib.Nifti1Image(inside, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"{stem}_{space}_desc-brain_mask.nii.gz")
    else:
        for side, part in (("L", values[:, : N_UNITS // 2]), ("R", values[:, N_UNITS // 2 :])):
            arrays = [nib.gifti.GiftiDataArray(row.astype(np.float32)) for row in part]
            nib.save(nib.gifti.GiftiImage(darrays=arrays), folder / f"{stem}_hemi-{side}_{tail}.func.gii")
            _json(folder / f"{stem}_hemi-{side}_{tail}.json", content)
        return
    _json(folder / f"{stem}_{tail}.json", content)


def write_dataset(
    root: Path,
    stimuli: dict[str, str],
    *,
    participants: Sequence[str] = ("01", "02"),
    sessions: Sequence[str] = ("01", "02"),
    repeats: int = 2,
    kind: str = "cifti",
    seed: int = 0,
    flagged: int = 0,
) -> dict[str, np.ndarray]:
    """A raw dataset with conform-glm's derivative; ``stimuli`` gives the split by stim_id. Returns each participant's betas."""
    generator = np.random.default_rng(seed)
    _json(root / "dataset_description.json", {"Name": root.name, "BIDSVersion": "1.10.0", "License": "CC0"})
    glm = root / "derivatives" / "conform-glm"
    made = {"Name": "conform-glm outputs", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    _json(glm / "dataset_description.json", {**made, "GeneratedBy": [{"Name": "conform-glm", "Version": "0"}]})
    betas: dict[str, list[np.ndarray]] = {}
    for label in participants:
        truth = {stim_id: generator.standard_normal(N_UNITS) for stim_id in stimuli}
        for session in sessions:
            order = generator.permutation(np.repeat(sorted(stimuli), repeats)).tolist()
            values = np.stack([truth[name] for name in order]) + generator.standard_normal((len(order), N_UNITS))
            values = values * 3 + (10 if session == "01" else 20)
            values[:, 7] = 4.0
            folder = glm / f"sub-{label}" / f"ses-{session}" / "func"
            folder.mkdir(parents=True, exist_ok=True)
            stem = f"sub-{label}_ses-{session}_task-look"
            _save_maps(folder, stem, kind, values)
            columns = {
                "trial": range(len(order)),
                "session_id": session,
                "run_id": "01",
                "onset": np.arange(len(order)) * 4.0,
                "duration": 2.0,
                "trial_type": "image",
                "stim_id": order,
                "condition": [sorted(stimuli).index(name) for name in order],
                "repetition": 0,
                "split": [stimuli[name] for name in order],
                "flag": ["cut off" if place < flagged else "n/a" for place in range(len(order))],
            }
            table = pd.DataFrame(columns)[list(TRIAL_COLUMNS)]
            table.to_csv(folder / f"{stem}_desc-conform_trials.tsv", sep="\t", index=False, na_rep="n/a")
            events = table[["onset", "duration", "trial_type", "stim_id", "split"]]
            raw = root / f"sub-{label}" / f"ses-{session}" / "func"
            raw.mkdir(parents=True, exist_ok=True)
            events.to_csv(raw / f"{stem}_run-01_events.tsv", sep="\t", index=False)
            betas.setdefault(label, []).append(values)
    return {label: np.concatenate(parts) for label, parts in betas.items()}


def first_dataset(root: Path) -> dict[str, np.ndarray]:
    """20 stimuli: a00 to a03 test, a04 artificial, a05 without a word; a19 is a00 under another name, a18 a rescaled a01."""
    marks = {f"a{k:02d}.png": "test" if k < 4 else "artificial" if k == 4 else "n/a" if k == 5 else "train" for k in range(20)}
    for k in range(20):
        picture(root / "stimuli" / f"a{k:02d}.png", {19: 0, 18: 1}.get(k, k), size=80 if k == 18 else 64)
    return write_dataset(root, marks)


def second_dataset(root: Path, kind: str = "cifti") -> dict[str, np.ndarray]:
    """12 stimuli: b00 to b02 are a06 to a08, and b00 is test here."""
    marks = {f"b{k:02d}.png": "test" if k in (0, 11) else "train" for k in range(12)}
    for k in range(12):
        picture(root / "stimuli" / f"b{k:02d}.png", {0: 6, 1: 7, 2: 8}.get(k, 100 + k))
    return write_dataset(root, marks, participants=("01",), seed=5, kind=kind)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two datasets, their betas, and a store of the first; not to be changed."""
    root = tmp_path_factory.mktemp("world")
    one, two = first_dataset(root / "one"), second_dataset(root / "two")
    inputs = [find_inputs("One", root / "one"), find_inputs("Two", root / "two")]
    release = write_release(inputs[:1], root / "store")
    return SimpleNamespace(root=root, one=one, two=two, inputs=inputs, store=root / "store", release=release)


@pytest.fixture
def store(world: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the store, to be changed."""
    return Path(shutil.copytree(world.store, tmp_path / "store"))


@pytest.fixture
def make_second() -> object:
    """Writer of the second dataset, of any kind of image."""
    return second_dataset


@pytest.fixture
def make_dataset() -> object:
    """Writer of a dataset without images."""
    return write_dataset


@pytest.fixture(scope="session")
def make_one() -> object:
    """The same, for fixtures that many tests share."""
    return write_dataset
