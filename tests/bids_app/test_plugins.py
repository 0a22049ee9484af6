"""Workers one by one, and batch systems."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nipype import Function, Node, Workflow

from bids_app.execute import ExecutionConfig, run_workflow
from bids_app.nipype_settings import nipype_settings
from bids_app.plugins import BATCH_CANCEL, RunRecord, batch_plugin, cancel_jobs, multiprocess_plugin
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


def test_cancelling_says_what_it_could_not_cancel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = tmp_path / "cancel"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/cancelled\n')
    command.chmod(0o755)
    cancel_jobs(str(command), [])
    assert not (tmp_path / "cancelled").exists()
    cancel_jobs(str(command), [7, "8.server"])
    assert (tmp_path / "cancelled").read_text().split() == ["7", "8.server"]
    cancel_jobs(str(tmp_path / "absent"), [9])
    assert "could not be cancelled" in caplog.text


@pytest.mark.parametrize("name", sorted(set(BATCH_CANCEL) - {"SGE"}))  # asks qstat for a minute when it is made
def test_every_batch_plugin_can_be_made_and_closed(name: str) -> None:
    record = RunRecord(lambda: None, lambda: None, lambda total: None, lambda node, status: None)
    runner = batch_plugin(name, {"max_jobs": 2}, record)
    assert type(runner).__name__ == f"{name}Plugin"
    assert runner.max_jobs == 2
    runner.close()


SLURM_CONF = """ClusterName=conform
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPort={port}
SlurmdPort={next_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=30:00 State=UP
"""


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """A cluster of this machine alone, all of it in a folder of its own; yields a function that lists its jobs."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch")):
        pytest.skip("needs root and Debian's slurm-wlm and munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    for name in ("state", "spool", "log", "munge"):
        (folder / name).mkdir()
    key = folder / "munge" / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "munge").chmod(0o700)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1] - 1
    config = folder / "slurm.conf"
    config.write_text(SLURM_CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, port=port, next_port=port + 1))
    monkeypatch.setenv("SLURM_CONF", str(config))
    munge = folder / "munge"
    options = {
        "key-file": key,
        "socket": munge / "munge.sock",
        "pid-file": folder / "munged.pid",
        "log-file": munge / "log",
        "seed-file": munge / "seed",
    }
    try:
        subprocess.run(["munged", "--force", *(f"--{name}={value}" for name, value in options.items())], check=True, capture_output=True)
        munge.chmod(0o755)
        subprocess.run(["slurmctld", "-f", str(config)], check=True)
        subprocess.run(["slurmd", "-f", str(config)], check=True)
        deadline = time.monotonic() + 30
        while "idle" not in subprocess.run(["sinfo", "-h"], capture_output=True, text=True, check=False).stdout:
            if time.monotonic() > deadline:
                pytest.skip(f"SLURM did not start: {(folder / 'log' / 'slurmctld.log').read_text()[-500:]}")
            time.sleep(0.5)
        yield lambda: subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout
    finally:
        for name in ("slurmd.pid", "slurmctld.pid", "munged.pid"):
            if (folder / name).exists():
                os.kill(int((folder / name).read_text()), signal.SIGTERM)
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_slurm_runs_fails_and_is_cancelled(slurm: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGNAME", raising=False)
    file = tmp_path / "slurm.yml"
    file.write_text(
        "plugin: SLURM\nplugin_args: {sbatch_args: '-p debug --mem=200 --time=5', max_jobs: 2, dont_resubmit_completed_jobs: true}\n"
    )

    def run(**nodes: str) -> Any:
        workflows = {}
        for label, what in nodes.items():
            workflows[label] = Workflow(name=f"sub_{label}_wf")
            workflows[label].add_nodes([make_node(tmp_path, what=what)])
        config = ExecutionConfig(
            work_dir=tmp_path / "work",
            log_dirs={label: tmp_path / "log" / label for label in nodes},
            run_id="slurm",
            plugin_file=file,
            progress=False,
            outputs=dict.fromkeys(nodes, (tmp_path / "out",)),
        )
        return run_workflow(workflows, config=config)

    result = run(good="", bad="bug")
    assert result.completed == ("good",)
    assert result.failures["bad"].exit_code == 70
    assert result.failures["bad"].reason.startswith("ValueError: wrong")
    assert [path.parent.name for path in result.failures["bad"].crash_files] == ["bad"]
    assert run(good="").completed == ("good",)
    assert (tmp_path / "out").read_text() == "x", "the second run did not resume"

    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(6); os.kill({os.getpid()}, 15)"])
    start = time.monotonic()
    result = run(long="sleep")
    killer.wait()
    assert (result.signal, result.completed, dict(result.failures)) == (signal.SIGTERM, (), {})
    assert time.monotonic() - start < 30
    deadline = time.monotonic() + 20
    while slurm() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert slurm() == "", "the job outlived the run"
