"""From the engine's arrays to BIDS derivatives: maps, tables and their sidecars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids import __version__
from conform_bids.bids.derivatives import write_json, write_tsv
from conform_bids.bids.images import write_maps
from conform_bids.bids.names import parse_name, sidecar_of
from conform_bids.bids.sidecars import sidecar
from conform_bids.bids.spaces import Space
from conform_bids.bids.trials import STIMULI_DESCRIPTION, TRIALS_DESCRIPTION, hash_stimuli, merge_stimuli, write_trials
from conform_bids.glm.files import DENOISED_MODELS, ORDINARY, MapOutput, Plan, TableOutput, output_maps, output_tables
from conform_bids.glm.load import LoadedFit, hrf_libraries
from conform_bids.glm.numerics.design import exact_regressors, rounded_regressors
from conform_bids.glm.settings import GLMSettings
from conform_bids.numerics.hrf import response_at, sample_library_glmsingle
from conform_bids.numerics.linalg import polynomial_basis
from conform_bids.options import options_of, to_mapping

__all__ = ["save_outputs"]

_METHODS = {
    "assumehrf": "Single-trial least squares with one assumed HRF (GLMsingle type A)",
    "fithrf": "Single-trial least squares with the unit's HRF of the library (GLMsingle type B)",
    "fithrfdenoise": "Single-trial least squares with the unit's HRF and noise regressors (GLMsingle type C)",
    "conform": "Evidence ridge towards the unit's mean response, with noise regressors and serial correlation out",
    "conformols": "Least squares with the HRF, noise regressors and whitening of the model conform",
    "fithrfdenoiserr": "Fractional ridge regression with the unit's HRF and noise regressors (GLMsingle type D)",
}


@dataclass(frozen=True)
class _Results:
    """Arrays of the fit by name, opened as they are asked for."""

    files: Mapping[str, Path]
    summary: Mapping[str, Any]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self.files[name], mmap_mode="r")
        return array


def save_outputs(
    plan: Plan,
    loaded: LoadedFit,
    space: Space,
    results: Sequence[Path],
    summary: Mapping[str, Any],
    stimuli: pd.DataFrame,
    n_threads: int,
) -> list[Path]:
    """Write every file that the plan declares.

    Parameters
    ----------
    plan, loaded, space
        What was fitted.
    results : sequence of Path
        Arrays of the fit.
    summary : mapping
        Its numbers.
    stimuli : DataFrame
        stim_id, stim_file, sha256.
    n_threads : int
        Threads that compress.

    Returns
    -------
    list of Path
        The files, sidecars included.
    """
    arrays = _Results({path.stem: path for path in map(Path, results)}, summary)
    written: list[Path] = []
    for row in output_maps(plan):
        written += _save_map(plan, loaded, space, arrays, row, n_threads)
    for table in output_tables(plan):
        written += _save_table(plan, loaded, arrays, table, stimuli)
    return written


def _save_map(plan: Plan, loaded: LoadedFit, space: Space, arrays: _Results, row: MapOutput, n_threads: int) -> list[Path]:
    values = arrays[row.array]
    names = None
    if row.array.endswith("_betas"):
        kinds = loaded.trials["trial_type"]
        names = [f"trial-{trial:05d} {kind}" for trial, kind in zip(loaded.trials["trial"], kinds, strict=True)]
    elif row.array.endswith("hrf_index"):
        values = np.where(values >= 0, values, np.nan)
    if values.ndim == 1:
        names = [str(row.fields["Description"])[:60]]
    paths = [plan.output_dir / path for path in row.paths]
    write_maps(values, space, paths, names, row.dtype, n_threads=n_threads)
    written = list(paths)
    for name in dict.fromkeys(sidecar_of(path) for path in row.paths):
        write_json(_map_sidecar(plan, loaded, arrays, row), plan.output_dir / name)
        written.append(plan.output_dir / name)
    return written


def _common_fields(plan: Plan) -> dict[str, Any]:
    return {"SoftwareVersion": f"conform-glm {__version__}", "RandomSeed": plan.random_seed}


def _sources(plan: Plan) -> list[str]:
    return list(dict.fromkeys(source for run in plan.runs for source in run.sources))


def _map_sidecar(plan: Plan, loaded: LoadedFit, arrays: _Results, row: MapOutput) -> dict[str, Any]:
    name = parse_name(row.paths[0])
    fields: dict[str, Any] = {**row.fields, **_common_fields(plan), "Masked": True}
    if row.model is not None:
        labels_used = _labels_used(plan, loaded)
        table = next(table.path for table in output_tables(plan) if table.key == "trials" and table.model == row.model)
        fields |= {
            "EstimationMethod": _METHODS[row.model],
            "Engine": plan.settings.engine,
            "Compatibility": plan.settings.compat,
            "TrialTable": f"bids::{table}",
            "NumberOfTrials": len(loaded.trials),
            "NumberOfRuns": len(plan.runs),
            "FitIncludesTest": bool(loaded.trials["split"][labels_used].isin(["test", "artificial"]).any()),
            "FittedStimuliHash": hash_stimuli(loaded.trials["stim_id"][labels_used]),
        }
        if row.model in DENOISED_MODELS or row.model == ORDINARY:
            fields["NumberOfNoiseRegressors"] = arrays.summary["n_pcs"]
        if row.model in ("conform", ORDINARY):
            fields |= {
                "Autoregression": arrays.summary["autoregression"],
                "HRFsAveraged": arrays.summary["hrfs_averaged"] and row.model == "conform",
            }
        if row.array.endswith("_betas"):
            fields |= {
                "FrameTimes": [run.start_time for run in plan.runs] if plan.settings.compat is None else "ignored",
                "Settings": _recorded_settings(plan),
                "Notes": list(arrays.summary["notes"]) or None,
                "NoiseRegressorGain": list(arrays.summary["pc_curve"]) or None,
                "NoiseRegressorGainStandardError": list(arrays.summary["pc_curve_se"]) or None,
                "NoisePoolReliability": arrays.summary["pool_reliability"],
                "UnitsAbsentFromRuns": arrays.summary["n_absent_from_runs"],
                "FlaggedTrials": dict(arrays.summary["n_flagged"]),
            }
        if row.array.startswith("noise_ceiling_"):
            counts = loaded.trials.groupby("condition").size()
            fields["NTrialsAveraged"] = sorted({int(count) for count in counts})
    return sidecar(
        name.entities, name.suffix, name.extension, sources=_sources(plan), spatial_reference=plan.spatial_reference, fields=fields
    )


def _labels_used(plan: Plan, loaded: LoadedFit) -> npt.NDArray[np.bool_]:
    """Trials whose condition labels had a part in the fit: in cross-validation, the training stimuli; GLMsingle knows no split."""
    if plan.settings.engine == "glmsingle":
        return np.ones(len(loaded.trials), bool)
    return loaded.design.train


def _recorded_settings(plan: Plan) -> dict[str, Any]:
    """Settings for the sidecar; of a file its name alone, as paths of a machine do not belong into a shared dataset."""
    files = {entry.name for entry in options_of(GLMSettings) if entry.kind is Path}
    recorded = to_mapping(plan.settings)
    if plan.settings.split is not None and Path(plan.settings.split).is_absolute():
        files.add("split")  # a column, or a file whose path the command line made absolute
    return {key: Path(value).name if key in files else value for key, value in recorded.items()}


def _save_table(plan: Plan, loaded: LoadedFit, arrays: _Results, table: TableOutput, stimuli: pd.DataFrame) -> list[Path]:
    path = plan.output_dir / table.path
    content: dict[str, Any]
    if table.key == "trials":
        write_trials(loaded.trials, path)
        content = {**TRIALS_DESCRIPTION, **_common_fields(plan)}
    elif table.key == "stimuli":
        merge_stimuli(stimuli, path, plan.output_dir)
        content = dict(STIMULI_DESCRIPTION)
    else:
        frame, content = _TABLES[table.key](plan, loaded, arrays, table)
        write_tsv(frame, path)
        content |= _common_fields(plan)
    side = plan.output_dir / sidecar_of(table.path)
    name = parse_name(table.path)
    sources = () if table.key == "stimuli" else _sources(plan) if table.run is None else plan.runs[table.run].sources
    # a table whose name has a space or a density needs the keys that BIDS demands with them
    write_json(sidecar(name.entities, name.suffix, name.extension, sources=sources, fields=content), side)
    return [path, side]


def _design_table(plan: Plan, loaded: LoadedFit, arrays: _Results, table: TableOutput) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Regressors of a run with the assumed HRF, drifts and the user's regressors, at the times of the volumes."""
    design, run = loaded.design, int(table.run or 0)
    assumed = hrf_libraries(plan, design.tr)[1]
    if plan.settings.compat:
        curves = sample_library_glmsingle(assumed, float(np.median(design.duration)), design.tr, assumed=True)
        columns = rounded_regressors(design, curves)(run)[0]
    else:
        columns = exact_regressors(design, lambda duration, times: response_at(assumed, duration, times))(run)[0]
    names = [f"trial_{trial:05d}" for trial in loaded.trials["trial"][design.trials_of(run)]]
    drifts = polynomial_basis(design.run_lengths[run], design.polynomial_degree[run])
    names += [f"drift_{degree:02d}" for degree in range(drifts.shape[1])] + list(loaded.regressor_names[run])
    values = np.column_stack([columns, drifts, design.user_regressors(run)])
    content = {
        "Description": "Design with the assumed HRF (units may use another of the library), a row a volume",
        "RepetitionTime": design.tr,
    }
    return pd.DataFrame(values, columns=names), content


