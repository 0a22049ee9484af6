"""What shapes a unit's weights in a network, against differences of its answers; and which stimuli come first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conform_bids.bids.conditions import first_shown
from conform_bids.encode.numerics.contexts import choose_context
from conform_bids.encode.numerics.influence import network_influence
from conform_bids.encode.numerics.population import Context
from conform_bids.encode.numerics.unrolled import NetworkSize, UnrolledModel
from conform_bids.encode.numerics.unrolled_fit import UnrolledOptions, fit_unrolled
from conform_bids.encode.numerics.worlds import WorldSize, in_family_world
from conform_bids.errors import UnusableInputError


def test_influence_in_a_network_is_the_derivative_of_its_weights() -> None:
    world = in_family_world(3, WorldSize(n_features=8, n_people=2, n_units=80, n_stimuli=80, n_new=1, n_new_units=30, n_test=10))
    options = UnrolledOptions(steps=6, contexts=2, units=32, bf16=False, size=NetworkSize(16, 24, 2))
    model: UnrolledModel = fit_unrolled(world.training, options)
    context = world.new[0].context(9)
    found = network_influence(model, context)
    assert found.shape == context.responses.shape
    assert (found > 0).all()
    components = np.linalg.pinv(model.basis.projection)
    step = 0.02
    for place in (0, 4, 8):
        weights = []
        for sign in (1, -1):
            responses = np.array(context.responses)
            responses[place] += sign * step
            weights.append(components @ model.adapt(Context(context.features, responses)).weights)
        slope = np.linalg.norm((weights[0] - weights[1]) / (2 * step), axis=0)
        np.testing.assert_allclose(found[place], slope, rtol=0.03, atol=2e-3)
    longer = world.new[0].context(30)
    longer = replace(longer, responses=longer.responses + 0.5 * longer.features[:, :1])  # all units are shifted alike
    personal = model.personal_map(model.network(), model.rows(longer.features), longer.responses)
    assert personal is not None
    moved, alone = step * (np.arange(30) == 7)[:, None], replace(model, pools=False)
    weights = [components @ alone.adapt(replace(longer, responses=longer.responses + sign * moved)).weights for sign in (1, -1)]
    turned = model.whitening @ (np.eye(len(model.whitening)) + personal.turn) @ np.linalg.inv(model.whitening)
    slope = np.linalg.norm((turned @ np.vstack([weights[0] - weights[1], np.zeros(30)]))[:-1] / (2 * step), axis=0)
    np.testing.assert_allclose(network_influence(model, longer)[7], slope, rtol=0.05, atol=2e-3)
    with pytest.raises(ValueError, match="as many rows"):
        network_influence(model, replace(context, responses=context.responses[:3]))


def test_the_first_stimuli_are_those_that_were_shown_first(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((6, 3))
    order = np.array([4, 2, 5, 0, 1, 3])
    assert choose_context(features, 3, "first", order=order).tolist() == [2, 4, 5]
    assert choose_context(features, 3, "first").tolist() == [0, 1, 2]
    one, two, averages = tmp_path / "one.tsv", tmp_path / "two.tsv", tmp_path / "averages.tsv"
    one.write_text("trial\tstim_id\n0\tb\n1\ta\n2\tb\n")
    two.write_text("trial\tstim_id\n0\tc\n1\ta\n")
    assert first_shown([one, two]) == {"b": 0, "a": 1, "c": 3}
    averages.write_text("condition\tstim_id\tfirst_trial\n0\ta\t7\n1\tb\t2\n")
    assert first_shown([averages]) == {"a": 7, "b": 2}
    averages.write_text("condition\tstim_id\n0\ta\n")
    assert first_shown([averages]) is None
    averages.write_text("condition\tstim_id\tfirst_trial\n0\ta\tsoon\n")
    with pytest.raises(UnusableInputError, match="first_trial"):
        first_shown([averages])
