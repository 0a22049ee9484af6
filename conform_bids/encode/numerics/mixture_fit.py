"""Fitting the mixture prior: EM over all units of the training people, each with the likelihood of its own full data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.mixture_terms import Evidence, Levels, Mixture, Terms, responsibilities
from conform_bids.encode.numerics.population import FloatArray
from conform_bids.numerics.compute import map_blocks, threads_over_blocks

__all__ = ["Fitted", "fit_mixture", "fit_one_gaussian"]

NEGLIGIBLE = 1e-7
SHARE_PRIOR = 0.5
KMEANS_ROUNDS = 15


@dataclass(frozen=True, eq=False)
class Fitted:
    """What EM found.

    Attributes
    ----------
    mixture : Mixture
        Component covariances are those within people.
    spread : (n_features,) array
        Variance of a component's mean between people, a feature; zero with one person.
    objective : (n_iterations,) array
        Log-likelihood plus log-prior; it never falls.
    """

    mixture: Mixture
    spread: FloatArray
    objective: FloatArray


@dataclass(frozen=True, eq=False)
class _Sums:
    """Expected sufficient statistics of one person: shares (K, n_levels), first (K, d) and second (K, d, d) about the old means."""

    shares: FloatArray
    first: FloatArray
    second: FloatArray
    log_evidence: float


def _sums_of_component(term: Terms, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """First (d,) and second (d, d) moments of ``u - m``, summed over units and levels by ``share`` (n_levels, n_units)."""
    d, shrink = len(term.mean), term.shrinkage()
    first, second, variance = np.zeros(len(term.values)), np.zeros((len(term.values),) * 2), np.zeros(len(term.values))
    for level, (s, noise) in enumerate(zip(term.levels.scale, term.levels.noise, strict=True)):
        active = share[level] > NEGLIGIBLE
        mass = share[level, active]
        if mass.size == 0:
            continue
        inner = s * shrink[level][:, None] * (term.projected[:, active] - (s * term.centre)[:, None])
        inner = inner.astype(term.projected.dtype)
        first += inner @ mass
        second += (inner * mass) @ inner.T
        variance += float(mass.sum()) * noise * shrink[level]
    if len(term.values) < d:  # directions that the data do not see keep the prior
        raise ValueError("a training person needs at least as many stimuli as features after the reduction to components")
    return term.back @ first, term.back @ (second + np.diag(variance)) @ term.back.T


def _expect(data: Evidence, mixture: Mixture) -> _Sums:
    terms = mixture.terms(data)
    share, log_evidence = responsibilities(terms, mixture.log_shares)
    moments = [_sums_of_component(term, share[i]) for i, term in enumerate(terms)]
    total = float(log_evidence.sum())
    return _Sums(share.sum(axis=2, dtype=np.float64), np.stack([m[0] for m in moments]), np.stack([m[1] for m in moments]), total)


def _maximise(sums: list[_Sums], mixture: Mixture, prior: FloatArray, strength: float) -> Mixture:
    """New parameters; ``prior`` (d, d) is the inverse-Wishart's centre, of weight ``strength`` units."""
    mass = np.sum([person.shares for person in sums], axis=0)
    shares, count = mass + SHARE_PRIOR / mixture.log_shares.size, mass.sum(axis=1) + 1e-9
    shift = sum(person.first for person in sums) / count[:, None]
    second = sum(person.second for person in sums) - count[:, None, None] * shift[:, :, None] * shift[:, None, :]
    covariances = (second + strength * prior) / (count + strength)[:, None, None]
    return Mixture(np.log(shares / shares.sum()), mixture.means + shift, covariances, mixture.levels)


def _log_prior(mixture: Mixture, prior: FloatArray, strength: float) -> float:
    value = SHARE_PRIOR / mixture.log_shares.size * float(mixture.log_shares.sum())
    for covariance in mixture.covariances:
        value -= 0.5 * strength * float(np.linalg.slogdet(covariance)[1] + np.trace(np.linalg.solve(covariance, prior)))
    return value


def _iterate(
    people: list[Evidence], mixture: Mixture, prior: FloatArray, strength: float, n: int, tolerance: float
) -> tuple[Mixture, list[float]]:
    """EM until the objective rises by less than ``tolerance`` a unit, at most ``n`` rounds."""
    objective: list[float] = []
    n_units = sum(len(person.energy) for person in people)
    with threads_over_blocks() as compute:
        for _ in range(n):
            sums = map_blocks(partial(_expect, mixture=mixture), people, compute)
            objective.append(sum(person.log_evidence for person in sums) + _log_prior(mixture, prior, strength))
            mixture = _maximise(sums, mixture, prior, strength)
            if len(objective) > 1 and objective[-1] - objective[-2] < tolerance * n_units:
                break
    return mixture, objective


def fit_one_gaussian(people: list[Evidence], levels: Levels, n_iterations: int = 8) -> Fitted:
    """The prior of one component: the baseline, and the start of the mixture.

    Parameters
    ----------
    people : list of Evidence
    levels : Levels
    n_iterations : int

    Returns
    -------
    Fitted
    """
    d = people[0].root.shape[1]
    start = np.eye(d) / d
    share = np.full((1, len(levels.ceilings)), 1 / len(levels.ceilings))
    mixture, objective = _iterate(
        people, Mixture(np.log(share), np.zeros((1, d)), start[None], levels), 1e-3 * start, 1.0, n_iterations, 0.0
    )
    return Fitted(mixture, np.zeros(d), np.asarray(objective))


