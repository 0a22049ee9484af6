"""The dual form: exact where nothing is shrunk, as good as the exact form in small parcels, better than many parcels in large ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.psn.numerics.denoiser import Component, Denoiser
from conform_bids.psn.numerics.dual import Coordinates, evaluate_dual, find_coordinates, fit_dual
from conform_bids.psn.numerics.engine_data import EngineOptions
from conform_bids.psn.numerics.fit import FitOptions, fit_parcel
from conform_bids.psn.numerics.held_out import HeldOut, evaluate_held_out
from conform_bids.psn.numerics.one_parcel import Fitted, held_out_denoisers
from conform_bids.psn.numerics.trials import group_trials, split_conditions

Simulate = Callable[..., Any]


def error(denoised: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(denoised - truth).mean() / truth.var(axis=0).mean())


def means_of(values: np.ndarray, condition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    trials = group_trials(values, condition)[0]
    return trials.means, trials.counts.astype(float)


def denoise(fit: tuple[Fitted, Coordinates], means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    fitted, coordinates = fit
    return coordinates.restore(fitted.fit.denoiser.apply(coordinates.project(means), counts))


@dataclass(frozen=True, eq=False)
class Large:
    values: np.ndarray
    condition: np.ndarray
    truth: np.ndarray


@pytest.fixture(scope="module")
def large() -> Large:
    """Signal and noise with power-law spectra over all of 5,000 units, and a white floor."""
    rng = np.random.default_rng(4)
    n_units, n_conditions, condition = 5000, 100, np.repeat(np.arange(100), 3)
    spectrum = [weights * n_units / weights.sum() for weights in (1.0 / np.arange(1, 61), 1.0 / np.arange(1, 101))]
    signal, noise = (np.linalg.qr(rng.standard_normal((n_units, len(each))))[0] * np.sqrt(each) for each in spectrum)
    truth = np.sqrt(0.2) * rng.standard_normal((n_conditions, 60)) @ signal.T + rng.standard_normal(n_units)
    values = truth[condition] + np.sqrt(0.7) * rng.standard_normal((300, 100)) @ noise.T
    return Large(values + np.sqrt(0.3) * rng.standard_normal(values.shape), condition, truth)


@pytest.fixture(scope="module")
def fit_of_large(large: Large) -> tuple[Fitted, Coordinates]:
    return fit_dual(large.values.astype(np.float32), large.condition, EngineOptions())


@pytest.mark.parametrize(("n_units", "rank"), [(30, 30), (300, 179)])
def test_coordinates_are_orthonormal_and_hold_the_trials(simulate: Simulate, n_units: int, rank: int) -> None:
    simulated = simulate(n_units, 60, 3)
    found, projected = find_coordinates(simulated.values, simulated.condition)
    assert found.coordinates.shape == (n_units, rank)
    assert np.allclose(found.coordinates.T @ found.coordinates, np.eye(rank), atol=1e-5)
    assert np.allclose(found.restore(projected), simulated.values, atol=1e-4)
    assert np.allclose(found.project(simulated.values), projected, atol=1e-4)
    assert np.allclose(found.restore(projected, slice(7, 9)), simulated.values[:, 7:9], atol=1e-4)


def test_coordinates_are_alike(large: Large) -> None:
    """What shrinkage goes towards is then nearly a multiple of the identity."""
    projected = find_coordinates(large.values, large.condition)[1]
    principal = np.linalg.svd(projected, compute_uv=False) ** 2
    variance = np.square(projected).sum(axis=0)
    assert variance.max() / variance.min() < 3 < 10 < principal[0] / principal[-1]


def test_dependent_trials_have_fewer_coordinates(simulate: Simulate) -> None:
    simulated = simulate(300, 60, 3)
    values = simulated.values.copy()
    values[5] = values[simulated.condition == simulated.condition[5]].mean(axis=0)
    values[9] = values[5]
    assert find_coordinates(values, simulated.condition)[0].coordinates.shape[1] < 179


def test_as_the_exact_form_where_nothing_is_shrunk(simulate: Simulate) -> None:
    """Principal components of condition means, their number by cross-validation, in units of the noise."""
    simulated = simulate(40, 60, np.random.default_rng(0).choice([1, 2, 3, 4], 60), seed=2)
    means, counts = means_of(simulated.values, simulated.condition)
    fit = fit_dual(simulated.values, simulated.condition, EngineOptions(method="crossvalidated", basis="pca"))
    scale = fit[1].scale
    exact = fit_parcel(simulated.values / scale, simulated.condition, FitOptions(method="crossvalidated", basis="pca"))
    assert fit[0].fit.denoiser.effective_dimensions() == pytest.approx(exact.denoiser.effective_dimensions())
    assert 0 < exact.denoiser.effective_dimensions() < 40
    assert np.allclose(denoise(fit, means, counts), exact.apply(means / scale, counts) * scale, atol=1e-4)


@pytest.mark.parametrize("method", ["stacked", "calibrated", "wiener"])
def test_as_good_as_the_exact_form_in_a_small_parcel(simulate: Simulate, method: str) -> None:
    dual, exact = [], []
    for seed in range(3):
        simulated = simulate(60, 100, 3, seed=seed, rank=20)
        means, counts = means_of(simulated.values, simulated.condition)
        fit = fit_dual(simulated.values, simulated.condition, EngineOptions(method=method))
        reference = fit_parcel(simulated.values, simulated.condition, FitOptions(method=method))
        dual.append(error(denoise(fit, means, counts), simulated.truth))
        exact.append(error(reference.apply(means, counts if reference.denoiser.depends_on_count else None), simulated.truth))
    assert np.mean(dual) < 1.05 * np.mean(exact) < 1


def test_a_large_parcel_is_better_than_small_ones(large: Large, fit_of_large: tuple[Fitted, Coordinates]) -> None:
    means, counts = means_of(large.values, large.condition)
    denoised = denoise(fit_of_large, means, counts)
    some = slice(0, 300)
    small = fit_parcel(large.values[:, some], large.condition).apply(means[:, some], counts)
    assert error(denoised[:, some], large.truth[:, some]) < 0.93 * error(small, large.truth[:, some])
    assert error(denoised, large.truth) < 0.25 * error(means, large.truth)


def evaluate(values: np.ndarray, condition: np.ndarray, fit: tuple[Fitted, Coordinates]) -> tuple[HeldOut, list[Denoiser]]:
    trials = fit[0].fit.trials
    folds = split_conditions(trials.counts, 5, 0)
    denoisers = held_out_denoisers(fit[0], trials, folds, EngineOptions())
    return evaluate_dual(values, condition, trials, fit[1], folds, denoisers), denoisers


def test_held_out_scores_are_those_of_the_same_denoisers_in_units(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conform_bids.psn.numerics.dual.BLOCK", 16)
    simulated = simulate(50, 30, 3)
    fit = fit_dual(simulated.values, simulated.condition, EngineOptions(method="calibrated"))
    found, denoisers = evaluate(simulated.values, simulated.condition, fit)
    trials = simulated.trials
    q, scale = fit[1].coordinates.astype(float), fit[1].scale[:, None]
    in_units = [
        Denoiser(
            fit[1].mean,
            tuple(Component(q @ part.left * scale, q @ part.right / scale, part.signal_to_noise, part.terms) for part in each.components),
            each.n_averaged,
        )
        for each in denoisers
    ]
    expected = evaluate_held_out(trials, split_conditions(trials.counts, 5, 0), in_units)
    for name in ("denoised", "reliability_before", "reliability_after", "gain", "saved", "total"):
        assert np.allclose(getattr(found, name), getattr(expected, name), atol=1e-3, rtol=1e-3), name
    assert np.allclose(found.variances.ncsnr, expected.variances.ncsnr, atol=1e-3)


def test_nothing_is_reliable_where_nothing_repeats(large: Large, fit_of_large: tuple[Fitted, Coordinates]) -> None:
    shuffled = large.values[np.random.default_rng(0).permutation(len(large.values))]
    fit = fit_dual(shuffled, large.condition, EngineOptions())
    nothing = evaluate(shuffled, large.condition, fit)[0]
    something = evaluate(large.values, large.condition, fit_of_large)[0]
    assert abs(np.median(nothing.reliability_after)) < 0.1 < 0.4 < np.median(something.reliability_after)
    assert nothing.saved.sum() < 0.01 * nothing.total.sum()
    assert something.saved.sum() > 0.03 * something.total.sum()


def test_scales_of_units_do_not_matter(simulate: Simulate) -> None:
    simulated = simulate(200, 30, 3)
    means, counts = means_of(simulated.values, simulated.condition)
    scale = np.exp(3 * np.random.default_rng(1).standard_normal(200))
    once = denoise(fit_dual(simulated.values, simulated.condition, EngineOptions()), means, counts)
    again = denoise(fit_dual(simulated.values * scale, simulated.condition, EngineOptions()), means * scale, counts)
    assert np.allclose(again / scale, once, atol=1e-3)


def test_what_cannot_be_is_refused(simulate: Simulate) -> None:
    simulated = simulate(200, 30, 3)
    with pytest.raises(UsageError, match="one threshold"):
        fit_dual(simulated.values, simulated.condition, EngineOptions(method="calibrated", threshold_level="unit"))
    with pytest.raises(UnusableInputError, match="no condition repeats"):
        find_coordinates(simulated.values, np.arange(90))
    simulated.values[:, 3] = 0
    with pytest.raises(UnusableInputError, match="1 units do not vary"):
        find_coordinates(simulated.values, simulated.condition)
