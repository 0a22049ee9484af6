"""How well a design tells its trials apart: variance inflation, resemblance and efficiency, from the regressors alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["design_efficiency", "largest_correlation", "trial_variance_inflation"]

FloatArray = npt.NDArray[np.float64]
RANK_TOLERANCE = 1e-10
"""Of the largest eigenvalue of the correlation of regressors."""


def trial_variance_inflation(regressors: npt.ArrayLike) -> FloatArray:
    """Variance of each trial's least-squares estimate, over the one that it would have if it were the only trial.

    Parameters
    ----------
    regressors : (n_volumes, n_trials) array
        Of one run, a column a trial, drifts and other nuisance out.

    Returns
    -------
    (n_trials,) float64 array
        1 / (1 - R2 of the regressor on all others): 1 for a trial apart from all others; infinite where the others make up the regressor
        exactly, or nothing of it is left.

    Notes
    -----
    The diagonal of the inverse of the correlation matrix (Marquardt, 1970, Technometrics 12:591), without the mean taken out, as the
    drifts have it already.
    """
    unit, empty = _unit_columns(regressors)
    values, vectors = np.linalg.eigh(unit.T @ unit)
    kept = values > RANK_TOLERANCE * max(float(values[-1]) if len(values) else 0.0, np.finfo(float).tiny)
    squares = vectors[:, kept] ** 2
    inflation = squares @ (1 / values[kept])
    # a trial with a part outside of what the design can tell has no estimate of its own
    return np.where(empty | (squares.sum(1) < 1 - 1e-6), np.inf, inflation)


def largest_correlation(regressors: npt.ArrayLike) -> FloatArray:
    """Largest absolute correlation (cosine) of each trial's regressor with another one's.

    Parameters
    ----------
    regressors : (n_volumes, n_trials) array
        As in `trial_variance_inflation`.

    Returns
    -------
    (n_trials,) float64 array
        From 0 to 1; 0 for a trial alone.
    """
    unit, _ = _unit_columns(regressors)
    cosines = np.abs(unit.T @ unit)
    np.fill_diagonal(cosines, 0)
    return np.minimum(cosines.max(axis=1, initial=0.0), 1.0)


def design_efficiency(regressors: npt.ArrayLike, counted: npt.ArrayLike | None = None) -> float:
    """Efficiency of single-trial estimates: one over the mean variance of the betas in noise of variance 1 (Dale, 1999).

    Parameters
    ----------
    regressors : (n_volumes, n_trials) array
        As in `trial_variance_inflation`.
    counted : (n_trials,) bool array, optional
        Trials whose variance counts, as others are known to be unreliable; all are in the model.

    Returns
    -------
    float
        n_trials / trace((X'X)^-1), of the trials that count; 0 where these cannot all be told apart, or there are none.

    Notes
    -----
    Dale, 1999, Human Brain Mapping 8:109, equation 9, with every trial a condition.
    """
    columns = np.asarray(regressors, dtype=np.float64)
    kept = np.ones(columns.shape[1], bool) if counted is None else np.asarray(counted, dtype=bool)
    energy, inflation = np.square(columns).sum(axis=0)[kept], trial_variance_inflation(columns)[kept]
    if not len(energy) or not np.isfinite(inflation).all():
        return 0.0
    return float(len(energy) / (inflation / energy).sum())


def _unit_columns(regressors: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Columns of length 1, and which have no length."""
    columns = np.asarray(regressors, dtype=np.float64)
    lengths = np.linalg.norm(columns, axis=0)
    empty = lengths <= 1e-12 * max(float(lengths.max(initial=0.0)), np.finfo(float).tiny)
    return columns / np.where(empty, np.inf, lengths), empty
