"""The engine against dense float64 solutions, and what must not change a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library
from conform_bids.glm.numerics.data import CleanData, clean_runs
from conform_bids.glm.numerics.denoise import choose_count, count_badness, noise_regressors
from conform_bids.glm.numerics.design import Design, exact_regressors, nuisance_bases
from conform_bids.glm.numerics.fit import FitOptions, FitResult, fit_models
from conform_bids.glm.numerics.least_squares import separate_trials_matrix
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.folds import pair_repeats
from conform_bids.numerics.hrf import response_at
from conform_bids.numerics.linalg import polynomial_basis, project_out

ALL = ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr")
EXACT = FitOptions(models=ALL, noise_pool_r2=3.0, pcs_r2=3.0, n_pcs=4)
Make = Callable[..., Any]


def fit(runs: list[np.ndarray], design: Design, options: FitOptions = EXACT, compute: Compute | None = None) -> FitResult:
    return fit_models(runs, design, load_default_library(), load_default_assumed_hrf(), options, compute)


def dense_design(design: Design, hrf: int | None, pcs: list[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The whole design of all runs, trials first, then each run's nuisance; and the number of trials is its first columns."""
    library = load_default_assumed_hrf() if hrf is None else load_default_library()
    columns = exact_regressors(design, lambda duration, times: response_at(library, duration, times))
    rows, nuisance = sum(design.run_lengths), []
    trials = np.zeros((rows, design.n_trials))
    start = 0
    for run, length in enumerate(design.run_lengths):
        trials[start : start + length, design.trials_of(run)] = columns(run)[hrf or 0]
        own = [polynomial_basis(length, design.polynomial_degree[run]), design.user_regressors(run)]
        own += [] if pcs is None else [pcs[run]]
        block = np.zeros((rows, sum(part.shape[1] for part in own)))
        block[start : start + length] = np.column_stack(own)
        nuisance.append(block)
        start += length
    return trials, np.column_stack(nuisance)


