"""Stimuli: simple shapes with known features, and the small images of them."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["CATEGORIES", "Stimulus", "draw_stimuli", "render", "stimulus_features"]

CATEGORIES = ("disk", "square", "triangle", "star")
"""Trial types."""

_PIXELS = 96


@dataclass(frozen=True)
class Stimulus:
    """One image.

    Attributes
    ----------
    stim_id : str
        Its name.
    category : str
        One of `CATEGORIES`.
    x, y : float
        Centre, -1 to 1.
    size : float
        Radius, as a fraction of the image.
    angle : float
        Orientation (rad).
    hue : float
        0 to 1.
    split : str
        ``train`` or ``test``.
    """

    stim_id: str
    category: str
    x: float
    y: float
    size: float
    angle: float
    hue: float
    split: str


def draw_stimuli(n_stimuli: int, n_test: int, generator: np.random.Generator) -> tuple[Stimulus, ...]:
    """Draw stimuli, categories in turn, of which ``n_test`` are for testing."""
    test = set(generator.permutation(n_stimuli)[:n_test].tolist())
    stimuli = []
    for index in range(n_stimuli):
        x, y = generator.uniform(-0.5, 0.5, 2)
        category = CATEGORIES[index % len(CATEGORIES)]
        stimuli.append(
            Stimulus(
                stim_id=f"{category}{index // len(CATEGORIES) + 1:03d}",
                category=category,
                x=float(x),
                y=float(y),
                size=float(generator.uniform(0.12, 0.24)),
                angle=float(generator.uniform(0, 2 * math.pi)),
                hue=float(generator.uniform()),
                split="test" if index in test else "train",
            )
        )
    return tuple(stimuli)


def stimulus_features(stimuli: tuple[Stimulus, ...]) -> NDArray[np.float64]:
    """Standardised features that responses are tuned to, shape (n_stimuli, 11)."""
    rows = [
        [
            *(float(stimulus.category == category) for category in CATEGORIES),
            *(stimulus.x, stimulus.y, stimulus.size),
            *(math.cos(stimulus.angle), math.sin(stimulus.angle)),
            *(math.cos(2 * math.pi * stimulus.hue), math.sin(2 * math.pi * stimulus.hue)),
        ]
        for stimulus in stimuli
    ]
    features = np.asarray(rows, dtype=np.float64)
    features -= features.mean(axis=0)
    features /= np.maximum(features.std(axis=0), 1e-9)
    features[:, : len(CATEGORIES)] *= 1.5  # categories matter most, as in ventral cortex
    return features


def render(stimulus: Stimulus, path: Path) -> None:
    """Draw the image of a stimulus as PNG."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_PIXELS, _PIXELS), (128, 128, 128))
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(stimulus.hue, 0.8, 0.9))
    centre = np.array([stimulus.x + 1, stimulus.y + 1]) / 2 * _PIXELS
    radius = stimulus.size * _PIXELS
    draw = ImageDraw.Draw(image)
    if stimulus.category == "disk":
        # an ellipse cannot be turned, and a disk has no orientation: a notch shows it
        box = [*(centre - radius), *(centre + radius)]
        start = math.degrees(stimulus.angle)
        draw.pieslice(box, start + 20, start + 340, fill=(red, green, blue))
    else:
        n_corners = {"square": 4, "triangle": 3, "star": 10}[stimulus.category]
        radii = radius * np.where(np.arange(n_corners) % 2, 0.45 if stimulus.category == "star" else 1.0, 1.0)
        angles = stimulus.angle + 2 * np.pi * np.arange(n_corners) / n_corners
        corners = centre + radii[:, np.newaxis] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=(red, green, blue))
    image.save(path, format="PNG")
