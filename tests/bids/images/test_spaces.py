"""Spaces: saved without pickles, compared by geometry, and laid out for plots."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from conform_bids.bids import grayordinates, images
from conform_bids.bids.images import CiftiSpace, Space, VolumeSpace
from conform_bids.errors import UnusableInputError

AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2.5, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


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


def test_cortex_alone_has_no_subcortex(make: SimpleNamespace, tmp_path: Path) -> None:
    models = make.brain_models()[:4]
    space = images.read_space([make.dtseries(tmp_path / "x.dtseries.nii", np.ones((2, 4)), models)], None, "fsLR")
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


def test_axes_are_read_once_for_equal_runs_and_never_taken_for_others(make: SimpleNamespace, tmp_path: Path) -> None:
    whole, left = make.brain_models(), nib.cifti2.BrainModelAxis.from_surface(np.array([0, 2, 5]), 10, name="CortexLeft")
    values = np.ones((4, len(whole)))
    equal = [make.dtseries(tmp_path / f"run-{run}_bold.dtseries.nii", values) for run in range(3)]
    longer = make.dtseries(tmp_path / "longer_bold.dtseries.nii", np.ones((7, len(whole))), tr=2.0)
    other = make.dtseries(tmp_path / "other_bold.dtseries.nii", np.ones((4, 3)), models=left)
    grayordinates._parse_axes.cache_clear()
    headers = [grayordinates.read_cifti_header(path) for path in [*equal, longer, other, equal[0]]]
    assert grayordinates._parse_axes.cache_info().misses == 3
    assert [header.n_maps for header in headers] == [4, 4, 4, 7, 4, 4]
    assert [header.repetition_time_s for header in headers] == [0.8, 0.8, 0.8, 2.0, 0.8, 0.8]
    assert [len(header.brain_models) for header in headers] == [9, 9, 9, 9, 3, 9]
    assert headers[-1].path == equal[0]


def test_brain_models_of_two_spaces_are_not_mixed_up(make: SimpleNamespace, tmp_path: Path) -> None:
    left = nib.cifti2.BrainModelAxis.from_surface(np.array([0, 2, 5]), 10, name="CortexLeft")
    series = [make.dtseries(tmp_path / "a_bold.dtseries.nii", np.ones((2, 9)))]
    series += [make.dtseries(tmp_path / "b_bold.dtseries.nii", np.ones((2, 3)), models=left)]
    spaces = [images.read_space([path], None, "fsLR") for path in series]
    for number, space in enumerate([spaces[0], spaces[1], spaces[0]]):
        path = tmp_path / f"{number}.dscalar.nii"
        images.write_maps(np.zeros((1, space.n_units), np.float32), space, [path], ["zero"])
        assert images.read_space([path], None, "fsLR").same_grid(space)
