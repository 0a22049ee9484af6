"""HRF of each unit by the evidence of label-free ridge, worked out while the data pass by once.

R2 rewards curves that let overlapping trials fit noise; the evidence of the model of `evidence_ridge` pays for that. Its ratio lambda
of response to noise variance is not known when the HRF is chosen: the evidence is summed over three values that span what is met.

With X of a run = U S V', a = V'1, z = U'y and 1 + lambda S^2 = d, a unit has, over its runs,

    explained = sum lambda S^2 z^2 / d + (sum a S z / d)^2 / A,    A = sum a^2 S^2 / d,
    log evidence = -(n - 1) / 2 log(y'y - explained) - (sum log d + log A) / 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.data import SHARES
from conform_bids.glm.numerics.least_squares import RunFactor
from conform_bids.numerics.blocks import index_blocks
from conform_bids.numerics.compute import Compute, map_blocks, to_numpy, to_tensor

__all__ = ["SCAN_LAMBDAS", "EvidenceScan"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
EVIDENCE_UNITS = 2048
"""Units a block of what comes after the pass over the data."""
SCAN_LAMBDAS = 10.0 ** np.array([-1.0, -0.5, 0.0])
"""Ratios of the variance of responses to that of the noise that the evidence is summed over."""


class EvidenceScan:
    """Log evidence of the single-trial model with every HRF of the library: one matrix product a run.

    Parameters
    ----------
    factors : mapping of sequences of RunFactor
        By HRF, 0 to n_hrfs - 1, one a run, all nuisance out; made for data that come as they are.
    n_free : (n_runs,) int array
        Volumes less nuisance columns.
    n_units : int
        Number of units.
    compute : Compute
        Resources.
    """

    def __init__(self, factors: Mapping[int, Sequence[RunFactor]], n_free: npt.NDArray[np.intp], n_units: int, compute: Compute) -> None:
        self._n_hrfs = len(factors)
        n_runs = len(n_free)
        self._n_free = n_free

        def terms_of(run: int) -> _RunTerms:
            return _RunTerms([factors[hrf][run] for hrf in range(self._n_hrfs)], compute.device)

        self._runs = map_blocks(terms_of, range(n_runs), compute)
        # units last: narrow products are several times slower the other way round
        shape = (self._n_hrfs, len(SCAN_LAMBDAS), n_units)
        self._explained, self._linear = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._total = np.zeros((n_runs, n_units))

    def visit(self, run: int, units: slice, values: torch.Tensor, total: torch.Tensor) -> None:
        """See `RunScan`; ``total`` is the sum of squares with nuisance and serial correlation out."""
        terms, shape = self._runs[run], (self._n_hrfs, -1, len(values))
        self._linear[:, :, units] += to_numpy(terms.linear @ values.T).reshape(shape)
        squares = (terms.directions @ values.T).square_().view(shape)
        self._explained[:, :, units] += to_numpy(torch.bmm(terms.gain, squares))
        self._total[run, units] = to_numpy(total)

    def result(self, compute: Compute) -> FloatArray:
        """Log evidence, (n_hrfs, n_units), up to a constant of each unit; runs in which a unit is absent have no share in it."""
        result = np.zeros((self._n_hrfs, self._total.shape[1]))
        for pattern, units in _equal_columns(self._total > 0):
            runs = np.flatnonzero(pattern)
            if len(runs):
                information = np.maximum(sum(self._runs[run].information for run in runs), np.finfo(float).tiny)
                penalty = sum(self._runs[run].log_determinant for run in runs) + np.log(information)
                freedom = int(self._n_free[runs].sum()) - 1
                self._evidence(result, units, (torch.from_numpy(information), torch.from_numpy(penalty), freedom), compute)
        return result

    def _evidence(self, result: FloatArray, units: IntArray, model: tuple[torch.Tensor, torch.Tensor, int], compute: Compute) -> None:
        """Fill the columns of units that are present in the same runs."""
        information, penalty = model[0][..., None], model[1][..., None]
        freedom = model[2]

        def block(members: IntArray) -> None:
            total = torch.from_numpy(self._total[:, members].sum(axis=0))
            linear = torch.from_numpy(self._linear[:, :, members]).double()
            explained = torch.from_numpy(self._explained[:, :, members]) + linear.square_().div_(information)
            rest = torch.maximum(total - explained, 1e-9 * total)
            evidence = rest.log_().mul_(-freedom).sub_(penalty).mul_(0.5)
            result[:, members] = evidence.logsumexp(1).numpy()

        map_blocks(block, index_blocks(units, EVIDENCE_UNITS, SHARES), compute)


def _equal_columns(present: BoolArray) -> Iterator[tuple[BoolArray, IntArray]]:
    """Each pattern of (n_runs, n_units) that occurs, and the units that have it."""
    if present.all():
        yield present[:, 0], np.arange(present.shape[1])
        return
    patterns, pattern_of = np.unique(present, axis=1, return_inverse=True)
    for index, pattern in enumerate(patterns.T):
        yield pattern, np.flatnonzero(pattern_of.ravel() == index)


class _RunTerms:
    """What turns a run's data into its share of the evidence.

    Attributes
    ----------
    directions : (n_hrfs * rank, n_volumes) tensor
        U', padded to the same rank.
    gain : (n_hrfs, n_lambdas, rank) tensor
        lambda S^2 / d.
    linear : (n_hrfs * n_lambdas, n_volumes) tensor
        (U (a S / d))'.
    information, log_determinant : (n_hrfs, n_lambdas) float64 arrays
        Sums of a^2 S^2 / d and of log d.
    """

    def __init__(self, factors: Sequence[RunFactor], device: str) -> None:
        rank, n_volumes = max(factor.left.shape[1] for factor in factors), len(factors[0].left)
        singular, sums = np.zeros((2, len(factors), rank, 1))
        left = factors[0].left.new_zeros((len(factors), rank, n_volumes))
        for index, factor in enumerate(factors):
            own = slice(0, len(factor.singular))
            singular[index, own, 0], sums[index, own, 0] = factor.singular, factor.right.sum(axis=0)
            left[index, own] = factor.left.T
        spread = 1 + SCAN_LAMBDAS * singular**2
        self.directions = left.flatten(0, 1)
        self.gain = to_tensor((1 - 1 / spread).transpose(0, 2, 1), device)
        self.linear = torch.bmm(to_tensor((sums * singular / spread).transpose(0, 2, 1), device), left).flatten(0, 1)
        self.information: FloatArray = (np.square(sums * singular) / spread).sum(axis=1)
        self.log_determinant: FloatArray = np.log(spread).sum(axis=1)
