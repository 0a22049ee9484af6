"""How near single-trial estimates come to the truth: methods by kinds of simulated data.

``python benchmarks/glm_accuracy.py`` draws the kinds of `conform_bids.simulate.kinds`, fits each as GLMsingle does and as conform-glm
does, and prints a table in Markdown. A cell is r with the true trial betas / r with their condition means / root mean squared error in
percent BOLD (HRF of peak 1), each the median over responsive units, averaged over seeds. ``r1`` adds known responses to the noise of
haxby-slice, found in the folder that CONFORM_REAL_DATA names (../shared/data by default), and is left out where that is absent.
``--open-cases FOLDER`` scores the reference cases in FOLDER (tests/data/glm) instead.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library
from conform_bids.glm.numerics.design import Design, exact_regressors
from conform_bids.glm.numerics.fit import FitOptions, fit_models
from conform_bids.numerics.folds import leave_one_run_out
from conform_bids.numerics.hrf import HRFLibrary, response_at
from conform_bids.numerics.linalg import polynomial_degree
from conform_bids.numerics.scores import condition_means, correlate_columns
from conform_bids.simulate.kinds import KINDS, simulate_kind, simulate_on_noise

ROOT = Path(__file__).resolve().parents[1]
REAL_NOISE = "r1_measured_noise"
NOISE_RUNS = 6
COMPAT = FitOptions(models=("fithrf", "fithrfdenoise", "fithrfdenoiserr"), compat=True)
CONFORM = FitOptions(models=("conform",))
METHODS: dict[str, tuple[FitOptions, str]] = {
    "B, `--compat glmsingle`": (COMPAT, "fithrf"),
    "C, `--compat glmsingle`": (COMPAT, "fithrfdenoise"),
    "D, `--compat glmsingle`": (COMPAT, "fithrfdenoiserr"),
    "D, exact timing": (FitOptions(models=("fithrfdenoiserr",)), "fithrfdenoiserr"),
    "`conform --whiten none --hrf-averaging off`": (replace(CONFORM, whiten="none", hrf_averaging="off"), "conform"),
    "`conform --whiten none --hrf-averaging on`": (replace(CONFORM, whiten="none", hrf_averaging="on"), "conform"),
    "`conform --hrf-averaging off`": (replace(CONFORM, hrf_averaging="off"), "conform"),
    "`conform --hrf-averaging on`": (replace(CONFORM, hrf_averaging="on"), "conform"),
    "`conform` (default)": (CONFORM, "conform"),
}
REFERENCE = "D, `--compat glmsingle`"


@dataclass(frozen=True)
class DataSet:
    """What is fitted, and the truth: betas (n_trials, n_units) and the units that respond."""

    column: str
    runs: Sequence[np.ndarray]
    design: Design
    betas: np.ndarray
    active: np.ndarray
    assumed: HRFLibrary | None = None


def design_of(tr: float, runs: Sequence[np.ndarray], regressors: tuple[np.ndarray, ...] = (), **trials: np.ndarray) -> Design:
    """A design whose folds leave out one run, in one session."""
    lengths = tuple(len(run) for run in runs)
    return Design(
        tr=tr,
        run_lengths=lengths,
        train=np.ones(len(trials["run"]), bool),
        session=np.zeros(len(runs), int),
        folds=leave_one_run_out(len(runs)),
        polynomial_degree=tuple(polynomial_degree(length, tr) for length in lengths),
        regressors=regressors,
        **trials,
    )


def simulated(names: Sequence[str], seeds: Sequence[int]) -> Iterator[DataSet]:
    """The kinds, and known responses on measured noise where there is some."""
    library = load_default_library()
    noise = measured_noise() if REAL_NOISE in names else None
    for name in names:
        if name == REAL_NOISE and noise is None:
            continue
        for seed in seeds:
            data = (
                simulate_on_noise(noise[0], noise[1], seed, library) if name == REAL_NOISE and noise else simulate_kind(name, seed, library)
            )
            design = design_of(data.tr, data.runs, run=data.run, onset=data.onset, duration=data.duration, condition=data.condition)
            yield DataSet(name, data.runs, design, data.betas, data.active)


def measured_noise() -> tuple[list[np.ndarray], float] | None:
    """BOLD of haxby-slice with its blocks fitted out, by the best HRF of each unit, and its TR; None where it is absent."""
    import nibabel as nib
    import pandas as pd

    root = Path(os.environ.get("CONFORM_REAL_DATA") or ROOT.parent / "shared" / "data").resolve() / "haxby-slice"
    bold = sorted(root.glob("derivatives/fmriprep/sub-*/func/*_desc-preproc_bold.nii.gz"))[:NOISE_RUNS]
    if not bold:
        print(f"{REAL_NOISE} left out: no haxby-slice at {root} (set CONFORM_REAL_DATA)", file=sys.stderr)
        return None
    masks = [np.asarray(nib.load(str(path).replace("preproc_bold", "brain_mask")).dataobj) > 0 for path in bold]
    images = [nib.load(path) for path in bold]
    inside, tr = np.logical_and.reduce(masks), float(images[0].header.get_zooms()[3])
    runs = [np.ascontiguousarray(image.get_fdata(dtype=np.float32)[inside].T) for image in images]
    events = [pd.read_csv(next(root.glob(f"sub-*/func/*_run-{run:02d}_events.tsv")), sep="\t") for run in range(1, NOISE_RUNS + 1)]
    table = pd.concat([table.assign(run=run) for run, table in enumerate(events)])
    trials = {name: table[name].to_numpy() for name in ("run", "onset", "duration")}
    design = design_of(tr, runs, condition=np.arange(len(table)), **trials)
    library = load_default_library()
    fit = fit_models(runs, design, library, load_default_assumed_hrf(), FitOptions(models=("fithrf",), percent=False))
    columns = exact_regressors(design, lambda duration, times: response_at(library, duration, times))
    betas, noise = fit.models["fithrf"].betas, []
    for run, series in enumerate(runs):
        responses = columns(run) @ betas[design.trials_of(run)]
        noise.append(series - np.take_along_axis(responses, fit.hrf_index[None, None], axis=0)[0])
    return noise, tr


def open_cases(folder: Path) -> Iterator[DataSet]:
    """The reference cases: simulated data with truth, made elsewhere."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as case:
            tr, events = float(case["in_tr"]), case["in_events"]
            runs = [
                np.ascontiguousarray(case[f"in_data_run{run}"].reshape(len(case["truth_active"]), -1).T)
                for run in range(len(case["in_run_lens"]))
            ]
            extra = tuple(case[f"in_extra_run{run}"] for run in range(len(runs))) if "in_extra_run0" in case else ()
            duration = np.full(len(events), float(case["in_stimdur"]))
            trials = {
                "run": events[:, 0].astype(int),
                "onset": events[:, 1] * tr,
                "duration": duration,
                "condition": events[:, 2].astype(int),
            }
            assumed = HRFLibrary(case["hrftoassume"][:, None].astype(float), tr, convolved=True)
            yield DataSet(path.stem, runs, design_of(tr, runs, extra, **trials), case["truth_trueb"].T, case["truth_active"] > 0, assumed)


