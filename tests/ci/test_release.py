"""A release is refused unless version, changelog, tag and tree agree, and says what it would do."""

from __future__ import annotations

import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest


def git(folder: Path, *words: str) -> None:
    own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false")
    subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def ready(tmp_path: Path, repository: Path) -> Path:
    """A repository with what the script looks at, ready for 1.2.3."""
    for name in ("ci/release", "pyproject.toml", "CHANGELOG.md", "conform_bids/__init__.py", "wrapper/conform_docker.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        text = (repository / name).read_text(encoding="utf-8")
        lines = ['__version__ = "1.2.3"' if line.startswith("__version__ = ") else line for line in text.splitlines()]
        path.write_text("\n".join(lines).replace("## Unreleased", "## 1.2.3 (2026-01-01)") + "\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "all")
    return tmp_path


def release(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "ci/release", *words, "--dry-run"], cwd=folder, capture_output=True, text=True, check=False)


def test_it_says_what_it_would_do(ready: Path) -> None:
    run = release(ready, "1.2.3")
    assert run.returncode == 0, run.stderr
    for app in (*(point.name for point in entry_points(group="conform.apps")), "all"):
        assert f"docker build --target {app} -t conform/{app}:1.2.3" in run.stdout
    for words in ("ci/test --slow", "pip wheel", "./wrapper", "apptainer build", "git tag -a v1.2.3", "git archive"):
        assert words in run.stdout
    assert not (ready / "dist").exists()
    assert "docker" not in release(ready, "1.2.3", "--skip-images").stdout.split("To publish")[0]


@pytest.mark.parametrize("fault", ["version", "changelog", "tree", "tag", "wrapper", "no version"])
def test_what_does_not_agree_is_refused(fault: str, ready: Path) -> None:
    version, words = "1.2.3", fault
    if fault == "version":
        version, words = "1.2.4", "says 1.2.3"
    elif fault == "changelog":
        (ready / "CHANGELOG.md").write_text("# Changes\n")
        git(ready, "commit", "-qam", "none")
        words = "no entry"
    elif fault == "tree":
        (ready / "new").touch()
        words = "not committed"
    elif fault == "tag":
        git(ready, "tag", "v1.2.3")
        words = "there already"
    elif fault == "wrapper":
        (ready / "wrapper" / "conform_docker.py").write_text('__version__ = "1.2.2"\n')
        git(ready, "commit", "-qam", "old")
        words = "says 1.2.2"
    run = release(ready) if fault == "no version" else release(ready, version)
    assert run.returncode == (2 if fault == "no version" else 1)
    assert ("usage" if fault == "no version" else words) in run.stderr
