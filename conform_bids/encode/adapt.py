"""A new person in context: a population model is shown some of the person's train stimuli, and says weights of every unit.

Nothing is trained. For every context a guard decides whether the population model suits the person, or ridge regression on the same
context is used instead; what it found is written beside the scores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.trials import hash_stimuli
from conform_bids.encode.files import Plan
from conform_bids.encode.fitted import Array, Fitted, LinearModel, median, standardise
from conform_bids.encode.load import Loaded
from conform_bids.encode.model_files import ModelCard, read_model
from conform_bids.encode.numerics.baselines import ridge, ridge_gains
from conform_bids.encode.numerics.calibration import calibrate
from conform_bids.encode.numerics.contexts import choose_context
from conform_bids.encode.numerics.guard import Decision, adapt_guarded
from conform_bids.encode.numerics.influence import influence, network_influence
from conform_bids.encode.numerics.mixture import PriorModel
from conform_bids.encode.numerics.population import Adapted, Context, PopulationModel
from conform_bids.encode.numerics.scoring import Interval, bootstrap_medians, score_units
from conform_bids.encode.numerics.unrolled import UnrolledModel
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.scores import correlate_columns

__all__ = ["adapt_person"]


def adapt_person(plan: Plan, loaded: Loaded) -> Fitted:
    """Adapt the population model of a plan to a person, and score it on the person's test stimuli.

    Parameters
    ----------
    plan : Plan
        With ``settings.model``.
    loaded : Loaded

    Returns
    -------
    Fitted
        Maps, weights and contexts are of the first context; the numbers say the scores of every one.

    Raises
    ------
    UnusableInputError
        When the features are not those of the model, or no unit varies.
    """
    assert plan.settings.model is not None
    model, card = read_model(plan.settings.model)
    card.check_features([{**own, "n_features": len(own["feature_names"])} for own in loaded.cards])
    standard, mean, scale = standardise(loaded.responses)
    units = np.flatnonzero(np.isfinite(scale) & np.isfinite(standard).all(axis=0))
    if not len(units):
        raise UnusableInputError(f"{plan.responses[0].trials}: no unit varies over train stimuli")
    features = np.concatenate([np.asarray(space) for space in loaded.features], axis=1)
    person = _Person(
        context_features=features[: loaded.n_train],
        responses=np.ascontiguousarray(standard[:, units]),
        test_features=features[loaded.n_train :],
        measured=((np.asarray(loaded.observed)[:, units] - mean[units]) / scale[units]).astype(np.float32),
        ceiling=np.asarray(loaded.ceiling)[units],
        units=units,
        n_units=len(mean),
    )
    order, notes = _order(plan, loaded)
    rows = _contexts(plan, person.context_features, order)
    context = person.context(rows[0])
    adapted, decision = adapt_guarded(model, context, person.test_features if plan.has_held_out else None, seed=plan.random_seed)
    linear = _linear(adapted, person, [space.shape[1] for space in loaded.features])
    arrays = {"expected_rsquared": person.in_grid(adapted.signal_share)}
    numbers: dict[str, Interval] = {}
    if plan.has_held_out:
        arrays |= _score_maps(adapted, person) | {"noiseceiling": np.asarray(loaded.ceiling)}
        numbers |= _score_first(plan, adapted, person, context)
        if len(rows) > 1:
            numbers |= _score_draws(plan, model, person, rows)
    if plan.settings.influence:
        arrays["influence"] = person.in_grid(_influence(model, context, decision))
    facts = {"Population": _describe(plan, card, decision, rows, loaded)}
    notes += [] if decision.accepted else [_fallback(card, decision)]
    if (n_asked := plan.settings.n_context) and n_asked > loaded.n_train:
        notes.append(f"--context {n_asked}: there are {loaded.n_train} train stimuli with features; all of them are the context")
    return Fitted(linear, mean, scale, arrays, numbers, {"contexts": _table(loaded, rows)}, notes, facts)


@dataclass(frozen=True, eq=False)
class _Person:
    """A new person's responses, of units that vary, as z of the train stimuli."""

    context_features: Array
    responses: Array
    test_features: Array
    measured: Array
    ceiling: Array
    units: npt.NDArray[np.intp]
    n_units: int

    def context(self, rows: npt.NDArray[np.intp]) -> Context:
        """What the model is shown."""
        return Context(self.context_features[rows], self.responses[rows])

    def in_grid(self, values: Array) -> Array:
        """Values of the units that vary, (..., n_chosen), among all of them; NaN for the others."""
        whole = np.full((*values.shape[:-1], self.n_units), np.nan, dtype=np.float32)
        whole[..., self.units] = values
        return whole


def _order(plan: Plan, loaded: Loaded) -> tuple[npt.NDArray[np.intp] | None, list[str]]:
    """Train stimuli in the order in which they were first shown; None where the order is not known, which is then a note."""
    if plan.settings.context_strategy != "first" or plan.settings.n_context is None:
        return None, []
    table = loaded.conditions.iloc[: loaded.n_train]
    if "first_trial" not in table.columns:
        return None, [f"{plan.place.name} does not say when stimuli were shown: the first ones of the context are the first by name"]
    return np.argsort(table["first_trial"].astype(int).to_numpy(), kind="stable"), []


def _contexts(plan: Plan, features: Array, order: npt.NDArray[np.intp] | None) -> list[npt.NDArray[np.intp]]:
    settings = plan.settings
    n_context = settings.n_context or len(features)
    n_draws = settings.n_draws if n_context < len(features) else 1  # all of them can be drawn in one way only
    draws = range(n_draws)
    return [choose_context(features, n_context, settings.context_strategy, plan.random_seed, draw, order) for draw in draws]


