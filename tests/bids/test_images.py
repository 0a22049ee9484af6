"""Images: what is read is what nibabel reads, what is written comes back with its geometry, and no bad file gets further."""

from __future__ import annotations

import gzip
import pickle
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis, ParcelsAxis, ScalarAxis, SeriesAxis

from conform_bids.bids import images
from conform_bids.bids.images import CiftiSpace, Space, SurfaceSpace, VolumeSpace
from conform_bids.errors import MissingInputError, UnusableInputError

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


@pytest.fixture
def dtseries(tmp_path: Path) -> Path:
    return save_dtseries(tmp_path / "sub-01_bold.dtseries.nii", np.random.default_rng(2).normal(size=(N_VOLUMES, 9)))


def save_func_gii(path: Path, data: np.ndarray, encoding: str = "GIFTI_ENCODING_B64GZ") -> Path:
    arrays = [nib.gifti.GiftiDataArray(row.astype(np.float32), intent="NIFTI_INTENT_TIME_SERIES", encoding=encoding) for row in data]
    nib.save(nib.gifti.GiftiImage(darrays=arrays), path)
    return path


@pytest.fixture
def hemispheres(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(3)
    left = save_func_gii(tmp_path / "hemi-L_bold.func.gii", rng.normal(size=(N_VOLUMES, 12)))
    return left, save_func_gii(tmp_path / "hemi-R_bold.func.gii", rng.normal(size=(N_VOLUMES, 11)))


# Reading


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


def test_nan_and_inf_are_kept(tmp_path: Path) -> None:
    data = np.ones((*SHAPE, 3))
    data[0, 0, 0, 1], data[1, 2, 0, 2] = np.nan, -np.inf
    path = save_nifti(tmp_path / "x_bold.nii", data)
    values = images.read_bold([path], images.read_space([path], None, "T1w"))
    np.testing.assert_array_equal(values, data.reshape(-1, 3).T.astype(np.float32))


def test_dense_series(dtseries: Path) -> None:
    space = images.read_space([dtseries], None, "fsLR", "91k")
    assert isinstance(space, CiftiSpace)
    assert space.axis() == brain_models()
    np.testing.assert_array_equal(images.read_bold([dtseries], space), nib.load(dtseries).get_fdata().astype(np.float32))


def test_dense_series_in_several_blocks(dtseries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = images.read_space([dtseries], None, "fsLR", "91k")
    whole = images.read_bold([dtseries], space)
    monkeypatch.setattr("conform_bids.bids.grayordinates._BLOCK_BYTES", 2 * N_VOLUMES * 4)
    np.testing.assert_array_equal(images.read_bold([dtseries], space), whole)


@pytest.mark.parametrize("encoding", ["GIFTI_ENCODING_B64GZ", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_ASCII"])
def test_hemispheres_are_read_together(tmp_path: Path, encoding: str) -> None:
    rng = np.random.default_rng(6)
    left, right = rng.normal(size=(4, 12)).astype(np.float32), rng.normal(size=(4, 11)).astype(np.float32)
    files = [save_func_gii(tmp_path / "hemi-L.func.gii", left, encoding), save_func_gii(tmp_path / "hemi-R.func.gii", right, encoding)]
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
def test_repetition_time_needs_its_unit(tmp_path: Path, units: str, tr: float, expected: float | None) -> None:
    path = save_nifti(tmp_path / "x_bold.nii.gz", np.ones((*SHAPE, 2)), tr=tr, units=units)
    found = images.describe_bold([path]).repetition_time_s
    assert found == (None if expected is None else pytest.approx(expected))


def test_reading_keeps_only_the_mask_in_memory(tmp_path: Path) -> None:
    shape, n_volumes = (40, 40, 20), 100
    data = np.random.default_rng(7).integers(0, 1000, (*shape, n_volumes)).astype(np.int16)
    path = save_nifti(tmp_path / "x_bold.nii.gz", data, dtype="int16")
    inside = np.zeros(shape)
    inside[10:30, 10:30, 5:15] = 1
    space = images.read_space([path], save_nifti(tmp_path / "x_mask.nii.gz", inside, dtype="uint8"), "T1w")
    tracemalloc.start()
    values = images.read_bold([path], space)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.shape == (n_volumes, 4000)
    assert peak < values.nbytes + 2**20  # the whole run is 6.4 MB as int16, and would be 25 MB as float64


# Writing


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


def test_writing_streams_trials(tmp_path: Path) -> None:
    shape = (30, 30, 30)
    path = save_nifti(tmp_path / "x.nii", np.ones((*shape, 2)))
    inside = np.zeros(shape)
    inside[:10] = 1
    space = images.read_space([path], save_nifti(tmp_path / "m.nii", inside, dtype="uint8"), "T1w")
    betas = np.zeros((300, space.n_units), dtype=np.float32)
    tracemalloc.start()
    images.write_maps(betas, space, [tmp_path / "betas.nii.gz"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20  # dense and in float64 they would be 65 MB
    assert nib.load(tmp_path / "betas.nii.gz").shape == (*shape, 300)


def test_more_trials_than_nifti1_can_count(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "x.nii", np.ones((2, 1, 1, 2)))
    space = images.read_space([path], None, "T1w")
    betas = np.arange(2 * 40_000, dtype=np.float32).reshape(40_000, 2)
    images.write_maps(betas, space, [tmp_path / "betas.nii"])
    np.testing.assert_array_equal(images.read_maps([tmp_path / "betas.nii"], space), betas)


def test_dense_scalars_keep_brain_models_and_names(tmp_path: Path, dtseries: Path) -> None:
    space = images.read_space([dtseries], None, "fsLR", "91k")
    betas = np.random.default_rng(10).normal(size=(3, 9)).astype(np.float32)
    path = tmp_path / "x_statmap.dscalar.nii"
    names = ["trial-00000 face", "trial-00001 <b>&house</b>", "trial-00002\x07caf\u00e9"]
    images.write_maps(betas, space, [path], names)
    written = nib.load(path)
    assert written.header.get_axis(1) == brain_models()
    assert isinstance(written.header.get_axis(0), ScalarAxis)
    assert list(written.header.get_axis(0).name) == [*names[:2], "trial-00002 caf\u00e9"]
    assert written.nifti_header.get_intent()[::2] == ("ConnDenseScalar", "ConnDenseScalar")
    np.testing.assert_array_equal(written.get_fdata().astype(np.float32), betas)
    np.testing.assert_array_equal(images.read_maps([path], space), betas)


def test_dense_scalars_equal_what_nibabel_writes(tmp_path: Path, dtseries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conform_bids.bids.grayordinates._BLOCK_BYTES", 30)
    betas = np.arange(27, dtype=np.float32).reshape(3, 9)
    images.write_maps(betas, images.read_space([dtseries], None, "fsLR"), [tmp_path / "ours.dscalar.nii"], ["a", "b", "c"])
    theirs = Cifti2Image(betas, header=(ScalarAxis(["a", "b", "c"]), brain_models()))
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


# Spaces


@pytest.fixture
def every_space(volume: VolumeSpace, dtseries: Path, hemispheres: tuple[Path, Path]) -> list[Space]:
    return [
        volume,
        images.read_space([dtseries], None, "fsLR", "91k"),
        images.read_space(hemispheres, None, "fsaverage", "164k"),
    ]


def test_spaces_come_back(tmp_path: Path, every_space: list[Space]) -> None:
    for space in every_space:
        space.save(tmp_path / "space.npz")
        loaded = images.load_space(tmp_path / "space.npz")
        assert type(loaded) is type(space)
        for name in ("kind", "label", "density", "resolution", "n_units", "grid_hash", "extension", "source"):
            assert getattr(loaded, name) == getattr(space, name)
        assert loaded.same_grid(space)
        images.write_maps(
            np.ones(space.n_units), loaded, [tmp_path / f"{k}{space.extension}" for k in range(2 if space.kind == "gifti" else 1)]
        )
    assert [space.extension for space in every_space] == [".nii.gz", ".dscalar.nii", ".func.gii"]


def test_a_pickle_is_no_space(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]

    np.save(tmp_path / "object.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "object.npz", identity=np.array([Trap()], dtype=object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("object.npy", "object.npz", "pickle.npz"):
        with pytest.raises(UnusableInputError, match=name):
            images.load_space(tmp_path / name)
    assert not (tmp_path / "opened").exists()


def test_grid_hash_is_of_the_geometry(volume: VolumeSpace) -> None:
    assert volume.grid_hash == replace(volume, mask=~volume.mask, source="", label="MNI").grid_hash
    assert volume.grid_hash == replace(volume, affine=AFFINE + 1e-6).grid_hash
    assert volume.grid_hash != replace(volume, affine=AFFINE + np.eye(4)).grid_hash
    fixed = VolumeSpace(label="x", shape=(1, 1, 1), affine=np.eye(4), mask=np.ones((1, 1, 1), bool), zooms=(1, 1, 1), qform=np.eye(4))
    assert fixed.grid_hash == "5bf6b0598cc0356f619de453fc1f6143cb0301758060cff2c893e928e9f7eee5"


def test_intersection_keeps_voxels_of_every_mask(volume: VolumeSpace) -> None:
    other = replace(volume, mask=np.roll(volume.mask, 1, axis=0))
    both = images.intersect_spaces([volume, other])
    assert isinstance(both, VolumeSpace)
    np.testing.assert_array_equal(both.mask, volume.mask & other.mask)


def test_intersection_of_other_grids_names_the_file(volume: VolumeSpace, dtseries: Path, hemispheres: tuple[Path, Path]) -> None:
    moved = replace(volume, affine=AFFINE + np.diag([0, 0, 0.5, 0]), source="run-02_mask.nii.gz")
    dense = images.read_space([dtseries], None, "fsLR")
    for other in (moved, dense):
        with pytest.raises(UnusableInputError, match=Path(other.source).name):
            images.intersect_spaces([volume, other])
    with pytest.raises(UnusableInputError, match="no voxel"):
        images.intersect_spaces([volume, replace(volume, mask=~volume.mask)])
    assert images.intersect_spaces([dense, dense]) is dense


def test_cifti_values_on_surfaces_and_volume(dtseries: Path) -> None:
    space = images.read_space([dtseries], None, "fsLR")
    assert isinstance(space, CiftiSpace)
    values = np.arange(1.0, 10)
    left, right = space.cortex_left(values), space.cortex_right(values)
    np.testing.assert_array_equal(left, [1, np.nan, 2, 3, *[np.nan] * 5, 4])
    np.testing.assert_array_equal(right, [np.nan, 5, np.nan, np.nan, 6, *[np.nan] * 3, 7, np.nan])
    subcortex = space.subcortex(values)
    assert subcortex is not None
    volume, affine = subcortex
    np.testing.assert_array_equal(volume, np.array([8.0, 9.0]).reshape(2, 1, 1))
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], AFFINE @ [2, 3, 4, 1])


def test_cortex_alone_has_no_subcortex(tmp_path: Path) -> None:
    models = brain_models()[:4]
    space = images.read_space([save_dtseries(tmp_path / "x.dtseries.nii", np.ones((2, 4)), models)], None, "fsLR")
    assert isinstance(space, CiftiSpace)
    assert space.subcortex(np.ones(4)) is None
    assert space.cortex_right(np.ones(4)) is None
    images.write_maps(np.ones(4), space, [tmp_path / "y.dscalar.nii"])
    assert nib.load(tmp_path / "y.dscalar.nii").header.get_axis(1) == models
    space.save(tmp_path / "space.npz")
    assert images.load_space(tmp_path / "space.npz").same_grid(space)


def test_names_of_maps() -> None:
    entities = {"sub": "01", "task": "x", "space": "fsLR", "den": "91k", "stat": "effect", "desc": "fithrf"}
    assert images.map_paths("cifti", entities, "statmap") == (
        "sub-01/func/sub-01_task-x_space-fsLR_den-91k_stat-effect_desc-fithrf_statmap.dscalar.nii",
    )
    left, right = images.map_paths("gifti", entities, "statmap")
    assert left == "sub-01/func/sub-01_task-x_hemi-L_space-fsLR_den-91k_stat-effect_desc-fithrf_statmap.func.gii"
    assert right == left.replace("hemi-L", "hemi-R")
    assert images.map_paths("nifti", {"sub": "01", "task": "x"}, "mask") == ("sub-01/func/sub-01_task-x_mask.nii.gz",)


# Bad input


def refuses(files: list[Path], *, match: str, space: Space | None = None, n_volumes: int | None = None) -> None:
    """Reading fails with an error that names the first file, or the second where the fault is between the two."""
    with pytest.raises(UnusableInputError, match=match) as caught:
        images.read_bold(files, space or images.read_space(files, None, "T1w"), n_volumes=n_volumes)
    assert any(str(file) in str(caught.value) for file in files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 10, 200, 400, 0.5, 0.9, -1, -8])
@pytest.mark.parametrize("kind", ["nii.gz", "nii", "dtseries.nii", "func.gii"])
def test_truncated_files(tmp_path: Path, bold: Path, dtseries: Path, hemispheres: tuple[Path, Path], kind: str, kept: float) -> None:
    plain = save_nifti(tmp_path / "sub-01_bold.nii", np.ones((*SHAPE, N_VOLUMES)))
    files = {"nii.gz": [bold], "nii": [plain], "dtseries.nii": [dtseries], "func.gii": list(hemispheres)}[kind]
    space = images.read_space(files, None, "T1w")
    whole = files[-1].read_bytes()
    files[-1].write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    if kind == "func.gii" and kept == -1:
        return  # only the last line break is gone
    refuses(files, match="truncated|corrupt|holds", space=space)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.dtseries.nii", "x.func.gii", "x.txt"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 5000, np.random.default_rng(0).bytes(5000), pickle.dumps({"a": [1, 2]}), b"<xml/>", b"hello"]
)
def test_anything_else_under_the_name(tmp_path: Path, name: str, content: bytes) -> None:
    files = [tmp_path / f"{k}{name}" for k in range(2 if name.endswith(".gii") else 1)]
    for path in files:
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") and content else content)
    for read in (lambda: images.describe_bold(files), lambda: images.read_space(files, None, "T1w")):
        with pytest.raises(UnusableInputError, match=name):
            read()


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bytes_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    kind = data.draw(st.sampled_from(["x.nii", "x.nii.gz", "x.dtseries.nii", "x.func.gii"]))
    path = folder / kind
    series = np.random.default_rng(0).normal(size=(3, 9))
    if kind == "x.dtseries.nii":
        save_dtseries(path, series)
    elif kind == "x.func.gii":
        save_func_gii(path, series)
    else:
        save_nifti(path, series.T.reshape(3, 3, 1, 3))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 700)) | st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    files = [path, path] if kind.endswith("gii") else [path]
    try:
        values = images.read_bold(files, images.read_space(files, None, "T1w"))
    except UnusableInputError:
        return
    assert values.nbytes < 10**7


def test_wrong_number_of_volumes(bold: Path, dtseries: Path, hemispheres: tuple[Path, Path]) -> None:
    for files in ([bold], [dtseries], list(hemispheres)):
        refuses(files, match=f"{N_VOLUMES} volumes, where 300", n_volumes=300)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_huge_declared_sizes_allocate_nothing(tmp_path: Path, extension: str) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((30_000, 30_000, 30_000, 30_000))
    header["vox_offset"] = 352
    raw = header.binaryblock + b"\x00" * 4 + b"\x00" * 4000
    path = tmp_path / f"x_bold{extension}"
    path.write_bytes(gzip.compress(raw) if extension.endswith("gz") else raw)
    tracemalloc.start()
    with pytest.raises(UnusableInputError, match="declares 3,240,000,000,000,000,352 bytes"):
        images.describe_bold([path])
    with pytest.raises(UnusableInputError, match="declares"):
        images.read_space([path], None, "T1w")
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_huge_gifti_and_cifti_are_refused(tmp_path: Path, hemispheres: tuple[Path, Path], dtseries: Path) -> None:
    text = hemispheres[1].read_text().replace('Dim0="11"', 'Dim0="99999999999"')
    hemispheres[1].write_text(text)
    refuses(list(hemispheres), match="declares")
    raw = dtseries.read_bytes().replace(b'SurfaceNumberOfVertices="10"', b'SurfaceNumberOfVertices="3 "')
    dtseries.write_bytes(raw)
    refuses([dtseries], match="outside of its surface")


def test_mask_of_another_grid_or_empty(tmp_path: Path, bold: Path) -> None:
    other_shape = save_nifti(tmp_path / "shape_mask.nii.gz", np.ones((5, 4, 4)), dtype="uint8")
    other_affine = save_nifti(tmp_path / "affine_mask.nii.gz", np.ones(SHAPE), affine=AFFINE + np.diag([0.2, 0, 0, 0]), dtype="uint8")
    empty = save_nifti(tmp_path / "empty_mask.nii.gz", np.zeros(SHAPE), dtype="uint8")
    series = save_nifti(tmp_path / "series_mask.nii.gz", np.ones((*SHAPE, 2)), dtype="uint8")
    for path, match in ((other_shape, "another grid"), (other_affine, "another grid"), (empty, "empty"), (series, "one volume")):
        with pytest.raises(UnusableInputError, match=match) as caught:
            images.read_space([bold], path, "T1w")
        assert str(path) in str(caught.value)


def test_a_mask_takes_neither_nan_nor_zero(tmp_path: Path, bold: Path) -> None:
    inside = np.ones(SHAPE)
    inside[0], inside[1] = np.nan, 0
    space = images.read_space([bold], save_nifti(tmp_path / "mask.nii.gz", inside), "T1w")
    assert space.n_units == 3 * 4 * 3


def test_series_of_another_grid(tmp_path: Path, volume: VolumeSpace, dtseries: Path, hemispheres: tuple[Path, Path]) -> None:
    refuses([save_nifti(tmp_path / "y_bold.nii.gz", np.ones((5, 4, 2, 3)))], match="grid", space=volume)
    refuses([dtseries], match="another kind", space=volume)
    dense = images.read_space([dtseries], None, "fsLR")
    other = save_dtseries(tmp_path / "y.dtseries.nii", np.ones((3, 4)), brain_models()[:4])
    refuses([other], match="grayordinates", space=dense)
    surface = images.read_space(hemispheres, None, "fsaverage")
    refuses([hemispheres[0], hemispheres[0]], match="12 vertices, but 11", space=surface)


def test_three_dimensions_are_no_series(tmp_path: Path, mask: Path) -> None:
    refuses([mask], match="3-D")
    refuses([save_nifti(tmp_path / "x.nii", np.ones((*SHAPE, 2, 2)))], match="3-D or 4-D")


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, 2), dtype=np.complex64), AFFINE), tmp_path / "x.nii")
    refuses([tmp_path / "x.nii"], match="not numbers")


