"""The unrolled network: any context and any units, in any order; interrupted training is training; and it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conform_bids.encode.numerics.baselines import ridge
from conform_bids.encode.numerics.optimise import Checkpoint, Recipe
from conform_bids.encode.numerics.population import Context
from conform_bids.encode.numerics.unrolled import NetworkSize, UnrolledModel
from conform_bids.encode.numerics.unrolled_fit import UnrolledOptions, fit_unrolled
from conform_bids.encode.numerics.worlds import World, WorldSize, in_family_world

SIZE = WorldSize(n_features=12, n_people=3, n_units=200, n_stimuli=150, n_new=1, n_new_units=80, n_test=100)
OPTIONS = UnrolledOptions(steps=12, contexts=2, units=32, bf16=False, size=NetworkSize(24, 32, 2), save_every=5)


@pytest.fixture(scope="module")
def world() -> World:
    return in_family_world(3, SIZE)


@pytest.fixture(scope="module")
def model(world: World) -> UnrolledModel:
    return fit_unrolled(world.training, OPTIONS)


def test_order_of_stimuli_and_units_does_not_matter(model: UnrolledModel, world: World) -> None:
    context = world.new[0].context(20)
    rng = np.random.default_rng(0)
    stimuli, units = rng.permutation(20), rng.permutation(80)
    expected = model.adapt(context, world.new[0].test_features[:4])
    found = model.adapt(Context(context.features[stimuli], context.responses[np.ix_(stimuli, units)]), world.new[0].test_features[:4])
    np.testing.assert_allclose(found.weights, expected.weights[:, units], atol=2e-4)
    np.testing.assert_allclose(found.bias, expected.bias[units], atol=2e-4)
    assert found.prediction_variance is not None
    assert expected.prediction_variance is not None
    np.testing.assert_allclose(found.prediction_variance, expected.prediction_variance[:, units], rtol=1e-2)
    assert (found.prediction_variance > 0).all()


@pytest.mark.parametrize(("k", "n_units"), [(1, 1), (4, 80), (150, 3)])
def test_any_context_and_any_units(model: UnrolledModel, world: World, k: int, n_units: int) -> None:
    drawn = world.new[0].context(k)
    found = model.adapt(Context(drawn.features, drawn.responses[:, :n_units]))
    assert found.weights.shape == (12, n_units)
    assert np.isfinite(found.weights).all()
    assert ((found.signal_share >= 0) & (found.signal_share <= 1)).all()


def test_an_interrupted_training_ends_as_one_that_was_not(model: UnrolledModel, world: World) -> None:
    saved: list[Checkpoint] = []
    again = fit_unrolled(world.training, OPTIONS, save=saved.append)
    assert [checkpoint.step for checkpoint in saved] == [5, 10]
    resumed = fit_unrolled(world.training, OPTIONS, resume=saved[0])
    for name, values in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], values)
        np.testing.assert_array_equal(resumed.weights[name], values)
    np.testing.assert_array_equal(resumed.losses, model.losses)
    other = fit_unrolled(world.training, replace(OPTIONS, seed=1))
    assert not np.allclose(other.losses, model.losses)
    with pytest.raises(ValueError, match="another network"):
        fit_unrolled(world.training, replace(OPTIONS, size=NetworkSize(16, 32, 2)), resume=saved[0])


def test_a_model_is_its_state(model: UnrolledModel, world: World) -> None:
    context = world.new[0].context(10)
    again = UnrolledModel.from_state(*model.state())
    np.testing.assert_array_equal(again.adapt(context).weights, model.adapt(context).weights)


def test_units_together_correct_what_each_says(model: UnrolledModel, world: World) -> None:
    """By a map that is the same for all units; a unit by itself, or a model that does not pool, has none."""
    person = world.new[0]
    context = person.context(40)
    alone, together = (replace(model, pools=pools).adapt(context).weights for pools in (False, True))
    assert person.score(together).mean() > person.score(alone).mean() - 0.002  # a network that learned for 12 steps
    known = np.vstack([np.ones(alone.shape[1]), alone])
    left = together - alone - (together - alone) @ np.linalg.pinv(known) @ known
    assert np.abs(left).max() < 1e-3 * np.abs(together).max()
    again = UnrolledModel.from_state(*replace(model, pools=False).state())
    np.testing.assert_array_equal(again.adapt(context).weights, alone)


def test_what_does_not_fit_is_refused(model: UnrolledModel, world: World) -> None:
    context = world.new[0].context(5)
    for features, responses in (
        (context.features[:, :3], context.responses),
        (context.features[:2], context.responses),
        (context.features, np.full_like(context.responses, np.nan)),
    ):
        with pytest.raises(ValueError, match="context"):
            model.adapt(Context(features, responses))
    with pytest.raises(ValueError, match="one training person"):
        fit_unrolled([], OPTIONS)


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(steps=1000, learning_rate=1.0, warm_up=10)
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in (9, 10)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)
    assert (np.diff(rates[10:]) < 0).all()


@pytest.mark.slow
def test_it_learns_more_than_ridge_knows(world: World) -> None:
    trained = fit_unrolled(world.training, replace(OPTIONS, steps=250, units=128, contexts=4, size=NetworkSize(64, 96, 3)))
    person = world.new[0]
    for k in (10, 30):
        scores = [
            (person.score(trained.adapt(c).weights).mean(), person.score(ridge(c).weights).mean(), person.score(world.bayes(c)).mean())
            for c in (person.context(k, draw) for draw in range(4))
        ]
        own, alone, best = np.mean(scores, axis=0)
        assert own > alone + 0.02
        assert own > 0.85 * best
