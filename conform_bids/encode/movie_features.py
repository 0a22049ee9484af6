"""Feature spaces of a person's movies: a row a frame, read from tables or computed from the videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from conform_bids.encode.features import label_features, stimulus_files
from conform_bids.encode.files import Plan
from conform_bids.errors import MissingInputError
from conform_bids.numerics.compute import Compute
from conform_bids.stimuli.feature_files import read_features
from conform_bids.stimuli.features import FeatureTable
from conform_bids.stimuli.movies import MovieFeatures, compute_movie_features, match_movies

__all__ = ["MovieSpace", "gather_movies", "movie_table"]


@dataclass(frozen=True, eq=False)
class MovieSpace:
    """A feature space of movies.

    Attributes
    ----------
    name : str
        Of the file, or the backbone.
    movies : mapping of str to MovieFeatures
        By stim_id.
    feature_names : tuple of str
    card : dict
        Where they come from.
    """

    name: str
    movies: Mapping[str, MovieFeatures]
    feature_names: tuple[str, ...]
    card: dict[str, Any]


def gather_movies(plan: Plan, stimuli: pd.DataFrame, compute: Compute, cache: Path | None) -> tuple[list[MovieSpace], set[str]]:
    """Features of the movies of a plan, and the movies that have them in every space.

    It takes what `conform_bids.encode.features.gather_features` does.

    Raises
    ------
    MissingInputError, UnusableInputError
        When no movie has features, or a table cannot be used.
    """
    spaces = [_space(path.stem, read_features(path), stimuli, str(path)) for path in plan.feature_files]
    backbone = plan.settings.chosen_backbone
    if backbone is not None:
        spaces.append(_space(backbone, movie_table(plan, stimulus_files(plan, stimuli), compute, cache), stimuli, backbone))
    known = set.intersection(*(set(space.movies) for space in spaces))
    if not known:
        tables = ", ".join(space.name for space in spaces)
        raise MissingInputError(
            f"{plan.place}: none of the {len(stimuli)} stimuli of its task has features in {tables}; they are called "
            f"{', '.join(map(repr, stimuli['stim_id'][:3]))}"
        )
    return spaces, known


def _space(name: str, table: FeatureTable, stimuli: pd.DataFrame, source: str) -> MovieSpace:
    movies = match_movies(table, stimuli["stim_id"].tolist(), stimuli["sha256"].tolist(), source)
    return MovieSpace(name, movies, label_features(name, table.n_features), table.card.as_json())


def movie_table(plan: Plan, files: Mapping[str, Path], compute: Compute, cache: Path | None) -> FeatureTable:
    """Features of the frames of some videos by the backbone of a plan."""
    from conform_bids.stimuli.backbones_models import load_backbone

    assert plan.settings.chosen_backbone is not None
    return compute_movie_features(
        load_backbone(plan.settings.chosen_backbone, compute.device), files, plan.settings.frame_rate, cache=cache
    )
