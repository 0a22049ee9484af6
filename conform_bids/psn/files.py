"""What a conform-psn job reads, and the table of what it writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids.bids.images import map_paths
from conform_bids.bids.names import build_name, clean_label, relative_path, sidecar_of
from conform_bids.options import from_mapping, to_mapping
from conform_bids.psn.settings import PSNSettings

__all__ = ["MapOutput", "Plan", "PlannedBetas", "TableOutput", "metrics_path", "output_maps", "output_tables", "recorded_settings"]


@dataclass(frozen=True)
class PlannedBetas:
    """Betas of one fit of conform-glm (or of another program), those of a session or of several.

    Attributes
    ----------
    session : str or None
        Label as in the file name.
    files : tuple of Path
        One file, or the left and the right hemisphere's.
    trials : Path
        Their trial table.
    mask : Path or None
    scale : tuple of Path
        Map by which amplitudes are undone of their shrinkage; empty where there is none or it is not wanted.
    sources : tuple of str
        BIDS URIs of the files above.
    """

    session: str | None
    files: tuple[Path, ...]
    trials: Path
    mask: Path | None
    scale: tuple[Path, ...]
    sources: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that are read."""
        return (*self.files, self.trials, *((self.mask,) if self.mask is not None else ()), *self.scale)


