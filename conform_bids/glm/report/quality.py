"""What the report measures of its own: temporal SNR, motion, collinearity of trials, agreement of single trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conform_bids.bids.tables import parse_number, read_tsv
from conform_bids.errors import ConformError
from conform_bids.glm.numerics.efficiency import design_efficiency, trial_variance_inflation
from conform_bids.numerics.blocks import value_blocks
from conform_bids.numerics.linalg import extend_basis, polynomial_basis, project_out

__all__ = [
    "DISPLACED_MM",
    "RunCollinearity",
    "SeriesSurvey",
    "collinearity",
    "read_motion",
    "single_trial_agreement",
    "survey_series",
]

FloatArray = NDArray[np.float64]

DISPLACED_MM = 0.5
"""Framewise displacement from which a volume counts as moved (Power et al., 2012, NeuroImage 59:2142)."""
MOTION_COLUMNS = ("framewise_displacement", "std_dvars")
SOUND, NOT_FINITE, EMPTY, CONSTANT = range(4)


@dataclass(frozen=True)
class SeriesSurvey:
    """What a look at the series gives.

    Attributes
    ----------
    tsnr : ndarray of float32, shape (runs, units)
        Mean over standard deviation, drifts out; NaN where the unit is not sound.
    state : ndarray of int8, shape (runs, units)
        0 sound, 1 not finite, 2 zero throughout, 3 constant.
    """

    tsnr: NDArray[np.float32]
    state: NDArray[np.int8]


def survey_series(runs: Sequence[NDArray[np.floating]], degrees: Sequence[int]) -> SeriesSurvey:
    """Temporal signal-to-noise ratio and state of every unit in every run.

    Parameters
    ----------
    runs : sequence of ndarray, shape (volumes, units)
        May be memory maps; they are read once, a block of units at a time.
    degrees : sequence of int
        Degree of the polynomial drifts of each run, which are no noise: they are modelled.
    """
    shape = (len(runs), runs[0].shape[1] if runs else 0)
    tsnr, state = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int8)
    for index, (series, degree) in enumerate(zip(runs, degrees, strict=True)):
        basis = polynomial_basis(len(series), degree)
        for block in value_blocks(2 * len(series), shape[1]):
            values = np.array(series[:, block], dtype=np.float64)
            finite = np.isfinite(values).all(axis=0)
            values[:, ~finite] = 0.0
            mean = values.mean(axis=0)
            values -= mean  # before the projection: sums of squares then lose no digits
            total = np.einsum("ij,ij->j", values, values)
            rest = np.maximum(total - np.square(basis.T @ values).sum(axis=0), 0.0)
            flat = total <= len(series) * np.square(1e-7 * mean)
            state[index, block] = np.select([~finite, flat & (mean == 0), flat], [NOT_FINITE, EMPTY, CONSTANT], SOUND)
            deviation = np.sqrt(rest / max(1, len(series) - 1 - degree))
            with np.errstate(divide="ignore", invalid="ignore"):
                tsnr[index, block] = np.where(flat | ~finite | (deviation <= 0), np.nan, mean / deviation)
    return SeriesSurvey(tsnr, state)


def read_motion(path: Path | None) -> dict[str, FloatArray]:
    """Framewise displacement (mm) and standardised DVARS of a run, volume by volume, of those that its confounds have.

    Parameters
    ----------
    path : Path or None
        fMRIPrep's table of confounds.

    Returns
    -------
    dict of ndarray, shape (volumes,)
        NaN where there is no value (the first volume has none); empty without a table that can be read.
    """
    if path is None:
        return {}
    try:
        table = read_tsv(path)
    except ConformError:
        return {}  # these numbers are for the report only
    found = {}
    for name in MOTION_COLUMNS:
        if name in table:
            numbers = [None if cell is None else parse_number(cell) for cell in table[name]]
            found[name] = np.array([np.nan if number is None else number for number in numbers], dtype=float)
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


@dataclass(frozen=True)
class RunCollinearity:
    """How alike the regressors of a run's trials are.

    Attributes
    ----------
    correlation : ndarray, shape (trials, trials)
        Of the regressors, drifts and confounds out.
    inflation : ndarray, shape (trials,)
        Variance inflation of each trial; infinite where it cannot be told from the others.
    efficiency : float
        One over the mean variance of least-squares betas in noise of variance 1, of the trials that count; 0 where these cannot be told
        apart.
    """

    correlation: FloatArray
    inflation: FloatArray
    efficiency: float

    def by_distance(self, most: int = 8) -> FloatArray:
        """Mean correlation of trials that are 1, 2, ... trials apart; NaN beyond the run."""
        distances = range(1, most + 1)
        pairs = [np.diagonal(self.correlation, distance) for distance in distances]
        return np.array([np.nanmean(pair) if np.isfinite(pair).any() else np.nan for pair in pairs])


def collinearity(
    onset: FloatArray,
    n_volumes: int,
    repetition_time: float,
    curve: tuple[FloatArray, FloatArray],
    degree: int,
    regressors: FloatArray,
    counted: NDArray[np.bool_] | None = None,
) -> RunCollinearity:
    """Regressors of a run's trials with one response, and how alike they are.

    Parameters
    ----------
    onset : ndarray, shape (trials,)
        Seconds from the first frame.
    curve : tuple of ndarray, shape (samples,)
        Times after the onset (s), and the response to a trial of the usual duration.
    degree : int
        Of the drifts.
    regressors : ndarray, shape (volumes, regressors)
        Confounds in the model.
    counted : ndarray, shape (trials,), optional
        Trials that the efficiency is of; the others are unreliable (default: all).
    """
    delays = np.arange(n_volumes)[:, None] * repetition_time - onset
    columns = np.interp(delays, curve[0], curve[1], left=0.0, right=0.0)
    drifts = polynomial_basis(n_volumes, degree)
    columns = project_out(np.column_stack([drifts, extend_basis(drifts, regressors)]), columns)
    length = np.linalg.norm(columns, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = columns / np.where(length > 0, length, np.nan)
    return RunCollinearity(unit.T @ unit, trial_variance_inflation(columns), design_efficiency(columns, counted))


def single_trial_agreement(betas: NDArray[np.floating], condition: ArrayLike, session: ArrayLike | None = None) -> FloatArray:
    """Correlation to expect between two single trials of the same condition, over conditions.

    Parameters
    ----------
    betas : ndarray, shape (trials, units)
        May be a memory map.
    condition : array_like, shape (trials,)
        Conditions with one trial are left out.
    session : array_like, shape (trials,), optional
        The mean of each session is taken out first.

    Returns
    -------
    ndarray, shape (units,)
        At most 1, about 0 without a response, below 0 by chance; NaN for all units with fewer than three repeated conditions, and for
        units with a NaN or without variance.

    Notes
    -----
    The intraclass correlation ICC(1) of a one-way analysis of variance (Shrout & Fleiss, 1979, Psychological Bulletin 86:420), with the
    mean number of repeats of unbalanced designs (Donner, 1986).
    """
    code, counts = np.unique(np.asarray(condition), return_inverse=True, return_counts=True)[1:]
    kept = np.flatnonzero(counts[code] > 1)
    n_units = betas.shape[1]
    code, counts = np.unique(code[kept], return_inverse=True, return_counts=True)[1:]
    if len(counts) < 3:
        return np.full(n_units, np.nan)
    order = np.argsort(code, kind="stable")
    rows, starts = kept[order], np.r_[0, np.cumsum(counts)[:-1]]
    groups = np.zeros(len(rows), np.intp) if session is None else np.unique(np.asarray(session)[rows], return_inverse=True)[1]
    n_trials, n_groups = len(rows), len(counts)
    repeats = (n_trials - np.square(counts).sum() / n_trials) / (n_groups - 1)
    agreement = np.empty(n_units)
    for block in value_blocks(2 * betas.shape[0], n_units):
        values = np.asarray(betas[:, block])[rows].astype(np.float64)
        for group in range(groups.max() + 1):
            values[groups == group] -= values[groups == group].mean(axis=0)
        means = np.add.reduceat(values, starts, axis=0) / counts[:, None]
        total = np.einsum("ij,ij->j", values, values)
        between = (counts[:, None] * np.square(means)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            explained, noise = between / (n_groups - 1), np.maximum(total - between, 0.0) / (n_trials - n_groups)
            agreement[block] = np.where(total > 0, (explained - noise) / (explained + (repeats - 1) * noise), np.nan)
    return agreement
