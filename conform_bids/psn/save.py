"""From the engine's arrays to BIDS derivatives: maps, tables, the decomposition, and their sidecars."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids import __version__
from conform_bids.bids.conditions import FIRST_TRIAL
from conform_bids.bids.derivatives import atomic_path, write_json, write_tsv
from conform_bids.bids.images import write_maps
from conform_bids.bids.names import parse_name, sidecar_of
from conform_bids.bids.sidecars import sidecar
from conform_bids.bids.spaces import Space
from conform_bids.bids.tables import read_tsv
from conform_bids.bids.trials import STIMULI_DESCRIPTION, TRIALS_DESCRIPTION, hash_stimuli, merge_stimuli, write_trials
from conform_bids.psn.files import MapOutput, Plan, TableOutput, output_maps, output_tables, recorded_settings
from conform_bids.psn.load import LoadedBetas

__all__ = ["CONDITIONS_DESCRIPTION", "METHODS_IN_WORDS", "save_outputs"]

METHODS_IN_WORDS = {
    "stacked": "Mixture of Wiener-like filters of signal and noise covariances, calibrated on split noise",
    "calibrated": "Wiener filter of GSN's signal and noise covariances, the noise weighted by cross-validation over conditions",
    "crossvalidated": "Projection on the leading signal dimensions, their number by nested cross-validation over conditions",
    "standard": "Projection on the leading signal dimensions (PSN, standard)",
    "conservative": "Projection on the signal dimensions that hold nearly all signal variance (PSN, conservative)",
    "aggressive": "Projection on the leading dimensions of signal less noise (PSN, aggressive)",
    "compare": "Projection on signal or difference dimensions, whichever agree better between halves of the trials (PSN, compare)",
    "wiener": "Wiener filter of GSN's signal and noise covariances (PSN, wiener)",
}

CONDITIONS_DESCRIPTION: dict[str, Any] = {
    "condition": {"Description": "Index of the condition, and of its volume or map, from 0; sorted by stim_id."},
    "stim_id": {"Description": "Stimulus, or condition, that was shown; the name to join files on."},
    "n_trials": {"Description": "Trials that were averaged."},
    "split": TRIALS_DESCRIPTION["split"],
    "first_trial": FIRST_TRIAL,
    "fold": {"Description": "Fold in which the condition was left out for desc-psncrossfit; n/a for what was not fitted on."},
}
_SPECTRUM: dict[str, Any] = {
    "parcel": {"Description": "Parcel, as in the map stat-parcel."},
    "dimension": {"Description": "Index of the dimension, from 0, leading first."},
    "eigenvalue": {"Description": "Of the dimension; for Wiener-like methods the ratio of signal to noise variance."},
    "signal_variance": {"Description": "Variance of the signal along the dimension."},
    "noise_variance": {"Description": "Variance of a single trial's noise along the dimension."},
    "cumulative_recovery": {"Description": "Signal less noise variance of condition means, summed up to this dimension."},
    "passed": {
        "Description": "Share of the dimension that passes the denoiser; 0 or 1 for projections. What passes beside these is not in it."
    },
}
_PARCELS: dict[str, Any] = {
    "parcel": {"Description": "Number of the parcel, as in the map stat-parcel."},
    "name": {"Description": "Its name."},
    "n_units": {"Description": "Units that were denoised."},
    "n_set_aside": {"Description": "Units that were set aside."},
    "n_trials": {"Description": "Train trials."},
    "n_conditions": {"Description": "Train conditions."},
    "method": {"Description": "Method; (dual) where the parcel is so large that the dual form, another estimator, was used."},
    "outcome": {"Description": "denoised; passed: trial averages; zeroed: mean responses; empty: no unit left."},
    "dimensions": {"Description": "Dimensions that pass: their number, or the trace of the denoiser."},
    "a": {"Description": "Weight of the noise (median over units)."},
    "noise_level": {"Description": "Shrinkage of the noise covariance; 1 is none."},
    "data_level": {"Description": "Shrinkage of the covariance of condition means; 1 is none."},
    "gain": {"Description": "Share of the variance of held-out responses that denoised ones predict; 0 and below: no gain."},
    "reliability_before": {"Description": "Correlation over conditions of even with odd repeats, median over units."},
    "reliability_after": {
        "Description": "The same, both denoised by denoisers that never saw the condition, and at one size in all folds."
    },
    "note": {"Description": "What happened."},
}


@dataclass(frozen=True)
class _Context:
    """What all sidecars need."""

    plan: Plan
    loaded: LoadedBetas
    space: Space
    files: Mapping[str, Path]
    summary: Mapping[str, Any]

    @property
    def sources(self) -> list[str]:
        """BIDS URIs of all that was read."""
        return list(dict.fromkeys(source for betas in self.plan.betas for source in betas.sources))

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of every sidecar."""
        return {"SoftwareVersion": f"conform-psn {__version__}", "RandomSeed": self.plan.random_seed}

    @property
    def fit_fields(self) -> dict[str, Any]:
        """Fields on how the denoiser was fitted."""
        plan, loaded = self.plan, self.loaded
        return {
            "EstimationMethod": METHODS_IN_WORDS[plan.settings.method],
            "Method": plan.settings.method,
            "BetaModel": plan.desc,
            "AmplitudesRescaled": any(betas.scale for betas in plan.betas),
            "ZScoredWithinSessions": plan.zscore,
            "NumberOfTrials": len(loaded.trials),
            "NumberOfConditions": len(loaded.conditions),
            "NumberOfParcels": self.summary["n_parcels"],
            "SplitGiven": plan.has_split,
            "FitIncludesTest": not plan.has_split,
            "FittedStimuliHash": hash_stimuli(loaded.trials["stim_id"][loaded.train]),
        }

    def table(self, key: str) -> str:
        """BIDS URI of a table of this job."""
        return "bids::" + next(table.path for table in output_tables(self.plan) if table.key == key)


