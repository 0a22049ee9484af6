"""What runs the graph here: Nipype's plugins, made to notice killed workers, full disks and signals (clusters: `bids_app.batch`).

Each plugin here keeps what went wrong in memory too, as a crash file may be impossible to write.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")

import numpy as np
from nipype.pipeline.plugins.base import DistributedPluginBase
from nipype.pipeline.plugins.linear import LinearPlugin
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from bids_app.failures import classify_traceback
from bids_app.workers import Worker, WorkerCrashedError, WorkerKilledError, WorkerSetup, end_workers, worker_context

__all__ = ["NodeCrash", "RecordingMixin", "RunRecord", "linear_plugin", "multiprocess_plugin"]

_WAIT_S = 1.0
_LOGGER = logging.getLogger("conform")


@dataclass(frozen=True)
class NodeCrash:
    """A node that failed.

    Attributes
    ----------
    node : str
        Full name.
    where : str
        Name and working folder, for messages.
    traceback : str
        Text.
    crash_file : Path or None
        Where it was written, if it could be.
    """

    node: str
    where: str
    traceback: str
    crash_file: Path | None


@dataclass
class RunRecord:
    """What a plugin tells while and after it runs.

    Attributes
    ----------
    check : callable
        Called often; raises when the run is to end.
    tick : callable
        Called often, to show that the run is alive.
    begin : callable
        Called with the number of nodes.
    update : callable
        Called with a node's full name and ``start``, ``end`` or ``exception``.
    hold : callable
        Gives a context manager within which no signal interrupts; `check` raises afterwards.
    nodes : set of str
        Full names of all nodes, known once the run began.
    ended : set of str
        Those that ended well, now or in an earlier run.
    crashes : list of NodeCrash
        Those that failed, in order.
    usage : dict
        Node to duration (s), peak memory (GB) and processor use (%), as far as measured.
    finished : bool
        Whether the plugin went through the whole graph.
    """

    check: Callable[[], None]
    tick: Callable[[], None]
    begin: Callable[[int], None]
    update: Callable[[str, str], None]
    hold: Callable[[], AbstractContextManager[None]] = nullcontext
    nodes: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    crashes: list[NodeCrash] = field(default_factory=list)
    usage: dict[str, dict[str, float]] = field(default_factory=dict)
    finished: bool = False

    def on_status(self, node: Any, status: str) -> None:
        """Nipype's status callback."""
        name = str(node.fullname)
        if status == "end":
            self.ended.add(name)
        self.update(name, status)
        self.check()


