"""The `prior` engine: a mixture of Gaussians over units' tunings and a grid of noise ceilings, learned from people, exact in a context.

The posterior given a context is closed-form for any number of stimuli and units. Pooling re-estimates how far this person's components lie
from the population's, from all of the person's units: it uses what no method can that looks at one unit at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.mixture_fit import fit_mixture, fit_one_gaussian
from conform_bids.encode.numerics.mixture_terms import Evidence, Levels, Mixture, reduce_data, responsibilities
from conform_bids.encode.numerics.population import Adapted, Context, FloatArray, TrainingPerson
from conform_bids.numerics.compute import Compute, map_blocks, threads_over_blocks

__all__ = ["DEFAULT_CEILINGS", "Basis", "PriorModel", "PriorOptions", "fit_prior"]

DEFAULT_CEILINGS = (0.03, 0.08, 0.14, 0.22, 0.32, 0.44, 0.57, 0.7, 0.82)
NEGLIGIBLE_SHARE = 1e-3


@dataclass(frozen=True)
class PriorOptions:
    """Of the fit.

    Attributes
    ----------
    n_components : int
        Gaussians; 1 is the one-Gaussian prior.
    max_dimensions : int
        Principal components of the features that weights live on, at most; also at most half of a person's stimuli.
    ceilings : tuple of float
        Grid of noise ceilings.
    n_iterations : int
        Of EM, at most.
    max_units : int
        Drawn at random from each training person.
    covariance_strength : float
        Weight of the covariances' prior, in units for each dimension.
    pooling_rounds : int
        Rounds of re-estimating a new person's component means from all of the person's units; 0 for none.
    pooling_units : int
        Units that they are re-estimated from, at most, evenly spread: a mean of thousands hardly changes with more.
    block_bytes : int
        Memory for a block of units while adapting.
    seed : int
    """

    n_components: int = 16
    max_dimensions: int = 128
    ceilings: tuple[float, ...] = DEFAULT_CEILINGS
    n_iterations: int = 20
    max_units: int = 3000
    covariance_strength: float = 1.0
    pooling_rounds: int = 6
    pooling_units: int = 10_000
    block_bytes: int = 300_000_000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Basis:
    """Features to whitened principal components and a constant, and weights back.

    Attributes
    ----------
    centre : (n_features,) array
    projection : (n_features, n_dimensions) array
    """

    centre: FloatArray
    projection: FloatArray

    @classmethod
    def fit(cls, people: Sequence[TrainingPerson], n_dimensions: int) -> Basis:
        """Of all people's stimuli, each person weighing the same."""
        centre = np.mean([person.features.mean(axis=0, dtype=np.float64) for person in people], axis=0)
        gram = sum((x := person.features.astype(np.float64) - centre).T @ x / len(x) for person in people) / len(people)
        values, vectors = np.linalg.eigh(gram)
        keep = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:n_dimensions]
        return cls(centre, vectors[:, keep] / np.sqrt(values[keep]))

    def apply(self, features: FloatArray, kind: npt.DTypeLike) -> FloatArray:
        """Rows in components with a last column of ones, (n, n_dimensions + 1)."""
        rows = (features - self.centre) @ self.projection
        return np.column_stack([rows, np.ones(len(rows))]).astype(kind)

    def weights_of_features(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights (n_features, n_units) and bias (n_units,) of the features themselves."""
        kind = weights.dtype
        own = self.projection.astype(kind) @ weights[:-1]
        return own, weights[-1] - self.centre.astype(kind) @ own


@dataclass(frozen=True, eq=False)
class PriorModel:
    """A fitted mixture prior; see `fit_prior`.

    Attributes
    ----------
    basis : Basis
    mixture : Mixture
        Covariances within people, in the basis.
    spread : (n_dimensions + 1,) array
        Variance of a component's mean between people.
    objective : (n_iterations,) array
        Of EM.
    options : PriorOptions
    """

    basis: Basis
    mixture: Mixture
    spread: FloatArray
    objective: FloatArray
    options: PriorOptions
    name: str = "prior"

    def population(self) -> Mixture:
        """The prior of a unit of an unknown person: the people's spread is part of the covariances."""
        return replace(self.mixture, covariances=self.mixture.covariances + np.diag(self.spread))

    def evidence(self, context: Context) -> Evidence:
        """The context in the model's basis.

        Raises
        ------
        ValueError
            If the context is empty, of another number of features, or not finite.
        """
        features, responses = np.asarray(context.features), np.asarray(context.responses)
        if features.ndim != 2 or features.shape[1] != len(self.basis.centre):
            raise ValueError(f"the model knows {len(self.basis.centre)} features, the context has shape {features.shape}")
        if len(features) == 0 or len(features) != len(responses):
            raise ValueError(f"a context needs as many rows of features as of responses: {len(features)} and {len(responses)}")
        if not (np.isfinite(features).all() and np.isfinite(responses).all()):
            raise ValueError("the context has values that are not finite")
        kind = np.float64 if responses.dtype == np.float64 else np.float32
        return reduce_data(self.basis.apply(features, np.float64), responses.astype(kind, copy=False))

    def blocks(self, data: Evidence, n_queries: int = 0, at_once: int = 1) -> list[slice]:
        """Units of which ``at_once`` blocks fit in memory together."""
        n_rows, (n_components, n_levels) = len(data.root), self.mixture.log_shares.shape
        cells = n_components * (n_rows + 4 * n_levels) + 6 * n_rows + 2 * self.mixture.means.shape[1] + 4 * n_queries
        step = max(16, self.options.block_bytes // (cells * 8 * at_once))
        return [slice(i, i + step) for i in range(0, len(data.energy), step)]

    def personal(self, data: Evidence) -> Mixture:
        """The prior with this person's component means re-estimated from all units (maximum a posteriori), `pooling_rounds` times."""
        prior, n_units = self.population(), len(data.energy)
        if not self.spread.any():
            return prior
        if n_units > self.options.pooling_units:
            data = data.units(np.linspace(0, n_units - 1, self.options.pooling_units).astype(np.intp))
        with threads_over_blocks() as compute:
            for _ in range(self.options.pooling_rounds):
                prior = self._pool(data, prior, compute)
        return prior

    def _pool(self, data: Evidence, current: Mixture, compute: Compute) -> Mixture:
        def look(units: slice) -> tuple[FloatArray, FloatArray]:
            """Counts (K, n_levels) and sums (K, n_rows, n_levels) of a block's responses, by share."""
            part = data.units(units)
            share, _ = responsibilities(current.terms(part), current.log_shares)
            return share.sum(axis=2, dtype=np.float64), np.stack([part.targets @ own.T for own in share])

        looked = map_blocks(look, self.blocks(data, 0, compute.n_threads), compute)
        counts, responses = (np.stack([each[place] for each in looked]).sum(axis=0, dtype=np.float64) for place in range(2))
        root = data.root.astype(np.float64)
        shifts = map_blocks(lambda i: self._shift(root, responses[i], counts[i], i), range(len(counts)), compute)
        means = self.mixture.means + np.stack([shift for shift, _ in shifts])
        return replace(current, means=means, covariances=self.mixture.covariances + np.stack([own for _, own in shifts]))

    def _shift(self, root: FloatArray, sums: FloatArray, counts: FloatArray, component: int) -> tuple[FloatArray, FloatArray]:
        """Posterior mean (d,) and covariance (d, d) of one component's shift, from responses summed by share (n_rows, n_levels)."""
        s, noise = self.mixture.levels.scale, self.mixture.levels.noise
        mean, kernel = self.mixture.means[component], root @ self.mixture.covariances[component] @ root.T
        values, vectors = np.linalg.eigh(kernel)
        rows = vectors.T @ root
        inverse = 1 / (np.maximum(values, 0)[:, None] * s**2 + noise)
        information = (inverse * (s**2 * counts)).sum(axis=1)
        residual = (inverse * s * (vectors.T @ sums - np.outer(rows @ mean, s * counts))).sum(axis=1)
        root_spread = np.sqrt(self.spread)
        scaled = rows * root_spread
        covariance = np.linalg.inv(np.eye(len(mean)) + (scaled.T * information) @ scaled)
        return root_spread * (covariance @ (scaled.T @ residual)), root_spread[:, None] * covariance * root_spread

    def adapt(self, context: Context, queries: FloatArray | None = None) -> Adapted:
        """Posterior mean weights of every unit; see `PopulationModel.adapt`.

        Raises
        ------
        ValueError
            If the context does not fit the model.
        """
        data = self.evidence(context)
        prior = self.personal(data)
        n_features, n_units, kind = len(self.basis.centre), len(data.energy), data.targets.dtype
        weights, bias, share = np.empty((n_features, n_units), kind), np.empty(n_units, kind), np.empty(n_units, kind)
        rows = None if queries is None else self.basis.apply(np.asarray(queries), np.float64)
        variance = None if rows is None else np.empty((len(rows), n_units), kind)

        def fill(units: slice) -> None:
            part = data.units(units)
            terms = prior.terms(part)
            post, _ = responsibilities(terms, prior.log_shares)
            own = np.zeros((self.mixture.means.shape[1], len(part.energy)), kind)
            for term, probability in zip(terms, post, strict=True):
                own += term.weights(probability)
            weights[:, units], bias[units] = self.basis.weights_of_features(own)
            share[units] = np.minimum((own[:-1] ** 2).sum(axis=0), 1)
            if rows is not None and variance is not None:
                variance[:, units] = _query_variance(prior, terms, post, rows, own)

        with threads_over_blocks() as compute:
            map_blocks(fill, self.blocks(data, 0 if rows is None else len(rows), compute.n_threads), compute)
        return Adapted(weights, bias, share, variance)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
        """Arrays and settings; see `from_state`."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "centre": self.basis.centre,
            "projection": self.basis.projection,
            "log_shares": self.mixture.log_shares,
            "means": self.mixture.means,
            "covariances": self.mixture.covariances,
            "ceilings": self.mixture.levels.ceilings,
            "spread": self.spread,
            "objective": self.objective,
        }
        options = {name: getattr(self.options, name) for name in PriorOptions.__dataclass_fields__}
        return arrays, {"engine": self.name, "options": options | {"ceilings": list(self.options.ceilings)}}

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> PriorModel:
        """The model that gave this state."""
        options = PriorOptions(**{**settings["options"], "ceilings": tuple(settings["options"]["ceilings"])})
        mixture = Mixture(arrays["log_shares"], arrays["means"], arrays["covariances"], Levels(arrays["ceilings"]))
        basis = Basis(arrays["centre"], arrays["projection"])
        return cls(basis, mixture, arrays["spread"], arrays["objective"], options, str(settings["engine"]))


def _query_variance(prior: Mixture, terms: list[Any], post: FloatArray, rows: FloatArray, mean: FloatArray) -> FloatArray:
    """Variance of the noiseless response: within components and levels, and between them (shares below a thousandth left out)."""
    kind = mean.dtype
    centre = rows.astype(kind) @ mean
    total = np.zeros_like(centre)
    for term, covariance, probability in zip(terms, prior.covariances, post, strict=True):
        total += term.variance(covariance, rows).astype(kind) @ probability
        inverse = term.shrinkage()
        back = (rows @ term.back).astype(kind)
        for level, s in enumerate(prior.levels.scale):
            active = np.flatnonzero(probability[level] > NEGLIGIBLE_SHARE)
            if active.size == 0:
                continue
            inner = (s**2 * inverse[level])[:, None] * (term.projected[:, active] - (s * term.centre)[:, None])
            value = back @ inner.astype(kind) + (s * (rows @ term.mean))[:, None].astype(kind)
            total[:, active] += probability[level, active] * (value - centre[:, active]) ** 2
    return total


def fit_prior(people: Sequence[TrainingPerson], options: PriorOptions | None = None) -> PriorModel:
    """Learn the prior from training people, sharing stimuli or not.

    Parameters
    ----------
    people : sequence of TrainingPerson
        Of the same features.
    options : PriorOptions, optional

    Returns
    -------
    PriorModel

    Raises
    ------
    ValueError
        If there is no person, people differ in their features, or a person has too few stimuli.
    """
    options = options or PriorOptions()
    if not people:
        raise ValueError("a population model needs at least one training person")
    if len({person.features.shape[1] for person in people}) > 1:
        raise ValueError("training people differ in their number of features")
    basis = Basis.fit(people, min(options.max_dimensions, min(len(person.features) for person in people) // 2))
    rng = np.random.default_rng(options.seed)
    data = []
    for person in people:
        n_units = person.responses.shape[1]
        chosen = np.sort(rng.permutation(n_units)[: options.max_units])
        kind = np.float64 if person.responses.dtype == np.float64 else np.float32
        data.append(reduce_data(basis.apply(person.features, np.float64), person.responses[:, chosen].astype(kind, copy=False)))
    levels = Levels(np.asarray(options.ceilings))
    strength = options.covariance_strength * data[0].root.shape[1]
    if options.n_components == 1:
        fitted = fit_one_gaussian(data, levels)
    else:
        fitted = fit_mixture(data, levels, options.n_components, options.n_iterations, strength, options.seed)
    return PriorModel(basis, fitted.mixture, fitted.spread, fitted.objective, options)
