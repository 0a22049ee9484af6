"""benchmarks/glm_accuracy.py: its scores, and that the default is nearer to the truth than GLMsingle's D where it should be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("glm_accuracy_benchmark", repository / "benchmarks" / "glm_accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_scores_of_known_estimates(benchmark: ModuleType) -> None:
    (data,) = benchmark.simulated(["k4_low_snr"], [5])
    assert benchmark.score(data, data.betas.copy()) == pytest.approx((1, 1, 0), abs=1e-9)
    assert benchmark.score(data, 2 * data.betas + 1)[:2] == pytest.approx((1, 1), abs=1e-9)
    assert benchmark.score(data, data.betas + 0.5)[2] == pytest.approx(0.5)
    noisy = data.betas + np.random.default_rng(0).standard_normal(data.betas.shape)
    trial, condition, error = benchmark.score(data, noisy)
    assert 0.2 < trial < condition < 0.8
    assert error == pytest.approx(1, rel=0.05)


def test_the_default_is_nearer_to_the_truth(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Shared noise and little signal, one seed: more than the spread between seeds (.03) in each."""
    scores = benchmark.measure(benchmark.simulated(["k3_shared_noise", "k4_low_snr"], [5]))
    for kind in ("k3_shared_noise", "k4_low_snr"):
        (ours,), (reference,) = scores["`conform` (default)"][kind], scores[benchmark.REFERENCE][kind]
        assert ours[0] > reference[0] + 0.03
        assert ours[1] > reference[1] + 0.03
        assert ours[2] < 0.7 * reference[2]
    benchmark.print_table(scores)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(benchmark.METHODS)
    assert "2, 2, 2 of 2" in lines[-1]


def test_a_kind_on_measured_noise_is_left_out_without_the_data(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONFORM_REAL_DATA", str(tmp_path))
    assert list(benchmark.simulated([benchmark.REAL_NOISE], [1])) == []
    assert "CONFORM_REAL_DATA" in capsys.readouterr().err


def test_reference_cases_have_the_truth(benchmark: ModuleType, repository: Path) -> None:
    cases = list(benchmark.open_cases(repository / "tests" / "data" / "glm"))
    assert [case.column[0] for case in cases] == ["a", "c", "e"]
    for case in cases:
        assert case.betas.shape == (case.design.n_trials, case.runs[0].shape[1])
        assert case.active.sum() > 80
        assert not case.betas[:, ~case.active].any()
