"""Maps of one value a unit: mosaics of a volume, views of the cortex, and distributions where there is no mesh to draw on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from conform_bids.bids.spaces import CiftiSpace, Space, SurfaceSpace, VolumeSpace
from conform_bids.report.scales import Scale
from conform_bids.report.style import DPI, INK, MUTED, PALETTE, finish_axes, new_figure
from conform_bids.report.surfaces import Hemisphere, draw_surface, find_meshes, paint_faces
from conform_bids.report.volumes import Mosaic, arrange_slices, draw_mosaic

__all__ = ["has_mesh", "plot_map"]

_WIDTH = 10.5
_BAR = 1.45
"""Inches on the right for the colour bar or the legend."""
_PANELS = (("lateral", "left"), ("medial", "left"), ("medial", "right"), ("lateral", "right"))
_MORE_PANELS = (("posterior", "left"), ("ventral", "left"), ("ventral", "right"), ("posterior", "right"))


def plot_map(values: ArrayLike, space: Space, path: Path, scale: Scale, *, background: ArrayLike | None = None) -> Path:
    """Draw a map of a space.

    Parameters
    ----------
    values : array_like, shape (V,)
        A value a unit; NaN where there is none.
    space : Space
        What the units are.
    path : Path
        ``.png``.
    scale : Scale
        Colours.
    background : array_like, shape (V,), optional
        Mean image, shown in grey under the values of a volume.

    Raises
    ------
    ValueError
        If there is not one value a unit, or the space is of an unknown kind.
    """
    array = np.asarray(values, dtype=float)
    if array.shape != (space.n_units,):
        raise ValueError(f"a map of {space.n_units} units needs as many values, got shape {array.shape}")
    if isinstance(space, VolumeSpace):
        grey = None if background is None else space.to_volume(np.asarray(background, dtype=float))
        mosaic = arrange_slices(space.to_volume(array), space.affine, space.mask, grey)
        return _plot_volume(mosaic, path, scale)
    if isinstance(space, SurfaceSpace):
        left, right = space.split(array)
        return _plot_cortex(left, right, None, space, path, scale)
    if isinstance(space, CiftiSpace):
        empty = np.empty(0)
        on_left, on_right = space.cortex_left(array), space.cortex_right(array)
        voxels = space.subcortex(array)
        mosaic_below = None
        if voxels is not None:
            held = space.subcortex(np.zeros(space.n_units))
            inside = np.isfinite(held[0]) if held is not None else np.isfinite(voxels[0])
            mosaic_below = arrange_slices(voxels[0], voxels[1], inside, most=7, columns=7)
        return _plot_cortex(
            empty if on_left is None else on_left, empty if on_right is None else on_right, mosaic_below, space, path, scale
        )
    raise ValueError(f"no way to draw a map of a {type(space).__name__}")


def has_mesh(space: Space) -> bool:
    """Whether a map of this space is drawn as an image (a volume, or a cortex with a mesh at hand)."""
    if isinstance(space, VolumeSpace):
        return True
    return _meshes(space, *_n_vertices(space)) is not None


def _n_vertices(space: Space) -> tuple[int, int]:
    if isinstance(space, SurfaceSpace):
        return space.n_left, space.n_right
    if isinstance(space, CiftiSpace):
        nothing = np.zeros(space.n_units)
        left, right = space.cortex_left(nothing), space.cortex_right(nothing)
        return (0 if left is None else len(left)), (0 if right is None else len(right))
    return 0, 0


def _meshes(space: Space, n_left: int, n_right: int) -> tuple[Hemisphere, Hemisphere] | None:
    return find_meshes(space.label, n_left, n_right)


def _plot_volume(mosaic: Mosaic, path: Path, scale: Scale) -> Path:
    width, height = mosaic.fit(_WIDTH - _BAR, 4.2 if mosaic.rows == 1 else 7.5)
    whole = (width + _BAR, max(height + 0.16, 1.9))
    with new_figure(path, *whole, dark=True, arranged=False) as figure:
        bottom = (whole[1] - height) / 2
        axes = figure.add_axes((0.0, bottom / whole[1], width / whole[0], height / whole[1]))
        draw_mosaic(axes, mosaic, scale, width)
        _add_key(figure, scale, (width + 0.18) / whole[0], whole)
    return path


def _add_key(figure: Figure, scale: Scale, left: float, size: tuple[float, float]) -> None:
    """Colour bar of a fixed width and at most 3 inches high, or a legend, at the right."""
    if scale.categories:
        handles = [Patch(color=colour, label=name) for name, colour in scale.categories]
        figure.legend(handles=handles, loc="center left", bbox_to_anchor=(left, 0.5), handlelength=1, labelspacing=0.9)
        return
    height = min(3.0, 0.72 * size[1])
    axes = figure.add_axes((left, 0.5 - height / 2 / size[1], 0.16 / size[0], height / size[1]))
    extend: Literal["min", "neither"] = "min" if scale.extends_below else "neither"
    bar = figure.colorbar(ScalarMappable(Normalize(scale.low, scale.high), scale.colour_map_used()), cax=axes, extend=extend)
    bar.set_label(scale.label, fontsize=9)
    if scale.floor is not None and scale.low < scale.floor < scale.high:
        axes.axhline(scale.floor, color="white", linewidth=2)
        axes.axhline(scale.floor, color="black", linewidth=0.8)
    bar.ax.tick_params(labelsize=8.5)
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _plot_cortex(
    left: NDArray[np.float64], right: NDArray[np.float64], below: Mosaic | None, space: Space, path: Path, scale: Scale
) -> Path:
    meshes = _meshes(space, len(left), len(right))
    if meshes is None:
        return _plot_without_mesh(left, right, below, space, path, scale)
    width, row = _WIDTH - _BAR, 1.75
    shown, strip = (0.0, 0.0) if below is None else below.fit(width, 1.9)
    size = (width + _BAR, 2 * row + (strip + 0.1 if below is not None else 0.0))
    with new_figure(path, *size, dark=below is not None, arranged=False) as figure:
        _draw_views(figure, meshes, (left, right), scale, (0.0, 1 - 2 * row / size[1], width / size[0], 2 * row / size[1]), (width, row))
        if below is not None:
            axes = figure.add_axes(((width - shown) / 2 / size[0], 0.02 / size[1], shown / size[0], strip / size[1]))
            draw_mosaic(axes, below, scale, shown)
        _add_key(figure, scale, (width + 0.18) / size[0], size)
    return path


def _draw_views(
    figure: Figure,
    meshes: tuple[Hemisphere, Hemisphere],
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
    scale: Scale,
    box: tuple[float, float, float, float],
    inches: tuple[float, float],
) -> None:
    """Two rows of views as one image, as an axes a view would take longer than what is in it."""
    width, row = inches
    label = 0.22
    size = round(width / 4 * DPI), round((row - label) * DPI)
    painted = [paint_faces(mesh, part, scale) for mesh, part in zip(meshes, values, strict=True)]
    axes = figure.add_axes(box)
    for line, panels in enumerate((_PANELS, _MORE_PANELS)):
        views = [draw_surface(meshes[side == "right"], painted[side == "right"], view, size, left=side == "left") for view, side in panels]
        axes.imshow(np.hstack(views), extent=(0, 4, (line + 1) * row, line * row + label), aspect="auto")
        for column, (view, side) in enumerate(panels):
            style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 8.5}
            axes.text(column + 0.5, line * row + label / 2, f"{'L' if side == 'left' else 'R'} {view}", **style)
    axes.set_xlim(0, 4)
    axes.set_ylim(2 * row, 0)
    axes.set_axis_off()


def _plot_without_mesh(
    left: NDArray[np.float64], right: NDArray[np.float64], below: Mosaic | None, space: Space, path: Path, scale: Scale
) -> Path:
    """Shares of each value, by structure."""
    groups = [("left cortex", left), ("right cortex", right)]
    if below is not None:
        groups.append(("subcortical", below.values.ravel()))
    density = "" if space.density is None else f", den-{space.density}"
    title = f"No mesh at hand for {space.label}{density} ({len(left):,} + {len(right):,} vertices): values by structure"
    with new_figure(path, 9.0, 3.3) as figure:
        axes = figure.add_subplot()
        groups = [(name, array[np.isfinite(array)]) for name, array in groups]
        if scale.categories:
            _draw_category_shares(axes, groups, scale)
        else:
            edges = np.linspace(scale.low, scale.high, 61)
            for (name, array), colour in zip(groups, (PALETTE[0], PALETTE[1], PALETTE[2]), strict=False):
                if array.size:
                    share = 100 * np.histogram(np.clip(array, scale.low, scale.high), edges)[0] / array.size
                    axes.stairs(share, edges, color=colour, linewidth=1.8, label=f"{name} (n = {array.size:,})")
            if any(array.size for _, array in groups):
                axes.legend()
            finish_axes(axes, scale.label, "Units (%)")
        axes.set_title(title, fontsize=9.5)
    return path


def _draw_category_shares(axes: Axes, groups: list[tuple[str, NDArray[np.float64]]], scale: Scale) -> None:
    for row, (_, array) in enumerate(groups):
        start = 0.0
        for code, (_, colour) in enumerate(scale.categories):
            share = 100 * float(np.mean(array == code)) if array.size else 0.0
            axes.barh(row, share, left=start, color=colour, edgecolor="white")
            if share > 6:
                axes.text(start + share / 2, row, f"{share:.0f} %", ha="center", va="center", fontsize=8.5, color=INK)
            start += share
    axes.set_yticks(range(len(groups)), [name for name, _ in groups])
    axes.invert_yaxis()
    handles = [Patch(color=colour, label=name) for name, colour in scale.categories]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(handles))
    axes.tick_params(axis="y", labelcolor=MUTED)
    finish_axes(axes, "Units (%)", "", grid="x")
