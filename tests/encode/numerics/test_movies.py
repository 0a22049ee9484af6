"""Movies in numbers: frames to volumes, delays, nuisances, repeats; each against a dense or brute-force answer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.encode.numerics.movies import (
    Timeline,
    average_frames,
    clean_run,
    convolved,
    default_delays,
    delayed,
    design_rows,
    explainable_variance,
    group_runs,
    nuisance_basis,
    volume_kernel,
)
from conform_bids.encode.numerics.ridge import fit_ridge
from conform_bids.encode.numerics.scoring import independent_rows
from conform_bids.encode.numerics.screen import Shown, show
from conform_bids.numerics.hrf import response_at
from conform_bids.numerics.linalg import polynomial_basis


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.floats(0.1, 0.29), min_size=1, max_size=30),
    start=st.floats(-0.5, 3),
    length=st.floats(0.05, 2),
    seed=st.integers(0, 1000),
)
def test_a_window_has_the_mean_of_the_frames_that_were_on_in_it(steps: list[float], start: float, length: float, seed: int) -> None:
    times = np.concatenate([[0.0], np.cumsum(steps)])
    values = np.random.default_rng(seed).standard_normal((len(times), 2))
    means, covered = average_frames(values, times, np.array([start]), np.array([start + length]))
    end = times[-1] + np.median(np.diff(times))
    moments = start + length * (np.arange(40000) + 0.5) / 40000
    inside = moments[(moments >= 0) & (moments < end)]
    assert covered[0] == pytest.approx(length * len(inside) / len(moments), abs=1e-3)
    if covered[0] > 0.02:
        expected = values[np.searchsorted(times, inside, side="right") - 1].mean(axis=0)
        np.testing.assert_allclose(means[0], expected, atol=5e-3 / covered[0])


def test_frames_do_not_stay_on_over_a_gap_and_a_single_one_stays_for_ever() -> None:
    times = np.array([0.0, 1, 2, 3, 20, 21])
    means, covered = average_frames(np.arange(6.0)[:, None], times, np.array([3.0, 10.0, 20.0]), np.array([5.0, 12.0, 21.0]))
    np.testing.assert_allclose(covered, [2, 0, 1])
    assert means[0, 0] == 3 and np.isnan(means[1, 0]) and means[2, 0] == 4
    assert average_frames(np.ones((1, 1)), np.zeros(1), np.array([500.0]), np.array([502.0]))[1][0] == 2
    with pytest.raises(ValueError, match="do not rise"):
        average_frames(np.ones((2, 1)), np.zeros(2), np.zeros(1), np.ones(1))


@pytest.mark.parametrize(("repetition_time", "expected"), [(2.0, (1, 2, 3, 4)), (1.0, (2, 3, 4, 5, 6, 7, 8)), (0.8, tuple(range(3, 11)))])
def test_delays_reach_from_two_to_eight_seconds(repetition_time: float, expected: tuple[int, ...]) -> None:
    assert default_delays(repetition_time) == expected
    assert default_delays(10.0) == (1,)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), p=st.integers(1, 3), delays=st.lists(st.integers(0, 25), min_size=1, max_size=4, unique=True))
def test_delays_and_hrfs_are_toeplitz_matrices(n: int, p: int, delays: list[int]) -> None:
    features = np.random.default_rng(n).standard_normal((n, p))
    shifts = [
        toeplitz(np.eye(1, n, delay)[0] if delay < n else np.zeros(n), np.zeros(n) + (delay == 0) * np.eye(1, n, 0)[0]) for delay in delays
    ]
    np.testing.assert_array_equal(delayed(features, delays), np.concatenate([shift @ features for shift in shifts], axis=1))
    kernel = np.random.default_rng(p).standard_normal(9)
    column = np.concatenate([kernel, np.zeros(n)])[:n]
    np.testing.assert_allclose(convolved(features, kernel), np.tril(toeplitz(column)) @ features, atol=1e-12)


def test_the_kernel_of_a_volume_is_the_response_to_what_was_on_half_a_volume_before_and_after() -> None:
    library, tr = load_default_library(), 1.3
    since = (np.arange(20) + 0.5) * tr  # it began half a repetition time before the volume's time
    expected = sum(response_at(library, 0.1, since - 0.1 * part)[:, 4] for part in range(13))
    found = volume_kernel(library, 4, tr)[:20]
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=0.01)


def world(seed: int = 0) -> SimpleNamespace:
    """Four runs of two features: three to fit, one that shows a test movie twice."""
    rng = np.random.default_rng(seed)
    lengths = np.array([60, 50, 70, 80], dtype=np.intp)
    features = rng.standard_normal((lengths.sum(), 2))
    bases = []
    for n in lengths:
        on = (np.arange(n) >= 5).astype(float)
        bases.append(nuisance_basis(polynomial_basis(n, 2), rng.standard_normal((n, 1)), on, range(4)))
    first = np.concatenate([[0], np.cumsum(lengths)])
    train = np.concatenate([np.arange(first[run] + 8, first[run + 1]) for run in range(3)])
    fold = np.repeat(np.arange(3), lengths[:3] - 8)
    test = np.concatenate([first[3] + np.arange(10, 40), first[3] + np.arange(45, 75)])
    timeline = Timeline(lengths, bases, train, test, np.tile(np.arange(30), 2), fold.astype(np.intp))
    return SimpleNamespace(rng=rng, features=features, timeline=timeline, first=first)


def test_regressors_and_penalties_by_runs_are_those_of_a_dense_solution() -> None:
    made = world()
    timeline, rng = made.timeline, made.rng
    delays = (1, 2, 4)
    train, test = design_rows(timeline, made.features, lambda rows: delayed(rows, delays))
    parts = []
    for run, basis in enumerate(timeline.bases):
        own = made.features[made.first[run] : made.first[run + 1]]
        rows = np.concatenate([np.vstack([np.zeros((delay, 2)), own[:-delay]]) for delay in delays], axis=1)
        parts.append(rows - basis @ np.linalg.lstsq(basis, rows, rcond=None)[0])
    whole = np.concatenate(parts)
    np.testing.assert_allclose(train, whole[timeline.train], atol=1e-5)
    np.testing.assert_allclose(test, (whole[timeline.test[:30]] + whole[timeline.test[30:]]) / 2, atol=1e-5)

    responses = train.astype(np.float64) @ rng.standard_normal((6, 5)) + rng.standard_normal((len(train), 5))
    alphas = np.array([1.0, 30.0, 1000.0])
    folds = [np.flatnonzero(timeline.fold == fold) for fold in range(3)]
    fit = fit_ridge(train.astype(np.float64), responses, alphas, folds=folds)
    for place, alpha in enumerate(alphas):
        errors, total = np.zeros(5), np.zeros(5)
        for rows in folds:
            kept = np.setdiff1d(np.arange(len(train)), rows)
            x, y = np.float64(train[kept]), responses[kept]
            xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
            weights = np.linalg.solve(xc.T @ xc + alpha * np.eye(6), xc.T @ yc)
            errors += np.square(responses[rows] - y.mean(axis=0) - (train[rows] - x.mean(axis=0)) @ weights).sum(axis=0)
            total += np.square(responses[rows] - y.mean(axis=0)).sum(axis=0)
        np.testing.assert_allclose(fit.cv_scores[place], 1 - errors / total, rtol=1e-6)


def test_nuisances_out_of_both_sides_give_the_weights_of_the_joint_model() -> None:
    made = world(1)
    run = slice(made.first[0], made.first[1])
    basis, features = made.timeline.bases[0], made.features[run]
    truth = made.rng.standard_normal((2, 4))
    series = features @ truth + 50 * basis @ made.rng.standard_normal((basis.shape[1], 4)) + made.rng.standard_normal((60, 4))
    joint = np.linalg.lstsq(np.column_stack([features, basis]), series, rcond=None)[0][:2]
    cleaned = clean_run(series, basis, np.arange(60, dtype=np.intp), 60)
    scale = (series - basis @ (basis.T @ series)).std(axis=0)
    one = Timeline(np.array([60]), [basis], np.arange(60), np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(60, np.intp))
    rows = design_rows(one, features, lambda values: values)[0]
    np.testing.assert_allclose(np.linalg.lstsq(rows.astype(np.float64), cleaned * scale, rcond=None)[0], joint, atol=1e-4)
    np.testing.assert_allclose(cleaned.std(axis=0), 1, atol=1e-5)
    assert np.isnan(clean_run(np.full((60, 1), 7e4), basis, np.arange(60, dtype=np.intp), 60)).all()
    part = clean_run(series, basis, np.arange(60, dtype=np.intp), 40)
    np.testing.assert_allclose(part[:40].std(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(part[:40].mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("presentations", [2, 5])
def test_explainable_variance_is_the_share_of_the_signal(presentations: int) -> None:
    rng = np.random.default_rng(presentations)
    n, n_units, noise = 400, 60, np.repeat([0.5, 1.0, 2.0], 20)
    signal = rng.standard_normal((n, n_units))
    shown = signal + noise * rng.standard_normal((presentations, n, n_units))
    counts = np.full(n, presentations)
    found = explainable_variance(shown.sum(axis=0), np.square(shown).sum(axis=(0, 1)), counts)
    for level in np.unique(noise):
        units = noise == level
        assert found.single[units].mean() == pytest.approx(100 / (1 + level**2), abs=2)
        assert found.ceiling[units].mean() == pytest.approx(100 / (1 + level**2 / presentations), abs=2)
    once = explainable_variance(shown[0], np.zeros(n_units), np.ones(n, dtype=np.intp))
    assert np.isnan(once.ceiling).all()
    np.testing.assert_allclose(once.mean, shown[0], rtol=1e-6)
    nothing = rng.standard_normal((2, n, n_units))
    pure = explainable_variance(nothing.sum(axis=0), np.square(nothing).sum(axis=(0, 1)), np.full(n, 2))
    assert pure.single.mean() < 5


def test_moments_that_were_shown_more_often_count_as_such() -> None:
    rng = np.random.default_rng(0)
    counts = np.repeat([1, 3], 500)
    signal = rng.standard_normal((1000, 40))
    sums, squares = counts[:, None] * signal, np.zeros(40)
    for _ in range(3):
        noise = rng.standard_normal((1000, 40))
        again = counts == 3
        sums[again] += noise[again]
        squares += np.square(signal[again] + noise[again]).sum(axis=0)
    sums[counts == 1] += rng.standard_normal((500, 40))
    found = explainable_variance(sums, squares, counts)
    assert found.ceiling.mean() == pytest.approx(100 / (1 + (1 + 1 / 3) / 2), abs=1.5)
    assert found.single.mean() == pytest.approx(50, abs=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.frozensets(st.sampled_from("abcdefgh"), min_size=1, max_size=2), min_size=1, max_size=7))
def test_no_movie_is_in_two_folds_unless_every_run_would_be_one(shown: list[frozenset[str]]) -> None:
    blocks = group_runs(shown)
    assert sorted(set(blocks.tolist())) == list(range(max(blocks) + 1))
    graph = np.array([[bool(one & other) for other in shown] for one in shown])
    reached = np.linalg.matrix_power(graph.astype(int), len(shown)) > 0
    if reached.all():
        assert blocks.tolist() == list(range(len(shown)))
    else:
        np.testing.assert_array_equal(blocks[:, None] == blocks, reached)


def test_autocorrelated_rows_are_fewer_than_they_seem() -> None:
    rng = np.random.default_rng(0)
    white = rng.standard_normal((2, 2000, 30))
    blocks = np.repeat(np.arange(100), 20)
    assert independent_rows(white[0], white[1], blocks) == pytest.approx(2000, rel=0.05)
    slow = white.copy()
    for k in range(1, 2000):
        slow[:, k] = 0.7 * slow[:, k - 1] + np.sqrt(1 - 0.49) * white[:, k]
    assert independent_rows(slow[0], slow[1], blocks) == pytest.approx(2000 * (1 - 0.49) / (1 + 0.49), rel=0.15)


def test_the_screen_knows_what_is_on_and_refuses_features_that_end_too_soon() -> None:
    frames = SimpleNamespace(times=np.arange(0, 20, 0.5), values=np.arange(40.0)[:, None])
    screen = show([Shown(3.0, 12.0, [frames], 7)], 10, 2.0, 1.0, [1])
    assert screen.label.tolist() == [-1, 7, 7, 7, 7, 7, 7, -1, -1, -1]
    np.testing.assert_allclose(screen.on, [0, 0.5, 1, 1, 1, 1, 1, 0.5, 0, 0])
    np.testing.assert_allclose(screen.time[1:7], np.arange(0, 12, 2))
    np.testing.assert_allclose(screen.features[0][:3, 0], [0, 0.5 * 0.5, (2 + 3 + 4 + 5) / 4])
    with pytest.raises(ValueError, match="none for") as error:
        show([Shown(3.0, 25.0, [frames], 7)], 20, 2.0, 1.0, [1])
    assert error.value.args[:2] == (7, 0)