def _noise_table(plan: Plan, loaded: LoadedFit, arrays: _Results, table: TableOutput) -> tuple[pd.DataFrame, dict[str, Any]]:
    values = arrays[f"pcs_{int(table.run or 0):03d}"]
    names = [f"noise_{index:02d}" for index in range(values.shape[1])]
    content = {
        "Description": "Principal components of the noise pool, by decreasing variance; the first NumberOfNoiseRegressors are used",
        "NumberOfNoiseRegressors": arrays.summary["n_pcs"],
        "SamplingFrequency": 1 / loaded.design.tr,
        "StartTime": plan.runs[int(table.run or 0)].start_time,
    }
    return pd.DataFrame(np.asarray(values), columns=names), content


def _library_table(plan: Plan, loaded: LoadedFit, arrays: _Results, table: TableOutput) -> tuple[pd.DataFrame, dict[str, Any]]:
    times, curves = np.asarray(arrays["hrf_times"]), np.asarray(arrays["hrf_library"])
    names = list(arrays.summary["hrf_names"])
    content = {
        "Description": "HRF library as modelled: responses to a stimulus of the median duration, a column an HRF, largest value 1",
        "SamplingFrequency": 1 / float(times[1] - times[0]),
        "StartTime": 0.0,
        "StimulusDuration": float(np.median(loaded.design.duration)),
    }
    return pd.DataFrame(curves, columns=names), content


_TABLES = {"design": _design_table, "noise": _noise_table, "library": _library_table}
