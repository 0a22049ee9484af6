"""Accuracy of the denoisers on simulated responses with known truth: error and correlation, method by method.

``python benchmarks/psn_accuracy.py --grid A B --variants --methods wiener calibrated stacked --seeds 70 71 72 73 74`` prints tables.

NMSE is the mean squared error against the truth over its variance over conditions (1: no better than the mean response); r is the
median over units of the correlation with it. Grid: A has 150 units and 200 conditions, B 300 and 100; s is the variance of the signal
over that of a single trial's noise, T the number of trials. Variants bend the assumptions one at a time; both measures are then taken
in units of each unit's noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable

import numpy as np

from conform_bids.psn.numerics.calibrated import fit_calibrated
from conform_bids.psn.numerics.crossvalidated import fit_crossvalidated
from conform_bids.psn.numerics.denoiser import Denoiser
from conform_bids.psn.numerics.gsn import estimate_signal_noise
from conform_bids.psn.numerics.presets import PRESETS, compare_bases, complete_means, fit_projection, fit_wiener
from conform_bids.psn.numerics.stacked import StackedOptions, fit_stacked
from conform_bids.psn.numerics.trials import Trials, group_trials

SIZES = {"A": (150, 200), "B": (300, 100)}
CELLS = {"A": [(s, t) for s in (0.05, 0.2, 1.0) for t in (2, 3, 5)], "B": [(s, t) for s in (0.05, 0.2, 1.0) for t in (2, 3)]}
VARIANTS = ("smooth", "smooth low rank", "mixed scale", "half dead", "snr lognormal", "heavy tuning", "heavy noise", "clusters", "uneven")


def responses(n_units: int, n_conditions: int, n_trials: int, seed: int, snr: float) -> tuple[np.ndarray, np.ndarray]:
    """Signal with a power-law spectrum in noise with one, partly along the same directions, and a white floor: data (u, c, t), truth."""
    rng = np.random.RandomState(seed)
    n_signal, n_noise, along, white = min(n_units, 60), min(n_units, 100), 0.3, 0.3
    signal_basis = np.linalg.qr(rng.randn(n_units, n_signal))[0]
    draws = rng.randn(n_units, n_noise)
    shared = min(n_signal, n_noise)
    draws[:, :shared] = along * signal_basis[:, :shared] * np.sqrt(n_units) + np.sqrt(1 - along**2) * draws[:, :shared]
    noise_basis = np.linalg.qr(draws)[0]
    signal_spectrum, noise_spectrum = 1.0 / np.arange(1, n_signal + 1), 1.0 / np.arange(1, n_noise + 1)
    signal_spectrum *= n_units * snr / signal_spectrum.sum()
    noise_spectrum *= n_units * (1 - white) / noise_spectrum.sum()
    truth = (signal_basis * np.sqrt(signal_spectrum)) @ rng.randn(n_signal, n_conditions)
    truth = truth + rng.randn(n_units, 1) * 0.5
    data = np.empty((n_units, n_conditions, n_trials))
    for trial in range(n_trials):
        shared_noise = (noise_basis * np.sqrt(noise_spectrum)) @ rng.randn(n_noise, n_conditions)
        data[:, :, trial] = truth + shared_noise + np.sqrt(white) * rng.randn(n_units, n_conditions)
    return data, truth


def _smooth(rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    n, c = 150, 200
    place = np.array([divmod(index, 13) for index in range(n)], float)
    distance = np.square(place[:, None] - place[None]).sum(axis=2)
    fine, coarse = (np.linalg.cholesky(np.exp(-distance / 2 / width**2) + 1e-6 * np.eye(n)) for width in (1.5, 2.5))
    truth = np.sqrt(0.2) * fine @ rng.randn(n, c) + 0.5 * rng.randn(n, 1)
    noise = [np.sqrt(0.7) * coarse @ rng.randn(n, c) + np.sqrt(0.3) * rng.randn(n, c) for _ in range(3)]
    return truth[:, :, None] + np.stack(noise, axis=2), truth


def _smooth_low_rank(rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    n, c = 300, 150
    line = np.arange(n)
    root = np.linalg.cholesky(np.exp(-np.square(line[:, None] - line[None]) / 32.0) + 1e-6 * np.eye(n))
    basis = root @ rng.randn(n, 12)
    basis /= np.sqrt((basis**2).mean() * 12)
    truth = np.sqrt(0.15) * basis @ rng.randn(12, c)
    noise = [np.sqrt(0.5) * root @ rng.randn(n, c) + np.sqrt(0.5) * rng.randn(n, c) for _ in range(3)]
    return truth[:, :, None] + np.stack(noise, axis=2), truth


def variant(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Data (units, conditions, trials) and truth of a kind of `VARIANTS`; missing trials are NaN."""
    rng = np.random.RandomState(9000 + seed)
    if kind == "smooth":
        return _smooth(rng)
    if kind == "smooth low rank":
        return _smooth_low_rank(rng)
    size = {"half dead": (200, 150, 3), "snr lognormal": (200, 150, 3), "uneven": (150, 200, 5)}.get(kind, (150, 200, 3))
    data, truth = responses(*size, seed, 0.3 if kind == "half dead" else 0.2)
    if kind == "mixed scale":
        scale = np.exp(rng.randn(150, 1))
        return data * scale[:, :, None], truth * scale
    if kind == "uneven":
        counts = rng.choice([1, 2, 3, 5], 200)
        data[:, np.arange(5)[None] >= counts[:, None]] = np.nan
        return data, truth
    noise, mean = data - truth[:, :, None], truth.mean(axis=1, keepdims=True)
    if kind == "half dead":
        truth = (truth - mean) * (rng.permutation(200) < 100)[:, None] + mean
    elif kind == "snr lognormal":
        truth = (truth - mean) * np.exp(rng.randn(200, 1) - 0.5) + mean
    elif kind == "heavy tuning":
        basis = np.linalg.qr(rng.randn(150, 40))[0]
        spectrum = 1.0 / np.arange(1, 41)
        spectrum *= 150 * 0.2 / spectrum.sum()
        truth = (basis * np.sqrt(spectrum)) @ (rng.standard_t(3, size=(40, 200)) / np.sqrt(3))
    elif kind == "heavy noise":
        noise = noise * np.sqrt(1 / rng.chisquare(4, size=(200, 3)) * 2)[None]
    elif kind == "clusters":
        label = rng.randint(8, size=200)
        centres = rng.randn(150, 8)
        truth = 0.9 * centres[:, label] + 0.45 * rng.randn(150, 200)
        truth = truth * np.sqrt(0.2 / truth.var())
    return truth[:, :, None] + noise, truth


