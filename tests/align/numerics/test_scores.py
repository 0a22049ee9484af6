"""What is chosen from the data, leave-one-person-out scores, and the control at chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from conform_bids.align.numerics.data import standardise
from conform_bids.align.numerics.options import FAMILIES, AlignOptions, Setting
from conform_bids.align.numerics.ridge import ridge_map, stack_weights
from conform_bids.align.numerics.scores import identify, leave_one_person_out, parcel_means, score_person, shuffle_stimuli
from conform_bids.align.numerics.tuning import choose_setting
from conform_bids.numerics.compute import Compute

OPTIONS = AlignOptions(dimensions=(4, 12), widths=(0.0, 1.0), kernels=((1.5, 0.05), (2.5, 0.05)))


def choose(people: object, options: AlignOptions) -> Setting:
    standards = [standardise(person, options.z_score) for person in people.training]
    return choose_setting(people.training, standards, people.parcels, options, Compute(), people.coordinates)


@pytest.fixture(scope="module")
def setting(people: object) -> Setting:
    return choose(people, OPTIONS)


def test_the_true_number_of_dimensions_is_chosen(people: object, setting: Setting) -> None:
    assert setting.dimensions == {"zero": 12, "group": 12, "kernel": 12}
    assert setting.weights["anatomy"] < 0.2 and 0.7 < sum(setting.weights.values()) < 1.3
    assert set(setting.widths) == set(FAMILIES) and len(setting.scores) == 2 + 2 * 2 + 2 * 2 + 2 * 3
    assert choose(people, AlignOptions("srm", dimensions=(2, 12))).dimensions == {"srm": 12}
    assert choose(people, AlignOptions("procrustes")).weights == {"procrustes": 1.0}


def test_anatomy_is_kept_where_it_is_right(simulate_people: Callable) -> None:
    right = simulate_people(shift=0, n_train=25)
    chosen = choose(right, OPTIONS)
    # whatever shares the weight with it, the stack is not worse than anatomy
    scores = score_person(1, right.training, right.test, right.parcels, OPTIONS, Compute(), right.coordinates, chosen, anatomy_of(chosen))
    assert np.nanmean(scores.gain) > -0.01


def anatomy_of(setting: Setting) -> Setting:
    return Setting(widths={"anatomy": setting.widths["anatomy"]}, weights={"anatomy": 1.0})


def test_scores_of_left_out_people(people: object, setting: Setting) -> None:
    scores = leave_one_person_out(people.training, people.test, people.parcels, OPTIONS, Compute(), people.coordinates, setting)
    assert len(scores) == 4
    for each in scores:
        assert np.nanmean(each.normalised) > np.nanmean(each.anatomy_normalised) + 0.1
        np.testing.assert_allclose(each.normalised, each.correlation * np.sqrt(1 + 0.7**2), rtol=1e-5)
        assert (each.gain > 0.05).all() and each.gain.shape == (2,)
        assert each.chance == 1 / 40 and (each.identification > 10 * each.chance).all()
        assert (each.identification > each.anatomy_identification).all()
        assert np.mean(each.isc_after) > np.mean(each.isc_before) + 0.1
    with pytest.raises(ValueError, match="three or more"):
        leave_one_person_out(people.training[:2], people.test[:2], people.parcels)


@pytest.mark.parametrize("method", ["stack", "procrustes"])
def test_shuffled_stimuli_are_at_chance(people: object, setting: Setting, method: str) -> None:
    training, test = list(people.training), list(people.test)
    training[0], test[0] = shuffle_stimuli(training[0], 1), shuffle_stimuli(test[0], 2)
    options = OPTIONS if method == "stack" else AlignOptions(method)
    given = setting if method == "stack" else Setting(weights={method: 1.0})
    scores = score_person(0, training, test, people.parcels, options, Compute(), people.coordinates, given, anatomy_of(setting))
    assert abs(np.mean(scores.correlation)) < 0.1 and abs(np.mean(scores.anatomy)) < 0.1
    assert (scores.identification < 0.13).all()  # chance is one of 40; five hits have a probability below .01


def test_low_ceilings_have_no_share(people: object, setting: Setting) -> None:
    test = [type(person)(person.responses, reliability=np.r_[np.full(10, 0.05), np.full(150, 0.5)]) for person in people.test]
    scores = score_person(0, people.training, test, people.parcels, OPTIONS, Compute(), people.coordinates, setting, anatomy_of(setting))
    assert np.isnan(scores.normalised[:10]).all() and np.isfinite(scores.normalised[10:]).all() and np.isfinite(scores.correlation).all()
    assert np.isfinite(parcel_means(scores.normalised, people.parcels)).all()


def test_identification() -> None:
    patterns = np.random.default_rng(0).standard_normal((50, 30))
    assert identify(2 * patterns + 5, patterns) == 1
    assert identify(np.roll(patterns, 1, axis=0), patterns) == 0
    assert identify(np.ones((50, 30)), patterns) == 0  # a tie is no hit


def test_ridge_finds_a_linear_map_and_does_not_trust_interpolation() -> None:
    rng = np.random.default_rng(2)
    source, true = rng.standard_normal((200, 10)), rng.standard_normal((10, 4))
    np.testing.assert_allclose(ridge_map(source, source @ true, (1e-4, 1.0, 100.0)), true, atol=0.01)
    few = rng.standard_normal((15, 40))
    few -= few.mean(axis=0)
    noise = rng.standard_normal((15, 40))
    loose = ridge_map(few, noise - noise.mean(axis=0), (1e-6, 1e3))
    assert np.linalg.norm(few @ loose) < 0.5 * np.linalg.norm(noise)  # pure noise takes the large penalty


def test_weights_of_a_stack() -> None:
    rng = np.random.default_rng(4)
    good, bad = rng.standard_normal((2, 1000))
    observed = 0.7 * good - 0.3 * bad
    predictions = np.stack([good, bad])
    np.testing.assert_allclose(stack_weights(predictions @ predictions.T, predictions @ observed), [0.7, 0], atol=0.05)
