"""Leave-one-out errors are those of refits, and the guard tells a right prior from a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conform_bids.encode.numerics.baselines import fit_group_average, nested_loo_residuals, ridge
from conform_bids.encode.numerics.guard import adapt_guarded, bayesian_ridge, decide, evidence_gain
from conform_bids.encode.numerics.influence import influence
from conform_bids.encode.numerics.mixture import PriorModel, PriorOptions, fit_prior
from conform_bids.encode.numerics.mixture_loo import loo_residuals
from conform_bids.encode.numerics.population import Adapted, Context, FloatArray, TrainingPerson
from conform_bids.encode.numerics.worlds import World, WorldSize, in_family_world

SIZE = WorldSize(n_features=24, n_people=3, n_units=300, n_stimuli=200, n_new=1, n_new_units=150, n_test=100)


@dataclass(frozen=True)
class Wrapped:
    """Any other engine: what the guard knows of it is `adapt` alone."""

    inner: PriorModel
    name: str = "wrapped"

    def adapt(self, context: Context, queries: FloatArray | None = None) -> Adapted:
        return self.inner.adapt(context, queries)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
        return self.inner.state()


@pytest.fixture(scope="module")
def worlds() -> tuple[World, World]:
    return in_family_world(1, SIZE), in_family_world(2, SIZE)


@pytest.fixture(scope="module")
def model(worlds: tuple[World, World]) -> PriorModel:
    return fit_prior(worlds[0].training, PriorOptions(n_components=8, n_iterations=10))


def test_mixture_loo_is_refitting(model: PriorModel, worlds: tuple[World, World]) -> None:
    drawn = worlds[0].new[0].context(9)
    context = Context(drawn.features.astype(np.float64), drawn.responses[:, :20].astype(np.float64))
    plain = replace(model, options=replace(model.options, pooling_rounds=0))
    found = loo_residuals(model, context)
    for i in range(9):
        kept = np.arange(9) != i
        fit = plain.adapt(Context(context.features[kept], context.responses[kept]))
        np.testing.assert_allclose(found[i], context.responses[i] - (context.features[i] @ fit.weights + fit.bias), atol=1e-8)


def test_nested_ridge_loo_is_refitting(worlds: tuple[World, World]) -> None:
    """Only penalties' scale differs when a stimulus is away (they are relative to the kernel); features of equal norm make it the same."""
    rng = np.random.default_rng(0)
    x = np.vstack([np.eye(8), -np.eye(8)])[rng.permutation(16)]
    y = x @ rng.standard_normal((8, 12)) + rng.standard_normal((16, 12))
    found = nested_loo_residuals(Context(x, y), intercept=True)
    alphas = np.geomspace(1e-3, 1e3, 13)
    for i in range(16):
        rest = np.setdiff1d(np.arange(16), i)
        errors = np.zeros((13, 12))
        for a, alpha in enumerate(alphas):
            for j in rest:
                kept = np.setdiff1d(rest, j)
                errors[a] += (y[j] - refit(x[kept], y[kept], x[j], alpha)) ** 2
        for unit, best in enumerate(errors.argmin(axis=0)):
            expected = y[i, unit] - refit(x[rest], y[rest], x[i], alphas[best])[unit]
            assert found[i, unit] == pytest.approx(expected, abs=1e-4)


def refit(x: FloatArray, y: FloatArray, query: FloatArray, alpha: float) -> FloatArray:
    centre, offset = x.mean(axis=0), y.mean(axis=0)
    z = x - centre
    weights = np.linalg.solve(z.T @ z + alpha * np.eye(x.shape[1]), z.T @ (y - offset))
    return np.asarray(offset + (query - centre) @ weights)


def test_ridge_has_an_intercept_and_recovers_strong_signals() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((60, 5)) + 2, rng.standard_normal((5, 3))
    fit = ridge(Context(x, x @ w + 7 + 0.01 * rng.standard_normal((60, 3))), intercept=True)
    np.testing.assert_allclose(fit.weights, w, atol=0.02)
    np.testing.assert_allclose(fit.bias, 7, atol=0.1)
    assert (fit.signal_share > 0.99).all()
    assert (ridge(Context(x, rng.standard_normal((60, 50)))).signal_share < 0.4).all()


