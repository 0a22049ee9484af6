"""Processes that train one network together, each on its own share of every batch.

Every process holds the same network and takes the tasks of a batch (contexts, or units) whose numbers are its own, counted in turns. A task
is drawn from a generator of its own, so that the batch is the same however many processes share it, and so is the result, to rounding.
torch exchanges the gradients while they are computed (`DistributedDataParallel`): by gloo between CPUs, by NCCL between GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["ALONE", "Team"]

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Team:
    """One process among those that train together; torch's process group has to exist where there are several.

    Attributes
    ----------
    rank : int
        Of this process, from 0; the first one writes.
    size : int
        Processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def tasks(self, n: int) -> range:
        """Numbers of the tasks of a batch of ``n`` that are this process'.

        Raises
        ------
        ValueError
            If there are fewer tasks than processes: some would have nothing to do.
        """
        if n < self.size:
            raise ValueError(f"a batch of {n} cannot be shared by {self.size} processes: train with a larger batch, or fewer processes")
        return range(self.rank, n, self.size)

    def join(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network as all processes train it: weights are those of the first, gradients are averaged."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        joined: torch.nn.Module = DistributedDataParallel(network)
        return joined

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a number over processes."""
        if self.size == 1:
            return value
        from torch import distributed

        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.size

    def of_the_first(self, value: Shared) -> Shared:
        """What the first process has, given to all."""
        if self.size == 1:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Team()
