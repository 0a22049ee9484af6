"""Write a store, and add datasets to one: nothing that an earlier version wrote is touched, nor are its betas read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids import CODE_URL, __version__
from conform_bids.bids.atomic import LOCK_NAME, atomic_path, lock_file, write_json, write_text
from conform_bids.bids.derivatives import BIDS_VERSION
from conform_bids.bids.spaces import load_space
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.store.assembly import Draft, assemble, ceiling_rows, fit_rows, participant_row, table_of
from conform_bids.store.catalogue import Float32Array, match_features, read_features, read_marks
from conform_bids.store.croissant import croissant_metadata
from conform_bids.store.grid import common_space, save_parcels
from conform_bids.store.inputs import DatasetInput, clean_name, one_space
from conform_bids.store.manifest import file_record, latest_version, next_version, read_manifest, version_folder, versions, write_manifest
from conform_bids.store.participants import write_participant
from conform_bids.store.settings import StoreSettings
from conform_bids.store.tables import TABLES, read_table, write_table
from conform_bids.wording import counted

__all__ = ["Release", "append_release", "write_release"]

_README = """# {name}

Single-trial responses of many people on one grid, z-scored by their train trials, with a split of stimuli that does not leak.

- `betas/sub-<label>_betas.h5`: a participant; `/betas` (trials, units) float16; `betas * scale[group] + mean[group]` undoes the z-scoring.
- `versions/<version>/`: tables of trials, stimuli, participants, fits and noise ceilings (parquet and TSV), the manifest with the SHA-256
  of every file, Croissant metadata, and what is new (`diff.json`). A version never changes a file of an earlier one.
- `space.npz`, `parcels.npz`: the grid, and the parcel of each unit.