@dataclass(frozen=True)
class Plan:
    """All betas of one task in one space; everything about them is decided here.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    entities : dict
        Entities of the outputs: those that the betas share.
    kind : str
        ``nifti``, ``cifti`` or ``gifti``.
    desc : str
        Model of the betas.
    betas : tuple of PlannedBetas
        In order of session.
    settings : PSNSettings
        Of the run.
    random_seed : int
        Of every random choice.
    output_dir : Path
        Root of the outputs.
    sessions, runs : tuple of str
        Trials are used of these only; empty is all.
    zscore : bool
        Whether units are z-scored within sessions.
    has_split : bool
        Whether any stimulus is held out.
    units : str
        Of the betas.
    parcellation, groups : tuple of Path
        Files of the parcels, and of the groups of units; empty where there are none.
    stimuli : Path or None
        The participant's table of stimuli beside the betas.
    notes : tuple of str
        What was left out or assumed; for the report.
    sloppy : bool
        Fewer folds: fast, not for use.
    mem_gb : float
        Peak memory of its largest node.
    n_threads, block_gb, device
        Resources; no part of what identifies the job.
    """

    participant: str
    entities: dict[str, str]
    kind: str
    desc: str
    betas: tuple[PlannedBetas, ...]
    settings: PSNSettings
    random_seed: int
    output_dir: Path
    sessions: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    zscore: bool = False
    has_split: bool = False
    units: str = "arbitrary"
    parcellation: tuple[Path, ...] = ()
    groups: tuple[Path, ...] = ()
    stimuli: Path | None = None
    notes: tuple[str, ...] = ()
    sloppy: bool = False
    mem_gb: float = 2.0
    n_threads: int = 1
    block_gb: float = 0.5
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Workflow name: ``psn_`` and the entities."""
        return "psn_" + "_".join(f"{key}_{clean_label(label)}" for key, label in self.entities.items() if key != "sub") + "_wf"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that the job reads."""
        files = [path for betas in self.betas for path in betas.inputs]
        split = [Path(self.settings.split)] if self.settings.split is not None and Path(self.settings.split).is_file() else []
        stimuli = [self.stimuli] if self.stimuli is not None else []
        return tuple(dict.fromkeys([*files, *self.parcellation, *self.groups, *split, *stimuli]))

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
    def n_folds(self) -> int:
        """Folds of conditions."""
        return 2 if self.sloppy else self.settings.n_folds

    @property
    def output_units(self) -> str:
        """Units of the responses that are written."""
        return "z" if self.settings.output_units == "z" else self.units

    def summary(self) -> Sequence[str]:
        """What ``--dry-run`` prints."""
        space = "_".join(f"{key}-{self.entities[key]}" for key in ("space", "res", "den") if key in self.entities) or "boldref"
        sessions = ", ".join(betas.session for betas in self.betas if betas.session) or "all"
        return (
            f"task {self.entities.get('task', 'n/a')}, sessions {sessions}, {space} ({self.kind}): betas of desc-{self.desc}",
            f"method {self.settings.method}; about {self.mem_gb:.1f} GB",
            *self.notes,
        )

    def identity(self) -> str:
        """All that decides the result, as JSON; resources are left out, so that they do not invalidate what is computed."""
        content = dataclasses.asdict(dataclasses.replace(self, settings=PSNSettings()))
        for key in ("mem_gb", "n_threads", "block_gb", "device"):
            del content[key]
        content["settings"] = to_mapping(self.settings)
        return json.dumps(content, default=str, sort_keys=True)

    @classmethod
    def from_identity(cls, content: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from the JSON object of `identity`."""
        betas = tuple(
            PlannedBetas(
                session=item["session"],
                files=_paths(item["files"]),
                trials=Path(item["trials"]),
                mask=None if item["mask"] is None else Path(item["mask"]),
                scale=_paths(item["scale"]),
                sources=tuple(item["sources"]),
            )
            for item in content["betas"]
        )
        return cls(
            **{
                **content,
                "betas": betas,
                "settings": from_mapping(PSNSettings, content["settings"]),
                "output_dir": Path(content["output_dir"]),
                "sessions": tuple(content["sessions"]),
                "runs": tuple(content["runs"]),
                "parcellation": _paths(content["parcellation"]),
                "groups": _paths(content["groups"]),
                "stimuli": None if content["stimuli"] is None else Path(content["stimuli"]),
                "notes": tuple(content["notes"]),
            }
        )


def _paths(values: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(value) for value in values)


@dataclass(frozen=True)
class MapOutput:
    """A map (or a series of maps) that is written.

    Attributes
    ----------
    array : str
        Its name among the results of the fit.
    rows : str
        What its maps are: ``conditions``, ``trials``, ``dimensions``; empty for a single one.
    paths : tuple of str
        Relative to the output folder.
    dtype : str
        On disk.
    fields : dict
        Sidecar fields of its own.
    """

    array: str
    rows: str
    paths: tuple[str, ...]
    dtype: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class TableOutput:
    """A table (or the HDF5 file) that is written; ``key`` says which."""

    key: str
    path: str


_EFFECTS = {
    "psn": ("psn", "Denoised response to each condition; map k is row k of the trial table"),
    "trialavg": ("trialavg", "Average over the trials of each condition, not denoised; map k is row k of the trial table"),
    "crossfit": (
        "psncrossfit",
        "Response to each condition, denoised by a fit to other conditions, amplitudes of units by the fit to all train conditions; test "
        "conditions as in desc-psn",
    ),
}


def output_maps(plan: Plan) -> list[MapOutput]:
    """Every map of a job, in the order in which they are written; one row a file (pair)."""
    rows: list[MapOutput] = []
    units = plan.output_units
    squared = "z" if units == "z" else f"({units})^2"

    def add(array: str, stat: str, desc: str, many: str = "", dtype: str = "float32", **fields: Any) -> None:
        paths = map_paths(plan.kind, {**plan.entities, "stat": stat, "desc": desc}, "statmap")
        rows.append(MapOutput(array, many, paths, dtype, fields))

    for array, (desc, description) in _EFFECTS.items():
        add(array, "effect", desc, "conditions", Description=description, Units=units)
    if "removed" in plan.settings.write:
        description = "Trial averages less denoised responses: removed noise, and the signal that went with it"
        add("removed", "effect", "psnremoved", "conditions", Description=description, Units=units)
    if "noise" in plan.settings.write:
        description = "Each trial less the average of its condition: an unbiased sample of the noise; map k is row k of the trial table"
        add("noise", "effect", "psnnoise", "trials", Description=description, Units=units)
    add(
        "ncsnr",
        "ncsnr",
        "psn",
        Description="Noise-ceiling signal-to-noise ratio: SD of the signal over that of a trial's noise",
        Units="arbitrary",
    )
    ceiling = "Noise ceiling of the responses to train conditions: share of their variance that is signal"
    add("noise_ceiling_before", "noiseceiling", "trialavg", Description=f"{ceiling}, before denoising", Units="percent")
    add(
        "noise_ceiling_after",
        "noiseceiling",
        "psn",
        Description=f"{ceiling}, after denoising, cross-fitted over conditions, at one size in all folds",
        Units="percent",
    )
    add("signal_variance", "signalvariance", "psn", Description="Variance of the signal over conditions", Units=squared)
    add("noise_variance", "noisevariance", "psn", Description="Variance of the noise of a single trial", Units=squared)
    add(
        "dimensions", "dimensions", "psn", Description="Dimensions that pass: their number, or the trace of the denoiser", Units="arbitrary"
    )
    if plan.settings.method == "calibrated":
        add("a", "a", "psn", Description="Weight of the noise in the filter, by cross-validation", Units="arbitrary")
    gain = "Share of the variance of held-out trials of unseen conditions that denoised responses predict; 0 and below: no gain"
    add("cv_gain", "cvgain", "psn", Description=gain, Units="proportion")
    add(
        "parcel",
        "parcel",
        "psn",
        dtype="int32",
        Description="Parcel of each unit, as in the table of parcels; 0 is outside",
        Units="arbitrary",
    )
    status = (
        "1 denoised; 2 passed through and 3 set to the mean response, as denoising their parcel gains nothing; 4 outside of every parcel; "
        "5 constant or absent; 6 missing in trials that the others of the parcel have; 0 no data"
    )
    add("status", "status", "psn", dtype="uint8", Description=f"What became of each unit: {status}", Units="arbitrary")
    if "components" in plan.settings.write:
        paths = map_paths(plan.kind, {**plan.entities, "desc": "psn"}, "components")
        description = "Leading dimensions: map k holds the k-th dimension of every parcel, each of unit length"
        rows.append(MapOutput("components", "dimensions", paths, "float32", {"Description": description, "Units": "arbitrary"}))
    return rows


def output_tables(plan: Plan) -> list[TableOutput]:
    """Every table of a job, and the decomposition."""
    named = {**plan.entities, "desc": "psn"}
    rows = [TableOutput("conditions", relative_path(named, "trials", ".tsv"))]
    if "noise" in plan.settings.write:
        rows.append(TableOutput("trials", relative_path({**plan.entities, "desc": "psnnoise"}, "trials", ".tsv")))
    rows.append(TableOutput("decomposition", relative_path(named, "decomposition", ".h5")))
    rows.append(TableOutput("spectrum", relative_path(named, "eigenspectrum", ".tsv")))
    rows.append(TableOutput("parcels", relative_path({**plan.entities, "desc": "parcels"}, "metrics", ".tsv")))
    rows.append(TableOutput("metrics", metrics_path(plan.entities)))
    rows.append(TableOutput("stimuli", "stimuli/" + build_name({"sub": plan.participant}, "stimuli", ".tsv")))
    return rows


def metrics_path(entities: Mapping[str, str]) -> str:
    """Name of the table of a fit's numbers, relative to the output folder."""
    return relative_path({**entities, "desc": "psn"}, "metrics", ".tsv")


def recorded_settings(settings: PSNSettings) -> dict[str, Any]:
    """Settings for sidecars; of a file its name alone, as paths of a machine do not belong into a shared dataset."""
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in to_mapping(settings).items()
    }
