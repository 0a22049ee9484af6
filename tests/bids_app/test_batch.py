"""Batch systems by stand-ins for their commands; Slurm itself is run by tests/slow/test_slurm.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nipype import Function, Node, Workflow

from bids_app import batch
from bids_app import execute as execute_module
from bids_app.batch import BATCH_CANCEL, batch_plugin, cancel_jobs
from bids_app.execute import ExecutionConfig, ExecutionOutcome, run_workflow
from bids_app.failures import classify_exception
from bids_app.plugins import RunRecord
from bids_app.slurm import BatchJobError, JobEnd, NotSubmittedError, SlurmSilentError, is_pending, job_end, submit

Commands = Callable[..., None]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Put shell scripts before all else on the PATH: ``commands(sbatch="echo ...")``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(execute_module, "_POLL_S", 0.1)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(**scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{script}\n")
            (folder / name).chmod(0o755)

    return write


def add_one(x, folder):
    with open(f"{folder}/out", "a") as file:
        file.write("x")
    return x + 1


def execute(folder: Path, plugin: str) -> ExecutionOutcome:
    node = Node(Function(["x", "folder"], ["y"], function=add_one), name="node")
    node.inputs.trait_set(x=1, folder=str(folder))
    workflow = Workflow(name="sub_a_wf")
    workflow.add_nodes([node])
    file = folder / "plugin.yml"
    file.write_text(plugin)
    config = ExecutionConfig(
        work_dir=folder / "work", log_dirs={"a": folder / "log"}, run_id="batch", plugin_file=file, progress=False,
        outputs={"a": (folder / "out",)},
    )  # fmt: skip
    return run_workflow({"a": workflow}, config=config)


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


def test_a_job_is_submitted_once_slurm_takes_it(commands: Commands, tmp_path: Path) -> None:
    commands(sbatch='echo "$@" >> calls; [ $(wc -l < calls) -gt 1 ] && echo "Submitted batch job 41" || { echo busy >&2; exit 1; }')
    assert submit(["--mem=1G", "a script"], tries=3, pause_s=0.0) == 41
    assert (tmp_path / "calls").read_text().splitlines() == ["--mem=1G a script"] * 2


def test_a_refused_job_is_told_in_the_words_of_slurm(commands: Commands, tmp_path: Path) -> None:
    commands(sbatch='echo x >> calls; echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1')
    outcome = execute(tmp_path, "plugin: SLURM\nplugin_args: {sbatch_args: -p gpu, max_tries: 1, retry_timeout: 0}\n")
    failure = outcome.failures["a"]
    assert failure.exit_code == 1
    assert "did not take the job of node conform.sub_a_wf.node: sbatch: error: invalid partition specified: gpu" in failure.reason
    assert (tmp_path / "calls").read_text() == "x\nx\n"


def test_whether_a_job_runs_is_never_guessed(commands: Commands) -> None:
    commands(squeue='[ "$3" = --jobs=7 ] && echo 7')
    assert is_pending(7)
    commands(squeue="true")
    assert not is_pending(7)
    commands(squeue='echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert not is_pending(7)
    commands(squeue='echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1')
    with pytest.raises(SlurmSilentError, match="Unable to contact"):
        is_pending(7)


def _scontrol(state: str, code: str, log: Path) -> str:
    return f"echo JobId=$4 JobName=x UserId=root JobState={state} Reason=None ExitCode={code} StdErr={log} StdIn=/dev/null"


@pytest.mark.parametrize(
    ("state", "code", "text", "killed", "words"),
    [
        ("TIMEOUT", "0:0", "slurmstepd-n1: error: *** JOB 8 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***\n", True, "says TIMEOUT"),
        ("OUT_OF_MEMORY", "0:125", "slurmstepd: error: Detected 1 oom_kill event in StepId=8.batch.\n", True, "Detected 1 oom_kill event"),
        ("FAILED", "0:9", "slurmstepd-n1: error: StepId=8.batch exceeded memory limit (2 > 1), being killed\n", True, "by signal 9: St"),
        ("CANCELLED", "0:15", "", True, "says CANCELLED by signal 15"),
        ("NODE_FAIL", "0:0", "", True, "says NODE_FAIL"),
        ("FAILED", "1:0", "Traceback ...\n  x\nModuleNotFoundError: No module named 'nipype'\n\n", False, "status 1: ModuleNotF"),
        ("COMPLETED", "0:0", "", False, "says COMPLETED"),
    ],
)  # fmt: skip
def test_how_a_job_ended(commands: Commands, tmp_path: Path, state: str, code: str, text: str, killed: bool, words: str) -> None:
    log = tmp_path / "slurm-8.out"
    log.write_text(text)
    commands(scontrol=_scontrol(state, code, log))
    end = job_end(8)
    assert end is not None
    assert (end.state, end.killed, end.log) == (state, killed, log)
    assert words in end.describe()
    assert f"(log of the job: {log})" in end.describe()
    reason, exit_code = classify_exception(BatchJobError(end.describe()), "node fit")
    assert (exit_code, reason.endswith("(node fit); running again resumes")) == (1, True)


def test_a_job_that_slurm_forgot_has_no_end(commands: Commands) -> None:
    commands(scontrol='echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert job_end(8) is None
    assert JobEnd(8, "TIMEOUT", 0, 0, None).describe() == "job 8 ended without a result, as Slurm says TIMEOUT"


def _record() -> RunRecord:
    return RunRecord(lambda: None, lambda: None, lambda total: None, lambda node, status: None)


def test_a_silent_controller_is_waited_for(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(squeue="exit 1")
    runner = batch_plugin("SLURM", {}, _record())
    assert runner._is_pending(3)
    monkeypatch.setattr(batch, "_SILENCE_S", -1.0)
    with pytest.raises(SlurmSilentError):
        runner._is_pending(3)
    commands(squeue="true")
    assert not runner._is_pending(3)
    assert runner._silent_since is None


def test_results_of_an_earlier_run_are_not_taken_for_those_of_a_killed_job(commands: Commands, tmp_path: Path) -> None:
    commands(
        sbatch='bash "${@: -1}" > /dev/null 2>&1; echo "Submitted batch job 5"',
        squeue="true",
        scontrol=_scontrol("COMPLETED", "0:0", tmp_path / "none"),
    )
    plugin = "plugin: SLURM\nplugin_args: {sbatch_args: --mem=1G}\n"
    assert execute(tmp_path, plugin).completed == ("a",)
    (hashed,) = (tmp_path / "work").rglob("_0x*.json")
    hashed.rename(hashed.with_name("_0x0123456789abcdef0123456789abcdef.json"))  # its input has changed since
    commands(sbatch='echo "Submitted batch job 6"', scontrol=_scontrol("CANCELLED", "0:0", tmp_path / "none"))
    outcome = execute(tmp_path, plugin)
    assert outcome.completed == ()
    assert outcome.failures["a"].exit_code == 1
    assert "job 6 ended without a result, as Slurm says CANCELLED" in outcome.failures["a"].reason
    (crash_file,) = outcome.failures["a"].crash_files
    assert "CANCELLED" in crash_file.read_text()


def test_pbs_runs_the_node_with_the_arguments_of_the_file(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands(
        qsub='echo "$@" > call; bash "${@: -1}" > log 2>&1; echo 12.server',
        qstat='echo "qstat: 12.server Job has finished" >&2; exit 35',
    )
    outcome = execute(tmp_path, "plugin: PBS\nplugin_args: {qsub_args: '-l walltime=01:00:00'}\n")
    assert outcome.completed == ("a",), outcome.failures
    assert (tmp_path / "out").read_text() == "x"
    assert not list(tmp_path.glob("*.nipype"))
    assert "-l walltime=01:00:00" in (tmp_path / "call").read_text()


def test_whether_a_job_of_pbs_runs(commands: Commands) -> None:
    runner = batch_plugin("PBS", {}, _record())
    for script, pending in (
        ("echo '    job_state = R'", True),
        ("echo '    job_state = C'", False),
        ("echo '    job_state = F'", False),
        ("echo 'qstat: Unknown Job Id 12' >&2; exit 153", False),
        ("echo 'qstat: cannot connect to server' >&2; exit 1", True),
    ):
        commands(qstat=script)
        assert runner._is_pending("12.server") == pending, script


def test_a_job_that_pbs_refuses_is_told(commands: Commands, tmp_path: Path) -> None:
    commands(qsub="echo 'qsub: Unknown queue' >&2; exit 1")
    failure: Any = execute(tmp_path, "plugin: PBS\nplugin_args: {max_tries: 0}\n").failures["a"]
    assert failure.exit_code == 1
    assert failure.reason.startswith("the batch system did not take the job of node conform.sub_a_wf.node")


NO_JOBS = 'if [ "$1" = -u ]; then echo "<job_info><queue_info></queue_info></job_info>"; exit 0; fi\n'
"""What SGE answers when it is asked for all jobs, which Nipype does when its plugin is made."""
FORGOTTEN = 'echo "Following jobs do not exist: $2" >&2; exit 1'


def test_sge_runs_the_node_with_the_arguments_of_the_file(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "nobody")
    submitted = """echo "$@" > call; bash "${@: -1}" > log 2>&1; echo 'Your job 21 ("n") has been submitted'"""
    commands(qsub=submitted, qstat=f'echo "$@" >> asked; {NO_JOBS}{FORGOTTEN}')
    outcome = execute(tmp_path, "plugin: SGE\nplugin_args: {qsub_args: '-q all.q -l h_vmem=2G'}\n")
    assert outcome.completed == ("a",), outcome.failures
    assert (tmp_path / "out").read_text() == "x"
    assert "-q all.q -l h_vmem=2G" in (tmp_path / "call").read_text()
    assert (tmp_path / "asked").read_text().splitlines()[-1] == "-j 21"


def test_whether_a_job_of_sge_runs(commands: Commands, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    commands(qstat=NO_JOBS)
    runner = batch_plugin("SGE", {}, _record())
    for script, pending in (
        ("echo 'job_number: 21'", True),
        (FORGOTTEN, False),
        ("echo 'unable to contact qmaster' >&2; exit 1", True),
        ("echo 'job_number: 21'; echo 'error reason 1: cannot change to folder'", False),
    ):
        commands(qstat=script, qdel='echo "$@" > cancelled')
        assert runner._is_pending(21) == pending, script
    assert "cannot change to folder" in caplog.text
    assert (tmp_path / "cancelled").read_text() == "21\n"


def test_a_job_that_sge_refuses_is_told(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "nobody")
    commands(qsub="echo 'Unable to run job: unknown queue' >&2; exit 1", qstat=NO_JOBS)
    failure: Any = execute(tmp_path, "plugin: SGE\nplugin_args: {max_tries: 0}\n").failures["a"]
    assert failure.exit_code == 1
    assert failure.reason.startswith("the batch system did not take the job of node conform.sub_a_wf.node")


def test_a_refusal_is_no_bug() -> None:
    assert classify_exception(NotSubmittedError("no such queue"), "work folder w") == ("no such queue", 1)
    assert classify_exception(SlurmSilentError("no answer"), "w")[1] == 1
