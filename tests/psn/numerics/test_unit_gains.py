"""Gains of units: against matrices and loops, and what they do where units are alike and where half of them do not respond."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conform_bids.psn.numerics.denoiser import Component, Denoiser
from conform_bids.psn.numerics.filters import FilterPart
from conform_bids.psn.numerics.halves import about_folds, correlate, half_means
from conform_bids.psn.numerics.held_out import evaluate_held_out, pass_held_out, stacked_denoisers
from conform_bids.psn.numerics.stacked import StackedOptions, fit_stacked
from conform_bids.psn.numerics.trials import Trials, group_trials, split_conditions
from conform_bids.psn.numerics.unit_gains import LEAST, SplitOutputs, UnitScores, empirical_bayes_gains
from conform_bids.psn.numerics.variances import unit_variances


def responses_of_half(seed: int, n_units: int = 60, n_conditions: int = 80, n_trials: int = 2) -> tuple[Trials, np.ndarray, np.ndarray]:
    """Trials of units of which 40 % respond, the true responses (n_conditions, n_units), and which units respond."""
    rng = np.random.default_rng(seed)
    responds = rng.permutation(n_units) < 0.4 * n_units
    truth = 0.4 * rng.standard_normal((n_conditions, 4)) @ rng.standard_normal((4, n_units)) / 2 * responds
    condition = np.repeat(np.arange(n_conditions), n_trials)
    noise = rng.standard_normal((len(condition), 3)) @ rng.standard_normal((3, n_units)) / 2 + rng.standard_normal(
        (len(condition), n_units)
    )
    return group_trials(truth[condition] + noise, condition)[0], truth, responds


def test_scores_are_those_of_the_mixture_as_a_matrix() -> None:
    rng = np.random.default_rng(0)
    n, terms = 7, np.array([[1.0, 1.0], [2.0, 4.0]])
    dense = [FilterPart(rng.standard_normal((n, 5)), rng.standard_normal((n, 5)), rng.random(5) + 0.1) for _ in range(2)]
    kept = np.array([1, 4, 6])
    single = FilterPart(np.eye(n)[:, kept], np.eye(n)[:, kept], rng.random(3) + 0.1, kept)
    inputs, targets = rng.standard_normal((2, 9, n)), rng.standard_normal((2, 9, n))
    worth, weights, mixture = rng.choice([1.0, 2.0], 9), rng.random(9), rng.random((2, 2))
    found = SplitOutputs([[part, single] for part in dense], terms, inputs, targets, worth, weights).score(mixture.ravel())
    p, q = np.zeros((9, n)), np.zeros((9, n))
    for part, rows, aims in zip(dense, inputs, targets, strict=True):
        for c in range(9):
            output = np.zeros(n)
            for own, shares in zip((part, single), mixture, strict=True):
                for share, (power, a) in zip(shares, terms, strict=True):
                    ratio = (own.ratio * worth[c]) ** power
                    output += share * (own.left @ np.diag(ratio / (ratio + a)) @ own.right.T) @ rows[c]
            p[c] += weights[c] * output * aims[c]
            q[c] += weights[c] * output**2
    expected = (p.sum(0), q.sum(0), (p * p).sum(0), (p * q).sum(0), (q * q).sum(0))
    names = ("linear", "quadratic", "linear_squares", "cross", "quadratic_squares")
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), value, rtol=2e-4, atol=1e-4, err_msg=name)
    assert found.n_conditions == 9


def scores_of(slopes: np.ndarray, noise: float, seed: int, n_conditions: int = 200) -> UnitScores:
    """Outputs with a known slope of targets on them, in targets with noise."""
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((n_conditions, len(slopes)))
    targets = slopes * outputs + noise * rng.standard_normal(outputs.shape)
    p, q = outputs * targets, outputs**2
    return UnitScores(p.sum(0), q.sum(0), (p * p).sum(0), (p * q).sum(0), (q * q).sum(0), n_conditions)


def test_slopes_are_drawn_together_as_far_as_errors_explain_their_spread() -> None:
    alike, halves = np.ones(200), np.repeat([0.0, 2.0], 100)
    spread_alike, errors = [], []
    for seed in range(5):
        raw = scores_of(alike, 3.0, seed)
        spread_alike.append(empirical_bayes_gains(raw).std() / (raw.linear / raw.quadratic).std())
        own = scores_of(halves, 3.0, seed)
        gains, common = empirical_bayes_gains(own), own.linear.sum() / own.quadratic.sum()
        assert gains.min() >= LEAST * common
        errors.append([np.square(values - halves).mean() for values in (gains, own.linear / own.quadratic, np.full(200, common))])
    assert np.mean(spread_alike) < 0.25
    drawn, apart, together = np.mean(errors, axis=0)
    assert drawn < apart < together
    nothing = empirical_bayes_gains(UnitScores(*np.zeros((5, 3)), 10))
    assert np.array_equal(nothing, np.ones(3)), "what lets nothing pass has no slopes"


def test_units_that_respond_keep_their_amplitude_beside_those_that_do_not() -> None:
    errors, slopes = [], []
    for seed in range(4):
        trials, truth, responds = responses_of_half(seed)
        true = truth[:, responds] - truth[:, responds].mean(axis=0)
        for unit_gains in (False, True):
            denoiser = fit_stacked(trials, StackedOptions(unit_gains=unit_gains)).denoiser
            assert (denoiser.unit_gain is not None) == unit_gains
            denoised = denoiser.apply(trials.means, trials.counts)
            errors.append(np.square(denoised - denoised.mean(0) - (truth - truth.mean(0))).sum())
            found = (denoised - denoised.mean(axis=0))[:, responds]
            slopes.append((found * true).sum() / (found**2).sum())
    (common, by_unit), (slope, slope_by_unit) = (np.reshape(values, (4, 2)).mean(axis=0) for values in (errors, slopes))
    assert by_unit < common
    assert abs(slope_by_unit - 1) < abs(slope - 1)


def test_repeats_of_noise_agree_by_chance_in_few_conditions_that_were_held_out() -> None:
    """What is chosen without a fold passes the less, the better the fold's repeats agree; it must not show in correlations."""
    found, uneven = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sessions = rng.standard_normal((2, 20, 4)) @ rng.standard_normal((4, 40)) / 2 + rng.standard_normal((2, 20, 40))
        sessions = (sessions - sessions.mean(axis=1, keepdims=True)) / sessions.std(axis=1, keepdims=True)
        trials = group_trials(sessions.reshape(40, 40), np.tile(np.arange(20), 2))[0]
        result = fit_stacked(trials)
        folds = split_conditions(trials.counts, 5, seed)
        denoisers = stacked_denoisers(trials, folds, result, 0)
        own, common = (evaluate_held_out(trials, folds, denoisers, gain) for gain in (None, result.denoiser.unit_gain))
        np.testing.assert_array_equal(own.reliability_after, common.reliability_after)
        centre = trials.means.mean(axis=0)
        np.testing.assert_allclose(common.denoised - centre, (own.denoised - centre) * result.denoiser.unit_gain)
        found.append(np.median(own.reliability_after))
        passed, fold_of = pass_held_out(trials, folds, denoisers)
        halves = (about_folds(half, fold_of) for half in half_means(replace(trials, values=passed))[:2])
        uneven.append(np.median(np.nan_to_num(correlate(*halves))))
    assert abs(np.mean(found)) < 2.5 * np.std(found) / np.sqrt(len(found))
    assert np.mean(uneven) < np.mean(found) - 0.05


