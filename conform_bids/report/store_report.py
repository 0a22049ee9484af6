"""The report of a store: what it holds, how it is split, its noise ceilings, and the stimuli that were found to be the same.

The page shows small images of stimuli, which may not be passed on as the store is; so it lies beside the store and is no part of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conform_bids.bids.spaces import Space
from conform_bids.report import figures as draw
from conform_bids.report.page import Cell, Facts, Figure, Item, Note, Number, Section, Table, Text, write_page
from conform_bids.report.store_figures import CRITERIA, SameStimuli, plot_same_stimuli, plot_trials
from conform_bids.store.catalogue import find_stimulus_file
from conform_bids.store.manifest import MANIFEST, file_sha256, version_folder
from conform_bids.store.reading import Store
from conform_bids.store.summary import SIDES, coverage, duplicate_groups, history, overlap, person_ceilings, split_by_dataset, split_sizes
from conform_bids.store.verify import stimulus_leaks
from conform_bids.wording import counted

__all__ = ["write_store_report"]

ROWS_A_FIGURE = 8
MOST_SHOWN = 24
"""Groups of the same stimuli that are shown as images; those that the split had to bring together come first."""
MOST_LISTED = 300
MOST_PARCELS = 60


def write_store_report(
    store: str | Path,
    path: str | Path,
    *,
    version: str | None = None,
    stimuli: Mapping[str, Path | None] | None = None,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of a version of a store as one HTML page with all figures inside.

    Parameters
    ----------
    store : path
    path : path
        Of the page.
    version : str, optional
        By default the latest.
    stimuli : mapping of str to Path or None, optional
        Folder ``stimuli/`` of each dataset, for the images of stimuli that are the same; without it names alone are listed.
    about : mapping, optional
        Versions and the like, for the end of the page.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    MissingInputError, UnusableInputError
        When there is no store, or a file of it is missing or broken.
    """
    opened = Store(store, version)
    digest = file_sha256(version_folder(opened.path, opened.version) / MANIFEST)
    with tempfile.TemporaryDirectory(prefix="conform-report-") as folder:
        sections = [
            _overview(opened, Path(folder)),
            _split(opened),
            _ceilings(opened, Path(folder)),
            _duplicates(opened, stimuli or {}, Path(folder)),
            _versions(opened),
            Section("How it was made", "methods", [Text(describe_store(opened))]),
        ]
        people = len(opened.participants)
        return write_page(
            Path(path),
            title=opened.manifest["settings"]["name"],
            subtitle=f"A store of {counted(people, 'person', 'people')}, version {opened.version}",
            sections=sections,
            about={**(about or {}), "Version of the store": opened.version, "SHA-256 of its manifest": digest},
            errors=(),
        )


def _overview(store: Store, folder: Path) -> Section:
    table = coverage(store)
    licences = {str(entry["name"]): entry.get("license") or "n/a" for entry in store.manifest["datasets"]}
    size = sum(record["bytes"] for record in store.manifest["files"].values())
    space = store.manifest["grid"]["space"]
    facts = Facts(
        [
            ("Datasets", f"{len(table)}", ""),
            ("People", f"{len(store.participants):,}", ""),
            ("Trials", f"{len(store.trials):,}", ""),
            ("Stimuli", f"{store.stimuli['content_id'].nunique():,}", f"by content; {counted(len(store.stimuli), 'name')}"),
            ("Units", f"{store.n_units:,}", f"space {space}"),
            ("Size", f"{size / 1e9:,.1f} GB" if size > 1e9 else f"{size / 1e6:,.1f} MB", "all versions"),
        ]
    )
    table = table.assign(licence=[licences.get(str(name), "n/a") for name in table["dataset"]])
    columns = {"dataset": "Dataset", "people": "People", "trials": "Trials", "stimuli": "Stimuli", "shared": "Shared"}
    columns |= {"repeats": "Repeats", "most_repeats": "Most repeats", "licence": "Licence"}
    caption = (
        "Stimuli are counted by content; shared are those that another dataset shows, too. Repeats: how often a person saw a stimulus, "
        "on average and at most."
    )
    figure = Figure(
        plot_trials(store.trials, folder / "trials.svg"),
        "Trials by side of the split, in the order in which people joined. Somebody without test trials can be in no score.",
        "Bars of the numbers of train, test and artificial trials",
        "Trials of each person" if len(store.participants) <= 60 else "Trials of each dataset",
    )
    return Section("Coverage", "coverage", [facts, *_warnings(store), _table(table, columns, caption), figure])


