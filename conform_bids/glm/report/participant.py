"""The participant's report, assembled from figures and numbers that are in the output folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conform_bids.bids.names import ENTITY_ORDER, natural_key, parse_name
from conform_bids.glm.report.captions import describe_figure
from conform_bids.glm.report.metrics import FitNumbers, find_numbers
from conform_bids.glm.report.wording import describe_methods
from conform_bids.glm.settings import MODELS, GLMSettings
from conform_bids.report.page import (
    Cell,
    Facts,
    Figure,
    Item,
    Link,
    Note,
    Number,
    References,
    Section,
    Table,
    Text,
    make_anchor,
    write_page,
)

__all__ = ["version_in", "write_participant_report"]

_SPACE_KEYS = ("space", "cohort", "res", "den")
_NAMES = {"task": "task", "ses": "session", "space": "space", "res": "resolution", "den": "density"}
_DESIGN = (("", "timing"), ("", "trials"), ("", "collinearity"))
_DATA = (("", "runs"), ("tsnr", "preproc"), ("", "drift"))
_CHOICES = (("", "hrf"), ("hrfpeak", "*"), ("", "noisepool"), ("", "pcs"), ("shrinkage", "*"), ("", "fraction"), ("fraction", "*"))
_RELIABILITY = (("reliability", "*"), ("", "reliability"), ("singletrial", "*"), ("", "repeats"))
_ASIDE = (("", "setaside"),)
_RUN_COLUMNS = {
    "MedianTSNR": ("tSNR", 0),
    "MeanFD": ("FD (mm)", 2),
    "ShareDisplaced": ("FD\u00a0> 0.5\u00a0mm (%)", 1),
    "MeanStdDVARS": ("DVARS (std.)", 2),
    "MedianVarianceInflation": ("Variance inflation", 1),
    "DesignEfficiency": ("Efficiency", 2),
    "MedianRSquared": ("R² (%)", 1),
    "MeanBeta": ("Mean response", 2),
}
"""Quality of a run in the table: its heading, and decimals."""
POOL_HOLDS_SIGNAL = 0.1
"""Odd-even correlation of the noise pool from which its regressors are likely to take signal out."""
_REASONS = {
    "constant": "constant in a run",
    "nan": "not finite in a run",
    "empty": "zero throughout",
    "near_zero_mean": "with a mean smaller than their noise",
    "partial": "fitted without the runs that lack them",
}


@dataclass
class _Fit:
    """A fit of the participant: its names, its numbers where they are there, its figures by (stat, desc)."""

    entities: dict[str, str]
    numbers: FitNumbers | None
    figures: dict[tuple[str, str], Path]

    @property
    def title(self) -> str:
        parts = [f"{_NAMES.get(key, key)} {label}" for key, label in self.entities.items() if key not in ("sub", *_SPACE_KEYS)]
        title = " · ".join([*parts, self.space])
        return title[0].upper() + title[1:]

    @property
    def space(self) -> str:
        return " ".join(f"{key}-{self.entities[key]}" for key in _SPACE_KEYS if key in self.entities) or "BOLD reference space"

    @property
    def anchor(self) -> str:
        return make_anchor(*(f"{key}-{label}" for key, label in self.entities.items() if key != "sub"))

    def get(self, metric: str, model: str = "") -> float:
        return math.nan if self.numbers is None else self.numbers.get(metric, model)

    @property
    def best(self) -> str:
        """The most refined model."""
        models = () if self.numbers is None else self.numbers.models
        return models[-1] if models else ""


def write_participant_report(
    participant: str,
    output_dir: Path,
    settings: GLMSettings,
    about: Mapping[str, str],
    errors: Sequence[str],
    max_sessions: int,
) -> list[Path]:
    """Write ``sub-X.html`` from what is in the output folder.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    output_dir : Path
        Root of the outputs.
    settings : GLMSettings
        Of the run, for the methods text.
    about : mapping
        Versions and the like.
    errors : sequence of str
        What went wrong for this participant.
    max_sessions : int
        With more sessions, each has a page ``sub-X_ses-Y.html`` of its own, and ``sub-X.html`` lists them.

    Returns
    -------
    list of Path
        Pages written, ``sub-X.html`` first.
    """
    output_dir = Path(output_dir)
    fits, problems = _find_fits(output_dir, participant)
    every_error = [*errors, *problems]
    sessions = sorted({fit.entities["ses"] for fit in fits if "ses" in fit.entities}, key=natural_key)
    title, kind = f"sub-{participant}", "conform-glm: single-trial responses"
    methods = _methods_section(settings, version_in(about))
    remarks: list[Item] = [Note(f"Sloppy run: {about['Sloppy']}.")] if "Sloppy" in about else []
    if len(sessions) <= max_sessions:
        sections = [_summary(fits, remarks), *_fit_sections(fits), methods]
        page = write_page(output_dir / f"{title}.html", title=title, subtitle=kind, sections=sections, about=about, errors=every_error)
        return [page]
    pages = {session: f"{title}_ses-{session}.html" for session in sessions}
    shared = [fit for fit in fits if "ses" not in fit.entities]
    sections = [_summary(fits, remarks, pages), *_fit_sections(shared), methods]
    written = [write_page(output_dir / f"{title}.html", title=title, subtitle=kind, sections=sections, about=about, errors=every_error)]
    for session, name in pages.items():
        own = [fit for fit in fits if fit.entities.get("ses") == session]
        back = [*remarks, Table((), [[Link(f"All sessions of {title}", f"{title}.html")]])]
        parts = [_summary(own, back), *_fit_sections(own), methods]
        heading = f"{title}, session {session}"
        written.append(write_page(output_dir / name, title=heading, subtitle=kind, sections=parts, about=about, errors=every_error))
    return written


def version_in(about: Mapping[str, str]) -> str:
    """The version that the table of facts gives for conform-glm; that of the package where it gives none."""
    from conform_bids import __version__

    return about.get("conform-glm", __version__)


def _find_fits(output_dir: Path, participant: str) -> tuple[list[_Fit], list[str]]:
    numbers, problems = find_numbers(output_dir, [participant])
    fits = {_key(item.entities): _Fit(dict(item.entities), item, {}) for item in numbers}
    folder = output_dir / f"sub-{participant}" / "figures"
    for path in sorted([*folder.glob("*.svg"), *folder.glob("*.png")]):
        try:
            entities = parse_name(path).entities
        except ValueError:
            continue  # not one of ours
        if entities.get("sub") != participant or "desc" not in entities:
            continue
        stat, desc = entities.pop("stat", ""), entities.pop("desc")
        fits.setdefault(_key(entities), _Fit(entities, None, {})).figures[stat, desc] = path
    ordered = sorted(fits.values(), key=lambda fit: [natural_key(fit.entities.get(key, "")) for key in ENTITY_ORDER])
    return ordered, problems


def _key(entities: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(entities.items()))


def _methods_section(settings: GLMSettings, version: str) -> Section:
    text = describe_methods(settings, version)
    references = Section("References", "references", [References(text.keys)])
    return Section("Methods", "methods", [Text(text.text), references])


def _summary(fits: Sequence[_Fit], remarks: Sequence[Item], pages: Mapping[str, str] | None = None) -> Section:
    items: list[Item] = list(remarks)
    if not fits:
        items.append(Note("There are no results for this participant in the output folder."))
        return Section("Summary", "summary", items)
    columns = ("Fit", "Runs", "Trials", "Conditions", "Repeated", "Units", "Noise regressors", "Noise ceiling (%)", "Odd-even r")
    rows: list[list[Cell]] = []
    for fit in fits:
        page = (pages or {}).get(fit.entities.get("ses", ""))
        counts = [_count(fit.get(key)) for key in ("n_runs", "n_trials", "n_conditions", "n_repeated", "n_units_valid", "n_pcs")]
        ceiling, agreement = (fit.get(f"median_{metric}_responsive", fit.best) for metric in ("noise_ceiling", "odd_even_r"))
        quality = [Number(ceiling, 1), Number(agreement, 2)]
        rows.append([Link(fit.title, page or f"#{fit.anchor}"), *counts, *quality])
    caption = "Noise ceiling and odd-even r: medians over responsive units, of the most refined model."
    items.append(Table(columns, rows, caption))
    return Section("Summary", "summary", items)


def _count(value: float) -> int | str:
    return int(value) if math.isfinite(value) else "n/a"


def _fit_sections(fits: Sequence[_Fit]) -> list[Section]:
    first_of: dict[tuple[tuple[str, str], ...], _Fit] = {}
    sections = []
    for fit in fits:
        design = _key({key: label for key, label in fit.entities.items() if key not in _SPACE_KEYS})
        sections.append(_fit_section(fit, first_of.setdefault(design, fit)))
    return sections


def _fit_section(fit: _Fit, first: _Fit) -> Section:
    anchor = fit.anchor
    items: list[Item] = []
    if fit.numbers is None:
        items.append(Note("The numbers of this fit are missing: its table of metrics is not in the output folder."))
    else:
        items += [_facts(fit), *(Note(note) for note in fit.numbers.notes)]
    if first is fit:
        design = Section("Design and timing", f"{anchor}-design", _figures(fit, [*_DESIGN[:2], *_among(fit, _DESIGN[2:])]))
    else:
        design = Section("Design and timing", f"{anchor}-design", [Text(f"As for {first.title}: the runs are the same.")])
    known = {key for group in (_DESIGN, _DATA, _CHOICES, _RELIABILITY, _ASIDE) for key in _among(fit, group)}
    maps = sorted((key for key in fit.figures if key not in known), key=_map_order)
    # The figures tell which models there are where the numbers are missing.
    best = fit.best or next((model for model in reversed(MODELS) if any(desc == model for _, desc in maps)), "")
    expected = [("rsquared", "onoff")] if fit.get("n_units_valid") != 0 else []
    shown = [key for key in maps if key[1] in ("onoff", best)] or expected
    others = _figures(fit, [key for key in maps if key not in shown])
    more = [Section("Maps of the other models", f"{anchor}-othermaps", others, folded=True)] if others else []
    runs = _runs_table(fit)
    parts = [
        design,
        Section("Quality of the runs", f"{anchor}-runs", [*([runs] if runs else []), *_figures(fit, _among(fit, _DATA))]),
        Section("Maps", f"{anchor}-maps", [*_figures(fit, shown), *more]),
        Section("What was chosen", f"{anchor}-choices", _figures(fit, _among(fit, _CHOICES))),
        Section("Reliability", f"{anchor}-reliability", _reliability(fit)),
        Section("What was set aside", f"{anchor}-aside", [*_set_aside(fit), *_figures(fit, _among(fit, _ASIDE))]),
    ]
    return Section(fit.title, anchor, [*items, *(part for part in parts if part.items)])


def _among(fit: _Fit, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Figures of these names that are there, in this order; ``*`` stands for any model."""
    return [key for stat, desc in wanted for key in sorted(fit.figures) if key[0] == stat and desc in ("*", key[1])]


