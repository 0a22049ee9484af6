"""Two halves of the trials, and correlations over conditions of several folds that were denoised by different denoisers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.trials import Trials, sum_conditions

__all__ = ["about_folds", "correlate", "even_out", "half_means"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def half_means(trials: Trials) -> tuple[FloatArray, FloatArray, tuple[FloatArray, FloatArray]]:
    """Means over the odd and over the even trials of each condition, in the order that they have, and the trials of each half.

    Halves that were drawn by chance would put responses of one session into both. Z-scores of a session sum to 0, so that these depend on
    each other: with 20 conditions shown once in each of two sessions, correlations of noise would be .02 too high.

    Parameters
    ----------
    trials : Trials
        Complete; conditions with one trial are NaN in the second half.

    Returns
    -------
    first, second : (n_conditions, n_units) float64 arrays
        Means.
    counts : pair of (n_conditions,) float64 arrays
        Trials of each mean; the first half is the larger one of an odd number.
    """
    rank = np.arange(len(trials.condition)) - np.repeat(trials.starts, trials.counts)
    first = rank % 2 == 0
    sums = sum_conditions(trials.values, trials.starts, first.astype(np.float64))
    number = np.bincount(trials.condition[first], minlength=trials.n_conditions).astype(np.float64)
    others = trials.counts - number
    with np.errstate(invalid="ignore", divide="ignore"):
        second = (sum_conditions(trials.values, trials.starts, 1.0 - first)) / others[:, None]
        return sums / number[:, None], second, (number, others)


def about_folds(values: FloatArray, code: IntArray) -> FloatArray:
    """Rows about the mean of their fold.

    Parameters
    ----------
    values : (n_rows, n_units) float64 array
    code : (n_rows,) int array
        Fold of each.
    """
    centred = values.copy()
    for fold in np.unique(code):
        rows = code == fold
        centred[rows] -= centred[rows].mean(axis=0)
    return centred


def even_out(values: FloatArray, code: IntArray, sizes: FloatArray) -> FloatArray:
    """Rows about the mean of their fold, divided by what the denoiser of the fold passes on the whole, unit by unit.

    A denoiser passes the more, the better repeats agree in the conditions that it was fitted on. So where a fold's repeats happen to agree,
    the other folds are passed with more weight, and that fold with less: sums over folds of products of repeats are too low, with 16 to 20
    conditions of pure noise by .1 as correlations. Divided by sizes that do not depend on which trials are repeats of which in the fold, no
    fold has more weight than another, and the mean is 0. The fold's own size would not do: it takes correlations of few conditions down.

    Parameters
    ----------
    values : (n_rows, n_units) float64 array
        Denoised.
    code : (n_rows,) int array
        Fold of each row.
    sizes : (n_folds, n_units) float64 array
        As of `conform_bids.psn.numerics.denoiser.Denoiser.output_sizes`; units of which nothing is passed in a fold stay 0.
    """
    even = about_folds(values, code)
    even /= np.where(sizes > 0, sizes, 1.0)[code]
    return even


def correlate(first: FloatArray, second: FloatArray) -> FloatArray:
    """Correlation of columns that are centred already; NaN where a column is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        product = np.einsum("ij,ij->j", first, first) * np.einsum("ij,ij->j", second, second)
        return np.asarray(np.einsum("ij,ij->j", first, second) / np.sqrt(product))
