"""Runs that are modelled together: their BOLD, its timing, and the units that they share. One definition for all apps that read BOLD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.bids.bold import BoldSeries
from conform_bids.bids.confounds import count_rows
from conform_bids.bids.events import RunEvents
from conform_bids.bids.images import describe_bold, read_space
from conform_bids.bids.index import Dataset
from conform_bids.bids.names import natural_key
from conform_bids.bids.spaces import Space, VolumeSpace, intersect_spaces
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = [
    "PlannedRun",
    "check_repetition_times",
    "group_series",
    "plan_run",
    "read_common_space",
    "run_events",
    "timing_notes",
    "with_timing",
]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a fit.

    Attributes
    ----------
    session, run : str or None
        Labels as in the file name.
    bold : tuple of Path
        One file, or the left and the right hemisphere's.
    mask, events, confounds : Path or None
        Beside it.
    repetition_time : float or None
        Seconds; None where neither sidecar nor header says (then the job fails, naming the file).
    start_time : float
        Seconds from the first volume's start to the time that its values stand for.
    n_volumes : int or None
        None where the file could not be read while planning.
    sources : tuple of str
        BIDS URIs of the files above.
    """

    session: str | None
    run: str | None
    bold: tuple[Path, ...]
    mask: Path | None
    events: Path
    confounds: Path | None
    repetition_time: float | None
    start_time: float
    n_volumes: int | None
    sources: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Session and run as in a file name, or the file's own name."""
        parts = [f"{key}-{label}" for key, label in (("ses", self.session), ("run", self.run)) if label is not None]
        return "_".join(parts) or self.bold[0].name

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PlannedRun:
        """Rebuild a run from the JSON object that `dataclasses.asdict` gave."""

        def path(value: str | None) -> Path | None:
            return None if value is None else Path(value)

        return cls(
            **{
                **content,
                "bold": tuple(Path(file) for file in content["bold"]),
                "mask": path(content["mask"]),
                "events": Path(content["events"]),
                "confounds": path(content["confounds"]),
                "sources": tuple(content["sources"]),
            }
        )


def group_series(series: Sequence[BoldSeries]) -> dict[tuple[Any, ...], list[BoldSeries]]:
    """Series that share every entity but run and session, in the order of session and run."""
    groups: dict[tuple[Any, ...], list[BoldSeries]] = {}
    for found in series:
        shared = {key: label for key, label in found.entities.items() if key not in ("run", "ses")}
        groups.setdefault((found.kind, tuple(shared.items())), []).append(found)
    for group in groups.values():
        group.sort(key=lambda found: (natural_key(found.entities.get("ses", "")), natural_key(found.entities.get("run", ""))))
    return groups


def plan_run(dataset: Dataset, found: BoldSeries, *, with_confounds: bool) -> tuple[PlannedRun, int | None]:
    """What is known of a series that has events before its values are read, and its number of units (None where it is not at hand).

    Parameters
    ----------
    with_confounds : bool
        Whether columns of its confounds are asked for.

    Raises
    ------
    MissingInputError
        When confounds are asked for and the run has none.
    UnusableInputError
        When nothing says the repetition time.
    """
    assert found.events is not None
    repetition_time = _positive(found.metadata.get("RepetitionTime"))
    n_volumes = n_units = None
    if all(path.exists() and path.stat().st_size > 0 for path in found.files):
        header = describe_bold(found.files)
        n_volumes = header.n_volumes
        repetition_time = repetition_time or header.repetition_time_s
        if repetition_time is None:
            raise UnusableInputError(f"{found.files[0]}: neither its sidecar nor its header gives the repetition time")
        n_units = header.n_units_total
    read = [*found.files, found.mask, found.events, found.confounds if with_confounds else None]
    if with_confounds and found.confounds is None:
        raise MissingInputError(f"{found.files[0]}: --confounds was given, and the run has no confounds table")
    run = PlannedRun(
        session=found.entities.get("ses"),
        run=found.entities.get("run"),
        bold=tuple(found.files),
        mask=found.mask,
        events=found.events,
        confounds=found.confounds,
        repetition_time=repetition_time,
        start_time=_start_time(found)[0],
        n_volumes=n_volumes,
        sources=tuple(dataset.bids_uri(path) for path in read if path is not None),
    )
    return run, n_units