def as_trials(data: np.ndarray) -> Trials:
    """Trials from (units, conditions, trials)."""
    n_units, n_conditions, n_trials = data.shape
    values = data.transpose(1, 2, 0).reshape(-1, n_units)
    return group_trials(values, np.repeat(np.arange(n_conditions), n_trials), np.tile(np.arange(n_trials), n_conditions))[0]


def _project(name: str) -> Callable[[Trials], Denoiser]:
    return lambda trials: fit_projection(trials, estimate_signal_noise(trials), PRESETS[name]).denoiser


METHODS: dict[str, Callable[[Trials], Denoiser]] = {
    "standard": _project("standard"),
    "conservative": _project("conservative"),
    "aggressive": _project("aggressive"),
    "compare": lambda trials: compare_bases(trials, estimate_signal_noise(trials)).denoiser,
    "wiener": lambda trials: fit_wiener(trials, estimate_signal_noise(trials)),
    "crossvalidated": lambda trials: fit_crossvalidated(trials).denoiser,
    "crossvalidated unit": lambda trials: fit_crossvalidated(trials, level="unit").denoiser,
    "calibrated": lambda trials: fit_calibrated(trials).denoiser,
    "calibrated unit": lambda trials: fit_calibrated(trials, level="unit").denoiser,
    "stacked": lambda trials: fit_stacked(trials).denoiser,
    "small": lambda trials: fit_stacked(trials, StackedOptions(wide=False)).denoiser,
}


def measure(method: str, data: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> tuple[float, float, float]:
    """NMSE, r and CPU seconds of a method."""
    trials = as_trials(data)
    means = complete_means(trials)
    start = time.process_time()
    if method == "trial average":
        denoised = means
    else:
        denoiser = METHODS[method](trials)
        denoised = denoiser.apply(means, trials.counts if denoiser.depends_on_count else None)
    seconds = time.process_time() - start
    estimate, true = denoised.T / scale, truth / scale
    varies = true.std(axis=1) > 1e-9
    error = np.square(estimate - true).mean() / np.square(true - true.mean(axis=1, keepdims=True)).mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = [values[varies] - values[varies].mean(axis=1, keepdims=True) for values in (estimate, true)]
        r = (centred[0] * centred[1]).sum(axis=1) / np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    return float(error), float(np.median(np.nan_to_num(r))), seconds


def cells(grids: Iterable[str], variants: Iterable[str]) -> dict[str, Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Named generators of data, truth and the scale that both are measured in."""
    found: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for grid in grids:
        for snr, n_trials in CELLS[grid]:

            def draw(seed: int, grid: str = grid, snr: float = snr, n_trials: int = n_trials) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                return *responses(*SIZES[grid], n_trials, seed, snr), np.ones((SIZES[grid][0], 1))

            found[f"{grid} s{snr:g} T{n_trials}"] = draw
    for kind in variants:

        def draw_variant(seed: int, kind: str = kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            data, truth = variant(kind, seed)
            return data, truth, np.sqrt(np.nanmean(np.square(data - truth[:, :, None]), axis=(1, 2)))[:, None]

        found[kind] = draw_variant
    return found


def main() -> None:
    """Print one row a cell, one column a method: NMSE/r, and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", nargs="*", default=[], choices=sorted(SIZES))
    parser.add_argument("--variants", nargs="*", default=None, choices=VARIANTS, help="without names: all")
    parser.add_argument("--methods", nargs="+", default=["trial average", "wiener", "stacked"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[70])
    options = parser.parse_args()
    kinds = [] if options.variants is None else options.variants or VARIANTS
    print("| |", " | ".join(options.methods), "|", flush=True)
    print("|---" * (len(options.methods) + 1) + "|")
    results = []
    for name, draw in cells(options.grid, kinds).items():
        scores = np.array([[measure(method, *draw(seed)) for method in options.methods] for seed in options.seeds])
        results.append(scores)
        print(f"| {name} |", " | ".join(f"{error:.3f}/{r:.3f}" for error, r, _ in scores.mean(axis=0)), "|", flush=True)
    overall = np.concatenate(results)
    print("| mean |", " | ".join(f"{error:.3f}/{r:.3f}" for error, r, _ in overall.mean(axis=0)), "|")
    print("| CPU s |", " | ".join(f"{seconds:.2f}" for _, _, seconds in overall.mean(axis=0)), "|")
    last = options.methods[-1]
    for index, method in enumerate(options.methods[:-1]):
        difference = overall[:, -1, 0] - overall[:, index, 0]
        print(f"{last} has less error than {method} in {int((difference < 0).sum())} of {len(difference)}, worst {difference.max():+.3f}")


if __name__ == "__main__":
    main()
