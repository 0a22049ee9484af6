"""One person fitted to a template that stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.align.files import Plan
from conform_bids.align.load import LoadedResponses
from conform_bids.align.numerics.data import PersonData
from conform_bids.align.numerics.predict import apply_map
from conform_bids.align.numerics.template import fit_person
from conform_bids.align.stimuli import identities
from conform_bids.align.transforms import read_template, write_person
from conform_bids.bids.derivatives import write_json
from conform_bids.bids.splits import HELD_OUT
from conform_bids.bids.trials import hash_stimuli
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.compute import Compute

__all__ = ["fit_fields", "fit_to_template", "reliability_of"]


def reliability_of(ceiling: Any) -> Any:
    """Share of variance that is signal, of a ceiling in percent; None where none is known."""
    values = np.asarray(ceiling, dtype=np.float64) / 100
    return values if np.isfinite(values).any() else None


def fit_fields(method: str, template_name: str, stimuli: Sequence[str], includes_test: bool, n_parcels: int) -> dict[str, Any]:
    """Sidecar fields on how maps were fitted."""
    return {
        "EstimationMethod": METHODS_IN_WORDS[method],
        "Method": method,
        "FunctionalSpace": f"tpl-{template_name}",
        "NumberOfParcels": n_parcels,
        "NumberOfSharedStimuli": len(stimuli),
        "FitIncludesTest": includes_test,
        "FittedStimuliHash": hash_stimuli(stimuli),
        "Predictive": method == "ridge" or None,
    }


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
    conditions = loaded.tables["prepared"]
    place = {name: index for index, name in enumerate(known.stimuli)}
    rows, places = _shared_rows(plan, conditions, place)
    if len(rows) < plan.settings.min_shared:
        raise UnusableInputError(
            f"{plan.responses[0].trials}: {len(rows)} stimuli are shared with the template {plan.template.name}, and --min-shared is "
            f"{plan.settings.min_shared}; stimuli are the same by the SHA-256 of their files, else by stim_id within a dataset"
        )
    responses = loaded.arrays["responses"]
    person = PersonData(responses[rows], places, reliability_of(loaded.arrays["ceiling"]))
    fitted = fit_person(person, known.template, compute)
    used = [str(known.stimuli[index]) for index in places]
    includes_test = bool(known.facts["fit_includes_test"]) or plan.settings.align_on == "all"
    name = str(known.facts["template_name"])
    fields = fit_fields(plan.method, name, used, includes_test, len(known.template.parts))
    facts = {"method": plan.method, "template_name": name, "stimuli_hash": hash_stimuli(used), "fit_includes_test": includes_test}
    write_person(fitted, known.space, facts, folder / "transform.h5")
    write_json(fields, folder / "fit.json")
    paths = [folder / "transform.h5", folder / "fit.json"]
    for array, values in [("aligned", responses), *((f"aligned_{desc}", loaded.arrays[f"apply_{desc}"]) for desc, _ in plan.apply_to)]:
        paths.append(folder / f"{array}.npy")
        np.save(paths[-1], apply_map(fitted, known.template, values, compute), allow_pickle=False)
    return paths


def _shared_rows(plan: Plan, conditions: pd.DataFrame, place: dict[str, int]) -> tuple[Any, Any]:
    """Rows of the person's conditions that are in the template's list, each stimulus once, and their places in it."""
    names = identities(conditions, dataset=plan.source.dataset)
    found: dict[int, int] = {}
    for row in fitted_rows(conditions, plan.settings.align_on == "all"):
        if names[row] in place:
            found.setdefault(place[names[row]], int(row))
    places = np.array(sorted(found), dtype=np.intp)
    return np.array([found[index] for index in places], dtype=np.intp), places
