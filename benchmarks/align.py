"""Functional alignment on simulated people (align_worlds.py): prediction of a left-out person's own responses, and its cost.

``python benchmarks/align.py --worlds B --stimuli 20 50 100 300 --noise 1 2 --seeds 11 12 13`` prints, for each method, the mean over
units of correlation / noise ceiling (true reliability; units above .1), 1-of-150 identification in a parcel (chance .007), and CPU
seconds; one left-out person a seed, five others. ``--shuffle`` shuffles that person's stimulus labels: everything must fall to chance.
``--speed`` times 5 people x 10,000 units x 300 stimuli in 50 parcels, and extrapolates to 30 people x 91,000 x 1,000;
``--large 91000`` measures that whole (11 GB of disk), or fewer units or ``--people``: CPU seconds, and GB of memory that is not a file's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from align_worlds import WORLDS, simulate
from machine import peak_anonymous_gb

from conform_bids.align.numerics.data import PersonData, parcels_from_labels, standardise
from conform_bids.align.numerics.options import FAMILIES, AlignOptions, Setting
from conform_bids.align.numerics.scores import score_person, shuffle_stimuli
from conform_bids.align.numerics.template import fit_template
from conform_bids.align.numerics.tuning import choose_setting
from conform_bids.numerics.compute import Compute, limit_threads

METHODS = {
    "anatomy": AlignOptions("none", widths=(0.0,)),
    "anatS": AlignOptions("none"),
    "procrustes": AlignOptions("procrustes"),
    "srm": AlignOptions("srm"),
    "ridge": AlignOptions("ridge"),
    "zero": AlignOptions("psrm", prior="zero"),
    "group": AlignOptions("psrm", prior="group"),
    "kernel": AlignOptions("psrm", prior="kernel"),
    "lean": AlignOptions("stack", families=FAMILIES[:3]),
    "stack": AlignOptions("stack"),
}


def measure(name: str, world: str, n: int, noise: float, seed: int, margin: float, shuffle: bool) -> tuple[float, float, float]:
    """Normalised correlation, identification and CPU seconds (choosing included) for one left-out person."""
    people = simulate(world, n, noise, seed)
    target = seed % len(people.train)
    training = [PersonData(x, reliability=r) for x, r in zip(people.train, people.estimated, strict=True)]
    test = [PersonData(x, reliability=r) for x, r in zip(people.new, people.true, strict=True)]
    if shuffle:
        training[target], test[target] = shuffle_stimuli(training[target], seed), shuffle_stimuli(test[target], seed + 1)
    parcels = parcels_from_labels(people.labels, people.coordinates, margin)
    options, compute = METHODS[name], Compute()
    start = time.process_time()
    others = [person for i, person in enumerate(training) if i != target]
    setting = choose_setting(others, [standardise(person) for person in others], parcels, options, compute, people.coordinates)
    scores = score_person(target, training, test, parcels, options, compute, people.coordinates, setting, None)
    seconds = time.process_time() - start
    return float(np.nanmean(scores.normalised)), float(np.nanmean(scores.identification)), seconds


def accuracy(arguments: argparse.Namespace) -> None:
    """Print a table a world."""
    cells = [(noise, n) for noise in arguments.noise for n in arguments.stimuli]
    for world in arguments.worlds:
        print(f"\nWorld {world}, margin {arguments.margin:g}, seeds {arguments.seeds}: r / ceiling (identification)")
        print("| method | " + " | ".join(f"noise {noise:g}, N={n}" for noise, n in cells) + " | CPU s |")
        print("|---" * (len(cells) + 2) + "|")
        for name in arguments.methods:
            row, total = [], 0.0
            for noise, n in cells:
                found = np.array([measure(name, world, n, noise, seed, arguments.margin, arguments.shuffle) for seed in arguments.seeds])
                row.append(f"{found[:, 0].mean():.3f} ({found[:, 1].mean():.2f})")
                total += float(found[:, 2].mean())
            print(f"| {name} | " + " | ".join(row) + f" | {total:.1f} |", flush=True)


def _stored(values: np.ndarray, folder: Path | None) -> np.ndarray:
    """Responses as the app has them: (units, stimuli) in a file, transposed; in memory without a folder."""
    if folder is None:
        return values
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, np.ascontiguousarray(values.T))
    return np.load(path, mmap_mode="r").T


@dataclass(frozen=True)
class Sheet:
    """People on a sheet of units, 100 units wide, in parcels of ``side``."""

    people: list[PersonData]
    places: np.ndarray
    labels: np.ndarray


def make_sheet(n_people: int, n_units: int, n_stimuli: int, side: tuple[int, int], folder: Path | None = None) -> Sheet:
    """Responses of 40 latent dimensions and noise; in files of a folder, mapped, where there is one."""
    rng = np.random.default_rng(0)
    places = np.column_stack([axis.ravel() for axis in np.meshgrid(np.arange(n_units // 100), np.arange(100), indexing="ij")]).astype(float)
    labels = ((places[:, 0] // side[0]) * (100 // side[1]) + places[:, 1] // side[1] + 1).astype(int)
    latent = rng.standard_normal((n_stimuli, 40)).astype(np.float32)
    people = [
        PersonData(
            _stored(
                latent @ rng.standard_normal((40, n_units), dtype=np.float32) / np.float32(6.3)
                + rng.standard_normal((n_stimuli, n_units), dtype=np.float32),
                folder,
            )
        )
        for _ in range(n_people)
    ]
    return Sheet(people, places, labels)


def _timing(sheet: Sheet, name: str, margin: float) -> float:
    """CPU seconds of a template with one setting."""
    setting = Setting(dict.fromkeys(FAMILIES[1:], 20), dict.fromkeys(FAMILIES, 1.0), (2.5, 0.05))
    start = time.process_time()
    fit_template(sheet.people, parcels_from_labels(sheet.labels, sheet.places, margin), METHODS[name], Compute(), sheet.places, setting)
    return time.process_time() - start


def speed() -> None:
    """Print CPU seconds on one thread, and what 30 people x 91,000 units x 1,000 stimuli would take and hold."""
    with limit_threads(1):
        for name, margin in (("procrustes", 0.0), ("stack", 0.0), ("stack", 2.0)):
            sheet = make_sheet(5, 10_000, 300, (20, 10))
            seconds = min(_timing(sheet, name, margin) for _ in range(2))
            print(f"5 x 10,000 x 300, 50 parcels, {name}, margin {margin:g}: {seconds:.2f} CPU s")
    whole, parts = 91_000, (2_000, 4_000)
    found = [_in_a_process(part) for part in parts]
    seconds, anonymous = ((found[1][k] - found[0][k]) / (parts[1] - parts[0]) for k in (0, 1))
    total = found[1][1] + anonymous * (whole - parts[1])
    print(
        f"30 x 91,000 x 1,000, stack, margin 2, from 10 and 20 parcels: {seconds * whole / 60:.1f} CPU min; memory that is not a file's "
        f"{found[0][1]:.2f} and {found[1][1]:.2f} GB, so {total:.1f} GB for all"
    )


def large(n_units: int, n_people: int) -> None:
    """CPU seconds, and the highest anonymous memory (GB) meanwhile, of people whose responses are memory maps."""
    with limit_threads(1), tempfile.TemporaryDirectory() as folder:
        sheet = make_sheet(n_people, n_units, 1000, (20, 10), Path(folder))
        with peak_anonymous_gb() as peak:
            seconds = _timing(sheet, "stack", 2.0)
    print(seconds, peak[0])


def _in_a_process(n_units: int) -> tuple[float, float]:
    line = [sys.executable, __file__, "--large", str(n_units)]
    seconds, memory = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), float(memory)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=["B"], choices=sorted(WORLDS))
    parser.add_argument("--stimuli", nargs="+", type=int, default=[20, 50, 100, 300])
    parser.add_argument("--noise", nargs="+", type=float, default=[1.0, 2.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12, 13])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--margin", type=float, default=2.0)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--large", type=int, metavar="UNITS")
    parser.add_argument("--people", type=int, default=30, help="With --large.")
    arguments = parser.parse_args()
    if arguments.large:
        large(arguments.large, arguments.people)
        return
    with limit_threads(1):
        speed() if arguments.speed else accuracy(arguments)


if __name__ == "__main__":
    main()
