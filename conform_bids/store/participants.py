"""One participant's betas, from maps to an HDF5 file of the store, part by part.

Layout (version 1): attributes ``layout`` = ``store-betas``, ``version``, ``participant``, ``dataset``, ``space``, ``grid_hash``,
``source``, ``desc``. Datasets: ``/betas`` (trials, units), float16, chunks of (8, units), not compressed: z-scored; ``/group`` (trials,),
the row of ``/mean`` and ``/scale`` (groups, units), float32, by which ``betas * scale + mean`` gives back what was read; ``/ncsnr/<split>``
(units,), float32, where stimuli of that split repeat. Units that are constant or missing in a group's train trials are NaN in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.atomic import atomic_path
from conform_bids.bids.images import iter_maps
from conform_bids.bids.scratch import require_room, reserve_room
from conform_bids.bids.spaces import Space, VolumeSpace
from conform_bids.bids.volumes import read_mask
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.blocks import unit_blocks
from conform_bids.numerics.noise_ceiling import noise_ceiling_snr
from conform_bids.store.inputs import FitInput, ParticipantInput

__all__ = ["BETAS_VERSION", "CHUNK_TRIALS", "MIN_TRIALS", "WrittenParticipant", "write_participant"]

BETAS_VERSION = 1
CHUNK_TRIALS = 8
MIN_TRIALS = 10
"""Train trials that a group needs for statistics of its own; with fewer, it takes those of all of the participant's."""
_HEADERS = 1 << 16
"""Bytes of HDF5's own in a file, at most."""
_BLOCK_VALUES = 8_000_000
_LARGEST_HALF = float(np.finfo(np.float16).max)
_SMALLEST_SPREAD = 1e-6
"""Standard deviation over mean, below which a unit counts as constant."""


@dataclass(frozen=True, eq=False)
class WrittenParticipant:
    """What is known after a participant was written.

    Attributes
    ----------
    n_statistics : (groups,) int array
        Train trials of each group.
    own : (groups,) bool array
        Whether a group's statistics are its own.
    ncsnr : dict of str to (units,) float array
        By split, where stimuli repeat.
    """

    n_statistics: npt.NDArray[np.intp]
    own: npt.NDArray[np.bool_]
    ncsnr: dict[str, npt.NDArray[np.float64]]


def write_participant(
    path: Path, person: ParticipantInput, space: Space, trials: pd.DataFrame, attributes: Mapping[str, Any]
) -> WrittenParticipant:
    """Write the betas of a participant; maps are read twice, and never more than a part of a file is in memory.

    Parameters
    ----------
    path : Path
        The file; atomic.
    space : Space
        Units of the store.
    trials : DataFrame
        Rows in the order of the store: ``source`` (place in ``person.fits``), ``group`` (of the z-scoring, counted from 0),
        ``in_statistics`` (bool), ``content_id``, ``split``. The rows of a fit follow each other, as its maps do.
    attributes : mapping
        Of the file.

    Raises
    ------
    UnusableInputError
        Naming the file, when maps and trials do not fit, a grid differs, or no trial is for training.
    OSError
        ENOSPC, naming the file, when the disk has no room for it.
    """
    n_units, group = space.n_units, trials["group"].to_numpy(dtype=np.intp)
    mean, scale, n_statistics, own = _statistics(person, space, trials)
    n_bytes = n_units * (2 * (len(trials) + CHUNK_TRIALS) + 8 * len(mean) + 12) + 4 * len(trials) + _HEADERS
    with atomic_path(path) as temporary, _new_file(temporary, n_bytes) as file:
        for key, value in {"layout": "store-betas", "version": BETAS_VERSION, **attributes}.items():
            file.attrs[key] = value
        chunks = (min(CHUNK_TRIALS, len(trials)), n_units)
        betas = file.create_dataset("betas", (len(trials), n_units), "f2", chunks=chunks, fillvalue=np.nan, track_times=False)
        for start, columns, values, inside in _parts(person, space, trials):
            rows = slice(start, start + len(values))
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                z = (values - mean[group[rows], columns]) / scale[group[rows], columns]
                z = np.where(np.isfinite(values), np.clip(z, -_LARGEST_HALF, _LARGEST_HALF), np.nan)
            z[:, ~inside] = np.nan
            betas[rows, columns] = z.astype(np.float16)
        file.create_dataset("group", data=group.astype(np.int32), track_times=False)
        file.create_dataset("mean", data=mean.astype(np.float32), track_times=False)
        file.create_dataset("scale", data=scale.astype(np.float32), track_times=False)
        ncsnr = _ceilings(betas, trials)
        for name, ratio in ncsnr.items():
            file.create_dataset(f"ncsnr/{name}", data=ratio.astype(np.float32), track_times=False)
    return WrittenParticipant(n_statistics, own, ncsnr)


