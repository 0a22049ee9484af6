"""Families of Wiener-like filters that share dimensions, and how well each member and their mixtures predict independent responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from conform_bids.psn.numerics.denoiser import filter_gains
from conform_bids.psn.numerics.spectral import Precision, decompose, shrink, solve_lower

__all__ = [
    "FilterPart",
    "Scores",
    "filter_part",
    "filter_parts",
    "noise_cholesky",
    "noise_choleskys",
    "score_filters",
    "signal_factor",
    "solve_mixture",
]

FloatArray = npt.NDArray[np.float64]
FloatingArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.intp]
Levels = Sequence[tuple[float, float]]
RIDGE = 1e-10
ROUNDING = 1e-12
SINGLE_ROUNDING = 1e-6
MAX_SINGLE = 1e3
"""Of the diagonal of a triangle, of signal to the least noise, and along a dimension: largest ratio that single precision is used for."""


@dataclass(frozen=True, eq=False)
class FilterPart:
    """Dimensions in which signal and noise are uncorrelated; a filter is ``left @ diag(gain) @ right.T``.

    Attributes
    ----------
    left, right : (n_units, n_dimensions) float64 or float32 arrays
        ``right.T @ left`` is the identity.
    ratio : (n_dimensions,) float64 array
        Variance of the signal over that of a single trial's noise.
    units : (n_dimensions,) int array or None
        Where dimensions are units by themselves: which.
    """

    left: FloatingArray
    right: FloatingArray
    ratio: FloatArray
    units: IntArray | None = None

    def project(self, rows: FloatingArray) -> FloatingArray:
        """Samples along the dimensions, (n_samples, n_dimensions)."""
        return rows @ self.right if self.units is None else rows[:, self.units]

    def weigh(self, rows: FloatingArray) -> FloatingArray:
        """Products of samples with where dimensions go to, (n_samples, n_dimensions)."""
        return rows @ self.left if self.units is None else rows[:, self.units]


def noise_cholesky(noise: FloatArray) -> FloatArray:
    """Lower Cholesky factor of a noise covariance, with as small a ridge as it needs."""
    n_units = len(noise)
    scale = np.trace(noise) / n_units
    ridge = 0.0
    while True:
        factor, failed = scipy.linalg.lapack.dpotrf(noise + ridge * scale * np.eye(n_units), lower=1, clean=1)
        if not failed and np.diag(factor).min() ** 2 > ROUNDING * scale:
            return np.asarray(factor)
        ridge = max(10 * ridge, RIDGE)


def signal_factor(signal: npt.NDArray[Precision]) -> npt.NDArray[Precision]:
    """Factor F (n_units, rank) of the positive part of a covariance: F F' is the covariance with its negative eigenvalues set to 0."""
    values, vectors = decompose(signal)
    kept = values > _rounding(values) * max(values[-1], 0.0)
    return vectors[:, kept] * np.sqrt(values[kept])


def filter_part(signal: npt.NDArray[Precision], cholesky: npt.NDArray[Precision]) -> FilterPart:
    """Dimensions of a signal factor F and a noise covariance LL': eigenvectors of L^-1 F F' L^-T, from the Gram matrix of L^-1 F.

    Parameters
    ----------
    signal : (n_units, rank) array
        As of `signal_factor`.
    cholesky : (n_units, n_units) array
        As of `noise_cholesky`, in the same precision.
    """
    whitened = solve_lower(cholesky, signal)
    values, vectors = decompose(whitened.T @ whitened) if signal.shape[1] else (np.ones(0, signal.dtype), signal.T)
    kept = values > _rounding(values) * values[-1] if len(values) else np.zeros(0, bool)
    rotation = vectors[:, kept][:, ::-1] / np.sqrt(values[kept][::-1])
    right = solve_lower(cholesky, whitened @ rotation, transposed=True)
    return FilterPart(signal @ rotation, right, values[kept][::-1].astype(np.float64))


