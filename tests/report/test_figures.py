"""Figures are drawn for every space and for awkward data, say the same for the same data, and show what they should."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from conform_bids.bids.spaces import CiftiSpace, SurfaceSpace, VolumeSpace
from conform_bids.report import figures
from conform_bids.report.outliers import deviating, standing_out
from conform_bids.report.scales import Scale, robust_limit
from conform_bids.report.style import short_label
from conform_bids.report.surfaces import find_meshes
from conform_bids.report.volumes import arrange_slices

LEFT, RIGHT, THALAMUS = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT", "CIFTI_STRUCTURE_THALAMUS_LEFT"


def volume(shape, affine=None, mask=None):
    affine = np.diag([3.0, 3.0, 3.0, 1.0]) if affine is None else affine
    mask = np.ones(shape, bool) if mask is None else mask
    return VolumeSpace(label="T1w", shape=shape, affine=affine, mask=mask, zooms=(3.0, 3.0, 3.0), qform=affine)


def grayordinates(n_cortex, label="fsLR"):
    voxels = np.argwhere(np.ones((4, 5, 6), bool)) + 3
    n_voxels = len(voxels)
    return CiftiSpace(
        label=label,
        density="test",
        structures=(LEFT, RIGHT, THALAMUS),
        structure=np.repeat([0, 1, 2], [n_cortex, n_cortex, n_voxels]),
        vertex=np.r_[np.arange(n_cortex), np.arange(n_cortex), np.full(n_voxels, -1)],
        voxel=np.r_[np.full((2 * n_cortex, 3), -1), voxels],
        n_vertices={LEFT: n_cortex, RIGHT: n_cortex},
        volume_shape=(12, 12, 12),
        volume_affine=np.diag([2.0, 2.0, 2.0, 1.0]),
    )


@pytest.mark.parametrize(
    "space",
    [
        volume((40, 20, 1)),
        volume((20, 24, 18), np.array([[-3.0, 0, 0, 60], [0, 0, 3, -50], [0, 3, 0, -40], [0, 0, 0, 1]])),
        volume((3, 30, 30)),
        volume((5, 5, 5), np.zeros((4, 4)) + np.diag([0, 0, 0, 1])),
        SurfaceSpace(label="fsaverage5", n_left=10242, n_right=10242),
        SurfaceSpace(label="fsaverage", n_left=642, n_right=642),
        SurfaceSpace(label="fsnative", n_left=300, n_right=290),
        grayordinates(200),
        grayordinates(2562, "fsaverage"),
    ],
    ids=["half-slice", "oblique-order", "sagittal-slab", "no-affine", "fsaverage5", "fsaverage3", "fsnative", "cifti", "cifti-mesh"],
)
@pytest.mark.parametrize("kind", ["continuous", "categories", "all-nan"])
def test_a_map_of_any_space_is_drawn(space, kind, tmp_path):
    values = np.random.default_rng(0).gamma(2, 5, space.n_units)
    values[::7] = np.nan
    scale = Scale("R² (%)", 0, 30, floor=2)
    if kind == "categories":
        values, scale = (
            np.where(np.isnan(values), np.nan, np.arange(len(values)) % 3),
            Scale("", categories=(("a", "red"), ("b", "blue"), ("c", "grey"))),
        )
    if kind == "all-nan":
        values[:] = np.nan
    path = figures.plot_map(values, space, tmp_path / "map.png", scale, background=np.linspace(500, 900, space.n_units))
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert 700 < pixels.shape[1] < 3000 and pixels.std() > 3
    assert [item.name for item in tmp_path.iterdir()] == ["map.png"]


def test_a_map_needs_a_value_a_unit(tmp_path):
    with pytest.raises(ValueError, match="800 units"):
        figures.plot_map(np.zeros(3), volume((40, 20, 1)), tmp_path / "map.png", Scale("x"))


def test_mosaic_is_in_ras_and_leaves_out_slices_without_brain():
    shape = (10, 12, 8)
    values, inside = np.full(shape, np.nan), np.zeros(shape, bool)
    inside[2:8, 2:10, 3:6] = True
    values[2, 9, 4] = 5.0  # with x flipped: on the right, in front
    mosaic = arrange_slices(values, np.diag([-2.0, 2.0, 2.0, 1.0]), inside, np.ones(shape))
    assert [text for _, _, text in mosaic.labels] == ["z = 6 mm", "z = 8 mm", "z = 10 mm"]
    row, column = np.argwhere(mosaic.values == 5.0)[0]
    width = mosaic.values.shape[1] // 3
    assert width <= column < 2 * width and column % width > width / 2 and row < mosaic.values.shape[0] / 2


def test_single_slice_is_shown_beside_the_mean_image():
    mosaic = arrange_slices(np.ones((40, 20, 1)), np.eye(4), np.ones((40, 20, 1), bool), np.ones((40, 20, 1)))
    assert mosaic.columns == 2 and mosaic.labels[0][2].startswith("mean image")


def test_nested_fsaverage_meshes_show_each_vertex_where_it_is():
    dense, sparse = find_meshes("fsaverage", 163842, 163842), find_meshes("fsaverage3", 642, 642)
    assert dense is not None and sparse is not None
    np.testing.assert_array_equal(dense[0].shown, np.arange(10242))
    np.testing.assert_array_equal(sparse[1].shown[:642], np.arange(642))
    assert find_meshes("fsnative", 10242, 10242) is None and find_meshes("fsaverage", 10242, 642) is None


def test_mesh_from_a_local_templateflow_folder(tmp_path, monkeypatch):
    import nibabel

    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    assert find_meshes("fsLR", 32492, 32492) is None
    points = np.random.default_rng(0).standard_normal((32492, 3)).astype(np.float32)
    arrays = [
        nibabel.gifti.GiftiDataArray(points, "NIFTI_INTENT_POINTSET"),
        nibabel.gifti.GiftiDataArray(np.array([[0, 1, 2]], np.int32), "NIFTI_INTENT_TRIANGLE"),
    ]
    (tmp_path / "tpl-fsLR").mkdir()
    for hemisphere in "LR":
        nibabel.save(nibabel.GiftiImage(darrays=arrays), tmp_path / "tpl-fsLR" / f"tpl-fsLR_den-32k_hemi-{hemisphere}_inflated.surf.gii")
    assert find_meshes("fsLR", 32492, 32492) is not None
    (tmp_path / "tpl-fsLR" / "tpl-fsLR_den-32k_hemi-L_inflated.surf.gii").write_bytes(b"annexed")
    assert find_meshes("fsLR", 32492, 32492) is None


def draw_all(folder, names):
    rng = np.random.default_rng(0)
    n = len(names)
    values, subset = rng.normal(size=500), rng.random(500) > 0.5
    return [
        figures.plot_raster(
            [60.0, 50.0], np.arange(n) % 2, np.arange(n) * 3.0, np.full(n, 2.0), names, ["run 1", "run $2$"], folder / "a.svg"
        ),
        figures.plot_onsets_and_repeats({name: 1 + k % 3 for k, name in enumerate(names)}, rng.random(n), 1.0, folder / "b.svg"),
        figures.plot_distributions(dict.fromkeys(names[:3], values), folder / "c.svg", xlabel="r", subset=subset, limits=(-1, 1)),
        figures.plot_histogram(values, folder / "d.svg", xlabel="x", subset=subset),
        figures.plot_runs(
            [figures.RunPanel("y", [values, values - 5, [np.nan], values, values]), figures.RunPanel("z", [values] * 5, "high", 0.5)],
            names[:1] * 5,
            folder / "e.svg",
        ),
        figures.plot_strips(dict.fromkeys(names[:5], values[:9]), names[:1] * 9, folder / "f.svg"),
        figures.plot_curve([0, 1, 2], [0, 5, 3], folder / "g.svg", xlabel="n", ylabel="gain", chosen=1, band=[0, 1, 1], remark=names[0]),
        figures.plot_course(values[:n], np.zeros(n, int), names[:1], folder / "i.svg", ylabel="mean", odd=np.array([True])),
        figures.plot_collinearity(np.eye(n), names[0], rng.random((2, 4)), [np.full(n, np.inf), [1.0]], names[:1] * 2, folder / "j.svg"),
        figures.plot_curves_by_share(np.arange(30.0), rng.random((30, 4)), np.array([0, 1, 1]), folder / "h.svg"),
    ]


@pytest.mark.parametrize("n_conditions", [1, 5, 40])
def test_plots_bear_hostile_labels_and_are_reproducible(n_conditions, tmp_path):
    names = ["<script>&'$x_{", "\x00\n\t", "面孔", "a" * 300, ""][:n_conditions] + [f"c{k}" for k in range(n_conditions - 5)]
    first, second = draw_all(tmp_path / "1", names), draw_all(tmp_path / "2", names)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(one).iter()}
        assert "script" not in tags and "path" in tags


def test_plots_bear_nothing_to_draw(tmp_path):
    nothing = np.full(4, np.nan)
    figures.plot_histogram(nothing, tmp_path / "a.svg", xlabel="x", subset=nothing > 0)
    figures.plot_distributions({"a": nothing}, tmp_path / "b.svg", xlabel="x")
    figures.plot_runs([figures.RunPanel("y", [nothing])], ["a"], tmp_path / "c.svg")
    figures.plot_course(nothing, np.zeros(4, int), ["a"], tmp_path / "g.svg", ylabel="y", odd=np.zeros(1, bool))
    figures.plot_collinearity(np.empty((0, 0)), "a", np.full((1, 3), np.nan), [np.empty(0)], ["a"], tmp_path / "h.svg")
    figures.plot_strips({"a": nothing}, list("abcd"), tmp_path / "d.svg")
    figures.plot_raster([10.0], np.empty(0, int), np.empty(0), np.empty(0), [], ["run"], tmp_path / "e.svg")
    figures.plot_curves_by_share(np.arange(9.0), np.ones((9, 2)), np.empty(0, int), tmp_path / "f.svg")
    assert len(list(tmp_path.iterdir())) == 8


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever NumPy says of the shapes
        figures.plot_raster([1.0], np.zeros(2, int), np.zeros(3), np.zeros(3), ["a"] * 3, ["run"], tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_scale_hides_what_is_below_the_floor():
    rgba = Scale("x", 0, 10, floor=2).colours(np.array([np.nan, 1.9, 2.0, 50.0]))
    np.testing.assert_array_equal(rgba[:, 3], [0, 0, 1, 1])
    assert (
        robust_limit(np.array([0.0, 37.0])) == 40
        and robust_limit(np.array([np.nan])) == 1
        and robust_limit(np.array([150.0]), most=100) == 100
    )


def test_an_arrow_tells_of_values_below_the_scale(tmp_path):
    space = volume((40, 20, 1))
    values = np.linspace(-1, 1, space.n_units)
    drawn = [
        figures.plot_map(values, space, tmp_path / f"{below}.png", Scale("x", 0, 1, extends_below=below)).read_bytes()
        for below in (False, True)
    ]
    assert drawn[0] != drawn[1]


def test_short_label_keeps_both_ends():
    assert short_label("abcdefghij", 5) == "ab…ij" and short_label("a\x07b\n") == "a b" and short_label("") == "(empty)"


def test_one_rule_says_what_stands_out():
    assert deviating([10, 10.1, 9.9, 2], "low").tolist() == [False, False, False, True]
    assert not deviating([10, 10.1, 9.9, 2], "high").any() and not deviating([1, 1, 9]).any()
    assert deviating([10, 10.1, np.nan, 9.9, 30]).tolist() == [False, False, False, False, True]
    spread = [1, 1.1, 1.2, 1.3, np.nan, 1.4, 1.5, 1.6]
    assert standing_out([*spread, 9]).tolist() == [False] * 8 + [True] and not standing_out([*spread, 2.2]).any()
    assert not standing_out([1, 1.1, 1.2, 1.3, 1.4, 1.5, 9]).any()  # seven
    assert standing_out([5] * 7 + [4]).tolist() == [False] * 7 + [True] and not standing_out([5] * 8).any()