def _positive(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
    return number if 0 < number < 1000 else None


def _start_time(found: BoldSeries) -> tuple[float, str | None]:
    """Time of a frame's values within its TR, and what is assumed where it cannot be known."""
    value = found.metadata.get("StartTime")
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) < 100:
        return float(value), None
    if found.metadata.get("SliceTimingCorrected"):
        return 0.0, (
            "slices were corrected for timing, and the sidecar has no StartTime that says to which time; the start of each volume is "
            "assumed, so responses may be modelled up to one TR early"
        )
    if "SliceTimingCorrected" not in found.metadata:
        return 0.0, (
            "the sidecar has neither StartTime nor SliceTimingCorrected, so the time that a volume stands for cannot be known; its start "
            "is assumed"
        )
    return 0.0, None


def timing_notes(series: Sequence[BoldSeries]) -> list[str]:
    """One note for each thing that is assumed about the time of frames, however many runs it concerns."""
    names: dict[str, list[str]] = {}
    for found in series:
        assumed = _start_time(found)[1]
        if assumed is not None:
            names.setdefault(assumed, []).append(found.files[0].name)
    return [f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {assumed}" for assumed, files in names.items()]


def run_events(run: PlannedRun, *, from_start: bool = False) -> RunEvents:
    """Events of a run, with the length and timing that they are judged by.

    Parameters
    ----------
    from_start : bool
        Take volumes to stand for the time at which they start, as GLMsingle does.
    """
    return RunEvents(
        session=run.session,
        run=run.run,
        path=run.events,
        n_volumes=int(run.n_volumes or 0),
        repetition_time=float(run.repetition_time or 0),
        start_time=0.0 if from_start else run.start_time,
    )


def check_repetition_times(runs: Sequence[PlannedRun]) -> None:
    """Make sure that the runs of a fit share their repetition time.

    Raises
    ------
    UnusableInputError
        Naming two runs that differ.
    """
    times = [round(float(run.repetition_time or 0), 6) for run in runs]
    for run, time in zip(runs, times, strict=True):
        if time != times[0]:
            raise UnusableInputError(
                f"{run.bold[0]}: its repetition time is {time:g} s, and that of {runs[0].bold[0].name} {times[0]:g} s; "
                "the runs of a fit must share one"
            )


def with_timing(run: PlannedRun) -> PlannedRun:
    """The run with its length and TR, which a plan may lack where the file was not at hand.

    Raises
    ------
    UnusableInputError
        When the file changed since the plan was made, says no repetition time, or is not as long as its confounds.
    """
    header = describe_bold(run.bold)
    if run.n_volumes is not None and run.n_volumes != header.n_volumes:
        raise UnusableInputError(f"{run.bold[0]}: {header.n_volumes} volumes, where {run.n_volumes} were planned; it changed meanwhile")
    repetition_time = run.repetition_time or header.repetition_time_s
    if not repetition_time:
        raise UnusableInputError(f"{run.bold[0]}: neither its sidecar nor its header gives the repetition time")
    _check_length(run, header.n_volumes)
    return replace(run, n_volumes=header.n_volumes, repetition_time=repetition_time)


def _check_length(run: PlannedRun, n_volumes: int) -> None:
    """Hold a run's length against its confounds, used or not: a series that lost volumes looks sound otherwise."""
    rows = None if run.confounds is None else count_rows(run.confounds)
    if rows is not None and rows != n_volumes:
        raise UnusableInputError(f"{run.bold[0]}: {n_volumes} volumes, but {run.confounds} has {rows} rows; one of them is not whole")


def read_common_space(
    runs: Sequence[PlannedRun], entities: Mapping[str, str], *, in_all: bool = False
) -> tuple[Space, npt.NDArray[np.bool_] | None]:
    """Space of the units of a fit, and for each run which of them lie outside of its own mask.

    Parameters
    ----------
    entities : mapping
        Of the outputs.
    in_all : bool
        Keep voxels that every mask has, alone; by default those that at least half of the masks have, which are absent from the other
        runs. Grayordinates and vertices are the same in all runs.

    Returns
    -------
    space : Space
    outside : (n_runs, n_units) bool array or None
        None where no unit is absent anywhere.

    Raises
    ------
    UnusableInputError
        When grids differ, or no voxel is left.
    """
    spaces = [read_space(run.bold, run.mask, entities.get("space", "boldref"), entities.get("den"), entities.get("res")) for run in runs]
    masks = [space.mask for space in spaces if isinstance(space, VolumeSpace)]
    if in_all or not masks:
        return intersect_spaces(spaces), None
    everywhere = [replace(space, mask=np.ones_like(space.mask)) for space in spaces if isinstance(space, VolumeSpace)]
    grid = intersect_spaces(everywhere)
    kept = 2 * np.sum(masks, axis=0) >= len(masks)
    if not kept.any():
        return intersect_spaces(spaces), None  # which says so
    assert isinstance(grid, VolumeSpace)
    return replace(grid, mask=kept), np.stack([~mask[kept] for mask in masks])
