"""The project itself: its metadata, the rules that it keeps, its documentation and its set-up script."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

import conform_bids
from bids_app.app import App
from bids_app.cli import build_parser

BAD_IMPORTS = {
    "numerics reads files": ("conform_bids/numerics/planted.py", "from pathlib import Path\n", "5. "),
    "numerics of an app, indirectly": ("conform_bids/glm/numerics/planted.py", "from conform_bids.bids import names\n", "5. "),
    "the library imports the command line": ("conform_bids/bids/planted.py", "import bids_app.config\n", "1. "),
    "a room imports an app": ("conform_bids/bids/planted.py", "import conform_bids.glm.settings\n", "2. "),
    "settings import the numerics": ("conform_bids/glm/settings.py", "import conform_bids.glm.numerics\n", "3. "),
    "the same in conform-psn": ("conform_bids/psn/settings.py", "import conform_bids.psn.numerics.fit\n", "3b. "),
    "the same in conform-align": ("conform_bids/align/load.py", "import conform_bids.align.planner\n", "3c. "),
    "the same in conform-encode": ("conform_bids/encode/load.py", "import conform_bids.encode.results\n", "3d. "),
    "apps import each other": ("conform_bids/psn/load.py", "import conform_bids.glm.settings\n", "2. "),
    "the spine imports an app": ("bids_app/cli.py", "import bids_app.glm\n", "4. "),
    "a module in no room": ("conform_bids/planted.py", "", "2. "),
    "a module outside of the spine": ("bids_app/planted.py", "", "4. "),
}


def _project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _copy_of_packages(repository: Path, folder: Path) -> Path:
    for package in ("bids_app", "conform_bids"):
        shutil.copytree(repository / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("planted", BAD_IMPORTS, ids=lambda name: name.replace(" ", "-"))
def test_import_rules_notice(planted: str, repository: Path, tmp_path: Path) -> None:
    module, line, contract = BAD_IMPORTS[planted]
    copy = _copy_of_packages(repository, tmp_path)
    with (copy / module).open("a") as file:
        file.write(f"\n{line}")
    answer = _lint_imports(copy)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    broken = [text for text in answer.stdout.splitlines() if text.rstrip().endswith("BROKEN")]
    assert any(text.startswith(contract) for text in broken), answer.stdout


def test_import_rules_hold(repository: Path, tmp_path: Path) -> None:
    answer = _lint_imports(_copy_of_packages(repository, tmp_path))
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_version_and_console_scripts(repository: Path) -> None:
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert citation["version"] == conform_bids.__version__
    scripts = _project(repository)["project"]["scripts"]
    assert {"conform-glm", "conform-psn", "conform-align", "conform-encode", "conform-demo"} <= set(scripts)
    installed = {script.name: script for script in entry_points(group="console_scripts") if script.name in scripts}
    assert set(installed) == set(scripts)
    assert all(callable(script.load()) for script in installed.values())


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_dependencies_are_those_imported(repository: Path) -> None:
    names = {"bids": "pybids", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
    imported = set().union(*(_imported(path) for package in ("bids_app", "conform_bids") for path in (repository / package).rglob("*.py")))
    declared = {re.split(r"[<>=\[]", entry)[0] for entry in _project(repository)["project"]["dependencies"]}
    ours_or_optional = {"bids_app", "conform_bids", "glmsingle"}
    outside = {names.get(name, name.replace("_", "-")) for name in imported - sys.stdlib_module_names - ours_or_optional}
    assert outside - declared == set(), "imported but not declared"
    used_by_others = {"psutil"}  # Nipype's resource monitor measures nothing without it, and does not declare it
    assert declared - outside - used_by_others == set(), "declared but not imported"


def test_options_tables_are_up_to_date(repository: Path) -> None:
    answer = subprocess.run(
        [sys.executable, str(repository / "ci" / "options_table.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def _app(name: str) -> App:
    app: App = import_module(f"bids_app.{name}.__main__").APP
    return app


@pytest.mark.parametrize("name", ["glm", "psn", "align"])
def test_every_flag_is_documented(name: str, repository: Path) -> None:
    pages = "".join((repository / "docs" / page).read_text() for page in (f"{name}/usage.md", "shared/command-line.md"))
    written = set(re.findall(r"--[a-z][\w-]*", pages))
    flags = {flag for action in build_parser(_app(name))._actions for flag in action.option_strings if flag.startswith("--")}
    # the pages tell of opposites in a sentence; help hides them
    opposites = {flag for flag in flags if flag.startswith("--no-") and f"--{flag.removeprefix('--no-')}" in flags}
    assert {flag for flag in flags - opposites if "_" not in flag} <= written
    spelled = re.findall(rf"^    (?:.venv/bin/)?conform-{name} .*", pages, re.MULTILINE)
    used = {flag for line in spelled for flag in re.findall(r"--[a-z][\w-]*", line)}
    assert used, "the pages show no command"
    assert used <= flags, f"documented commands use unknown flags: {sorted(used - flags)}"


@pytest.mark.parametrize(("name", "more_than"), [("glm", 5), ("psn", 3), ("align", 3)])
def test_documented_commands_parse(name: str, more_than: int, repository: Path) -> None:
    page = (repository / "docs" / name / "usage.md").read_text()
    commands = [line for line in re.findall(rf"^    conform-{name} (.*)", page, re.MULTILINE) if "[options]" not in line]
    assert len(commands) > more_than
    for command in commands:
        build_parser(_app(name)).parse_args(shlex.split(command))


def test_documented_configuration_is_read(repository: Path, tmp_path: Path) -> None:
    from bids_app.cli import parse
    from bids_app.glm.__main__ import APP

    page = (repository / "docs" / "shared" / "command-line.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "conform.toml"
    file.write_text(example)
    config = parse(APP, ["--config-file", str(file)])
    assert config.bids_dir == tmp_path / "my-dataset"
    assert config.levels == ("participant",)
    assert config.bids.task_id == ("nsd",)
    assert config.execution.nprocs == 8
    assert config.settings.n_pcs == 10


def test_apps_name_what_they_read_as_their_planners_do() -> None:
    from bids_app.app import find_app
    from conform_bids.align import planner as align
    from conform_bids.encode import planner as encode
    from conform_bids.psn import planner as psn

    assert find_app("glm").reads == ("fmriprep",)
    assert find_app("psn").reads == (psn.MAKER,)
    assert find_app("align").reads == align.MAKERS
    assert find_app("encode").reads == (*encode.MAKERS, "fmriprep")


def test_readme_links_exist(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text)
    local = [target for pair in targets for target in pair if target and "://" not in target]
    assert len(local) > 8
    missing = [target for target in local if not (repository / target).is_file()]
    assert not missing, f"README.md points at what is not there: {missing}"


def test_reference_cases_are_read_only(reference_case) -> None:
    case = reference_case("a_event_related")
    assert case["in_data_run0"].shape == (300, 150)
    with pytest.raises(ValueError, match="read-only"):
        case["in_data_run0"][0, 0] = 0


class TestSetup:
    """ci/setup.sh in a copy of the files that it reads, with a Python that records instead of installing."""

    @pytest.fixture
    def checkout(self, repository: Path, tmp_path: Path) -> Path:
        root = tmp_path / "a check out"
        (root / "ci").mkdir(parents=True)
        for name in ("pyproject.toml", "ci/setup.sh", "ci/constraints.txt"):
            shutil.copy(repository / name, root / name)
        fake = root / ".venv" / "bin" / "python"
        fake.parent.mkdir(parents=True)
        fake.write_text(
            f'#!/bin/sh\ncase "$*" in *"pip install"*) echo "$PIP_INDEX_URL $*" >>"$INSTALL_LOG";; *) exec "{sys.executable}" "$@";; esac\n'
        )
        fake.chmod(0o755)
        return root

    def run(self, checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "INSTALL_LOG": str(checkout / "installs"), **environment}
        command = [str(checkout / "ci" / "setup.sh"), *arguments]
        return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False)

    def installs(self, checkout: Path) -> list[str]:
        log = checkout / "installs"
        return log.read_text().splitlines() if log.exists() else []

    def test_installs_once_and_again_after_a_change(self, checkout: Path) -> None:
        first = self.run(checkout, "dev,docs", PIP_INDEX_URL="file:///index")
        assert first.returncode == 0, first.stderr
        assert first.stdout.strip() == str(checkout / ".venv" / "bin" / "python")
        assert self.installs(checkout) == ["file:///index -m pip install --quiet -c ci/constraints.txt -e .[dev,docs]"]
        for extras in ("dev,docs", "none", "docs"):
            assert self.run(checkout, extras).returncode == 0
        assert len(self.installs(checkout)) == 1
        with (checkout / "ci" / "constraints.txt").open("a") as file:
            file.write("numpy<3\n")
        assert self.run(checkout, "none").returncode == 0
        assert len(self.installs(checkout)) == 2
        assert self.installs(checkout)[-1].endswith("-e .")
        assert self.run(checkout, "dev").returncode == 0
        assert len(self.installs(checkout)) == 3

    def test_exports_python_when_sourced_from_strict_scripts(self, checkout: Path) -> None:
        script = 'set -euo pipefail; source "$0" none; echo "$PYTHON"'
        env = {**os.environ, "INSTALL_LOG": str(checkout / "installs")}
        command = ["bash", "-c", script, str(checkout / "ci" / "setup.sh")]
        answer = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert answer.stdout.strip().endswith(".venv/bin/python"), answer.stderr

    def test_unknown_extras_are_refused(self, checkout: Path) -> None:
        answer = self.run(checkout, "OUT")
        assert answer.returncode == 2
        assert "unknown extras 'OUT'" in answer.stderr
        assert not self.installs(checkout)

    def test_says_what_is_missing_without_a_new_python(self, checkout: Path) -> None:
        shutil.rmtree(checkout / ".venv")
        tools = checkout / "bin"
        tools.mkdir()
        for tool in ("bash", "cat", "cksum", "dirname", "env"):
            (tools / tool).symlink_to(shutil.which(tool) or tool)
        old = tools / "python3"
        old.write_text("#!/bin/sh\nexit 1\n")
        old.chmod(0o755)
        answer = self.run(checkout, "none", PATH=str(tools), CONFORM_PYTHON="")
        assert answer.returncode == 1
        assert "needs Python 3.11" in answer.stderr
        assert "python3 (older than 3.11" in answer.stderr
        assert not self.installs(checkout)
