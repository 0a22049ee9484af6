"""Where units are: a posterior slab of the fsaverage5 cortex and of the cerebellum, as voxels, vertices and grayordinates.

Every format sees the same brain: the voxels of the brain mask are the sites that carry signal, and a vertex or a
grayordinate takes the series of the site nearest to it. What lies before the slab is covered by no volume, so that
surfaces hold empty vertices, as those of a partial acquisition do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["CEREBELLUM", "CORTEX", "CSF", "OUTSIDE", "WHITE_MATTER", "Anatomy", "Cortex", "build_anatomy", "load_cortex"]

OUTSIDE, CORTEX, WHITE_MATTER, CSF, CEREBELLUM = range(5)
"""Tissues of the sites."""

_SLAB_FRONT_MM = -50.0
_LOW_DENSITY = 2562  # the first vertices of fsaverage5 are fsaverage4: the mesh is refined by appending
_CEREBELLUM_CENTRE = (22.0, -66.0, -36.0)
_CEREBELLUM_RADII = (20.0, 15.0, 11.0)


@dataclass(frozen=True)
class Cortex:
    """The cortical surface of both hemispheres.

    Attributes
    ----------
    midthickness : tuple of ndarray, shape (n_vertices, 3)
        Left and right, in mm.
    pial : tuple of ndarray, shape (n_vertices, 3)
        Left and right, in mm.
    pial_normals : tuple of ndarray, shape (n_vertices, 3)
        Pointing out of the brain.
    """

    midthickness: tuple[NDArray[np.float64], NDArray[np.float64]]
    pial: tuple[NDArray[np.float64], NDArray[np.float64]]
    pial_normals: tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Anatomy:
    """Units of every format, and the sites whose series they take.

    Attributes
    ----------
    shape : tuple of int
        Shape of the volume.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm.
    mask : ndarray of bool, shape ``shape``
        The brain mask; its voxels in C order are the sites.
    tissue : ndarray of int, shape (n_sites,)
        One of the constants of this module.
    positions : ndarray, shape (n_sites, 3)
        In mm.
    vertex_sites : tuple of ndarray of int, shape (n_vertices,)
        Left and right: the site of each fsaverage5 vertex, -1 where the slab does not cover it.
    grayordinate_vertices : tuple of ndarray of int
        Left and right: the vertices of a low-density surface of ``n_surface`` vertices that CIFTI holds (no medial wall).
    grayordinate_sites : ndarray of int, shape (n_grayordinates,)
        Left cortex, right cortex, left cerebellum, right cerebellum; -1 where the slab does not cover it.
    cerebellum_voxels : tuple of ndarray of int, shape (n, 3)
        Left and right: voxel indices, the last grayordinates.
    n_surface : int
        Vertices of a hemisphere of the low-density surface.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    tissue: NDArray[np.int_]
    positions: NDArray[np.float64]
    vertex_sites: tuple[NDArray[np.int_], NDArray[np.int_]]
    grayordinate_vertices: tuple[NDArray[np.int_], NDArray[np.int_]]
    grayordinate_sites: NDArray[np.int_]
    cerebellum_voxels: tuple[NDArray[np.int_], NDArray[np.int_]]
    n_surface: int = _LOW_DENSITY


def load_cortex() -> Cortex:
    """Load the fsaverage5 surface that nilearn carries, so that nothing is downloaded."""
    from nilearn.datasets import load_fsaverage

    meshes = load_fsaverage("fsaverage5")
    pial = [np.asarray(meshes["pial"].parts[side].coordinates, dtype=np.float64) for side in ("left", "right")]
    white = [np.asarray(meshes["white_matter"].parts[side].coordinates, dtype=np.float64) for side in ("left", "right")]
    faces = [np.asarray(meshes["pial"].parts[side].faces) for side in ("left", "right")]
    return Cortex(
        midthickness=((pial[0] + white[0]) / 2, (pial[1] + white[1]) / 2),
        pial=(pial[0], pial[1]),
        pial_normals=(_normals(pial[0], faces[0], white[0]), _normals(pial[1], faces[1], white[1])),
    )


def _normals(pial: NDArray[np.float64], faces: NDArray[np.int_], white: NDArray[np.float64]) -> NDArray[np.float64]:
    corners = pial[faces]
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(pial)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], of_faces)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    # the order of a face's corners is a convention; the way from white matter to the pial surface is not
    return normals * np.sign(((pial - white) * normals).sum())


