"""Prove that a store is what its manifest says, and that its split does not leak; every fault is a line."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.bids.array_checks import check_array
from conform_bids.errors import ConformError
from conform_bids.stimuli.splitting import HELD_OUT, find_leaks
from conform_bids.store.catalogue import Float32Array, catalogue_components, match_features, read_features
from conform_bids.store.manifest import MANIFEST, check_files, file_sha256, latest_version, read_manifest, version_folder
from conform_bids.store.settings import StoreSettings
from conform_bids.store.tables import TABLES, read_table

__all__ = ["Verification", "kept_features", "stimulus_leaks", "verify_store"]

SAMPLED_UNITS = 32
TOLERANCE = 0.01
"""Of mean and standard deviation of the trials that betas were z-scored by; half precision is off by less than 0.001."""
SHOWN = 5


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes
    ----------
    version : str
    manifest_sha256 : str
        To be compared with the one that was published.
    tampered, leaks, faults : tuple of str
        Files that are not the manifest's; stimuli, trials or statistics on the wrong side; tables and betas that contradict each other.
    marked : tuple of str
        What a user should know, and is told in the tables; no fault.
    """

    version: str
    manifest_sha256: str
    tampered: tuple[str, ...]
    leaks: tuple[str, ...]
    faults: tuple[str, ...]
    marked: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.tampered or self.leaks or self.faults)


def verify_store(store: str | Path, version: str | None = None, *, manifest_sha256: str | None = None) -> Verification:
    """Check a version of a store.

    Every file against the manifest; the stimuli of each component, found anew from hashes and features, on one side of the split; each
    trial on the side of its stimulus; no held-out trial among those that betas are z-scored by, shown on a sample of units to be those
    that the table names; and the betas on the grid of the store.

    Parameters
    ----------
    version : str, optional
        By default the latest.
    manifest_sha256 : str, optional
        What the manifest's own SHA-256 has to be.

    Raises
    ------
    MissingInputError, UnusableInputError
        When there is no store, or its manifest cannot be read.
    """
    root = Path(store)
    version = version or latest_version(root)
    manifest = read_manifest(root, version)
    digest = file_sha256(version_folder(root, version) / MANIFEST)
    tampered = check_files(root, manifest)
    if version != latest_version(root):  # what later versions added is no fault of this one
        tampered = [fault for fault in tampered if not fault.endswith("not in the manifest")]
    if manifest_sha256 is not None and manifest_sha256.lower() != digest:
        tampered.insert(0, f"versions/{version}/{MANIFEST}: its SHA-256 is {digest}, not the one given")
    leaks: list[str] = []
    faults: list[str] = []
    marked: list[str] = []
    try:
        tables = {name: read_table(name, version_folder(root, version)) for name in TABLES}
        leaks += stimulus_leaks(root, manifest, tables["stimuli"])
        leaks += _trial_leaks(tables)
        faults += _disagreements(tables)
        for row in tables["participants"].to_dict("records"):
            wrong, astray = _betas(root, manifest, row, tables)
            faults += wrong
            leaks += astray
        marked += _marked(tables["fits"])
    except (ConformError, KeyError, ValueError, OSError) as error:
        faults.append(f"{error}")
    return Verification(version, digest, tuple(tampered), tuple(leaks), tuple(faults), tuple(marked))


def kept_features(root: Path, manifest: dict[str, Any], stimuli: pd.DataFrame) -> Float32Array | None:
    """Features that a store keeps of its stimuli; None where it does not compare any."""
    if StoreSettings.from_mapping(manifest["settings"]).sameness.threshold is None:
        return None
    names = [name for name in manifest["files"] if name.startswith("features/")]
    return match_features(stimuli, pd.concat([read_features(root / name) for name in names], ignore_index=True))


def stimulus_leaks(root: Path, manifest: dict[str, Any], stimuli: pd.DataFrame) -> list[str]:
    """Stimuli that stand on the wrong side of the split, a line each: components are found anew from hashes and features.

    Parameters
    ----------
    root : Path
        The store.
    manifest : dict
        Of the version.
    stimuli : DataFrame
        Its table of stimuli.
    """
    settings = StoreSettings.from_mapping(manifest["settings"])
    labels, _ = catalogue_components(stimuli, settings.sameness, kept_features(root, manifest, stimuli))
    split = stimuli["split"].tolist()

    def told(place: int) -> str:
        return f"{stimuli['dataset'].iloc[place]}:{stimuli['stim_id'].iloc[place]} ({split[place]})"

    leaks = [f"{told(leak.train)} and {told(leak.held_out)} are the same stimulus" for leak in find_leaks(labels, split)]
    lost = (stimuli["mark"] == "test") & ~stimuli["split"].isin(["test"])
    return leaks + [f"{told(place)} is test in its dataset" for place in np.flatnonzero(lost).tolist()]


