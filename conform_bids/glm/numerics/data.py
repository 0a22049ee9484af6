"""The BOLD runs of a fit: one look at every unit, then units by time with drifts out, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.design import NuisanceBases
from conform_bids.numerics.blocks import block_size, unit_blocks
from conform_bids.numerics.compute import Compute, map_blocks, to_tensor

__all__ = ["Allocate", "CleanData", "RunScan", "UnitSurvey", "clean_runs", "survey_units"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Units = slice | npt.NDArray[np.intp]
Allocate = Callable[[str, tuple[int, ...]], npt.NDArray[np.float32]]
"""(name, shape) -> float32 array, in memory or a memory map."""
SHARES = 4
"""Blocks come in multiples of it, for two or four threads to share."""
SCAN_UNITS = 512
"""Units a block of a pass over the data: what a run of them and its products need stays in a core's cache."""


@dataclass(frozen=True)
class UnitSurvey:
    """What a look at every unit of every run gives.

    Attributes
    ----------
    mean : (n_units,) float64 array
        Over the volumes of the runs that hold the unit; ``strict``: of all runs, NaN where any volume is not finite.
    finite, empty, constant : (n_units,) bool arrays
        No NaN or infinity; zero throughout; the same value throughout at least one run.
    present : (n_runs, n_units) bool array
        Finite and not constant within the run.
    deviation : (n_units,) float64 array
        Standard deviation over time, drifts and regressors out, of the runs that hold the unit.
    """

    mean: FloatArray
    finite: BoolArray
    empty: BoolArray
    constant: BoolArray
    present: BoolArray
    deviation: FloatArray


class RunScan(Protocol):
    """What a pass over the data works out on the way."""

    def visit(self, run: int, units: slice, values: torch.Tensor, total: torch.Tensor) -> None:
        """Take a run of a block of units: (n, n_volumes) float32, nuisance out, and its sums of squares (n,)."""


@dataclass(frozen=True)
class CleanData:
    """The runs of every unit side by side, base nuisance out.

    Attributes
    ----------
    values : (n_units, n_volumes of all runs) float32 tensor
        Zero where a unit is absent from a run; on the device where it fits, else in memory or a memory map.
    edges : tuple of int
        Where each run starts, and the end.
    bases : sequence of NuisanceBases
        One a run.
    device : str
        Where blocks go.
    total : (n_runs, n_units) float64 array
        Sum of squares.
    """

    values: torch.Tensor
    edges: tuple[int, ...]
    bases: Sequence[NuisanceBases]
    device: str
    total: FloatArray

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.values)

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.edges) - 1

    def rows(self, units: Units) -> list[torch.Tensor]:
        """Every run of some units, (n, n_volumes) each."""
        chosen = self._take(self.values, units)
        return [chosen[:, start:stop] for start, stop in zip(self.edges, self.edges[1:], strict=False)]

    def run_rows(self, run: int, units: Units) -> torch.Tensor:
        """One run of some units, (n, n_volumes)."""
        return self._take(self.values[:, self.edges[run] : self.edges[run + 1]], units)

    def _take(self, rows: torch.Tensor, units: Units) -> torch.Tensor:
        """Rows of units on the device; nothing is copied where the units follow each other."""
        if not isinstance(units, slice) and len(units) and (np.diff(units) == 1).all():
            units = slice(int(units[0]), int(units[-1]) + 1)
        if isinstance(units, slice):
            return rows[units].to(self.device)
        # several times faster than an index in brackets, which does not copy whole rows
        return rows.index_select(0, torch.from_numpy(units).to(rows.device)).to(self.device)

    def scan(self, visit: Callable[[int, slice, torch.Tensor], None], compute: Compute) -> None:
        """Show every run of every block of units to ``visit(run, units, values)``."""

        def block(units: slice) -> None:
            for run, values in enumerate(self.rows(units)):
                visit(run, units, values)

        map_blocks(block, unit_blocks(self.n_units, SCAN_UNITS, SHARES), compute)


