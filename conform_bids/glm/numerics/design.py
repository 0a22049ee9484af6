"""Designs of single trials: when, in which run, of which condition; and their regressors.

A trial is non-zero in its own run alone, so the single-trial design is block diagonal by run: everything after this module works run
by run, and only what ties the runs of a unit together (its HRF, its ridge fraction) is summed over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conform_bids.numerics.linalg import extend_basis, polynomial_basis

__all__ = ["Design", "Library", "NuisanceBases", "exact_regressors", "nuisance_bases", "onset_volumes", "rounded_regressors"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

Library = Callable[[int], FloatArray]
"""Regressors of a run by HRF: run index -> (n_hrfs, n_volumes, n_trials of the run)."""


@dataclass(frozen=True)
class Design:
    """Trials and runs of one fit.

    Attributes
    ----------
    tr : float
        Repetition time, s.
    run_lengths : tuple of int
        Volumes a run.
    run : (n_trials,) int array
        Run of each trial, ascending.
    onset : (n_trials,) float array
        Seconds from the time of the run's first frame (the slice-timing reference) to the trial.
    duration : (n_trials,) float array
        Seconds.
    condition : (n_trials,) int array
        Condition of each trial, counted from 0.
    train : (n_trials,) bool array
        Trials that cross-validation may use.
    session : (n_runs,) int array
        Session of each run, for standardising betas in cross-validation.
    folds : tuple of tuples of int
        Runs that each cross-validation fold leaves out.
    polynomial_degree : tuple of int
        Drift degree a run.
    regressors : tuple of (n_volumes, n_regressors) arrays
        User regressors a run; none is an array of no columns.
    """

    tr: float
    run_lengths: tuple[int, ...]
    run: IntArray
    onset: FloatArray
    duration: FloatArray
    condition: IntArray
    train: npt.NDArray[np.bool_]
    session: IntArray
    folds: tuple[tuple[int, ...], ...]
    polynomial_degree: tuple[int, ...]
    regressors: tuple[FloatArray, ...] = field(default=())

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.run_lengths)

    @property
    def n_trials(self) -> int:
        """Number of trials."""
        return len(self.run)

    @property
    def most_trials(self) -> int:
        """Trials of the run that has most."""
        return int(np.bincount(self.run).max()) if len(self.run) else 0

    def trials_of(self, run: int) -> slice:
        """Rows of the trials of a run."""
        return slice(int(np.searchsorted(self.run, run)), int(np.searchsorted(self.run, run, side="right")))

    def user_regressors(self, run: int) -> FloatArray:
        """User regressors of a run, (n_volumes, n_regressors)."""
        return self.regressors[run] if self.regressors else np.zeros((self.run_lengths[run], 0))


@dataclass(frozen=True)
class NuisanceBases:
    """Orthonormal nuisance bases of a run.

    Attributes
    ----------
    base : (n_volumes, k) float array
        Taken out of data and design before anything else, R2 included.
    extra : (n_volumes, p) float array
        Orthogonal to ``base``; taken out for the fit, but its share stays in what R2 is measured on (compat only).
    """

    base: FloatArray
    extra: FloatArray


def nuisance_bases(design: Design, *, regressors_in_base: bool) -> list[NuisanceBases]:
    """Nuisance of every run: drifts in the base, and the user's regressors in the base or (as GLMsingle has them) beside it."""
    bases = []
    for run in range(design.n_runs):
        drifts = polynomial_basis(design.run_lengths[run], design.polynomial_degree[run])
        user = extend_basis(drifts, design.user_regressors(run))
        if regressors_in_base:
            bases.append(NuisanceBases(np.column_stack([drifts, user]), np.zeros((len(drifts), 0))))
        else:
            bases.append(NuisanceBases(drifts, user))
    return bases


def onset_volumes(design: Design, run: int) -> IntArray:
    """Volume of each onset of a run, floor(onset / TR + .5), as GLMsingle counts; it may lie outside of the run."""
    return np.floor(design.onset[design.trials_of(run)] / design.tr + 0.5).astype(np.intp)


def rounded_regressors(design: Design, curves: npt.ArrayLike) -> Library:
    """Regressors of GLMsingle: the sampled HRF put at the volume nearest to the onset, cut at the end of the run.

    Parameters
    ----------
    design : Design
        Its onsets are rounded to volumes, floor(onset / TR + .5).
    curves : (n_samples, n_hrfs) array
        HRFs sampled at the repetition time.
    """
    sampled = np.asarray(curves, dtype=np.float64)

    def columns(run: int) -> FloatArray:
        volumes = onset_volumes(design, run)
        length = design.run_lengths[run]
        result = np.zeros((sampled.shape[1], length, len(volumes)))
        for trial, volume in enumerate(volumes):
            if 0 <= volume < length:
                stop = min(length, volume + len(sampled))
                result[:, volume:stop, trial] = sampled[: stop - volume].T
        return result

    return columns


def exact_regressors(design: Design, response: Callable[[float, FloatArray], FloatArray]) -> Library:
    """Regressors at the frames' own times: the response evaluated at (frame time - onset).

    Parameters
    ----------
    design : Design
        Its onsets need not lie on the grid of volumes; durations may differ.
    response : callable
        (stimulus duration s, times after onset s) -> (..., n_hrfs), zero before the onset.
    """

    def columns(run: int) -> FloatArray:
        trials = design.trials_of(run)
        frames = np.arange(design.run_lengths[run]) * design.tr
        delays = frames[:, None] - design.onset[trials][None, :]
        durations = np.round(design.duration[trials], 3)
        blocks: FloatArray | None = None
        for duration in np.unique(durations):
            same = np.flatnonzero(durations == duration)
            values = response(float(duration), delays[:, same])
            if blocks is None:
                blocks = np.zeros((values.shape[-1], *delays.shape))
            blocks[:, :, same] = np.moveaxis(values, -1, 0)
        if blocks is None:  # a run without trials has none with any HRF
            return np.zeros((response(1.0, delays).shape[-1], *delays.shape))
        return blocks

    return columns
