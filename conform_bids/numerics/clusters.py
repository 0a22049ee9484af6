"""Compact clusters of units, for brains without an atlas: recursive bisection along principal axes, in balanced parts.

A structure's units are cut in two at a plane across the axis along which they extend furthest, so that both sides hold their share of the
clusters, and so on in each side (recursive inertial bisection; Simon, 1991, Computing Systems in Engineering 2, 135-148). Nothing is
drawn: the same units give the same clusters in whatever order they come, and wherever the head lies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["spatial_clusters"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
TIE = 1e-6
"""Places along an axis that differ by less than this share of the extent are the same: rotating a grid of voxels leaves rounding errors."""


def spatial_clusters(coordinates: npt.ArrayLike, size: int, structure: npt.ArrayLike) -> IntArray:
    """Divide units into compact clusters of about the same size that do not cross structures.

    Parameters
    ----------
    coordinates : (n_units, 3) float array
        Where each unit lies, in any unit of length. Units without finite coordinates are divided into runs in the order in which they
        come, apart from the others of their structure.
    size : int
        Units that a cluster should have. A structure of n units is divided into n / size clusters, rounded and one at least, whose
        sizes differ by at most one.
    structure : (n_units,) int array
        Hemisphere or subcortical structure of each unit, any integers.

    Returns
    -------
    (n_units,) intp array
        Cluster of each unit, from 0 without gaps; structures in ascending order.

    Raises
    ------
    ValueError
        If shapes do not fit or the size is not positive.

    Notes
    -----
    Distances are straight lines, so that a cluster of vertices may hold both banks of a sulcus. Clusters are the same for units in another
    order, or moved and rotated, as long as extents along the axes of a part differ and no two units share a place.
    """
    places = np.asarray(coordinates, dtype=np.float64)
    of_structure = np.asarray(structure)
    if places.ndim != 2 or places.shape[1] != 3 or of_structure.shape != places.shape[:1]:
        raise ValueError(f"clusters need 3 coordinates and a structure a unit, got {places.shape} and {of_structure.shape}")
    if size < 1:
        raise ValueError(f"a cluster has 1 unit or more, not {size}")
    labels = np.empty(len(places), dtype=np.intp)
    lies = np.isfinite(places).all(axis=1)
    first = 0
    for name in np.unique(of_structure):
        for known in (True, False):
            members = np.flatnonzero((of_structure == name) & (lies == known))
            if not members.size:
                continue
            n_clusters = max(1, round(members.size / size))
            points = places[members] if known else np.arange(members.size)[:, None] * np.array([1.0, 0.0, 0.0])
            _bisect(points, members, first, n_clusters, labels)
            first += n_clusters
    return labels


def _bisect(points: FloatArray, members: IntArray, first: int, n_clusters: int, labels: IntArray) -> None:
    """Give ``members`` the labels ``first`` to ``first + n_clusters - 1``, in place."""
    if n_clusters == 1:
        labels[members] = first
        return
    left = n_clusters // 2
    cut = (len(points) * left + n_clusters // 2) // n_clusters
    order = _order_along_axes(points)
    near, far = order[:cut], order[cut:]
    _bisect(points[near], members[near], first, left, labels)
    _bisect(points[far], members[far], first + left, n_clusters - left, labels)


def _order_along_axes(points: FloatArray) -> IntArray:
    """Order along the longest axis, ties by the next ones.

    Axes point to the side on which points lie further out (positive third moment), or, where both are alike, along their largest entry.
    """
    centred = points - points.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    along = centred @ axes
    extent = float(np.abs(along).max())
    if extent == 0:
        return np.arange(len(points))
    along /= extent
    skew = np.power(along, 3).mean(axis=0)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)[0]
    along *= np.where(np.where(np.abs(skew) > TIE, skew, largest) < 0, -1.0, 1.0)
    steps = np.rint(along / TIE)
    return np.lexsort((steps[:, 2], steps[:, 1], steps[:, 0]))
