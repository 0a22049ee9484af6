"""What a conform-align job reads, and the table of what it writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids.align.settings import AlignSettings
from conform_bids.bids.averages import PlannedMaps
from conform_bids.bids.collection import SourcePerson
from conform_bids.bids.images import map_paths
from conform_bids.bids.names import build_name, clean_label, relative_path, sidecar_of
from conform_bids.options import from_mapping, to_mapping

__all__ = [
    "MapOutput",
    "Plan",
    "TableOutput",
    "TuningInput",
    "output_maps",
    "output_tables",
    "recorded_settings",
    "transform_path",
]


@dataclass(frozen=True)
class TuningInput:
    """Weights of conform-encode: their file, its BIDS URI, and whether test stimuli were among those that they were fitted on."""

    file: Path
    source: str
    includes_test: bool


@dataclass(frozen=True)
class Plan:
    """Responses of one person in one task and space; everything about them is decided here.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    source : SourcePerson
        Who that is.
    entities : dict
        Entities of the outputs.
    kind : str
        ``nifti``, ``cifti`` or ``gifti``.
    desc : str
        Of the responses that are aligned.
    averaged : bool
        Whether they have a row a condition already (conform-psn); else they are single trials of one or more sessions.
    responses : tuple of PlannedMaps
    observed : PlannedMaps or None
        Trial averages that are not denoised, which test stimuli are scored on; None: the responses themselves.
    snr, ceiling : tuple of Path
        Maps ``stat-ncsnr``, and ``stat-noiseceiling`` of the responses (percent); empty where there are none.
    apply_to : tuple of (str, PlannedMaps)
        What else is brought to the template's units, by desc.
    settings : AlignSettings
        Of the run.
    random_seed : int
    output_dir : Path
        Root of the outputs.
    stimuli : Path or None
        The participant's table of stimuli beside the responses.
    weights : TuningInput or None
        Weights of conform-encode that maps are fitted on, a row a feature; None: they are fitted on responses.
    template : Path or None
        File of the template to align to; None where the group level will make one.
    method, template_name : str
        Of the template; empty without one.
    has_held_out : bool
        Whether any stimulus is held out.
    notes : tuple of str
        What was left out or assumed; for the report.
    mem_gb : float
        Peak memory of its largest node.
    n_threads, device
        Resources; no part of what identifies the job.
    """

    participant: str
    source: SourcePerson
    entities: dict[str, str]
    kind: str
    desc: str
    averaged: bool
    responses: tuple[PlannedMaps, ...]
    observed: PlannedMaps | None
    snr: tuple[Path, ...]
    ceiling: tuple[Path, ...]
    apply_to: tuple[tuple[str, PlannedMaps], ...]
    settings: AlignSettings
    random_seed: int
    output_dir: Path
    stimuli: Path | None = None
    weights: TuningInput | None = None
    template: Path | None = None
    method: str = ""
    template_name: str = ""
    has_held_out: bool = False
    notes: tuple[str, ...] = ()
    mem_gb: float = 2.0
    n_threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Workflow name: ``align_`` and the entities."""
        return "align_" + "_".join(f"{key}_{clean_label(label)}" for key, label in self.entities.items() if key != "sub") + "_wf"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that the job reads."""
        read = [*self.responses, *([self.observed] if self.observed else []), *(maps for _, maps in self.apply_to)]
        files = [path for maps in read for path in (*maps.files, maps.trials)]
        split = [Path(self.settings.split)] if self.settings.split is not None and Path(self.settings.split).is_file() else []
        weights = self.weights.file if self.weights else None
        single = [path for path in (self.stimuli, weights, self.template) if path is not None]
        return tuple(dict.fromkeys([*files, *self.snr, *self.ceiling, *split, *single]))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Files that the job writes, relative to the output folder."""
        names: list[str] = []
        for row in output_maps(self):
            names += [*row.paths, *(sidecar_of(path) for path in row.paths)]
        for table in output_tables(self):
            names += [table.path, sidecar_of(table.path)]
        return tuple(dict.fromkeys(names))

    @property
    def sources(self) -> tuple[str, ...]:
        """BIDS URIs of the responses."""
        read = [*self.responses, *([self.observed] if self.observed else [])]
        weights = [self.weights.source] if self.weights else []
        return tuple(dict.fromkeys([*(source for maps in read for source in maps.sources), *weights]))

    def summary(self) -> Sequence[str]:
        """What ``--dry-run`` prints."""
        space = "_".join(f"{key}-{self.entities[key]}" for key in ("space", "res", "den") if key in self.entities) or "boldref"
        aim = f"aligned to {self.template.name}" if self.template else "prepared for the level group"
        by = " by weights of conform-encode" if self.weights else ""
        what = f"responses of desc-{self.desc}, {aim}{by}"
        return (
            f"task {self.entities.get('task', 'n/a')}, {space} ({self.kind}): {what}; about {self.mem_gb:.1f} GB",
            *self.notes,
        )

    def identity(self) -> str:
        """All that decides the result, as JSON; resources are left out, so that they do not invalidate what is computed."""
        content = dataclasses.asdict(dataclasses.replace(self, settings=AlignSettings()))
        for key in ("mem_gb", "n_threads", "device"):
            del content[key]
        content["settings"] = to_mapping(self.settings)
        return json.dumps(content, default=str, sort_keys=True)

    @classmethod
    def from_identity(cls, content: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from the JSON object of `identity`."""
        return cls(
            **{
                **content,
                "source": SourcePerson(**content["source"]),
                "responses": tuple(_maps(item) for item in content["responses"]),
                "observed": None if content["observed"] is None else _maps(content["observed"]),
                "snr": _paths(content["snr"]),
                "ceiling": _paths(content["ceiling"]),
                "apply_to": tuple((desc, _maps(item)) for desc, item in content["apply_to"]),
                "settings": from_mapping(AlignSettings, content["settings"]),
                "output_dir": Path(content["output_dir"]),
                "stimuli": None if content["stimuli"] is None else Path(content["stimuli"]),
                "weights": None
                if (weights := content["weights"]) is None
                else TuningInput(Path(weights["file"]), weights["source"], weights["includes_test"]),
                "template": None if content["template"] is None else Path(content["template"]),
                "notes": tuple(content["notes"]),
            }
        )


def _maps(item: Mapping[str, Any]) -> PlannedMaps:
    return PlannedMaps(item["session"], _paths(item["files"]), Path(item["trials"]), tuple(item["sources"]))


def _paths(values: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(value) for value in values)


@dataclass(frozen=True)
class MapOutput:
    """A map (or a series of maps) that is written.

    Attributes
    ----------
    array : str
        Its name among the arrays of the job.
    table : str
        Key of the table of its rows; empty for a single map.
    paths : tuple of str
        Relative to the output folder.
    fields : dict
        Sidecar fields of its own.
    """

    array: str
    table: str
    paths: tuple[str, ...]
    fields: dict[str, Any]


@dataclass(frozen=True)
class TableOutput:
    """A table (or HDF5 file) that is written; ``key`` says which."""

    key: str
    path: str


def output_maps(plan: Plan) -> list[MapOutput]:
    """Every map of a job, in the order in which they are written."""
    rows: list[MapOutput] = []

    def add(array: str, stat: str, desc: str, table: str = "", **fields: Any) -> None:
        rows.append(MapOutput(array, table, map_paths(plan.kind, {**plan.entities, "stat": stat, "desc": desc}, "statmap"), fields))

    if plan.template is not None:
        words = "in the units of the template, in standard deviations of the stimuli of the fit; map k is row k of the trial table"
        add("aligned", "effect", plan.method, plan.method, Description=f"Responses of desc-{plan.desc} {words}", Units="z")
        for desc, _ in plan.apply_to:
            joined = f"{plan.method}{desc}"
            add(f"aligned_{desc}", "effect", joined, joined, Description=f"Responses of desc-{desc} {words}", Units="z")
        return rows
    units = "arbitrary"
    add(
        "responses", "effect", "prepared", "prepared",
        Description="Response to each stimulus, as alignment takes it; map k is row k of the trial table", Units=units,
    )  # fmt: skip
    if plan.weights is not None:
        words = "Weight of each feature of an encoding model, which alignment is fitted on; map k is feature k of the field Features"
        add("tuning", "tuning", "prepared", Description=words, Units="arbitrary")
    ceiling = "Share of the variance of the responses that is signal"
    add("ceiling", "noiseceiling", "prepared", Description=ceiling, Units="percent")
    if plan.has_held_out:
        add(
            "observed", "effect", "observed", "observed",
            Description="Average over trials of each held-out stimulus, not denoised: what scores are of", Units=units,
        )  # fmt: skip
        add("observed_ceiling", "noiseceiling", "observed", Description=f"{ceiling}, held-out stimuli", Units="percent")
    return rows


def output_tables(plan: Plan) -> list[TableOutput]:
    """Every table of a job, and the transform."""
    descs = ["prepared", *(["observed"] if plan.has_held_out else [])]
    if plan.template is not None:
        descs = [plan.method, *(f"{plan.method}{desc}" for desc, _ in plan.apply_to)]
    rows = [TableOutput(desc, relative_path({**plan.entities, "desc": desc}, "trials", ".tsv")) for desc in descs]
    if plan.template is not None:
        rows.append(TableOutput("transform", transform_path(plan.entities, plan.template_name, plan.method)))
    rows.append(TableOutput("stimuli", "stimuli/" + build_name({"sub": plan.participant}, "stimuli", ".tsv")))
    return rows


def transform_path(entities: Mapping[str, str], template_name: str, method: str) -> str:
    """Name of a person's transform, or of a template's file, relative to the output folder."""
    more = {"from": "native", "to": template_name, "mode": "function", "desc": method}
    return relative_path({**entities, **more}, "xfm", ".h5")


def recorded_settings(settings: AlignSettings) -> dict[str, Any]:
    """Settings for sidecars; of a file its name alone, as paths of a machine do not belong into a shared dataset."""
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in to_mapping(settings).items()
    }
