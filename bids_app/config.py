"""The configuration of a run as one frozen value, and its TOML file.

``logs/<run>/conform.toml`` in the output folder re-runs the run: ``conform-<app> --config-file FILE``. Its paths are
absolute; relative ones, in a file written by hand, count from the file's folder.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_app.run_options import Actions, BIDSOptions, ExecutionOptions
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.options import from_mapping, options_of, to_mapping

__all__ = ["SECTIONS", "RunConfig", "anchor_paths", "build_config", "derivative_paths", "new_run_id", "read_toml", "write_toml"]

SECTIONS = ("run", "bids", "execution", "settings")
_RUN_KEYS = ("app", "version", "run_id", "bids_dir", "output_dir", "levels")
_PREFIXES = {"participant_label": "sub-", "session_label": "ses-", "task_id": "task-", "run_label": "run-"}


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on.

    Attributes
    ----------
    app : str
        The app's short name.
    bids_dir, output_dir : Path
        Absolute.
    levels : tuple of str
        ``participant``, ``group`` or both.
    bids, execution, actions
        The options that all apps share.
    settings
        The app's own settings, an instance of its settings class.
    run_id : str
        ``YYYYmmdd-HHMMSS_<uuid4>``.
    command_line : tuple of str
        What was typed; for the log.
    """

    app: str
    bids_dir: Path
    output_dir: Path
    levels: tuple[str, ...]
    settings: Any
    bids: BIDSOptions = dataclasses.field(default_factory=BIDSOptions)
    execution: ExecutionOptions = dataclasses.field(default_factory=ExecutionOptions)
    actions: Actions = dataclasses.field(default_factory=Actions)
    run_id: str = "unset"
    command_line: tuple[str, ...] = ()


def new_run_id() -> str:
    """Name a run: local time and a random UUID, so that jobs of an array never share a folder."""
    import time
    import uuid

    return f"{time.strftime('%Y%m%d-%H%M%S')}_{uuid.uuid4()}"


def build_config(
    app: str,
    settings_class: type,
    levels: tuple[str, ...],
    sections: Mapping[str, Mapping[str, Any]],
    *,
    command_line: tuple[str, ...] = (),
) -> RunConfig:
    """Make the configuration of plain values.

    Parameters
    ----------
    app : str
        The app's short name.
    settings_class, levels
        Its settings, and the levels that it has.
    sections
        Those of the TOML file, and ``actions``; bids_dir, output_dir and levels in ``run`` are needed.

    Raises
    ------
    UsageError
        For unknown keys, missing positionals, and values out of range.
    """
    run = sections.get("run", {})
    needed = {"bids_dir": "bids_dir", "output_dir": "output_dir", "levels": f"analysis level ({', '.join(levels)})"}
    missing = [name for key, name in needed.items() if not run.get(key)]
    if missing:
        hint = " (put them first, or after `--`: an option with several values takes all that follow it)"
        options = any(word.startswith("-") for word in command_line[1:])
        raise UsageError(f"the following arguments are required: {', '.join(missing)}{hint if options else ''}")
    asked = tuple(level for level in levels if level in run["levels"])
    unknown = [level for level in run["levels"] if level not in levels]
    if unknown:
        raise UsageError(f"analysis level {unknown[0]!r} is not one of {', '.join(levels)}")
    bids = from_mapping(BIDSOptions, _clean_labels(sections.get("bids", {})))
    execution = from_mapping(ExecutionOptions, sections.get("execution", {}))
    return RunConfig(
        app=app,
        bids_dir=_absolute(run["bids_dir"]),
        output_dir=_absolute(run["output_dir"]),
        levels=asked,
        settings=_absolute_paths(from_mapping(settings_class, sections.get("settings", {}))),
        bids=_absolute_paths(dataclasses.replace(bids, derivatives=tuple(map(_absolute_derivative, bids.derivatives)))),
        execution=_absolute_paths(execution),
        actions=from_mapping(Actions, sections.get("actions", {})),
        run_id=new_run_id(),
        command_line=command_line,
    )