@pytest.mark.parametrize(("n_conditions", "n_trials"), [(8, 6), (20, 2), (60, 3)])
def test_what_is_passed_whole_is_as_reliable_as_before(n_conditions: int, n_trials: int) -> None:
    """Few conditions to a fold take nothing from correlations and ceilings."""
    rng = np.random.default_rng(n_conditions)
    condition = np.repeat(np.arange(n_conditions), n_trials)
    values = rng.standard_normal((n_conditions, 5))[condition] + rng.standard_normal((len(condition), 5))
    trials = group_trials(values, condition)[0]
    folds = split_conditions(trials.counts, 5, 0)
    whole = Denoiser(np.zeros(5), [Component.projection(np.eye(5), np.eye(5))], n_trials)
    found = evaluate_held_out(trials, folds, [whole] * len(folds))
    np.testing.assert_allclose(found.reliability_after, found.reliability_before, rtol=1e-10)
    fold_of = np.concatenate([np.full(len(fold), index) for index, fold in enumerate(folds)])[np.argsort(np.concatenate(folds))]
    np.testing.assert_allclose(found.variances.ceiling, unit_variances(values, condition, fold_of[condition]).ceiling, rtol=1e-10)


def test_no_fold_with_two_conditions_that_repeat_says_nothing_about_reliability() -> None:
    rng = np.random.default_rng(0)
    condition = np.r_[np.repeat(np.arange(4), 2), 4:12]
    trials = group_trials(rng.standard_normal((len(condition), 3)), condition)[0]
    whole = Denoiser(np.zeros(3), [Component.projection(np.eye(3), np.eye(3))], 2)
    found = evaluate_held_out(trials, split_conditions(trials.counts, 5, 0), [whole] * 5)
    assert np.isnan(found.reliability_before).all()
    assert np.isnan(found.reliability_after).all()


