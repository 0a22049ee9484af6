"""The fitted denoiser: a mean and a linear map, kept as factors, that can be applied to any responses of the same units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Component", "Denoiser", "filter_gains", "gains"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def gains(signal_to_noise: FloatArray, n_averaged: float, terms: FloatArray) -> FloatArray:
    """What a mixture of filters lets through of each dimension, (n_dimensions,).

    The sum over terms of ``weight * (l t)^power / ((l t)^power + a)``, where l is the ratio of signal to noise variance along a
    dimension and t the number of trials averaged; power 1 and a = 1 is the Wiener filter.

    Parameters
    ----------
    signal_to_noise : (n_dimensions,) float64 array
        Ratio of the variances, of a single trial; 0 to infinity.
    n_averaged : float
        Trials averaged in what is filtered.
    terms : (n_terms, 3) float64 array
        Columns: weight, power, a. With a = 0 dimensions pass as they are.
    """
    return np.asarray(terms[:, 0] @ filter_gains(signal_to_noise, n_averaged, terms[:, 1:]))


def filter_gains(signal_to_noise: FloatArray, n_averaged: float, terms: FloatArray) -> FloatArray:
    """What each filter of a family lets through of each dimension, (n_terms, n_dimensions); see `gains`.

    Parameters
    ----------
    signal_to_noise, n_averaged
        As for `gains`.
    terms : (n_terms, 2) float64 array
        Columns: power, a.
    """
    power, a = terms[:, 0], terms[:, 1][:, None]
    distinct, place = np.unique(power, return_inverse=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        inverse = (signal_to_noise * n_averaged) ** -distinct[:, None]
        return np.where(a == 0, 1.0, 1.0 / (1.0 + a * inverse[place]))


@dataclass(frozen=True, eq=False)
class Component:
    """A part of the map: out = left @ diag(gain) @ right.T @ in.

    Attributes
    ----------
    left, right : (n_units, n_dimensions) float64 arrays
        Where dimensions go to, and what takes them from responses.
    signal_to_noise : (n_dimensions,) float64 array
        Ratio of variances along each dimension (see `gains`).
    terms : (n_terms, 3) float64 array
        Weight, power and a of the mixture of filters.
    """

    left: FloatArray
    right: FloatArray
    signal_to_noise: FloatArray
    terms: FloatArray

    @classmethod
    def projection(cls, left: FloatArray, right: FloatArray) -> Component:
        """A part whose dimensions all pass, whatever the number of trials."""
        return cls(left, right, np.zeros(left.shape[1]), np.array([[1.0, 1.0, 0.0]]))

    def gain(self, n_averaged: float) -> FloatArray:
        """What passes of each dimension."""
        return gains(self.signal_to_noise, n_averaged, self.terms)


@dataclass(frozen=True, eq=False)
class Denoiser:
    """Mean and linear map, for responses of the same units.

    Attributes
    ----------
    mean : (n_units,) float64 array
        Taken out before the map and added after it.
    components : sequence of Component
        Their outputs add up.
    n_averaged : float
        Trials averaged in the responses that it was made for.
    unit_gain : (n_units,) float64 array or None
        What each unit's output is multiplied by.
    """

    mean: FloatArray
    components: Sequence[Component]
    n_averaged: float
    unit_gain: FloatArray | None = None

    @property
    def n_units(self) -> int:
        """Units."""
        return len(self.mean)

    @property
    def depends_on_count(self) -> bool:
        """Whether the number of trials averaged makes a difference."""
        return any(component.terms[:, 2].any() for component in self.components)

    def folded(self) -> Denoiser:
        """The same map without gains of units: they are in where dimensions go to."""
        if self.unit_gain is None:
            return self
        parts = [replace(part, left=part.left * self.unit_gain[:, None]) for part in self.components]
        return replace(self, components=tuple(parts), unit_gain=None)

    def matrix(self, n_averaged: float | None = None) -> FloatArray:
        """The map as one matrix: denoised - mean = matrix @ (response - mean); (n_units, n_units)."""
        count = self.n_averaged if n_averaged is None else n_averaged
        total = np.zeros((self.n_units, self.n_units))
        for component in self.components:
            total += (component.left * component.gain(count)) @ component.right.T
        return total if self.unit_gain is None else total * self.unit_gain[:, None]

    def output_sizes(self, second_moment: FloatArray) -> FloatArray:
        """Root mean square of each unit's output, (n_units,), for responses about the mean with a second moment, (n_units, n_units)."""
        matrix = self.matrix()
        return np.asarray(np.sqrt(np.maximum(np.einsum("ij,ij->i", matrix @ second_moment, matrix), 0.0)))

    def effective_dimensions(self, n_averaged: float | None = None) -> float:
        """Trace of the map."""
        count = self.n_averaged if n_averaged is None else n_averaged
        parts = self.folded().components
        return float(sum(np.einsum("ij,ij,j->", part.left, part.right, part.gain(count)) for part in parts))

    def apply(self, responses: npt.NDArray[np.floating], n_averaged: npt.ArrayLike | None = None) -> FloatArray:
        """Denoise responses.

        Parameters
        ----------
        responses : (n_rows, n_units) array
            Trials or averages of trials, in the units that the denoiser was fitted in. A row with a missing unit comes out missing.
        n_averaged : array_like of float, scalar or (n_rows,), optional
            Trials averaged in each row; by default the number that the denoiser was made for.

        Returns
        -------
        (n_rows, n_units) float64 array

        Raises
        ------
        ValueError
            If the responses have other units, or a number of trials is not positive.
        """
        if responses.ndim != 2 or responses.shape[1] != self.n_units:
            raise ValueError(f"the denoiser has {self.n_units} units; the responses have shape {responses.shape}")
        count = np.broadcast_to(np.asarray(self.n_averaged if n_averaged is None else n_averaged, dtype=np.float64), len(responses))
        if not (count > 0).all():
            raise ValueError("n_averaged: numbers of trials are positive")
        centred = responses - self.mean
        denoised = np.zeros_like(centred)
        distinct, group, sizes = np.unique(count, return_inverse=True, return_counts=True)
        many = sizes >= self.n_units  # rows that are cheaper to multiply by one matrix than by factors
        for value in np.flatnonzero(many):
            rows = group == value
            denoised[rows] = centred[rows] @ self.matrix(float(distinct[value])).T
        few = ~many[group]
        if few.any():
            denoised[few] = self._by_factors(centred[few], distinct, group[few])
        return denoised + self.mean

    def _by_factors(self, centred: FloatArray, counts: FloatArray, group: IntArray) -> FloatArray:
        """The map of rows over ``counts[group]`` trials, without forming it."""
        denoised = np.zeros_like(centred)
        for component in self.components:
            gain = np.stack([component.gain(value) for value in counts])
            denoised += ((centred @ component.right) * gain[group]) @ component.left.T
        return denoised if self.unit_gain is None else denoised * self.unit_gain
