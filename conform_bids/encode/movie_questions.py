"""What a model of movies is asked: its predictions of new ones."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from conform_bids.encode.files import Plan
from conform_bids.encode.fitted import Fitted
from conform_bids.encode.movie_features import movie_table
from conform_bids.encode.movie_fit import MovieModel
from conform_bids.encode.movie_inputs import LoadedMovies
from conform_bids.encode.new_features import new_tables
from conform_bids.encode.numerics.screen import Shown, show
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.numerics.compute import Compute
from conform_bids.stimuli.features import FeatureTable
from conform_bids.stimuli.identity import MISSING
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
    tables = new_tables(plan, loaded, partial(movie_table, plan, compute=compute, cache=None))
    shown = _movies(tables[0])
    found = [
        match_movies(table, list(shown), [digest for _, digest in shown.values()], f"--predict {card['name']}")
        for table, card in zip(tables, loaded.cards, strict=True)
    ]
    predicted, rows = [], []
    for name, (stim_id, digest) in shown.items():
        if absent := [str(card["name"]) for card, movies in zip(loaded.cards, found, strict=True) if name not in movies]:
            raise MissingInputError(f"--predict: {name!r} has no features of {absent[0]}")
        frames = [movies[name] for movies in found]
        values, times = _predict(fitted.model, frames, loaded.repetition_time, name)
        predicted.append(values * fitted.scale + fitted.mean)
        rows += [(stim_id, float(time), digest) for time in times]
    fitted.arrays["new_predictions"] = np.concatenate(predicted)
    new = pd.DataFrame(rows, columns=["stim_id", "time", "sha256"])
    new.insert(0, "condition", range(len(new)))
    fitted.tables["new"] = new


def _movies(table: FeatureTable) -> dict[str, tuple[str, str]]:
    """Movies of a table, stim_id and SHA-256 each, by name: the stim_id, or the hash where there is none."""
    pairs = dict.fromkeys(zip(table.stim_ids, table.sha256, strict=True))
    return {digest if stim_id == MISSING else stim_id: (stim_id, digest) for stim_id, digest in pairs}


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
