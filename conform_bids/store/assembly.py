"""The tables of a version: trials of the new datasets joined to the catalogue of all stimuli, and what is counted of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.bids.tables import read_tsv
from conform_bids.numerics.noise_ceiling import snr_to_ceiling
from conform_bids.stimuli.splitting import HELD_OUT
from conform_bids.store.catalogue import Float32Array, build_catalogue, catalogue_components, place_stimuli
from conform_bids.store.grid import read_parcels
from conform_bids.store.inputs import DatasetInput, ParticipantInput, read_fit_trials
from conform_bids.store.participants import WrittenParticipant
from conform_bids.store.settings import StoreSettings
from conform_bids.store.tables import TABLES

__all__ = ["Draft", "assemble", "ceiling_rows", "fit_rows", "participant_row", "table_of"]


@dataclass(frozen=True, eq=False)
class Draft:
    """Tables before betas are written.

    Attributes
    ----------
    trials : DataFrame
        Of the new datasets, with ``source`` (place of the fit) beside the columns of the table.
    former_trials : DataFrame
        Of earlier versions, their content and split as they are now.
    stimuli : DataFrame
        All.
    features : (stimuli, d) float32 array or None
    duplicates : dict of str to int
        Pairs by criterion.
    leaky_fits : dict
        By (participant, place of the fit): held-out stimuli that the fit could use.
    """

    trials: pd.DataFrame
    former_trials: pd.DataFrame
    stimuli: pd.DataFrame
    features: Float32Array | None
    duplicates: dict[str, int]
    leaky_fits: dict[tuple[str, int], int]


def assemble(
    datasets: Sequence[DatasetInput],
    settings: StoreSettings,
    version: str,
    *,
    marks: Mapping[tuple[str | None, str], str],
    former: Mapping[str, pd.DataFrame],
    features: Callable[[pd.DataFrame], Float32Array | None],
) -> Draft:
    """Read the trial tables of new datasets, and place their stimuli among all.

    Parameters
    ----------
    marks : mapping
        Of a split file.
    former : mapping of str to DataFrame
        Tables of the version before; empty for the first.
    features : callable
        Gives the features of a catalogue.
    """
    trials = pd.concat(
        [_person_trials(dataset.name, person, settings) for dataset in datasets for person in dataset.participants], ignore_index=True
    )
    shown = trials[["dataset", "participant_id", "stim_id"]].assign(split=trials["source_split"])
    folders = {dataset.name: dataset.stimuli_dir for dataset in datasets}
    new = build_catalogue(shown, folders, _known(datasets), marks, version)
    stimuli = pd.concat([former["stimuli"], new], ignore_index=True) if former else new
    values = features(stimuli)
    labels, duplicates = catalogue_components(stimuli, settings.sameness, values)
    stimuli = place_stimuli(stimuli, labels, test_fraction=settings.test_fraction, seed=settings.seed)
    trials = _placed(trials, stimuli).assign(version=version)
    trials["in_statistics"] = ~trials["split"].isin(HELD_OUT) & (trials["flag"] == "n/a")
    former_trials = _placed(former["trials"], stimuli) if former else trials.iloc[:0]
    leaky = {
        (f"sub-{person.label}", place): _fitted_test(trials, person, place)
        for dataset in datasets
        for person in dataset.participants
        for place in range(len(person.fits))
    }
    return Draft(trials, former_trials[list(TABLES["trials"])], stimuli, values, duplicates, leaky)


def _person_trials(dataset: str, person: ParticipantInput, settings: StoreSettings) -> pd.DataFrame:
    """All trials of a participant, fit after fit, with the group that each is z-scored in."""
    frames = []
    for place, fit in enumerate(person.fits):
        frame = read_fit_trials(fit).rename(columns={"split": "source_split"})
        frames.append(frame.assign(source=place, task_id=fit.entities.get("task", "n/a")))
    joined = pd.concat(frames, ignore_index=True)
    keys = list(zip(joined["source"], joined["session_id"] if settings.zscore == "session" else joined["source"], strict=True))
    group = pd.factorize(pd.Series(keys))[0]
    return joined.assign(participant_id=f"sub-{person.label}", dataset=dataset, row=np.arange(len(joined)), group=group)


def _known(datasets: Sequence[DatasetInput]) -> pd.DataFrame:
    """What the participants' own tables say of stimuli: file and hash."""
    columns = ["dataset", "stim_id", "stim_file", "sha256"]
    frames = [pd.DataFrame(columns=columns, dtype=object)]
    for dataset in datasets:
        for person in dataset.participants:
            if person.stimuli is not None:
                table = read_tsv(person.stimuli, required=("stim_id",), quoted=False).assign(dataset=dataset.name)
                frames.append(table.reindex(columns=columns).fillna("n/a"))
    return pd.concat(frames, ignore_index=True)