def _linear(adapted: Adapted, person: _Person, widths: list[int]) -> LinearModel:
    weights = person.in_grid(adapted.weights)
    return LinearModel(np.split(weights, np.cumsum(widths)[:-1], axis=0), person.in_grid(adapted.bias))


def _score_maps(adapted: Adapted, person: _Person) -> dict[str, Array]:
    predicted = person.test_features @ adapted.weights + adapted.bias
    maps = score_units(predicted, person.measured, person.ceiling)
    found = {name: person.in_grid(values) for name, values in maps.items()} | {"predictions": person.in_grid(predicted)}
    if adapted.prediction_variance is not None:
        found["prediction_deviation"] = person.in_grid(np.sqrt(np.maximum(adapted.prediction_variance, 0)))
    else:
        found["prediction_deviation"] = np.full_like(found["predictions"], np.nan)
    return found


def _score_first(plan: Plan, adapted: Adapted, person: _Person, context: Context) -> dict[str, Interval]:
    """Scores of the first context, beside ridge on the same context, and the calibration of its posterior."""
    predicted = person.test_features @ adapted.weights + adapted.bias
    numbers: dict[str, Interval] = dict(
        bootstrap_medians(
            predicted, person.measured, person.ceiling, n_resamplings=plan.settings.bootstraps, seed=plan.random_seed
        )
    )  # fmt: skip
    numbers["ridge_median_correlation"] = Interval(_median_correlation(ridge(context), person))
    numbers["median_expected_rsquared"] = Interval(median(adapted.signal_share))
    if adapted.prediction_variance is not None:
        found = calibrate(predicted, person.measured, adapted.prediction_variance, person.ceiling)
        for level, share in zip(found.levels, found.coverage, strict=True):
            numbers[f"calibration_coverage_{100 * level:.0f}"] = Interval(float(share))
        numbers["calibration_squared_error"] = Interval(found.squared_error)
    return numbers


def _score_draws(plan: Plan, model: PopulationModel, person: _Person, rows: list[npt.NDArray[np.intp]]) -> dict[str, Interval]:
    numbers: dict[str, Interval] = {}
    scores = []
    for draw, chosen in enumerate(rows):
        context = person.context(chosen)
        adapted, decision = adapt_guarded(model, context, seed=plan.random_seed)
        scores.append(_median_correlation(adapted, person))
        name = f"draw{draw + 1}"
        numbers[f"{name}_median_correlation"] = Interval(scores[-1])
        numbers[f"{name}_ridge_median_correlation"] = Interval(_median_correlation(ridge(context), person))
        numbers[f"{name}_population_used"] = Interval(float(decision.accepted))
        numbers[f"{name}_guard_ratio"] = Interval(decision.ratio)
    numbers["mean_over_draws_median_correlation"] = Interval(float(np.mean(scores)))
    numbers["sd_over_draws_median_correlation"] = Interval(float(np.std(scores, ddof=1)))
    return numbers


def _median_correlation(adapted: Adapted, person: _Person) -> float:
    predicted = person.test_features @ adapted.weights + adapted.bias
    return median(correlate_columns(predicted, person.measured))


def _influence(model: PopulationModel, context: Context, decision: Decision) -> Array:
    """Influence of each context stimulus on each unit, by the engine that is used."""
    if decision.accepted and isinstance(model, PriorModel):
        return influence(model, context)
    if decision.accepted and isinstance(model, UnrolledModel):
        return network_influence(model, context)
    if decision.accepted and model.name == "incontext":
        from conform_bids.encode.numerics.incontext import InContextModel, read_out_attention

        assert isinstance(model, InContextModel)
        return read_out_attention(model, context)
    centred = np.asarray(context.features - context.features.mean(axis=0), dtype=np.float64)
    return ridge_gains(context, centred / np.sqrt(len(centred)))  # by the standard deviation of what they predict over the context


def _fallback(card: ModelCard, decision: Decision) -> str:
    why = f"its squared error on left-out stimuli is {decision.ratio:.3f} of ridge's (below {decision.ratio_below} is needed)"
    if decision.evidence_gain is not None:
        why += f", and the responses' log-evidence differs by {decision.evidence_gain:+.4f} a response (above {decision.evidence_above})"
    return f"THE GUARD USED RIDGE REGRESSION: the population model ({card.engine}) does not suit this person: {why}"


def _describe(plan: Plan, card: ModelCard, decision: Decision, contexts: list[npt.NDArray[np.intp]], loaded: Loaded) -> dict[str, Any]:
    """Fields of the sidecars."""
    rows = contexts[0]
    content = {"Engine": card.engine, "TrainedOn": card.people, "StoreVersion": card.store_version, "ModelSoftware": card.software}
    stimuli = loaded.conditions["stim_id"].to_numpy(dtype=str)[rows]
    return {
        **content,
        "SeenInTraining": f"sub-{plan.participant}" in card.people,
        "Context": len(rows),
        "ContextStrategy": "all" if len(rows) == loaded.n_train else plan.settings.context_strategy,
        "ContextStimuliHash": hash_stimuli(stimuli),
        "Draws": len(contexts),
        "ModelUsed": card.engine if decision.accepted else "ridge",
        "Guard": asdict(decision),
    }


def _table(loaded: Loaded, rows: list[npt.NDArray[np.intp]]) -> pd.DataFrame:
    """The stimuli of every context: draw (from 1), stim_id, content_id."""
    parts = [loaded.conditions.iloc[chosen][["stim_id", "content_id"]].assign(draw=draw + 1) for draw, chosen in enumerate(rows)]
    return pd.concat(parts, ignore_index=True)[["draw", "stim_id", "content_id"]]
