"""Functional templates: fit one to several people, and new people to it. The way in to alignment from Python and the app.

    template = fit_template(people, parcels, AlignOptions(), compute, coordinates)   # people: PersonData, on shared stimuli
    person = fit_person(new_person, template, compute)                               # the template stays as it is
    aligned = apply_map(person, template, responses)                                 # in the template's units
    predicted = predict_from_others(person, template, [(map, data), ...], compute)   # the person's own responses, from others

(`apply_map` and `predict_from_others` are in `conform_bids.align.numerics.predict`, scores in `conform_bids.align.numerics.scores`.)
All responses given to a fit are used by it: leave test stimuli out of them. Rows may as well be features of an encoding model instead of
stimuli: people without any stimulus in common are aligned by their tuning weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import Parcel, PersonData, applied_standard, parcel_block, standardise, unit_spacing
from conform_bids.align.numerics.families import GAUSSIAN, families_for, family_weights, fit_family, fit_member, start_scores
from conform_bids.align.numerics.maps import FamilyTemplate, ParcelMap, ParcelTemplate, PersonMap, SharedMap, Template
from conform_bids.align.numerics.options import AlignOptions, Setting
from conform_bids.align.numerics.tuning import choose_setting, parcel_positions
from conform_bids.numerics.compute import Compute, map_blocks

__all__ = ["check_people", "fit_person", "fit_template"]


def fit_template(
    people: Sequence[PersonData],
    parcels: Sequence[Parcel],
    options: AlignOptions = AlignOptions(),  # noqa: B008  frozen
    compute: Compute = Compute(),  # noqa: B008
    coordinates: NDArray[np.floating] | None = None,
    setting: Setting | None = None,
) -> Template:
    """Fit a template to the stimuli that people share.

    Parameters
    ----------
    people : sequence of PersonData
        Two people or more. Their units are the same grid, unless they bring their own parcels.
    parcels : sequence of Parcel
        Of the grid (`parcels_from_labels` makes them, with margins).
    options : AlignOptions
    compute : Compute
        Each thread takes whole parcels.
    coordinates : array, shape (n_units, n_dimensions), optional
        Positions of the units, such that near means near on the cortex; hemispheres and structures far apart. Without them nothing is
        smoothed, and the family with the spatial kernel is left out.
    setting : Setting, optional
        Dimensions, widths and weights, where they are known; by default they are chosen by cross-validation over stimuli
        (`choose_setting`).

    Returns
    -------
    Template
        Its people's maps are `Template.members`.

    Raises
    ------
    ValueError
        If there are fewer than two people, fewer than three shared stimuli, or people and parcels do not fit together.
    """
    n_stimuli = check_people(people, parcels, options, coordinates)
    standards = [standardise(person, options.z_score) for person in people]
    ragged = any(person.parcels is not None for person in people)
    if ragged:
        coordinates = None
    chosen = choose_setting(people, standards, parcels, options, compute, coordinates) if setting is None else setting
    spacing = 1.0 if coordinates is None else unit_spacing(coordinates)
    candidates = families_for(options, chosen, n_stimuli, coordinates is not None)

    def fit(index: int) -> tuple[ParcelTemplate, list[dict[str, SharedMap]]]:
        own = [parcels[index] if person.parcels is None else person.parcels[index] for person in people]
        block = parcel_block(people, standards, own, n_stimuli)
        place = parcel_positions(coordinates, parcels[index], spacing)
        families: dict[str, FamilyTemplate] = {}
        maps: list[dict[str, SharedMap]] = [{} for _ in people]
        gaussian = [each.dimensions for each in candidates if each.family in GAUSSIAN]
        start = start_scores(block, max(gaussian)) if gaussian else None
        for candidate in candidates:
            families[candidate.family], found = fit_family(candidate, block, place, options, start)
            for person_maps, each in zip(maps, found, strict=True):
                person_maps[candidate.family] = each
        return ParcelTemplate(families, place), maps

    results = map_blocks(fit, range(len(parcels)), compute)
    weights = family_weights(candidates, chosen)
    members = tuple(
        PersonMap(
            applied_standard(people[i], standards[i]),
            tuple(parcels) if people[i].parcels is None else people[i].parcels or (),
            tuple(ParcelMap(maps[i], weights) for _, maps in results),
        )
        for i in range(len(people))
    )
    covered = np.zeros(n_stimuli, bool)
    for person in people:
        covered[person.rows] = True
    n_units = people[0].responses.shape[1]
    return Template(options, chosen, members[0].parcels, n_units, covered, tuple(part for part, _ in results), members)


def fit_person(person: PersonData, template: Template, compute: Compute = Compute()) -> PersonMap:  # noqa: B008
    """Fit one person to a template that stays as it is.

    Parameters
    ----------
    person : PersonData
        Rows are places in the template's list of stimuli; those that nobody of the template saw are not used.
    template : Template
    compute : Compute

    Returns
    -------
    PersonMap
        Families are weighted as the template's people are.

    Raises
    ------
    ValueError
        If the person's units, parcels or stimuli do not fit the template.
    """
    options = template.options
    parcels = template.parcels if person.parcels is None else person.parcels
    _check_member(person, template, parcels)
    standard = standardise(person, options.z_score)
    spatial = template.parts[0].coordinates is not None
    candidates = families_for(options, template.setting, template.n_stimuli, spatial)

    weights = family_weights(candidates, template.setting)

    def fit(index: int) -> ParcelMap:
        part = template.parts[index]
        block = parcel_block([person], [standard], [parcels[index]], template.n_stimuli)
        maps = {
            each.family: fit_member(each, part.families[each.family], block, part.coordinates, options, template.covered)
            for each in candidates
        }
        return ParcelMap(maps, weights)

    return PersonMap(applied_standard(person, standard), tuple(parcels), tuple(map_blocks(fit, range(len(parcels)), compute)))


def check_people(
    people: Sequence[PersonData], parcels: Sequence[Parcel], options: AlignOptions, coordinates: NDArray[np.floating] | None = None
) -> int:
    """Length of the list of shared stimuli; refuse what cannot be aligned.

    Raises
    ------
    ValueError
        As `fit_template` says.
    """
    if len(people) < 2:
        raise ValueError(f"a template needs two people or more, got {len(people)}")
    if not parcels:
        raise ValueError("a template needs at least one parcel")
    ragged = any(person.parcels is not None for person in people)
    if ragged and not (options.method == "srm" or (options.method == "psrm" and options.prior == "zero")):
        raise ValueError("people who differ in units can be aligned by method srm, or psrm with prior zero, only")
    if not options.z_score and options.method not in ("procrustes", "srm"):
        raise ValueError(f"method {options.method} needs standardised responses")
    sizes = {person.responses.shape[1] for person in people}
    if len(sizes) > 1 and not all(person.parcels is not None for person in people):
        raise ValueError(f"people have {sorted(sizes)} units: not one grid")
    for index, person in enumerate(people):
        _check_rows(person, f"person {index}")
        if person.parcels is not None and len(person.parcels) != len(parcels):
            raise ValueError(f"person {index} has {len(person.parcels)} parcels of {len(parcels)}")
    if coordinates is not None and not all(np.isfinite(coordinates[parcel.units]).all() for parcel in parcels):
        raise ValueError("some units of the parcels have no position; leave them out of the parcels, or give no coordinates")
    counts = np.bincount(np.concatenate([person.rows for person in people]))
    if int((counts >= 2).sum()) < 3:
        raise ValueError(f"a template needs at least 3 stimuli that two people share, got {int((counts >= 2).sum())}")
    return len(counts)


def _check_rows(person: PersonData, name: str) -> None:
    rows = person.rows
    if person.responses.ndim != 2 or len(rows) != person.responses.shape[0]:
        raise ValueError(f"{name}: responses of shape {person.responses.shape} need one stimulus a row, got {len(rows)}")
    if len(rows) < 3 or rows.min() < 0 or len(np.unique(rows)) != len(rows):
        raise ValueError(f"{name}: stimuli must be 3 or more distinct places in the list of shared stimuli")
    if person.reliability is not None and np.shape(person.reliability) != (person.responses.shape[1],):
        raise ValueError(f"{name}: reliability of shape {np.shape(person.reliability)} for {person.responses.shape[1]} units")


def _check_member(person: PersonData, template: Template, parcels: Sequence[Parcel]) -> None:
    _check_rows(person, "person")
    if person.parcels is None and person.responses.shape[1] != template.n_units:
        raise ValueError(f"the template has {template.n_units} units, the person {person.responses.shape[1]}")
    if len(parcels) != len(template.parts):
        raise ValueError(f"the template has {len(template.parts)} parcels, the person {len(parcels)}")
    if person.rows.max() >= template.n_stimuli:
        raise ValueError(f"stimulus {person.rows.max()} is beyond the template's {template.n_stimuli}")
    if int(template.covered[person.rows].sum()) < 3:
        raise ValueError("the person shares fewer than 3 stimuli with the template")
