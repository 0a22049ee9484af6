"""Algebra of a mixture prior over tunings: likelihoods and posteriors of all units and noise levels from one factorisation a component.

A unit's response is ``y = s X u + sigma e`` with ``s^2`` its noise ceiling (a level of a grid), ``sigma^2 = 1 - s^2``, and its tuning
``u`` is ``m + L a`` in a component, ``a`` standard normal. One singular value decomposition of ``X L`` diagonalises the problem at
every level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from conform_bids.encode.numerics.population import FloatArray

__all__ = ["Evidence", "Levels", "Mixture", "Terms", "draw_posterior", "reduce_data", "responsibilities"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Data of units that saw the same stimuli, reduced to at most ``n_features`` rows without loss.

    Attributes
    ----------
    root : (n_rows, n_features) array
        ``root.T @ root`` is the stimuli's Gram matrix.
    targets : (n_rows, n_units) array
        ``root.T @ targets`` is ``X.T @ y``.
    energy : (n_units,) array
        Sum of the squared responses.
    n : int
        Stimuli.
    """

    root: FloatArray
    targets: FloatArray
    energy: FloatArray
    n: int

    def units(self, chosen: slice | FloatArray) -> Evidence:
        """The same of some units."""
        return Evidence(self.root, self.targets[:, chosen], self.energy[chosen], self.n)


def reduce_data(features: FloatArray, responses: FloatArray) -> Evidence:
    """Sufficient statistics of a linear model with Gaussian noise.

    Parameters
    ----------
    features : (n, n_features) array
    responses : (n, n_units) array

    Returns
    -------
    Evidence
        In the responses' precision.
    """
    n, d = features.shape
    y = np.asarray(responses)
    energy = np.einsum("iv,iv->v", y, y)
    if n <= d:
        return Evidence(np.asarray(features, dtype=y.dtype), y, energy, n)
    basis, root = np.linalg.qr(np.asarray(features, dtype=np.float64))
    return Evidence(root.astype(y.dtype), basis.T.astype(y.dtype) @ y, energy, n)


@dataclass(frozen=True, eq=False)
class Levels:
    """The grid of noise ceilings: ``ceilings`` (n_levels,) between 0 and 1, both excluded."""

    ceilings: FloatArray

    @property
    def scale(self) -> FloatArray:
        """Square root of the ceiling: what multiplies a tuning."""
        return np.asarray(np.sqrt(self.ceilings))

    @property
    def noise(self) -> FloatArray:
        """Variance of the noise."""
        return np.asarray(1 - self.ceilings)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Prior over tunings and levels.

    Attributes
    ----------
    log_shares : (n_components, n_levels) array
        Logarithms of probabilities that sum to one.
    means : (n_components, n_features) array
    covariances : (n_components, n_features, n_features) array
    levels : Levels
    """

    log_shares: FloatArray
    means: FloatArray
    covariances: FloatArray
    levels: Levels

    def terms(self, data: Evidence) -> list[Terms]:
        """One entry a component."""
        return [Terms.make(data, mean, cov, self.levels) for mean, cov in zip(self.means, self.covariances, strict=True)]


@dataclass(frozen=True, eq=False)
class Terms:
    """One component's view of the data, diagonal at every level.

    Attributes
    ----------
    values : (n_rows,) array
        Squared singular values of ``X L``.
    projected : (n_rows, n_units) array
        ``P' L' X' y``, with P its right singular vectors.
    centre : (n_rows,) array
        ``P' L' X' X m``.
    back : (n_features, n_rows) array
        ``L P``: from ``a`` to the tuning.
    log_likelihood : (n_levels, n_units) array
    """

    values: FloatArray
    projected: FloatArray
    centre: FloatArray
    back: FloatArray
    mean: FloatArray
    log_likelihood: FloatArray
    levels: Levels

    @classmethod
    def make(cls, data: Evidence, mean: FloatArray, covariance: FloatArray, levels: Levels) -> Terms:
        """Factorise once, and evaluate every level's likelihood."""
        root = data.root.astype(np.float64)
        lower = np.linalg.cholesky(covariance)
        left, singular, right = np.linalg.svd(root @ lower, full_matrices=False)
        kind = data.targets.dtype
        predicted = root @ mean
        projected = (left * singular).T.astype(kind) @ data.targets
        centre = singular * (left.T @ predicted)
        s, noise, values = levels.scale[:, None], levels.noise[:, None], singular**2
        shrink = 1 / (s**2 * values + noise)
        gain = (s**2 / noise * shrink).astype(kind)
        fit = (
            gain @ projected**2 - 2 * ((s * gain * centre).astype(kind) @ projected) + (s**2 * gain * centre**2).sum(axis=1, keepdims=True)
        )
        residual = data.energy - 2 * s * (predicted.astype(kind) @ data.targets) + s**2 * (predicted @ predicted)
        volume = np.log1p(s**2 / noise * values).sum(axis=1, keepdims=True) + data.n * np.log(2 * np.pi * noise)
        likelihood = -0.5 * (residual / noise - fit + volume)
        return cls(values, projected, centre, lower @ right.T, mean, likelihood, levels)

    def shrinkage(self) -> FloatArray:
        """``1 / (s^2 values + sigma^2)``, (n_levels, n_rows): variances of the data's directions, inverted."""
        return np.asarray(1 / (self.levels.ceilings[:, None] * self.values + self.levels.noise[:, None]))

    def weights(self, share: FloatArray) -> FloatArray:
        """Part of this component in the posterior mean weights, (n_features, n_units), given ``share`` (n_levels, n_units)."""
        kind, s = self.projected.dtype, self.levels.scale[:, None]
        gain = s**2 * self.shrinkage()
        inner = (gain.T.astype(kind) @ share) * self.projected - (s * gain * self.centre).T.astype(kind) @ share
        return np.asarray(np.outer(self.mean, self.levels.scale).astype(kind) @ share + self.back.astype(kind) @ inner)

    def variance(self, covariance: FloatArray, queries: FloatArray) -> FloatArray:
        """Posterior variance of the noiseless response to queries at each level, (n_queries, n_levels); the same for all units."""
        s2, directions = self.levels.ceilings, (queries @ self.back) ** 2
        prior = ((queries @ covariance) * queries).sum(axis=1)
        known = directions @ (s2[:, None] * self.values * self.shrinkage()).T
        return np.asarray(s2 * (prior[:, None] - known))


