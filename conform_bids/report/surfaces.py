"""Cortical surfaces: find a mesh that is at hand without a network, and draw values on it.

nilearn brings fsaverage5. FreeSurfer's meshes are nested: the first 10,242 vertices of a denser fsaverage are those of fsaverage5,
which in turn begins with those of the sparser ones, so that every fsaverage density can be drawn on it. For fsLR, a mesh is taken
from the local TemplateFlow folder where there is one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform_bids.report.scales import Scale

__all__ = ["VIEWS", "Hemisphere", "draw_surface", "find_meshes", "paint_faces"]

FloatArray = NDArray[np.float64]

_FINER = 2
"""Points along each side of a pixel that are looked at, so that edges are smooth."""
_ICOSAHEDRA = (642, 2562, 10242, 40962, 163842)
_FSLR_DENSITIES = {32492: "32k", 59292: "59k", 163842: "164k"}

VIEWS = {
    "lateral": ((-1, 0, 0), (0, 0, 1)),
    "medial": ((1, 0, 0), (0, 0, 1)),
    "posterior": ((0, -1, 0), (0, 0, 1)),
    "ventral": ((0, 0, -1), (0, -1, 0)),
}
"""Direction to the camera and upwards direction of each view, for the left hemisphere; the right one mirrors x."""


@dataclass(frozen=True, eq=False)
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
        left, right = _fsaverage("left", n_left), _fsaverage("right", n_right)
    elif label == "fsLR" and n_left == n_right and n_left in _FSLR_DENSITIES:
        left, right = (_from_templateflow(letter, n_left) for letter in "LR")
    else:
        return None
    return None if left is None or right is None else (left, right)


@cache
def _fsaverage(side: str, n_vertices: int) -> Hemisphere | None:
    """The mesh that comes with Nilearn, read from its files: to import ``nilearn.datasets`` takes longer than to draw a map."""
    from scipy.spatial import cKDTree

    folder = Path(str(files("nilearn"))) / "datasets" / "data" / "fsaverage5"
    inflated, sphere = (_read_mesh(folder / f"{kind}_{side}.gii.gz") for kind in ("infl", "sphere"))
    depth = _read_depth(folder / f"sulc_{side}.gii.gz")
    if inflated is None or sphere is None or depth is None:
        return None
    shown = np.arange(len(inflated[0]))
    if n_vertices < len(shown):
        shown = cKDTree(sphere[0][:n_vertices]).query(sphere[0])[1]
    return _hemisphere(*inflated, depth, shown)


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


def _read_depth(path: Path) -> NDArray[np.float64] | None:
    import nibabel

    return np.asarray(nibabel.load(path).agg_data(), dtype=float) if path.is_file() else None  # type: ignore[attr-defined, arg-type]


def _hemisphere(
    coordinates: NDArray[np.floating], faces: NDArray[np.integer], depth: NDArray[np.floating], shown: NDArray[np.integer]
) -> Hemisphere:
    spread = np.nanpercentile(depth, [2, 98])
    scaled = np.clip((np.asarray(depth, dtype=float) - spread[0]) / max(float(np.ptp(spread)), 1e-9), 0, 1)
    return Hemisphere(np.asarray(coordinates, dtype=float), np.asarray(faces, dtype=np.int64), scaled, np.asarray(shown, dtype=np.int64))


@dataclass(frozen=True)
class _View:
    """What a camera sees of a mesh.

    Attributes
    ----------
    face : ndarray of int, shape (height, width)
        The nearest face at each point of the image, top row first; -1 beside the mesh.
    shade : ndarray, shape (faces,)
        Brightness by slope.
    """

    face: NDArray[np.int64]
    shade: NDArray[np.float64]


def paint_faces(mesh: Hemisphere, values: NDArray[np.floating], scale: Scale) -> FloatArray:
    """Colours of the faces before shading: those of the values, and the grey of the sulci where these are transparent.

    Parameters
    ----------
    values : ndarray, shape (values,)
        Values of the space's vertices.

    Returns
    -------
    ndarray, shape (faces, 3)
        RGB.
    """
    grey = np.repeat((0.86 - 0.22 * mesh.depth[mesh.faces].mean(axis=1))[:, None], 3, axis=1)
    shown = np.asarray(values, dtype=float)[mesh.shown]
    colours = scale.colours(_face_values(shown, mesh.faces, categorical=bool(scale.categories)))
    return np.where(colours[:, 3:] > 0, colours[:, :3], grey)


def draw_surface(mesh: Hemisphere, painted: FloatArray, view: str, size: tuple[int, int], *, left: bool) -> NDArray[np.uint8]:
    """Draw one hemisphere from one side.

    Parameters
    ----------
    painted : ndarray, shape (faces, 3)
        What `paint_faces` gives.
    view : str
        A key of `VIEWS`.
    size : tuple of int
        Width and height of the image.
    left : bool
        Whether this is the left hemisphere.

    Returns
    -------
    ndarray of uint8, shape (height, width, 4)
        RGBA; transparent beside the mesh.
    """
    seen = _look(mesh, view, (_FINER * size[0], _FINER * size[1]), left)
    table = np.zeros((len(painted) + 1, 4), dtype=np.float32)  # the last row is for -1
    table[:-1, :3], table[:-1, 3] = painted * seen.shade[:, None], 1
    image = np.zeros((size[1], size[0], 4), dtype=np.float32)
    for down, across in np.ndindex(_FINER, _FINER):
        image += table[seen.face[down::_FINER, across::_FINER]] / _FINER**2
    image[..., :3] /= np.maximum(image[..., 3:], 1e-9)
    return np.round(255 * image).astype(np.uint8)


@lru_cache(maxsize=32)
def _look(mesh: Hemisphere, view: str, size: tuple[int, int], left: bool) -> _View:
    """Find which face is seen where: once for all maps of a mesh, as this takes longer than colouring."""
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
    points = mesh.coordinates @ np.stack([sideways, -up], axis=1)
    low, extent = points.min(axis=0) - 2, np.ptp(points, axis=0) + 4
    step = float(np.max(extent / size))
    offset = (np.array(size) - extent / step) / 2
    flat = (points[mesh.faces[order]] - low) / step + offset
    return _View(_nearest_faces(flat, order, size), 0.62 + 0.38 * slope)


def _nearest_faces(corners: FloatArray, faces: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Fill triangles, far ones first: each tries the points of the box around it.

    Parameters
    ----------
    corners : ndarray, shape (n, 3, 2)
        In points of the image: across, down.
    faces : ndarray of int, shape (n,)
        What is written where a triangle is.
    size : tuple of int
        Width and height.

    Returns
    -------
    ndarray of int, shape (height, width)
        -1 where no triangle is.
    """
    first = np.maximum(np.floor(corners.min(axis=1)).astype(np.int64), 0)
    spans = np.maximum(np.minimum(np.ceil(corners.max(axis=1)).astype(np.int64), np.array(size) - 1) - first + 1, 0)
    counts = spans.prod(axis=1)
    owner = np.repeat(np.arange(len(corners)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    across, down = first[owner, 0] + place % spans[owner, 0], first[owner, 1] + place // spans[owner, 0]
    point = np.stack([across, down], axis=1) + 0.5
    inside = np.zeros(len(owner), dtype=np.int8)
    for corner in range(3):
        start, side = corners[:, corner], corners[:, (corner + 1) % 3] - corners[:, corner]
        offset = point - start[owner]
        inside += np.sign(side[owner, 0] * offset[:, 1] - side[owner, 1] * offset[:, 0] + 0.0).astype(np.int8)
    hit = np.abs(inside) >= 2  # on the same side of all edges, or on an edge
    image = np.full((size[1], size[0]), -1, dtype=np.int64)
    image[down[hit], across[hit]] = faces[owner[hit]]  # of several, the last one stays: the nearest
    return image


def _face_values(values: NDArray[np.float64], faces: NDArray[np.int64], *, categorical: bool) -> NDArray[np.float64]:
    """Mean of a face's corners; of categories, the middle one. NaN where a corner is NaN."""
    corners = values[faces]
    return np.asarray(np.sort(corners, axis=1)[:, 1] if categorical else corners.mean(axis=1), dtype=np.float64)
