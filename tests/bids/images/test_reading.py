"""What is read is what nibabel reads, a volume at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from conform_bids.bids import images
from conform_bids.bids.images import CiftiSpace, SurfaceSpace, VolumeSpace
from conform_bids.errors import UnusableInputError

SHAPE = (5, 4, 3)
AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2.5, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
N_VOLUMES = 7


def test_volume_series_is_what_nibabel_reads(bold: Path, mask: Path, volume: VolumeSpace) -> None:
    inside = np.asarray(nib.load(mask).dataobj) > 0
    values = images.read_bold([bold], volume, n_volumes=N_VOLUMES)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, np.asarray(nib.load(bold).dataobj)[inside].T)
    np.testing.assert_array_equal(volume.to_volume(values[3])[inside], values[3])
    assert np.isnan(volume.to_volume(values[3])[~inside]).all()


def test_without_a_mask_every_voxel_is_a_unit(bold: Path) -> None:
    assert images.read_space([bold], None, "T1w").n_units == np.prod(SHAPE)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float64", ">f4", ">i2"])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_types_and_byte_orders(tmp_path: Path, dtype: str, extension: str) -> None:
    data = np.random.default_rng(4).integers(0, 120, (*SHAPE, 3)).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    path = tmp_path / f"x_bold{extension}"
    nib.save(nib.Nifti1Image(data, AFFINE, header), path)
    space = images.read_space([path], None, "T1w")
    np.testing.assert_array_equal(images.read_bold([path], space), data.reshape(-1, 3).T.astype(np.float32))


def test_scaling_is_honoured(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(5).normal(1000, 3, (*SHAPE, 4)), AFFINE)
    image.header.set_data_dtype(np.int16)  # nibabel then stores a slope and an intercept
    path = tmp_path / "x_bold.nii.gz"
    nib.save(image, path)
    proxy = nib.load(path).dataobj
    assert (proxy.slope, proxy.inter) != (1, 0)
    values = images.read_bold([path], images.read_space([path], None, "T1w"))
    np.testing.assert_allclose(values, np.asarray(proxy).reshape(-1, 4).T, rtol=1e-6)


def test_nan_and_inf_are_kept(make: SimpleNamespace, tmp_path: Path) -> None:
    data = np.ones((*SHAPE, 3))
    data[0, 0, 0, 1], data[1, 2, 0, 2] = np.nan, -np.inf
    path = make.nifti(tmp_path / "x_bold.nii", data)
    values = images.read_bold([path], images.read_space([path], None, "T1w"))
    np.testing.assert_array_equal(values, data.reshape(-1, 3).T.astype(np.float32))


def test_dense_series(make: SimpleNamespace, dtseries: Path) -> None:
    space = images.read_space([dtseries], None, "fsLR", "91k")
    assert isinstance(space, CiftiSpace)
    assert space.axis() == make.brain_models()
    np.testing.assert_array_equal(images.read_bold([dtseries], space), nib.load(dtseries).get_fdata().astype(np.float32))


def test_dense_series_in_several_blocks(dtseries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = images.read_space([dtseries], None, "fsLR", "91k")
    whole = images.read_bold([dtseries], space)
    monkeypatch.setattr("conform_bids.bids.grayordinates._BLOCK_BYTES", 2 * N_VOLUMES * 4)
    np.testing.assert_array_equal(images.read_bold([dtseries], space), whole)


@pytest.mark.parametrize("encoding", ["GIFTI_ENCODING_B64GZ", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_ASCII"])
def test_hemispheres_are_read_together(make: SimpleNamespace, tmp_path: Path, encoding: str) -> None:
    rng = np.random.default_rng(6)
    left, right = rng.normal(size=(4, 12)).astype(np.float32), rng.normal(size=(4, 11)).astype(np.float32)
    files = [make.func_gii(tmp_path / "hemi-L.func.gii", left, encoding), make.func_gii(tmp_path / "hemi-R.func.gii", right, encoding)]
    space = images.read_space(files, None, "fsaverage", "164k")
    values = images.read_bold(files, space)
    np.testing.assert_allclose(values, np.hstack([left, right]), atol=1e-5)
    assert isinstance(space, SurfaceSpace)
    assert [half.shape for half in space.split(values)] == [(4, 12), (4, 11)]


def test_a_series_as_one_matrix_of_vertices_by_time(tmp_path: Path) -> None:
    data = np.arange(20, dtype=np.float32).reshape(5, 4)
    for hemi in "LR":
        nib.save(nib.gifti.GiftiImage(darrays=[nib.gifti.GiftiDataArray(data)]), tmp_path / f"{hemi}.func.gii")
    files = [tmp_path / "L.func.gii", tmp_path / "R.func.gii"]
    np.testing.assert_array_equal(images.read_bold(files, images.read_space(files, None, "fsnative"))[:, :5], data.T)


def test_headers_describe_the_series(bold: Path, dtseries: Path, hemispheres: tuple[Path, Path]) -> None:
    volume = images.describe_bold([bold])
    assert (volume.n_volumes, volume.repetition_time_s, volume.n_units_total) == (N_VOLUMES, 1.5, 60)
    dense = images.describe_bold([dtseries])
    assert (dense.n_volumes, dense.repetition_time_s, dense.n_units_total) == (N_VOLUMES, pytest.approx(0.8), 9)
    surface = images.describe_bold(hemispheres)
    assert (surface.n_volumes, surface.repetition_time_s, surface.n_units_total) == (N_VOLUMES, None, 23)
    assert len({volume.grid, dense.grid, surface.grid}) == 3


@pytest.mark.parametrize(
    ("units", "tr", "expected"), [("msec", 1500, 1.5), ("sec", 0.72, 0.72), ("unknown", 1.0, None), ("sec", 0.0, None)]
)
def test_repetition_time_needs_its_unit(make: SimpleNamespace, tmp_path: Path, units: str, tr: float, expected: float | None) -> None:
    path = make.nifti(tmp_path / "x_bold.nii.gz", np.ones((*SHAPE, 2)), tr=tr, units=units)
    found = images.describe_bold([path]).repetition_time_s
    assert found == (None if expected is None else pytest.approx(expected))


def test_reading_keeps_only_the_mask_in_memory(make: SimpleNamespace, tmp_path: Path) -> None:
    shape, n_volumes = (40, 40, 20), 100
    data = np.random.default_rng(7).integers(0, 1000, (*shape, n_volumes)).astype(np.int16)
    path = make.nifti(tmp_path / "x_bold.nii.gz", data, dtype="int16")
    inside = np.zeros(shape)
    inside[10:30, 10:30, 5:15] = 1
    space = images.read_space([path], make.nifti(tmp_path / "x_mask.nii.gz", inside, dtype="uint8"), "T1w")
    tracemalloc.start()
    values = images.read_bold([path], space)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.shape == (n_volumes, 4000)
    assert peak < values.nbytes + 2**20  # the whole run is 6.4 MB as int16, and would be 25 MB as float64


def test_real_bold(real_data: Path) -> None:
    func = real_data / "haxby-slice" / "derivatives" / "fmriprep" / "sub-01" / "func"
    stem = "sub-01_task-objectviewing_run-01_space-T1w_desc"
    path, mask_path = func / f"{stem}-preproc_bold.nii.gz", func / f"{stem}-brain_mask.nii.gz"
    space = images.read_space([path], mask_path, "T1w")
    inside = np.asarray(nib.load(mask_path).dataobj) > 0
    np.testing.assert_array_equal(images.read_bold([path], space, n_volumes=121), np.asarray(nib.load(path).dataobj)[inside].T)
    assert images.describe_bold([path]).repetition_time_s == 2.5


@pytest.mark.parametrize("kind", ["nifti", "cifti", "gifti"])
def test_parts_are_the_maps(
    kind: str, bold: Path, mask: Path, dtseries: Path, hemispheres: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conform_bids.bids.grayordinates._BLOCK_BYTES", 100)  # three grayordinates a part
    paths = {"nifti": [bold], "cifti": [dtseries], "gifti": list(hemispheres)}[kind]
    space = images.read_space(paths, mask if kind == "nifti" else None, "T1w")
    expected = images.read_maps(paths, space)
    found, n_parts = np.full_like(expected, np.nan), 0
    for rows, columns, values in images.iter_maps(paths, space):
        assert values.dtype == np.float32 and np.isnan(found[rows, columns]).all()
        found[rows, columns] = values
        n_parts += 1
    np.testing.assert_array_equal(found, expected)
    assert n_parts == (3 if kind == "cifti" else len(expected))
    other = images.read_space([bold] if kind != "nifti" else [dtseries], None, "T1w")
    with pytest.raises(UnusableInputError, match="its grid is not that of"):
        next(images.iter_maps(paths, other))
