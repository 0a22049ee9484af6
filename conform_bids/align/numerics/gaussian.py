"""Probabilistic shared responses: one Gaussian model with three priors on the maps.

Person i, unit v, stimulus n: x_iv(n) = s_n . w_iv + e, e ~ N(0, q_iv) with q = 1 - reliability, s_n ~ N(0, I_k), and
w_iv ~ N(m_v, kappa_v Sigma): family ``zero`` has m = 0 and kappa = 1, ``group`` has m_v the mean over people (Chen et al., 2015, put
probability on s alone; here the maps have it too), ``kernel`` is a Gaussian process over the units, which in the eigenbasis of its
covariance has independent columns of variance kappa Sigma, and a process of twice that covariance for m. Maps and shared responses are
found by mean-field variational EM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import Block

__all__ = ["GaussianFit", "MapPrior", "fit_gaussian", "fit_map", "stimulus_patterns"]

Array = NDArray[np.floating]
Matrix = NDArray[np.float64]
MEAN_FACTOR = 2.0
"""Prior variance of the kernel family's mean map, in units of that of a person's deviation from it."""


@dataclass(frozen=True, eq=False)
class MapPrior:
    """Prior of the maps: w_v ~ N(mean_v, kappa_v covariance).

    Attributes
    ----------
    covariance : (k, k) float64 array
    mean : (k, n_units) array or None
        None: zero.
    kappa : (n_units,) array or None
        None: ones.
    """

    covariance: Array
    mean: Array | None = None
    kappa: Array | None = None


@dataclass(frozen=True, eq=False)
class Posterior:
    """Maps of some columns given the shared responses.

    Attributes
    ----------
    weights : (k, n_columns) array
        Posterior means w.
    spread : (n_columns, k) array
        Posterior variances in the basis ``root``.
    root : (k, k) array
        w = root u; the posterior covariance of a column is root diag(spread) root'.
    gains : (k,) array
        D: information of the stimuli along each direction of u, before the noise.
    """

    weights: Array
    spread: Array
    root: Matrix
    gains: Matrix


@dataclass(frozen=True, eq=False)
class GaussianFit:
    """A fit to several people in one parcel.

    Attributes
    ----------
    scores : (n_stimuli, k) array
        Posterior means of the shared responses; 0 where nobody saw a stimulus.
    covariances : (n_patterns, k, k) array
        Posterior covariance by set of people.
    patterns : (n_stimuli,) int array
        Set of each stimulus; -1: nobody's.
    weights : (k, n_columns) array
        Maps of all people's columns.
    information : (n_people, k, k) array
        Sum over a person's units of E[w w'] / q.
    prior : MapPrior
        With the mean over people (families ``group`` and ``kernel``).
    """

    scores: Array
    covariances: Matrix
    patterns: NDArray[np.intp]
    weights: Array
    information: Matrix
    prior: MapPrior


def stimulus_patterns(seen: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Distinct sets of people who saw a stimulus, (n_patterns, n_people), and the set of each stimulus; -1 for nobody."""
    sets, index = np.unique(seen.T, axis=0, return_inverse=True)
    index = index.reshape(-1).astype(np.intp)
    some = sets.any(axis=1)
    place = np.where(some, np.cumsum(some) - 1, -1)
    return sets[some], place[index]


def information_of_scores(scores: Array, covariances: Array, patterns: NDArray[np.intp], rows: NDArray[np.bool_]) -> Matrix:
    """E[S'S] over some stimuli: what they say of a map, times its noise variance."""
    chosen = np.asarray(scores[rows], dtype=np.float64)
    counts = np.bincount(patterns[rows], minlength=len(covariances))
    return chosen.T @ chosen + np.tensordot(counts, covariances, axes=1)


@dataclass(frozen=True, eq=False)
class _Basis:
    """Directions in which the posterior of every unit is diagonal: w = root u."""

    root: Matrix
    gains: Matrix
    pull: Array | None


def _basis(information: Matrix, prior: MapPrior) -> _Basis:
    lower = np.linalg.cholesky(prior.covariance)
    gains, vectors = np.linalg.eigh(lower.T @ information @ lower)
    root = lower @ vectors
    pull = None if prior.mean is None else np.linalg.inv(root).astype(prior.mean.dtype) @ prior.mean
    return _Basis(root, np.maximum(gains, 0), pull)


def posterior_maps(cross: Array, basis: _Basis, precision: Array, kappa: Array | None) -> Posterior:
    """Posterior of the maps of one person's units, all in one basis: products and divisions, nothing is inverted for a unit.

    Parameters
    ----------
    cross : (k, n_units) array
        S'X.
    basis : _Basis
        Of the stimuli that the person saw, and the prior.
    precision : (n_units,) array
        1 / q; 0 leaves the prior.
    kappa : (n_units,) array or None
        As in `MapPrior`.
    """
    dtype = cross.dtype
    root = basis.root.astype(dtype)
    right = root.T @ cross
    right *= precision
    inverse = np.ones((), dtype) if kappa is None else (1 / kappa).astype(dtype)
    if basis.pull is not None:
        right += basis.pull * inverse
    spread = 1 / (inverse + basis.gains[:, None].astype(dtype) * precision)
    return Posterior(root @ (right * spread), spread.T, basis.root, basis.gains)


def person_information(posterior: Posterior, precision: Array) -> Matrix:
    """Sum over units of E[w w'] / q, (k, k)."""
    weighted = posterior.weights * precision
    uncertain = posterior.root * (posterior.spread.T @ precision)
    return np.asarray(weighted @ posterior.weights.T, dtype=np.float64) + uncertain @ posterior.root.T


