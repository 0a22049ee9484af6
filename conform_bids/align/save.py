"""From arrays to BIDS derivatives: what a participant's job writes, and the sidecars that say so."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids import __version__
from conform_bids.align.files import Plan, output_maps, output_tables, recorded_settings
from conform_bids.align.load import LoadedResponses, count_set_aside
from conform_bids.bids.conditions import CONDITIONS_DESCRIPTION
from conform_bids.bids.derivatives import atomic_path, write_json, write_tsv
from conform_bids.bids.images import write_maps
from conform_bids.bids.names import parse_name, sidecar_of
from conform_bids.bids.sidecars import sidecar
from conform_bids.bids.spaces import Space
from conform_bids.bids.trials import STIMULI_DESCRIPTION, merge_stimuli

__all__ = ["TRANSFORM", "save_map", "save_outputs", "save_sidecar", "software"]

TRANSFORM = {
    "Description": (
        "Maps from a person's units to a template's, parcel by parcel: conform_bids.align.apply brings other responses of the same person "
        "there. Not an ITK transform."
    ),
    "FileFormat": "HDF5, layout transform, version 1",
}


def software() -> str:
    """Program and version, for sidecars."""
    return f"conform-align {__version__}"


def save_sidecar(path: str, output_dir: Path, fields: Mapping[str, Any], sources: Sequence[str] = ()) -> Path:
    """Write the sidecar of a file whose name is relative to the output folder."""
    name = parse_name(path)
    target = output_dir / sidecar_of(path)
    write_json(sidecar(name.entities, name.suffix, name.extension, sources=sources, fields=fields), target)
    return target


def save_map(
    values: npt.NDArray[Any],
    space: Space,
    paths: Sequence[str],
    output_dir: Path,
    fields: Mapping[str, Any],
    *,
    sources: Sequence[str] = (),
    names: Sequence[str] | None = None,
    n_threads: int = 1,
) -> list[Path]:
    """Write a map or several, with the sidecar of each file."""
    targets = [output_dir / path for path in paths]
    write_maps(values, space, targets, names or [str(fields["Description"])[:60]], np.float32, n_threads=n_threads)
    sidecars = [save_sidecar(path, output_dir, {**fields, "Masked": True}, sources) for path in paths]
    return [*targets, *sidecars]


def map_names(conditions: pd.DataFrame) -> list[str]:
    """A name a map, of its condition."""
    return [f"condition-{k:05d} {name}" for k, name in zip(conditions["condition"], conditions["stim_id"], strict=True)]


def save_outputs(plan: Plan, loaded: LoadedResponses, results: Mapping[str, Path], fit: Mapping[str, Any], n_threads: int) -> list[Path]:
    """Write every file that the plan declares.

    Parameters
    ----------
    plan, loaded
        What was read.
    results : mapping
        Files that the fit to a template left in its work folder, by name; empty without one.
    fit : mapping
        Sidecar fields of that fit.
    n_threads : int
        Threads that compress.

    Returns
    -------
    list of Path
        The files, sidecars included.
    """
    tables = {table.key: table.path for table in output_tables(plan)}
    lost = {"NumberOfUnits": loaded.space.n_units, "NumberOfUnitsSetAside": count_set_aside(loaded.arrays["responses"])}
    fields = {"SoftwareVersion": software(), "RandomSeed": plan.random_seed, "InputDesc": plan.desc, "SourceParticipant": plan.source.field}
    written: list[Path] = []
    for row in output_maps(plan):
        values: npt.NDArray[Any] = np.load(results[f"{row.array}.npy"], mmap_mode="r") if plan.template else loaded.arrays[row.array]
        own = {**row.fields, **fields, **fit}
        names = None
        if row.table:
            own |= {
                "TrialTable": f"bids::{tables[row.table]}",
                "Settings": recorded_settings(plan.settings),
                "Notes": list(plan.notes) or None,
                **lost,
            }
            names = map_names(_table(plan, loaded, row.table))
        if row.array == "responses":
            own |= {"GridHash": loaded.space.grid_hash, "HasHeldOut": plan.has_held_out, "HasTuning": bool(loaded.features) or None}
        if row.array == "tuning" and plan.weights is not None:
            own |= {"Features": list(loaded.features), "FitIncludesTest": plan.weights.includes_test}
            names = list(loaded.features)
        written += save_map(values, loaded.space, row.paths, plan.output_dir, own, sources=plan.sources, names=names, n_threads=n_threads)
    for key, name in tables.items():
        written += _save_table(plan, loaded, key, name, results, {**fields, **fit})
    return written


def _table(plan: Plan, loaded: LoadedResponses, key: str) -> pd.DataFrame:
    if plan.template is None:
        return loaded.tables[key]
    desc = key.removeprefix(plan.method)
    return loaded.tables[f"apply_{desc}" if desc else "prepared"]


def _save_table(
    plan: Plan, loaded: LoadedResponses, key: str, name: str, results: Mapping[str, Path], fields: Mapping[str, Any]
) -> list[Path]:
    path = plan.output_dir / name
    if key == "stimuli":
        merge_stimuli(loaded.stimuli, path, plan.output_dir)
        return [path, save_sidecar(name, plan.output_dir, STIMULI_DESCRIPTION)]
    if key == "transform":
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            shutil.copyfile(results["transform.h5"], temporary)
        return [path, save_sidecar(name, plan.output_dir, {**TRANSFORM, **fields}, plan.sources)]
    write_tsv(_table(plan, loaded, key), path)
    return [path, save_sidecar(name, plan.output_dir, {**CONDITIONS_DESCRIPTION, **fields}, plan.sources)]
