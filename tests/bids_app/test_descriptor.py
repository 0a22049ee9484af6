"""The Boutiques descriptor: valid, up to date, and true to the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bids_app.align.__main__ import APP as ALIGN
from bids_app.app import App
from bids_app.cli import build_parser, parse
from bids_app.demo import find_apps
from bids_app.descriptor import boutiques_descriptor, boutiques_text, main
from bids_app.encode.__main__ import APP as ENCODE
from bids_app.glm.__main__ import APP
from bids_app.psn.__main__ import APP as PSN
from conform_bids.errors import UsageError
from conform_bids.options import options_of

APPS = [APP, PSN, ALIGN, ENCODE]

# an app's own inputs as a platform gives them, and the settings that must come of them
OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "glm": (
        {"model": ["fithrfdenoiserr"], "compat": True, "no_autoscale": True, "brain_threshold": [90, 0.5]},
        {"model": ("fithrfdenoiserr",), "compat": "glmsingle", "autoscale": False, "brain_threshold": (90.0, 0.5)},
    ),
    "psn": (
        {"method": "standard", "n_folds": 4, "write": ["noise", "removed"], "no_rescale": True},
        {"method": "standard", "n_folds": 4, "write": ("noise", "removed"), "rescale": False},
    ),
    "align": ({"method": "ridge", "min_shared": 20, "align_on": "all"}, {"method": "ridge", "min_shared": 20, "align_on": "all"}),
    "encode": (
        {"estimator": "ridge", "folds": 4, "alphas": [0.1, 10], "write": ["predictions"]},
        {"estimator": "ridge", "folds": 4, "alphas": (0.1, 10.0), "write": ("predictions",)},
    ),
}


def bosh(*arguments: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("boutiques")
    code = "import sys; from boutiques.bosh import bosh; done = bosh(sys.argv[1:]); sys.exit(done if isinstance(done, int) else 0)"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_installed_app_is_tried_here() -> None:
    assert {app.name for app in find_apps()} == {app.name for app in APPS}


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_the_committed_descriptor_is_up_to_date(app: App, repository: Path) -> None:
    committed = (repository / "bids_app" / app.name / "boutiques.json").read_text(encoding="utf-8")
    assert committed == boutiques_text(app), f"run python -m bids_app.descriptor {app.name}"


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_bosh_finds_the_committed_descriptor_valid(app: App, repository: Path) -> None:
    done = bosh("validate", "--bids", repository / "bids_app" / app.name / "boutiques.json")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("--bids",)])
def test_bosh_tells_what_breaks_the_conventions(options: tuple[str, ...], tmp_path: Path, toy: ModuleType) -> None:
    path = tmp_path / "toy.json"
    path.write_text(boutiques_text(toy.APP))
    done = bosh("validate", *options, path)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(boutiques_text(toy.APP).replace("mkdir -p [OUTPUT_DIR]", "mkdir [OUTPUT]"))
    assert (bosh("validate", *options, path).returncode != 0) == bool(options)


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_a_simulated_invocation_is_a_command_line_that_we_read(app: App, repository: Path, tmp_path: Path) -> None:
    invocation = tmp_path / "invocation.json"
    settings, expected = OWN[app.name]
    values = {
        "bids_dir": str(tmp_path), "output_dir_name": str(tmp_path / "out"), "analysis_level": "participant",
        "participant_label": ["01", "02"], "skip_bids_validation": True, "memory_gb": 4, **settings,
    }  # fmt: skip
    invocation.write_text(json.dumps(values))
    done = bosh("exec", "simulate", repository / "bids_app" / app.name / "boutiques.json", "-i", invocation)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if app.command in line)
    config = parse(app, line.partition(f"{app.command} ")[2].split())
    assert (config.bids_dir, config.output_dir, config.levels) == (tmp_path, tmp_path / "out", ("participant",))
    assert config.bids.participant_label == ("01", "02")
    assert config.bids.skip_bids_validation
    assert config.execution.memory_gb == 4.0
    assert {name: getattr(config.settings, name) for name in expected} == expected


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_every_flag_is_one_of_the_command_line(app: App) -> None:
    flags = {flag for action in build_parser(app)._actions for flag in action.option_strings}
    described = {entry["command-line-flag"] for entry in boutiques_descriptor(app)["inputs"] if "command-line-flag" in entry}
    assert described <= flags
    own = {entry.flag for entry in options_of(app.settings)}
    assert {*own, "--participant-label", "--config-file", "--mem-gb"} <= described


def test_an_app_that_is_not_installed_is_named() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        main(["nosuch"])
