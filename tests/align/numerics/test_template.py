"""Every method: maps of the template's people and of a new one, predictions, missing stimuli, unequal units, invariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.align.numerics.data import Parcel, PersonData
from conform_bids.align.numerics.options import FAMILIES, AlignOptions, Setting
from conform_bids.align.numerics.predict import apply_map, parcel_matrix, predict_from_others
from conform_bids.align.numerics.template import fit_person, fit_template
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.scores import correlate_columns

SETTING = Setting(
    {"zero": 12, "group": 12, "kernel": 12, "srm": 12}, dict.fromkeys(FAMILIES, 0.5), (2.0, 0.1), dict.fromkeys(FAMILIES, 0.25)
)
OPTIONS = {
    "stack": AlignOptions(),
    "zero": AlignOptions("psrm"),
    "srm": AlignOptions("srm"),
    "procrustes": AlignOptions("procrustes"),
    "ridge": AlignOptions("ridge"),
    "none": AlignOptions("none"),
}


def setting_for(options: AlignOptions) -> Setting:
    members = options.members(60)
    return replace(SETTING, weights={name: 1 / len(members) for name in members})


def predicted_for_last(people: object, options: AlignOptions, training: list[PersonData] | None = None, n_threads: int = 1) -> np.ndarray:
    """Responses of the last person to the test stimuli, by a template of the others."""
    training, compute = people.training if training is None else training, Compute(n_threads=n_threads)
    template = fit_template(training[:-1], people.parcels, options, compute, people.coordinates, setting_for(options))
    own = fit_person(training[-1], replace(template, members=()), compute)
    return predict_from_others(own, template, list(zip(template.members, people.test[:-1], strict=True)), compute)


@pytest.fixture(scope="module")
def predictions(people: object) -> dict[str, np.ndarray]:
    return {name: predicted_for_last(people, options) for name, options in OPTIONS.items()}


def test_every_function_beats_anatomy_where_people_differ(people: object, predictions: dict[str, np.ndarray]) -> None:
    observed = people.test[-1].responses
    scores = {name: float(np.mean(correlate_columns(each, observed))) for name, each in predictions.items()}
    assert all(scores[name] > scores["none"] + 0.02 for name in scores if name != "none"), scores
    assert scores["zero"] > max(scores["srm"], scores["procrustes"])
    # in the person's own units: mean 3 and standard deviation 2.4
    assert abs(float(np.mean(predictions["stack"])) - 3) < 0.5 and 0.8 < float(np.std(predictions["stack"])) < 2.4


@pytest.mark.parametrize("name", OPTIONS)
def test_aligned_people_are_alike(people: object, name: str) -> None:
    options = OPTIONS[name]
    template = fit_template(people.training, people.parcels, options, coordinates=people.coordinates, setting=setting_for(options))
    aligned = [apply_map(member, template, data.responses) for member, data in zip(template.members, people.test, strict=True)]
    assert aligned[0].shape == people.test[0].responses.shape and all(np.isfinite(each).all() for each in aligned)

    def likeness(values: list[np.ndarray]) -> float:
        return float(np.mean(correlate_columns(values[0], np.mean(values[1:], axis=0))))

    raw = [(data.responses - 3) / 2 for data in people.test]
    assert likeness(aligned) > likeness(raw) + 0.05


def test_procrustes_maps_are_rotations(people: object) -> None:
    few = [replace(person, responses=person.responses[:25]) for person in people.training]
    template = fit_template(few, people.parcels, OPTIONS["procrustes"])
    for index in range(2):
        matrix = parcel_matrix(template.members[1], template, index)
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(len(matrix)), atol=1e-5)


def test_refitting_a_member_gives_its_rotation_back(people: object) -> None:
    options = replace(OPTIONS["procrustes"], n_iterations=12)
    template = fit_template(people.training, people.parcels, options)
    again = fit_person(people.training[2], template)
    difference = parcel_matrix(again, template, 0) - parcel_matrix(template.members[2], template, 0)
    assert np.abs(difference).max() < 0.02


def test_missing_stimuli(people: object, predictions: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(3)
    gaps = []
    for person in people.training:
        kept = np.sort(rng.permutation(60)[:50])
        order = rng.permutation(50)  # rows in any order
        gaps.append(replace(person, responses=person.responses[kept[order]], stimuli=kept[order]))
    observed = people.test[-1].responses
    for name in ("stack", "zero", "srm", "procrustes"):
        score = np.mean(correlate_columns(predicted_for_last(people, OPTIONS[name], gaps), observed))
        assert score > np.mean(correlate_columns(predictions[name], observed)) - 0.06, name


def test_stimuli_that_nobody_else_saw_are_not_predicted(people: object) -> None:
    template = fit_template(
        people.training[:3], people.parcels, OPTIONS["zero"], coordinates=people.coordinates, setting=setting_for(OPTIONS["zero"])
    )
    own = fit_person(people.training[3], template)
    given = [
        (member, replace(data, responses=data.responses[:5], stimuli=np.array([0, 1, 2, 4, 6])))
        for member, data in zip(template.members, people.test, strict=False)
    ]
    predicted = predict_from_others(own, template, given)
    assert np.flatnonzero(np.isnan(predicted).any(axis=1)).tolist() == [3, 5]


@pytest.mark.parametrize("name", ["srm", "zero"])
def test_people_with_other_units(people: object, name: str) -> None:
    rng = np.random.default_rng(5)
    training, test = [], []
    for person, held_out in zip(people.training, people.test, strict=True):
        kept = np.sort(rng.permutation(160)[: rng.integers(120, 150)])
        own = tuple(
            Parcel(np.flatnonzero(people.labels[kept] == value), np.ones(int((people.labels[kept] == value).sum()))) for value in (1, 2)
        )
        training.append(replace(person, responses=person.responses[:, kept], reliability=person.reliability[kept], parcels=own))
        test.append(PersonData(held_out.responses[:, kept]))
    template = fit_template(training[:-1], people.parcels, OPTIONS[name])
    own = fit_person(training[-1], template)
    predicted = predict_from_others(own, template, list(zip(template.members, test[:-1], strict=True)))
    assert np.mean(correlate_columns(predicted, test[-1].responses)) > 0.4
    with pytest.raises(ValueError, match="no template grid"):
        apply_map(own, template, test[-1].responses)


def test_units_set_aside_stay_so(people: object) -> None:
    spoiled = []
    for index, person in enumerate(people.training):
        responses = person.responses.copy()
        responses[:, 5 + index] = 0
        spoiled.append(replace(person, responses=responses))
    predicted = predicted_for_last(people, OPTIONS["stack"], spoiled)
    assert np.flatnonzero(np.isnan(predicted).all(axis=0)).tolist() == [8]
    assert np.isfinite(np.delete(predicted, 8, axis=1)).all()


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_scale_and_threads_do_not_matter(people: object, predictions: dict[str, np.ndarray], name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    units, order, scale = rng.permutation(160), [*rng.permutation(3), 3], np.float32(10 ** rng.uniform(-3, 3))
    place = np.argsort(units)
    moved = replace(
        people,
        training=[replace(people.training[i], responses=people.training[i].responses[:, units] * scale) for i in order],
        test=[replace(people.test[i], responses=people.test[i].responses[:, units] * scale) for i in order],
        parcels=tuple(Parcel(place[each.units], each.weights) for each in people.parcels),
        coordinates=people.coordinates[units] * 4.2,
    )
    again = predicted_for_last(moved, OPTIONS[name], n_threads=2) / scale
    expected = predictions[name][:, units]
    assert np.abs(again - expected).max() < 2e-3 * expected.std()


def test_few_stimuli_leave_anatomy_alone(simulate_people: Callable) -> None:
    few = simulate_people(n_train=12)
    template = fit_template(few.training, few.parcels, coordinates=few.coordinates)
    assert list(template.members[0].maps[0].families) == ["anatomy"]
    with pytest.raises(ValueError, match="for a person of"):
        apply_map(template.members[0], template, np.zeros((3, 7)))


def test_families_without_weight_are_not_kept(people: object) -> None:
    setting = replace(SETTING, weights={"anatomy": 0.0, "zero": 0.8, "group": 0.0, "kernel": 0.2})
    template = fit_template(people.training, people.parcels, coordinates=people.coordinates, setting=setting)
    assert set(template.parts[0].families) == set(template.members[0].maps[0].families) == {"zero", "kernel"}
    nothing = replace(SETTING, weights=dict.fromkeys(FAMILIES, 0.0))
    assert set(fit_template(people.training, people.parcels, coordinates=people.coordinates, setting=nothing).parts[0].families) == {
        "anatomy"
    }


def test_every_unit_needs_a_position(people: object) -> None:
    places = people.coordinates.copy()
    places[3] = np.nan
    with pytest.raises(ValueError, match="no position"):
        fit_template(people.training, people.parcels, coordinates=places)
