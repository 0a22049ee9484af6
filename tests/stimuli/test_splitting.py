"""The split: no component on both sides, whatever the datasets say and however duplicates are planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.stimuli.duplicates import components
from conform_bids.stimuli.splitting import Leak, find_leaks, split_components

MARKS = st.sampled_from(["train", "test", "artificial", "n/a"])


@st.composite
def _planted(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[str]]:
    n = draw(st.integers(1, 40))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
    return n, pairs, draw(st.lists(MARKS, min_size=n, max_size=n))


@settings(max_examples=100, deadline=None)
@given(_planted(), st.floats(0, 1), st.integers(0, 5))
def test_nothing_leaks(planted: tuple[int, list[tuple[int, int]], list[str]], fraction: float, seed: int) -> None:
    n, pairs, marks = planted
    labels = components(n, [np.array(pairs, dtype=np.intp).reshape(-1, 2)])
    split = split_components(labels, marks, test_fraction=fraction, seed=seed, keys=[f"k{place}" for place in range(n)])
    assert find_leaks(labels, split) == []
    assert all(split[i] == split[j] for i, j in pairs)
    assert all(side in ("train", "test", "artificial") for side in split)
    assert all(split[place] == "test" for place in range(n) if marks[place] == "test")
    assert all(split[place] in ("test", "artificial") for place in range(n) if marks[place] == "artificial")
    lonely = [place for place in range(n) if np.sum(labels == labels[place]) == 1]
    assert all(split[place] == marks[place] for place in lonely if marks[place] != "n/a")


def test_a_leak_is_found() -> None:
    labels = np.array([0, 1, 0, 2])
    assert find_leaks(labels, ["train", "test", "artificial", "n/a"]) == [Leak(0, 2)]
    assert find_leaks(labels, ["n/a", "test", "test", "train"]) == [Leak(0, 2)]


def test_a_draw_goes_by_the_stimulus_alone() -> None:
    keys = [f"stimulus {k}" for k in range(2000)]
    first = split_components(np.arange(2000), ["n/a"] * 2000, test_fraction=0.1, seed=3, keys=keys)
    later = split_components(np.arange(1000), ["n/a"] * 1000, test_fraction=0.1, seed=3, keys=keys[1000:])
    assert later == first[1000:]
    assert 150 < first.count("test") < 250
    assert split_components(np.arange(2000), ["n/a"] * 2000, test_fraction=0.1, seed=4, keys=keys) != first
    with pytest.raises(ValueError, match="fraction"):
        split_components(np.arange(1), ["n/a"], test_fraction=1.5)
    with pytest.raises(ValueError, match="keys"):
        split_components(np.arange(1), ["n/a"], test_fraction=0.5)
