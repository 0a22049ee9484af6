"""Training of the `incontext` engine in three phases: simulated units in contexts of one size, then of any size, then real responses.

The simulated units are draws from the mixture prior that was fitted to the training people, which was never released for the published
network: it started from units that nobody could make. The loss is the squared error on stimuli outside the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.encode.numerics.incontext import Calibration, InContextModel
from conform_bids.encode.numerics.mixture import Basis, PriorModel, PriorOptions, fit_prior
from conform_bids.encode.numerics.optimise import Checkpoint, Draws, Recipe, Save, Watch, optimise
from conform_bids.encode.numerics.population import FloatArray, TrainingPerson
from conform_bids.encode.numerics.teamwork import ALONE, Team
from conform_bids.encode.numerics.transformer import InContextTransformer, Shape, paper_shape, small_shape

__all__ = ["PRESETS", "InContextOptions", "PresetOptions", "fit_incontext"]

MAX_FEATURES = 512
CALIBRATION_SIZES = (10, 30, 100)
CALIBRATION_BINS = 8
CALIBRATION_UNITS = 512
UNITS_OF_A_TASK = 4
"""Units of a batch that one process takes together: a random generator for each unit would cost more than what it draws."""


@dataclass(frozen=True)
class PresetOptions:
    """What goes with the size of the network.

    Attributes
    ----------
    steps : int
        Of all phases.
    fixed_context : int
        Stimuli of a context in the first phase.
    contexts : tuple of int
        Range of sizes in the other two.
    units, queries : int
        Of a batch, and stimuli that the loss looks at.
    learning_rate, weight_decay : float
    dropout : float
        In the last phase.
    """

    steps: int
    fixed_context: int
    contexts: tuple[int, int]
    units: int = 64
    queries: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    dropout: float = 0.0

    def tasks(self) -> list[int]:
        """Units of each task of a batch."""
        return [min(UNITS_OF_A_TASK, self.units - start) for start in range(0, self.units, UNITS_OF_A_TASK)]


PRESETS: dict[str, PresetOptions] = {
    "small": PresetOptions(6000, fixed_context=60, contexts=(10, 110), learning_rate=2e-3, weight_decay=0.02),
    "paper": PresetOptions(steps=200_000, fixed_context=500, contexts=(30, 500), units=80, dropout=0.5),
}


@dataclass(frozen=True)
class InContextOptions:
    """Of the training.

    Attributes
    ----------
    preset : {"small", "paper"}
    steps, units : int, optional
        Instead of the preset's.
    shares : tuple of float
        Of the steps, for each of the three phases.
    bf16 : bool, optional
        Matrix products in half the precision; by default where it helps: not for small networks on a CPU, which it slows down.
    max_units : int
        Drawn at random from each training person.
    shape : Shape, optional
        Instead of the preset's.
    save_every : int
        Steps between checkpoints.
    seed : int
    device : str
    """

    preset: str = "small"
    steps: int | None = None
    units: int | None = None
    shares: tuple[float, float, float] = (0.05, 0.6, 0.35)
    bf16: bool | None = None
    max_units: int = 3000
    shape: Shape | None = None
    save_every: int = 200
    seed: int = 0
    device: str = "cpu"

    @property
    def half_precision(self) -> bool:
        """Whether matrix products are in half the precision."""
        return self.bf16 if self.bf16 is not None else self.preset == "paper" or self.device != "cpu"

    def resolve(self) -> PresetOptions:
        """The preset, with these steps and units."""
        preset = PRESETS[self.preset]
        return replace(preset, steps=preset.steps if self.steps is None else self.steps, units=self.units or preset.units)


@dataclass(frozen=True, eq=False)
class _Person:
    """A training person: embeddings (n, E), rows in the prior's basis (n, d), responses (n, n_units)."""

    embeddings: npt.NDArray[np.float32]
    rows: npt.NDArray[np.float32]
    responses: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Sampler:
    """Draws units from a mixture prior."""

    prior: PriorModel
    roots: list[FloatArray]

    @classmethod
    def of(cls, prior: PriorModel) -> _Sampler:
        covariances = prior.population().covariances
        return cls(prior, [np.linalg.cholesky(own) for own in covariances])

    def draw(self, n: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Weights of the signal (n, d), in the prior's basis and scaled by the root of the ceiling, and noise variances (n,)."""
        mixture = self.prior.mixture
        shares = np.exp(mixture.log_shares).ravel()
        pairs = rng.choice(len(shares), size=n, p=shares / shares.sum())
        component, level = np.divmod(pairs, mixture.log_shares.shape[1])
        normal = rng.standard_normal((n, mixture.means.shape[1]))
        weights = np.stack([mixture.means[c] + self.roots[c] @ row for c, row in zip(component, normal, strict=True)])
        scaled = weights * mixture.levels.scale[level][:, None]
        return scaled.astype(np.float32), mixture.levels.noise[level].astype(np.float32)


def fit_incontext(
    people: Sequence[TrainingPerson],
    options: InContextOptions | None = None,
    *,
    resume: Checkpoint | None = None,
    save: Save | None = None,
    watch: Watch | None = None,
    team: Team = ALONE,
) -> InContextModel:
    """Train the transformer on people, sharing stimuli or not.

    Parameters
    ----------
    people : sequence of TrainingPerson
        Of the same features.
    options : InContextOptions, optional
    resume : Checkpoint, optional
        Of an interrupted training with the same people and options.
    save : callable, optional
        Gets checkpoints.
    watch : callable, optional
        Looks on.
    team : Team
        Processes that train together, each on some of the units of a batch. What dropout drops (preset ``paper``) depends on their number.

    Returns
    -------
    InContextModel

    Raises
    ------
    ValueError
        If there is no person, people differ in their features, a checkpoint does not fit, or there are more processes than tasks.
    """
    options = options or InContextOptions()
    preset = options.resolve()
    blocks = preset.tasks()
    tasks = {task: blocks[task] for task in team.tasks(len(blocks))}
    weight = sum(tasks.values()) * team.size / preset.units
    prior = fit_prior(people, PriorOptions(seed=options.seed, max_units=options.max_units))
    basis, spread = _embedding(people)
    rng = np.random.default_rng(options.seed)
    prepared = []
    for person in people:
        chosen = np.sort(rng.permutation(person.responses.shape[1])[: options.max_units])
        embeddings, rows = basis.apply(person.features, np.float32)[:, :-1], prior.basis.apply(person.features, np.float32)
        prepared.append(_Person(np.ascontiguousarray(embeddings), rows, np.asarray(person.responses[:, chosen], dtype=np.float32)))
    make = {"small": small_shape, "paper": paper_shape}[options.preset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = InContextTransformer(options.shape or make(basis.projection.shape[1])).to(options.device)
    sampler = _Sampler.of(prior)
    first, second = (round(preset.steps * sum(options.shares[: place + 1])) for place in range(2))

    def loss(joined: torch.nn.Module, step: int, draws: Draws) -> torch.Tensor:
        phase = 1 + (step >= first) + (step >= second)
        network.set_dropout(preset.dropout if phase == 3 else 0.0)
        batch = _draw(prepared, sampler, preset, draws, tasks, phase)
        torch.manual_seed(int(draws.shared().integers(2**31)) + team.rank)  # of dropout: a step is a function of its number
        return _loss(joined, batch, options) * weight

    recipe = Recipe(preset.steps, preset.learning_rate, weight_decay=preset.weight_decay, seed=options.seed, save_every=options.save_every)
    network.train()
    with torch.random.fork_rng(devices=[]):
        losses = optimise(network, loss, recipe, resume=resume, save=save, watch=watch, team=team)
    network.set_dropout(0.0)
    network.eval()
    record = {"preset": options.preset, "options": asdict(preset), "shares": list(options.shares), "seed": options.seed}
    model = InContextModel(basis, spread, network, None, np.asarray(losses, dtype=np.float32), record, options.device)
    return replace(model, calibration=_calibrate(model, prepared, sampler, options.seed))


def _embedding(people: Sequence[TrainingPerson]) -> tuple[Basis, FloatArray]:
    """Principal components of the features, all scaled alike to a mean squared norm of one; and their covariance."""
    white = Basis.fit(people, min(MAX_FEATURES, people[0].features.shape[1]))
    variances = 1 / (white.projection**2).sum(axis=0)  # columns are axes over the root of their variance
    projection = white.projection * np.sqrt(variances) / np.sqrt(variances.sum())
    return Basis(white.centre, projection), np.diag(variances / variances.sum())


def _draw(
    people: Sequence[_Person], sampler: _Sampler, preset: PresetOptions, draws: Draws, tasks: Mapping[int, int], phase: int
) -> list[npt.NDArray[Any]]:
    """Embeddings and responses of contexts, and of queries, of units of one person; each unit has a context of its own.

    Shapes: (n_units, n_context, E), (n_units, n_context), (n_units, n_queries, E), (n_units, n_queries).
    """
    shared = draws.shared()
    person = people[int(shared.integers(len(people)))]
    n = len(person.rows)
    size = preset.fixed_context if phase == 1 else int(shared.integers(preset.contexts[0], preset.contexts[1] + 1))
    size = min(size, max(3, n - 10))
    n_queries = min(preset.queries, n - size)
    parts = []
    for task, n_units in tasks.items():
        rng = draws.of(task)
        stimuli = rng.permuted(np.tile(np.arange(n), (n_units, 1)), axis=1)[:, : size + n_queries]
        context, queries = stimuli[:, :size], stimuli[:, size:]
        if phase < 3:
            weights, noise = sampler.draw(n_units, rng)
            signal = np.einsum("btd,bd->bt", person.rows[stimuli], weights)
            responses = signal[:, :size] + np.sqrt(noise)[:, None] * rng.standard_normal((n_units, size), dtype=np.float32)
            targets = signal[:, size:]
        else:
            units = rng.integers(person.responses.shape[1], size=n_units)[:, None]
            responses, targets = person.responses[context, units], person.responses[queries, units]
        parts.append((person.embeddings[context], responses, person.embeddings[queries], targets))
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _loss(network: torch.nn.Module, batch: Sequence[npt.NDArray[Any]], options: InContextOptions) -> torch.Tensor:
    """Squared error on queries, mean over units."""
    embeddings, responses, queries, targets = (_tensor(array, options.device) for array in batch)
    with torch.autocast(torch.device(options.device).type, dtype=torch.bfloat16, enabled=options.half_precision):
        found, bias = network(embeddings, responses)
    predicted = torch.einsum("bqe,be->bq", queries, found.float()) + bias.float()[:, None]
    return torch.square(predicted - targets).mean()


def _tensor(array: npt.NDArray[Any], device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)


def _calibrate(model: InContextModel, people: Sequence[_Person], sampler: _Sampler, seed: int) -> Calibration:
    """Squared error on simulated units against the share that the network expects, for several sizes of the context."""
    rng = np.random.default_rng([seed, 1])
    sizes, shares, errors = [], [], []
    for size in CALIBRATION_SIZES:
        person = people[int(rng.integers(len(people)))]
        if size > len(person.rows) - 10:
            continue
        stimuli = rng.permutation(len(person.rows))[: size + 200]
        weights, noise = sampler.draw(CALIBRATION_UNITS, rng)
        signal = person.rows[stimuli] @ weights.T
        responses = signal[:size] + np.sqrt(noise) * rng.standard_normal((size, CALIBRATION_UNITS))
        embeddings = _tensor(person.embeddings[stimuli], model.device)
        own = []
        with torch.inference_mode():
            for units in model.blocks(size, CALIBRATION_UNITS):
                part = _tensor(responses[:, units].T, model.device)
                found, bias = model.network(embeddings[:size].expand(len(part), -1, -1), part)
                own.append(torch.cat([found, bias[:, None]], dim=1).cpu().numpy())
        answer = np.concatenate(own)
        share = np.clip(np.einsum("vd,de,ve->v", answer[:, :-1], model.spread, answer[:, :-1], optimize=True), 0, 1)
        predicted = person.embeddings[stimuli[size:]] @ answer[:, :-1].T + answer[:, -1]
        error = ((predicted - signal[size:]) ** 2).mean(axis=0)
        bins = np.array_split(np.argsort(share), CALIBRATION_BINS)
        sizes.append(float(size))
        shares.append(np.maximum.accumulate([share[rows].mean() + 1e-9 * place for place, rows in enumerate(bins)]))
        errors.append([error[rows].mean() for rows in bins])
    return Calibration(np.asarray(sizes), np.asarray(shares), np.asarray(errors))