def survey_units(runs: Sequence[npt.NDArray[np.float32]]) -> UnitSurvey:
    """Mean over all runs, and which units are not finite, empty or constant; see `UnitSurvey` (``strict``).

    Parameters
    ----------
    runs : sequence of (n_volumes, n_units) float32 arrays
        May be memory maps.
    """
    bases = [NuisanceBases(np.full((len(run), 1), len(run) ** -0.5), np.zeros((len(run), 0))) for run in runs]
    return clean_runs(runs, bases, Compute(), None, (), strict=True)[1]


def clean_runs(
    runs: Sequence[npt.NDArray[np.float32]],
    bases: Sequence[NuisanceBases],
    compute: Compute,
    allocate: Allocate | None,
    scans: Sequence[RunScan],
    *,
    strict: bool,
) -> tuple[CleanData | None, UnitSurvey]:
    """Read every run once: survey the units, take the base nuisance out, let ``scans`` work, and keep the result by unit.

    Parameters
    ----------
    runs : sequence of (n_volumes, n_units) float32 arrays
        BOLD; may be memory maps.
    bases : sequence of NuisanceBases
        One a run.
    compute : Compute
        Resources.
    allocate : callable or None
        Gives the room for the result, "clean_data"; None: nothing is kept.
    scans : sequence of RunScan
        What is worked out on the way.
    strict : bool
        As GLMsingle has it: constant units are projected by a dense float32 matrix on the raw data, so that they keep the rounding
        noise that enters its median (quirk 11), and means are over all runs.
    """
    n_units = runs[0].shape[1]
    edges = (0, *accumulate(len(run) for run in runs))
    survey = _SurveySums(len(runs), n_units)
    stored = None if allocate is None else _room((n_units, edges[-1]), compute, allocate)
    total = np.zeros((len(runs), n_units))
    base = [to_tensor(basis.base.T, compute.device) for basis in bases]

    def block(task: tuple[Sequence[npt.NDArray[np.float32]], slice, slice]) -> None:
        slabs, inside, units = task
        for run, slab in enumerate(slabs):
            raw = torch.from_numpy(np.array(slab[:, inside].T, dtype=np.float32, order="C")).to(compute.device)
            values = _take_out(base[run], survey.take(run, units, raw))
            if strict:
                _keep_rounding(raw, values, bases[run].base, survey.varies[run, units], survey.finite[run, units])
            squares = torch.linalg.vector_norm(values, dim=1).square()
            total[run, units] = squares.cpu().numpy()
            for scan in scans:
                scan.visit(run, units, values, squares)
            if stored is not None:
                stored[units, edges[run] : edges[run + 1]] = values.to(stored.device)

    for tasks in _slabs(runs, compute):
        map_blocks(block, tasks, compute)
    lengths = np.array([len(run) for run in runs])
    free = lengths - np.array([basis.base.shape[1] for basis in bases])
    data = None if stored is None else CleanData(stored, edges, bases, compute.device, total)
    return data, survey.finish(lengths, np.maximum(free, 1), total, strict=strict)


def _room(shape: tuple[int, int], compute: Compute, allocate: Allocate) -> torch.Tensor:
    """Where the clean data stay: on a GPU that has the memory to spare, else in what ``allocate`` gives."""
    if compute.device != "cpu" and 4.0 * shape[0] * shape[1] < compute.memory_bytes / 2:
        return torch.empty(shape, dtype=torch.float32, device=compute.device)
    return torch.from_numpy(allocate("clean_data", shape))