def test_affine_that_is_not_one(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "x.nii", np.ones((*SHAPE, 2)))
    header = bytearray(path.read_bytes())
    header[280:296] = np.array([np.nan] * 4, dtype="<f4").tobytes()
    path.write_bytes(bytes(header))
    refuses([path], match="affine")


def test_hemispheres_of_different_length(tmp_path: Path, hemispheres: tuple[Path, Path]) -> None:
    short = save_func_gii(tmp_path / "hemi-R_short.func.gii", np.ones((N_VOLUMES - 1, 11)))
    refuses([hemispheres[0], short], match="6 time points, but 7")
    with pytest.raises(UnusableInputError, match="one hemisphere only"):
        images.describe_bold([hemispheres[0]])


def test_gifti_that_refers_elsewhere(tmp_path: Path, hemispheres: tuple[Path, Path]) -> None:
    left, right = hemispheres
    original = right.read_text()
    right.write_text(
        original.replace("GZipBase64Binary", "ExternalFileBinary").replace('ExternalFileName=""', 'ExternalFileName="/etc/passwd"')
    )
    refuses([left, right], match="in the file itself")
    doctype = '<!DOCTYPE GIFTI [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    body = original[original.index("<GIFTI") :]
    right.write_text(f'<?xml version="1.0"?>{doctype}{body}')
    refuses([left, right], match="entities")
    right.write_text(original.replace('DataType="NIFTI_TYPE_FLOAT32"', 'DataType="NIFTI_TYPE_RGB24"'))
    refuses([left, right], match="RGB24")
    right.write_text(original.replace(f'NumberOfDataArrays="{N_VOLUMES}"', 'NumberOfDataArrays="many"'))
    refuses([left, right], match="how many")


