"""Read a store: trials by query, as arrays or as a torch Dataset; any trial costs one read of its own bytes.

Betas lie uncompressed in chunks, so that a trial is found at a place that is known from the file's index, and is taken from a memory map.
A map is opened by each process for itself, so that workers of a data loader share nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.array_checks import check_array
from conform_bids.bids.filters import compile_trial_filter
from conform_bids.bids.spaces import Space, load_space
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.store.grid import read_parcels
from conform_bids.store.manifest import check_files, latest_version, read_manifest, version_folder
from conform_bids.store.participants import BETAS_VERSION
from conform_bids.store.tables import read_table

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["Store"]

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Betas:
    """A participant's file: its bytes, and where each trial begins."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    n_units: int

    def trial(self, row: int) -> npt.NDArray[np.float16]:
        """One trial, as it lies on disk."""
        start = int(self.offsets[row])
        return self.data[start : start + 2 * self.n_units].view("<f2")


class Store:
    """A version of a store, opened for reading.

    Parameters
    ----------
    path : path
        Folder of the store.
    version : str, optional
        By default the latest.
    verify : bool
        Compare the SHA-256 of every file with the manifest first; otherwise sizes alone are compared.

    Attributes
    ----------
    trials, stimuli, participants, fits, noise_ceilings : DataFrame
        Tables of the version.

    Raises
    ------
    MissingInputError, UnusableInputError
        The latter when a file is missing or is not what the manifest says.

    Examples
    --------
    >>> store = Store("out/store")  # doctest: +SKIP
    >>> betas, trials = store.load("split == 'test'", parcels=["cortex_left"])  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, version: str | None = None, *, verify: bool = False) -> None:
        self.path = Path(path)
        self.version = version or latest_version(self.path)
        self.manifest = read_manifest(self.path, self.version)
        wanted = set(self.manifest["files"])
        faults = [fault for fault in check_files(self.path, self.manifest, quick=not verify) if fault.partition(":")[0] in wanted]
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise UnusableInputError(f"{self.path}: {faults[0]}{more}; conform-store verify lists all")
        self.n_units = int(self.manifest["grid"]["n_units"])
        self._process: int | None = None
        self._open: dict[str, _Betas] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_process": None}

    def _table(self, name: str) -> pd.DataFrame:
        return read_table(name, version_folder(self.path, self.version))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row a trial; its index is what the other methods take."""
        return self._table("trials")

    @cached_property
    def stimuli(self) -> pd.DataFrame:
        """A row a stimulus of a dataset."""
        return self._table("stimuli")

    @cached_property
    def participants(self) -> pd.DataFrame:
        """A row a participant."""
        return self._table("participants")

    @cached_property
    def fits(self) -> pd.DataFrame:
        """A row a group of trials that was z-scored together."""
        return self._table("fits")

    @cached_property
    def noise_ceilings(self) -> pd.DataFrame:
        """A row a participant, split and parcel."""
        return self._table("noiseceilings")

    @cached_property
    def space(self) -> Space:
        """The grid of the units."""
        return load_space(self.path / "space.npz")

    @cached_property
    def _parcels(self) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
        return read_parcels(self.path / "parcels.npz")

    @property
    def parcels(self) -> tuple[str, ...]:
        """Names of the parcels."""
        return self._parcels[1]

    def query(self, expression: str | None = None) -> pd.DataFrame:
        """Trials for which an expression over the columns holds, as ``"dataset == 'NSD' and split == 'train'"``.

        Raises
        ------
        UsageError
            When the expression is malformed or names no column.
        """
        if expression is None:
            return self.trials
        named = [column for column in self.trials.columns if column in expression]  # the others need not become text
        text = self.trials[named].astype(str).replace({"n/a": None, "nan": None}).astype(object)
        return self.trials[compile_trial_filter(expression)(text)]

    def units(self, parcels: Sequence[str] | None = None, mask: npt.ArrayLike | None = None) -> IntArray | None:
        """Units of parcels, of a mask (bool a unit, or indices), or of both; None is all.

        Raises
        ------
        UsageError
            When there is no such parcel, or the mask does not fit.
        """
        if parcels is None and mask is None:
            return None
        chosen = np.ones(self.n_units, dtype=bool)
        if parcels is not None:
            labels, names = self._parcels
            absent = [name for name in parcels if name not in names]
            if absent:
                raise UsageError(f"no parcel {absent[0]!r}; there are {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}")
            chosen &= np.isin(labels, [names.index(name) for name in parcels])
        if mask is not None:
            given = np.asarray(mask)
            if given.dtype == bool and given.shape != (self.n_units,):
                raise UsageError(f"a mask of shape {given.shape}, where there are {self.n_units} units")
            inside = given if given.dtype == bool else np.isin(np.arange(self.n_units), given)
            chosen &= inside
        return np.flatnonzero(chosen)

    def load(
        self,
        query: str | pd.DataFrame | Sequence[int] | None = None,
        *,
        parcels: Sequence[str] | None = None,
        mask: npt.ArrayLike | None = None,
        raw: bool = False,
    ) -> tuple[Float32Array, pd.DataFrame]:
        """Betas and the rows of their trials.

        Parameters
        ----------
        query : str, DataFrame or sequence of int, optional
            An expression, rows of `trials`, or their indices; all by default.
        parcels, mask
            As `units`.
        raw : bool
            Undo the z-scoring.

        Returns
        -------
        betas : (trials, units) float32 array
        trials : DataFrame
        """
        import torch

        if isinstance(query, pd.DataFrame):
            rows = query
        else:
            rows = self.query(query) if query is None or isinstance(query, str) else self.trials.loc[list(query)]
        units = self.units(parcels, mask)
        values = np.empty((len(rows), self.n_units if units is None else len(units)), dtype=np.float32)
        target = torch.from_numpy(values)  # which turns half into single precision three times as fast as NumPy
        for number, (person, place) in enumerate(zip(rows["participant_id"], rows["row"], strict=True)):
            trial = self._betas(person).trial(place)
            target[number].copy_(torch.from_numpy(trial if units is None else trial[units]))
        if raw:
            self._undo(values, rows, units)
        return values, rows

    def _undo(self, values: Float32Array, rows: pd.DataFrame, units: IntArray | None) -> None:
        for person in rows["participant_id"].unique():
            mean, scale = self.moments(person)
            chosen = np.flatnonzero((rows["participant_id"] == person).to_numpy())
            for place in chosen:
                group = int(rows["group"].iloc[place])
                own = (mean[group], scale[group]) if units is None else (mean[group, units], scale[group, units])
                values[place] = values[place] * own[1] + own[0]

    def moments(self, participant_id: str) -> tuple[Float32Array, Float32Array]:
        """Mean and scale (groups, units) by which a participant's betas were z-scored."""
        import h5py

        with h5py.File(self._file(participant_id), "r") as file:
            return _array(file, "mean"), _array(file, "scale")

    def ncsnr(self, participant_id: str, split: str = "test") -> Float32Array:
        """Noise-ceiling signal-to-noise ratio of each unit.

        Raises
        ------
        MissingInputError
            When no stimulus of the split repeats.
        """
        import h5py

        with h5py.File(self._file(participant_id), "r") as file:
            if f"ncsnr/{split}" not in file:
                raise MissingInputError(f"{participant_id}: no stimulus of {split} repeats, so there is no noise ceiling")
            return _array(file["ncsnr"], split)

    def torch_dataset(
        self,
        query: str | pd.DataFrame | None = None,
        *,
        parcels: Sequence[str] | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> Dataset[dict[str, Any]]:
        """A map-style torch Dataset over trials: items are ``betas`` (float32 tensor), ``index``, ``participant_id``, ``content_id``.

        It may be pickled, forked, and read by any number of workers in any order.
        """
        from conform_bids.store.torch_data import TrialDataset

        rows = query if isinstance(query, pd.DataFrame) else self.query(query)
        return TrialDataset(self, rows, self.units(parcels, mask))

    def _file(self, participant_id: str) -> Path:
        found = self.participants.loc[self.participants["participant_id"] == participant_id, "file"]
        if found.empty:
            raise MissingInputError(f"{self.path}: no participant {participant_id}")
        name = str(found.iloc[0])
        if name not in self.manifest["files"] or ".." in PurePosixPath(name).parts:
            raise UnusableInputError(f"{self.path}: {name} is not in the manifest")
        return self.path / name

    def _betas(self, participant_id: str) -> _Betas:
        if self._process != os.getpid():  # a forked worker opens its own
            self._open, self._process = {}, os.getpid()
        if participant_id not in self._open:
            self._open[participant_id] = _open_betas(self._file(participant_id), self.n_units)
        return self._open[participant_id]


def _array(group: Any, name: str) -> Float32Array:
    """An array of a store's file, which somebody else may have made."""
    try:
        return np.asarray(check_array(group, name)[()])
    except ValueError as error:
        raise UnusableInputError(f"{group.file.filename}: {error}") from error


def _open_betas(path: Path, n_units: int) -> _Betas:
    """Map a participant's file, and find each trial in it by the index of its chunks."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("layout") != "store-betas" or int(file.attrs["version"]) > BETAS_VERSION:
                raise UnusableInputError(f"{path}: not betas of a store, or of a later version")
            betas = file["betas"]
            plain = betas.dtype == np.dtype("<f2") and betas.compression is None and betas.chunks is not None
            if not plain or betas.shape[1] != n_units or betas.chunks[1] != n_units:
                raise UnusableInputError(f"{path}: its betas are not laid out as the store's")
            if 2 * betas.shape[0] * n_units > path.stat().st_size:
                raise UnusableInputError(f"{path}: truncated, or some trials were never written")
            offsets = np.zeros(betas.shape[0], dtype=np.int64)
            betas.id.chunk_iter(lambda chunk: _place_chunk(offsets, chunk, betas.chunks[0], n_units))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UnusableInputError(f"{path}: not betas of a store, or broken ({error})") from error
    data = np.memmap(path, dtype=np.uint8, mode="c")  # writable for torch's sake, and never written back
    if not len(offsets) or offsets.min() <= 0 or int(offsets.max()) + 2 * n_units > len(data):
        raise UnusableInputError(f"{path}: truncated, or some trials were never written")
    return _Betas(np.asarray(data), offsets, n_units)


def _place_chunk(offsets: npt.NDArray[np.int64], chunk: Any, size: int, n_units: int) -> None:
    first = int(chunk.chunk_offset[0])
    rows = np.arange(first, min(first + size, len(offsets)))
    offsets[rows] = chunk.byte_offset + 2 * n_units * (rows - first)
