"""Words around numbers, as every message and report writes them."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: ``1 fit``, ``2 fits``, ``1,000 people``.

    Parameters
    ----------
    number : int
    one : str
        What there is one of.
    many : str, optional
        What there are several of, or none; by default with an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
