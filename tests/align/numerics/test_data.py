"""Parcels with margins, standardisation, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from conform_bids.align.numerics.data import Parcel, PersonData, parcel_block, parcels_from_labels, standardise, unit_spacing
from conform_bids.align.numerics.kernels import smoothing_kernel, spatial_basis
from conform_bids.align.numerics.options import AlignOptions
from conform_bids.align.numerics.template import fit_person, fit_template


def test_margins_reach_neighbours_and_no_farther() -> None:
    places = np.arange(30.0)[:, None] * 2.5  # spacing 2.5: margins are in spacings
    labels = np.r_[np.zeros(3, int), np.full(12, 4), np.full(15, 7)]
    first, second = parcels_from_labels(labels, places, margin=2, margin_weight=0.25)
    np.testing.assert_array_equal(first.units, np.arange(3, 17))  # unlabelled units are in no margin
    np.testing.assert_array_equal(first.weights, [1.0] * 12 + [0.25] * 2)
    np.testing.assert_array_equal(second.units, np.arange(13, 30))
    assert [len(each.units) for each in parcels_from_labels(labels)] == [12, 15]
    assert unit_spacing(places) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="below 1"):
        parcels_from_labels(labels, places, margin_weight=1)


def test_units_without_variance_or_with_gaps_are_set_aside() -> None:
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((20, 6)) * 3 + 100
    responses[:, 1], responses[4, 3] = 7.0, np.nan
    person = PersonData(responses, stimuli=np.arange(20)[::-1] + 2, reliability=np.array([0.5, 0.5, 0.0, 0.5, 1.0, np.nan]))
    standard = standardise(person)
    assert np.flatnonzero(~np.isfinite(standard.scale)).tolist() == [1, 3]
    block = parcel_block([person], [standard], [Parcel(np.arange(6), np.ones(6))], 25)
    assert block.seen[0].sum() == 20 and not block.seen[0, :2].any() and not block.seen[0, 22:].any()
    np.testing.assert_allclose(block.values[21, 0], (responses[0, 0] - responses[:, 0].mean()) / responses[:, 0].std(), rtol=1e-5)
    assert not block.values[:, [1, 3]].any() and not block.values[:2].any()
    np.testing.assert_allclose(block.precision, [2, 0, 1 / 0.98, 0, 50, 1 / 0.98], rtol=1e-5)


def test_smoothing_keeps_constants_and_kernels_their_trace() -> None:
    places = np.random.default_rng(1).uniform(0, 10, (40, 3))
    kernel = smoothing_kernel(places, 1.5, 40)
    np.testing.assert_allclose(np.ones(40) @ kernel, 1, rtol=1e-5)
    np.testing.assert_array_equal(smoothing_kernel(None, 1.5, 4), np.eye(4))
    basis = spatial_basis(places, (1.5, 0.4))
    assert basis.values.mean() == pytest.approx(1, rel=1e-3) and basis.values.min() >= 0.39
    far = np.array([[0.0, 0], [0, 1], [500, 0]])
    assert (smoothing_kernel(far, 2, 3)[:2, 2] == 0).all()  # a structure apart is not smoothed into


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:1], "two people or more"),
        (lambda p: [p[0], PersonData(p[1].responses[:, :9])], "not one grid"),
        (lambda p: [p[0], replace(p[1], stimuli=np.zeros(60, int))], "distinct places"),
        (lambda p: [p[0], replace(p[1], stimuli=np.arange(60) + 58)], "at least 3 stimuli"),
        (lambda p: [p[0], replace(p[1], reliability=np.ones(3))], "reliability of shape"),
        (lambda p: [p[0], replace(p[1], parcels=())], "differ in units"),
    ],
)
def test_refusals(people: object, change: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_template(change(people.training), people.parcels)


def test_a_new_person_has_to_fit_the_template(people: object) -> None:
    template = fit_template(people.training, people.parcels, AlignOptions("procrustes"))
    with pytest.raises(ValueError, match="units"):
        fit_person(PersonData(people.training[0].responses[:, :9]), template)
    with pytest.raises(ValueError, match="beyond the template's"):
        fit_person(replace(people.training[0], stimuli=np.arange(60) + 1), template)
    with pytest.raises(ValueError, match="standardised"):
        fit_template(people.training, people.parcels, AlignOptions("stack", z_score=False))
    with pytest.raises(ValueError, match="none of"):
        AlignOptions("hyper")
