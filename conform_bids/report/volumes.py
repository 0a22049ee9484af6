"""Mosaics: slices of a volume side by side, as one image, values in colour over the mean image in grey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from conform_bids.report.scales import Scale

__all__ = ["Mosaic", "arrange_slices", "draw_mosaic"]

_LABEL = 0.24
"""Inches under each slice for its label: a share of the slice's height would be too little where slices are flat."""
_BACKGROUND = np.array([0x0D, 0x11, 0x17]) / 255


@dataclass(frozen=True)
class Mosaic:
    """Slices of a volume, chosen, cropped and put in rows.

    Attributes
    ----------
    values, grey : ndarray, shape (rows * height, columns * width)
        Values (NaN where there are none) and background in [0, 1] (NaN outside of the volume), first row on top.
    labels : tuple of (row, column, text)
        What stands in the corner of each panel.
    rows, columns : int
        Panels.
    aspect : float
        Height of a slice over its width, in mm.
    sides : tuple of str
        What is on the left and on the right of a panel.
    """

    values: NDArray[np.float64]
    grey: NDArray[np.float64]
    labels: tuple[tuple[int, int, str], ...]
    rows: int
    columns: int
    aspect: float
    sides: tuple[str, str]

    def height(self, width: float) -> float:
        """Inches that the rows take with their labels, when they are as wide as this."""
        return self.rows * (width / self.columns * self.aspect + _LABEL)

    def fit(self, width: float, height: float) -> tuple[float, float]:
        """Width and height in inches of the largest drawing that is no wider and no higher than these."""
        if self.height(width) > height:
            width = min(width, max(height / self.rows - _LABEL, 0.1) * self.columns / self.aspect)
        return width, self.height(width)


def arrange_slices(
    values: NDArray[np.floating],
    affine: NDArray[np.floating],
    inside: NDArray[np.bool_],
    background: NDArray[np.floating] | None = None,
    *,
    most: int = 18,
    columns: int = 6,
) -> Mosaic:
    """Choose and arrange the slices that hold brain.

    Slices are axial, or across the shortest axis where the volume is a slab along another one. With one or two slices the mean image
    is shown beside the values, as there is room.

    Parameters
    ----------
    values : ndarray, shape (x, y, z)
        Values; NaN where there are none.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm (RAS).
    inside : ndarray of bool, shape (x, y, z)
        Voxels that hold brain: slices without any are left out, and panels are cropped to them.
    background : ndarray, shape (x, y, z), optional
        Mean image.
    most, columns : int
        Largest number of slices, and of panels in a row.
    """
    values, inside, grey, affine = _to_ras(values, inside, background, affine)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = np.where(sizes > 0, sizes, 1.0)  # a degenerate affine
    axis = _slice_axis(inside.shape)
    across = tuple(other for other in range(3) if other != axis)
    held = inside.sum(axis=across)
    candidates = np.flatnonzero(held >= max(1, 0.08 * held.max()))
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, min(most, len(candidates))).round().astype(int))]
    box = _bounding_box(np.asarray(inside.any(axis=axis)), margin=1)
    panels: list[tuple[NDArray[np.float64], NDArray[np.float64], str]] = []
    for position in chosen:
        index: list[int | slice] = [box[0], box[1]]
        index.insert(axis, int(position))
        centre = np.array([(part.start + part.stop) / 2 if isinstance(part, slice) else part for part in index])
        place = f"{'xyz'[axis]} = {(affine[:3, :3] @ centre + affine[:3, 3])[axis]:.0f} mm"
        slice_values, slice_grey = values[tuple(index)].T[::-1], grey[tuple(index)].T[::-1]
        if len(chosen) <= 2 and background is not None:
            panels.append((np.full(slice_values.shape, np.nan), slice_grey, f"mean image, {place}"))
        panels.append((slice_values, slice_grey, place))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height, width = panels[0][0].shape
    canvas = np.full((2, rows * height, columns * width), np.nan)
    labels = []
    for number, (slice_values, slice_grey, text) in enumerate(panels):
        row, column = divmod(number, columns)
        area = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
        canvas[0][area], canvas[1][area] = slice_values, slice_grey
        labels.append((row, column, text))
    aspect = height * sizes[across[1]] / (width * sizes[across[0]])
    sides = ("P", "A") if axis == 0 else ("L", "R")
    return Mosaic(canvas[0], canvas[1], tuple(labels), rows, columns, float(aspect), sides)


def _to_ras(
    values: NDArray[np.floating], inside: NDArray[np.bool_], background: NDArray[np.floating] | None, affine: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Flip and permute axes to right, anterior, superior; scale the background to [0, 1]."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(affine)
    if np.isnan(orientation).any():  # a degenerate affine: keep the axes as they are
        orientation = np.array([[0, 1], [1, 1], [2, 1]])
    grey = 0.4 * inside if background is None else _stretch(np.asarray(background, dtype=float), inside)
    turned = [apply_orientation(array, orientation) for array in (np.asarray(values, dtype=float), inside, grey)]
    return turned[0], turned[1], turned[2], affine @ inv_ornt_aff(orientation, values.shape)


def _stretch(image: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    shown = image[inside & np.isfinite(image)]
    if not shown.size:
        return np.zeros(image.shape)
    low, high = np.percentile(shown, [1, 99])
    low = min(low, 0.3 * high)
    scaled: NDArray[np.float64] = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    return scaled


def _slice_axis(shape: tuple[int, ...]) -> int:
    shortest = int(np.argmin(shape))
    return shortest if 3 * shape[shortest] < min(shape[other] for other in range(3) if other != shortest) else 2


def _bounding_box(inside: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    edges = []
    for axis in range(2):
        held = np.flatnonzero(inside.any(axis=1 - axis))
        first, last = (held[0], held[-1]) if len(held) else (0, inside.shape[axis] - 1)
        edges.append(slice(max(0, int(first) - margin), min(inside.shape[axis], int(last) + 1 + margin)))
    return edges[0], edges[1]


def draw_mosaic(axes: Axes, mosaic: Mosaic, scale: Scale, width: float) -> None:
    """Draw into axes of this width in inches, and of the height that goes with it: grey image, values over it, positions of slices."""
    grey = np.where(np.isfinite(mosaic.grey), mosaic.grey, 0.0)[..., None] * 0.82
    image = np.where(np.isfinite(mosaic.grey)[..., None] & (grey > 0), np.maximum(grey, _BACKGROUND), _BACKGROUND)
    colours = scale.colours(mosaic.values)
    image = np.where(colours[..., 3:] > 0, colours[..., :3], image)
    room = _LABEL * mosaic.rows / mosaic.height(width)
    for row, pixels in enumerate(np.split(image, mosaic.rows)):
        axes.imshow(
            np.round(255 * pixels).astype(np.uint8), extent=(0, mosaic.columns, row + 1 - room, row), aspect="auto", interpolation="nearest"
        )
    axes.set_xlim(0, mosaic.columns)
    axes.set_ylim(mosaic.rows, 0)
    axes.set_axis_off()
    for row, column, text in mosaic.labels:
        axes.text(column + 0.5, row + 1 - room / 2, text, ha="center", va="center_baseline", fontsize=8.5, color="#e6edf3")
    if mosaic.labels:
        style: dict[str, Any] = {"va": "center", "fontsize": 9, "fontweight": "bold", "color": "#e6edf3"}
        middle = (1 - room) / 2
        axes.text(0.015, middle, mosaic.sides[0], ha="left", **style)
        axes.text(0.985, middle, mosaic.sides[1], ha="right", **style)