def dense_betas(runs: list[np.ndarray], trials: np.ndarray, nuisance: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
    data = np.concatenate([run[:, unit].astype(float) for run in runs])
    solution = np.linalg.lstsq(np.column_stack([trials, nuisance]), data, rcond=None)[0]
    return solution[: trials.shape[1]], data


@pytest.mark.parametrize("run_lengths", [(90, 80, 100), (90, 90, 90)])
@pytest.mark.parametrize(("n_regressors", "on_grid"), [(0, True), (3, False)])
def test_ordinary_betas_are_those_of_the_dense_design(
    make_design: Make, simulate_runs: Make, n_regressors: int, on_grid: bool, run_lengths: tuple[int, ...]
) -> None:
    design = make_design(n_regressors=n_regressors, on_grid=on_grid, run_lengths=run_lengths)
    runs = simulate_runs(design)
    result = fit(runs, design)
    scale = 100 / result.survey.mean
    for unit in (0, 7, 33):
        for model, pcs in (("assumehrf", None), ("fithrf", None), ("fithrfdenoise", [pc[:, : result.n_pcs] for pc in result.pcs])):
            hrf = None if model == "assumehrf" else int(result.hrf_index[unit])
            betas, _ = dense_betas(runs, *dense_design(design, hrf, pcs), unit)
            np.testing.assert_allclose(
                result.models[model].betas[:, unit], betas * scale[unit], rtol=2e-3, atol=2e-4 * np.abs(betas * scale[unit]).max()
            )


def test_r2_and_chosen_hrf_are_those_of_the_dense_design(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(n_regressors=2, on_grid=False)
    runs = simulate_runs(design, n_units=6)
    result = fit(runs, design)
    for unit in range(6):
        explained = []
        for hrf in range(20):
            trials, nuisance = dense_design(design, hrf)
            betas, data = dense_betas(runs, trials, nuisance, unit)
            basis = np.linalg.svd(nuisance, full_matrices=False)[0]
            clean, predicted = project_out(basis, data[:, None])[:, 0], project_out(basis, (trials @ betas)[:, None])[:, 0]
            explained.append(100 * (1 - ((clean - predicted) ** 2).sum() / (clean**2).sum()))
        np.testing.assert_allclose(result.library_rsquared[:, unit], explained, atol=2e-3)
        assert explained[result.hrf_index[unit]] >= max(explained) - 2e-3


def test_fractional_ridge_has_the_asked_length(make_design: Make, simulate_runs: Make) -> None:
    """|beta| is the fraction of |ordinary beta|, and the betas solve the ridge equations for one penalty."""
    design = make_design()
    runs = simulate_runs(design)
    fraction = 0.4
    options = replace(EXACT, models=("fithrfdenoise", "fithrfdenoiserr"), fractions=(fraction,), autoscale=False, percent=False)
    result = fit(runs, design, options)
    ordinary, ridge = (result.models[name].betas.astype(float) for name in ("fithrfdenoise", "fithrfdenoiserr"))
    lengths = np.linalg.norm(ridge, axis=0) / np.linalg.norm(ordinary, axis=0)
    np.testing.assert_allclose(lengths, fraction, atol=0.01)  # the grid of penalties makes it approximate
    unit = 3
    trials, nuisance = dense_design(design, int(result.hrf_index[unit]), [pc[:, : result.n_pcs] for pc in result.pcs])
    basis = np.linalg.svd(nuisance, full_matrices=False)[0]
    clean = project_out(basis, trials)
    data = project_out(basis, np.concatenate([run[:, unit].astype(float) for run in runs])[:, None])[:, 0]
    gradient = clean.T @ (data - clean @ ridge[:, unit])
    penalty = gradient @ ridge[:, unit] / (ridge[:, unit] @ ridge[:, unit])
    np.testing.assert_allclose(gradient, penalty * ridge[:, unit], atol=2e-3 * np.abs(gradient).max())


def test_autoscale_matches_the_ordinary_betas(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    result = fit(simulate_runs(design), design, replace(EXACT, fractions=(0.3,)))
    ordinary, scaled = (result.models[name].betas.astype(float) for name in ("fithrfdenoise", "fithrfdenoiserr"))
    for unit in range(10):
        slope, offset = np.polyfit(scaled[:, unit], ordinary[:, unit], 1)
        assert slope == pytest.approx(1, abs=1e-3)
        assert offset == pytest.approx(0, abs=2e-3 * np.abs(ordinary[:, unit]).max())


def brute_force_badness(plain: np.ndarray, others: list[np.ndarray], design: Design, usable: np.ndarray) -> np.ndarray:
    """Pair by pair, as the definition reads."""
    sessions = design.session[design.run]

    def standardise(betas: np.ndarray) -> np.ndarray:
        z = np.zeros_like(betas)
        for session in np.unique(sessions):
            own, known = sessions == session, (sessions == session) & usable
            mean, deviation = plain[known].mean(0), plain[known].std(0, ddof=1)
            z[own] = (betas[own] - mean) / deviation
        return z

    target = standardise(plain)
    result = np.zeros((len(others), plain.shape[1]))
    for index, betas in enumerate(others):
        z = standardise(betas)
        for fold in design.folds:
            for test in np.flatnonzero(np.isin(design.run, fold) & usable):
                same = (design.condition == design.condition[test]) & ~np.isin(design.run, fold) & usable
                for train in np.flatnonzero(same):
                    result[index] += (z[train] - target[test]) ** 2
    return result


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("variant", ["plain", "sessions", "folds", "split", "regressors", "equal runs", "equal sessions"])
def test_cross_validation_is_that_of_its_definition(make_design: Make, simulate_runs: Make, variant: str, compat: bool) -> None:
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "sessions": {"session": np.array([0, 0, 1, 1])},
        "folds": {"folds": ((0, 1), (3,))},
        "split": {"train": np.random.default_rng(3).random(48) < 0.7},
        "regressors": {"n_regressors": 2},
        "equal runs": {"run_lengths": (75,) * 4, "n_regressors": 2},
        "equal sessions": {"run_lengths": (75,) * 4, "session": np.array([0, 1, 0, 1])},
    }
    design = make_design(**{"run_lengths": (70, 80, 75, 72)} | changes[variant])
    runs = simulate_runs(design, n_units=24)
    options = replace(EXACT, compat=compat, percent=False, n_pcs=3, models=("fithrfdenoise", "fithrfdenoiserr"), autoscale=False)
    result = fit(runs, design, options)
    voters = np.flatnonzero(result.pc_voxels)
    # every count and every fraction fitted one by one
    fixed = [fit(runs, design, replace(options, pcs_stop=-k, models=("fithrfdenoise",))) for k in range(4)]
    betas = [one.models["fithrfdenoise"].betas.astype(float) for one in fixed]
    badness = brute_force_badness(betas[0], betas, design, design.train)
    trend = -np.median(badness[:, voters], axis=1)
    np.testing.assert_allclose(result.pc_curve, trend - trend[0], rtol=1e-3, atol=2e-3 * np.abs(trend).max())
    assert result.n_pcs == choose_count(trend - trend[0], 1.05)
    fractions = (1.0, 0.6, 0.2)
    by_fraction = [
        fit(runs, design, replace(options, pcs_stop=-result.n_pcs or 0, fractions=(fraction,), models=("fithrfdenoiserr",)))
        for fraction in fractions
    ]
    ridge = [one.models["fithrfdenoiserr"].betas.astype(float) for one in by_fraction]
    expected = brute_force_badness(ridge[0], ridge, design, design.train)
    chosen = fit(runs, design, replace(options, pcs_stop=-result.n_pcs or 0, fractions=fractions, models=("fithrfdenoiserr",)))
    assert chosen.ridge_badness is not None
    np.testing.assert_allclose(chosen.ridge_badness, expected, rtol=2e-3)
    clear = np.sort(expected, axis=0)[1] - expected.min(axis=0) > 0.01 * expected.min(axis=0)
    np.testing.assert_array_equal(chosen.fraction[clear], np.array(fractions)[expected.argmin(axis=0)][clear])


def test_nested_noise_regressors_score_as_fitted_one_by_one(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(n_regressors=2)
    runs = simulate_runs(design, n_units=30)
    bases = nuisance_bases(design, regressors_in_base=True)
    data, _ = clean_runs(runs, bases, Compute(), lambda _, shape: np.zeros(shape, np.float32), (), strict=False)
    assert isinstance(data, CleanData)
    columns = exact_regressors(design, lambda duration, times: response_at(load_default_library(), duration, times))
    regressors = [np.stack([project_out(basis.base, hrf) for hrf in columns(run)]) for run, basis in enumerate(bases)]
    _, pcs = noise_regressors(data, np.ones(30, bool), 5, Compute())
    pairs = pair_repeats(design.condition, design.run, design.folds)
    hrf_index = np.arange(30) % 20
    badness = count_badness(data, design, regressors, hrf_index, pcs, pairs, np.arange(30), Compute())
    fewer = count_badness(data, design, regressors, hrf_index, [pc[:, :2] for pc in pcs], pairs, np.arange(30), Compute())
    np.testing.assert_allclose(badness[:, :3], fewer, rtol=1e-4)
    assert badness.shape == (design.n_runs, 6, 30)
    assert (badness > 0).all()


@pytest.mark.parametrize("n_regressors", [0, 2])
def test_least_squares_separate_is_two_columns_a_trial(make_design: Make, simulate_runs: Make, n_regressors: int) -> None:
    design = make_design(n_regressors=n_regressors)
    runs = simulate_runs(design, n_units=4)
    result = fit(runs, design, replace(EXACT, models=("fithrf",), lss=True, percent=False))
    for unit in range(4):
        trials, nuisance = dense_design(design, int(result.hrf_index[unit]))
        data = np.concatenate([run[:, unit].astype(float) for run in runs])
        for trial in (0, 5, 20, 35):
            same = design.run == design.run[trial]
            others = trials[:, same].sum(1) - trials[:, trial]
            columns = np.column_stack([trials[:, trial], others, nuisance])
            rows = np.abs(trials[:, same]).sum(1) > -1
            start = sum(design.run_lengths[: design.run[trial]])
            rows[:] = False
            rows[start : start + design.run_lengths[design.run[trial]]] = True
            expected = np.linalg.lstsq(columns[rows], data[rows], rcond=None)[0][0]
            assert result.models["fithrf"].betas[trial, unit] == pytest.approx(expected, rel=2e-3, abs=0.02)


def test_a_run_with_a_single_trial_has_no_others() -> None:
    regressor = np.random.default_rng(0).standard_normal((20, 1))
    matrix = separate_trials_matrix(regressor)
    assert matrix[0, 0] == pytest.approx(1 / (regressor**2).sum())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    memory=st.sampled_from([1e5, 3e6, 1e9]),
    threads=st.sampled_from([1, 2]),
    run_lengths=st.sampled_from([(90, 80, 100), (90, 90, 90)]),
)
def test_block_size_threads_and_order_of_units_change_nothing(
    make_design: Make, simulate_runs: Make, seed: int, memory: float, threads: int, run_lengths: tuple[int, ...]
) -> None:
    design = make_design(seed=seed, on_grid=False, run_lengths=run_lengths)
    runs = simulate_runs(design, seed=seed, n_units=150)
    order = np.random.default_rng(seed).permutation(150)
    base = fit(runs, design)
    other = fit([np.ascontiguousarray(run[:, order]) for run in runs], design, EXACT, Compute(n_threads=threads, memory_bytes=memory))
    # ties and near-ties of HRFs may fall either way; they are few
    same = base.hrf_index[order] == other.hrf_index
    assert same.mean() > 0.98
    assert base.n_pcs == other.n_pcs
    agree = same & (base.fraction[order] == other.fraction)
    assert agree.mean() > 0.9
    for name in ALL:
        expected = base.models[name].betas[:, order][:, agree]
        np.testing.assert_allclose(other.models[name].betas[:, agree], expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float64, ">f4"])
def test_the_type_that_the_data_come_in_changes_nothing(make_design: Make, simulate_runs: Make, dtype: Any, compat: bool) -> None:
    design = make_design(n_regressors=1)
    runs = [np.round(10 * run).astype(np.float32) for run in simulate_runs(design)]
    models = ("fithrf", "fithrfdenoiserr") if compat else ("conform",)
    options = replace(EXACT, compat=compat, models=models, ordinary=not compat)
    base, other = fit(runs, design, options), fit([run.astype(dtype) for run in runs], design, options)
    assert base.models and all(result.betas.dtype == np.float32 for result in other.models.values())
    for name, result in base.models.items():
        np.testing.assert_array_equal(other.models[name].betas, result.betas)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.sampled_from([1e-3, 0.1, 7.0, 1e4]), seed=st.integers(0, 50))
