"""From files to what a fit of movies takes: volumes of BOLD with nuisances out, and the features that were on at each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.confounds import read_confounds
from conform_bids.bids.derivatives import write_json
from conform_bids.bids.hrf_tables import load_default_library, read_hrf_table
from conform_bids.bids.images import read_bold, read_maps
from conform_bids.bids.parts import write_parts
from conform_bids.bids.runs import PlannedRun, check_repetition_times, read_common_space, with_timing
from conform_bids.bids.spaces import Space
from conform_bids.bids.splits import HELD_OUT
from conform_bids.bids.trials import stimulus_table
from conform_bids.encode.files import Plan
from conform_bids.encode.fitting import reduce_spaces
from conform_bids.encode.load import MIN_TEST, MIN_TRAIN, cache_folder
from conform_bids.encode.movie_features import MovieSpace, gather_movies
from conform_bids.encode.movie_plan import SHORT_VOLUMES, movie_trials
from conform_bids.encode.numerics.movies import Timeline, clean_run, default_delays, explainable_variance, group_runs, nuisance_basis
from conform_bids.encode.numerics.ridge import contiguous_folds
from conform_bids.encode.numerics.screen import Screen, Shown, show
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.blocks import unit_blocks
from conform_bids.numerics.compute import Compute
from conform_bids.numerics.linalg import polynomial_basis, polynomial_degree

__all__ = ["load_movies"]

ONSET_S = 12.0
"""Seconds by which the response to a movie's beginning and end may lag."""
REACH_S = 20.0
"""Seconds that a convolved feature reaches; train volumes that soon after a held-out movie are left out."""
SATURATED = 0.99
"""Share of a volume that nuisances can explain by themselves, from which on it says nothing."""
UNITS_AT_A_TIME = 8192
ONE_RUN_FOLDS = 5
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def load_movies(plan: Plan, folder: Path, compute: Compute) -> list[Path]:
    """Read what the plan names, and write it to ``folder``.

    Returns
    -------
    list of Path
        The grid, arrays and tables.

    Raises
    ------
    UnusableInputError, MissingInputError
        Naming the file, when an input cannot be used, or features do not cover a movie.
    """
    runs = [with_timing(run) for run in plan.runs]
    check_repetition_times(runs)
    space, _ = read_common_space(runs, plan.entities, in_all=True)
    table = movie_trials(runs, plan.settings)
    stimuli = stimulus_table(table, plan.stimuli_dir)
    spaces, known = gather_movies(plan, stimuli, compute, cache_folder(folder))
    notes: list[str] = []
    trials = _presentations(plan, table.trials.assign(run=table.run_index), stimuli, known, notes)
    screens = [_screen(run, index, trials, spaces) for index, run in enumerate(runs)]
    delays = (plan.settings.delays or default_delays(_tr(runs))) if plan.settings.hrf == "fir" else ()
    timeline, conditions = _timeline(plan, runs, screens, trials, delays, notes)
    _check_numbers(plan, timeline)
    arrays, paths = _features(plan, folder, screens, timeline, spaces)
    arrays |= _responses(folder, runs, space, timeline, compute)
    if plan.settings.hrf == "glm":
        arrays["hrf_index"] = _hrf_index(plan, space, _tr(runs), notes)
    names = dict(zip(stimuli["stim_id"], stimuli["sha256"], strict=True))
    conditions = conditions.assign(content_id=[names[name] for name in conditions["stim_id"]], condition=range(len(conditions)))
    shown = stimuli[stimuli["stim_id"].isin(set(conditions["stim_id"]))].reset_index(drop=True)
    paths += write_parts(folder, space, arrays, {"conditions": conditions}, shown)
    np.savez(
        folder / "timeline.npz", lengths=timeline.lengths, train=timeline.train, test=timeline.test, test_row=timeline.test_row,
        fold=timeline.fold, repetition_time=np.array(_tr(runs)), delays=np.array(delays, dtype=np.intp),
        **{f"basis_{index:04d}": basis for index, basis in enumerate(timeline.bases)},  # type: ignore[arg-type]
    )  # fmt: skip
    write_json({"notes": notes}, folder / "notes.json")
    saved = [folder / name for name in ("responses.npy", "timeline.npz", "notes.json")]
    return [*paths, *saved]


def _tr(runs: Sequence[PlannedRun]) -> float:
    return float(runs[0].repetition_time or 0)