class RecordingMixin(DistributedPluginBase):
    """Keep crashes in memory, whether or not a crash file can be written."""

    record: RunRecord

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph, and tell the record of it."""
        self._status_callback = self.record.on_status  # not in plugin_args, which nodes may pickle
        self.record.nodes = {str(node.fullname) for node in graph.nodes()}
        self.record.begin(len(graph))
        super().run(graph, config, updatehash=updatehash)

    def _report_crash(self, node: Any, result: Any = None) -> Any:
        lines = (result or {}).get("traceback") or traceback.format_exception(*sys.exc_info())
        text = lines if isinstance(lines, str) else "".join(lines)
        crash_file = None
        try:
            crash_file = Path(super()._report_crash(node, result=result))
        except Exception as error:
            _LOGGER.error("The crash file of %s could not be written: %s", node.fullname, error)
        where = f"node {node.fullname.partition('.')[2]}, {node.output_dir()}"
        self.record.crashes.append(NodeCrash(str(node.fullname), where, text, crash_file))
        _LOGGER.error("failed: %s: %s", node.fullname.partition(".")[2], classify_traceback(text)[0])
        return str(crash_file or "")

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        self.record.check()
        self.record.tick()
        super()._send_procs_to_workers(updatehash=updatehash, graph=graph)

    def _postrun_check(self) -> None:
        super()._postrun_check()
        self.record.finished = True


class _WorkersPlugin(RecordingMixin, MultiProcPlugin):
    """MultiProc with workers of ours: see `bids_app.workers`."""

    def __init__(self, plugin_args: Mapping[str, Any], setup: WorkerSetup, record: RunRecord) -> None:
        super().__init__(plugin_args=dict(plugin_args))
        self.pool.shutdown()  # it never started a process
        self.record = record
        self._setup = setup
        self._context = worker_context()
        self._idle: list[Worker] = []
        self._busy: dict[int, tuple[Worker, str]] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._last_state: tuple[Any, ...] | None = None

    def close(self) -> None:
        """End all workers."""
        with self.record.hold():
            end_workers([*self._idle, *(worker for worker, _ in self._busy.values())])
            self._idle, self._busy = [], {}

    def _prerun_check(self, graph: Any) -> None:
        large = sorted((node.mem_gb, node.fullname) for node in graph.nodes() if node.mem_gb > self.memory_gb)
        if large:
            _LOGGER.warning(
                "%d node(s) want more memory than the %.1f GB that there are, up to %.1f GB (%s); each runs alone.",
                len(large), self.memory_gb, *large[-1],
            )  # fmt: skip

    def _postrun_check(self) -> None:
        self.close()
        self.record.finished = True

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        task = self._taskid
        with self.record.hold():
            try:
                self._busy[task] = (self._start(node, updatehash), str(node.fullname))
            except (pickle.PicklingError, TypeError, AttributeError, OSError, WorkerCrashedError):
                self._answers[task] = {"traceback": traceback.format_exception(*sys.exc_info()), "usage": {}}
        self.record.check()
        return task

    def _start(self, node: Any, updatehash: bool) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                try:
                    worker.submit(node, updatehash)
                except OSError:  # it was killed while it had nothing to do
                    end_workers([worker])
                else:
                    return worker
            else:
                end_workers([worker])
        worker = Worker(self._context, self._setup)
        try:
            worker.submit(node, updatehash)
        except BaseException:
            end_workers([worker])
            raise
        return worker

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        if taskid in self._answers:
            return {"result": None, **self._answers.pop(taskid)}
        worker, name = self._busy[taskid]
        try:
            answer = worker.answer(name)
        except (WorkerKilledError, WorkerCrashedError) as error:
            self.record.check()  # a signal to the whole group ends workers first
            answer = {"traceback": traceback.format_exception(error), "usage": {}}
            end_workers([worker])
        else:
            if answer is None:
                return None
            self._idle.append(worker)
        del self._busy[taskid]
        if answer["usage"]:
            self.record.usage[name] = answer["usage"]
        return {"result": None, **answer}

    def _clear_task(self, taskid: int) -> None:
        """Nothing to clear: `_get_result` did it."""

    def _state(self) -> tuple[Any, ...]:
        ready = np.flatnonzero(~self.proc_done & (self.depidx.sum(axis=0) == 0).__array__())
        return (tuple(ready.tolist()), tuple(sorted(task for task, _ in self.pending_tasks)))

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Submit what is ready, then wait until something happens (Nipype looks at a clock instead)."""
        state = self._state()
        if state != self._last_state:
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
            self._last_state = state
            if self._state() != state:
                return
        self.record.check()
        self.record.tick()
        busy = [worker for worker, _ in self._busy.values()]
        if busy and not self._answers:
            multiprocessing.connection.wait([waitable for w in busy for waitable in (w.connection, w.process.sentinel)], _WAIT_S)
        elif self.pending_tasks and not self._answers:
            time.sleep(0.05)


class _DebugPlugin(LinearPlugin):
    """Node after node in this process, so that a debugger works."""

    record: RunRecord

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        self._status_callback = self.record.on_status
        self.record.nodes = {str(node.fullname) for node in graph.nodes()}
        self.record.begin(len(graph))
        super().run(graph, config, updatehash=updatehash)
        self.record.finished = True

    def close(self) -> None:
        """Nothing to end."""


def multiprocess_plugin(plugin_args: Mapping[str, Any], setup: WorkerSetup, record: RunRecord) -> Any:
    """MultiProc with workers that may die."""
    return _WorkersPlugin(plugin_args, setup, record)


def linear_plugin(plugin_args: Mapping[str, Any], record: RunRecord) -> Any:
    """In-process execution."""
    runner = _DebugPlugin(plugin_args=dict(plugin_args))
    runner.record = record
    return runner
