"""Runs of small graphs through every way that they can end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from nipype import Function, Node, Workflow

from bids_app.execute import ExecutionConfig, ExecutionOutcome, load_plugin, run_workflow
from conform_bids.errors import UsageError


def step(x, outcome, folder, name):
    """A node: counts its runs in a file, and ends as told. Its source is all that a worker gets."""
    import errno
    import os
    import signal
    import time

    with open(f"{folder}/{name}.count", "a") as counter:
        counter.write("x")
    if outcome == "unusable":
        from conform_bids.errors import UnusableInputError

        raise UnusableInputError("/data/bold.nii.gz:\n  truncated after 3 of 90 volumes")
    if outcome == "missing":
        from conform_bids.errors import MissingInputError

        raise MissingInputError("no events for run 2")
    if outcome == "bug":
        raise KeyError("hrf")
    if outcome == "memory":
        raise MemoryError("Unable to allocate 40. GiB")
    if outcome == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/betas.nii.gz")
    if outcome == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if outcome == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if outcome == "exit":
        os._exit(3)
    if outcome.startswith("sleep"):
        with open(f"{folder}/{name}.pid", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(float(outcome.removeprefix("sleep")))
    if outcome != "silent":
        with open(f"{folder}/{name}.out", "w") as file:
            file.write("done")
    return x + 1


def make_workflow(participant: str, outcomes: Sequence[str], folder: Path) -> Any:
    workflow = Workflow(name=f"sub_{participant}_wf")
    previous = None
    for number, outcome in enumerate(outcomes):
        node = Node(Function(["x", "outcome", "folder", "name"], ["y"], function=step), name=f"step{number}")
        node.inputs.trait_set(outcome=outcome, folder=str(folder), name=f"{participant}{number}")
        if previous is None:
            node.inputs.x = 1
            workflow.add_nodes([node])
        else:
            workflow.connect(previous, "y", node, "x")
        previous = node
    return workflow


def execute(folder: Path, participants: Mapping[str, Sequence[str]], **options: Any) -> ExecutionOutcome:
    workflows = {label: make_workflow(label, outcomes, folder) for label, outcomes in participants.items()}
    config = ExecutionConfig(
        work_dir=folder / "work",
        log_dirs={label: folder / "log" / f"sub-{label}" for label in participants},
        run_id="test",
        outputs={label: (folder / f"{label}{len(outcomes) - 1}.out",) for label, outcomes in participants.items()},
        **{"progress": False, **options},
    )
    return run_workflow(workflows, config=config)


def count(folder: Path, node: str) -> int:
    path = folder / f"{node}.count"
    return len(path.read_text()) if path.exists() else 0


@pytest.mark.parametrize("nprocs", [1, 2])
@pytest.mark.parametrize(
    ("outcome", "exit_code", "reason"),
    [
        ("unusable", 65, "/data/bold.nii.gz: truncated after 3 of 90 volumes"),
        ("missing", 66, "no events for run 2"),
        ("bug", 70, "KeyError: 'hrf'"),
        ("memory", 1, "out of memory (Unable to allocate 40. GiB): give more with --mem"),
        ("disk", 1, "no space left on device: /out/betas.nii.gz"),
        ("kill", 1, "a worker process was killed, probably out of memory: give more with --mem, or use --low-mem; running again resumes"),
        ("segfault", 70, "a worker process crashed with SIGSEGV"),
        ("exit", 70, "a worker process ended with status 3"),
        ("silent", 70, "did not write"),
    ],
)
def test_a_failing_participant_leaves_the_others_alone(tmp_path: Path, nprocs: int, outcome: str, exit_code: int, reason: str) -> None:
    start = time.monotonic()
    result = execute(tmp_path, {"bad": ["ok", outcome], "good": ["ok", "sleep0.3", "ok"]}, nprocs=nprocs)
    assert time.monotonic() - start < 10
    assert result.completed == ("good",)
    assert set(result.failures) == {"bad"}
    failure = result.failures["bad"]
    assert (failure.participant, failure.exit_code) == ("bad", exit_code)
    assert reason in failure.reason
    assert "\n" not in failure.reason
    assert "Traceback" not in failure.reason
    assert len(failure.crash_files) == (outcome != "silent")
    for crash_file in failure.crash_files:
        assert crash_file.parent == tmp_path / "log" / "sub-bad"
        assert crash_file.suffix == ".txt"
        assert crash_file.stat().st_size
    assert result.signal is None


def test_the_second_run_resumes_and_the_third_runs_nothing(tmp_path: Path) -> None:
    first = execute(tmp_path, {"a": ["ok", "ok"], "b": ["ok", "kill", "ok"]}, nprocs=2)
    assert first.completed == ("a",)
    second = execute(tmp_path, {"a": ["ok", "ok"], "b": ["ok", "ok", "ok"]}, nprocs=2)
    assert second.completed == ("a", "b")
    assert [count(tmp_path, node) for node in ("a0", "a1", "b0", "b1", "b2")] == [1, 1, 1, 2, 1]
    start = time.monotonic()
    third = execute(tmp_path, {"a": ["ok", "ok"], "b": ["ok", "ok", "ok"]}, nprocs=1, memory_gb=1.0, omp_nthreads=4)
    assert time.monotonic() - start < 15
    assert third.completed == ("a", "b")
    assert [count(tmp_path, node) for node in ("a0", "a1", "b0", "b1", "b2")] == [1, 1, 1, 2, 1]


def test_stop_on_first_crash_says_what_was_not_done(tmp_path: Path) -> None:
    result = execute(tmp_path, {"a": ["missing"], "b": ["sleep20"]}, nprocs=2, stop_on_first_crash=True)
    assert result.failures["a"].exit_code == 66
    assert "--stop-on-first-crash" in result.failures["b"].reason
    assert not (tmp_path / "b0.out").exists()


def test_debugging_runs_in_this_process(tmp_path: Path) -> None:
    result = execute(tmp_path, {"a": ["ok", "sleep0"], "b": ["unusable", "ok"], "c": ["bug"]}, debug=True)
    assert (tmp_path / "a1.pid").read_text() == str(os.getpid())
    assert result.completed == ("a",)
    assert {label: failure.exit_code for label, failure in result.failures.items()} == {"b": 65, "c": 70}


def test_a_crash_file_that_cannot_be_written_hides_no_reason(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    result = execute(tmp_path, {"a": ["unusable"], "b": ["ok"]})
    assert result.failures["a"].exit_code == 65
    assert result.failures["a"].crash_files == ()
    assert result.completed == ("b",)


def test_a_work_folder_that_cannot_be_written_fails_all_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file where the folder should be")
    result = execute(tmp_path, {"a": ["ok"]})
    assert result.completed == ()
    assert str(tmp_path / "work") in result.failures["a"].reason


def test_a_node_larger_than_the_budget_still_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    workflows = {label: make_workflow(label, ["sleep0.5"], tmp_path) for label in "ab"}
    for workflow in workflows.values():
        workflow.get_node("step0")._mem_gb = 50
    start = time.monotonic()
    result = run_workflow(
        workflows, config=ExecutionConfig(work_dir=tmp_path / "work", log_dirs={}, run_id="r", nprocs=2, memory_gb=2.0, progress=False)
    )
    assert set(result.completed) == {"a", "b"}
    assert time.monotonic() - start > 1.0, "two nodes that each need all memory ran side by side"
    assert capfd.readouterr().err.count("more memory than the 2.0 GB") == 1


def test_nothing_is_left_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    result = execute(tmp_path, {"a": ["sleep1.5"], "b": ["bug"]}, nprocs=2, resource_monitor=True, verbosity=1)
    assert result.completed == ("a",)
    assert list(cwd.iterdir()) == []
    assert not list((tmp_path / "work").glob(".proc*"))
    header, row = (tmp_path / "log" / "sub-a" / "resource_monitor.tsv").read_text().splitlines()
    assert header.split("\t") == ["node", "duration_s", "mem_peak_gb", "cpu_percent"]
    assert 1.4 < float(row.split("\t")[1]) < 5
    assert float(row.split("\t")[2]) > 0


def test_nothing_to_run(tmp_path: Path) -> None:
    assert execute(tmp_path, {}) == ExecutionOutcome({}, (), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
@pytest.mark.parametrize("where", ["work", "log"])
def test_a_full_disk_is_named(tmp_path: Path, where: str) -> None:
    disk = tmp_path / where
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(bytes(2**20))
        with contextlib.suppress(OSError):
            (disk / "rest").write_bytes(bytes(4096))
        result = execute(tmp_path, {"a": ["ok"] if where == "work" else ["unusable"]})
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert result.completed == ()
    failure = result.failures["a"]
    if where == "work":
        assert failure.exit_code == 1
        assert failure.reason.startswith("no space left on device: ")
        assert str(tmp_path) in failure.reason
    else:
        assert failure.exit_code == 65


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_execute as helpers
if __name__ == "__main__":
    result = helpers.execute(Path(sys.argv[1]), {{"done": ["ok"], "long": ["sleep60"], "never": ["ok", "sleep60"]}}, nprocs=2)
    print(json.dumps([result.signal, list(result.completed), list(result.failures)]), flush=True)
"""


