"""What maps are used for: responses in the template's units, and a person's own responses from other people's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import PersonData
from conform_bids.align.numerics.maps import FamilyTemplate, PersonMap, SharedMap, Template
from conform_bids.numerics.compute import Compute, map_blocks

__all__ = ["apply_map", "parcel_matrix", "predict_from_others", "shared_responses"]

Array = NDArray[np.floating]


def _standardised(person: PersonMap, responses: Array, index: int) -> NDArray[np.float32]:
    units = person.parcels[index].units
    scale = person.standard.scale[units]
    values = (np.asarray(responses[:, units], dtype=np.float64) - person.standard.mean[units]) / scale
    standardised: NDArray[np.float32] = np.where(np.isfinite(scale), values, 0).astype(np.float32)
    return standardised


def _to_shared(own: SharedMap, family: FamilyTemplate) -> Array | None:
    """Matrix from one person's standardised units to the shared space; None: the identity."""
    if own.encode is None:
        return None
    if own.precision is None:
        return own.encode
    inverse = np.linalg.inv(family.prior * np.eye(len(own.precision)) + own.precision)
    return own.encode @ inverse.astype(np.float32)


def parcel_matrix(person: PersonMap, template: Template, index: int) -> NDArray[np.float32]:
    """Matrix of one parcel from a person's standardised units to the template's, (n_units, n_template_units).

    For method ``procrustes`` a rotation (times the scale); for the others what the template's people would respond on average, as far as
    this person's responses tell: a projection, and shrunk.

    Raises
    ------
    ValueError
        If the template has no units of its own, as its people differ in units.
    """
    part, maps = template.parts[index], person.maps[index]
    n_units = len(person.parcels[index].units)
    total = np.zeros((n_units, len(template.parcels[index].units)), dtype=np.float32)
    for name, own in maps.families.items():
        weight = maps.weights.get(name, 0.0)
        if weight == 0:
            continue
        family = part.families[name]
        encode = _to_shared(own, family)
        matrix = np.eye(n_units, dtype=np.float32) if encode is None else encode
        group = own.forward if own.forward is not None else family.group_map
        if group is not None:
            matrix = matrix @ group
        if matrix.shape != total.shape:
            raise ValueError("people of this template differ in units: there is a shared space, but no template grid")
        total += np.float32(weight) * matrix
    return total


def apply_map(person: PersonMap, template: Template, responses: Array, compute: Compute = Compute()) -> NDArray[np.float32]:  # noqa: B008
    """Bring responses of a person to the template's units.

    Parameters
    ----------
    person : PersonMap
    template : Template
    responses : array, shape (n_rows, n_units)
        Any responses of this person, in the units and scale of those that the map was fitted on.
    compute : Compute

    Returns
    -------
    array, shape (n_rows, n_template_units)
        Standardised as the template is; units of several parcels are averaged by their weights; NaN outside of the parcels.

    Raises
    ------
    ValueError
        If the units are not the person's, or the template has no grid.
    """
    _check_units(person, responses)

    def part(index: int) -> NDArray[np.float32]:
        return _standardised(person, responses, index) @ parcel_matrix(person, template, index)

    aligned = map_blocks(part, range(len(template.parts)), compute)
    pieces = [(each.units, np.asarray(each.weights)) for each in template.parcels]
    return _assemble(aligned, pieces, template.n_units, len(responses))


def predict_from_others(
    target: PersonMap,
    template: Template,
    others: Sequence[tuple[PersonMap, PersonData]],
    compute: Compute = Compute(),  # noqa: B008
) -> NDArray[np.float32]:
    """Predict a person's own responses from other people's responses to the same stimuli.

    Parameters
    ----------
    target : PersonMap
        Of the person predicted.
    template : Template
    others : sequence of (PersonMap, PersonData)
        Other people's maps and their responses; ``stimuli`` of these are places in a list of the caller's (new stimuli, usually).
    compute : Compute

    Returns
    -------
    array, shape (n_stimuli, n_units)
        In the person's own units and scale, one row for each of the caller's stimuli; NaN for stimuli that none of the others saw, for
        units that are set aside and outside of the parcels.
    """
    if not others:
        raise ValueError("a prediction needs at least one other person")
    for each, data in others:
        _check_units(each, data.responses)
    n_rows = int(max(data.rows.max() for _, data in others)) + 1

    def part(index: int) -> NDArray[np.float32]:
        return _predict_parcel(target, template, others, index, n_rows)

    pieces = [(each.units, np.asarray(each.weights)) for each in target.parcels]
    predicted = _assemble(map_blocks(part, range(len(target.parcels)), compute), pieces, len(target.standard.mean), n_rows)
    predicted *= target.standard.scale.astype(np.float32)
    predicted += target.standard.mean.astype(np.float32)
    seen = np.zeros(n_rows, bool)
    for _, data in others:
        seen[data.rows] = True
    predicted[~seen] = np.nan
    return predicted


