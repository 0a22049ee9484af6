"""The participant's report, assembled from figures and numbers that are in the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids.bids.names import natural_key, parse_name
from conform_bids.bids.sidecars import read_json
from conform_bids.bids.tables import parse_number, read_tsv
from conform_bids.errors import ConformError
from conform_bids.psn.report.wording import AFTER, describe_methods
from conform_bids.psn.settings import PSNSettings
from conform_bids.report.page import Cell, Facts, Figure, Item, Note, Number, References, Section, Table, Text, make_anchor, write_page

__all__ = ["FitNumbers", "find_fits", "methods_section", "write_participant_report"]

_FIGURES = {
    ("noiseceiling", "trialavg"): ("Noise ceiling before denoising", "Share of the variance of trial averages that is signal."),
    ("noiseceiling", "psn"): (
        "Noise ceiling after denoising",
        "How repeatable the denoised responses are, each from a denoiser that never saw its condition, on the same scale as before. It is "
        "not how much signal a unit has: denoising leaves a unit without signal of its own a small response that its neighbours share, "
        "which is repeatable, hence a high ceiling. Where there is signal is what the ceiling before shows, and where denoising predicts a "
        "unit's own held-out trials the gain.",
    ),
    ("", "ceilings"): (
        "Noise ceilings over units",
        "Denoised responses should be more repeatable than trial averages: after lies to the right of before, or denoising does not help. "
        "How far to the right says little, as units without signal move there, too.",
    ),
    ("", "reliability"): (
        "Reliability, cross-fitted, and its null",
        "Odd-even correlation over conditions, median over the units of each parcel; after: by denoisers that never saw the condition. "
        "At the right the repeats of some parcels are shuffled, so that nothing repeats: what is cross-fitted has to lie at 0, and what is "
        "not shows how much a denoiser makes up when it has seen the condition (0: it passes nothing).",
    ),
    ("ncsnr", "psn"): ("Signal-to-noise ratio", "Standard deviation of the signal over that of a single trial's noise."),
    ("cvgain", "psn"): (
        "Gain, single trials",
        "Share of the variance of single trials of unseen conditions that the denoised mean of the condition's other trials predicts. Most "
        "of that variance is noise, so that small numbers are usual; below 0 (blue) the mean response predicts better.",
    ),
    ("dimensions", "psn"): (
        "Dimensions",
        "Dimensions that pass the denoiser: their number, or its trace, to which units add that pass by themselves.",
    ),
    ("", "spectra"): (
        "Spectra",
        "Along each parcel's dimensions, leading first: variance of signal and of a single trial's noise, relative to all signal variance "
        "of the parcel, and how much of the dimension passes the denoiser. Medians over parcels, with quartiles. The dimensions are those "
        "of the likeliest shrinkage, in some parcels one fewer than train conditions; what a mixture passes beside them (units by "
        "themselves) is counted in Dimensions and not shown here.",
    ),
    ("", "calibration"): (
        "How strongly to denoise",
        "One line per parcel: what denoised responses predict of responses whose noise they have not seen, at each strength (for methods "
        "of the PSN package: signal variance less that of noise in the leading dimensions, by the covariances); a dot is the best. At 0 "
        "they predict no better than the mean response; lines are cut at -1.",
    ),
    ("", "likelihood"): (
        "Shrinkage of the covariances",
        "One line per parcel: negative log likelihood of held-out trials when the covariance is shrunk towards its diagonal (0: the "
        "diagonal alone, 1: not shrunk); the lowest point is used.",
    ),
    ("status", "psn"): (
        "What became of units",
        "Passed on: the trial averages, as denoising their parcel gains nothing; mean only: the same with --no-gain zero; none: outside of "
        "parcels, or set aside, without a denoised response.",
    ),
}
_PARCEL_COLUMNS = {
    "name": ("Parcel", 0),
    "n_units": ("Units", 0),
    "outcome": ("Outcome", 0),
    "dimensions": ("Dimensions", 1),
    "gain": ("Gain, averages (%)", 2),
    "reliability_before": ("Odd-even r before", 2),
    "reliability_after": ("Odd-even r after", 2),
}


@dataclass(frozen=True)
class FitNumbers:
    """Numbers of one fit, from its table and sidecar.

    Attributes
    ----------
    entities : dict
        Of the fit's files.
    values : dict
        Number by metric; NaN where it could not be computed.
    content : dict
        Of the sidecar.
    path : Path
        The table.
    """

    entities: dict[str, str]
    values: dict[str, float]
    content: dict[str, Any]
    path: Path

    def get(self, metric: str) -> float:
        """A number; NaN where there is none."""
        return self.values.get(metric, float("nan"))

    @property
    def title(self) -> str:
        """Entities in words."""
        return " ".join(f"{key}-{label}" for key, label in self.entities.items() if key != "sub")


def find_fits(output_dir: Path, participant: str) -> tuple[list[FitNumbers], list[str]]:
    """Numbers of a participant's fits, and what could not be read."""
    found, problems = [], []
    paths = (output_dir / f"sub-{participant}" / "func").glob("*_desc-psn_metrics.tsv")
    for path in sorted(paths, key=lambda path: natural_key(path.name)):
        try:
            table = read_tsv(path, required=("metric", "value"), quoted=False)
            values = {str(name): parse_number(str(value)) for name, value in zip(table["metric"], table["value"], strict=True)}
            entities = {key: label for key, label in parse_name(path).entities.items() if key != "desc"}
            content = read_json(path.with_suffix(".json"))
        except (ConformError, OSError, ValueError) as error:
            problems.append(str(error).replace(f"{output_dir}/", ""))
            continue
        numbers = {name: float("nan") if value is None else value for name, value in values.items()}
        found.append(FitNumbers(entities, numbers, content, path))
    return found, problems


