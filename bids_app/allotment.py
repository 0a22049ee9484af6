"""What a run may use: the processes that share its work, CPUs and threads, memory and the device."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from bids_app.app import App
from bids_app.messages import show_warnings
from bids_app.resources import available_cpus, available_memory_gb, resolve_device
from conform_bids.errors import UsageError
from conform_bids.jobs import Processes, Resources

if TYPE_CHECKING:
    from bids_app.config import RunConfig

__all__ = ["MOST_THREADS", "find_processes", "find_resources", "for_group", "nprocs_of", "share_threads"]

MOST_THREADS = 8
"""Threads of a node, at most; more gain nothing."""


def find_processes(app: App, config: RunConfig) -> Processes:
    """Whether several processes were started for this run.

    Raises
    ------
    UsageError
        When they would all do the same.
    """
    processes = Processes.of(os.environ)
    if processes.size > 1 and (app.group_helper is None or config.levels != ("group",)):
        raise UsageError(
            f"this is one of {processes.size} processes (torchrun, or the variables RANK and WORLD_SIZE), which would all do the same: "
            "only the level group of conform-encode shares its work with others, when it trains a network"
        )
    return processes


def find_resources(app: App, config: RunConfig, processes: Processes) -> Resources:
    """Find what the run may use; processes of one machine share its CPUs, and have a GPU each.

    Raises
    ------
    UsageError
        When there is no such device, the app uses none, or several processes would share one GPU.
    """
    execution, nprocs = config.execution, nprocs_of(config)
    threads = execution.omp_nthreads or min(nprocs, MOST_THREADS)
    if threads > nprocs:
        show_warnings([f"--omp-nthreads {threads} is more than --nprocs {nprocs}"])
    device = execution.device
    if not app.uses_gpu:
        if device.strip().lower() not in ("auto", "cpu"):
            raise UsageError(f"--device {device}: {app.command} computes on CPUs alone; leave the option out")
        device = "cpu"
    elif not config.actions.dry_run:  # which must not load torch, and torch alone can say whether there is a GPU
        device = resolve_device(device)
    elif device == "auto":
        device = "cpu"
    if processes.size > 1 and device.startswith("cuda"):
        if device != "cuda":
            raise UsageError(f"--device {device}: each of {processes.size} processes has a GPU of its own; write --device cuda")
        device = resolve_device(f"cuda:{processes.local_rank}")
    return Resources(
        n_threads=threads,
        memory_gb=execution.memory_gb or available_memory_gb(),
        low_mem=execution.low_mem,
        device=device,
        random_seed=execution.random_seed,
        sloppy=execution.sloppy,
        processes=processes,
    )


def for_group(config: RunConfig, resources: Resources) -> Resources:
    """What the level group may use: it runs when all jobs are done, alone."""
    share = max(1, nprocs_of(config) // resources.processes.local_size)
    return replace(resources, n_threads=config.execution.omp_nthreads or min(share, MOST_THREADS))


def share_threads(nprocs: int, n_jobs: int) -> int:
    """Threads a node: CPUs go to as many jobs at once as there are, as a job on each CPU is done sooner than one job on all of them."""
    return max(1, min(nprocs // max(1, min(n_jobs, nprocs)), MOST_THREADS))


def nprocs_of(config: RunConfig) -> int:
    """Jobs that run at once, at most: what was asked for, else the CPUs that there are."""
    return config.execution.nprocs or available_cpus()
