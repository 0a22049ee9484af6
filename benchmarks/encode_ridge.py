"""Speed of cross-validated ridge regression, beside himalaya's RidgeCV where it is installed and beside the machine's GEMM rate.

``python benchmarks/encode_ridge.py [--stimuli 2000] [--units 20000] [--features 512 1024] [--threads 1]`` fits 10 penalties to random
data and prints CPU seconds. himalaya: ``pip install himalaya``; its row is left out where it is not there. The limit is what the products
alone would take at this machine's rate: 2 n r V for each penalty and two more, r the rank.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from conform_bids.encode.numerics.ridge import contiguous_folds, fit_ridge
from conform_bids.numerics.compute import Compute, gemm_rate, limit_threads

ALPHAS = np.geomspace(1, 1e6, 10)


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time of a call, all threads together."""
    start = time.process_time()
    function()
    return time.process_time() - start


def himalaya_fit(features: np.ndarray, responses: np.ndarray) -> Callable[[], object] | None:
    """A fit of himalaya with five folds on its torch backend; None where it is not installed."""
    try:
        from himalaya.backend import set_backend
        from himalaya.ridge import RidgeCV
    except ImportError:
        return None
    set_backend("torch")
    x, y = torch.from_numpy(features), torch.from_numpy(responses)
    return lambda: RidgeCV(alphas=ALPHAS, cv=5, fit_intercept=True).fit(x, y)


def measure(n_stimuli: int, n_features: int, n_units: int, compute: Compute) -> list[tuple[str, float]]:
    """CPU seconds by solver."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_stimuli, n_features), dtype=np.float32)
    responses = rng.standard_normal((n_stimuli, n_units), dtype=np.float32)
    folds = contiguous_folds(n_stimuli, 5)
    solvers: list[tuple[str, Callable[[], object] | None]] = [
        ("leave-one-out", lambda: fit_ridge(features, responses, ALPHAS, compute=compute)),
        ("5 folds", lambda: fit_ridge(features, responses, ALPHAS, folds=folds, compute=compute)),
        ("himalaya RidgeCV, 5 folds", himalaya_fit(features, responses)),
    ]
    return [(name, cpu_seconds(solver)) for name, solver in solvers if solver is not None]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stimuli", type=int, default=2000)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--features", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    compute = Compute("cpu", given.threads)
    with limit_threads(given.threads):
        rate = gemm_rate(Compute("cpu", 1))
        print(f"n = {given.stimuli}, V = {given.units}, 10 penalties, {given.threads} thread(s); GEMM {rate / 1e9:.0f} GFLOP/s a thread")
        print(f"{'p':>6} {'solver':<28} {'CPU s':>8} {'x limit':>8} {'himalaya / it':>14}")
        for n_features in given.features:
            rank = min(given.stimuli - 1, n_features)
            limit = 2 * given.stimuli * rank * given.units * (len(ALPHAS) + 2) / rate
            rows = measure(given.stimuli, n_features, given.units, compute)
            theirs = dict(rows).get("himalaya RidgeCV, 5 folds", float("nan"))
            for name, seconds in rows:
                print(f"{n_features:>6} {name:<28} {seconds:>8.2f} {seconds / limit:>8.2f} {theirs / seconds:>14.2f}")


if __name__ == "__main__":
    main()
