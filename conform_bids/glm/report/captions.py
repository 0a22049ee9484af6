"""What each figure shows, what to look for in it, and what is abnormal."""

from __future__ import annotations

from conform_bids.glm.report.fit import MODEL_TITLES

__all__ = ["describe_figure"]

_PLOTS = {
    "timing": (
        "Events in time",
        "One row per run: grey is what was acquired, colour is a trial, by condition. Look for runs that end before their last trials, for "
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
    "collinearity": (
        "How well trials can be told apart",
        "Each trial has a regressor: its stimulus convolved with the assumed HRF; drifts and confounds in the model are taken out, "
        "as in the fit. Left: correlations of the regressors in the run with the most variance inflation. Middle: mean "
        "correlation of trials that follow each other 1, 2, ... places apart (grey: a run; black: mean). Right: variance inflation, "
        "the diagonal of the inverse correlation matrix: by how much the variance of a trial's unregularised estimate exceeds that "
        "of a trial on its own. 1 is a trial apart from all others; above 10 (dashed, orange) neighbours share most of their signal, "
        "as in fast designs, and shrinkage and denoising do much of the work; at 100 or more a trial cannot be told from others.",
    ),
    "hrf": (
        "Haemodynamic response functions",
        "Left: the share of responsive units that chose each curve of the library, ordered from early to late; right: the curves in "
        "the same colours. A broad hump is normal. "
        "A pile-up at either end says that true responses are faster or slower than the library, or that onsets are shifted by a constant.",
    ),
    "pcs": (
        "Number of noise regressors",
        "How much better repeats predict each other with more regressors taken out, and the number that was chosen. The band is the "
        "standard error of the gain, by leaving out a run at a time. The odd-even r of the noise pool is the median over its units of the "
        "correlation of condition means between odd and even runs: well above 0 the pool responds to the conditions, and its regressors "
        "take signal away. A rise that levels off is normal. A "
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
    "repeats": (
        "Single-trial reliability by model",
        "How far two single trials of the same condition agree: the intraclass correlation ICC(1) of repeated conditions, session means "
        "taken out; numbers are medians. Above the line are responsive units, below it all. Around 0 (or below, where runs differ in "
        "level) trials say nothing of their condition; averages over n trials are more reliable, by n r / (1 + (n - 1) r).",
    ),
    "runs": (
        "Quality by run",
        "Boxes: median, quartiles, and 5th and 95th percentile: of R² over responsive units, of temporal SNR over all fitted units (mean "
        "over standard deviation in time, drifts taken out), of framewise displacement (dashed: 0.5 mm) and of standardised DVARS over "
        "volumes, the last two from fMRIPrep's confounds. Orange: more than three robust standard deviations off the other runs, on "
        "the bad side (from four runs on). Low R² with sound temporal SNR points to sleep or to events that do not belong to the run.",
    ),
    "drift": (
        "Responses over the course of the fit",
        "One dot per trial: the mean over responsive units of its response, by the most refined model; one line per run at its mean; grey "
        "bands tell runs apart. Runs should lie about the dashed line, their median. A decline within runs speaks of adaptation or "
        "fatigue, steps between runs of a change in gain, attention or scaling; a run in orange deviates by more than three robust "
        "standard deviations (from four runs on).",
    ),
}  # fmt: skip

_MAPS = {
    "rsquared": (
        "Variance explained by the model, drifts taken out. Single-trial models have many regressors, so that R² is above zero everywhere; "
        "what counts is the contrast.",
        " Expect it where the stimuli drive the brain; a rim around the brain or in the eyes speaks of motion.",
    ),
    "reliability": (
        "Correlation over conditions between the averages of odd and of even runs.",
        " Expect it where the stimuli drive the brain, and about 0 elsewhere.",
    ),
    "singletrial": (
        "Correlation to expect between two single trials of the same condition: ICC(1) over repeated conditions, session means taken out.",
        " Expect it where the stimuli drive the brain, and about 0 elsewhere; it is the floor that averaging repeats builds on.",
    ),
    "tsnr": (
        "Mean of the series over its standard deviation in time, drifts taken out, averaged over runs.",
        " Expect it low near air (orbitofrontal, inferior temporal) and in subcortex; patches of low values elsewhere speak of artefacts.",
    ),
    "hrfpeak": (
        "When the chosen HRF peaks, convolved with the stimulus; responsive units only, as the choice means nothing elsewhere.",
        " Neighbours should agree, with smooth changes across regions; a salt-and-pepper pattern says that the data hardly decide.",
    ),
    "shrinkage": (
        "Posterior mean of log10 λ, the prior variance of responses over the noise variance: low values shrink responses strongly towards "
        "the unit's mean response.",
        " Units that carry signal from trial to trial should stand out.",
    ),
    "fraction": (
        "Length of the regularised responses over that of the unregularised ones, chosen by cross-validation: 1 is no shrinkage.",
        " Units whose repeats agree should stand out.",
    ),
    "noiseceiling": (
        "Share of the variance of trial averages that is not noise: what a perfect model of the stimuli could explain.",
        " Expect it in the regions that the stimuli drive, near zero elsewhere. A flat map means that repeats do not agree.",
    ),
}
_MAP_NAMES = {
    "rsquared": "R²",
    "noiseceiling": "Noise ceiling",
    "reliability": "Odd-even reliability",
    "singletrial": "Single-trial reliability",
    "tsnr": "Temporal SNR",
    "hrfpeak": "Time to peak of the HRF",
    "shrinkage": "Shrinkage",
    "fraction": "Ridge fraction",
}
_ONOFF = (
    "Variance explained by one regressor for all trials, with the assumed HRF. It selects the units that define noise and those that vote.",
    " Expect sensory areas to light up; none at all points to wrong onsets or the wrong events.",
)
_POOL = (
    "Units whose time courses gave the noise regressors, and units that decided on their number.",
    " The pool should cover most of the brain but not the regions that respond.",
)
_ASIDE = (
    "Units of the mask that were not fitted in every run, and why: not finite, zero throughout or constant in a run, or (in percent signal "
    "change) with a mean that is smaller than the noise.",
    " A few at the rim are normal; patches inside the brain point to the field of view or to the mask.",
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
    "setaside": "nearly all units fitted in all runs",
    "singletrial": "most units near zero and a tail in structures that the stimuli drive",
    "reliability": "most units near zero and a tail in structures that the stimuli drive",
    "tsnr": "one hump per structure, lower in subcortex",
    "hrfpeak": "a broad hump away from both ends",
    "shrinkage": "a tail of high values in structures that respond",
    "fraction": "a tail of high values in structures that respond",
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
    elif desc == "setaside":
        title, what, (said, expected), hidden, kind = "Units set aside", "units by what became of them", _ASIDE, "", desc
    elif stat == "rsquared" and desc == "onoff":
        title, what, (said, expected), hidden, kind = "On/off R²", "variance explained by the on/off model", _ONOFF, _HIDDEN, desc
    elif stat in _MAPS:
        name, hidden = _MAP_NAMES[stat], _HIDDEN if stat in ("noiseceiling", "reliability", "singletrial") else ""
        model = MODEL_TITLES.get(desc, desc)
        title = name if stat == "tsnr" else f"{name}, {model}"
        what, (said, expected), kind = title, _MAPS[stat], stat
    else:
        return f"{stat} {desc}".strip(), "", f"Figure: {stat} {desc}".strip()
    if as_map:
        return title, said + expected + hidden, f"Map of {what}"
    return title, said + _SHARES.format(what=_EXPECTED_SHARES[kind]), f"Distribution, by structure, of {what}"
