"""Noise ceiling from repeats: the share of a response's variance that a perfect model could explain.

The definition is that of the Natural Scenes Dataset (Allen et al., 2022, Nature Neuroscience 25:116-126,
doi:10.1038/s41593-021-00962-x, "Noise ceiling estimation"): the variance over repeats of a condition is noise, what is left of the
total variance is signal, their ratio of standard deviations is ncsnr, and averaging n repeats divides the noise variance by n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conform_bids.numerics.blocks import value_blocks

__all__ = ["noise_ceiling", "noise_ceiling_snr", "snr_to_ceiling"]


def noise_ceiling(
    betas: NDArray[np.floating],
    condition: ArrayLike,
    sessions: ArrayLike | None = None,
    n_averaged: int | None = None,
) -> NDArray[np.float64]:
    """Noise ceiling of trial averages, in percent of the variance over conditions.

    Parameters
    ----------
    betas : ndarray, shape (trials, units)
        Single-trial responses, in any units.
    condition : array_like, shape (trials,)
        Condition of each trial.
    sessions : array_like, shape (trials,), optional
        Session of each trial; responses are then z-scored within each session first, as NSD does, so that a change of gain or of
        level between sessions does not count as noise.
    n_averaged : int, optional
        Trials averaged in the data whose ceiling is asked for. By default each condition's own number of repeats: 1/n is then
        averaged over conditions, as NSD does.

    Returns
    -------
    ndarray, shape (units,)
        Percent, 0 to 100. NaN where no condition repeats, where trials are NaN, and where the unit does not vary.

    Raises
    ------
    ValueError
        If there is not one condition (and session) a trial, or ``n_averaged`` is below 1.
    """
    counts = np.unique(np.asarray(condition), return_counts=True)[1]
    return snr_to_ceiling(noise_ceiling_snr(betas, condition, sessions), counts if n_averaged is None else n_averaged)


def snr_to_ceiling(ncsnr: NDArray[np.floating], n_averaged: ArrayLike) -> NDArray[np.float64]:
    """Turn signal-to-noise ratios into ceilings: ``100 * ncsnr^2 / (ncsnr^2 + mean(1 / n))``.

    Parameters
    ----------
    ncsnr : ndarray, shape (units,)
        Standard deviation of the signal over that of a single trial's noise.
    n_averaged : int or array_like of int, shape (conditions,)
        Trials averaged, the same for all conditions or one number each.

    Returns
    -------
    ndarray, shape (units,)
        Percent.

    Raises
    ------
    ValueError
        If a number of trials is below 1.
    """
    counts = np.asarray(n_averaged, dtype=np.float64)
    if np.any(counts < 1):
        raise ValueError("n_averaged: at least one trial is averaged")
    noise = np.mean(1.0 / counts) if counts.size else np.nan
    with np.errstate(divide="ignore"):
        # Divided through by ncsnr^2, so that an infinite ratio gives 100 and not NaN.
        return 100.0 / (1.0 + noise / np.square(np.asarray(ncsnr, dtype=np.float64)))


def noise_ceiling_snr(betas: NDArray[np.floating], condition: ArrayLike, sessions: ArrayLike | None = None) -> NDArray[np.float64]:
    """Ratio of the signal's standard deviation to the noise's (NSD's ncsnr).

    The noise variance is the variance over the repeats of a condition (ddof 1), pooled over conditions by their degrees of freedom;
    conditions with one trial tell nothing about it. The signal variance is the total variance less the noise variance, not below 0.
    The total sum of squares of trials that share conditions holds a little less signal than its degrees of freedom say; that is made
    up for exactly, which matters with few conditions and vanishes with many, where this is NSD's estimate.

    Parameters
    ----------
    betas, condition, sessions
        As for `noise_ceiling`.

    Returns
    -------
    ndarray, shape (units,)
        0 or above (infinite where repeats agree to the last bit); NaN as for `noise_ceiling`.

    Raises
    ------
    ValueError
        If there is not one condition (and session) a trial.
    """
    conditions = np.asarray(condition)
    groups = np.zeros(len(conditions), dtype=np.int64) if sessions is None else np.asarray(sessions)
    if betas.ndim != 2 or conditions.shape != (betas.shape[0],) or groups.shape != conditions.shape:
        raise ValueError(f"betas of shape {betas.shape} need one condition and one session a trial")
    ncsnr = np.full(betas.shape[1], np.nan)
    if not len(conditions):
        return ncsnr
    code, counts = np.unique(conditions, return_inverse=True, return_counts=True)[1:]
    session_code = np.unique(groups, return_inverse=True)[1]
    if counts.max() < 2:
        return ncsnr
    signal_weight = _signal_weight(code, session_code)
    order, starts = np.argsort(code, kind="stable"), np.r_[0, np.cumsum(counts)[:-1]]
    for block in value_blocks(betas.shape[0], betas.shape[1]):
        rows = np.array(betas[:, block], dtype=np.float64)
        total_freedom = _standardise(rows, session_code, scale=sessions is not None)
        rows = rows[order]
        total = np.einsum("ij,ij->j", rows, rows)
        rows -= np.repeat(np.add.reduceat(rows, starts, axis=0) / counts[:, None], counts, axis=0)
        within = np.einsum("ij,ij->j", rows, rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            noise = within / (len(code) - len(counts))
            signal = np.maximum(total - noise * total_freedom, 0.0) / signal_weight
            ratio = np.sqrt(signal / noise)
        ratio[~(total > 0)] = np.nan
        ncsnr[block] = ratio
    return ncsnr


def _signal_weight(condition: NDArray[np.intp], session: NDArray[np.intp]) -> float:
    """What a unit of signal variance adds to the expected sum of squares about the sessions' means (NaN if nothing)."""
    table = np.zeros((session.max() + 1, condition.max() + 1))
    np.add.at(table, (session, condition), 1)
    weight = table.sum() - float(np.sum(np.square(table).sum(axis=1) / table.sum(axis=1)))
    return weight if weight > 1e-9 * table.sum() else float("nan")


def _standardise(rows: NDArray[np.float64], session: NDArray[np.intp], *, scale: bool) -> int:
    """Centre (and scale) each session in place; units that do not vary in a session become 0 there. Returns degrees of freedom."""
    n_sessions = int(session.max()) + 1
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for index in range(n_sessions):
            members = session == index
            part = rows[members]
            mean = part.mean(axis=0)
            part -= mean
            deviation = np.sqrt(np.einsum("ij,ij->j", part, part) / max(1, len(part) - 1))
            part[:, deviation <= 16 * np.finfo(np.float64).eps * np.abs(mean)] = 0.0
            if scale:
                part /= np.where(deviation > 0, deviation, 1.0)
            rows[members] = part
    return len(session) - n_sessions
