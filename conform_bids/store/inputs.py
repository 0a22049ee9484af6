"""What goes into a release: datasets, their participants, and the files of betas of each; found in derivatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.bids.betas import BetaMaps, choose_dataset, find_betas
from conform_bids.bids.index import Dataset, open_dataset
from conform_bids.bids.names import clean_label
from conform_bids.bids.selection import NATIVE_SPACE, Selection
from conform_bids.bids.splits import check_split
from conform_bids.bids.tables import read_tsv
from conform_bids.bids.trials import TRIAL_COLUMNS, read_trials
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError

__all__ = ["SOURCES", "DatasetInput", "FitInput", "ParticipantInput", "find_inputs", "one_space", "read_fit_trials"]

SOURCES = {"glm": "conform-glm", "psn": "conform-psn", "align": "conform-align"}
"""What betas are taken from, and the app that makes them."""
PREFERRED = {
    "glm": ("conform", "fithrfdenoiserr", "fithrf"),
    "psn": ("psn",),
    "align": ("stack", "psrm", "srm", "procrustes", "ridge", "none"),
}
NATIVE_SPACES = frozenset({NATIVE_SPACE, "T1w", "T2w", "fsnative", "individual", "orig"})


@dataclass(frozen=True)
class FitInput:
    """Betas of one fit.

    Attributes
    ----------
    files : tuple of Path
        One file, or the left and the right hemisphere's.
    kind : str
        nifti, cifti or gifti.
    trials : Path
        Row k is map k.
    mask : Path or None
    entities : dict
        Of the file, without ``hemi``, ``stat`` and ``desc``.
    desc : str
        Model.
    source : str
        BIDS URI of the betas.
    metadata : dict
        Of the sidecar.
    """

    files: tuple[Path, ...]
    kind: str
    trials: Path
    mask: Path | None
    entities: dict[str, str]
    desc: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ParticipantInput:
    """A participant: ``label`` in the store, ``original`` in its dataset, the fits in order, and the table of its stimuli, if any."""

    label: str
    original: str
    fits: tuple[FitInput, ...]
    stimuli: Path | None = None


@dataclass(frozen=True)
class DatasetInput:
    """A dataset.

    Attributes
    ----------
    name : str
    participants : tuple of ParticipantInput
    stimuli_dir : Path or None
        Folder of its stimuli, where it is at hand.
    license : str or None
        That it states.
    left_out : tuple of str
        Why others of its participants are not there.
    """

    name: str
    participants: tuple[ParticipantInput, ...]
    stimuli_dir: Path | None = None
    license: str | None = None
    left_out: tuple[str, ...] = ()


def find_inputs(
    name: str,
    path: str | Path,
    *,
    source: str = "glm",
    desc: str | None = None,
    selection: Selection | None = None,
    participants: Sequence[str] = (),
    raw: str | Path | None = None,
    prefix: bool = True,
) -> DatasetInput:
    """Find the betas of a dataset.

    Parameters
    ----------
    name : str
        Of the dataset, as in ``-d NAME=PATH``.
    path : path
        A derivative, or a raw dataset that holds one.
    source : {'glm', 'psn', 'align'}
        Whose betas.
    desc : str, optional
        Which model; by default the app's own where there are several.
    participants : sequence of str
        Labels to take; by default all who have betas.
    raw : path, optional
        The raw dataset, for its ``stimuli/``; by default that which the derivative names.
    prefix : bool
        Whether participants become ``<name><label>``. False where the derivative calls them so already.

    Raises
    ------
    UnusableInputError, MissingInputError, UsageError
        When it is no dataset, holds no betas, or several models or spaces to choose from.
    """
    if source not in SOURCES:
        raise UsageError(f"source {source!r} is not one of {', '.join(SOURCES)}")
    if not clean_name(name):
        raise UsageError(f"{name!r}: the name of a dataset is made of letters and digits")
    beside = {"raw": raw} if raw is not None else None
    dataset = open_dataset(path, derivatives=beside, participants=participants, reads=(SOURCES[source],))
    chosen = choose_dataset(dataset, SOURCES[source])
    root = dataset.derivatives[chosen]
    found: list[ParticipantInput] = []
    missing: list[MissingInputError] = []
    for label in dataset.participants:
        try:
            maps = _one_model(find_betas(dataset, chosen, label, selection or Selection()), source, desc, root)
        except MissingInputError as error:
            if participants:
                raise
            missing.append(error)
            continue
        stimuli = root / "stimuli" / f"sub-{label}_stimuli.tsv"
        found.append(
            ParticipantInput(
                label=clean_label(name + label) if prefix else label,
                original=label if prefix else label.removeprefix(name),
                fits=tuple(_fit(dataset, chosen, name, item) for item in maps),
                stimuli=stimuli if stimuli.is_file() else None,
            )
        )
    if missing and not found:
        raise missing[0]
    folder = dataset.raw / "stimuli" if dataset.raw is not None else None
    at_hand = folder if folder is not None and folder.is_dir() else None
    return DatasetInput(name, tuple(found), at_hand, _license(dataset, root), tuple(f"{error}; left out" for error in missing))


def clean_name(name: str) -> bool:
    """Whether a dataset can be called so."""
    return name.isascii() and name.isalnum()


def _one_model(maps: Sequence[BetaMaps], source: str, desc: str | None, root: Path) -> list[BetaMaps]:
    there = list(dict.fromkeys(item.desc for item in maps))
    wanted = desc
    if wanted is None:
        wanted = there[0] if len(there) == 1 else next((name for name in PREFERRED[source] if name in there), None)
    if wanted is None:
        raise UsageError(f"{root}: several models ({', '.join(there)}); choose one")
    kept = [item for item in maps if item.desc == wanted]
    if not kept:
        raise MissingInputError(f"{root}: no betas of desc-{wanted}; there are {', '.join(there)}")
    return kept


def _fit(dataset: Dataset, chosen: str, name: str, item: BetaMaps) -> FitInput:
    uri = dataset.bids_uri(item.files[0]).replace(f"bids:{chosen}:", f"bids:{name}:", 1)
    return FitInput(item.files, item.kind, item.trials, item.mask, item.entities, item.desc, uri, item.metadata)


def _license(dataset: Dataset, root: Path) -> str | None:
    from conform_bids.bids.derivatives import source_dataset

    places = [dataset.raw, root] if dataset.raw is not None else [root]
    return next((found.license for found in (source_dataset("d", place) for place in places) if found.license), None)


def one_space(datasets: Iterable[DatasetInput]) -> dict[str, str]:
    """Entities (space, res, den, cohort) and ``kind`` of the one space that all betas are in.

    Raises
    ------
    UsageError
        When there are several; they are listed.
    UnusableInputError
        When it is a native one, which several people cannot share.
    """
    people: set[str] = set()
    spaces: dict[tuple[str, tuple[tuple[str, str], ...]], FitInput] = {}
    for dataset in datasets:
        for person in dataset.participants:
            people.add(person.label)
            for fit in person.fits:
                labels = {key: fit.entities[key] for key in ("space", "cohort", "res", "den") if key in fit.entities}
                spaces.setdefault((fit.kind, tuple(labels.items())), fit)
    if not spaces:
        raise MissingInputError("no betas at all")
    if len(spaces) > 1:
        listing = ", ".join("_".join(f"{key}-{label}" for key, label in labels) + f" ({kind})" for kind, labels in spaces)
        raise UsageError(f"the store holds one space, and the betas are in several: {listing}; choose one by --output-spaces")
    kind, found = next(iter(spaces))
    space = dict(found).get("space", NATIVE_SPACE)
    if space in NATIVE_SPACES and len(people) > 1:
        raise UnusableInputError(f"space {space} is each participant's own, so {len(people)} people cannot share a store in it")
    return {"kind": kind, "space": space, **dict(found)}


def read_fit_trials(fit: FitInput) -> pd.DataFrame:
    """The trial table of a fit; conditions (of conform-psn) become rows of one averaged response each.

    Returns
    -------
    DataFrame
        Columns of a trial table, and ``n_averaged``.

    Raises
    ------
    MissingInputError, UnusableInputError
    """
    table = read_tsv(fit.trials, required=("stim_id",), quoted=False)
    if "trial" in table.columns:
        frame = read_trials(fit.trials)
        frame["split"] = [check_split(fit.trials, line, value) for line, value in zip(table.index, frame["split"], strict=True)]
        frame["n_averaged"] = 1
    else:
        if "split" not in table.columns or "n_trials" not in table.columns:
            raise UnusableInputError(f"{fit.trials}: neither a table of trials nor one of conditions")
        n = len(table)
        values: dict[str, Any] = {"trial": np.arange(n), "onset": [np.nan] * n, "duration": [np.nan] * n, "repetition": [0] * n}
        values |= {"condition": np.arange(n), "stim_id": table["stim_id"].fillna("n/a")}
        values["split"] = [check_split(fit.trials, line, value) for line, value in zip(table.index, table["split"], strict=True)]
        columns = {key: pd.Series(list(values.get(key, ["n/a"] * n)), dtype=kind) for key, kind in TRIAL_COLUMNS.items()}
        frame = pd.DataFrame(columns)
        try:
            frame["n_averaged"] = table["n_trials"].astype("int64").to_numpy()
        except (TypeError, ValueError) as error:
            raise UnusableInputError(f"{fit.trials}: column n_trials: {error}") from error
    session = fit.entities.get("ses")
    if session is not None:
        frame["session_id"] = [session if label == "n/a" else label for label in frame["session_id"]]
    return frame
