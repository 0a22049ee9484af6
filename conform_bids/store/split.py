"""``split.tsv`` from stimuli alone, before any fit: what conform-glm and conform-psn take by ``--split``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from conform_bids.bids.atomic import write_tsv
from conform_bids.bids.events import choose_condition_column, read_events
from conform_bids.bids.names import parse_name
from conform_bids.bids.splits import check_split
from conform_bids.bids.tables import one_line, read_tsv
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.store.catalogue import (
    Sameness,
    build_catalogue,
    catalogue_components,
    match_features,
    place_stimuli,
    read_features,
    read_marks,
)
from conform_bids.store.conventions import dataset_trials
from conform_bids.store.dataset_config import DatasetConfig
from conform_bids.store.inputs import clean_name

__all__ = ["SplitResult", "find_stimuli_folder", "shown_stimuli", "write_split"]

SPLIT_COLUMNS = ["stim_id", "split", "dataset", "content_id"]


@dataclass(frozen=True, eq=False)
class SplitResult:
    """A split that was written.

    Attributes
    ----------
    files : tuple of Path
        ``split.tsv`` of all, and, of several datasets, ``split_<dataset>.tsv`` of each, as names may clash between them.
    stimuli : DataFrame
        The catalogue.
    duplicates : dict of str to int
        Pairs by criterion.
    """

    files: tuple[Path, ...]
    stimuli: pd.DataFrame
    duplicates: dict[str, int]


def write_split(
    datasets: Mapping[str, str | Path],
    output_dir: str | Path,
    sameness: Sameness | None = None,
    *,
    test_fraction: float = 0.0,
    seed: int = 0,
    split: Path | None = None,
    features: Path | None = None,
    condition_column: str | None = None,
    configs: Mapping[str, DatasetConfig] | None = None,
    raw: Mapping[str, str | Path] | None = None,
) -> SplitResult:
    """Write the split of the stimuli of datasets.

    Parameters
    ----------
    datasets : mapping of str to path
        Name to raw dataset (its events and ``stimuli/``), or to a derivative with trial tables.
    output_dir : path
        Where the files go.
    sameness : Sameness, optional
        Which stimuli count as the same.
    test_fraction, seed
        As `conform_bids.stimuli.splitting.split_components`; for stimuli of which no dataset says what they are for.
    split : Path, optional
        Further marks, as `conform_bids.store.catalogue.read_marks`.
    features : Path, optional
        Feature table, for ``sameness.threshold``.
    condition_column : str, optional
        Column of the events that names the stimulus; by default as in conform-glm.
    configs : mapping of str to DatasetConfig, optional
        Descriptions of datasets by name: which trials are test is theirs to say, from the whole dataset where it takes that.
    raw : mapping of str to path, optional
        Raw datasets of those of ``datasets`` that are derivatives, by name: as `shown_stimuli`, and for their ``stimuli/``.

    Raises
    ------
    MissingInputError, UnusableInputError, UsageError
    """
    sameness = sameness or Sameness()
    if (features is None) != (sameness.threshold is None):
        raise UsageError("near-duplicates by features need both the features and the cosine above which they count")
    if not 0 <= test_fraction < 1:
        raise UsageError(f"a test fraction of {test_fraction}; from 0 to below 1 is possible")
    frames, folders = [], {}
    for name, path in datasets.items():
        if not clean_name(name):
            raise UsageError(f"{name!r}: the name of a dataset is made of letters and digits")
        config, origin = (configs or {}).get(name), (raw or {}).get(name)
        if config is None:
            shown = shown_stimuli(Path(path), condition_column, None if origin is None else Path(origin))
        else:
            shown = dataset_trials(config, path).assign(stim_file="n/a")
        frames.append(shown.assign(dataset=name))
        folders[name] = find_stimuli_folder(path if origin is None else origin)
    shown = pd.concat(frames, ignore_index=True)
    marks = {} if split is None else read_marks(split)
    known = shown[["dataset", "stim_id", "stim_file"]].assign(sha256="n/a")
    stimuli = build_catalogue(shown, folders, known, marks, "n/a")
    values = None if features is None else match_features(stimuli, read_features(features))
    labels, duplicates = catalogue_components(stimuli, sameness, values)
    stimuli = place_stimuli(stimuli, labels, test_fraction=test_fraction, seed=seed)
    root, files = Path(output_dir), []
    table = stimuli[SPLIT_COLUMNS]
    parts = {"split.tsv": table}
    if len(datasets) > 1:
        parts |= {f"split_{name}.tsv": table[table["dataset"] == name] for name in datasets}
    for file, rows in parts.items():
        write_tsv(rows, root / file)
        files.append(root / file)
    return SplitResult(tuple(files), stimuli, duplicates)


def find_stimuli_folder(path: str | Path) -> Path | None:
    """Folder ``stimuli/`` of a raw dataset, given itself or a derivative in its ``derivatives/``; None where there is none."""
    root = Path(path).resolve()
    return next((place / "stimuli" for place in (root, root.parent.parent) if _has_stimuli(place)), None)


def _has_stimuli(root: Path) -> bool:
    """Whether a folder is a raw dataset with stimuli (a derivative's ``stimuli`` holds tables alone)."""
    folder = root / "stimuli"
    return folder.is_dir() and not any(folder.glob("sub-*_stimuli.tsv"))


def shown_stimuli(root: Path, condition_column: str | None = None, raw: Path | None = None) -> pd.DataFrame:
    """What was shown in a dataset: participant_id, stim_id, stim_file, split; a row an event with a stimulus.

    Where its raw dataset is named apart, the events of that one come first, as they name files of stimuli; the dataset itself adds stimuli
    that they do not name, as trial tables have them that were made by another column.

    Raises
    ------
    MissingInputError
        When there are neither events nor trial tables.
    UnusableInputError
        Naming the file, when one is broken.
    """
    places = [root] if raw is None else [raw, root]
    rows: list[tuple[str, str, str, str]] = []
    for place in places:
        if not place.is_dir():
            raise MissingInputError(f"{place}: no such folder")
        named = {stim_id for _, stim_id, _, _ in rows}
        rows += [row for row in _shown_in(place, condition_column) if row[1] not in named]
    if not rows:
        where = ", ".join(map(str, places))
        raise MissingInputError(f"{where}: neither events (*_events.tsv) nor trial tables (*_trials.tsv) that name a stimulus")
    return pd.DataFrame(rows, columns=["participant_id", "stim_id", "stim_file", "split"])


def _shown_in(root: Path, condition_column: str | None) -> Iterator[tuple[str, str, str, str]]:
    paths = sorted([*root.glob("*_events.tsv"), *root.glob("sub-*/**/*_events.tsv")])
    return _of_events(paths, condition_column) if paths else _of_trials(root)


def _of_events(paths: list[Path], condition_column: str | None) -> Iterator[tuple[str, str, str, str]]:
    tables = [read_events(path) for path in paths]
    filled = [(path, table) for path, table in zip(paths, tables, strict=True) if len(table)]
    if not filled:
        return
    column = choose_condition_column([[str(name) for name in table.columns] for _, table in filled], condition_column)
    for path, table in filled:
        person = parse_name(path).entities.get("sub", "n/a")
        empty = [None] * len(table)
        files, splits = (table[name] if name in table.columns else empty for name in ("stim_file", "split"))
        for line, stim_id, file, split in zip(table.index, table[column], files, splits, strict=True):
            if stim_id is not None and one_line(stim_id):
                yield person, one_line(stim_id), file or "n/a", check_split(path, int(line), split)


def _of_trials(root: Path) -> Iterator[tuple[str, str, str, str]]:
    for path in sorted(root.glob("sub-*/**/*_trials.tsv")):
        table = read_tsv(path, required=("stim_id", "split"), quoted=False)
        person = parse_name(path).entities.get("sub", "n/a")
        for line, stim_id, split in zip(table.index, table["stim_id"], table["split"], strict=True):
            if stim_id is not None:
                yield person, stim_id, "n/a", check_split(path, int(line), split)
