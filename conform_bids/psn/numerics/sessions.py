"""Units standardised within sessions by their train trials, and brought back to the units of the input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.engine_data import TrialSet
from conform_bids.psn.numerics.guards import CONSTANT

__all__ = ["Scaling", "repeats_within_sessions", "scale_units", "warn_of_repeats"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
SUSPICIOUS = 0.5
"""Share of repeated conditions whose trials lie in one session, above which there is a warning."""
MIN_TRIALS = 3
"""Train trials that a session needs for a mean and an SD of its own; with fewer, those of all sessions are taken."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """How responses were standardised.

    Attributes
    ----------
    mean, sd : (n_units,) float64 arrays
        Over all train trials; NaN where a unit has none.
    session_mean, session_sd : (n_units, n_sessions) float64 arrays
        What was taken out and divided by, in each session.
    """

    mean: FloatArray
    sd: FloatArray
    session_mean: FloatArray
    session_sd: FloatArray

    def to_output(self, scale: FloatArray, *, zscored: bool, output_units: str) -> tuple[FloatArray, FloatArray]:
        """Offset and gain that bring standardised responses to the units of the outputs, (n_units,) each.

        Parameters
        ----------
        scale : (n_units,) float64 array
            Factor of deviations from a unit's mean, in the units of the input.
        zscored : bool
            Whether responses were standardised at all.
        output_units : str
            ``input`` or ``z``.
        """
        if output_units == "z":
            return (np.zeros_like(self.mean), np.ones_like(self.sd)) if zscored else (-self.mean / self.sd, 1 / self.sd)
        return (self.mean, scale * self.sd) if zscored else (self.mean * (1 - scale), scale)


def scale_units(values: npt.NDArray[np.floating], trials: TrialSet, *, zscore: bool) -> tuple[FloatArray, Scaling]:
    """Standardise units within sessions, by the mean and SD of train trials.

    Parameters
    ----------
    values : (n_units, n_trials) array
        Responses; what is not finite is missing.
    trials : TrialSet
        Session and split of the trials.
    zscore : bool
        Without it responses stay as they are.

    Returns
    -------
    standardised : (n_trials, n_units) float64 array
        NaN where missing, and in sessions in which a unit does not vary.
    scaling : Scaling
        For bringing them back. The SD of all train trials is about their common mean, so that differences between sessions are in it;
        it is the pooled SD within sessions where responses were standardised.
    """
    rows = np.array(values.T, dtype=np.float64, order="C")
    finite = np.isfinite(rows)
    if not finite.all():
        rows[~finite] = np.nan
    sessions, code = np.unique(trials.session, return_inverse=True)
    mean, sd, count = _moments(rows[trials.train])
    n_units = rows.shape[1]
    session_mean, session_sd = np.zeros((n_units, len(sessions))), np.ones((n_units, len(sessions)))
    if not zscore:
        return rows, Scaling(mean, sd, session_mean, session_sd)
    weight, squares = np.zeros(n_units), np.zeros(n_units)
    for index in range(len(sessions)):
        members = code == index
        own_mean, own_sd, own_count = _moments(rows[members & trials.train])
        few = own_count < MIN_TRIALS
        session_mean[:, index] = np.where(few, mean, own_mean)
        session_sd[:, index] = np.where(few, sd, own_sd)
        weight += np.where(few, 0, own_count)
        squares += np.where(few, 0, own_count * np.square(np.nan_to_num(own_sd)))
        with np.errstate(invalid="ignore", divide="ignore"):
            rows[members] = (rows[members] - session_mean[:, index]) / session_sd[:, index]
    with np.errstate(invalid="ignore", divide="ignore"):
        within = np.where(weight > 0, np.sqrt(squares / weight), sd)
    return rows, Scaling(np.where(count > 0, mean, np.nan), within, session_mean, session_sd)


def _moments(rows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean, SD and number of the finite values of each column; the SD is NaN where it is rounding."""
    finite = np.isfinite(rows)
    count = finite.sum(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite, rows, 0.0).sum(axis=0) / count
        deviation = np.where(finite, rows - mean, 0.0)
        sd = np.sqrt(np.einsum("ij,ij->j", deviation, deviation) / count)
        sd[~(sd > CONSTANT * np.abs(mean))] = np.nan
    return mean, sd, count


def repeats_within_sessions(trials: TrialSet) -> float:
    """Share of the repeated train conditions whose trials all lie in one session; 0 with a single session.

    What differs between sessions then differs between conditions, and is the same for all repeats of one: it poses as signal.
    """
    if len(np.unique(trials.session)) < 2:
        return 0.0
    condition, session = trials.condition[trials.train], np.unique(trials.session[trials.train], return_inverse=True)[1]
    table = np.zeros((trials.n_conditions, int(session.max()) + 1), dtype=np.intp)
    np.add.at(table, (condition, session), 1)
    repeated = table.sum(axis=1) >= 2
    return float((table.max(axis=1) == table.sum(axis=1))[repeated].mean()) if repeated.any() else 0.0


def warn_of_repeats(trials: TrialSet, *, zscored: bool) -> Iterator[str]:
    """Warn where most conditions are repeated within one session alone.

    Parameters
    ----------
    trials : TrialSet
        Condition, session and split of the trials.
    zscored : bool
        Whether units are standardised within sessions.
    """
    within = repeats_within_sessions(trials)
    if within > SUSPICIOUS:
        taken = "their means are taken out by z-scoring" if zscored else "z-scoring within sessions would take their means out"
        yield (
            f"{within:.0%} of the repeated conditions have all their trials in one session, so that differences between sessions look like "
            f"signal; {taken}"
        )
