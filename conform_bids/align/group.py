"""The level group: from prepared people to a template, everybody's map, scores, and the report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.align.aggregate import aggregate, write_only_split
from conform_bids.align.files import recorded_settings, transform_path
from conform_bids.align.numerics.data import Parcel, parcels_from_labels, standardise
from conform_bids.align.numerics.maps import Template
from conform_bids.align.numerics.options import AlignOptions
from conform_bids.align.numerics.predict import apply_map
from conform_bids.align.numerics.template import fit_template
from conform_bids.align.prepared import Gathered, PreparedPerson, check_alike, common_space, find_prepared, gather, shared_entities
from conform_bids.align.report import draw_scores, write_group_report, write_participant_report
from conform_bids.align.results import count_parcels_with_data, fit_fields
from conform_bids.align.save import TRANSFORM, map_names, save_map, save_sidecar, software
from conform_bids.align.scoring import Scores, score_people, similarity, why_no_scores
from conform_bids.align.settings import AlignSettings
from conform_bids.align.transforms import write_person, write_template
from conform_bids.align.tuning_weights import BY_TUNING, ENCODE, asks_for_weights
from conform_bids.bids.conditions import CONDITIONS_DESCRIPTION
from conform_bids.bids.coordinates import unit_coordinates
from conform_bids.bids.derivatives import write_json, write_tsv
from conform_bids.bids.images import map_paths
from conform_bids.bids.names import relative_path
from conform_bids.bids.parcellations import find_parcellation, read_parcellation
from conform_bids.bids.spaces import Space
from conform_bids.bids.trials import hash_stimuli
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.jobs import GroupInputs, Resources
from conform_bids.numerics.clusters import spatial_clusters
from conform_bids.numerics.compute import Compute, limit_threads

__all__ = ["run_group"]

APART_MM = 1e4
"""Hemispheres and structures are set apart by this much, so that nothing is smoothed over their border."""
FloatArray = npt.NDArray[np.float64]


def run_group(
    output_dir: Path,
    participants: Sequence[str],
    settings: AlignSettings,
    about: Mapping[str, str],
    resources: Resources,
    work_dir: Path,
    *,
    inputs: GroupInputs,
) -> list[Path]:
    """Align the prepared people of an output folder, task by task; aggregate the trials of datasets, where that is asked for.

    Those who are not prepared yet have been by now: the command line sees to that (``group_prepares`` of the app).

    Parameters
    ----------
    output_dir : Path
    participants : sequence of str
        Labels without ``sub-``.
    settings : AlignSettings
    about : mapping
        Versions and the like, for reports.
    resources : Resources
    work_dir : Path
        Responses that people share lie there while they are aligned.
    inputs : GroupInputs
        Datasets that ``--store`` and ``--split-only`` read.

    Returns
    -------
    list of Path
        Table and page of the group; the store, or the files of the split.

    Raises
    ------
    MissingInputError, UnusableInputError
        When nobody is prepared, or people share too few stimuli or no grid.
    UsageError
        With ``--template``, which is for the level participant.
    """
    if settings.template is not None:
        raise UsageError("--template: the level group makes a template; leave the option out, or run the level participant alone")
    output_dir = Path(output_dir)
    if settings.split_only:
        return write_only_split(output_dir, settings, inputs, resources.random_seed)
    if not participants and not settings.store:
        raise MissingInputError(f"{output_dir}: nobody is prepared; run the level participant first, or ask for --store")
    groups = find_prepared(output_dir, participants) if participants else []
    for people in groups:
        _check_weights(people, inputs)
        folder = work_dir / "group"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with limit_threads(resources.n_threads):  # BLAS would take all CPUs else, whatever --nprocs says
                _align(people, settings, resources, output_dir, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    for participant in participants:
        write_participant_report(participant, output_dir, settings, about, (), 0)
    written = write_group_report(output_dir, participants, settings, about) if participants else []
    return [*written, *(aggregate(output_dir, settings, inputs, resources.random_seed, about) if settings.store else [])]


def _check_weights(people: Sequence[PreparedPerson], inputs: GroupInputs) -> None:
    without = [person.participant for person in people if not person.has_tuning]
    if without and asks_for_weights(inputs.derivatives):
        raise UsageError(
            f"-d {ENCODE}: sub-{without[0]} was prepared without weights; run the level participant with this option, and --overwrite"
        )


@dataclass(frozen=True, eq=False)
class _Group:
    """What all outputs of a task need."""

    gathered: Gathered
    space: Space
    parcels: tuple[Parcel, ...]
    names: tuple[str, ...]
    settings: AlignSettings
    compute: Compute
    output_dir: Path
    fields: dict[str, Any]
    facts: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def entities(self) -> dict[str, str]:
        """Entities that people share."""
        return shared_entities(self.gathered.people)

    def sidecar(self, **fields: Any) -> dict[str, Any]:
        """Fields of an output."""
        return {**fields, **self.fields, "Settings": recorded_settings(self.settings), "Notes": list(self.notes) or None}

    def sidecar_of(self, person: PreparedPerson, **fields: Any) -> dict[str, Any]:
        """Fields of an output of a person."""
        return self.sidecar(**fields, SourceParticipant=person.content.get("SourceParticipant"))


def _align(people: Sequence[PreparedPerson], settings: AlignSettings, resources: Resources, output_dir: Path, folder: Path) -> None:
    check_alike(people)
    space = common_space(people)
    gathered = gather(people, space, settings.align_on, settings.min_shared, folder)
    coordinates, structure, lost = unit_coordinates(space)
    notes = [
        f"sub-{label} shares too few {'features' if gathered.by_features else 'stimuli'} and is left out" for label in gathered.left_out
    ]
    notes += [str(note) for person in gathered.people for note in person.content.get("Notes") or [] if str(note).startswith("NO SPLIT")]
    labels, names = _labels(space, settings, people[0], coordinates, structure)
    places: FloatArray | None = None
    if lost:
        notes.append(f"no mesh of {', '.join(lost)} is at hand for space {space.label}: nothing is smoothed, and parcels have no margin")
    else:
        places = coordinates + np.outer(structure, [APART_MM, 0.0, 0.0])
    parcels = parcels_from_labels(labels + 1, places, settings.margin)
    seed = int(gathered.people[0].content.get("RandomSeed", 0))
    options = AlignOptions(method=settings.method, seed=seed)
    if resources.sloppy:
        options = replace(options, families=("anatomy", "zero"), dimensions=(5, 10), n_sweeps=5, tuning_parcels=2)
        notes.append("Made with --sloppy, with few candidates: not for use.")
    what = "features" if gathered.by_features else "stimuli"
    if gathered.by_features:
        notes.append(BY_TUNING)
    if settings.method == "stack" and len(gathered.fitted.names) < options.minimum_stimuli:
        notes.append(
            f"people share {len(gathered.fitted.names)} {what}; below {options.minimum_stimuli} the stack is smoothed anatomy alone"
        )
    compute = Compute("cpu", resources.n_threads, resources.memory_gb * 2e8)
    template = fit_template(gathered.training, parcels, options, compute, places)
    missing = why_no_scores(gathered)
    scores = score_people(gathered, parcels, options, compute, places) if missing is None else None
    notes += [missing] if missing else []
    if gathered.by_features:
        includes_test = any(person.tuning_fields().get("FitIncludesTest") is True for person in gathered.people)
    else:
        includes_test = settings.align_on == "all" or any("NO SPLIT" in note for note in notes)
    fields = fit_fields(settings.method, settings.template_name, gathered.fitted.names, includes_test, len(parcels), gathered.by_features)
    facts = {
        "method": settings.method,
        "template_name": settings.template_name,
        "stimuli_hash": hash_stimuli(gathered.fitted.names),
        "fit_includes_test": includes_test,
        "rows": what,
    }
    weights = dict(template.setting.weights) if settings.method == "stack" else {}
    chosen = {"Dimensions": dict(template.setting.dimensions), "StackWeights": weights}
    fields |= {"SoftwareVersion": software(), "RandomSeed": seed, **{key: value or None for key, value in chosen.items()}}
    group = _Group(gathered, space, parcels, names, settings, compute, output_dir, fields, facts, tuple(dict.fromkeys(notes)))
    mean = _save_people(group, template)
    _save_template(group, template, mean)
    if scores is not None:
        for index in range(len(gathered.people)):
            _save_scores(group, scores, index)
        _save_similarity(group, template)


def _labels(
    space: Space, settings: AlignSettings, person: PreparedPerson, coordinates: FloatArray, structure: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], tuple[str, ...]]:
    """Parcel of each unit, from 0, -1 outside; and their names."""
    given = settings.parcellation
    if given not in ("auto", "whole", "clusters"):
        found = read_parcellation(find_parcellation(given, person.kind, person.entities, "--parcellation"), space)
        return found.labels, found.names
    if given == "whole" or (given == "auto" and space.n_units <= 2 * settings.parcel_size):
        return np.zeros(space.n_units, dtype=np.intp), ("whole",)
    labels = spatial_clusters(coordinates, settings.parcel_size, structure)
    return labels, tuple(f"cluster {number + 1}" for number in range(int(labels.max()) + 1))


def _save_people(group: _Group, template: Template) -> npt.NDArray[np.float64]:
    """Everybody's transform and aligned responses; the mean over people of those to the stimuli of the fit is returned."""
    settings, method = group.settings, group.settings.method
    total = np.zeros((len(group.gathered.fitted.names), group.space.n_units))
    counts = np.zeros_like(total)
    for index, person in enumerate(group.gathered.people):
        member, sources = template.members[index], [str(source) for source in person.content.get("Sources", [])]
        path = transform_path(person.entities, settings.template_name, method)
        write_person(member, group.space, group.facts, group.output_dir / path)
        save_sidecar(path, group.output_dir, group.sidecar_of(person, **TRANSFORM), sources)
        aligned = apply_map(member, template, person.read("effect", "prepared", group.space), group.compute)
        table = relative_path({**person.entities, "desc": method}, "trials", ".tsv")
        write_tsv(person.conditions, group.output_dir / table)
        save_sidecar(table, group.output_dir, {**CONDITIONS_DESCRIPTION, **group.fields}, sources)
        words = (
            "Responses in the units of the template, in standard deviations of the stimuli of the fit; map k is row k of the trial table"
        )
        lost = int(np.isnan(member.standard.scale).sum())
        fields = group.sidecar_of(person, Description=words, Units="z", TrialTable=f"bids::{table}")
        fields |= {"NumberOfUnits": group.space.n_units, "NumberOfUnitsSetAside": lost}
        fields["NumberOfParcelsWithData"] = count_parcels_with_data(member)
        save_map(
            aligned, group.space, person.files("effect", method), group.output_dir, fields,
            sources=sources, names=map_names(person.conditions), n_threads=group.compute.n_threads,
        )  # fmt: skip
        rows, places = group.gathered.fitted.rows[index]
        if group.gathered.by_features:  # the template shows how the rows of the fit look in it, and these are not responses
            tuning = group.gathered.training[index]
            aligned = apply_map(replace(member, standard=standardise(tuning)), template, tuning.responses, group.compute)
            rows = np.arange(len(places))
        total[places] += np.nan_to_num(aligned[rows])
        counts[places] += np.isfinite(aligned[rows])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: npt.NDArray[np.float64] = total / np.where(counts > 0, counts, np.nan)
    return mean


