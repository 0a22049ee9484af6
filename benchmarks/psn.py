"""How fast conform-psn denoises, held against the machine's own rates of matrix products and eigendecompositions in the same process.

``python benchmarks/psn.py`` prints all tables but the last; ``--tables gsn growth stages parcels`` chooses; ``--threads 1 2`` compares
threads; ``--large`` adds GSN at 3,000 units. ``--whole`` denoises 91,282 units x 1,000 conditions x 3 trials in clusters of 300, from a
memory-mapped file in ``--scratch`` to memory-mapped outputs; ``--fraction .1`` takes a tenth of the units and says what all would take.

"At the machine's rate" is the time that the eigendecompositions that were made (counted as they are called) and the products that the
method needs (counted by formula, each in its precision) would take at the rates that the machine shows for them alone; "share" is that over
the time taken. Triangular solves, elementwise work, reordering and reading are what is missing from it. Threads of the engine take whole
parcels, so that its rates are those of one thread, times threads. Each figure is the faster of two, but for what takes longer than 5 s.
On a machine that others use as well, CPU seconds say more than wall time.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from machine import peak_anonymous_gb

from conform_bids.numerics.clusters import spatial_clusters
from conform_bids.numerics.compute import Compute, limit_threads
from conform_bids.psn.numerics import fit, held_out, one_parcel, stacked
from conform_bids.psn.numerics.engine import EngineOptions, TrialSet, denoise_parcels
from conform_bids.psn.numerics.gsn import estimate_signal_noise
from conform_bids.psn.numerics.trials import group_trials, split_conditions

PUBLIC_GSN = {1000: 5.9}
"""Seconds of the public package with one thread, for 1,000 units; timed apart, so that the ratio is a rough one on other machines."""
UNITS, CONDITIONS, TRIALS, SIZE = 91_282, 1_000, 3, 300
MAX_REPEATED = 5.0


def simulate(n_units: int, n_conditions: int, n_trials: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Responses, (n_trials, n_units) in random order, and their conditions: power-law signal in power-law noise with a white floor."""
    rng = np.random.default_rng(seed)
    condition = rng.permutation(np.repeat(np.arange(n_conditions), n_trials))
    values = np.sqrt(0.3) * rng.standard_normal((len(condition), n_units), dtype=np.float32)
    for rank, variance, rows in ((60, 0.2, None), (100, 0.7, condition)):
        spectrum = 1.0 / np.arange(1, rank + 1)
        basis = rng.standard_normal((rank, n_units)).astype(np.float32) * np.sqrt(variance * spectrum / spectrum.sum())[:, None]
        draws = rng.standard_normal((n_conditions if rows is None else len(condition), rank), dtype=np.float32)
        values += (draws[condition] if rows is None else draws) @ basis.astype(np.float32)
    return values, condition


@cache
def product_rate(threads: int, size: int = 1000, dtype: str = "float64") -> float:
    """Products, FLOP/s."""
    with limit_threads(threads):
        left = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
        return 2.0 * size**3 / min(timed(lambda: left @ left)[1] for _ in range(5))


@cache
def eigh_seconds(size: int, threads: int, dtype: str = "float64") -> float:
    """Eigendecomposition of a covariance of this size."""
    with limit_threads(threads):
        rows = np.random.default_rng(0).standard_normal((2 * size, size)).astype(dtype)
        matrix = torch.from_numpy(rows.T @ rows)
        repeats = 3 if size < 1500 else 1
        return min(timed(lambda: EIGH(matrix))[1] for _ in range(repeats))


EIGH: Callable[..., Any] = torch.linalg.eigh


@contextmanager
def counted() -> Iterator[list[tuple[int, str]]]:
    """Sizes and precision of the eigendecompositions that are made inside."""
    sizes: list[tuple[int, str]] = []

    def count(matrix: torch.Tensor) -> Any:
        sizes.append((len(matrix), "float32" if matrix.dtype == torch.float32 else "float64"))
        return EIGH(matrix)

    torch.linalg.eigh = count
    try:
        yield sizes
    finally:
        torch.linalg.eigh = EIGH


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Result and wall time."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


