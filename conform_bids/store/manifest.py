"""Versions of a store, and the manifest of each: every file with its size and SHA-256, so that a changed one is found.

A version is a folder ``versions/<version>`` of its own; what an earlier version wrote is never touched again. A manifest names the SHA-256
of the one before it, so that whoever knows the latest manifest's can check everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from conform_bids.bids.atomic import LOCK_NAME, TEMPORARY_PREFIX, write_json
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = [
    "LAYOUT_VERSION",
    "MANIFEST",
    "check_files",
    "file_record",
    "file_sha256",
    "latest_version",
    "next_version",
    "read_manifest",
    "version_folder",
    "versions",
    "write_manifest",
]

LAYOUT_VERSION = 1
MANIFEST = "manifest.json"
FIRST_VERSION = "1.0.0"


def version_folder(store: Path, version: str) -> Path:
    """Folder of a version's tables."""
    return store / "versions" / version


def versions(store: Path) -> list[str]:
    """Versions that are complete, oldest first."""
    found = [path.parent.name for path in store.glob(f"versions/*/{MANIFEST}")]
    numbers = [name for name in found if all(part.isdigit() for part in name.split("."))]
    return sorted(numbers, key=lambda name: [int(part) for part in name.split(".")])


def latest_version(store: Path) -> str:
    """The newest version.

    Raises
    ------
    MissingInputError
        When there is no such folder, or it is no store.
    """
    if not store.is_dir():
        raise MissingInputError(f"{store}: no such folder")
    found = versions(store)
    if not found:
        raise MissingInputError(f"{store}: not a store of conform (no versions/*/{MANIFEST})")
    return found[-1]


def next_version(version: str | None) -> str:
    """The version after one: a dataset more is a minor one."""
    if version is None:
        return FIRST_VERSION
    major, minor, _ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_record(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file, as a manifest has them."""
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}


def write_manifest(
    store: Path, version: str, previous: str | None, content: Mapping[str, Any], hashed: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the manifest of a version, last of its files.

    Files of earlier versions are taken over as their manifest has them, and new ones in ``hashed`` (`file_record` by name) as they are
    there; only what is left is read.
    """
    known: dict[str, Any] = {}
    record: dict[str, Any] = {"layout": "store", "layout_version": LAYOUT_VERSION, "version": version, "previous": previous}
    if previous is not None:
        place = version_folder(store, previous) / MANIFEST
        known = dict(read_manifest(store, previous)["files"])
        known[place.relative_to(store).as_posix()] = file_record(place)
        record["previous_manifest_sha256"] = known[place.relative_to(store).as_posix()]["sha256"]
    own = version_folder(store, version).relative_to(store).as_posix() + f"/{MANIFEST}"
    files = dict(known)
    for name in _files_of(store):
        if name not in known and name != own:
            files[name] = hashed.get(name) or file_record(store / name)
    write_json({**record, **content, "files": dict(sorted(files.items()))}, version_folder(store, version) / MANIFEST)


def read_manifest(store: Path, version: str) -> dict[str, Any]:
    """The manifest of a version.

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    path = version_folder(store, version) / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        if content["layout"] != "store" or not isinstance(content["files"], dict) or content["version"] != version:
            raise ValueError("not the manifest of this version of a store")
        later = int(content["layout_version"]) > LAYOUT_VERSION
    except FileNotFoundError as error:
        listing = ", ".join(versions(store)) or "none"
        raise MissingInputError(f"{store}: no version {version}; there are {listing}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableInputError(f"{path}: not a manifest, or broken ({error})") from error
    if later:
        raise UnusableInputError(f"{path}: of layout {content['layout_version']}; this conform reads up to {LAYOUT_VERSION}")
    return dict(content)


def check_files(store: Path, manifest: Mapping[str, Any], *, quick: bool = False) -> list[str]:
    """Compare every file with the manifest.

    Parameters
    ----------
    quick : bool
        By size alone.

    Returns
    -------
    list of str
        A line a file that is missing, changed, or not in the manifest; empty where all is well.
    """
    faults = []
    for name, record in manifest["files"].items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            faults.append(f"{name}: a name that leads out of the store")
            continue
        path = store / name
        if not path.is_file():
            faults.append(f"{name}: missing")
        elif path.stat().st_size != record["bytes"]:
            faults.append(f"{name}: {path.stat().st_size} bytes, where the manifest has {record['bytes']}")
        elif not quick and file_sha256(path) != record["sha256"]:
            faults.append(f"{name}: its content is not what the manifest says")
    own = f"versions/{manifest['version']}/{MANIFEST}"
    faults += [f"{name}: not in the manifest" for name in _files_of(store) if name not in manifest["files"] and name != own]
    return faults


def _files_of(store: Path) -> list[str]:
    paths = (path for path in store.rglob("*") if path.is_file() and not path.name.startswith((TEMPORARY_PREFIX, LOCK_NAME)))
    return sorted(path.relative_to(store).as_posix() for path in paths)
