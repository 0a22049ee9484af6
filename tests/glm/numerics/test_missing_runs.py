"""Units that some runs lack, the curve's standard error, and what else a fit tells on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library
from conform_bids.glm.numerics.denoise import choose_fewest, gain_curve
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.fit import FitOptions, FitResult, fit_models
from conform_bids.glm.numerics.groups import restrict_design
from conform_bids.numerics.compute import Compute

Make = Callable[..., Any]
MODELS = ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr", "conform")
FIXED = FitOptions(models=MODELS, noise_pool_r2=3.0, pcs_r2=3.0, pcs_stop=-2, whiten="none", ordinary=True)


def fit(runs: list[np.ndarray], design: Design, options: FitOptions = FIXED) -> FitResult:
    return fit_models(runs, design, load_default_library(), load_default_assumed_hrf(), options)


@pytest.mark.parametrize("gap", [np.nan, 0.0, 512.0])
def test_a_unit_loses_only_the_run_that_lacks_it(make_design: Make, simulate_runs: Make, gap: float) -> None:
    design = make_design(run_lengths=(90, 80, 100, 90))
    runs = simulate_runs(design)
    whole = fit(runs, design)
    holes = [run.copy() for run in runs]
    holes[1][:, 3] = gap
    result = fit(holes, design)
    others = np.arange(40) != 3
    lost = np.zeros(design.n_trials, bool)
    lost[design.trials_of(1)] = True
    assert result.valid[3]
    for name in MODELS:
        betas = result.models[name].betas
        assert np.isnan(betas[lost, 3]).all()
        assert np.isfinite(betas[~lost, 3]).all()
        assert np.isnan(result.models[name].rsquared_run[1, 3])
        np.testing.assert_allclose(betas[:, others], whole.models[name].betas[:, others], rtol=2e-3, atol=2e-3)
    # what is left is the fit of the other runs alone, with their noise regressors
    rest = [0, 2, 3]
    alone = fit([runs[run] for run in rest], restrict_design(design, rest))
    np.testing.assert_allclose(result.models["fithrf"].betas[~lost, 3], alone.models["fithrf"].betas[:, 3], rtol=1e-3, atol=1e-3)
    assert result.models["fithrf"].rsquared[3] == pytest.approx(alone.models["fithrf"].rsquared[3], rel=1e-4)
    assert result.onoff_rsquared[3] == pytest.approx(alone.onoff_rsquared[3], rel=1e-4)


def test_a_unit_that_most_runs_lack_is_set_aside(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(run_lengths=(90, 80, 100))
    runs = simulate_runs(design)
    runs[0][:, 5] = np.nan
    runs[2][:, 5] = 0
    result = fit(runs, design)
    assert not result.valid[5]
    assert np.isnan(result.models["conform"].betas[:, 5]).all()


def test_units_that_lack_a_run_have_no_part_in_what_all_share(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(run_lengths=(90, 80, 100))
    runs = simulate_runs(design)
    runs[0][:, 30:35] = np.nan
    result = fit(runs, design)
    assert not result.noise_pool[30:35].any()
    assert not result.pc_voxels[30:35].any()


def test_a_unit_around_zero_is_set_aside_in_percent_alone(make_design: Make, simulate_runs: Make) -> None:
    design = make_design()
    runs = simulate_runs(design)
    for run in runs:
        run[:, 7] -= run[:, 7].mean()
    assert fit(runs, design).near_zero[7]
    assert not fit(runs, design).valid[7]
    raw = fit(runs, design, replace(FIXED, percent=False))
    assert raw.valid[7]
    assert np.isfinite(raw.models["conform"].betas[:, 7]).all()


def test_ordinary_betas_of_conform_are_those_without_shrinkage(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(on_grid=False)
    result = fit(simulate_runs(design), design)
    assert result.ordinary is not None
    assert result.conform is not None
    same = np.flatnonzero((result.conform.hrf_index == result.hrf_index) & result.valid)
    # with the same HRF and no whitening they are the betas of the denoised model
    np.testing.assert_allclose(result.ordinary[:, same], result.models["fithrfdenoise"].betas[:, same], rtol=2e-3, atol=2e-3)
    assert fit(simulate_runs(design), design, replace(FIXED, ordinary=False)).ordinary is None


def test_standard_error_of_the_curve_is_the_jackknife_over_runs() -> None:
    rng = np.random.default_rng(0)
    badness = rng.uniform(1, 2, (4, 3, 50))
    curve, error = gain_curve(badness, Compute())
    total = badness.sum(axis=0)
    np.testing.assert_allclose(curve, -np.median(total, axis=1) + np.median(total[0]))
    left_out = []
    for group in range(4):
        trend = -np.median(np.delete(badness, group, axis=0).sum(axis=0) * 4 / 3, axis=1)
        left_out.append(trend - trend[0])
    np.testing.assert_allclose(error, np.sqrt(3 / 4 * np.square(left_out - np.mean(left_out, axis=0)).sum(axis=0)))
    assert error[0] == 0
    assert np.isnan(gain_curve(badness[:1], Compute())[1]).all()


def test_fewest_noise_regressors_within_an_error_of_the_best() -> None:
    curve, error = np.array([0.0, 5.0, 8.0, 9.0, 8.5]), np.array([0.0, 1.0, 1.0, 1.5, 1.0])
    assert choose_fewest(curve, error) == 2
    assert choose_fewest(curve, np.zeros(5)) == 3
    assert choose_fewest(-curve, error) == 0


def test_the_smallest_rule_never_takes_more(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(run_lengths=(90, 80, 100, 90))
    runs = simulate_runs(design, structured=1.0)
    options = replace(FIXED, pcs_stop=1.05)
    best, fewest = fit(runs, design, options), fit(runs, design, replace(options, pcs_rule="smallest"))
    assert fewest.n_pcs <= int(np.argmax(best.pc_curve))
    assert fewest.pc_curve[fewest.n_pcs] >= best.pc_curve.max() - best.pc_curve_se[np.argmax(best.pc_curve)]
    assert len(best.pc_curve_se) == len(best.pc_curve)


def test_a_pool_that_responds_is_told_from_one_that_does_not(make_design: Make, simulate_runs: Make) -> None:
    design = make_design(run_lengths=(90, 80, 100, 90), n_trials=16, n_conditions=8)
    runs = simulate_runs(design, n_units=200, noise=1.0, structured=0.0)
    silent, active = fit(runs, design), fit(runs, design, replace(FIXED, noise_pool_r2=1e6))
    responding = fit([run[:, :100] for run in runs], design, replace(FIXED, noise_pool_r2=1e6))
    assert abs(silent.pool_reliability) < 0.3
    assert responding.pool_reliability > 0.5
    assert silent.pool_reliability < active.pool_reliability < responding.pool_reliability
