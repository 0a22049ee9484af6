"""Training of the `unrolled` engine: first on endless simulated responses of units, then on the training people's own.

The units of the first phase are those of the training people, as a mixture prior says that they may be: draws from the posterior of each
one's tuning and noise given all of its responses. (Estimates would not do: what they err by would look like a part of the tunings.)

The loss is the squared error on all stimuli that are not in the context. It needs no draws of queries: with their moments ``G`` and ``b``
it is ``w'Gw - 2 w'b``, up to a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.mixture import PriorModel, PriorOptions, fit_prior
from conform_bids.encode.numerics.mixture_terms import draw_posterior, reduce_data
from conform_bids.encode.numerics.optimise import Checkpoint, Draws, Recipe, Save, Watch, half_precision_helps, optimise
from conform_bids.encode.numerics.population import Context, FloatArray, TrainingPerson
from conform_bids.encode.numerics.teamwork import ALONE, Team
from conform_bids.encode.numerics.unrolled import NetworkSize, UnrolledModel, make_network

if TYPE_CHECKING:
    import torch

__all__ = ["UnrolledOptions", "fit_unrolled"]

CONTEXT_SIZES = (8, 110)
CALIBRATED = 12
"""Contexts of training people from which the scale of posterior variances is estimated."""
PRIOR_ITERATIONS = 10
"""Of EM: units are drawn given all of their responses, so that the prior need not be sharp."""
FLOOR = 0.02
"""Of the second moment of weights, as a share of its mean, so that it can be inverted."""


@dataclass(frozen=True)
class UnrolledOptions:
    """Of the training.

    Attributes
    ----------
    steps : int
        Of both phases.
    simulated : float
        Share of the steps on simulated responses.
    contexts, units : int
        Contexts of a step, and units of each.
    n_components : int
        Of the mixture that says what units may be like.
    max_dimensions : int
        Principal components of the features, at most.
    max_units : int
        Drawn at random from each training person.
    learning_rate : float
    bf16 : bool, optional
        Matrix products of the network in half the precision; by default where that is faster.
    size : NetworkSize
    save_every : int
        Steps between checkpoints.
    seed : int
    device : str
    """

    steps: int = 2600
    simulated: float = 0.55
    contexts: int = 4
    units: int = 192
    n_components: int = 16
    max_dimensions: int = 128
    max_units: int = 3000
    learning_rate: float = 2e-3
    bf16: bool | None = None
    size: NetworkSize = NetworkSize()
    save_every: int = 200
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class _Person:
    """A training person in whitened components."""

    rows: FloatArray
    responses: FloatArray
    gram: FloatArray
    cross: FloatArray
    signals: FloatArray
    """Possible weights of unit signal variance of the units, (n_units, d)."""
    ceilings: FloatArray
    """Possible noise ceilings of them, (n_units,)."""


def fit_unrolled(
    people: Sequence[TrainingPerson],
    options: UnrolledOptions | None = None,
    *,
    resume: Checkpoint | None = None,
    save: Save | None = None,
    watch: Watch | None = None,
    team: Team = ALONE,
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
    watch : callable, optional
        Looks on.
    team : Team
        Processes that train together, each on some of the contexts of a step.

    Returns
    -------
    UnrolledModel

    Raises
    ------
    ValueError
        If there is no person, people differ in their features, a checkpoint does not fit, or there are more processes than contexts.
    """
    import torch

    options = options or UnrolledOptions()
    options = replace(options, bf16=half_precision_helps(options.device)) if options.bf16 is None else options
    tasks = team.tasks(options.contexts)
    own = PriorOptions(
        options.n_components, options.max_dimensions, n_iterations=PRIOR_ITERATIONS, max_units=options.max_units, seed=options.seed
    )
    prior = fit_prior(people, own)
    whitening, prepared = _prepare(people, prior, options)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = make_network(len(whitening), options.size).to(options.device)
    recipe = Recipe(options.steps, options.learning_rate, seed=options.seed, save_every=options.save_every)
    first = round(options.simulated * options.steps)

    def loss(joined: torch.nn.Module, step: int, draws: Draws) -> torch.Tensor:
        batch = [_draw(prepared, options, draws.of(task), simulated=step < first) for task in tasks]
        return _loss(joined, batch, options) * (len(batch) * team.size / options.contexts)

    losses = optimise(network, loss, recipe, resume=resume, save=save, watch=watch, team=team)
    weights = {name: values.detach().cpu().numpy().copy() for name, values in network.state_dict().items()}
    model = UnrolledModel(prior.basis, whitening, options.size, weights, 1.0, np.asarray(losses, dtype=np.float32))
    return _calibrate(model, people, prepared, options)


