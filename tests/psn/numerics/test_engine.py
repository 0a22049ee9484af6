"""The whole-brain engine: what it does with parcels is what their fits do, and nothing depends on threads, order, scale or neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.numerics.compute import Compute
from conform_bids.psn.numerics.dual import fit_dual
from conform_bids.psn.numerics.engine import (
    METHODS,
    EngineOptions,
    EngineResult,
    ParcelDecomposition,
    TrialSet,
    denoise_parcels,
)
from conform_bids.psn.numerics.fit import FitOptions, fit_parcel
from conform_bids.psn.numerics.held_out import evaluate_held_out
from conform_bids.psn.numerics.one_parcel import fit_dimensions, held_out_denoisers
from conform_bids.psn.numerics.trials import group_trials, split_conditions

Simulate = Callable[..., Any]
PLAIN = EngineOptions(method="standard", session_zscore=False, null_parcels=0)
SIZE, N_PARCELS = 20, 3


def trial_set(condition: np.ndarray, session: np.ndarray | None = None, test: tuple[int, ...] = ()) -> TrialSet:
    return TrialSet(condition, np.zeros(len(condition), int) if session is None else session, ~np.isin(condition, test))


def run(betas: np.ndarray, trials: TrialSet, parcel: np.ndarray, options: EngineOptions = PLAIN, **more: Any) -> EngineResult:
    return denoise_parcels(betas.astype(np.float32), trials, parcel, options, more.pop("compute", Compute()), **more)


@pytest.fixture(scope="module")
def brain(simulate: Simulate) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Betas (units, trials), conditions of the trials, truth (units, conditions), and parcels in no order."""
    simulated = simulate(SIZE * N_PARCELS, 40, 3, snr=0.5)
    parcel = np.random.default_rng(1).permutation(np.repeat([7, 2, 4], SIZE))
    return simulated.values.T.astype(np.float32), simulated.condition, simulated.truth.T, parcel


