"""Deterministic shared response model: orthonormal maps from few shared dimensions to each person's units (Chen et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_shared_response", "orthonormal_map", "principal_scores"]

Array = NDArray[np.floating]


def principal_scores(gram: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """Leading eigenvectors of a Gram matrix over stimuli, largest first, times the root of the number of stimuli.

    Parameters
    ----------
    gram : array, shape (n_stimuli, n_stimuli)
        Sum over people of X X'.
    k : int
        Number wanted, at most n_stimuli.

    Returns
    -------
    array, shape (n_stimuli, k)
        Columns of mean square 1; the largest entry of each is positive.
    """
    from scipy.linalg import eigh

    n = len(gram)
    vectors = eigh(np.asarray(gram, dtype=np.float64), subset_by_index=(n - k, n - 1))[1][:, ::-1]
    sign = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(k)])
    scores: NDArray[np.float64] = np.sqrt(n) * vectors * sign
    return scores


def orthonormal_map(responses: Array, scores: Array) -> NDArray[np.float64]:
    """Orthonormal W (n_units, k) that minimises ||X - S W'||: the polar factor of X'S.

    Raises
    ------
    ValueError
        If there are fewer units than shared dimensions.
    """
    cross = np.asarray(responses, dtype=np.float64).T @ scores
    if cross.shape[0] < cross.shape[1]:
        raise ValueError(f"{cross.shape[1]} shared dimensions need as many units, and there are {cross.shape[0]}")
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    weights: NDArray[np.float64] = left @ right
    return weights


def fit_shared_response(
    people: Sequence[Array], seen: NDArray[np.bool_], k: int, n_sweeps: int = 15
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Minimise sum_i ||X_i - S W_i'||^2 with orthonormal W_i by alternation, from the principal components of all units of all people.

    Parameters
    ----------
    people : sequence of arrays, shape (n_stimuli, n_units of the person)
        People may differ in units. 0 in rows that a person did not see.
    seen : bool array, shape (n_people, n_stimuli)
    k : int
        Shared dimensions.
    n_sweeps : int
        Alternations.

    Returns
    -------
    scores : array, shape (n_stimuli, k)
        Mean over people of X_i W_i; 0 in rows that nobody saw.
    weights : list of arrays, shape (n_units of the person, k)
        Identified up to one common rotation of the k dimensions.
    """
    counts = np.maximum(seen.sum(axis=0), 1)[:, None]
    scores = principal_scores(np.sum([np.asarray(x, dtype=np.float64) @ x.T for x in people], axis=0), k)
    weights: list[NDArray[np.float64]] = []
    for _ in range(n_sweeps):
        weights = [orthonormal_map(person, scores) for person in people]
        scores = np.sum([person @ w for person, w in zip(people, weights, strict=True)], axis=0) / counts
    return scores, weights
