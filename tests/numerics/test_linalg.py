"""Bases against numpy's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.numerics.linalg import extend_basis, orthonormal_basis, polynomial_basis, polynomial_degree, project_out


@pytest.mark.parametrize(
    ("n_volumes", "tr", "degree"), [(150, 2.0, 3), (120, 2.0, 2), (121, 2.5, 3), (10, 1.0, 0), (60, 1.0, 1), (226, 4 / 3, 3)]
)
def test_degree_is_half_the_minutes_rounded_half_up(n_volumes: int, tr: float, degree: int) -> None:
    assert polynomial_degree(n_volumes, tr) == degree


@given(n_volumes=st.integers(1, 300), degree=st.integers(0, 12))
def test_polynomial_basis_spans_the_powers(n_volumes: int, degree: int) -> None:
    basis = polynomial_basis(n_volumes, degree)
    assert basis.shape == (n_volumes, min(degree, n_volumes - 1) + 1)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)
    time = np.linspace(-1, 1, n_volumes)
    powers = np.vander(time, min(degree, n_volumes - 1, 6) + 1)
    np.testing.assert_allclose(project_out(basis, powers), 0, atol=1e-8)


@given(seed=st.integers(0, 99), rows=st.integers(6, 40), columns=st.integers(1, 6))
def test_orthonormal_basis_has_the_rank(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-6, 6, columns)
    repeated = np.column_stack([matrix, matrix @ rng.standard_normal((columns, 2)), np.zeros(rows)])
    basis = orthonormal_basis(np.column_stack([matrix, matrix[:, 0] * 3, np.zeros(rows)]))
    assert basis.shape[1] == columns
    residual = project_out(basis, repeated)
    assert np.abs(residual).max() <= 1e-7 * np.abs(repeated).max()
    assert orthonormal_basis(np.zeros((rows, 2))).shape == (rows, 0)


@given(seed=st.integers(0, 99), count=st.integers(0, 6))
def test_extended_basis_is_nested(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    base = polynomial_basis(50, 3)
    columns = rng.standard_normal((50, count))
    added = extend_basis(base, np.column_stack([columns, base[:, 1] * 5, np.zeros(50)]))
    assert added.shape[1] == count  # what the base has already is passed over
    np.testing.assert_allclose(base.T @ added, 0, atol=1e-12)
    np.testing.assert_allclose(added.T @ added, np.eye(count), atol=1e-12)
    for k in range(count + 1):
        both = np.column_stack([base, added[:, :k]])
        np.testing.assert_allclose(project_out(both, columns[:, :k]), 0, atol=1e-10)
