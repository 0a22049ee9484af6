"""Features of stimulus files by a network, with a cache: what was computed once is not computed again, and a run that was cut goes on."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np
import numpy.typing as npt

from conform_bids.errors import ConformError, MissingInputError, UnusableInputError
from conform_bids.stimuli.backbones_media import read_frames
from conform_bids.stimuli.backbones_models import DEFAULT_BACKBONE, Backbone, load_backbone
from conform_bids.stimuli.backbones_progress import counted
from conform_bids.stimuli.feature_files import read_features, write_features
from conform_bids.stimuli.features import FeatureTable

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_BACKBONE", "Backbone", "FeatureCache", "compute_features", "load_backbone"]

_LOGGER = logging.getLogger(__name__)
_SHARD_ROWS = 512
_SHARD_SECONDS = 60.0
_NAMED = 5
Row = npt.NDArray[np.float32]


class FeatureCache:
    """Features that were computed before, by the SHA-256 of the file; one folder a backbone and preprocessing.

    Parameters
    ----------
    folder : Path or None
        Of the caches of all backbones; None keeps nothing. Several processes may use it at once.
    backbone : Backbone
    """

    def __init__(self, folder: Path | None, backbone: Backbone) -> None:
        self._card = backbone.card
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self._card.model)
        self._folder = folder / f"{name}-{self._card.preprocessing_hash[:16]}" if folder is not None else None
        self._new: dict[str, Row] = {}
        self._last_write = time.monotonic()

    def read(self) -> dict[str, Row]:
        """All rows; a file that is broken, or of another preprocessing, is passed over."""
        rows: dict[str, Row] = {}
        if self._folder is None or not self._folder.is_dir():
            return rows
        for path in sorted(self._folder.glob("[!.]*.h5")):
            try:
                table = read_features(path)
            except ConformError as error:
                _LOGGER.warning("%s; its features are computed again", error)
                continue
            if table.card.preprocessing_hash == self._card.preprocessing_hash:
                rows.update(zip(table.sha256, table.values, strict=True))
        return rows

    def add(self, sha256: str, row: Row) -> None:
        """Keep a row; it is on the disk a minute or 512 rows later at the latest, or after `write`."""
        self._new[sha256] = row
        if len(self._new) >= _SHARD_ROWS or time.monotonic() - self._last_write > _SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what is not on the disk yet, as a file of its own. A folder that cannot be written to keeps nothing, with a warning."""
        self._last_write = time.monotonic()
        if self._new and self._folder is not None:
            table = FeatureTable(np.stack(list(self._new.values())), ["n/a"] * len(self._new), list(self._new), self._card)
            try:
                write_features(table, self._folder / f"{secrets.token_hex(8)}.h5")
            except OSError as error:  # the features are there all the same, and hours of work must not end for a cache
                _LOGGER.warning("%s: features cannot be kept for later runs (%s)", self._folder, error.strerror or error)
                self._folder = None
        self._new = {}


def compute_features(
    backbone: Backbone,
    files: Mapping[str, str | Path],
    *,
    cache: Path | None = None,
    batch_size: int | None = None,
    faults: Literal["error", "set-aside"] = "error",
    stream: TextIO | None = None,
) -> FeatureTable:
    """Features of images and videos.

    Parameters
    ----------
    files : mapping
        Path by stim_id.
    cache : Path, optional
        Folder of features that were computed before.
    batch_size : int, optional
        Frames at a time (default: 4 on a CPU, whose caches larger batches overflow, and 64 elsewhere); decides memory and speed, not
        the values beyond rounding.
    faults : {'error', 'set-aside'}
        What becomes of files that are absent or broken: an error at the end, once the others are in the cache, or a warning.
    stream : TextIO, optional
        Where progress is shown (default: the standard error stream).

    Returns
    -------
    FeatureTable
        A row a stimulus, in the order of ``files``.

    Raises
    ------
    MissingInputError
        When files are absent.
    UnusableInputError
        When files cannot be decoded; they are named.
    """
    broken: dict[str, str] = {}
    hashes = _hashes(files, broken)
    if faults == "error" and broken:
        raise MissingInputError(_named(broken, len(files), "cannot be read"))
    store = FeatureCache(cache, backbone)
    rows = store.read()
    wanted: dict[str, tuple[str, Path]] = {}
    for name, digest in hashes.items():
        if digest not in rows:
            wanted.setdefault(digest, (name, Path(files[name])))
    if wanted:
        n = len(set(hashes.values()))
        with counted(backbone.card.model, n, n - len(wanted), stream=stream) as advance:
            try:
                batch = _Batch(backbone, batch_size or (4 if backbone.device == "cpu" else 64), rows, store)
                for digest, (name, path) in wanted.items():
                    try:
                        batch.add(digest, read_frames(path, backbone.n_frames))
                    except ValueError as error:
                        broken[name] = f"{path} {error}"
                    advance()
                batch.run()
            finally:
                store.write()
    kept = [name for name, digest in hashes.items() if digest in rows]
    if broken and (faults == "error" or not kept):
        raise UnusableInputError(_named(broken, len(files), "cannot be decoded"))
    if broken:
        _LOGGER.warning("%s; they are set aside", _named(broken, len(files), "cannot be used"))
    if not kept:
        raise MissingInputError("no stimulus files were given")
    return FeatureTable(np.stack([rows[hashes[name]] for name in kept]), kept, [hashes[name] for name in kept], backbone.card)


class _Batch:
    """Frames of stimuli that wait for the network."""

    def __init__(self, backbone: Backbone, batch_size: int, rows: dict[str, Row], store: FeatureCache) -> None:
        self._backbone, self._size = backbone, max(1, batch_size)
        self._rows, self._store = rows, store
        self._frames: list[torch.Tensor] = []
        self._owners: list[str] = []

    def add(self, digest: str, images: list[Any]) -> None:
        """Take the frames of a stimulus, and run once there are enough."""
        self._frames += [self._backbone.prepare(image) for image in images]
        self._owners += [digest] * len(images)
        if len(self._frames) >= self._size:
            self.run()

    def run(self) -> None:
        """Embed what waits; a stimulus' features are the mean over its frames."""
        import torch

        if not self._frames:
            return
        parts = []
        with torch.inference_mode():
            for start in range(0, len(self._frames), self._size):
                chunk = torch.stack(self._frames[start : start + self._size]).to(self._backbone.device)
                parts.append(self._backbone.embed(chunk).float().cpu().numpy())
        values = np.concatenate(parts)
        owners = np.array(self._owners)
        for digest in dict.fromkeys(self._owners):
            row = values[owners == digest].mean(axis=0, dtype=np.float64).astype(np.float32)
            self._rows[digest] = row
            self._store.add(digest, row)
        self._frames, self._owners = [], []


def _hashes(files: Mapping[str, str | Path], broken: dict[str, str]) -> dict[str, str]:
    """SHA-256 of the files by stim_id; those that cannot be read go to ``broken``."""
    hashes = {}
    for name, path in files.items():
        try:
            with open(path, "rb") as stream:
                hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            broken[name] = f"{path} ({getattr(error, 'strerror', None) or error})"
    return hashes


def _named(broken: Mapping[str, str], n: int, what: str) -> str:
    some = "; ".join(list(broken.values())[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return f"{len(broken)} of {n} stimulus files {what}: {some}{more}"
