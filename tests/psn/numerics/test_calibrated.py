"""Methods that cross-validate: closed forms against loops, thresholds against the public package's former ones, behaviour at extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conform_bids.errors import UsageError
from conform_bids.psn.numerics.calibrated import A_VALUES, fit_calibrated, held_out_pairs, wiener_part
from conform_bids.psn.numerics.crossvalidated import fit_crossvalidated, truncation_curves
from conform_bids.psn.numerics.denoiser import gains
from conform_bids.psn.numerics.filters import Scores, filter_part, noise_cholesky, score_filters, signal_factor, solve_mixture
from conform_bids.psn.numerics.gsn import estimate_signal_noise
from conform_bids.psn.numerics.stacked import fit_stacked, mix_filters


@pytest.mark.parametrize("name", ["case1_even", "case2_twotrials"])
@pytest.mark.parametrize("level", ["population", "unit"])
def test_truncation_curves_give_the_former_cross_validated_thresholds(reference: Callable[[str], Any], name: str, level: str) -> None:
    """The package's former rule: trials left out one by one, but basis and mean from all of them."""
    case = reference(name)
    values, vectors = np.linalg.eigh(case.arrays["gsn_cSb"])
    vectors, mean = vectors[:, np.argsort(-values)], case.trials.means.mean(axis=0)
    (inputs, targets, _), *rest = held_out_pairs(case.trials)
    assert not rest
    curves = truncation_curves(vectors, inputs - mean, targets - mean, by_unit=level == "unit")
    assert np.array_equal(np.squeeze(curves.argmax(axis=1)), case.arrays[f"legacyCV_{level}__best_threshold"])


def test_truncation_curves_against_loops() -> None:
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    inputs, targets = rng.standard_normal((2, 20, 7))
    expected = np.empty((7, 8))
    for k in range(8):
        predicted = inputs @ vectors[:, :k] @ vectors[:, :k].T
        expected[:, k] = (targets**2 - (targets - predicted) ** 2).sum(axis=0)
    assert np.allclose(truncation_curves(vectors, inputs, targets, by_unit=True), expected)
    assert np.allclose(truncation_curves(vectors, inputs, targets, by_unit=False)[0], expected.sum(axis=0))


def test_scores_of_filters_against_dense_ones() -> None:
    rng = np.random.default_rng(1)
    n_units, n_samples = 9, 12
    noise = np.cov(rng.standard_normal((n_units, 40)))
    signals = [(lambda half: half @ half.T)(rng.standard_normal((n_units, rank))) for rank in (3, 5)]
    parts = [filter_part(signal_factor(signal), noise_cholesky(noise)) for signal in signals]
    terms = np.array([(1.0, 0.5), (1.0, 4.0), (2.0, 1.0)])
    inputs, targets = rng.standard_normal((2, n_samples, n_units))
    counts, weights = rng.choice([1.0, 2.5], n_samples), rng.uniform(0.2, 1, n_samples)
    outputs = []
    for signal in signals:
        for power, a in terms:
            rows = []
            for row, count in zip(inputs, counts, strict=True):
                if power == 1:
                    matrix = signal @ np.linalg.inv(signal + a / count * noise)
                else:
                    ratio = count * signal @ np.linalg.inv(noise)
                    matrix = ratio @ ratio @ np.linalg.inv(ratio @ ratio + a * np.eye(n_units))
                rows.append(matrix @ row)
            outputs.append(np.array(rows))
    stack = np.array(outputs)
    scores = score_filters(parts, terms, inputs, targets, counts, weights)
    assert np.allclose(scores.linear, np.einsum("ksu,su,s->k", stack, targets, weights))
    assert np.allclose(scores.quadratic, np.einsum("ksu,lsu,s->kl", stack, stack, weights))
    assert np.isclose(scores.total, np.einsum("su,su,s->", targets, targets, weights))


def test_mixture_is_the_non_negative_minimum() -> None:
    rng = np.random.default_rng(2)
    outputs, target = rng.standard_normal((30, 4)), rng.standard_normal(30)
    outputs[:, 0] += target
    outputs[:, 1] -= target
    scores = Scores(outputs.T @ target, outputs.T @ outputs, float(target @ target))
    weights = solve_mixture(scores, ridge=0.0)
    assert (weights >= 0).all() and weights[1] == 0
    slope = scores.linear - scores.quadratic @ weights
    assert np.allclose(slope[weights > 0], 0, atol=1e-9) and (slope[weights == 0] <= 1e-9).all()
    assert scores.gain(weights) == pytest.approx(np.sum(target**2) - np.sum((target - outputs @ weights) ** 2))
    assert not solve_mixture(Scores.none(3)).any()


def test_held_out_pairs_of_uneven_trials(simulate: Callable[..., Any]) -> None:
    counts = np.array([1, 2, 3, 2, 4, 1, 3, 3, 2, 2])
    trials = simulate(n_units=3, n_conditions=10, counts=counts).trials
    batches = list(held_out_pairs(trials))
    assert [count for *_, count in batches] == [1, 2, 3]
    inputs, targets, count = batches[1]
    rows = np.flatnonzero(trials.counts[trials.condition] == 3)
    assert np.array_equal(targets, trials.values[rows])
    for index, row in enumerate(rows):
        others = [other for other in np.flatnonzero(trials.condition == trials.condition[row]) if other != row]
        assert len(others) == count
        assert np.allclose(inputs[index], trials.values[others].mean(axis=0))


def test_calibrated_filter_is_dense_wiener_with_its_a(simulate: Callable[..., Any]) -> None:
    trials = simulate().trials
    result = fit_calibrated(trials)
    scale = np.sqrt((trials.residuals() ** 2).sum(axis=0) / (trials.counts - 1).sum())
    expected = result.model.signal @ np.linalg.inv(result.model.signal + result.a / 3 * result.model.noise)
    assert np.allclose(result.denoiser.matrix(), expected * scale[:, None] / scale, atol=1e-8)
    assert result.a in A_VALUES