def _prepare(people: Sequence[TrainingPerson], prior: PriorModel, options: UnrolledOptions) -> tuple[FloatArray, list[_Person]]:
    """Possible tunings of everybody's units, and the components in which they are isotropic."""
    rng = np.random.default_rng(options.seed)
    population, drawn = prior.population(), []
    for person in people:
        rows = prior.basis.apply(person.features, np.float64)
        chosen = np.sort(rng.permutation(person.responses.shape[1])[: options.max_units])
        responses = np.asarray(person.responses[:, chosen], dtype=np.float32)
        drawn.append((rows, responses, *draw_posterior(population, reduce_data(rows, responses), rng)))
    joined = np.concatenate([signals for _, _, signals, _ in drawn])
    second = joined.T @ joined / len(joined)
    values, vectors = np.linalg.eigh(second + FLOOR * np.trace(second) / len(second) * np.eye(len(second)))
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    prepared = []
    for rows, responses, signals, ceilings in drawn:
        white = rows @ root
        cross = (responses.T @ white.astype(np.float32)).astype(np.float32)
        prepared.append(_Person(white, responses, white.T @ white, cross, (signals @ inverse).astype(np.float32), ceilings))
    return root, prepared


def _loss(network: torch.nn.Module, batch: Sequence[tuple[npt.NDArray[Any], ...]], options: UnrolledOptions) -> torch.Tensor:
    """Mean over contexts and units."""
    import torch

    arrays = [torch.from_numpy(np.stack([item[place] for item in batch]).astype(np.float32)).to(options.device) for place in range(6)]
    gram, cross, energy, n, rest_gram, rest_cross = arrays
    with torch.autocast(torch.device(options.device).type, dtype=torch.bfloat16, enabled=bool(options.bf16)):
        weights, _ = network(gram, cross, energy, n)
    weights = weights.float()
    return ((weights @ rest_gram - 2 * rest_cross) * weights).sum(-1).mean()


def _draw(
    people: Sequence[_Person], options: UnrolledOptions, rng: np.random.Generator, *, simulated: bool
) -> tuple[npt.NDArray[Any], ...]:
    """Moments of a context, and of the mean over the person's other stimuli."""
    person = people[int(rng.integers(len(people)))]
    n_stimuli = len(person.rows)
    low, high = CONTEXT_SIZES[0], max(CONTEXT_SIZES[0] + 1, min(CONTEXT_SIZES[1], n_stimuli // 2))
    k = int(np.exp(rng.uniform(np.log(low), np.log(high))))
    chosen = rng.permutation(n_stimuli)[:k]
    rows = person.rows[chosen]
    gram = rows.T @ rows
    rest_gram = (person.gram - gram) / (n_stimuli - k)
    units = rng.integers(len(person.signals), size=options.units)
    if simulated:
        ceilings = person.ceilings[units, None]
        weights = np.sqrt(ceilings) * person.signals[units]
        noise = np.sqrt(1 - ceilings) * rng.standard_normal((options.units, k), dtype=np.float32)
        responses = (weights @ rows.T.astype(np.float32) + noise).T
        rest_cross = weights @ rest_gram.astype(np.float32)
    else:
        responses = person.responses[np.ix_(chosen, units)]
    cross = responses.T @ rows.astype(np.float32)
    if not simulated:
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