def _map_order(key: tuple[str, str]) -> tuple[int, int, str, str]:
    stat, desc = key
    model = MODELS.index(desc) if desc in MODELS else -1 if desc == "onoff" else len(MODELS)
    return (0 if stat == "rsquared" else 1, model, stat, desc)


def _figures(fit: _Fit, keys: Sequence[tuple[str, str]]) -> list[Figure]:
    figures = []
    for stat, desc in keys:
        title, caption, alt = describe_figure(stat, desc, as_map=fit.numbers is None or fit.numbers.drawn_as_maps)
        path = fit.figures.get((stat, desc), Path(f"{f'stat-{stat}_' if stat else ''}desc-{desc}"))
        figures.append(Figure(path, caption, alt, title))
    return figures


def _facts(fit: _Fit) -> Facts:
    def number(metric: str, model: str = "", form: str = "{:,.0f}") -> str:
        value = fit.get(metric, model)
        return form.format(value) if math.isfinite(value) else "n/a"

    best = fit.best
    return Facts(
        [
            ("Trials", number("n_trials"), f"in {number('n_runs')} runs"),
            ("Conditions", number("n_conditions"), f"{number('n_repeated')} repeated"),
            ("Units", number("n_units_valid"), f"of {number('n_units')} voxels or vertices; {number('n_units_responsive')} responsive"),
            ("Noise regressors", number("n_pcs"), f"from {number('n_noise_pool')} units"),
            ("Noise ceiling", number("median_noise_ceiling_responsive", best, "{:.1f} %"), "median, responsive units"),
            ("Odd-even r", number("median_odd_even_r_responsive", best, "{:.2f}"), "median, responsive units"),
            ("Single-trial r", number("median_single_trial_r_responsive", best, "{:.2f}"), "median, responsive units"),
            ("Noise pool's odd-even r", number("pool_reliability", "", "{:.2f}"), _pool_remark(fit.get("pool_reliability"))),
            ("Temporal SNR", number("median_tsnr", "", "{:.0f}"), "median over units, mean of runs"),
            (
                "Mean FD",
                number("mean_framewise_displacement", "", "{:.2f} mm"),
                f"{number('share_displaced', '', '{:.1f} %')} above 0.5 mm",
            ),
            (
                "Variance inflation",
                number("median_variance_inflation", "", "{:.1f}"),
                f"median trial; at most {number('max_variance_inflation', '', '{:.1f}')}",
            ),
            ("Trials flagged", number("n_trials_flagged"), f"{number('n_trials_set_aside')} more left out"),
        ]
    )


