"""What a person sees of a fit: figures, numbers, the participant's page, the group's table and page, the methods text.

Names are resolved when they are asked for, so that the methods text can be had without the plotting libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conform_bids.glm.report.figures import draw_figures
    from conform_bids.glm.report.fit import FigureContext, RunTiming
    from conform_bids.glm.report.group import write_group_report
    from conform_bids.glm.report.metrics import metrics_path
    from conform_bids.glm.report.participant import write_participant_report
    from conform_bids.glm.report.wording import describe_methods, methods

__all__ = [
    "FigureContext",
    "RunTiming",
    "describe_methods",
    "draw_figures",
    "methods",
    "metrics_path",
    "write_group_report",
    "write_participant_report",
]

_HOMES = {
    "FigureContext": "fit",
    "RunTiming": "fit",
    "describe_methods": "wording",
    "draw_figures": "figures",
    "methods": "wording",
    "metrics_path": "metrics",
    "write_group_report": "group",
    "write_participant_report": "participant",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