def _rounding(values: FloatingArray) -> float:
    """What an eigenvalue has to be of the largest."""
    return ROUNDING if values.dtype == np.float64 else SINGLE_ROUNDING


def _allow_single(data: FloatArray, cholesky: FloatArray) -> bool:
    """Whether single precision holds the dimensions of condition means and of a noise LL'."""
    diagonal = np.diag(cholesky)
    return bool(diagonal.max() < MAX_SINGLE * diagonal.min() and np.diag(data).max() < MAX_SINGLE * diagonal.min() ** 2)


def filter_parts(
    data: FloatArray, noise: FloatArray, choleskys: Mapping[float, FloatArray], share: float, levels: Levels, *, light: bool = False
) -> list[FilterPart]:
    """One part for each pair of levels of shrinkage.

    Parameters
    ----------
    data, noise : (n_units, n_units) float64 arrays
        Covariance of condition means; of a single trial's noise; not shrunken.
    choleskys : mapping of float to (n_units, n_units) float64 array
        Factors of the noise covariance at each level, of `noise_choleskys`.
    share : float
        What of the noise covariance is left in condition means.
    levels : sequence of (float, float)
        Levels of the covariance of condition means and of that of the noise.
    light : bool
        Single precision, in which decompositions and products take half the time, where the covariances allow it.
    """
    parts = []
    for data_level, noise_level in levels:
        if data_level == noise_level == 0:
            parts.append(_single_units(np.diag(data) - share * np.diag(noise), np.diag(noise)))
            continue
        signal, cholesky = shrink(data, data_level) - share * shrink(noise, noise_level), choleskys[noise_level]
        if light and _allow_single(data, cholesky):
            part = filter_part(signal_factor(signal.astype(np.float32)), cholesky.astype(np.float32))
            if not part.ratio.size or part.ratio[0] < MAX_SINGLE:
                parts.append(part)
                continue
        parts.append(filter_part(signal_factor(signal), cholesky))
    return parts


def noise_choleskys(noise: FloatArray, levels: Levels) -> dict[float, FloatArray]:
    """Factors of a noise covariance at each of its levels of shrinkage."""
    return {level: noise_cholesky(shrink(noise, level)) for level in {noise_level for _, noise_level in levels}}


def _single_units(signal: FloatArray, noise: FloatArray) -> FilterPart:
    """Units by themselves: a part whose dimensions are the units that have signal."""
    kept = np.flatnonzero(signal > 0)
    axes = np.zeros((len(signal), len(kept)), dtype=np.float32)  # exact in any precision
    axes[kept, np.arange(len(kept))] = 1.0
    floor = ROUNDING * float(np.mean(noise))
    return FilterPart(axes, axes, signal[kept] / np.maximum(noise[kept], floor), kept)


@dataclass(frozen=True, eq=False)
class Scores:
    """Sums of products over samples and units, from which the squared error of any mixture of filters follows.

    Attributes
    ----------
    linear : (n_filters,) float64 array
        Of each filter's output with the targets.
    quadratic : (n_filters, n_filters) float64 array
        Of the outputs with each other.
    total : float
        Of the targets with themselves.
    """

    linear: FloatArray
    quadratic: FloatArray
    total: float

    @classmethod
    def none(cls, n_filters: int) -> Scores:
        """Scores of no samples."""
        return cls(np.zeros(n_filters), np.zeros((n_filters, n_filters)), 0.0)

    def __add__(self, other: Scores) -> Scores:
        return Scores(self.linear + other.linear, self.quadratic + other.quadratic, self.total + other.total)

    def first(self, n_filters: int) -> Scores:
        """Scores of the first filters alone."""
        return Scores(self.linear[:n_filters], self.quadratic[:n_filters, :n_filters], self.total)

    def gain(self, weights: FloatArray) -> float:
        """Squared error that a mixture saves against predicting the mean."""
        return float(2 * weights @ self.linear - weights @ self.quadratic @ weights)