def _pool_remark(reliability: float) -> str:
    """What the reliability of the noise pool means."""
    if not math.isfinite(reliability):
        return "not measured"
    return "about 0: it holds no signal" if reliability < POOL_HOLDS_SIGNAL else "it holds signal: see --pcs-rule smallest"


def _runs_table(fit: _Fit) -> Table | None:
    if fit.numbers is None or not fit.numbers.runs:
        return None
    rows: list[list[Cell]] = []
    present = {key for run in fit.numbers.runs for key in run}
    shown = {key: column for key, column in _RUN_COLUMNS.items() if key in present}
    for run in fit.numbers.runs:
        cells: list[Cell] = [run.get(key, "n/a") for key in ("Label", "Volumes", "RepetitionTime", "StartTime", "Trials")]
        cells += [Number(float(run.get(key, math.nan)), decimals) for key, (_, decimals) in shown.items()]
        rows.append([*cells, ", ".join(map(str, run.get("Remarks", [])))])
    heads = ["Run", "Volumes", "TR (s)", "First frame at (s)", "Trials", *(name for name, _ in shown.values()), "Remarks"]
    if not any(run.get("Remarks") for run in fit.numbers.runs):  # a column that is empty would push others off a narrow screen
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    caption = (
        "Medians over units or trials, means over volumes. Efficiency: one over the mean variance of the unregularised estimates of trials "
        "without a flag, where the noise of a volume has variance 1 (Dale, 1999); at 0.25 an estimate has twice the standard deviation of "
        "a volume's noise. Mean response: of responsive units, in the units of the betas. Remarks, where there are any: more than three "
        "robust standard deviations off the other runs (from four runs on), or (moved) more than a fifth of the volumes with a framewise "
        "displacement above 0.5 mm."
    )
    return Table(heads, rows, caption)


