"""How good an alignment is: a left-out person's own responses to new stimuli, predicted from other people's.

Correlation between people in the aligned space is reported beside it and is no headline: a map that shrinks everybody to the template
raises it without knowing anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import Parcel, PersonData, standardise
from conform_bids.align.numerics.maps import PersonMap, Template
from conform_bids.align.numerics.options import AlignOptions, Setting
from conform_bids.align.numerics.predict import apply_map, predict_from_others
from conform_bids.align.numerics.template import fit_person, fit_template
from conform_bids.align.numerics.tuning import choose_setting
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.scores import correlate_columns

__all__ = ["PersonScores", "identify", "leave_one_person_out", "parcel_means", "score_person", "shuffle_stimuli"]

Array = NDArray[np.floating]
CEILING_THRESHOLD = 0.1
"""Units below this reliability have no meaningful share of it."""


@dataclass(frozen=True, eq=False)
class PersonScores:
    """Scores of one person whom the template has not seen, on stimuli that no map has seen.

    Attributes
    ----------
    correlation : (n_units,) array
        Of predicted and measured native responses.
    normalised : (n_units,) array
        The same over the root of the reliability of what was measured; NaN below a reliability of .1.
    anatomy, anatomy_normalised : (n_units,) array
        Of the prediction by smoothed anatomy.
    gain : (n_parcels,) array
        Mean of ``normalised`` less that of ``anatomy_normalised`` over a parcel's core.
    identification, anatomy_identification : (n_parcels,) array
        Share of the stimuli whose measured pattern is most like its own prediction, among all stimuli.
    chance : float
        1 / number of stimuli.
    isc_before, isc_after : (n_units,) array
        Correlation with the mean of the other people, by unit as measured and by unit of the template; empty where people differ in units.
    """

    correlation: NDArray[np.float64]
    normalised: NDArray[np.float64]
    anatomy: NDArray[np.float64]
    anatomy_normalised: NDArray[np.float64]
    gain: NDArray[np.float64]
    identification: NDArray[np.float64]
    anatomy_identification: NDArray[np.float64]
    chance: float
    isc_before: NDArray[np.float64]
    isc_after: NDArray[np.float64]


def leave_one_person_out(
    training: Sequence[PersonData],
    test: Sequence[PersonData],
    parcels: Sequence[Parcel],
    options: AlignOptions = AlignOptions(),  # noqa: B008  frozen
    compute: Compute = Compute(),  # noqa: B008
    coordinates: Array | None = None,
    setting: Setting | None = None,
) -> list[PersonScores]:
    """Leave each person out of the template in turn, and score the prediction of that person's own responses to the test stimuli.

    Parameters
    ----------
    training, test : sequence of PersonData
        The same three people or more; stimuli of the two are counted apart. ``reliability`` of the test data is that of the rows scored.
    parcels, options, compute, coordinates
        As in `fit_template`.
    setting : Setting, optional
        By default chosen once, by cross-validation over the training stimuli of all people; smoothed anatomy has one of its own.

    Returns
    -------
    list of PersonScores

    Raises
    ------
    ValueError
        If there are fewer than three people, or not as many test as training people.
    """
    if len(training) < 3 or len(training) != len(test):
        raise ValueError(f"leaving people out needs three or more, each with training and test data; got {len(training)} and {len(test)}")
    standards = [standardise(person, options.z_score) for person in training]
    chosen = choose_setting(training, standards, parcels, options, compute, coordinates) if setting is None else setting
    plain = None if _ragged(training) else _anatomy_setting(training, parcels, options, compute, coordinates, chosen)
    return [score_person(i, training, test, parcels, options, compute, coordinates, chosen, plain) for i in range(len(training))]


def _ragged(people: Sequence[PersonData]) -> bool:
    return any(person.parcels is not None for person in people)


def _anatomy_options(options: AlignOptions) -> AlignOptions:
    return replace(options, method="none", z_score=True)


def _anatomy_setting(
    people: Sequence[PersonData],
    parcels: Sequence[Parcel],
    options: AlignOptions,
    compute: Compute,
    coordinates: Array | None,
    chosen: Setting,
) -> Setting:
    """Smoothing of anatomy, where the setting does not say it."""
    if "anatomy" in chosen.widths:
        return Setting(widths={"anatomy": chosen.widths["anatomy"]}, weights={"anatomy": 1.0})
    standards = [standardise(person) for person in people]
    return choose_setting(people, standards, parcels, _anatomy_options(options), compute, coordinates)


def score_person(
    index: int,
    training: Sequence[PersonData],
    test: Sequence[PersonData],
    parcels: Sequence[Parcel],
    options: AlignOptions,
    compute: Compute,
    coordinates: Array | None,
    setting: Setting,
    anatomy: Setting | None,
) -> PersonScores:
    """Scores of one person, left out of the template; arguments as in `leave_one_person_out`.

    ``anatomy`` is the setting of smoothed anatomy; None where people have no units in common, and then its scores are NaN.
    """
    others = [i for i in range(len(training)) if i != index]
    template = fit_template([training[i] for i in others], parcels, options, compute, coordinates, setting)
    own = fit_person(training[index], template, compute)
    given = [(template.members[place], test[i]) for place, i in enumerate(others)]
    rows, observed = _observed(test[index], [test[i] for i in others])
    predicted = predict_from_others(own, template, given, compute)[rows]
    by_anatomy = np.full_like(predicted, np.nan)
    if anatomy is not None:
        flat = fit_template([training[i] for i in others], parcels, _anatomy_options(options), compute, coordinates, anatomy)
        flat_given = [(flat.members[place], test[i]) for place, i in enumerate(others)]
        by_anatomy = predict_from_others(fit_person(training[index], flat, compute), flat, flat_given, compute)[rows]
    correlation, anatomical = correlate_columns(predicted, observed), correlate_columns(by_anatomy, observed)
    ceiling = _ceiling(test[index])
    before, after = np.empty(0), np.empty(0)
    if anatomy is not None:
        before, after = _between_people(own, template, given, test[index], rows, compute)
    return PersonScores(
        correlation=correlation,
        normalised=correlation / ceiling,
        anatomy=anatomical,
        anatomy_normalised=anatomical / ceiling,
        gain=parcel_means((correlation - anatomical) / ceiling, own.parcels),
        identification=_identify_parcels(predicted, observed, own),
        anatomy_identification=_identify_parcels(by_anatomy, observed, own),
        chance=1 / len(rows),
        isc_before=before,
        isc_after=after,
    )


def _observed(person: PersonData, others: Sequence[PersonData]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Stimuli that the person and somebody else saw, and the person's responses to them, row by row."""
    shared = np.isin(person.rows, np.unique(np.concatenate([each.rows for each in others])))
    return person.rows[shared], np.asarray(person.responses[shared], dtype=np.float64)