def _trial_leaks(tables: dict[str, pd.DataFrame]) -> list[str]:
    trials, fits = tables["trials"], tables["fits"]
    place = tables["stimuli"].set_index(["dataset", "stim_id"])[["split", "content_id"]]
    keys = pd.MultiIndex.from_arrays([trials["dataset"], trials["stim_id"]])
    found = place.reindex(keys)
    wrong = trials[
        (found["split"].to_numpy() != trials["split"].to_numpy()) | (found["content_id"].to_numpy() != trials["content_id"].to_numpy())
    ]
    leaks = [
        f"{row.participant_id} trial {row.row}: {row.split}, but its stimulus {row.stim_id} is not"
        for row in wrong.head(SHOWN).itertuples()
    ]
    stale = trials[trials["in_statistics"] & trials["split"].isin(HELD_OUT)].groupby(["participant_id", "group"]).size()
    marks = fits.set_index(["participant_id", "group"])["n_test_in_statistics"].reindex(stale.index, fill_value=0)
    for (person, group), count, mark in zip(stale.index, stale, marks, strict=True):
        if count != mark:
            leaks.append(f"{person} group {group}: {count} held-out trials are among those that it was z-scored by, and {mark} are told")
    return leaks


def _disagreements(tables: dict[str, pd.DataFrame]) -> list[str]:
    trials, people = tables["trials"], tables["participants"]
    faults = []
    unknown = set(trials["participant_id"]) ^ set(people["participant_id"])
    if unknown:
        faults.append(f"trials and participants are not of the same people: {', '.join(sorted(unknown)[:SHOWN])}")
    for side in ("train", "test", "artificial"):
        counts = trials[trials["split"] == side].groupby("participant_id").size().reindex(people["participant_id"], fill_value=0)
        if (counts.to_numpy() != people[f"n_{side}"].to_numpy()).any():
            faults.append(f"participants: the numbers of {side} trials are not those of the trials")
    return faults


def _betas(root: Path, manifest: dict[str, Any], person: dict[Any, Any], tables: dict[str, pd.DataFrame]) -> tuple[list[str], list[str]]:
    """Faults of a participant's file, and groups that are not z-scored by the trials that the table names."""
    import h5py

    label, name = str(person["participant_id"]), str(person["file"])
    if name not in manifest["files"]:
        return [f"{label}: {name} is not in the manifest"], []
    rows = tables["trials"][tables["trials"]["participant_id"] == label].sort_values("row")
    fits = tables["fits"][tables["fits"]["participant_id"] == label].set_index("group")
    with h5py.File(root / name, "r") as file:
        betas, group = check_array(file, "betas", largest=sys.maxsize), np.asarray(check_array(file, "group")[()])
        if betas.shape != (len(rows), manifest["grid"]["n_units"]) or rows["row"].tolist() != list(range(len(rows))):
            return [f"{name}: betas of shape {betas.shape}, but there are {len(rows)} trials of {manifest['grid']['n_units']} units"], []
        faults = []
        if str(file.attrs["grid_hash"]) != manifest["grid"]["grid_hash"]:
            faults.append(f"{name}: of another grid than the store")
        if group.tolist() != rows["group"].tolist():
            faults.append(f"{name}: its groups are not those of the trials")
        units = np.unique(np.linspace(0, betas.shape[1] - 1, SAMPLED_UNITS).astype(int))
        values = np.stack([betas[:, int(unit)] for unit in units], axis=1).astype(np.float64)
    used = rows["in_statistics"].to_numpy(dtype=bool)
    own = (fits["statistics"] == "own").reindex(range(int(group.max()) + 1), fill_value=False).to_numpy()
    leaks = [
        f"{label} group {place}: not z-scored by the trials that the table names"
        for place in np.flatnonzero(own)
        if not _is_z(values[(group == place) & used])
    ]
    if not own.all() and own.size and not own.any() and not _is_pooled(root / name, fits):
        faults.append(f"{label}: its groups do not share the statistics of all its train trials")
    return faults, leaks


def _is_z(values: Any) -> bool:
    """Whether units have mean 0 and standard deviation 1; those without a value count for nothing."""
    complete = values[:, np.isfinite(values).all(axis=0)]
    if len(values) < 2 or not complete.size:
        return True
    return bool((np.abs(complete.mean(axis=0)) < TOLERANCE).all() and (np.abs(complete.std(axis=0, ddof=1) - 1) < TOLERANCE).all())


def _is_pooled(path: Path, fits: pd.DataFrame) -> bool:
    """Whether groups without statistics of their own have the same."""
    import h5py

    with h5py.File(path, "r") as file:
        mean = np.asarray(check_array(file, "mean")[()])[np.asarray(fits.index)]
    return bool(np.array_equal(mean, np.broadcast_to(mean[:1], mean.shape), equal_nan=True))


def _marked(fits: pd.DataFrame) -> list[str]:
    told = []
    for column, text in (
        ("n_test_in_statistics", "z-scored with trials whose stimulus a later dataset called test"),
        ("n_test_in_fit", "of betas whose own fit could use stimuli that are held out here"),
    ):
        rows = fits[fits[column] > 0]
        if len(rows):
            told.append(f"{len(rows)} of {len(fits)} groups are {text} (column {column} of fits)")
    return told
