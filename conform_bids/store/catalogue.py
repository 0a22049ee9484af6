"""The stimuli of all datasets: what each is by content, which are the same, and on which side of the split they stand."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.array_checks import check_npz, check_parquet
from conform_bids.bids.splits import check_split
from conform_bids.bids.tables import read_tsv
from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.stimuli.duplicates import components, equal_pairs, members_of, near_pairs, perceptual_pairs
from conform_bids.stimuli.feature_files import read_features as read_feature_table
from conform_bids.stimuli.identity import MISSING, identify_file
from conform_bids.stimuli.splitting import split_components

__all__ = [
    "STIMULUS_COLUMNS",
    "Sameness",
    "build_catalogue",
    "catalogue_components",
    "catalogue_pairs",
    "find_stimulus_file",
    "match_features",
    "place_stimuli",
    "read_features",
    "read_marks",
]

STIMULUS_COLUMNS = {
    "dataset": "Dataset that shows it.",
    "stim_id": "Its name there.",
    "content_id": "Its identity by content: the same for stimuli that are the same, or nearly.",
    "split": "train, test or artificial; the same for all of a content_id.",
    "mark": "What the dataset itself says of it: train, test, artificial or n/a.",
    "stim_file": "Its file, relative to stimuli/ of the dataset.",
    "sha256": "SHA-256 of the file.",
    "pixels": "SHA-256 of the decoded pixels.",
    "perceptual": "Perceptual hash (pHash), 64 bits.",
    "n_trials": "Trials of all participants.",
    "n_participants": "Participants who saw it.",
    "version": "Version of the store that it came with.",
}
_SEVERITY = {"n/a": 0, "train": 1, "artificial": 2, "test": 3}
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sameness:
    """What counts as the same stimulus.

    Attributes
    ----------
    perceptual_distance : int or None
        Bits by which perceptual hashes may differ; None leaves them out.
    threshold : float or None
        Cosine of features above which two stimuli are near-duplicates.
    """

    perceptual_distance: int | None = 4
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.perceptual_distance is not None and not 0 <= self.perceptual_distance < 64:
            raise UsageError(f"a perceptual distance of {self.perceptual_distance} bits; 0 to 63 are possible")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise UsageError(f"a cosine threshold of {self.threshold}; -1 to 1 are possible")


def read_marks(path: Path) -> dict[tuple[str | None, str], str]:
    """Split file: stim_id, split and, where names of datasets clash, dataset. Keys are (dataset or None, stim_id).

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    table = read_tsv(path, required=("stim_id", "split"))
    owners = table["dataset"] if "dataset" in table.columns else [None] * len(table)
    marks: dict[tuple[str | None, str], str] = {}
    for line, owner, stim_id, value in zip(table.index, owners, table["stim_id"], table["split"], strict=True):
        mark = check_split(path, int(line), value)
        if stim_id is not None and marks.setdefault((owner, stim_id), mark) != mark:
            raise UnusableInputError(f"{path}:{line}: {stim_id!r} stands there twice, with different splits")
    return marks


def build_catalogue(
    shown: pd.DataFrame,
    files: Mapping[str, Path | None],
    known: pd.DataFrame,
    marks: Mapping[tuple[str | None, str], str],
    version: str,
) -> pd.DataFrame:
    """Rows of `STIMULUS_COLUMNS` for the stimuli of new datasets; ``content_id`` and ``split`` are still to be found.

    Parameters
    ----------
    shown : DataFrame
        A row a trial: dataset, participant_id, stim_id, split (as its table has it).
    files : mapping
        Folder of each dataset's stimuli, or None.
    known : DataFrame
        dataset, stim_id, stim_file, sha256, of tables of stimuli; it may be empty.
    marks : mapping
        As `read_marks`.
    version : str
        Of the store.
    """
    columns = [known[name].astype(str) for name in ("dataset", "stim_id", "stim_file", "sha256")]
    place = {(dataset, stim_id): (name, digest) for dataset, stim_id, name, digest in zip(*columns, strict=True)}
    rows: list[dict[str, Any]] = []
    for key, trials in shown.groupby(["dataset", "stim_id"], sort=True):
        dataset, stim_id = (str(part) for part in key)
        name, digest = place.get((dataset, stim_id), (MISSING, MISSING))
        identity = identify_file(find_stimulus_file(files.get(dataset), name, stim_id))
        said = [*trials["split"], marks.get((dataset, stim_id), "n/a"), marks.get((None, stim_id), "n/a")]
        rows.append(
            {
                "dataset": dataset,
                "stim_id": stim_id,
                "content_id": "",
                "split": "",
                "mark": max(said, key=_SEVERITY.__getitem__),
                "stim_file": name,
                "sha256": identity.sha256 if identity.sha256 != MISSING else digest,
                "pixels": identity.pixels,
                "perceptual": identity.perceptual,
                "n_trials": len(trials),
                "n_participants": trials["participant_id"].nunique(),
                "version": version,
            }
        )
    return pd.DataFrame(rows, columns=list(STIMULUS_COLUMNS))


