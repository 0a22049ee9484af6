"""From files to what the engine takes: runs as float32 arrays on disk, and their design."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.confounds import read_confounds
from conform_bids.bids.derivatives import write_json
from conform_bids.bids.hrf_tables import load_default_library, read_hrf_table
from conform_bids.bids.images import CiftiSpace, Space, read_bold
from conform_bids.bids.runs import PlannedRun, check_repetition_times, read_common_space, with_timing
from conform_bids.bids.scratch import map_array
from conform_bids.bids.trials import TrialTable, read_trials, stimulus_table, write_stimuli, write_trials
from conform_bids.errors import UnusableInputError
from conform_bids.glm.files import Plan
from conform_bids.glm.numerics.design import Design, nuisance_bases
from conform_bids.glm.planning import (
    assumed_hrf,
    build_trials,
    cross_validation_folds,
    session_groups,
    usable_trials,
)
from conform_bids.numerics.hrf import HRFLibrary, response_at
from conform_bids.numerics.linalg import polynomial_degree

__all__ = ["LoadedFit", "hrf_libraries", "load_fit", "read_loaded"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoadedFit:
    """A fit as it lies in a work folder.

    Attributes
    ----------
    runs : list of (n_volumes, n_units) float32 arrays
        Memory maps.
    design : Design
        Trials, drifts and regressors.
    regressor_names : tuple of tuple of str
        Of each run.
    trials : DataFrame
        The trial table.
    set_aside : DataFrame
        Events that were left out: file, line, onset, reason.
    """

    runs: list[npt.NDArray[np.float32]]
    design: Design
    regressor_names: tuple[tuple[str, ...], ...]
    trials: pd.DataFrame
    set_aside: pd.DataFrame


def load_fit(plan: Plan, folder: Path, n_threads: int = 1) -> list[Path]:
    """Read every run of a fit and write it to ``folder`` in the form that the engine takes, several runs at a time.

    Returns
    -------
    list of Path
        The files written: space, design, tables and one array a run.

    Raises
    ------
    UnusableInputError, MissingInputError
        Naming the file, when an input cannot be used.
    """
    runs = [with_timing(run) for run in plan.runs]
    as_glmsingle = plan.settings.compat is not None or plan.settings.engine == "glmsingle"  # which knows no unit that a run lacks
    space, outside = read_common_space(plan.runs, plan.entities, in_all=as_glmsingle)
    table = build_trials(runs, plan.settings)
    paths = [folder / "space.npz", folder / "trials.tsv", folder / "stimuli.tsv", folder / "set_aside.json"]
    space.save(paths[0])
    write_trials(table, paths[1])
    write_stimuli(stimulus_table(table, plan.stimuli_dir), paths[2])
    _save_set_aside(table.set_aside, paths[3])
    arrays = [folder / f"run-{index:03d}.npy" for index in range(len(runs))]

    def write(index: int) -> None:
        _write_run(runs[index], space, None if outside is None else outside[index], arrays[index])

    # unpacking is most of it, which threads do side by side, with a volume each in memory; of other kinds it can be a run
    with ThreadPoolExecutor(n_threads if plan.kind == "nifti" else 1) as pool:
        list(pool.map(write, range(len(runs))))
    paths += arrays
    design, names = build_design(plan, runs, table)
    paths.append(folder / "design.npz")
    _save_design(design, names, paths[-1])
    return paths


def _write_run(run: PlannedRun, space: Space, outside: npt.NDArray[np.bool_] | None, path: Path) -> None:
    """Read a run into a file, row by row where its kind is stored so; units outside of the run's own mask are NaN."""
    by_row = not isinstance(space, CiftiSpace)
    values = read_bold(run.bold, space, n_volumes=run.n_volumes, room=partial(map_array, path) if by_row else None)
    if outside is not None and outside.any():
        values[:, outside] = np.nan
    if isinstance(values, np.memmap):
        values.flush()  # a disk that fails says so now, and not once the node has ended well
    else:
        np.save(path, values)


def _save_set_aside(set_aside: pd.DataFrame, path: Path) -> None:
    """Write the events that were left out; an onset that is no number, which may be the very reason, is null."""
    columns = {str(key): values for key, values in set_aside.to_dict(orient="list").items()}
    columns["onset"] = [onset if np.isfinite(onset) else None for onset in columns["onset"]]
    write_json(columns, path)


def read_loaded(files: Sequence[Path]) -> LoadedFit:
    """Open what `load_fit` wrote."""
    by_name = {path.name: path for path in map(Path, files)}
    design, names = _load_design(by_name["design.npz"])
    runs = [np.load(by_name[name], mmap_mode="r") for name in sorted(by_name) if name.startswith("run-")]
    set_aside = pd.DataFrame(json.loads(by_name["set_aside.json"].read_text(encoding="utf-8")))
    return LoadedFit(runs, design, names, read_trials(by_name["trials.tsv"]), set_aside)


