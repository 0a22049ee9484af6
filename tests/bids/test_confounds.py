"""Confounds: columns by wildcard, leading gaps filled with the mean, every fault with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conform_bids.bids.confounds import read_confounds
from conform_bids.errors import MissingInputError, UnusableInputError

TABLE = "global_signal\ttrans_x\ttrans_y\ttrans_x_derivative1\tgap\tempty\n1\t0.5\t-1e-3\tn/a\t1\tn/a\n"
TABLE += "2\t.25\t2\t4\tn/a\tn/a\n6\t0\t3\t6\t3\tn/a\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sub-01_desc-confounds_timeseries.tsv"
    path.write_text(TABLE)
    return path


def test_columns_by_name_and_wildcard_in_the_order_of_the_file(path: Path) -> None:
    array, names = read_confounds(path, ["trans_?", "trans_x", "global_signal"], 3)
    assert names == ("global_signal", "trans_x", "trans_y")
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, [[1, 0.5, -1e-3], [2, 0.25, 2], [6, 0, 3]])


def test_leading_gap_becomes_the_mean(path: Path) -> None:
    array, _ = read_confounds(path, ["*derivative1"], 3)
    np.testing.assert_array_equal(array[:, 0], [5, 4, 6])


def test_no_pattern_gives_no_column(path: Path) -> None:
    array, names = read_confounds(path, [], 3)
    assert array.shape == (3, 0)
    assert names == ()


@pytest.mark.parametrize(
    ("patterns", "n_volumes", "error", "match"),
    [
        (["rot_*"], 3, MissingInputError, r"'rot_\*'; there are global_signal, trans_x"),
        (["Trans_x"], 3, MissingInputError, "no confound matches 'Trans_x'"),
        (["trans_x"], 4, UnusableInputError, "3 rows, but the run has 4 volumes"),
        (["gap"], 3, UnusableInputError, r"\.tsv:3: gap is missing in the middle"),
        (["empty"], 3, UnusableInputError, "the confound empty has no values"),
    ],
)
def test_faults(path: Path, patterns: list[str], n_volumes: int, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        read_confounds(path, patterns, n_volumes)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cell", ["x", "1,5", "inf", "0x10", "1 2"])
def test_what_is_no_number(path: Path, cell: str) -> None:
    path.write_text(TABLE.replace("0.25", cell).replace(".25", cell))
    with pytest.raises(UnusableInputError, match=r"\.tsv:3: trans_x is"):
        read_confounds(path, ["trans_x"], 3)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"absent\.tsv"):
        read_confounds(tmp_path / "absent.tsv", ["a"], 3)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"\n\n"])
def test_no_table(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UnusableInputError, match=r"\.tsv"):
        read_confounds(path, ["a"], 3)
