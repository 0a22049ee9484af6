"""Orthogonal Procrustes: rotations of people's units towards a template (Schoenemann, 1966; hyperalignment: Haxby et al., 2011)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["nearest_rotation", "procrustes", "procrustes_template"]

Array = NDArray[np.floating]
RANK_TOLERANCE = 1e-10
WELL_CONDITIONED = 1e-10
"""Ratio of the smallest to the largest squared singular value down to which squaring costs 1e-6 at most, and that in
directions of which the stimuli hardly tell."""


def nearest_rotation(cross: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
    """Orthogonal R that maximises trace(R' cross), and that maximum.

    Where ``cross`` is rank deficient (fewer stimuli than units, units set aside) its singular vectors leave R open on a subspace; there R
    is the rotation nearest to the identity, the limit of a vanishing pull towards anatomy. R is orthogonal always.

    Parameters
    ----------
    cross : array, shape (n, n)
        Cross-product of a person's responses with the template's, ``X.T @ T``.

    Returns
    -------
    rotation : array, shape (n, n)
        ``X @ rotation`` is nearest to T.
    trace : float
        Sum of the singular values of ``cross``.
    """
    matrix = torch.from_numpy(np.array(cross, dtype=np.float64))
    found = _polar_factor(matrix)
    return _rotation_by_svd(matrix) if found is None else found


def _polar_factor(matrix: torch.Tensor) -> tuple[NDArray[np.float64], float] | None:
    """Orthogonal factor by the eigenvectors of C'C, half the work of singular vectors; None where C is not well of full rank.

    What squaring costs in orthogonality, a Newton-Schulz step restores: it doubles the correct digits.
    """
    squared, vectors = torch.linalg.eigh(matrix.T @ matrix)
    if not squared[0] > WELL_CONDITIONED * squared[-1]:
        return None
    singular = squared.sqrt()
    rotation = matrix @ ((vectors / singular) @ vectors.T)
    rotation = 1.5 * rotation - 0.5 * rotation @ (rotation.T @ rotation)
    return rotation.numpy(), float(singular.sum())


def _rotation_by_svd(matrix: torch.Tensor) -> tuple[NDArray[np.float64], float]:
    left, singular, right = torch.linalg.svd(matrix)
    rank = int((singular > RANK_TOLERANCE * max(float(singular[0]), np.finfo(float).tiny)).sum())
    rotation = left[:, :rank] @ right[:rank]
    if rank < len(singular):
        open_left, open_right = left[:, rank:], right[rank:]
        inner_left, _, inner_right = torch.linalg.svd(open_left.T @ open_right.T)
        rotation = rotation + open_left @ (inner_left @ inner_right) @ open_right
    return rotation.numpy(), float(singular.sum())


def procrustes(source: Array, target: Array, scaling: bool = False) -> tuple[NDArray[np.float64], float]:
    """Rotation (and scale) that brings ``source`` nearest to ``target`` in least squares.

    Parameters
    ----------
    source, target : array, shape (n_stimuli, n_units)
        Rows correspond.
    scaling : bool
        Also find the scale, trace / ||source||^2; else 1.

    Returns
    -------
    rotation : array, shape (n_units, n_units)
        Orthogonal.
    scale : float
        ``scale * source @ rotation`` is nearest to ``target``.
    """
    first, second = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    rotation, trace = nearest_rotation(first.T @ second)
    size = float(np.square(first).sum())
    return rotation, trace / size if scaling and size > 0 else 1.0


def procrustes_template(
    people: Sequence[Array], seen: NDArray[np.bool_], n_iterations: int = 2, scaling: bool = False
) -> tuple[NDArray[np.float64], list[tuple[NDArray[np.float64], float]]]:
    """Template by alternation: the mean of the aligned people, then everybody aligned to it.

    Parameters
    ----------
    people : sequence of arrays, shape (n_stimuli, n_units)
        0 in rows that a person did not see.
    seen : bool array, shape (n_people, n_stimuli)
        Who saw what; the mean of a stimulus is over those who saw it.
    n_iterations : int
        Times that everybody is aligned; the first template is the mean over people as they are.
    scaling : bool
        As in `procrustes`.

    Returns
    -------
    template : array, shape (n_stimuli, n_units)
        Mean of the aligned people; 0 in rows that nobody saw.
    maps : list of (rotation, scale)
        Each person's, to the template before the last mean.
    """
    counts = np.maximum(seen.sum(axis=0), 1)[:, None]
    template = np.sum(people, axis=0, dtype=np.float64) / counts
    maps: list[tuple[NDArray[np.float64], float]] = []
    for _ in range(n_iterations):
        maps = [procrustes(person, template * rows[:, None], scaling) for person, rows in zip(people, seen, strict=True)]
        aligned = [scale * (person @ rotation) for person, (rotation, scale) in zip(people, maps, strict=True)]
        template = np.sum(aligned, axis=0, dtype=np.float64) / counts
    return template, maps
