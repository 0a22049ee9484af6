"""Responses to stimuli from maps on disk: those of conform-psn as they are, single trials of conform-glm averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.conditions import number_conditions, read_rows, with_split
from conform_bids.bids.images import read_maps, read_space
from conform_bids.bids.spaces import Space, VolumeSpace
from conform_bids.bids.splits import HELD_OUT
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.noise_ceiling import snr_to_ceiling

__all__ = ["Averages", "PlannedMaps", "average_trials", "read_averages", "read_response_space", "table_of", "used_space", "used_voxels"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlannedMaps:
    """Responses and their table.

    Attributes
    ----------
    session : str or None
        Label as in the file name.
    files : tuple of Path
        One file, or the left and the right hemisphere's.
    trials : Path
        Their table: row k is map k.
    sources : tuple of str
        BIDS URIs of these.
    """

    session: str | None
    files: tuple[Path, ...]
    trials: Path
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Averages:
    """Responses to conditions.

    Attributes
    ----------
    values : (n_conditions, n_units) float32 array
    conditions : DataFrame
        condition, stim_id, n_trials, split; sorted by stim_id.
    snr : (n_units,) array or None
        Signal-to-noise ratio of a single trial, where it was estimated here.
    """

    values: npt.NDArray[np.float32]
    conditions: pd.DataFrame
    snr: FloatArray | None = None

    def ceiling(self, rows: npt.NDArray[np.intp], snr: FloatArray | None) -> FloatArray:
        """Noise ceiling of some of the conditions in percent, (n_units,); NaN where there is no ratio of signal and noise."""
        if snr is None or not len(rows):
            return np.full(self.values.shape[1], np.nan)
        return snr_to_ceiling(snr, np.maximum(1, self.conditions["n_trials"].to_numpy()[rows]))


def read_averages(maps: PlannedMaps, space: Space, split: str | None) -> Averages:
    """Read maps that have a row a condition.

    Raises
    ------
    UnusableInputError
        When maps and table do not fit each other, or a stimulus has two rows.
    """
    rows, columns = read_rows(maps.trials, split)
    rows = with_split(rows, split, columns)
    if rows["stim_id"].duplicated().any():
        again = rows["stim_id"][rows["stim_id"].duplicated()].iloc[0]
        raise UnusableInputError(f"{maps.trials}: stimulus {again!r} has two rows; a row a stimulus is needed")
    values = read_maps(maps.files, space)
    if len(values) != len(rows):
        raise UnusableInputError(f"{maps.files[0]}: {len(values)} maps, but {maps.trials} has {len(rows)} rows")
    order = np.argsort(rows["stim_id"].to_numpy(dtype=str), kind="stable")
    rows = rows.iloc[order]
    split_of = dict(zip(rows["stim_id"], rows["split"], strict=True))
    return Averages(values[order], number_conditions(rows["stim_id"].tolist(), rows["n_trials"].tolist(), split_of))


def average_trials(sessions: Sequence[PlannedMaps], space: Space, split: str | None) -> Averages:
    """Z-score single trials within sessions, by the mean and standard deviation of train trials, and average them by stimulus.

    Trials that their table flags as unreliable are left out. The ratio of signal and noise is by the variance over repeats
    (Allen et al., 2022, Nature Neuroscience 25:116-126).

    Raises
    ------
    UnusableInputError
        When maps and tables do not fit each other, or no trial is left.
    """
    tables = []
    for maps in sessions:
        rows, columns = read_rows(maps.trials, split)
        tables.append(with_split(rows, split, columns))
    every = pd.concat(tables, ignore_index=True)
    held = {stim_id: value for stim_id, value in zip(every["stim_id"], every["split"], strict=True) if value in HELD_OUT}
    split_of = {**dict(zip(every["stim_id"], every["split"], strict=True)), **held}
    stim_ids = sorted(set(every["stim_id"][every["usable"]]))
    if not stim_ids:
        raise UnusableInputError(f"{sessions[0].trials}: no trial is left")
    place = {stim_id: index for index, stim_id in enumerate(stim_ids)}
    sums, counts = np.zeros((len(stim_ids), space.n_units)), np.zeros(len(stim_ids), dtype=np.intp)
    squares = np.zeros(space.n_units)
    for maps, rows in zip(sessions, tables, strict=True):
        _add_session(maps, rows, space, place, split_of, sums, counts, squares)
    means = sums / counts[:, None]
    conditions = number_conditions(stim_ids, counts.tolist(), split_of)
    return Averages(means.astype(np.float32), conditions, _ratio(means, counts, squares))


def _add_session(
    maps: PlannedMaps,
    rows: pd.DataFrame,
    space: Space,
    place: Mapping[str, int],
    split_of: Mapping[str, str],
    sums: FloatArray,
    counts: npt.NDArray[np.intp],
    squares: FloatArray,
) -> None:
    values = read_maps(maps.files, space)
    if len(values) != len(rows):
        raise UnusableInputError(f"{maps.files[0]}: {len(values)} maps, but {maps.trials} has {len(rows)} trials")
    usable = rows["usable"].to_numpy(dtype=bool)
    train = usable & np.array([split_of[stim_id] not in HELD_OUT for stim_id in rows["stim_id"]])
    fitted = values[train] if train.sum() > 1 else values[usable]
    mean, spread = fitted.mean(axis=0, dtype=np.float64), fitted.std(axis=0, dtype=np.float64)
    del fitted
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(spread > 16 * np.finfo(np.float32).eps * np.abs(mean), spread, np.nan)
        for index in np.flatnonzero(usable):
            row = (values[index] - mean) / scale
            where = place[rows["stim_id"].iloc[index]]
            sums[where] += row
            squares += np.square(row)
            counts[where] += 1


def _ratio(means: FloatArray, counts: npt.NDArray[np.intp], squares: FloatArray) -> FloatArray | None:
    """Standard deviation of the signal over that of a trial's noise; None where nothing repeats."""
    n, weights = int(counts.sum()), counts[:, None]
    freedom = n - len(counts)
    if freedom < 1:
        return None
    noise = np.maximum(squares - (weights * np.square(means)).sum(axis=0), 0) / freedom
    grand = (weights * means).sum(axis=0) / n
    total = (squares - n * np.square(grand)) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.maximum(total - noise, 0) / noise)


