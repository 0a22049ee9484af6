"""benchmarks/align.py: the default keeps what docs/align/accuracy.md says of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("align_benchmark", repository / "benchmarks" / "align.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_targets_at_twenty_stimuli(benchmark: ModuleType) -> None:
    """One person of a seed that is not in the tables; spread over people and seeds is .03."""
    people_differ = {name: benchmark.measure(name, "B", 20, 1.0, 31, 2.0, False) for name in ("anatS", "procrustes", "stack")}
    assert people_differ["stack"][0] > 0.6
    assert people_differ["stack"][0] > max(people_differ["anatS"][0], people_differ["procrustes"][0]) + 0.1


def test_shuffled_labels_are_at_chance(benchmark: ModuleType) -> None:
    score, identification, _ = benchmark.measure("procrustes", "B", 20, 1.0, 31, 2.0, True)
    assert abs(score) < 0.05
    assert identification < 0.03