def build_anatomy(cortex: Cortex, voxel_size: float) -> Anatomy:
    """Divide the slab into voxels and find the site of every unit.

    Parameters
    ----------
    cortex : Cortex
        The surface.
    voxel_size : float
        Edge of a voxel (mm).
    """
    vertices = np.concatenate(cortex.midthickness)
    covered = vertices[vertices[:, 1] < _SLAB_FRONT_MM]
    low = np.minimum(covered.min(axis=0), np.array(_CEREBELLUM_CENTRE) * [-1, 1, 1] - _CEREBELLUM_RADII) - 2 * voxel_size
    high = np.array([covered[:, 0].max() + 2 * voxel_size, _SLAB_FRONT_MM, covered[:, 2].max() + 2 * voxel_size])
    counts = np.ceil((high - low) / voxel_size).astype(int)
    shape = (int(counts[0]), int(counts[1]), int(counts[2]))
    affine = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    affine[:3, 3] = np.round(low, 3)
    centres = np.asarray(np.moveaxis(np.indices(shape), 0, -1) * voxel_size + affine[:3, 3], dtype=np.float64)
    tissue = _label_tissue(cortex, centres, voxel_size)
    mask = tissue >= 0
    sites = np.full(shape, -1)
    sites[mask] = np.arange(int(mask.sum()))
    gray = mask & np.isin(tissue, (CORTEX,))
    tree = cKDTree(centres[gray])
    vertex_sites = tuple(_nearest_site(side, tree, sites[gray], voxel_size) for side in cortex.midthickness)
    kept = tuple(_without_medial_wall(side[:_LOW_DENSITY]) for side in cortex.midthickness)
    cerebellum = np.argwhere(tissue == CEREBELLUM)
    left = centres[tuple(cerebellum.T)][:, 0] < 0
    halves = (cerebellum[left], cerebellum[~left])
    grayordinate_sites = np.concatenate(
        [vertex_sites[0][kept[0]], vertex_sites[1][kept[1]], sites[tuple(halves[0].T)], sites[tuple(halves[1].T)]]
    )
    return Anatomy(
        shape=shape,
        affine=affine,
        mask=mask,
        tissue=tissue[mask],
        positions=centres[mask],
        vertex_sites=(vertex_sites[0], vertex_sites[1]),
        grayordinate_vertices=(kept[0], kept[1]),
        grayordinate_sites=grayordinate_sites,
        cerebellum_voxels=halves,
    )


def _label_tissue(cortex: Cortex, centres: NDArray[np.float64], voxel_size: float) -> NDArray[np.int_]:
    """Tissue of each voxel, -1 beyond the brain mask."""
    flat = centres.reshape(-1, 3)
    pial, normals = np.concatenate(cortex.pial), np.concatenate(cortex.pial_normals)
    distance, _ = cKDTree(np.concatenate(cortex.midthickness)).query(flat)
    _, nearest = cKDTree(pial).query(flat)
    inside = (((flat - pial[nearest]) * normals[nearest]).sum(axis=1) < 0).reshape(centres.shape[:3])
    in_cortex = (distance < 0.6 * voxel_size).reshape(centres.shape[:3])
    mirrored = np.abs(centres) * [1, 0, 0] + centres * [0, 1, 1]
    in_cerebellum = (((mirrored - _CEREBELLUM_CENTRE) / _CEREBELLUM_RADII) ** 2).sum(axis=-1) < 1
    tissue = np.full(centres.shape[:3], -1)
    tissue[inside] = WHITE_MATTER
    tissue[in_cerebellum & ~in_cortex] = CEREBELLUM
    tissue[in_cortex] = CORTEX
    brain = tissue >= 0
    around = ndimage.binary_dilation(ndimage.binary_closing(brain)) & ~brain
    tissue[around] = CSF
    # a mask is never perfect: the lowest slice of the shell around the brain holds no tissue
    shell = ndimage.binary_dilation(tissue >= 0) & (tissue < 0)
    shell &= np.indices(tissue.shape).sum(axis=0) % 7 == 0
    tissue[shell] = OUTSIDE
    return tissue


def _nearest_site(vertices: NDArray[np.float64], tree: cKDTree, gray_sites: NDArray[np.int_], voxel_size: float) -> NDArray[np.int_]:
    distance, nearest = tree.query(vertices)
    covered = (vertices[:, 1] < _SLAB_FRONT_MM) & (distance < voxel_size)
    return np.where(covered, gray_sites[nearest], -1)


def _without_medial_wall(vertices: NDArray[np.float64]) -> NDArray[np.int_]:
    x, y, z = np.abs(vertices[:, 0]), vertices[:, 1], vertices[:, 2]
    wall = (x < 9) & (y > -35) & (y < 25) & (z > -10) & (z < 25)
    return np.flatnonzero(~wall)
