"""The methods text: what a run's settings make conform-psn do, in words, with citations."""

from __future__ import annotations

from conform_bids.psn.settings import PSNSettings
from conform_bids.report.citations import Methods

__all__ = ["AFTER", "describe_methods", "methods"]

AFTER = (
    "What is after denoising is of cross-fitted responses, and says how repeatable those are, not how much signal a unit has: units "
    "without signal keep what they share with others, which repeats, too."
)
"""What a ceiling or a correlation after denoising is, and is not."""

_METHODS = {
    "stacked": (
        "Condition averages were denoised by a non-negative mixture of Wiener-like filters of signal and noise covariances, estimated as "
        "in generative modelling [@kay2024gsn] in units of each unit's noise; the weights were chosen by how well they predict averages "
        "whose noise was split off by contrasts of trials. In parcels of up to 3,000 units each unit's output was then multiplied by the "
        "slope of such averages on it, drawn towards that of the parcel by empirical Bayes."
    ),
    "calibrated": (
        "Condition averages were denoised by a Wiener filter, S (S + a N/t)^-1, with S and N the covariances of "
        "signal and noise estimated by "
        "generative modelling [@kay2024gsn], t the number of trials averaged, and the weight a chosen by cross-validation over conditions."
    ),
    "crossvalidated": (
        "Condition averages were projected on the leading dimensions of the signal, from covariances by generative modelling "
        "[@kay2024gsn]; their number was chosen by nested cross-validation over conditions, with basis and means of "
        "the training folds only."
    ),
    **{
        name: f"Condition averages were denoised by the method {name} of PSN, on covariances by generative modelling [@kay2024gsn]."
        for name in ("standard", "conservative", "aggressive", "compare")
    },
    "wiener": "Condition averages were denoised by the Wiener filter of covariances by generative modelling [@kay2024gsn].",
}


def describe_methods(settings: PSNSettings, version: str) -> Methods:
    """Describe the analysis; only what these settings use is named and cited.

    Parameters
    ----------
    settings : PSNSettings
        Of the run.
    version : str
        Of conform.

    Returns
    -------
    text : Methods
        Markdown with ``[@key]`` citations, and the keys.
    """
    parts = [
        _input(settings, version),
        f"{_METHODS[settings.method]}{_details(settings)}",
        _parcels(settings),
        _quality(settings),
        _SOFTWARE,
    ]
    return Methods.of("\n\n".join(parts) + "\n")


methods = describe_methods


def _input(settings: PSNSettings, version: str) -> str:
    text = (
        f"Signal and noise of single-trial responses were partitioned with conform-psn {version}, a BIDS-App [@gorgolewski2016bids; "
        "@gorgolewski2017bidsapps]. All sessions of a task were pooled."
    )
    if settings.session_zscore is None:
        text += " Where there was more than one session, each unit was z-scored within each session by its train trials."
    elif settings.session_zscore:
        text += " Each unit was z-scored within each session by its train trials."
    if settings.rescale:
        text += " Responses of the model conform were first multiplied, about their mean, by the slope of least-squares responses on them."
    if not settings.keep_flagged:
        text += " Trials flagged as unreliable were left out."
    return f"{text} The denoiser was fitted on train conditions where a split was given, and applied to all."


def _details(settings: PSNSettings) -> str:
    parts = [
        f" Dimensions were those of the basis {settings.basis}." if settings.basis else "",
        f" Their number was chosen by the criterion {settings.criterion}." if settings.criterion else "",
        f" Alpha was {settings.alpha:g}." if settings.alpha is not None else "",
        f" Thresholds were chosen at the level {settings.threshold_level}." if settings.threshold_level != "population" else "",
    ]
    return "".join(parts)


def _parcels(settings: PSNSettings) -> str:
    text = {
        "whole": "All units were denoised together.",
        "clusters": f"Units were denoised in spatial clusters of about {settings.parcel_size}.",
        "auto": f"Units were denoised in spatial clusters of about {settings.parcel_size}, and together where there were too few for that.",
    }.get(settings.parcellation, "Units were denoised within the parcels of an atlas.")
    rest = {"pass": "kept their trial averages", "zero": "were set to their mean response"}.get(settings.without_gain)
    if rest is None:
        return text
    return f"{text} Parcels whose denoised responses predicted held-out trials no better than the mean response {rest}."


def _quality(settings: PSNSettings) -> str:
    return (
        "The noise ceiling is the share of the variance of condition responses that is signal [@allen2022nsd]. After "
        "denoising, it and every "
        f"reliability were computed on responses that were denoised by a fit to other conditions ({settings.n_folds} folds), and say how "
        "repeatable those are, not how much signal a unit has."
    )


_SOFTWARE = (
    "The workflow was run by Nipype [@gorgolewski2011nipype]; data were found with PyBIDS [@yarkoni2019pybids], read "
    "and written with NiBabel "
    "[@brett2024nibabel], computed with NumPy [@harris2020numpy] and SciPy [@virtanen2020scipy], and drawn with Matplotlib "
    "[@hunter2007matplotlib]."
)
