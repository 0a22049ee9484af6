"""What is recorded of a run, and what of it may be shown."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bids_app.cli import parse
from bids_app.environment import prepare_environment
from bids_app.provenance import about, collect, package_versions, write_provenance
from conform_bids.jobs import Resources


def test_the_record_is_whole_and_written(tmp_path: Path, toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFORM_DOCKER_TAG", "conform:1.0")
    config = parse(toy.APP, [str(tmp_path), "out", "participant", "--nprocs", "3"])
    record = collect(toy.APP, config, Resources(n_threads=2, random_seed=9, sloppy=True))
    path = tmp_path / "logs" / "provenance.json"
    write_provenance(record, path)
    assert json.loads(path.read_text()) == record
    assert (record["nprocs"], record["threads"], record["random_seed"], record["command_line"][0]) == (3, 2, 9, "conform-toy")
    assert record["container"] == {"Type": "docker", "Tag": "conform:1.0"}


def test_what_is_shown_has_no_path_and_no_name_of_the_machine(tmp_path: Path, toy: ModuleType) -> None:
    config = parse(toy.APP, [str(tmp_path), "out", "participant"])
    record = collect(toy.APP, config, Resources(sloppy=True))
    shown = about(record)
    text = " ".join(f"{key} {value}" for key, value in shown.items())
    assert str(tmp_path) not in text
    assert sys.executable not in text
    assert record["host"] not in shown.values()
    assert shown["conform-toy"] == toy.APP.version
    assert "not for use" in shown["Sloppy"]
    assert all(isinstance(value, str) and value for value in shown.values())


def test_versions_are_read_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    versions = package_versions()
    assert {"numpy", "torch", "nipype"} <= set(versions)
    assert not {"torch", "nilearn"} & (set(sys.modules) - before)


def test_without_a_home_caches_go_to_the_given_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TEMPLATEFLOW_HOME", "NIPYPE_CONFIG_DIR", "TORCH_HOME", "LOGNAME", "USER"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    before = dict(os.environ)
    try:
        prepare_environment(tmp_path)
        assert os.environ["TEMPLATEFLOW_HOME"] == str(tmp_path / "templateflow")
        assert (tmp_path / "matplotlib").is_dir()
        assert os.environ["NO_ET"] == os.environ["NIPYPE_NO_ET"] == "1"
        assert getpass.getuser() == os.environ["LOGNAME"] == "uid54321"
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_with_a_home_nothing_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    prepare_environment(tmp_path / "caches")
    assert "TEMPLATEFLOW_HOME" not in os.environ
    assert not (tmp_path / "caches").exists()
