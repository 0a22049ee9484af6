"""Blocks of units that fit a memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["block_size", "index_blocks", "unit_blocks", "value_blocks"]

BLOCK_VALUES = 2_000_000
"""Values of a block where nothing but its size counts."""


def block_size(bytes_per_unit: float, budget_bytes: float, *, smallest: int = 64, largest: int = 8192) -> int:
    """Units a block, such that ``bytes_per_unit`` times it stays within the budget.

    Beyond a few thousand units a matrix product gains nothing, and the caches lose; hence ``largest``.
    """
    return int(np.clip(budget_bytes // max(bytes_per_unit, 1.0), smallest, largest))


def unit_blocks(n_units: int, size: int, multiple: int = 1) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` units, of nearly equal length; a multiple of a number, so that threads get equal shares.

    How many threads there are must not count, or results would depend on it by rounding.
    """
    if n_units <= 0:
        return
    count = min(-(-n_units // (size * multiple)) * multiple, n_units)
    edges = np.linspace(0, n_units, count + 1).round().astype(int)
    for start, stop in pairwise(edges):
        yield slice(int(start), int(stop))


def index_blocks(index: npt.NDArray[np.intp], size: int, multiple: int = 1) -> Iterator[npt.NDArray[np.intp]]:
    """Consecutive parts of an index array, of at most ``size`` units each: `unit_blocks`."""
    for block in unit_blocks(len(index), size, multiple):
        yield index[block]


def value_blocks(n_rows: int, n_units: int) -> Iterator[slice]:
    """Blocks of units of an (n_rows, n_units) array that hold about 16 MB of float64 values each."""
    return unit_blocks(n_units, max(1, BLOCK_VALUES // max(1, n_rows)))
