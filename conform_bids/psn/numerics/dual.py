"""Large parcels: the denoiser in orthonormal coordinates of the trials, of which there are fewer than units.

Covariances of n units that T trials give have no more than T - 1 dimensions, and what filters do to these trials stays inside of them. So
the trials of a large parcel are written in r <= T - 1 orthonormal coordinates, and everything is fitted there as if coordinates were
units: the cost falls from n^3 to n T^2 + r^3, and no (n_units, n_units) matrix is ever formed.

This is an estimator of its own and not the same fit made faster. Units are divided by their noise first, for all methods. Shrinkage,
which in smaller parcels goes towards the variances of units, goes towards the variances of coordinates; as these are mixed at random,
they are nearly alike, so that covariances are shrunk towards a multiple of the identity: all directions are taken for alike, but not
units for independent. Where nothing is shrunk and units are in terms of their noise, the two forms agree. Responses of conditions that
the fit has not seen are denoised in so far as they lie in the span of the trials that it has; the rest of them is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.engine_data import EngineOptions
from conform_bids.psn.numerics.held_out import HeldOut, evaluate_passed, pass_held_out
from conform_bids.psn.numerics.one_parcel import Fitted, fit_dimensions
from conform_bids.psn.numerics.spectral import eigh
from conform_bids.psn.numerics.standardised import QUIET
from conform_bids.psn.numerics.trials import Trials, group_trials
from conform_bids.psn.numerics.variances import UnitVariances

__all__ = ["Coordinates", "evaluate_dual", "find_coordinates", "fit_dual"]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]
BLOCK = 2048
MAX_SIZED = 500
"""Trials, about, that tell how much a denoiser passes on the whole."""
ROUNDING = 1e-10
"""Of the largest variance along a principal direction of the trials; those below it are rounding errors of single precision."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Orthonormal coordinates of the trials of a parcel.

    Attributes
    ----------
    coordinates : (n_units, r) float32 array
        Orthonormal columns.
    scale : (n_units,) float64 array
        Each unit's noise standard deviation.
    mean : (n_units,) float64 array
        Each unit's mean over the trials that coordinates were found on.
    """

    coordinates: Float32Array
    scale: FloatArray
    mean: FloatArray

    def project(self, responses: npt.NDArray[np.floating]) -> FloatArray:
        """Coordinates of responses, (n_rows, r) from (n_rows, n_units)."""
        total = np.zeros((len(responses), self.coordinates.shape[1]))
        for block in _blocks(len(self.scale)):
            total += (responses[:, block] - self.mean[block]) / self.scale[block] @ self.coordinates[block].astype(np.float64)
        return total

    def restore(self, denoised: FloatArray, units: slice = slice(None)) -> FloatArray:
        """Responses of units, (n_rows, n_chosen), from what was denoised in coordinates, (n_rows, r)."""
        return self.mean[units] + self.deviations(denoised, units)

    def deviations(self, passed: FloatArray, units: slice = slice(None)) -> FloatArray:
        """As `restore`, without the mean."""
        return (passed @ self.coordinates[units].T.astype(np.float64)) * self.scale[units]


def _blocks(n_units: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n_units)) for start in range(0, n_units, BLOCK)]


def find_coordinates(values: npt.NDArray[np.floating], condition: IntArray, seed: int = 0) -> tuple[Coordinates, FloatArray]:
    """Write trials in orthonormal coordinates of their own.

    Parameters
    ----------
    values : (n_trials, n_units) array
        Train trials without a gap; all units vary.
    condition : (n_trials,) int array
        Their conditions.
    seed : int
        Of the mixture of coordinates.

    Returns
    -------
    coordinates : Coordinates
        Of rank r, the lesser of n_units and n_trials - 1 if trials do not depend on each other.
    projected : (n_trials, r) float64 array
        The trials in these; standardised units' deviations are ``projected @ coordinates.coordinates.T`` exactly.

    Raises
    ------
    UnusableInputError
        If no condition repeats, or a unit does not vary.
    """
    n_trials, n_units = values.shape
    mean, scale = np.empty(n_units), np.empty(n_units)
    gram = np.zeros((n_trials, n_trials))
    for block in _blocks(n_units):
        rows = np.asarray(values[:, block], dtype=np.float64)
        mean[block] = rows.mean(axis=0)
        scale[block] = _noise_deviation(rows, condition)
        standard = (rows - mean[block]) / scale[block]
        gram += standard @ standard.T
    eigenvalues, vectors = eigh(gram)
    rank = min(int((eigenvalues > ROUNDING * eigenvalues[0]).sum()), n_trials - 1, n_units)
    root, vectors = np.sqrt(eigenvalues[:rank]), vectors[:, :rank]
    mixture = _mixture(rank, seed)
    to_coordinates = (vectors / root) @ mixture
    found = np.empty((n_units, rank), dtype=np.float32)
    for block in _blocks(n_units):
        found[block] = ((values[:, block] - mean[block]) / scale[block]).T @ to_coordinates
    return Coordinates(found, scale, mean), (vectors * root) @ mixture


def _noise_deviation(rows: FloatArray, condition: IntArray) -> FloatArray:
    """Noise standard deviation of units, pooled over conditions; as `conform_bids.psn.numerics.standardised.standardise` has it."""
    trials = group_trials(rows, condition)[0]
    freedom = int((trials.counts - 1).sum())
    if freedom <= 0:
        raise UnusableInputError("no condition repeats: nothing tells signal from noise")
    residuals = trials.residuals()
    scale = np.maximum(np.sqrt(np.einsum("ij,ij->j", residuals, residuals) / freedom), QUIET * trials.means.std(axis=0))
    if not (scale > 0).all():
        raise UnusableInputError(f"{int((scale <= 0).sum())} units do not vary; leave them out")
    return np.asarray(scale)


def _mixture(rank: int, seed: int) -> FloatArray:
    """An orthonormal (rank, rank) matrix whose columns weigh all directions about alike: cosines, in random order, with random signs."""
    rng = np.random.default_rng([seed, 5])
    cosines = scipy.fft.dct(np.eye(rank), axis=1, norm="ortho")[rng.permutation(rank)]
    return np.asarray(cosines * np.where(rng.random(rank) < 0.5, -1.0, 1.0)[:, None])


def fit_dual(values: npt.NDArray[np.floating], condition: IntArray, options: EngineOptions) -> tuple[Fitted, Coordinates]:
    """Fit the trials of a large parcel in coordinates of their own.

    Parameters
    ----------
    values : (n_trials, n_units) array
        Train trials without a gap; all units vary.
    condition : (n_trials,) int array
        Their conditions.
    options : EngineOptions
        Method; one threshold for all units.

    Returns
    -------
    fitted : Fitted
        As of `conform_bids.psn.numerics.one_parcel.fit_dimensions`, with coordinates in place of units.
    coordinates : Coordinates
        ``coordinates.restore(fitted.fit.denoiser.apply(coordinates.project(responses), n_averaged))`` denoises responses.

    Raises
    ------
    UsageError
        If thresholds are asked for by unit or by group.
    UnusableInputError
        As `find_coordinates` and `fit_dimensions`.
    """
    if options.threshold_level != "population":
        raise UsageError(
            f"a parcel of {values.shape[1]} units has one threshold for all of them: threshold level {options.threshold_level} needs "
            f"parcels of {options.dual_above} units or fewer"
        )
    coordinates, projected = find_coordinates(values, condition, options.seed)
    return fit_dimensions(projected, condition, options, None), coordinates


def evaluate_dual(
    values: npt.NDArray[np.floating],
    condition: IntArray,
    projected: Trials,
    coordinates: Coordinates,
    folds: Sequence[IntArray],
    denoisers: Sequence[Denoiser],
) -> HeldOut:
    """What `conform_bids.psn.numerics.held_out.evaluate_held_out` says, unit by unit, of denoisers in coordinates.

    Parameters
    ----------
    values, condition
        As for `fit_dual`.
    projected : Trials
        The same trials in coordinates, as they were fitted.
    coordinates : Coordinates
        Of the fit.
    folds : sequence of int arrays
        Conditions of each fold.
    denoisers : sequence of Denoiser
        In coordinates, one a fold.
    """
    passed, fold_of = pass_held_out(projected, folds, denoisers)
    some = (projected.values - projected.means.mean(axis=0))[:: max(len(projected.values) // MAX_SIZED, 1)]
    passed_whole = [some @ denoiser.matrix().T for denoiser in denoisers]
    parts = []
    for block in _blocks(len(coordinates.scale)):
        trials = group_trials(values[:, block], condition)[0]
        sizes = np.stack([np.sqrt(np.square(coordinates.deviations(own, block)).mean(axis=0)) for own in passed_whole])
        parts.append(evaluate_passed(trials, coordinates.deviations(passed, block), fold_of, sizes))
    variances = UnitVariances(
        *(np.concatenate([getattr(part.variances, name) for part in parts]) for name in ("signal", "noise", "share")),
    )
    names = ("reliability_before", "reliability_after", "gain", "saved", "total")
    return HeldOut(
        np.concatenate([part.denoised for part in parts], axis=1),
        variances,
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names),
    )
