"""No bad file gets further than an error that names it, and none makes us allocate what it declares."""

from __future__ import annotations

import gzip
import pickle
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import ParcelsAxis, ScalarAxis, SeriesAxis

from conform_bids.bids import images, volumes
from conform_bids.bids.images import Space, VolumeSpace
from conform_bids.errors import MissingInputError, UnusableInputError

SHAPE = (5, 4, 3)
AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2.5, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
N_VOLUMES = 7


def refuses(files: list[Path], *, match: str, space: Space | None = None, n_volumes: int | None = None) -> None:
    """Reading fails with an error that names the first file, or the second where the fault is between the two."""
    with pytest.raises(UnusableInputError, match=match) as caught:
        images.read_bold(files, space or images.read_space(files, None, "T1w"), n_volumes=n_volumes)
    assert any(str(file) in str(caught.value) for file in files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 10, 200, 400, 0.5, 0.9, -1, -8])
@pytest.mark.parametrize("kind", ["nii.gz", "nii", "dtseries.nii", "func.gii"])
def test_truncated_files(
    make: SimpleNamespace, tmp_path: Path, bold: Path, dtseries: Path, hemispheres: tuple[Path, Path], kind: str, kept: float
) -> None:
    plain = make.nifti(tmp_path / "sub-01_bold.nii", np.ones((*SHAPE, N_VOLUMES)))
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
def test_flipped_bytes_never_raise_anything_else(
    make: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    kind = data.draw(st.sampled_from(["x.nii", "x.nii.gz", "x.dtseries.nii", "x.func.gii"]))
    path = folder / kind
    series = np.random.default_rng(0).normal(size=(3, 9))
    if kind == "x.dtseries.nii":
        make.dtseries(path, series)
    elif kind == "x.func.gii":
        make.func_gii(path, series)
    else:
        make.nifti(path, series.T.reshape(3, 3, 1, 3))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 700)) | st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    files = [path, path] if kind.endswith("gii") else [path]
    try:
        space = images.read_space(files, None, "T1w")
        values = images.read_bold(files, space)
    except UnusableInputError:
        return
    assert values.nbytes < 10**7
    outputs = [folder / f"{k}{space.extension}" for k in range(len(files))]
    images.write_maps(values, space, outputs)
    np.testing.assert_array_equal(images.read_maps(outputs, space), values)


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


