"""The in-context transformer: the published size, sets of any size, and a training that can be interrupted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conform_bids.encode.numerics.incontext import InContextModel, read_out_attention
from conform_bids.encode.numerics.incontext_fit import InContextOptions, fit_incontext
from conform_bids.encode.numerics.optimise import Checkpoint
from conform_bids.encode.numerics.population import Context
from conform_bids.encode.numerics.transformer import Attention, InContextTransformer, Shape, paper_shape, small_shape
from conform_bids.encode.numerics.worlds import World, WorldSize, in_family_world

SIZE = WorldSize(n_features=10, n_people=2, n_units=120, n_stimuli=160, n_new=1, n_new_units=40, n_test=60)
TINY = Shape(10, width=16, n_blocks=2, n_heads=2, hidden=24)
OPTIONS = InContextOptions(steps=10, bf16=False, shape=TINY, save_every=4)


@pytest.fixture(scope="module")
def world() -> World:
    return in_family_world(5, SIZE)


@pytest.fixture(scope="module")
def model(world: World) -> InContextModel:
    return fit_incontext(world.training, OPTIONS)


def test_the_published_network_has_the_published_size() -> None:
    with torch.device("meta"):
        assert InContextTransformer(paper_shape(512)).n_parameters == 97_074_852
        assert InContextTransformer(small_shape(512)).n_parameters < 1_300_000
    assert paper_shape(768).width == 800
    assert paper_shape(1152).width == 1200
    with pytest.raises(ValueError, match="cannot share"):
        Shape(10, width=10, n_blocks=1, n_heads=3, hidden=8)


def test_order_of_stimuli_and_units_does_not_matter(model: InContextModel, world: World) -> None:
    context = world.new[0].context(20)
    rng = np.random.default_rng(0)
    stimuli, units = rng.permutation(20), rng.permutation(40)
    queries = world.new[0].test_features[:4]
    expected = model.adapt(context, queries)
    found = model.adapt(Context(context.features[stimuli], context.responses[np.ix_(stimuli, units)]), queries)
    np.testing.assert_allclose(found.weights, expected.weights[:, units], atol=1e-5)
    assert found.prediction_variance is not None
    assert expected.prediction_variance is not None
    np.testing.assert_allclose(found.prediction_variance, expected.prediction_variance[:, units], rtol=1e-3)


@pytest.mark.parametrize(("k", "n_units"), [(1, 1), (7, 40), (160, 2)])
def test_any_context_and_any_units(model: InContextModel, world: World, k: int, n_units: int) -> None:
    drawn = world.new[0].context(k)
    found = model.adapt(Context(drawn.features, drawn.responses[:, :n_units]))
    assert found.weights.shape == (10, n_units)
    assert np.isfinite(found.weights).all()


def test_attention_over_the_context_sums_to_one(model: InContextModel, world: World) -> None:
    shares = read_out_attention(model, world.new[0].context(9))
    assert shares.shape == (9, 40)
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-5)


def test_queries_grow_with_the_logarithm_of_the_length() -> None:
    torch.manual_seed(0)
    attention = Attention(TINY)
    with torch.no_grad():
        attention.query.bias.zero_()
    x = torch.randn(1, 12, 16)
    plain = attention.query(x).unflatten(-1, (2, -1)).transpose(1, 2) * math.log(12)
    keys = attention.key(x).unflatten(-1, (2, -1)).transpose(1, 2)
    expected = (plain @ keys.transpose(-2, -1) / math.sqrt(8)).softmax(-1)
    torch.testing.assert_close(attention.shares(x, 12), expected)
    taken = expected @ attention.value(x).unflatten(-1, (2, -1)).transpose(1, 2)
    torch.testing.assert_close(attention(x, 12), attention.project(taken.transpose(1, 2).flatten(2)))


def test_registers_stand_in_front_and_the_first_is_read(model: InContextModel) -> None:
    network = model.network
    shares = network.read_out_attention(torch.randn(3, 5, 10), torch.randn(3, 5))
    assert shares.shape == (3, 4 + 5)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(3))


def test_an_interrupted_training_ends_as_one_that_was_not(model: InContextModel, world: World) -> None:
    saved: list[Checkpoint] = []
    fit_incontext(world.training, OPTIONS, save=saved.append)
    assert [checkpoint.step for checkpoint in saved] == [4, 8]
    resumed = fit_incontext(world.training, OPTIONS, resume=saved[0])
    np.testing.assert_array_equal(resumed.losses, model.losses)
    for one, two in zip(resumed.network.parameters(), model.network.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not np.allclose(fit_incontext(world.training, replace(OPTIONS, seed=1)).losses, model.losses)


def test_a_model_is_its_state(model: InContextModel, world: World) -> None:
    context = world.new[0].context(10)
    again = InContextModel.from_state(*model.state())
    queries = world.new[0].test_features[:3]
    one, two = again.adapt(context, queries), model.adapt(context, queries)
    np.testing.assert_array_equal(one.weights, two.weights)
    np.testing.assert_allclose(one.prediction_variance, two.prediction_variance)


@pytest.mark.slow
def test_it_learns(world: World) -> None:
    options = replace(OPTIONS, steps=400, shape=Shape(10, width=48, n_blocks=2, n_heads=4, hidden=96))
    trained, person = fit_incontext(world.training, options), world.new[0]
    contexts = [person.context(30, draw) for draw in range(4)]
    score = np.mean([person.score(trained.adapt(context).weights).mean() for context in contexts])
    assert score > 0.6 * np.mean([person.score(world.bayes(context)).mean() for context in contexts])
