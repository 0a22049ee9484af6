"""What all units of a person say together about the person: a map of weights that an engine which looks at one unit at a time misses.

Units are tuned otherwise in one person than in another in ways that they share: a kind of tuning is shifted, or all are turned. An engine
that was trained on other people, and sees a unit at a time, cannot know this. But its errors on stimuli that it was not shown, over all
units, can: they are regressed on its own weights. With stimuli ``X``, weights ``W`` and errors ``E`` of units v,

    E_v = X (a + B w_v) + noise,

of which ``a`` and ``B`` have a Gaussian prior whose variance maximises the evidence. All units share ``X``, so that the posterior mean is
in closed form, by the eigenvectors of ``X'X`` and of the weights' second moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from conform_bids.encode.numerics.population import FloatArray

__all__ = ["MIN_STIMULI", "PersonalMap", "fit_personal_map"]

MIN_STIMULI = 10
"""With fewer, parts would be left out of contexts that are too small already."""
N_FOLDS = 5
MAX_UNITS = 3000
LEAST_ERROR = 0.05
"""Of a unit's mean squared error, so that no unit rules the others."""
PRECISIONS = np.logspace(1, 8, 29)
Answer = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class PersonalMap:
    """Weights w become ``w + shift + turn @ w``.

    Attributes
    ----------
    shift : (d,) array
    turn : (d, d) array
    """

    shift: FloatArray
    turn: FloatArray

    def apply(self, weights: FloatArray) -> FloatArray:
        """Weights (n_units, d) as this person's units say."""
        return np.asarray(weights + (self.shift + weights @ self.turn.T).astype(weights.dtype))


def fit_personal_map(answer: Answer, rows: FloatArray, responses: FloatArray, seed: int = 0) -> PersonalMap | None:
    """Find the map in which a person differs from what an engine expects.

    Parameters
    ----------
    answer : callable
        (rows, responses) -> weights (n_units, d) of the engine.
    rows : (n_stimuli, d) array
        Of the context, in coordinates in which weights of units are about isotropic.
    responses : (n_stimuli, n_units) array
    seed : int
        Of the units that are drawn if there are more than 3,000.

    Returns
    -------
    PersonalMap or None
        None where the errors are no more probable with a map than without, or there are too few stimuli to leave some out.
    """
    n, n_units = responses.shape
    if n < MIN_STIMULI:
        return None
    if n_units > MAX_UNITS:
        responses = responses[:, np.sort(np.random.default_rng(seed).permutation(n_units)[:MAX_UNITS])]
    part = np.empty(n, dtype=np.intp)
    part[np.argsort(rows[:, 0], kind="stable")] = np.arange(n) % N_FOLDS  # the same in any order of the stimuli
    found, errors = [], np.empty(responses.shape)
    for fold in range(N_FOLDS):
        out = part == fold
        found.append(np.asarray(answer(rows[~out], responses[~out]), dtype=np.float64))
        errors[out] = responses[out] - rows[out] @ found[-1].T
    trust = 1 / np.maximum((errors**2).mean(axis=0), LEAST_ERROR)
    scale = np.sqrt(np.mean([np.mean(weights**2) for weights in found]))
    if not scale > 0:
        return None
    d = rows.shape[1]
    cross, second = np.zeros((d, d + 1)), np.zeros((d + 1, d + 1))
    for fold, weights in enumerate(found):
        out = part == fold
        inputs = np.column_stack([np.ones(len(weights)), weights / scale])
        cross += rows[out].T @ (errors[out] * trust) @ inputs
        second += out.mean() * (inputs.T * trust) @ inputs
    solution = _solve(rows.T @ rows, second, cross)
    return None if solution is None else PersonalMap(solution[:, 0], solution[:, 1:] / scale)


def _solve(left: FloatArray, right: FloatArray, cross: FloatArray) -> FloatArray | None:
    """Posterior mean of ``C`` where ``left C right + precision C = cross``, of the most probable precision; None if it is infinite."""
    left_values, left_vectors = np.linalg.eigh(left)
    right_values, right_vectors = np.linalg.eigh(right)
    values = np.outer(np.maximum(left_values, 0), np.maximum(right_values, 0))
    turned = left_vectors.T @ cross @ right_vectors
    evidence = [0.5 * ((turned**2 / (values + each)).sum() - np.log1p(values / each).sum()) for each in PRECISIONS]
    best = int(np.argmax(evidence))
    if evidence[best] <= 0:
        return None
    return np.asarray(left_vectors @ (turned / (values + PRECISIONS[best])) @ right_vectors.T)
