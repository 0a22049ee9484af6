"""How many dimensions to keep: analytic rules over signal and noise variances along dimensions.

All functions take curves (n_curves, n_dimensions), one curve for the whole population or one for each unit, and return a number of
dimensions for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UsageError

__all__ = ["CRITERIA", "ThresholdRule", "choose_dimensions", "recovery_curve"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
CRITERIA = ("prediction", "variance", "variance_eigenvalues", "max-tradeoff")
ROUNDING = 1e-12


@dataclass(frozen=True)
class ThresholdRule:
    """Rule for the number of dimensions.

    Attributes
    ----------
    criterion : str
        ``prediction``: where signal kept less noise kept is largest; ``max-tradeoff``: beyond it, where the curve of that against
        the signal kept bends most; ``variance``: the first number that keeps ``share`` of the signal variance;
        ``variance_eigenvalues``: the same over eigenvalues.
    share : float
        Signal variance to keep, 0 to 1.
    alpha : float or None
        In place of the criterion: 0 is the number with the best prediction, 1 keeps all, between them this share of the signal
        variance beyond the best prediction is kept.
    allowed : tuple of int
        Numbers of dimensions to choose among; all if empty.
    """

    criterion: str = "max-tradeoff"
    share: float = 0.99
    alpha: float | None = None
    allowed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise UsageError(f"no criterion {self.criterion!r}; there are {', '.join(CRITERIA)}")
        if not 0 <= self.share <= 1 or not (self.alpha is None or 0 <= self.alpha <= 1):
            raise UsageError("the share of signal variance and alpha are between 0 and 1")
        if any(number < 0 for number in self.allowed):
            raise UsageError("numbers of dimensions are 0 or more")


def recovery_curve(signal: FloatArray, noise: FloatArray, n_averaged: float) -> FloatArray:
    """Signal less noise variance kept by the first k dimensions, k = 0, 1, ...: (n_curves, n_dimensions + 1)."""
    return _cumulative(signal - noise / n_averaged)


def choose_dimensions(rule: ThresholdRule, signal: FloatArray, recovery: FloatArray, eigenvalues: FloatArray | None = None) -> IntArray:
    """Number of dimensions to keep, for each curve.

    Parameters
    ----------
    rule : ThresholdRule
        What to look for.
    signal : (n_curves, n_dimensions) float64 array
        Signal variance along each dimension, 0 or more.
    recovery : (n_curves, n_dimensions + 1) float64 array
        As of `recovery_curve`.
    eigenvalues : (n_dimensions,) float64 array, optional
        For ``variance_eigenvalues``.

    Raises
    ------
    UsageError
        If an allowed number exceeds the dimensions, or there are no eigenvalues to go by.
    """
    n_dimensions = signal.shape[1]
    retained = _cumulative(signal)
    if rule.allowed:
        return _choose_allowed(rule, retained, recovery)
    if rule.alpha is not None:
        return _choose_alpha(rule.alpha, retained, recovery)
    if rule.criterion == "prediction":
        return recovery.argmax(axis=1)
    if rule.criterion == "max-tradeoff":
        return _choose_bend(retained, recovery)
    if rule.criterion == "variance_eigenvalues":
        if eigenvalues is None:
            raise UsageError("criterion variance_eigenvalues needs a basis with eigenvalues, and one threshold for all units")
        retained = np.repeat(_cumulative(np.maximum(eigenvalues, 0.0)[None]), len(signal), axis=0)
    total = retained[:, -1]
    reached = (retained >= rule.share * total[:, None]).argmax(axis=1)
    return np.where((total > 0) & (rule.share > 0), reached, 0).clip(0, n_dimensions)


def _cumulative(values: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)


def _choose_allowed(rule: ThresholdRule, retained: FloatArray, recovery: FloatArray) -> IntArray:
    """Best of a list: largest recovery, or for a share of variance the least number that keeps it."""
    allowed = np.unique(rule.allowed)
    if allowed[-1] >= recovery.shape[1]:
        raise UsageError(f"{allowed[-1]} dimensions are asked for; there are {recovery.shape[1] - 1}")
    if rule.criterion.startswith("variance"):
        enough = retained[:, allowed] >= rule.share * retained[:, -1:]
        return allowed[np.where(enough.any(axis=1), enough.argmax(axis=1), len(allowed) - 1)]
    return allowed[recovery[:, allowed].argmax(axis=1)]


def _choose_alpha(alpha: float, retained: FloatArray, recovery: FloatArray) -> IntArray:
    """First number, from that with the best recovery on, that keeps ``alpha`` of the signal variance beyond it."""
    n_dimensions = retained.shape[1] - 1
    best = recovery.argmax(axis=1)
    if alpha == 1:
        return np.full(len(best), n_dimensions)
    at_best = np.take_along_axis(retained, best[:, None], axis=1)
    target = at_best + alpha * (retained[:, -1:] - at_best)
    enough = (retained >= target) & (np.arange(n_dimensions + 1) >= best[:, None])
    return np.where(enough.any(axis=1), enough.argmax(axis=1), n_dimensions)


def _choose_bend(retained: FloatArray, recovery: FloatArray) -> IntArray:
    """Point of the curve (signal kept, recovery kept) farthest from the chord between the best recovery and all dimensions."""
    n_curves, n_points = recovery.shape
    best, rows = recovery.argmax(axis=1), np.arange(n_curves)
    total, drop = retained[:, -1], recovery[rows, best] - recovery[:, -1]
    flat = (total <= 0) | (n_points - 1 - best < 2) | (drop <= ROUNDING * np.abs(recovery).max(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        x = retained / total[:, None]
        y = (recovery - recovery[:, -1:]) / drop[:, None]
        distance = np.abs((y - 1.0) * (1.0 - x[rows, best])[:, None] + (x - x[rows, best][:, None]))
    distance[np.arange(n_points) < best[:, None]] = -1.0
    return np.where(flat, best, distance.argmax(axis=1))