def test_gain_of_held_out_conditions_is_taken_with_gains_chosen_without_them() -> None:
    trials = responses_of_half(1)[0]
    folds = split_conditions(trials.counts, 5, 0)
    denoisers = stacked_denoisers(trials, folds, fit_stacked(trials), 0)
    found = evaluate_held_out(trials, folds, denoisers)
    saved = np.zeros(trials.n_units)
    total = np.zeros(trials.n_units)
    for fold, denoiser in zip(folds, denoisers, strict=True):
        rows = np.isin(trials.condition, fold)
        passed = (trials.values[rows] - trials.means.mean(axis=0)) @ denoiser.matrix(2.0).T
        target = trials.values[rows] - trials.values[rows].mean(axis=0)
        other = passed.reshape(-1, 2, trials.n_units)[:, ::-1].reshape(passed.shape)
        other -= other.mean(axis=0)
        saved += (2 * target * other - other**2).sum(axis=0)
        total += (target**2).sum(axis=0)
    np.testing.assert_allclose(found.gain, saved / total, rtol=1e-6)


def test_a_denoiser_with_gains_is_the_same_map_folded(simulate: Callable[..., Any]) -> None:
    trials = simulate(n_units=12, n_conditions=30, counts=np.tile([2, 3], 15)).trials
    plain = fit_stacked(trials, StackedOptions(unit_gains=False)).denoiser
    gains = np.linspace(0.5, 1.5, 12)
    denoiser = Denoiser(plain.mean, plain.components, plain.n_averaged, gains)
    few, many = trials.means[:3], np.tile(trials.means, (3, 1))
    for rows in (few, many):
        expected = (plain.apply(rows, 2) - plain.mean) * gains + plain.mean
        np.testing.assert_allclose(denoiser.apply(rows, 2), expected, rtol=1e-10)
        np.testing.assert_allclose(denoiser.folded().apply(rows, 2), expected, rtol=1e-10)
    np.testing.assert_allclose(np.trace(denoiser.matrix()), denoiser.effective_dimensions())


def test_held_out_denoisers_have_gains_where_the_fit_has_them() -> None:
    trials = responses_of_half(0)[0]
    folds = split_conditions(trials.counts, 5, 0)
    for unit_gains in (False, True):
        result = fit_stacked(trials, StackedOptions(unit_gains=unit_gains))
        gains = [denoiser.unit_gain for denoiser in stacked_denoisers(trials, folds, result, 0)]
        assert [own is not None for own in gains] == [unit_gains] * 5
    assert all(own is not None and own.shape == (60,) and (own > 0).all() for own in gains)
    assert not np.allclose(gains[0], gains[1]), "each fold's come from what is left without it"
