"""The methods text: what a run's settings make conform-glm do, in words, with citations."""

from __future__ import annotations

from conform_bids.glm.planning import fit_scope
from conform_bids.glm.settings import GLMSettings
from conform_bids.report.citations import Methods

__all__ = ["describe_methods", "methods"]


def describe_methods(settings: GLMSettings, version: str) -> Methods:
    """Describe the analysis; only what these settings use is named and cited.

    Parameters
    ----------
    settings : GLMSettings
        Of the run.
    version : str
        Of conform.

    Returns
    -------
    text : Methods
        Markdown with ``[@key]`` citations, and the keys.
    """
    parts = [_overview(settings, version), _design(settings), *_models(settings), _quality(settings), _software()]
    return Methods.of("\n\n".join(parts) + "\n")


methods = describe_methods


def _overview(settings: GLMSettings, version: str) -> str:
    engine = " with the GLMsingle package itself" if settings.engine == "glmsingle" else ""
    text = (
        f"Single-trial responses were estimated with conform-glm {version}{engine}, a BIDS-App [@gorgolewski2016bids; "
        "@gorgolewski2017bidsapps], "
        "from functional MRI data preprocessed by fMRIPrep [@esteban2019fmriprep], following the GLMsingle method [@prince2022glmsingle]."
    )
    if settings.compat == "glmsingle":
        text += " Computations followed the reference implementation number for number."
    scope = {
        "auto": (
            "Runs were fitted together by session where every session repeated conditions across its runs, and by participant otherwise."
        ),
        "session": "The runs of a session were fitted together.",
        "subject": "All runs of a participant were fitted together.",
    }
    return f"{text} {scope[fit_scope(settings)]}"


def _design(settings: GLMSettings) -> str:
    column = settings.condition_column
    text = f"Trials were taken as repeats of a condition where they shared `{column}`." if column else (
        "Trials were taken as repeats of a condition where they showed the same stimulus."
    )  # fmt: skip
    if settings.dataset_config is not None:
        text += f" Trials, their times and their use were read from the events as {settings.dataset_config.name} describes them."
    if settings.trial_filter:
        text += f" Only trials with {settings.trial_filter} were used."
    duration = settings.stimulus_duration
    lasting = f"a boxcar of {duration:g} s" if duration is not None else "a boxcar of the stimulus's duration"
    if settings.compat == "glmsingle":
        text += (
            " As GLMsingle does, StartTime was ignored, an onset fell on volume floor(onset / TR + .5), and all trials had one duration "
            f"(the median where they differ); they were convolved with {lasting} and a haemodynamic response function (HRF)."
        )
    else:
        text += (
            f" Each trial was modelled by {lasting} at its exact onset, relative to the acquisition, convolved with a haemodynamic "
            "response function (HRF)."
        )
    degree = settings.polynomial_degree
    drift = f"of degree {degree}" if degree is not None else "whose degree was half the run's minutes, rounded"
    text += f" Slow drifts were modelled in each run by polynomials {drift}."
    if settings.confounds:
        text += f" Confounds of fMRIPrep that match {', '.join(settings.confounds)} were regressed out."
    if settings.nuisance_events:
        text += f" Events of type {', '.join(settings.nuisance_events)} were modelled as nuisance."
    return text


def _models(settings: GLMSettings) -> list[str]:
    parts = []
    if "assumehrf" in settings.model:
        source = "a given HRF" if settings.assumed_hrf else "a canonical HRF"
        parts.append(f"**assumehrf**: one response per trial by ordinary least squares, with {source} for all units.")
    if "fithrf" in settings.model:
        how = (
            "by least squares separate, one trial at a time against all others [@mumford2012]"
            if settings.lss
            else "by ordinary least squares"
        )
        parts.append(
            f"**fithrf**: for each unit the HRF that explains most variance was chosen from {_library(settings)}; responses were "
            f"estimated {how}."
        )
    if {"fithrfdenoise", "fithrfdenoiserr", "conform"} & set(settings.model):
        parts.append(_denoising(settings))
    if "fithrfdenoiserr" in settings.model:
        parts.append(_ridge(settings))
    if "conform" in settings.model:
        parts.append(_conform(settings))
    return parts


