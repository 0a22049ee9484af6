"""What the trained engines share: a schedule, steps that are pure functions of seed and number, and a state to go on from.

Random draws of a step come from a generator of ``(seed, step)``, so that training that is taken up from a checkpoint sees the same data as
training that was never interrupted, and reaches the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "Recipe", "Save", "optimise"]

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
    bf16 : bool
        Matrix products in half the precision; what needs more is kept out by the network.
    save_every : int
        Steps between checkpoints.
    seed : int
    """

    steps: int
    learning_rate: float = 2e-3
    warm_up: int = 100
    weight_decay: float = 0.02
    clip: float = 1.0
    bf16: bool = True
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


def optimise(
    network: torch.nn.Module,
    loss: Callable[[torch.nn.Module, int, np.random.Generator], torch.Tensor],
    recipe: Recipe,
    *,
    resume: Checkpoint | None = None,
    save: Save | None = None,
) -> list[float]:
    """Train a network in place by AdamW.

    Parameters
    ----------
    network : torch.nn.Module
    loss : callable
        (network, step, generator of the step) -> loss of a batch.
    recipe : Recipe
    resume : Checkpoint, optional
        Where to go on.
    save : callable, optional
        Gets a checkpoint every `Recipe.save_every` steps.

    Returns
    -------
    list of float
        Loss of every step.

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
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    start, losses = 0, list[float]()
    if resume is not None:
        start, losses = resume.step, list(resume.losses)
        _restore(network, optimiser, named, resume.arrays)
    for step in range(start, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        optimiser.zero_grad(set_to_none=True)
        value = loss(network, step, np.random.default_rng([recipe.seed, step]))
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimiser.step()
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the loss is not finite in step {step}")
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
                key: torch.from_numpy(np.array(arrays[f"{key}/{name}"])) for key in ("step", "exp_avg", "exp_avg_sq")
            }
