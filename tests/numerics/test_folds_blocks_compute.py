"""Pairs of repeats by brute force; blocks cover all units; threads are restored."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.numerics.blocks import block_size, index_blocks, unit_blocks
from conform_bids.numerics.compute import (
    Compute,
    gemm_rate,
    keep_threads,
    limit_threads,
    map_blocks,
    threads_over_blocks,
    to_numpy,
    to_tensor,
)
from conform_bids.numerics.folds import leave_one_run_out, pair_repeats


@given(
    seed=st.integers(0, 999),
    n_runs=st.integers(1, 5),
    folds=st.sampled_from([None, ((0,),), ((0, 1), (2,)), ((0,), (0, 1))]),
)
def test_pairs_are_those_of_the_definition(seed: int, n_runs: int, folds: tuple | None) -> None:
    rng = np.random.default_rng(seed)
    run = np.sort(rng.integers(0, n_runs, 20))
    condition, usable = rng.integers(0, 6, 20), rng.random(20) < 0.8
    chosen = leave_one_run_out(n_runs) if folds is None else folds
    pairs = pair_repeats(condition, run, chosen, usable)
    expected = np.zeros((20, 20))
    for fold in chosen:
        for test in range(20):
            for train in range(20):
                if run[test] in fold and run[train] not in fold and condition[test] == condition[train]:
                    expected[train, test] += usable[test] and usable[train]
    np.testing.assert_array_equal(pairs.partner_matrix.toarray(), expected)
    np.testing.assert_array_equal(pairs.n_partners, expected.sum(1))
    np.testing.assert_array_equal(pairs.test_counts, expected.sum(0))
    assert pairs.any == bool(expected.any())


@given(n_units=st.integers(0, 5000), size=st.integers(1, 900))
def test_blocks_cover_every_unit_once(n_units: int, size: int) -> None:
    blocks = list(unit_blocks(n_units, size))
    covered = [unit for block in blocks for unit in range(block.start, block.stop)]
    assert covered == list(range(n_units))
    assert all(0 < block.stop - block.start <= size for block in blocks)
    index = np.arange(n_units)[::-1]
    parts = list(index_blocks(index, size))
    np.testing.assert_array_equal(np.concatenate(parts) if parts else index, index)


def test_block_size_keeps_to_the_budget() -> None:
    assert block_size(1e4, 1e6) == 100
    assert block_size(1e4, 1e12) == 8192
    assert block_size(1e9, 1e6) == 64  # fewer would be slower than useful


def test_threads_are_limited_and_restored() -> None:
    before = torch.get_num_threads()
    with limit_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with limit_threads(1):
        with limit_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        with limit_threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="inside"), limit_threads(1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before


def test_read_only_maps_become_tensors() -> None:
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    array.flags.writeable = False
    tensor = to_tensor(array, "cpu")
    tensor += 1
    np.testing.assert_array_equal(to_numpy(tensor), array + 1)


def test_gemm_rate_is_a_rate() -> None:
    assert 1e8 < gemm_rate(Compute(), size=128, seconds=0.02) < 1e15


def test_threads_go_from_operations_to_blocks_and_back() -> None:
    with limit_threads(2):
        with threads_over_blocks() as compute:
            assert (compute.n_threads, torch.get_num_threads()) == (2, 1)
            assert map_blocks(lambda block: block**2, range(5), compute) == [0, 1, 4, 9, 16]
            with threads_over_blocks() as within:
                assert within.n_threads == 1
        assert torch.get_num_threads() == 2


def test_a_thread_of_blocks_keeps_to_one_cpu() -> None:
    """CPU time of the process is that of the thread: OpenMP's limit is a thread's own, and a new thread has none of it."""
    code = """
import time, torch
from conform_bids.numerics.compute import Compute, map_blocks
matrix = torch.rand(800, 800)
def multiply(block):
    own, all_of_them = time.thread_time(), time.process_time()
    for _ in range(20):
        torch.mm(matrix, matrix)
    return (time.process_time() - all_of_them) / (time.thread_time() - own)
print(map_blocks(multiply, [0], Compute(n_threads=2))[0])
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.3


@given(n_units=st.integers(0, 500), size=st.integers(1, 80), multiple=st.integers(1, 5))
def test_threads_get_as_many_blocks_each(n_units: int, size: int, multiple: int) -> None:
    blocks = list(unit_blocks(n_units, size, multiple))
    lengths = [block.stop - block.start for block in blocks]
    assert [unit for block in blocks for unit in range(block.start, block.stop)] == list(range(n_units))
    assert all(0 < length <= size for length in lengths)
    assert len(blocks) % multiple == 0 or len(blocks) == n_units


def test_kept_threads_are_used_again_and_never_wait_for_themselves() -> None:
    compute = Compute(n_threads=2)

    def of_block(_: int) -> tuple[int, list[int]]:
        return threading.get_ident(), map_blocks(lambda block: block + 1, range(3), compute)

    with keep_threads(compute):
        found = [pair for _ in range(20) for pair in map_blocks(of_block, range(4), compute)]
        assert len({thread for thread, _ in found}) <= 2
        assert all(result == [1, 2, 3] for _, result in found)
        assert map_blocks(lambda block: block, range(4), Compute(n_threads=3)) == [0, 1, 2, 3]
        with pytest.raises(ZeroDivisionError):
            map_blocks(lambda block: 1 // block, range(3), compute)
        assert map_blocks(lambda block: block, range(2), compute) == [0, 1]
    before = threading.active_count()
    assert map_blocks(lambda block: block, range(2), compute) == [0, 1]
    assert threading.active_count() == before
