"""The kinds of data that estimates are judged by: what is put in is what the truth says, seeded, off the grid, as noisy as asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.numerics.hrf import response_at
from conform_bids.numerics.linalg import polynomial_basis, polynomial_degree, project_out
from conform_bids.simulate import kinds
from conform_bids.simulate.kinds import DURATION, KINDS, SimulatedRuns, simulate_kind, simulate_on_noise

LIBRARY = load_default_library()


@pytest.fixture(scope="module", params=KINDS)
def drawn(request: pytest.FixtureRequest) -> tuple[str, SimulatedRuns]:
    return request.param, simulate_kind(request.param, 3, LIBRARY)


def test_shapes(drawn: tuple[str, SimulatedRuns]) -> None:
    name, data = drawn
    kind = KINDS[name]
    assert len(data.runs) == kind.n_runs
    assert all(run.dtype == np.float32 and run.shape[1] == kind.n_units and np.isfinite(run).all() for run in data.runs)
    assert data.active.sum() == round(0.4 * kind.n_units)
    assert data.betas.shape == (kind.n_conditions * kind.n_repeats, kind.n_units)
    assert len(data.run) == len(data.onset) == len(data.duration) == len(data.condition) == len(data.betas)
    assert not data.betas[:, ~data.active].any()
    assert (data.betas[:, data.active].std(0) > 0).all()


def test_design(drawn: tuple[str, SimulatedRuns]) -> None:
    name, data = drawn
    kind = KINDS[name]
    assert (np.diff(data.run) >= 0).all()
    assert (np.bincount(data.condition) == kind.n_repeats).all()
    for run, series in enumerate(data.runs):
        onset = data.onset[data.run == run]
        gaps = np.diff(onset)
        assert gaps.min() >= kind.gap[0]
        assert gaps.max() <= kind.gap[1]
        assert onset[0] >= 6
        assert 14 <= len(series) * kind.tr - onset[-1] <= 14 + kind.tr
    phase = data.onset / data.tr % 1
    assert np.abs(phase - np.round(phase)).mean() > 0.1
    repeated = [np.unique(data.run[data.condition == condition]).size for condition in range(kind.n_conditions)]
    assert min(repeated) == min(kind.n_repeats, kind.n_runs)


def test_betas_are_as_large_as_the_kind_says(drawn: tuple[str, SimulatedRuns]) -> None:
    name, data = drawn
    kind = KINDS[name]
    betas = data.betas[:, data.active]
    means = np.stack([betas[data.condition == condition].mean(0) for condition in range(kind.n_conditions)])
    spread = (betas - means[data.condition]).std(0) * np.sqrt(kind.n_repeats / (kind.n_repeats - 1))
    assert spread.mean() == pytest.approx(kind.trial_sd, rel=0.05)
    tuning = np.sqrt(np.maximum(means.var(0) - kind.trial_sd**2 / kind.n_repeats, 0))
    assert np.median(tuning) == pytest.approx(kind.condition_sd, rel=0.3)
    assert betas.mean() == pytest.approx(0 if kind.signed else kind.mean, abs=0.2 * kind.mean)


def test_seeds(drawn: tuple[str, SimulatedRuns]) -> None:
    name, data = drawn
    again, other = simulate_kind(name, 3, LIBRARY), simulate_kind(name, 4, LIBRARY)
    np.testing.assert_array_equal(again.runs[1], data.runs[1])
    np.testing.assert_array_equal(again.betas, data.betas)
    assert not np.array_equal(other.condition, data.condition)
    assert abs(np.corrcoef(other.betas[:, other.active][:, 0], data.betas[:, data.active][:, 0])[0, 1]) < 0.5


def test_without_noise_the_truth_is_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drifts stay in: least squares with drifts and each unit's best HRF gives the true betas back."""
    monkeypatch.setitem(KINDS, "quiet", replace(KINDS["k5_high_snr"], noise=0.0, n_units=20))
    data = simulate_kind("quiet", 0, LIBRARY)
    betas, residual = [], []
    for run, series in enumerate(data.runs):
        frames = np.arange(len(series)) * data.tr
        columns = response_at(LIBRARY, DURATION, frames[:, None] - data.onset[data.run == run])
        drifts = polynomial_basis(len(series), polynomial_degree(len(series), data.tr))
        base = series.mean(0, dtype=float)
        clean = project_out(drifts, 100 * (series / base - 1.0))
        fits = [np.linalg.lstsq(project_out(drifts, columns[..., hrf]), clean, rcond=None) for hrf in range(LIBRARY.n_hrfs)]
        betas.append(np.stack([fit[0] for fit in fits]))
        residual.append(np.stack([((clean - project_out(drifts, columns[..., h]) @ fit[0]) ** 2).mean(0) for h, fit in enumerate(fits)]))
    best = np.sum(residual, axis=0).argmin(0)
    found = np.take_along_axis(np.concatenate(betas, axis=1), best[None, None], 0)[0]
    # the base is the mean of the noise-free series, so that percent of the run's mean is off by the mean response
    np.testing.assert_allclose(found[:, data.active], data.betas[:, data.active], rtol=0.05, atol=0.05)
    assert np.sum(residual, axis=0).min(0).max() < 1e-4