def _presentations(plan: Plan, trials: pd.DataFrame, stimuli: pd.DataFrame, known: set[str], notes: list[str]) -> pd.DataFrame:
    """Presentations of movies that have features, with their use: train, test, or none (a train movie of a test movie's content)."""
    missing = sorted(set(trials["stim_id"]) - known)
    if missing:
        named = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        notes.append(f"{len(missing)} of {len(stimuli)} stimuli have no features: their volumes are not modelled: {named}")
    trials = trials[trials["stim_id"].isin(known)].reset_index(drop=True)
    held = set(plan.drawn) | set(trials.loc[trials["split"].isin(HELD_OUT), "stim_id"])
    content = dict(zip(stimuli["stim_id"], stimuli["sha256"], strict=True))
    hidden = {content[name] for name in held & known} - {"n/a"}
    copies = {name for name in set(trials["stim_id"]) - held if content[name] in hidden}
    if copies:
        notes.append(f"{len(copies)} train movies have the content of a test movie under another name: they are left out")
    use = ["test" if name in held else "none" if name in copies else "train" for name in trials["stim_id"]]
    return trials.assign(use=use)


def _screen(run: PlannedRun, index: int, trials: pd.DataFrame, spaces: Sequence[MovieSpace]) -> Screen:
    """What was on at each volume of a run."""
    own = trials[trials["run"] == index].sort_values("onset", kind="stable")
    shown = [
        Shown(float(row["onset"]), float(row["duration"]), [space.movies[row["stim_id"]] for space in spaces], int(str(place)))
        for place, row in own.iterrows()
    ]
    tr = float(run.repetition_time or 0)
    ends = np.array([each.onset + each.duration for each in shown])
    for before, (end, each) in enumerate(zip(ends[:-1], shown[1:], strict=True)):
        if each.onset < end - tr / 2:
            names = (repr(trials.loc[shown[place].label, "stim_id"]) for place in (before, before + 1))
            raise UnusableInputError(f"{run.events}: {' and '.join(names)} are on at once, at {each.onset:g} s; --trial-filter chooses")
    try:
        return show(shown, int(run.n_volumes or 0), tr, run.start_time, [len(space.feature_names) for space in spaces])
    except ValueError as error:
        place, number, reason = error.args
        name, table = trials.loc[place, "stim_id"], spaces[number].name
        raise UnusableInputError(f"features {table}: {name!r}, which {run.events.name} shows: {reason}") from error


def _timeline(
    plan: Plan, runs: Sequence[PlannedRun], screens: Sequence[Screen], trials: pd.DataFrame, delays: Sequence[int], notes: list[str]
) -> tuple[Timeline, pd.DataFrame]:
    """Volumes of the fit and of the test, nuisances, folds, and the table of rows."""
    tr = _tr(runs)
    lags = range(int(np.ceil(ONSET_S / tr)) + 1)
    reach = max(delays) if delays else int(np.ceil(REACH_S / tr))
    use, movie = trials["use"].to_numpy(dtype=str), trials["stim_id"].to_numpy(dtype=str)
    lengths = np.array([len(screen.on) for screen in screens], dtype=np.intp)
    bases: list[FloatArray] = []
    train: list[pd.DataFrame] = []
    test: list[pd.DataFrame] = []
    n_late = 0
    for index, (run, screen, first) in enumerate(zip(runs, screens, np.cumsum(lengths) - lengths, strict=True)):
        bases.append(_basis(plan, run, screen, lags))
        volumes = np.flatnonzero((screen.label >= 0) & (np.square(bases[-1]).sum(axis=1) < SATURATED))
        label = screen.label[volumes]
        rows = pd.DataFrame({"volume": first + volumes, "stim_id": movie[label], "time": screen.time[volumes], "run": index})
        held = np.zeros(len(screen.on), dtype=bool)
        held[screen.label >= 0] = use[screen.label[screen.label >= 0]] == "test"
        late = np.array([held[max(0, volume - reach) : volume].any() for volume in volumes], dtype=bool)
        n_late += int((late & (use[label] == "train")).sum())
        for kept, chosen in ((train, (use[label] == "train") & ~late), (test, use[label] == "test")):
            if 0 < chosen.sum() < SHORT_VOLUMES:
                notes.append(f"{run.label}: {chosen.sum()} volumes of a movie are too few to be z-scored: they are left out")
                chosen &= False
            kept.append(rows[chosen])
    if n_late:
        notes.append(f"{n_late} train volumes are so soon after a test movie that its features reach them: they are left out")
    fitted, tested = pd.concat(train, ignore_index=True), pd.concat(test, ignore_index=True)
    tested["moment"] = np.floor(tested["time"] / tr + 1e-6).astype(int)
    _note_phases(tested, tr, notes)
    moments = tested.groupby(["stim_id", "moment"], sort=True)
    tested["row"] = moments.ngroup()
    fold = _folds(plan, fitted, runs, notes)
    timeline = Timeline(
        lengths, bases, fitted["volume"].to_numpy(dtype=np.intp), tested["volume"].to_numpy(dtype=np.intp),
        tested["row"].to_numpy(dtype=np.intp), fold,
    )  # fmt: skip
    return timeline, _rows(fitted, moments, runs)


