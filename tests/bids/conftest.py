"""A small raw dataset with its fMRIPrep derivative, all files empty unless a test fills them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest


def _touch(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("" if content is None else content if isinstance(content, str) else json.dumps(content))
    return path


def _build(
    root: Path,
    *,
    participants: Sequence[str] = ("01", "02"),
    sessions: Sequence[str] = ("01", "02"),
    runs: Sequence[str] = ("01", "02"),
    spaces: Sequence[str] = ("space-T1w", "space-MNI152NLin2009cAsym_res-2"),
    surfaces: bool = False,
    fmriprep: str = "derivatives/fmriprep",
    description: Mapping[str, object] | None = None,
) -> Path:
    derivative = root / fmriprep
    _touch(root / "dataset_description.json", {"Name": "raw", "BIDSVersion": "1.8.0", "DatasetType": "raw"})
    _touch(root / "task-nsd_bold.json", {"RepetitionTime": 1.6, "TaskName": "nsd"})
    made_by = {"Name": "d", "BIDSVersion": "1.8.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.2.0"}]}
    _touch(derivative / "dataset_description.json", made_by if description is None else description)
    for participant in participants:
        for session in sessions:
            for run in runs:
                prefix = f"sub-{participant}_ses-{session}_task-nsd_run-{run}"
                folder = f"sub-{participant}/ses-{session}/func"
                _touch(root / folder / f"{prefix}_bold.nii.gz")
                _touch(root / folder / f"{prefix}_events.tsv", "onset\tduration\ttrial_type\n1\t2\ta\n")
                _touch(derivative / folder / f"{prefix}_desc-confounds_timeseries.tsv", "a\n1\n")
                for space in spaces:
                    label = f"{space}_" if space else ""
                    _touch(derivative / folder / f"{prefix}_{label}desc-preproc_bold.nii.gz")
                    _touch(derivative / folder / f"{prefix}_{label}desc-preproc_bold.json", {"RepetitionTime": 1.6, "StartTime": 0.8})
                    _touch(derivative / folder / f"{prefix}_{label}desc-brain_mask.nii.gz")
                if surfaces:
                    _touch(derivative / folder / f"{prefix}_space-fsLR_den-91k_bold.dtseries.nii")
                    for hemisphere in "LR":
                        _touch(derivative / folder / f"{prefix}_hemi-{hemisphere}_space-fsaverage5_bold.func.gii")
    return root


@pytest.fixture
def touch() -> Callable[..., Path]:
    """Write a file (empty, a text or JSON), its folders made."""
    return _touch


@pytest.fixture
def build_dataset() -> Callable[..., Path]:
    """Build a raw dataset with its fMRIPrep derivative at a folder."""
    return _build
