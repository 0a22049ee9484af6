"""Synthetic populations with a known best answer, for tests and benchmarks of population models.

`in_family_world`: a voxel's tuning belongs to one of 12 functional types, each a Gaussian: a mixture is the truth, and the posterior mean
of every voxel (Bayes) is exact. `out_of_family_world`: tunings lie on a continuous three-dimensional manifold, with heavy-tailed
idiosyncrasy and noise ceilings of any height; its Bayes is approximated by many samples of the manifold.

Tunings have unit signal variance on average; responses are ``sqrt(ceiling) signal + sqrt(1 - ceiling) noise``. They are not z-scored again
(their expected variance is one), since Bayes would not be exact then. Features have mean zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp

from conform_bids.encode.numerics.population import Context, FloatArray, TrainingPerson

__all__ = [
    "CEILINGS",
    "NewPerson",
    "Stimuli",
    "TruthSample",
    "TypeTruth",
    "World",
    "WorldSize",
    "draw_people",
    "in_family_world",
    "out_of_family_world",
    "scaled_rows",
]

CEILINGS = (0.1, 0.25, 0.45, 0.7)
N_TYPES, N_CATEGORIES, RANK = 12, 5, 6
SPECTRUM_EXPONENT = 0.5
SHARES = {"mean": 0.5, "type": 0.3, "person": 0.1, "voxel": 0.1}
UNITS_AT_A_TIME = 100
WAVINESS = 2.1
TAIL = 4.0
MANIFOLD_LEVELS = tuple(np.linspace(0.09, 0.71, 9))


@dataclass(frozen=True)
class WorldSize:
    """How many of everything; the defaults are those of the benchmark."""

    n_features: int = 64
    n_people: int = 6
    n_units: int = 3000
    n_stimuli: int = 1500
    n_new: int = 2
    n_new_units: int = 500
    n_test: int = 1000
    n_samples: int = 20_000
    """Of the manifold, for the approximate Bayes out of family."""


@dataclass(frozen=True, eq=False)
class NewPerson:
    """A person that no model was trained on, with the truth.

    Attributes
    ----------
    features, responses : (n_stimuli, n_features) and (n_stimuli, n_units) arrays
        The pool from which contexts are drawn.
    test_features, test_signal : (n_test, n_features) and (n_test, n_units) arrays
        Other stimuli, and the noiseless response to them.
    """

    features: FloatArray
    responses: FloatArray
    test_features: FloatArray
    test_signal: FloatArray

    def context(self, n_context: int, seed: int = 0) -> Context:
        """A random draw of ``n_context`` stimuli of the pool, the same for all units."""
        rows = np.random.default_rng((seed, n_context)).permutation(len(self.features))[:n_context]
        return Context(self.features[rows], self.responses[rows])

    def score(self, weights: FloatArray) -> FloatArray:
        """Correlation of each unit's prediction with its noiseless response to the test stimuli, (n_units,); 0 where it is constant."""
        predicted = self.test_features @ weights
        predicted = predicted - predicted.mean(axis=0)
        truth = self.test_signal - self.test_signal.mean(axis=0)
        norm = np.sqrt((predicted**2).sum(axis=0) * (truth**2).sum(axis=0))
        products: FloatArray = (predicted * truth).sum(axis=0)
        return np.divide(products, norm, out=np.zeros_like(products), where=norm > 0)


