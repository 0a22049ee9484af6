"""conform-docker: paths become mounts, all else is passed on, and its list of options is that of the apps."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import shlex
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bids_app.run_options import Actions, BIDSOptions, ExecutionOptions
from conform_bids import __version__
from conform_bids.options import Option, options_of


@pytest.fixture(scope="module")
def wrapper(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("conform_docker", repository / "wrapper" / "conform_docker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conform_docker"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("data", "a derivative: glm", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "split.tsv").write_text("stim_id\tsplit\n")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    return tmp_path


def takes_path(entry: Option) -> bool:
    words = str(entry.metavar).replace("=", "|").split("|")
    return entry.kind is Path or bool({"FILE", "DIR", "PATH"} & set(words))


def test_every_option_of_an_app_that_takes_a_path_is_known(wrapper: ModuleType) -> None:
    points = {point.name: point.load() for point in entry_points(group="conform.apps")}
    assert set(wrapper.APPS) == set(points)
    flags: set[str] = set()
    for app in points.values():
        for options in (BIDSOptions, ExecutionOptions, Actions, app.settings):
            for entry in options_of(options):
                names = {entry.flag, *entry.aliases}
                flags |= names
                assert takes_path(entry) <= bool(names <= set(wrapper.PATH_FLAGS)), entry.flag
    assert set(wrapper.PATH_FLAGS) - {"--config-file", "--config_file"} <= flags, "an option that no app has"
    assert set(wrapper.WRAPPER_FLAGS) & flags == {"--dry-run"}
    assert wrapper.__version__ == __version__


def test_it_needs_the_standard_library_alone(repository: Path) -> None:
    tree = ast.parse((repository / "wrapper" / "conform_docker.py").read_text())
    names = {node.module if isinstance(node, ast.ImportFrom) else alias.name for node in ast.walk(tree)
             if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}  # fmt: skip
    assert {str(name).split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_paths_become_mounts(wrapper: ModuleType, folders: Path) -> None:
    words = ["psn", str(folders / "data"), str(folders / "out"), "participant", "--participant-label", "01", "02"]
    words += ["-d", f"conform-glm={folders / 'a derivative: glm'}", "--split", str(folders / "files" / "split.tsv"), "--dry-run"]
    words += ["--parcellation", "clusters", f"--work-dir={folders / 'scratch'}"]
    command, dry_run = wrapper.build_command(words)
    assert dry_run
    assert command[:8] == ["docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"]
    assert command[command.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    mounts = [value for flag, value in itertools.pairwise(command) if flag == "--mount"]
    assert f"type=bind,source={folders / 'data'},target=/data,readonly" in mounts
    assert f"type=bind,source={folders / 'out'},target=/out" in mounts
    assert f"type=bind,source={folders / 'scratch'},target=/work" in mounts
    derivative = next(mount for mount in mounts if "a derivative: glm" in mount)
    inside = derivative.split("target=")[1].split(",")[0]
    own = command[command.index("conform/psn") + 1 :]
    split = next(mount for mount in mounts if "/files," in mount).split("target=")[1].split(",")[0]
    assert own == [
        "/data", "/out", "participant", "--participant-label", "01", "02", "-d", f"conform-glm={inside}", "--split",
        f"{split}/split.tsv", "--parcellation", "clusters", "--work-dir=/work",
    ]  # fmt: skip
    assert (folders / "out").is_dir(), "or the engine would make it, and it would belong to root"


def test_the_work_folder_is_the_one_that_the_app_would_take(wrapper: ModuleType, folders: Path) -> None:
    command, _ = wrapper.build_command(["glm", "../data", "../out", "participant"])
    assert command[-2:] == ["--work-dir", "/work"]
    assert f"type=bind,source={folders / 'home' / 'work'},target=/work" in command


def test_words_that_are_no_files_stay_words(wrapper: ModuleType, folders: Path) -> None:
    command, _ = wrapper.build_command(["encode", "../data", "../out", "participant", "--text-queries", "dog", "cat", "--split", "column"])
    assert command[command.index("--text-queries") : -2] == ["--text-queries", "dog", "cat", "--split", "column"]


def test_apptainer_does_the_same(wrapper: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "conform.sif").touch()
    (folders / "templates").mkdir()
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(folders / "templates"))
    words = ["--apptainer", str(folders / "conform.sif"), "--gpus", "align", "../data", "../out", "group"]
    command, _ = wrapper.build_command(words)
    assert command[:5] == ["apptainer", "run", "--cleanenv", "--containall", "--nv"]
    assert f"type=bind,source={folders / 'data'},destination=/data,ro" in command
    assert f"type=bind,source={folders / 'templates'},destination=/opt/templateflow,ro" in command
    assert command[command.index("--app") : command.index("--app") + 3] == ["--app", "align", str(folders / "conform.sif")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which app"),
        (["fmriprep", "../data", "../out"], "no app 'fmriprep'"),
        (["glm", "../data"], "output_dir"),
        (["glm", "../nowhere", "../out", "participant"], "no such folder"),
        (["glm", "../data", "../a,b", "participant"], "comma"),
        (["--image", "x", "--apptainer", "y", "glm", "../data", "../out"], "name one"),
        (["--apptainer", "none.sif", "glm", "../data", "../out"], "no such image"),
        (["glm", "../data", "../out", "--network"], "needs a value"),
    ],
)
def test_a_wrong_call_is_told(words: list[str], message: str, wrapper: ModuleType, folders: Path) -> None:
    with pytest.raises(wrapper.UsageError, match=message):
        wrapper.build_command(words)


def test_the_exit_status_is_that_of_the_app(
    wrapper: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tools = folders / "tools"
    tools.mkdir()
    (tools / "docker").write_text('#!/bin/sh\nprintf \'%s\\n\' "$@" > "$RECORD"\nexit 65\n')
    (tools / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(folders / "record"))
    assert wrapper.main(["glm", "../data", "../out", "participant", "--", "--dry-run"]) == 65
    assert (folders / "record").read_text().splitlines()[-3:] == ["--dry-run", "--work-dir", "/work"]
    assert wrapper.main(["glm", "../data", "../out", "participant", "--dry-run"]) == 0
    printed: Any = shlex.split(capfd.readouterr().out)
    assert printed[0] == "docker"
    monkeypatch.setenv("PATH", "")
    assert wrapper.main(["glm", "../data", "../out", "participant"]) == 127
    assert wrapper.main(["glm"]) == 2
