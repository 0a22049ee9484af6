"""Products run by run: in one call or one by one, the data side by side or apart, they are those of float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.glm.numerics.run_products import RunMatrices, sum_runs


def tensor(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def data_of(rng: np.random.Generator, lengths: list[int], n_units: int, layout: str) -> list[torch.Tensor]:
    """Runs (n_units, length): columns of one tensor, of one tensor with other columns between some of them, or of tensors of their own."""
    if layout == "apart":
        return [tensor(rng, n_units, length) for length in lengths]
    gaps = [0] * len(lengths) if layout == "side by side" else [3 * (run % 2) for run in range(len(lengths))]
    together = tensor(rng, n_units, sum(lengths) + sum(gaps) + 5)
    starts = np.cumsum([0, *(length + gap for length, gap in zip(lengths, gaps, strict=True))])
    return [together[:, start : start + length] for start, length in zip(starts, lengths, strict=False)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_runs=st.integers(1, 5),
    alike=st.booleans(),
    layout=st.sampled_from(["side by side", "with gaps", "apart"]),
    n_rows=st.integers(0, 7),
)
def test_products_are_those_of_each_run(seed: int, n_runs: int, alike: bool, layout: str, n_rows: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = [9] * n_runs if alike else [9 + run for run in range(n_runs)]
    rows = [n_rows] * n_runs if alike else [(n_rows + 2 * run) % 8 for run in range(n_runs)]
    matrices = [tensor(rng, *shape) for shape in zip(rows, lengths, strict=True)]
    values = data_of(rng, lengths, 4, layout)
    products = RunMatrices(matrices)
    expected = np.concatenate([matrix.double() @ part.double().T for matrix, part in zip(matrices, values, strict=True)])
    np.testing.assert_allclose(products.times_data(values), expected, atol=1e-4)
    np.testing.assert_allclose(products.times(torch.cat([part.T for part in values])), expected, atol=1e-4)
    sums = np.stack([part.sum(0) for part in np.split(expected, np.cumsum(rows)[:-1])])
    np.testing.assert_allclose(sum_runs(products.times_data(values), rows), sums, atol=1e-3)


def test_a_unit_of_some_runs_alone() -> None:
    """Runs 0, 1 and 3 of four that lie side by side are not evenly spaced, 0 and 2 are."""
    rng = np.random.default_rng(0)
    values = data_of(rng, [6] * 4, 5, "side by side")
    for runs in ([0, 1, 3], [0, 2], [3], [2, 1]):
        matrices = [tensor(rng, 2, 6) for _ in runs]
        chosen = [values[run] for run in runs]
        expected = torch.cat([matrix @ part.T for matrix, part in zip(matrices, chosen, strict=True)])
        torch.testing.assert_close(RunMatrices(matrices).times_data(chosen), expected)


def test_a_transposed_matrix_serves() -> None:
    rng = np.random.default_rng(0)
    matrices = [tensor(rng, 6, 3).T for _ in range(3)]
    stacked = tensor(rng, 18, 4)
    expected = torch.cat([matrix @ part for matrix, part in zip(matrices, stacked.split(6), strict=True)])
    torch.testing.assert_close(RunMatrices(matrices).times(stacked), expected)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RuntimeError):
        RunMatrices([torch.zeros(2, 3)] * 2).times(torch.zeros(5, 4))