class Measured:
    """Wall and CPU seconds of a call, the faster of two, and the time at the machine's rate."""

    def __init__(self, call: Callable[[], Any], products: tuple[float, float], threads: int, own_threads: int = 1) -> None:
        self.wall = np.inf
        for _ in range(2):
            cpu = time.process_time()
            with counted() as sizes, limit_threads(threads if own_threads == 1 else 1):
                self.result, wall = timed(call)
            if wall < self.wall:
                self.wall, self.cpu = wall, time.process_time() - cpu
            if wall > MAX_REPEATED:
                break
        inner = threads if own_threads == 1 else 1
        self.eigh = sum(eigh_seconds(_round(size), inner, dtype) for size, dtype in sizes) / own_threads
        self.products = product_seconds(products, inner) / own_threads

    @property
    def row(self) -> str:
        """Seconds, CPU-s, at the machine's rate (eigh, products), share."""
        return f"{self.wall:.2f} | {self.cpu:.2f} | {self.eigh:.2f} + {self.products:.2f} | {(self.eigh + self.products) / self.wall:.0%}"


def product_seconds(products: tuple[float, float], threads: int) -> float:
    """Products in double and in single precision, FLOP, at the machine's rates."""
    return products[0] / product_rate(threads) + products[1] / product_rate(threads, dtype="float32")