def _save_template(group: _Group, template: Template, mean: npt.NDArray[np.float64]) -> None:
    settings, gathered = group.settings, group.gathered
    entities = {"tpl": settings.template_name, **group.entities}
    path = relative_path({**entities, "desc": settings.method}, "xfm", ".h5")
    write_template(template, group.space, gathered.fitted.names, group.facts, group.output_dir / path)
    words = {
        "Description": "Template of a common functional space: all that aligning a new person takes (conform-align --template)",
        "FileFormat": TRANSFORM["FileFormat"],
    }
    people = [f"sub-{person.participant}" for person in gathered.people]
    save_sidecar(path, group.output_dir, group.sidecar(**words, Participants=people))
    table = relative_path({**entities, "desc": settings.method}, "trials", ".tsv")
    seen = np.bincount(np.concatenate([places for _, places in gathered.fitted.rows]), minlength=len(gathered.fitted.names))
    rows = pd.DataFrame({"condition": range(len(seen)), "identity": gathered.fitted.names, "n_people": seen})
    write_tsv(rows, group.output_dir / table)
    one = "feature" if gathered.by_features else "stimulus"
    described = {
        "condition": {"Description": f"Index of the {one}, and of its volume or map, from 0."},
        "identity": {
            "Description": "Hash of how the feature is made, and its name."
            if gathered.by_features
            else "SHA-256 of the stimulus' file, else its stim_id."
        },
        "n_people": {"Description": f"People of the template who have the {one}."},
    }
    save_sidecar(table, group.output_dir, {**described, **group.fields})
    of = "weight of people for the features" if gathered.by_features else "response of people to the stimuli"
    fields = group.sidecar(Description=f"Mean aligned {of} of the fit", Units="z", TrialTable=f"bids::{table}")
    stat = "tuning" if gathered.by_features else "effect"
    paths = map_paths(gathered.people[0].kind, {**entities, "stat": stat, "desc": settings.method}, "statmap")
    names = [f"{one}-{k:05d}" for k in range(len(mean))]
    save_map(mean, group.space, paths, group.output_dir, fields, names=names, n_threads=group.compute.n_threads)