def build_design(plan: Plan, runs: Sequence[PlannedRun], table: TrialTable) -> tuple[Design, tuple[tuple[str, ...], ...]]:
    """Design of a fit, and the names of each run's user regressors.

    Raises
    ------
    UnusableInputError
        When the runs differ in repetition time.
    """
    settings = plan.settings
    check_repetition_times(runs)
    tr = float(runs[0].repetition_time or 0)
    starts = np.array([0.0 if settings.compat else run.start_time for run in runs])
    regressors, names = zip(*(_user_regressors(plan, run, table, index) for index, run in enumerate(runs)), strict=True)
    trials = table.trials
    lengths = tuple(int(run.n_volumes or 0) for run in runs)
    degree = settings.polynomial_degree
    design = Design(
        tr=tr,
        run_lengths=lengths,
        run=table.run_index.astype(np.intp),
        onset=trials["onset"].to_numpy(dtype=np.float64) - starts[table.run_index],
        duration=trials["duration"].to_numpy(dtype=np.float64),
        condition=trials["condition"].to_numpy(dtype=np.intp),
        train=usable_trials(settings, table),
        session=np.array(session_groups(settings, runs), dtype=np.intp),
        folds=cross_validation_folds(settings, len(runs)),
        polynomial_degree=tuple(polynomial_degree(length, tr) if degree is None else degree for length in lengths),
        regressors=tuple(regressors),
    )
    _check_freedom(runs, design)
    return design, tuple(names)


def _check_freedom(runs: Sequence[PlannedRun], design: Design) -> None:
    """Refuse runs whose drifts and regressors leave nothing of the data.

    Raises
    ------
    UnusableInputError
        Naming the run.
    """
    for run, bases in zip(runs, nuisance_bases(design, regressors_in_base=True), strict=True):
        n_volumes, n_regressors = bases.base.shape
        if n_regressors >= n_volumes - 1:
            raise UnusableInputError(
                f"{run.bold[0]}: {n_regressors} drifts and regressors leave no degrees of freedom in {n_volumes} volumes"
            )


def _user_regressors(plan: Plan, run: PlannedRun, table: TrialTable, index: int) -> tuple[FloatArray, tuple[str, ...]]:
    """Confounds asked for, and one regressor a type of nuisance event, convolved with the assumed HRF."""
    n_volumes, tr = int(run.n_volumes or 0), float(run.repetition_time or 0)
    names: list[str] = []
    columns = np.zeros((n_volumes, 0))
    if plan.settings.confounds and run.confounds is not None:
        columns, found = read_confounds(run.confounds, plan.settings.confounds, n_volumes)
        names += found
    nuisance = table.nuisance[index]
    assumed = hrf_libraries(plan, tr)[1]
    frames = np.arange(n_volumes) * tr + (0.0 if plan.settings.compat else run.start_time)
    for trial_type in sorted(set(nuisance["trial_type"])):
        events = nuisance[nuisance["trial_type"] == trial_type]
        regressor = np.zeros(n_volumes)
        for onset, duration in zip(events["onset"], events["duration"], strict=True):
            regressor += response_at(assumed, float(duration), frames - onset)[:, 0]
        columns = np.column_stack([columns, regressor])
        names.append(f"nuisance_{trial_type}")
    return columns, tuple(names)


def hrf_libraries(plan: Plan, tr: float) -> tuple[HRFLibrary, HRFLibrary]:
    """Library to choose from, and the assumed HRF: the packaged ones or the user's files.

    Raises
    ------
    UnusableInputError
        When the file of the assumed HRF holds several curves.
    """
    settings = plan.settings
    library = load_default_library() if settings.hrf_library is None else read_hrf_table(settings.hrf_library, tr)
    return library, assumed_hrf(settings, tr)


def _save_design(design: Design, names: tuple[tuple[str, ...], ...], path: Path) -> None:
    arrays = {f"regressors_{index:03d}": regressors for index, regressors in enumerate(design.regressors)}
    facts = {
        "tr": design.tr,
        "run_lengths": design.run_lengths,
        "folds": design.folds,
        "polynomial_degree": design.polynomial_degree,
        "regressor_names": names,
    }
    np.savez(
        path,
        facts=np.array(json.dumps(facts)),
        run=design.run,
        onset=design.onset,
        duration=design.duration,
        condition=design.condition,
        train=design.train,
        session=design.session,
        **arrays,  # type: ignore[arg-type]
    )


def _load_design(path: Path) -> tuple[Design, tuple[tuple[str, ...], ...]]:
    with np.load(path, allow_pickle=False) as archive:
        facts = json.loads(str(archive["facts"]))
        design = Design(
            tr=float(facts["tr"]),
            run_lengths=tuple(facts["run_lengths"]),
            run=archive["run"],
            onset=archive["onset"],
            duration=archive["duration"],
            condition=archive["condition"],
            train=archive["train"],
            session=archive["session"],
            folds=tuple(tuple(fold) for fold in facts["folds"]),
            polynomial_degree=tuple(facts["polynomial_degree"]),
            regressors=tuple(archive[name] for name in sorted(archive.files) if name.startswith("regressors_")),
        )
    return design, tuple(tuple(run) for run in facts["regressor_names"])
