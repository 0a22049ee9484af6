"""What a person sees of an encoding model: figures, the participant's page, the group's table and page, the methods text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.names import natural_key, parse_name, relative_path
from conform_bids.bids.sidecars import read_json
from conform_bids.bids.spaces import Space
from conform_bids.bids.tables import parse_number, read_tsv
from conform_bids.encode.settings import ESTIMATORS, EncodeSettings
from conform_bids.errors import ConformError
from conform_bids.report.citations import Methods
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

__all__ = ["describe_methods", "draw_figures", "methods", "write_group_report", "write_participant_report"]

_COLUMNS = {
    "median_correlation": ("Correlation", 3),
    "median_rsquared": ("R2", 3),
    "median_noiseceilingnormalized": ("r / ceiling", 3),
    "units_above_chance": ("Units above chance", 3),
    "median_cv_rsquared": ("R2, cross-validated", 3),
}
_CAPTION = (
    "Medians over units: correlation and R2 of predictions with measured responses to test stimuli, which are trial averages that are not "
    "denoised; correlation over the root of the noise ceiling, for units with a ceiling above 10 %; the share of units whose correlation "
    "passes the 95th percentile of chance; and R2 of train stimuli by models that did not see them."
)
_FIGURES = {
    "correlation": ("Correlation", "Correlation of predictions with measured responses to test stimuli."),
    "noiseceilingnormalized": (
        "Correlation over the noise ceiling",
        "Correlation over the root of the noise ceiling of the test stimuli, where the ceiling is above 10 %: 1 at most.",
    ),
    "cvrsquared": (
        "R2, cross-validated",
        "Share of the variance of responses to train stimuli, predicted by models that did not see them.",
    ),
    "alpha": ("Penalty", "Penalty on the weights that was chosen, as the power of ten."),
    "ceiling": (
        "Scores and the noise ceiling",
        "Correlation of each unit against the root of its noise ceiling, which it cannot pass but by chance; brightness counts units.",
    ),
    "spaces": ("Feature spaces", "Share of the variance of test responses that each feature space predicts (shares add up to R2)."),
}


@dataclass(frozen=True)
class _Fitted:
    """An encoding model of a person."""

    entities: dict[str, str]
    content: dict[str, Any]
    scores: dict[str, tuple[float, float, float]]

    @property
    def title(self) -> str:
        """Entities in words."""
        return " ".join(f"{key}-{label}" for key, label in self.entities.items() if key != "sub")

    def value(self, name: str) -> float:
        """A score; NaN where there is none."""
        return self.scores.get(name, (float("nan"),) * 3)[0]


def draw_figures(results: Mapping[str, Path], space: Space, entities: Mapping[str, str], output_dir: Path) -> list[Path]:
    """Draw the figures of a fit into the participant's folder ``figures``.

    Parameters
    ----------
    results : mapping of str to Path
        Arrays of the fit by file name.
    space : Space
        What their units are.
    entities : mapping
        Of the outputs.
    """
    from conform_bids.report import figures as draw

    def at(stat: str, suffix: str, extension: str) -> Path:
        name = relative_path({**entities, "stat": stat}, suffix, extension).rsplit("/", 1)[1]
        return output_dir / f"sub-{entities['sub']}" / "figures" / name

    drawn: list[Path] = []
    for array, stat, label, most in (
        ("correlation", "correlation", "Correlation", 1.0),
        ("noiseceilingnormalized", "noiseceilingnormalized", "r / root of the noise ceiling", 1.2),
        ("cv_rsquared", "cvrsquared", "Cross-validated R2", 1.0),
    ):
        values = _array(results, array)
        if values is not None and np.isfinite(values).any():
            high = draw.robust_limit(values, most=most)
            drawn.append(draw.plot_map(values, space, at(stat, "statmap", ".png"), draw.Scale(label, 0.0, high, start=0.18)))
    alpha = _array(results, "alpha")
    if alpha is not None and alpha.ndim == 1 and np.isfinite(alpha).any():
        with np.errstate(divide="ignore", invalid="ignore"):
            power = np.where(alpha > 0, np.log10(alpha), np.nan)
        low, high = float(np.nanmin(power)), float(np.nanmax(power))
        scale = draw.Scale("Penalty (power of ten)", low, max(high, low + 1), colour_map="cividis")
        drawn.append(draw.plot_map(power, space, at("alpha", "statmap", ".png"), scale))
    correlation, ceiling = _array(results, "correlation"), _array(results, "noiseceiling")
    if correlation is not None and ceiling is not None and (np.isfinite(correlation) & np.isfinite(ceiling)).any():
        drawn.append(_plot_against_ceiling(correlation, ceiling, at("ceiling", "bold", ".png")))
    shares = _array(results, "split_rsquared")
    if shares is not None and "spaces.txt" in results:
        names = results["spaces.txt"].read_text(encoding="utf-8").splitlines()
        samples = dict(zip(names, shares, strict=True))
        drawn.append(draw.plot_distributions(samples, at("spaces", "bold", ".svg"), xlabel="Share of R2", zero=True))
    return drawn


def _array(results: Mapping[str, Path], name: str) -> NDArray[np.float64] | None:
    path = results.get(f"{name}.npy")
    return None if path is None else np.load(path).astype(np.float64)


def _plot_against_ceiling(correlation: NDArray[np.float64], ceiling: NDArray[np.float64], path: Path) -> Path:
    """Correlations of units against the roots of their ceilings, counted in cells."""
    from matplotlib.colors import LogNorm

    from conform_bids.report.style import finish_axes, new_figure

    known = np.isfinite(correlation) & np.isfinite(ceiling)
    root = np.sqrt(np.clip(ceiling[known], 0, 100) / 100)
    low = float(min(-0.2, np.floor(10 * correlation[known].min()) / 10))
    with new_figure(path, 5.6, 4.2) as figure:
        axes = figure.add_subplot()
        cells = axes.hist2d(root, correlation[known], bins=[50, 60], range=((0, 1), (low, 1)), cmin=1, norm=LogNorm(), cmap="viridis")
        axes.plot([0, 1], [0, 1], color="#c03d3e", linewidth=1.2, label="noise ceiling")
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.legend(loc="upper left")
        figure.colorbar(cells[3], ax=axes, label="Units", format="%.0f")
        finish_axes(axes, "Root of the noise ceiling", "Correlation with test responses", grid="both")
    return path


def _find(output_dir: Path, participant: str) -> tuple[list[_Fitted], list[str]]:
    """A person's models, and what could not be read."""
    found, problems = [], []
    folder = output_dir / f"sub-{participant}" / "func"
    for path in sorted(folder.glob("*_desc-*_metrics.json"), key=lambda path: natural_key(path.name)):
        try:
            name = parse_name(path)
            if name.entities.get("desc") not in (*ESTIMATORS, "population"):
                continue
            table = read_tsv(path.with_suffix(".tsv"), required=("metric", "value", "low", "high"), quoted=False)
            columns = [[_number(cell) for cell in table[key]] for key in ("value", "low", "high")]
            scores = {str(metric): values for metric, *values in zip(table["metric"], *columns, strict=True)}
            entities = {key: label for key, label in name.entities.items() if key != "desc"}
            found.append(_Fitted(entities, read_json(path), {key: (one, two, three) for key, (one, two, three) in scores.items()}))
        except (ConformError, OSError, ValueError) as error:
            problems.append(str(error).replace(f"{output_dir}/", ""))
    return found, problems


