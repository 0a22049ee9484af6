"""Stimuli: small drawings of known latent properties, and the features of them that responses are tuned to.

A population of datasets has one world of stimuli. A stimulus is a name in that world (its ``content``), which with the population's
seed gives the latent properties, hence the same image in every dataset; what the image is called is a dataset's own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.seeds import CATALOGUE, NEAR_COPIES, WORLD, dataset_generator, population_generator
from conform_bids.simulate.settings import SimulationSettings

__all__ = ["CATEGORIES", "FEATURES", "FIELD_CENTRES", "Catalogue", "Stimulus", "draw_catalogue", "reference_features", "stimulus_features"]

CATEGORIES = ("face", "place", "body", "word", "object")
"""Trial types."""

_GRID = (-0.5, 0.0, 0.5)
FIELD_CENTRES = np.array([(x, y) for y in _GRID for x in _GRID])
"""Centres of the receptive fields, shape (9, 2): x to the right, y downwards, the image from -1 to 1."""

_FIELD_SD = 0.3
_N_ORIENTATIONS = 4
_FREQUENCIES = (4.0, 7.0, 12.0)  # cycles an image

FEATURES = (
    *(f"category_{name}" for name in CATEGORIES),
    *(f"field_{index}" for index in range(len(FIELD_CENTRES))),
    *(f"orientation_{180 * index // _N_ORIENTATIONS:03d}" for index in range(_N_ORIENTATIONS)),
    *(f"frequency_{frequency:.0f}" for frequency in _FREQUENCIES),
    "size",
    "hue_cos",
    "hue_sin",
)
"""Names of the features, in their order."""

_COMMON, _OF_DATASET, _OF_SUBJECT, _REFERENCE = range(4)
_N_REFERENCE = 1000


@dataclass(frozen=True)
class Stimulus:
    """One image: something drawn in one colour on a gray grating.

    Attributes
    ----------
    stim_id : str
        Its name in the dataset.
    category : str
        One of `CATEGORIES`.
    x, y : float
        Centre of the object, -0.5 to 0.5 (the image is from -1 to 1; y goes down).
    size : float
        Radius of the object as a fraction of the image.
    hue : float
        Of the object, 0 to 1.
    orientation : float
        Of the grating, 0 to pi.
    frequency : float
        Of the grating, cycles an image.
    contrast : float
        Of the grating, 0 to 1.
    content : str
        Its name in the world of the population: the same content is the same image.
    seen_by : str
        ``all``, or the label of the one participant who sees it.
    split : str
        ``train`` or ``test``.
    near_copy_of : str
        ``stim_id`` of the stimulus that it was copied from with small changes, or ``n/a``.
    """

    stim_id: str
    category: str
    x: float
    y: float
    size: float
    hue: float
    orientation: float
    frequency: float
    contrast: float
    content: str
    seen_by: str = "all"
    split: str = "train"
    near_copy_of: str = "n/a"


@dataclass(frozen=True)
class Catalogue:
    """The stimuli of a dataset.

    Attributes
    ----------
    shared : tuple of Stimulus
        What every participant sees; the common ones first, near copies last.
    own : tuple of tuple of Stimulus
        What only one sees, by participant.
    """

    shared: tuple[Stimulus, ...]
    own: tuple[tuple[Stimulus, ...], ...]

    @property
    def everything(self) -> tuple[Stimulus, ...]:
        """All stimuli of the dataset."""
        return (*self.shared, *(stimulus for own in self.own for stimulus in own))

    def of_subject(self, index: int) -> tuple[Stimulus, ...]:
        """What a participant (0-based) sees."""
        return (*self.shared, *self.own[index])


def draw_catalogue(settings: SimulationSettings) -> Catalogue:
    """Draw the stimuli of a dataset: those of the population first, then the dataset's, then each participant's own."""
    generator = dataset_generator(settings, CATALOGUE)
    n_copies, n_own = settings.near_duplicates, settings.n_stimuli - settings.n_shared
    shared = [_from_world(settings, _COMMON, 0, index) for index in range(settings.n_common)]
    shared += [_from_world(settings, _OF_DATASET, settings.seed, index) for index in range(settings.n_shared - n_copies - len(shared))]
    shared = _named(shared, 0, generator)
    shared += _near_copies(shared[:n_copies], settings)
    n_test_shared = settings.n_shared if settings.test_on_shared else round(settings.test_fraction * settings.n_shared)
    shared = _split(shared, n_test_shared, generator)
    own = []
    for subject in range(settings.n_subjects):
        seed = 100 * settings.seed + subject
        drawn = [_from_world(settings, _OF_SUBJECT, seed, index) for index in range(n_own)]
        named = [replace(shown, seen_by=f"{subject + 1:02d}") for shown in _named(drawn, 10000 * (subject + 1), generator)]
        own.append(tuple(_split(named, settings.n_test - n_test_shared, generator)))
    return Catalogue(tuple(shared), tuple(own))


def _from_world(settings: SimulationSettings, kind: int, owner: int, index: int) -> Stimulus:
    generator = population_generator(settings.population_seed, WORLD, kind, owner, index)
    content = f"{('common', 'dataset', 'subject')[kind]}-{owner}-{index}"
    return _draw(CATEGORIES[index % len(CATEGORIES)], content, generator)


def _draw(category: str, content: str, generator: np.random.Generator) -> Stimulus:
    x, y = generator.uniform(-0.5, 0.5, 2)
    return Stimulus(
        stim_id="",
        category=category,
        x=float(x),
        y=float(y),
        size=float(generator.uniform(0.16, 0.24)),
        hue=float(generator.uniform()),
        orientation=float(generator.uniform(0, np.pi)),
        frequency=float(np.exp(generator.uniform(np.log(_FREQUENCIES[0]), np.log(_FREQUENCIES[-1])))),
        contrast=float(generator.uniform(0.15, 0.7)),
        content=content,
    )


def _named(stimuli: Sequence[Stimulus], first: int, generator: np.random.Generator) -> list[Stimulus]:
    """Number the stimuli of each category in an order that is the dataset's own."""
    named = list(stimuli)
    for category in CATEGORIES:
        places = [place for place, stimulus in enumerate(stimuli) if stimulus.category == category]
        for number, place in zip(generator.permutation(len(places)), places, strict=True):
            named[place] = replace(stimuli[place], stim_id=f"{category}{first + int(number) + 1:03d}")
    return named


