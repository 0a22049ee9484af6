"""Which stimuli are the same, or nearly: pairs by hash and by embedding, and the connected components that they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["components", "equal_pairs", "members_of", "near_pairs", "perceptual_pairs"]

IntArray = npt.NDArray[np.intp]
BLOCK = 2048
_BITS = 64


def equal_pairs(keys: Sequence[str | None]) -> IntArray:
    """Pairs of entries with the same key, as a chain a key; None and ``n/a`` are equal to nothing.

    Returns
    -------
    (n_pairs, 2) int array
    """
    last: dict[str, int] = {}
    pairs = []
    for place, key in enumerate(keys):
        if key is None or key == "n/a":
            continue
        if key in last:
            pairs.append((last[key], place))
        last[key] = place
    return _pairs(pairs)


def perceptual_pairs(hashes: Sequence[str], distance: int) -> IntArray:
    """Pairs of 64-bit hashes that differ by at most ``distance`` bits (equal ones as a chain).

    Two hashes that differ by d bits agree wholly in one of d + 1 bands of bits, so only those that share a band are compared.

    Parameters
    ----------
    hashes : sequence of str
        16 hexadecimal digits each, or ``n/a``.
    distance : int
        Bits, 0 to 63.

    Returns
    -------
    (n_pairs, 2) int array

    Raises
    ------
    ValueError
        For a distance or a hash that is none.
    """
    if not 0 <= distance < _BITS:
        raise ValueError(f"distance of {distance} bits; 0 to {_BITS - 1} are possible")
    pairs = [tuple(pair) for pair in equal_pairs(hashes).tolist()]
    first: dict[int, int] = {}
    for place, text in enumerate(hashes):
        if text != "n/a":
            first.setdefault(int(text, 16), place)
    if distance == 0 or len(first) < 2:
        return _pairs(pairs)
    values = np.array(list(first), dtype=np.uint64)
    places = np.array(list(first.values()), dtype=np.intp)
    edges = np.linspace(0, _BITS, distance + 2).round().astype(int)
    for start, stop in pairwise(edges):
        band = (values >> np.uint64(start)) & np.uint64((1 << int(stop - start)) - 1)
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for members in np.split(order, cuts):
            pairs += _close(values, places, members, distance)
    return np.unique(_pairs(pairs), axis=0)


def _close(values: npt.NDArray[np.uint64], places: IntArray, members: IntArray, distance: int) -> list[tuple[int, int]]:
    """Pairs within one band, a block of rows at a time."""
    found: list[tuple[int, int]] = []
    for start in range(0, len(members) - 1, BLOCK):
        rows = members[start : start + BLOCK]
        bits = np.bitwise_count(values[rows][:, None] ^ values[members][None, :])
        for row, column in np.argwhere(bits <= distance):
            if column > start + row:
                found.append((int(places[rows[row]]), int(places[members[column]])))
    return found


def near_pairs(features: npt.NDArray[np.floating], threshold: float) -> IntArray:
    """Pairs of stimuli whose features have a cosine above ``threshold``.

    Parameters
    ----------
    features : (n, d) array
        An embedding; rows that are not finite or zero are near to nothing.
    threshold : float
        Cosine, -1 to 1. MOSAIC's was 0.8196 in DreamSim; every embedding needs its own.

    Returns
    -------
    (n_pairs, 2) int array

    Notes
    -----
    Blocks of ``(2048, n)`` cosines in single precision: n squared times d multiplications, and no array of n squared.
    """
    table = np.asarray(features, dtype=np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norm = np.linalg.norm(table.astype(np.float64), axis=1)
        known = np.flatnonzero(np.isfinite(norm) & (norm > 0))
        unit = (table[known] / norm[known, None]).astype(np.float32)
    pairs = []
    for start in range(0, len(known), BLOCK):
        cosine = unit[start : start + BLOCK] @ unit[start:].T
        row, column = np.nonzero(cosine > threshold)
        later = column > row
        pairs.append(np.stack([known[start + row[later]], known[start + column[later]]], axis=1))
    return np.concatenate(pairs) if pairs else _pairs([])


def components(n: int, pairs: Iterable[IntArray]) -> IntArray:
    """Label of the connected component of each of ``n`` stimuli, numbered by the first member.

    Parameters
    ----------
    pairs : iterable of (k, 2) int arrays
        Of each way of being the same.

    Returns
    -------
    (n,) int array
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([_pairs([]), *pairs])
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    first: dict[int, int] = {}
    return np.array([first.setdefault(int(label), len(first)) for label in labels], dtype=np.intp)


def _pairs(pairs: Sequence[tuple[int, ...]]) -> IntArray:
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def members_of(labels: IntArray) -> dict[int, list[int]]:
    """Members of each component, in order."""
    members: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels.tolist()):
        members[label].append(place)
    return members
