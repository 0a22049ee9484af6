"""conform-demo: simulate a dataset, run every installed app on it, compare with the truth, and say where the reports are.

``conform-demo OUT`` writes the dataset to ``OUT/dataset``, each app's output to ``OUT/derivatives/conform-<app>`` and
what lies between to ``OUT/work``; called again it takes up what is there. ``conform-demo simulate OUT`` only simulates,
into ``OUT`` itself; ``conform-demo datasets OUT`` is another demonstration, of two datasets in one store.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from bids_app.app import LEVELS, App
from bids_app.demo_datasets import main as show_datasets
from bids_app.demo_steps import add_app_options, as_typed, command_of, list_reports, run_step, simulate
from conform_bids import __version__
from conform_bids.errors import ConformError, UsageError
from conform_bids.options import Option, from_mapping, options_of
from conform_bids.simulate.settings import SimulationSettings

__all__ = ["DemoApp", "find_apps", "main"]

SCORED_FROM = 3
"""People from which on conform-align has scores."""
_CHAIN = ("glm", "psn", "align", "encode")


@dataclass(frozen=True)
class DemoApp:
    """An app to run.

    Attributes
    ----------
    name : str
        Short name, as the entry point has it.
    module : str
        What ``python -m`` takes.
    levels : tuple of str
        Which of participant and group, in that order.
    options : tuple of str
        Of both levels; those of ``--app-options`` go before.
    """

    name: str
    module: str
    levels: tuple[str, ...]
    options: tuple[str, ...] = ()


def find_apps() -> list[DemoApp]:
    """List the installed apps in the order in which one reads what another wrote; apps beyond the chain come last."""

    def place(name: str) -> tuple[int, str]:
        return (_CHAIN.index(name) if name in _CHAIN else len(_CHAIN), name)

    found = {point.name: point for point in entry_points(group="conform.apps")}
    apps = []
    for name in sorted(found, key=place):
        app: App = found[name].load()
        levels = tuple(level for level in LEVELS if level in app.levels)
        apps.append(DemoApp(name, found[name].module.removesuffix(".__main__"), levels, app.demo_options))
    return apps


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One flag a field of the simulator's settings; a flag that is not given leaves no trace."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for entry in options_of(SimulationSettings):
        group = groups.setdefault(entry.group, parser.add_argument_group(f"simulation: {entry.group}"))
        text = _help(entry).replace("%", "%%")
        if entry.kind is bool:
            group.add_argument(
                entry.flag, dest=entry.name, action="store_const", const=not entry.default, default=argparse.SUPPRESS, help=text
            )
        else:
            group.add_argument(
                entry.flag,
                dest=entry.name,
                type=entry.kind,
                nargs="+" if entry.many else None,
                choices=entry.choices,
                default=argparse.SUPPRESS,
                metavar=None if entry.choices else entry.kind.__name__.upper(),
                help=text,
            )


def _help(entry: Option) -> str:
    if entry.kind is bool:
        return entry.help
    default = " ".join(map(str, entry.default)) if entry.many else f"{entry.default}"
    return f"{entry.help} (default: {default}{f' {entry.unit}' if entry.unit else ''})"


def _parser(simulate_only: bool) -> argparse.ArgumentParser:
    if simulate_only:
        parser = argparse.ArgumentParser(
            prog="conform-demo simulate",
            description="Simulate a BIDS dataset, its fMRIPrep-shaped derivative and the truth beside them (sourcedata/truth).",
        )
        parser.add_argument("output", metavar="OUT", type=Path, help="Folder of the dataset: new, or empty.")
    else:
        parser = argparse.ArgumentParser(
            prog="conform-demo",
            description="Simulate a dataset, run every installed conform app on it, and say where the reports are. A second call takes "
            "up what is there. `conform-demo simulate OUT` only simulates; `conform-demo datasets OUT` puts two datasets into one store.",
        )
        parser.add_argument(
            "output", metavar="OUT", type=Path, help="Folder for everything: OUT/dataset, OUT/derivatives/conform-<app>, OUT/work."
        )
        add_app_options(parser)
        parser.add_argument(
            "--apps",
            metavar="APP",
            nargs="+",
            default=[],
            help="Run these apps alone (glm, psn, ...), in their usual order; each needs what the ones before it wrote (default: all "
            "that are installed).",
        )
    parser.add_argument("--version", action="version", version=f"conform-demo v{__version__}")
    _add_settings(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0, or the exit code of the app that failed, 2 for a wrong call, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["datasets"]:
        return show_datasets(words[1:])
    simulate_only = words[:1] == ["simulate"]
    given = vars(_parser(simulate_only).parse_args(words[1:] if simulate_only else words))
    output = Path(os.path.abspath(given.pop("output")))
    app_options = given.pop("app_options", [])
    asked = given.pop("apps", [])
    try:
        settings = from_mapping(SimulationSettings, given)
        if simulate_only:
            simulate(output, settings)
            return 0
        apps = _choose(find_apps(), asked)
        simulate(output / "dataset", settings)
        status = _run_apps(output, apps, app_options)
        if status == 0 and settings.n_subjects < SCORED_FROM and any(app.name == "align" for app in apps):
            print("\nconform-align has no scores here, as it leaves people out one at a time. To see them:")
            print(f"  {_command_with_scores(output)}")
        return status
    except ConformError as error:
        print(f"conform-demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("conform-demo: interrupted; call it again to go on", file=sys.stderr)
        return 130


def _choose(installed: Sequence[DemoApp], asked: Sequence[str]) -> list[DemoApp]:
    """Those of the installed apps whose names were asked for; all where none was."""
    if not installed:
        raise UsageError("no conform app is installed (entry-point group conform.apps); install the package by pip")
    names = [app.name for app in installed]
    if unknown := [name for name in asked if name not in names]:
        raise UsageError(f"--apps: {', '.join(unknown)} not installed; there are {', '.join(names)}")
    return [app for app in installed if not asked or app.name in asked]


def _run_apps(output: Path, apps: Sequence[DemoApp], app_options: Sequence[str]) -> int:
    earlier: list[str] = []
    folders = [output / "derivatives" / f"conform-{app.name}" for app in apps]
    for app, derivative in zip(apps, folders, strict=True):
        inputs = ["--derivatives", *earlier] if earlier else []
        own = () if app.options[:1] and app.options[0] in app_options else app.options
        for level in app.levels:
            words = [str(output / "dataset"), str(derivative), level, "--work-dir", str(output / "work"), *inputs, *own, *app_options]
            if code := run_step(app.module, words, f"conform-{app.name} {level}"):
                return code
        earlier.append(f"conform-{app.name}={derivative}")
    for line in _compared_with_truth(output):
        print(line)
    list_reports(folders)
    by_name = {app.name: folder for app, folder in zip(apps, folders, strict=True)}
    if "glm" in by_name and "psn" in by_name:
        words = [str(by_name["glm"]), str(by_name["psn"]), "participant", *app_options, "--dry-run"]
        print(f"\nNow try: {shlex.join([*command_of('conform-psn', 'bids_app.psn'), *words])}")
    return 0


def _command_with_scores(output: Path) -> str:
    """Call of this demo, as the user would type it, with as many people as conform-align scores."""
    script = Path(__file__).parents[1] / "ci" / "demo"
    call = [as_typed(script)] if os.access(script, os.X_OK) else command_of("conform-demo", "bids_app.demo")
    return shlex.join([*call, f"{output}-{SCORED_FROM}", "--subjects", str(SCORED_FROM)])


def _compared_with_truth(output: Path) -> Iterator[str]:
    """A table of how near the responses of conform-psn are to what was simulated; nothing where there are none."""
    from conform_bids.simulate.scores import score_responses

    scores = score_responses(output / "dataset", output / "derivatives" / "conform-psn")
    if not scores:
        return
    yield "\nResponses to conditions against the truth (medians over the units that respond):"
    yield f"  {'participant':<13}{'space':<13}{'units':>6}   {'responses':<15}{'r':>5}   {'error (% signal change)':>23}"
    names = {"trialavg": "trial average", "psn": "conform-psn"}
    for score in scores:
        where = f"sub-{score.participant:<9}{score.space:<13}{score.n_units:>6}"
        yield f"  {where}   {names[score.desc]:<15}{score.correlation:>5.2f}   {score.error:>23.2f}"


if __name__ == "__main__":
    sys.exit(main())