def table_of(path: Path, split: str | None) -> pd.DataFrame:
    """Rows of a table with their split, for the planner."""
    rows, columns = read_rows(path, split)
    return with_split(rows, split, columns)


def read_response_space(responses: Sequence[PlannedMaps], entities: Mapping[str, str]) -> Space:
    """Grid of responses, all voxels of it.

    Raises
    ------
    UnusableInputError
        When sessions are of different grids.
    """
    own: Space | None = None
    for maps in responses:
        space = read_space(maps.files, None, entities.get("space", "boldref"), entities.get("den"), entities.get("res"))
        if own is not None and not own.same_grid(space):
            raise UnusableInputError(f"{maps.files[0]}: its grid is not that of {responses[0].files[0].name}")
        own = own or space
    assert own is not None
    return own


def used_space(responses: Sequence[PlannedMaps], space: Space) -> Space:
    """The grid without voxels that have no value anywhere; surfaces stay as they are.

    Raises
    ------
    UnusableInputError
        When no voxel has a value.
    """
    if not isinstance(space, VolumeSpace):
        return space
    used = used_voxels([path for maps in responses for path in maps.files], space)
    if not used.any():
        raise UnusableInputError(f"{responses[0].files[0]}: no voxel has a value")
    return replace(space, mask=space.to_volume(used))


def used_voxels(files: Sequence[Path], space: VolumeSpace) -> npt.NDArray[np.bool_]:
    """Units of a space that have a finite value other than zero in some map of the files."""
    used = np.zeros(space.n_units, bool)
    for path in files:
        for row in read_maps([path], space):
            used |= np.isfinite(row) & (row != 0)
    return used