def _round(size: int) -> int:
    """A tenth is near enough: every size that occurs would take long to time."""
    step = max(size // 10, 1)
    return -(-size // step) * step


def gsn_products(n_units: int, n_conditions: int, n_trials: int, n_parts: int) -> tuple[float, float]:
    """Covariances, spectra of shrinkage, and the parts that are put together again: all in double precision."""
    rows = n_conditions * n_trials
    outer = n_units**2 * (rows + n_conditions) * 1.8
    return outer + 2.0 * n_units**2 * 0.2 * (rows + n_conditions) + n_parts * float(n_units) ** 3, 0.0


def stacked_products(
    n_units: int, n_conditions: int, n_trials: int, *, held_out: bool = True, n_folds: int = 5, n_levels: int = 4, n_terms: int = 27
) -> tuple[float, float]:
    """The default method, with its held-out denoisers or without, at full rank: in double precision, and in single."""
    n, rank, rows, held = float(n_units), float(min(n_units, n_conditions - 1)), n_conditions * n_trials, n_conditions / n_folds
    part = 2 * n**2 * rank + 5 * n * rank**2
    pairs = n_levels * (n_levels + 1) / 2
    score = pairs * (2 * n * rank**2 + 2 * held * rank**2 + 2 * n_terms * rank**2) + n_levels * 4 * held * n * rank
    covariances = n**2 * (rows + n_conditions) + 2 * n**3 / 3
    double = covariances + n_levels * part + n_folds * (n**2 * rows + 2 * n**3 / 3 + 2 * n**2 * n_conditions)
    single = n_folds * 2 * (n_levels * part + score)
    if held_out:
        double += n_folds * (covariances + n_levels * 2 * n**2 * rank + 2 * n**3) + 2 * n**2 * rows
        single += n_folds * (n_levels * part + 2 * score)
    return double, single


def measure_gsn(sizes: list[int], threads: list[int]) -> None:
    """Covariances of signal and noise."""
    print("\nGSN, 1,000 conditions x 3 trials\n")
    print(
        "| units | threads | s | CPU-s | at the machine's rate (eigh + products), s | share | times public |\n|---|---|---|---|---|---|---|"
    )
    for size in sizes:
        trials = group_trials(*simulate(size, CONDITIONS, TRIALS))[0]
        for count in threads:
            with counted() as made:
                estimate_signal_noise(trials)
            products = gsn_products(size, CONDITIONS, TRIALS, len(made) - 2)
            found = Measured(partial(estimate_signal_noise, trials), products, count)
            public = f"{PUBLIC_GSN[size] / found.wall:.1f}" if size in PUBLIC_GSN and count == 1 else ""
            print(f"| {size:,} | {count} | {found.row} | {public} |", flush=True)


def measure_growth() -> None:
    """The default fit of one parcel, one thread, with one of the three sizes doubled at a time."""
    print("\nDefault method, fit of one parcel, one thread; exponent: of the last doubling\n")
    print("| units | conditions | trials | s | CPU-s | at the machine's rate (eigh + products), s | share | exponent |\n|" + "---|" * 8)
    series = (
        [(n, 500, 3) for n in (75, 150, 300, 600)],
        [(300, c, 3) for c in (250, 500, 1000, 2000)],
        [(300, 500, t) for t in (2, 4, 8)],
    )
    for sizes in series:
        before = np.nan
        for n_units, n_conditions, n_trials in sizes:
            values, condition = simulate(n_units, n_conditions, n_trials)
            products = stacked_products(n_units, n_conditions, n_trials, held_out=False)
            found = Measured(partial(fit.fit_parcel, values.astype(np.float64), condition), products, 1)
            exponent = "" if np.isnan(before) else f"{np.log2(found.wall / before):.1f}"
            print(f"| {n_units} | {n_conditions} | {n_trials} | {found.row} | {exponent} |", flush=True)
            before = found.wall


STAGES = (
    (stacked, "standardise", "units by their noise"),
    (stacked, "choose_noise_level", "level of shrinkage of the noise"),
    (stacked, "choose_data_level", "level of shrinkage of condition means"),
    (stacked, "_score_fold", "calibration: five folds, two signs"),
    (stacked, "fit_parts", "filters of all conditions"),
    (stacked, "mix_filters", "mixture"),
    (one_parcel, "stacked_denoisers", "held-out denoisers"),
    (held_out, "evaluate_held_out", "held-out responses, reliability, gain"),
)


def measure_stages() -> None:
    """Where the time of a parcel goes."""
    values, condition = simulate(SIZE, CONDITIONS, TRIALS)
    rows = values.astype(np.float64)
    spent = dict.fromkeys((name for _, name, _ in STAGES), 0.0)
    originals = {name: getattr(module, name) for module, name, _ in STAGES}

    def watch(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            result = originals[name](*args, **kwargs)
            spent[name] += time.process_time() - started
            return result

        return call

    options = EngineOptions()

    def parcel() -> None:
        fitted = one_parcel.fit_dimensions(rows, condition, options, None)
        trials = fitted.fit.trials
        folds = split_conditions(trials.counts, options.n_folds, options.seed)
        held_out.evaluate_held_out(trials, folds, one_parcel.held_out_denoisers(fitted, trials, folds, options))

    parcel()
    for module, name, _ in STAGES:
        setattr(module, name, watch(name))
    with limit_threads(1), counted() as sizes:
        total = time.process_time()
        parcel()
        total = time.process_time() - total
    for module, name, _ in STAGES:
        setattr(module, name, originals[name])
    own = sum(eigh_seconds(_round(size), 1, dtype) for size, dtype in sizes)
    print(f"\nOne parcel of {SIZE} x {CONDITIONS:,} x {TRIALS}, one thread: {total:.2f} CPU-s")
    print(f"{len(sizes)} eigendecompositions, {own:.2f} s at the machine's rate\n\n| stage | CPU-s | share |\n|---|---|---|")
    for _, name, label in STAGES:
        print(f"| {label} | {spent[name]:.2f} | {spent[name] / total:.0%} |")
    print(f"| the rest | {total - sum(spent.values()):.2f} | {1 - sum(spent.values()) / total:.0%} |", flush=True)


def measure_parcels(threads: list[int], n_parcels: int = 8) -> None:
    """The engine on a few parcels in memory: what parcels cost with all that is done to them."""
    print(f"\nEngine, {n_parcels} parcels of {SIZE} x {CONDITIONS:,} x {TRIALS}\n")
    print("| threads | s | CPU-s | at the machine's rate (eigh + products), s | share | units/s |\n|---|---|---|---|---|---|")
    values, condition = simulate(n_parcels * SIZE, CONDITIONS, TRIALS)
    betas, parcel = np.ascontiguousarray(values.T), np.repeat(np.arange(n_parcels), SIZE)
    trials = TrialSet(condition, np.zeros(len(condition), np.intp), np.ones(len(condition), bool))
    for count in threads:
        compute = Compute(n_threads=count)
        call = partial(denoise_parcels, betas, trials, parcel, EngineOptions(null_parcels=0), compute)
        double, single = stacked_products(SIZE, CONDITIONS, TRIALS)
        found = Measured(call, (n_parcels * double, n_parcels * single), count, own_threads=count)
        print(f"| {count} | {found.row} | {len(betas) / found.wall:,.0f} |", flush=True)


def measure_whole(scratch: Path, threads: int, memory_gb: float, fraction: float) -> None:
    """A brain of grayordinates in clusters, from a file to files."""
    n_units = round(UNITS * fraction)
    rng = np.random.default_rng(0)
    condition = rng.permutation(np.repeat(np.arange(CONDITIONS), TRIALS))
    trials = TrialSet(condition, np.arange(len(condition)) % 2, np.ones(len(condition), bool))
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        betas = np.lib.format.open_memmap(folder / "betas.npy", mode="w+", dtype=np.float32, shape=(n_units, len(condition)))
        for start in range(0, n_units, 4096):
            values, own = simulate(min(4096, n_units - start), CONDITIONS, TRIALS, seed=start + 1)
            betas[start : start + 4096, np.argsort(condition, kind="stable")] = values[np.argsort(own, kind="stable")].T
        betas.flush()
        del betas
        points = rng.standard_normal((n_units, 3)) * [60, 40, 30]
        parcel, clustering = timed(lambda: spatial_clusters(points, SIZE, np.arange(n_units) % 3))

        def allocate(array: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
            return np.lib.format.open_memmap(folder / f"{array}.npy", mode="w+", dtype=np.float32, shape=shape)

        compute, options = Compute(n_threads=threads, memory_bytes=memory_gb * 1e9), EngineOptions(null_parcels=max(1, round(8 * fraction)))
        cpu = time.process_time()
        with peak_anonymous_gb() as peak:
            source = np.load(folder / "betas.npy", mmap_mode="r")
            result, seconds = timed(lambda: denoise_parcels(source, trials, parcel, options, compute, allocate))
        cpu = time.process_time() - cpu
    work = product_seconds(stacked_products(SIZE, CONDITIONS, TRIALS), 1) * len(result.parcels) / threads
    print(
        f"\n{n_units:,} units x {CONDITIONS:,} x {TRIALS}, {len(result.parcels)} clusters ({clustering:.1f} s to make), {threads} threads: "
        f"{seconds:.0f} s, {cpu:.0f} CPU-s, {n_units / seconds:,.0f} units/s, products alone {work / seconds:.0%} of it, "
        f"{peak[0]:.2f} GB without files that are mapped ({resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB with them)"
    )
    if fraction < 1:
        print(f"all {UNITS:,} units, extrapolated from {fraction:.0%} of them: {seconds / fraction:.0f} s, {cpu / fraction:.0f} CPU-s")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ("gsn", "growth", "stages", "parcels")
    parser.add_argument("--tables", nargs="*", choices=tables, default=tables)
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--memory", type=float, default=4.0, help="GB")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    for count in arguments.threads:
        print(
            f"{count} threads: products {product_rate(count) / 1e9:.0f} GFLOP/s (float64); eigendecompositions of 300 and 1,000 units "
            f"{eigh_seconds(300, count) * 1e3:.0f} and {eigh_seconds(1000, count) * 1e3:.0f} ms"
        )
    if arguments.whole:
        measure_whole(arguments.scratch, max(arguments.threads), arguments.memory, arguments.fraction)
        return
    if "gsn" in arguments.tables:
        measure_gsn([300, 1000, *([3000] if arguments.large else [])], arguments.threads)
    if "growth" in arguments.tables:
        measure_growth()
    if "stages" in arguments.tables:
        measure_stages()
    if "parcels" in arguments.tables:
        measure_parcels(arguments.threads)


if __name__ == "__main__":
    main()