def _library(settings: GLMSettings) -> str:
    return "a given library" if settings.hrf_library else "a library of 20 curves derived from the Natural Scenes Dataset [@allen2022nsd]"


def _denoising(settings: GLMSettings) -> str:
    names = " and ".join(f"**{model}**" for model in settings.model if model.startswith("fithrfdenoise") or model == "conform")
    hrf = "" if "fithrf" in settings.model else f" The HRF of each unit was chosen from {_library(settings)}."
    percentile, fraction = settings.brain_threshold
    pool = (
        f"on/off R² below {settings.noise_pool_r2:g} %"
        if settings.noise_pool_r2 is not None
        else "an on/off R² below a threshold found by a mixture of two Gaussians [@pedregosa2011]"
    )
    text = (
        f"{names}:{hrf} Noise regressors were derived as in GLMdenoise [@kay2013glmdenoise]: principal components of the time courses "
        f"of units with {pool} "
        f"and a mean intensity above {fraction:g} of its {percentile:g}th percentile."
    )
    if settings.pcs_stop <= 0:
        return f"{text} {-settings.pcs_stop:g} of them were used in every run."
    folds = "given folds of runs" if settings.cv_folds else "leave-one-run-out folds"
    return (
        f"{text} Their number, up to {settings.n_pcs}, was chosen by how well repeats of a condition predicted each other over {folds}, "
        f"as the smallest within a factor of {settings.pcs_stop:g} of the best."
    )


def _conform(settings: GLMSettings) -> str:
    whitening = {
        "ar": "the data were whitened by one autoregressive model of order 4 of the noise pool, its bias from detrending corrected "
        "[@worsley2002]",
        "auto": "data of event-related designs were whitened by one autoregressive model of order 4 of the noise pool, its bias from "
        "detrending corrected [@worsley2002]",
        "none": "the data were not whitened",
    }[settings.whiten]
    averaging = {
        "on": ", averaged over the HRFs of the library by their evidence",
        "auto": ", averaged over the HRFs of the library by their evidence where onsets followed each other within 3.5 s",
        "off": "",
    }[settings.hrf_averaging]
    return (
        f"**conform**: noise regressors were taken out of data and design, {whitening}, and the HRF of each unit was chosen on what was "
        "left, by the evidence of the model that follows. Responses were shrunk towards the unit's own mean response by a ridge penalty "
        "averaged over by its evidence "
        f"[@mackay1992], which uses no condition labels{averaging}."
    )


def _ridge(settings: GLMSettings) -> str:
    text = "**fithrfdenoiserr**: responses were regularised by fractional ridge regression [@rokem2020fracridge]"
    if len(settings.fractions) == 1:
        text += f", with a fraction of {settings.fractions[0]:g}"
    else:
        low, high = min(settings.fractions), max(settings.fractions)
        text += f", with a fraction for each unit chosen by cross-validation among {len(settings.fractions)} from {low:g} to {high:g}"
    scaled = "then scaled and shifted to match the unregularised ones" if settings.autoscale else "not rescaled"
    return f"{text}, and {scaled}."


def _quality(settings: GLMSettings) -> str:
    units = "in percent of the unit's mean signal" if settings.units == "percent" else "in the units of the BOLD series"
    return (
        f"Responses are {units}. The noise ceiling is the share of the variance of trial averages that is not due to variation over "
        "repeats, "
        "responses being standardised within each session [@allen2022nsd]. Odd-even reliability is the correlation over conditions "
        "between the averages of "
        f"odd and of even runs. Units that were {_set_aside(settings)} were set aside."
    )


def _set_aside(settings: GLMSettings) -> str:
    return "empty or not finite" if settings.compat else "empty, not finite, or constant in a run"


def _software() -> str:
    return (
        "The workflow was run by Nipype [@gorgolewski2011nipype]; data were found with PyBIDS [@yarkoni2019pybids], read and written "
        "with NiBabel "
        "[@brett2024nibabel], computed with NumPy [@harris2020numpy], SciPy [@virtanen2020scipy] and PyTorch [@paszke2019pytorch], and "
        "drawn with "
        "Matplotlib [@hunter2007matplotlib], with meshes from Nilearn [@nilearn]. Surface data are in the formats GIFTI and CIFTI "
        "[@glasser2013]."
    )