_MAPS = {
    "correlation": ("correlation", "Correlation of measured responses to held-out stimuli with their prediction from other people"),
    "noiseceilingnormalized": ("normalised", "The same over the root of the noise ceiling; NaN where that is below .1"),
    "gain": ("", "Share of the noise ceiling predicted, less that by smoothed anatomy"),
}


def _save_scores(group: _Group, scores: Scores, index: int) -> None:
    """Maps and tables of one person's scores."""
    person, found, control = group.gathered.people[index], scores.people[index], scores.control[index]
    method = group.settings.method
    sources = [str(source) for source in person.content.get("Sources", [])]
    gain = found.normalised - found.anatomy_normalised
    for stat, (name, description) in _MAPS.items():
        values = gain if not name else getattr(found, name)
        fields = group.sidecar_of(
            person, Description=f"{description}; by maps that never saw the person's or these stimuli's responses", Units="arbitrary"
        )
        save_map(values[None], group.space, person.files(stat, method), group.output_dir, fields, sources=sources)
    samples = {"smoothed anatomy": found.anatomy_normalised, "aligned": found.normalised, "aligned, stimuli shuffled": control.normalised}
    draw_scores(gain, samples, group.space, {**person.entities, "desc": method}, group.output_dir)
    parcels = pd.DataFrame(
        {
            "parcel": range(1, len(group.parcels) + 1),
            "name": group.names,
            "n_units": [int((parcel.weights >= 1).sum()) for parcel in group.parcels],
            "gain": found.gain,
            "identification": found.identification,
            "anatomy_identification": found.anatomy_identification,
            "shuffled_identification": control.identification,
        }
    )
    path = relative_path({**person.entities, "desc": "parcels"}, "metrics", ".tsv")
    write_tsv(parcels, group.output_dir / path)
    save_sidecar(path, group.output_dir, {**_PARCELS, **group.fields}, sources)
    numbers = {
        "n_shared": len(group.gathered.fitted.rows[index][0]),
        "n_held_out": round(1 / found.chance),
        "normalised_r": _mean(found.normalised),
        "anatomy_normalised_r": _mean(found.anatomy_normalised),
        "shuffled_normalised_r": _mean(control.normalised),
        "units_gaining": _mean(np.where(np.isfinite(gain), gain > 0, np.nan)),
        "identification": _mean(found.identification),
        "anatomy_identification": _mean(found.anatomy_identification),
        "shuffled_identification": _mean(control.identification),
        "identification_chance": found.chance,
        "isc_before": _mean(found.isc_before),
        "isc_after": _mean(found.isc_after),
    }
    path = relative_path({**person.entities, "desc": method}, "metrics", ".tsv")
    write_tsv(pd.DataFrame({"metric": list(numbers), "value": list(numbers.values())}), group.output_dir / path)
    described = {
        "metric": {"Description": "What was measured, by maps that never saw the person's responses or these stimuli; shuffled_: control."},
        "value": {"Description": "The number; means over units or parcels."},
    }
    save_sidecar(path, group.output_dir, group.sidecar_of(person, **described), sources)


