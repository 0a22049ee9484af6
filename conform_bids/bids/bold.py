"""Preprocessed BOLD series, each with the mask, events, confounds and metadata that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conform_bids.bids.index import FMRIPREP, NATIVE_SPACE, RAW, BIDSFile, Dataset, Selection
from conform_bids.bids.names import bare_label, natural_key, parse_name, same_label
from conform_bids.bids.selection import matches_filter
from conform_bids.bids.series import Kind, check_content, hemisphere_pair, select_by_filter, select_labels, select_spaces, single_file
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = ["BoldSeries", "find_bold", "spatial_reference"]

RunKey = tuple[str | None, ...]

_KINDS: Mapping[str, Kind] = {".nii.gz": "nifti", ".nii": "nifti", ".dtseries.nii": "cifti", ".func.gii": "gifti"}
_VOLUMES = (".nii.gz", ".nii")
_RUN_ENTITIES = ("ses", "task", "acq", "ce", "rec", "dir", "run")
_GRID_ENTITIES = ("space", "cohort", "res")
_SORT_ENTITIES = ("ses", "task", "run", "space", "cohort", "res", "den")


@dataclass(frozen=True)
class BoldSeries:
    """One run of preprocessed BOLD in one space.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    entities : dict of str to str
        Of the BOLD file, without ``hemi`` and ``desc``; labels as in the file name.
    kind : {'nifti', 'cifti', 'gifti'}
        How its units lie.
    files : tuple of Path
        One file; for gifti the left and the right hemisphere.
    mask : Path or None
        Brain mask on the same grid (nifti only).
    events, confounds : Path or None
        Those of the run.
    metadata : dict
        Of its JSON sidecars (RepetitionTime in s, StartTime in s, ...).
    warnings : tuple of str
        What was expected but is not there.
    """

    participant: str
    entities: dict[str, str]
    kind: Kind
    files: tuple[Path, ...]
    mask: Path | None
    events: Path | None
    confounds: Path | None
    metadata: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def space_label(self) -> str:
        """Label of its space; ``boldref`` for the run's own grid, which has no ``space`` in its name."""
        return self.entities.get("space", NATIVE_SPACE)


def find_bold(dataset: Dataset, participant: str, selection: Selection) -> list[BoldSeries]:
    """Find the preprocessed BOLD of a participant, sorted by session, task, run and space.

    Labels that a participant has none of, beside others that are there, are a warning of the dataset.

    Raises
    ------
    MissingInputError
        When there is no fMRIPrep derivative, or nothing in it matches; the message lists what there is. Also for a link to
        content that is not here.
    UnusableInputError
        When a hemisphere is missing, or two files claim the same names.
    """
    for key in selection.ignored_filters:
        dataset.warn(f"--bids-filter-file: {key!r} has no effect here")
    files = _preprocessed(dataset, participant, selection)
    files = select_labels(dataset, participant, files, selection, "BOLD")
    files = select_by_filter(participant, files, selection, "bold", "BOLD")
    files = select_spaces(dataset, participant, files, selection, _KINDS, "BOLD")
    groups: dict[tuple[Any, ...], list[BIDSFile]] = {}
    for file in files:
        entities = _shared_entities(file)
        groups.setdefault((_KINDS[file.extension], *sorted(entities.items())), []).append(file)
    companions = _Companions.of(dataset, participant, selection)
    series = [_assemble(dataset, participant, group, selection, companions) for group in groups.values()]
    return sorted(series, key=_sort_key)


