"""What a store holds, in a few small tables: for a report, and for ``conform-store show``."""

from __future__ import annotations

import pandas as pd

from conform_bids.store.reading import Store

__all__ = ["coverage", "duplicate_groups", "split_sizes"]


def coverage(store: Store) -> pd.DataFrame:
    """People, trials, stimuli, repeats a person (mean), and mean noise ceilings by dataset."""
    trials = store.trials
    by_dataset = trials.groupby("dataset")
    repeats = trials.groupby(["dataset", "participant_id", "content_id"]).size().groupby("dataset").mean()
    table = pd.DataFrame(
        {
            "people": by_dataset["participant_id"].nunique(),
            "trials": by_dataset.size(),
            "stimuli": by_dataset["content_id"].nunique(),
            "repeats": repeats.round(2),
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
    sides = ["train", "test", "artificial"]
    return pd.DataFrame(
        {"split": sides, "stimuli": stimuli.reindex(sides, fill_value=0).to_list(), "trials": trials.reindex(sides, fill_value=0).to_list()}
    )


def duplicate_groups(store: Store) -> pd.DataFrame:
    """Stimuli that are the same, or nearly, as others: content_id, dataset, stim_id, stim_file, mark, split; groups of two and more."""
    columns = ["content_id", "dataset", "stim_id", "stim_file", "mark", "split"]
    repeated = store.stimuli["content_id"].duplicated(keep=False)
    return store.stimuli.loc[repeated, columns].sort_values(columns[:3]).reset_index(drop=True)
