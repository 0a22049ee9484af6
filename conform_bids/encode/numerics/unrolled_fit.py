"""Training of the `unrolled` engine: first on endless re-noised units, then on the training people's own responses.

The loss is the squared error on all stimuli that are not in the context. It needs no draws of queries: with their moments ``G`` and ``b``
it is ``w'Gw - 2 w'b``, up to a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.mixture import Basis
from conform_bids.encode.numerics.optimise import Checkpoint, Recipe, Save, optimise
from conform_bids.encode.numerics.population import Context, FloatArray, TrainingPerson
from conform_bids.encode.numerics.unrolled import NetworkSize, UnrolledModel, make_network

if TYPE_CHECKING:
    import torch

__all__ = ["UnrolledOptions", "fit_unrolled"]

CONTEXT_SIZES = (8, 110)
CEILINGS = (0.05, 0.75)
RELIABLE = 0.2
CALIBRATED = 12
"""Contexts of training people from which the scale of posterior variances is estimated."""


@dataclass(frozen=True)
class UnrolledOptions:
    """Of the training.

    Attributes
    ----------
    steps : int
        Of both phases.
    renoised : float
        Share of the steps on re-noised units.
    contexts, units : int
        Contexts of a step, and units of each.
    max_dimensions : int
        Principal components of the features, at most.
    max_units : int
        Drawn at random from each training person.
    learning_rate : float
    bf16 : bool
        Matrix products of the network in half the precision.
    size : NetworkSize
    save_every : int
        Steps between checkpoints.
    seed : int
    """

    steps: int = 2000
    renoised: float = 0.55
    contexts: int = 4
    units: int = 192
    max_dimensions: int = 128
    max_units: int = 3000
    learning_rate: float = 2e-3
    bf16: bool = True
    size: NetworkSize = NetworkSize()
    save_every: int = 200
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Person:
    """A training person in whitened components."""

    rows: FloatArray
    responses: FloatArray
    gram: FloatArray
    cross: FloatArray
    signals: FloatArray
    """Weights of unit signal variance of units that are reliable, (n_reliable, d)."""
    ceilings: FloatArray


def fit_unrolled(
    people: Sequence[TrainingPerson],
    options: UnrolledOptions | None = None,
    *,
    resume: Checkpoint | None = None,
    save: Save | None = None,
) -> UnrolledModel:
    """Train the network on people, sharing stimuli or not.

    Parameters
    ----------
    people : sequence of TrainingPerson
        Of the same features.
    options : UnrolledOptions, optional
    resume : Checkpoint, optional
        Of an interrupted training with the same people and options: the result is that of training that was never interrupted.
    save : callable, optional
        Gets checkpoints.

    Returns
    -------
    UnrolledModel

    Raises
    ------
    ValueError
        If there is no person, people differ in their features, or a checkpoint does not fit.
    """
    import torch

    options = options or UnrolledOptions()
    if not people:
        raise ValueError("a population model needs at least one training person")
    if len({person.features.shape[1] for person in people}) > 1:
        raise ValueError("training people differ in their number of features")
    basis = Basis.fit(people, min(options.max_dimensions, min(len(person.features) for person in people) // 2))
    whitening, prepared = _prepare(people, basis, options)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = make_network(len(whitening), options.size)
    recipe = Recipe(options.steps, options.learning_rate, bf16=options.bf16, seed=options.seed, save_every=options.save_every)
    first = round(options.renoised * options.steps)

    def loss(network: torch.nn.Module, step: int, rng: np.random.Generator) -> torch.Tensor:
        return _loss(network, prepared, options, rng, renoised=step < first)

    losses = optimise(network, loss, recipe, resume=resume, save=save)
    weights = {name: values.detach().numpy().copy() for name, values in network.state_dict().items()}
    model = UnrolledModel(basis, whitening, options.size, weights, 1.0, np.asarray(losses, dtype=np.float32))
    return _calibrate(model, people, prepared, options)


def _prepare(people: Sequence[TrainingPerson], basis: Basis, options: UnrolledOptions) -> tuple[FloatArray, list[_Person]]:
    """Light ridge on all data of everybody, and the components in which reliable units' weights are isotropic."""
    rng = np.random.default_rng(options.seed)
    fits = []
    for person in people:
        rows = basis.apply(person.features, np.float64)
        chosen = np.sort(rng.permutation(person.responses.shape[1])[: options.max_units])
        responses = np.asarray(person.responses[:, chosen], dtype=np.float32)
        gram = rows.T @ rows
        light = gram + 0.01 * np.trace(gram) / len(gram) * np.eye(len(gram))
        weights = np.linalg.solve(light, rows.T @ responses)
        error = ((responses - rows @ weights) ** 2).sum(axis=0) / max(1, len(rows) - np.trace(np.linalg.solve(light, gram)))
        fits.append((rows, responses, weights, np.clip(1 - error / np.maximum(responses.var(axis=0), 1e-6), 0, 0.99)))
    signals = [(weights / np.sqrt(np.maximum(ceilings, 0.05)))[:, ceilings > RELIABLE] for _, _, weights, ceilings in fits]
    if not any(part.shape[1] for part in signals):  # nothing is reliable: all units then, rather than none
        signals = [weights / np.sqrt(np.maximum(ceilings, 0.05)) for _, _, weights, ceilings in fits]
    joined = np.concatenate(signals, axis=1)
    second = joined @ joined.T / joined.shape[1]
    values, vectors = np.linalg.eigh(second + 0.02 * np.trace(second) / len(second) * np.eye(len(second)))
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    prepared = []
    for (rows, responses, _, ceilings), own in zip(fits, signals, strict=True):
        white = rows @ root
        cross = (responses.T @ white.astype(np.float32)).astype(np.float32)
        prepared.append(_Person(white, responses, white.T @ white, cross, (inverse @ own).T.astype(np.float32), ceilings))
    return root, prepared


