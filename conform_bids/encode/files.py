"""What a conform-encode job reads, and the table of what it writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids.bids.averages import PlannedMaps
from conform_bids.bids.collection import SourcePerson
from conform_bids.bids.images import map_paths
from conform_bids.bids.names import build_name, clean_label, relative_path, sidecar_of
from conform_bids.bids.runs import PlannedRun
from conform_bids.encode.model_files import find_model
from conform_bids.encode.settings import EncodeSettings
from conform_bids.options import from_mapping, to_mapping

__all__ = ["MapOutput", "Plan", "TableOutput", "output_maps", "output_tables", "recorded_settings"]


@dataclass(frozen=True)
class Plan:
    """An encoding model of one person in one task and space; everything about it is decided here.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    source : SourcePerson
        Which participant of which dataset that is.
    entities : dict
        Entities of the outputs.
    kind : str
        ``nifti``, ``cifti`` or ``gifti``.
    desc : str
        Of the responses that are fitted on.
    averaged : bool
        Whether they have a row a condition already; else they are single trials of one or more sessions.
    responses : tuple of PlannedMaps
    observed : PlannedMaps or None
        Trial averages that are not denoised, which scores are of; None: the responses themselves.
    snr : tuple of Path
        Map ``stat-ncsnr``; empty where there is none.
    stimuli : Path or None
        The participant's table of stimuli beside the responses.
    feature_files : tuple of Path
        Tables of features; every one is a feature space.
    stimuli_dir : Path or None
        Where the files of the stimuli lie, for a backbone.
    settings : EncodeSettings
        Of the run.
    random_seed : int
    output_dir : Path
        Root of the outputs.
    has_split : bool
        Whether train and test are given; else test stimuli are drawn.
    has_held_out : bool
        Whether any stimulus is held out.
    n_spaces : int
        Feature spaces.
    runs : tuple of PlannedRun
        Of movies: the runs whose volumes are predicted; `responses` is empty then.
    drawn : tuple of str
        Of movies: those that were drawn to be held out, where no split is given.
    has_repeats : bool
        Of movies: whether a held-out movie was shown more than once.
    hrf_index : tuple of tuple of Path
        Of movies: maps of each unit's HRF, one a fit of conform-glm; each one file, or the left and the right hemisphere's.
    other_sources : tuple of str
        BIDS URIs of these maps.
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
    stimuli: Path | None
    feature_files: tuple[Path, ...]
    stimuli_dir: Path | None
    settings: EncodeSettings
    random_seed: int
    output_dir: Path
    has_split: bool = False
    has_held_out: bool = True
    n_spaces: int = 1
    runs: tuple[PlannedRun, ...] = ()
    drawn: tuple[str, ...] = ()
    has_repeats: bool = False
    hrf_index: tuple[tuple[Path, ...], ...] = ()
    other_sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mem_gb: float = 2.0
    n_threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Workflow name: ``encode_`` and the entities."""
        return "encode_" + "_".join(f"{key}_{clean_label(label)}" for key, label in self.entities.items() if key != "sub") + "_wf"

    @property
    def model(self) -> str:
        """The outputs' desc."""
        return "population" if self.settings.model is not None else self.settings.estimator

    @property
    def has_ceiling(self) -> bool:
        """Whether repeats tell how much of the test responses is signal."""
        return self.has_repeats if self.settings.is_movie else bool(self.snr) or not self.averaged

    @property
    def place(self) -> Path:
        """The file that messages about the responses name."""
        return self.runs[0].bold[0] if self.runs else self.responses[0].trials

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that the job reads, stimuli aside."""
        read = [*self.responses, *([self.observed] if self.observed else [])]
        files = [path for maps in read for path in (*maps.files, maps.trials)]
        for run in self.runs:
            files += [*run.bold, *(path for path in (run.mask, run.events, run.confounds) if path is not None)]
        files += [path for maps in self.hrf_index for path in maps]
        files += [self.settings.hrf_library] if self.settings.hrf_library is not None else []
        split = [Path(self.settings.split)] if self.settings.split is not None and Path(self.settings.split).is_file() else []
        stimuli = [self.stimuli] if self.stimuli is not None else []
        model = [] if self.settings.model is None else list(find_model(self.settings.model))
        asked = [Path(text) for text in self.settings.text_queries if Path(text).is_file()]
        asked += [Path(text.partition("=")[2]) for text in self.settings.rois]
        asked += [self.settings.predict] if self.settings.predict is not None and self.settings.predict.is_file() else []
        return tuple(dict.fromkeys([*files, *self.snr, *split, *stimuli, *self.feature_files, *model, *asked]))

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
        named = [source for maps in read for source in maps.sources] + [source for run in self.runs for source in run.sources]
        return tuple(dict.fromkeys([*named, *self.other_sources]))

    def summary(self) -> Sequence[str]:
        """What ``--dry-run`` prints."""
        space = "_".join(f"{key}-{self.entities[key]}" for key in ("space", "res", "den") if key in self.entities) or "boldref"
        tables = [path.name for path in self.feature_files]
        spaces = ", ".join([*tables, *([self.settings.chosen_backbone] if self.settings.chosen_backbone else [])])
        target = f"volumes of {len(self.runs)} runs" if self.runs else f"responses of desc-{self.desc}"
        what = f"{self.model} from {spaces} to {target}"
        return (f"task {self.entities.get('task', 'n/a')}, {space} ({self.kind}): {what}; about {self.mem_gb:.1f} GB", *self.notes)

    def identity(self) -> str:
        """All that decides the result, as JSON; resources are left out, so that they do not invalidate what is computed."""
        content = dataclasses.asdict(dataclasses.replace(self, settings=EncodeSettings()))
        for key in ("mem_gb", "n_threads", "device"):
            del content[key]
        content["settings"] = to_mapping(self.settings)
        return json.dumps(content, default=str, sort_keys=True)

    @classmethod
    def from_identity(cls, content: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from the JSON object of `identity`."""
        single = {key: None if content[key] is None else Path(content[key]) for key in ("stimuli", "stimuli_dir")}
        return cls(
            **{
                **content,
                **single,
                "source": SourcePerson(**content["source"]),
                "responses": tuple(_maps(item) for item in content["responses"]),
                "observed": None if content["observed"] is None else _maps(content["observed"]),
                "snr": _paths(content["snr"]),
                "feature_files": _paths(content["feature_files"]),
                "settings": from_mapping(EncodeSettings, content["settings"]),
                "output_dir": Path(content["output_dir"]),
                "runs": tuple(PlannedRun.from_json(run) for run in content["runs"]),
                "drawn": tuple(content["drawn"]),
                "hrf_index": tuple(_paths(files) for files in content["hrf_index"]),
                "other_sources": tuple(content["other_sources"]),
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
        Its name among the arrays of the fit.
    rows : str
        What a map of a series is of: ``test`` (stimuli), ``spaces`` (of features); empty for a single map.
    paths : tuple of str
        Relative to the output folder.
    fields : dict
        Sidecar fields of its own.
    """

    array: str
    rows: str
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
    banded, adapted = plan.settings.estimator == "banded", plan.settings.model is not None

    def add(array: str, stat: str, series: str = "", desc: str = plan.model, **fields: Any) -> None:
        paths = map_paths(plan.kind, {**plan.entities, "stat": stat, "desc": desc}, "statmap")
        rows.append(MapOutput(array, series, paths, fields))

    tested = "volumes of test movies" if plan.settings.is_movie else "test stimuli"
    if plan.has_held_out:
        add("correlation", "correlation", Description=f"Correlation of predicted and measured responses to {tested}", Units="arbitrary")
        add(
            "rsquared", "rsquared", Units="proportion",
            Description=f"Share of the variance of the responses to {tested} that is predicted; below 0, the mean predicts better",
        )  # fmt: skip
        if plan.has_ceiling:
            add(
                "noiseceilingnormalized", "noiseceilingnormalized", Units="arbitrary",
                Description=f"Correlation over the root of the noise ceiling of the {tested}, where the ceiling is above 10 percent",
            )  # fmt: skip
            add("noiseceiling", "noiseceiling", Description="Share of the variance of the test responses that is signal", Units="percent")
        if plan.settings.is_movie and plan.has_ceiling:
            words = (
                "Explainable variance of a single presentation: the share of its variance that presentations of a test movie have in common"
            )
            add("explainable_variance", "explainablevariance", Description=words, Units="percent")
        if banded:
            words = f"Share of the variance of the responses to {tested} that a feature space predicts"
            add("split_rsquared", "splitrsquared", "spaces", Description=f"{words}; the shares add up to stat-rsquared", Units="proportion")
            add("unique_variance", "uniquevariance", "spaces", Description=f"{words} and the others do not", Units="proportion")
        if adapted or "predictions" in plan.settings.write:
            words = "Predicted response to each test stimulus, as z of the train ones"
            if plan.settings.is_movie:
                words = "Prediction of each volume of the test movies, nuisances out, as z of the train volumes"
            add("predictions", "prediction", "test", Units="z", Description=words)
        if adapted:
            words = "Posterior standard deviation of the noiseless response to each test stimulus; NaN where the guard chose ridge"
            add("prediction_deviation", "predictionsd", "test", Units="z", Description=words)
    _add_questions(plan, add)
    if adapted:
        words = "Expected accuracy: the share of a response's variance that the weights should predict, as the context alone tells"
        add("expected_rsquared", "expectedrsquared", Units="proportion", Description=words)
        return rows
    add(
        "cv_rsquared", "cvrsquared", Units="proportion",
        Description="Share of the variance of train responses that is predicted by models that did not see them",
    )  # fmt: skip
    if plan.settings.hrf == "glm":
        words = "HRF that features were convolved with, an index into the columns of the HRF library, from 0"
        add("hrf_index", "hrfindex", Description=words, Units="arbitrary", IndexBase=0)
    add("alpha", "alpha", "spaces" if banded else "", Description="Penalty on the weights that was chosen", Units="arbitrary")
    return rows


def _add_questions(plan: Plan, add: Callable[..., None]) -> None:
    """Maps of what a model is asked."""
    if plan.settings.text_queries:
        words = "Response of each unit that the weights predict for a text, less that for texts of all kinds, as z over units"
        add("queries", "query", "queries", Units="z", Description=words)
    if plan.settings.influence:
        words = "How much predictions of a unit move when its response to a context stimulus moves by one"
        add("influence", "influence", "context", Units="arbitrary", Description=words)
    if plan.settings.predict is not None:
        words = "Predicted response to each new stimulus, in the units of the responses"
        add("new_predictions", "prediction", "new", desc=f"{plan.model}new", Units="arbitrary", Description=words)


def output_tables(plan: Plan) -> list[TableOutput]:
    """Every table of a job, and the weights."""
    named = {**plan.entities, "desc": plan.model}
    tables = [TableOutput(key, relative_path(named, key, ".tsv")) for key in ("trials", "metrics")]
    tables.append(TableOutput("weights", relative_path(named, "weights", ".h5")))
    if plan.settings.model is not None:
        tables.append(TableOutput("contexts", relative_path(named, "contexts", ".tsv")))
    if plan.settings.predict is not None:
        tables.append(TableOutput("new", relative_path({**named, "desc": f"{plan.model}new"}, "trials", ".tsv")))
    return [*tables, TableOutput("stimuli", "stimuli/" + build_name({"sub": plan.participant}, "stimuli", ".tsv"))]


def recorded_settings(settings: EncodeSettings) -> dict[str, Any]:
    """Settings for sidecars; of a file its name alone, as paths of a machine do not belong into a shared dataset."""

    def shown(value: Any) -> Any:
        if isinstance(value, list):
            return [shown(item) for item in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {key: shown(value) for key, value in to_mapping(settings).items()}
