"""Workers one by one, and batch systems."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nipype import Function, Node

from bids_app.nipype_settings import nipype_settings
from bids_app.plugins import RunRecord, multiprocess_plugin
from bids_app.workers import WorkerSetup, worker_context


def identify(folder, what):
    import os
    import time

    if what == "sleep":
        time.sleep(60)
    if what == "bug":
        raise ValueError("wrong")
    with open(f"{folder}/out", "a") as file:
        file.write("x")
    return os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ["NIPYPE_NO_ET"]


def make_node(folder: Path, name: str = "node", what: str = "") -> Any:
    node = Node(Function(["folder", "what"], ["pid", "threads", "quiet"], function=identify), name=name, base_dir=str(folder / "work"))
    node.inputs.trait_set(folder=str(folder), what=what)
    return node


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Any]:
    sections = nipype_settings(crash_dir=tmp_path, stop_on_first_crash=False, poll_seconds=0, keep_inputs=False, level=25)
    setup = WorkerSetup(str(tmp_path), 3, sections, 25, False)
    record = RunRecord(lambda: None, lambda: None, lambda total: None, lambda node, status: None)
    runner = multiprocess_plugin({"n_procs": 2, "memory_gb": 1.0, "raise_insufficient": False, "n_gpu_procs": 1}, setup, record)
    yield runner
    runner.close()


def wait_for(runner: Any, task: int) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (answer := runner._get_result(task)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return dict(answer)


def test_a_worker_is_used_again_and_replaced_when_it_died_idle(plugin: Any, tmp_path: Path) -> None:
    first, second, third = (make_node(tmp_path, name) for name in ("one", "two", "three"))
    assert wait_for(plugin, plugin._submit_job(first))["traceback"] is None
    assert wait_for(plugin, plugin._submit_job(second))["traceback"] is None
    pid = first.result.outputs.pid
    assert second.result.outputs.pid == pid != os.getpid()
    assert (first.result.outputs.threads, first.result.outputs.quiet) == ("3", "1")
    os.kill(pid, signal.SIGKILL)
    plugin._idle[0].process.join(20)  # a worker that dies while it is given a node fails that node
    assert wait_for(plugin, plugin._submit_job(third))["traceback"] is None
    assert third.result.outputs.pid != pid


def test_a_node_that_cannot_travel_fails_alone(plugin: Any, tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.unpicklable = lambda: None
    answer = wait_for(plugin, plugin._submit_job(node))
    assert "pickle" in "".join(answer["traceback"])


def test_closing_ends_busy_workers_at_once(plugin: Any, tmp_path: Path) -> None:
    plugin._submit_job(make_node(tmp_path, what="sleep"))
    ((worker, _),) = plugin._busy.values()
    time.sleep(1)
    start = time.monotonic()
    plugin.close()
    assert time.monotonic() - start < 4
    assert not worker.process.is_alive()


def test_a_long_temporary_folder_falls_back_to_spawn(monkeypatch: pytest.MonkeyPatch) -> None:
    if "forkserver" in multiprocessing.get_all_start_methods():
        assert worker_context().get_start_method() == "forkserver"
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 100)
    assert worker_context().get_start_method() == "spawn"
