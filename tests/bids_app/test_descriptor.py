"""The Boutiques descriptor: valid, up to date, and true to the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bids_app.align.__main__ import APP as ALIGN
from bids_app.app import App
from bids_app.cli import build_parser, parse
from bids_app.descriptor import boutiques_descriptor, boutiques_text, main
from bids_app.glm.__main__ import APP
from bids_app.psn.__main__ import APP as PSN
from conform_bids.errors import UsageError


def bosh(*arguments: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("boutiques")
    code = "import sys; from boutiques.bosh import bosh; done = bosh(sys.argv[1:]); sys.exit(done if isinstance(done, int) else 0)"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("app", [APP, PSN, ALIGN])
def test_the_committed_descriptor_is_up_to_date(app: App, repository: Path) -> None:
    committed = (repository / "bids_app" / app.name / "boutiques.json").read_text(encoding="utf-8")
    assert committed == boutiques_text(app), f"run python -m bids_app.descriptor {app.name}"


@pytest.mark.parametrize("options", [(), ("--bids",)])
def test_bosh_finds_it_valid(options: tuple[str, ...], tmp_path: Path, toy: ModuleType) -> None:
    for app in (APP, toy.APP):
        path = tmp_path / f"{app.name}.json"
        path.write_text(boutiques_text(app))
        done = bosh("validate", *options, path)
        assert done.returncode == 0, done.stdout + done.stderr
        path.write_text(boutiques_text(app).replace("mkdir -p [OUTPUT_DIR]", "mkdir [OUTPUT]"))
        assert (bosh("validate", *options, path).returncode != 0) == bool(options)


def test_a_simulated_invocation_is_a_command_line_that_we_read(tmp_path: Path) -> None:
    descriptor, invocation = tmp_path / "glm.json", tmp_path / "invocation.json"
    descriptor.write_text(boutiques_text(APP))
    values = {
        "bids_dir": str(tmp_path), "output_dir_name": str(tmp_path / "out"), "analysis_level": "participant",
        "participant_label": ["01", "02"], "skip_bids_validation": True,
        "model": ["fithrfdenoiserr"], "compat": True, "no_autoscale": True, "brain_threshold": [90, 0.5], "memory_gb": 4,
    }  # fmt: skip
    invocation.write_text(json.dumps(values))
    done = bosh("exec", "simulate", descriptor, "-i", invocation)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if "conform-glm" in line)
    config = parse(APP, line.partition("conform-glm ")[2].split())
    assert config.bids.participant_label == ("01", "02")
    assert (config.settings.compat, config.settings.autoscale, config.settings.brain_threshold) == ("glmsingle", False, (90.0, 0.5))
    assert config.execution.memory_gb == 4.0


def test_every_flag_is_one_of_the_command_line() -> None:
    flags = {flag for action in build_parser(APP)._actions for flag in action.option_strings}
    described = {entry["command-line-flag"] for entry in boutiques_descriptor(APP)["inputs"] if "command-line-flag" in entry}
    assert described <= flags
    settings = {"--model", "--n-pcs", "--fit-scope", "--no-autoscale", "--participant-label", "--config-file", "--mem-gb"}
    assert settings <= described


def test_an_app_that_is_not_installed_is_named() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        main(["nosuch"])
