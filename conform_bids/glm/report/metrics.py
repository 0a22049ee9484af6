"""The numbers of a fit that reports show: a table of metric, model, value and unit, with what was left out in its sidecar."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conform_bids.bids.derivatives import write_json, write_tsv
from conform_bids.bids.names import parse_name
from conform_bids.bids.sidecars import read_json, sidecar
from conform_bids.errors import UnusableInputError
from conform_bids.glm.files import metrics_path

__all__ = ["FitNumbers", "find_numbers", "metrics_path", "read_numbers", "write_numbers"]

_COLUMNS = {
    "metric": "What was measured over the units or trials of the fit.",
    "model": "Model that it belongs to; n/a where it belongs to none.",
    "value": "The number; n/a where it could not be computed.",
    "units": "Unit of the number; n/a for counts.",
}


@dataclass(frozen=True)
class FitNumbers:
    """Numbers of one fit.

    Attributes
    ----------
    entities : dict
        Those of the fit's files.
    values : dict
        Value by (metric, model), model ``""`` where it belongs to none; NaN where it could not be computed.
    units : dict
        Unit by metric; only those that have one.
    notes : tuple of str
        Fallbacks that were taken, and warnings.
    trials_set_aside : tuple of (str, str)
        Reason, and the file and line of each trial that was left out.
    trials_flagged : tuple of (str, str, int)
        Reason, run, and number of trials that were modelled but whose estimate is unreliable.
    runs : tuple of dict
        Label, timing, trials and quality of each run.
    drawn_as_maps : bool
        Whether the figures of maps show values at their places; False where the space has no mesh to draw on.
    """

    entities: Mapping[str, str]
    values: Mapping[tuple[str, str], float]
    units: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trials_set_aside: tuple[tuple[str, str], ...] = ()
    trials_flagged: tuple[tuple[str, str, int], ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()
    drawn_as_maps: bool = True

    def get(self, metric: str, model: str = "") -> float:
        """A number; NaN where there is none."""
        return self.values.get((metric, model), math.nan)

    @property
    def models(self) -> tuple[str, ...]:
        """Models in the order of the table."""
        return tuple(dict.fromkeys(model for _, model in self.values if model))


def write_numbers(numbers: FitNumbers, output_dir: Path) -> list[Path]:
    """Write the table and its sidecar; both atomically."""
    import pandas as pd

    path = output_dir / metrics_path(numbers.entities)
    rows = [
        (metric, model or "n/a", f"{value:.6g}" if math.isfinite(value) else "n/a", numbers.units.get(metric, "n/a"))
        for (metric, model), value in numbers.values.items()
    ]
    write_tsv(pd.DataFrame(rows, columns=list(_COLUMNS)), path)
    fields: dict[str, Any] = {"Description": "Numbers of the fit that the report shows."}
    fields |= {name: {"Description": text} for name, text in _COLUMNS.items()}
    fields |= {
        "Notes": list(numbers.notes),
        "TrialsSetAside": [{"Reason": reason, "Place": place} for reason, place in numbers.trials_set_aside],
        "TrialsFlagged": [{"Reason": reason, "Run": run, "Count": count} for reason, run, count in numbers.trials_flagged],
        "Runs": [dict(run) for run in numbers.runs],
        "FiguresShowMaps": numbers.drawn_as_maps,
    }
    content = sidecar({**numbers.entities, "desc": "glm"}, "metrics", ".tsv", fields=fields)
    write_json(content, path.with_suffix(".json"))
    return [path, path.with_suffix(".json")]


def read_numbers(path: Path) -> FitNumbers:
    """Read what `write_numbers` wrote.

    Raises
    ------
    UnusableInputError
        When the table is not one of ours.
    """
    import csv

    values: dict[tuple[str, str], float] = {}
    units: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                model = "" if row["model"] == "n/a" else row["model"]
                values[row["metric"], model] = math.nan if row["value"] == "n/a" else float(row["value"])
                if row["units"] != "n/a":
                    units[row["metric"]] = row["units"]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UnusableInputError(f"{path}: not a table of conform-glm's numbers ({error})") from error
    entities = {key: label for key, label in parse_name(path).entities.items() if key != "desc"}
    try:
        content = read_json(path.with_suffix(".json"))
    except (OSError, ValueError):
        content = {}
    aside = tuple((str(item.get("Reason", "")), str(item.get("Place", ""))) for item in _objects(content, "TrialsSetAside"))
    flagged = tuple(
        (str(item.get("Reason", "")), str(item.get("Run", "")), int(item.get("Count", 0))) for item in _objects(content, "TrialsFlagged")
    )
    notes = content.get("Notes", [])
    return FitNumbers(
        entities,
        values,
        units,
        tuple(map(str, notes)) if isinstance(notes, list) else (),
        aside,
        flagged,
        tuple(_objects(content, "Runs")),
        content.get("FiguresShowMaps") is not False,
    )


def _objects(content: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    items = content.get(key, [])
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def find_numbers(output_dir: Path, participants: Iterable[str]) -> tuple[list[FitNumbers], list[str]]:
    """Numbers of all fits of some participants, in the order of their names, and what could not be read."""
    found, problems = [], []
    for participant in participants:
        folder = output_dir / f"sub-{participant}"
        for path in sorted({*folder.glob("func/*_desc-glm_metrics.tsv"), *folder.glob("ses-*/func/*_desc-glm_metrics.tsv")}):
            try:
                found.append(read_numbers(path))
            except (UnusableInputError, ValueError) as error:
                problems.append(str(error).replace(f"{output_dir}/", ""))
    return found, problems