def _table(frame: pd.DataFrame, columns: Mapping[str, str], caption: str = "") -> Table:
    """A table of the columns of a frame, by their name and what they are called."""
    rows = frame[list(columns)].itertuples(index=False, name=None)
    return Table(list(columns.values()), [[_cell(value) for value in row] for row in rows], caption)


def _cell(value: Any) -> Cell:
    if isinstance(value, int | np.integer):
        return int(value)
    return Number(float(value), 2) if isinstance(value, float) else str(value)


def _warnings(store: Store) -> list[Item]:
    """What a user of the store should not miss."""
    notes: list[Item] = []
    if not (store.stimuli["split"] == "test").any():
        notes.append(Note("No stimulus is held out: no dataset names test stimuli, and none were drawn. Nothing can be scored with it."))
    without = store.participants[store.participants["n_test"] == 0]
    if len(without) and len(without) < len(store.participants):
        notes.append(Note(f"{len(without)} of {len(store.participants)} people have no test trials: {_listed(without['participant_id'])}."))
    for column, text in (
        ("n_test_in_fit", "the betas' own fit could use stimuli that are held out here"),
        ("n_test_in_statistics", "betas were z-scored with trials whose stimulus a later dataset called test"),
    ):
        touched = store.fits[store.fits[column] > 0]
        if len(touched):
            where = _listed(touched["participant_id"].unique())
            notes.append(Note(f"In {len(touched)} of {len(store.fits)} fits, {text} ({where}; column {column} of the table fits)."))
    return notes


def _listed(names: Any, most: int = 8) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _split(store: Store) -> Section:
    leaks = stimulus_leaks(store.path, store.manifest, store.stimuli.reset_index(drop=True))
    sizes = split_sizes(store).set_index("split")
    share = sizes["stimuli"] / max(1, int(sizes["stimuli"].sum()))
    facts = [
        (
            side.capitalize(),
            counted(sizes["stimuli"][side], "stimulus", "stimuli"),
            f"{share[side]:.0%}; {counted(sizes['trials'][side], 'trial')}",
        )
        for side in SIDES
    ]
    facts.append(("Leaks", f"{len(leaks):,}", "stimuli on the wrong side, looked for anew"))
    items: list[Item] = [Facts(facts)]
    items += [Note(f"LEAK: {leak}") for leak in leaks[:20]]
    columns = {"dataset": "Dataset", "split": "Side", "stimuli": "Stimuli", "trials": "Trials"}
    items.append(_table(split_by_dataset(store), columns, "Whatever is test in any dataset is test in all of them."))
    common = overlap(store)
    if len(common) > 1:
        names = {str(name): str(name) for name in common.columns}
        told = "Contents that both show; on the diagonal, all of a dataset's."
        items.append(
            Section("Stimuli that datasets share", "overlap", [_table(common.reset_index(names=""), {"": "Dataset", **names}, told)])
        )
    return Section("Split", "split", items)


