"""The GLMsingle package itself as the engine (``--engine glmsingle``), on the same inputs and with the same outputs."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UsageError
from conform_bids.glm.numerics.data import survey_units
from conform_bids.glm.numerics.design import Design, onset_volumes
from conform_bids.glm.numerics.fit import FitOptions, FitResult, ModelFit
from conform_bids.glm.planning import check_glmsingle
from conform_bids.glm.settings import GLMSettings
from conform_bids.numerics.hrf import HRFLibrary, sample_library_glmsingle

__all__ = ["fit_with_glmsingle"]

_TYPES = {"fithrf": "typeb", "fithrfdenoise": "typec", "fithrfdenoiserr": "typed"}


def fit_with_glmsingle(
    runs: Sequence[npt.NDArray[np.float32]],
    design: Design,
    settings: GLMSettings,
    options: FitOptions,
    library: HRFLibrary,
    assumed: HRFLibrary,
    folder: Path,
) -> FitResult:
    """Run ``GLM_single(options).fit`` and bring its results into ours.

    Parameters
    ----------
    runs : sequence of (n_volumes, n_units) float32 arrays
        BOLD of each run.
    design : Design
        Its onsets are rounded to volumes, as GLMsingle needs them.
    settings, options
        Of the run; every option that the package knows is passed on.
    library, assumed : HRFLibrary
        Passed on where the user gave them; else the package uses its own.
    folder : Path
        Its scratch files go to a temporary folder in here, which is removed.

    Raises
    ------
    UsageError
        See `conform_bids.glm.planning.check_glmsingle`.
    """
    check_glmsingle(options.models)
    package = importlib.import_module("glmsingle.glmsingle")
    duration = float(np.median(design.duration))
    survey = survey_units(runs)
    valid = survey.finite & ~survey.empty
    data = [np.ascontiguousarray(run[:, valid].T) for run in runs]
    np.random.seed(options.seed)  # noqa: NPY002  its mixture of Gaussians draws from the global generator
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        results = package.GLM_single(_package_options(design, settings, options, library, assumed, duration)).fit(
            _onset_matrices(design), data, duration, design.tr, outputdir=f"{scratch}/results", figuredir=f"{scratch}/figures"
        )
    return _collect(results, options, survey, valid, design.n_trials)


def _onset_matrices(design: Design) -> list[npt.NDArray[np.float32]]:
    matrices = []
    n_conditions = int(design.condition.max()) + 1
    for run, length in enumerate(design.run_lengths):
        trials = design.trials_of(run)
        volumes = onset_volumes(design, run)
        matrix = np.zeros((length, n_conditions), np.float32)
        kept = (volumes >= 0) & (volumes < length)
        matrix[volumes[kept], design.condition[trials][kept]] = 1
        if int((matrix.sum(axis=1) > 1).sum()) or int(matrix.sum()) != len(volumes):
            raise UsageError(
                f"--engine glmsingle: two trials of run {run + 1} fall into one volume, or one beyond its end; GLMsingle cannot model that"
            )
        matrices.append(matrix)
    return matrices


def _package_options(
    design: Design,
    settings: GLMSettings,
    options: FitOptions,
    library: HRFLibrary,
    assumed: HRFLibrary,
    duration: float,
) -> dict[str, Any]:
    """Options under the package's names; those that are its defaults are passed as well, so that its version does not matter."""
    wanted = set(options.models)
    result: dict[str, Any] = {
        "wantlibrary": 1,
        "wantglmdenoise": int(bool(wanted & {"fithrfdenoise", "fithrfdenoiserr"})),
        "wantfracridge": int("fithrfdenoiserr" in wanted),
        "wantfileoutputs": [0, 0, 0, 0],
        "wantmemoryoutputs": [1, 1, 1, 1],
        "sessionindicator": (design.session + 1)[None, :],
        "xvalscheme": [np.array(fold) if len(fold) > 1 else np.int64(fold[0]) for fold in design.folds],
        "maxpolydeg": [list(range(degree + 1)) for degree in design.polynomial_degree],
        "n_pcs": options.n_pcs,
        "pcstop": options.pcs_stop,
        "brainthresh": list(options.brain_threshold),
        "fracs": np.array(sorted(set(options.fractions), reverse=True)),
        "wantautoscale": int(options.autoscale),
        "wantpercentbold": 1,  # it ignores 0 in types C and D, so raw units are made of percent here
        "wantlss": int(options.lss),
    }
    if options.noise_pool_r2 is not None:
        result["brainR2"] = options.noise_pool_r2
    if options.pcs_r2 is not None:
        result["pcR2cutoff"] = options.pcs_r2
    if settings.polynomial_degree is None:
        del result["maxpolydeg"]  # its own rule is ours
    if any(regressors.shape[1] for regressors in design.regressors):
        result["extra_regressors"] = list(design.regressors)
    if settings.hrf_library is not None:
        result["hrflibrary"] = sample_library_glmsingle(library, duration, design.tr)
    if settings.assumed_hrf is not None:
        result["hrftoassume"] = sample_library_glmsingle(assumed, duration, design.tr, assumed=True)[:, 0]
    return result


def _collect(results: dict[str, Any], options: FitOptions, survey: Any, valid: npt.NDArray[np.bool_], n_trials: int) -> FitResult:
    n_units = len(valid)

    def spread(values: Any, dtype: type = np.float64) -> npt.NDArray[Any]:
        """Package arrays are (units, 1, 1, ...); ours (..., units), NaN where set aside."""
        flat = np.asarray(values, dtype=np.float64).reshape(int(valid.sum()), -1).T
        full: npt.NDArray[Any] = np.full((len(flat), n_units), np.nan, dtype=dtype)
        full[:, valid] = flat
        return full

    models = {}
    scale = np.float32(1) if options.percent else (np.abs(survey.mean) / 100).astype(np.float32)
    for name in options.models:
        fields = results[_TYPES[name]]
        betas = spread(fields["betasmd"], np.float32).reshape(n_trials, n_units)
        models[name] = ModelFit(betas * scale, spread(fields["R2"])[0], spread(fields["R2run"]))
    typeb = results["typeb"]
    index = np.full(n_units, -1, np.intp)
    index[valid] = np.asarray(typeb["HRFindex"]).ravel().astype(np.intp)
    typea = results["typea"]
    extra: dict[str, Any] = {}
    denoised = results.get("typec") or results.get("typed") or {}
    if "noisepool" in denoised:
        pool, voters = np.zeros(n_units, bool), np.zeros(n_units, bool)
        pool[valid] = np.asarray(denoised["noisepool"]).ravel().astype(bool)
        voters[valid] = np.asarray(denoised["pcvoxels"]).ravel().astype(bool)
        trend = np.asarray(denoised["xvaltrend"], dtype=np.float64).ravel()
        extra = {
            "noise_pool": pool,
            "pc_voxels": voters,
            "n_pcs": int(denoised["pcnum"]),
            "pc_curve": trend - trend[0] if len(trend) > 1 else np.zeros(0),
            "pcs": [np.asarray(pcs)[:, : options.n_pcs] for pcs in denoised["pcregressors"]],
        }
    if "fithrfdenoiserr" in options.models:
        extra["fraction"] = spread(results["typed"]["FRACvalue"])[0]
    return FitResult(
        survey=survey,
        valid=valid,
        onoff_beta=spread(typea["betasmd"])[0] * scale,
        onoff_rsquared=spread(typea["onoffR2"])[0],
        models=models,
        hrf_index=index,
        notes=("Fitted by the GLMsingle package.",),
        **extra,
    )