def _rows(fitted: pd.DataFrame, moments: Any, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """A row a train volume, then a row a moment of the test movies."""
    of_run = fitted["run"].to_numpy(dtype=int)
    columns = ["condition", "stim_id", "time", "n_trials", "split", "content_id", "session_id", "run_id"]
    first = fitted[["stim_id", "time"]].assign(
        n_trials=1, split="train", session_id=[runs[k].session or "n/a" for k in of_run], run_id=[runs[k].run or "n/a" for k in of_run]
    )
    last = moments.agg(time=("time", "mean"), n_trials=("time", "size")).reset_index()
    last = last.assign(split="test", session_id="n/a", run_id="n/a")
    return pd.concat([first, last], ignore_index=True).assign(condition=0, content_id="n/a")[columns]


def _note_phases(tested: pd.DataFrame, tr: float, notes: list[str]) -> None:
    """Say where presentations of a test movie begin at different times within a volume."""
    phase = (tested["time"] / tr) % 1
    turns = np.exp(2j * np.pi * phase.to_numpy(dtype=np.float64))
    for name, rows in tested.groupby("stim_id", sort=True).indices.items():
        if len(rows) and abs(turns[rows].mean()) < np.cos(np.pi / 4):
            notes.append(f"presentations of {name!r} begin at different times within a volume: volumes that are averaged differ in time")


def _basis(plan: Plan, run: PlannedRun, screen: Screen, lags: Sequence[int]) -> FloatArray:
    """What is taken out of a run: drifts, confounds, and the response to a movie being on."""
    n_volumes, tr = int(run.n_volumes or 0), float(run.repetition_time or 0)
    degree = plan.settings.polynomial_degree
    drifts = polynomial_basis(n_volumes, polynomial_degree(n_volumes, tr) if degree is None else degree)
    confounds = np.zeros((n_volumes, 0))
    if plan.settings.confounds and run.confounds is not None:
        confounds = read_confounds(run.confounds, plan.settings.confounds, n_volumes)[0]
    basis = nuisance_basis(drifts, confounds, screen.on, lags)
    if basis.shape[1] >= n_volumes - 1:
        raise UnusableInputError(f"{run.bold[0]}: {basis.shape[1]} drifts and regressors leave nothing of {n_volumes} volumes")
    return basis


def _folds(plan: Plan, fitted: pd.DataFrame, runs: Sequence[PlannedRun], notes: list[str]) -> IntArray:
    """Block of each train volume that is left out together: whole runs, those that share a movie together."""
    of_run = fitted["run"].to_numpy(dtype=np.intp)
    used = np.unique(of_run)
    if len(used) < 2:
        fold = np.zeros(len(fitted), dtype=np.intp)
        if len(fitted) >= 2 * ONE_RUN_FOLDS:
            for place, rows in enumerate(contiguous_folds(len(fitted), min(plan.settings.folds or ONE_RUN_FOLDS, len(fitted) // 2))):
                fold[rows] = place
            notes.append(f"one run has train movies: penalties are chosen by {int(fold.max()) + 1} blocks of it, not by runs")
        return fold
    shown = [frozenset(fitted.loc[of_run == run, "stim_id"]) for run in used]
    blocks = group_runs(shown)
    if len(used) > 1 and any(one & other for k, one in enumerate(shown) for other in shown[:k]) and len(set(blocks.tolist())) == len(used):
        notes.append("all runs share train movies: runs are left out one by one, and the same movie is then in other runs")
    n_blocks = int(blocks.max()) + 1
    n_folds = min(plan.settings.folds or n_blocks, n_blocks)
    return np.asarray((blocks * n_folds // n_blocks)[np.searchsorted(used, of_run)], dtype=np.intp)


def _check_numbers(plan: Plan, timeline: Timeline) -> None:
    n_train, n_test = len(timeline.train), len(timeline.counts)
    if n_train < max(MIN_TRAIN, 2 * ONE_RUN_FOLDS):
        raise UnusableInputError(f"{plan.place}: {n_train} volumes of train movies with features; {2 * ONE_RUN_FOLDS} are needed")
    if plan.has_held_out and n_test < MIN_TEST:
        raise UnusableInputError(f"{plan.place}: {n_test} volumes of test movies with features; {MIN_TEST} are needed for scores")


def _features(
    plan: Plan, folder: Path, screens: Sequence[Screen], timeline: Timeline, spaces: Sequence[MovieSpace]
) -> tuple[dict[str, npt.NDArray[Any]], list[Path]]:
    """Features of all volumes, less the mean of the train volumes, as principal components where asked for."""
    paths = [folder / "cards.json"]
    on = np.concatenate([screen.on for screen in screens])
    arrays: dict[str, npt.NDArray[Any]] = {}
    write_json({"spaces": [{**each.card, "name": each.name, "feature_names": list(each.feature_names)} for each in spaces]}, paths[0])
    for number, each in enumerate(spaces):
        shown = np.concatenate([screen.features[number] for screen in screens])
        whole = shown[timeline.train] / on[timeline.train, None]
        reduction = reduce_spaces([each.name], [whole], plan.settings.components)[0]
        centre = whole.mean(axis=0, dtype=np.float64)
        values = shown - on[:, None] * centre
        if reduction is not None:
            values = values @ reduction.basis
            np.savez(folder / f"reduction_{number}.npz", **reduction.arrays())  # type: ignore[arg-type]
            paths.append(folder / f"reduction_{number}.npz")
        arrays |= {f"features_{number}": values, f"centre_{number}": centre}
    return arrays, paths


def _responses(folder: Path, runs: Sequence[PlannedRun], space: Space, timeline: Timeline, compute: Compute) -> dict[str, npt.NDArray[Any]]:
    """Write the train volumes, nuisances out; the mean of test presentations and what their spread says."""
    n_units, counts, edges = space.n_units, timeline.counts, timeline.edges
    train = np.lib.format.open_memmap(folder / "responses.npy", "w+", np.float32, (len(timeline.train), n_units))
    sums, squares = np.zeros((len(counts), n_units), dtype=np.float64), np.zeros(n_units)
    for index, run in enumerate(runs):
        first, stop = edges[index], edges[index + 1]
        of_train = np.flatnonzero((timeline.train >= first) & (timeline.train < stop))
        of_test = np.flatnonzero((timeline.test >= first) & (timeline.test < stop))
        volumes = np.concatenate([timeline.train[of_train], timeline.test[of_test]]) - first
        if not len(volumes):
            continue
        values = read_bold(run.bold, space, n_volumes=run.n_volumes)
        rows = timeline.test_row[of_test]
        again = counts[rows] > 1
        for units in unit_blocks(n_units, UNITS_AT_A_TIME):
            cleaned = clean_run(values[:, units], timeline.bases[index], volumes, len(of_train) or len(of_test))
            train[of_train, units] = cleaned[: len(of_train)]
            tested = cleaned[len(of_train) :].astype(np.float64)
            np.add.at(sums[:, units], rows, tested)
            squares[units] += np.square(tested[again]).sum(axis=0)
    train.flush()
    found = explainable_variance(sums, squares, np.maximum(counts, 1)) if len(counts) else None
    nothing = np.full(n_units, np.nan)
    return {
        "observed": np.zeros((0, n_units)) if found is None else found.mean,
        "ceiling": nothing if found is None else found.ceiling,
        "single": nothing if found is None else found.single,
    }


def _hrf_index(plan: Plan, space: Space, tr: float, notes: list[str]) -> npt.NDArray[np.float64]:
    """HRF of each unit: the one that it has most often over fits; units without one get that of most units."""
    library = load_default_library() if plan.settings.hrf_library is None else read_hrf_table(plan.settings.hrf_library, tr)
    if library.convolved:
        raise UnusableInputError(
            f"{plan.settings.hrf_library}: responses to a whole trial, of a length that movies do not have; "
            "a table with a column time is needed"
        )
    votes = np.zeros((library.n_hrfs, space.n_units), dtype=np.intp)
    for files in plan.hrf_index:
        values = read_maps(files, space)[0]
        known = np.isfinite(values)
        if (known & ((values < 0) | (values >= library.n_hrfs) | (values != np.floor(values)))).any():
            raise UnusableInputError(f"{files[0]}: not indices of the {library.n_hrfs} HRFs of the library")
        np.add.at(votes, (values[known].astype(np.intp), np.flatnonzero(known)), 1)
    chosen, known = votes.argmax(axis=0), votes.sum(axis=0) > 0
    if not known.any():
        raise UnusableInputError(f"{plan.hrf_index[0][0]}: no unit has an HRF")
    if not known.all():
        common = int(np.bincount(chosen[known]).argmax())
        chosen = np.where(known, chosen, common)
        notes.append(f"{int((~known).sum())} of {len(known)} units have no HRF of their own: they get the one that most units have")
    return chosen.astype(np.float64)
