"""The mixture prior against dense float64 Bayes, and what EM promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conform_bids.encode.numerics.mixture import PriorModel, PriorOptions, fit_prior
from conform_bids.encode.numerics.mixture_terms import Levels, Mixture, draw_posterior, reduce_data
from conform_bids.encode.numerics.population import Context, FloatArray, TrainingPerson
from conform_bids.encode.numerics.worlds import World, WorldSize, in_family_world
from conform_bids.numerics.compute import limit_threads

SIZE = WorldSize(n_features=12, n_people=3, n_units=300, n_stimuli=200, n_new=1, n_new_units=200, n_test=200)
OPTIONS = PriorOptions(n_components=6, ceilings=(0.1, 0.3, 0.6), n_iterations=12)


@pytest.fixture(scope="module")
def world() -> World:
    return in_family_world(1, SIZE)


@pytest.fixture(scope="module")
def model(world: World) -> PriorModel:
    people = [TrainingPerson(p.features.astype(np.float64), p.responses.astype(np.float64)) for p in world.training]
    return fit_prior(people, OPTIONS)


def double(context: Context) -> Context:
    return Context(context.features.astype(np.float64), context.responses.astype(np.float64))


def dense_posterior(model: PriorModel, prior: Mixture, context: Context, queries: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Predicted mean and variance of the noiseless responses to queries, one unit, component and level at a time."""
    x, q = model.basis.apply(context.features, np.float64), model.basis.apply(queries, np.float64)
    means, variances = [], []
    for y in context.responses.T:
        evidence, centre, spread = [], [], []
        for component in range(len(prior.means)):
            for level, c in enumerate(prior.levels.ceilings):
                mean, cov = np.sqrt(c) * prior.means[component], c * prior.covariances[component]
                total = x @ cov @ x.T + (1 - c) * np.eye(len(x))
                gain = cov @ x.T @ np.linalg.inv(total)
                r = y - x @ mean
                evidence.append(prior.log_shares[component, level] - 0.5 * (r @ np.linalg.inv(total) @ r + np.linalg.slogdet(total)[1]))
                centre.append(q @ (mean + gain @ r))
                spread.append(np.diag(q @ (cov - gain @ x @ cov) @ q.T))
        share = np.exp(np.array(evidence) - max(evidence))
        share /= share.sum()
        mean = share @ np.array(centre)
        means.append(mean)
        variances.append(share @ (np.array(spread) + np.array(centre) ** 2) - mean**2)
    return np.array(means).T, np.array(variances).T


@pytest.mark.parametrize("k", [5, 40])
def test_posterior_is_dense_bayes(model: PriorModel, world: World, k: int) -> None:
    context = double(world.new[0].context(k))
    few = Context(context.features, context.responses[:, :6])
    plain = replace(model, options=replace(OPTIONS, pooling_rounds=0))
    queries = world.new[0].test_features[:4].astype(np.float64)
    found = plain.adapt(few, queries)
    mean, variance = dense_posterior(plain, plain.population(), few, queries)
    np.testing.assert_allclose(queries @ found.weights + found.bias, mean, atol=1e-9)
    assert found.prediction_variance is not None
    np.testing.assert_allclose(found.prediction_variance, variance, rtol=5e-3)


def test_objective_never_falls(model: PriorModel) -> None:
    assert len(model.objective) > 3
    assert np.diff(model.objective).min() > -1e-6 * abs(model.objective[-1])
    assert model.objective[-1] - model.objective[0] > 10


def test_pooling_beats_units_alone_and_reaches_bayes(model: PriorModel, world: World) -> None:
    person, alone = world.new[0], replace(model, options=replace(OPTIONS, pooling_rounds=0))
    context = person.context(30)
    pooled, single = (person.score(m.adapt(context).weights).mean() for m in (model, alone))
    assert pooled > single
    assert pooled > 0.97 * person.score(world.bayes(context)).mean()


def test_blocks_and_order_of_units_do_not_matter(model: PriorModel, world: World) -> None:
    context = double(world.new[0].context(20))
    whole = model.adapt(context)
    small = replace(model, options=replace(OPTIONS, block_bytes=1))
    assert len(small.blocks(model.evidence(context))) > 3
    np.testing.assert_allclose(small.adapt(context).weights, whole.weights, atol=1e-9)
    order = np.random.default_rng(0).permutation(200)
    shuffled = model.adapt(Context(context.features, context.responses[:, order]))
    np.testing.assert_allclose(shuffled.weights, whole.weights[:, order], atol=1e-9)


def test_order_and_sufficiency_of_stimuli(model: PriorModel, world: World) -> None:
    context = double(world.new[0].context(60))
    order = np.random.default_rng(1).permutation(60)
    again = model.adapt(Context(context.features[order], context.responses[order]))
    np.testing.assert_allclose(again.weights, model.adapt(context).weights, atol=1e-8)
    data = reduce_data(context.features, context.responses)
    assert data.root.shape == (12, 12)
    np.testing.assert_allclose(data.root.T @ data.targets, context.features.T @ context.responses, atol=1e-9)


