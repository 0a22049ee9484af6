"""A fit on disk: weights, maps of scores, and tables of numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from conform_bids import __version__
from conform_bids.bids.derivatives import write_json, write_tsv
from conform_bids.bids.weights import EncodingWeights, write_weights
from conform_bids.encode.adapt import adapt_person
from conform_bids.encode.files import Plan, recorded_settings
from conform_bids.encode.fitted import Array, Fitted, LinearModel, median, standardise
from conform_bids.encode.load import Loaded
from conform_bids.encode.numerics.banded import BandedFit, fit_banded, split_rsquared
from conform_bids.encode.numerics.reduction import Reduction, fit_reduction
from conform_bids.encode.numerics.ridge import contiguous_folds, default_alphas, fit_ridge
from conform_bids.encode.numerics.scoring import Interval, bootstrap_medians, coefficient_of_determination, score_units
from conform_bids.encode.questions import ask
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.compute import Compute

__all__ = ["fit_and_store"]

_LOGGER = logging.getLogger("nipype.interface")


@dataclass(frozen=True, eq=False)
class _Model(LinearModel):
    """A linear model that was cross-validated.

    Attributes
    ----------
    alpha : (n_units,) or (n_spaces, n_units) array
    cv_rsquared : (n_units,) array
    """

    alpha: Array
    cv_rsquared: Array


def fit_and_store(plan: Plan, loaded: Loaded, folder: Path, compute: Compute) -> list[Path]:
    """Fit the model of a plan (or adapt a population model), score it, ask it what is asked, and write everything to ``folder``.

    Returns
    -------
    list of Path
        Arrays by the names of `output_maps`, ``weights.h5``, ``metrics.tsv``, ``facts.json``, and tables by the keys of `output_tables`.

    Raises
    ------
    UnusableInputError
        When features cannot be fitted on: constant, of fewer dimensions than components are asked for, or not those of the model.
    """
    fitted = _fit_person(plan, loaded, compute) if plan.settings.model is None else adapt_person(plan, loaded)
    ask(plan, loaded, fitted, compute)
    return _write(plan, loaded, fitted, folder)


def _fit_person(plan: Plan, loaded: Loaded, compute: Compute) -> Fitted:
    """Ridge or banded ridge of this person alone."""
    standard, mean, scale = standardise(loaded.responses)
    train = [np.asarray(space[: loaded.n_train]) for space in loaded.features]
    test = [np.asarray(space[loaded.n_train :]) for space in loaded.features]
    reductions = _reduce(plan, loaded, train)
    reduced = [space if how is None else how.apply(space) for space, how in zip(train, reductions, strict=True)]
    model = _expand(_fit(plan, reduced, standard, compute), reductions)
    arrays: dict[str, Array] = {"alpha": model.alpha, "cv_rsquared": model.cv_rsquared}
    numbers = {"median_cv_rsquared": Interval(median(model.cv_rsquared))}
    if plan.has_held_out:
        measured = (np.asarray(loaded.observed) - mean) / scale
        predicted = model.predict(test)
        arrays |= {**score_units(predicted, measured, loaded.ceiling), "noiseceiling": loaded.ceiling, "predictions": predicted}
        numbers |= bootstrap_medians(predicted, measured, loaded.ceiling, n_resamplings=plan.settings.bootstraps, seed=plan.random_seed)
        if plan.settings.estimator == "banded":
            arrays |= _shares(plan, model, reduced, standard, train, test, reductions, measured, compute)
    return Fitted(model, mean, scale, arrays, numbers)


def _reduce(plan: Plan, loaded: Loaded, train: Sequence[Array]) -> list[Reduction | None]:
    """Principal components of each feature space; None where there are no more features than are asked for."""
    reductions: list[Reduction | None] = []
    for card, space in zip(loaded.cards, train, strict=True):
        if not (space.std(axis=0) > 0).any():
            raise UnusableInputError(f"features {card['name']}: they are the same for all train stimuli")
        n_components = plan.settings.components
        if not n_components or n_components >= space.shape[1]:
            reductions.append(None)
            continue
        try:
            reductions.append(fit_reduction(space, n_components))
        except ValueError as error:
            raise UnusableInputError(f"features {card['name']}: --components {error}") from error
    return reductions


def _fit(plan: Plan, features: Sequence[Array], responses: Array, compute: Compute) -> _Model:
    settings = plan.settings
    folds = contiguous_folds(len(responses), min(settings.folds, len(responses))) if settings.folds else None
    if settings.estimator == "banded" and len(features) > 1:
        grid = settings.alphas or default_alphas(np.concatenate([_unit_variance(space) for space in features], axis=1))
        banded: BandedFit = fit_banded(features, responses, grid, seed=plan.random_seed, folds=folds, compute=compute)
        return _Model(list(banded.weights), banded.intercept, banded.alphas, banded.cv_rsquared)
    joined = np.concatenate(features, axis=1)
    fit = fit_ridge(joined, responses, settings.alphas or default_alphas(joined), folds=folds, compute=compute)
    edges = np.cumsum([space.shape[1] for space in features])[:-1]
    return _Model(np.split(fit.weights, edges, axis=0), fit.intercept, fit.alphas, fit.cv_rsquared)


def _unit_variance(space: Array) -> Array:
    return np.asarray(space / np.sqrt(np.asarray(space, dtype=np.float64).var(axis=0).mean()))


def _expand(model: _Model, reductions: Sequence[Reduction | None]) -> _Model:
    """The model in terms of features instead of components."""
    weights, intercept = [], np.array(model.intercept)
    for own, how in zip(model.weights, reductions, strict=True):
        if how is None:
            weights.append(own)
            continue
        weights.append(how.expand(own))
        intercept -= (how.mean @ weights[-1]).astype(intercept.dtype)
    return _Model(weights, intercept, model.alpha, model.cv_rsquared)


def _shares(
    plan: Plan,
    model: _Model,
    reduced: Sequence[Array],
    responses: Array,
    train: Sequence[Array],
    test: Sequence[Array],
    reductions: Sequence[Reduction | None],
    measured: Array,
    compute: Compute,
) -> dict[str, Array]:
    """What each feature space predicts: by the product measure, and what the model loses without it."""
    centred = [space - own.mean(axis=0, dtype=np.float64).astype(np.float32) for space, own in zip(test, train, strict=True)]
    offset = model.intercept + sum(
        (own.mean(axis=0, dtype=np.float64) @ weights for own, weights in zip(train, model.weights, strict=True))
    )
    shares = split_rsquared(model.parts(centred), offset, measured)
    parts = model.parts(test)
    whole = coefficient_of_determination(sum(parts[1:], parts[0]) + model.intercept, measured)
    unique = np.empty_like(shares)
    for left_out in range(len(train)):
        kept = [index for index in range(len(train)) if index != left_out]
        fitted = _fit(plan, [reduced[index] for index in kept], responses, compute)
        others = _expand(fitted, [reductions[index] for index in kept])
        parts = others.parts([test[index] for index in kept])
        unique[left_out] = whole - coefficient_of_determination(sum(parts[1:], parts[0]) + others.intercept, measured)
    return {"split_rsquared": shares, "unique_variance": unique}


def _write(plan: Plan, loaded: Loaded, fitted: Fitted, folder: Path) -> list[Path]:
    paths = []
    for name, values in fitted.arrays.items():
        paths.append(folder / f"{name}.npy")
        np.save(paths[-1], np.asarray(values, dtype=np.float32), allow_pickle=False)
    for name, table in fitted.tables.items():
        paths.append(folder / f"{name}.tsv")
        write_tsv(table, paths[-1])
    paths.append(folder / "weights.h5")
    write_weights(_weights(plan, loaded, fitted), paths[-1])
    known = np.isfinite(fitted.model.intercept)
    counts = {
        "n_units": len(known),
        "n_units_fitted": int(known.sum()),
        "n_train_stimuli": loaded.n_train,
        "n_test_stimuli": len(loaded.observed),
        "n_features": sum(len(card["feature_names"]) for card in loaded.cards),
    }
    rows = [(name, item.value, item.low, item.high) for name, item in fitted.numbers.items()]
    rows += [(name, float(count), float("nan"), float("nan")) for name, count in counts.items()]
    write_tsv(pd.DataFrame(rows, columns=["metric", "value", "low", "high"]), folder / "metrics.tsv")
    (folder / "spaces.txt").write_text("".join(f"{card['name']}\n" for card in loaded.cards), encoding="utf-8")
    notes = [*plan.notes, *loaded.notes, *fitted.notes]
    if not known.all():
        notes.append(f"{int((~known).sum())} of {len(known)} units do not vary over train stimuli, or are not finite: they have no model")
    for note in notes:
        _LOGGER.info("%s: %s", plan.name, note)
    write_json({"notes": notes, "fields": dict(fitted.facts)}, folder / "facts.json")
    return [*paths, *(folder / name for name in ("metrics.tsv", "spaces.txt", "facts.json"))]


def _weights(plan: Plan, loaded: Loaded, fitted: Fitted) -> EncodingWeights:
    """The model as it is shared: it predicts from features alone."""
    attributes = {
        "software": f"conform-encode {__version__}",
        "model": plan.model,
        "space": plan.entities.get("space", "boldref"),
        "grid_hash": loaded.space.grid_hash,
        "units_of_prediction": "of the responses that were fitted",
    }
    names = tuple(name for card in loaded.cards for name in card["feature_names"])
    space_of = np.repeat(np.arange(len(loaded.cards)), [len(card["feature_names"]) for card in loaded.cards])
    cards = tuple({key: value for key, value in card.items() if key != "feature_names"} for card in loaded.cards)
    weights, settings = np.concatenate(fitted.model.weights), recorded_settings(plan.settings)
    return EncodingWeights(weights, fitted.model.intercept, fitted.mean, fitted.scale, names, space_of, cards, attributes, settings)
