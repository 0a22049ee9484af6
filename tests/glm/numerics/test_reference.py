"""The engine in compat against GLMsingle's own output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.glm.numerics.design import Design
from conform_bids.glm.numerics.fit import FitOptions, FitResult, fit_models
from conform_bids.numerics.folds import leave_one_run_out
from conform_bids.numerics.hrf import HRFLibrary
from conform_bids.numerics.linalg import polynomial_degree

CASES = ("a_event_related", "c_unequal_runs_extra_regressors", "e_structured_noise")
MODELS = ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr")


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (values.astype(float) - values.mean(0, dtype=float) for values in (first, second))
    return (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))


def design_of(case: Any) -> Design:
    tr, events = float(case["in_tr"]), case["in_events"]
    lengths = tuple(int(length) for length in case["in_run_lens"])
    n_runs, n_trials = len(lengths), len(events)
    has_regressors = "in_extra_run0" in case
    return Design(
        tr=tr,
        run_lengths=lengths,
        run=events[:, 0].astype(int),
        onset=events[:, 1] * tr,
        duration=np.full(n_trials, float(case["in_stimdur"])),
        condition=events[:, 2].astype(int),
        train=np.ones(n_trials, bool),
        session=np.zeros(n_runs, int),
        folds=leave_one_run_out(n_runs),
        polynomial_degree=tuple(polynomial_degree(length, tr) for length in lengths),
        regressors=tuple(case[f"in_extra_run{run}"] for run in range(n_runs)) if has_regressors else (),
    )


@pytest.fixture(scope="module", params=CASES)
def fitted(request: pytest.FixtureRequest, reference_case: Callable[[str], Any]) -> tuple[Any, Design, FitResult, np.ndarray]:
    case = reference_case(request.param)
    design = design_of(case)
    runs = [np.ascontiguousarray(case[f"in_data_run{run}"].T) for run in range(design.n_runs)]
    assumed = HRFLibrary(case["hrftoassume"][:, None].astype(float), design.tr, convolved=True)
    result = fit_models(runs, design, load_default_library(), assumed, FitOptions(models=MODELS, compat=True))
    return case, design, result, np.isfinite(case["typea_onoffR2"].ravel())


def test_drift_degree(fitted: tuple) -> None:
    case, design, _, _ = fitted
    assert list(design.polynomial_degree) == case["maxpolydeg"].tolist()


def test_onoff(fitted: tuple) -> None:
    case, _, result, valid = fitted
    np.testing.assert_allclose(result.onoff_rsquared[valid], case["typea_onoffR2"].ravel()[valid], atol=1e-3)
    scale = np.abs(case["typea_betasmd"]).max()
    np.testing.assert_allclose(result.onoff_beta[valid], case["typea_betasmd"].ravel()[valid], atol=1e-4 * scale)
    np.testing.assert_allclose(result.survey.mean[valid], case["typea_meanvol"].ravel()[valid], rtol=1e-5)


def test_threshold_is_that_of_the_mixture(fitted: tuple) -> None:
    case, _, result, _ = fitted
    assert result.noise_pool_threshold == pytest.approx(float(case["brainR2_threshold"]), rel=1e-3)


def test_hrf_of_every_unit(fitted: tuple) -> None:
    case, _, result, valid = fitted
    assert (result.hrf_index == case["typeb_HRFindex"].ravel())[valid].all()
    reference = case["typeb_FitHRFR2"].reshape(len(valid), -1).T
    np.testing.assert_allclose(result.library_rsquared[:, valid], reference[:, valid], atol=2e-3)


def test_noise_pool_and_number_of_regressors(fitted: tuple) -> None:
    case, _, result, valid = fitted
    assert (result.noise_pool == case["typec_noisepool"].ravel().astype(bool))[valid].all()
    assert (result.pc_voxels == case["typec_pcvoxels"].ravel().astype(bool))[valid].all()
    assert result.n_pcs == int(case["typec_pcnum"])
    trend = case["typec_xvaltrend"]
    np.testing.assert_allclose(result.pc_curve, trend - trend[0], atol=1e-4 * np.ptp(trend))


def test_noise_regressors_span(fitted: tuple) -> None:
    case, design, result, _ = fitted
    for run in range(design.n_runs):
        reference = case[f"typec_pcregressors_run{run}"][:, : result.n_pcs].astype(float)
        similarity = np.abs((reference / np.linalg.norm(reference, axis=0) * result.pcs[run][:, : result.n_pcs]).sum(0))
        np.testing.assert_allclose(similarity, 1, atol=1e-5)


@pytest.mark.parametrize(("model", "name"), [("fithrf", "b"), ("fithrfdenoise", "c"), ("fithrfdenoiserr", "d")])
def test_betas_of_every_unit(fitted: tuple, model: str, name: str) -> None:
    case, _, result, valid = fitted
    reference = case[f"type{name}_betasmd"].reshape(len(valid), -1).T
    assert correlate(result.models[model].betas[:, valid], reference[:, valid]).min() > 0.999999
    np.testing.assert_allclose(result.models[model].betas[:, valid], reference[:, valid], atol=2e-5 * np.abs(reference[:, valid]).max())
    np.testing.assert_allclose(result.models[model].rsquared[valid], case[f"type{name}_R2"].ravel()[valid], atol=2e-3)
    by_run = case[f"type{name}_R2run"].reshape(len(valid), -1).T
    np.testing.assert_allclose(result.models[model].rsquared_run[:, valid], by_run[:, valid], atol=5e-3)


def test_ridge_fraction_of_every_unit(fitted: tuple) -> None:
    case, _, result, valid = fitted
    reference = case["typed_FRACvalue"].ravel()
    assert (np.abs(result.fraction - reference) < 1e-3)[valid].mean() >= 0.99
    badness = case["typed_rrbadness"].reshape(len(valid), -1).T
    assert result.ridge_badness is not None
    np.testing.assert_allclose(result.ridge_badness[:, valid], badness[:, valid], rtol=2e-5)
    assert result.scale_offset is not None
    same = valid & (np.abs(result.fraction - reference) < 1e-3)
    np.testing.assert_allclose(
        result.scale_offset[:, same], case["typed_scaleoffset"].reshape(len(valid), 2).T[:, same], rtol=1e-3, atol=1e-2
    )


def test_exact_timing_gives_the_same_pattern_on_the_grid(reference_case: Callable[[str], Any]) -> None:
    """Onsets on the grid: exact and rounded timing differ in the scale of the HRF alone, so the patterns agree."""
    case = reference_case("a_event_related")
    design = design_of(case)
    runs = [np.ascontiguousarray(case[f"in_data_run{run}"].T) for run in range(design.n_runs)]
    assumed = HRFLibrary(case["hrftoassume"][:, None].astype(float), design.tr, convolved=True)
    result = fit_models(runs, design, load_default_library(), assumed, FitOptions(models=("fithrf",), compat=False))
    reference = case["typeb_betasmd"].reshape(len(result.valid), -1).T
    same = result.valid & (result.hrf_index == case["typeb_HRFindex"].ravel())
    assert same.mean() > 0.99
    assert correlate(result.models["fithrf"].betas[:, same], reference[:, same]).min() > 0.9999
