"""Simulated people whose functional organisation is known: the worlds that alignment is measured on.

Six people, 2,000 units, 20 parcels of 100, one noise level a unit (log-normal over units). A: 1-D strip, 30 latents. B: 40 x 50 sheet, 80
latents, smooth warps of sd 2 units, a quarter of each person's map variance their own. C: B without warps or own variance (anatomy is the
truth). D: warps of sd 5, 40 % own variance. E: B with half of the noise variance spatially correlated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

__all__ = ["WORLDS", "World", "simulate"]

SHEET = (40, 50)
PARCEL = (10, 10)
BORDER = 20
N_NEW, N_EXTRA = 150, 100
SMOOTHNESS = 1.8
WARP_SMOOTHNESS = 5.0
NOISE_SPREAD = 0.75
"""Of the logarithm of noise levels. With these three, in B the best possible prediction from one parcel is .91 (noise 1) and .85 (noise 2)
of the noise ceiling, and that by the same unit of the others .36 and .27."""


@dataclass(frozen=True)
class World:
    """What differs between worlds."""

    n_latents: int
    warp: float
    own: float
    smooth_noise: float = 0.0
    strip: bool = False


WORLDS = {
    "A": World(30, 3.0, 0.25, strip=True),
    "B": World(80, 2.0, 0.25),
    "C": World(80, 0.0, 0.0),
    "D": World(80, 5.0, 0.40),
    "E": World(80, 2.0, 0.25, smooth_noise=0.5),
}


@dataclass(frozen=True, eq=False)
class Simulated:
    """Six people of a world.

    Attributes
    ----------
    train : list of arrays, shape (n_train, n_units)
        Noisy responses to the training stimuli.
    new, again : list of arrays, shape (150, n_units)
        Responses to new stimuli, and once more with other noise.
    estimated, true : list of arrays, shape (n_units,)
        Reliability of a response: from two presentations of 100 other stimuli, and as simulated.
    coordinates : array, shape (n_units, 2)
    labels : int array, shape (n_units,)
    """

    train: list[np.ndarray]
    new: list[np.ndarray]
    estimated: list[np.ndarray]
    true: list[np.ndarray]
    coordinates: np.ndarray
    labels: np.ndarray


def _fields(rng: np.random.Generator, count: int, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Smooth Gaussian fields of variance 1, (count, *shape)."""
    fields = gaussian_filter(rng.standard_normal((count, *shape)), [0.0] + [width if n > 1 else 0.0 for n in shape], mode="wrap")
    return fields / fields.std(axis=tuple(range(1, fields.ndim)), keepdims=True)


def _person_map(rng: np.random.Generator, world: World, group: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A person's weights (latents, units): the group's at warped places, and their own."""
    grid = np.meshgrid(*[np.arange(n) + (BORDER if n > 1 else 0) for n in shape], indexing="ij")
    shift = [world.warp * _fields(rng, 1, shape, WARP_SMOOTHNESS)[0] if n > 1 else np.zeros(shape) for n in shape]
    places = [axis + move for axis, move in zip(grid, shift, strict=True)]
    warped = np.stack([map_coordinates(field, places, order=1, mode="nearest").ravel() for field in group])
    own = _fields(rng, len(group), shape, SMOOTHNESS).reshape(len(group), -1)
    weights = np.sqrt(1 - world.own) * warped + np.sqrt(world.own) * own
    return weights / np.linalg.norm(weights, axis=0)


def _noise(rng: np.random.Generator, world: World, n: int, shape: tuple[int, ...], level: np.ndarray) -> np.ndarray:
    white = rng.standard_normal((n, level.size))
    if world.smooth_noise:
        smooth = _fields(rng, n, shape, SMOOTHNESS).reshape(n, -1)
        white = np.sqrt(1 - world.smooth_noise) * white + np.sqrt(world.smooth_noise) * smooth
    return white * level


def simulate(name: str, n_train: int, noise: float, seed: int, n_people: int = 6) -> Simulated:
    """People of a world; ``noise`` is the noise's standard deviation over the signal's, on average over units."""
    world = WORLDS[name]
    shape = (1, SHEET[0] * SHEET[1]) if world.strip else SHEET
    rng = np.random.default_rng(seed)
    group = _fields(rng, world.n_latents, tuple(n + 2 * BORDER if n > 1 else 1 for n in shape), SMOOTHNESS)
    stimuli = rng.standard_normal((n_train + N_NEW, world.n_latents))
    extra = rng.standard_normal((N_EXTRA, world.n_latents))
    train, new, estimated, true = [], [], [], []
    for _ in range(n_people):
        weights = _person_map(rng, world, group, shape)
        level = noise * np.exp(rng.normal(0, NOISE_SPREAD, weights.shape[1]))
        measured = stimuli @ weights + _noise(rng, world, len(stimuli), shape, level)
        halves = [extra @ weights + _noise(rng, world, N_EXTRA, shape, level) for _ in range(2)]
        centred = [half - half.mean(axis=0) for half in halves]
        agreement = (centred[0] * centred[1]).sum(axis=0) / np.sqrt(np.square(centred[0]).sum(axis=0) * np.square(centred[1]).sum(axis=0))
        train.append(measured[:n_train].astype(np.float32))
        new.append(measured[n_train:].astype(np.float32))
        estimated.append(agreement)
        true.append(1 / (1 + level**2))
    rows, columns = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    across = shape[1] // PARCEL[1]
    labels = columns // 100 + 1 if world.strip else (rows // PARCEL[0]) * across + columns // PARCEL[1] + 1
    coordinates = np.column_stack([rows.ravel(), columns.ravel()]).astype(float)
    return Simulated(train, new, estimated, true, coordinates, labels.ravel())