@contextmanager
def _new_file(path: Path, n_bytes: int) -> Iterator[Any]:
    """An HDF5 file to be written, whose room on the disk is set aside before."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    require_room(path, n_bytes)
    with h5py.File(path, "w") as file:
        reserve_room(path, n_bytes)
        yield file
        file.flush()
        size = int(file.id.get_filesize())
    os.truncate(path, size)


def _parts(
    person: ParticipantInput, space: Space, trials: pd.DataFrame
) -> Iterator[tuple[int, slice, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Parts of all fits: first row in the store, units, values, and which of the units are in the fit's own mask."""
    source = trials["source"].to_numpy()
    for place, fit in enumerate(person.fits):
        rows = np.flatnonzero(source == place)
        inside, n_seen = _inside(fit, space), 0
        for maps, columns, values in iter_maps(fit.files, replace(space, source="the store")):
            n_seen = max(n_seen, maps.stop)
            if maps.stop > len(rows):
                raise UnusableInputError(f"{fit.files[0]}: more maps than {fit.trials} has rows ({len(rows)})")
            yield int(rows[maps.start]), columns, values, inside[columns]
        if n_seen != len(rows):
            raise UnusableInputError(f"{fit.files[0]}: {n_seen} maps, but {fit.trials} has {len(rows)} rows")


def _inside(fit: FitInput, space: Space) -> npt.NDArray[np.bool_]:
    """Which units are in the fit's own mask; other programs write zeros outside of it."""
    if fit.mask is None or not isinstance(space, VolumeSpace):
        return np.ones(space.n_units, dtype=bool)
    mask = read_mask(fit.mask)[0]
    if mask.shape != space.shape:
        raise UnusableInputError(f"{fit.mask}: the mask is of another grid than the store")
    return np.asarray(mask[space.mask])


def _statistics(
    person: ParticipantInput, space: Space, trials: pd.DataFrame
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Mean and standard deviation (ddof 1) of train trials, (groups, units); number of them; whether they are the group's own."""
    group, used = trials["group"].to_numpy(dtype=np.intp), trials["in_statistics"].to_numpy(dtype=bool)
    n_groups = int(group.max()) + 1
    n_statistics = np.bincount(group[used], minlength=n_groups)
    if n_statistics.sum() < 2:
        raise UnusableInputError(f"{person.fits[0].trials}: fewer than two train trials, by which betas are z-scored")
    count = np.zeros((n_groups, space.n_units), dtype=np.int32)
    total, square = np.zeros((2, n_groups, space.n_units))
    for start, columns, values, inside in _parts(person, space, trials):
        rows = slice(start, start + len(values))
        for place in np.unique(group[rows][used[rows]]):
            chosen = values[(group[rows] == place) & used[rows]].astype(np.float64)
            finite = np.isfinite(chosen) & inside
            chosen[~finite] = 0.0
            count[place, columns] += finite.sum(axis=0, dtype=np.int32)
            total[place, columns] += chosen.sum(axis=0)
            square[place, columns] += np.einsum("ij,ij->j", chosen, chosen)
    mean, scale = _moments(count, total, square)
    own = n_statistics >= MIN_TRIALS
    if not own.all():
        pooled = _moments(count.sum(axis=0), total.sum(axis=0), square.sum(axis=0))
        mean[~own], scale[~own] = pooled
    return mean, scale, n_statistics, own


def _moments(count: npt.NDArray[Any], total: npt.NDArray[Any], square: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        variance = np.maximum(square - total * mean, 0.0) / (count - 1)
        scale = np.sqrt(variance)
        constant = (count < 2) | ~(scale > _SMALLEST_SPREAD * np.abs(mean))
    mean[constant], scale[constant] = np.nan, np.nan
    return mean, scale


def _ceilings(betas: Any, trials: pd.DataFrame) -> dict[str, npt.NDArray[np.float64]]:
    """Noise-ceiling signal-to-noise ratio of each unit by split, from what was written, a block of units at a time."""
    content, split = trials["content_id"].to_numpy(dtype=str), trials["split"].to_numpy(dtype=str)
    chosen = {}
    for name in ("train", "test", "artificial"):
        rows = np.flatnonzero(split == name)
        if len(rows) and np.unique(content[rows], return_counts=True)[1].max() > 1:
            chosen[name] = rows
    found = {name: np.full(betas.shape[1], np.nan) for name in chosen}
    for block in unit_blocks(betas.shape[1] if chosen else 0, max(64, _BLOCK_VALUES // max(1, len(trials)))):
        values = betas[:, block].astype(np.float32)
        for name, rows in chosen.items():
            found[name][block] = noise_ceiling_snr(values[rows], content[rows])
    return found
