"""Where the large products run: device, threads and memory, and the machine's own rate."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController

__all__ = ["Compute", "gemm_rate", "keep_threads", "limit_threads", "map_blocks", "threads_over_blocks", "to_numpy", "to_tensor"]

Block = TypeVar("Block")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Compute:
    """Resources of one numeric call; none of it changes a result beyond rounding.

    Attributes
    ----------
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    n_threads : int
        Threads of BLAS and torch.
    memory_bytes : float
        What temporary arrays may take.
    """

    device: str = "cpu"
    n_threads: int = 1
    memory_bytes: float = 1e9


_limit: ContextVar[tuple[int, int]] = ContextVar("limit", default=(0, 0))
"""Threads that this thread of execution is limited to, and how many modules were imported when it was."""


@contextmanager
def limit_threads(n_threads: int) -> Iterator[None]:
    """Run BLAS, OpenMP and torch on ``n_threads`` threads, and restore what was before."""
    import scipy.linalg  # noqa: F401  it brings a BLAS of its own, which is limited only where it is there by now

    if _limit.get() == (n_threads, len(sys.modules)):  # nested, which is free that way
        yield
        return
    before, token = torch.get_num_threads(), _limit.set((n_threads, len(sys.modules)))
    torch.set_num_threads(n_threads)
    try:
        with _thread_pools(len(sys.modules)).limit(limits=n_threads):
            yield
    finally:
        torch.set_num_threads(before)
        _limit.reset(token)


@lru_cache(maxsize=1)
def _thread_pools(n_modules: int) -> ThreadpoolController:
    """The thread pools of the process, looked up again (3 ms) only where modules, which may bring new ones, have been imported since."""
    return ThreadpoolController()


@contextmanager
def threads_over_blocks() -> Iterator[Compute]:
    """Give every operation one thread, and what it is given, for `map_blocks`, the threads that operations had.

    Operations on small matrices wait for each other's threads for longer than they take: where other work runs beside, many times.
    """
    compute = Compute(n_threads=torch.get_num_threads())
    with limit_threads(1):
        yield compute


def map_blocks(function: Callable[[Block], Result], blocks: Iterable[Block], compute: Compute) -> list[Result]:
    """Results of ``function`` for every block, in the order of the blocks.

    Blocks that fit a core's cache are too small to split: instead of threads within each operation, each thread takes whole blocks and
    runs them on its own. The blocks have to be independent; what they write must not overlap.

    Parameters
    ----------
    function : callable
        Takes a block; torch, BLAS and LAPACK release the interpreter while they work.
    blocks : iterable
        Anything.
    compute : Compute
        Its threads are used on the CPU; a GPU takes the blocks one by one.
    """
    if compute.n_threads <= 1 or compute.device != "cpu":
        return [function(block) for block in blocks]
    n_kept, kept = _kept.get()
    with limit_threads(1):
        if kept is not None and n_kept == compute.n_threads:
            futures = [kept.submit(function, block) for block in blocks]
            try:
                return [future.result() for future in futures]
            finally:  # after an error nothing goes on in the background
                for future in futures:
                    future.cancel()
                wait(futures)
        with _new_threads(compute.n_threads) as pool:
            return list(pool.map(function, blocks))


_kept: ContextVar[tuple[int, ThreadPoolExecutor | None]] = ContextVar("kept", default=(0, None))
"""Number of threads that `keep_threads` keeps, and those; a thread of its own knows of none, so that it never waits for itself."""


@contextmanager
def keep_threads(compute: Compute) -> Iterator[None]:
    """Let every `map_blocks` with as many threads use the same ones, instead of starting its own, which takes about a millisecond."""
    if compute.n_threads <= 1 or compute.device != "cpu":
        yield
        return
    with limit_threads(1), _new_threads(compute.n_threads) as pool:
        token = _kept.set((compute.n_threads, pool))
        try:
            yield
        finally:
            _kept.reset(token)


def _new_threads(n_threads: int) -> ThreadPoolExecutor:
    # a limit of OpenMP holds for the thread that sets it: a new one's products would take all CPUs
    return ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))


def to_tensor(array: npt.ArrayLike, device: str) -> torch.Tensor:
    """Copy an array to the device as float32."""
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not values.flags.writeable:
        values = values.copy()
    return torch.from_numpy(values).to(device)


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """Bring a tensor back as a numpy array."""
    result: npt.NDArray[np.float32] = tensor.detach().cpu().numpy()
    return result


def gemm_rate(compute: Compute, size: int = 1536, seconds: float = 0.5) -> float:
    """Float32 matrix-product rate of this machine with these threads, in FLOP/s: the limit that speeds are held against."""
    with limit_threads(compute.n_threads):
        left = torch.rand(size, size, device=compute.device)
        right = torch.rand(size, size, device=compute.device)
        torch.mm(left, right)
        best = np.inf
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            begin = time.perf_counter()
            product = torch.mm(left, right)
            if product.is_cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begin)
    return float(2 * size**3 / best)
