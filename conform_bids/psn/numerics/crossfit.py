"""Denoised responses whose denoiser never saw their condition, and what can be said of reliability with them.

A denoiser carries the noise of the trials that it was fitted on: two halves denoised by it agree even where there is no signal. With
the denoiser of other conditions their errors are independent, and on pure noise correlations are zero but for chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.halves import about_folds, correlate, even_out, half_means
from conform_bids.psn.numerics.trials import Trials, split_conditions

__all__ = ["CrossFit", "crossfit"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Cross-fitted responses, and reliabilities over conditions, unit by unit.

    Correlations are over the conditions that repeat, about the mean of each fold and evened out (see
    `conform_bids.psn.numerics.halves.even_out`), since all conditions of a fold share a denoiser.

    Attributes
    ----------
    denoised : (n_conditions, n_units) float64 array
        Each condition's mean, denoised by the fit to the other folds.
    fold : (n_conditions,) int array
        Fold of each condition.
    reliability_before : (n_units,) float64 array
        Correlation of the means of two halves of the trials.
    reliability_after : (n_units,) float64 array
        Of the two halves, both denoised; NaN where nothing is left of a unit.
    prediction : (n_units,) float64 array
        Of one half denoised with the other one as it is.
    gain : (n_units,) float64 array
        Share of the squared error of the mean response, in predicting one half, that the other half denoised saves.
    """

    denoised: FloatArray
    fold: IntArray
    reliability_before: FloatArray
    reliability_after: FloatArray
    prediction: FloatArray
    gain: FloatArray


def crossfit(trials: Trials, fit: Callable[[Trials], Denoiser], n_folds: int = 5, seed: int = 0) -> CrossFit:
    """Denoise every condition by a denoiser that was fitted on other conditions.

    Parameters
    ----------
    trials : Trials
        Complete trials are used.
    fit : callable
        Makes a denoiser of trials; all that it chooses is chosen on them.
    n_folds, seed : int
        Folds of conditions.
    """
    complete = trials.only_complete()
    denoised, means = np.empty_like(complete.means), complete.means
    fold_of = np.empty(complete.n_conditions, dtype=np.intp)
    centre = means.mean(axis=0)
    first, second, counts = half_means(complete)
    repeated = complete.counts >= 2
    after = [np.zeros_like(first), np.zeros_like(second)]
    deviation = complete.values - centre
    second_moment, sizes = deviation.T @ deviation / len(deviation), []
    for index, fold in enumerate(split_conditions(complete.counts, n_folds, seed)):
        fold_of[fold] = index
        others = np.ones(complete.n_conditions, bool)
        others[fold] = False
        # about the mean of all conditions: the folds' own means would differ by their neighbours' noise
        denoiser = replace(fit(complete.select_conditions(others)), mean=np.zeros_like(centre))
        sizes.append(denoiser.output_sizes(second_moment))
        denoised[fold] = centre + denoiser.apply(means[fold] - centre, complete.counts[fold])
        halves = fold[repeated[fold]]
        for half, out, count in zip((first, second), after, counts, strict=True):
            out[halves] = denoiser.apply(half[halves] - centre, count[halves])
    code = fold_of[repeated]
    a, b, p, q = (about_folds(values[repeated], code) for values in (first, second, *after))
    error = np.square(b - p).sum(axis=0) + np.square(a - q).sum(axis=0)
    total = np.square(a).sum(axis=0) + np.square(b).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = 1 - error / total
    p, q = (even_out(half, code, np.stack(sizes)) for half in (p, q))
    return CrossFit(
        denoised,
        fold_of,
        correlate(a, b),
        correlate(p, q),
        (correlate(p, b) + correlate(q, a)) / 2,
        gain,
    )
