"""The command line: BIDS-App arguments, the options that all apps share, and one flag a settings field.

Only what was typed comes out of the parser, so that it can be laid over a configuration file; defaults are those of
the option classes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bids_app.app import App
from bids_app.config import RunConfig, anchor_paths, build_config, read_toml
from bids_app.run_options import Actions, BIDSOptions, ExecutionOptions
from conform_bids.errors import UsageError
from conform_bids.options import Option, options_of

__all__ = ["build_parser", "parse"]

_EPILOG = (
    "Every switch has an opposite, as --no-low-mem of --low-mem, which takes back what a configuration file says. "
    "Exit status: 0 all done; 1 some participants failed; 2 usage; 65 the dataset cannot be used; 66 an input is missing; "
    "70 a bug; 130, 143 interrupted."
)
_HAND_WRITTEN = {"memory_gb", "verbose"}
_SAID_DEFAULT = re.compile(r"(?P<text>.*) \((?P<default>default: [^()]*)\)\.", re.DOTALL)
_NEGATIVE_NUMBER = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


def parse(app: App, arguments: Sequence[str] | None = None) -> RunConfig:
    """Read the command line and, where one is given, the configuration file below it.

    Raises
    ------
    UsageError
        For options that contradict each other or are out of range.
    SystemExit
        By argparse: 2 for what it cannot read, 0 for ``--help`` and ``--version``.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(app)
    values = vars(parser.parse_args(_positionals_first(typed, parser)))
    config_file = Path(values.pop("config_file")) if "config_file" in values else None
    sections: dict[str, dict[str, Any]] = {}
    if config_file is not None:
        content = read_toml(config_file)
        written_for = content.get("run", {}).get("app", app.name)
        if written_for != app.name:
            raise UsageError(f"--config-file {config_file}: written by conform-{written_for}, not {app.command}")
        sections = anchor_paths(content, config_file.parent, app.settings)
    for key, value in values.items():
        if value not in (None, []):
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
    try:
        return build_config(app.name, app.settings, app.levels, sections, command_line=(app.command, *typed))
    except UsageError as error:
        if config_file is not None and str(error).startswith("unknown setting"):
            raise UsageError(f"--config-file {config_file}: {error}") from error
        raise


def build_parser(app: App) -> argparse.ArgumentParser:
    """Make the parser of an app; every destination is ``section.name``."""
    levels = ",".join(app.levels)
    parser = argparse.ArgumentParser(
        prog=app.command,
        usage=f"{app.command} bids_dir output_dir {{{levels}}} [options]",
        description=f"{app.summary} {app.description}",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
    )
    # No default of SUPPRESS for these: argparse would pass that word through ``type``.
    parser.add_argument(
        "run.bids_dir", metavar="bids_dir", nargs="?", default=None, type=_path, help="A BIDS dataset: raw, or a derivative."
    )
    parser.add_argument("run.output_dir", metavar="output_dir", nargs="?", default=None, type=_path, help="Folder for the results.")
    parser.add_argument("run.levels", metavar=f"{{{levels}}}", nargs="*", default=None, help="Analysis level, one or both.")
    parser.add_argument("--version", action="version", version=f"{app.command} v{app.version}")
    groups: dict[str, Any] = {}
    for section, options in (("bids", BIDSOptions), ("execution", ExecutionOptions), ("actions", Actions)):
        for entry in options_of(options):
            group = _group(parser, groups, entry.group)
            if entry.name in _HAND_WRITTEN:
                _add_by_hand(group, section, entry)
            else:
                _add(group, section, entry)
    groups["workflow"].add_argument(
        "--config-file", "--config_file", type=_path, dest="config_file", metavar="TOML",
        help="Options from a TOML file, as logs/<run>/conform.toml of an earlier run; the command line wins.",
    )  # fmt: skip
    groups["resources"].add_argument(
        "--no-gpu", action="store_const", const="cpu", dest="execution.device", help="The same as --device cpu."
    )
    for entry in options_of(app.settings):
        _add(_group(parser, groups, f"{app.command}: {entry.group}"), "settings", entry)
    return parser