def test_unit_curves_add_up_to_the_population(simulate: Callable[..., Any]) -> None:
    trials = simulate(seed=3).trials
    for fit in (fit_calibrated, fit_crossvalidated):
        population, unit = fit(trials, level="population"), fit(trials, level="unit")
        assert np.allclose(unit.curves.sum(axis=0), population.curves[0])
        groups = np.arange(trials.n_units) % 4
        group = fit(trials, level="group", groups=groups)
        assert np.allclose(group.curves[1], unit.curves[groups == 1].mean(axis=0))
        with pytest.raises(UsageError, match="group"):
            fit(trials, level="group", groups=groups[:-1])


def test_unit_level_takes_each_units_own_row(simulate: Callable[..., Any]) -> None:
    trials = simulate(seed=4).trials
    result = fit_calibrated(trials, level="unit")
    part = wiener_part(result.model)
    scale = np.sqrt((trials.residuals() ** 2).sum(axis=0) / (trials.counts - 1).sum())
    for unit in (0, 11):
        gain = gains(part.ratio, 3, np.array([[1.0, 1.0, result.a[unit]]])) if np.isfinite(result.a[unit]) else 0 * part.ratio
        row = (part.left[unit] * gain) @ part.right.T
        assert np.allclose(result.denoiser.matrix()[unit], scale[unit] * row / scale, atol=1e-9)


@pytest.mark.parametrize("fit", [fit_stacked, fit_calibrated, fit_crossvalidated])
def test_noise_alone_is_removed(simulate: Callable[..., Any], fit: Callable[..., Any]) -> None:
    simulated = simulate(snr=0.0, n_conditions=80)
    means = simulated.trials.means
    left = fit(simulated.trials).denoiser.apply(means) - means.mean(axis=0)
    assert np.square(left).mean() < 0.1 * np.square(means - means.mean(axis=0)).mean()


@pytest.mark.parametrize("fit", [fit_stacked, fit_calibrated])
@pytest.mark.parametrize("snr", [30.0, 1e3, 1e6])
def test_strong_signal_is_never_worse_than_the_trial_average(simulate: Callable[..., Any], fit: Callable[..., Any], snr: float) -> None:
    simulated = simulate(snr=snr, rank=40, n_conditions=80)
    means = simulated.trials.means
    error = np.square(fit(simulated.trials).denoiser.apply(means) - simulated.truth).sum()
    assert error < 1.001 * np.square(means - simulated.truth).sum()


def test_stacked_beats_the_average_and_its_own_parts(simulate: Callable[..., Any]) -> None:
    simulated = simulate(snr=0.3, n_conditions=100)
    means = simulated.trials.means
    result = fit_stacked(simulated.trials)
    error = np.square(result.denoiser.apply(means, 3) - simulated.truth).sum()
    assert error < 0.35 * np.square(means - simulated.truth).sum()
    total = sum(result.fold_scores[1:], result.fold_scores[0])
    alone = 2 * total.linear - np.diag(total.quadratic)
    assert total.gain(result.weights) > 0.999 * alone.max()


def test_uneven_conditions_are_filtered_by_their_own_number_of_trials(simulate: Callable[..., Any]) -> None:
    counts = np.random.default_rng(0).choice([1, 2, 3, 6], 100)
    simulated = simulate(counts=counts, n_conditions=100, snr=0.3)
    denoiser = fit_stacked(simulated.trials).denoiser
    means = simulated.trials.means
    own = np.square(denoiser.apply(means, counts) - simulated.truth).sum()
    same = np.square(denoiser.apply(means) - simulated.truth).sum()
    assert denoiser.depends_on_count and own < same
    row = denoiser.apply(means, counts)[5]
    assert np.allclose(row, denoiser.matrix(counts[5]) @ (means[5] - denoiser.mean) + denoiser.mean)


def test_models_need_the_conditions_they_say(simulate: Callable[..., Any]) -> None:
    model = estimate_signal_noise(simulate(n_conditions=20).trials)
    assert np.linalg.eigvalsh(model.signal).min() > -1e-9
    assert np.linalg.eigvalsh(model.noise).min() > -1e-9


def fold_of_scores(rng: np.random.Generator, extra: float) -> Scores:
    """One filter that finds half of the targets, and ten more that find ``extra`` of what is left."""
    targets, missed = rng.standard_normal((2, 400))
    outputs = [targets / 2 + rng.standard_normal(400)]
    outputs += [extra * missed + rng.standard_normal(400) for _ in range(10)]
    stack = np.stack(outputs)
    targets = targets + missed
    return Scores(stack @ targets, stack @ stack.T, float(targets @ targets))


def test_filters_that_earn_nothing_in_other_folds_are_left_out() -> None:
    useful, useless = 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        useless += bool(mix_filters([fold_of_scores(rng, 0.0) for _ in range(5)], 1)[1:].any())
        useful += bool(mix_filters([fold_of_scores(rng, 0.5) for _ in range(5)], 1)[1:].any())
    assert useless <= 5 < 20 == useful


def test_mixture_of_the_first_filters_is_theirs() -> None:
    rng = np.random.default_rng(7)
    folds = [fold_of_scores(rng, 0.0) for _ in range(5)]
    total = sum(folds[1:], folds[0])
    weights = mix_filters(folds, 3)
    assert not weights[3:].any()
    assert np.array_equal(weights[:3], solve_mixture(total.first(3)))
    assert np.array_equal(mix_filters(folds[:2], 3), solve_mixture(folds[0] + folds[1])), "two folds are too few to compare"
