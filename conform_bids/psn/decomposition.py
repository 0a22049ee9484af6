"""New responses of the same person, denoised by a decomposition that conform-psn wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from conform_bids.bids.hdf5_layouts import Decomposition, ParcelRecord, read_decomposition
from conform_bids.psn.numerics.denoiser import Component, Denoiser

__all__ = ["apply", "denoiser_of"]

FloatArray = npt.NDArray[np.float64]


def denoiser_of(parcel: ParcelRecord) -> Denoiser:
    """The denoiser of a parcel of a decomposition file, for standardised responses."""
    parts = tuple(Component(part.left, part.right, part.signal_to_noise, part.terms) for part in parcel.components)
    return Denoiser(parcel.mean, parts, parcel.n_averaged)


def apply(
    decomposition: str | Path | Decomposition | Denoiser,
    responses: npt.NDArray[np.floating],
    n_averaged: npt.ArrayLike | None = None,
    *,
    standardised: bool = False,
) -> FloatArray:
    """Denoise new responses of the same person.

    Parameters
    ----------
    decomposition : path, Decomposition or Denoiser
        A file ``*_desc-psn_decomposition.h5`` of conform-psn, what was read from one, or a fitted denoiser of a set of units.
    responses : (n_rows, n_units) array
        Trials or averages of trials, of all units of the space in the order of the maps, in the units of the outputs of conform-psn
        (amplitudes rescaled, where they were). A row in which a unit of a parcel is missing comes out missing in that parcel.
    n_averaged : array_like of float, scalar or (n_rows,), optional
        Trials averaged in each row; by default the number that the denoiser was made for.
    standardised : bool
        Responses are in standard deviations of their own session's trials, about their mean, as z-scoring within a new session gives
        them; they are brought to the units of the outputs.

    Returns
    -------
    (n_rows, n_units) float64 array
        In the units of the outputs; NaN for units outside of every parcel.

    Raises
    ------
    ValueError
        If the responses have other units, or a number of trials is not positive.
    MissingInputError, UnusableInputError
        When the file is absent or is no decomposition.
    """
    if isinstance(decomposition, Denoiser):
        return decomposition.apply(responses, n_averaged)
    found = decomposition if isinstance(decomposition, Decomposition) else read_decomposition(decomposition)
    if responses.ndim != 2 or responses.shape[1] != found.n_units:
        raise ValueError(f"the decomposition is of {found.n_units} units; the responses have shape {responses.shape}")
    denoised = np.full(responses.shape, np.nan)
    for parcel in found.parcels:
        units = parcel.units
        centre, spread = found.centre[units], found.spread[units]
        values = np.asarray(responses[:, units], dtype=np.float64)
        values = values if standardised else (values - centre) / spread
        if parcel.action == "denoised":
            values = denoiser_of(parcel).apply(values, n_averaged)
        elif parcel.action == "zeroed":
            values = np.where(np.isfinite(values).all(axis=1, keepdims=True), parcel.mean, np.nan)
        denoised[:, units] = centre + spread * values
    return denoised
