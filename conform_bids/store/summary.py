"""What a store holds, in a few small tables: for a report, and for ``conform-store show``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from conform_bids.bids.sidecars import read_json
from conform_bids.numerics.noise_ceiling import snr_to_ceiling
from conform_bids.stimuli.duplicates import components
from conform_bids.store.catalogue import Float32Array, catalogue_pairs
from conform_bids.store.manifest import read_manifest, version_folder, versions
from conform_bids.store.reading import Store
from conform_bids.store.settings import StoreSettings
from conform_bids.store.verify import kept_features

__all__ = ["SIDES", "coverage", "duplicate_groups", "history", "overlap", "person_ceilings", "split_by_dataset", "split_sizes"]

SIDES = ("train", "test", "artificial")
"""Of a split, in the order in which they are shown."""


def coverage(store: Store) -> pd.DataFrame:
    """People, trials, stimuli, repeats a person (mean and most), and mean noise ceilings by dataset.

    Returns
    -------
    DataFrame
        A row a dataset: dataset, people, trials, stimuli (distinct contents), shared (of them, those that another dataset shows too),
        repeats, most_repeats, ceiling_train, ceiling_test (percent, of averages over all repeats).
    """
    trials = store.trials
    by_dataset = trials.groupby("dataset")
    repeats = trials.groupby(["dataset", "participant_id", "content_id"]).size().groupby("dataset")
    showing = store.stimuli.groupby("content_id")["dataset"].transform("nunique")
    shared = store.stimuli[showing > 1].groupby("dataset")["content_id"].nunique()
    table = pd.DataFrame(
        {
            "people": by_dataset["participant_id"].nunique(),
            "trials": by_dataset.size(),
            "stimuli": by_dataset["content_id"].nunique(),
            "shared": shared.reindex(by_dataset.size().index, fill_value=0),
            "repeats": repeats.mean().round(2),
            "most_repeats": repeats.max(),
        }
    )
    for side in ("train", "test"):
        rows = store.noise_ceilings[(store.noise_ceilings["split"] == side) & (store.noise_ceilings["n_units"] > 0)]
        weighted = rows.assign(total=rows["ceiling_average"] * rows["n_units"]).groupby("dataset")[["total", "n_units"]].sum()
        table[f"ceiling_{side}"] = (weighted["total"] / weighted["n_units"]).reindex(table.index).round(1)
    return table.reset_index()


def split_sizes(store: Store) -> pd.DataFrame:
    """Stimuli (distinct contents) and trials on each side of the split."""
    stimuli = store.stimuli.drop_duplicates("content_id")["split"].value_counts()
    trials = store.trials["split"].value_counts()
    sides = list(SIDES)
    return pd.DataFrame(
        {"split": sides, "stimuli": stimuli.reindex(sides, fill_value=0).to_list(), "trials": trials.reindex(sides, fill_value=0).to_list()}
    )


def split_by_dataset(store: Store) -> pd.DataFrame:
    """Stimuli (distinct contents) and trials on each side of the split, by dataset: a row a dataset and side that has any."""
    split = pd.Categorical(store.trials["split"], categories=SIDES, ordered=True)
    by = store.trials.assign(split=split).groupby(["dataset", "split"], observed=True)
    return by.agg(stimuli=("content_id", "nunique"), trials=("content_id", "size")).reset_index()


def overlap(store: Store) -> pd.DataFrame:
    """Contents that each two datasets both show; on the diagonal, those of each."""
    shows = pd.crosstab(store.stimuli["content_id"], store.stimuli["dataset"]) > 0
    counts = shows.astype(int).T @ shows.astype(int)
    counts.index.name = counts.columns.name = None
    return counts


def duplicate_groups(store: Store) -> pd.DataFrame:
    """Stimuli that are the same, or nearly, as others; groups of two and more.

    Returns
    -------
    DataFrame
        content_id, dataset, stim_id, stim_file, mark, split, and ``found_by``: the criteria (file, pixels, perceptual, embedding) that
        find any pair of the group.
    """
    columns = ["content_id", "dataset", "stim_id", "stim_file", "mark", "split"]
    stimuli = store.stimuli.reset_index(drop=True)
    pairs = catalogue_pairs(stimuli, _settings(store).sameness, kept_features(store.path, store.manifest, stimuli))
    labels = components(len(stimuli), pairs.values())
    criteria: dict[int, list[str]] = {}
    for name, found in pairs.items():
        for label in np.unique(labels[found[:, 0]]).tolist():
            criteria.setdefault(label, []).append(name)
    told = [", ".join(criteria.get(label, ())) for label in labels.tolist()]
    repeated = stimuli["content_id"].duplicated(keep=False)
    return stimuli[columns].assign(found_by=told)[repeated].sort_values(columns[:3]).reset_index(drop=True)


def person_ceilings(store: Store, participant_id: str, split: str) -> Float32Array | None:
    """Noise ceiling of a single trial of each unit, in percent; None where no stimulus of the split repeats."""
    rows = store.noise_ceilings
    if not ((rows["participant_id"] == participant_id) & (rows["split"] == split)).any():
        return None
    return snr_to_ceiling(store.ncsnr(participant_id, split), 1).astype(np.float32)


def history(store: Store) -> pd.DataFrame:
    """Versions up to this one: version, datasets, people, trials, stimuli that each added, and stimuli that changed sides (moved)."""
    rows = []
    for version in versions(store.path):
        diff = read_json(version_folder(store.path, version) / "diff.json")
        rows.append(
            {
                "version": version,
                "datasets": ", ".join(diff["datasets_added"]),
                "people": len(diff["participants_added"]),
                "trials": diff["n_trials_added"],
                "stimuli": diff["n_stimuli_added"],
                "moved": len(diff["stimuli_moved"]),
                "software": str(read_manifest(store.path, version).get("software", "n/a")),
            }
        )
        if version == store.version:
            break
    return pd.DataFrame(rows)


def _settings(store: Store) -> StoreSettings:
    return StoreSettings.from_mapping(store.manifest["settings"])