`conform-store verify` checks all of it; `conform_bids.store.reading.Store` reads it.
"""


@dataclass(frozen=True)
class Release:
    """A version that was written.

    Attributes
    ----------
    path : Path
        The store.
    version : str
    diff : dict
        What is new against the version before.
    duplicates : dict of str to int
        Pairs of stimuli that each criterion found.
    notes : tuple of str
        What a reader should know.
    """

    path: Path
    version: str
    diff: dict[str, Any]
    duplicates: dict[str, int]
    notes: tuple[str, ...]


def write_release(
    datasets: Sequence[DatasetInput],
    store: str | Path,
    settings: StoreSettings | None = None,
    *,
    split: Path | None = None,
    features: Path | None = None,
    parcellation: Sequence[Path] = (),
    overwrite: bool = False,
) -> Release:
    """Write the first version of a store.

    Parameters
    ----------
    datasets : sequence of DatasetInput
        As `conform_bids.store.inputs.find_inputs` finds them.
    store : path
        Its folder, as ``OUT/store``.
    split : Path, optional
        TSV with stim_id, split and, where names clash, dataset: what is test there is test, beside what the datasets say.
    features : Path, optional
        Feature table (`conform_bids.store.catalogue.read_features`); needed where ``settings.sameness.threshold`` is given.
    parcellation : sequence of Path
        Of the noise ceilings and of reading by parcel; by default the structures of a CIFTI file, hemispheres, or the whole.
    overwrite : bool
        Replace the store that is there.

    Raises
    ------
    UsageError
        When there is a store already, names clash, or the betas are in several spaces.
    UnusableInputError, MissingInputError
        Naming the file, when an input cannot be used.
    """
    root = Path(store)
    settings = settings or StoreSettings()
    _check_free(root, overwrite)
    with lock_file(root):
        _check_free(root, overwrite)  # another process may have been faster
        return _add(root, datasets, settings, None, split, features, parcellation)


def _check_free(root: Path, overwrite: bool) -> None:
    """Refuse a folder that holds a store, or something else."""
    if root.is_dir() and any(root.iterdir()):
        if versions(root) and not overwrite:
            raise UsageError(f"{root}: there is a store already; add to it by conform-store append, or replace it by --overwrite")
        if not versions(root) and not {path.name for path in root.iterdir()} <= _OURS:
            raise UsageError(f"{root}: holds something else than a store")


_UNKNOWN_TO_BIDS = ("betas", "versions", "features", "space.npz", "parcels.npz")
_OURS = {*_UNKNOWN_TO_BIDS, ".bidsignore", "README.md", "dataset_description.json", LOCK_NAME}


def append_release(
    store: str | Path, datasets: Sequence[DatasetInput], *, split: Path | None = None, features: Path | None = None
) -> Release:
    """Add datasets to a store, as a new version; others' betas are not read, and no file that is there changes.

    A stimulus of the store that a new dataset calls test becomes test in the new version. Fits whose mean and scale it counted in are
    listed in the diff, and in ``fits``, as these are not computed anew.

    Parameters
    ----------
    split, features
        As `write_release`; a store that compares features needs those of the new stimuli.

    Raises
    ------
    UsageError, UnusableInputError, MissingInputError
        As `write_release`; and when the grid is not that of the store, or a dataset is in it already.
    """
    root = Path(store)
    latest_version(root)  # before a lock is put where no store is
    with lock_file(root):
        previous = latest_version(root)  # others may have added to it while this process waited
        settings = StoreSettings.from_mapping(read_manifest(root, previous)["settings"])
        return _add(root, datasets, settings, previous, split, features, ())


def _add(
    root: Path,
    datasets: Sequence[DatasetInput],
    settings: StoreSettings,
    previous: str | None,
    split: Path | None,
    features: Path | None,
    parcellation: Sequence[Path],
) -> Release:
    version = next_version(previous)
    former = {} if previous is None else {name: read_table(name, version_folder(root, previous)) for name in TABLES}
    _check_names(root, datasets, former)
    labels = one_space(datasets)
    space = common_space(datasets, labels, None if previous is None else load_space(root / "space.npz"))
    table = None if features is None else read_features(features)
    draft = assemble(
        datasets,
        settings,
        version,
        marks={} if split is None else read_marks(split),
        former=former,
        features=lambda stimuli: _features(root, settings, stimuli, table, version),
    )
    _check_leaky_fits(draft, settings)
    _remove_unlisted(root, previous)
    if previous is None:
        replace(space, source="").save(root / "space.npz")
        write_text(_README.format(name=settings.name), root / "README.md")
        write_text("".join(f"{name}\n" for name in _UNKNOWN_TO_BIDS), root / ".bidsignore")
        write_json(_description(settings), root / "dataset_description.json")
        save_parcels(parcellation, space, root / "parcels.npz")
    if draft.features is not None:
        _save_features(root, draft, version)
    people, fits, ceilings, hashed = [], [], [], {}
    facts = {"space": labels["space"], "grid_hash": space.grid_hash, "source": settings.source}
    for dataset in datasets:
        for person in dataset.participants:
            rows = draft.trials[draft.trials["participant_id"] == f"sub-{person.label}"].reset_index(drop=True)
            name = f"betas/sub-{person.label}_betas.h5"
            about = {**facts, "participant": f"sub-{person.label}", "dataset": dataset.name, "desc": person.fits[0].desc}
            written = write_participant(root / name, person, space, rows, about)
            hashed[name] = file_record(root / name)
            people.append(participant_row(dataset.name, person, rows, name, version))
            fits += fit_rows(person, rows, written, draft)
            ceilings += ceiling_rows(dataset.name, person, rows, written, root / "parcels.npz", version)
    tables = {
        "trials": pd.concat([draft.former_trials, draft.trials], ignore_index=True),
        "stimuli": draft.stimuli,
        "participants": table_of("participants", former, people, draft),
        "fits": table_of("fits", former, fits, draft),
        "noiseceilings": table_of("noiseceilings", former, ceilings, draft),
    }
    diff = _diff(previous, version, datasets, draft, tables, former)
    _write_version(root, version, previous, tables, diff, hashed, settings, datasets, {**labels, **facts, "n_units": space.n_units})
    left_out = tuple(note for dataset in datasets for note in dataset.left_out)
    return Release(root, version, diff, draft.duplicates, (*left_out, *_notes(draft, tables)))


def _remove_unlisted(root: Path, previous: str | None) -> None:
    """Remove what no manifest knows: of an attempt that was interrupted, or all of a store that is replaced."""
    if previous is None:
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name in _OURS and path.name != LOCK_NAME:
                path.unlink()
        return
    listed = read_manifest(root, previous)["files"]
    for path in (*root.glob("betas/*"), *root.glob("features/*")):
        if path.relative_to(root).as_posix() not in listed:
            path.unlink()


def _check_names(root: Path, datasets: Sequence[DatasetInput], former: dict[str, pd.DataFrame]) -> None:
    names = [dataset.name for dataset in datasets]
    labels = [f"sub-{person.label}" for dataset in datasets for person in dataset.participants]
    for name in names:
        if not clean_name(name):
            raise UsageError(f"{name!r}: the name of a dataset is made of letters and digits")
    there = set(former["participants"]["dataset"]) if former else set()
    known = set(former["participants"]["participant_id"]) if former else set()
    twice = [name for name in names if names.count(name) > 1 or name in there]
    clash = [label for label in labels if labels.count(label) > 1 or label in known]
    if twice:
        raise UsageError(f"{root}: two datasets called {twice[0]}; give one another name by NAME=PATH")
    if clash:
        raise UsageError(f"{root}: two participants called {clash[0]}; give a dataset another name by NAME=PATH")
    if not labels:
        raise MissingInputError("no participant to put into the store")


def _features(root: Path, settings: StoreSettings, stimuli: pd.DataFrame, table: pd.DataFrame | None, version: str) -> Float32Array | None:
    """Features of all stimuli: those kept by earlier versions, and those of the new ones from the table."""
    if settings.sameness.threshold is None:
        if table is not None:
            raise UsageError("features are given, and no cosine above which stimuli count as near-duplicates")
        return None
    parts = (
        [read_features(path) for path in sorted(root.glob("features/*.npz")) if path.stem != version]
        if (stimuli["version"] != version).any()
        else []
    )
    if table is None:
        raise UsageError("near-duplicates are found by a cosine of features here, so the features of the stimuli are needed")
    values = match_features(stimuli, table)
    for part in parts:
        if part.shape[1] - 2 != values.shape[1]:
            raise UsageError(f"the store's features have {part.shape[1] - 2} columns, the new ones {values.shape[1]}")
        kept = match_features(stimuli, part)
        values = np.where(np.isfinite(kept), kept, values)
    missing = int(np.isnan(values).all(axis=1).sum())
    if missing:
        raise MissingInputError(f"no features of {missing} of {len(stimuli)} stimuli")
    return values


def _save_features(root: Path, draft: Draft, version: str) -> None:
    assert draft.features is not None
    new = (draft.stimuli["version"] == version).to_numpy()
    names = {key: draft.stimuli[key][new].to_numpy(dtype=str) for key in ("dataset", "stim_id")}
    with atomic_path(root / "features" / f"{version}.npz") as temporary, open(temporary, "wb") as stream:
        np.savez(stream, allow_pickle=False, features=draft.features[new], **names)


def _check_leaky_fits(draft: Draft, settings: StoreSettings) -> None:
    leaky = {label: count for label, count in draft.leaky_fits.items() if count}
    if leaky and settings.refuses_leaky_fits:
        (participant, _), count = next(iter(leaky.items()))
        raise UnusableInputError(
            f"{participant}: its betas were fitted with {counted(count, 'stimulus', 'stimuli')} held out here "
            f"({counted(len(leaky), 'fit')} like this). Write "
            "split.tsv first (--split-only), and give it to the fits by --split"
        )


def _description(settings: StoreSettings) -> dict[str, Any]:
    content = {
        "Name": settings.name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": settings.license,
        "GeneratedBy": [{"Name": "conform-store", "Version": __version__, "CodeURL": CODE_URL}],
    }
    return {key: value for key, value in content.items() if value}


def _diff(
    previous: str | None,
    version: str,
    datasets: Sequence[DatasetInput],
    draft: Draft,
    tables: dict[str, pd.DataFrame],
    former: dict[str, pd.DataFrame],
) -> dict[str, Any]:
    moved: list[dict[str, str]] = []
    renamed = 0
    if former:
        before = former["stimuli"].set_index(["dataset", "stim_id"])
        after = tables["stimuli"].set_index(["dataset", "stim_id"]).loc[before.index]
        changed = (before["split"] != after["split"]).to_numpy()
        renamed = int((before["content_id"] != after["content_id"]).sum())
        for (dataset, stim_id), old, new in zip(before.index[changed], before["split"][changed], after["split"][changed], strict=True):
            moved.append({"dataset": str(dataset), "stim_id": str(stim_id), "from": str(old), "to": str(new)})
    marked = tables["fits"][tables["fits"]["n_test_in_statistics"] > 0]
    return {
        "from": previous,
        "to": version,
        "datasets_added": [dataset.name for dataset in datasets],
        "participants_added": [f"sub-{person.label}" for dataset in datasets for person in dataset.participants],
        "n_trials_added": len(draft.trials),
        "n_stimuli_added": int((tables["stimuli"]["version"] == version).sum()),
        "stimuli_moved": moved,
        "n_content_ids_changed": renamed,
        "fits_with_test_in_statistics": [
            f"{person} group {group}" for person, group in zip(marked["participant_id"], marked["group"], strict=True)
        ],
    }


def _write_version(
    root: Path,
    version: str,
    previous: str | None,
    tables: dict[str, pd.DataFrame],
    diff: dict[str, Any],
    hashed: dict[str, dict[str, Any]],
    settings: StoreSettings,
    datasets: Sequence[DatasetInput],
    facts: dict[str, Any],
) -> None:
    folder = version_folder(root, version)
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that did not reach its manifest
    earlier = [] if previous is None else read_manifest(root, previous)["datasets"]
    files = dict(hashed) if previous is None else {**read_manifest(root, previous)["files"], **hashed}
    for name, frame in tables.items():
        write_table(name, frame, folder)
        path = f"versions/{version}/{name}.parquet"
        files[path] = hashed[path] = file_record(root / path)
    write_json(diff, folder / "diff.json")
    write_json(croissant_metadata(settings.name, version, settings.license, files, tables), folder / "croissant.json")
    listed = [{"name": dataset.name, "license": dataset.license, "version": version} for dataset in datasets]
    content = {"software": f"conform {__version__}", "settings": settings.to_mapping(), "grid": facts, "datasets": [*earlier, *listed]}
    write_manifest(root, version, previous, content, hashed)


def _notes(draft: Draft, tables: dict[str, pd.DataFrame]) -> tuple[str, ...]:
    notes = [
        f"{counted(count, 'pair')} of the same stimuli by {name}" for name, count in draft.duplicates.items() if count and name != "name"
    ]
    counts = tables["stimuli"].drop_duplicates("content_id")["split"].value_counts()
    if "test" not in counts:
        notes.append("no stimulus is held out: no dataset names test stimuli, and none were drawn")
    leaky = sum(count > 0 for count in draft.leaky_fits.values())
    if leaky:
        notes.append(f"{counted(leaky, 'fit')} could use stimuli that are held out here (column n_test_in_fit of fits)")
    stale = int((tables["fits"]["n_test_in_statistics"] > 0).sum())
    if stale:
        notes.append(f"{stale} groups of earlier versions were z-scored with trials that are test now (column n_test_in_statistics)")
    return tuple(notes)