def _loss(
    network: torch.nn.Module, people: Sequence[_Person], options: UnrolledOptions, rng: np.random.Generator, renoised: bool
) -> torch.Tensor:
    """Of a batch of contexts, a random person each."""
    import torch

    batch = [_draw(people, options, rng, renoised) for _ in range(options.contexts)]
    arrays = [torch.from_numpy(np.stack([item[place] for item in batch]).astype(np.float32)) for place in range(6)]
    gram, cross, energy, n, rest_gram, rest_cross = arrays
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        weights, _ = network(gram, cross, energy, n)
    weights = weights.float()
    return ((weights @ rest_gram - 2 * rest_cross) * weights).sum(-1).mean()


def _draw(people: Sequence[_Person], options: UnrolledOptions, rng: np.random.Generator, renoised: bool) -> tuple[npt.NDArray[Any], ...]:
    """Moments of a context, and of the mean over the person's other stimuli."""
    usable = [person for person in people if len(person.signals)] if renoised else people
    person = usable[int(rng.integers(len(usable)))]
    n_stimuli = len(person.rows)
    low, high = CONTEXT_SIZES[0], max(CONTEXT_SIZES[0] + 1, min(CONTEXT_SIZES[1], n_stimuli // 2))
    k = int(np.exp(rng.uniform(np.log(low), np.log(high))))
    chosen = rng.permutation(n_stimuli)[:k]
    rows = person.rows[chosen]
    gram = rows.T @ rows
    rest_gram = (person.gram - gram) / (n_stimuli - k)
    if renoised:
        units = rng.integers(len(person.signals), size=options.units)
        ceilings = rng.uniform(*CEILINGS, size=(options.units, 1)).astype(np.float32)
        weights = np.sqrt(ceilings) * person.signals[units]
        noise = np.sqrt(1 - ceilings) * rng.standard_normal((options.units, k), dtype=np.float32)
        responses = (weights @ rows.T.astype(np.float32) + noise).T
        rest_cross = weights @ rest_gram.astype(np.float32)
    else:
        units = rng.integers(person.responses.shape[1], size=options.units)
        responses = person.responses[np.ix_(chosen, units)]
    cross = responses.T @ rows.astype(np.float32)
    if not renoised:
        rest_cross = (person.cross[units] - cross) / (n_stimuli - k)
    return gram, cross, np.einsum("iv,iv->v", responses, responses), np.asarray(k), rest_gram, rest_cross


def _calibrate(
    model: UnrolledModel, people: Sequence[TrainingPerson], prepared: Sequence[_Person], options: UnrolledOptions
) -> UnrolledModel:
    """Scale posterior variances so that squared errors on the training people's other stimuli are what is expected."""
    rng = np.random.default_rng([options.seed, len(people)])
    errors = variances = 0.0
    for draw in range(CALIBRATED):
        place = draw % len(people)
        person, own = people[place], prepared[place]
        n = len(person.features)
        k = int(np.exp(rng.uniform(np.log(CONTEXT_SIZES[0]), np.log(max(9, min(CONTEXT_SIZES[1], n // 2))))))
        order = rng.permutation(n)
        units = np.arange(min(300, own.responses.shape[1]))
        queries = order[k : k + 200]
        adapted = model.adapt(Context(person.features[order[:k]], own.responses[np.ix_(order[:k], units)]), person.features[queries])
        residual = own.responses[np.ix_(queries, units)] - (person.features[queries] @ adapted.weights + adapted.bias)
        assert adapted.prediction_variance is not None
        errors += float((residual**2).mean() - (1 - own.ceilings[units]).mean())
        variances += float(adapted.prediction_variance.mean())
    return replace(model, variance_scale=max(0.05, errors / max(variances, 1e-9)))