def _slabs(
    runs: Sequence[npt.NDArray[np.float32]], compute: Compute
) -> Iterator[list[tuple[Sequence[npt.NDArray[np.float32]], slice, slice]]]:
    """Blocks of units, by slabs that are read in long stretches where the runs are on disk and larger than the memory to spare."""
    n_units = runs[0].shape[1]
    bytes_per_unit = 4.0 * sum(len(run) for run in runs)
    on_disk = any(isinstance(run, np.memmap) for run in runs) and bytes_per_unit * n_units > compute.memory_bytes / 2
    size = block_size(bytes_per_unit, compute.memory_bytes / 4, smallest=SCAN_UNITS, largest=max(n_units, 1)) if on_disk else n_units
    for slab in unit_blocks(n_units, max(size, 1)):
        parts = [np.array(run[:, slab]) for run in runs] if on_disk else [run[:, slab] for run in runs]
        blocks = unit_blocks(slab.stop - slab.start, SCAN_UNITS, SHARES)
        yield [(parts, inside, slice(slab.start + inside.start, slab.start + inside.stop)) for inside in blocks]


def _take_out(base: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Take the basis (k, n_volumes) out of data (n, n_volumes), in place.

    These are ``moved``, less their first volume, as at 1e4 raw units float32 would round away weak responses. The narrow product is
    written with the units last: the other way round it takes five times as long.
    """
    return moved.addmm_((base @ moved.T).T, base, alpha=-1)


def _keep_rounding(raw: torch.Tensor, values: torch.Tensor, base: FloatArray, varies: BoolArray, finite: BoolArray) -> None:
    """Project constant units as GLMsingle does."""
    noisy = np.flatnonzero(~varies & finite & (raw[:, 0].cpu().numpy() != 0))
    if len(noisy):
        projector = to_tensor(np.eye(len(base)) - base @ base.T, str(values.device))
        values[noisy] = raw[noisy] @ projector


class _SurveySums:
    """Means and defects by run and unit, filled block by block."""

    def __init__(self, n_runs: int, n_units: int) -> None:
        self.mean = np.zeros((n_runs, n_units))
        self.finite = np.ones((n_runs, n_units), bool)
        self.varies = np.zeros((n_runs, n_units), bool)

    def take(self, run: int, units: slice, raw: torch.Tensor) -> torch.Tensor:
        """Note a block's mean, and whether it is finite and varies; the block less its first volume, zero where it is not finite."""
        moved = raw - raw[:, :1]
        drift = moved.mean(1)
        if not bool(drift.isfinite().all()):
            finite = raw.isfinite().all(1)
            moved[~finite] = 0
            drift = moved.double().mean(1)
            self.finite[run, units] = finite.cpu().numpy()
        length = torch.linalg.vector_norm(moved, dim=1)
        if not bool((length > 0).all()):
            # squares of very small numbers are zero; the largest of them is asked where that may be, as it takes twenty times as long
            length = torch.linalg.vector_norm(moved, ord=torch.inf, dim=1)
        self.varies[run, units] = (length > 0).cpu().numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            self.mean[run, units] = raw[:, 0].double().cpu().numpy() + drift.double().cpu().numpy()
        return moved

    def finish(self, lengths: npt.NDArray[np.intp], free: npt.NDArray[np.intp], total: FloatArray, *, strict: bool) -> UnitSurvey:
        finite: BoolArray = np.asarray(self.finite.all(axis=0))
        zero = (self.mean == 0) & ~self.varies & self.finite
        present = self.finite & self.varies
        used = np.ones_like(present) if strict else np.where(present.any(axis=0), present, self.finite)
        weight = used * lengths[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(used, self.mean, 0).T @ lengths if strict else (np.where(used, self.mean, 0) * weight).sum(axis=0)
            mean = mean / weight.sum(axis=0)
            deviation = np.sqrt(np.where(present, total, 0).sum(axis=0) / (present * free[:, None]).sum(axis=0))
        mean[~finite if strict else ~self.finite.any(axis=0)] = np.nan
        empty = zero.all(axis=0)
        constant = (~self.varies).any(axis=0) & finite & ~empty
        return UnitSurvey(mean=mean, finite=finite, empty=empty, constant=constant, present=present, deviation=deviation)
