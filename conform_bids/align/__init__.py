"""Functional alignment: people who share stimuli in one common space.

From Python: `apply` brings responses of a person to the units of a template, by a map that the app, the command conform-align, has fitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conform_bids.align.application import apply

__all__ = ["apply"]

_HOMES = {"apply": "conform_bids.align.application"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line does not wait for what it does not need."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Names that can be imported."""
    return sorted([*globals(), *__all__])
