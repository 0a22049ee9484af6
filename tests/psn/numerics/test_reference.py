"""Covariances and presets equal the public implementation's on its reference cases (tolerances: tests/data/psn/README.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conform_bids.psn.numerics.gsn import SignalNoiseOptions, estimate_signal_noise
from conform_bids.psn.numerics.presets import PRESETS, ProjectionOptions, compare_bases, filtered_variances, fit_projection, fit_wiener
from conform_bids.psn.numerics.thresholds import ThresholdRule

VARIANTS: dict[str, Callable[[Any], ProjectionOptions]] = {
    "standard": lambda _: PRESETS["standard"],
    "conservative": lambda _: PRESETS["conservative"],
    "aggressive": lambda _: PRESETS["aggressive"],
    "aggressive_hybrid": lambda _: ProjectionOptions("difference", rule=ThresholdRule("prediction"), level="unit"),
    "predhybrid": lambda _: ProjectionOptions(rule=ThresholdRule("prediction"), level="unit"),
    "prediction": lambda _: ProjectionOptions(rule=ThresholdRule("prediction")),
    "alpha03": lambda _: ProjectionOptions(rule=ThresholdRule(alpha=0.3)),
    "pca_prediction": lambda _: ProjectionOptions("pca", rule=ThresholdRule("prediction")),
    "sigvar_order": lambda _: ProjectionOptions("difference", "signalvariance", ThresholdRule("prediction")),
    "allowable": lambda _: ProjectionOptions(rule=ThresholdRule(allowed=(0, 3, 10, 25))),
    "hybrid_groups": lambda arrays: ProjectionOptions(level="group", groups=arrays["unit_groups"]),
}


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest magnitude."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(("prefix", "shrinkage"), [("gsn", True), ("gsnNoShrink", False)])
def test_covariances(case: Any, prefix: str, shrinkage: bool) -> None:
    arrays = {key.removeprefix(f"{prefix}_"): value for key, value in case.arrays.items() if key.startswith(f"{prefix}_")}
    model = case.model if shrinkage else estimate_signal_noise(case.trials, SignalNoiseOptions(shrinkage=False))
    assert model.noise_level == arrays["shrinklevelN"]
    assert model.data_level == arrays["shrinklevelD"]
    assert model.n_iterations == arrays["numiters"]
    assert relative(model.ncsnr, arrays["ncsnr"]) < 1e-9
    if shrinkage:
        assert relative(model.signal, arrays["cSb"]) < 1e-8
        assert relative(model.noise, arrays["cNb"]) < 1e-8
        assert relative(model.raw_noise, arrays["cN"]) < 1e-6
        assert relative(model.raw_signal, arrays["cS"]) < 1e-6
        assert relative(model.mean, arrays["mnS"][0]) < 1e-9
    else:
        assert relative(np.diag(model.signal), arrays["cSb_diag"]) < 1e-8
        assert relative(np.diag(model.noise), arrays["cNb_diag"]) < 1e-8
        assert np.allclose(np.sort(np.linalg.eigvalsh(model.signal))[::-1], arrays["cSb_eigs"], atol=1e-8)


@pytest.mark.parametrize("name", ["case1_even", "case2_twotrials"])
def test_held_out_likelihood_of_every_level(reference: Callable[[str], Any], name: str) -> None:
    case = reference(name)
    for ours, theirs in ((case.model.noise_likelihood, "gsn_nllN"), (case.model.data_likelihood, "gsn_nllD")):
        assert np.allclose(ours, case.arrays[theirs], rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_projections(case: Any, variant: str) -> None:
    if variant == "hybrid_groups" and "unit_groups" not in case.arrays:
        pytest.skip("groups of units are in case1 only")
    result = fit_projection(case.trials, case.model, VARIANTS[variant](case.arrays))
    assert np.array_equal(np.squeeze(result.n_dimensions), case.arrays[f"{variant}__best_threshold"])
    denoised = result.denoiser.apply(case.trials.means).T
    assert relative(denoised, case.arrays[f"{variant}__denoiseddata"]) < 1e-6
    variances = np.stack(result.unit_variances(after=True), axis=1)
    assert np.allclose(variances, case.arrays[f"{variant}__svnv_after"], rtol=1e-5, atol=1e-7)
    if f"{variant}__denoiser" in case.arrays:
        assert relative(result.denoiser.matrix().T, case.arrays[f"{variant}__denoiser"]) < 1e-6


def test_curves_up_to_the_null_space(case: Any) -> None:
    for variant in ("standard", "aggressive"):
        result = fit_projection(case.trials, case.model, PRESETS[variant])
        rank = int((result.basis.signal > 1e-9 * result.basis.signal.max()).sum()) if variant == "standard" else None
        for ours, key in ((result.basis.signal, "signalvar"), (result.basis.noise, "noisevar"), (result.recovery[0], "objective")):
            assert np.allclose(ours[:rank], case.arrays[f"{variant}__{key}"][:rank], rtol=1e-6, atol=1e-7), (variant, key)
        assert relative(case.trials.means.mean(axis=0), case.arrays["unit_means"]) < 1e-9


def test_unit_thresholds_agree_but_for_the_null_space(case: Any) -> None:
    result = fit_projection(case.trials, case.model, ProjectionOptions(level="unit"))
    difference = np.abs(result.n_dimensions - case.arrays["hybrid__best_threshold"])
    assert difference.max() <= 2
    assert (difference == 0).mean() > 0.75


def test_compare(case: Any) -> None:
    result = compare_bases(case.trials, case.model)
    assert result.name == case.arrays["compare__basis"]
    scores = [result.scores["signal"], result.scores["difference"]]
    assert np.allclose(scores, case.arrays["compare__splithalf_signal_difference"], rtol=1e-6)
    assert result.n_dimensions == case.arrays["compare__best_threshold"]
    assert relative(result.denoiser.apply(case.trials.means).T, case.arrays["compare__denoiseddata"]) < 1e-6


def test_wiener(case: Any) -> None:
    denoiser = fit_wiener(case.trials, case.model)
    assert relative(denoiser.apply(case.trials.means).T, case.arrays["wiener__denoiseddata"]) < 1e-8
    assert relative(denoiser.matrix().T, case.arrays["wiener__denoiser"]) < 1e-6
    assert denoiser.effective_dimensions() == pytest.approx(float(case.arrays["wiener__best_threshold"]), rel=1e-6)
    variances = np.stack(filtered_variances(denoiser, case.model), axis=1)
    assert np.allclose(variances, case.arrays["wiener__svnv_after"], rtol=1e-5, atol=1e-7)
