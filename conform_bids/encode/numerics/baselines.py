"""What a population model has to beat: ridge on the same context, and the average of the training people's maps.

The one-Gaussian prior is `fit_prior` with one component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.population import Adapted, Context, FloatArray, TrainingPerson

__all__ = ["ALPHAS", "GroupAverage", "fit_group_average", "nested_loo_residuals", "ridge", "ridge_gains"]

ALPHAS = tuple(float(a) for a in np.geomspace(1e-3, 1e3, 13))
"""Penalties, as multiples of the mean eigenvalue of the stimuli's kernel times the number of stimuli."""
INTERCEPT = 1e6
UNITS_AT_A_TIME = 2000


@dataclass(frozen=True, eq=False)
class _Kernel:
    """Eigenvectors of the centred kernel, with an intercept of (nearly) no penalty or none, and the penalties in its units."""

    centred: FloatArray
    centre: FloatArray
    values: FloatArray
    vectors: FloatArray
    penalties: FloatArray

    @classmethod
    def of(cls, features: FloatArray, intercept: bool) -> _Kernel:
        x = np.asarray(features, dtype=np.float64)
        centre = x.mean(axis=0)
        centred = x - centre
        kernel = centred @ centred.T
        scale = max(float(np.trace(kernel)) / len(x), 1e-12)
        values, vectors = np.linalg.eigh(kernel + (INTERCEPT * scale if intercept else 0.0))
        return cls(centred, centre, np.maximum(values, 0), vectors, np.asarray(ALPHAS) * scale)

    def inverse(self, penalty: float) -> FloatArray:
        return np.asarray((self.vectors / (self.values + penalty)) @ self.vectors.T)


def _check(context: Context) -> None:
    if len(context.features) < 3 or len(context.features) != len(context.responses):
        raise ValueError(f"ridge needs three rows or more, as many of features as of responses, not {len(context.features)}")


def ridge(context: Context, intercept: bool = False, shared: bool = False) -> Adapted:
    """Ridge regression of every unit, its penalty chosen by exact leave-one-out error.

    Parameters
    ----------
    context : Context
    intercept : bool
        Estimate the mean response too. Responses are z-scored over many more stimuli than a context has, so that it is known to be about
        zero: estimating it from ten stimuli costs a tenth of the variance.
    shared : bool
        One penalty for all units instead of one each. With few stimuli a unit's own choice is mostly noise.

    Returns
    -------
    Adapted
        ``signal_share`` is the leave-one-out R2 at the chosen penalty, at least 0.

    Raises
    ------
    ValueError
        With fewer than three stimuli.
    """
    _check(context)
    kernel, y = _Kernel.of(context.features, intercept), np.asarray(context.responses, dtype=np.float64)
    best, dual = np.full(y.shape[1], np.inf), np.zeros_like(y)
    for penalty in kernel.penalties:
        inverse = kernel.inverse(penalty)
        solved = inverse @ y
        error = ((solved / np.diag(inverse)[:, None]) ** 2).sum(axis=0)
        better = _improves(error, best, shared)
        best[better], dual[:, better] = error[better], solved[:, better]
    weights = kernel.centred.T @ dual
    energy = ((y - (y.mean(axis=0) if intercept else 0.0)) ** 2).sum(axis=0)
    share = np.clip(1 - best / np.where(energy > 0, energy, np.inf), 0, 1)
    kind = context.responses.dtype if context.responses.dtype == np.float32 else np.dtype(np.float64)
    bias = (y.mean(axis=0) if intercept else 0.0) - kernel.centre @ weights
    return Adapted(weights.astype(kind), bias.astype(kind), share.astype(kind))


def ridge_gains(context: Context, projection: FloatArray) -> FloatArray:
    """Norm of the derivative of each unit's ridge weights by its response to each stimulus, at the penalty that `ridge` chooses.

    Parameters
    ----------
    context : Context
    projection : (n_dimensions, n_features) array
        Applied to the weights before their norm is taken.

    Returns
    -------
    (n_context, n_units) array

    Raises
    ------
    ValueError
        With fewer than three stimuli.
    """
    _check(context)
    kernel, y = _Kernel.of(context.features, False), np.asarray(context.responses, dtype=np.float64)
    back = projection @ kernel.centred.T
    best, gains = np.full(y.shape[1], np.inf), np.zeros_like(y)
    for penalty in kernel.penalties:
        inverse = kernel.inverse(penalty)
        error = ((inverse @ y / np.diag(inverse)[:, None]) ** 2).sum(axis=0)
        better = error < best
        best[better], gains[:, better] = error[better], np.linalg.norm(back @ inverse, axis=0)[:, None]
    return gains


