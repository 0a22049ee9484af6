"""Apps on a Slurm cluster of this machine, which ci/slurm starts; without it these tests are skipped.

In the first run of conform-glm, Slurm ends the fit of three participants: for time, for memory, and by scancel. In the
second nothing is ended, and only what is missing is done.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype import Function, Node, Workflow

from bids_app.execute import ExecutionConfig, run_workflow
from conform_bids.simulate.dataset import SimulatedDataset, simulate_dataset
from conform_bids.simulate.settings import SimulationSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CONFORM_SLURM_JOBS" not in os.environ, reason="needs the cluster that ci/slurm starts"),
]

PLUGIN = """plugin: SLURM
plugin_args:
  sbatch_args: --mem=1000 --time=10
  max_jobs: 4
  template: |
    #!/bin/bash
"""
SABOTAGE = f"""    case "$SLURM_JOB_NAME" in
    fit.*sub_01_wf*) scontrol update JobId=$SLURM_JOB_ID TimeLimit=1; sleep 250 ;;
    fit.*sub_02_wf*) {sys.executable} -c "import time; block = bytearray(2 * 10**9); time.sleep(250)" ;;
    fit.*sub_03_wf*) scancel $SLURM_JOB_ID; sleep 250 ;;
    esac
"""
OPTIONS = ("participant", "--output-spaces", "T1w", "--sloppy", "--skip-bids-validation")
AppRun = Callable[..., subprocess.CompletedProcess[str]]


def jobs_of(app_node: str) -> list[tuple[str, str]]:
    """Names and states of the jobs that ended so far whose name holds something, in the order in which they ended."""
    deadline = time.monotonic() + 30
    while subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout and time.monotonic() < deadline:
        time.sleep(0.5)
    path = Path(os.environ["CONFORM_SLURM_JOBS"])
    found = re.findall(r"^JobId=.* Name=(\S+) JobState=(\S+) ", path.read_text() if path.exists() else "", re.MULTILINE)
    return [(name, state) for name, state in found if app_node in name]


def steps(jobs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """(participant, node) of jobs."""
    return {(re.findall(r"sub_(\d\d)_wf", name)[0], name.partition(".")[0]) for name, _ in jobs}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    settings = SimulationSettings(n_subjects=4, n_sessions=1, n_runs=2, n_stimuli=8, repeats=2, voxel_size=10, file_formats=("nifti",))
    return simulate_dataset(tmp_path_factory.mktemp("cluster") / "dataset", settings)


@pytest.fixture(scope="module")
def output(dataset: SimulatedDataset) -> Path:
    return dataset.path.parent / "glm"


@pytest.fixture(scope="module")
def work(dataset: SimulatedDataset) -> Path:
    return dataset.path.parent / "work"


def plugin_file(folder: Path, text: str) -> Path:
    path = folder / "slurm.yml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def ended_by_slurm(dataset: SimulatedDataset, output: Path, work: Path, run_app: AppRun) -> subprocess.CompletedProcess[str]:
    file = plugin_file(dataset.path.parent, PLUGIN + SABOTAGE)
    return run_app("glm", dataset.path, output, *OPTIONS, "-w", work, "--use-plugin", file)


def betas(output: Path, label: str) -> list[Path]:
    return sorted((output / f"sub-{label}").rglob("*_stat-effect_*.nii.gz"))


def test_a_job_that_slurm_ended_is_told_and_concerns_its_participant_alone(
    ended_by_slurm: subprocess.CompletedProcess[str], output: Path
) -> None:
    done = ended_by_slurm
    assert done.returncode == 1, done.stdout + done.stderr
    lines = {line.split(":")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("conform-glm: sub-")}
    assert lines["sub-04"].endswith("completed")
    for label, why in (("01", "says TIMEOUT"), ("02", "exceeded memory limit"), ("03", "says CANCELLED")):
        line = lines[f"sub-{label}"]
        assert why in line
        crash_file = Path(re.findall(r"\(see (\S+)\)", line)[0])
        assert crash_file.is_file()
        assert "ended without a result" in crash_file.read_text()
        assert crash_file.parent.parent == output / f"sub-{label}" / "log"
        assert not betas(output, label)
    assert betas(output, "04")
    jobs = jobs_of("glm_")
    every = {(label, node) for label in ("01", "02", "03", "04") for node in ("load", "fit", "save", "figures")}
    assert steps(jobs) == every - {(label, node) for label in ("01", "02", "03") for node in ("save", "figures")}
    assert len(jobs) == len(steps(jobs)), "a job was submitted twice"


def test_a_second_run_does_only_what_is_missing(
    ended_by_slurm: subprocess.CompletedProcess[str], dataset: SimulatedDataset, output: Path, work: Path, run_app: AppRun
) -> None:
    before = jobs_of("glm_")
    times = {path: path.stat().st_mtime_ns for path in betas(output, "04")}
    file = plugin_file(dataset.path.parent, PLUGIN)
    done = run_app("glm", dataset.path, output, *OPTIONS, "-w", work, "--use-plugin", file)
    assert done.returncode == 0, done.stdout + done.stderr
    new = jobs_of("glm_")[len(before) :]
    assert sorted(steps(new)) == [(label, node) for label in ("01", "02", "03") for node in ("figures", "fit", "save")]
    assert {state for _, state in new} == {"COMPLETED"}
    assert {path: path.stat().st_mtime_ns for path in betas(output, "04")} == times

    local = output.with_name("local")
    here = run_app("glm", dataset.path, local, *OPTIONS, "-w", work.with_name("work_local"), "--participant-label", "01")
    assert here.returncode == 0, here.stdout + here.stderr
    paths = betas(local, "01")
    assert paths
    assert [path.relative_to(local) for path in paths] == [path.relative_to(output) for path in betas(output, "01")]
    for path in paths:
        expected = nib.load(path).get_fdata()
        found = nib.load(output / path.relative_to(local)).get_fdata()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(expected)))


def test_psn_runs_its_participants_as_jobs(dataset: SimulatedDataset, output: Path, work: Path, run_app: AppRun) -> None:
    if not (betas(output, "01") and betas(output, "04")):
        pytest.fail("conform-glm has not completed")
    derivative = output.with_name("psn")
    arguments = ("-d", f"conform-glm={output}", "-w", work, "--use-plugin", plugin_file(dataset.path.parent, PLUGIN))
    done = run_app("psn", dataset.path, derivative, *OPTIONS, *arguments, "--participant-label", "01", "04")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = jobs_of("psn_")
    assert {label for label, _ in steps(jobs)} == {"01", "04"}
    assert {state for _, state in jobs} == {"COMPLETED"}
    assert all(list((derivative / f"sub-{label}").rglob("*_desc-psn_*.nii.gz")) for label in ("01", "04"))
    assert not subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout


def test_the_array_script_of_the_page_runs(dataset: SimulatedDataset, tmp_path: Path, repository: Path) -> None:
    page = (repository / "docs" / "clusters.md").read_text()
    (script,) = [text for text in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "\nexec conform-glm" in text]
    for there, here in (
        ("bids_dir=/data/study", f"bids_dir={dataset.path}"),
        ('"$bids_dir/derivatives/conform-glm"', f"{tmp_path}/out"),
        ("scratch=/scratch/study", f"scratch={tmp_path}"),
        ("exec conform-glm", f"exec {sys.executable} -m bids_app.glm"),
        ("    --mem 6G", "    --mem 2G --sloppy --output-spaces T1w"),
        ("--cpus-per-task=4", "--cpus-per-task=1"),
        ("--mem=8G", "--mem=2500"),
        ("--time=02:00:00", "--time=5"),
    ):
        assert script.count(there) == 1, there
        script = script.replace(there, here)
    (tmp_path / "conform-glm.sbatch").write_text(script)
    (tmp_path / "participants.txt").write_text("03\nsub-04\n")
    done = subprocess.run(
        ["sbatch", "--wait", "--array=1-2", "conform-glm.sbatch"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    logs = [path.read_text() for path in sorted(tmp_path.glob("conform-glm-*.log"))]
    assert done.returncode == 0, (done.stderr, logs)
    assert ["sub-03: completed" in logs[0], "sub-04: completed" in logs[1]] == [True, True]
    assert betas(tmp_path / "out", "03") and betas(tmp_path / "out", "04")
    assert len(list((tmp_path / "index").rglob("*.sqlite"))) == 2


def identify(folder, what):
    import time

    if what == "sleep":
        time.sleep(60)
    if what == "bug":
        raise ValueError("wrong")
    with open(f"{folder}/out", "a") as file:
        file.write("x")
    return what


def run_nodes(folder: Path, **nodes: str) -> Any:
    workflows = {}
    for label, what in nodes.items():
        node = Node(Function(["folder", "what"], ["what"], function=identify), name="node", base_dir=str(folder / "work"))
        node.inputs.trait_set(folder=str(folder), what=what)
        workflows[label] = Workflow(name=f"sub_{label}_wf")
        workflows[label].add_nodes([node])
    config = ExecutionConfig(
        work_dir=folder / "work",
        log_dirs={label: folder / "log" / label for label in nodes},
        run_id="slurm",
        plugin_file=plugin_file(folder, "plugin: SLURM\nplugin_args: {sbatch_args: '-p debug --mem=200 --time=5', max_jobs: 2}\n"),
        progress=False,
        outputs=dict.fromkeys(nodes, (folder / "out",)),
    )
    return run_workflow(workflows, config=config)


def test_a_bug_is_told_and_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGNAME", raising=False)
    result = run_nodes(tmp_path, good="", bad="bug")
    assert result.completed == ("good",)
    assert result.failures["bad"].exit_code == 70
    assert result.failures["bad"].reason.startswith("ValueError: wrong")
    assert [path.parent.name for path in result.failures["bad"].crash_files] == ["bad"]
    assert run_nodes(tmp_path, good="").completed == ("good",)
    assert (tmp_path / "out").read_text() == "x", "the second run did not resume"


def test_a_signal_cancels_the_jobs(tmp_path: Path) -> None:
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(6); os.kill({os.getpid()}, 15)"])
    start = time.monotonic()
    result = run_nodes(tmp_path, long="sleep")
    killer.wait()
    assert (result.signal, result.completed, dict(result.failures)) == (signal.SIGTERM, (), {})
    assert time.monotonic() - start < 30
    assert [state for name, state in jobs_of("sub_long_wf")] == ["CANCELLED"]