def fit_gaussian(block: Block, scores: Array, family: str, kappa: Array | None = None, n_sweeps: int = 15) -> GaussianFit:
    """Fit all people of a parcel.

    Parameters
    ----------
    block : Block
        For family ``kernel`` with each person's columns in the kernel's eigenbasis and one precision a person.
    scores : (n_stimuli, k) array
        Where to start, columns of mean square 1 (`principal_scores` of the columns over the root of their noise variance).
    family : {'zero', 'group', 'kernel'}
    kappa : (n_units,) array, optional
        Eigenvalues of the kernel.
    n_sweeps : int

    Raises
    ------
    ValueError
        If a family with a mean map is asked for people who differ in units, or for one person alone.
    """
    if family != "zero" and (block.n_people < 2 or len(set(np.diff(block.edges))) > 1):
        raise ValueError(f"prior {family!r} needs two people or more with the same units")
    k = scores.shape[1]
    sets, patterns = stimulus_patterns(block.seen)
    covariances: Matrix = np.zeros((len(sets), k, k))
    held = block.precision > 0
    share = float(np.mean(1 - 1 / np.maximum(block.precision[held], 1.0 + 1e-6))) if held.any() else 0.5
    prior = MapPrior(np.eye(k) * max(share, 0.05) / k, None, kappa)
    latent = scores.astype(block.values.dtype)
    for _ in range(n_sweeps):
        posteriors = _people(block, latent, covariances, patterns, prior)
        weights = np.concatenate([each.weights for each in posteriors], axis=1)
        prior = _update_prior(block, weights, posteriors, family, prior)
        information = np.stack([person_information(each, block.person_precision(i)) for i, each in enumerate(posteriors)])
        covariances = np.asarray(np.linalg.inv(np.eye(k) + np.tensordot(sets.astype(np.float64), information, axes=1)), dtype=np.float64)
        latent = _shared(block.values @ (weights * block.precision).T, covariances, patterns)
    return GaussianFit(latent, covariances, patterns, weights, information, prior)


def _people(block: Block, scores: Array, covariances: Matrix, patterns: NDArray[np.intp], prior: MapPrior) -> list[Posterior]:
    cross = scores.T @ block.values
    bases: dict[bytes, _Basis] = {}  # people who saw the same stimuli share all that does not depend on their units
    result = []
    for i in range(block.n_people):
        rows = block.seen[i].tobytes()
        if rows not in bases:
            bases[rows] = _basis(information_of_scores(scores, covariances, patterns, block.seen[i]), prior)
        result.append(posterior_maps(cross[:, block.edges[i] : block.edges[i + 1]], bases[rows], block.person_precision(i), prior.kappa))
    return result


def _shared(drive: Array, covariances: Matrix, patterns: NDArray[np.intp]) -> Array:
    """Posterior means of the shared responses from the sums of x w' / q, by set of people."""
    scores = np.zeros_like(drive)
    for index, covariance in enumerate(covariances):
        rows = patterns == index
        scores[rows] = drive[rows] @ covariance.astype(drive.dtype)
    return scores


def _update_prior(block: Block, weights: Array, posteriors: list[Posterior], family: str, prior: MapPrior) -> MapPrior:
    """Mean map and covariance of the maps, from the units that hold data."""
    k, n_people = len(weights), block.n_people
    held = (block.precision > 0).astype(weights.dtype)
    mean = None
    deviation, factor = weights, 1.0
    if family != "zero":
        stacked, present = weights.reshape(k, n_people, -1), held.reshape(n_people, -1)
        counts = present.sum(axis=0)
        mean = (stacked * present).sum(axis=1) / np.maximum(counts + (1 / MEAN_FACTOR if family == "kernel" else 0), 0.5)
        deviation = (stacked - mean[:, None]).reshape(k, -1)
        factor = n_people / (n_people - 1)
    scale = held if prior.kappa is None else held / np.tile(prior.kappa.astype(weights.dtype), n_people)
    scatter = np.asarray((deviation * scale) @ deviation.T, dtype=np.float64) * factor
    for i, each in enumerate(posteriors):
        scatter += (each.root * (each.spread.T @ scale[block.edges[i] : block.edges[i + 1]])) @ each.root.T
    covariance = scatter / max(float(held.sum()), 1.0)
    ridge = 1e-6 * max(float(np.trace(covariance)) / k, 1e-12)
    return MapPrior((covariance + covariance.T) / 2 + ridge * np.eye(k), mean, prior.kappa)


def fit_map(
    known: tuple[Array, Array, NDArray[np.intp]], responses: Array, seen: NDArray[np.bool_], precision: Array, prior: MapPrior
) -> Posterior:
    """Map of a new person to given shared responses.

    Parameters
    ----------
    known : (scores, covariances, patterns)
        Of the template's people, as in `GaussianFit`.
    responses : (n_stimuli, n_units) array
        Standardised; 0 where not seen.
    seen : (n_stimuli,) bool array
        Stimuli of the person, among those that the template's people saw.
    precision : (n_units,) array
    prior : MapPrior
        For a new person: the covariance times 1 + 1 / people where the mean was estimated from these people.
    """
    scores, covariances, patterns = known
    own = np.asarray(scores[seen], dtype=responses.dtype)
    basis = _basis(information_of_scores(scores, covariances, patterns, seen), prior)
    return posterior_maps(own.T @ responses[seen], basis, precision, prior.kappa)