def score(data: DataSet, betas: np.ndarray) -> tuple[float, float, float]:
    """Median over responsive units of r with trial betas, r with condition means, and the error."""
    found, truth = betas[:, data.active].astype(float), data.betas[:, data.active].astype(float)
    by_condition = [condition_means(values, data.design.condition)[0] for values in (found, truth)]
    error = np.sqrt(((found - truth) ** 2).mean(axis=0))
    return tuple(float(np.nanmedian(x)) for x in (correlate_columns(found, truth), correlate_columns(*by_condition), error))  # type: ignore[return-value]


def measure(sets: Iterator[DataSet]) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Scores of every method in every data set: method -> column -> one a seed."""
    library, packaged = load_default_library(), load_default_assumed_hrf()
    scores: dict[str, dict[str, list[tuple[float, float, float]]]] = {method: {} for method in METHODS}
    for data in sets:
        fitted: dict[FitOptions, Any] = {}
        for method, (options, model) in METHODS.items():
            if options not in fitted:
                # the case's own assumed HRF is sampled at its TR, which only the compat engine needs
                assumed = data.assumed if data.assumed is not None and options.compat else packaged
                fitted[options] = fit_models(data.runs, data.design, library, assumed, options)
            scores[method].setdefault(data.column, []).append(score(data, fitted[options].models[model].betas))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return scores


def print_table(scores: dict[str, dict[str, list[tuple[float, float, float]]]]) -> None:
    """Methods by kinds, their mean, and in how many data sets each of the three scores is better than that of GLMsingle's D."""
    columns = list(scores[REFERENCE])
    reference = np.array([scores[REFERENCE][column] for column in columns])
    print("| | " + " | ".join(columns) + " | mean | better than D |")
    print("|---|" + "---|" * (len(columns) + 2))
    for method, by_column in scores.items():
        values = np.array([by_column[column] for column in columns])  # columns, seeds, three scores
        cells = ["/".join(f"{x:.2f}".lstrip("0") for x in row) for row in values.mean(axis=1)]
        mean = " / ".join(f"{x:.3f}".lstrip("0") for x in values.mean(axis=(0, 1)))
        gain = (values - reference) * np.array([1, 1, -1])
        better = ", ".join(str(int(n)) for n in (gain > 0).sum(axis=(0, 1))) + f" of {gain.shape[0] * gain.shape[1]}"
        print(f"| {method} | " + " | ".join(cells) + f" | {mean} | {better if method != REFERENCE else ''} |")


def main() -> None:
    """Simulate or read, fit, score, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, REAL_NOISE], default=[*KINDS, REAL_NOISE])
    parser.add_argument("--open-cases", type=Path, metavar="FOLDER", help="score the reference cases there instead")
    arguments = parser.parse_args()
    started = time.perf_counter()
    print_table(measure(open_cases(arguments.open_cases) if arguments.open_cases else simulated(arguments.kinds, arguments.seeds)))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
