"""What is written comes back with its geometry, names and intent, streamed and the same every time."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import ScalarAxis

from conform_bids.bids import images
from conform_bids.bids.images import VolumeSpace

SHAPE = (5, 4, 3)
AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2.5, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


def test_volumes_come_back_with_their_geometry(tmp_path: Path, bold: Path, volume: VolumeSpace) -> None:
    betas = np.random.default_rng(8).normal(size=(4, volume.n_units)).astype(np.float32)
    path = tmp_path / "out" / "x_statmap.nii.gz"
    images.write_maps(betas, volume, [path])
    written, original = nib.load(path), nib.load(bold)
    np.testing.assert_array_equal(written.get_fdata()[volume.mask].T.astype(np.float32), betas)
    assert np.isnan(written.get_fdata()[~volume.mask]).all()
    for name in ("qform_code", "sform_code"):
        assert written.header[name] == original.header[name]
    np.testing.assert_allclose(written.affine, original.affine)
    np.testing.assert_allclose(written.get_qform(), original.get_qform(), atol=1e-5)
    np.testing.assert_allclose(written.header.get_zooms()[:3], original.header.get_zooms()[:3])
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.header.get_intent()[0] == "estimate"
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(images.read_maps([path], volume), betas)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_one_value_a_unit_gives_three_dimensions(tmp_path: Path, volume: VolumeSpace, extension: str) -> None:
    values = np.arange(volume.n_units, dtype=np.float32)
    images.write_maps(values, volume, [tmp_path / f"x{extension}"], ["R squared"])
    written = nib.load(tmp_path / f"x{extension}")
    assert written.shape == SHAPE
    assert written.header.get_intent()[2] == "R squared"
    np.testing.assert_array_equal(images.read_maps([tmp_path / f"x{extension}"], volume), values[np.newaxis])


def test_masks_and_integers_are_zero_outside(tmp_path: Path, volume: VolumeSpace) -> None:
    images.write_maps(np.ones(volume.n_units, dtype=bool), volume, [tmp_path / "mask.nii.gz"])
    images.write_maps(np.full(volume.n_units, 7), volume, [tmp_path / "index.nii.gz"], dtype=np.int16)
    mask, index = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "index.nii.gz")
    assert (mask.get_data_dtype(), index.get_data_dtype()) == (np.uint8, np.int16)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), volume.mask)
    np.testing.assert_array_equal(np.asarray(index.dataobj), np.where(volume.mask, 7, 0))


def test_unset_transforms_stay_unset(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((*SHAPE, 2), dtype=np.float32), None)
    image.header.set_zooms((2, 3, 4, 1))
    nib.save(image, tmp_path / "x.nii")
    space = images.read_space([tmp_path / "x.nii"], None, "T1w")
    images.write_maps(np.ones(space.n_units), space, [tmp_path / "y.nii"])
    written = nib.load(tmp_path / "y.nii")
    assert (written.header["qform_code"], written.header["sform_code"]) == (0, 0)
    np.testing.assert_allclose(written.affine, nib.load(tmp_path / "x.nii").affine)


def test_bytes_are_reproducible_whatever_the_threads(tmp_path: Path, volume: VolumeSpace) -> None:
    betas = np.random.default_rng(9).normal(size=(12, volume.n_units)).astype(np.float32)
    for k, n_threads in enumerate((1, 1, 4)):
        images.write_maps(betas, volume, [tmp_path / f"{k}.nii.gz"], n_threads=n_threads)
    first, *others = [(tmp_path / f"{k}.nii.gz").read_bytes() for k in range(3)]
    assert all(other == first for other in others)
    assert first[4:8] == b"\x00" * 4  # no time stamp
    decompressor = zlib.decompressobj(31)
    assert decompressor.decompress(first) == gzip.decompress(first)
    assert decompressor.eof
    assert not decompressor.unused_data  # one member, as some readers stop after the first


def test_writing_streams_trials(make: SimpleNamespace, tmp_path: Path) -> None:
    shape = (30, 30, 30)
    path = make.nifti(tmp_path / "x.nii", np.ones((*shape, 2)))
    inside = np.zeros(shape)
    inside[:10] = 1
    space = images.read_space([path], make.nifti(tmp_path / "m.nii", inside, dtype="uint8"), "T1w")
    betas = np.zeros((300, space.n_units), dtype=np.float32)
    tracemalloc.start()
    images.write_maps(betas, space, [tmp_path / "betas.nii.gz"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20  # dense and in float64 they would be 65 MB
    assert nib.load(tmp_path / "betas.nii.gz").shape == (*shape, 300)


def test_more_trials_than_nifti1_can_count(make: SimpleNamespace, tmp_path: Path) -> None:
    path = make.nifti(tmp_path / "x.nii", np.ones((2, 1, 1, 2)))
    space = images.read_space([path], None, "T1w")
    betas = np.arange(2 * 40_000, dtype=np.float32).reshape(40_000, 2)
    images.write_maps(betas, space, [tmp_path / "betas.nii"])
    np.testing.assert_array_equal(images.read_maps([tmp_path / "betas.nii"], space), betas)


def test_dense_scalars_keep_brain_models_and_names(make: SimpleNamespace, tmp_path: Path, dtseries: Path) -> None:
    space = images.read_space([dtseries], None, "fsLR", "91k")
    betas = np.random.default_rng(10).normal(size=(3, 9)).astype(np.float32)
    path = tmp_path / "x_statmap.dscalar.nii"
    names = ["trial-00000 face", "trial-00001 <b>&house</b>", "trial-00002\x07caf\u00e9"]
    images.write_maps(betas, space, [path], names)
    written = nib.load(path)
    assert written.header.get_axis(1) == make.brain_models()
    assert isinstance(written.header.get_axis(0), ScalarAxis)
    assert list(written.header.get_axis(0).name) == [*names[:2], "trial-00002 caf\u00e9"]
    assert written.nifti_header.get_intent()[::2] == ("ConnDenseScalar", "ConnDenseScalar")
    np.testing.assert_array_equal(written.get_fdata().astype(np.float32), betas)
    np.testing.assert_array_equal(images.read_maps([path], space), betas)


def test_dense_scalars_equal_what_nibabel_writes(
    make: SimpleNamespace, tmp_path: Path, dtseries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conform_bids.bids.grayordinates._BLOCK_BYTES", 30)
    betas = np.arange(27, dtype=np.float32).reshape(3, 9)
    images.write_maps(betas, images.read_space([dtseries], None, "fsLR"), [tmp_path / "ours.dscalar.nii"], ["a", "b", "c"])
    theirs = Cifti2Image(betas, header=(ScalarAxis(["a", "b", "c"]), make.brain_models()))
    theirs.nifti_header.set_intent("NIFTI_INTENT_CONNECTIVITY_DENSE_SCALARS", name="ConnDenseScalar")
    theirs.to_filename(tmp_path / "theirs.dscalar.nii")
    assert (tmp_path / "ours.dscalar.nii").read_bytes() == (tmp_path / "theirs.dscalar.nii").read_bytes()


def test_gifti_has_an_array_a_map_and_its_structure(tmp_path: Path, hemispheres: tuple[Path, Path]) -> None:
    space = images.read_space(hemispheres, None, "fsaverage", "164k")
    betas = np.random.default_rng(11).normal(size=(3, 23)).astype(np.float32)
    paths = [tmp_path / "hemi-L_statmap.func.gii", tmp_path / "hemi-R_statmap.func.gii"]
    images.write_maps(betas, space, paths, ["a", "b & <c>", "d\x00e"])
    for path, structure, half in zip(paths, ("CortexLeft", "CortexRight"), (betas[:, :12], betas[:, 12:]), strict=True):
        written = nib.load(path)
        assert written.meta["AnatomicalStructurePrimary"] == structure
        assert [array.meta["Name"] for array in written.darrays] == ["a", "b & <c>", "d e"]
        np.testing.assert_array_equal([array.data for array in written.darrays], half)
        assert written.darrays[0].data.dtype == np.float32
    np.testing.assert_array_equal(images.read_maps(paths, space), betas)
    images.write_maps(np.arange(23), space, paths, dtype=np.int16)
    assert nib.load(paths[0]).darrays[0].data.dtype == np.int32  # GIFTI has no int16


def test_what_does_not_fit_is_our_bug(tmp_path: Path, volume: VolumeSpace) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        images.write_maps(np.ones(volume.n_units + 1), volume, [tmp_path / "x.nii"])
    with pytest.raises(ValueError, match="NaN"):
        images.write_maps(np.full(volume.n_units, np.nan), volume, [tmp_path / "x.nii"], dtype=np.int16)
    with pytest.raises(ValueError, match="names"):
        images.write_maps(np.ones(volume.n_units), volume, [tmp_path / "x.nii"], ["a", "b"])
    assert not list(tmp_path.glob("x*"))


@settings(max_examples=20)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    n_maps=st.integers(1, 3),
    seed=st.integers(0, 99),
    extension=st.sampled_from([".nii", ".nii.gz"]),
)
def test_any_volume_comes_back(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], n_maps: int, seed: int, extension: str
) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("volume")
    inside = rng.random(shape) > 0.5
    inside.flat[0] = True
    space = VolumeSpace(label="T1w", shape=shape, affine=AFFINE, mask=inside, zooms=(2.0, 2.5, 3.0), qform=AFFINE)
    values = rng.normal(size=(n_maps, space.n_units)).astype(np.float32)
    images.write_maps(values, space, [folder / f"x{extension}"])
    np.testing.assert_array_equal(images.read_maps([folder / f"x{extension}"], space), values)
    np.testing.assert_array_equal(nib.load(folder / f"x{extension}").get_fdata()[inside].T.astype(np.float32), values)
