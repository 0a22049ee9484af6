"""Regressors of trials: rounded as GLMsingle does it, or exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.glm.numerics.design import exact_regressors, nuisance_bases, rounded_regressors
from conform_bids.numerics.hrf import response_at

Make = Callable[..., Any]


def test_rounded_regressors_are_a_convolution_cut_at_the_end(make_design: Make) -> None:
    design = make_design(on_grid=False)
    curves = np.random.default_rng(0).standard_normal((25, 3))
    columns = rounded_regressors(design, curves)
    for run, length in enumerate(design.run_lengths):
        values = columns(run)
        assert values.shape == (3, length, 12)
        for trial, onset in enumerate(design.onset[design.trials_of(run)]):
            stick = np.zeros(length)
            stick[int(np.floor(onset / design.tr + 0.5))] = 1
            for hrf in range(3):
                np.testing.assert_allclose(values[hrf, :, trial], np.convolve(stick, curves[:, hrf])[:length], atol=1e-12)


def test_half_a_volume_rounds_up_and_beyond_the_end_is_empty(make_design: Make) -> None:
    design = make_design(run_lengths=(40,), n_trials=3, n_conditions=3)
    design = replace(design, onset=np.array([2.5, 2.4999, 39.5]) * design.tr)
    values = rounded_regressors(design, np.ones((1, 1)))(0)[0]
    assert np.flatnonzero(values[:, 0]).tolist() == [3]
    assert np.flatnonzero(values[:, 1]).tolist() == [2]
    assert not values[:, 2].any()


@given(seed=st.integers(0, 99))
def test_exact_regressors_are_the_response_at_each_frame(seed: int) -> None:
    from conform_bids.glm.numerics.design import Design

    rng = np.random.default_rng(seed)
    n_trials = 6
    design = Design(
        tr=1.3,
        run_lengths=(50, 45),
        run=np.repeat([0, 1], 3),
        onset=rng.uniform(-1, 55, n_trials),
        duration=rng.choice([0.5, 2.0, 3.25], n_trials),
        condition=np.arange(n_trials),
        train=np.ones(n_trials, bool),
        session=np.zeros(2, int),
        folds=((0,), (1,)),
        polynomial_degree=(1, 1),
    )
    library = load_default_library()
    columns = exact_regressors(design, lambda duration, times: response_at(library, duration, times))
    for run, length in enumerate(design.run_lengths):
        values = columns(run)
        assert values.shape == (20, length, 3)
        rows = design.trials_of(run)
        for trial in range(3):
            times = np.arange(length) * 1.3 - design.onset[rows][trial]
            expected = response_at(library, float(design.duration[rows][trial]), times)
            np.testing.assert_allclose(values[:, :, trial], expected.T, atol=1e-12)
            assert (values[:, times < 0, trial] == 0).all()


def test_a_run_without_trials_has_no_columns(make_design: Make) -> None:
    design = make_design(run_lengths=(40, 40))
    only_first = design.run == 0
    changes = {name: getattr(design, name)[only_first] for name in ("run", "onset", "duration", "condition", "train")}
    design = replace(design, **changes)
    assert exact_regressors(design, lambda duration, times: np.ones((*times.shape, 2)))(1).shape[1:] == (40, 0)
    assert rounded_regressors(design, np.ones((3, 2)))(1).shape == (2, 40, 0)


@pytest.mark.parametrize("in_base", [True, False])
def test_user_regressors_are_in_the_base_or_beside_it(make_design: Make, in_base: bool) -> None:
    design = make_design(n_regressors=3)
    for run, bases in enumerate(nuisance_bases(design, regressors_in_base=in_base)):
        both = np.column_stack([bases.base, bases.extra])
        np.testing.assert_allclose(both.T @ both, np.eye(both.shape[1]), atol=1e-10)
        assert bases.extra.shape[1] == (0 if in_base else 3)
        user = design.user_regressors(run)
        np.testing.assert_allclose(both @ (both.T @ user), user, atol=1e-8)