@dataclass(frozen=True, eq=False)
class TypeTruth:
    """The true mixture of unit-variance tunings: ``means`` (n_types, n_features), ``covariances`` (n_types, n_features, n_features)."""

    means: FloatArray
    covariances: FloatArray

    def posterior_mean(self, context: Context) -> FloatArray:
        """Exact posterior mean weights of every unit on its own, (n_features, n_units); types and ceilings are equally likely."""
        x, y = np.asarray(context.features, dtype=np.float64), np.asarray(context.responses, dtype=np.float64)
        evidence, means = [], []
        for mean, covariance in zip(self.means, self.covariances, strict=True):
            for ceiling in CEILINGS:
                factor = cho_factor(ceiling * x @ covariance @ x.T + (1 - ceiling) * np.eye(len(x)), lower=True)
                residual = y - np.sqrt(ceiling) * (x @ mean)[:, None]
                solved = cho_solve(factor, residual)
                evidence.append(-0.5 * (residual * solved).sum(axis=0) - np.log(np.diag(factor[0])).sum())
                means.append(np.sqrt(ceiling) * mean[:, None] + ceiling * covariance @ (x.T @ solved))
        share = np.exp(np.asarray(evidence) - logsumexp(evidence, axis=0))
        return np.asarray(sum(r * w for r, w in zip(share, means, strict=True)), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class TruthSample:
    """Bayes by samples of the manifold (n_samples, n_features), with Gaussian idiosyncrasy of ``variance`` a weight."""

    samples: FloatArray
    variance: float

    def posterior_mean(self, context: Context) -> FloatArray:
        """Approximate posterior mean weights of every unit on its own, (n_features, n_units)."""
        x, y = np.asarray(context.features, dtype=np.float64), np.asarray(context.responses, dtype=np.float64)
        signal, weights = x @ self.samples.T, np.empty((x.shape[1], y.shape[1]))
        levels = [_Level.at(ceiling, self.variance, x, signal) for ceiling in MANIFOLD_LEVELS]
        for start in range(0, y.shape[1], UNITS_AT_A_TIME):
            units = slice(start, start + UNITS_AT_A_TIME)
            evidence = np.stack([level.evidence(y[:, units]) for level in levels])
            shares = np.exp(evidence - logsumexp(evidence, axis=(0, 1)))
            weights[:, units] = sum(level.weights(self, share, x, y[:, units]) for level, share in zip(levels, shares, strict=True))
        return weights


@dataclass(frozen=True, eq=False)
class _Level:
    """What one noise ceiling makes of the context: the factor of the responses' covariance, the samples' responses and their norms."""

    ceiling: float
    factor: tuple[FloatArray, bool]
    means: FloatArray
    norms: FloatArray

    @classmethod
    def at(cls, ceiling: float, variance: float, x: FloatArray, signal: FloatArray) -> _Level:
        factor = cho_factor(ceiling * variance * x @ x.T + (1 - ceiling) * np.eye(len(x)), lower=True)
        means = np.sqrt(ceiling) * signal
        return cls(ceiling, factor, means, 0.5 * (means * cho_solve(factor, means)).sum(axis=0))

    def evidence(self, y: FloatArray) -> FloatArray:
        """Log-likelihood of each unit under each sample, (n_samples, n_units)."""
        solved = cho_solve(self.factor, y)
        own = 0.5 * (y * solved).sum(axis=0) + np.log(np.diag(self.factor[0])).sum()
        return np.asarray(self.means.T @ solved - self.norms[:, None] - own)

    def weights(self, truth: TruthSample, share: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Part of this level in the posterior mean weights, (n_features, n_units)."""
        expected = np.sqrt(self.ceiling) * (truth.samples.T @ share)
        residual = y * share.sum(axis=0) - x @ expected
        return np.asarray(expected + self.ceiling * truth.variance * x.T @ cho_solve(self.factor, residual))


@dataclass(frozen=True, eq=False)
class World:
    """A population: people to train on, new people, and the best answer of any method that looks at one voxel at a time."""

    name: str
    training: tuple[TrainingPerson, ...]
    new: tuple[NewPerson, ...]
    truth: TypeTruth | TruthSample

    def bayes(self, context: Context) -> FloatArray:
        """Posterior mean weights of every unit given its own context alone, (n_features, n_units)."""
        return self.truth.posterior_mean(context)


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Images: five categories with their own centres, and a power-law spectrum around them, in a random basis."""

    centres: FloatArray
    mixing: FloatArray

    @classmethod
    def make(cls, n_features: int, rng: np.random.Generator) -> Stimuli:
        """Draw the kind of images."""
        spectrum = np.arange(1, n_features + 1) ** -SPECTRUM_EXPONENT
        spectrum *= n_features / spectrum.sum()
        basis = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0]
        centres = rng.standard_normal((N_CATEGORIES, n_features)) * np.sqrt(0.3 * spectrum)
        return cls((centres - centres.mean(axis=0)) @ basis, (np.sqrt(0.7 * spectrum)[:, None] * basis))

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Features of ``n`` images, (n, n_features)."""
        noise = rng.standard_normal((n, len(self.mixing))) @ self.mixing
        return np.asarray(self.centres[rng.integers(N_CATEGORIES, size=n)] + noise, dtype=np.float32)

    def covariance(self) -> FloatArray:
        """Second moment of the features, (n_features, n_features)."""
        return np.asarray(self.mixing.T @ self.mixing + self.centres.T @ self.centres / N_CATEGORIES)


TuningsOfPerson = Callable[[int, np.random.Generator], tuple[FloatArray, FloatArray]]


def _respond(features: FloatArray, tunings: FloatArray, ceilings: FloatArray, rng: np.random.Generator) -> FloatArray:
    noise = rng.standard_normal((len(features), tunings.shape[1]), dtype=np.float32)
    signal = features @ (np.sqrt(ceilings) * tunings).astype(np.float32)
    return np.asarray(signal + np.sqrt(1 - ceilings).astype(np.float32) * noise)


def draw_people(
    stimuli: Stimuli, size: WorldSize, tunings: TuningsOfPerson, rng: np.random.Generator
) -> tuple[tuple[TrainingPerson, ...], tuple[NewPerson, ...]]:
    """Draw a world's people: those to train on, and new ones.

    Parameters
    ----------
    stimuli : Stimuli
    size : WorldSize
    tunings : callable
        (n_units, generator) -> (n_features, n_units) weights of unit signal variance and (n_units,) noise ceilings of a fresh person.
    rng : Generator
    """
    training, new = [], []
    for _ in range(size.n_people):
        weights, ceilings = tunings(size.n_units, rng)
        features = stimuli.draw(size.n_stimuli, rng)
        training.append(TrainingPerson(features, _respond(features, weights, ceilings, rng)))
    for _ in range(size.n_new):
        weights, ceilings = tunings(size.n_new_units, rng)
        features, test = stimuli.draw(size.n_stimuli, rng), stimuli.draw(size.n_test, rng)
        new.append(NewPerson(features, _respond(features, weights, ceilings, rng), test, test @ weights.astype(np.float32)))
    return tuple(training), tuple(new)


def scaled_rows(vectors: FloatArray, covariance: FloatArray, power: float) -> FloatArray:
    """Rows (n, n_features) scaled together so that the signal variances that they make of the stimuli add up to ``power``."""
    return np.asarray(vectors * np.sqrt(power / np.einsum("id,de,ie->", vectors, covariance, vectors)))


def in_family_world(seed: int, size: WorldSize | None = None) -> World:
    """Twelve functional types; a mixture of Gaussians is the truth.

    Parameters
    ----------
    seed : int
        Of everything: types, people, stimuli and noise.
    size : WorldSize, optional
        By default that of the benchmark.

    Returns
    -------
    World
    """
    size = size or WorldSize()
    rng = np.random.default_rng((seed, 1))
    stimuli = Stimuli.make(size.n_features, rng)
    gram, d = stimuli.covariance(), size.n_features
    directions = [*stimuli.centres, *rng.standard_normal((N_TYPES - N_CATEGORIES, d))]
    means = np.stack([scaled_rows(row[None], gram, SHARES["mean"])[0] for row in directions])
    factors = np.stack([scaled_rows(rng.standard_normal((RANK, d)), gram, SHARES["type"]) for _ in range(N_TYPES)])
    unit = 1 / np.trace(gram)

    def tunings(n_units: int, draw: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        offsets = draw.standard_normal((N_TYPES, d)) * np.sqrt(SHARES["person"] * unit)
        kind = draw.integers(N_TYPES, size=n_units)
        within = np.einsum("vr,vrd->vd", draw.standard_normal((n_units, RANK)), factors[kind])
        own = draw.standard_normal((n_units, d)) * np.sqrt(SHARES["voxel"] * unit)
        return (means[kind] + offsets[kind] + within + own).T, draw.choice(CEILINGS, size=n_units)

    training, new = draw_people(stimuli, size, tunings, rng)
    isotropic = (SHARES["person"] + SHARES["voxel"]) * unit * np.eye(d)
    truth = TypeTruth(means, np.einsum("trd,tre->tde", factors, factors) + isotropic)
    return World("in", training, new, truth)


def out_of_family_world(seed: int, size: WorldSize | None = None) -> World:
    """Tunings on a continuous three-dimensional manifold: no mixture is the truth.

    Idiosyncrasy has Student-t tails (4 degrees of freedom); noise ceilings are uniform between .05 and .75.

    Parameters
    ----------
    seed : int
    size : WorldSize, optional
        By default that of the benchmark.

    Returns
    -------
    World
    """
    size = size or WorldSize()
    rng = np.random.default_rng((seed, 2))
    stimuli = Stimuli.make(size.n_features, rng)
    gram, d, n_waves = stimuli.covariance(), size.n_features, 48
    frequencies, phases = rng.standard_normal((3, n_waves)) * WAVINESS, rng.uniform(0, 2 * np.pi, n_waves)
    directions = rng.standard_normal((n_waves, d))

    def on_manifold(places: FloatArray, bend: FloatArray) -> FloatArray:
        rows = np.cos(places @ frequencies + phases) @ (directions + bend)
        power = np.einsum("vd,de,ve->v", rows, gram, rows)
        return np.asarray(rows * np.sqrt(0.8 / power)[:, None])

    def tunings(n_units: int, draw: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        bend = draw.standard_normal((n_waves, d)) * np.sqrt(SHARES["person"] / 0.8)
        scale = (TAIL - 2) / draw.chisquare(TAIL, (n_units, 1))  # mean one: a multivariate Student-t voxel
        own = draw.standard_normal((n_units, d)) * np.sqrt(0.2 * scale / np.trace(gram))
        return (on_manifold(draw.uniform(-1, 1, (n_units, 3)), bend) + own).T, draw.uniform(0.05, 0.75, n_units)

    training, new = draw_people(stimuli, size, tunings, rng)
    samples = on_manifold(rng.uniform(-1, 1, (size.n_samples, 3)), np.zeros((n_waves, d)))
    return World("out", training, new, TruthSample(samples, 0.3 / np.trace(gram)))
