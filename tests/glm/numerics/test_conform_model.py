"""The model conform: closed forms against dense ones, whitening against known processes, and no use of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library
from conform_bids.glm.numerics.conform_model import averages_hrfs, whitens
from conform_bids.glm.numerics.design import exact_regressors
from conform_bids.glm.numerics.evidence_ridge import LAMBDAS
from conform_bids.glm.numerics.fit import FitOptions, FitResult, fit_models
from conform_bids.glm.numerics.whitening import (
    _autocorrelation,
    _lagged_sums_by_lag,
    autoregression_of,
    fit_autoregression,
    whitening_filter,
)
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.hrf import response_at
from conform_bids.numerics.linalg import polynomial_basis, project_out
from conform_bids.numerics.scores import odd_even_reliability

Make = Callable[..., Any]
CONFORM = FitOptions(models=("conform",), noise_pool_r2=3.0, pcs_r2=3.0, n_pcs=3, whiten="none", hrf_averaging="off")


def fit(runs: list[np.ndarray], design: Any, options: FitOptions = CONFORM, compute: Compute | None = None) -> FitResult:
    return fit_models(runs, design, load_default_library(), load_default_assumed_hrf(), options, compute)


def dense_posterior(trials: np.ndarray, data: np.ndarray, n_nuisance: int) -> np.ndarray:
    """Betas by brute force: for every lambda the marginal likelihood of y = X(mu 1 + w) + e, with dense covariances."""
    n_volumes = len(trials)
    n_free = n_volumes - n_nuisance
    mean_regressor = trials.sum(1)
    log_evidence, means = [], []
    for ratio in LAMBDAS:
        covariance = np.eye(n_volumes) + ratio * trials @ trials.T
        inverse = np.linalg.inv(covariance)
        information = mean_regressor @ inverse @ mean_regressor
        mu = mean_regressor @ inverse @ data / information
        residual = data - mu * mean_regressor
        rest = residual @ inverse @ residual
        # nuisance is projected out of data and design, where the covariance is the identity: it adds nothing to the determinant
        log_evidence.append(-0.5 * ((n_free - 1) * np.log(rest) + np.linalg.slogdet(covariance)[1] + np.log(information)))
        means.append(mu + ratio * trials.T @ inverse @ residual)
    weight = np.exp(np.array(log_evidence) - max(log_evidence))
    return np.array(means).T @ (weight / weight.sum())


def test_betas_are_those_of_the_dense_posterior(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(on_grid=False, n_regressors=2)
    runs = simulate_runs(design, n_units=40)
    result = fit(runs, design, replace(CONFORM, percent=False))
    assert result.conform is not None
    columns = exact_regressors(design, lambda duration, times: response_at(load_default_library(), duration, times))
    for unit in (0, 5, 19, 30):
        blocks, data, n_nuisance = [], [], 0
        for run, length in enumerate(design.run_lengths):
            own = [polynomial_basis(length, design.polynomial_degree[run]), design.user_regressors(run)]
            nuisance = scipy.linalg.orth(np.column_stack([*own, result.pcs[run][:, : result.n_pcs]]))
            n_nuisance += nuisance.shape[1]
            blocks.append(project_out(nuisance, columns(run)[result.conform.hrf_index[unit]]))
            data.append(project_out(nuisance, runs[run][:, [unit]].astype(float))[:, 0])
        expected = dense_posterior(scipy.linalg.block_diag(*blocks), np.concatenate(data), n_nuisance)
        betas = result.models["conform"].betas[:, unit]
        np.testing.assert_allclose(betas, expected, atol=3e-3 * np.abs(expected).max())


def test_averaging_weighs_hrfs_by_their_evidence(make_design: Make, simulate_runs: Make) -> None:
    """With a library of one curve, or of copies of it, averaging changes nothing; among curves, it lies between their estimates."""
    design = make_design()
    runs = simulate_runs(design, n_units=20)
    library = load_default_library()
    one = replace(library, curves=library.curves[:, [4]], names=("one",))
    copies = replace(library, curves=library.curves[:, [4, 4, 4]], names=("a", "b", "c"))
    options = replace(CONFORM, hrf_averaging="on")
    plain = fit_models(runs, design, one, load_default_assumed_hrf(), CONFORM).models["conform"].betas
    averaged = fit_models(runs, design, copies, load_default_assumed_hrf(), options).models["conform"].betas
    np.testing.assert_allclose(averaged, plain, rtol=1e-3, atol=1e-4 * np.abs(plain).max())
    two = replace(library, curves=library.curves[:, [2, 15]], names=("early", "late"))
    singles = [
        fit_models(runs, design, replace(library, curves=library.curves[:, [hrf]], names=("x",)), load_default_assumed_hrf(), fixed)
        for hrf in (2, 15)
        for fixed in [replace(CONFORM, pcs_stop=-1e-9)]
    ]
    both = fit_models(runs, design, two, load_default_assumed_hrf(), replace(options, pcs_stop=-1e-9)).models["conform"].betas
    low, high = (np.sort([result.models["conform"].betas for result in singles], axis=0)[row] for row in (0, 1))
    slack = 1e-3 * np.abs(both).max()
    assert ((both >= low - slack) & (both <= high + slack)).all()


def test_scale_is_the_slope_of_the_ordinary_betas(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    library = load_default_library()
    one = replace(library, curves=library.curves[:, [4]], names=("one",))  # so that both models have the same HRF
    options = replace(CONFORM, models=("fithrfdenoise", "conform"), pcs_stop=-1e-9)
    result = fit_models(simulate_runs(design), design, one, load_default_assumed_hrf(), options)
    assert result.conform is not None
    ordinary, shrunken = (result.models[name].betas.astype(float) for name in ("fithrfdenoise", "conform"))
    for unit in range(10):
        slope = np.polyfit(shrunken[:, unit], ordinary[:, unit], 1)[0]
        assert result.conform.estimate.scale[unit] == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("coefficients", [[0.5], [0.6, -0.2], [0.4, 0.1, 0.05, 0.05], []])
@pytest.mark.parametrize("n_volumes", [3, 60])
def test_filter_makes_the_process_white(coefficients: list[float], n_volumes: int) -> None:
    matrix = whitening_filter(np.array(coefficients), n_volumes)
    np.testing.assert_allclose(matrix, np.tril(matrix))
    impulse = np.zeros(4000)
    impulse[0] = 1
    response = scipy.signal.lfilter([1], np.concatenate([[1], -np.array(coefficients)]), impulse)
    covariance = scipy.linalg.toeplitz([response[: 4000 - lag] @ response[lag:] for lag in range(n_volumes)])
    np.testing.assert_allclose(matrix @ covariance @ matrix.T, np.eye(n_volumes), atol=1e-8)


@pytest.mark.parametrize("truth", [[0.4], [0.5, -0.2], [0.3, 0.1, 0.1, 0.05], [0.0]])
def test_autoregression_is_recovered_in_spite_of_detrending(truth: list[float]) -> None:
    """High drift degrees bias the raw autocorrelation; the estimate has the bias out."""
    rng = np.random.default_rng(0)
    grams, nuisances, naive = [], [], []
    for length in (120, 90, 150):
        noise = scipy.signal.lfilter([1], np.concatenate([[1], -np.array(truth)]), rng.standard_normal((length + 100, 1500)), axis=0)[100:]
        basis = polynomial_basis(length, 12)
        clean = project_out(basis, noise)
        clean /= np.linalg.norm(clean, axis=0)
        grams.append(clean @ clean.T)
        nuisances.append(basis)
        naive.append(np.trace(grams[-1], offset=1) / np.trace(grams[-1]))
    found = fit_autoregression(grams, nuisances, 4)
    np.testing.assert_allclose(found, np.pad(truth, (0, 4 - len(truth))), atol=0.03)
    lag_one = scipy.signal.lfilter([1], np.concatenate([[1], -found]), np.eye(1, 3000)[0])
    assert lag_one[:-1] @ lag_one[1:] / (lag_one @ lag_one) > np.mean(naive) + 0.02


@given(st.lists(st.floats(-0.98, 0.98), min_size=4, max_size=4))
def test_autoregression_is_always_stable(reflections: list[float]) -> None:
    coefficients = autoregression_of(np.array(reflections))
    companion = np.zeros((4, 4))
    companion[0], companion[1:, :-1] = coefficients, np.eye(3)
    assert np.abs(np.linalg.eigvals(companion)).max() < 1
    assert np.isfinite(whitening_filter(coefficients, 20)).all()


@pytest.mark.parametrize("reflections", [[], [0.5], [-0.9, 0.3], [0.98, -0.98, 0.5, 0.2]])
@pytest.mark.parametrize("n_lags", [1, 3, 120])
def test_autocorrelation_of_known_reflections(reflections: list[float], n_lags: int) -> None:
    """By the covariance that the filter of the process makes white."""
    coefficients = autoregression_of(np.array(reflections))
    inverse = np.linalg.inv(whitening_filter(coefficients, n_lags))
    covariance = inverse @ inverse.T
    np.testing.assert_allclose(_autocorrelation(np.array(reflections), n_lags), covariance[0] / covariance[0, 0], atol=1e-9)


@pytest.mark.parametrize(("n_volumes", "degree"), [(1, 0), (5, 2), (40, 6)])
def test_expected_lagged_sums_are_traces(n_volumes: int, degree: int) -> None:
    nuisance = polynomial_basis(n_volumes, degree)
    found = _lagged_sums_by_lag(nuisance, 8)
    projector = np.eye(n_volumes) - nuisance @ nuisance.T
    for row, column in np.ndindex(found.shape):
        noise = np.eye(n_volumes, k=column) + (np.eye(n_volumes, k=-column) if column else 0)
        expected = np.trace(projector @ noise @ projector, offset=row) if row < n_volumes else 0.0
        assert found[row, column] * max(n_volumes - nuisance.shape[1], 1) == pytest.approx(expected, abs=1e-12)


def test_no_data_have_no_autoregression() -> None:
    assert not fit_autoregression([np.zeros((30, 30))], [polynomial_basis(30, 2)], 4).any()


def test_labels_have_no_part_in_the_betas(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    runs = simulate_runs(design)
    options = replace(CONFORM, pcs_stop=-2, whiten="ar", hrf_averaging="on")
    shuffled = replace(design, condition=np.random.default_rng(1).permutation(design.condition))
    np.testing.assert_array_equal(fit(runs, design, options).models["conform"].betas, fit(runs, shuffled, options).models["conform"].betas)


def test_units_that_do_not_respond_have_no_reliability(make_design: Make) -> None:
    rng = np.random.default_rng(4)
    design = make_design(run_lengths=(150,) * 4, n_trials=24, n_conditions=12)
    runs = [(500 + 10 * rng.standard_normal((length, 400))).astype(np.float32) for length in design.run_lengths]
    for options in (CONFORM, replace(CONFORM, whiten="ar", hrf_averaging="on")):
        betas = fit(runs, design, options).models["conform"].betas
        reliability = odd_even_reliability(betas, design.condition, design.run)
        assert abs(np.nanmean(reliability)) < 0.05


def test_better_than_the_fractional_ridge_where_noise_is_coloured(make_design: Make, simulate_runs: Make) -> None:
    rng = np.random.default_rng(2)
    design = make_design(run_lengths=(160,) * 4, n_trials=24, n_conditions=12, on_grid=False)
    truth_runs = simulate_runs(design, n_units=200, noise=0.0, structured=0.0)
    noise = [scipy.signal.lfilter([1], [1, -0.5], rng.standard_normal(run.shape), axis=0) * 18 for run in truth_runs]
    runs = [(run + part).astype(np.float32) for run, part in zip(truth_runs, noise, strict=True)]
    options = FitOptions(models=("fithrf", "fithrfdenoiserr", "conform"))
    truth = fit(truth_runs, design, options).models["fithrf"].betas[:, :100].astype(float)
    result = fit(runs, design, options)

    def agreement(model: str) -> float:
        betas = result.models[model].betas[:, :100].astype(float)
        return float(np.median([np.corrcoef(truth[:, unit], betas[:, unit])[0, 1] for unit in range(100)]))

    assert result.conform is not None
    assert result.conform.autoregression[0] == pytest.approx(0.5, abs=0.08)
    assert agreement("conform") > agreement("fithrfdenoiserr") + 0.01


def test_one_run_without_repeats_is_enough(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(run_lengths=(150,), n_trials=20, n_conditions=20)
    result = fit(simulate_runs(design), design)
    assert list(result.models) == ["conform"]
    assert result.n_pcs == 0
    assert np.isfinite(result.models["conform"].betas).all()


@pytest.mark.parametrize(("memory", "threads"), [(1e5, 1), (1e9, 2)])
def test_blocks_and_threads_change_nothing(make_design: Make, simulate_runs: Make, memory: float, threads: int) -> None:
    design = make_design(on_grid=False)
    runs = simulate_runs(design, n_units=150)
    options = replace(CONFORM, whiten="ar", hrf_averaging="on")
    base, other = fit(runs, design, options), fit(runs, design, options, Compute(n_threads=threads, memory_bytes=memory))
    expected = base.models["conform"].betas
    np.testing.assert_allclose(other.models["conform"].betas, expected, atol=2e-3 * np.abs(expected).max())


def test_auto_knows_blocks_and_fast_designs(make_design: Make) -> None:
    design = make_design()
    blocks = replace(design, duration=np.full(design.n_trials, 22.5))
    assert whitens("auto", design)
    assert not whitens("auto", blocks)
    assert whitens("ar", blocks)
    assert not whitens("none", design)
    fast, slow = (replace(design, onset=np.tile(np.arange(12) * gap, 3)) for gap in (2.0, 6.0))
    assert averages_hrfs("auto", fast)
    assert not averages_hrfs("auto", slow)
    assert averages_hrfs("on", slow)
    assert not averages_hrfs("off", fast)
