"""What a person sees of a fit: figures, the participant's page, the group's table and page, the methods text.

Names are resolved when they are asked for, so that the methods text can be had without the plotting libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conform_bids.psn.report.figures import draw_figures
    from conform_bids.psn.report.group import write_group_report
    from conform_bids.psn.report.participant import write_participant_report
    from conform_bids.psn.report.wording import describe_methods, methods

__all__ = ["describe_methods", "draw_figures", "methods", "write_group_report", "write_participant_report"]

_HOMES = {
    "describe_methods": "wording",
    "draw_figures": "figures",
    "methods": "wording",
    "write_group_report": "group",
    "write_participant_report": "participant",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
