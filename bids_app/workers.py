"""Worker processes that run Nipype nodes, one at a time each; the death of one is noticed and concerns its node alone.

A pool of the standard library breaks as a whole when one of its processes is killed, and Nipype then waits for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bids_app.failures import KILLED_ADVICE

__all__ = ["Worker", "WorkerCrashedError", "WorkerKilledError", "WorkerSetup", "end_workers", "worker_context"]

_GRACE_S = 2.0
_MAX_SOCKET_FOLDER = 70  # the path of a Unix socket has at most 92 to 108 bytes
_PRELOAD = ["nipype.pipeline.engine", "nipype.interfaces.base"]
_ending = threading.Event()


class WorkerKilledError(RuntimeError):
    """A worker process was killed from outside while it ran a node."""


class WorkerCrashedError(RuntimeError):
    """A worker process ended by itself, without an answer, while it ran a node."""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is told before its first node.

    Attributes
    ----------
    cwd : str
        Folder to start in; each node then works in its own.
    n_threads : int
        Threads for numerical libraries that are yet to be loaded.
    nipype_config : mapping
        Sections of Nipype's configuration.
    log_level : int
        Level of Nipype's messages.
    resource_monitor : bool
        Whether to sample memory and processor use.
    log_file : str
        Log of the run, to which nodes' own messages are added; empty: none.
    """

    cwd: str
    n_threads: int
    nipype_config: Mapping[str, Mapping[str, str]]
    log_level: int
    resource_monitor: bool
    log_file: str = ""


def worker_context() -> Any:
    """Multiprocessing context of the workers: forkserver, where its socket's path is short enough, else spawn.

    Light modules are loaded once, in the server. Not torch: a process forked after torch started its threads hangs.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods() or len(tempfile.gettempdir()) > _MAX_SOCKET_FOLDER:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


class Worker:
    """A process that runs one node after another.

    Parameters
    ----------
    context
        Multiprocessing context.
    setup : WorkerSetup
        What the process is told first.
    """

    def __init__(self, context: Any, setup: WorkerSetup) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, setup), name="conform-worker")
        self.process.start()
        theirs.close()

    def submit(self, node: Any, updatehash: bool) -> None:
        """Have it run a node; OSError when the process is gone."""
        self.connection.send_bytes(pickle.dumps((node, updatehash)))

    def answer(self, node_name: str) -> dict[str, Any] | None:
        """What became of the node, or None while it runs.

        Raises
        ------
        WorkerKilledError, WorkerCrashedError
            When the process ended without an answer.
        """
        try:
            if self.connection.poll():
                answer: dict[str, Any] = pickle.loads(self.connection.recv_bytes())
                return answer
        except (EOFError, OSError):
            pass
        else:
            if self.process.is_alive():
                return None
        raise self._death(node_name)

    def _death(self, node_name: str) -> RuntimeError:
        self.process.join(_GRACE_S)
        code = self.process.exitcode
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return WorkerKilledError(f"a worker process was killed, probably out of memory: {KILLED_ADVICE} (node {node_name})")
        if code in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, 128 + signal.SIGTERM):
            return WorkerKilledError(f"a worker process was told to end; running again resumes (node {node_name})")
        if code is not None and code < 0:
            return WorkerCrashedError(f"a worker process crashed with {signal.Signals(-code).name} (node {node_name})")
        return WorkerCrashedError(f"a worker process ended with status {code} (node {node_name})")


def end_workers(workers: Sequence[Worker]) -> None:
    """End these processes: idle ones at once, busy ones after they had a moment to remove what is half written."""
    for worker in workers:
        if worker.process.is_alive():
            worker.process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(_GRACE_S)
        worker.connection.close()


def _serve(connection: multiprocessing.connection.Connection, setup: WorkerSetup) -> None:
    """Life of a worker process: run what arrives until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process decides
    signal.signal(signal.SIGTERM, _on_terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _prepare(setup)
        while not _ending.is_set():
            message = connection.recv_bytes()
            connection.send_bytes(pickle.dumps(_run_node(message)))
    except (EOFError, OSError):
        return


def _on_terminate(*_: object) -> None:
    # raised within the node, so that it removes its temporary files
    _ending.set()
    raise SystemExit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    """End when the main process is gone, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def _prepare(setup: WorkerSetup) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(setup.n_threads)
    os.environ.update(NO_ET="1", NIPYPE_NO_ET="1")
    os.chdir(setup.cwd)
    from bids_app.nipype_settings import add_log_file, apply_settings

    apply_settings(setup.nipype_config, setup.log_level)
    if setup.log_file:
        add_log_file(setup.log_file)
    if setup.resource_monitor:
        from nipype import config

        config.enable_resource_monitor()


def _run_node(message: bytes) -> dict[str, Any]:
    """Run a pickled node; results stay on the disk, where the next node finds them."""
    try:
        node, updatehash = pickle.loads(message)
        result = node.run(updatehash=updatehash)
    except BaseException:  # whatever it is, the main process has to hear of it
        return {"traceback": traceback.format_exception(*sys.exc_info()), "usage": {}}
    usage: dict[str, float] = {}
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        for name in ("duration", "mem_peak_gb", "cpu_percent"):
            usage[name] = float(getattr(result.runtime, name))
    return {"traceback": None, "usage": usage}
