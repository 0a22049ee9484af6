"""The group's table and page: a row a fit of each participant, so that outliers show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.names import natural_key
from conform_bids.glm.report.metrics import FitNumbers, find_numbers
from conform_bids.glm.report.participant import version_in
from conform_bids.glm.report.wording import describe_methods
from conform_bids.glm.settings import GLMSettings
from conform_bids.report.outliers import FEWEST_FITS, LARGEST_Z, standing_out
from conform_bids.report.page import Cell, Figure, Item, Link, Note, Number, References, Section, Table, Text, write_page
from conform_bids.wording import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_group_report"]

_LABELS = {"ses": "session_id", "task": "task_id", "space": "space_label", "res": "resolution_label", "den": "density_label"}
_OTHER = ("acq", "ce", "rec", "dir", "echo", "part", "cohort")
_COUNTS = (
    "n_runs",
    "n_trials",
    "n_trials_set_aside",
    "n_trials_flagged",
    "n_conditions",
    "n_repeated",
    "n_units",
    "n_units_set_aside",
    "n_noise_pool",
    "n_pcs",
)
_BY_MODEL = {
    "median_rsquared": "R² (%)",
    "median_noise_ceiling": "Noise ceiling (%)",
    "median_odd_even_r": "Odd-even r",
    "median_single_trial_r": "Single-trial r",
}
_QUALITY = {
    "pool_reliability": "Noise pool's odd-even r",
    "median_tsnr": "Temporal SNR",
    "mean_framewise_displacement": "Mean FD (mm)",
    "share_displaced": "Volumes with FD > 0.5 mm (%)",
    "mean_std_dvars": "DVARS (standardised)",
    "median_variance_inflation": "Variance inflation of trials",
    "max_variance_inflation": "Largest variance inflation",
    "design_efficiency": "Design efficiency",
    "largest_run_deviation": "Largest deviation of a run's\nmean response (%)",
}
_PLAIN = {
    "n_trials": "Trials",
    "n_trials_flagged": "Trials flagged",
    "n_units_set_aside": "Units set aside",
    "n_pcs": "Noise regressors",
    "median_onoff_rsquared": "On/off R² (%)",
    "median_fraction": "Ridge fraction",
    **{metric: title for metric, title in _QUALITY.items() if metric != "max_variance_inflation"},
}


def write_group_report(output_dir: Path, participants: Sequence[str], settings: GLMSettings, about: Mapping[str, str]) -> list[Path]:
    """Write ``group_glm.tsv`` and ``group_glm.html`` from the participants' tables of numbers.

    Parameters
    ----------
    output_dir : Path
        Root of the outputs.
    participants : sequence of str
        Labels without ``sub-``.
    settings : GLMSettings
        Of the run, for the methods text.
    about : mapping
        Versions and the like.

    Returns
    -------
    list of Path
        Table and page.
    """
    output_dir = Path(output_dir)
    fits, problems = find_numbers(output_dir, sorted(participants, key=natural_key))
    table = _table(fits)
    paths = [output_dir / "group_glm.tsv", output_dir / "group_glm.html"]
    write_tsv(table, paths[0])
    items: list[Item] = []
    if not fits:
        items.append(Note("No participant has results in the output folder."))
    with TemporaryDirectory() as folder:
        items += _figures(table, Path(folder))
        missing = [label for label in participants if label not in {fit.entities["sub"] for fit in fits}]
        if missing:
            items.append(Note(f"Without results: {', '.join(f'sub-{label}' for label in missing)}."))
        methods = describe_methods(settings, version_in(about))
        references = Section("References", "references", [References(methods.keys)])
        sections = [
            Section("Overview", "overview", items),
            Section("Outliers", "outliers", [_outliers(table)]),
            Section("Table", "table", [_html_table(table, output_dir)]),
            Section("Methods", "methods", [Text(methods.text), references]),
        ]
        n_people = len({fit.entities["sub"] for fit in fits})
        subtitle = f"conform-glm: {counted(len(fits), 'fit')} of {counted(n_people, 'participant')}"
        write_page(paths[1], title="Group report", subtitle=subtitle, sections=sections, about=about, errors=problems)
    return paths


def _table(fits: Sequence[FitNumbers]) -> pd.DataFrame:
    """A row a fit; columns of labels only where some fit has the entity, those of a model only where one has it."""
    import pandas as pd

    present = {key for fit in fits for key in fit.entities}
    models = list(dict.fromkeys(model for fit in fits for model in fit.models))
    rows = []
    for fit in fits:
        row: dict[str, object] = {"participant_id": f"sub-{fit.entities['sub']}"}
        for key in ("ses", "task", *_OTHER, "space", "res", "den"):
            if key in present or key in ("ses", "task", "space"):
                row[_LABELS.get(key, f"{key}_label")] = fit.entities.get(key, "n/a")
        for metric in _COUNTS:
            value = fit.get("n_units") - fit.get("n_units_valid") if metric == "n_units_set_aside" else fit.get(metric)
            row[metric] = int(value) if math.isfinite(value) else "n/a"
        row["median_onoff_rsquared"] = fit.get("median_onoff_rsquared")
        for metric in _BY_MODEL:
            for model in models:
                row[f"{metric}_{model}"] = fit.get(metric, model)
                row[f"{metric}_responsive_{model}"] = fit.get(f"{metric}_responsive", model)
        row["median_fraction"] = fit.get("median_fraction")
        row |= {metric: fit.get(metric) for metric in _QUALITY}
        rows.append(row)
    columns = ["participant_id", *(_LABELS[key] for key in ("ses", "task", "space")), *_COUNTS]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


_CAPTION = (
    "One dot per fit; bar: quartiles, line: median. Dots that stand out (see Outliers) are orange and named: look at those participants' "
    "reports first. Few trials, many units set aside, high motion or a low noise ceiling usually come together."
)


def _figures(table: pd.DataFrame, folder: Path) -> list[Figure]:
    """Strip plots, one figure for each task and space, as these are not to be compared with one another."""
    from conform_bids.report.figures import plot_strips

    figures = []
    for number, ((task, space), rows) in enumerate(table.groupby(["task_id", "space_label"], sort=True)):
        if len(rows) < 2:
            continue  # a single dot says no more than the table
        path = plot_strips(_columns(rows), _fit_labels(rows), folder / f"{number}.svg")
        figures.append(Figure(path, _CAPTION, f"Strip plots of each measure over participants, task {task}", f"Task {task}, space {space}"))
    return figures


def _fit_labels(rows: pd.DataFrame) -> list[str]:
    return [" ".join(str(row[key]) for key in ("participant_id", "session_id") if row[key] != "n/a") for _, row in rows.iterrows()]


def _columns(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Measures that are drawn, by title; those that a quarter of the fits has at least."""
    import pandas as pd

    titles = dict(_PLAIN)
    for column in rows.columns:
        for metric, title in _BY_MODEL.items():
            if column.startswith(f"{metric}_responsive_"):
                titles[column] = f"{title}, responsive\n{column.removeprefix(f'{metric}_responsive_')}"
    shown = {title: pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=float) for column, title in titles.items()}
    return {title: values for title, values in shown.items() if np.isfinite(values).sum() >= max(1, len(values) / 4)}