def save_outputs(
    plan: Plan, loaded: LoadedBetas, space: Space, results: Sequence[Path], summary: Mapping[str, Any], n_threads: int
) -> list[Path]:
    """Write every file that the plan declares.

    Parameters
    ----------
    plan, loaded, space
        What was fitted.
    results : sequence of Path
        What the fit left in its work folder.
    summary : mapping
        Its numbers.
    n_threads : int
        Threads that compress.

    Returns
    -------
    list of Path
        The files, sidecars included.
    """
    context = _Context(plan, loaded, space, {path.name: path for path in map(Path, results)}, summary)
    written: list[Path] = []
    for row in output_maps(plan):
        written += _save_map(context, row, n_threads)
    for table in output_tables(plan):
        written += _save_table(context, table)
    return written


def _map_names(context: _Context, row: MapOutput, values: npt.NDArray[Any]) -> list[str]:
    if row.rows == "conditions":
        conditions = context.loaded.conditions
        return [f"condition-{k:05d} {name}" for k, name in zip(conditions["condition"], conditions["stim_id"], strict=True)]
    if row.rows == "trials":
        trials = context.loaded.trials
        return [f"trial-{k:05d} {name}" for k, name in zip(trials["trial"], trials["stim_id"], strict=True)]
    if row.rows == "dimensions":
        return [f"dimension-{k:03d}" for k in range(len(values))]
    return [str(row.fields["Description"])[:60]]