def _improves(error: FloatArray, best: FloatArray, shared: bool) -> npt.NDArray[np.bool_]:
    """Where an error is below the best so far: unit by unit, or in the sum over units."""
    if shared:
        lower = error.sum(axis=-1, keepdims=True) < best.sum(axis=-1, keepdims=True)
        return np.asarray(np.broadcast_to(lower, error.shape))
    return np.asarray(error < best)


def nested_loo_residuals(context: Context, intercept: bool = False, shared: bool = False) -> FloatArray:
    """Leave-one-out residuals of ridge, (n_context, n_units), each penalty chosen without the left-out stimulus.

    The choice for stimulus i minimises the error of leaving out every other stimulus j from the context without i. Leaving out two rows is
    closed-form (the inverse of a 2 x 2 block of the inverse), and its sum over j a few matrix products, so that nothing is refitted.
    ``intercept`` and ``shared`` are as in `ridge`.

    Raises
    ------
    ValueError
        With fewer than three stimuli.
    """
    _check(context)
    kernel, y = _Kernel.of(context.features, intercept), np.asarray(context.responses, dtype=np.float64)
    best, residuals = np.full(y.shape, np.inf), np.zeros_like(y)
    for penalty in kernel.penalties:
        inverse = kernel.inverse(penalty)
        diagonal = np.diag(inverse)
        block = np.outer(diagonal, diagonal) - inverse**2
        np.fill_diagonal(block, 1)
        own, cross = diagonal[:, None] / block, inverse / block
        np.fill_diagonal(own, 0)
        np.fill_diagonal(cross, 0)
        error, solved = np.empty_like(y), np.empty_like(y)
        for start in range(0, y.shape[1], UNITS_AT_A_TIME):
            units = slice(start, start + UNITS_AT_A_TIME)
            part = inverse @ y[:, units]
            error[:, units] = own**2 @ part**2 - 2 * part * ((own * cross) @ part) + part**2 * (cross**2).sum(axis=1)[:, None]
            solved[:, units] = part
        better = _improves(error, best, shared)
        np.copyto(best, error, where=better)
        np.copyto(residuals, solved / diagonal[:, None], where=better)
    return residuals


@dataclass(frozen=True, eq=False)
class GroupAverage:
    """The average map of the training people: of use only where units correspond between people, and blind to the context.

    Attributes
    ----------
    weights : (n_features, n_units) array
    bias : (n_units,) array
    signal_share : (n_units,) array
    """

    weights: FloatArray
    bias: FloatArray
    signal_share: FloatArray
    name: str = "average"

    def adapt(self, context: Context, queries: FloatArray | None = None) -> Adapted:
        """The average, whatever the context; it has no posterior variance.

        Raises
        ------
        ValueError
            If the context has another number of units.
        """
        if context.responses.shape[1] != self.weights.shape[1]:
            raise ValueError(f"the average map has {self.weights.shape[1]} units, the context {context.responses.shape[1]}")
        return Adapted(self.weights, self.bias, self.signal_share)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
        """Arrays and settings; see `from_state`."""
        return {"weights": self.weights, "bias": self.bias, "signal_share": self.signal_share}, {"engine": self.name}

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> GroupAverage:
        """The model that gave this state."""
        return cls(arrays["weights"], arrays["bias"], arrays["signal_share"], str(settings["engine"]))


def fit_group_average(people: Sequence[TrainingPerson]) -> GroupAverage:
    """Mean of the people's ridge weights, unit by unit.

    Raises
    ------
    ValueError
        If there is no person, or people differ in their features or units.
    """
    shapes = {(person.features.shape[1], person.responses.shape[1]) for person in people}
    if len(shapes) != 1:
        raise ValueError("an average map needs people of the same features and units")
    fits = [ridge(Context(person.features, person.responses), intercept=True) for person in people]
    weights, bias = np.mean([fit.weights for fit in fits], axis=0), np.mean([fit.bias for fit in fits], axis=0)
    predicted = [((person.features @ weights + bias) - person.responses).var(axis=0) / person.responses.var(axis=0) for person in people]
    return GroupAverage(weights, bias, np.clip(1 - np.mean(predicted, axis=0), 0, 1))