@dataclass(frozen=True)
class _Companions:
    """What may belong to a participant's series, by run: gathered once, as there may be thousands of series."""

    masks: Mapping[RunKey, Sequence[BIDSFile]]
    confounds: Mapping[RunKey, Sequence[BIDSFile]]
    raw_bold: Mapping[RunKey, Sequence[BIDSFile]]

    @classmethod
    def of(cls, dataset: Dataset, participant: str, selection: Selection) -> _Companions:
        mask_query = {"suffix": "mask", "desc": "brain", **selection.filter_for("mask")}
        masks = dataset.files(FMRIPREP, participant, extensions=_VOLUMES, **mask_query)
        query = {"suffix": ["timeseries", "regressors"], "desc": "confounds", **selection.filter_for("confounds")}
        confounds = dataset.files(FMRIPREP, participant, extensions=(".tsv",), **query)
        raw_bold = dataset.files(RAW, participant, suffix="bold", extensions=_VOLUMES)
        return cls(_by_run(masks), _by_run(confounds), _by_run(raw_bold))


def _run_key(entities: Mapping[str, str]) -> RunKey:
    """What two files of one run share; numbers without padding, which early fMRIPrep releases dropped."""
    return tuple(bare_label(entities[key]) if key in entities else None for key in _RUN_ENTITIES)


def _by_run(files: Sequence[BIDSFile]) -> dict[RunKey, list[BIDSFile]]:
    grouped: dict[RunKey, list[BIDSFile]] = {}
    for file in files:
        grouped.setdefault(_run_key(file.entities), []).append(file)
    return grouped


def _sort_key(series: BoldSeries) -> tuple[Any, ...]:
    order = [natural_key(series.entities.get(key, "")) for key in _SORT_ENTITIES]
    return (*order, series.kind, series.files[0].name)


def _shared_entities(file: BIDSFile) -> dict[str, str]:
    return {key: label for key, label in file.entities.items() if key not in ("hemi", "desc")}


def _preprocessed(dataset: Dataset, participant: str, selection: Selection) -> list[BIDSFile]:
    """Final BOLD of fMRIPrep: ``desc-preproc`` volumes, and CIFTI and GIFTI, which have no desc."""
    if FMRIPREP not in dataset.derivatives:
        others = f" (other derivatives: {', '.join(dataset.derivatives)})" if dataset.derivatives else ""
        raise MissingInputError(f"{dataset.bids_dir}: no fMRIPrep derivative{others}; name it by -d fmriprep=PATH")
    root = dataset.derivatives[FMRIPREP]
    asks_for = selection.filter_for("bold")
    found = dataset.files(FMRIPREP, participant, suffix=None if "suffix" in asks_for else "bold", extensions=tuple(_KINDS))
    final = []
    for file in found:
        desc = file.entities.get("desc")
        expected = desc == "preproc" or (desc is None and _KINDS[file.extension] != "nifti")
        single_echo = "echo" in file.entities and "echo" not in asks_for  # one echo of several: not combined yet
        if not single_echo and (expected or "desc" in asks_for):
            final.append(file)
    if not final:
        reason = "no preprocessed BOLD (*_desc-preproc_bold.nii.gz, *_bold.dtseries.nii or *_bold.func.gii)"
        if not (root / f"sub-{participant}").is_dir():
            reason = f"no folder sub-{participant}"
        raise MissingInputError(f"{root}: {reason} for sub-{participant}; fMRIPrep must have run first")
    return final


def _assemble(dataset: Dataset, participant: str, group: Sequence[BIDSFile], selection: Selection, companions: _Companions) -> BoldSeries:
    entities = _shared_entities(group[0])
    kind = _KINDS[group[0].extension]
    files = hemisphere_pair(group) if kind == "gifti" else single_file(group)
    for path in files:
        check_content(path)
    metadata = dataset.sidecar(files[0])
    if "RepetitionTime" not in metadata:
        metadata = {**_raw_timing(dataset, companions.raw_bold.get(_run_key(entities), ())), **metadata}
    series = BoldSeries(participant, entities, kind, files, None, None, None, metadata, ())
    mask = _find_mask(series, selection, companions) if kind == "nifti" else None
    events = _find_events(dataset, series, selection)
    confounds = _find_confounds(series, companions)
    missing = [("brain mask", mask is None and kind == "nifti"), ("events", events is None), ("confounds", confounds is None)]
    warnings = tuple(f"{files[0].name}: no {what}" for what, is_missing in missing if is_missing)
    return replace(series, mask=mask, events=events, confounds=confounds, warnings=warnings)