def test_one_penalty_for_all_units_is_the_best_in_sum() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((14, 6)), rng.standard_normal((14, 9))
    context = Context(x, y)
    alone = np.stack([nested_loo_residuals(Context(x, y[:, [unit]]), shared=True)[:, 0] for unit in range(9)], axis=1)
    np.testing.assert_allclose(alone, nested_loo_residuals(context), atol=1e-12)
    whole = nested_loo_residuals(context, shared=True)
    copies = nested_loo_residuals(Context(x, np.repeat(y, 3, axis=1)), shared=True)
    np.testing.assert_allclose(copies[:, ::3], whole, atol=1e-12)
    weights = ridge(context, shared=True).weights
    singles = [ridge(Context(x, np.column_stack([y[:, [unit]]] * 2))).weights[:, 0] for unit in range(9)]
    assert not np.allclose(weights, np.stack(singles, axis=1)), "units choose differently by themselves"


def test_evidence_tells_populations_apart(model: PriorModel, worlds: tuple[World, World]) -> None:
    assert evidence_gain(model, worlds[0].new[0].context(15)) > 0.005
    assert evidence_gain(model, worlds[1].new[0].context(15)) < 0.002
    assert evidence_gain(bayesian_ridge(model), worlds[0].new[0].context(15)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("wrapped", [False, True])
def test_right_prior_is_kept_and_wrong_one_is_not(model: PriorModel, worlds: tuple[World, World], wrapped: bool) -> None:
    engine = Wrapped(model) if wrapped else model
    right, decision = adapt_guarded(engine, worlds[0].new[0].context(30))
    assert decision.accepted
    assert decision.ratio < 0.95
    np.testing.assert_array_equal(right.weights, model.adapt(worlds[0].new[0].context(30)).weights)
    person = worlds[0].new[0].context(30)
    context = Context(person.features, -person.responses)  # someone whose tunings are all the opposite
    wrong, decision = adapt_guarded(engine, context)
    assert not decision.accepted
    np.testing.assert_array_equal(wrong.weights, ridge(context).weights)


@pytest.mark.parametrize("k", [10, 20, 40])
def test_another_population_costs_nothing(model: PriorModel, worlds: tuple[World, World], k: int) -> None:
    person = worlds[1].new[0]
    context = person.context(k)
    guarded, _ = adapt_guarded(model, context)
    assert person.score(guarded.weights).mean() > person.score(ridge(context).weights).mean() - 0.01


def test_guard_needs_a_few_stimuli(model: PriorModel, worlds: tuple[World, World]) -> None:
    with pytest.raises(ValueError, match="too few"):
        decide(model, worlds[0].new[0].context(3))


def test_group_average_is_the_mean_and_refuses_other_units(worlds: tuple[World, World]) -> None:
    person = worlds[0].training[0]
    average = fit_group_average([person, TrainingPerson(person.features, -person.responses)])
    np.testing.assert_allclose(average.weights, 0, atol=1e-5)
    with pytest.raises(ValueError, match="300 units"):
        average.adapt(worlds[0].new[0].context(5))
    arrays, settings = average.state()
    np.testing.assert_array_equal(type(average).from_state(arrays, settings).weights, average.weights)


def test_influence_is_the_derivative_where_one_component_decides(worlds: tuple[World, World]) -> None:
    one = fit_prior(worlds[0].training, PriorOptions(n_components=1, ceilings=(0.4,), pooling_rounds=0))
    drawn = worlds[0].new[0].context(10)
    context = Context(drawn.features.astype(np.float64), drawn.responses[:, :4].astype(np.float64))
    found = influence(one, context)
    base = one.adapt(context)
    scale = np.linalg.pinv(one.basis.projection)
    for i in (0, 7):
        moved = context.responses.copy()
        moved[i] += 1
        change = scale @ (one.adapt(Context(context.features, moved)).weights - base.weights)
        np.testing.assert_allclose(np.linalg.norm(change, axis=0), found[i], atol=1e-9)
    assert found.shape == (10, 4)


def test_influence_in_blocks_is_the_same(model: PriorModel, worlds: tuple[World, World]) -> None:
    context = worlds[0].new[0].context(10)
    small = replace(model, options=replace(model.options, block_bytes=1))
    np.testing.assert_allclose(influence(small, context), influence(model, context), atol=1e-5)
