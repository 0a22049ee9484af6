"""Inputs of a fit of movies as they lie in a work folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.bids.trials import hash_stimuli
from conform_bids.encode.load import Loaded, read_parts
from conform_bids.encode.load import read_loaded as read_stimuli
from conform_bids.encode.numerics.movies import Timeline
from conform_bids.encode.numerics.reduction import Reduction

__all__ = ["LoadedMovies", "read_loaded"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class LoadedMovies(Loaded):
    """Inputs of a fit of movies. Rows of `responses`, `observed` and `conditions` are volumes; `features` have all volumes of all runs.

    Attributes
    ----------
    timeline : Timeline
        Which of these volumes are rows of the fit.
    centres : list of (n_features,) arrays
        Mean features of the train volumes, one a feature space; taken off.
    reductions : list of Reduction or None
        Principal components of each feature space.
    repetition_time : float
        Seconds.
    delays : tuple of int
        Volumes; empty where features are convolved.
    hrf_index : (n_units,) int array or None
        Of each unit, in the library.
    single : (n_units,) array
        Explainable variance of one presentation, percent.
    """

    timeline: Timeline
    centres: list[FloatArray]
    reductions: list[Reduction | None]
    repetition_time: float
    delays: tuple[int, ...]
    hrf_index: IntArray | None
    single: npt.NDArray[np.float32]

    @property
    def counts(self) -> dict[str, int]:
        """For the table of metrics."""
        movies = self.conditions["stim_id"]
        return {
            "n_train_volumes": self.n_train,
            "n_test_volumes": len(self.observed),
            "n_train_movies": int(movies[: self.n_train].nunique()),
            "n_test_movies": int(movies[self.n_train :].nunique()),
            "n_runs": len(self.timeline.lengths),
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of the sidecars that say what was fitted on what."""
        counts = self.counts
        return {
            "NumberOfTrainVolumes": counts["n_train_volumes"],
            "NumberOfTestVolumes": counts["n_test_volumes"],
            "NumberOfTrainStimuli": counts["n_train_movies"],
            "NumberOfTestStimuli": counts["n_test_movies"],
            "NumberOfRuns": counts["n_runs"],
            "RepetitionTime": self.repetition_time,
            "Delays": list(self.delays) or None,
            "Folds": int(self.timeline.fold.max()) + 1,
            "FittedStimuliHash": hash_stimuli(self.conditions["stim_id"][: self.n_train]),
        }


def read_loaded(files: Sequence[Path]) -> Loaded:
    """Open what `conform_bids.encode.movie_load.load_movies`, or `conform_bids.encode.load.load_inputs`, wrote."""
    by_name = {path.name: path for path in map(Path, files)}
    if "timeline.npz" not in by_name:
        return read_stimuli(files)
    parts = read_parts(files)
    n_spaces = len(parts["cards"])
    with np.load(by_name["timeline.npz"], allow_pickle=False) as archive:
        names = sorted(name for name in archive.files if name.startswith("basis_"))
        timeline = Timeline(
            archive["lengths"], [archive[name] for name in names], archive["train"], archive["test"], archive["test_row"], archive["fold"]
        )
        repetition_time, delays = float(archive["repetition_time"]), tuple(archive["delays"].tolist())
    reductions: list[Reduction | None] = []
    for number in range(n_spaces):
        path = by_name.get(f"reduction_{number}.npz")
        if path is None:
            reductions.append(None)
            continue
        with np.load(path, allow_pickle=False) as archive:
            reductions.append(Reduction.from_arrays(archive))
    index = by_name.get("hrf_index.npy")
    return LoadedMovies(
        **parts,
        timeline=timeline,
        centres=[np.load(by_name[f"centre_{number}.npy"]).astype(np.float64) for number in range(n_spaces)],
        reductions=reductions,
        repetition_time=repetition_time,
        delays=delays,
        hrf_index=None if index is None else np.load(index).astype(np.intp),
        single=np.load(by_name["single.npy"]),
    )