@pytest.mark.parametrize(("coefficient", "moving_average"), [(0.0, 0.0), (0.5, 0.0), (0.8, -0.3)])
def test_local_noise_is_the_process_that_it_says(coefficient: float, moving_average: float) -> None:
    noise = kinds._local_noise(400, np.full(300, coefficient), moving_average, np.random.default_rng(0))
    assert noise.var() == pytest.approx(1, rel=0.03)
    lag_one = (noise[1:] * noise[:-1]).mean()
    expected = (
        (1 + coefficient * moving_average) * (coefficient + moving_average) / (1 + 2 * coefficient * moving_average + moving_average**2)
    )
    assert lag_one == pytest.approx(expected, abs=0.03)


def test_shared_sources_have_the_strength_that_is_asked_for() -> None:
    def first_share(name: str) -> float:
        data = simulate_kind(name, 1, LIBRARY)
        series = np.concatenate([project_out(polynomial_basis(len(run), 3), run.astype(float)) for run in data.runs])[:, ~data.active]
        values = np.linalg.svd(series / series.std(0), compute_uv=False) ** 2
        return float(values[: KINDS[name].shared[0] or 1].sum() / values.sum())

    assert first_share("k3_shared_noise") > 0.6
    assert first_share("k5_high_snr") < 0.1


def test_locked_sources_follow_the_trials() -> None:
    generator = np.random.default_rng(0)
    onset = np.arange(10, 200, 6.3)
    explained = []
    for name in ("k3_shared_noise", "k9_locked_noise"):
        kind = replace(KINDS[name], tr=1.6)
        courses = kinds._shared_courses(kind, 130, onset, LIBRARY, generator)
        columns = response_at(LIBRARY, DURATION, np.arange(130)[:, None] * 1.6 - onset)[..., 10]
        left = np.linalg.qr(columns)[0]
        explained.append(((left.T @ courses) ** 2).sum() / (courses**2).sum())
        assert courses.var(axis=0) == pytest.approx(1)
    assert explained[1] > explained[0] + 0.1


def test_measured_noise_gets_responses_in_active_units_alone() -> None:
    generator = np.random.default_rng(0)
    noise = [(1000 + 10 * generator.standard_normal((121, 50))).astype(np.float32) for _ in range(3)]
    data = simulate_on_noise(noise, 2.5, 0, LIBRARY)
    for before, after in zip(noise, data.runs, strict=True):
        np.testing.assert_array_equal(after[:, ~data.active], before[:, ~data.active])
        added = (after - before)[:, data.active] / 10  # percent of a mean of 1000
        assert 0.2 < added.std(0).mean() < 2
        assert np.abs(added[:2]).max() < 0.02  # nothing before the first trial
    assert len(np.unique(data.run)) == 3
    assert all(np.unique(data.run[data.condition == condition]).size == 3 for condition in np.unique(data.condition))
    np.testing.assert_array_equal(simulate_on_noise(noise, 2.5, 0, LIBRARY).runs[2], data.runs[2])
    assert data.onset.max() + 14 <= 121 * 2.5
