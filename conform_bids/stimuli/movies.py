"""Features of movies: a row a frame, found by content or name, read from tables or computed by a network."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from conform_bids.errors import ConformError, UnusableInputError
from conform_bids.stimuli.backbones_media import read_movie
from conform_bids.stimuli.backbones_progress import counted
from conform_bids.stimuli.feature_files import read_features, write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable
from conform_bids.stimuli.identity import MISSING

if TYPE_CHECKING:
    from conform_bids.stimuli.backbones import Backbone

__all__ = ["MovieFeatures", "compute_movie_features", "match_movies", "movie_card"]

_LOGGER = logging.getLogger(__name__)
BATCH = {"cpu": 4}
"""Frames at a time; on other devices 64."""


@dataclass(frozen=True, eq=False)
class MovieFeatures:
    """Features of the frames of a movie.

    Attributes
    ----------
    times : (n_frames,) float64 array
        Seconds from the movie's beginning, rising.
    values : (n_frames, n_features) float32 array
    """

    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]


def match_movies(table: FeatureTable, stim_ids: Sequence[str], sha256: Sequence[str], source: str) -> dict[str, MovieFeatures]:
    """Look up the features of movies: by the SHA-256 of the file where both sides know it, else by name.

    Parameters
    ----------
    stim_ids, sha256 : sequences of str
        Of the movies that were shown; ``n/a`` where a hash is not known.
    source : str
        What messages call the table.

    Returns
    -------
    dict
        By stim_id; movies without features are not in it.

    Raises
    ------
    UnusableInputError
        When rows have no time, or a movie has two rows of one time, or features that are not finite.
    """
    if table.times is None:
        raise UnusableInputError(
            f"{source}: its rows have no time; features of movies have a row a frame, with its time in seconds (`time`), or its number "
            "(`frame`) and a frame_rate in the card"
        )
    by_content: dict[str, list[int]] = defaultdict(list)
    by_name: dict[str, list[int]] = defaultdict(list)
    for row, (name, digest) in enumerate(zip(table.stim_ids, table.sha256, strict=True)):
        if digest != MISSING:
            by_content[digest].append(row)
        if name != MISSING:
            by_name[name].append(row)
    found = {}
    for name, digest in zip(stim_ids, (text.lower() for text in sha256), strict=True):
        rows = by_content.get(digest, []) if digest != MISSING else []
        if not rows:
            rows = [row for row in by_name.get(name, []) if MISSING in (digest, table.sha256[row])]
        if rows:
            found[name] = _in_order(table, rows, name, source)
    return found


def _in_order(table: FeatureTable, rows: list[int], name: str, source: str) -> MovieFeatures:
    assert table.times is not None
    order = np.array(rows)[np.argsort(table.times[rows], kind="stable")]
    times, values = table.times[order], table.values[order]
    again = np.flatnonzero(np.diff(times) <= 0)
    if len(again):
        raise UnusableInputError(f"{source}: {name!r} has two rows for the time {times[again[0]]:g} s")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise UnusableInputError(f"{source}: {name!r} has features that are not finite, at {times[bad[0]]:g} s")
    return MovieFeatures(times, values)


def movie_card(card: FeatureCard, frame_rate: float) -> FeatureCard:
    """Card of a backbone's features of single frames."""
    kept = {key: value for key, value in card.preprocessing.items() if key not in ("frames", "pooling_over_frames")}
    return replace(card, preprocessing={**kept, "frame_rate": frame_rate})


def compute_movie_features(
    backbone: Backbone, files: Mapping[str, Path], frame_rate: float, *, cache: Path | None = None, stream: TextIO | None = None
) -> FeatureTable:
    """Features of the frames of movies, evenly spread; a movie that was computed before is not decoded again.

    Parameters
    ----------
    files : mapping
        Path by stim_id.
    frame_rate : float
        Frames a second that the network is shown.
    cache : Path, optional
        Folder of features that were computed before.
    stream : TextIO, optional
        Where progress is shown.

    Raises
    ------
    UnusableInputError
        When no movie can be decoded; what is wrong with one beside others is a warning.
    """
    card = movie_card(backbone.card, frame_rate)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", card.model)
    folder = None if cache is None else cache / f"{name}-{card.preprocessing_hash[:16]}-movies"
    parts: list[FeatureTable] = []
    broken: list[str] = []
    with counted(card.model, len(files), stream=stream) as advance:
        for stim_id, path in files.items():
            try:
                parts.append(_features_of(backbone, stim_id, path, frame_rate, card, folder))
            except (ValueError, OSError) as error:
                broken.append(f"{path} {error}")
            advance()
    if broken:
        text = f"{len(broken)} of {len(files)} stimulus files cannot be decoded: {'; '.join(broken[:5])}"
        if not parts:
            raise UnusableInputError(text)
        _LOGGER.warning("%s; they are set aside", text)
    return FeatureTable(
        np.concatenate([part.values for part in parts]),
        [name for part in parts for name in part.stim_ids],
        [digest for part in parts for digest in part.sha256],
        card,
        np.concatenate([part.times for part in parts if part.times is not None]),
    )


def _features_of(backbone: Backbone, stim_id: str, path: Path, frame_rate: float, card: FeatureCard, folder: Path | None) -> FeatureTable:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kept = None if folder is None else folder / f"{digest}.h5"
    if kept is not None and kept.is_file():
        try:
            before = read_features(kept)
            if before.times is not None and before.card.preprocessing_hash == card.preprocessing_hash:
                return FeatureTable(before.values, [stim_id] * len(before), [digest] * len(before), card, before.times)
        except ConformError as error:
            _LOGGER.warning("%s; its features are computed again", error)
    times, values = _embed(backbone, path, frame_rate)
    table = FeatureTable(values, [stim_id] * len(values), [digest] * len(values), card, times)
    if kept is not None:
        try:
            write_features(table, kept)
        except OSError as error:  # the features are there all the same
            _LOGGER.warning("%s: features cannot be kept for later runs (%s)", kept, error.strerror or error)
    return table


def _embed(backbone: Backbone, path: Path, frame_rate: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Times and features of the frames, a batch after the other."""
    import torch

    size = BATCH.get(backbone.device, 64)
    times: list[float] = []
    waiting: list[Any] = []
    parts: list[npt.NDArray[np.float32]] = []

    def run() -> None:
        with torch.inference_mode():
            parts.append(backbone.embed(torch.stack(waiting).to(backbone.device)).float().cpu().numpy())
        waiting.clear()

    for time, image in read_movie(path, frame_rate):
        times.append(time)
        waiting.append(backbone.prepare(image))
        if len(waiting) >= size:
            run()
    if waiting:
        run()
    return np.array(times), np.concatenate(parts)
