"""What a user gains: responses to conditions from BOLD, by conform-glm and conform-psn and by what one would do without them.

``python benchmarks/psn_chain.py`` draws kinds of `conform_bids.simulate.kinds`, estimates single-trial betas as GLMsingle does (type D) and
as conform-glm does, averages or denoises them, and prints a table in Markdown. Truth is the mean over a condition's trials of the true
betas. A cell is r / normalised error / slope over the units that respond, each unit's mean over conditions taken out: the median over
units of the correlation with the truth; the squared error over the variance of the truth; and the slope of the truth on the estimate
(1: right amplitude, above 1: shrunk too far). Cells are means over seeds. ``r1`` needs haxby-slice, as in glm_accuracy.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library
from conform_bids.glm.numerics.fit import fit_models
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.scores import condition_means, correlate_columns
from conform_bids.psn.load import rescale_amplitudes
from conform_bids.psn.numerics.engine import EngineOptions, TrialSet, denoise_parcels
from conform_bids.psn.numerics.fit import FitOptions, fit_parcel


def _glm_accuracy() -> ModuleType:
    """The benchmark beside this one, which draws the data."""
    path = Path(__file__).with_name("glm_accuracy.py")
    spec = importlib.util.spec_from_file_location("glm_accuracy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


accuracy = _glm_accuracy()
KINDS = ("k1_fast", "k4_low_snr", "k8_signed", accuracy.REAL_NOISE)
BETAS = {"D": (accuracy.COMPAT, "fithrfdenoiserr"), "conform": (accuracy.CONFORM, "conform")}


@dataclass(frozen=True)
class Chain:
    """Betas of a model, their amplitudes rescaled or not, and a denoiser; without one, trial averages."""

    betas: str
    method: str | None = None
    rescale: bool = False


CHAINS = {
    "GLMsingle's D, trial average": Chain("D"),
    "GLMsingle's D, PSN `standard`": Chain("D", "standard"),
    "GLMsingle's D, PSN `wiener`": Chain("D", "wiener"),
    "`conform`, trial average": Chain("conform"),
    "`conform`, `stat-scale`, trial average": Chain("conform", None, True),
    "`conform`, `stat-scale`, PSN `standard`": Chain("conform", "standard", True),
    "`conform`, `stat-scale`, PSN `wiener`": Chain("conform", "wiener", True),
    "`conform` and conform-psn `--no-rescale`": Chain("conform", "stacked"),
    "`conform` and conform-psn (defaults)": Chain("conform", "stacked", True),
}
DEFAULT = "`conform` and conform-psn (defaults)"


def fit_betas(data: Any) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Betas (n_trials, n_units) of both models, and the scale of conform's."""
    library, assumed, found = load_default_library(), load_default_assumed_hrf(), {}
    for name, (options, model) in BETAS.items():
        fit = fit_models(data.runs, data.design, library, assumed, options)
        scale = None if fit.conform is None else np.asarray(fit.conform.estimate.scale)
        found[name] = (np.asarray(fit.models[model].betas, dtype=np.float32), scale)
    return found


def responses(betas: np.ndarray, scale: np.ndarray | None, condition: np.ndarray, chain: Chain) -> np.ndarray:
    """Responses to conditions (n_conditions, n_units) of betas of one session in one parcel.

    The default is as conform-psn makes it, guards included; presets of the PSN package are as they are (conform-psn passes trial averages
    where they predict held-out trials no better than the mean).
    """
    betas = betas.copy()
    trials = TrialSet(condition, np.zeros(len(condition), np.intp), np.ones(len(condition), bool))
    if chain.rescale and scale is not None:
        rescale_amplitudes(betas, scale, trials.train)
    if chain.method is None:
        return np.asarray(condition_means(betas, condition)[0])
    if chain.method != "stacked":
        fit = fit_parcel(betas.astype(np.float64), condition, FitOptions(method=chain.method))
        return fit.apply(condition_means(betas, condition)[0], np.bincount(condition))
    options = EngineOptions(method=chain.method, session_zscore=False, rescale=False, crossfit=True, null_parcels=0)
    parcel = np.zeros(betas.shape[1], np.intp)
    return denoise_parcels(np.ascontiguousarray(betas.T), trials, parcel, options, Compute()).arrays["psn"].T


def score(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Median r over units, squared error over variance, and slope of truth on estimate; (n_conditions, n_units)."""
    found, true = (values.astype(float) - values.mean(axis=0, dtype=float) for values in (estimate, truth))
    error = np.square(found - true).sum() / np.square(true).sum()
    return float(np.nanmedian(correlate_columns(found, true))), float(error), float((found * true).sum() / np.square(found).sum())


def measure(sets: Iterator[Any]) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Scores of every chain in every data set: chain -> kind -> one a seed."""
    scores: dict[str, dict[str, list[tuple[float, float, float]]]] = {name: {} for name in CHAINS}
    for data in sets:
        betas, condition = fit_betas(data), np.asarray(data.design.condition, dtype=np.intp)
        truth = condition_means(data.betas[:, data.active], condition)[0]
        for name, chain in CHAINS.items():
            found = responses(*betas[chain.betas], condition, chain)[:, data.active]
            scores[name].setdefault(data.column, []).append(score(found, truth))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return scores


def print_table(scores: dict[str, dict[str, list[tuple[float, float, float]]]]) -> None:
    """Chains by kinds, and their mean."""
    columns = list(scores[DEFAULT])
    print("| | " + " | ".join(columns) + " | mean |")
    print("|---|" + "---|" * (len(columns) + 1))
    for name, by_column in scores.items():
        values = np.array([np.mean(by_column[column], axis=0) for column in columns])
        print(f"| {name} | " + " | ".join(_cell(row, 2) for row in values) + f" | {_cell(values.mean(axis=0), 3)} |")


def _cell(values: Sequence[float], decimals: int) -> str:
    return " / ".join(f"{value:.{decimals}f}".removeprefix("0") for value in values)


def main() -> None:
    """Simulate, estimate, denoise, score, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    started = time.perf_counter()
    print_table(measure(accuracy.simulated(arguments.kinds, arguments.seeds)))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