def responsibilities(terms: list[Terms], log_shares: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Posterior probability of each component and level, and the units' log-evidence.

    Parameters
    ----------
    terms : list of Terms
    log_shares : (n_components, n_levels) array

    Returns
    -------
    (n_components, n_levels, n_units) array, in the data's precision
    (n_units,) array
    """
    joint = np.stack([term.log_likelihood for term in terms]) + log_shares[:, :, None]
    total = logsumexp(joint, axis=(0, 1))
    return np.exp(joint - total).astype(terms[0].projected.dtype), np.asarray(total, dtype=np.float64)


def draw_posterior(mixture: Mixture, data: Evidence, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """A tuning and a noise ceiling of each unit, drawn from their posterior given the data: over units they are as the population's.

    Ceilings lie evenly between the middles of the grid's steps around the level that was drawn.

    Parameters
    ----------
    mixture : Mixture
    data : Evidence
        Of as many stimuli as features at least.
    rng : Generator

    Returns
    -------
    (n_units, n_features) array, in the data's precision
    (n_units,) array
    """
    terms = mixture.terms(data)
    share, _ = responsibilities(terms, mixture.log_shares)
    n_levels, n_units = share.shape[1:]
    cumulative = np.cumsum(share.reshape(-1, n_units), axis=0, dtype=np.float64)
    pairs = (cumulative < rng.uniform(0, cumulative[-1], n_units)).sum(axis=0)
    component, level = np.divmod(pairs, n_levels)
    s, tunings = mixture.levels.scale, np.empty((n_units, data.root.shape[1]), data.targets.dtype)
    normal = rng.standard_normal((len(terms[0].values), n_units))
    for number, term in enumerate(terms):
        units = np.flatnonzero(component == number)
        own, shrink = level[units], term.shrinkage()[level[units]].T
        mean = s[own] * shrink * (term.projected[:, units] - np.outer(term.centre, s[own]))
        spread = np.sqrt(mixture.levels.noise[own] * shrink)
        tunings[units] = (term.mean[:, None] + term.back @ (mean + spread * normal[:, units])).T
    edges = np.concatenate([[0.5 * mixture.levels.ceilings[0]], mixture.levels.ceilings, [1.0]])
    middles = 0.5 * (edges[1:] + edges[:-1])
    return tunings, np.asarray(rng.uniform(middles[level], middles[level + 1]), dtype=np.float32)
