"""Cross-validation over runs: which trials predict which.

A trial in a training run predicts a trial of the same condition in a test run. Both are counted for every fold, and the result is
kept as small matrices over (fold, condition), so that scoring a model costs one gather instead of a loop over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["RepeatPairs", "leave_one_run_out", "pair_repeats"]

IntArray = npt.NDArray[np.intp]


def leave_one_run_out(n_runs: int) -> tuple[tuple[int, ...], ...]:
    """One fold a run."""
    return tuple((run,) for run in range(n_runs))


@dataclass(frozen=True)
class RepeatPairs:
    """Pairs (training trial i, test trial j) of the same condition, over folds.

    Attributes
    ----------
    n_partners : (n_trials,) float array
        How many test trials each trial predicts, over all folds.
    test_counts : (n_trials,) float array
        How often each trial is predicted.
    partner_matrix : (n_trials, n_trials) array
        Number of folds in which row i predicts column j, as a ``scipy.sparse.csr_array``.
    """

    n_partners: npt.NDArray[np.float64]
    test_counts: npt.NDArray[np.float64]
    partner_matrix: object

    @property
    def any(self) -> bool:
        """Whether there is anything to cross-validate."""
        return bool(self.n_partners.any())


def pair_repeats(
    condition: IntArray, run: IntArray, folds: Sequence[Sequence[int]], usable: npt.NDArray[np.bool_] | None = None
) -> RepeatPairs:
    """Find the pairs of repeats that cross-validation compares (ALGORITHM of GLMsingle, Prince et al. 2022).

    Parameters
    ----------
    condition : (n_trials,) int array
        Condition of each trial.
    run : (n_trials,) int array
        Run of each trial, counted from 0.
    folds : sequence of sequences of int
        The runs that each fold leaves out.
    usable : (n_trials,) bool array, optional
        Trials that may take part (the training stimuli where there is a split).
    """
    import scipy.sparse

    n_trials = len(condition)
    usable = np.ones(n_trials, bool) if usable is None else usable
    n_runs, n_conditions = (int(labels.max()) + 1 if n_trials else 0 for labels in (run, condition))
    held_out = np.array([np.isin(np.arange(n_runs), list(fold)) for fold in folds], dtype=np.float64).reshape(len(folds), n_runs)
    # folds in which a run of the first is trained on and one of the second is tested
    n_folds = (1 - held_out).T @ held_out
    rows = np.flatnonzero(usable)
    indicator = scipy.sparse.csr_array((np.ones(len(rows)), (rows, condition[rows])), shape=(n_trials, n_conditions))
    pairs = (indicator @ indicator.T).tocoo()
    matrix = scipy.sparse.csr_array((n_folds[run[pairs.row], run[pairs.col]], (pairs.row, pairs.col)), shape=(n_trials, n_trials))
    matrix.eliminate_zeros()
    return RepeatPairs(
        n_partners=np.asarray(matrix.sum(axis=1)).ravel(),
        test_counts=np.asarray(matrix.sum(axis=0)).ravel(),
        partner_matrix=matrix,
    )
