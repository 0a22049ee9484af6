"""The figures of the reports, in one place: maps of a space, and plots of numbers."""

from __future__ import annotations

from conform_bids.report.designs import plot_onsets_and_repeats, plot_raster
from conform_bids.report.maps import has_mesh, plot_map
from conform_bids.report.plots import (
    plot_curve,
    plot_curves_by_share,
    plot_distributions,
    plot_histogram,
    plot_strips,
)
from conform_bids.report.runs import RunPanel, plot_collinearity, plot_course, plot_runs
from conform_bids.report.scales import Scale, robust_limit

__all__ = [
    "RunPanel",
    "Scale",
    "has_mesh",
    "plot_collinearity",
    "plot_course",
    "plot_curve",
    "plot_curves_by_share",
    "plot_distributions",
    "plot_histogram",
    "plot_map",
    "plot_onsets_and_repeats",
    "plot_raster",
    "plot_runs",
    "plot_strips",
    "robust_limit",
]
