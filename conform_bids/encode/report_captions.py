"""What the reports call the scores of an encoding model, and what they say under its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conform_bids.encode.numerics.scoring import MIN_CEILING, chance_correlation

__all__ = ["FIGURES", "MIN_TEST_STIMULI", "SCORES", "SCORES_CAPTION", "Score", "caption_of", "few_test_stimuli"]

MIN_TEST_STIMULI = 20
"""Below it the reports warn: a unit's correlation has to pass .4 to be above chance."""
_FEW = "The fewer there are, the further a correlation, and the ceiling itself, stray by chance"
_SIGNED = "Red is above 0, blue below."
_BELOW = "Values below 0, where the mean response predicts better, have the colour of 0."
_BLANK = "Grey on the cortex, and dark in slices: no data."


@dataclass(frozen=True)
class Score:
    """How a score is shown.

    Attributes
    ----------
    title : str
    stimuli : str
        What it was computed on.
    digits : int
        Decimals.
    factor : float
        From what the table of metrics holds to what is shown.
    """

    title: str
    stimuli: str
    digits: int = 3
    factor: float = 1.0

    @property
    def head(self) -> str:
        """Head of the column."""
        return f"{self.title} ({self.stimuli})"


SCORES = {
    "median_correlation": Score("Correlation", "test"),
    "median_rsquared": Score("R2", "test"),
    "median_noiseceilingnormalized": Score("r / √ceiling", "test"),
    "units_above_chance": Score("Units above chance, %", "test", 1, 100.0),
    "median_cv_rsquared": Score("R2, cross-validated", "train"),
}
SCORES_CAPTION = (
    "Medians over units. On test stimuli, which no model saw, and whose responses are averages that are not denoised: correlation and R2 "
    f"of predictions; correlation over the root of the noise ceiling, for units with a ceiling above {MIN_CEILING:.0f} %; and the "
    "percentage of the units with a model whose correlation passes the 95th percentile of chance, which is 5 % where nothing is "
    "predicted. On train stimuli: R2 by models that did not see the stimuli that they predict."
)
FIGURES = {
    "correlation": ("Correlation (test)", f"Correlation of predictions with measured responses to test stimuli. {_SIGNED} {_BLANK}"),
    "noiseceilingnormalized": (
        "r / √ceiling (test)",
        f"Correlation over the root of the noise ceiling, where the ceiling is above {MIN_CEILING:.0f} %. Values above 1 are chance. "
        f"{_FEW}. {_SIGNED} {_BLANK[:-1]}, or a ceiling of {MIN_CEILING:.0f} % or less.",
    ),
    "cvrsquared": (
        "R2, cross-validated (train)",
        "Share of the variance of responses to train stimuli, predicted by models that did not see them. Where these responses were "
        "denoised, they share noise with their neighbours and are predicted too well: the maps above are the scores to report. "
        f"{_BELOW} {_BLANK}",
    ),
    "alpha": ("Penalty", f"Penalty on the weights that was chosen, as the power of ten. {_BLANK}"),
    "expectedrsquared": (
        "Expected accuracy",
        "Share of a response's variance that the weights should predict, as the context alone tells; no test stimulus was looked at. "
        f"{_BLANK}",
    ),
    "calibration": (
        "Calibration of the posterior",
        "Share of measured test responses that lie inside intervals about their predictions (posterior variance and noise), against the "
        "intervals' probability: on the line where the model knows how wrong it is, below it where it is too sure.",
    ),
    "query": (
        "Text queries",
        f"Responses that the weights predict for a text, less that for texts of all kinds, as z over units. {_SIGNED} {_BLANK}",
    ),
    "influence": (
        "Influence of the context",
        "The context stimuli that shape the units' weights most, and how much predictions move with their responses (mean over units).",
    ),
    "ceiling": (
        "Scores and the noise ceiling (test)",
        "Correlation of each unit against the root of its noise ceiling; brightness counts units. The line is the most that a perfect "
        f"model reaches on average; units lie above it by chance alone. {_FEW}, and the more units lie above the line.",
    ),
    "timecourse": (
        "Time courses",
        "Volumes of the first test movie, mean over its presentations with nuisances out, and what the model predicts of them: for the "
        "unit that is predicted best, and for the 90th and 50th percentile of units.",
    ),
    "delays": (
        "Weights by delay",
        "Root mean square of the weights at each delay over the largest of the unit, for the quarter of units that are predicted best: "
        "what a haemodynamic response looks like, where one is fitted.",
    ),
    "spaces": ("Feature spaces", "Share of the variance of test responses that each feature space predicts (shares add up to R2)."),
}
"""Heading and caption by stat."""


def caption_of(stat: str, content: Mapping[str, Any]) -> str:
    """Caption of a figure of a fit, with the number of test stimuli (or volumes) where scores of units depend on it."""
    caption = FIGURES[stat][1]
    if stat in ("noiseceilingnormalized", "ceiling"):
        of_movie = content.get("Design") == "movie"
        number = content.get("NumberOfTestVolumes" if of_movie else "NumberOfTestStimuli")
        caption = caption.replace(_FEW, f"There are {number} test {'volumes' if of_movie else 'stimuli'}: {_FEW[0].lower()}{_FEW[1:]}")
    return caption


def few_test_stimuli(content: Mapping[str, Any]) -> list[str]:
    """A warning where scores are of few test stimuli; movies have few, but many volumes each."""
    number = content.get("NumberOfTestStimuli")
    if content.get("Design") == "movie" or not isinstance(number, int) or not 0 < number < MIN_TEST_STIMULI:
        return []
    threshold = chance_correlation(number)
    return [
        f"{number} test stimuli are few (fewer than {MIN_TEST_STIMULI}): scores of single units and the intervals of medians are rough, "
        f"and a unit's correlation is above chance from {threshold:.2f} on only"
    ]
