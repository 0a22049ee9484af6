"""An app as a Boutiques descriptor (schema 0.5), made from the same options as its command line.

``python -m bids_app.descriptor glm`` writes ``bids_app/glm/boutiques.json``. BIDS-App conventions hold (``bosh validate
--bids``), so that platforms which know them need nothing more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bids_app.app import App, find_app
from bids_app.run_options import Actions, BIDSOptions, ExecutionOptions
from conform_bids import CODE_URL
from conform_bids.options import Option, options_of

__all__ = ["boutiques_descriptor", "boutiques_text", "main"]

_FIRST = ("participant_label", "session_label")
_FOLDERS = {"bids_database_dir", "work_dir"}
_EXIT_CODES = {
    1: "Some participants completed and some failed, or the machine failed (a full disk, a killed process).",
    2: "Usage: options that contradict each other, or an output folder of another app, settings or version.",
    65: "Nothing completed: the dataset cannot be used.",
    66: "Nothing completed: an input is missing, or a label matches nothing.",
    70: "A bug.",
    130: "Interrupted.",
    143: "Terminated.",
}


def boutiques_descriptor(app: App) -> dict[str, Any]:
    """Make the Boutiques descriptor of an app."""
    shared = [entry for options in (BIDSOptions, ExecutionOptions, Actions) for entry in options_of(options)]
    shared = [entry for entry in shared if entry.name != "verbose"]
    shared.sort(key=lambda entry: _FIRST.index(entry.name) if entry.name in _FIRST else len(_FIRST))
    own = list(options_of(app.settings))
    optional = [*map(_input, shared), _config_file(), *map(_input, own)]
    keys = " ".join(entry["value-key"] for entry in optional)
    return {
        "name": app.command,
        "description": f"{app.summary} {app.description}",
        "author": "The conform developers",
        "url": CODE_URL,
        "tool-version": app.version,
        "schema-version": "0.5",
        "command-line": f"mkdir -p [OUTPUT_DIR]; {app.command} [BIDS_DIR] [OUTPUT_DIR] [ANALYSIS_LEVEL] {keys}",
        "inputs": [*_positionals(app), *optional],
        "output-files": [
            {
                "id": "results",
                "name": "Output folder",
                "description": "A BIDS derivative dataset with a report for each participant.",
                "path-template": "[OUTPUT_DIR]",
            }
        ],
        "groups": _groups(shared, own, app),
        "error-codes": [{"code": code, "description": text} for code, text in _EXIT_CODES.items()],
        "tags": {"domain": ["neuroinformatics", "bids-app", "fmri"]},
    }


def boutiques_text(app: App) -> str:
    """Text of the descriptor's file."""
    return json.dumps(boutiques_descriptor(app), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the descriptors of some apps beside their ``__main__.py``."""
    parser = argparse.ArgumentParser(prog="python -m bids_app.descriptor", description="Write bids_app/<app>/boutiques.json.")
    parser.add_argument("app", nargs="+", help="Short names of apps, as glm.")
    for name in parser.parse_args(arguments).app:
        path = Path(__file__).with_name(name) / "boutiques.json"
        path.write_text(boutiques_text(find_app(name)), encoding="utf-8")
        print(path)
    return 0


def _positionals(app: App) -> list[dict[str, Any]]:
    return [
        {
            "id": "bids_dir",
            "name": "BIDS dataset",
            "description": "Folder of a BIDS dataset: raw, or a derivative.",
            "type": "File",
            "value-key": "[BIDS_DIR]",
            "optional": False,
        },
        {
            "id": "output_dir_name",
            "name": "Output folder, to be made",
            "description": "Folder for the results, where it does not exist yet.",
            "type": "String",
            "value-key": "[OUTPUT_DIR]",
            "optional": True,
            "disables-inputs": ["output_dir"],
        },
        {
            "id": "output_dir",
            "name": "Output folder",
            "description": "Folder for the results, where it exists.",
            "type": "File",
            "value-key": "[OUTPUT_DIR]",
            "optional": True,
            "disables-inputs": ["output_dir_name"],
        },
        {
            "id": "analysis_level",
            "name": "Analysis level",
            "description": "What to do: each participant, or the summary over them.",
            "type": "String",
            "value-key": "[ANALYSIS_LEVEL]",
            "value-choices": list(app.levels),
            "optional": False,
        },
    ]


def _identifier(entry: Option) -> str:
    """Name of the input: that of the field, or of the flag where the flag negates the field."""
    return f"no_{entry.name}" if entry.kind is bool and entry.default is True else entry.name


def _input(entry: Option) -> dict[str, Any]:
    kinds = {bool: "Flag", int: "Number", float: "Number", Path: "File"}
    record: dict[str, Any] = {
        "id": _identifier(entry),
        "name": _identifier(entry).replace("_", " "),
        "description": f"{entry.help} (in {entry.unit})" if entry.unit else entry.help,
        "type": "String" if entry.name in _FOLDERS else kinds.get(entry.kind, "String"),
        "value-key": f"[{_identifier(entry).upper()}]",
        "command-line-flag": entry.flag,
        "optional": True,
    }
    if entry.const is not None and entry.choices is not None and len(entry.choices) == 1:
        return {**record, "type": "Flag"}  # the flag alone stands for the one value that there is
    if entry.kind in (int, float):
        record["integer"] = entry.kind is int
        record |= {key: value for key, value in (("minimum", entry.minimum), ("maximum", entry.maximum)) if value is not None}
    if entry.choices is not None:
        record["value-choices"] = list(entry.choices)
    if entry.many:
        record["list"] = True
        if entry.length is not None:
            record |= {"min-list-entries": entry.length, "max-list-entries": entry.length}
    elif entry.kind in (int, float, str) and entry.default is not None:
        record["description"] += "" if "default" in entry.help else f" (default: {entry.default})"
    return record


def _config_file() -> dict[str, Any]:
    return {
        "id": "config_file",
        "name": "config file",
        "description": "Options from a TOML file, as logs/<run>/conform.toml of an earlier run; the command line wins.",
        "type": "File",
        "value-key": "[CONFIG_FILE]",
        "command-line-flag": "--config-file",
        "optional": True,
    }


def _groups(shared: Sequence[Option], own: Sequence[Option], app: App) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {
            "id": "output_dirs",
            "name": "output folder",
            "description": "One of the two.",
            "members": ["output_dir_name", "output_dir"],
            "mutually-exclusive": True,
            "one-is-required": True,
        }
    ]
    titles: dict[str, list[str]] = {}
    for entry in shared:
        titles.setdefault(entry.group, []).append(_identifier(entry))
    for entry in own:
        titles.setdefault(f"{app.command}: {entry.group}", []).append(_identifier(entry))
    for title, members in titles.items():
        identifier = "group_" + "".join(letter if letter.isalnum() else "_" for letter in title)
        groups.append({"id": identifier, "name": title, "members": members})
    return groups


if __name__ == "__main__":
    sys.exit(main())
