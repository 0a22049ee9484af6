"""Cortical surfaces: find a mesh that is at hand without a network, and draw values on it.

nilearn brings fsaverage5. FreeSurfer's meshes are nested: the first 10,242 vertices of a denser fsaverage are those of fsaverage5,
which in turn begins with those of the sparser ones, so that every fsaverage density can be drawn on it. For fsLR, a mesh is taken
from the local TemplateFlow folder where there is one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray

from conform_bids.report.scales import Scale

__all__ = ["VIEWS", "Hemisphere", "draw_surface", "find_meshes"]

_ICOSAHEDRA = (642, 2562, 10242, 40962, 163842)
_FSLR_DENSITIES = {32492: "32k", 59292: "59k", 163842: "164k"}

VIEWS = {
    "lateral": ((-1, 0, 0), (0, 0, 1)),
    "medial": ((1, 0, 0), (0, 0, 1)),
    "posterior": ((0, -1, 0), (0, 0, 1)),
    "ventral": ((0, 0, -1), (0, -1, 0)),
}
"""Direction to the camera and upwards direction of each view, for the left hemisphere; the right one mirrors x."""


@dataclass(frozen=True)
class Hemisphere:
    """A mesh to draw on.

    Attributes
    ----------
    coordinates : ndarray, shape (vertices, 3)
        RAS, mm.
    faces : ndarray of int, shape (faces, 3)
    depth : ndarray, shape (vertices,)
        Sulcal depth in [0, 1], for the grey under the values.
    shown : ndarray of int, shape (vertices,)
        Which value is drawn at each vertex.
    """

    coordinates: NDArray[np.float64]
    faces: NDArray[np.int64]
    depth: NDArray[np.float64]
    shown: NDArray[np.int64]


def find_meshes(label: str, n_left: int, n_right: int) -> tuple[Hemisphere, Hemisphere] | None:
    """Meshes of both hemispheres for a space and its numbers of vertices; None where there is none at hand.

    Parameters
    ----------
    label : str
        Label of the space (``fsaverage``, ``fsaverage6``, ``fsLR``, ...).
    n_left, n_right : int
        Vertices of each hemisphere.
    """
    if label.startswith("fsaverage") and n_left == n_right and n_left in _ICOSAHEDRA:
        return _fsaverage("left", n_left), _fsaverage("right", n_right)
    if label == "fsLR" and n_left == n_right and n_left in _FSLR_DENSITIES:
        left, right = (_from_templateflow(letter, n_left) for letter in "LR")
        return None if left is None or right is None else (left, right)
    return None


@cache
def _fsaverage(hemisphere: str, n_vertices: int) -> Hemisphere:
    from nilearn.datasets import load_fsaverage, load_fsaverage_data
    from scipy.spatial import cKDTree

    meshes = load_fsaverage("fsaverage5")
    inflated, sphere = meshes["inflated"].parts[hemisphere], meshes["sphere"].parts[hemisphere]
    depth = load_fsaverage_data(mesh="fsaverage5", data_type="sulcal").data.parts[hemisphere]
    shown = np.arange(len(inflated.coordinates))
    if n_vertices < len(shown):
        shown = cKDTree(sphere.coordinates[:n_vertices]).query(sphere.coordinates)[1]
    return _hemisphere(inflated.coordinates, inflated.faces, depth, shown)


def _from_templateflow(letter: str, n_vertices: int) -> Hemisphere | None:
    home = Path(os.environ.get("TEMPLATEFLOW_HOME") or Path("~/.cache/templateflow").expanduser()) / "tpl-fsLR"
    for kind in ("veryinflated", "inflated", "midthickness"):
        path = home / f"tpl-fsLR_den-{_FSLR_DENSITIES[n_vertices]}_hemi-{letter}_{kind}.surf.gii"
        if not path.is_file():
            continue
        mesh = _read_mesh(path)
        if mesh is not None and len(mesh[0]) == n_vertices:
            return _hemisphere(*mesh, np.full(n_vertices, 0.5), np.arange(n_vertices))
    return None


def _read_mesh(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Coordinates and faces; None for a file that is not a mesh, such as an annexed one without its content."""
    import nibabel

    try:
        image = nibabel.load(path)
        points, faces = image.agg_data(("pointset", "triangle"))  # type: ignore[attr-defined]
        return np.asarray(points, dtype=float), np.asarray(faces, dtype=np.int64)
    except Exception:  # whatever is wrong with a template, the report can do without it
        return None


def _hemisphere(
    coordinates: NDArray[np.floating], faces: NDArray[np.integer], depth: NDArray[np.floating], shown: NDArray[np.integer]
) -> Hemisphere:
    spread = np.nanpercentile(depth, [2, 98])
    scaled = np.clip((np.asarray(depth, dtype=float) - spread[0]) / max(float(np.ptp(spread)), 1e-9), 0, 1)
    return Hemisphere(np.asarray(coordinates, dtype=float), np.asarray(faces, dtype=np.int64), scaled, np.asarray(shown, dtype=np.int64))


def draw_surface(axes: Axes, mesh: Hemisphere, values: NDArray[np.floating], scale: Scale, view: str, *, left: bool) -> None:
    """Draw one hemisphere from one side: faces towards the camera, far ones first, shaded by their slope.

    Parameters
    ----------
    values : ndarray, shape (values,)
        Values of the space's vertices; NaN leaves the grey of the sulci.
    view : str
        A key of `VIEWS`.
    left : bool
        Whether this is the left hemisphere.
    """
    mirror = np.array([1 if left else -1, 1, 1])
    camera, up = (np.array(direction) * mirror for direction in VIEWS[view])
    sideways = np.cross(up, camera)
    corners = mesh.coordinates[mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    slope = (normal @ camera) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
    outward = np.sign(np.einsum("ij,ij->", normal, corners.mean(axis=1) - mesh.coordinates.mean(axis=0))) or 1.0
    slope *= outward
    facing = np.flatnonzero(slope > 0)
    order = facing[np.argsort((corners[facing].mean(axis=1) @ camera), kind="stable")]
    faces = mesh.faces[order]
    grey = np.repeat((0.86 - 0.22 * mesh.depth[faces].mean(axis=1))[:, None], 3, axis=1)
    colours = scale.colours(_face_values(np.asarray(values, dtype=float)[mesh.shown], faces, categorical=bool(scale.categories)))
    painted = np.where(colours[:, 3:] > 0, colours[:, :3], grey) * (0.62 + 0.38 * slope[order])[:, None]
    flat = np.stack([corners[order] @ sideways, corners[order] @ up], axis=-1)
    axes.add_collection(PolyCollection(list(flat), facecolors=painted, edgecolors="none", antialiaseds=False))
    points = mesh.coordinates @ np.stack([sideways, up], axis=1)
    axes.set_xlim(points[:, 0].min() - 2, points[:, 0].max() + 2)
    axes.set_ylim(points[:, 1].min() - 2, points[:, 1].max() + 2)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _face_values(values: NDArray[np.float64], faces: NDArray[np.int64], *, categorical: bool) -> NDArray[np.float64]:
    """Mean of a face's corners; of categories, the middle one. NaN where a corner is NaN."""
    corners = values[faces]
    return np.asarray(np.sort(corners, axis=1)[:, 1] if categorical else corners.mean(axis=1), dtype=np.float64)
