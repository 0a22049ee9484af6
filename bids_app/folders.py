"""Checks on the folders of a run: which must differ, which belong to another app or to other settings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_app.app import App
from bids_app.config import RunConfig, derivative_paths
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.options import options_of, to_mapping

if TYPE_CHECKING:
    from conform_bids.jobs import Job

__all__ = [
    "SETTINGS_RECORD",
    "FormerFiles",
    "app_work_dir",
    "check_folders",
    "check_output",
    "clean_work_dir",
    "former_files",
    "make_work_dir",
    "settings_record",
    "tidy_output",
]

SETTINGS_RECORD = Path("logs") / "settings.json"
_MARKER = ".conform-work-dir"
_PLACES_OF_INPUTS = frozenset({"stimuli", "sourcedata", "code"})
"""Folders of a raw dataset that are not for results, as those of its participants."""
_WITHIN_A_JOB = frozenset({"ses", "run", "stat", "desc", "hemi"})
"""Entities in which the files of a job differ; ``ses`` goes with the scope of a fit."""


def check_folders(config: RunConfig) -> None:
    """Refuse folders that must not be used like this.

    Raises
    ------
    UsageError
        When the output or work folder is, or lies in, a folder that it would spoil.
    MissingInputError
        When bids_dir does not exist.
    """
    bids_dir, output_dir, work_dir = (
        Path(os.path.realpath(path)) for path in (config.bids_dir, config.output_dir, config.execution.work_dir)
    )
    if not bids_dir.exists():
        raise MissingInputError(f"bids_dir: there is no folder {config.bids_dir}")
    if not bids_dir.is_dir():
        raise UnusableInputError(f"bids_dir: {config.bids_dir} is not a folder")
    if output_dir == bids_dir:
        better = config.bids_dir / "derivatives" / f"conform-{config.app}"
        raise UsageError(f"output_dir must not be bids_dir ({config.bids_dir}); use, say, {better}")
    for name, path in derivative_paths(config.bids).items():
        if output_dir == Path(os.path.realpath(path)):
            raise UsageError(f"output_dir must not be an input, and is --derivatives {name} ({path})")
        _check_not_among_inputs(config, output_dir, path, f"--derivatives {name}")
    _check_not_among_inputs(config, output_dir, config.bids_dir, "bids_dir")
    if work_dir == bids_dir or bids_dir in work_dir.parents:
        raise UsageError(f"the work folder ({config.execution.work_dir}) must not be inside of bids_dir; give another by --work-dir")
    if work_dir == output_dir:
        raise UsageError(f"the work folder must not be output_dir ({config.output_dir}); give another by --work-dir")
    for name, path in (("output_dir", output_dir), ("--work-dir", work_dir)):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{name}: {path} is not a folder")


def _check_not_among_inputs(config: RunConfig, output_dir: Path, root: Path, called: str) -> None:
    """Refuse an output folder inside of a derivative that is read, or among the files of a raw dataset."""
    real = Path(os.path.realpath(root))
    if real not in output_dir.parents:
        return
    first = output_dir.relative_to(real).parts[0]
    if first == "derivatives":  # BIDS nests them in raw datasets and in derivatives
        return
    from conform_bids.bids.datasets import read_description

    try:
        is_derivative = read_description(root).is_derivative
    except (MissingInputError, UnusableInputError):
        is_derivative = False  # whether it can be used is found where it is opened
    if is_derivative:
        better = root.parent / f"conform-{config.app}"
        raise UsageError(f"output_dir ({config.output_dir}) must not be inside of {called}, the derivative {root}; use, say, {better}")
    if first.startswith("sub-") or first in _PLACES_OF_INPUTS:
        better = root / "derivatives" / f"conform-{config.app}"
        raise UsageError(f"output_dir ({config.output_dir}) must not be inside of {first} of {called} ({root}); use, say, {better}")


def settings_record(app: App, config: RunConfig) -> dict[str, Any]:
    """What decides on the results, for the output tree: app, version, settings, seed; a file by its name and content.

    Raises
    ------
    MissingInputError
        When a file that a setting names does not exist.
    """
    settings = to_mapping(config.settings)
    for entry in options_of(type(config.settings)):
        value = getattr(config.settings, entry.name)
        if entry.kind is Path and value is not None:
            settings[entry.name] = [_fingerprint(entry.flag, path) for path in value] if entry.many else _fingerprint(entry.flag, value)
        elif entry.kind is str and isinstance(value, str) and os.path.isabs(value) and os.path.isfile(value):
            settings[entry.name] = _fingerprint(entry.flag, Path(value))
    settings["random_seed"] = config.execution.random_seed
    settings["sloppy"] = config.execution.sloppy
    record: dict[str, Any] = json.loads(json.dumps({"App": app.command, "Version": app.version, "Settings": settings}))
    return record


def check_output(app: App, config: RunConfig) -> None:
    """Refuse an output folder of something else, or of other settings or another version without ``--overwrite``.

    Raises
    ------
    UsageError
        Saying what made it, or which setting differs.
    """
    output_dir = config.output_dir
    description = _read_json(output_dir / "dataset_description.json")
    if description is not None:
        makers = description.get("GeneratedBy")
        makers = makers if isinstance(makers, list) else []
        names = [str(maker.get("Name")) for maker in makers if isinstance(maker, Mapping)]
        if app.command not in names[:1]:
            kind = f"was made by {names[0]}" if names else "is a dataset that no app made"
            raise UsageError(f"output_dir {output_dir} {kind}; give {app.command} a folder of its own")
    made = _read_json(output_dir / SETTINGS_RECORD)
    if made is None or config.actions.overwrite or not _holds_results(output_dir) or config.levels == ("group",):
        return  # the group level computes nothing that settings decide
    ours = settings_record(app, config)
    if made.get("App") != app.command:
        raise UsageError(f"output_dir {output_dir} was made by {made.get('App')}; give {app.command} a folder of its own")
    differences = _differences(made, ours)
    if differences:
        raise UsageError(
            f"output_dir {output_dir} was made with {'; '.join(differences)}; use another folder, or --overwrite to write to it anyway"
        )


def app_work_dir(config: RunConfig) -> Path:
    """Folder of the app in the work folder; two apps may share the latter."""
    return config.execution.work_dir / f"conform_{config.app}"


def make_work_dir(config: RunConfig) -> Path:
    """Make the app's work folder, marked as such.

    Raises
    ------
    UsageError
        When it cannot be made.
    """
    folder = app_work_dir(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARKER).touch()
    except OSError as error:
        raise UsageError(f"--work-dir: {folder} cannot be written: {error.strerror or error}") from error
    return folder


def clean_work_dir(config: RunConfig) -> None:
    """Remove what the app left in the work folder, and nothing that it did not make.

    Raises
    ------
    UsageError
        When the folder there is not one that the app made.
    """
    folder = app_work_dir(config)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not (folder / _MARKER).is_file():
        raise UsageError(f"--clean-workdir: {folder} is not a work folder that {config.app} made; nothing was removed")
    shutil.rmtree(folder)


def tidy_output(output_dir: Path, participants: Iterable[str]) -> None:
    """Remove temporary files of runs that were killed, at the root and in the folders of these participants."""
    from conform_bids.bids.atomic import remove_left_behind

    own = {f"sub-{label}" for label in participants}
    remove_left_behind(path for path in output_dir.iterdir() if path.name in own or not (path.name.startswith("sub-") and path.is_dir()))


def former_files(output_dir: Path, participant: str, jobs: Iterable[Job]) -> list[Path]:
    """Files of earlier runs that belong to what some jobs will do again, figures included: what ``--overwrite`` replaces.

    They share the entities of a file that the jobs declare, but for those in which the files of a job differ, and their session and run,
    if any, are ones that the jobs read. A table that files of other jobs go by stays.
    """
    jobs = list(jobs)
    declared = {output for job in jobs for output in job.outputs}
    kinds = {_kind(entities) for output in declared if (entities := _entities(output))}
    read = [entities for job in jobs for path in job.inputs if (entities := _entities(path.name))]
    known = {key: {None, *(entities.get(key) for entities in read)} for key in ("ses", "run")}
    former: dict[Path, dict[str, str]] = {}
    others: set[tuple[str | None, frozenset[tuple[str, str]]]] = set()
    for path in sorted((output_dir / f"sub-{participant}").rglob("*")):
        entities = _entities(path.name) if path.is_file() and "log" not in path.relative_to(output_dir).parts else {}
        if entities and _kind(entities) in kinds and all(entities.get(key) in labels for key, labels in known.items()):
            former[path] = entities
        elif entities:
            others.add(_table_of(entities))
    return [
        path
        for path, entities in former.items()
        if "space" in entities or path.relative_to(output_dir).as_posix() in declared or _table_of(entities) not in others
    ]


@dataclass(frozen=True)
class FormerFiles:
    """What a run with ``--overwrite`` replaces. It stays until a participant is complete, as a run that fails must lose nothing.

    Attributes
    ----------
    files : mapping
        Participant to former files, each with what tells whether it was written anew (inode, time of change in ns).
    declared : frozenset of Path
        Files that the jobs write, which are never stale.
    """

    files: Mapping[str, Mapping[Path, tuple[int, int]]]
    declared: frozenset[Path]

    @classmethod
    def of(cls, output_dir: Path, jobs: Mapping[str, Iterable[Job]]) -> FormerFiles:
        """Take note of what is there before the jobs run."""
        files = {label: {path: _state(path) for path in former_files(output_dir, label, own)} for label, own in jobs.items()}
        return cls(files, frozenset(output_dir / output for own in jobs.values() for job in own for output in job.outputs))

    def remove_stale(self, completed: Iterable[str]) -> list[str]:
        """Remove what the run did not write anew, of participants that are complete; a warning for each other that has former files."""
        done = set(completed)
        for path, state in ((path, state) for label in done for path, state in self.files.get(label, {}).items()):
            if path not in self.declared and path.is_file() and _state(path) == state:
                path.unlink()
        return [
            f"sub-{label} is not complete, so files of the former settings are still there: run again with --overwrite"
            for label, files in self.files.items()
            if label not in done and any(path.is_file() and _state(path) == state for path, state in files.items())
        ]


def _state(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns


def _entities(name: str) -> dict[str, str]:
    """Entities of a file name; none where it is no BIDS name."""
    from conform_bids.bids.names import parse_name

    try:
        return dict(parse_name(name).entities)
    except ValueError:
        return {}


def _table_of(entities: Mapping[str, str]) -> tuple[str | None, frozenset[tuple[str, str]]]:
    """What a file has in common with the tables that go with it, which have no space in their names."""
    plain = {key: label for key, label in entities.items() if key not in ("space", "res", "den", "run", "stat", "desc", "hemi")}
    return entities.get("desc"), frozenset(plain.items())


def _kind(entities: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((key, label) for key, label in entities.items() if key not in _WITHIN_A_JOB)


def _differences(made: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    differences = []
    if made.get("Version") != ours["Version"]:
        differences.append(f"version {made.get('Version')} (this is {ours['Version']})")
    theirs = made.get("Settings")
    theirs = theirs if isinstance(theirs, Mapping) else {}
    for name in dict.fromkeys((*ours["Settings"], *theirs)):
        before, now = theirs.get(name), ours["Settings"].get(name)
        if before != now:
            differences.append(f"{name} = {_show(before)} (now {_show(now)})")
    return differences


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _fingerprint(flag: str, path: Path) -> str:
    """A file's name and content; of a folder, which may hold thousands of stimuli, the names and sizes of its files."""
    try:
        content = _listing(path) if path.is_dir() else path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise MissingInputError(f"{flag}: {path}: {error.strerror or error}") from error
    return f"{path.name} (sha256 {digest[:16]})"


def _listing(folder: Path) -> bytes:
    """Names and sizes of all files of a folder that are not hidden."""
    lines = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(place, name)
                lines.append(f"{path.relative_to(folder).as_posix()} {path.stat().st_size if path.exists() else 'absent'}")
    return "\n".join(lines).encode(errors="surrogateescape")


def _holds_results(output_dir: Path) -> bool:
    """Whether there is more than logs and reports of participants."""
    for folder in (*output_dir.glob("sub-*"), *output_dir.glob("tpl-*"), output_dir / "store"):
        for _, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name not in ("log", "figures")]
            if files:
                return True
    return False


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