def start_run(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pid_files = [folder / "long0.pid", folder / "never1.pid"]
    deadline = time.monotonic() + 30
    while not all(path.exists() and path.read_text() for path in pid_files):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, [int(path.read_text()) for path in pid_files]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def session_members(session: int) -> list[int]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


def wait_until_gone(process: subprocess.Popen[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while session_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session_members(process.pid) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_ends_the_run_and_its_workers(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    process, workers = start_run(tmp_path)
    start = time.monotonic()
    (os.killpg if whole_group else os.kill)(process.pid, number)
    output, errors = process.communicate(timeout=20)
    assert time.monotonic() - start < 6
    assert output.strip().splitlines()[-1] == f'[{int(number)}, ["done"], []]', errors
    assert not any(map(alive, workers))
    wait_until_gone(process, 3)


SIGNAL_WHILE_A_NODE_IS_HANDED_OVER = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_execute as helpers
from bids_app import plugins
class Signalled(plugins.Worker):
    def submit(self, node, updatehash):
        super().submit(node, updatehash)
        begun = Path(sys.argv[1], "a0.pid")
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
if __name__ == "__main__":
    plugins.Worker = Signalled
    print(helpers.execute(Path(sys.argv[1]), {{"a": ["sleep60"]}}).signal)
"""


def test_a_worker_that_has_just_begun_is_ended_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SIGNAL_WHILE_A_NODE_IS_HANDED_OVER.format(tests=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=40, check=False)
    assert done.stdout == "15\n", done.stderr
    assert not alive(int((tmp_path / "a0.pid").read_text()))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_do_not_outlive_a_killed_run(tmp_path: Path) -> None:
    process, _ = start_run(tmp_path)
    process.kill()
    process.communicate(timeout=20)
    wait_until_gone(process, 6)


@pytest.mark.parametrize("name", ["SLURMGraph", "SGEGraph", "PBSGraph", "CondorDAGMan"])
def test_plugins_that_return_early_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "plugin.yml"
    file.write_text(f"plugin: {name}\n")
    with pytest.raises(UsageError, match="before the work is done"):
        load_plugin(file)


@pytest.mark.parametrize(
    "text",
    [
        "plugin: NoSuch",
        "plugin: [",
        "- SLURM",
        "plugin_args: {a: 1}",
        "plugin: SLURM\nplugin_args: 3",
        "!!python/object/apply:os.system ['true']",
        "\x00",
    ],
)
def test_bad_plugin_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "plugin.yml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"plugin\.yml|NoSuch"):
        load_plugin(file)


def test_an_absent_plugin_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_plugin(tmp_path / "absent.yml")


def test_an_absent_batch_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plugin.yml"
    file.write_text("plugin: SGE\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="qsub"):
        execute(tmp_path, {"a": ["ok"]}, plugin_file=file)


def test_plugin_files_override_the_budget(tmp_path: Path) -> None:
    file = tmp_path / "plugin.yml"
    file.write_text("plugin: LegacyMultiProc\nplugin_args: {n_procs: 1}\n")
    assert load_plugin(file) == ("MultiProc", {"n_procs": 1})
    start = time.monotonic()
    result = execute(tmp_path, {"a": ["sleep0.5"], "b": ["sleep0.5"]}, nprocs=2, plugin_file=file)
    assert set(result.completed) == {"a", "b"}
    assert time.monotonic() - start > 1.0
