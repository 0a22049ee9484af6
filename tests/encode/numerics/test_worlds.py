"""The populations of tests and benchmarks are what they say, and their Bayes is the best answer."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.encode.numerics.population import Context
from conform_bids.encode.numerics.worlds import TruthSample, TypeTruth, World, WorldSize, in_family_world, out_of_family_world

SIZE = WorldSize(n_features=16, n_people=1, n_units=400, n_stimuli=300, n_new=1, n_new_units=300, n_test=200, n_samples=2000)


@pytest.fixture(scope="module", params=[in_family_world, out_of_family_world])
def world(request: pytest.FixtureRequest) -> World:
    return request.param(3, SIZE)  # type: ignore[no-any-return]


def test_responses_have_unit_variance_and_no_offset(world: World) -> None:
    person = world.training[0]
    assert person.responses.shape == (300, 400)
    assert person.responses.var() == pytest.approx(1, abs=0.06)
    assert abs(person.responses.mean()) < 0.02


def test_same_seed_same_world(world: World) -> None:
    again = (in_family_world if world.name == "in" else out_of_family_world)(3, SIZE)
    np.testing.assert_array_equal(again.new[0].responses, world.new[0].responses)
    np.testing.assert_array_equal(again.new[0].context(12).features, world.new[0].context(12).features)


def test_bayes_beats_ridge_with_few_stimuli(world: World) -> None:
    person = world.new[0]
    context = person.context(15)
    x, y = context.features.astype(float), context.responses.astype(float)
    ridge = max(person.score(x.T @ np.linalg.solve(x @ x.T + a * np.eye(15), y)).mean() for a in (1.0, 10.0, 100.0))
    assert person.score(world.bayes(context)).mean() > ridge + 0.05


def test_bayes_of_one_type_is_its_gaussian_posterior() -> None:
    rng = np.random.default_rng(0)
    x, y, mean = rng.standard_normal((7, 3)), rng.standard_normal((7, 2)), np.array([1.0, 0.0, -1.0])
    sampled = TruthSample(mean[None], 0.5).posterior_mean(Context(x, y))
    levels = []
    log_evidence = []
    for ceiling in np.linspace(0.09, 0.71, 9):
        covariance = ceiling * 0.5 * x @ x.T + (1 - ceiling) * np.eye(7)
        residual = y - np.sqrt(ceiling) * (x @ mean)[:, None]
        solved = np.linalg.solve(covariance, residual)
        levels.append(np.sqrt(ceiling) * mean[:, None] + ceiling * 0.5 * x.T @ solved)
        log_evidence.append(-0.5 * (residual * solved).sum(0) - 0.5 * np.linalg.slogdet(covariance)[1])
    share = np.exp(log_evidence - np.max(log_evidence, axis=0))
    expected = (np.asarray(levels) * (share / share.sum(0))[:, None]).sum(0)
    np.testing.assert_allclose(sampled, expected, rtol=1e-9)


def test_types_are_averaged_by_their_evidence() -> None:
    means = np.array([[3.0, 0.0], [-3.0, 0.0]])
    truth = TypeTruth(means, np.stack([0.01 * np.eye(2)] * 2))
    x = np.random.default_rng(1).standard_normal((40, 2))
    weights = truth.posterior_mean(Context(x, np.column_stack([x @ [2.0, 0.0], x @ [-2.0, 0.0]])))
    assert weights[0, 0] > 1.5
    assert weights[0, 1] < -1.5
