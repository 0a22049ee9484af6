"""What each figure shows, what to look for in it, and what is abnormal."""

from __future__ import annotations

from conform_bids.glm.report.figures import MODEL_TITLES

__all__ = ["describe_figure"]

_PLOTS = {
    "timing": (
        "Events in time",
        "A row a run: grey is what was acquired, colour is a trial, by condition. Look for runs that end before their last trials, for "
        "long gaps, "
        "and for conditions that stand in one run only: these cannot be cross-validated.",
    ),
    "trials": (
        "Trials and repeats",
        "Left: how often conditions were shown; those shown once add nothing to cross-validation or to noise ceilings. Right: how "
        "onsets lie between "
        "frames. All at zero means onsets locked to the scanner; an even spread means jitter; anything else is worth a check against "
        "the paradigm.",
    ),
    "hrf": (
        "Haemodynamic response functions",
        "Left: the share of responsive units that chose each curve of the library, ordered from early to late; right: the curves in "
        "the same colours. A broad hump is normal. "
        "A pile-up at either end says that true responses are faster or slower than the library, or that onsets are shifted by a constant.",
    ),
    "pcs": (
        "Number of noise regressors",
        "How much better repeats predict each other with more regressors taken out, and the number that was chosen. A rise that levels "
        "off is normal. A "
        "curve that only falls means that there was no shared noise to remove, or too few repeats; one that still rises at its end "
        "asks for a larger --n-pcs.",
    ),
    "fraction": (
        "Ridge fraction",
        "How strongly responses were regularised, over units; small fractions mean strong shrinkage. Responsive units should sit "
        "further to the right than the rest. "
        "All units at the smallest fraction means that repeats hardly agree.",
    ),
    "reliability": (
        "Odd-even reliability by model",
        "Correlation over conditions of the responses in odd and in even runs; numbers are medians. Above the line are responsive "
        "units, below it all. Responsive units "
        "should lie clearly to the right of zero, and further with each refinement of the model; all units together peak near zero "
        "when most of the brain does not respond.",
    ),
    "runs": (
        "Variance explained by run",
        "Median, quartiles, and 5th and 95th percentile over responsive units. A run far below the others (in orange) points to "
        "motion, sleep, or events that "
        "do not belong to it.",
    ),
}  # fmt: skip

_MAPS = {
    "rsquared": (
        "Variance explained by the model, drifts taken out. Single-trial models have many regressors, so that R² is above zero everywhere; "
        "what counts is the contrast.",
        " Expect it where the stimuli drive the brain; a rim around the brain or in the eyes speaks of motion.",
    ),
    "noiseceiling": (
        "Share of the variance of trial averages that is not noise: what a perfect model of the stimuli could explain.",
        " Expect it in the regions that the stimuli drive, near zero elsewhere. A flat map means that repeats do not agree.",
    ),
}
_ONOFF = (
    "Variance explained by one regressor for all trials, with the assumed HRF. It selects the units that define noise and those that vote.",
    " Expect sensory areas to light up; none at all points to wrong onsets or the wrong events.",
)
_POOL = (
    "Units whose time courses gave the noise regressors, and units that decided on their number.",
    " The pool should cover most of the brain but not the regions that respond.",
)
_HIDDEN = " Units below a twentieth of the scale (the line on the colour bar) are left grey."
_SHARES = (
    " There is no mesh of this space at hand to draw a map on: the figure shows how many units of each structure have which value. "
    "Expect {what}; the map itself is in the output folder."
)
_EXPECTED_SHARES = {
    "onoff": "most units near zero and a tail of units that respond; no tail points to wrong onsets or the wrong events",
    "rsquared": "a tail of high values in structures that the stimuli drive",
    "noiseceiling": "high values in structures that the stimuli drive; all near zero means that repeats do not agree",
    "noisepool": "most units in the pool, and voters in structures that respond",
}


def describe_figure(stat: str, desc: str, *, as_map: bool = True) -> tuple[str, str, str]:
    """Title, caption and text for those who cannot see it, of a figure by its ``stat`` and ``desc``.

    Parameters
    ----------
    stat, desc : str
        Entities of the figure's name; ``stat`` is empty for plots.
    as_map : bool
        Whether values are drawn at their places; False where the space has no mesh and their distributions are drawn.
    """
    if desc in _PLOTS and not stat:
        title, caption = _PLOTS[desc]
        return title, caption, f"Plot: {title}"
    if desc == "noisepool":
        title, what, (said, expected), hidden, kind = "Noise pool and voters", "units by their part in denoising", _POOL, "", desc
    elif stat == "rsquared" and desc == "onoff":
        title, what, (said, expected), hidden, kind = "On/off R²", "variance explained by the on/off model", _ONOFF, _HIDDEN, desc
    elif stat in _MAPS:
        name, hidden = ("R²", "") if stat == "rsquared" else ("Noise ceiling", _HIDDEN)
        model = MODEL_TITLES.get(desc, desc)
        title, what, (said, expected), kind = f"{name}: {model}", f"{name}, {model}", _MAPS[stat], stat
    else:
        return f"{stat} {desc}".strip(), "", f"Figure: {stat} {desc}".strip()
    if as_map:
        return title, said + expected + hidden, f"Map of {what}"
    return title, said + _SHARES.format(what=_EXPECTED_SHARES[kind]), f"Distribution, by structure, of {what}"
