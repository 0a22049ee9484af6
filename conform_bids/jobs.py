"""What an app's planner hands to the command line: jobs, and the resources that they may use.

Light on purpose (no nipype, torch or nibabel), as ``--dry-run`` needs nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from conform_bids.errors import UsageError

__all__ = ["GroupInputs", "Job", "ParticipantPlan", "Processes", "Resources"]


@dataclass(frozen=True)
class Processes:
    """One process among those that were started together to share the work of one command, as torchrun does.

    Attributes
    ----------
    rank : int
        Of this process, from 0.
    size : int
        Of them all.
    local_rank, local_size : int
        The same on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Processes:
        """What the variables of torchrun say; alone where they are not all there.

        Raises
        ------
        UsageError
            When one of them is no number that it can be.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not all(name in environment for name in (*names, "MASTER_ADDR", "MASTER_PORT")):
            return cls()
        try:
            rank, size, local_rank, local_size = (int(environment[name]) for name in names)
        except ValueError:
            rank, size, local_rank, local_size = -1, 0, -1, 0
        if not (0 <= rank < size and 0 <= local_rank < local_size):
            found = ", ".join(f"{name}={environment[name]}" for name in names)
            raise UsageError(f"the environment says that this is one of several processes, but not which: {found}")
        return cls(rank, size, local_rank, local_size)


@dataclass(frozen=True)
class Resources:
    """What one job may use; none of it may change a result beyond rounding, the seed aside.

    Attributes
    ----------
    n_threads : int
        Threads of a node (``--omp-nthreads``).
    memory_gb : float
        Memory of the whole run (``--mem``, or what the machine and the cgroup grant).
    low_mem : bool
        Prefer small blocks of units over speed.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``, already resolved from ``auto``.
    random_seed : int
        Seed of every random choice; written to the sidecars.
    sloppy : bool
        Fast settings for a test run; results are not for use.
    processes : Processes
        That share the work of the level group.
    """

    n_threads: int = 1
    memory_gb: float = 4.0
    low_mem: bool = False
    device: str = "cpu"
    random_seed: int = 0
    sloppy: bool = False
    processes: Processes = Processes()


@dataclass(frozen=True)
class GroupInputs:
    """What the command line names for a level group that reads more than the output folder.

    Attributes
    ----------
    bids_dir : Path
    derivatives : mapping of str to Path
        Of ``-d NAME=PATH``.
    participants : tuple of str
        Labels that were asked for; empty for all.
    selection : Selection or None
        Spaces, tasks, sessions and the like that were asked for (`conform_bids.bids.selection.Selection`); None for all.
    overwrite : bool
        Whether what is there is to be made anew.
    """

    bids_dir: Path
    derivatives: Mapping[str, Path]
    participants: tuple[str, ...] = ()
    selection: Any = None
    overwrite: bool = False


@runtime_checkable
class Job(Protocol):
    """One unit of work of one participant: a frozen Plan of an app has these attributes."""

    @property
    def name(self) -> str:
        """Workflow name: letters, digits and underscores, unique within a run."""

    @property
    def participant(self) -> str:
        """Label without ``sub-``."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that the job reads."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Files that the job will have written when it is done, relative to the output folder, POSIX style."""

    @property
    def mem_gb(self) -> float:
        """Peak memory of its largest node."""

    @property
    def n_threads(self) -> int:
        """Threads of a node."""

    def summary(self) -> Sequence[str]:
        """Lines that ``--dry-run`` prints."""


@dataclass(frozen=True)
class ParticipantPlan:
    """What will be done for a participant, and what was left out and why."""

    participant: str
    jobs: tuple[Job, ...]
    warnings: tuple[str, ...] = ()
