"""``conform-demo datasets OUT``: two simulated datasets with stimuli in common, from a split to a store and a model of everybody.

Each dataset has stimuli of its own, stimuli that the other shows too under another name, and near copies of these, some of which the
datasets call test on one side and train on the other. Called again, it takes up what is there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bids_app.demo_steps import add_app_options, list_reports, run_step, simulate
from conform_bids import __version__
from conform_bids.errors import ConformError
from conform_bids.simulate.settings import SimulationSettings

__all__ = ["main"]

NAMES = ("One", "Two")
THRESHOLD = "0.97"
"""Cosine of the network's features that tells near copies of simulated images from others, whose cosines reach 0.95."""
SPACE = "fsaverage5"
SMALL_MODEL = ("--max-units", "1000", "--contexts", "10", "20", "--draws", "2")
"""Of the population model: a minute's work, of people with some forty train stimuli."""


def _settings(number: int) -> SimulationSettings:
    """Of a small dataset of the one population."""
    return SimulationSettings(
        n_subjects=2,
        n_sessions=1,
        n_runs=4,
        file_formats=("gifti",),
        voxel_size=8.0,
        n_stimuli=60,
        common_fraction=0.5,
        near_duplicates=4,
        repeats=4,
        repeats_over="session",
        seed=number,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conform-demo datasets",
        description="Simulate two datasets that share a part of their stimuli, split the stimuli before any fit, run conform-glm and "
        "conform-psn on each, align the people of both, put all trials into one store, verify it, and train a population model on it.",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        type=Path,
        help="Folder for everything: the datasets OUT/One and OUT/Two with their derivatives, and OUT/split, OUT/conform-align (with the "
        "store), OUT/conform-encode, OUT/work.",
    )
    add_app_options(parser)
    parser.add_argument("--version", action="version", version=f"conform-demo v{__version__}")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration; returns 0, the exit code of what failed, 2 for a wrong call, 130 when interrupted."""
    given = _parser().parse_args(arguments)
    output = Path(os.path.abspath(given.output))
    try:
        for number, name in enumerate(NAMES):
            simulate(output / name, _settings(number))
        for module, words, title in _steps(output, given.app_options):
            if code := run_step(module, words, title):
                return code
        for line in _compared_with_truth(output):
            print(line)
    except ConformError as error:
        print(f"conform-demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("conform-demo: interrupted; call it again to go on", file=sys.stderr)
        return 130
    own = [output / name / "derivatives" / f"conform-{app}" for name in NAMES for app in ("glm", "psn")]
    list_reports([*own, output / "conform-align", output / "conform-encode"])
    return 0


def _steps(output: Path, options: Sequence[str]) -> Iterator[tuple[str, list[str], str]]:
    """Module, arguments and title of each step, in order."""
    datasets = [f"{name}={output / name}" for name in NAMES]
    features, split, aligned = output / "features.h5", output / "split", output / "conform-align"
    more = ["--work-dir", str(output / "work"), *options]
    same = ["--store-features", str(features), "--store-threshold", THRESHOLD]
    every = ["-d", *datasets, *same, *more]
    cache = ["--cache", str(output / "work" / "features")]
    yield "bids_app.store", ["features", str(features), *datasets, *cache], "conform-store features"
    yield "bids_app.align", [str(output / NAMES[0]), str(split), "group", "--split-only", *every], "conform-align group --split-only"
    for name in NAMES:
        root = output / name
        for app in ("glm", "psn"):
            words = [str(root), str(root / "derivatives" / f"conform-{app}"), "participant", "group", *more]
            if app == "glm":
                words += ["--split", str(split / f"split_{name}.tsv")]
            else:
                words += ["-d", f"conform-glm={root / 'derivatives' / 'conform-glm'}"]
            yield f"bids_app.{app}", words, f"conform-{app} of {name}"
    words = [str(output / NAMES[0]), str(aligned), "participant", "group", "--store", "--output-spaces", SPACE, *every]
    yield "bids_app.align", words, "conform-align participant group --store"
    yield "bids_app.store", ["verify", str(aligned / "store")], "conform-store verify"
    words = [str(aligned / "store"), str(output / "conform-encode"), "group", "--features", str(features), *SMALL_MODEL, *more]
    yield "bids_app.encode", words, "conform-encode group"


def _compared_with_truth(output: Path) -> Iterator[str]:
    """Pairs of stimuli by how they were simulated, and how many the store calls the same and put on one side."""
    from conform_bids.simulate.scores import score_same_stimuli
    from conform_bids.store.reading import Store

    found = score_same_stimuli({name: output / name for name in NAMES}, Store(output / "conform-align" / "store").stimuli)
    yield "\nPairs of stimuli, and what the store says of them:"
    yield f"  {'':<33}{'pairs':>7}   {'the same':>9}{'marked differently':>20}{'on one side':>13}"
    for kind in found:
        yield f"  {kind.name:<33}{kind.n_pairs:>7,}   {kind.n_found:>9,}{kind.n_marked_differently:>20,}{kind.n_on_one_side:>13,}"
