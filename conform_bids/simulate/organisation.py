"""What a population has in common, and what a person makes of it: a functional map that everybody folds in his own way.

A unit belongs to a type (early visual, retinotopic, colour, or selective for a category). Types lie in patches whose
places, and in gradients whose directions, are the population's; each person's cortex carries this map displaced by a
smooth field, with patches moved and resized, so that the same place in two people does not have the same function.
Each unit has weights over the features of stimuli, of which its type and its place in the gradients explain most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.fields import smooth_fields
from conform_bids.simulate.stimuli import CATEGORIES, FEATURES, FIELD_CENTRES, reference_features

__all__ = ["TYPES", "FunctionalMap", "Population", "draw_functional_map", "draw_population"]

TYPES = ("early", "retinotopic", "colour", *CATEGORIES)
"""Functional types."""

_RANK = 3
_LOW_RANK = 0.3  # of the variance of tuning that is not idiosyncratic
_PATCHES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    # x of the right hemisphere (0: both alike), y, z and radius, in mm
    "early": ((10.0, -97.0, 0.0, 13.0),),
    "retinotopic": ((24.0, -88.0, 18.0, 10.0), (22.0, -84.0, -12.0, 8.0)),
    "colour": ((27.0, -68.0, -11.0, 9.0), (12.0, -74.0, 0.0, 9.0)),
    "face": ((40.0, -55.0, -19.0, 9.0), (42.0, -79.0, -9.0, 8.0)),
    "place": ((25.0, -54.0, -9.0, 10.0), (33.0, -82.0, 24.0, 9.0), (16.0, -58.0, 12.0, 9.0)),
    "body": ((48.0, -69.0, 4.0, 10.0), (38.0, -60.0, -17.0, 7.0)),
    "word": ((44.0, -59.0, -14.0, 8.0), (50.0, -58.0, 18.0, 9.0)),
    "object": ((40.0, -84.0, 2.0, 9.0), (28.0, -64.0, 48.0, 11.0)),
}
_FIELD_AMPLITUDE = {"early": 0.6, "retinotopic": 1.6, "colour": 0.2}
_ORIENTATION_AMPLITUDE = {"early": 1.2, "retinotopic": 0.4, "colour": 0.1}
_RELATED = {"face": "body", "body": "face", "place": "object", "object": "place"}

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """What all datasets of a population share.

    Attributes
    ----------
    seed : int
        ``--population-seed``.
    type_weights : ndarray, shape (n_types, n_features)
        Mean weights of each type, without gradients; unit variance over the world of stimuli.
    subspaces : ndarray, shape (n_types, 3, n_features)
        Directions in which units of a type differ.
    patch_type : ndarray of int, shape (n_patches,)
        Type of each patch, both hemispheres.
    patch_centre : ndarray, shape (n_patches, 3)
        In mm.
    patch_radius : ndarray, shape (n_patches,)
        In mm.
    patch_strength : ndarray, shape (n_patches,)
        Height of the patch.
    """

    seed: int
    type_weights: Float
    subspaces: Float
    patch_type: NDArray[np.int_]
    patch_centre: Float
    patch_radius: Float
    patch_strength: Float


@dataclass(frozen=True)
class FunctionalMap:
    """One person's map.

    Attributes
    ----------
    functional_type : ndarray of int, shape (n_sites,)
        Index into `TYPES`.
    strength : ndarray, shape (n_sites,)
        How strongly the site belongs to its type; decides which sites respond.
    delay : ndarray, shape (n_sites,)
        Smooth, unit variance: how late the site's HRF is.
    tuning : ndarray, shape (n_features, n_sites)
        Weights over features, such that responses have unit variance over the world of stimuli.
    """

    functional_type: NDArray[np.int_]
    strength: Float
    delay: Float
    tuning: Float


def _unit_variance(weights: Float) -> Float:
    """Scale weights, features last, such that responses have unit variance over the world of stimuli."""
    covariance = reference_features()[2]
    variance = ((weights @ covariance) * weights).sum(axis=-1, keepdims=True)
    return np.asarray(weights / np.sqrt(np.maximum(variance, 1e-12)), dtype=np.float64)


def _columns(prefix: str) -> list[int]:
    return [index for index, name in enumerate(FEATURES) if name.startswith(prefix)]


def draw_population(seed: int, generator: np.random.Generator) -> Population:
    """Draw the functional organisation of a population."""
    weights = 0.12 * generator.standard_normal((len(TYPES), len(FEATURES)))
    for row, name in enumerate(TYPES):
        if name == "colour":
            angle = generator.uniform(0, 2 * np.pi)
            weights[row, _columns("hue")] += np.cos(angle), np.sin(angle)
        elif name in CATEGORIES:
            weights[row, _columns("category_")] -= 0.25
            weights[row, FEATURES.index(f"category_{name}")] += 1.25
            if name in _RELATED:
                weights[row, FEATURES.index(f"category_{_RELATED[name]}")] += 0.35
        else:
            weights[row, _columns("frequency_")] += 0.3
            weights[row, FEATURES.index("size")] += 0.3 * (name == "retinotopic")
    patches = []
    for row, name in enumerate(TYPES):
        for x, y, z, radius in _PATCHES[name]:
            for side in (-1.0, 1.0):
                strength = 0.4 if name == "word" and side > 0 else 1.0  # words are read on the left
                centre = np.array([side * x, y, z]) + 3.0 * generator.standard_normal(3)
                patches.append((row, centre, radius * np.exp(0.1 * generator.standard_normal()), strength))
    return Population(
        seed=seed,
        type_weights=_unit_variance(weights),
        subspaces=_unit_variance(generator.standard_normal((len(TYPES), _RANK, len(FEATURES)))),
        patch_type=np.array([patch[0] for patch in patches]),
        patch_centre=np.array([patch[1] for patch in patches]),
        patch_radius=np.array([patch[2] for patch in patches]),
        patch_strength=np.array([patch[3] for patch in patches]),
    )


def _affinity(population: Population, folded: Float, shift: float, shared: np.random.Generator, own: np.random.Generator) -> Float:
    """How strongly each site belongs to each type, shape (n_types, n_sites)."""
    affinity = 0.3 * smooth_fields(folded, len(TYPES), 14.0, shared)
    n_patches = len(population.patch_type)
    centres = population.patch_centre + 0.4 * shift * own.standard_normal((n_patches, 3))
    radii = population.patch_radius * np.exp(0.03 * shift * own.standard_normal(n_patches))
    for kind, centre, radius, strength in zip(population.patch_type, centres, radii, population.patch_strength, strict=True):
        affinity[kind] += 1.5 * strength * np.exp(-((folded - centre) ** 2).sum(axis=1) / (2 * radius**2))
    return affinity


def _gradients(folded: Float, side: Float, functional_type: NDArray[np.int_], orientation: Float) -> Float:
    """Weights that follow from a site's place: the part of the visual field that it sees, and the grating it prefers.

    Eccentricity grows with the distance from the occipital pole; polar angle runs from the upper field below the
    calcarine sulcus to the lower field above it; each hemisphere sees the other side.
    """
    weights = np.zeros((len(folded), len(FEATURES)))
    names = np.array(TYPES)[functional_type]
    eccentricity = np.clip((folded[:, 1] + 102) / 50, 0.05, 1)
    angle = np.pi / 2 * np.tanh(folded[:, 2] / 15)
    seen = 0.7 * eccentricity[:, np.newaxis] * np.stack([-side * np.cos(angle), np.sin(angle)], axis=1)
    distance = ((seen[:, np.newaxis] - FIELD_CENTRES) ** 2).sum(axis=2)
    fields = np.exp(-distance / (2 * 0.35**2))
    fields /= np.linalg.norm(fields, axis=1, keepdims=True)
    amplitude = np.array([_FIELD_AMPLITUDE.get(name, 0.3) for name in names])
    weights[:, _columns("field_")] = amplitude[:, np.newaxis] * fields
    channels = _columns("orientation_")
    preferred = np.pi * orientation[:, np.newaxis] - np.pi * np.arange(len(channels)) / len(channels)
    amplitude = np.array([_ORIENTATION_AMPLITUDE.get(name, 0.05) for name in names])
    weights[:, channels] = amplitude[:, np.newaxis] * np.cos(2 * preferred)
    fine = np.stack([eccentricity - 0.5, np.zeros_like(eccentricity), 0.5 - eccentricity], axis=1)
    weights[:, _columns("frequency_")] = amplitude[:, np.newaxis] * fine
    return weights


def draw_functional_map(
    population: Population,
    positions: Float,
    shift: float,
    idiosyncrasy: float,
    shared: np.random.Generator,
    own: np.random.Generator,
) -> FunctionalMap:
    """Draw a person's map.

    Parameters
    ----------
    population : Population
        Whose person it is.
    positions : ndarray, shape (n_sites, 3)
        In mm.
    shift : float
        Standard deviation (mm) of the displacement, by axis.
    idiosyncrasy : float
        Fraction of the variance of tuning that the population does not determine: half of it goes with the person's
        types, half with each unit.
    shared, own : numpy.random.Generator
        Of the population (in the same state for each person), and of the person.
    """
    n_sites = len(positions)
    folded = positions + shift * smooth_fields(positions, 3, 25.0, own).T
    affinity = _affinity(population, folded, shift, shared, own)
    functional_type = affinity.argmax(axis=0)
    latent = smooth_fields(folded, _RANK + 2, 12.0, shared)
    scores = np.sqrt(0.6) * latent[:_RANK].T + np.sqrt(0.4) * own.standard_normal((n_sites, _RANK))
    side = np.where(positions[:, 0] < 0, -1.0, 1.0)
    typical = _unit_variance(population.type_weights[functional_type] + _gradients(folded, side, functional_type, latent[_RANK]))
    within = _unit_variance(np.einsum("sr,srf->sf", scores, population.subspaces[functional_type]))
    of_person = _unit_variance(own.standard_normal((len(TYPES), len(FEATURES))))[functional_type]
    of_unit = _unit_variance(own.standard_normal((n_sites, len(FEATURES))))
    shared_part = np.sqrt(1 - _LOW_RANK) * typical + np.sqrt(_LOW_RANK) * within
    odd_part = np.sqrt(0.5) * (of_person + of_unit)
    tuning = np.sqrt(1 - idiosyncrasy) * _unit_variance(shared_part) + np.sqrt(idiosyncrasy) * _unit_variance(odd_part)
    return FunctionalMap(functional_type, affinity.max(axis=0), latent[_RANK + 1], np.ascontiguousarray(_unit_variance(tuning).T))
