"""What the trained engines share: a schedule, steps that are pure functions of seed and number, and a state to go on from.

Random draws of a step come from generators of ``(seed, step)`` and of ``(seed, step, task)``, so that training that is taken up from a
checkpoint sees the same data as training that was never interrupted, and reaches the same weights; and so that several processes can share
the tasks of a step (`conform_bids.encode.numerics.teamwork`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.teamwork import ALONE, Team

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "Draws", "Recipe", "Save", "Watch", "half_precision_helps", "optimise"]

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    steps : int
    learning_rate : float
        At its highest.
    warm_up : int
        Steps over which it rises from zero; then it falls as a cosine to a fiftieth.
    weight_decay : float
        Of matrices; vectors have none.
    clip : float
        Largest norm of the gradients.
    save_every : int
        Steps between checkpoints.
    seed : int
    """

    steps: int
    learning_rate: float = 2e-3
    warm_up: int = 100
    weight_decay: float = 0.02
    clip: float = 1.0
    save_every: int = 1000
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Training that was interrupted after ``step`` steps: arrays of network and optimiser, and the losses so far."""

    step: int
    arrays: Arrays
    losses: list[float]


Save = Callable[[Checkpoint], None]
Watch = Callable[[Sequence[float], Recipe], None]
"""Gets the losses so far after every step."""


@dataclass(frozen=True)
class Draws:
    """Random generators of a step: one that all tasks share, and one for each task."""

    seed: int
    step: int

    def shared(self) -> np.random.Generator:
        """What is the same for all tasks of the step."""
        return np.random.default_rng([self.seed, self.step])

    def of(self, task: int) -> np.random.Generator:
        """What is a task's own."""
        return np.random.default_rng([self.seed, self.step, task])


def half_precision_helps(device: str) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32: on GPUs, and on processors that have instructions for them.

    Others emulate them, many times slower.
    """
    import torch

    if torch.device(device).type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def optimise(
    network: torch.nn.Module,
    loss: Callable[[torch.nn.Module, int, Draws], torch.Tensor],
    recipe: Recipe,
    *,
    resume: Checkpoint | None = None,
    save: Save | None = None,
    watch: Watch | None = None,
    team: Team = ALONE,
) -> list[float]:
    """Train a network in place by AdamW.

    Parameters
    ----------
    network : torch.nn.Module
    loss : callable
        (network, step, draws of the step) -> loss of this process' share of a batch, such that the mean over processes is that of the
        batch.
    recipe : Recipe
    resume : Checkpoint, optional
        Where to go on; of several processes that of the first.
    save : callable, optional
        Gets a checkpoint every `Recipe.save_every` steps, in the first process.
    watch : callable, optional
        Looks on, in the first process.
    team : Team
        Processes that train together.

    Returns
    -------
    list of float
        Loss of every step, of the whole batch.

    Raises
    ------
    ValueError
        When the checkpoint is of another network, or the loss is not finite.
    """
    import torch

    named = dict(network.named_parameters())
    decays = [p for p in named.values() if p.ndim >= 2]
    others = [p for p in named.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    start, losses = 0, list[float]()
    resume = team.of_the_first(resume)
    if resume is not None:
        start, losses = resume.step, list(resume.losses)
        _restore(network, optimiser, named, resume.arrays)
    joined = team.join(network)
    for step in range(start, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        optimiser.zero_grad(set_to_none=True)
        value = loss(joined, step, Draws(recipe.seed, step))
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimiser.step()
        losses.append(float(team.mean(value.detach())))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the loss is not finite in step {step}")
        if not team.leads:
            continue
        if watch is not None:
            watch(losses, recipe)
        if save is not None and (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
            save(Checkpoint(step + 1, _state(named, optimiser), list(losses)))
    return losses


def _state(named: Mapping[str, Any], optimiser: Any) -> Arrays:
    """Weights, and the optimiser's two moments and count for each."""
    arrays: Arrays = {}
    for name, parameter in named.items():
        arrays[f"weight/{name}"] = parameter.detach().cpu().numpy().copy()
        for key, value in optimiser.state[parameter].items():
            arrays[f"{key}/{name}"] = value.detach().cpu().numpy().copy()
    return arrays


def _restore(network: Any, optimiser: Any, named: Mapping[str, Any], arrays: Arrays) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in named.items():
            own = arrays.get(f"weight/{name}")
            if own is None or own.shape != tuple(parameter.shape):
                raise ValueError(f"the checkpoint is of another network: {name}")
            parameter.copy_(torch.from_numpy(np.array(own)))
            optimiser.state[parameter] = {
                key: torch.from_numpy(np.array(arrays[f"{key}/{name}"])).to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
            }
