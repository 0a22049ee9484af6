"""The process group of a training that several processes share, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from conform_bids.encode.numerics.teamwork import ALONE, Team
from conform_bids.jobs import Processes

__all__ = ["joined"]

PATIENCE = timedelta(hours=2)
"""That processes wait for the first one, which alone scores left-out people and writes checkpoints."""


@contextmanager
def joined(processes: Processes, device: str) -> Iterator[Team]:
    """Meet the other processes, and part from them at the end.

    Parameters
    ----------
    processes : Processes
        Alone, nothing is done.
    device : str
        ``cpu``: gradients are exchanged by gloo; ``cuda:N``: by NCCL.
    """
    if processes.size == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Team(processes.rank, processes.size)
    finally:
        distributed.destroy_process_group()
