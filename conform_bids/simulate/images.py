"""The images of stimuli: what is drawn can be read off the pixels again, so that image features predict responses."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.stimuli import Stimulus

__all__ = ["PIXELS", "draw_image", "write_image"]

PIXELS = 64
"""Pixels a side."""

_FINE = 4  # the object is drawn this much finer, then averaged: a move of less than a pixel shows
_POLYGONS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "place": (((-0.95, -0.15), (0.0, -1.0), (0.95, -0.15)), ((-0.75, -0.15), (0.75, -0.15), (0.75, 0.95), (-0.75, 0.95))),
    "body": (
        ((-0.3, -0.5), (0.3, -0.5), (0.22, 0.25), (-0.22, 0.25)),
        ((-0.3, -0.5), (-0.85, 0.05), (-0.7, 0.2), (-0.2, -0.25)),
        ((0.3, -0.5), (0.85, 0.05), (0.7, 0.2), (0.2, -0.25)),
        ((-0.22, 0.2), (0.0, 0.2), (-0.3, 1.0), (-0.52, 1.0)),
        ((0.22, 0.2), (0.0, 0.2), (0.3, 1.0), (0.52, 1.0)),
    ),
    "word": (
        ((-1.0, -0.4), (-0.85, -0.4), (-0.85, 0.4), (-1.0, 0.4)),
        ((-0.9, 0.25), (-0.5, 0.25), (-0.5, 0.4), (-0.9, 0.4)),
        ((-0.35, -0.4), (0.15, -0.4), (0.15, -0.25), (-0.35, -0.25)),
        ((-0.18, -0.4), (-0.02, -0.4), (-0.02, 0.4), (-0.18, 0.4)),
        ((0.35, -0.4), (0.5, -0.4), (0.5, 0.4), (0.35, 0.4)),
        ((0.85, -0.4), (1.0, -0.4), (1.0, 0.4), (0.85, 0.4)),
        ((0.4, -0.08), (0.95, -0.08), (0.95, 0.08), (0.4, 0.08)),
    ),
    "object": (((-0.8, -0.6), (0.4, -0.6), (0.3, 0.8), (-0.7, 0.8)),),
}
_ELLIPSES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "face": ((-0.75, -1.0, 0.75, 1.0),),
    "body": ((-0.24, -1.0, 0.24, -0.52),),
    "object": ((0.1, -0.4, 0.95, 0.45),),
}
_HOLES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "face": ((-0.45, -0.45, -0.12, -0.12), (0.12, -0.45, 0.45, -0.12), (-0.4, 0.3, 0.4, 0.6)),
    "place": ((-0.5, 0.1, -0.15, 0.45), (0.15, 0.1, 0.5, 0.45)),
    "object": ((0.42, -0.18, 0.72, 0.22),),
}


def _object_mask(stimulus: Stimulus) -> NDArray[np.float64]:
    """Share of each pixel that the object covers, shape (PIXELS, PIXELS)."""
    from PIL import Image, ImageDraw

    fine = PIXELS * _FINE
    canvas = Image.new("L", (fine, fine), 0)
    draw = ImageDraw.Draw(canvas)
    centre = np.array([stimulus.x + 1, stimulus.y + 1]) / 2 * fine
    radius = stimulus.size * fine

    def at(x: float, y: float) -> tuple[float, float]:
        return float(centre[0] + radius * x), float(centre[1] + radius * y)

    for polygon in _POLYGONS.get(stimulus.category, ()):
        draw.polygon([at(*corner) for corner in polygon], fill=255)
    for shapes, fill in ((_ELLIPSES, 255), (_HOLES, 0)):
        for left, top, right, bottom in shapes.get(stimulus.category, ()):
            draw.ellipse([at(left, top), at(right, bottom)], fill=fill)
    values = np.asarray(canvas, dtype=np.float64) / 255
    return np.asarray(values.reshape(PIXELS, _FINE, PIXELS, _FINE).mean(axis=(1, 3)))


def draw_image(stimulus: Stimulus) -> NDArray[np.uint8]:
    """Pixels of a stimulus, shape (64, 64, 3): one coloured object on a gray grating."""
    axis = (np.arange(PIXELS) + 0.5) / PIXELS
    along = axis[np.newaxis, :] * np.cos(stimulus.orientation) + axis[:, np.newaxis] * np.sin(stimulus.orientation)
    ground = 0.5 + 0.45 * stimulus.contrast * np.sin(2 * np.pi * stimulus.frequency * along)
    colour = np.array(colorsys.hsv_to_rgb(stimulus.hue, 0.85, 0.9))
    mask = _object_mask(stimulus)[:, :, np.newaxis]
    image = mask * colour + (1 - mask) * ground[:, :, np.newaxis]
    return np.rint(255 * image).astype(np.uint8)


def write_image(stimulus: Stimulus, path: Path) -> None:
    """Write the image of a stimulus as PNG."""
    from PIL import Image

    Image.fromarray(draw_image(stimulus)).save(path, format="PNG")
