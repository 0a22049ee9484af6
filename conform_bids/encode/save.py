"""From arrays to BIDS derivatives: maps, weights, tables, and their sidecars."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids import __version__
from conform_bids.bids.conditions import CONDITIONS_DESCRIPTION, FIRST_TRIAL
from conform_bids.bids.derivatives import atomic_path, write_json, write_tsv
from conform_bids.bids.images import write_maps
from conform_bids.bids.names import parse_name, sidecar_of
from conform_bids.bids.sidecars import sidecar
from conform_bids.bids.tables import read_tsv
from conform_bids.bids.trials import STIMULI_DESCRIPTION, merge_stimuli
from conform_bids.encode.files import MapOutput, Plan, TableOutput, output_maps, output_tables, recorded_settings
from conform_bids.encode.load import Loaded

__all__ = ["METHODS_IN_WORDS", "save_outputs"]

METHODS_IN_WORDS = {
    "ridge": "Ridge regression, the penalty of each unit by cross-validation over train stimuli",
    "banded": "Banded ridge regression, a penalty for each feature space and unit by cross-validation over train stimuli",
    "population": "Posterior of a population model given some train stimuli, or ridge regression on these where a guard prefers it",
}
_METRICS = {
    "Description": "Scores over units and test stimuli",
    "metric": {"Description": "What was measured."},
    "value": {"Description": "The number; n/a where it could not be computed."},
    "low": {"Description": "Lower end of the 95 percent interval, by resampling test stimuli; n/a without one."},
    "high": {"Description": "Upper end of it."},
}
_OTHERS: dict[str, dict[str, Any]] = {
    "contexts": {
        "Description": "Train stimuli that the population model was shown",
        "draw": {"Description": "Context, from 1; weights and maps are of the first."},
        "stim_id": CONDITIONS_DESCRIPTION["stim_id"],
        "content_id": CONDITIONS_DESCRIPTION["content_id"],
    },
    "new": {
        "Description": "New stimuli whose responses were predicted",
        "condition": {"Description": "Index of the stimulus, and of its volume or map, from 0."},
        "stim_id": CONDITIONS_DESCRIPTION["stim_id"],
        "time": {"Description": "Of movies: middle of the volume since the movie's beginning.", "Units": "s"},
        "sha256": {"Description": "Of the stimulus file; n/a where not known."},
    },
}
_VOLUMES: dict[str, Any] = {
    **CONDITIONS_DESCRIPTION,
    "condition": {"Description": "Index of the volume: first those of test movies, of which stat-prediction has a map each."},
    "time": {"Description": "Time of the volume since the movie's beginning; the mean over presentations of a test movie.", "Units": "s"},
    "n_trials": {"Description": "Presentations that were averaged."},
    "session_id": {"Description": "Session, without ses-; n/a where presentations were averaged."},
    "run_id": {"Description": "Run, without run-; n/a where presentations were averaged."},
}
_WEIGHTS = {
    "Description": "Weights of the features for each unit: conform_bids.bids.weights.read_weights reads them and predicts new stimuli",
    "FileFormat": "HDF5, layout weights, version 1",
}


@dataclass(frozen=True)
class _Context:
    """What all sidecars need."""

    plan: Plan
    loaded: Loaded
    results: Mapping[str, Path]
    facts: Mapping[str, Any]

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of every sidecar."""
        plan, loaded = self.plan, self.loaded
        return {
            "SoftwareVersion": f"conform-encode {__version__}",
            "RandomSeed": plan.random_seed,
            "InputDesc": plan.desc,
            **({"SourceParticipant": plan.source.field} if plan.source.field else {}),
            "EstimationMethod": _method(plan),
            "Model": plan.model,
            "FeatureSpaces": [{key: value for key, value in card.items() if key != "feature_names"} for card in loaded.cards],
            "NumberOfFeatures": [len(card["feature_names"]) for card in loaded.cards],
            **loaded.facts,
            "SplitGiven": plan.has_split,
            "FitIncludesTest": not plan.has_held_out,
            **self.facts["fields"],
        }


def _method(plan: Plan) -> str:
    words = METHODS_IN_WORDS[plan.model]
    return words.replace("over train stimuli", "over runs of train movies") if plan.settings.is_movie else words


def save_outputs(plan: Plan, loaded: Loaded, results: Mapping[str, Path], n_threads: int) -> list[Path]:
    """Write every file that the plan declares.

    Parameters
    ----------
    plan, loaded
        What was fitted.
    results : mapping
        Files that the fit left in its work folder, by name.
    n_threads : int
        Threads that compress.

    Returns
    -------
    list of Path
        The files, sidecars included.
    """
    facts = json.loads(results["facts.json"].read_text(encoding="utf-8"))
    context = _Context(plan, loaded, results, facts)
    written: list[Path] = []
    for row in output_maps(plan):
        written += _save_map(context, row, n_threads)
    for table in output_tables(plan):
        written += _save_table(context, table)
    return written