def _k_means(points: FloatArray, n_clusters: int, rng: np.random.Generator) -> npt.NDArray[np.integer[Any]]:
    """Labels (n_points,) of k-means with k-means++ seeds; the best of three starts."""
    best = np.inf
    found: npt.NDArray[np.integer[Any]] = np.zeros(len(points), dtype=np.int64)
    norms = (points**2).sum(axis=1)
    for _ in range(3):
        centres = points[[rng.integers(len(points))]]
        for _ in range(n_clusters - 1):
            distance = np.maximum(norms + ((centres**2).sum(axis=1)[:, None] - 2 * centres @ points.T).min(axis=0), 1e-12)
            centres = np.vstack([centres, points[rng.choice(len(points), p=distance / distance.sum())]])
        for _ in range(KMEANS_ROUNDS):
            table = (centres**2).sum(axis=1)[:, None] - 2 * centres @ points.T
            labels = table.argmin(axis=0)
            counts = np.bincount(labels, minlength=n_clusters)
            sums = np.zeros_like(centres)
            np.add.at(sums, labels, points)
            centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        cost = float(table.min(axis=0).sum())
        if cost < best:
            best, found = cost, labels
    return found


def _start(people: list[Evidence], one: Mixture, n_components: int, rng: np.random.Generator, n_points: int = 6000) -> Mixture:
    """Clusters of the most reliable half's tunings, as one Gaussian shrinks them."""
    rows, reliable = [], []
    for person in people:
        terms = one.terms(person)
        share, _ = responsibilities(terms, one.log_shares)
        weights, expected = terms[0].weights(share[0]), np.asarray(one.levels.ceilings @ share[0])
        rows.append((weights / np.sqrt(expected)).T.astype(np.float64))
        reliable.append(expected)
    tunings, ceiling = np.concatenate(rows), np.concatenate(reliable)
    order = np.argsort(ceiling, kind="stable")[len(ceiling) // 2 :]
    points = tunings[np.sort(rng.permutation(order)[:n_points])]
    scaled = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    labels = _k_means(scaled, n_components, rng)
    means = np.stack([points[labels == i].mean(axis=0) if (labels == i).any() else points.mean(axis=0) for i in range(n_components)])
    within = points - means[labels]
    covariance = within.T @ within / len(points) + 0.02 * one.covariances[0]
    shares = np.repeat(one.log_shares - np.log(n_components), n_components, axis=0)
    return Mixture(shares, means, np.repeat(covariance[None], n_components, axis=0), one.levels)


def fit_mixture(
    people: list[Evidence], levels: Levels, n_components: int, n_iterations: int, strength: float, seed: int, tolerance: float = 1e-3
) -> Fitted:
    """EM from clusters of a one-Gaussian posterior.

    Parameters
    ----------
    people : list of Evidence
        One entry a training person, of at least as many stimuli as features.
    levels : Levels
    n_components : int
    n_iterations : int
        At most.
    strength : float
        Weight, in units, of the covariances' prior (40 % of the one Gaussian's).
    seed : int
    tolerance : float
        Stop when the objective rises by less than this a unit.

    Returns
    -------
    Fitted

    Raises
    ------
    ValueError
        If a person has fewer stimuli than features.
    """
    one = fit_one_gaussian(people, levels).mixture
    prior = 0.4 * one.covariances[0]
    start = _start(people, one, n_components, np.random.default_rng(seed))
    mixture, objective = _iterate(people, start, prior, strength, n_iterations, tolerance)
    return _split_spread(people, mixture, prior, strength, objective)


def _split_spread(people: list[Evidence], mixture: Mixture, prior: FloatArray, strength: float, objective: list[float]) -> Fitted:
    """Part the components' covariances into those within people and the spread of their means between people (method of moments)."""
    with threads_over_blocks() as compute:
        d, sums = mixture.means.shape[1], map_blocks(partial(_expect, mixture=mixture), people, compute)
    if len(people) == 1:
        return Fitted(mixture, np.zeros(d), np.asarray(objective))
    counts = np.stack([person.shares.sum(axis=1) for person in sums]) + 1e-9
    shifts = np.stack([person.first for person in sums]) / counts[:, :, None]
    second = sum(person.second for person in sums)
    own = second - np.einsum("pk,pkd,pke->kde", counts, shifts, shifts)
    within = (own + strength * prior) / (counts.sum(axis=0) + strength)[:, None, None]
    enough = counts > 10
    centre = np.einsum("pk,pkd->kd", counts, shifts) / counts.sum(axis=0)[:, None]
    excess = (shifts - centre) ** 2 * len(people) / (len(people) - 1) - np.einsum("kdd->kd", within) / counts[:, :, None]
    spread = np.maximum(excess[enough].mean(axis=0), 0) if enough.any() else np.zeros(d)
    return Fitted(Mixture(mixture.log_shares, mixture.means, within, mixture.levels), spread, np.asarray(objective))
