"""Single-trial responses: GLMsingle's method, exact timing, at the machine's speed.

From Python: `fit_single_trials`, arrays in, arrays out. The app, from files to files, is the command conform-glm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conform_bids.glm.api import fit_single_trials
    from conform_bids.glm.single_trials import SingleTrialFit, SingleTrialModel
    from conform_bids.numerics.hrf import HRFLibrary

__all__ = ["HRFLibrary", "SingleTrialFit", "SingleTrialModel", "fit_single_trials"]

_HOMES = {
    "HRFLibrary": "conform_bids.numerics.hrf",
    "SingleTrialFit": "conform_bids.glm.single_trials",
    "SingleTrialModel": "conform_bids.glm.single_trials",
    "fit_single_trials": "conform_bids.glm.api",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line does not wait for what it does not need."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Names that can be imported."""
    return sorted([*globals(), *__all__])