def _reliability(fit: _Fit) -> list[Item]:
    items: list[Item] = list(_figures(fit, _among(fit, _RELIABILITY)))
    if fit.numbers is None or not fit.numbers.models:
        return items
    if ("", "reliability") not in fit.figures:
        items.insert(0, Note("Odd-even reliability could not be computed: it needs three conditions or more in both odd and even runs."))
    metrics = ("median_rsquared", "median_noise_ceiling", "median_odd_even_r", "median_single_trial_r")
    rows: list[list[Cell]] = []
    for model in fit.numbers.models:
        digits = {metric: 2 if metric.endswith("_r") else 1 for metric in metrics}
        values = [Number(fit.get(f"{metric}{subset}", model), digits[metric]) for metric in metrics for subset in ("", "_responsive")]
        rows.append([model, *values])
    columns = (
        "Model",
        "R² (%)",
        "responsive",
        "Noise ceiling (%)",
        "responsive",
        "Odd-even r",
        "responsive",
        "Single-trial r",
        "responsive",
    )
    threshold = fit.get("pcs_threshold")
    responsive = (
        f"those whose on/off R² exceeds the threshold of the vote on noise regressors ({threshold:.3g} %), or the best twentieth where "
        "few do"
        if threshold == threshold
        else "the twentieth with the highest on/off R²"
    )
    caption = f"Medians over all units that were fitted, and over responsive ones: {responsive}."
    return [*items, Table(columns, rows, caption)]


def _set_aside(fit: _Fit) -> list[Item]:
    if fit.numbers is None:
        return []
    total = max(1.0, fit.get("n_units"))
    rows: list[list[Cell]] = []
    for metric, model in fit.numbers.values:
        reason = metric.removeprefix("n_units_")
        if metric.startswith("n_units_") and reason not in ("valid", "responsive"):
            count = fit.get(metric, model)
            remark = "" if not count else "NaN for the trials of those runs" if reason == "partial" else "NaN in every map"
            rows.append([f"Units {_REASONS.get(reason, reason)}", _count(count), Number(100 * count / total, 2), remark])
    reasons: dict[str, list[str]] = {}
    for reason, place in fit.numbers.trials_set_aside:
        reasons.setdefault(reason, []).append(place)
    for reason, places in reasons.items():
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        rows.append([f"Trials left out: {reason}", len(places), "", ", ".join(places[:3]) + more])
    if not reasons:
        rows.append(["Trials left out", 0, "", "every trial was modelled"])
    n_trials = max(1.0, fit.get("n_trials"))
    flagged: dict[str, dict[str, int]] = {}
    for reason, run, number in fit.numbers.trials_flagged:
        flagged.setdefault(reason, {})[run] = number
    for reason, by_run in flagged.items():
        total_flagged = sum(by_run.values())
        where = ", ".join(f"{run} ({number})" for run, number in list(by_run.items())[:6]) + (", ..." if len(by_run) > 6 else "")
        rows.append(
            [f"Trials flagged: {reason}", total_flagged, Number(100 * total_flagged / n_trials, 2), f"modelled, unreliable: {where}"]
        )
    if not flagged:
        rows.append(["Trials flagged", 0, "", "every trial's estimate stands on its own"])
    return [Table(("What, and why", "Count", "Share (%)", "Remark"), rows)]
