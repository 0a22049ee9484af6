"""Scores of single-trial responses: correlations column by column, condition means, split-half reliability.

Arrays are (trials, units). Sums are accumulated in float64 over blocks of units, so that a memory-mapped array of betas is
never copied as a whole and a result does not depend on the block size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conform_bids.numerics.blocks import value_blocks

__all__ = ["condition_means", "correlate_columns", "odd_even_reliability"]


def correlate_columns(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson correlation between corresponding columns.

    Parameters
    ----------
    first, second : ndarray, shape (samples, units)
        Rows correspond.

    Returns
    -------
    ndarray, shape (units,)
        Correlation in [-1, 1]; NaN where either column holds a NaN or does not vary, or with fewer than two rows.

    Raises
    ------
    ValueError
        If the shapes differ or are not two-dimensional.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"correlate_columns: shapes {first.shape} and {second.shape} are not two equal matrices")
    n_rows, n_units = first.shape
    correlation = np.full(n_units, np.nan)
    if n_rows < 2:
        return correlation
    for block in value_blocks(2 * n_rows, n_units):
        a, norm_a = _centre(first[:, block])
        b, norm_b = _centre(second[:, block])
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation[block] = np.einsum("ij,ij->j", a, b) / (norm_a * norm_b)
    clipped: NDArray[np.float64] = np.clip(correlation, -1.0, 1.0)
    return clipped


def _centre(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre columns; the norm is NaN where what is left is rounding error of the mean."""
    columns = np.array(values, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = columns.mean(axis=0)
        columns -= mean
        norm = np.sqrt(np.einsum("ij,ij->j", columns, columns))
        rounding = 16 * np.finfo(np.float64).eps * np.abs(mean) * np.sqrt(len(columns))
        norm[~(norm > rounding)] = np.nan
    return columns, norm


def condition_means(betas: NDArray[np.floating], condition: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.generic], NDArray[np.intp]]:
    """Average the trials of each condition.

    Parameters
    ----------
    betas : ndarray, shape (trials, units)
        Single-trial responses.
    condition : array_like, shape (trials,)
        Condition of each trial.

    Returns
    -------
    means : ndarray, shape (conditions, units)
        Rows in the order of ``labels``; NaN where a trial is NaN.
    labels : ndarray, shape (conditions,)
        Sorted distinct conditions.
    counts : ndarray, shape (conditions,)
        Trials of each condition.

    Raises
    ------
    ValueError
        If there is not one condition a trial.
    """
    labels, code, counts = _encode(condition, betas)
    order, starts = np.argsort(code, kind="stable"), np.r_[0, np.cumsum(counts)[:-1]]
    means = np.empty((len(labels), betas.shape[1]))
    if not len(labels):
        return means, labels, counts
    for block in value_blocks(betas.shape[0], betas.shape[1]):
        rows = np.asarray(betas[:, block])[order].astype(np.float64, copy=False)
        means[:, block] = np.add.reduceat(rows, starts, axis=0) / counts[:, None]
    return means, labels, counts


def _encode(condition: ArrayLike, betas: NDArray[np.floating]) -> tuple[NDArray[np.generic], NDArray[np.intp], NDArray[np.intp]]:
    conditions = np.asarray(condition)
    if betas.ndim != 2 or conditions.shape != (betas.shape[0],):
        raise ValueError(f"betas of shape {betas.shape} need one condition a trial, got shape {conditions.shape}")
    labels, code, counts = np.unique(conditions, return_inverse=True, return_counts=True)
    return labels, code, counts


def odd_even_reliability(
    betas: NDArray[np.floating], condition: ArrayLike, run: ArrayLike, *, minimum_conditions: int = 3
) -> NDArray[np.float64]:
    """Correlate the condition means of the odd runs with those of the even runs, unit by unit.

    Parameters
    ----------
    betas : ndarray, shape (trials, units)
        Single-trial responses.
    condition : array_like, shape (trials,)
        Condition of each trial.
    run : array_like of int, shape (trials,)
        Run of each trial, counted over the fit.
    minimum_conditions : int
        Conditions that both halves must share; with fewer a correlation says nothing.

    Returns
    -------
    ndarray, shape (units,)
        Correlation over the conditions that both halves hold; NaN for units that are NaN or do not vary, and for all units where
        the halves share too few conditions.

    Raises
    ------
    ValueError
        If there is not one condition and one run a trial.
    """
    conditions, half = np.asarray(condition), np.asarray(run, dtype=np.int64) % 2 == 0
    if half.shape != (betas.shape[0],) or conditions.shape != half.shape:
        raise ValueError(f"betas of shape {betas.shape} need one condition and one run a trial")
    shared = np.intersect1d(conditions[half], conditions[~half])
    if len(shared) < minimum_conditions:
        return np.full(betas.shape[1], np.nan)
    kept = np.isin(conditions, shared)
    first, second = np.flatnonzero(kept & half), np.flatnonzero(kept & ~half)
    reliability = np.empty(betas.shape[1])
    for block in value_blocks(betas.shape[0], betas.shape[1]):
        rows = np.asarray(betas[:, block])
        means = [condition_means(rows[trials], conditions[trials])[0] for trials in (first, second)]
        reliability[block] = correlate_columns(*means)
    return reliability
