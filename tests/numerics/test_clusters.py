"""Clusters are compact, balanced, within structures, and those of the brain, not of the order or of the axes it is told in."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from conform_bids.numerics.clusters import spatial_clusters

IntArray = npt.NDArray[np.intp]


def same_partition(first: IntArray, second: IntArray) -> bool:
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 90), st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_balanced_gapless_and_within_structures(n_units: int, size: int, n_structures: int, grid: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 4, (n_units, 3)).astype(float) if grid else rng.normal(size=(n_units, 3))
    structure = rng.integers(0, n_structures, n_units) * 7 - 3
    labels = spatial_clusters(points, size, structure)
    assert labels.dtype == np.intp
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    for name in np.unique(structure):
        own = np.unique(labels[structure == name], return_counts=True)[1]
        assert not set(labels[structure == name]) & set(labels[structure != name])
        assert own.max() - own.min() <= 1
        assert len(own) == max(1, round(own.sum() / size))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 300), st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_same_in_any_order_and_pose(n_units: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.gamma(2.0, size=(n_units, 3)) * [3.0, 2.0, 1.0]
    structure = rng.integers(0, 2, n_units)
    labels = spatial_clusters(points, size, structure)
    order = rng.permutation(n_units)
    assert np.array_equal(spatial_clusters(points[order], size, structure[order]), labels[order])
    turned = Rotation.random(random_state=seed % 2**31).apply(points) * 2.5 + 40.0
    assert same_partition(spatial_clusters(turned, size, structure), labels)


def test_box_is_cut_across_its_longest_side() -> None:
    points = np.argwhere(np.ones((40, 10, 5))).astype(float)
    labels = spatial_clusters(points @ Rotation.from_euler("xyz", [0.3, 0.2, 0.7]).as_matrix(), 500, np.zeros(len(points), int))
    assert same_partition(labels, (points[:, 0] // 10).astype(np.intp))


def test_clusters_of_a_grid_are_compact() -> None:
    points = np.argwhere(np.ones((24, 24, 24))).astype(float)
    labels = spatial_clusters(points, 216, np.zeros(len(points), int))
    within = np.mean([points[labels == each].var(axis=0).sum() for each in range(labels.max() + 1)])
    assert within < 1.3 * 3 * (6**2 - 1) / 12, "cubes of 6 x 6 x 6 have the variance on the right"


def test_units_without_coordinates_are_runs_of_their_own() -> None:
    points = np.random.default_rng(0).normal(size=(90, 3))
    points[30:60, 1] = np.nan
    labels = spatial_clusters(points, 10, np.zeros(90, int))
    assert not set(labels[30:60]) & set(np.r_[labels[:30], labels[60:]])
    assert np.abs(np.diff(labels[30:60])).astype(bool).sum() == 2, "three runs"


def test_vertices_on_a_line_are_runs() -> None:
    points = np.column_stack([np.arange(1000.0), np.zeros(1000), np.zeros(1000)])
    assert np.array_equal(spatial_clusters(points, 100, np.zeros(1000, int)), np.arange(1000) // 100)


def test_units_at_one_place_are_divided_all_the_same() -> None:
    assert np.array_equal(np.bincount(spatial_clusters(np.ones((100, 3)), 25, np.zeros(100, int))), [25, 25, 25, 25])


def test_whole_brain_takes_no_time() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(91282, 3)) * [60, 40, 30]
    started = time.process_time()
    labels = spatial_clusters(points, 300, np.repeat([0, 1, 2], [29696, 29716, 31870]))
    assert time.process_time() - started < 2
    assert labels.max() == 99 + 99 + 106 - 1


@pytest.mark.parametrize(("shape", "size", "n_structures"), [((5, 2), 3, 5), ((5, 3), 0, 5), ((5, 3), 3, 4)])
def test_what_does_not_fit_is_refused(shape: tuple[int, int], size: int, n_structures: int) -> None:
    with pytest.raises(ValueError, match="cluster"):
        spatial_clusters(np.zeros(shape), size, np.zeros(n_structures, int))
