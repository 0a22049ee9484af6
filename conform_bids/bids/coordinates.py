"""Where units lie, in mm: voxel centres, and vertices of a mesh that is at hand without a network."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.spaces import CORTEX_LEFT, CORTEX_RIGHT, CiftiSpace, Space, SurfaceSpace, VolumeSpace

__all__ = ["unit_coordinates"]

FloatArray = NDArray[np.float64]
_NILEARN_VERTICES = 10242
_DENSITIES = {32492: "32k", 59292: "59k", 163842: "164k", 40962: "41k", 10242: "10k", 2562: "3k"}
_KINDS = ("midthickness", "white", "sphere")


def unit_coordinates(space: Space) -> tuple[FloatArray, NDArray[np.intp], tuple[str, ...]]:
    """Where each unit lies, and the structures that no cluster should span.

    Returns
    -------
    coordinates : (n_units, 3) float64 array
        mm. Where no mesh of a surface is at hand, vertices lie on a line in the order of the file.
    structure : (n_units,) int array
        Hemisphere or subcortical structure, from 0; a volume is one.
    without_mesh : tuple of str
        Structures whose vertices lie on a line.
    """
    if isinstance(space, VolumeSpace):
        centres = np.argwhere(space.mask) @ space.affine[:3, :3].T + space.affine[:3, 3]
        return centres, np.zeros(space.n_units, dtype=np.intp), ()
    if isinstance(space, SurfaceSpace):
        sides = [_vertices(space.label, side, count) for side, count in (("L", space.n_left), ("R", space.n_right))]
        lost = tuple(name for name, points in zip(("left cortex", "right cortex"), sides, strict=True) if points is None)
        counts = (space.n_left, space.n_right)
        filled = [_line(count) if points is None else points for points, count in zip(sides, counts, strict=True)]
        return np.concatenate(filled), np.repeat(np.arange(2), counts), lost
    assert isinstance(space, CiftiSpace)
    return _grayordinates(space)


def _grayordinates(space: CiftiSpace) -> tuple[FloatArray, NDArray[np.intp], tuple[str, ...]]:
    coordinates = np.zeros((space.n_units, 3))
    lost = []
    for index, name in enumerate(space.structures):
        units = np.flatnonzero(space.structure == index)
        voxels = space.vertex[units] < 0
        if voxels.any() and space.volume_affine is not None:
            affine = space.volume_affine
            coordinates[units[voxels]] = space.voxel[units[voxels]] @ affine[:3, :3].T + affine[:3, 3]
        if voxels.all():
            continue
        side = {CORTEX_LEFT: "L", CORTEX_RIGHT: "R"}.get(name)
        count = int(space.n_vertices.get(name, 0))
        points = None if side is None else _vertices(space.label, side, count)
        if points is None:
            lost.append(name.removeprefix("CIFTI_STRUCTURE_").replace("_", " ").lower())
            points = _line(count)
        coordinates[units[~voxels]] = points[space.vertex[units[~voxels]]]
    return coordinates, space.structure.astype(np.intp), tuple(lost)


def _line(count: int) -> FloatArray:
    return np.column_stack([np.arange(count, dtype=np.float64), np.zeros(count), np.zeros(count)])


def _vertices(label: str, side: str, count: int) -> FloatArray | None:
    """Coordinates of a hemisphere's vertices: of Nilearn's fsaverage5, with whose vertices denser meshes begin, or of TemplateFlow."""
    if label.startswith("fsaverage") and count <= _NILEARN_VERTICES:
        folder = Path(str(files("nilearn"))) / "datasets" / "data" / "fsaverage5"
        word = {"L": "left", "R": "right"}[side]
        points = next(
            (found for kind in ("white", "pial", "sphere") if (found := _read(folder / f"{kind}_{word}.gii.gz")) is not None), None
        )
        return points[:count] if points is not None and count in _DENSITIES | {642: ""} else None
    template = "fsaverage" if label.startswith("fsaverage") else label
    home = Path(os.environ.get("TEMPLATEFLOW_HOME") or Path("~/.cache/templateflow").expanduser()) / f"tpl-{template}"
    for kind in _KINDS:
        points = _read(home / f"tpl-{template}_den-{_DENSITIES.get(count, 'none')}_hemi-{side}_{kind}.surf.gii")
        if points is not None and len(points) == count:
            return points
    return None


def _read(path: Path) -> FloatArray | None:
    """Points of a mesh; None for what is none, such as an annexed file without its content."""
    import nibabel

    if not path.is_file():
        return None
    try:
        image: Any = nibabel.load(path)
        return np.asarray(image.agg_data("pointset"), dtype=np.float64)
    except Exception:  # whatever is wrong with a template, clusters can do without it
        return None