def _placed(trials: pd.DataFrame, stimuli: pd.DataFrame) -> pd.DataFrame:
    """Trials with the content and the split of their stimuli, repetitions counted anew by content."""
    place = stimuli.set_index(["dataset", "stim_id"])[["content_id", "split"]]
    found = place.loc[pd.MultiIndex.from_arrays([trials["dataset"], trials["stim_id"]])]
    placed = trials.assign(content_id=found["content_id"].to_numpy(), split=found["split"].to_numpy())
    return placed.assign(repetition=placed.groupby(["participant_id", "content_id"]).cumcount())


def _fitted_test(trials: pd.DataFrame, person: ParticipantInput, place: int) -> int:
    """Held-out stimuli that a fit could use: those that its own table did not hold out, or all where the fit says so or nothing."""
    rows = trials[(trials["participant_id"] == f"sub-{person.label}") & (trials["source"] == place)]
    held_out = rows[rows["split"].isin(HELD_OUT)]
    if person.fits[place].metadata.get("FitIncludesTest") is False:
        held_out = held_out[~held_out["source_split"].isin(HELD_OUT)]
    return int(held_out["content_id"].nunique())


def participant_row(dataset: str, person: ParticipantInput, rows: pd.DataFrame, file: str, version: str) -> dict[str, Any]:
    """Row of the table of participants."""
    counts = rows["split"].value_counts()
    return {
        "participant_id": f"sub-{person.label}",
        "dataset": dataset,
        "original_id": f"sub-{person.original}",
        "file": file,
        "n_trials": len(rows),
        **{f"n_{side}": int(counts.get(side, 0)) for side in ("train", "test", "artificial")},
        "n_stimuli": rows["content_id"].nunique(),
        "version": version,
    }


def fit_rows(person: ParticipantInput, rows: pd.DataFrame, written: WrittenParticipant, draft: Draft) -> list[dict[str, Any]]:
    """Rows of the table of fits: one a group that was z-scored together."""
    found = []
    for group, trials in rows.groupby("group", sort=True):
        place = int(trials["source"].iloc[0])
        number = int(str(group))
        fit = person.fits[place]
        found.append(
            {
                "participant_id": f"sub-{person.label}",
                "group": number,
                "session_id": ",".join(dict.fromkeys(trials["session_id"])),
                "task_id": fit.entities.get("task", "n/a"),
                "n_trials": len(trials),
                "n_statistics": int(written.n_statistics[number]),
                "statistics": "own" if written.own[number] else "participant",
                "n_test_in_statistics": 0,
                "n_test_in_fit": draft.leaky_fits[(f"sub-{person.label}", place)],
                "desc": fit.desc,
                "source": fit.source,
            }
        )
    return found


def ceiling_rows(
    dataset: str, person: ParticipantInput, rows: pd.DataFrame, written: WrittenParticipant, parcels: Path, version: str
) -> list[dict[str, Any]]:
    """Rows of the table of noise ceilings: one a parcel and split."""
    labels, names = read_parcels(parcels)
    found = []
    for side, ncsnr in written.ncsnr.items():
        counts = rows[rows["split"] == side]["content_id"].value_counts().to_numpy()
        single, average = snr_to_ceiling(ncsnr, 1), snr_to_ceiling(ncsnr, counts)
        for number, name in enumerate(names):
            units = (labels == number) & np.isfinite(ncsnr)
            found.append(
                {
                    "participant_id": f"sub-{person.label}",
                    "dataset": dataset,
                    "split": side,
                    "parcel": name,
                    "n_units": int(units.sum()),
                    "n_repeated": int((counts > 1).sum()),
                    "ncsnr": _mean(ncsnr[units]),
                    "ceiling_single": _mean(single[units]),
                    "ceiling_average": _mean(average[units]),
                    "version": version,
                }
            )
    return found


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def table_of(name: str, former: Mapping[str, pd.DataFrame], rows: Sequence[Mapping[str, Any]], draft: Draft) -> pd.DataFrame:
    """Rows of earlier versions, with what changed about them, and the new ones."""
    new = pd.DataFrame(list(rows), columns=list(TABLES[name]))
    if not former:
        return new
    before = former[name].copy()
    trials = draft.former_trials
    if name == "participants":
        counts = trials.groupby(["participant_id", "split"]).size().unstack(fill_value=0).reindex(before["participant_id"])
        for side in ("train", "test", "artificial"):
            before[f"n_{side}"] = counts[side].to_numpy() if side in counts else 0
    if name == "fits":
        stale = trials[trials["in_statistics"] & trials["split"].isin(HELD_OUT)].groupby(["participant_id", "group"]).size()
        keys = pd.MultiIndex.from_arrays([before["participant_id"], before["group"]])
        before["n_test_in_statistics"] = stale.reindex(keys, fill_value=0).to_numpy()
    return pd.concat([before, new], ignore_index=True) if len(new) else before
