"""What a conform-glm job reads, and the table of what it writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids.bids.images import map_paths
from conform_bids.bids.names import build_name, clean_label, relative_path, sidecar_of
from conform_bids.bids.runs import PlannedRun
from conform_bids.glm.settings import DENOISED_MODELS, GLMSettings
from conform_bids.options import from_mapping, to_mapping
from conform_bids.wording import counted

__all__ = [
    "DENOISED_MODELS",
    "HRF_MODELS",
    "ORDINARY",
    "MapOutput",
    "Plan",
    "PlannedRun",
    "TableOutput",
    "metrics_path",
    "output_maps",
    "output_tables",
    "writes_ordinary",
]

ORDINARY = "conformols"
"""The ``desc`` of the least-squares betas of the model conform."""
HRF_MODELS = ("fithrf", "fithrfdenoise", "fithrfdenoiserr", "conform")


@dataclass(frozen=True)
class Plan:
    """One fit: the runs of a task (and session) in one space; everything about it is decided here.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    entities : dict
        Entities of the outputs: those that the runs share.
    kind : str
        ``nifti``, ``cifti`` or ``gifti``.
    runs : tuple of PlannedRun
        In order of session and run.
    models : tuple of str
        Those that the design allows, of the ones asked for.
    settings : GLMSettings
        Of the run.
    random_seed : int
        Of every random choice.
    output_dir : Path
        Root of the outputs.
    stimuli_dir : Path or None
        ``stimuli/`` of the raw dataset.
    spatial_reference : str or None
        BIDS URI of the image that the space is aligned to, where its label does not say all.
    space_in_tables : bool
        Whether names of tables need the space, as runs differ between spaces.
    has_repeats : bool
        Whether any condition repeats, so that there are noise ceilings.
    notes : tuple of str
        What was left out or assumed; for the report.
    mem_gb : float
        Peak memory of the fit.
    n_threads, block_gb, device
        Resources; no part of what identifies the job.
    """

    participant: str
    entities: dict[str, str]
    kind: str
    runs: tuple[PlannedRun, ...]
    models: tuple[str, ...]
    settings: GLMSettings
    random_seed: int
    output_dir: Path
    stimuli_dir: Path | None = None
    spatial_reference: str | None = None
    space_in_tables: bool = False
    has_repeats: bool = True
    notes: tuple[str, ...] = ()
    mem_gb: float = 2.0
    n_threads: int = 1
    block_gb: float = 0.5
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Workflow name: ``glm_`` and the entities."""
        return "glm_" + "_".join(f"{key}_{clean_label(label)}" for key, label in self.entities.items() if key != "sub") + "_wf"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that the job reads."""
        files: list[Path] = []
        for run in self.runs:
            files += [*run.bold, *(path for path in (run.mask, run.events, run.confounds) if path is not None)]
        for option in (self.settings.hrf_library, self.settings.assumed_hrf, self.settings.dataset_config):
            files += [option] if option is not None else []
        return tuple(dict.fromkeys(files))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Files that the job writes, relative to the output folder."""
        names: list[str] = []
        for row in output_maps(self):
            names += [*row.paths, *(sidecar_of(path) for path in row.paths)]
        for table in output_tables(self):
            names += [table.path] + ([sidecar_of(table.path)] if table.with_sidecar else [])
        numbers = metrics_path(self.entities)
        return tuple(dict.fromkeys([*names, numbers, sidecar_of(numbers)]))

    def summary(self) -> Sequence[str]:
        """What ``--dry-run`` prints."""
        space = "_".join(f"{key}-{self.entities[key]}" for key in ("space", "res", "den") if key in self.entities) or "boldref"
        sessions = [session for session in dict.fromkeys(run.session for run in self.runs) if session]
        several = f"sessions {', '.join(sessions)}" if sessions else "all runs"
        where = f"session {self.entities['ses']}" if "ses" in self.entities else several
        return (
            f"task {self.entities.get('task', 'n/a')}, {where}, {space} ({self.kind}): {counted(len(self.runs), 'run')}",
            f"models: {', '.join(self.models)}; about {self.mem_gb:.1f} GB",
            *self.notes,
        )

    def identity(self) -> str:
        """All that decides the result, as JSON; resources are left out, so that they do not invalidate what is computed."""
        content = dataclasses.asdict(dataclasses.replace(self, settings=GLMSettings()))
        for key in ("mem_gb", "n_threads", "block_gb", "device"):
            del content[key]
        content["settings"] = to_mapping(self.settings)
        return json.dumps(content, default=str, sort_keys=True)

    @classmethod
    def from_identity(cls, content: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from the JSON object of `identity`."""

        def path(value: str | None) -> Path | None:
            return None if value is None else Path(value)

        runs = tuple(PlannedRun.from_json(run) for run in content["runs"])
        return cls(
            **{
                **content,
                "runs": runs,
                "models": tuple(content["models"]),
                "settings": from_mapping(GLMSettings, content["settings"]),
                "output_dir": Path(content["output_dir"]),
                "stimuli_dir": path(content["stimuli_dir"]),
                "notes": tuple(content["notes"]),
            }
        )


@dataclass(frozen=True)
class MapOutput:
    """A map (or a series of maps) that is written.

    Attributes
    ----------
    array : str
        Its name among the results of the fit.
    model : str or None
        Model that it belongs to.
    paths : tuple of str
        Relative to the output folder.
    dtype : str
        On disk.
    fields : dict
        Sidecar fields of its own.
    """

    array: str
    model: str | None
    paths: tuple[str, ...]
    dtype: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class TableOutput:
    """A table that is written; ``key`` says which, ``run`` which run's."""

    key: str
    path: str
    with_sidecar: bool = True
    model: str | None = None
    run: int | None = None


def writes_ordinary(plan: Plan) -> bool:
    """Whether the least-squares betas of the model conform are asked for, and fitted."""
    return "conform" in plan.models and "ols" in plan.settings.write


def metrics_path(entities: Mapping[str, str]) -> str:
    """Name of the table of a fit's numbers, which is drawn up with the figures, relative to the output folder."""
    return relative_path({**entities, "desc": "glm"}, "metrics", ".tsv")


_BETAS = "Single-trial response amplitudes; volume (map) k is row k of the trial table"
_CEILING = "Noise ceiling: share of the variance of condition means that is not noise (Allen et al., 2022)"
_R2 = "Variance explained by the model over all runs, drifts out"


def output_maps(plan: Plan) -> list[MapOutput]:
    """Every map of a job, in the order in which they are written; one row a file (pair)."""
    units = "percent signal change" if plan.settings.units == "percent" else "arbitrary"
    rows: list[MapOutput] = []

    def add(array: str, model: str, stat: str, dtype: str, **fields: Any) -> None:
        entities = {**plan.entities, "stat": stat, "desc": model}
        rows.append(MapOutput(array, model, map_paths(plan.kind, entities, "statmap"), dtype, fields))

    for model in plan.models:
        add(f"{model}_betas", model, "effect", "float32", Description=_BETAS, Units=units)
        if model == "assumehrf":
            add("onoff_rsquared", model, "rsquared", "float32", Description=f"On/off model: {_R2[0].lower()}{_R2[1:]}", Units="percent")
            add("onoff_beta", model, "onoff", "float32", Description="Response to any trial: one regressor for all trials", Units=units)
        else:
            add(f"{model}_rsquared", model, "rsquared", "float32", Description=_R2, Units="percent")
            description = "HRF chosen for the unit, an index into the columns of the HRF library, from 0; NaN where set aside"
            index = "conform_hrf_index" if model == "conform" else "hrf_index"
            add(index, model, "hrfindex", "float32", Description=description, Units="arbitrary", IndexBase=0)
        if model == "conform":
            description = "Slope of the ordinary least-squares betas on these: times it, betas have the amplitude of unshrunken ones"
            add("conform_scale", model, "scale", "float32", Description=description, Units="arbitrary")
        if model == "conform" and "shrinkage" in plan.settings.write:
            description = "log10 of lambda, the ratio of the variance of responses to that of the noise: the lower, the more shrunk"
            add("conform_shrinkage", model, "shrinkage", "float32", Description=description, Units="arbitrary")
        if model == "fithrfdenoiserr":
            add("fraction", model, "fraction", "float32", Description="Ridge fraction chosen for the unit", Units="proportion")
        if plan.has_repeats:
            add(f"noise_ceiling_{model}", model, "noiseceiling", "float32", Description=_CEILING, Units="percent")
        add("mean", model, "mean", "float32", Description="Mean of the BOLD series over all runs", Units="arbitrary")
    if writes_ordinary(plan):
        add("conformols_betas", ORDINARY, "effect", "float32", Description=_BETAS, Units=units)
        if plan.has_repeats:
            add("noise_ceiling_conformols", ORDINARY, "noiseceiling", "float32", Description=_CEILING, Units="percent")
    masks = [("valid", "brain", "Units that were fitted")]
    if any(model in DENOISED_MODELS for model in plan.models):
        masks.append(("noise_pool", "noisepool", "Units whose time courses gave the noise regressors"))
    for array, desc, description in masks:
        # BIDS knows masks as volumes only
        entities = {**plan.entities, "desc": desc} if plan.kind == "nifti" else {**plan.entities, "stat": "mask", "desc": desc}
        paths = map_paths(plan.kind, entities, "mask" if plan.kind == "nifti" else "statmap")
        rows.append(MapOutput(array, None, paths, "uint8", {"Description": description, "Type": "Brain" if desc == "brain" else "ROI"}))
    return rows


def output_tables(plan: Plan) -> list[TableOutput]:
    """Every table of a job."""
    space_keys = ("space", "res", "den")
    plain = plan.entities if plan.space_in_tables else {key: plan.entities[key] for key in plan.entities if key not in space_keys}
    described = [*plan.models, *([ORDINARY] if writes_ordinary(plan) else [])]
    rows = [TableOutput("trials", relative_path({**plain, "desc": model}, "trials", ".tsv"), model=model) for model in described]
    for index, run in enumerate(plan.runs):
        labels = {"ses": run.session, "run": run.run}
        entities = {**plain, **{key: label for key, label in labels.items() if label is not None}}
        rows.append(TableOutput("design", relative_path(entities, "design", ".tsv"), run=index))
        if any(model in DENOISED_MODELS for model in plan.models):
            full = {**plan.entities, **entities, "desc": "noiseregressors"}
            rows.append(TableOutput("noise", relative_path(full, "timeseries", ".tsv"), run=index))
    if any(model in HRF_MODELS for model in plan.models):
        rows.append(TableOutput("library", relative_path({**plain, "desc": "hrflibrary"}, "timeseries", ".tsv")))
    stimuli = "stimuli/" + build_name({"sub": plan.participant}, "stimuli", ".tsv")
    rows.append(TableOutput("stimuli", stimuli))
    return rows
