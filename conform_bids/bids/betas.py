"""Single-trial betas in a derivative: ``stat-effect`` maps, each with its trial table, and the mask and scale beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids.bids.index import FMRIPREP, BIDSFile, Dataset, Selection
from conform_bids.bids.names import natural_key
from conform_bids.bids.series import Kind, check_content, hemisphere_pair, select_by_filter, select_labels, select_spaces, single_file
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError

__all__ = ["BETA_KINDS", "BetaMaps", "choose_dataset", "find_betas"]

BETA_KINDS: dict[str, Kind] = {".nii.gz": "nifti", ".nii": "nifti", ".dscalar.nii": "cifti", ".func.gii": "gifti"}
_SPACE = ("hemi", "space", "cohort", "res", "den")
_SORT = ("task", "space", "cohort", "res", "den", "desc", "ses", "run")


@dataclass(frozen=True)
class BetaMaps:
    """Betas of one fit in one space.

    Attributes
    ----------
    entities : dict of str to str
        Of the file, without ``hemi``, ``stat`` and ``desc``.
    desc : str
        The model that they are from.
    kind : {'nifti', 'cifti', 'gifti'}
        How the units lie.
    files : tuple of Path
        One file; for gifti the left and the right hemisphere.
    trials : Path
        The trial table: row k is map k.
    mask : Path or None
        Brain mask beside them (nifti only).
    scale : tuple of Path
        ``stat-scale`` map of the same model; empty where there is none.
    metadata : dict
        Of the sidecar.
    """

    entities: dict[str, str]
    desc: str
    kind: Kind
    files: tuple[Path, ...]
    trials: Path
    mask: Path | None
    scale: tuple[Path, ...]
    metadata: dict[str, Any]


def choose_dataset(dataset: Dataset, maker: str) -> str:
    """Name of the derivative to read: the folder that the user named, else the one called ``maker`` or made by it.

    Parameters
    ----------
    maker : str
        Name in GeneratedBy: ``conform-glm``.

    Raises
    ------
    MissingInputError
        When there is none; the message lists the derivatives.
    UsageError
        When there are several.
    """
    for name, root in dataset.derivatives.items():
        if root == dataset.bids_dir and name != FMRIPREP:
            return name
    if maker in dataset.derivatives:
        return maker
    made = [name for name in dataset.derivatives if (dataset.generated_by(name) or "").lower() == maker]
    if len(made) > 1:
        listing = ", ".join(str(dataset.derivatives[name]) for name in made)
        raise UsageError(f"several derivatives of {maker}: {listing}; choose one by -d {maker}=PATH")
    if not made:
        others = f" (other derivatives: {', '.join(dataset.derivatives)})" if dataset.derivatives else ""
        raise MissingInputError(f"{dataset.bids_dir}: no {maker} derivative{others}; run {maker} first, or name it by -d {maker}=PATH")
    return made[0]


def find_betas(dataset: Dataset, name: str, participant: str, selection: Selection) -> list[BetaMaps]:
    """Find the single-trial betas of a participant, sorted by task, space, model and session.

    Parameters
    ----------
    name : str
        Key of the derivative, as of `choose_dataset`.

    Raises
    ------
    MissingInputError
        When nothing matches (the message lists what there is), or a trial table is absent.
    UnusableInputError
        When a hemisphere is missing, or two files claim the same names.
    """
    root = dataset.derivatives[name]
    found = dataset.files(name, participant, suffix="statmap", extensions=tuple(BETA_KINDS), stat="effect")
    if not found:
        reason = "no maps of single-trial betas (*_stat-effect_*_statmap)"
        if not (root / f"sub-{participant}").is_dir():
            reason = f"no folder sub-{participant}"
        raise MissingInputError(f"{root}: {reason} for sub-{participant}")
    files = select_labels(dataset, participant, found, selection, "betas")
    files = select_by_filter(participant, files, selection, "betas", "betas")
    files = select_spaces(dataset, participant, files, selection, BETA_KINDS, "betas")
    groups: dict[tuple[Any, ...], list[BIDSFile]] = {}
    for file in files:
        groups.setdefault((BETA_KINDS[file.extension], *sorted(_without(file, "hemi").items())), []).append(file)
    maps = [_assemble(dataset, name, participant, group) for group in groups.values()]
    return sorted(maps, key=lambda item: [natural_key({**item.entities, "desc": item.desc}.get(key, "")) for key in _SORT])


def _without(file: BIDSFile, *keys: str) -> dict[str, str]:
    return {key: label for key, label in file.entities.items() if key not in keys}


def _assemble(dataset: Dataset, name: str, participant: str, group: Sequence[BIDSFile]) -> BetaMaps:
    kind = BETA_KINDS[group[0].extension]
    files = _pair(kind, group)
    for path in files:
        check_content(path)
    metadata = dataset.sidecar(files[0])
    entities = _without(group[0], "hemi", "stat", "desc")
    desc = group[0].entities.get("desc", "")
    beside = [file for file in dataset.files(name, participant) if _without(file, "hemi", "stat", "desc") == entities]
    mask = [
        file.path
        for file in beside
        if file.suffix == "mask" and file.extension in (".nii.gz", ".nii")
        and file.entities.get("desc") == "brain" and "stat" not in file.entities
    ]  # fmt: skip
    scale = [
        file
        for file in beside
        if file.suffix == "statmap" and file.extension == group[0].extension
        and (file.entities.get("stat"), file.entities.get("desc", "")) == ("scale", desc)
    ]  # fmt: skip
    return BetaMaps(
        entities=entities,
        desc=desc,
        kind=kind,
        files=files,
        trials=_find_trials(dataset, name, participant, files[0], {**entities, "desc": desc}, metadata),
        mask=mask[0] if mask and kind == "nifti" else None,
        scale=_pair(kind, scale) if scale else (),
        metadata=metadata,
    )


def _pair(kind: Kind, group: Sequence[BIDSFile]) -> tuple[Path, ...]:
    return hemisphere_pair(group) if kind == "gifti" else single_file(group)


def _find_trials(dataset: Dataset, name: str, participant: str, betas: Path, entities: dict[str, str], metadata: dict[str, Any]) -> Path:
    """Trial table of betas: what the sidecar says, else the table of the same entities and desc, with or without the space."""
    root, stated = dataset.derivatives[name], metadata.get("TrialTable")
    if isinstance(stated, str) and stated.startswith("bids::"):
        path = Path(root, stated.removeprefix("bids::"))
        if ".." in path.parts or root not in path.parents:
            raise UnusableInputError(f"{betas}: its sidecar names a TrialTable outside of the dataset ({stated})")
        if not path.exists():
            raise MissingInputError(f"{path}: no such file; it is the trial table of {betas.name}")
        return path
    tables = dataset.files(name, participant, suffix="trials", extensions=(".tsv",))
    plain = {key: label for key, label in entities.items() if key not in _SPACE and label}
    full = {key: label for key, label in entities.items() if label}
    for wanted in (full, plain):
        for table in tables:
            if table.entities == wanted:
                return table.path
    raise MissingInputError(f"{betas}: no trial table (a sidecar's TrialTable, or *_trials.tsv of the same entities and desc)")