def test_cifti_without_a_series_or_brain_models(tmp_path: Path) -> None:
    scalars = tmp_path / "scalars.dtseries.nii"
    Cifti2Image(np.ones((2, 9), np.float32), header=(ScalarAxis(["a", "b"]), brain_models())).to_filename(scalars)
    refuses([scalars], match="no series axis")
    with pytest.raises(UnusableInputError, match="no series axis"):
        images.describe_bold([scalars])
    parcels = ParcelsAxis.from_brain_models([("one", brain_models()[:4]), ("two", brain_models()[4:7])])
    parcellated = tmp_path / "parcels.dtseries.nii"
    Cifti2Image(np.ones((3, 2), np.float32), header=(SeriesAxis(0, 1, 3), parcels)).to_filename(parcellated)
    refuses([parcellated], match="parcellated")
    plain = save_nifti(tmp_path / "plain.dtseries.nii", np.ones((*SHAPE, 2)))
    refuses([plain], match="not a CIFTI-2")


def test_absent_files_and_dangling_links(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="absent"):
        images.describe_bold([tmp_path / "absent_bold.nii.gz"])
    link = tmp_path / "annexed_bold.nii.gz"
    link.symlink_to(tmp_path / ".git" / "annex" / "objects" / "x")
    with pytest.raises(MissingInputError, match="datalad get"):
        images.describe_bold([link])
    with pytest.raises(MissingInputError, match="absent"):
        images.read_space([tmp_path / "absent_L.func.gii", tmp_path / "absent_R.func.gii"], None, "fsaverage")


def test_real_bold(real_data: Path) -> None:
    func = real_data / "haxby-slice" / "derivatives" / "fmriprep" / "sub-01" / "func"
    stem = "sub-01_task-objectviewing_run-01_space-T1w_desc"
    path, mask_path = func / f"{stem}-preproc_bold.nii.gz", func / f"{stem}-brain_mask.nii.gz"
    space = images.read_space([path], mask_path, "T1w")
    inside = np.asarray(nib.load(mask_path).dataobj) > 0
    np.testing.assert_array_equal(images.read_bold([path], space, n_volumes=121), np.asarray(nib.load(path).dataobj)[inside].T)
    assert images.describe_bold([path]).repetition_time_s == 2.5