class _Formatter(argparse.HelpFormatter):
    """Names what an option takes once, after all its spellings, and a list as the documentation does: ``LABEL ...``."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest)}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.option_strings and action.nargs == "+":
            (name,) = self._metavar_formatter(action, default_metavar)(1)
            return f"{name} ..."
        return super()._format_args(action, default_metavar)


def _group(parser: argparse.ArgumentParser, groups: dict[str, Any], title: str) -> Any:
    if title not in groups:
        groups[title] = parser.add_argument_group(title)
    return groups[title]


def _add(group: Any, section: str, entry: Option) -> None:
    """Add the flag of one option."""
    flags = sorted((entry.flag, *entry.aliases), key=lambda flag: flag.startswith("--"))
    keywords: dict[str, Any] = {"dest": f"{section}.{entry.name}", "help": _help(entry)}
    if entry.kind is bool:
        has_opposite = section != "actions"  # it takes back what a configuration file says, where actions do not stand
        if has_opposite and entry.flag.startswith("--no-"):  # of the others it is --no-..., as the end of the help says
            keywords["help"] += f" Opposite: {_opposite(entry)}."
        group.add_argument(*flags, action="store_false" if entry.default is True else "store_true", **keywords)
        if has_opposite:
            keywords["help"] = argparse.SUPPRESS
            group.add_argument(_opposite(entry), action="store_true" if entry.default is True else "store_false", **keywords)
        return
    keywords["type"] = _reader(entry.kind)
    if entry.choices is not None:
        keywords["choices"] = entry.choices
    if entry.metavar is not None:
        keywords["metavar"] = entry.metavar
    elif entry.choices is None:
        keywords["metavar"] = {int: "N", float: "X", Path: "FILE"}.get(entry.kind, entry.name.upper())
    if entry.const is not None:
        keywords.update(nargs="?", const=entry.const)
    elif entry.many and entry.length is not None:
        keywords["nargs"] = entry.length
    elif entry.many:
        keywords.update(nargs="+", action="extend")
        if entry.choices is None and entry.kind is not tuple:
            keywords["metavar"] = entry.metavar or entry.name.upper()
    group.add_argument(*flags, **keywords)


def _opposite(entry: Option) -> str:
    """Flag that takes back that of a bool."""
    return f"--{entry.flag.removeprefix('--no-')}" if entry.flag.startswith("--no-") else f"--no-{entry.flag.removeprefix('--')}"


def _add_by_hand(group: Any, section: str, entry: Option) -> None:
    """Add the two options whose spellings differ in meaning: memory, by unit, and -v, by count."""
    if entry.name == "verbose":
        group.add_argument("-v", "--verbose", action="count", dest=f"{section}.verbose", help=entry.help)
        return
    destination = f"{section}.memory_gb"
    group.add_argument(
        "--mem", type=_memory, dest=destination, metavar="SIZE",
        help="Memory that the run may use, as 16G or 16000M; a number alone is in MB (default: what the machine and the cgroup grant).",
    )  # fmt: skip
    group.add_argument("--mem-mb", "--mem_mb", type=_megabytes, dest=destination, metavar="MB", help="The same, in MB.")
    group.add_argument(entry.flag, *entry.aliases, type=float, dest=destination, metavar="GB", help="The same, in GB.")


def _help(entry: Option) -> str:
    """Help text with unit, range, default and opposite, each once."""
    said = _SAID_DEFAULT.fullmatch(entry.help)
    facts = []
    if entry.unit:
        facts.append(f"in {entry.unit}")
    if entry.kind in (int, float):
        low, high = entry.minimum, entry.maximum
        if low is not None and high is not None:
            facts.append(f"{low:g} to {high:g}")
        elif low is not None:
            facts.append(f"at least {low:g}")
        elif high is not None:
            facts.append(f"at most {high:g}")
    if entry.kind is not bool and entry.default not in (None, ()) and "default" not in entry.help:
        elements = entry.default if entry.many else (entry.default,)
        facts.append("default: " + " ".join(str(element) for element in elements))
    if facts and said:
        text = f"{said['text']} ({'; '.join([*facts, said['default']])})."
    else:
        text = f"{entry.help} ({'; '.join(facts)})" if facts else entry.help
    return text.replace("%", "%%")


def _reader(kind: type) -> Callable[[str], Any]:
    readers: dict[type, Callable[[str], Any]] = {int: int, float: float, Path: _path}
    return readers.get(kind, str)


def _path(text: str) -> str:
    """Check a path's text; the configuration makes it absolute."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a path is needed")
    return os.path.abspath(os.path.expanduser(text))


def _memory(text: str) -> float:
    from bids_app.resources import parse_memory

    try:
        return float(parse_memory(text))
    except (UsageError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _megabytes(text: str) -> float:
    return float(text) / 1000


def _positionals_first(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Move the positionals to the front.

    argparse cannot find positionals that are spread among options, nor those that follow an option with several values:
    such an option takes them all. Its values end where ``... bids_dir output_dir participant [group]`` follow and no
    other positional is given.
    """
    arity = {flag: action for action in parser._actions for flag in action.option_strings}
    positionals: list[str] = []
    options: list[str] = []
    last_list: tuple[int, int] | None = None
    index = 0
    while index < len(arguments):
        token = arguments[index]
        if token == "--":
            positionals += arguments[index + 1 :]
            break
        index += 1
        if not token.startswith("-") or token == "-" or _NEGATIVE_NUMBER.match(token):
            positionals.append(token)
            continue
        options.append(token)
        action = arity.get(token)
        if action is None:  # --flag=value, -w/path, or unknown: argparse knows
            continue
        taken = _values_of(action, arguments[index:])
        if action.nargs == "+":
            last_list = (len(options), len(options) + len(taken))
        options += taken
        index += len(taken)
    if not positionals and last_list is not None:
        start, stop = last_list
        count = _trailing_positionals(options[start:stop])
        positionals, options = options[stop - count : stop], options[: stop - count] + options[stop:]
    if any(token.startswith("-") for token in positionals):
        return [*options, "--", *positionals]
    return [*positionals, *options]


def _values_of(action: argparse.Action, following: Sequence[str]) -> list[str]:
    """List the values that an option takes of what follows it."""
    if action.nargs == 0:
        return []
    values = []
    for token in following:
        if token.startswith("-") and len(token) > 1 and not _NEGATIVE_NUMBER.match(token):
            break
        values.append(token)
    if action.nargs is None:
        return values[:1]
    if action.nargs == "?":
        allowed: Any = action.choices
        return values[:1] if values and (allowed is None or values[0] in allowed) else []
    return values[: action.nargs] if isinstance(action.nargs, int) else values


def _trailing_positionals(values: Sequence[str]) -> int:
    """Count the positionals at the end of a list option's values: two folders and one or two levels."""
    levels = 0
    while levels < len(values) and values[-1 - levels] in ("participant", "group"):
        levels += 1
    return levels + 2 if levels and len(values) > levels + 2 else 0
