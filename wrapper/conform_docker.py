"""conform-docker: runs a conform BIDS-App in its container; paths of this machine become mounts.

``conform-docker [options] APP bids_dir output_dir {participant,group} [options of the app]``. Standard library only.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__version__ = "0.1.0.dev0"
__all__ = ["APPS", "PATH_FLAGS", "WRAPPER_FLAGS", "Call", "UsageError", "build_command", "main"]

APPS = ("glm", "psn", "align", "encode")

WRITTEN = ("--work-dir", "--work_dir", "-w", "--bids-database-dir", "--bids_database_dir")
"""Options whose folders are written to; they are made where they are not there."""

PATH_FLAGS = (
    *WRITTEN,
    "--bids-filter-file", "--bids_filter_file", "--derivatives", "-d", "--datasets", "--use-plugin", "--use_plugin", "--nipype-plugin-file",
    "--config-file",
    "--config_file", "--hrf-library", "--assumed-hrf", "--dataset-config", "--split", "--unit-groups", "--parcellation", "--template",
    "--features", "--stimuli-dir", "--model", "--text-queries", "--rois", "--predict",
    "--store-features",
)  # fmt: skip
"""Options of the apps whose values are, or may be, paths: ``PATH``, ``NAME=PATH``, or a word where no such file is there."""

WRAPPER_FLAGS: dict[str, bool] = {
    "--image": True,
    "--apptainer": True,
    "--gpus": False,
    "--network": True,
    "--user": True,
    "--dry-run": False,
}
"""Options of our own, and whether they take a value."""

USAGE = (
    "usage: conform-docker [--image NAME | --apptainer FILE.sif] [--gpus] [--network NAME] [--user UID:GID] [--dry-run]\n"
    "                      APP bids_dir output_dir {participant,group} [options of the app]\n"
    f"APP: {', '.join(APPS)}"
)


class UsageError(Exception):
    """A call that cannot be turned into a command; the message says why."""


class Mount(NamedTuple):
    """A folder of this machine, and where the container sees it."""

    source: str
    target: str
    writable: bool


class Call:
    """Mounts of a call, each folder once.

    Attributes
    ----------
    mounts : list of Mount
    """

    def __init__(self) -> None:
        self.mounts: list[Mount] = []

    def add(self, folder: Path, target: str, writable: bool) -> str:
        """Mount a folder, and say where it is inside.

        Raises
        ------
        UsageError
            When the name cannot be written into a mount.
        """
        source = str(folder)
        if any(character in source for character in ',"\n'):
            raise UsageError(f"{source!r}: a path with a comma, a quote or a line break cannot be mounted")
        for mount in self.mounts:
            if mount.source == source and mount.writable == writable:
                return mount.target
        self.mounts.append(Mount(source, target, writable))
        return target

    def inside(self, value: str) -> str:
        """The path inside of what exists on this machine: a folder, or a file in its folder; else the value as it is."""
        path = Path(os.path.abspath(os.path.expanduser(value)))
        if not value or not path.exists():
            return value
        number = len(self.mounts)
        if path.is_dir():
            return self.add(path, f"/in/{number}", writable=False)
        return f"{self.add(path.parent, f'/in/{number}', writable=False)}/{path.name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an app in its container; returns the app's exit status, 2 for a wrong call, 127 where there is no container engine."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"conform-docker v{__version__}")
        return 0
    try:
        command, dry_run = build_command(words)
    except UsageError as error:
        print(f"conform-docker: error: {error}", file=sys.stderr)
        return 2
    if dry_run:
        print(" ".join(shlex.quote(word) for word in command))
        return 0
    try:
        return _status(subprocess.call(command))
    except FileNotFoundError:
        print(f"conform-docker: error: {command[0]} is not installed, or not on the PATH", file=sys.stderr)
        return 127
    except KeyboardInterrupt:
        return 130


def _status(code: int) -> int:
    """Of a command that a signal ended, as a shell says it."""
    return 128 - code if code < 0 else code


def build_command(words: Sequence[str]) -> tuple[list[str], bool]:
    """The command that runs a call, and whether it is only to be printed.

    Parameters
    ----------
    words : sequence of str
        Arguments of conform-docker.

    Raises
    ------
    UsageError
        When an argument is missing, unknown, or cannot be mounted.
    """
    own, rest = _own_options(words)
    if not rest:
        raise UsageError(f"which app? {', '.join(APPS)}")
    app, rest = rest[0], rest[1:]
    if app not in APPS:
        raise UsageError(f"there is no app {app!r}; there are {', '.join(APPS)}")
    if "--image" in own and "--apptainer" in own:
        raise UsageError("--image is of Docker and --apptainer of Apptainer: name one")
    call = Call()
    arguments = _arguments(call, rest)
    if "--apptainer" in own:
        return _apptainer(app, own, call, arguments), "--dry-run" in own
    return _docker(app, own, call, arguments), "--dry-run" in own


def _own_options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options of the wrapper, wherever they stand, and the other words; after ``--`` all belongs to the app."""
    own: dict[str, str] = {}
    rest: list[str] = []
    place = 0
    while place < len(words):
        flag, equals, value = words[place].partition("=")
        if words[place] == "--":
            return own, rest + list(words[place + 1 :])
        if flag not in WRAPPER_FLAGS:
            rest.append(words[place])
        elif not WRAPPER_FLAGS[flag]:
            own[flag] = ""
        elif equals:
            own[flag] = value
        elif place + 1 < len(words):
            place += 1
            own[flag] = words[place]
        else:
            raise UsageError(f"{flag} needs a value")
        place += 1
    return own, rest


