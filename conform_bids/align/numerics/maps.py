"""Templates and maps: frozen arrays that say how a person's units and the shared space are tied.

All methods share one form. Within a parcel and a family of models, a person's standardised responses x (n, units) say something of the
shared responses s (n, k): ``x @ encode``, with precision ``precision`` (k, k). Responses of several people combine to

    s = (sum_i x_i encode_i) (prior I + sum_i precision_i)^-1,

and ``s @ decode`` predicts a person's own standardised responses. Probabilistic shared responses have prior 1; for the other methods
precision is the identity and prior 0, and s is a mean over people. Families are added up with the weights of a stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import Parcel, Standard
from conform_bids.align.numerics.options import AlignOptions, Setting

__all__ = ["FamilyTemplate", "ParcelMap", "ParcelTemplate", "PersonMap", "SharedMap", "Template"]

Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SharedMap:
    """One person, one parcel, one family.

    Attributes
    ----------
    encode : (n_units, k) array or None
        From the person's units to the shared space; None: the shared space is the units themselves (k = n_units).
    precision : (k, k) array or None
        How much the person's responses say of the shared ones; None: the identity.
    decode : (k, n_units) array
        From the shared space to the person's standardised responses.
    forward : (k, n_template_units) array or None
        From the shared space to the template's units, where that is not the template's `FamilyTemplate.group_map` (ridge).
    """

    encode: Array | None
    precision: Array | None
    decode: Array
    forward: Array | None = None


@dataclass(frozen=True, eq=False)
class ParcelMap:
    """One person in one parcel.

    Attributes
    ----------
    families : dict of str to SharedMap
    weights : dict of str to float
        Weight of each family in the sum.
    """

    families: dict[str, SharedMap]
    weights: dict[str, float]


@dataclass(frozen=True, eq=False)
class PersonMap:
    """How one person is tied to the template.

    Attributes
    ----------
    standard : Standard
        Mean and scale of each unit over the stimuli of the fit; NaN where a unit is set aside.
    parcels : tuple of Parcel
        The person's units of each parcel.
    maps : tuple of ParcelMap
        One a parcel.
    """

    standard: Standard
    parcels: tuple[Parcel, ...]
    maps: tuple[ParcelMap, ...]


@dataclass(frozen=True, eq=False)
class FamilyTemplate:
    """What a new person is fitted to, in one parcel and family.

    Attributes
    ----------
    scores : (n_stimuli, k) array
        Shared responses to the stimuli of the fit; 0 for stimuli that nobody of the template saw.
    group_map : (k, n_template_units) array or None
        From the shared space to the template's units; None: they are the same, or there is no common grid (unequal units).
    prior : float
        1 for probabilistic shared responses, else 0.
    covariances : (n_patterns, k, k) array or None
        Posterior covariance of a stimulus' shared response, by the set of people who saw it.
    patterns : (n_stimuli,) int array or None
        Set of each stimulus; -1 where nobody saw it.
    map_covariance : (k, k) array or None
        Covariance over units and people of the maps about their mean (a prior's Sigma).
    map_mean : (k, n_units) array or None
        Mean map (priors ``group`` and ``kernel``; for ``kernel`` in the kernel's eigenbasis).
    n_people : int
        People of the template.
    """

    scores: Array
    group_map: Array | None
    prior: float = 0.0
    covariances: Array | None = None
    patterns: NDArray[np.intp] | None = None
    map_covariance: Array | None = None
    map_mean: Array | None = None
    n_people: int = 0


@dataclass(frozen=True, eq=False)
class ParcelTemplate:
    """One parcel of a template.

    Attributes
    ----------
    families : dict of str to FamilyTemplate
    coordinates : (n_units, n_dimensions) array or None
        Positions of its units in multiples of their spacing; None: no smoothing, no kernel.
    """

    families: dict[str, FamilyTemplate]
    coordinates: Array | None


@dataclass(frozen=True, eq=False)
class Template:
    """A functional template: all that `fit_person` needs to tie a new person to it.

    Attributes
    ----------
    options : AlignOptions
    setting : Setting
    parcels : tuple of Parcel
        Template units of each parcel (those of the first person where people differ in units).
    n_units : int
        Units of the template's grid.
    covered : (n_stimuli,) bool array
        Stimuli of the list that somebody of the template saw.
    parts : tuple of ParcelTemplate
        One a parcel.
    members : tuple of PersonMap
        Maps of the template's people, in their order. `fit_person` does not read them: ``dataclasses.replace(template, members=())``
        is a template without people.
    """

    options: AlignOptions
    setting: Setting
    parcels: tuple[Parcel, ...]
    n_units: int
    covered: NDArray[np.bool_]
    parts: tuple[ParcelTemplate, ...]
    members: tuple[PersonMap, ...]

    @property
    def n_stimuli(self) -> int:
        """Length of the list of shared stimuli."""
        return len(self.covered)