def _outliers(table: pd.DataFrame) -> Item:
    """Who stands out in what, by the rule that colours the dots."""
    rows: list[list[Cell]] = []
    for (task, space), group in table.groupby(["task_id", "space_label"], sort=True) if len(table) else ():
        labels = _fit_labels(group)
        for title, values in _columns(group).items():
            for place in np.flatnonzero(standing_out(values)):
                name, middle = title.replace("\n", " "), float(np.nanmedian(values))
                rows.append([labels[place], str(task), str(space), name, float(values[place]), middle])
    rule = f"modified z-score (distance from the median over 1.4826 median absolute deviations) beyond {LARGEST_Z:g}"
    if not rows and (not len(table) or table.groupby(["task_id", "space_label"]).size().max() < FEWEST_FITS):
        return Text(f"Fewer than {FEWEST_FITS} fits of a task and space are too few to say that one stands out; compare the dots above.")
    if not rows:
        return Text(f"No fit stands out: none has a {rule}, among the fits of the same task and space.")
    caption = f"Fits with a {rule}, among those of the same task and space, from {FEWEST_FITS} fits on."
    return Table(("Fit", "Task", "Space", "Measure", "Value", "Median of all"), rows, caption)


_NAMES = {
    "participant_id": "Participant",
    "session_id": "Session",
    "task_id": "Task",
    **{f"{key}_label": key for key in _OTHER},
    "space_label": "Space",
    "resolution_label": "Resolution",
    "density_label": "Density",
}
_NUMBERS = {
    "median_tsnr": "tSNR",
    "mean_framewise_displacement": "Mean FD (mm)",
    "share_displaced": "FD > 0.5 mm (%)",
    "n_runs": "Runs",
    "n_trials": "Trials",
    "n_trials_set_aside": "Trials set aside",
    "n_units": "Units",
    "n_units_set_aside": "Units set aside",
    "n_pcs": "Noise regressors",
}


def _html_table(table: pd.DataFrame, output_dir: Path) -> Table:
    """What tells fits apart, the quality of the most refined model, and counts; the file has the rest."""
    model = next(
        (column.removeprefix("median_rsquared_responsive_") for column in reversed(table.columns) if "rsquared_resp" in column), ""
    )
    decimals = {
        f"median_noise_ceiling_responsive_{model}": 1,
        f"median_odd_even_r_responsive_{model}": 2,
        f"median_single_trial_r_responsive_{model}": 2,
    }
    heads = {**_NAMES, **dict(zip(decimals, ("Noise ceiling (%)", "Odd-even r", "Single-trial r"), strict=True)), **_NUMBERS}
    decimals |= {"mean_framewise_displacement": 2, "share_displaced": 1}
    keep = [column for column in heads if column in table.columns and table[column].notna().any()]
    rows: list[list[Cell]] = []
    for _, row in table.iterrows():
        label = str(row["participant_id"])
        page = f"{label}.html"
        cells: list[Cell] = [Link(label, page) if (output_dir / page).is_file() else label]
        for column in keep[1:]:
            value = row[column]
            cells.append(value if isinstance(value, str) else Number(float(value), decimals.get(column, 0)))
        rows.append(cells)
    caption = "Noise ceiling and odd-even r: medians over responsive units, of the most refined model. All columns are in group_glm.tsv."
    return Table([heads[column] for column in keep], rows, caption)