def write_bomb(path: Path, shape: tuple[int, ...], dtype: str = "f4", fill: bytes = b"") -> Path:
    """A whole and sound .nii.gz of zeros, which packs a thousand to one; ``fill`` is put in front of them."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    left = int(np.prod(shape)) * np.dtype(dtype).itemsize - len(fill)
    zeros = gzip.compress(bytes(1 << 22))
    with path.open("wb") as stream:
        stream.write(gzip.compress(header.binaryblock + bytes(4) + fill))
        stream.writelines([zeros] * (left >> 22))
        stream.write(gzip.compress(bytes(left & ((1 << 22) - 1))))
    return path


@pytest.mark.parametrize("name", ["x_bold.nii.gz", "x_mask.nii.gz"])
def test_bombs_that_fit_their_file_but_not_the_memory_allocate_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bomb(tmp_path / name, (200, 200, 200, 4) if "bold" in name else (200, 200, 400))
    assert path.stat().st_size * 900 < 4 * 4 * 200**3
    monkeypatch.setattr(volumes, "available_memory_gb", lambda: 0.05)
    tracemalloc.start()
    with pytest.raises(UnusableInputError, match=r"declares [\d,]+ bytes of data, [\d,]+ times its size") as caught:
        images.describe_bold([path]) if "bold" in name else images.read_space([path], path, "T1w")
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()
    assert caught.value.exit_code == 65


def test_what_is_larger_than_the_memory_but_holds_something_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).standard_normal(100_000).astype("f4").tobytes()
    path = write_bomb(tmp_path / "x_bold.nii.gz", (100, 100, 100, 4), fill=noise)
    monkeypatch.setattr(volumes, "available_memory_gb", lambda: 0.001)
    assert images.describe_bold([path]).n_volumes == 4
    images.refuse_bombs([path], 0.001)


def test_bombs_among_the_files_of_a_job_are_named(tmp_path: Path, bold: Path) -> None:
    path = write_bomb(tmp_path / "y_bold.nii.gz", (50, 50, 50, 4))
    (tmp_path / "y_events.tsv").write_text("onset\n")
    with pytest.raises(UnusableInputError, match=r"y_bold\.nii\.gz"):
        images.refuse_bombs([bold, tmp_path / "y_events.tsv", path], 0.001)


def test_huge_gifti_and_cifti_are_refused(tmp_path: Path, hemispheres: tuple[Path, Path], dtseries: Path) -> None:
    text = hemispheres[1].read_text().replace('Dim0="11"', 'Dim0="99999999999"')
    hemispheres[1].write_text(text)
    refuses(list(hemispheres), match="declares")
    raw = dtseries.read_bytes().replace(b'SurfaceNumberOfVertices="10"', b'SurfaceNumberOfVertices="3 "')
    dtseries.write_bytes(raw)
    refuses([dtseries], match="outside of its surface")


def test_mask_of_another_grid_or_empty(make: SimpleNamespace, tmp_path: Path, bold: Path) -> None:
    other_shape = make.nifti(tmp_path / "shape_mask.nii.gz", np.ones((5, 4, 4)), dtype="uint8")
    other_affine = make.nifti(tmp_path / "affine_mask.nii.gz", np.ones(SHAPE), affine=AFFINE + np.diag([0.2, 0, 0, 0]), dtype="uint8")
    empty = make.nifti(tmp_path / "empty_mask.nii.gz", np.zeros(SHAPE), dtype="uint8")
    series = make.nifti(tmp_path / "series_mask.nii.gz", np.ones((*SHAPE, 2)), dtype="uint8")
    for path, match in ((other_shape, "another grid"), (other_affine, "another grid"), (empty, "empty"), (series, "one volume")):
        with pytest.raises(UnusableInputError, match=match) as caught:
            images.read_space([bold], path, "T1w")
        assert str(path) in str(caught.value)


def test_a_mask_takes_neither_nan_nor_zero(make: SimpleNamespace, tmp_path: Path, bold: Path) -> None:
    inside = np.ones(SHAPE)
    inside[0], inside[1] = np.nan, 0
    space = images.read_space([bold], make.nifti(tmp_path / "mask.nii.gz", inside), "T1w")
    assert space.n_units == 3 * 4 * 3


def test_series_of_another_grid(
    make: SimpleNamespace, tmp_path: Path, volume: VolumeSpace, dtseries: Path, hemispheres: tuple[Path, Path]
) -> None:
    refuses([make.nifti(tmp_path / "y_bold.nii.gz", np.ones((5, 4, 2, 3)))], match="grid", space=volume)
    refuses([dtseries], match="another kind", space=volume)
    dense = images.read_space([dtseries], None, "fsLR")
    other = make.dtseries(tmp_path / "y.dtseries.nii", np.ones((3, 4)), make.brain_models()[:4])
    refuses([other], match="grayordinates", space=dense)
    surface = images.read_space(hemispheres, None, "fsaverage")
    refuses([hemispheres[0], hemispheres[0]], match="12 vertices, but 11", space=surface)


def test_three_dimensions_are_no_series(make: SimpleNamespace, tmp_path: Path, mask: Path) -> None:
    refuses([mask], match="3-D")
    refuses([make.nifti(tmp_path / "x.nii", np.ones((*SHAPE, 2, 2)))], match="3-D or 4-D")


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, 2), dtype=np.complex64), AFFINE), tmp_path / "x.nii")
    refuses([tmp_path / "x.nii"], match="not numbers")


def test_affine_that_is_not_one(make: SimpleNamespace, tmp_path: Path) -> None:
    path = make.nifti(tmp_path / "x.nii", np.ones((*SHAPE, 2)))
    header = bytearray(path.read_bytes())
    header[280:296] = np.array([np.nan] * 4, dtype="<f4").tobytes()
    path.write_bytes(bytes(header))
    refuses([path], match="affine")


def test_hemispheres_of_different_length(make: SimpleNamespace, tmp_path: Path, hemispheres: tuple[Path, Path]) -> None:
    short = make.func_gii(tmp_path / "hemi-R_short.func.gii", np.ones((N_VOLUMES - 1, 11)))
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


def test_cifti_without_a_series_or_brain_models(make: SimpleNamespace, tmp_path: Path) -> None:
    scalars = tmp_path / "scalars.dtseries.nii"
    Cifti2Image(np.ones((2, 9), np.float32), header=(ScalarAxis(["a", "b"]), make.brain_models())).to_filename(scalars)
    refuses([scalars], match="no series axis")
    with pytest.raises(UnusableInputError, match="no series axis"):
        images.describe_bold([scalars])
    parcels = ParcelsAxis.from_brain_models([("one", make.brain_models()[:4]), ("two", make.brain_models()[4:7])])
    parcellated = tmp_path / "parcels.dtseries.nii"
    Cifti2Image(np.ones((3, 2), np.float32), header=(SeriesAxis(0, 1, 3), parcels)).to_filename(parcellated)
    refuses([parcellated], match="parcellated")
    plain = make.nifti(tmp_path / "plain.dtseries.nii", np.ones((*SHAPE, 2)))
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


def test_a_senseless_qform_or_zoom_beside_a_sound_sform_counts_as_unset(make: SimpleNamespace, tmp_path: Path) -> None:
    path = make.nifti(tmp_path / "x.nii", np.ones((*SHAPE, 2)))
    raw = bytearray(path.read_bytes())
    raw[256:268] = np.array([1, 1, 1], dtype="<f4").tobytes()  # a quaternion of length above one
    raw[80:84] = np.array([np.nan], dtype="<f4").tobytes()  # pixdim[1]
    path.write_bytes(bytes(raw))
    space = images.read_space([path], None, "T1w")
    assert isinstance(space, VolumeSpace)
    np.testing.assert_allclose(space.affine, AFFINE, atol=1e-6)
    assert (space.sform_code, space.qform_code) == (4, 0)
    assert space.zooms[0] == pytest.approx(2.0)
    images.write_maps(np.ones(space.n_units), space, [tmp_path / "y.nii"])
    np.testing.assert_allclose(nib.load(tmp_path / "y.nii").affine, AFFINE, atol=1e-6)