def _predict_parcel(
    target: PersonMap, template: Template, others: Sequence[tuple[PersonMap, PersonData]], index: int, n_rows: int
) -> NDArray[np.float32]:
    part, own = template.parts[index], target.maps[index]
    values = [(each, data.rows, _standardised(each, data.responses, index)) for each, data in others]
    total = np.zeros((n_rows, len(target.parcels[index].units)), dtype=np.float32)
    for name, weight in own.weights.items():
        if weight == 0:
            continue
        maps = [
            (each.maps[index].families[name], rows, x, np.isfinite(each.standard.scale[each.parcels[index].units]))
            for each, rows, x in values
        ]
        total += np.float32(weight) * (shared_responses(maps, part.families[name], n_rows) @ own.families[name].decode)
    return total


def shared_responses(
    maps: Sequence[tuple[SharedMap, NDArray[np.intp], Array, NDArray[np.bool_]]], family: FamilyTemplate, n_rows: int
) -> NDArray[np.float32]:
    """Combine several people's responses in the shared space.

    Parameters
    ----------
    maps : sequence of (SharedMap, rows, responses, usable)
        Of each person the map, the rows that the responses are of, the standardised responses, and which units are not set aside.
    family : FamilyTemplate
    n_rows : int

    Returns
    -------
    array, shape (n_rows, k)
        0 in rows that nobody saw.
    """
    first = maps[0][0]
    k = maps[0][2].shape[1] if first.encode is None else first.encode.shape[1]
    drive, seen = np.zeros((n_rows, k), dtype=np.float32), np.zeros((len(maps), n_rows), bool)
    counts = np.zeros((n_rows, k), dtype=np.float32)
    for i, (own, rows, values, usable) in enumerate(maps):
        drive[rows] += values if own.encode is None else values @ own.encode
        seen[i, rows] = True
        counts[rows] += usable if own.encode is None else 1
    if first.precision is None:
        mean: NDArray[np.float32] = (drive / np.maximum(counts, 1)).astype(np.float32)
        return mean
    sets, place = np.unique(seen.T, axis=0, return_inverse=True)
    shared = np.zeros_like(drive)
    for index, members in enumerate(sets):
        known = sum(
            (own.precision for (own, _, _, _), member in zip(maps, members, strict=True) if member and own.precision is not None),
            np.zeros((k, k)),
        )
        rows = place.reshape(-1) == index
        shared[rows] = np.linalg.solve(family.prior * np.eye(k) + known, drive[rows].T.astype(np.float64)).T
    return shared


def _assemble(
    values: Sequence[NDArray[np.float32]], pieces: Sequence[tuple[NDArray[np.intp], NDArray[np.floating]]], n_units: int, n_rows: int
) -> NDArray[np.float32]:
    """Average parcels that overlap; NaN for units of no parcel."""
    total, weight = np.zeros((n_rows, n_units), dtype=np.float32), np.zeros(n_units, dtype=np.float32)
    for part, (units, share) in zip(values, pieces, strict=True):
        total[:, units] += part * share.astype(np.float32)
        weight[units] += share.astype(np.float32)
    weight[weight == 0] = np.nan
    total /= weight
    return total


def _check_units(person: PersonMap, responses: Array) -> None:
    if responses.ndim != 2 or responses.shape[1] != len(person.standard.mean):
        raise ValueError(f"responses of shape {responses.shape} for a person of {len(person.standard.mean)} units")
