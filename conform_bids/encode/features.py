"""Feature spaces of a person's stimuli: read from tables, or computed from the stimulus files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.encode.files import Plan
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.numerics.compute import Compute
from conform_bids.stimuli.feature_files import EXTENSIONS, read_features
from conform_bids.stimuli.features import FeatureTable, match_features

__all__ = ["FeatureSpace", "find_feature_files", "gather_features", "label_features", "stimulus_files"]


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A feature space of a person's stimuli.

    Attributes
    ----------
    name : str
        Of the file, or the backbone.
    values : (n_stimuli, n_features) float32 array
        NaN for stimuli without features.
    feature_names : tuple of str
    card : dict
        Where they come from.
    """

    name: str
    values: npt.NDArray[np.float32]
    feature_names: tuple[str, ...]
    card: dict[str, Any]


def find_feature_files(names: Sequence[str]) -> list[Path]:
    """Tables that ``--features`` names, in its order; those of a folder by name.

    Raises
    ------
    MissingInputError
        When one is not there, or a folder has none.
    UnusableInputError
        When two feature spaces have one name.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name).absolute()
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS and not file.name.startswith("."))
            if not found:
                raise MissingInputError(f"--features {name}: no feature table in this folder ({', '.join(EXTENSIONS)})")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise MissingInputError(f"--features {name}: no such file or folder; features are computed by --backbone")
    files = list(dict.fromkeys(files))
    stems = [path.stem for path in files]
    for index, stem in enumerate(stems):
        if stem in stems[:index]:
            raise UnusableInputError(f"--features: two feature spaces are called {stem!r}: {files[stems.index(stem)]} and {files[index]}")
    return files


def gather_features(
    plan: Plan, stimuli: pd.DataFrame, compute: Compute, cache: Path | None
) -> tuple[list[FeatureSpace], npt.NDArray[np.bool_]]:
    """Features of the stimuli of a plan.

    Parameters
    ----------
    stimuli : DataFrame
        stim_id, stim_file, sha256; a row a stimulus.
    cache : Path or None
        Folder of features that a backbone computed before.

    Returns
    -------
    spaces : list of FeatureSpace
    known : (n_stimuli,) bool array
        Stimuli that have features in every space.

    Raises
    ------
    MissingInputError, UnusableInputError
        When no stimulus has features, or a table cannot be used.
    """
    spaces = [_match(path.stem, read_features(path), stimuli, str(path)) for path in plan.feature_files]
    if plan.settings.chosen_backbone is not None:
        spaces.append(
            _match(plan.settings.chosen_backbone, _compute(plan, stimuli, compute, cache), stimuli, plan.settings.chosen_backbone)
        )
    known = np.logical_and.reduce([np.isfinite(space.values[:, 0]) for space in spaces])
    return spaces, known


def _match(name: str, table: FeatureTable, stimuli: pd.DataFrame, source: str) -> FeatureSpace:
    matched = match_features(table, stimuli["stim_id"].tolist(), stimuli["sha256"].tolist(), faults="set-aside", source=source)
    values = np.full((len(stimuli), table.n_features), np.nan, dtype=np.float32)
    values[matched.found] = matched.values
    return FeatureSpace(name, values, label_features(name, table.n_features), table.card.as_json())


def label_features(name: str, n_features: int) -> tuple[str, ...]:
    """Names of the features of a space."""
    label = name.split("/", maxsplit=1)[0].rpartition(":")[2] or name
    return tuple(f"{label}_{k:04d}" for k in range(n_features))


def stimulus_files(plan: Plan, stimuli: pd.DataFrame) -> dict[str, Path]:
    """Files of a plan's stimuli by stim_id; those without one in the folder are left out.

    Raises
    ------
    MissingInputError
        When no stimulus has a file.
    """
    assert plan.stimuli_dir is not None
    files = {}
    for stim_id, name in zip(stimuli["stim_id"], stimuli["stim_file"], strict=True):
        inside = Path(name)
        if name != "n/a" and not inside.is_absolute() and ".." not in inside.parts and (plan.stimuli_dir / inside).is_file():
            files[stim_id] = plan.stimuli_dir / inside
    if not files:
        raise MissingInputError(
            f"{plan.stimuli_dir}: none of the {len(stimuli)} stimuli of sub-{plan.participant} has its file here; --stimuli-dir says where "
            "they are, or --features names a table of their features"
        )
    return files


def _compute(plan: Plan, stimuli: pd.DataFrame, compute: Compute, cache: Path | None) -> FeatureTable:
    """Features of the stimulus files by the backbone."""
    from conform_bids.stimuli.backbones import compute_features
    from conform_bids.stimuli.backbones_models import load_backbone

    assert plan.settings.chosen_backbone is not None
    files = stimulus_files(plan, stimuli)
    return compute_features(load_backbone(plan.settings.chosen_backbone, compute.device), files, cache=cache, faults="set-aside")