def _ceiling(person: PersonData) -> NDArray[np.float64]:
    """Highest correlation that a prediction can have, by unit: the root of the reliability; NaN where that is too low."""
    n_units = person.responses.shape[1]
    reliability = np.ones(n_units) if person.reliability is None else np.asarray(person.reliability, dtype=np.float64)
    return np.sqrt(np.where(reliability > CEILING_THRESHOLD, reliability, np.nan))


def parcel_means(values: NDArray[np.floating], parcels: Sequence[Parcel]) -> NDArray[np.float64]:
    """Mean over each parcel's core (its units of full weight), (n_parcels,); NaN where none is known."""
    means = np.full(len(parcels), np.nan)
    for index, parcel in enumerate(parcels):
        core = values[_core(parcel)]
        if np.isfinite(core).any():
            means[index] = np.nanmean(core)
    return means


def _core(parcel: Parcel) -> NDArray[np.intp]:
    core: NDArray[np.intp] = parcel.units[parcel.weights >= parcel.weights.max()]
    return core


def identify(predicted: NDArray[np.floating], observed: NDArray[np.floating]) -> float:
    """Share of stimuli whose measured pattern correlates most with its own prediction.

    Parameters
    ----------
    predicted, observed : array, shape (n_stimuli, n_units)
        In comparable units of each unit; a prediction that does not vary over units identifies nothing. Chance is 1 / n_stimuli.
    """

    def unit_rows(values: NDArray[np.floating]) -> NDArray[np.float64]:
        centred = np.asarray(values, dtype=np.float64)
        centred = centred - centred.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        rows: NDArray[np.float64] = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
        return rows

    alike = unit_rows(observed) @ unit_rows(predicted).T
    own = np.diag(alike).copy()
    np.fill_diagonal(alike, -np.inf)
    return float(np.mean(own > alike.max(axis=1)))


def _identify_parcels(predicted: NDArray[np.floating], observed: NDArray[np.floating], person: PersonMap) -> NDArray[np.float64]:
    shares = np.full(len(person.parcels), np.nan)
    for index, parcel in enumerate(person.parcels):
        units = _core(parcel)
        units = units[np.isfinite(predicted[:, units]).all(axis=0) & np.isfinite(observed[:, units]).all(axis=0)]
        if len(units) > 1:
            mean, scale = person.standard.mean[units], person.standard.scale[units]
            shares[index] = identify((predicted[:, units] - mean) / scale, (observed[:, units] - mean) / scale)
    return shares


def _between_people(
    own: PersonMap,
    template: Template,
    given: Sequence[tuple[PersonMap, PersonData]],
    test: PersonData,
    rows: NDArray[np.intp],
    compute: Compute,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation with the mean of the others before and after alignment, over the stimuli ``rows``."""
    found = []
    for aligned in (False, True):

        def values(person: PersonMap, data: PersonData, aligned: bool = aligned) -> NDArray[np.float64]:
            if aligned:
                return np.asarray(apply_map(person, template, data.responses, compute), dtype=np.float64)
            return (np.asarray(data.responses, dtype=np.float64) - person.standard.mean) / person.standard.scale

        total = np.zeros((int(max(data.rows.max() for _, data in given)) + 1, template.n_units))
        counts = np.zeros_like(total)
        for person, data in given:
            each = values(person, data)
            total[data.rows] += np.nan_to_num(each)
            counts[data.rows] += np.isfinite(each)
        mean = total[rows] / np.where(counts[rows] > 0, counts[rows], np.nan)
        found.append(correlate_columns(values(own, test)[np.isin(test.rows, rows)], mean))
    return found[0], found[1]


def shuffle_stimuli(person: PersonData, seed: int) -> PersonData:
    """The same responses under shuffled stimulus labels: the control that has to be at chance, whatever the method.

    Used on the training and the test data of the person who is left out: a score above chance would come from something else than the
    responses to the stimuli.
    """
    order = np.random.default_rng(seed).permutation(len(person.rows))
    return replace(person, stimuli=person.rows[order])
