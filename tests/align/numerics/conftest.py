"""Small simulated people with a shared functional organisation that sits elsewhere in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from conform_bids.align.numerics.data import Parcel, PersonData, parcels_from_labels

SHEET = (10, 16)


@dataclass(frozen=True, eq=False)
class People:
    """Training and test data of a few people on one sheet of 160 units in two parcels."""

    training: list[PersonData]
    test: list[PersonData]
    parcels: tuple[Parcel, ...]
    coordinates: np.ndarray
    labels: np.ndarray


def make_people(n_train: int = 60, n_people: int = 4, noise: float = 0.7, shift: int = 2, seed: int = 0, n_test: int = 40) -> People:
    """Each person's maps are the group's, moved by up to ``shift`` units (0: anatomy is the truth)."""
    rng = np.random.default_rng(seed)
    group = gaussian_filter(rng.standard_normal((12, SHEET[0] + 20, SHEET[1] + 20)), [0, 1.5, 1.5])
    stimuli = rng.standard_normal((n_train + n_test, 12))
    training, test = [], []
    for _ in range(n_people):
        down, right = 10 + rng.integers(-shift, shift + 1, 2)
        weights = group[:, down : down + SHEET[0], right : right + SHEET[1]].reshape(12, -1)
        weights = weights / np.linalg.norm(weights, axis=0)
        responses = stimuli @ weights + noise * rng.standard_normal((len(stimuli), weights.shape[1]))
        reliability = np.full(weights.shape[1], 1 / (1 + noise**2))
        responses = 3 + 2 * responses
        training.append(PersonData(responses[:n_train].astype(np.float32), reliability=reliability))
        test.append(PersonData(responses[n_train:].astype(np.float32), reliability=reliability))
    rows, columns = np.meshgrid(np.arange(SHEET[0]), np.arange(SHEET[1]), indexing="ij")
    coordinates = np.column_stack([rows.ravel(), columns.ravel()]).astype(float)
    labels = (columns // 8 + 1).ravel()
    return People(training, test, parcels_from_labels(labels, coordinates), coordinates, labels)


@pytest.fixture(scope="session")
def people() -> People:
    """Four people, 60 training stimuli, maps moved about."""
    return make_people()


@pytest.fixture(scope="session")
def simulate_people() -> Callable[..., People]:
    """Make other ones."""
    return make_people
