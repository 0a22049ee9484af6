"""What all units of a person have in common: it is found where it is there, and nothing is found where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.encode.numerics.pooling import MAX_UNITS, fit_personal_map

D, KNOWN = 8, 3
"""Features, and directions that the engine knows: it expects weights of units along the first ones alone."""


def engine(rows: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Ridge regression on the directions that are known."""
    known = rows[:, :KNOWN]
    weights = np.zeros((responses.shape[1], D))
    weights[:, :KNOWN] = np.linalg.solve(known.T @ known + np.eye(KNOWN), known.T @ responses).T
    return weights


def person(turn: np.ndarray, shift: np.ndarray, n_units: int = 300, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stimuli (n, D), responses (n, n_units), and true weights (n_units, D) of a person who is turned and shifted."""
    rng = np.random.default_rng(4)
    expected = np.zeros((n_units, D))
    expected[:, :KNOWN] = rng.standard_normal((n_units, KNOWN))
    weights = expected + shift + expected @ turn.T
    rows = rng.standard_normal((n, D))
    return rows, rows @ weights.T + rng.standard_normal((n, n_units)), weights


def test_a_turn_and_a_shift_of_all_units_are_found() -> None:
    turn, shift = np.zeros((D, D)), np.zeros(D)
    turn[5, 0], turn[6, 1], shift[7] = 0.6, -0.5, 0.4
    rows, responses, weights = person(turn, shift)
    found = fit_personal_map(engine, rows, responses)
    assert found is not None
    np.testing.assert_allclose(found.turn[KNOWN:, :KNOWN], turn[KNOWN:, :KNOWN], atol=0.15)
    np.testing.assert_allclose(found.shift, shift, atol=0.1)
    alone = engine(rows, responses)
    before, after = (((each - weights) ** 2).mean() for each in (alone, found.apply(alone)))
    assert after < 0.35 * before
    order = np.random.default_rng(1).permutation(len(rows))
    again = fit_personal_map(engine, rows[order], responses[order])
    assert again is not None
    np.testing.assert_allclose(again.turn, found.turn, atol=1e-9)


def test_nothing_is_found_where_nothing_is_in_common() -> None:
    rows, responses, weights = person(np.zeros((D, D)), np.zeros(D))
    found, alone = fit_personal_map(engine, rows, responses), engine(rows, responses)
    if found is not None:  # what is left is the shrinkage of the engine's own ridge
        assert ((found.apply(alone) - weights) ** 2).mean() < 1.02 * ((alone - weights) ** 2).mean()
    noise = np.random.default_rng(0).standard_normal(responses.shape)
    found = fit_personal_map(engine, rows, noise)
    assert found is None or (found.apply(engine(rows, noise)) ** 2).mean() < 1.02 * (engine(rows, noise) ** 2).mean()


@pytest.mark.parametrize(("n", "answer"), [(9, engine), (40, lambda rows, responses: np.zeros((responses.shape[1], rows.shape[1])))])
def test_too_few_stimuli_and_an_engine_without_an_answer(n: int, answer: object) -> None:
    rows, responses, _ = person(np.zeros((D, D)), np.zeros(D), n=n)
    assert fit_personal_map(answer, rows, responses) is None  # type: ignore[arg-type]


def test_of_many_units_some_are_asked() -> None:
    seen = []

    def watched(rows: np.ndarray, responses: np.ndarray) -> np.ndarray:
        seen.append(responses.shape[1])
        return engine(rows, responses)

    turn = np.zeros((D, D))
    turn[5, 0] = 0.6
    rows, responses, _ = person(turn, np.zeros(D), n_units=MAX_UNITS + 500, n=20)
    found = fit_personal_map(watched, rows, responses)
    assert found is not None and found.turn[5, 0] > 0.4
    assert set(seen) == {MAX_UNITS}