def test_single_precision_agrees(model: PriorModel, world: World) -> None:
    context = world.new[0].context(30)
    found = model.adapt(context)
    assert found.weights.dtype == np.float32
    np.testing.assert_allclose(found.weights, model.adapt(double(context)).weights, atol=1e-3)


def test_state_makes_the_same_model_and_seed_the_same_fit(model: PriorModel, world: World) -> None:
    context = world.new[0].context(15)
    arrays, settings = model.state()
    np.testing.assert_array_equal(PriorModel.from_state(arrays, settings).adapt(context).weights, model.adapt(context).weights)
    options = replace(OPTIONS, n_iterations=2, max_units=50)
    one, two = (fit_prior(world.training, options) for _ in range(2))
    np.testing.assert_array_equal(one.mixture.covariances, two.mixture.covariances)


def test_an_offset_of_the_responses_is_found(model: PriorModel, world: World) -> None:
    people = [TrainingPerson(p.features + 3, p.responses + 1) for p in world.training]
    shifted = fit_prior(people, replace(OPTIONS, n_iterations=6))
    context, person = world.new[0].context(20), world.new[0]
    found = shifted.adapt(Context(context.features + 3, context.responses + 1))
    predicted = (person.test_features + 3) @ found.weights + found.bias
    assert abs(predicted.mean() - 1) < 0.15


def test_expected_share_is_calibrated(model: PriorModel, world: World) -> None:
    person = world.new[0]
    found = model.adapt(person.context(30), person.test_features)
    assert found.prediction_variance is not None
    ceiling = np.median(person.test_signal.var(axis=0))
    assert 0 < found.signal_share.mean() < 1.2 * ceiling
    tuned = (person.test_features @ found.weights).var(axis=0)
    assert tuned.mean() == pytest.approx(found.signal_share.mean(), rel=0.15)


@pytest.mark.parametrize("bad", ["features", "rows", "nan"])
def test_wrong_contexts_are_refused(model: PriorModel, world: World, bad: str) -> None:
    context = double(world.new[0].context(5))
    x, y = context.features, context.responses
    if bad == "nan":
        y[0, 0] = np.nan
    context = {"features": Context(x[:, :-1], y), "rows": Context(x[:-1], y), "nan": Context(x, y)}[bad]
    with pytest.raises(ValueError, match={"features": "12 features", "rows": "as many rows", "nan": "finite"}[bad]):
        model.adapt(context)


def test_draws_from_the_posterior_have_its_moments() -> None:
    """Against the mixture of dense Gaussian posteriors, one a component and level; all units have the same responses."""
    rng = np.random.default_rng(4)
    d, n, n_draws, ceilings = 3, 6, 40_000, np.array([0.2, 0.6])
    x, means = rng.standard_normal((n, d)), rng.standard_normal((2, d))
    roots = rng.standard_normal((2, d, d)) * 0.4
    mixture = Mixture(np.log([[0.2, 0.3], [0.1, 0.4]]), means, roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(d), Levels(ceilings))
    y = 0.6 * x @ means.mean(axis=0) + rng.standard_normal(n)
    logs, centres, seconds = [], [], []
    for k in range(2):
        for level, c in enumerate(ceilings):
            s, prior = np.sqrt(c), mixture.covariances[k]
            total = c * x @ prior @ x.T + (1 - c) * np.eye(n)
            left = y - s * x @ means[k]
            gain = s * prior @ x.T @ np.linalg.inv(total)
            logs.append(mixture.log_shares[k, level] - 0.5 * (np.linalg.slogdet(total)[1] + left @ np.linalg.solve(total, left)))
            centres.append(means[k] + gain @ left)
            seconds.append(prior - s * gain @ x @ prior + np.outer(centres[-1], centres[-1]))
    share = np.exp(np.array(logs) - max(logs))
    share /= share.sum()
    assert share.max() < 0.9, "several of them have to be possible"
    data = reduce_data(x, np.repeat(y[:, None], n_draws, axis=1))
    tunings, drawn = draw_posterior(mixture, data, rng)
    mean, second = share @ np.array(centres), np.einsum("p,pij->ij", share, np.array(seconds))
    np.testing.assert_allclose(tunings.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(tunings.T @ tunings / n_draws, second, atol=0.05)
    low = share[[0, 2]].sum()
    assert np.mean(drawn < 0.4) == pytest.approx(low, abs=0.01)
    assert drawn.min() >= 0.15
    assert drawn.max() <= 0.8


def test_threads_change_nothing(model: PriorModel, world: World) -> None:
    """Blocks of units are shared out among threads, as training people are; the blocks are smaller then, and rounding may differ."""
    context, queries = double(world.new[0].context(30)), world.new[0].test_features[:5].astype(np.float64)
    found = []
    for n_threads in (1, 2):
        with limit_threads(n_threads):
            fitted = fit_prior(world.training, OPTIONS)
            small = replace(model, options=replace(model.options, block_bytes=60_000))
            assert len(small.blocks(small.evidence(context), 5, n_threads)) > 2
            adapted = small.adapt(context, queries)
        found.append((fitted.mixture.means, adapted.weights, adapted.prediction_variance))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