def _ceilings(store: Store, folder: Path) -> Section:
    items: list[Item] = []
    samples: dict[str, np.ndarray] = {}
    maps: dict[str, tuple[np.ndarray, str]] = {}
    for dataset, people in store.participants.groupby("dataset", sort=False)["participant_id"]:
        for side in SIDES:
            every = (person_ceilings(store, str(person), side) for person in people)
            found = [values for values in every if values is not None and np.isfinite(values).any()]
            if found:
                samples[f"{dataset}, {side} ({len(found)})"] = np.concatenate(found)
            if found and (side == "test" or str(dataset) not in maps):
                maps[str(dataset)] = (_mean_map(found), side)
    if not samples:
        return Section("Noise ceilings", "ceilings", [Note("No stimulus repeats, so that no noise ceiling can be told.")])
    items.append(
        Figure(
            draw.plot_distributions(samples, folder / "ceilings.svg", xlabel="Noise ceiling of a single trial (%)", limits=(0.0, 100.0)),
            "Share of a trial's variance that a perfect model could explain, of all units of all people (their number in brackets); "
            "the median is written out. Most units see nothing of the stimuli, so that the upper tail tells more than the median.",
            "Densities of the noise ceilings by dataset and side of the split",
            "Noise ceilings by dataset",
        )
    )
    items.append(_parcels_table(store))
    for number, (dataset, (values, side)) in enumerate(maps.items()):
        items += _ceiling_map(store.space, values, side, dataset, folder / f"ceiling-{number}.png")
    return Section("Noise ceilings", "ceilings", items)


def _mean_map(people: list[np.ndarray]) -> np.ndarray:
    """Mean over people, of those who have a value; NaN where nobody has."""
    values = np.stack(people)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0))


def _ceiling_map(space: Space, values: np.ndarray, side: str, dataset: str, path: Path) -> list[Item]:
    if not np.isfinite(values).any() or not draw.has_mesh(space):
        return []
    high = max(draw.robust_limit(values), 1.0)
    drawn = draw.plot_map(values, space, path, draw.Scale("Noise ceiling (%)", 0.0, high))
    caption = f"Noise ceiling of a single {side} trial, mean over people. It should be highest where the stimuli are processed."
    return [Figure(drawn, caption, f"Map of the noise ceiling of {dataset}", f"Where, in {dataset}")]


def _parcels_table(store: Store) -> Table:
    rows = store.noise_ceilings[store.noise_ceilings["n_units"] > 0]
    means = rows.groupby(["parcel", "dataset", "split"], sort=False)["ceiling_average"].mean().unstack(["dataset", "split"])
    datasets = store.participants["dataset"].unique().tolist()
    order = [(name, side) for name in datasets for side in SIDES if (name, side) in means.columns]
    shown = means.loc[means.mean(axis=1).sort_values(ascending=False).index[:MOST_PARCELS], order]
    cells: list[list[Cell]] = [
        [str(name), *(Number(float(value), 1) for value in row)] for name, row in zip(shown.index, shown.to_numpy(), strict=True)
    ]
    caption = "Noise ceiling of averages over all repeats, in percent: mean over the parcel's units, then over people."
    if len(means) > MOST_PARCELS:
        caption += f" The {MOST_PARCELS} highest of {len(means)} parcels; the table noiseceilings has all."
    return Table(["Parcel", *(f"{dataset}, {side}" for dataset, side in order)], cells, caption)


def _duplicates(store: Store, folders: Mapping[str, Path | None], folder: Path) -> Section:
    rows = duplicate_groups(store)
    title, anchor = "Stimuli that are the same", "duplicates"
    if rows.empty:
        return Section(title, anchor, [Note("No two stimuli are the same by any criterion.")])
    groups = _groups(rows, folders)
    sides = rows.groupby("content_id").agg(marks=("mark", "nunique"), datasets=("dataset", "nunique"))
    by = rows.drop_duplicates("content_id")["found_by"].str.split(", ").explode().value_counts()
    facts = [
        ("Groups", f"{len(groups):,}", f"of {counted(len(rows), 'name')}"),
        ("In several datasets", f"{int((sides['datasets'] > 1).sum()):,}", ""),
    ]
    facts.append(("Marked differently", f"{int((sides['marks'] > 1).sum()):,}", "brought to one side"))
    facts += [(f"Same {CRITERIA.get(str(name), str(name))}", f"{count:,}", "groups") for name, count in by.items()]
    items: list[Item] = [Facts(facts), *_pictures(groups, folder)]
    caption = f"The first {MOST_LISTED} of {len(rows)}; the table stimuli has all." if len(rows) > MOST_LISTED else ""
    columns = {"content_id": "Content", "dataset": "Dataset", "stim_id": "Stimulus", "mark": "Marked", "split": "Side"}
    table = _table(rows.head(MOST_LISTED), {**columns, "found_by": "Found by"}, caption)
    items.append(Section("List", "duplicates-list", [table], folded=True))
    return Section(title, anchor, items)


