"""The methods text: only what the settings of a run use is named and cited."""

from __future__ import annotations

from collections.abc import Sequence

from conform_bids.bids.collection import is_dataset_name
from conform_bids.encode.settings import EncodeSettings
from conform_bids.report.citations import Methods

__all__ = ["describe_methods"]


def describe_methods(settings: EncodeSettings, version: str, given: Sequence[str] = ()) -> Methods:
    """Describe the analysis; only what these settings use is named and cited.

    Parameters
    ----------
    settings : EncodeSettings
    version : str
    given : sequence of str
        Names of ``-d``, of which some may be those of datasets of people.
    """
    datasets = sorted(name for name in given if is_dataset_name(name))
    people = f" Participants were of the datasets {', '.join(datasets)}, each modelled alone." if datasets else ""
    features = []
    if settings.features:
        features.append("tables of stimulus features")
    if settings.chosen_backbone:
        source = " [@tan2019efficientnet]" if settings.chosen_backbone == "efficientnet-lite0" else ""
        features.append(f"the network {settings.chosen_backbone}{source}, run on the stimulus files")
    of = "volumes" if settings.is_movie else "stimuli"
    reduced = f", reduced to {settings.components} principal components that were fitted on the train {of}" if settings.components else ""
    origin = f"Features came from {' and '.join(features)}{reduced}."
    fitted = _movies(settings) if settings.is_movie else _trials(settings)
    parts = [
        f"Responses were predicted from stimulus features with conform-encode {version}, a BIDS-App [@gorgolewski2016bids; "
        f"@gorgolewski2017bidsapps].{people} {origin} {fitted}",
        _scores(settings),
        "The workflow was run by Nipype [@gorgolewski2011nipype]; data were found with PyBIDS [@yarkoni2019pybids], read and written with "
        "NiBabel [@brett2024nibabel], computed with NumPy [@harris2020numpy], SciPy [@virtanen2020scipy] and PyTorch [@paszke2019pytorch], "
        "and drawn with Matplotlib [@hunter2007matplotlib].",
    ]
    return Methods.of("\n\n".join(parts) + "\n")


def _estimator(settings: EncodeSettings, how: str) -> str:
    penalty = {
        "ridge": "ridge regression, with a penalty for each unit",
        "banded": "banded ridge regression [@duprelatour2022], with a penalty for each feature space and unit",
    }
    return f"Each unit was modelled by {penalty[settings.estimator]} chosen by {how}; the intercept was not penalised"


def _trials(settings: EncodeSettings) -> str:
    """How responses to stimuli were fitted."""
    folds = f"{settings.folds}-fold cross-validation" if settings.folds else "exact leave-one-out cross-validation"
    fitted = _estimator(settings, f"{folds} over the train stimuli") if settings.model is None else _adaptation(settings)
    return f"{fitted}; responses were z-scored by the mean and standard deviation of the train stimuli."


def _movies(settings: EncodeSettings) -> str:
    """How volumes of movies were fitted."""
    delays = f" of {', '.join(map(str, settings.delays))} volumes" if settings.delays else " from 2 to 8 s"
    reach = {
        "fir": f"and those of earlier volumes, at delays{delays}, were regressors, each with its own weights (a finite impulse response)",
        "glm": "and convolved with the haemodynamic response function that conform-glm had chosen for the unit from its library",
        "assumed": "and convolved with one haemodynamic response function for all units",
    }[settings.hrf]
    confounds = f", confounds ({', '.join(settings.confounds)})" if settings.confounds else ""
    folds = (
        f"{settings.folds} folds of whole runs"
        if settings.folds
        else "leaving out one run after the other, runs of the same movie together"
    )
    return (
        f"Features of the frames that were on during a volume were averaged, {reach}. Drift polynomials of each run{confounds} and the "
        "response to a movie being on at all were regressed out of volumes and regressors, and the volumes of each run were z-scored. "
        f"{_estimator(settings, folds)}."
    )


def _scores(settings: EncodeSettings) -> str:
    """What scores are of."""
    if settings.is_movie:
        intervals = (
            f", with 95 % intervals from {settings.bootstraps:,} resamplings of pieces of 20 s of the test movies"
            if settings.bootstraps
            else ""
        )
        return (
            "Scores are of movies that the model was not fitted on; presentations of a movie were averaged: correlation, share of variance "
            "(R2), and correlation over the root of the explainable variance, which the presentations have in common "
            f"[@hsu2004quantifying], where that was above 10 percent{intervals}."
        )
    intervals = f", with 95 % intervals from {settings.bootstraps:,} resamplings of the test stimuli" if settings.bootstraps else ""
    return (
        "Scores are of stimuli that the model was not fitted on, against trial averages that were not denoised where these were there: "
        "correlation, share of variance (R2), and correlation over the root of the noise ceiling [@allen2022nsd] where the ceiling was "
        f"above 10 percent{intervals}."
    )


def _adaptation(settings: EncodeSettings) -> str:
    """How a population model learned the person."""
    how = {"random": "drawn at random", "diverse": "chosen to be as unlike each other as they come", "first": "the first that were shown"}
    shown = f"{settings.n_context} of them, {how[settings.context_strategy]}" if settings.n_context else "all of them"
    return (
        "Weights were not fitted: a population model that had been trained on other people was given the responses to train stimuli "
        f"({shown}) as a context [@yu2025braincorl], and said every unit's weights. A guard used ridge regression on the same context "
        "instead where the population model did not predict left-out stimuli of the context better than ridge did, or did not make the "
        "responses more probable"
    )
