"""Streams of random numbers: each use has its own, so that a change of one leaves the others as they were."""

from __future__ import annotations

import numpy as np

from conform_bids.simulate.settings import SimulationSettings

__all__ = [
    "CATALOGUE",
    "DESIGN",
    "NEAR_COPIES",
    "ORGANISATION",
    "RUN",
    "SUBJECT",
    "TRAITS",
    "UNITS",
    "WORLD",
    "dataset_generator",
    "population_generator",
]

WORLD, ORGANISATION, CATALOGUE, NEAR_COPIES, SUBJECT, TRAITS, DESIGN, RUN, UNITS = range(1, 10)
"""Uses of random numbers."""


def population_generator(population_seed: int, use: int, *indices: int) -> np.random.Generator:
    """The stream of what all datasets of a population share."""
    return np.random.default_rng([use, population_seed, *indices])


def dataset_generator(settings: SimulationSettings, use: int, *indices: int) -> np.random.Generator:
    """The stream of what is a dataset's own: its people, designs, noise."""
    return np.random.default_rng([use, settings.population_seed, settings.seed, *indices])
