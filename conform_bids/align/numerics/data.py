"""People and parcels as they are handed to functional alignment, and the standardised data of one parcel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.numerics.blocks import value_blocks

__all__ = [
    "Block",
    "Parcel",
    "PersonData",
    "Standard",
    "applied_standard",
    "parcel_block",
    "parcels_from_labels",
    "standardise",
    "unit_spacing",
]

DEFAULT_RELIABILITY = 0.5
"""Reliability of a unit where none is given: half of its variance is noise."""
RELIABILITY_RANGE = (0.02, 0.98)
"""Estimated reliabilities reach 0 and 1; a noise variance has to stay positive, and no unit may rule alone."""


@dataclass(frozen=True, eq=False)
class PersonData:
    """Responses of one person to some of the stimuli that people share.

    Attributes
    ----------
    responses : array, shape (n_own, n_units)
        One row a stimulus (repeats averaged), one column a unit; any array that slices like numpy's, a memory map too (columns are
        read parcel by parcel: a map stored as (units, stimuli) and transposed reads fastest). A unit with a NaN, or without variance,
        is set aside.
    stimuli : int array, shape (n_own,), optional
        Place of each row in the list of all shared stimuli, each at most once; by default row k is stimulus k.
    reliability : array, shape (n_units,), optional
        Share of the rows' variance that is signal (for one-trial rows the single-trial reliability), clipped to .02-.98; by default .5.
    parcels : tuple of Parcel, optional
        This person's own units of each parcel, where people differ in units (methods ``srm`` and ``psrm`` with prior ``zero`` only).
    applied : Standard, optional
        Mean and standard deviation of the responses that the map will be applied to, where the rows are something else (the weights of an
        encoding model, a row a feature); by default those of the rows.
    """

    responses: NDArray[np.floating]
    stimuli: NDArray[np.intp] | None = None
    reliability: NDArray[np.floating] | None = None
    parcels: tuple[Parcel, ...] | None = None
    applied: Standard | None = None

    @property
    def rows(self) -> NDArray[np.intp]:
        """Place of each row in the list of shared stimuli."""
        return np.arange(self.responses.shape[0]) if self.stimuli is None else np.asarray(self.stimuli, dtype=np.intp)


@dataclass(frozen=True, eq=False)
class Parcel:
    """Units that are aligned together: a parcel's core and, usually, a margin around it.

    Attributes
    ----------
    units : int array, shape (n,)
        Columns of the responses.
    weights : float array, shape (n,)
        Share of this parcel in the average of a unit that several parcels hold; 0 for units that only help the fit.
    """

    units: NDArray[np.intp]
    weights: NDArray[np.floating]


def unit_spacing(coordinates: NDArray[np.floating]) -> float:
    """Median distance of a unit to its nearest neighbour: the unit of length of margins and smoothing.

    Parameters
    ----------
    coordinates : array, shape (n_units, n_dimensions)
        Positions of the units; NaN where a unit has none.
    """
    from scipy.spatial import cKDTree

    points = np.asarray(coordinates, dtype=np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2:
        return 1.0
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    positive = nearest[nearest > 0]
    return float(np.median(positive)) if len(positive) else 1.0


def parcels_from_labels(
    labels: NDArray[np.integer], coordinates: NDArray[np.floating] | None = None, margin: float = 2.0, margin_weight: float = 0.5
) -> tuple[Parcel, ...]:
    """Parcels of a labelling, each with the units around it.

    Parameters
    ----------
    labels : int array, shape (n_units,)
        Parcel of each unit; 0 or less: none.
    coordinates : array, shape (n_units, n_dimensions), optional
        Positions, such that what is near is near on the cortex (flat, inflated or spherical, with hemispheres and structures apart).
        Without them there is no margin.
    margin : float
        Units of other parcels (and of none) within this distance are added, in multiples of `unit_spacing`.
    margin_weight : float
        Weight of a margin's unit in the average over parcels, at least 0 and below 1; that of a core's is 1.

    Returns
    -------
    tuple of Parcel
        In the order of the labels, units ascending.

    Raises
    ------
    ValueError
        If the margin's weight is out of range: cores are told from margins by their weights.
    """
    if not 0 <= margin_weight < 1:
        raise ValueError(f"the weight of a margin must be at least 0 and below 1, got {margin_weight}")
    labels = np.asarray(labels)
    values = np.unique(labels[labels > 0])
    if coordinates is None or margin <= 0:
        return tuple(Parcel(np.flatnonzero(labels == value), np.ones(int((labels == value).sum()))) for value in values)
    from scipy.spatial import cKDTree

    points = np.asarray(coordinates, dtype=np.float64)
    placed = np.flatnonzero(np.isfinite(points).all(axis=1) & (labels > 0))
    reach = margin * unit_spacing(points) * (1 + 1e-6)
    tree = cKDTree(points[placed])
    parcels = []
    for value in values:
        core = np.flatnonzero(labels == value)
        found = tree.query_ball_point(points[np.intersect1d(core, placed)], reach)
        near = placed[np.unique(np.concatenate([np.asarray(each, dtype=np.intp) for each in found]))] if len(found) else core
        units = np.union1d(core, near)
        parcels.append(Parcel(units, np.where(labels[units] == value, 1.0, margin_weight)))
    return tuple(parcels)


@dataclass(frozen=True, eq=False)
class Standard:
    """Mean and standard deviation of each unit over the stimuli of the fit; NaN for units that are set aside.

    Attributes
    ----------
    mean, scale : array, shape (n_units,)
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]


