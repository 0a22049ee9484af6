"""The page about clusters: its YAML is taken by --use-plugin, its scripts by bash, their calls by the command line."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from bids_app.app import find_app
from bids_app.cli import parse
from bids_app.execute import load_plugin

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def scripts() -> list[str]:
    """Array jobs, a participant each."""
    return [text for text in blocks("bash") if text.startswith("#!") and "participants.txt" in text]


def test_there_is_something_to_check() -> None:
    assert len(blocks("yaml")) >= 4
    assert len(blocks("bash")) >= 4
    assert scripts()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_plugin_files_are_taken(text: str, tmp_path: Path) -> None:
    file = tmp_path / "plugin.yml"
    file.write_text(text)
    name, arguments = load_plugin(file)
    assert name in ("SLURM", "PBS", "SGE")
    assert set(arguments) <= {"sbatch_args" if name == "SLURM" else "qsub_args", "max_jobs", "template"}


@pytest.mark.parametrize("text", blocks("bash"))
def test_scripts_are_sound(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", scripts())
def test_what_a_script_calls_is_taken_by_the_app(text: str, tmp_path: Path) -> None:
    (tmp_path / "participants.txt").write_text("01\nsub-02\n")
    app = find_app(re.findall(r"conform-(\w+)", text)[0])
    for command in (app.command, "apptainer"):
        (tmp_path / command).write_text(f'#!/bin/bash\nprintf "%s\\n" {command} "$@" > call\n')
        (tmp_path / command).chmod(0o755)
    script = tmp_path / "job.sbatch"
    script.write_text(text)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": "2", "SLURM_CPUS_PER_TASK": "4"}
    subprocess.run(["bash", script], cwd=tmp_path, env=env, check=True)
    call = (tmp_path / "call").read_text().split("\n")[:-1]
    if call[0] == "apptainer":
        call = call[call.index("conform.sif") :]
    config = parse(app, call[1:])
    assert config.levels == ("participant",)
    assert config.bids.participant_label == ("02",)
    assert config.bids.bids_database_dir is not None
    assert config.execution.work_dir.name == "sub-02"
    assert (config.execution.nprocs, config.execution.memory_gb) == (4, 6.0)


@pytest.mark.parametrize("text", [text for text in blocks("bash") if "torchrun" in text])
def test_what_torchrun_is_told_is_taken_by_it_and_by_the_app(text: str, tmp_path: Path) -> None:
    for command in ("torchrun", "srun", "scontrol"):
        (tmp_path / command).write_text(f'#!/bin/bash\n[ {command} = scontrol ] && echo node1 || printf "%s\\n" {command} "$@" > call\n')
        (tmp_path / command).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}
    subprocess.run(["bash", "-c", text], cwd=tmp_path, env=env, check=True)
    call = (tmp_path / "call").read_text().split("\n")[:-1]
    from torch.distributed.run import get_args_parser

    told = get_args_parser().parse_args(call[call.index("torchrun") + 1 :])
    assert told.no_python
    assert told.training_script == "conform-encode"
    config = parse(find_app("encode"), told.training_script_args)
    assert config.levels == ("group",)
    assert (config.settings.engine, config.settings.preset) == ("incontext", "paper")


def test_calls_in_the_text_are_taken_by_the_app() -> None:
    calls = re.findall(r"(?<!\\\n)^(?: {4}|)(conform-(\w+) /data.*)$", PAGE, re.MULTILINE)
    assert len(calls) >= 2
    for call, name in calls:
        assert parse(find_app(name), call.split()[1:]).levels == ("participant",)
