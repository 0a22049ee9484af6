"""What every demonstration does: simulate a dataset, run a command and time it, list reports."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from conform_bids.simulate.settings import SimulationSettings
from conform_bids.wording import counted

__all__ = ["add_app_options", "as_typed", "command_of", "list_reports", "run_step", "simulate"]


def add_app_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that is passed on to every app."""
    parser.add_argument(
        "--app-options",
        metavar="'OPTIONS'",
        type=shlex.split,
        default=[],
        help="Options for every app, quoted as one word with a space in front: --app-options ' --nprocs 2'.",
    )


def as_typed(program: Path) -> str:
    """Path of a program, relative where it lies below the current folder."""
    below = os.path.relpath(program)
    return str(program) if below.startswith("..") else os.path.join(os.curdir, below)


def command_of(script: str, module: str) -> list[str]:
    """Words that start an app, wherever it is typed: its script beside this Python, else ``python -m module``."""
    program = Path(sys.executable).with_name(script)
    return [as_typed(program)] if program.is_file() else [as_typed(Path(sys.executable)), "-m", module]


def simulate(folder: Path, settings: SimulationSettings) -> None:
    """Simulate a dataset, unless it is there with the same settings."""
    from conform_bids.simulate.dataset import simulate_dataset

    start = time.monotonic()
    print(f"Dataset: {folder}", flush=True)
    dataset = simulate_dataset(folder, settings)
    how = f"simulated in {time.monotonic() - start:.0f} s" if dataset.made else "there already, with the same settings"
    print(f"  {counted(len(dataset.participants), 'participant')}, {how}; the truth is in {dataset.truth}", flush=True)


def run_step(module: str, arguments: Sequence[str], title: str) -> int:
    """Run ``python -m module`` and say what it took.

    Parameters
    ----------
    module : str
    arguments : sequence of str
    title : str
        What it is called in what is printed.

    Returns
    -------
    int
        The exit code, as a shell says it where it was killed by a signal.
    """
    command = [sys.executable, "-m", module, *arguments]
    print(f"\n$ {shlex.join(command)}", flush=True)
    start = time.monotonic()
    code = subprocess.run(command, env={**os.environ, "NO_ET": "1", "NIPYPE_NO_ET": "1"}, check=False).returncode
    if code:
        print(f"conform-demo: {title} failed with exit code {code}", file=sys.stderr)
        return code if code > 0 else 128 - code
    print(f"{title}: {time.monotonic() - start:.0f} s", flush=True)
    return 0


def list_reports(folders: Iterable[Path]) -> None:
    """Print the pages that lie in these folders."""
    print("\nReports:")
    for folder in folders:
        for report in (*sorted(folder.glob("sub-*.html")), *sorted(folder.glob("group_*.html"))):
            print(f"  {report}")
