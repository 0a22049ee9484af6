"""A fit on disk: weights, maps of scores, and tables of numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from conform_bids import __version__
from conform_bids.bids.derivatives import write_json, write_tsv
from conform_bids.bids.weights import EncodingWeights, write_weights
from conform_bids.encode.adapt import adapt_person
from conform_bids.encode.files import Plan, recorded_settings
from conform_bids.encode.fitted import Array, Fitted, median, standardise
from conform_bids.encode.fitting import Fit, expand, reduce_spaces
from conform_bids.encode.load import Loaded
from conform_bids.encode.movie_fit import fit_movies
from conform_bids.encode.movie_inputs import LoadedMovies
from conform_bids.encode.movie_questions import predict_movies
from conform_bids.encode.numerics.ridge import contiguous_folds
from conform_bids.encode.numerics.scoring import Interval, bootstrap_medians, score_units
from conform_bids.encode.questions import ask
from conform_bids.numerics.compute import Compute

__all__ = ["fit_and_store"]

_LOGGER = logging.getLogger("nipype.interface")


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
    if isinstance(loaded, LoadedMovies):
        fitted = fit_movies(plan, loaded, compute)
        if plan.settings.predict is not None:
            predict_movies(plan, loaded, fitted, compute)
    elif plan.settings.model is None:
        fitted = _fit_person(plan, loaded, compute)
    else:
        fitted = adapt_person(plan, loaded)
    ask(plan, loaded, fitted, compute)
    return _write(plan, loaded, fitted, folder)


def _fit_person(plan: Plan, loaded: Loaded, compute: Compute) -> Fitted:
    """Ridge or banded ridge of this person alone."""
    standard, mean, scale = standardise(loaded.responses)
    train = [np.asarray(space[: loaded.n_train]) for space in loaded.features]
    test = [np.asarray(space[loaded.n_train :]) for space in loaded.features]
    reductions = reduce_spaces([card["name"] for card in loaded.cards], train, plan.settings.components)
    train = [space if how is None else how.apply(space) for space, how in zip(train, reductions, strict=True)]
    n_folds = min(plan.settings.folds, loaded.n_train)
    fit = Fit(plan.settings, plan.random_seed, contiguous_folds(loaded.n_train, n_folds) if n_folds else None, compute)
    model = fit.model(train, standard)
    arrays: dict[str, Array] = {"alpha": model.alpha, "cv_rsquared": model.cv_rsquared}
    numbers = {"median_cv_rsquared": Interval(median(model.cv_rsquared))}
    if plan.has_held_out:
        test = [space if how is None else how.apply(space) for space, how in zip(test, reductions, strict=True)]
        measured = (np.asarray(loaded.observed) - mean) / scale
        predicted = model.predict(test)
        arrays |= {**score_units(predicted, measured, loaded.ceiling), "noiseceiling": loaded.ceiling, "predictions": predicted}
        numbers |= bootstrap_medians(predicted, measured, loaded.ceiling, n_resamplings=plan.settings.bootstraps, seed=plan.random_seed)
        if fit.is_banded:
            arrays |= fit.shares(model, standard, train, test, measured)
    return Fitted(expand(model, reductions), mean, scale, arrays, numbers)


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
        **loaded.counts,
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
        **fitted.attributes,
    }
    columns = fitted.columns or [tuple(card["feature_names"]) for card in loaded.cards]
    names = tuple(name for own in columns for name in own)
    space_of = np.repeat(np.arange(len(columns)), [len(own) for own in columns])
    cards = tuple({key: value for key, value in card.items() if key != "feature_names"} for card in loaded.cards)
    weights, settings = np.concatenate(fitted.model.weights), recorded_settings(plan.settings)
    return EncodingWeights(weights, fitted.model.intercept, fitted.mean, fitted.scale, names, space_of, cards, attributes, settings)