_PARCELS = {
    "parcel": {"Description": "Number of the parcel, from 1."},
    "name": {"Description": "Its name."},
    "n_units": {"Description": "Its units, without those of its margin."},
    "gain": {"Description": "Mean over units of the share of the noise ceiling predicted, less that by smoothed anatomy."},
    "identification": {
        "Description": "Share of held-out stimuli whose measured pattern is most like its own prediction, among all of them."
    },
    "anatomy_identification": {"Description": "The same by smoothed anatomy."},
    "shuffled_identification": {"Description": "The same with the person's stimuli shuffled: has to be at chance."},
}


def _mean(values: npt.NDArray[np.floating]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _save_similarity(group: _Group, template: Template) -> None:
    """Correlations between people over held-out stimuli, before and after, and who is who."""
    people = [f"sub-{person.participant}" for person in group.gathered.people]
    for desc, matrix in zip(("iscbefore", "isc"), similarity(group.gathered, template, group.compute), strict=True):
        name = "group_" + relative_path({**group.entities, "desc": desc}, "relmat", ".tsv")
        write_tsv(pd.DataFrame(matrix, columns=people), group.output_dir / name)
        where = "as measured" if desc == "iscbefore" else "in the template's units, by maps fitted on the stimuli of the fit"
        words = (
            f"Correlation between people over held-out stimuli, mean over units, {where}; rows and columns are people, in the same order"
        )
        note = "A map that shrinks everybody to the template raises it without knowing anything: not a score of the alignment"
        write_json(group.sidecar(Description=words, Comment=note), group.output_dir / name.replace(".tsv", ".json"))