def test_parcels_are_their_fits_and_cross_fits(brain: Any) -> None:
    """A public method and one of ours, every step by hand."""
    betas, condition, _, parcel = brain
    for method in ("standard", "calibrated"):
        found = run(betas, trial_set(condition), parcel, replace(PLAIN, method=method))
        assert [record.label for record in found.parcels] == [2, 4, 7]
        for label in (2, 7):
            units = parcel == label
            fit = fit_parcel(betas[units].T, condition, FitOptions(method=method))
            crossfit = fit.crossfit()
            expected = fit.apply(fit.trials.means, fit.trials.counts)
            np.testing.assert_allclose(found.arrays["psn"][units], expected.T, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found.arrays["crossfit"][units], crossfit.denoised.T, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(found.fold, crossfit.fold)
            (record,) = (record for record in found.parcels if record.label == label)
            assert record.dimensions == pytest.approx(fit.denoiser.effective_dimensions())
            assert record.reliability_before == pytest.approx(np.median(crossfit.reliability_before), abs=1e-4)
            # where the filter depends on the number of trials, halves have filters of their own there, and that of the mean here
            tolerance = 1e-3 if method == "standard" else 0.1
            assert record.reliability_after == pytest.approx(np.median(crossfit.reliability_after), abs=tolerance)
            assert (record.status, record.n_units, record.n_conditions, record.n_trials) == ("denoised", SIZE, 40, 120)


def test_the_default_method_by_hand_and_against_truth(brain: Any) -> None:
    betas, condition, truth, parcel = brain
    options = EngineOptions(session_zscore=False, null_parcels=0)
    found = run(betas, trial_set(condition), parcel, options)
    units = parcel == 4
    fitted = fit_dimensions(betas[units].T.astype(float), condition, options, None)
    trials = fitted.fit.trials
    expected = fitted.fit.denoiser.apply(trials.means, fitted.worth * trials.counts)
    np.testing.assert_allclose(found.arrays["psn"][units], expected.T, rtol=1e-4, atol=1e-4)
    folds = split_conditions(trials.counts, options.n_folds, options.seed)
    held_out = evaluate_held_out(trials, folds, held_out_denoisers(fitted, trials, folds, options), fitted.fit.denoiser.unit_gain)
    np.testing.assert_allclose(found.arrays["crossfit"][units], held_out.denoised.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.maps["cv_gain"][units], held_out.gain, rtol=1e-4)
    error = {name: np.square(found.arrays[name] - truth).mean() / truth.var(axis=1).mean() for name in ("psn", "crossfit", "trialavg")}
    assert error["psn"] < 0.6 * error["trialavg"]
    assert error["crossfit"] < 0.75 * error["trialavg"]
    assert np.median(found.maps["noise_ceiling_after"]) > np.median(found.maps["noise_ceiling_before"]) + 10


def test_nothing_depends_on_threads_labels_or_neighbours(brain: Any) -> None:
    betas, condition, _, parcel = brain
    trials, options = trial_set(condition), EngineOptions(session_zscore=False, null_parcels=3)
    whole = run(betas, trials, parcel, options)
    threads = run(betas, trials, parcel, options, compute=Compute(n_threads=2))
    relabelled = run(betas, trials, np.array([0, 0, 5, 0, 1, 0, 0, 3])[parcel], replace(options, null_parcels=0))
    units = parcel == 7
    alone = run(betas[units], trials, np.zeros(SIZE, int), replace(options, null_parcels=0))
    for name in ("psn", "crossfit"):
        np.testing.assert_array_equal(whole.arrays[name], threads.arrays[name])
        np.testing.assert_array_equal(whole.arrays[name], relabelled.arrays[name])
        np.testing.assert_array_equal(whole.arrays[name][units], alone.arrays[name])
    # the last digit of a sum depends on where an array happens to lie in memory
    for one, two in zip((*whole.null, *whole.parcels), (*threads.null, *threads.parcels), strict=True):
        for key, value in vars(one).items():
            other = vars(two)[key]
            assert key == "seconds" or value == (pytest.approx(other, rel=1e-12, nan_ok=True) if isinstance(other, float) else other), key


def test_units_in_another_order(brain: Any) -> None:
    betas, condition, _, parcel = brain
    order = np.random.default_rng(2).permutation(len(betas))
    options = EngineOptions(session_zscore=False, null_parcels=0)
    first, second = run(betas, trial_set(condition), parcel, options), run(betas[order], trial_set(condition), parcel[order], options)
    np.testing.assert_allclose(first.arrays["psn"][order], second.arrays["psn"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first.maps["ncsnr"][order], second.maps["ncsnr"], rtol=1e-5)


@pytest.mark.parametrize("method", ["stacked", "standard"])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scale_of_the_data_does_not_matter(factor: float, method: str, brain: Any) -> None:
    betas, condition, _, parcel = brain
    one, few = parcel == 2, np.arange(120) % 2
    options = EngineOptions(method=method, null_parcels=0)
    plain = run(betas[one], trial_set(condition, few), np.zeros(SIZE, int), options)
    scaled = run(betas[one] * np.float32(factor), trial_set(condition, few), np.zeros(SIZE, int), options)
    np.testing.assert_allclose(scaled.arrays["psn"] / factor, plain.arrays["psn"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scaled.maps["noise_ceiling_after"], plain.maps["noise_ceiling_after"], atol=0.1)
    np.testing.assert_allclose(scaled.maps["signal_variance"] / factor**2, plain.maps["signal_variance"], rtol=1e-3, atol=1e-5)
    assert scaled.parcels[0].dimensions == pytest.approx(plain.parcels[0].dimensions, rel=1e-3)
    assert (scaled.status == plain.status).all()


@pytest.mark.parametrize("no_gain", ["pass", "zero"])
def test_pure_noise_has_no_reliability_and_is_not_denoised(no_gain: str) -> None:
    """24 parcels: reliability after denoising is 0 on average, where a denoiser's own conditions would claim a half."""
    rng = np.random.default_rng(5)
    n_parcels, condition = 24, np.repeat(np.arange(40), 3)
    betas = 3.0 + rng.standard_normal((n_parcels * 12, 120)) + np.repeat(rng.standard_normal((n_parcels, 120)), 12, axis=0)
    stored: dict[int, ParcelDecomposition] = {}
    options = EngineOptions(method="wiener", no_gain=no_gain, session_zscore=False, null_parcels=0)
    found = run(betas, trial_set(condition), np.repeat(np.arange(n_parcels), 12), options, store=stored.__setitem__)
    after = np.array([record.reliability_after for record in found.parcels])
    assert abs(after.mean()) < 3 * after.std(ddof=1) / np.sqrt(n_parcels)
    status = [record.status for record in found.parcels]
    assert status.count("denoised") <= 2
    assert len(stored) == n_parcels
    for label in range(n_parcels):
        units = slice(12 * label, 12 * label + 12)
        if status[label] == "denoised":
            continue
        assert (found.status[units] == (1 if no_gain == "pass" else 2)).all()
        assert found.parcels[label].gain <= 0
        if no_gain == "pass":
            np.testing.assert_array_equal(found.arrays["psn"][units], found.arrays["trialavg"][units])
        else:
            assert np.ptp(found.arrays["psn"][units], axis=1).max() < 1e-6
            np.testing.assert_allclose(found.arrays["psn"][units][:, 0], found.arrays["trialavg"][units].mean(axis=1), atol=1e-5)
            assert (found.maps["noise_ceiling_after"][units] == 0).all()
    assert any("of 24 parcels are " in note for note in found.notes)


def test_the_default_method_claims_nothing_of_pure_noise() -> None:
    rng = np.random.default_rng(6)
    n_parcels, condition = 10, np.repeat(np.arange(30), 3)
    betas = rng.standard_normal((n_parcels * 10, 90))
    found = run(betas, trial_set(condition), np.repeat(np.arange(n_parcels), 10), EngineOptions(session_zscore=False, null_parcels=3))
    after = np.array([record.reliability_after for record in found.parcels])
    assert abs(after.mean()) < 3 * after.std(ddof=1) / np.sqrt(n_parcels) + 1e-12
    denoised = found.status == 0
    removed = found.arrays["psn"][denoised].var() / found.arrays["trialavg"][denoised].var() if denoised.any() else 0.0
    assert removed < 0.1


def test_null_checks_are_spread_and_find_nothing(brain: Any) -> None:
    betas, condition, _, parcel = brain
    labels = parcel * 10 + np.arange(len(parcel)) % 2
    found = run(betas, trial_set(condition), labels, replace(PLAIN, method="wiener", null_parcels=4))
    assert len(found.null) == 4
    assert {found.null[0].label, found.null[-1].label} == {20, 71}
    after = np.array([check.reliability_after for check in found.null])
    assert abs(after.mean()) < 0.2
    assert np.mean([check.reliability_in_sample for check in found.null]) > 0.25
    assert max(check.gain for check in found.null) < 0.02 < min(record.gain for record in found.parcels)


def test_conditions_with_a_single_trial_are_denoised(simulate: Simulate) -> None:
    simulated = simulate(20, 40, np.resize([1, 2, 3], 40), snr=1.0)
    for method in ("stacked", "standard"):
        found = run(simulated.values.T, trial_set(simulated.condition), np.zeros(20, int), replace(PLAIN, method=method))
        assert np.isfinite(found.arrays["psn"]).all()
        assert np.isfinite(found.arrays["crossfit"]).all()
        assert found.n_trials.tolist() == np.resize([1, 2, 3], 40).tolist()
        single, truth = found.n_trials == 1, simulated.truth.T
        error = [np.square(found.arrays[name] - truth)[:, single].mean() for name in ("psn", "trialavg")]
        assert error[0] < 0.8 * error[1]


def test_dead_constant_and_missing_units_are_set_aside(brain: Any) -> None:
    betas, condition, _, parcel = brain
    one = np.flatnonzero(parcel == 4)
    broken = betas.copy()
    broken[one[0]], broken[one[1]], broken[one[2]] = np.nan, 3.0, 0.0
    broken[one[3], :60], broken[one[4], :20] = np.nan, np.inf
    found = run(broken, trial_set(condition), parcel, replace(PLAIN, write=("noise", "removed")))
    assert found.status[one[:5]].tolist() == [4, 4, 4, 5, 5]
    rest = np.setdiff1d(np.arange(len(parcel)), one[:5])
    assert (found.status[rest] == 0).all()
    for name in ("psn", "crossfit", "removed"):
        assert np.isnan(found.arrays[name][one[:5]]).all()
        assert np.isfinite(found.arrays[name][rest]).all()
    some = np.isfinite(found.arrays["trialavg"][one[4]])
    np.testing.assert_array_equal(some, np.isin(np.arange(40), condition[20:]))
    assert np.isfinite(found.maps["ncsnr"][one[3:5]]).all()
    (record,) = (record for record in found.parcels if record.label == 4)
    assert (record.n_units, record.n_set_aside) == (SIZE - 5, 5)
    only = run(betas[one[5:]], trial_set(condition), np.zeros(SIZE - 5, int))
    np.testing.assert_allclose(found.arrays["psn"][one[5:]], only.arrays["psn"], rtol=1e-4, atol=1e-4)
    before = run(betas, trial_set(condition), parcel)
    np.testing.assert_array_equal(found.arrays["psn"][parcel == 2], before.arrays["psn"][parcel == 2])
    assert any("2 units lack trials" in note for note in found.notes)


def test_trials_that_all_units_lack_are_left_out(brain: Any) -> None:
    """Where a run is missing in nearly all units, the trials go, not the units."""
    betas, condition, _, parcel = brain
    one = parcel == 2
    broken = betas[one].copy()
    gone = np.r_[np.flatnonzero(condition == 7), np.flatnonzero(condition == 8)[:1]]
    broken[:, gone] = np.nan
    found = run(broken, trial_set(condition), np.zeros(SIZE, int))
    assert (found.status == 0).all()
    assert found.parcels[0].n_trials == 120 - 4
    assert "1 conditions have no trial" in found.parcels[0].note
    assert np.isnan(found.arrays["psn"][:, 7]).all()
    assert np.isfinite(np.delete(found.arrays["psn"], 7, axis=1)).all()


def test_a_parcel_that_cannot_be_fitted_is_passed_and_named(brain: Any) -> None:
    betas, condition, _, parcel = brain
    averages = betas.copy()
    averages[np.ix_(parcel == 7, np.argsort(condition))] = np.repeat(betas[parcel == 7][:, :40], 3, axis=1)
    stored: dict[int, ParcelDecomposition] = {}
    found = run(averages, trial_set(condition), parcel, store=stored.__setitem__)
    assert [record.status for record in found.parcels] == ["denoised", "denoised", "passed"]
    assert "not fitted" in found.parcels[2].note
    assert any("not single trials" in note for note in found.notes)
    np.testing.assert_array_equal(found.arrays["psn"][parcel == 7], found.arrays["trialavg"][parcel == 7])
    assert stored[7].basis.shape == (SIZE, 0)
    with pytest.raises(UnusableInputError, match="not single trials"):
        run(averages[parcel == 7], trial_set(condition), np.zeros(SIZE, int))


def test_repeats_within_one_session_are_told(brain: Any) -> None:
    """Offsets between sessions are signal to the fit, unless they are taken out."""
    betas, condition, _, parcel = brain
    one, session = parcel == 2, (condition >= 20).astype(int)
    shifted = betas[one] + 20.0 * session
    trials = trial_set(condition, session)
    raw = run(shifted, trials, np.zeros(SIZE, int))
    assert any("100% of the repeated conditions" in note and "would take" in note for note in raw.notes)
    scored = run(shifted, trials, np.zeros(SIZE, int), replace(PLAIN, session_zscore=True))
    assert any("100% of the repeated conditions" in note and "taken out" in note for note in scored.notes)
    assert np.median(raw.maps["noise_ceiling_before"]) > 95 > 80 > np.median(scored.maps["noise_ceiling_before"])
    assert run(betas[one], trial_set(condition), np.zeros(SIZE, int)).notes == ()


def test_sessions_are_standardised_and_brought_back(brain: Any) -> None:
    betas, condition, _, parcel = brain
    one, session = parcel == 2, np.arange(120) % 2 + 3
    moved = betas[one] * np.where(session == 4, 3.0, 1.0) + np.where(session == 4, 50.0, 0.0)
    trials = trial_set(condition, session)
    options = EngineOptions(method="standard", null_parcels=0)
    first, second = (run(values, trials, np.zeros(SIZE, int), options) for values in (betas[one], moved))
    assert first.sessions.tolist() == [3, 4]
    np.testing.assert_allclose(second.session_sd[:, 1], 3 * first.session_sd[:, 1], rtol=1e-4)
    z = [(found.arrays["psn"] - found.mean[:, None]) / found.sd[:, None] for found in (first, second)]
    np.testing.assert_allclose(z[0], z[1], atol=1e-3)
    in_z = run(betas[one], trials, np.zeros(SIZE, int), replace(options, output_units="z"))
    np.testing.assert_allclose(in_z.arrays["psn"], z[0], atol=1e-4)


def test_what_cannot_be_fitted_is_refused(brain: Any) -> None:
    betas, condition, _, parcel = brain
    two = np.isin(condition, (0, 1))
    with pytest.raises(UnusableInputError, match="at least 3 train conditions; there are 2"):
        run(betas[:, two], trial_set(condition[two]), parcel)
    with pytest.raises(UnusableInputError, match="no train condition repeats"):
        run(betas[:, :40], trial_set(np.arange(40)), parcel)
    five = condition < 5
    with pytest.raises(UnusableInputError, match="needs 6 of them"):
        run(betas[:, five], trial_set(condition[five]), parcel, EngineOptions(session_zscore=False))
    with pytest.raises(UnusableInputError, match="no parcel holds a unit that varies"):
        run(np.ones_like(betas), trial_set(condition), parcel)
    with pytest.raises(UnusableInputError, match="no parcel holds a unit that varies"):
        run(betas, trial_set(condition), np.full(len(betas), -1))
    for wrong in ({"scale": np.ones(3)}, {"groups": np.ones(3, int)}):
        with pytest.raises(ValueError, match="one value for each of 60 units"):
            run(betas, trial_set(condition), parcel, **wrong)
    with pytest.raises(ValueError, match="a column each"):
        run(betas[:, :-1], trial_set(condition), parcel)
    with pytest.raises(ValueError, match="numbered from 0"):
        run(betas, trial_set(condition), parcel - 5)
    with pytest.raises(UsageError, match="group of each unit"):
        run(betas, trial_set(condition), parcel, replace(PLAIN, threshold_level="group"))


def test_test_conditions_are_denoised_but_never_fitted(brain: Any) -> None:
    betas, condition, truth, parcel = brain
    test = (3, 4, 9)
    trials = trial_set(condition, np.arange(120) % 2, test)
    options = EngineOptions(method="standard", null_parcels=0)
    changed = betas.copy()
    changed[:, np.isin(condition, test)] *= 7
    first, second = run(betas, trials, parcel, options), run(changed, trials, parcel, options)
    train = np.setdiff1d(np.arange(40), test)
    for name in ("psn", "crossfit", "trialavg"):
        np.testing.assert_array_equal(first.arrays[name][:, train], second.arrays[name][:, train])
    for name, values in first.maps.items():
        np.testing.assert_array_equal(values, second.maps[name], err_msg=name)
    np.testing.assert_array_equal(first.arrays["crossfit"][:, test], first.arrays["psn"][:, test])
    assert (first.fold[list(test)] == -1).all()
    assert set(first.fold[train]) == set(range(5))
    error = [np.square(first.arrays[name] - truth)[:, test].mean() for name in ("psn", "trialavg")]
    assert error[0] < 0.8 * error[1]


@pytest.mark.parametrize("zscore", [False, True])
def test_a_trial_is_what_is_kept_removed_and_noise(zscore: bool, brain: Any) -> None:
    betas, condition, _, parcel = brain
    session, outside = np.arange(120) % 2, np.where(parcel == 4, -1, parcel)
    options = EngineOptions(method="wiener", write=("removed", "noise"), session_zscore=zscore, outside="pass", null_parcels=0)
    found = run(betas, trial_set(condition, session), outside, options)
    total = found.arrays["psn"][:, condition] + found.arrays["removed"][:, condition] + found.arrays["noise"]
    expected = betas
    if zscore:
        standard = (betas - found.session_mean[:, session]) / found.session_sd[:, session]
        expected = found.mean[:, None] + found.sd[:, None] * standard
    np.testing.assert_allclose(total, expected, atol=1e-4)
    assert (found.status[parcel == 4] == 3).all()
    np.testing.assert_array_equal(found.arrays["psn"][parcel == 4], found.arrays["trialavg"][parcel == 4])
    dropped = run(betas, trial_set(condition, session), outside, replace(options, outside="nan", write=()))
    assert np.isnan(dropped.arrays["psn"][parcel == 4]).all()
    assert set(dropped.arrays) == {"psn", "trialavg", "crossfit"}
    np.testing.assert_array_equal(dropped.arrays["trialavg"], found.arrays["trialavg"])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stores_what_it_did(method: str, brain: Any) -> None:
    """The stored denoiser gives the denoised responses from standardised ones, and dimensions are of unit length, leading first."""
    betas, condition, _, parcel = brain
    outside = np.where(parcel == 7, -1, parcel)
    stored: dict[int, ParcelDecomposition] = {}
    options = EngineOptions(method=method, null_parcels=0)
    found = run(betas, trial_set(condition, np.arange(120) % 2), outside, options, store=stored.__setitem__)
    assert sorted(stored) == [2, 4]
    for label, kept in stored.items():
        units = np.flatnonzero(parcel == label)
        np.testing.assert_array_equal(kept.units, units)
        offset, gain = kept.output_offset[:, None], kept.output_gain[:, None]
        standard = ((found.arrays["trialavg"][units] - offset) / gain).T
        again = offset + gain * kept.denoiser.apply(standard, None).T
        np.testing.assert_allclose(again, found.arrays["psn"][units], atol=2e-3)
        n_dimensions = kept.basis.shape[1]
        shapes = {values.shape for values in (kept.eigenvalues, kept.signal_variance, kept.noise_variance, kept.passed)}
        assert shapes == {(n_dimensions,)}
        np.testing.assert_allclose(np.linalg.norm(kept.basis, axis=0), 1, rtol=1e-6)
        assert (np.diff(kept.eigenvalues[np.isfinite(kept.eigenvalues)]) <= 1e-9).all()
        assert kept.curve.shape[0] == 2
        assert kept.curve[1].max() == pytest.approx(1)
        assert kept.noise_likelihood is not None
        assert kept.noise_likelihood.shape == (51,)
        (record,) = (record for record in found.parcels if record.label == label)
        assert record.status == "denoised"
        assert record.method.startswith(method)
        assert 0 < record.dimensions < SIZE
        assert 0 <= record.noise_level <= 1
        assert np.isfinite(record.a) == (method == "calibrated")
    assert np.isfinite(found.maps["a"][outside >= 0]).all() == (method == "calibrated")


def test_dimensions_of_a_filter_hold_its_covariances(brain: Any) -> None:
    betas, condition, _, parcel = brain
    stored: dict[int, ParcelDecomposition] = {}
    run(betas, trial_set(condition), parcel, replace(PLAIN, method="wiener", crossfit=False), store=stored.__setitem__)
    model = fit_parcel(betas[parcel == 2].T, condition, FitOptions(method="wiener")).model
    kept = stored[2]
    np.testing.assert_allclose((kept.basis * kept.signal_variance) @ kept.basis.T, model.signal, atol=1e-6)
    assert kept.passed.sum() == pytest.approx(kept.denoiser.effective_dimensions(), rel=1e-4)


def test_without_crossfit(brain: Any) -> None:
    betas, condition, _, parcel = brain
    found = run(betas, trial_set(condition), parcel, replace(PLAIN, crossfit=False))
    assert set(found.arrays) == {"psn", "trialavg"}
    np.testing.assert_array_equal(found.arrays["psn"], run(betas, trial_set(condition), parcel).arrays["psn"])
    assert np.isnan(found.maps["noise_ceiling_after"]).all()
    assert np.isnan([record.reliability_after for record in found.parcels]).all()


def test_rescaled_amplitudes(brain: Any) -> None:
    """Deviations from each unit's mean are multiplied; what is no factor counts as 1."""
    betas, condition, _, parcel = brain
    scale = np.full(len(betas), 2.0)
    scale[:3] = 0, np.nan, -1
    plain, scaled = (run(betas, trial_set(condition), parcel, scale=each) for each in (None, scale))
    mean = plain.mean[:, None]
    for name in ("psn", "trialavg", "crossfit"):
        np.testing.assert_allclose(scaled.arrays[name][3:] - mean[3:], 2 * (plain.arrays[name][3:] - mean[3:]), atol=1e-4)
        np.testing.assert_allclose(scaled.arrays[name][:3], plain.arrays[name][:3], atol=1e-5)
    np.testing.assert_allclose(scaled.maps["noise_variance"][3:], 4 * plain.maps["noise_variance"][3:], rtol=1e-5)
    ignored = run(betas, trial_set(condition), parcel, replace(PLAIN, rescale=False), scale=scale)
    np.testing.assert_array_equal(ignored.arrays["psn"], plain.arrays["psn"])


def test_large_parcels_take_the_dual_form(brain: Any) -> None:
    betas, condition, _, parcel = brain
    options = EngineOptions(session_zscore=False, dual_above=SIZE - 1, null_parcels=1)
    stored: dict[int, ParcelDecomposition] = {}
    found = run(betas, trial_set(condition, test=(3,)), parcel, options, store=stored.__setitem__)
    units, train = parcel == 2, condition != 3
    order = np.flatnonzero(train)[np.argsort(condition[train], kind="stable")]
    fitted, coordinates = fit_dual(betas[units][:, order].T, condition[order], options)
    trials = group_trials(betas[units].T, condition)[0]
    expected = coordinates.restore(fitted.fit.denoiser.apply(coordinates.project(trials.means), trials.counts))
    np.testing.assert_allclose(found.arrays["psn"][units], expected.T, rtol=1e-3, atol=1e-3)
    assert {record.method for record in found.parcels} == {"stacked (dual)"}
    assert stored[2].dual
    assert stored[2].basis.shape[0] == SIZE
    assert np.isfinite(found.arrays["crossfit"]).all()
    assert any("the dual form is used" in note for note in found.notes)
    with pytest.raises(UsageError, match="one threshold for all"):
        run(betas, trial_set(condition), parcel, replace(options, method="standard", threshold_level="unit"))


def test_thresholds_by_unit_and_by_group(brain: Any) -> None:
    betas, condition, _, parcel = brain
    groups = np.arange(len(betas)) % 2
    unit = run(betas, trial_set(condition), parcel, replace(PLAIN, method="crossvalidated", threshold_level="unit"))
    group = run(betas, trial_set(condition), parcel, replace(PLAIN, method="crossvalidated", threshold_level="group"), groups=groups)
    for label in (2, 4, 7):
        own = parcel == label
        assert len(np.unique(unit.maps["dimensions"][own])) > 2
        for number in (0, 1):
            assert len(np.unique(group.maps["dimensions"][own & (groups == number)])) == 1


def test_arrays_are_written_where_they_are_allocated(brain: Any, tmp_path: Any) -> None:
    betas, condition, _, parcel = brain

    def allocate(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.lib.format.open_memmap(tmp_path / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)

    np.save(tmp_path / "betas.npy", betas)
    source = np.load(tmp_path / "betas.npy", mmap_mode="r")
    found = denoise_parcels(source, trial_set(condition), parcel, PLAIN, Compute(n_threads=2), allocate)
    np.testing.assert_array_equal(np.load(tmp_path / "psn.npy"), run(betas, trial_set(condition), parcel).arrays["psn"])
    assert isinstance(found.arrays["trialavg"], np.memmap)
