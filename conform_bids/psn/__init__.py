"""Signal and noise of single-trial responses partitioned, and condition responses denoised.

From Python: `apply` denoises new responses of a person by what the app, the command conform-psn, has learned of that person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conform_bids.psn.decomposition import apply

__all__ = ["apply"]

_HOMES = {"apply": "conform_bids.psn.decomposition"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line does not wait for what it does not need."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Names that can be imported."""
    return sorted([*globals(), *__all__])
