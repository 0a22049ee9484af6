"""A person's map from Python: new responses brought to the units of a template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from conform_bids.align.numerics.predict import apply_map
from conform_bids.align.transforms import parcel_hash, read_person, read_template
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.compute import Compute

__all__ = ["apply"]


def apply(transform: str | Path, template: str | Path, responses: npt.NDArray[np.floating], n_threads: int = 1) -> npt.NDArray[np.float32]:
    """Bring responses of a person to the units of a template.

    Parameters
    ----------
    transform : path
        The person's ``*_to-<template>_mode-function_*_xfm.h5``.
    template : path
        The template's ``tpl-*_xfm.h5``.
    responses : (n_rows, n_units) array
        Any responses of this person on the template's grid, in the units and scale of those that the map was fitted on. For volumes,
        units are the voxels that the template's map has a value at, in C order.
    n_threads : int

    Returns
    -------
    (n_rows, n_units) float32 array
        In standard deviations of the stimuli of the fit; NaN outside of the parcels.

    Raises
    ------
    MissingInputError, UnusableInputError
        When a file is missing or broken, or the two do not belong together.
    ValueError
        When responses are of another number of units.
    """
    person, known = read_person(Path(transform)), read_template(Path(template))
    if parcel_hash(person.parcels) != parcel_hash(known.template.parcels):
        raise UnusableInputError(f"{transform}: its parcels are not those of the template {template}")
    return apply_map(person, known.template, np.asarray(responses), Compute(n_threads=n_threads))
