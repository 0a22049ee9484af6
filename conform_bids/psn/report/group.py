"""The level group: a table over participants, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.names import natural_key
from conform_bids.psn.report.participant import FitNumbers, find_fits, methods_section
from conform_bids.psn.report.wording import AFTER
from conform_bids.psn.settings import PSNSettings
from conform_bids.report.page import Cell, Item, Link, Note, Number, Section, Table, write_page
from conform_bids.wording import counted

__all__ = ["write_group_report"]

_LABELS = {"task": "task_id", "space": "space_label"}
_COLUMNS: dict[str, tuple[str, int]] = {
    "n_trials": ("Trials", 0),
    "n_conditions": ("Conditions", 0),
    "n_repeated": ("", 0),
    "n_test_conditions": ("", 0),
    "n_sessions": ("", 0),
    "n_units": ("", 0),
    "n_parcels": ("", 0),
    "median_dimensions": ("", 1),
    "median_ncsnr": ("", 2),
    "median_noise_ceiling_before": ("Noise ceiling, all units (%)", 1),
    "median_noise_ceiling_after": ("", 1),
    "median_cv_gain": ("Gain, single trials (%)", 1),
    "median_reliability_before": ("r before", 2),
    "median_reliability_after": ("r after", 2),
    "null_median_reliability_after": ("r, shuffled", 2),
}
"""Metrics of the table; those with a name are on the page, too."""


def write_group_report(output_dir: Path, participants: Sequence[str], settings: PSNSettings, about: Mapping[str, str]) -> list[Path]:
    """Write ``group_psn.tsv`` and ``group_psn.html`` from the participants' tables of numbers.

    Parameters
    ----------
    output_dir : Path
        Root of the outputs.
    participants : sequence of str
        Labels without ``sub-``.
    settings : PSNSettings
        Of the run, for the methods text.
    about : mapping
        Versions and the like.

    Returns
    -------
    list of Path
        Table and page.
    """
    output_dir = Path(output_dir)
    fits: list[FitNumbers] = []
    problems: list[str] = []
    for participant in sorted(participants, key=natural_key):
        found, faults = find_fits(output_dir, participant)
        fits += found
        problems += faults
    table = _table(fits)
    paths = [output_dir / "group_psn.tsv", output_dir / "group_psn.html"]
    write_tsv(table, paths[0])
    items: list[Item] = [] if fits else [Note("No participant has results in the output folder.")]
    missing = [label for label in participants if label not in {fit.entities["sub"] for fit in fits}]
    if missing:
        items.append(Note(f"Without results: {', '.join(f'sub-{label}' for label in missing)}."))
    rows: list[list[Cell]] = []
    for fit in fits:
        name = f"sub-{fit.entities['sub']}"
        page = f"{name}.html"
        link: Cell = Link(name, page) if (output_dir / page).is_file() else name
        rows.append([link, fit.title, *(_number(fit, metric, decimals) for metric, (head, decimals) in _COLUMNS.items() if head)])
    caption = (
        "Noise ceiling (of trial averages) and gain (share of the variance of single trials): medians over all units; r: odd-even "
        "correlation over conditions, median over parcels; shuffled: the same where "
        f"nothing repeats, which should be 0 within error. {AFTER} group_psn.tsv has more columns."
    )
    items.append(Table(["Participant", "Fit", *(head for head, _ in _COLUMNS.values() if head)], rows, caption))
    n_people = len({fit.entities["sub"] for fit in fits})
    write_page(
        paths[1],
        title="Group report",
        subtitle=f"conform-psn: {counted(len(fits), 'fit')} of {counted(n_people, 'participant')}",
        sections=[Section("Overview", "overview", items), methods_section(settings, about)],
        about=about,
        errors=problems,
    )
    return paths


def _number(fit: FitNumbers, metric: str, decimals: int) -> Number:
    """A number as the page shows it: gains in percent, as on the participants' pages."""
    return Number(100 * fit.get(metric) if metric == "median_cv_gain" else fit.get(metric), decimals)


def _table(fits: Sequence[FitNumbers]) -> pd.DataFrame:
    """A row a fit; columns of other entities only where some fit has them."""
    others = sorted({key for fit in fits for key in fit.entities} - {"sub", *_LABELS})
    rows = []
    for fit in fits:
        row: dict[str, object] = {"participant_id": f"sub-{fit.entities['sub']}"}
        row |= {column: fit.entities.get(key, "n/a") for key, column in _LABELS.items()}
        row |= {f"{key}_label": fit.entities.get(key, "n/a") for key in others}
        row |= {metric: int(fit.get(metric)) if metric.startswith("n_") else fit.get(metric) for metric in _COLUMNS}
        row["split_given"] = str(bool(fit.content.get("SplitGiven"))).lower()
        rows.append(row)
    columns = ["participant_id", *_LABELS.values(), *_COLUMNS, "split_given"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
