"""The aggregated dataset at the level group: everybody's trials in one store, or the split of the stimuli alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from conform_bids.align.settings import AlignSettings
from conform_bids.errors import UsageError
from conform_bids.jobs import GroupInputs
from conform_bids.report.store_report import write_store_report
from conform_bids.store.inputs import clean_name, find_inputs
from conform_bids.store.manifest import latest_version, read_manifest, versions
from conform_bids.store.reading import Store
from conform_bids.store.release import Release, append_release, write_release
from conform_bids.store.settings import StoreSettings
from conform_bids.store.split import find_stimuli_folder, write_split

__all__ = ["aggregate", "find_datasets", "write_only_split"]

_LOGGER = logging.getLogger("nipype.interface")


def find_datasets(inputs: GroupInputs) -> dict[str, Path]:
    """Datasets of a call, by name: those of ``-d NAME=PATH``, else bids_dir, under the name of its folder.

    ``raw``, and names of what made a derivative (``conform-glm``), are no datasets of their own.
    """
    named = {name: path for name, path in inputs.derivatives.items() if clean_name(name) and name != "raw"}
    if named:
        return named
    folder = inputs.bids_dir.parent.parent if inputs.bids_dir.parent.name == "derivatives" else inputs.bids_dir
    name = "".join(character for character in folder.name if character.isascii() and character.isalnum())
    return {name or "dataset": inputs.bids_dir}


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
    known = _known(store, settings) if versions(store) else []
    found = []
    for name, path in datasets.items():
        if name in known:
            _LOGGER.info("the store holds %s already", name)
            continue
        raw = inputs.derivatives.get("raw")
        place = inputs.derivatives.get(f"conform-{settings.store_source}", path) if len(datasets) == 1 else path
        found.append(find_inputs(name, place, source=settings.store_source, participants=inputs.participants, raw=raw))
    if found:
        own = StoreSettings(source=settings.store_source, seed=seed)
        _tell(append_release(store, found) if known else write_release(found, store, own))
    folders = {name: find_stimuli_folder(path) for name, path in datasets.items()}
    folders |= {dataset.name: dataset.stimuli_dir for dataset in found if dataset.stimuli_dir is not None}
    return [store, write_store_report(store, output_dir / "group_store.html", stimuli=folders, about=about)]


def _known(store: Path, settings: AlignSettings) -> list[str]:
    """Datasets of the store that is there."""
    source = read_manifest(store, latest_version(store))["settings"]["source"]
    if source != settings.store_source:
        raise UsageError(
            f"{store}: a store of --store-source {source}, and {settings.store_source} is asked for; use another output folder"
        )
    return sorted(set(Store(store).participants["dataset"].astype(str)))


def _tell(release: Release) -> None:
    _LOGGER.info("store: version %s, %d trials added", release.version, release.diff["n_trials_added"])
    for note in release.notes:
        _LOGGER.warning("store: %s", note)


def write_only_split(output_dir: Path, inputs: GroupInputs, seed: int) -> list[Path]:
    """Write ``split.tsv`` of the stimuli of all datasets; the files."""
    output_dir.mkdir(parents=True, exist_ok=True)
    result = write_split(find_datasets(inputs), output_dir, seed=seed)
    return [Path(path) for path in result.files]