def _number(cell: object) -> float:
    value = parse_number(str(cell))
    return float("nan") if value is None else value


def write_participant_report(
    participant: str, output_dir: Path, settings: EncodeSettings, about: Mapping[str, str], errors: Sequence[str], max_sessions: int
) -> list[Path]:
    """Write ``sub-X.html`` from what is in the output folder.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    output_dir : Path
    settings : EncodeSettings
        Of the run, for the methods text.
    about : mapping
        Versions and the like.
    errors : sequence of str
        What went wrong for this participant.
    max_sessions : int
        Sessions are pooled, so there is one page whatever their number.
    """
    output_dir = Path(output_dir)
    found, problems = _find(output_dir, participant)
    remarks: list[Item] = [Note(f"Sloppy run: {about['Sloppy']}.")] if "Sloppy" in about else []
    if found:
        remarks.append(_scores(["Model"], [[each.title] for each in found], found))
    else:
        remarks.append(Note("There are no results for this participant in the output folder."))
    sections = [Section("Summary", "summary", remarks), *(_section(each, output_dir) for each in found)]
    page = write_page(
        output_dir / f"sub-{participant}.html",
        title=f"sub-{participant}",
        subtitle="conform-encode: responses predicted from stimulus features",
        sections=[*sections, _methods_section(settings, about)],
        about=about,
        errors=[*errors, *problems],
    )
    return [page]


def _scores(heads: Sequence[str], cells: Sequence[Sequence[Cell]], found: Sequence[_Fitted]) -> Table:
    rows = [
        [*first, *(Number(each.value(name), digits) for name, (_, digits) in _COLUMNS.items())]
        for first, each in zip(cells, found, strict=True)
    ]
    return Table([*heads, *(title for title, _ in _COLUMNS.values())], rows, _CAPTION)


def _section(each: _Fitted, output_dir: Path) -> Section:
    content = each.content
    spaces = content.get("FeatureSpaces") or []
    counts = content.get("NumberOfFeatures") or []
    shown = [f"{space.get('name')} ({count} features)" for space, count in zip(spaces, counts, strict=False)]
    rows = [
        ("Model", str(content.get("Model")), ""),
        ("Feature spaces", ", ".join(shown), ""),
        ("Responses of the fit", f"desc-{content.get('InputDesc')}", ""),
        ("Train stimuli", str(content.get("NumberOfTrainStimuli")), ""),
        ("Test stimuli", str(content.get("NumberOfTestStimuli")), ""),
        ("Split given", "yes" if content.get("SplitGiven") else "no", ""),
    ]
    for name, (title, digits) in _COLUMNS.items():
        value, low, high = each.scores.get(name, (float("nan"),) * 3)
        if np.isfinite(low) and np.isfinite(high):
            rows.append((f"{title}, 95 % interval", f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})", "over test stimuli"))
    items: list[Item] = [Facts(rows), *(Note(str(note)) for note in content.get("Notes") or [])]
    folder = output_dir / f"sub-{each.entities['sub']}" / "figures"
    for stat, (title, caption) in _FIGURES.items():
        for path in sorted([*folder.glob(f"*_stat-{stat}_*.png"), *folder.glob(f"*_stat-{stat}_*.svg")]):
            entities = {key: label for key, label in parse_name(path).entities.items() if key != "stat"}
            if entities == each.entities:
                items.append(Figure(path, caption, f"{title} of {each.title}", title))
    return Section(each.title, make_anchor(each.title), items)


