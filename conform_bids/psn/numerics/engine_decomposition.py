"""What is kept of a parcel's fit: its dimensions, what passes of each, and the curves that led to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.bases import Basis
from conform_bids.psn.numerics.calibrated import A_VALUES, CalibratedResult, wiener_part
from conform_bids.psn.numerics.crossvalidated import CrossvalidatedResult
from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.engine_data import ParcelDecomposition
from conform_bids.psn.numerics.engine_fit import UnitFit
from conform_bids.psn.numerics.fit import ParcelFit
from conform_bids.psn.numerics.presets import ProjectionResult
from conform_bids.psn.numerics.stacked import StackedResult
from conform_bids.psn.numerics.thresholds import recovery_curve

__all__ = ["decompose_fit", "undecomposed"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
MAX_DUAL = 300
"""Dimensions that are kept of the dual form's, for description only: its units are many."""


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Dimensions, leading first, as `ParcelDecomposition` has them."""

    basis: FloatArray
    eigenvalues: FloatArray
    signal: FloatArray
    noise: FloatArray
    passed: FloatArray


def decompose_fit(label: int, fit: UnitFit, units: IntArray, offset: FloatArray, gain: FloatArray) -> ParcelDecomposition:
    """All that a parcel's denoiser is made of.

    Parameters
    ----------
    label : int
        Of the parcel.
    fit : UnitFit
        Its fit.
    units : (k,) int array
        Rows of the betas.
    offset, gain : (k,) float64 arrays
        From standardised responses to outputs.
    """
    parcel_fit = fit.fitted.fit
    spectrum = _spectrum(parcel_fit)
    likelihoods = _likelihoods(parcel_fit)
    found, basis = fit.coordinates, spectrum.basis
    kept = slice(MAX_DUAL if found is not None else None)
    if found is not None:
        basis = found.deviations(basis[:, kept].T).T
        basis = basis / np.maximum(np.linalg.norm(basis, axis=0), np.finfo(np.float64).tiny)
    return ParcelDecomposition(
        label=label,
        method=fit.method,
        units=units,
        denoiser=fit.denoiser.folded(),
        output_offset=offset,
        output_gain=gain,
        basis=basis,
        eigenvalues=spectrum.eigenvalues[kept],
        signal_variance=spectrum.signal[kept],
        noise_variance=spectrum.noise[kept],
        passed=spectrum.passed[kept],
        curve=_curve(parcel_fit, spectrum),
        noise_likelihood=likelihoods[1],
        data_likelihood=likelihoods[0],
        dual=found is not None,
        coordinates=None if found is None else found.coordinates,
        scale=None if found is None else found.scale,
        mean=None if found is None else found.mean,
    )


def undecomposed(
    label: int, method: str, units: IntArray, mean: FloatArray, n_averaged: float, offset: FloatArray, gain: FloatArray
) -> ParcelDecomposition:
    """A parcel that could not be fitted: nothing but the mean of its units, and no dimensions."""
    none = np.zeros(0)
    empty = np.zeros((len(units), 0))
    return ParcelDecomposition(
        label, method, units, Denoiser(mean, (), n_averaged), offset, gain, empty, none, none, none, none, np.zeros((2, 0))
    )


def _likelihoods(fit: ParcelFit) -> tuple[FloatArray | None, FloatArray | None]:
    """Of the levels of shrinkage of condition means and of the noise."""
    if isinstance(fit.result, StackedResult):
        return fit.result.choices[0].likelihood, fit.result.choices[1].likelihood
    return fit.model.data_likelihood, fit.model.noise_likelihood


def _spectrum(fit: ParcelFit) -> _Spectrum:
    result = fit.result
    if isinstance(result, (ProjectionResult, CrossvalidatedResult)):
        return _of_basis(result.basis, result.n_dimensions)
    components = fit.denoiser.components
    if isinstance(result, StackedResult) and components:
        first = components[0]
        return _of_filter(fit.denoiser, first.left, first.right, first.signal_to_noise, of_noise=True)
    if isinstance(result, CalibratedResult) and len(result.a) == 1 and components:
        first = components[0]
        return _of_filter(fit.denoiser, first.left, first.right, first.signal_to_noise, of_noise=False)
    part = wiener_part(fit.model)
    return _of_filter(fit.denoiser, np.asarray(part.left, np.float64), np.asarray(part.right, np.float64), part.ratio, of_noise=False)


def _of_basis(basis: Basis, n_dimensions: IntArray) -> _Spectrum:
    """Dimensions of a projection; for a number of dimensions a unit, the share of units that keep each."""
    passed = (np.arange(basis.vectors.shape[1]) < np.atleast_1d(n_dimensions)[:, None]).mean(axis=0)
    eigenvalues = basis.signal if basis.eigenvalues is None else basis.eigenvalues
    return _Spectrum(basis.vectors, eigenvalues, basis.signal, basis.noise, passed)


def _of_filter(denoiser: Denoiser, left: FloatArray, right: FloatArray, ratio: FloatArray, *, of_noise: bool) -> _Spectrum:
    """Dimensions in which signal and noise are uncorrelated, at unit length.

    Parameters
    ----------
    denoiser : Denoiser
        Of which other parts may have other dimensions.
    left, right : (n_units, n_dimensions) float64 arrays
        ``right.T @ left`` is the identity.
    ratio : (n_dimensions,) float64 array
        Variance of the signal over that of the noise.
    of_noise : bool
        Whether ``left @ left.T`` is the covariance of the noise, or that of signal and noise together.
    """
    order = np.argsort(-ratio, kind="stable")
    left, right, ratio = left[:, order], right[:, order], ratio[order]
    length = np.linalg.norm(left, axis=0)
    noise = length**2 * (1.0 if of_noise else 1.0 / (1.0 + ratio))
    signal = ratio * length**2 if of_noise else length**2 - noise
    passed = np.zeros(len(ratio))
    for part in denoiser.folded().components:
        passed += np.einsum("ij,j,ji->i", right.T @ part.left, part.gain(denoiser.n_averaged), part.right.T @ left)
    return _Spectrum(left / length, ratio, signal, noise, passed)


def _curve(fit: ParcelFit, spectrum: _Spectrum) -> FloatArray:
    """What is saved or recovered at each a, or by each number of dimensions, relative to the largest."""
    result = fit.result
    if isinstance(result, StackedResult):
        wiener = np.flatnonzero(result.terms[:, 0] == 1)
        saved = sum((2 * scores.linear - np.diag(scores.quadratic) for scores in result.fold_scores), np.zeros(len(result.weights)))
        return _relative(result.terms[wiener, 1], saved[wiener])
    if isinstance(result, CalibratedResult):
        return _relative(A_VALUES, result.curves.sum(axis=0))
    if isinstance(result, (ProjectionResult, CrossvalidatedResult)):
        values = (result.recovery if isinstance(result, ProjectionResult) else result.curves).sum(axis=0)
    else:
        values = recovery_curve(spectrum.signal[None], spectrum.noise[None], fit.denoiser.n_averaged)[0]
    return _relative(np.arange(len(values), dtype=np.float64), values)


def _relative(at: FloatArray, values: FloatArray) -> FloatArray:
    largest = np.abs(values).max() if values.max() <= 0 else values.max()
    return np.stack([at, values / largest if largest > 0 else values])