def test_percent_signal_does_not_depend_on_the_scanner_units(make_design: Make, simulate_runs: Make, scale: float, seed: int) -> None:
    design = make_design(seed=seed)
    runs = simulate_runs(design, seed=seed)
    base = fit(runs, design, replace(EXACT, models=("assumehrf", "fithrf")))
    scaled = fit([(run * np.float32(scale)).astype(np.float32) for run in runs], design, replace(EXACT, models=("assumehrf", "fithrf")))
    same = base.hrf_index == scaled.hrf_index
    assert same.mean() >= 0.95
    for name in ("assumehrf", "fithrf"):
        expected = base.models[name].betas[:, same]
        np.testing.assert_allclose(scaled.models[name].betas[:, same], expected, atol=3e-3 * np.abs(expected).max())


def test_raw_units_are_percent_times_the_mean(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    runs = simulate_runs(design)
    percent, raw = fit(runs, design), fit(runs, design, replace(EXACT, percent=False))
    for name in ALL:  # GLMsingle ignores the option in C and D (quirk 4); this does not
        expected = percent.models[name].betas * percent.survey.mean / 100
        np.testing.assert_allclose(raw.models[name].betas, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compat", [False, True])
def test_bad_units_do_not_touch_the_others(make_design: Make, simulate_runs: Make, compat: bool) -> None:
    design = make_design()
    runs = simulate_runs(design)
    options = replace(EXACT, compat=compat)
    base = fit(runs, design, options)
    extra = [np.zeros((len(run), 4), np.float32) for run in runs]
    extra[1][:, 0] = np.nan  # a run is missing
    extra[0][:, 0] = 5
    for part in extra:
        part[:, 2] = 321.5  # constant
    extra[2][7, 3] = np.inf
    broken = fit([np.column_stack([run, part]) for run, part in zip(runs, extra, strict=True)], design, options)
    # in compat a constant unit may enter the noise pool, as it does in GLMsingle
    for name in ALL[:2] if compat else ALL:
        np.testing.assert_allclose(broken.models[name].betas[:, :40], base.models[name].betas, rtol=1e-4, atol=1e-4)
    for name in ALL:
        assert np.isnan(broken.models[name].betas[:, [40, 41, 43]]).all()
    if compat:  # quirk 11: an empty unit has HRF 0, fraction 1 and no betas; a constant one is fitted to rounding noise
        assert broken.hrf_index[41] == 0
        assert broken.fraction[41] == 1
        assert broken.valid[42]
    else:
        assert (broken.hrf_index[40:] == -1).all()
        assert not broken.valid[40:].any()
        assert np.isnan(broken.fraction[40:]).all()


def test_without_repeats_falls_back_to_the_hrf_model_and_says_so(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(n_trials=6, n_conditions=18)
    design = replace(design, condition=np.arange(design.n_trials))
    result = fit(simulate_runs(design), design)
    assert list(result.models) == ["assumehrf", "fithrf"]
    assert any("no condition repeats" in note for note in result.notes)
    fixed = fit(simulate_runs(design), design, replace(EXACT, pcs_stop=-2, fractions=(0.5,)))
    assert list(fixed.models) == list(ALL)
    assert fixed.n_pcs == 2


def test_one_run_is_enough(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(run_lengths=(120,))
    result = fit(simulate_runs(design), design)
    assert list(result.models) == ["assumehrf", "fithrf"]
    assert np.isfinite(result.models["fithrf"].betas).all()


def test_an_empty_noise_pool_means_no_noise_regressors(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    result = fit(simulate_runs(design), design, replace(EXACT, noise_pool_r2=-1e6))
    assert result.n_pcs == 0
    assert any("noise pool is empty" in note for note in result.notes)
    np.testing.assert_array_equal(result.models["fithrf"].betas, result.models["fithrfdenoise"].betas)


def test_the_best_units_vote_where_none_passes(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    result = fit(simulate_runs(design, n_units=150), design, replace(EXACT, pcs_r2=1e6))
    assert result.pc_voxels.sum() == 100
    order = np.argsort(result.onoff_rsquared)[::-1]
    assert set(np.flatnonzero(result.pc_voxels)) == set(order[:100])


def test_two_trials_at_once_do_not_crash(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    onset = design.onset.copy()
    onset[3] = onset[4]
    result = fit(simulate_runs(design), replace(design, onset=onset))
    betas = result.models["fithrf"].betas
    assert np.isfinite(betas).all()
    np.testing.assert_allclose(betas[3], betas[4], rtol=1e-2, atol=1e-2)  # least squares of least length shares the response


def test_noise_regressors_help_where_noise_is_shared(make_design: Make, simulate_runs: Make) -> None:
    """More truth in the betas with than without, where a strong noise is shared by units."""
    rng = np.random.default_rng(5)
    design = make_design(run_lengths=(150, 150, 150, 150), n_trials=24, n_conditions=12)
    runs = simulate_runs(design, n_units=200, noise=1.0)
    weights = rng.standard_normal((2, 200)) * 25
    noisy = [(run + rng.standard_normal((len(run), 2)) @ weights).astype(np.float32) for run in runs]
    clean, result = fit(runs, design), fit(noisy, design, replace(EXACT, noise_pool_r2=5.0, pcs_r2=5.0))
    active = np.arange(100)

    def agreement(model: str) -> float:
        truth, betas = (r.models[name].betas[:, active].astype(float) for r, name in ((clean, "fithrf"), (result, model)))
        return float(np.median([np.corrcoef(truth[:, unit], betas[:, unit])[0, 1] for unit in range(100)]))

    assert result.n_pcs >= 2
    assert agreement("fithrfdenoise") > agreement("fithrf") + 0.05
