"""What a person sees of an alignment: figures, the participant's page, the group's table and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.align.report_methods import describe_methods
from conform_bids.align.settings import AlignSettings
from conform_bids.align.tuning_weights import ENCODE
from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.names import natural_key, parse_name, relative_path
from conform_bids.bids.sidecars import read_json
from conform_bids.bids.spaces import Space
from conform_bids.bids.tables import parse_number, read_tsv
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

__all__ = ["draw_scores", "write_group_report", "write_participant_report"]

_COLUMNS = {
    "n_shared": ("Stimuli of the fit", 0),
    "n_held_out": ("Held-out stimuli", 0),
    "normalised_r": ("r / √ceiling", 3),
    "anatomy_normalised_r": ("r / √ceiling, anatomy", 3),
    "shuffled_normalised_r": ("r / √ceiling, shuffled", 3),
    "units_gaining": ("Units that gain", 2),
    "identification": ("Identification", 3),
    "anatomy_identification": ("Identification, anatomy", 3),
    "shuffled_identification": ("Identification, shuffled", 3),
    "identification_chance": ("Chance", 3),
    "isc_before": ("ISC before", 3),
    "isc_after": ("ISC after", 3),
}
_N_PREDICTED = 6
"""Columns of the first table."""
_CAPTION = (
    "A person's own responses to held-out stimuli, predicted from the other people's by a template that never saw this person: "
    "r / √ceiling is the mean over units of correlation over the root of the noise ceiling; identification the share of stimuli whose "
    "pattern in a parcel is most like its own prediction. Anatomy: the same place of other people, smoothed by as much as predicts best. "
    "Shuffled: the left-out person's stimuli are shuffled, which has to give 0 and chance. ISC, the correlation between people, can be "
    "raised by shrinking everybody to the template, and is no score."
)
_STACK = (
    "The stack is a weighted sum of up to four predictions. Anatomy: the same place of other people, smoothed. Zero, group and "
    "kernel: shared response models whose maps are drawn, where data say little, towards zero, towards the group's mean map, and towards "
    "smooth maps about it."
)
_FIGURES = {
    ("gain", "statmap"): (
        "Gain over smoothed anatomy",
        "Share of the noise ceiling that is predicted from other people, less that by smoothed anatomy; above 0 (red), alignment helps. "
        "Grey on the cortex, and dark in slices: no data, or a ceiling too low to divide by.",
    ),
    ("", "bold"): (
        "Prediction from other people, and its control",
        "Correlation over the root of the noise ceiling, of units. With the left-out person's stimuli shuffled it has to lie about 0.",
    ),
}


@dataclass(frozen=True)
class _Aligned:
    """A task of a person that is prepared or aligned."""

    entities: dict[str, str]
    content: dict[str, Any]
    values: dict[str, float]
    is_aligned: bool

    @property
    def title(self) -> str:
        """Entities in words."""
        return " ".join(f"{key}-{label}" for key, label in self.entities.items() if key != "sub")


def draw_scores(
    gain: NDArray[np.float64], samples: Mapping[str, NDArray[np.float64]], space: Space, entities: Mapping[str, str], output_dir: Path
) -> list[Path]:
    """Draw a person's scores into the folder ``figures``.

    Parameters
    ----------
    gain : (n_units,) array
        Over smoothed anatomy.
    samples : mapping of str to (n_units,) array
        Correlation over the root of the noise ceiling, by what was predicted with.
    space : Space
    entities : mapping
        Of the outputs.
    """
    from conform_bids.report import figures as draw

    folder = output_dir / f"sub-{entities['sub']}" / "figures"
    drawn = []
    if np.isfinite(gain).any():
        name = relative_path({**entities, "stat": "gain"}, "statmap", ".png").rsplit("/", 1)[1]
        high = draw.robust_limit(np.abs(gain))
        drawn.append(draw.plot_map(gain, space, folder / name, draw.Scale("Gain (share of the ceiling)", -high, high, colour_map="RdBu_r")))
    known = {label: values for label, values in samples.items() if np.isfinite(values).any()}
    if known:
        name = relative_path(dict(entities), "bold", ".svg").rsplit("/", 1)[1]
        drawn.append(draw.plot_distributions(known, folder / name, xlabel="r / √ceiling", limits=(-0.6, 1.2)))
    return drawn


def _find(output_dir: Path, participant: str) -> tuple[list[_Aligned], list[str]]:
    """A person's tasks, and what could not be read."""
    found: dict[tuple[Any, ...], _Aligned] = {}
    problems = []
    folder = output_dir / f"sub-{participant}" / "func"
    for path in sorted(folder.glob("*_desc-*_trials.json"), key=lambda path: natural_key(path.name)):
        try:
            name = parse_name(path)
            desc = name.entities["desc"]
            entities = {key: label for key, label in name.entities.items() if key != "desc"}
            content = read_json(path)
            is_aligned = content.get("Method") == desc
            if desc != "prepared" and not is_aligned:
                continue
            values = _values(output_dir / relative_path({**entities, "desc": desc}, "metrics", ".tsv")) if is_aligned else {}
            content |= _sidecar_of_maps(folder, entities, desc)
        except (ConformError, OSError, ValueError) as error:
            problems.append(str(error).replace(f"{output_dir}/", ""))
            continue
        if is_aligned or tuple(entities.items()) not in found:
            found[tuple(entities.items())] = _Aligned(entities, content, values, is_aligned)
    return list(found.values()), problems


