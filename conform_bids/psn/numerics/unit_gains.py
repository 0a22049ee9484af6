"""How much of a mixture's output each unit keeps: amplitudes of units that the filters of a parcel serve too well or too badly.

One mixture serves all units of a parcel, and its weights are right for them together: where many units do not respond, what passes is too
small in those that do, and too large in the others. The slope of each unit's targets on its outputs tells, with an error that the spread of
conditions about it gives (White, 1980). Slopes are drawn towards that of all units as far as errors explain how they differ (empirical
Bayes), so that units that are alike keep the same amplitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.psn.numerics.denoiser import filter_gains
from conform_bids.psn.numerics.filters import FilterPart

__all__ = ["SplitOutputs", "UnitScores", "empirical_bayes_gains"]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
LEAST = 0.1
"""Of the gain of all units: a unit that seems not to respond keeps its pattern, at this amplitude."""


@dataclass(frozen=True, eq=False)
class UnitScores:
    """Sums over conditions, unit by unit, of products of outputs with targets (p) and with themselves (q), both signs of a split together.

    Attributes
    ----------
    linear, quadratic : (n_units,) float64 arrays
        Of p and q.
    linear_squares, cross, quadratic_squares : (n_units,) float64 arrays
        Of p squared, p times q, q squared.
    n_conditions : int
        Summed over.
    """

    linear: FloatArray
    quadratic: FloatArray
    linear_squares: FloatArray
    cross: FloatArray
    quadratic_squares: FloatArray
    n_conditions: int

    def __add__(self, other: UnitScores) -> UnitScores:
        return UnitScores(
            self.linear + other.linear,
            self.quadratic + other.quadratic,
            self.linear_squares + other.linear_squares,
            self.cross + other.cross,
            self.quadratic_squares + other.quadratic_squares,
            self.n_conditions + other.n_conditions,
        )


@dataclass(frozen=True, eq=False)
class _Passed:
    """Samples along the dimensions of a part; single precision is enough for sums of squares."""

    part: FilterPart
    projected: Float32Array
    left: Float32Array | None

    @classmethod
    def of(cls, part: FilterPart, rows: FloatArray) -> _Passed:
        left = None if part.units is not None else part.left.astype(np.float32, copy=False)
        light = FilterPart(np.empty((0, 0)), np.empty((0, 0)), part.ratio, part.units)
        return cls(light, part.project(rows.astype(part.left.dtype, copy=False)).astype(np.float32, copy=False), left)

    def add_to(self, output: Float32Array, gain: Float32Array, rows: npt.NDArray[np.bool_]) -> None:
        """Add what passes of some samples."""
        if rows.all() and self.left is not None:
            output += (self.projected * gain) @ self.left.T
            return
        passed = self.projected[rows] * gain
        if self.left is not None:
            output[rows] += passed @ self.left.T
        elif self.part.units is not None:
            output[np.ix_(np.flatnonzero(rows), self.part.units)] += passed


class SplitOutputs:
    """Both versions of a fold's conditions along the dimensions of their filters, from which the output of any mixture follows.

    Parameters
    ----------
    parts : sequence of sequences of FilterPart
        Of the two signs; level by level of shrinkage.
    terms : (n_terms, 2) float64 array
        Power and a of the filters of each part.
    inputs, targets : pairs of (n_conditions, n_units) float64 arrays
        Of the two signs, mean taken out.
    worth : (n_conditions,) float64 array
        Trials that an input is worth.
    weights : (n_conditions,) float64 array
        Of the conditions.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[FilterPart]],
        terms: FloatArray,
        inputs: Sequence[FloatArray],
        targets: Sequence[FloatArray],
        worth: FloatArray,
        weights: FloatArray,
    ) -> None:
        self._passed = [[_Passed.of(part, rows) for part in own] for own, rows in zip(parts, inputs, strict=True)]
        self._targets = [target.astype(np.float32) for target in targets]
        self._terms, self._worth, self._weights = terms, worth, weights

    def _output(self, sign: int, mixture: FloatArray) -> Float32Array:
        output = np.zeros_like(self._targets[sign])
        for passed, weights in zip(self._passed[sign], mixture, strict=True):
            if weights.any():
                for worth in np.unique(self._worth):
                    gain = (weights @ filter_gains(passed.part.ratio, float(worth), self._terms)).astype(np.float32)
                    passed.add_to(output, gain, self._worth == worth)
        return output

    def score(self, mixture: FloatArray) -> UnitScores:
        """Scores of the units by a mixture, (n_parts * n_terms,) weights."""
        shares = mixture.reshape(-1, len(self._terms))
        first, second = (self._output(sign, shares) for sign in (0, 1))
        w = self._weights[:, None]
        p = w * (first * self._targets[0] + second * self._targets[1])
        q = w * (np.square(first) + np.square(second))
        sums = [values.sum(axis=0, dtype=np.float64) for values in (p, q, p * p, p * q, q * q)]
        return UnitScores(sums[0], sums[1], sums[2], sums[3], sums[4], len(p))


def empirical_bayes_gains(scores: UnitScores) -> FloatArray:
    """Slope of each unit's targets on its outputs, drawn towards that of all units, (n_units,); at least `LEAST` of that.

    Parameters
    ----------
    scores : UnitScores
        Over all folds.

    The spread of true slopes is estimated by moments (DerSimonian & Laird, 1986): where slopes differ no more than their errors, all
    units have the same.
    """
    total = float(scores.quadratic.sum())
    if total <= 0:
        return np.ones(len(scores.quadratic))
    common = max(float(scores.linear.sum()) / total, 0.0)
    passes = scores.quadratic > 1e-12 * total
    quadratic = np.where(passes, scores.quadratic, 1.0)
    slopes = scores.linear / quadratic
    squares = scores.linear_squares - 2 * slopes * scores.cross + slopes**2 * scores.quadratic_squares
    variance = np.maximum(squares, 0.0) / quadratic**2 * scores.n_conditions / max(scores.n_conditions - 1, 1)
    precision = np.where(passes & (variance > 0), 1.0 / np.where(variance > 0, variance, 1.0), 0.0)
    sum_of_precision = precision.sum()
    if np.count_nonzero(precision) < 2:
        return np.full(len(quadratic), common)
    mean = float(precision @ slopes / sum_of_precision)
    excess = float(precision @ np.square(slopes - mean)) - (np.count_nonzero(precision) - 1)
    spread = excess / (sum_of_precision - precision @ precision / sum_of_precision)
    if spread <= 0:
        return np.full(len(quadratic), common)
    gains = (precision * slopes + common / spread) / (precision + 1 / spread)
    return np.asarray(np.maximum(gains, LEAST * common))