def _save_map(context: _Context, row: MapOutput, n_threads: int) -> list[Path]:
    plan = context.plan
    values: npt.NDArray[Any] = np.load(context.files[f"{row.array}.npy"], mmap_mode="r")
    paths = [plan.output_dir / path for path in row.paths]
    write_maps(values, context.space, paths, _map_names(context, row, values), row.dtype, n_threads=n_threads)
    fields: dict[str, Any] = {**row.fields, **context.fields, "Masked": True, **context.fit_fields}
    if row.rows in ("conditions", "trials"):
        fields["TrialTable"] = context.table("conditions" if row.rows == "conditions" else "trials")
        fields |= {"Settings": recorded_settings(plan.settings), "Notes": list(context.summary["notes"]) or None}
    if row.array.startswith("noise_ceiling_"):
        counts = context.loaded.conditions["n_trials"]
        fields["NTrialsAveraged"] = sorted({int(count) for count in counts})
    name = parse_name(row.paths[0])
    content = sidecar(name.entities, name.suffix, name.extension, sources=context.sources, fields=fields)
    written = list(paths)
    for path in dict.fromkeys(sidecar_of(path) for path in row.paths):
        write_json(content, plan.output_dir / path)
        written.append(plan.output_dir / path)
    return written


def _save_table(context: _Context, table: TableOutput) -> list[Path]:
    plan, path = context.plan, context.plan.output_dir / table.path
    content: dict[str, Any]
    if table.key == "stimuli":
        merge_stimuli(context.loaded.stimuli, path, plan.output_dir)
        content = dict(STIMULI_DESCRIPTION)
    elif table.key == "trials":
        write_trials(context.loaded.trials, path)
        content = {**TRIALS_DESCRIPTION, **context.fields}
    elif table.key == "decomposition":
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            shutil.copyfile(context.files["decomposition.h5"], temporary)
        content = {**_DECOMPOSITION, **context.fields, **context.fit_fields, "Settings": recorded_settings(plan.settings)}
    elif table.key == "metrics":
        write_tsv(_metrics(context.summary), path)
        content = _metrics_sidecar(context)
    else:
        source, described = _TABLES[table.key]
        write_tsv(read_tsv(context.files[source], quoted=False).fillna("n/a"), path)
        content = {**described, **context.fields, **context.fit_fields}
    sources = () if table.key == "stimuli" else context.sources
    name = parse_name(table.path)
    side = plan.output_dir / sidecar_of(table.path)
    write_json(sidecar(name.entities, name.suffix, name.extension, sources=sources, fields=content), side)
    return [path, side]


_TABLES = {
    "conditions": ("conditions.tsv", CONDITIONS_DESCRIPTION),
    "spectrum": ("spectrum.tsv", _SPECTRUM),
    "parcels": ("parcels.tsv", _PARCELS),
}
_DECOMPOSITION = {
    "Description": (
        "Denoiser of every parcel (basis, eigenvalues, means, factors, units), enough to denoise new trials of the same person: "
        "conform_bids.psn.apply"
    ),
    "FileFormat": "HDF5, layout decomposition, version 1",
}


def _metrics(summary: Mapping[str, Any]) -> pd.DataFrame:
    """The numbers of the summary, a row each."""
    units = {"median_noise_ceiling_before": "percent", "median_noise_ceiling_after": "percent", "median_cv_gain": "proportion"}
    rows: list[tuple[str, str, str]] = []
    for key, value in summary.items():
        if isinstance(value, int | float) or value is None:
            rows.append((key, "n/a" if value is None else f"{value:.6g}", units.get(key, "n/a")))
    for name in ("reliability_before", "reliability_after", "reliability_in_sample"):
        found = [check[name] for check in summary["null"] if check[name] is not None]
        rows.append((f"null_median_{name}", f"{np.median(found):.6g}" if found else "n/a", "n/a"))
    return pd.DataFrame(rows, columns=["metric", "value", "units"])


def _metrics_sidecar(context: _Context) -> dict[str, Any]:
    summary = context.summary
    return {
        "Description": "Numbers of the fit that the report shows",
        "metric": {"Description": "What was measured; null_: with repeats shuffled over conditions, where reliability should be 0."},
        "value": {"Description": "The number; n/a where it could not be computed."},
        "units": {"Description": "Unit of the number; n/a for counts and correlations."},
        **context.fields,
        **context.fit_fields,
        "UnitsByOutcome": dict(summary["n_units_by_status"]),
        "ParcelsByOutcome": dict(summary["n_parcels_by_outcome"]),
        "Notes": list(summary["notes"]),
    }