def _groups(rows: pd.DataFrame, folders: Mapping[str, Path | None]) -> list[SameStimuli]:
    """Groups, those first that the split had to bring to one side, then those of several datasets."""
    found: list[tuple[tuple[int, int], SameStimuli]] = []
    for content_id, members in rows.groupby("content_id", sort=False):
        group = SameStimuli(
            content_id=str(content_id),
            found_by=str(members["found_by"].iloc[0]),
            split=str(members["split"].iloc[0]),
            names=tuple(f"{row.dataset}: {row.stim_id}" for row in members.itertuples()),
            marks=tuple(members["mark"].astype(str)),
            files=tuple(
                find_stimulus_file(folders.get(str(row.dataset)), str(row.stim_file), str(row.stim_id)) for row in members.itertuples()
            ),
        )
        found.append(((-members["mark"].nunique(), -members["dataset"].nunique()), group))
    return [group for _, group in sorted(found, key=lambda pair: pair[0])]


def _pictures(groups: list[SameStimuli], folder: Path) -> list[Item]:
    """Figures of the groups of which an image is at hand."""
    shown = [group for group in groups if any(file is not None for file in group.files)][:MOST_SHOWN]
    if not shown:
        return [Text("No image of these stimuli is at hand.")]
    items: list[Item] = []
    for start in range(0, len(shown), ROWS_A_FIGURE):
        part = shown[start : start + ROWS_A_FIGURE]
        items.append(
            Figure(
                plot_same_stimuli(part, folder / f"same-{start}.png"),
                "A row is one content, on the side that is written on the left; frames have the colour of what each dataset says of it. "
                "Images that a person would not call the same are a sign of too low a threshold."
                + (f" {len(shown)} of {len(groups)} groups are shown." if len(groups) > len(shown) else ""),
                "; ".join(f"{', '.join(group.names)} are the same, {group.split}" for group in part),
                "" if start else "Side by side",
            )
        )
    return items


def _versions(store: Store) -> Section:
    caption = "Moved: stimuli that changed sides with that version, as a dataset that joined calls them test (listed in diff.json)."
    columns = {"version": "Version", "datasets": "Datasets", "people": "People", "trials": "Trials", "stimuli": "Stimuli"}
    return Section("Versions", "versions", [_table(history(store), {**columns, "moved": "Moved", "software": "Made by"}, caption)])


_SOURCES = {
    "glm": "Responses are single-trial estimates of conform-glm.",
    "psn": "Responses are denoised averages over the trials of a stimulus, by conform-psn.",
    "align": "Responses were brought to a common functional space by conform-align.",
}


def describe_store(store: Store) -> str:
    """Describe in words how a store was made."""
    settings = store.manifest["settings"]
    sameness = settings["sameness"]
    same = ["SHA-256 of the file", "SHA-256 of the decoded pixels"]
    if sameness["perceptual_distance"] is not None:
        same.append(f"a perceptual hash that differs by at most {sameness['perceptual_distance']} of 64 bits")
    if sameness["threshold"] is not None:
        same.append(f"a cosine of features above {sameness['threshold']:g}")
    group = "each fit" if settings["zscore"] == "fit" else "each session of a fit"
    text = (
        f"{_SOURCES[settings['source']]} They were z-scored unit by unit with the mean and standard deviation of the train trials of "
        f"{group}, test and artificial trials by the same numbers, and are stored in half precision.\n\n"
        f"Stimuli count as the same where they agree in any of: {'; '.join(same)}. Whatever these pairs connect is one content and stands "
        "on one side of the split: test, where any dataset calls any of it test; else artificial, where any dataset does; else train."
    )
    if settings["test_fraction"]:
        text += f" Of contents that no dataset says anything of, {settings['test_fraction']:.0%} were drawn for test."
    return text