def _near_copies(originals: Sequence[Stimulus], settings: SimulationSettings) -> list[Stimulus]:
    """Copies that a person would call the same image, and whose files differ."""
    generator = dataset_generator(settings, NEAR_COPIES)
    copies = []
    for index, original in enumerate(originals):
        moved, turned = 0.02 * generator.choice([-1.0, 1.0], 2), 0.01 * float(generator.choice([-1.0, 1.0]))
        copy = replace(
            original,
            stim_id=f"{original.category}{9000 + index + 1}",
            x=float(np.clip(original.x + moved[0], -0.5, 0.5)),
            y=float(np.clip(original.y + moved[1], -0.5, 0.5)),
            hue=(original.hue + turned) % 1.0,
            contrast=original.contrast * 1.05,
            content=f"copy-{settings.seed}-{index}",
            near_copy_of=original.stim_id,
        )
        copies.append(copy)
    return copies


def _split(stimuli: Sequence[Stimulus], n_test: int, generator: np.random.Generator) -> list[Stimulus]:
    test = set(generator.permutation(len(stimuli))[:n_test].tolist())
    return [replace(stimulus, split="test" if index in test else "train") for index, stimulus in enumerate(stimuli)]


def _raw_features(stimuli: Sequence[Stimulus]) -> NDArray[np.float64]:
    """Features before they are standardised, shape (n_stimuli, n_features)."""
    columns = {
        name: np.array([getattr(stimulus, name) for stimulus in stimuli])
        for name in ("x", "y", "size", "hue", "orientation", "frequency", "contrast")
    }
    category = np.array([[float(stimulus.category == name) for name in CATEGORIES] for stimulus in stimuli])
    place = np.stack([columns["x"], columns["y"]], axis=1)
    distance = ((place[:, np.newaxis] - FIELD_CENTRES) ** 2).sum(axis=2)
    fields = columns["size"][:, np.newaxis] ** 2 * np.exp(-distance / (2 * _FIELD_SD**2))
    # energy of the grating: a phase is not seen, and turning it by pi changes nothing
    preferred = np.pi * np.arange(_N_ORIENTATIONS) / _N_ORIENTATIONS
    orientations = columns["contrast"][:, np.newaxis] * np.cos(columns["orientation"][:, np.newaxis] - preferred) ** 4
    octaves = np.log2(columns["frequency"])[:, np.newaxis] - np.log2(_FREQUENCIES)
    frequencies = columns["contrast"][:, np.newaxis] * np.exp(-(octaves**2) / (2 * 0.4**2))
    turn = 2 * np.pi * columns["hue"]
    return np.column_stack([category, fields, orientations, frequencies, columns["size"], np.cos(turn), np.sin(turn)])


@cache
def reference_features() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, standard deviation and covariance of the (standardised) features over the world of stimuli.

    They come from a fixed sample: the same for every dataset, so that weights mean the same everywhere.

    Returns
    -------
    mean, scale : ndarray, shape (n_features,)
    covariance : ndarray, shape (n_features, n_features)
    """
    generator = population_generator(0, WORLD, _REFERENCE, 0, 0)
    raw = _raw_features([_draw(CATEGORIES[index % len(CATEGORIES)], "", generator) for index in range(_N_REFERENCE)])
    mean, scale = raw.mean(axis=0), raw.std(axis=0)
    standardised = (raw - mean) / scale
    return mean, scale, standardised.T @ standardised / _N_REFERENCE


def stimulus_features(stimuli: Sequence[Stimulus]) -> NDArray[np.float64]:
    """Features that responses are tuned to, standardised over the world of stimuli; shape (n_stimuli, n_features)."""
    if not stimuli:
        return np.zeros((0, len(FEATURES)))
    mean, scale, _ = reference_features()
    return np.asarray((_raw_features(stimuli) - mean) / scale, dtype=np.float64)
