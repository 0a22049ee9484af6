"""What every population model takes and gives: a person's context in, an ordinary linear encoding model of every unit out.

Responses are z-scored by the person's training trials before they come here, so that a unit's signal and noise variances add up to
about one; features are those of the model card, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Adapted", "Context", "FloatArray", "PopulationModel", "TrainingPerson"]

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class TrainingPerson:
    """One person that a population model is trained on.

    Attributes
    ----------
    features : (n_stimuli, n_features) array
        Of the training stimuli that this person saw.
    responses : (n_stimuli, n_units) array
        One row a stimulus, z-scored.
    noise_ceiling : (n_units,) array, optional
        Share of the responses' variance that is signal, where repeats tell it.
    """

    features: FloatArray
    responses: FloatArray
    noise_ceiling: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """What is known of a new person.

    Attributes
    ----------
    features : (n_context, n_features) array
    responses : (n_context, n_units) array
        z-scored.
    """

    features: FloatArray
    responses: FloatArray


@dataclass(frozen=True, eq=False)
class Adapted:
    """Linear encoding models of a new person's units; a prediction is ``features @ weights + bias``.

    Attributes
    ----------
    weights : (n_features, n_units) array
    bias : (n_units,) array
    signal_share : (n_units,) array
        Expected share of a response's variance that these weights predict: the map of expected accuracy, as R2.
    prediction_variance : (n_queries, n_units) array, optional
        Posterior variance of the noiseless response to each query; None where no queries were given.
    """

    weights: FloatArray
    bias: FloatArray
    signal_share: FloatArray
    prediction_variance: FloatArray | None = None


class PopulationModel(Protocol):
    """A fitted population model of any engine; built by the engine's ``fit_...`` function, or from its saved state."""

    @property
    def name(self) -> str:
        """Of the engine."""
        ...

    def adapt(self, context: Context, queries: FloatArray | None = None) -> Adapted:
        """Weights of every unit given the context, without gradient steps.

        Parameters
        ----------
        context : Context
        queries : (n_queries, n_features) array, optional
            Stimuli whose predictions' posterior variance is wanted.
        """
        ...

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, Any]]:
        """Arrays (for safetensors) and JSON-able settings from which `from_state` of the engine's class makes the same model."""
        ...
