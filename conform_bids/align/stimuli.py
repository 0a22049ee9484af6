"""Which stimuli of different people are the same: those whose files are, else those of one name in one dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.splits import HELD_OUT
from conform_bids.errors import UnusableInputError

__all__ = ["SharedStimuli", "identities", "share_names", "share_stimuli"]


def identities(conditions: pd.DataFrame, known: Mapping[str, str] | None = None, dataset: str = "") -> list[str]:
    """Identity of each condition: the SHA-256 of its file, else its name in its dataset.

    Parameters
    ----------
    known : mapping, optional
        SHA-256 by stim_id of the same dataset, for tables of people whose stimulus files were not at hand.
    dataset : str
        Name of the dataset, where there are several: their names of stimuli mean nothing to each other.
    """
    place = f"{dataset}:" if dataset else ""
    found = []
    for stim_id, content in zip(conditions["stim_id"], conditions["content_id"], strict=True):
        digest = content if content != "n/a" else (known or {}).get(stim_id, "n/a")
        found.append(f"sha256:{digest}" if digest != "n/a" else f"stim_id:{place}{stim_id}")
    return found


@dataclass(frozen=True, eq=False)
class SharedStimuli:
    """Stimuli that two people or more have seen.

    Attributes
    ----------
    names : tuple of str
        Identities, sorted.
    rows : sequence of (int array, int array)
        A pair a person: rows of the person's conditions, and the place of each in ``names``. A stimulus of which a person has several
        conditions (the same file under two names) counts once, by its first.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]], ...]


def share_stimuli(
    tables: Sequence[pd.DataFrame], includes_test: bool, datasets: Sequence[str] | None = None
) -> tuple[SharedStimuli, SharedStimuli]:
    """Stimuli to fit on, and held-out ones.

    Parameters
    ----------
    tables : sequence of DataFrame
        Conditions of each person: stim_id, split, content_id.
    includes_test : bool
        Fit on held-out stimuli, too; the second of the pair stays the same.
    datasets : sequence of str, optional
        Of each person; by default all are of one.

    Returns
    -------
    fitted, held_out : SharedStimuli
        A stimulus that is held out for anybody is held out for all.

    Raises
    ------
    UnusableInputError
        When a stimulus name stands for different files in one dataset.
    """
    of = [""] * len(tables) if datasets is None else list(datasets)
    known: dict[str, dict[str, str]] = {dataset: {} for dataset in of}
    for table, dataset in zip(tables, of, strict=True):
        for stim_id, content in zip(table["stim_id"], table["content_id"], strict=True):
            if content != "n/a" and known[dataset].setdefault(stim_id, content) != content:
                raise UnusableInputError(f"stimulus {stim_id!r} is of different content in different people, by the SHA-256 of its files")
    names = [identities(table, known[dataset], dataset) for table, dataset in zip(tables, of, strict=True)]
    held = {
        name for table, own in zip(tables, names, strict=True) for name, split in zip(own, table["split"], strict=True) if split in HELD_OUT
    }
    shared = _of_two(names)
    return _listed(names, shared if includes_test else shared - held), _listed(names, shared & held)


def share_names(names: Sequence[Sequence[str]]) -> SharedStimuli:
    """What two people or more have, of anything by name: features of encoding models."""
    return _listed(names, _of_two(names))


def _of_two(names: Sequence[Sequence[str]]) -> set[str]:
    every = [set(own) for own in names]
    return {name for own in every for name in own if sum(name in other for other in every) > 1}


def _listed(names: Sequence[Sequence[str]], wanted: set[str]) -> SharedStimuli:
    order = tuple(sorted(wanted))
    place = {name: index for index, name in enumerate(order)}
    rows = []
    for own in names:
        first: dict[int, int] = {}
        for row, name in enumerate(own):
            if name in place:
                first.setdefault(place[name], row)
        places = np.array(sorted(first), dtype=np.intp)
        rows.append((np.array([first[index] for index in places], dtype=np.intp), places))
    return SharedStimuli(order, tuple(rows))
