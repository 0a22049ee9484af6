"""Feature tables on the disk: HDF5 (the default), npz and parquet.

Layout, version 1
-----------------
HDF5: attributes ``layout`` = ``features``, ``version``, ``card`` (JSON); datasets ``/features`` (stimuli, features), ``/stim_id``,
``/sha256``. npz: arrays of the same names, ``card`` a text. Parquet: a row a stimulus with columns ``stim_id``, ``sha256`` and
``features`` (a list of numbers); the card is JSON in the schema's metadata, ``card``. A parquet file without a column ``features`` has
one column a feature.

Features of movies have a row a frame, and its time: ``time`` (s from the movie's beginning), or ``frame`` (from 0) where the card's
preprocessing has a ``frame_rate`` (Hz).

Only ``features`` and one of ``stim_id`` and ``sha256`` have to be there, so that files of others need no converting beyond names; a card
that is not in the file may lie beside it as ``<name>.json``. Files are not trusted: no pickles, no links out of the file, and no array
larger than what the file can hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.bids.array_checks import check_array, check_npz, check_parquet
from conform_bids.bids.derivatives import atomic_path
from conform_bids.bids.scratch import require_room
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.stimuli.features import FeatureCard, FeatureTable
from conform_bids.stimuli.identity import MISSING

__all__ = ["EXTENSIONS", "FEATURES_VERSION", "read_feature_spaces", "read_features", "write_features"]

FEATURES_VERSION = 1
EXTENSIONS = (".h5", ".hdf5", ".npz", ".parquet")
_LARGEST_CARD = 1 << 20
_KEYS = ("stim_id", "sha256")
_MOMENTS = ("time", "frame")
Array = npt.NDArray[Any]
_Content = tuple[Array, Mapping[str, list[str]], str | None, Mapping[str, Array]]
"""Features, keys, card as JSON, and when frames of movies come on."""


def write_features(table: FeatureTable, path: str | Path) -> None:
    """Write a table in the format of the file's extension, atomically.

    Raises
    ------
    UsageError
        For an extension that is none of `EXTENSIONS`.
    OSError
        As the file system gave it.
    """
    path = Path(path)
    writer = {".h5": _write_hdf5, ".hdf5": _write_hdf5, ".npz": _write_npz, ".parquet": _write_parquet}.get(path.suffix.lower())
    if writer is None:
        raise UsageError(f"{path}: features are written as {', '.join(EXTENSIONS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    require_room(path, table.values.nbytes)
    with atomic_path(path) as temporary:
        writer(table, json.dumps(table.card.as_json(), sort_keys=True), temporary)


def _write_hdf5(table: FeatureTable, card: str, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update({"layout": "features", "version": FEATURES_VERSION, "card": card})
        file.create_dataset("features", data=table.values, track_times=False)
        for key, texts in zip(_KEYS, (table.stim_ids, table.sha256), strict=True):
            file.create_dataset(key, data=list(texts), shape=(len(table),), dtype=h5py.string_dtype(), track_times=False)
        if table.times is not None:
            file.create_dataset("time", data=table.times, track_times=False)


def _write_npz(table: FeatureTable, card: str, path: Path) -> None:
    keys: dict[str, Any] = {key: np.array(texts, dtype=np.str_) for key, texts in zip(_KEYS, (table.stim_ids, table.sha256), strict=True)}
    if table.times is not None:
        keys["time"] = table.times
    with path.open("wb") as stream:
        np.savez(stream, features=table.values, card=np.array(card), version=np.array(FEATURES_VERSION), **keys)


def _write_parquet(table: FeatureTable, card: str, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = pa.FixedSizeListArray.from_arrays(pa.array(table.values.ravel()), table.n_features)
    columns = {"stim_id": pa.array(table.stim_ids, pa.string()), "sha256": pa.array(table.sha256, pa.string()), "features": features}
    if table.times is not None:
        columns["time"] = pa.array(table.times)
    metadata = {"layout": "features", "version": str(FEATURES_VERSION), "card": card}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def read_feature_spaces(path: str | Path) -> dict[str, FeatureTable]:
    """Read one table, or a folder of them: several feature spaces (bands), called by their file names and in their order.

    Raises
    ------
    MissingInputError
        When there is no such file, or no table in the folder.
    UnusableInputError
        When a table cannot be used, or two have one name.
    """
    path = Path(path)
    if not path.is_dir():
        return {path.stem: read_features(path)}
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS and not file.name.startswith("."))
    if not files:
        raise MissingInputError(f"{path}: no feature table in this folder ({', '.join(EXTENSIONS)})")
    spaces: dict[str, FeatureTable] = {}
    for file in files:
        if file.stem in spaces:
            raise UnusableInputError(f"{file}: two feature spaces are called {file.stem!r}")
        spaces[file.stem] = read_features(file)
    return spaces


def read_features(path: str | Path) -> FeatureTable:
    """Read a feature table.

    Raises
    ------
    MissingInputError
        When there is no such file.
    UnusableInputError
        When it is not a feature table, is broken, hostile, or of a later version.
    """
    path = Path(path)
    reader = {".h5": _read_hdf5, ".hdf5": _read_hdf5, ".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix.lower())
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file")
    if reader is None:
        raise UnusableInputError(f"{path}: features are read from {', '.join(EXTENSIONS)}")
    try:
        values, keys, text, moments = reader(path)
        known = {key: [MISSING if text in ("", "nan", "None") else text for text in texts] for key, texts in keys.items()}
        absent = [MISSING] * len(values)
        if not known:
            raise ValueError("it has neither stim_id nor sha256, and rows are never matched by their order")
        card = _card(path, text)
        return FeatureTable(values, known.get("stim_id", absent), known.get("sha256", absent), card, _times(moments, card))
    except UnusableInputError:
        raise
    except Exception as error:  # decoders of foreign files fail in many ways; each says that the file cannot be used
        reason = str(error) or type(error).__name__
        raise UnusableInputError(f"{path}: not a usable feature table ({reason})") from error


def _times(moments: Mapping[str, Array], card: FeatureCard) -> npt.NDArray[np.float64] | None:
    """Seconds at which frames come on; None where rows are no frames."""
    if "time" in moments:
        return np.asarray(moments["time"], dtype=np.float64).ravel()
    if "frame" not in moments:
        return None
    rate = card.preprocessing.get("frame_rate")
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < 1e6:
        raise ValueError("it has the frame of each row and no frame_rate (Hz) in its card's preprocessing; a column time (s) needs none")
    return np.asarray(moments["frame"], dtype=np.float64).ravel() / rate


def _card(path: Path, text: str | None) -> FeatureCard:
    beside = path.with_suffix(".json")
    if text is None and beside.is_file():
        if beside.stat().st_size > _LARGEST_CARD:
            raise ValueError(f"{beside.name} is too large for a card")
        text = beside.read_text(encoding="utf-8")
    return FeatureCard.from_json(json.loads(text)) if text is not None else FeatureCard()


def _check_version(version: Any) -> None:
    if int(version) > FEATURES_VERSION:
        raise ValueError(f"of version {int(version)}; this conform reads up to {FEATURES_VERSION}")


def _read_hdf5(path: Path) -> _Content:
    import h5py

    with h5py.File(path, "r") as file:
        _check_version(file.attrs.get("version", FEATURES_VERSION))
        values = np.asarray(check_array(file, "features")[()])
        keys = {}
        for key in _KEYS:
            if key in file:
                data = np.asarray(check_array(file, key)[()])
                keys[key] = [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in data.ravel().tolist()]
        moments = {key: np.asarray(check_array(file, key)[()]) for key in _MOMENTS if key in file}
        card = file.attrs.get("card")
        return values, keys, None if card is None else str(card), moments


def _read_npz(path: Path) -> _Content:
    check_npz(path)
    with np.load(path, allow_pickle=False) as file:
        if "version" in file:
            _check_version(file["version"])
        if "features" not in file:
            raise ValueError(f"it has no features, but {', '.join(map(repr, file.files[:5])) or 'nothing'}")
        values = np.asarray(file["features"])
        keys = {key: np.asarray(file[key]).ravel().astype(np.str_).tolist() for key in _KEYS if key in file}
        moments = {key: np.asarray(file[key]) for key in _MOMENTS if key in file}
        return values, keys, str(file["card"][()]) if "card" in file else None, moments


def _read_parquet(path: Path) -> _Content:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    check_parquet(path)
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > path.stat().st_size:  # a row has a key of its own, of a byte at least
            raise ValueError(f"it declares {file.metadata.num_rows:,} rows, more than the file can hold")
        table = file.read()
    metadata = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items() if key in (b"card", b"version")}
    _check_version(metadata.get("version", FEATURES_VERSION))
    keys = {key: [MISSING if text is None else str(text) for text in table[key].to_pylist()] for key in _KEYS if key in table.column_names}
    moments = {key: np.asarray(table[key].to_numpy()) for key in _MOMENTS if key in table.column_names}
    if "features" in table.column_names:
        column = table["features"]
        lengths = pc.list_value_length(column).unique().to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            raise ValueError("its rows have features of different numbers, or none")
        flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks])
        values = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), lengths[0])
    else:
        names = [name for name in table.column_names if name not in (*_KEYS, *_MOMENTS)]
        if not names:
            raise ValueError("it has no features")
        values = np.stack([np.asarray(table[name].to_numpy()) for name in names], axis=1)
    return values, keys, metadata.get("card"), moments
