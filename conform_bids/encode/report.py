"""What a person sees of an encoding model: figures, the participant's page, the group's table and page, the methods text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.names import natural_key, parse_name
from conform_bids.bids.sidecars import read_json
from conform_bids.bids.tables import parse_number, read_tsv
from conform_bids.encode.report_captions import FIGURES, SCORES, SCORES_CAPTION, caption_of, few_test_stimuli
from conform_bids.encode.report_methods import describe_methods
from conform_bids.encode.report_model import model_section
from conform_bids.encode.settings import ESTIMATORS, EncodeSettings
from conform_bids.errors import ConformError
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
from conform_bids.wording import counted

__all__ = ["describe_methods", "methods", "write_group_report", "write_participant_report"]

methods = describe_methods

_HRFS = {
    "fir": ("delays", "each with weights of its own"),
    "glm": ("HRF of each unit", "as conform-glm chose it"),
    "assumed": ("one HRF", "for all units"),
}


@dataclass(frozen=True)
class _Fitted:
    """An encoding model of a person."""

    entities: dict[str, str]
    desc: str
    content: dict[str, Any]
    scores: dict[str, tuple[float, float, float]]

    @property
    def title(self) -> str:
        """Entities in words."""
        words = " ".join(f"{key}-{label}" for key, label in self.entities.items() if key != "sub")
        return f"{words}, {self.desc}" if self.desc != "ridge" else words

    @property
    def source(self) -> tuple[str, str]:
        """Dataset and participant there; empty where people are of one dataset."""
        named = self.content.get("SourceParticipant")
        return (str(named.get("Dataset", "")), str(named.get("Participant", ""))) if isinstance(named, dict) else ("", "")

    def value(self, name: str) -> float:
        """A score; NaN where there is none."""
        return self.scores.get(name, (float("nan"),) * 3)[0]

    @property
    def notes(self) -> list[str]:
        """What the reader should not miss."""
        return [*few_test_stimuli(self.content), *(str(note) for note in self.content.get("Notes") or [])]


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
            found.append(
                _Fitted(
                    entities, name.entities["desc"], read_json(path), {key: (one, two, three) for key, (one, two, three) in scores.items()}
                )
            )
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
        remarks.append(_scores(["Fit"], [[each.title] for each in found], found))
    else:
        remarks.append(Note("There are no results for this participant in the output folder."))
    sections = [Section("Summary", "summary", remarks), *(_section(each, output_dir) for each in found)]
    page = write_page(
        output_dir / f"sub-{participant}.html",
        title=f"sub-{participant}",
        subtitle="conform-encode: responses predicted from stimulus features",
        sections=[*sections, _methods_section(settings, about, found)],
        about=about,
        errors=[*errors, *problems],
    )
    return [page]


def _scores(heads: Sequence[str], cells: Sequence[Sequence[Cell]], found: Sequence[_Fitted]) -> Table:
    rows = [
        [*first, *(Number(score.factor * each.value(name), score.digits) for name, score in SCORES.items())]
        for first, each in zip(cells, found, strict=True)
    ]
    return Table([*heads, *(score.head for score in SCORES.values())], rows, SCORES_CAPTION)


def _section(each: _Fitted, output_dir: Path) -> Section:
    content = each.content
    spaces = content.get("FeatureSpaces") or []
    counts = content.get("NumberOfFeatures") or []
    shown = [f"{space.get('name')} ({count} features)" for space, count in zip(spaces, counts, strict=False)]
    is_movie = content.get("Design") == "movie"
    rows = [
        ("Model", str(content.get("Model")), ""),
        ("Feature spaces", ", ".join(shown), ""),
        ("Responses of the fit", f"desc-{content.get('InputDesc')}", ""),
        ("Train movies" if is_movie else "Train stimuli", str(content.get("NumberOfTrainStimuli")), ""),
        ("Test movies" if is_movie else "Test stimuli", str(content.get("NumberOfTestStimuli")), ""),
        ("Split given", "yes" if content.get("SplitGiven") else "no", ""),
    ]
    rows = [("Participant", f"{each.source[1]} of {each.source[0]}", ""), *rows] if each.source[0] else rows
    rows += _movie_rows(each) if is_movie else _population_rows(each)
    over = "over pieces of 20 s of test movies" if is_movie else "over test stimuli"
    for name, score in SCORES.items():
        value, low, high = (score.factor * number for number in each.scores.get(name, (float("nan"),) * 3))
        if np.isfinite(low) and np.isfinite(high):
            interval = f"{value:.{score.digits}f} ({low:.{score.digits}f} to {high:.{score.digits}f})"
            rows.append((f"{score.title}, 95 % interval", interval, over))
    items: list[Item] = [Facts(rows), *(Note(note) for note in each.notes)]
    folder = output_dir / f"sub-{each.entities['sub']}" / "figures"
    texts = [str(query["text"]) for query in content.get("Queries") or []]
    for stat, (title, _) in FIGURES.items():
        for path in sorted(
            [*folder.glob(f"*_stat-{stat}*.png"), *folder.glob(f"*_stat-{stat}*.svg")], key=lambda path: natural_key(path.name)
        ):
            entities = dict(parse_name(path).entities)
            place = entities.pop("stat").removeprefix(stat)
            if (place and stat != "query") or entities != {**each.entities, "desc": each.desc}:
                continue
            if stat == "query":
                if not place.isdecimal() or not 0 < int(place) <= len(texts):
                    continue
                title = f"Query: {texts[int(place) - 1]}"
            items.append(Figure(path, caption_of(stat, content), f"{title} of {each.title}", title))
    return Section(each.title, make_anchor(each.title), [*items, *_region_table(each), *_features_table(each)])


def _features_table(each: _Fitted) -> list[Item]:
    """What the features are and whose: the card of each space."""
    spaces, counts = each.content.get("FeatureSpaces") or [], each.content.get("NumberOfFeatures") or []
    rows: list[list[Cell]] = []
    for space, count in zip(spaces, counts, strict=False):
        how = space.get("preprocessing")
        steps = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in how.items()) if isinstance(how, dict) else str(how or "")
        card = [str(space.get(key) or "n/a") for key in ("name", "model", "layer")]
        rows.append([*card, count if isinstance(count, int) else str(count), steps or "n/a", str(space.get("licence") or "n/a")])
    if not rows:
        return []
    caption = "As the card of the features says; n/a where a table came without one. The licence is that of the model's weights."
    heads = ["Features", "Model", "Layer", "Number", "Preprocessing", "Licence"]
    return [Section("Features", make_anchor(each.title, "features"), [Table(heads, rows, caption)])]


def _movie_rows(each: _Fitted) -> list[tuple[str, str, str]]:
    """What is to be said of a model of movies."""
    content, tr = each.content, float(each.content.get("RepetitionTime") or float("nan"))
    delays = [float(delay) for delay in content.get("Delays") or []]
    rows = [
        ("Runs", str(content.get("NumberOfRuns")), f"{content.get('Folds')} folds of train volumes"),
        ("Train volumes", str(content.get("NumberOfTrainVolumes")), f"of {tr:g} s"),
        ("Test volumes", str(content.get("NumberOfTestVolumes")), "presentations averaged"),
        ("Haemodynamics", *_HRFS.get(str(content.get("HRF")), (str(content.get("HRF")), ""))),
    ]
    if delays:
        rows.append(("Delays", ", ".join(f"{delay:g}" for delay in delays), f"volumes: {delays[0] * tr:g} to {delays[-1] * tr:g} s"))
    explainable = each.value("median_explainable_variance")
    if np.isfinite(explainable):
        rows.append(("Explainable variance, median", f"{explainable:.1f} %", "of one presentation of a test movie"))
    return rows


def _population_rows(each: _Fitted) -> list[tuple[str, str, str]]:
    """What is to be said of a population model."""
    content = each.content.get("Population")
    if not isinstance(content, dict):
        return []
    guard = content.get("Guard") or {}
    rows = [
        ("Population model", f"{content.get('Engine')}, trained on {counted(len(content.get('TrainedOn') or []), 'person', 'people')}", ""),
        ("Context", f"{content.get('Context')} train stimuli ({content.get('ContextStrategy')})", f"{content.get('Draws')} drawn"),
        ("Model used", str(content.get("ModelUsed")), "decided by the guard, from the context alone"),
        ("Guard: left-out error over ridge's", f"{guard.get('ratio', float('nan')):.3f}", f"below {guard.get('ratio_below')} is needed"),
    ]
    if guard.get("evidence_gain") is not None:
        rows.append(
            ("Guard: evidence gained", f"{guard['evidence_gain']:+.4f} per response", f"above {guard.get('evidence_above')} is needed")
        )
    named = {
        "ridge_median_correlation": "Correlation of ridge on the same context",
        "mean_over_draws_median_correlation": "Correlation, mean over contexts",
        "sd_over_draws_median_correlation": "Its standard deviation over contexts",
        "median_expected_rsquared": "Expected R2, median",
        "calibration_squared_error": "Squared error over its expected variance",
    }
    rows += [(title, f"{each.value(name):.3f}", "") for name, title in named.items() if np.isfinite(each.value(name))]
    return rows


def _region_table(each: _Fitted) -> list[Item]:
    """How well text queries find the regions that they should."""
    words = [name.removeprefix("query_auc_") for name in each.scores if name.startswith("query_auc_")]
    if not words:
        return []
    rows: list[list[Cell]] = [
        [word, Number(each.value(f"query_auc_{word}"), 3), Number(each.value(f"query_top1_{word}"), 3)] for word in words
    ]
    chance = f"{1 / len(words):.2f}"
    note = f"Area under the curve: .5 is chance. Top-1: share of a region's units whose highest query is its own; {chance} is chance."
    return [Table(["Region", "AUC of its query", "Top-1"], rows, note)]


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
        own, unread = _find(output_dir, participant)
        found += own
        problems += unread
    paths = [output_dir / "group_encode.tsv", output_dir / "group_encode.html"]
    write_tsv(_table(found), paths[0])
    cells: list[list[Cell]] = []
    for each in found:
        name = f"sub-{each.entities['sub']}"
        page = f"{name}.html"
        cells.append([Link(name, page) if (output_dir / page).is_file() else name, each.title])
    model, faults = model_section(output_dir)
    items: list[Item] = _notes_of_people(found)
    if found:
        items.append(_scores(["Participant", "Fit"], cells, found))
    else:
        items.append(Note("There are no encoding models of participants in the output folder."))
    write_page(
        paths[1],
        title="Group report",
        subtitle=f"conform-encode: encoding models of {len({each.entities['sub'] for each in found})} participants",
        sections=[Section("Overview", "overview", items), *model, _methods_section(settings, about, found)],
        about=about,
        errors=[*problems, *faults],
    )
    return paths


def _notes_of_people(found: Sequence[_Fitted]) -> list[Item]:
    """Notes, each once, after the people (and fits, where these are several) that it is about."""
    several = len({each.title for each in found}) > 1
    people: dict[str, dict[str, None]] = {}
    for each in found:
        name = f"sub-{each.entities['sub']}"
        for note in each.notes:
            people.setdefault(note, {})[f"{name} ({each.title})" if several else name] = None
    return [Note(f"{', '.join(names)}: {note}") for note, names in people.items()]


def _table(found: Sequence[_Fitted]) -> pd.DataFrame:
    rows = []
    for each in found:
        row: dict[str, object] = {"participant_id": f"sub-{each.entities['sub']}"}
        row |= {"task_id": each.entities.get("task", "n/a"), "space_label": each.entities.get("space", "n/a")}
        for name in SCORES:
            value, low, high = each.scores.get(name, (float("nan"),) * 3)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    columns = ["participant_id", "task_id", "space_label", *(f"{name}{end}" for name in SCORES for end in ("", "_low", "_high"))]
    return pd.DataFrame(rows, columns=columns)


def _methods_section(settings: EncodeSettings, about: Mapping[str, str], found: Sequence[_Fitted]) -> Section:
    from conform_bids import __version__

    datasets = {name for each in found if (name := each.source[0])}
    text = describe_methods(settings, about.get("conform-encode", __version__), sorted(datasets))
    return Section("Methods", "methods", [Text(text.text), Section("References", "references", [References(text.keys)])])
