"""Numbers and what they count."""

from __future__ import annotations

import pytest

from conform_bids.wording import counted


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (0, ("fit",), "0 fits"),
        (1, ("fit",), "1 fit"),
        (2, ("fit",), "2 fits"),
        (1, ("person", "people"), "1 person"),
        (12345, ("person", "people"), "12,345 people"),
    ],
)
def test_counted(number: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(number, *words) == expected
