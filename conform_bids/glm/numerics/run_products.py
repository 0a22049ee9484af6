"""Products with one matrix a run, the results of all runs stacked: one call where the runs are alike.

A block of a few hundred units keeps an operation busy for some tens of microseconds a run, about what it costs to start it and, with
several threads, to pass the interpreter on. Most experiments have runs of one length with as many trials each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["RunMatrices", "sum_runs"]


class RunMatrices:
    """One matrix a run.

    Parameters
    ----------
    matrices : sequence of (n_rows, n_columns) tensors
        Of each run; sizes may differ.
    copy : bool
        Copy matrices of equal size, which makes their products one call. False refers to them, for what few units need.

    Attributes
    ----------
    n_rows, n_columns : list of int
        Of each run.
    """

    def __init__(self, matrices: Sequence[torch.Tensor], *, copy: bool = True) -> None:
        self.n_rows, self.n_columns = [len(matrix) for matrix in matrices], [matrix.shape[1] for matrix in matrices]
        self._matrices = list(matrices)
        self._alike = torch.stack(self._matrices) if copy and len({matrix.shape for matrix in matrices}) == 1 else None
        if self._alike is not None:
            self._matrices = list(self._alike)

    def times_data(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Products with the runs (n, n_columns) of a block of units, transposed: (all rows, n)."""
        together = None if self._alike is None else _side_by_side(values)
        if self._alike is not None and together is not None:
            return torch.bmm(self._alike, together).flatten(0, 1)
        return self._one_by_one([part.T for part in values])

    def times(self, stacked: torch.Tensor) -> torch.Tensor:
        """Products with (all columns, n), run by run: (all rows, n)."""
        if self._alike is not None:
            parts = stacked.reshape(len(self._alike), self.n_columns[0], stacked.shape[1])
            return torch.bmm(self._alike, parts).flatten(0, 1)
        return self._one_by_one(stacked.split(self.n_columns))

    def _one_by_one(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        result = parts[0].new_empty((sum(self.n_rows), parts[0].shape[1]))
        for place, matrix, part in zip(result.split(self.n_rows), self._matrices, parts, strict=True):
            torch.mm(matrix, part, out=place)
        return result


def _side_by_side(values: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Runs (n, n_volumes) as one view (n_runs, n_volumes, n), where they are of one length and evenly spaced columns of one tensor."""
    first = values[0]
    start, memory = first.storage_offset(), first.untyped_storage().data_ptr()
    step = values[-1].storage_offset() - start
    step = step // (len(values) - 1) if len(values) > 1 else 0
    for run, part in enumerate(values):
        alike = part.shape == first.shape and part.stride() == first.stride()
        if not alike or part.storage_offset() != start + run * step or part.untyped_storage().data_ptr() != memory:
            return None
    if step < 0:
        return None
    return first.as_strided((len(values), first.shape[1], first.shape[0]), (step, first.stride(1), first.stride(0)))


def sum_runs(stacked: torch.Tensor, n_rows: Sequence[int]) -> torch.Tensor:
    """Sums over the rows of each run, (n_runs, n)."""
    if len(set(n_rows)) == 1:
        return stacked.view(len(n_rows), n_rows[0], stacked.shape[1]).sum(1)
    return torch.stack([part.sum(0) for part in stacked.split(list(n_rows))])