def _raw_timing(dataset: Dataset, raw_bold: Sequence[BIDSFile]) -> dict[str, Any]:
    """RepetitionTime of the raw series, which early fMRIPrep releases did not repeat."""
    for file in raw_bold:
        metadata = dataset.sidecar(file.path)
        if "RepetitionTime" in metadata:
            return {"RepetitionTime": metadata["RepetitionTime"]}
    return {}


def _only(files: Sequence[Path], series: BoldSeries, what: str) -> Path | None:
    if len(files) > 1:
        listing = ", ".join(path.name for path in files)
        raise UnusableInputError(f"{series.files[0]}: several {what} to choose from ({listing}); choose by --bids-filter-file")
    if files:
        check_content(files[0])
    return files[0] if files else None


def _find_mask(series: BoldSeries, selection: Selection, companions: _Companions) -> Path | None:
    """Mask on the grid of the series; a filter on the grid's entities takes the place of the match."""
    keys = [key for key in _GRID_ENTITIES if key not in selection.filter_for("mask")]
    grid = [bare_label(series.entities.get(key, "")) for key in keys]
    masks = companions.masks.get(_run_key(series.entities), ())
    return _only([file.path for file in masks if [bare_label(file.entities.get(key, "")) for key in keys] == grid], series, "masks")


def _find_confounds(series: BoldSeries, companions: _Companions) -> Path | None:
    tables = companions.confounds.get(_run_key(series.entities), ())
    latest = [file for file in tables if file.suffix == "timeseries"] or tables
    return _only([file.path for file in latest], series, "confounds")


def _find_events(dataset: Dataset, series: BoldSeries, selection: Selection) -> Path | None:
    """Events of the run by the inheritance principle: the closest file wins, and of two in a folder the more specific."""
    query = selection.filter_for("events")
    run = {"sub": series.participant, **{key: series.entities[key] for key in _RUN_ENTITIES if key in series.entities}}
    found = dataset.inherited(RAW, series.participant, run, suffix="events", extension=".tsv", same=same_label)
    passing = [path for path in found if _events_pass(query, path)]
    if not passing:
        return None
    closest = passing[-1]
    rank = _specificity(closest)
    return _only([path for path in passing if _specificity(path) == rank], series, "events")


def _events_pass(query: Mapping[str, Any], path: Path) -> bool:
    name = parse_name(path)
    return matches_filter(query, name.entities, suffix=name.suffix, extension=name.extension, datatype=path.parent.name)


def _specificity(path: Path) -> tuple[Path, int]:
    return path.parent, len(parse_name(path).entities)


def spatial_reference(dataset: Dataset, series: BoldSeries) -> str:
    """BIDS URI of the image that a series is aligned to, for the sidecars of what is made from it.

    What fMRIPrep's sidecar says; else, in T1w space, the participant's preprocessed T1w image; else the series itself.
    """
    stated = series.metadata.get("SpatialReference")
    if isinstance(stated, str) and stated:
        if stated.startswith("bids::"):
            return f"bids:{FMRIPREP}:{stated.removeprefix('bids::')}"
        if ":" in stated or stated == "orig":
            return stated
        return f"bids:{FMRIPREP}:{stated}"
    if series.space_label == "T1w":
        images = dataset.files(FMRIPREP, series.participant, suffix="T1w", extensions=(".nii.gz", ".nii"), desc="preproc", space=None)
        in_session = [file for file in images if file.entities.get("ses") == series.entities.get("ses")]
        if images:
            return dataset.bids_uri((in_session or images)[0].path)
    return dataset.bids_uri(series.files[0])