def write_participant_report(
    participant: str,
    output_dir: Path,
    settings: PSNSettings,
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
    settings : PSNSettings
        Of the run, for the methods text.
    about : mapping
        Versions and the like.
    errors : sequence of str
        What went wrong for this participant.
    max_sessions : int
        All sessions are pooled, so there is one page whatever their number.

    Returns
    -------
    list of Path
        The page.
    """
    output_dir = Path(output_dir)
    fits, problems = find_fits(output_dir, participant)
    remarks: list[Item] = [Note(f"Sloppy run: {about['Sloppy']}.")] if "Sloppy" in about else []
    sections = [_summary(fits, remarks), *(_fit_section(fit, output_dir) for fit in fits), methods_section(settings, about)]
    page = write_page(
        output_dir / f"sub-{participant}.html",
        title=f"sub-{participant}",
        subtitle="conform-psn: denoised condition responses",
        sections=sections,
        about=about,
        errors=[*errors, *problems],
    )
    return [page]


def methods_section(settings: PSNSettings, about: Mapping[str, str]) -> Section:
    """The methods text and its references."""
    from conform_bids import __version__

    text = describe_methods(settings, about.get("conform-psn", __version__))
    return Section("Methods", "methods", [Text(text.text), Section("References", "references", [References(text.keys)])])


def _summary(fits: Sequence[FitNumbers], remarks: Sequence[Item]) -> Section:
    items: list[Item] = list(remarks)
    if not fits:
        items.append(Note("There are no results for this participant in the output folder."))
        return Section("Summary", "summary", items)
    for note in dict.fromkeys(str(note) for fit in fits for note in fit.content.get("Notes", []) if str(note).startswith("NO SPLIT")):
        items.append(Note(note))
    measures = ("Noise ceiling, all units (%)", "Gain, single trials (%)", "Odd-even r before", "Odd-even r after")
    columns = ("Fit", "Trials", "Conditions", "Test", "Parcels", *measures)
    rows: list[list[Cell]] = [
        [
            fit.title,
            *(Number(fit.get(name), 0) for name in ("n_trials", "n_conditions", "n_test_conditions", "n_parcels")),
            Number(fit.get("median_noise_ceiling_before"), 1),
            Number(100 * fit.get("median_cv_gain"), 1),
            *(Number(fit.get(f"median_reliability_{when}"), 2) for when in ("before", "after")),
        ]
        for fit in fits
    ]
    caption = (
        "Noise ceiling (of trial averages) and gain (share of the variance of single trials that is predicted): medians over all units, "
        f"those without signal among them; odd-even r: median over parcels. {AFTER}"
    )
    items.append(Table(columns, rows, caption))
    return Section("Summary", "summary", items)


def _fit_section(fit: FitNumbers, output_dir: Path) -> Section:
    folder = output_dir / f"sub-{fit.entities['sub']}" / "figures"
    known = {}
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        entities = parse_name(path).entities
        stat, desc = entities.pop("stat", ""), entities.pop("desc", "")
        if entities == fit.entities:
            known[stat, desc] = path
    facts = Facts(
        [
            ("Model of the betas", f"desc-{fit.content.get('BetaModel', 'n/a')}", ""),
            ("Method", str(fit.content.get("Method", "n/a")), ""),
            ("z-scored within sessions", "yes" if fit.content.get("ZScoredWithinSessions") else "no", ""),
            ("Reliability of shuffled repeats", str(Number(fit.get("null_median_reliability_after"), 2)), "should be 0 within error"),
        ]
    )
    items: list[Item] = [facts]
    items += [Note(str(note)) for note in fit.content.get("Notes", []) if not str(note).startswith("NO SPLIT")]
    for key, (title, caption) in _FIGURES.items():
        if key in known:
            items.append(Figure(known[key], caption, f"{title} of {fit.title}", title))
    items.append(_parcel_table(fit))
    return Section(fit.title, make_anchor(fit.title), items)


def _parcel_table(fit: FitNumbers) -> Item:
    path = fit.path.with_name(fit.path.name.replace("_desc-psn_", "_desc-parcels_"))
    try:
        table = read_tsv(path, required=tuple(_PARCEL_COLUMNS), quoted=False).fillna("n/a")
    except ConformError as error:
        return Note(f"The table of parcels cannot be read: {error}".replace(f"{path.parent}/", ""))
    rows: list[list[Cell]] = []
    for _, row in table.iterrows():
        cells: list[Cell] = []
        for column, (_, decimals) in _PARCEL_COLUMNS.items():
            number = parse_number(str(row[column])) if column not in ("name", "outcome") else None
            factor = 100 if column == "gain" else 1
            cells.append(str(row[column]) if number is None else Number(factor * number, decimals))
        rows.append(cells)
    caption = (
        "Gain, averages: share of what can be predicted of averages with noise of their own that the mixture predicts, all units of the "
        "parcel together (methods of the PSN package: of single trials). All columns are in the table of parcels."
    )
    return Section(
        "Parcels", make_anchor(fit.title, "parcels"), [Table([head for head, _ in _PARCEL_COLUMNS.values()], rows, caption)], len(rows) > 20
    )
