"""From files to what the engine takes: betas as one units-major array on disk, their trials, and the parcel of each unit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.coordinates import unit_coordinates
from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.images import read_maps, read_space
from conform_bids.bids.parcellations import read_parcellation
from conform_bids.bids.scratch import map_array
from conform_bids.bids.spaces import Space, VolumeSpace, intersect_spaces
from conform_bids.bids.tables import read_tsv
from conform_bids.bids.trials import read_trials, write_stimuli, write_trials
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.clusters import spatial_clusters
from conform_bids.psn.files import Plan, PlannedBetas
from conform_bids.psn.pooling import PooledTrials, pool_trials

__all__ = ["LARGEST_SCALE", "SMALLEST_SCALE", "LoadedBetas", "load_betas", "read_loaded", "rescale_amplitudes"]

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]
SMALLEST_SCALE, LARGEST_SCALE = 1.0, 50.0
"""Slopes of unshrunken on shrunken betas beyond these are chance."""
BLOCK = 4096


@dataclass(frozen=True, eq=False)
class LoadedBetas:
    """Betas as they lie in a work folder.

    Attributes
    ----------
    betas : (n_units, n_trials) float32 array
        A memory map.
    trials, conditions : DataFrame
        Trials in their order; conditions by stim_id, with n_trials and split.
    stimuli : DataFrame
        stim_id, stim_file, sha256.
    parcel : (n_units,) int array
        -1 outside of every parcel.
    absent : (n_units,) bool array
        Units whose values are all missing, or all the same.
    groups : (n_units,) int array or None
        Of units, for thresholds.
    names : tuple of str
        Of the parcels.
    session : (n_trials,) int array
        Counted from 0.
    train : (n_trials,) bool array
        Fitted on.
    notes : tuple of str
        Of the parcels.
    """

    betas: Float32Array
    trials: pd.DataFrame
    conditions: pd.DataFrame
    stimuli: pd.DataFrame
    parcel: IntArray
    absent: npt.NDArray[np.bool_]
    groups: IntArray | None
    names: tuple[str, ...]
    session: IntArray
    train: npt.NDArray[np.bool_]
    notes: tuple[str, ...]


def load_betas(plan: Plan, folder: Path) -> list[Path]:
    """Read every file of betas once and write them to ``folder`` in the form that the engine takes.

    Returns
    -------
    list of Path
        The files written: space, tables, parcels, and the array of betas.

    Raises
    ------
    UnusableInputError, MissingInputError
        Naming the file, when an input cannot be used.
    """
    pooled = pool_trials(plan.betas, plan.settings, plan.sessions, plan.runs)
    space = _common_space(plan)
    paths = {name: folder / name for name in ("space.npz", "trials.tsv", "conditions.tsv", "stimuli.tsv", "parcels.npz", "betas.npy")}
    space.save(paths["space.npz"])
    write_trials(pooled.trials, paths["trials.tsv"])
    write_tsv(pooled.conditions, paths["conditions.tsv"])
    write_stimuli(_stimuli(plan, pooled), paths["stimuli.tsv"])
    _write_betas(plan, pooled, space, paths["betas.npy"])
    absent = ~_with_data(paths["betas.npy"])
    parcel, names, notes = _parcels(plan, space, absent)
    extra: dict[str, Any] = {"groups": read_parcellation(plan.groups, space).labels} if plan.groups else {}
    facts = np.array(json.dumps({"names": names, "notes": notes}))
    arrays = {"parcel": parcel, "absent": absent, "session": pooled.session, "train": pooled.train, **extra}
    np.savez(paths["parcels.npz"], facts=facts, **arrays)
    return list(paths.values())


def read_loaded(files: Sequence[Path]) -> LoadedBetas:
    """Open what `load_betas` wrote."""
    by_name = {path.name: path for path in map(Path, files)}
    conditions = read_tsv(by_name["conditions.tsv"], quoted=False).fillna("n/a")
    conditions = conditions.astype({"condition": "int64", "n_trials": "int64"}).reset_index(drop=True)
    with np.load(by_name["parcels.npz"], allow_pickle=False) as archive:
        facts: dict[str, Any] = json.loads(str(archive["facts"]))
        return LoadedBetas(
            betas=np.load(by_name["betas.npy"], mmap_mode="r"),
            trials=read_trials(by_name["trials.tsv"]),
            conditions=conditions,
            stimuli=read_tsv(by_name["stimuli.tsv"], quoted=False).fillna("n/a"),
            parcel=archive["parcel"],
            absent=archive["absent"],
            groups=archive["groups"] if "groups" in archive.files else None,
            names=tuple(facts["names"]),
            session=archive["session"],
            train=archive["train"],
            notes=tuple(facts["notes"]),
        )


def _common_space(plan: Plan) -> Space:
    """Space of the units: voxels that at least half of the sessions have; grayordinates and vertices are the same in all.

    Raises
    ------
    UnusableInputError
        When grids differ, or no voxel is left.
    """
    spaces = [_space_of(plan, betas) for betas in plan.betas]
    masks = [space.mask for space in spaces if isinstance(space, VolumeSpace)]
    if not masks:
        return intersect_spaces(spaces)
    grid = intersect_spaces([replace(space, mask=np.ones_like(space.mask)) for space in spaces if isinstance(space, VolumeSpace)])
    kept = 2 * np.sum(masks, axis=0) >= len(masks)
    assert isinstance(grid, VolumeSpace)
    if not kept.any():
        raise UnusableInputError(f"{plan.betas[0].files[0]}: no voxel is in the masks of half of the sessions")
    return replace(grid, mask=kept)


def _space_of(plan: Plan, betas: PlannedBetas) -> Space:
    """Space of one file of betas; without a mask, voxels that have a value other than zero in some trial."""
    entities = plan.entities
    space = read_space(betas.files, betas.mask, entities.get("space", "boldref"), entities.get("den"), entities.get("res"))
    if not isinstance(space, VolumeSpace) or betas.mask is not None:
        return space
    values = read_maps(betas.files, space)
    used = np.zeros(space.n_units, bool)
    for row in values:
        used |= np.isfinite(row) & (row != 0)
    if not used.any():
        raise UnusableInputError(f"{betas.files[0]}: no voxel has a value")
    return replace(space, mask=space.to_volume(used))


def _write_betas(plan: Plan, pooled: PooledTrials, space: Space, path: Path) -> None:
    """Turn the maps of each file into rows of units; one file's maps are in memory at a time."""
    shape = (space.n_units, len(pooled.trials))
    target = map_array(path, shape)
    any_finite = False
    for index, betas in enumerate(plan.betas):
        values = read_maps(betas.files, space)
        n_rows = len(read_trials(betas.trials))
        if len(values) != n_rows:
            raise UnusableInputError(f"{betas.files[0]}: {len(values)} maps, but {betas.trials} has {n_rows} trials")
        columns = np.flatnonzero(pooled.source == index)
        chosen = values[pooled.row[columns]]
        del values
        any_finite |= bool(np.isfinite(chosen).any())
        if betas.scale:
            rescale_amplitudes(chosen, read_maps(betas.scale, space)[0], pooled.train[columns])
        for start in range(0, space.n_units, BLOCK):
            target[start : start + BLOCK, columns] = chosen[:, start : start + BLOCK].T
    target.flush()
    if not any_finite:
        raise UnusableInputError(f"{plan.betas[0].files[0]}: no unit has a finite value in any trial")