def find_stimulus_file(folder: Path | None, name: str, stim_id: str) -> Path | None:
    """A stimulus' file within the folder, by its own name or by stim_id; nothing outside of the folder.

    Parameters
    ----------
    folder : Path or None
        ``stimuli/`` of the dataset, where it is at hand.
    name, stim_id : str
        ``stim_file`` of the stimulus, or n/a; and what the dataset calls it.
    """
    if folder is None:
        return None
    root = folder.resolve()
    for candidate in (name, stim_id):
        if candidate in (MISSING, "") or "\x00" in candidate:
            continue
        try:
            path = (folder / candidate.removeprefix("stimuli/")).absolute()
            if ".." not in path.parts and (folder.absolute() in path.parents or root in path.parents) and path.is_file():
                return path
        except (OSError, ValueError):
            continue
    return None


def catalogue_pairs(stimuli: pd.DataFrame, sameness: Sameness, features: Float32Array | None = None) -> dict[str, npt.NDArray[np.intp]]:
    """Pairs of stimuli that are the same, or nearly, by each criterion: (pairs, 2) places in the catalogue."""
    pairs = {
        "name": equal_pairs([f"{dataset}\n{stim_id}" for dataset, stim_id in zip(stimuli["dataset"], stimuli["stim_id"], strict=True)]),
        "file": equal_pairs(list(stimuli["sha256"])),
        "pixels": equal_pairs(list(stimuli["pixels"])),
    }
    if sameness.perceptual_distance is not None:
        pairs["perceptual"] = perceptual_pairs(list(stimuli["perceptual"]), sameness.perceptual_distance)
    if features is not None and sameness.threshold is not None:
        pairs["embedding"] = near_pairs(features, sameness.threshold)
    return pairs


def catalogue_components(
    stimuli: pd.DataFrame, sameness: Sameness, features: Float32Array | None = None
) -> tuple[npt.NDArray[np.intp], dict[str, int]]:
    """Component of each stimulus, and the number of pairs that each criterion found."""
    pairs = catalogue_pairs(stimuli, sameness, features)
    return components(len(stimuli), pairs.values()), {name: len(found) for name, found in pairs.items()}


def place_stimuli(stimuli: pd.DataFrame, labels: npt.NDArray[np.intp], *, test_fraction: float, seed: int) -> pd.DataFrame:
    """Give each stimulus its content_id (a hash of the first of its component's keys) and its split."""
    keys = [
        digest if digest != MISSING else f"{dataset}:{stim_id}"
        for digest, dataset, stim_id in zip(stimuli["sha256"], stimuli["dataset"], stimuli["stim_id"], strict=True)
    ]
    names = [""] * len(keys)
    for members in members_of(labels).values():
        first = min(keys[member] for member in members)
        for member in members:
            names[member] = hashlib.sha256(first.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    split = split_components(labels, list(stimuli["mark"]), test_fraction=test_fraction, seed=seed, keys=keys)
    return stimuli.assign(content_id=names, split=split)


def read_features(path: Path) -> pd.DataFrame:
    """A feature table: ``sha256`` or ``stim_id`` (and ``dataset``) as text, every other column a number.

    TSV, parquet, NPZ with one of these names and ``features`` (n, d), or HDF5 (`conform_bids.stimuli.feature_files`).

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    try:
        if path.suffix.lower() in (".h5", ".hdf5"):
            features = read_feature_table(path)
            table = pd.DataFrame(features.values).assign(sha256=list(features.sha256), stim_id=list(features.stim_ids))
        elif path.suffix == ".npz":
            check_npz(path)
            with np.load(path, allow_pickle=False) as archive:
                table = pd.DataFrame(archive["features"])
                for name in ("sha256", "stim_id", "dataset"):
                    if name in archive.files:
                        table[name] = archive[name].astype(str)
        elif path.suffix == ".parquet":
            check_parquet(path)
            table = pd.read_parquet(path)
        else:
            table = read_tsv(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UnusableInputError(f"{path}: not a table of features ({error})") from error
    text = [name for name in ("sha256", "dataset", "stim_id") if name in table.columns]
    if not set(text) & {"sha256", "stim_id"}:
        raise UnusableInputError(f"{path}: no column sha256 or stim_id that says which stimulus a row is")
    try:
        numbers = table.drop(columns=text).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UnusableInputError(f"{path}: {error}") from error
    return pd.concat([table[text].astype(str).reset_index(drop=True), numbers.reset_index(drop=True)], axis=1)


def match_features(stimuli: pd.DataFrame, table: pd.DataFrame) -> Float32Array:
    """Features of each stimulus, by sha256, else by dataset and stim_id, else by stim_id; NaN where there are none."""
    text = [name for name in ("sha256", "dataset", "stim_id") if name in table.columns]
    values = table.drop(columns=text).to_numpy(np.float32)
    matched = np.full((len(stimuli), values.shape[1]), np.nan, dtype=np.float32)
    for keys in _feature_keys(text):
        place = {key: row for row, key in enumerate(zip(*(table[name] for name in keys), strict=True))}
        for row, key in enumerate(zip(*(stimuli[name] for name in keys), strict=True)):
            if key in place and key != (MISSING,) and np.isnan(matched[row]).all():
                matched[row] = values[place[key]]
    return matched


def _feature_keys(text: Sequence[str]) -> list[tuple[str, ...]]:
    keys: list[tuple[str, ...]] = [("sha256",)] if "sha256" in text else []
    if "stim_id" in text:
        keys.append(("dataset", "stim_id") if "dataset" in text else ("stim_id",))
    return keys
