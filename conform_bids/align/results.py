"""One person fitted to a template that stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.align.files import Plan
from conform_bids.align.load import LoadedResponses
from conform_bids.align.numerics.data import PersonData, Standard, standardise
from conform_bids.align.numerics.maps import PersonMap
from conform_bids.align.numerics.predict import apply_map
from conform_bids.align.numerics.template import fit_person
from conform_bids.align.stimuli import identities
from conform_bids.align.transforms import read_template, write_person
from conform_bids.bids.derivatives import write_json
from conform_bids.bids.splits import HELD_OUT
from conform_bids.bids.trials import hash_stimuli
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.compute import Compute

__all__ = ["count_parcels_with_data", "fit_fields", "fit_to_template", "reliability_of", "responses_standard"]


def reliability_of(ceiling: Any) -> Any:
    """Share of variance that is signal, of a ceiling in percent; None where none is known."""
    values = np.asarray(ceiling, dtype=np.float64) / 100
    return values if np.isfinite(values).any() else None


def fit_fields(
    method: str, template_name: str, rows: Sequence[str], includes_test: bool, n_parcels: int, by_features: bool = False
) -> dict[str, Any]:
    """Sidecar fields on how maps were fitted; ``rows`` are the shared stimuli, or features of encoding models."""
    shared = (
        {"FittedOn": FEATURES_IN_WORDS, "NumberOfSharedFeatures": len(rows), "FittedFeaturesHash": hash_stimuli(rows)}
        if by_features
        else {"FittedOn": "responses to shared stimuli", "NumberOfSharedStimuli": len(rows), "FittedStimuliHash": hash_stimuli(rows)}
    )
    return {
        "EstimationMethod": METHODS_IN_WORDS[method],
        "Method": method,
        "FunctionalSpace": f"tpl-{template_name}",
        "NumberOfParcels": n_parcels,
        **shared,
        "FitIncludesTest": includes_test,
        "Predictive": method == "ridge" or None,
    }


def count_parcels_with_data(person: PersonMap) -> int:
    """Parcels whose core holds a unit that the fit did not set aside."""
    known = np.isfinite(person.standard.scale)
    return sum(bool(known[parcel.units[parcel.weights >= parcel.weights.max()]].any()) for parcel in person.parcels)


FEATURES_IN_WORDS = "weights of encoding models, a row a feature; responses are brought to the template by the maps found so"

METHODS_IN_WORDS = {
    "stack": "Smoothed anatomy and probabilistic shared response models with three priors, weighted by cross-validation over stimuli",
    "psrm": "Probabilistic shared response model, parcel by parcel",
    "srm": "Deterministic shared response model, parcel by parcel",
    "procrustes": "Rotation of each parcel to a template (Procrustes)",
    "ridge": "Ridge regression of the template on a person's responses, parcel by parcel: a prediction, not an invertible map",
    "none": "Anatomy, smoothed",
}


def fitted_rows(conditions: pd.DataFrame, includes_test: bool) -> Any:
    """Conditions that maps are fitted on."""
    if includes_test:
        return np.arange(len(conditions))
    return np.flatnonzero(~conditions["split"].isin(HELD_OUT).to_numpy(dtype=bool))


def fit_to_template(plan: Plan, loaded: LoadedResponses, folder: Path, compute: Compute) -> list[Path]:
    """Fit the person, and bring the responses (and those of ``--apply-to``) to the template's units.

    Returns
    -------
    list of Path
        ``aligned.npy``, ``aligned_<desc>.npy``, ``transform.h5``, ``fit.json`` in ``folder``.

    Raises
    ------
    UnusableInputError
        When the person shares too few stimuli with the template.
    """
    assert plan.template is not None
    known = read_template(plan.template)
    place = {name: index for index, name in enumerate(known.stimuli)}
    by_features = plan.weights is not None
    person = _by_features(plan, loaded, place) if by_features else _by_stimuli(plan, loaded, place)
    responses, places = loaded.arrays["responses"], person.rows
    fitted = fit_person(person, known.template, compute)
    used = [str(known.stimuli[index]) for index in places]
    includes_test = bool(known.facts["fit_includes_test"]) or plan.settings.align_on == "all"
    includes_test |= plan.weights is not None and plan.weights.includes_test
    name = str(known.facts["template_name"])
    fields = fit_fields(plan.method, name, used, includes_test, len(known.template.parts), by_features)
    facts = {"method": plan.method, "template_name": name, "stimuli_hash": hash_stimuli(used), "fit_includes_test": includes_test}
    facts["rows"] = "features" if by_features else "stimuli"
    write_person(fitted, known.space, facts, folder / "transform.h5")
    write_json({**fields, "NumberOfParcelsWithData": count_parcels_with_data(fitted)}, folder / "fit.json")
    paths = [folder / "transform.h5", folder / "fit.json"]
    for array, values in [("aligned", responses), *((f"aligned_{desc}", loaded.arrays[f"apply_{desc}"]) for desc, _ in plan.apply_to)]:
        paths.append(folder / f"{array}.npy")
        np.save(paths[-1], apply_map(fitted, known.template, values, compute), allow_pickle=False)
    return paths


def _by_stimuli(plan: Plan, loaded: LoadedResponses, place: dict[str, int]) -> PersonData:
    """Responses to the template's stimuli."""
    assert plan.template is not None
    rows, places = _shared_rows(plan, loaded.tables["prepared"], place)
    if len(rows) < plan.settings.min_shared:
        raise UnusableInputError(
            f"{plan.responses[0].trials}: {len(rows)} stimuli are shared with the template {plan.template.name}, and --min-shared is "
            f"{plan.settings.min_shared}; stimuli are the same by the SHA-256 of their files, else by stim_id within a dataset"
        )
    return PersonData(loaded.arrays["responses"][rows], places, reliability_of(loaded.arrays["ceiling"]))


def _by_features(plan: Plan, loaded: LoadedResponses, place: dict[str, int]) -> PersonData:
    """Weights of the template's features; responses are standardised over the person's own train stimuli."""
    assert plan.template is not None
    assert plan.weights is not None
    rows = [row for row, name in enumerate(loaded.features) if name in place]
    if len(rows) < plan.settings.min_shared:
        raise UnusableInputError(
            f"{plan.weights.file}: {len(rows)} features are shared with the template {plan.template.name}, and --min-shared is "
            f"{plan.settings.min_shared}; features are the same where their names and the cards of what made them are"
        )
    places = np.array([place[loaded.features[row]] for row in rows], dtype=np.intp)
    standard = responses_standard(loaded.arrays["responses"], loaded.tables["prepared"])
    return PersonData(loaded.arrays["tuning"][rows], places, reliability_of(loaded.arrays["ceiling"]), applied=standard)


def responses_standard(responses: Any, conditions: pd.DataFrame) -> Standard:
    """Mean and standard deviation of responses to train stimuli, which maps that were fitted on weights are applied to."""
    return standardise(PersonData(responses[fitted_rows(conditions, False)]))


def _shared_rows(plan: Plan, conditions: pd.DataFrame, place: dict[str, int]) -> tuple[Any, Any]:
    """Rows of the person's conditions that are in the template's list, each stimulus once, and their places in it."""
    names = identities(conditions, dataset=plan.source.dataset)
    found: dict[int, int] = {}
    for row in fitted_rows(conditions, plan.settings.align_on == "all"):
        if names[row] in place:
            found.setdefault(place[names[row]], int(row))
    places = np.array(sorted(found), dtype=np.intp)
    return np.array([found[index] for index in places], dtype=np.intp), places
