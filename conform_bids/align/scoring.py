"""Scores of an alignment: everybody is left out of the template once, and predicted from the others on held-out stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.align.numerics.data import Parcel, standardise
from conform_bids.align.numerics.maps import Template
from conform_bids.align.numerics.options import AlignOptions
from conform_bids.align.numerics.predict import apply_map
from conform_bids.align.numerics.scores import PersonScores, leave_one_person_out, score_person, shuffle_stimuli
from conform_bids.align.numerics.tuning import choose_setting
from conform_bids.align.prepared import Gathered
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.scores import correlate_columns

__all__ = ["MIN_HELD_OUT", "Scores", "score_people", "similarity", "why_no_scores"]

MIN_HELD_OUT = 5
"""Held-out stimuli that people must share for scores."""
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a group.

    Attributes
    ----------
    people : tuple of PersonScores
        In the order of the people.
    control : tuple of PersonScores
        The same with the left-out person's stimuli shuffled: they have to be at chance.
    """

    people: tuple[PersonScores, ...]
    control: tuple[PersonScores, ...]


def why_no_scores(gathered: Gathered) -> str | None:
    """What scores lack; None where they can be computed."""
    if len(gathered.people) < 3:
        return "no scores: leaving people out, one at a time, takes three or more"
    counts = [len(data.rows) for data in gathered.test]
    if not counts or min(counts) < MIN_HELD_OUT:
        return f"no scores: people share {min(counts, default=0)} held-out stimuli, and {MIN_HELD_OUT} are needed"
    if min(len(data.rows) for data in gathered.training_only) < 3:
        return "no scores: people share fewer than three train stimuli"
    return None


def score_people(
    gathered: Gathered, parcels: Sequence[Parcel], options: AlignOptions, compute: Compute, coordinates: FloatArray | None
) -> Scores:
    """Score every person, and the control.

    Maps are fitted on train stimuli alone, whatever the template was fitted on.
    """
    training, test = gathered.training_only, gathered.test
    standards = [standardise(person, options.z_score) for person in training]
    setting = choose_setting(training, standards, parcels, options, compute, coordinates)
    people = leave_one_person_out(training, test, parcels, options, compute, coordinates, setting)
    control = []
    for index in range(len(training)):
        shuffled = list(training), list(test)
        for place, data in enumerate(shuffled):
            data[index] = shuffle_stimuli(data[index], options.seed + 2 * index + place)
        control.append(score_person(index, *shuffled, parcels, options, compute, coordinates, setting, None))
    return Scores(tuple(people), tuple(control))


def similarity(gathered: Gathered, template: Template, compute: Compute) -> tuple[FloatArray, FloatArray]:
    """Correlation between people over held-out stimuli, mean over units: as measured, and in the template's units.

    Returns
    -------
    before, after : (n_people, n_people) arrays
        NaN where two people share fewer than three held-out stimuli; ones on the diagonal.
    """
    n_people = len(gathered.people)
    found = []
    for aligned in (False, True):
        values = [
            apply_map(person, template, data.responses, compute) if aligned else np.asarray(data.responses, dtype=np.float64)
            for person, data in zip(template.members, gathered.test, strict=True)
        ]
        matrix = np.eye(n_people)
        for i in range(n_people):
            for j in range(i):
                matrix[i, j] = matrix[j, i] = _between(gathered.test[i].rows, values[i], gathered.test[j].rows, values[j])
        found.append(matrix)
    return found[0], found[1]


def _between(
    rows: npt.NDArray[np.intp], values: npt.NDArray[np.floating], other_rows: npt.NDArray[np.intp], others: npt.NDArray[np.floating]
) -> float:
    _, own, theirs = np.intersect1d(rows, other_rows, return_indices=True)
    if len(own) < 3:
        return float("nan")
    each = correlate_columns(values[own], others[theirs])
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")
