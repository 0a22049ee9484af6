"""Images of each kind, small, written by nibabel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis

from conform_bids.bids import images
from conform_bids.bids.images import VolumeSpace

SHAPE = (5, 4, 3)
AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2.5, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
N_VOLUMES = 7


def save_nifti(
    path: Path, data: np.ndarray, *, affine: np.ndarray = AFFINE, tr: float = 1.5, units: str = "sec", dtype: str = "float32"
) -> Path:
    image = nib.Nifti1Image(data.astype(dtype), affine)
    image.header.set_xyzt_units("mm", units)
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    image.header.set_sform(affine, 4)
    image.header.set_qform(affine, 1)
    nib.save(image, path)
    return path


def brain_models() -> BrainModelAxis:
    left = BrainModelAxis.from_surface(np.array([0, 2, 3, 9]), 10, name="CortexLeft")
    right = BrainModelAxis.from_surface(np.array([1, 4, 8]), 10, name="CortexRight")
    thalamus = np.zeros((6, 6, 6), dtype=bool)
    thalamus[2:4, 3, 4] = True
    return left + right + BrainModelAxis.from_mask(thalamus, name="thalamus_left", affine=AFFINE)


def save_dtseries(path: Path, data: np.ndarray, models: BrainModelAxis | None = None, tr: float = 0.8) -> Path:
    axes = (SeriesAxis(0, tr, len(data)), models or brain_models())
    Cifti2Image(data.astype(np.float32), header=axes).to_filename(path)
    return path


def save_func_gii(path: Path, data: np.ndarray, encoding: str = "GIFTI_ENCODING_B64GZ") -> Path:
    arrays = [nib.gifti.GiftiDataArray(row.astype(np.float32), intent="NIFTI_INTENT_TIME_SERIES", encoding=encoding) for row in data]
    nib.save(nib.gifti.GiftiImage(darrays=arrays), path)
    return path


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Writers of images, which return the path, and the brain models of the dense ones."""
    return SimpleNamespace(nifti=save_nifti, dtseries=save_dtseries, func_gii=save_func_gii, brain_models=brain_models)


@pytest.fixture
def bold(tmp_path: Path) -> Path:
    return save_nifti(tmp_path / "sub-01_bold.nii.gz", np.random.default_rng(0).normal(100, 10, (*SHAPE, N_VOLUMES)))


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return save_nifti(tmp_path / "sub-01_mask.nii.gz", np.random.default_rng(1).random(SHAPE) > 0.4, dtype="uint8")


@pytest.fixture
def volume(bold: Path, mask: Path) -> VolumeSpace:
    space = images.read_space([bold], mask, "T1w")
    assert isinstance(space, VolumeSpace)
    return space


@pytest.fixture
def dtseries(tmp_path: Path) -> Path:
    return save_dtseries(tmp_path / "sub-01_bold.dtseries.nii", np.random.default_rng(2).normal(size=(N_VOLUMES, 9)))


@pytest.fixture
def hemispheres(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(3)
    left = save_func_gii(tmp_path / "hemi-L_bold.func.gii", rng.normal(size=(N_VOLUMES, 12)))
    return left, save_func_gii(tmp_path / "hemi-R_bold.func.gii", rng.normal(size=(N_VOLUMES, 11)))