def _map_names(context: _Context, row: MapOutput) -> list[str]:
    if row.rows == "test":
        tested = _conditions(context.loaded)[: len(context.loaded.observed)]
        names = tested["stim_id"] + " " + tested["time"] + " s" if "time" in tested else tested["stim_id"]
        return [f"condition-{k:05d} {name}" for k, name in zip(tested["condition"], names, strict=True)]
    if row.rows == "spaces":
        return [str(card["name"]) for card in context.loaded.cards]
    if row.rows == "queries":
        return [str(query["text"]) for query in context.facts["fields"]["Queries"]]
    if row.rows == "context":
        table = read_tsv(context.results["contexts.tsv"], quoted=False)
        return [str(name) for name in table.loc[table["draw"].astype(int) == 1, "stim_id"]]
    if row.rows == "new":
        return [str(name) for name in read_tsv(context.results["new.tsv"], quoted=False)["stim_id"]]
    return [str(row.fields["Description"])[:60]]


def _save_map(context: _Context, row: MapOutput, n_threads: int) -> list[Path]:
    plan = context.plan
    values: npt.NDArray[Any] = np.load(context.results[f"{row.array}.npy"], mmap_mode="r")
    paths = [plan.output_dir / path for path in row.paths]
    write_maps(values, context.loaded.space, paths, _map_names(context, row), np.float32, n_threads=n_threads)
    fields: dict[str, Any] = {**row.fields, **context.fields, "Masked": True, "Settings": recorded_settings(plan.settings)}
    if row.rows == "test":
        fields["TrialTable"] = "bids::" + next(table.path for table in output_tables(plan) if table.key == "trials")
    if row.rows == "new":
        fields["TrialTable"] = "bids::" + next(table.path for table in output_tables(plan) if table.key == "new")
    if row.rows in ("spaces", "queries", "context"):
        fields["MapsAreOf"] = _map_names(context, row)
    fields["Notes"] = list(context.facts["notes"]) or None
    written = list(paths)
    for path in dict.fromkeys(sidecar_of(path) for path in row.paths):
        name = parse_name(row.paths[0])
        write_json(sidecar(name.entities, name.suffix, name.extension, sources=plan.sources, fields=fields), plan.output_dir / path)
        written.append(plan.output_dir / path)
    return written


def _save_table(context: _Context, table: TableOutput) -> list[Path]:
    plan, path = context.plan, context.plan.output_dir / table.path
    content: dict[str, Any]
    if table.key == "stimuli":
        merge_stimuli(context.loaded.stimuli, path, plan.output_dir)
        content = dict(STIMULI_DESCRIPTION)
    elif table.key == "weights":
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            shutil.copyfile(context.results["weights.h5"], temporary)
        content = {**_WEIGHTS, **context.fields, "Settings": recorded_settings(plan.settings)}
    elif table.key == "metrics":
        write_tsv(read_tsv(context.results["metrics.tsv"], quoted=False).fillna("n/a"), path)
        content = {**_METRICS, **context.fields, "Notes": list(context.facts["notes"]) or None}
    elif table.key in _OTHERS:
        rows = read_tsv(context.results[f"{table.key}.tsv"], quoted=False).fillna("n/a")
        write_tsv(rows, path)
        described = {key: value for key, value in _OTHERS[table.key].items() if key == "Description" or key in rows.columns}
        content = {**described, **context.fields}
    else:
        write_tsv(_conditions(context.loaded), path)
        described = _VOLUMES if plan.settings.is_movie else CONDITIONS_DESCRIPTION
        dated = {"first_trial": FIRST_TRIAL} if "first_trial" in context.loaded.conditions.columns else {}
        content = {**described, **dated, **context.fields}
    sources = () if table.key == "stimuli" else plan.sources
    name = parse_name(table.path)
    side = plan.output_dir / sidecar_of(table.path)
    write_json(sidecar(name.entities, name.suffix, name.extension, sources=sources, fields=content), side)
    return [path, side]


def _conditions(loaded: Loaded) -> pd.DataFrame:
    """The stimuli, as ``stat-prediction`` has them: test stimuli first, so that row k is map k."""
    tested = loaded.conditions.iloc[loaded.n_train :]
    table = pd.concat([tested, loaded.conditions.iloc[: loaded.n_train]], ignore_index=True)
    return table.assign(condition=range(len(table)))