def score_filters(
    parts: Sequence[FilterPart],
    terms: FloatArray,
    inputs: FloatArray,
    targets: FloatArray,
    counts: FloatArray,
    weights: FloatArray,
) -> Scores:
    """Score every filter of every part.

    The outputs are never formed: with z the input along a part's dimensions, sums over samples of products of outputs are quadratic
    forms of the gains in (left' left) * (Z' Z), entry by entry.

    Parameters
    ----------
    parts : sequence of FilterPart
        The families.
    terms : (n_terms, 2) float64 array
        Power and a of the members of each family (see `conform_bids.psn.numerics.denoiser.gains`).
    inputs, targets : (n_samples, n_units) float64 arrays
        With independent errors; mean taken out.
    counts : (n_samples,) float64 array
        Trials that an input is worth.
    weights : (n_samples,) float64 array
        Weight of each sample.

    Returns
    -------
    Scores
        Filters part by part, in the order of the terms.
    """
    n_terms = len(terms)
    linear = np.zeros(len(parts) * n_terms)
    quadratic = np.zeros((len(linear), len(linear)))
    precision = np.result_type(*(part.left for part in parts))
    cross = {(i, j): parts[j].weigh(parts[i].left.T) for i in range(len(parts)) for j in range(i + 1)}
    for count in np.unique(counts):
        rows = counts == count
        root = np.sqrt(weights[rows])[:, None]
        chosen, aims = ((root * samples[rows]).astype(precision, copy=False) for samples in (inputs, targets))
        projected = [part.project(chosen) for part in parts]
        passed = [filter_gains(part.ratio, count, terms) for part in parts]
        for i, part in enumerate(parts):
            place = slice(i * n_terms, (i + 1) * n_terms)
            linear[place] += passed[i] @ np.einsum("ij,ij->j", part.weigh(aims), projected[i])
            for j in range(i + 1):
                product = projected[i].T @ projected[j]
                product *= cross[i, j]
                block = (passed[i].astype(precision) @ product) @ passed[j].T
                other = slice(j * n_terms, (j + 1) * n_terms)
                quadratic[place, other] += block
                if j < i:
                    quadratic[other, place] += block.T
    return Scores(linear, quadratic, float(weights @ np.einsum("ij,ij->i", targets, targets)))


def solve_mixture(scores: Scores, ridge: float = 1e-3) -> FloatArray:
    """Non-negative weights of the filters with the least squared error, (n_filters,).

    Parameters
    ----------
    scores : Scores
        Of the filters.
    ridge : float
        Added to the diagonal, relative to its mean and to the share of the targets that no filter explains: nearly equal filters share
        their weight as far as the scores cannot tell them apart.
    """
    n_filters = len(scores.linear)
    level = np.trace(scores.quadratic) / n_filters
    if level <= 0 or scores.total <= 0:
        return np.zeros(n_filters)
    unexplained = 1 - max(0.0, float(np.max(2 * scores.linear - np.diag(scores.quadratic)))) / scores.total
    symmetric = (scores.quadratic + scores.quadratic.T) / 2
    added = ridge * max(unexplained, 0.0) * level
    factor, failed = scipy.linalg.lapack.dpotrf(symmetric + added * np.eye(n_filters), lower=0, clean=1)
    if not failed and np.diag(factor).min() ** 2 > ROUNDING * n_filters * level:
        target = scipy.linalg.solve_triangular(factor, scores.linear, trans="T", check_finite=False)
    else:  # filters that cannot be told apart
        values, vectors = decompose(symmetric)
        root = np.sqrt(np.maximum(values, ROUNDING * values[-1]) + added)
        factor, target = root[:, None] * vectors.T, vectors.T @ scores.linear / root
    return np.asarray(scipy.optimize.nnls(factor, target, maxiter=100 * n_filters)[0])