def standardise(person: PersonData, z_score: bool = True) -> Standard:
    """Each unit's mean and standard deviation over a person's stimuli.

    Parameters
    ----------
    person : PersonData
    z_score : bool
        False: means 0 and scales 1 where a unit is usable (nothing is centred or scaled).
    """
    n_rows, n_units = person.responses.shape
    mean, scale = np.full(n_units, np.nan), np.full(n_units, np.nan)
    for block in value_blocks(n_rows, n_units):
        values = np.asarray(person.responses[:, block], dtype=np.float64)
        average = values.mean(axis=0)
        spread = np.sqrt(np.square(values - average).mean(axis=0))
        usable = np.isfinite(spread) & (spread > 16 * np.finfo(np.float32).eps * np.abs(average))
        mean[block] = np.where(usable, average if z_score else 0.0, np.nan)
        scale[block] = np.where(usable, spread if z_score else 1.0, np.nan)
    return Standard(mean, scale)


def applied_standard(person: PersonData, standard: Standard) -> Standard:
    """What responses are standardised by before a person's map takes them; units that the fit set aside stay so.

    Parameters
    ----------
    person : PersonData
    standard : Standard
        Of the rows of the fit.
    """
    if person.applied is None:
        return standard
    usable = np.isfinite(standard.scale) & np.isfinite(person.applied.scale)
    return Standard(np.where(usable, person.applied.mean, np.nan), np.where(usable, person.applied.scale, np.nan))


@dataclass(frozen=True, eq=False)
class Block:
    """Standardised responses of all people in one parcel, side by side.

    Attributes
    ----------
    values : float array, shape (n_stimuli, n_columns)
        People's units one after the other; 0 where a stimulus was not seen or a unit is set aside.
    seen : bool array, shape (n_people, n_stimuli)
        Who saw what.
    precision : float array, shape (n_columns,)
        1 / noise variance of each standardised unit; 0 for units that are set aside.
    edges : int array, shape (n_people + 1,)
        Columns of person i are ``edges[i]:edges[i + 1]``.
    """

    values: NDArray[np.floating]
    seen: NDArray[np.bool_]
    precision: NDArray[np.floating]
    edges: NDArray[np.intp]

    @property
    def n_people(self) -> int:
        """People in the block."""
        return len(self.edges) - 1

    def person(self, index: int) -> NDArray[np.floating]:
        """Columns of one person, (n_stimuli, n_units of the parcel)."""
        return self.values[:, self.edges[index] : self.edges[index + 1]]

    def person_precision(self, index: int) -> NDArray[np.floating]:
        """Precisions of one person's units."""
        return self.precision[self.edges[index] : self.edges[index + 1]]

    def grid(self) -> NDArray[np.floating]:
        """Values as (n_stimuli, n_people, n_units); people have the same units."""
        return self.values.reshape(len(self.values), self.n_people, -1)

    def select(self, people: Sequence[int]) -> Block:
        """Some of the people."""
        columns = np.concatenate([np.arange(self.edges[i], self.edges[i + 1]) for i in people])
        edges = np.r_[0, np.cumsum([self.edges[i + 1] - self.edges[i] for i in people])]
        return Block(np.ascontiguousarray(self.values[:, columns]), self.seen[list(people)], self.precision[columns], edges)


def parcel_block(
    people: Sequence[PersonData], standards: Sequence[Standard], parcels: Sequence[Parcel], n_stimuli: int, dtype: type = np.float32
) -> Block:
    """Gather one parcel.

    Parameters
    ----------
    people : sequence of PersonData
    standards : sequence of Standard
        One a person.
    parcels : sequence of Parcel
        The parcel as each person has it.
    n_stimuli : int
        Length of the list of shared stimuli.
    dtype : numpy dtype
        float32 for the large products, float64 where singular vectors are compared.
    """
    columns, precision, seen = [], [], np.zeros((len(people), n_stimuli), bool)
    for index, (person, standard, parcel) in enumerate(zip(people, standards, parcels, strict=True)):
        seen[index, person.rows] = True
        usable = np.isfinite(standard.scale[parcel.units])
        own = np.asarray(person.responses[:, parcel.units], dtype=np.float64)
        values: NDArray[np.floating] = np.zeros((n_stimuli, len(parcel.units)), dtype)
        values[person.rows] = np.where(usable, (own - standard.mean[parcel.units]) / standard.scale[parcel.units], 0)
        columns.append(values)
        precision.append(np.where(usable, unit_precision(person, parcel.units), 0))
    edges = np.r_[0, np.cumsum([each.shape[1] for each in columns])].astype(np.intp)
    return Block(np.concatenate(columns, axis=1), seen, np.concatenate(precision).astype(dtype), edges)


def unit_precision(person: PersonData, units: NDArray[np.intp]) -> NDArray[np.float64]:
    """1 / (1 - reliability) of some units: the precision of what is measured, for units of variance 1."""
    if person.reliability is None:
        return np.full(len(units), 1 / (1 - DEFAULT_RELIABILITY))
    given = np.nan_to_num(np.asarray(person.reliability, dtype=np.float64)[units], nan=RELIABILITY_RANGE[0])
    return 1 / (1 - np.clip(given, *RELIABILITY_RANGE))
