"""The aggregated dataset at the level group: everybody's trials in one store, or the split of the stimuli alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from conform_bids.align.settings import AlignSettings
from conform_bids.bids.collection import NamedDataset, named_datasets, open_datasets, read_participants
from conform_bids.bids.parcellations import find_parcellation
from conform_bids.errors import UsageError
from conform_bids.jobs import GroupInputs
from conform_bids.report.store_report import write_store_report
from conform_bids.store.catalogue import Sameness
from conform_bids.store.inputs import DatasetInput, find_inputs, one_space
from conform_bids.store.manifest import latest_version, read_manifest, versions
from conform_bids.store.reading import Store
from conform_bids.store.release import Release, append_release, write_release
from conform_bids.store.settings import StoreSettings
from conform_bids.store.split import find_stimuli_folder, write_split

__all__ = ["aggregate", "find_datasets", "write_only_split"]

_LOGGER = logging.getLogger("nipype.interface")


def find_datasets(inputs: GroupInputs) -> tuple[NamedDataset, ...]:
    """Datasets of a call: those of ``-d NAME=PATH``, else bids_dir, under the name of its folder.

    As `conform_bids.bids.collection.named_datasets` tells them from other derivatives.

    Raises
    ------
    UsageError
        When a derivative belongs to no dataset, or to one of several that is not said.
    """
    named = named_datasets(inputs.derivatives)
    if named:
        return named
    folder = inputs.bids_dir.parent.parent if inputs.bids_dir.parent.name == "derivatives" else inputs.bids_dir
    name = "".join(letter for letter in folder.name if letter.isascii() and letter.isalnum())
    return (NamedDataset(name or "dataset", inputs.bids_dir, dict(inputs.derivatives)),)


def aggregate(output_dir: Path, settings: AlignSettings, inputs: GroupInputs, seed: int, about: Mapping[str, str]) -> list[Path]:
    """Write a store to ``output_dir/store``, or add to the one that is there the datasets that it lacks; and its report.

    Returns
    -------
    list of Path
        The folder of the store, and its page.

    Raises
    ------
    UsageError
        When names clash, or the store that is there holds other betas.
    UnusableInputError, MissingInputError
        Naming the file, when an input cannot be used.
    """
    store, datasets = output_dir / "store", find_datasets(inputs)
    maker = f"conform-{settings.store_source}"
    if len(datasets) > 1 and maker in inputs.derivatives:
        raise UsageError(f"--derivatives {maker}: of which of {', '.join(each.name for each in datasets)}? Write NAME.{maker}=PATH")
    known = _known(store, settings) if versions(store) and not inputs.overwrite else []
    chosen = _chosen(inputs)
    found = []
    for dataset in datasets:
        if dataset.name in known:
            _LOGGER.info("the store holds %s already", dataset.name)
        elif chosen is None or dataset.name in chosen:
            people = inputs.participants if chosen is None else chosen[dataset.name]
            found.append(_find_people(dataset, output_dir, settings, inputs, people))
    if found:
        marks, features = _split_file(settings), settings.store_features
        if known:
            _tell(append_release(store, found, split=marks, features=features))
        else:
            own = StoreSettings(source=settings.store_source, sameness=Sameness(threshold=settings.store_threshold), seed=seed)
            parcels = _parcels(settings, found)
            _tell(write_release(found, store, own, split=marks, features=features, parcellation=parcels, overwrite=inputs.overwrite))
    folders = {each.name: find_stimuli_folder(each.derivatives.get("raw", each.path)) for each in datasets}
    folders |= {dataset.name: dataset.stimuli_dir for dataset in found if dataset.stimuli_dir is not None}
    return [store, write_store_report(store, output_dir / "group_store.html", stimuli=folders, about=about)]


def _chosen(inputs: GroupInputs) -> dict[str, tuple[str, ...]] | None:
    """People who were asked for, by dataset, as each calls them; None where nobody was, or datasets have no names."""
    if not inputs.participants or not named_datasets(inputs.derivatives):
        return None
    opened = open_datasets(inputs.bids_dir, inputs.derivatives, inputs.participants)
    return {str(dataset.name): dataset.participants for dataset in opened}


def _find_people(
    dataset: NamedDataset, output_dir: Path, settings: AlignSettings, inputs: GroupInputs, participants: Sequence[str]
) -> DatasetInput:
    """People of a dataset, with what is to be stored of them: aligned responses are those of this output folder, where it has any."""
    source, name, raw = settings.store_source, dataset.name, dataset.derivatives.get("raw")
    place = dataset.derivatives.get(f"conform-{source}")
    if source == "align" and place is None:
        is_named = name in inputs.derivatives
        aligned = _aligned_people(output_dir, name, [each.name for each in find_datasets(inputs)]) if is_named else _aligned(output_dir)
        people = sorted(label for label, original in aligned.items() if not participants or original in participants)
        folder = find_stimuli_folder(dataset.path)
        root = raw or (folder.parent if folder is not None else None)
        if people:
            return find_inputs(
                name, output_dir, source=source, selection=inputs.selection, participants=people, raw=root, prefix=not is_named
            )
    return find_inputs(name, place or dataset.path, source=source, selection=inputs.selection, participants=participants, raw=raw)


def _aligned(output_dir: Path) -> dict[str, str]:
    """People who have a map to a template, as they are called here."""
    folders = [folder for folder in output_dir.glob("sub-*") if any(folder.rglob("*_mode-function_desc-*_xfm.h5"))]
    labels = [folder.name.removeprefix("sub-") for folder in folders]
    return dict(zip(labels, labels, strict=True))


def _aligned_people(output_dir: Path, name: str, names: Sequence[str]) -> dict[str, str]:
    """Those of a named dataset, and as it calls them: by participants.tsv, else by their labels."""
    known = read_participants(output_dir)
    people = {}
    for label in _aligned(output_dir):
        owner = _owner(label, names)
        dataset, original = known.get(f"sub-{label}", (owner, label.removeprefix(owner)))
        if dataset == name:
            people[label] = original.removeprefix("sub-")
    return people


def _owner(label: str, names: Sequence[str]) -> str:
    """Dataset whose name a label begins with; the longest, as names may begin alike."""
    return max((name for name in names if label.startswith(name)), key=len, default="")


def _known(store: Path, settings: AlignSettings) -> list[str]:
    """Datasets of the store that is there."""
    kept = read_manifest(store, latest_version(store))["settings"]
    source, threshold = kept["source"], kept["sameness"]["threshold"]
    if settings.store_threshold not in (None, threshold):
        raise UsageError(
            f"{store}: a store of threshold {threshold}, and {settings.store_threshold} is asked for; --overwrite makes it anew"
        )
    if source != settings.store_source:
        raise UsageError(
            f"{store}: a store of --store-source {source}, and {settings.store_source} is asked for; use another output folder"
        )
    return sorted(set(Store(store).participants["dataset"].astype(str)))


def _parcels(settings: AlignSettings, found: Sequence[DatasetInput]) -> tuple[Path, ...]:
    """Atlas of the noise ceilings, where ``--parcellation`` names one; else they are of structures or hemispheres."""
    if settings.parcellation in ("auto", "whole", "clusters"):
        return ()
    labels = one_space(found)
    return find_parcellation(settings.parcellation, labels["kind"], labels, "--parcellation")


def _split_file(settings: AlignSettings) -> Path | None:
    """File of ``--split``.

    Raises
    ------
    UsageError
        When it is a column: a store takes what the column ``split`` of the trial tables says, and marks of a file.
    """
    if settings.split is None:
        return None
    if not Path(settings.split).is_file():
        raise UsageError(f"--split {settings.split}: a store and its split take a file with columns stim_id and split, or no --split")
    return Path(settings.split)


def _tell(release: Release) -> None:
    _LOGGER.info("store: version %s, %d trials added", release.version, release.diff["n_trials_added"])
    for note in release.notes:
        _LOGGER.warning("store: %s", note)


def write_only_split(output_dir: Path, settings: AlignSettings, inputs: GroupInputs, seed: int) -> list[Path]:
    """Write ``split.tsv`` of the stimuli of all datasets; the files."""
    output_dir.mkdir(parents=True, exist_ok=True)
    datasets = find_datasets(inputs)
    result = write_split(
        {dataset.name: dataset.path for dataset in datasets},
        output_dir,
        Sameness(threshold=settings.store_threshold),
        seed=seed,
        split=_split_file(settings),
        features=settings.store_features,
        raw={dataset.name: dataset.derivatives["raw"] for dataset in datasets if "raw" in dataset.derivatives},
    )
    return [Path(path) for path in result.files]
