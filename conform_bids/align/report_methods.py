"""The methods text: what a run's settings make conform-align do, in words, with citations."""

from __future__ import annotations

from collections.abc import Sequence

from conform_bids.align.settings import AlignSettings
from conform_bids.align.tuning_weights import asks_for_weights
from conform_bids.report.citations import Methods

__all__ = ["describe_methods", "methods"]

_METHODS = {
    "stack": (
        "Each parcel was aligned by a non-negative combination of smoothed anatomy and three probabilistic shared response models "
        "[@chen2015srm], whose maps have a zero-mean prior, a prior about the group's mean map, and one with a spatial kernel; their "
        "dimensions, smoothing and weights were chosen by cross-validation over stimuli."
    ),
    "psrm": (
        "Each parcel was aligned by a probabilistic shared response model [@chen2015srm]; dimensions were chosen by cross-validation over "
        "stimuli."
    ),
    "srm": (
        "Each parcel was aligned by the deterministic shared response model [@chen2015srm]; dimensions were chosen by cross-validation "
        "over stimuli."
    ),
    "procrustes": (
        "Each parcel was aligned by the rotation that brings a person's responses closest to a template, made in two iterations "
        "[@haxby2011]."
    ),
    "ridge": "Each parcel's template was predicted from a person's responses by ridge regression; these maps are not invertible.",
    "none": "People were put together by anatomy alone, smoothed by as much as predicts responses best.",
}


def describe_methods(settings: AlignSettings, version: str, given: Sequence[str] = ()) -> Methods:
    """Describe the analysis; only what these settings use is named and cited.

    Parameters
    ----------
    settings : AlignSettings
    version : str
    given : sequence of str
        Names of ``-d``: weights of conform-encode change what maps are fitted on.
    """
    by_features = asks_for_weights(given)
    how = (
        "Maps were fitted to a template that had been made before and stayed as it was." if settings.template else _METHODS[settings.method]
    )
    parcels = {
        "whole": "all units together",
        "clusters": f"spatial clusters of about {settings.parcel_size} units",
        "auto": f"spatial clusters of about {settings.parcel_size} units, or all together where there were too few for that",
    }.get(settings.parcellation, "the parcels of an atlas")
    on = "all stimuli that people share, held-out ones included" if settings.align_on == "all" else "the train stimuli that people share"
    what = "their responses to stimuli that they share, which are the same by the content of their files, else by name within a dataset"
    if by_features:
        what = (
            "the weights of encoding models of each person's own stimuli: rows of the data were features of these models, "
            "so that people need not share any; responses were then brought to the template by the maps found so"
        )
        on = "the weights of the features that people's encoding models share"
        how = how.replace("over stimuli", "over features")
    parts = [
        f"People were brought to a common functional space with conform-align {version}, a BIDS-App [@gorgolewski2016bids; "
        f"@gorgolewski2017bidsapps], from {what}. {how}",
    ]
    if settings.template is None:
        parts.append(f"Parcels were {parcels}, the same in all people, each with the units around it; maps were averaged there.")
    parts.append(
        f"Maps were fitted on {on}. Scores, where there were people and held-out stimuli enough, are of held-out stimuli: each person in "
        "turn was left out of the template, and the person's own responses were predicted from the others', in units of the noise ceiling "
        "[@allen2022nsd], beside smoothed anatomy and a control with shuffled stimuli."
    )
    parts.append(
        "The workflow was run by Nipype [@gorgolewski2011nipype]; data were found with PyBIDS [@yarkoni2019pybids], read and written with "
        "NiBabel [@brett2024nibabel], computed with NumPy [@harris2020numpy] and SciPy [@virtanen2020scipy], and drawn with Matplotlib "
        "[@hunter2007matplotlib]."
    )
    return Methods.of("\n\n".join(parts) + "\n")


methods = describe_methods