def _sidecar_of_maps(folder: Path, entities: Mapping[str, str], desc: str) -> dict[str, Any]:
    """Sidecar of the responses; of either hemisphere where there are two."""
    for path in sorted(folder.glob(f"*_stat-effect_desc-{desc}_statmap.json")):
        own = {key: label for key, label in parse_name(path).entities.items() if key not in ("hemi", "stat", "desc")}
        if own == dict(entities):
            return read_json(path)
    return {}


def _values(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    table = read_tsv(path, required=("metric", "value"), quoted=False)
    numbers = {str(name): parse_number(str(value)) for name, value in zip(table["metric"], table["value"], strict=True)}
    return {name: float("nan") if value is None else value for name, value in numbers.items()}


def write_participant_report(
    participant: str, output_dir: Path, settings: AlignSettings, about: Mapping[str, str], errors: Sequence[str], max_sessions: int
) -> list[Path]:
    """Write ``sub-X.html`` from what is in the output folder; the level group writes it again.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    output_dir : Path
    settings : AlignSettings
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
    sections = [Section("Summary", "summary", [*remarks, *_summary(found)])]
    sections += [_section(each, output_dir) for each in found]
    page = write_page(
        output_dir / f"sub-{participant}.html",
        title=f"sub-{participant}",
        subtitle="conform-align: a common functional space",
        sections=[*sections, _methods_section(settings, about, found)],
        about=about,
        errors=[*errors, *problems],
    )
    return [page]


def _summary(found: Sequence[_Aligned]) -> list[Item]:
    if not found:
        return [Note("There are no results for this participant in the output folder.")]
    items: list[Item] = [Note(f"{each.title}: prepared; the level group aligns it.") for each in found if not each.is_aligned]
    scored = [each for each in found if each.values]
    if scored:
        items += _tables(["Fit"], [[each.title] for each in scored], scored)
    unscored = [each.title for each in found if each.is_aligned and not each.values]
    if unscored:
        items.append(Text(f"Aligned without scores: {', '.join(unscored)}."))
    return items


def _tables(heads: Sequence[str], cells: Sequence[Sequence[Cell]], aligned: Sequence[_Aligned]) -> list[Item]:
    """Scores in two tables that fit on a page: how well responses are predicted, and which stimuli are told apart."""
    names = list(_COLUMNS)
    items: list[Item] = []
    for part, caption in ((names[:_N_PREDICTED], ""), (names[_N_PREDICTED:], _CAPTION)):
        n_heads = len(heads) if part[0] == names[0] else max(1, len(heads) - 1)  # the second is wide enough without the last of several
        rows = [
            [*first[:n_heads], *(Number(each.values.get(name, float("nan")), _COLUMNS[name][1]) for name in part)]
            for first, each in zip(cells, aligned, strict=True)
        ]
        titles = [_rows_in_words(aligned) if name == "n_shared" else _COLUMNS[name][0] for name in part]
        items.append(Table([*heads[:n_heads], *titles], rows, caption))
    return items


def _section(each: _Aligned, output_dir: Path) -> Section:
    content = each.content
    items: list[Item] = []
    rows: list[tuple[str, str, str]] = []
    source = content.get("SourceParticipant")
    if isinstance(source, dict):
        rows.append(("Participant", f"{source.get('Participant')} of {source.get('Dataset')}", ""))
    if "NumberOfUnitsSetAside" in content:
        lost = f"{content['NumberOfUnitsSetAside']:,} of {content['NumberOfUnits']:,}"
        rows.append(("Units set aside (no value, or always the same)", lost, ""))
    if each.is_aligned:
        rows += [
            ("Method", str(content.get("Method")), ""),
            ("Template", str(content.get("FunctionalSpace")), ""),
            _parcels(content),
            _rows_of_fit(content),
            ("Fitted on held-out stimuli, too", "yes" if content.get("FitIncludesTest") else "no", ""),
        ]
        for label, key in (("Shared dimensions", "Dimensions"), ("Weights of the stack", "StackWeights")):
            chosen = content.get(key)
            if isinstance(chosen, dict) and chosen:
                rows.append((label, ", ".join(f"{name} {value:.2g}" for name, value in chosen.items()), ""))
    if rows:
        items.append(Facts(rows))
    if content.get("StackWeights"):
        items.append(Text(_STACK))
    items += [Note(str(note)) for note in content.get("Notes") or []]
    folder = output_dir / f"sub-{each.entities['sub']}" / "figures"
    for path in sorted([*folder.glob("*.png"), *folder.glob("*.svg")]):
        name = parse_name(path)
        entities = {key: label for key, label in name.entities.items() if key not in ("stat", "desc")}
        shown = _FIGURES.get((name.entities.get("stat", ""), name.suffix))
        if entities == each.entities and shown is not None:
            title, caption = shown
            items.append(Figure(path, caption, f"{title} of {each.title}", title))
    return Section(each.title, make_anchor(each.title), items)


def _parcels(content: Mapping[str, Any]) -> tuple[str, str, str]:
    """Parcels in which the person has data; an atlas or a whole cortex has more where a part was scanned."""
    whole = content.get("NumberOfParcels")
    known = content.get("NumberOfParcelsWithData", whole)
    return ("Parcels", str(known), "" if known == whole else f"of {whole}; the others have no data")


def _rows_of_fit(content: Mapping[str, Any]) -> tuple[str, str, str]:
    if "NumberOfSharedFeatures" in content:
        return ("Features of the fit (weights of encoding models)", str(content["NumberOfSharedFeatures"]), "")
    return ("Stimuli of the fit", str(content.get("NumberOfSharedStimuli")), "")


def _rows_in_words(aligned: Sequence[_Aligned]) -> str:
    """What maps were fitted on: stimuli, or features where people are aligned by their encoding models."""
    kinds = {"Features" if "NumberOfSharedFeatures" in each.content else "Stimuli" for each in aligned}
    return f"{kinds.pop() if len(kinds) == 1 else 'Rows'} of the fit"


def write_group_report(output_dir: Path, participants: Sequence[str], settings: AlignSettings, about: Mapping[str, str]) -> list[Path]:
    """Write ``group_align.tsv`` and ``group_align.html``.

    Parameters
    ----------
    output_dir : Path
    participants : sequence of str
    settings : AlignSettings
    about : mapping
    """
    output_dir = Path(output_dir)
    found: list[_Aligned] = []
    problems: list[str] = []
    for participant in sorted(participants, key=natural_key):
        own, faults = _find(output_dir, participant)
        found += own
        problems += faults
    aligned = [each for each in found if each.is_aligned]
    paths = [output_dir / "group_align.tsv", output_dir / "group_align.html"]
    write_tsv(_table(aligned), paths[0])
    notes = dict.fromkeys(str(note) for each in aligned for note in each.content.get("Notes") or [])
    items: list[Item] = [Note(note) for note in notes]
    cells: list[list[Cell]] = []
    for each in aligned:
        name = f"sub-{each.entities['sub']}"
        page = f"{name}.html"
        link: Cell = Link(name, page) if (output_dir / page).is_file() else name
        cells.append([link, each.title, str(each.content.get("Method"))])
    fits = {each.title for each in aligned}
    heads = ["Participant", "Fit", "Method"]
    if len(fits) == 1:  # said once, so that the tables fit on a page
        items.append(Text(f"Everybody is aligned in {next(iter(fits))}."))
        heads, cells = ["Participant", "Method"], [[own[0], own[2]] for own in cells]
    if any(each.values for each in aligned):
        items += _tables(heads, cells, aligned)
    else:
        rows = [
            [*own, Number(float(_rows_of_fit(each.content)[1].replace("None", "nan")), 0)] for own, each in zip(cells, aligned, strict=True)
        ]
        items.append(Table([*heads, _rows_in_words(aligned)], rows))
    figures: list[Item] = []
    for each in aligned:
        own_figures = [item for item in _section(each, output_dir).items if isinstance(item, Figure)]
        figures += [replace(item, title=f"sub-{each.entities['sub']}: {item.title}") for item in own_figures]
    sections = [Section("Overview", "overview", items)]
    if figures:
        sections.append(Section("Figures", "figures", figures))
    write_page(
        paths[1],
        title="Group report",
        subtitle=f"conform-align: {counted(len({each.entities['sub'] for each in aligned}), 'participant')} in a common functional space",
        sections=[*sections, _methods_section(settings, about, found)],
        about=about,
        errors=problems,
    )
    return paths


def _table(aligned: Sequence[_Aligned]) -> pd.DataFrame:
    rows = []
    for each in aligned:
        row: dict[str, object] = {"participant_id": f"sub-{each.entities['sub']}"}
        row |= {"task_id": each.entities.get("task", "n/a"), "space_label": each.entities.get("space", "n/a")}
        row |= {"method": each.content.get("Method"), "fit_includes_test": str(bool(each.content.get("FitIncludesTest"))).lower()}
        rows.append({**row, **{name: each.values.get(name, float("nan")) for name in _COLUMNS}})
    columns = ["participant_id", "task_id", "space_label", "method", "fit_includes_test", *_COLUMNS]
    return pd.DataFrame(rows, columns=columns)


def _methods_section(settings: AlignSettings, about: Mapping[str, str], found: Sequence[_Aligned]) -> Section:
    from conform_bids import __version__

    by_features = any("NumberOfSharedFeatures" in each.content or each.content.get("HasTuning") for each in found)
    text = describe_methods(settings, about.get("conform-align", __version__), [ENCODE] if by_features else ())
    return Section("Methods", "methods", [Text(text.text), Section("References", "references", [References(text.keys)])])