def derivative_paths(bids: BIDSOptions) -> dict[str, Path]:
    """Names and folders of ``--derivatives``; a folder without a name is called by its own.

    Raises
    ------
    UsageError
        When a name is given twice.
    MissingInputError
        When a folder does not exist.
    """
    found: dict[str, Path] = {}
    for item in bids.derivatives:
        name, path = _split_derivative(item)
        if name in found:
            raise UsageError(f"--derivatives: two datasets are called {name!r}; name them as NAME=PATH")
        if not path.is_dir():
            raise MissingInputError(f"--derivatives {name}: there is no folder {path}")
        found[name] = path
    return found


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """Read a configuration file as it stands (`anchor_paths` makes its paths absolute).

    Raises
    ------
    UsageError
        When the file is absent, is not TOML, or has unknown sections or keys in ``[run]``.
    """
    import tomllib

    try:
        with path.open("rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"--config-file {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config-file {path}: not a TOML file: {error}") from error
    for section, values in content.items():
        if section not in SECTIONS or not isinstance(values, dict):
            raise UsageError(f"--config-file {path}: unknown section [{section}]; known are {', '.join(SECTIONS)}")
    for key in content.get("run", {}):
        if key not in _RUN_KEYS:
            raise UsageError(f"--config-file {path}: unknown key {key!r} in [run]; known are {', '.join(_RUN_KEYS)}")
    levels = content.get("run", {}).get("levels", [])
    if isinstance(levels, str):
        content["run"]["levels"] = [levels]
    return content


def anchor_paths(content: dict[str, dict[str, Any]], folder: Path, settings_class: type) -> dict[str, dict[str, Any]]:
    """Make the relative paths of a configuration file absolute, counted from ``folder``."""
    anchored = {section: dict(values) for section, values in content.items()}
    for key in ("bids_dir", "output_dir"):
        if key in anchored.get("run", {}):
            anchored["run"][key] = str(_absolute(anchored["run"][key], folder))
    for section, options in (("bids", BIDSOptions), ("execution", ExecutionOptions), ("settings", settings_class)):
        for entry in options_of(options):
            value = anchored.get(section, {}).get(entry.name)
            if entry.kind is Path and isinstance(value, str):
                anchored[section][entry.name] = str(_absolute(value, folder))
            elif entry.kind is Path and isinstance(value, list):
                anchored[section][entry.name] = [str(_absolute(item, folder)) for item in value]
    derivatives = anchored.get("bids", {}).get("derivatives")
    if derivatives is not None:
        items = [derivatives] if isinstance(derivatives, str) else derivatives
        anchored["bids"]["derivatives"] = [_absolute_derivative(str(item), folder) for item in items]
    return anchored


def write_toml(config: RunConfig, path: Path, version: str) -> None:
    """Write the configuration so that ``--config-file`` repeats the run from any folder."""
    import tomli_w

    from conform_bids.bids.derivatives import write_text

    content = {
        "run": {
            "app": config.app,
            "version": version,
            "run_id": config.run_id,
            "bids_dir": str(config.bids_dir),
            "output_dir": str(config.output_dir),
            "levels": list(config.levels),
        },
        "bids": to_mapping(config.bids),
        "execution": to_mapping(config.execution),
        "settings": _grouped_as_text(config.settings),
    }
    write_text(tomli_w.dumps(content), path)


def _grouped_as_text(settings: Any) -> dict[str, Any]:
    """Settings as plain values, with groups of labels written as on the command line (``01,02``)."""
    values = to_mapping(settings)
    for entry in options_of(type(settings)):
        if entry.kind is tuple and entry.name in values:
            values[entry.name] = [",".join(group) for group in values[entry.name]]
    return values


def _clean_labels(values: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = dict(values)
    for key, prefix in _PREFIXES.items():
        given = cleaned.get(key)
        if given is None:
            continue
        items = [given] if isinstance(given, str) else list(given)
        labels = [label.strip().removeprefix(prefix) for item in items for label in re.split(r"[,\s]+", str(item).strip()) if label]
        for label in labels:
            if not re.fullmatch(r"[0-9A-Za-z+]+", label):
                raise UsageError(f"--{key.replace('_', '-')}: {label!r} is not a BIDS label (letters and digits)")
        cleaned[key] = list(dict.fromkeys(labels))
    return cleaned


def _absolute(path: str | Path, folder: Path | None = None) -> Path:
    # Not resolve(): a link (a mount, a DataLad worktree) keeps the name by which the user knows it.
    expanded = os.path.expanduser(str(path))
    return Path(os.path.abspath(os.path.join(folder, expanded) if folder else expanded))


def _absolute_paths(options: Any) -> Any:
    changes: dict[str, Any] = {}
    for entry in options_of(type(options)):
        value = getattr(options, entry.name)
        if entry.kind is Path and value is not None:
            changes[entry.name] = tuple(map(_absolute, value)) if entry.many else _absolute(value)
        elif entry.kind is str and isinstance(value, str) and "FILE" in str(entry.metavar) and os.path.isfile(value):
            changes[entry.name] = str(_absolute(value))  # an option that takes a name or a file
    return dataclasses.replace(options, **changes)


def _split_derivative(item: str) -> tuple[str, Path]:
    name, equals, path = item.partition("=")
    if equals and re.fullmatch(r"[0-9A-Za-z_.+-]+", name):
        return name, Path(path)
    return Path(item).name or item, Path(item)


def _absolute_derivative(item: str, folder: Path | None = None) -> str:
    name, path = _split_derivative(item)
    return f"{name}={_absolute(path, folder)}"
