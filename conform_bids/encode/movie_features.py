"""Feature spaces of a person's movies: a row a frame, read from tables or computed from the videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from conform_bids.encode.files import Plan
from conform_bids.errors import MissingInputError
from conform_bids.numerics.compute import Compute
from conform_bids.stimuli.feature_files import read_features
from conform_bids.stimuli.features import FeatureTable
from conform_bids.stimuli.movies import MovieFeatures, compute_movie_features, match_movies

__all__ = ["MovieSpace", "gather_movies", "label_features", "movie_table"]


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
    """Features of the movies of a plan.

    Parameters
    ----------
    stimuli : DataFrame
        stim_id, stim_file, sha256; a row a stimulus.
    cache : Path or None
        Folder of features that a backbone computed before.

    Returns
    -------
    spaces : list of MovieSpace
    known : set of str
        Movies that have features in every space.

    Raises
    ------
    MissingInputError, UnusableInputError
        When no movie has features, or a table cannot be used.
    """
    spaces = [_space(path.stem, read_features(path), stimuli, str(path)) for path in plan.feature_files]
    backbone = plan.settings.chosen_backbone
    if backbone is not None:
        spaces.append(_space(backbone, _compute(plan, stimuli, compute, cache), stimuli, backbone))
    known = set.intersection(*(set(space.movies) for space in spaces))
    if not known:
        tables = ", ".join(space.name for space in spaces)
        raise MissingInputError(
            f"{plan.place}: none of the {len(stimuli)} stimuli of its task has features in {tables}; they are called "
            f"{', '.join(map(repr, stimuli['stim_id'][:3]))}"
        )
    return spaces, known


def label_features(name: str, n_features: int) -> tuple[str, ...]:
    """Names of the features of a space."""
    label = name.split("/", maxsplit=1)[0].rpartition(":")[2] or name
    return tuple(f"{label}_{k:04d}" for k in range(n_features))


def _space(name: str, table: FeatureTable, stimuli: pd.DataFrame, source: str) -> MovieSpace:
    movies = match_movies(table, stimuli["stim_id"].tolist(), stimuli["sha256"].tolist(), source)
    return MovieSpace(name, movies, label_features(name, table.n_features), table.card.as_json())


def _compute(plan: Plan, stimuli: pd.DataFrame, compute: Compute, cache: Path | None) -> FeatureTable:
    """Features of the videos by the backbone; stimuli without a file are left out."""
    assert plan.stimuli_dir is not None
    named = zip(stimuli["stim_id"], stimuli["stim_file"], strict=True)
    files = {stim_id: plan.stimuli_dir / name for stim_id, name in named if name != "n/a" and (plan.stimuli_dir / name).is_file()}
    if not files:
        raise MissingInputError(
            f"{plan.stimuli_dir}: none of the {len(stimuli)} stimuli of sub-{plan.participant} has its file here; --stimuli-dir says where "
            "they are, or --features names a table of their features"
        )
    return movie_table(plan, files, compute, cache)


def movie_table(plan: Plan, files: Mapping[str, Path], compute: Compute, cache: Path | None) -> FeatureTable:
    """Features of the frames of some videos by the backbone of a plan."""
    from conform_bids.stimuli.backbones_models import load_backbone

    assert plan.settings.chosen_backbone is not None
    return compute_movie_features(
        load_backbone(plan.settings.chosen_backbone, compute.device), files, plan.settings.frame_rate, cache=cache
    )
