"""What a model of movies is asked: its predictions of new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from conform_bids.encode.features import find_feature_files
from conform_bids.encode.files import Plan
from conform_bids.encode.fitted import Fitted
from conform_bids.encode.movie_features import movie_table
from conform_bids.encode.movie_fit import MovieModel
from conform_bids.encode.movie_load import LoadedMovies
from conform_bids.encode.numerics.screen import Shown, show
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.numerics.compute import Compute
from conform_bids.stimuli.feature_files import read_features
from conform_bids.stimuli.features import FeatureTable
from conform_bids.stimuli.movies import MovieFeatures, match_movies

__all__ = ["predict_movies"]


def predict_movies(plan: Plan, loaded: LoadedMovies, fitted: Fitted, compute: Compute) -> None:
    """Add to a fit its predictions of new movies, volume by volume from each movie's beginning, (n_volumes, n_units).

    Raises
    ------
    UnusableInputError, MissingInputError
        When the features are not those of the model, or a movie has none in one of the spaces.
    """
    assert isinstance(fitted.model, MovieModel)
    tables = _tables(plan, loaded, compute)
    for table, card in zip(tables, loaded.cards, strict=True):
        if table.n_features != len(card["feature_names"]):
            raise UnusableInputError(
                f"--predict: {table.n_features} features, and the model has {len(card['feature_names'])} of {card['name']}"
            )
        if "n/a" not in (table.card.model, card["model"]) and table.card.preprocessing_hash != card["preprocessing_hash"]:
            raise UnusableInputError(f"--predict: features of {table.card.model}, not computed as those of the model, {card['name']}")
    hashes = dict(zip(tables[0].stim_ids, tables[0].sha256, strict=True))
    names = list(hashes)
    found = [
        match_movies(table, names, list(hashes.values()), f"--predict {card['name']}")
        for table, card in zip(tables, loaded.cards, strict=True)
    ]
    predicted, rows = [], []
    for name in names:
        if absent := [str(card["name"]) for card, movies in zip(loaded.cards, found, strict=True) if name not in movies]:
            raise MissingInputError(f"--predict: {name!r} has no features of {absent[0]}")
        frames = [movies[name] for movies in found]
        values, times = _predict(fitted.model, frames, loaded.repetition_time, name)
        predicted.append(values * fitted.scale + fitted.mean)
        rows += [(name, float(time), hashes[name]) for time in times]
    fitted.arrays["new_predictions"] = np.concatenate(predicted)
    new = pd.DataFrame(rows, columns=["stim_id", "time", "sha256"])
    new.insert(0, "condition", range(len(new)))
    fitted.tables["new"] = new


def _predict(model: MovieModel, frames: list[MovieFeatures], repetition_time: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted volumes and their times; a volume stands for the middle of its repetition time."""
    step = float(np.median(np.diff(frames[0].times))) if len(frames[0].times) > 1 else repetition_time
    duration = float(frames[0].times[-1]) + step
    n_volumes = max(1, int(np.ceil(duration / repetition_time - 1e-6)))
    try:
        widths = [each.values.shape[1] for each in frames]
        screen = show([Shown(0.0, duration, frames, 0)], n_volumes, repetition_time, repetition_time / 2, widths)
    except ValueError as error:
        raise UnusableInputError(f"--predict: {name!r}: {error.args[-1]}") from error
    return model.predict_movie(screen.features, screen.on), (np.arange(n_volumes) + 0.5) * repetition_time


def _tables(plan: Plan, loaded: LoadedMovies, compute: Compute) -> list[FeatureTable]:
    """A table of the new movies' features for each feature space, in their order."""
    asked = plan.settings.predict
    assert asked is not None
    if asked.is_dir() and plan.settings.chosen_backbone is not None and not plan.feature_files:
        files = {path.relative_to(asked).as_posix(): path for path in sorted(asked.rglob("*")) if path.is_file() and path.name[0] != "."}
        if not files:
            raise MissingInputError(f"--predict {asked}: no file in this folder")
        return [movie_table(plan, files, compute, None)]
    found = {path.stem: path for path in find_feature_files([str(asked)])}
    names = [str(card["name"]) for card in loaded.cards]
    chosen = list(found.values()) if len(names) == len(found) == 1 else [found.get(name, Path()) for name in names]
    for name, path in zip(names, chosen, strict=True):
        if not path.is_file():
            raise MissingInputError(f"--predict {asked}: no table of the feature space {name!r}; the model needs {', '.join(names)}")
    return [read_features(path) for path in chosen]