def write_group_report(output_dir: Path, participants: Sequence[str], settings: EncodeSettings, about: Mapping[str, str]) -> list[Path]:
    """Write ``group_encode.tsv`` and ``group_encode.html``.

    Parameters
    ----------
    output_dir : Path
    participants : sequence of str
    settings : EncodeSettings
    about : mapping
    """
    output_dir = Path(output_dir)
    found: list[_Fitted] = []
    problems: list[str] = []
    for participant in sorted(participants, key=natural_key):
        own, faults = _find(output_dir, participant)
        found += own
        problems += faults
    paths = [output_dir / "group_encode.tsv", output_dir / "group_encode.html"]
    write_tsv(_table(found), paths[0])
    cells: list[list[Cell]] = []
    for each in found:
        name = f"sub-{each.entities['sub']}"
        page = f"{name}.html"
        cells.append([Link(name, page) if (output_dir / page).is_file() else name, each.title])
    notes = dict.fromkeys(str(note) for each in found for note in each.content.get("Notes") or [])
    items: list[Item] = [Note(note) for note in notes]
    items.append(_scores(["Participant", "Model"], cells, found) if found else Note("There are no results in the output folder."))
    write_page(
        paths[1],
        title="Group report",
        subtitle=f"conform-encode: encoding models of {len({each.entities['sub'] for each in found})} participants",
        sections=[Section("Overview", "overview", items), _methods_section(settings, about)],
        about=about,
        errors=problems,
    )
    return paths


def _table(found: Sequence[_Fitted]) -> pd.DataFrame:
    rows = []
    for each in found:
        row: dict[str, object] = {"participant_id": f"sub-{each.entities['sub']}"}
        row |= {"task_id": each.entities.get("task", "n/a"), "space_label": each.entities.get("space", "n/a")}
        for name in _COLUMNS:
            value, low, high = each.scores.get(name, (float("nan"),) * 3)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    columns = ["participant_id", "task_id", "space_label", *(f"{name}{end}" for name in _COLUMNS for end in ("", "_low", "_high"))]
    return pd.DataFrame(rows, columns=columns)


def _methods_section(settings: EncodeSettings, about: Mapping[str, str]) -> Section:
    from conform_bids import __version__

    text = describe_methods(settings, about.get("conform-encode", __version__))
    return Section("Methods", "methods", [Text(text.text), Section("References", "references", [References(text.keys)])])


def describe_methods(settings: EncodeSettings, version: str) -> Methods:
    """Describe the analysis; only what these settings use is named and cited."""
    features = []
    if settings.features:
        features.append("tables of stimulus features")
    if settings.chosen_backbone:
        features.append(f"the network {settings.chosen_backbone}, run on the stimulus files")
    reduced = (
        f", reduced to {settings.components} principal components that were fitted on the train stimuli" if settings.components else ""
    )
    folds = f"{settings.folds}-fold cross-validation" if settings.folds else "exact leave-one-out cross-validation"
    model = {
        "ridge": f"ridge regression, with a penalty for each unit chosen by {folds} over the train stimuli",
        "banded": f"banded ridge regression, with a penalty for each feature space and unit chosen by {folds} over the train stimuli",
    }[settings.estimator]
    intervals = f", with 95 % intervals from {settings.bootstraps:,} resamplings of the test stimuli" if settings.bootstraps else ""
    parts = [
        f"Responses were predicted from stimulus features with conform-encode {version}, a BIDS-App [@gorgolewski2016bids; "
        f"@gorgolewski2017bidsapps]. Features came from {' and '.join(features)}{reduced}. Each unit was modelled by {model}; "
        "the intercept was not penalised; responses were z-scored by the mean and standard deviation of the train stimuli.",
        "Scores are of stimuli that the model was not fitted on, against trial averages that were not denoised where these were there: "
        "correlation, share of variance (R2), and correlation over the root of the noise ceiling [@allen2022nsd] where the ceiling was "
        f"above 10 percent{intervals}.",
        "The workflow was run by Nipype [@gorgolewski2011nipype]; data were found with PyBIDS [@yarkoni2019pybids], read and written with "
        "NiBabel [@brett2024nibabel], computed with NumPy [@harris2020numpy], SciPy [@virtanen2020scipy] and PyTorch [@paszke2019pytorch], "
        "and drawn with Matplotlib [@hunter2007matplotlib].",
    ]
    return Methods.of("\n\n".join(parts) + "\n")


methods = describe_methods