def rescale_amplitudes(values: Float32Array, scale: npt.NDArray[np.floating], train: npt.NDArray[np.bool_]) -> None:
    """Undo the shrinkage of amplitudes, in place: each unit's deviations from its mean over train trials, times its scale.

    Parameters
    ----------
    values : (n_trials, n_units) float32 array
        Betas of one fit.
    scale : (n_units,) array
        Slope of unshrunken on these betas, taken within `SMALLEST_SCALE` and `LARGEST_SCALE`; 1 where it is not finite.
    train : (n_trials,) bool array
        Trials that the mean is of; all of them where none is.
    """
    with np.errstate(invalid="ignore"):
        factor = np.where(np.isfinite(scale), np.clip(scale, SMALLEST_SCALE, LARGEST_SCALE), 1.0)
    rows = values[train] if train.any() else values
    finite = np.isfinite(rows)
    mean = np.where(finite, rows, 0).sum(axis=0, dtype=np.float64) / np.maximum(finite.sum(axis=0), 1)
    values -= mean.astype(np.float32)
    values *= factor.astype(np.float32)
    values += mean.astype(np.float32)


def _with_data(path: Path) -> npt.NDArray[np.bool_]:
    """Units with two different values."""
    betas: Float32Array = np.load(path, mmap_mode="r")
    found = np.zeros(len(betas), dtype=bool)
    for start in range(0, len(betas), BLOCK):
        block = np.asarray(betas[start : start + BLOCK])
        finite = np.isfinite(block)
        low = np.where(finite, block, np.inf).min(axis=1)
        found[start : start + BLOCK] = np.where(finite, block, -np.inf).max(axis=1) > low
    return found


def _parcels(plan: Plan, space: Space, absent: npt.NDArray[np.bool_]) -> tuple[IntArray, tuple[str, ...], tuple[str, ...]]:
    """Parcel of each unit, their names, and what a reader should know of them."""
    settings = plan.settings
    if plan.parcellation:
        found = read_parcellation(plan.parcellation, space)
        outside = int((found.labels < 0).sum())
        kept = "they keep their trial averages and maps of quality, and have no denoised response"
        note = f"{outside} of {space.n_units} units are outside of every parcel: {kept}"
        return found.labels, found.names, (note,) if outside else ()
    used = ~absent
    if settings.parcellation == "whole" or not used.any() or (settings.parcellation == "auto" and used.sum() <= 2 * settings.parcel_size):
        return np.zeros(space.n_units, dtype=np.intp), ("whole",), ()
    coordinates, structure, lost = unit_coordinates(space)
    labels = np.full(space.n_units, -1, dtype=np.intp)
    labels[used] = spatial_clusters(coordinates[used], settings.parcel_size, structure[used])
    names = tuple(f"cluster {number + 1}" for number in range(int(labels.max()) + 1))
    if not lost:
        return labels, names, ()
    return labels, names, (
        f"no surface mesh of {' and '.join(lost)} was found for space {space.label}, so their parcels are runs of vertices in the order "
        "of the file; --parcellation takes an atlas",
    )  # fmt: skip


def _stimuli(plan: Plan, pooled: PooledTrials) -> pd.DataFrame:
    """The rows of the participant's table of stimuli for the conditions; n/a where it has none."""
    columns = ["stim_id", "stim_file", "sha256"]
    wanted = pd.DataFrame({"stim_id": pooled.conditions["stim_id"]})
    if plan.stimuli is None:
        return wanted.assign(stim_file="n/a", sha256="n/a")
    table = read_tsv(plan.stimuli, required=("stim_id",), quoted=False).fillna("n/a").drop_duplicates("stim_id")
    merged = wanted.merge(table.reindex(columns=columns), on="stim_id", how="left").fillna("n/a")
    return merged[columns]