def _arguments(call: Call, words: Sequence[str]) -> list[str]:
    """Arguments of the app inside the container; mounts are noted on the way."""
    if any(word in ("--version", "-h", "--help") for word in words):
        return list(words)
    positional = _positionals(words)
    if len(positional) < 2:
        raise UsageError("bids_dir and output_dir are needed")
    data, output = (Path(os.path.abspath(os.path.expanduser(words[place]))) for place in positional[:2])
    if not data.is_dir():
        raise UsageError(f"bids_dir {data}: there is no such folder")
    output.mkdir(parents=True, exist_ok=True)
    places = {positional[0]: call.add(data, "/data", writable=False), positional[1]: call.add(output, "/out", writable=True)}
    inside: list[str] = []
    flag = ""
    for place, word in enumerate(words):
        if place in places:
            inside.append(places[place])
        elif word.startswith("-") and len(word) > 1:
            flag, equals, value = word.partition("=")
            inside.append(f"{flag}={_value(call, flag, value)}" if equals and flag in PATH_FLAGS else word)
        else:
            inside.append(_value(call, flag, word) if flag in PATH_FLAGS and place not in positional else word)
    if not any(word.partition("=")[0] in WRITTEN[:3] for word in words):
        inside += ["--work-dir", _folder(call, "work", "/work")]
    return inside


def _positionals(words: Sequence[str]) -> list[int]:
    """Places of bids_dir, output_dir and the level: the words before the first option."""
    places = []
    for place, word in enumerate(words):
        if word.startswith("-"):
            break
        places.append(place)
    return places


def _value(call: Call, flag: str, value: str) -> str:
    """A value of an option inside the container."""
    if flag in WRITTEN:
        return _folder(call, value, "/work" if flag in WRITTEN[:3] else "/database")
    name, equals, path = value.partition("=")
    if equals and not Path(os.path.expanduser(value)).exists():
        return f"{name}={call.inside(path)}"
    return call.inside(value)


def _folder(call: Call, value: str, target: str) -> str:
    path = Path(os.path.abspath(os.path.expanduser(value)))
    path.mkdir(parents=True, exist_ok=True)
    return call.add(path, target, writable=True)


def _templates(call: Call) -> None:
    home = os.environ.get("TEMPLATEFLOW_HOME")
    if home and Path(home).is_dir():
        call.add(Path(os.path.abspath(home)), "/opt/templateflow", writable=False)


def _docker(app: str, own: dict[str, str], call: Call, arguments: list[str]) -> list[str]:
    _templates(call)
    command = ["docker", "run", "--rm", "--network", own.get("--network", "none"), "--read-only", "--tmpfs", "/tmp"]
    user = own.get("--user") or (f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else "")
    command += ["--user", user] if user else []
    command += ["--gpus", "all"] if "--gpus" in own else []
    for mount in call.mounts:
        command += ["--mount", f"type=bind,source={mount.source},target={mount.target}{'' if mount.writable else ',readonly'}"]
    return [*command, own.get("--image") or f"conform/{app}", *arguments]


def _apptainer(app: str, own: dict[str, str], call: Call, arguments: list[str]) -> list[str]:
    image = Path(os.path.expanduser(own["--apptainer"]))
    if not image.exists():
        raise UsageError(f"--apptainer {image}: there is no such image")
    if "--user" in own:
        raise UsageError("--user is of Docker: Apptainer runs as you")
    _templates(call)
    command = ["apptainer", "run", "--cleanenv", "--containall"]
    command += ["--nv"] if "--gpus" in own else []
    command += ["--net", "--network", own["--network"]] if "--network" in own else []
    for mount in call.mounts:
        command += ["--mount", f"type=bind,source={mount.source},destination={mount.target}{'' if mount.writable else ',ro'}"]
    return [*command, "--app", app, str(image), *arguments]


if __name__ == "__main__":
    sys.exit(main())
