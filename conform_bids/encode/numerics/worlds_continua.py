"""Synthetic populations that a mixture of Gaussians cannot hold, for benchmarks of population models.

`retinotopic_world`: features are energy at places of the visual field, and a unit's tuning is a receptive field there, of a size that grows
with eccentricity, with the sign and surround of its area: a continuum with sharp borders, in which hardly two units are alike.
`combination_world`: a unit's tuning is a combination of one to three of many elementary tunings: more kinds than components.

Both have heavy-tailed idiosyncrasy and noise ceilings of any height, as `out_of_family_world`; Bayes is approximated by many samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conform_bids.encode.numerics.population import FloatArray
from conform_bids.encode.numerics.worlds import TAIL, Stimuli, TruthSample, World, WorldSize, draw_people, scaled_rows

__all__ = ["combination_world", "retinotopic_world"]

N_AREAS = 6
N_ELEMENTS = 40
PERSON, OWN = 0.1, 0.2
"""Shares of the signal variance: of the person's own tunings, and of each unit."""
Rows = Callable[[int, np.random.Generator], FloatArray]


def _world(name: str, seed: int, size: WorldSize, make: Callable[[FloatArray, np.random.Generator], Rows]) -> World:
    """A population whose tunings ``make(gram, rng)`` draws, (n, n_features); rows of any length."""
    rng = np.random.default_rng((seed, sum(map(ord, name))))
    stimuli = Stimuli.make(size.n_features, rng)
    gram, d = stimuli.covariance(), size.n_features
    rows = make(gram, rng)

    def unit_power(tunings: FloatArray, power: float) -> FloatArray:
        own = np.einsum("vd,de,ve->v", tunings, gram, tunings)
        return np.asarray(tunings * np.sqrt(power / np.maximum(own, 1e-12))[:, None])

    def tunings(n_units: int, draw: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        turn = np.eye(d) + np.sqrt(PERSON / d) * draw.standard_normal((d, d))  # a person's own distortion of all tunings
        scale = (TAIL - 2) / draw.chisquare(TAIL, (n_units, 1))
        own = draw.standard_normal((n_units, d)) * np.sqrt(OWN * scale / np.trace(gram))
        return (unit_power(rows(n_units, draw) @ turn, 1 - OWN) + own).T, draw.uniform(0.05, 0.75, n_units)

    training, new = draw_people(stimuli, size, tunings, rng)
    samples = unit_power(rows(size.n_samples, rng), 1 - OWN)
    return World(name, training, new, TruthSample(samples, (PERSON + OWN) / np.trace(gram)))


def retinotopic_world(seed: int, size: WorldSize | None = None) -> World:
    """Receptive fields in areas with sharp borders.

    Parameters
    ----------
    seed : int
    size : WorldSize, optional
        By default that of the benchmark.

    Returns
    -------
    World
    """
    size = size or WorldSize()

    def make(gram: FloatArray, rng: np.random.Generator) -> Rows:
        radius = np.sqrt(rng.uniform(0, 1, size.n_features))
        angle = rng.uniform(0, 2 * np.pi, size.n_features)
        places = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
        sign = np.where(np.arange(N_AREAS) % 2, -1.0, 1.0)
        surround = rng.uniform(0, 0.8, N_AREAS)
        growth = rng.uniform(0.15, 0.5, N_AREAS)

        def rows(n: int, draw: np.random.Generator) -> FloatArray:
            area = draw.integers(N_AREAS, size=n)
            eccentricity, direction = draw.uniform(0, 1, n) ** 0.7, draw.uniform(0, 2 * np.pi, n)
            centre = np.column_stack([eccentricity * np.cos(direction), eccentricity * np.sin(direction)])
            distance = ((places[None] - centre[:, None]) ** 2).sum(axis=2)
            width = (0.08 + growth[area] * eccentricity)[:, None]
            field = np.exp(-distance / (2 * width**2)) - surround[area][:, None] * np.exp(-distance / (8 * width**2))
            return np.asarray(sign[area][:, None] * field)

        return rows

    return _world("retinotopic", seed, size, make)


def combination_world(seed: int, size: WorldSize | None = None) -> World:
    """Combinations of one to three of forty elementary tunings.

    Parameters
    ----------
    seed : int
    size : WorldSize, optional
        By default that of the benchmark.

    Returns
    -------
    World
    """
    size = size or WorldSize()

    def make(gram: FloatArray, rng: np.random.Generator) -> Rows:
        elements = np.stack([scaled_rows(rng.standard_normal((1, len(gram))), gram, 1.0)[0] for _ in range(N_ELEMENTS)])

        def rows(n: int, draw: np.random.Generator) -> FloatArray:
            chosen = draw.integers(N_ELEMENTS, size=(n, 3))
            weights = draw.exponential(size=(n, 3)) * (np.arange(3) < draw.integers(1, 4, size=(n, 1)))
            return np.asarray(np.einsum("vk,vkd->vd", weights, elements[chosen]))

        return rows

    return _world("combinations", seed, size, make)
