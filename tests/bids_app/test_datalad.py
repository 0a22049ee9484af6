"""As BABS and DataLad run an app: a clone that holds one person, files that are links to read-only objects, labels with ``sub-``."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bids_app.app import find_app
from bids_app.run import main

APPS = ("glm", "psn", "align", "encode")
BABS_FILTER = {
    "fmap": {"datatype": "fmap"},
    "bold": {"datatype": "func", "session": "01", "suffix": "bold"},
    "sbref": {"datatype": "func", "suffix": "sbref"},
    "flair": {"datatype": "anat", "suffix": "FLAIR"},
    "t1w": {"datatype": "anat", "suffix": "T1w"},
    "roi": {"datatype": "anat", "suffix": "roi"},
}
"""What BABS writes for a session, whatever the app."""


@dataclass(frozen=True)
class Clone:
    """A dataset, the objects that its links lead to, and what an app needs beside it."""

    app: str
    data: Path
    objects: Path
    options: tuple[str, ...]

    def run(self, *arguments: object, label: str = "sub-01") -> int:
        """The app on its one positional dataset, in this process; the exit status."""
        folder = self.data.parent
        words = [self.data, folder / "out", "participant", "--participant-label", label, "-w", folder / "work", "--nprocs", "1"]
        return main(find_app(self.app), [str(word) for word in (*words, "--skip-bids-validation", *self.options, *arguments)])


@pytest.fixture(scope="module")
def writers(repository: Path) -> dict[str, ModuleType]:
    """What writes small derivatives in the tests of each app."""
    modules = {}
    for app in ("psn", "align", "encode"):
        spec = importlib.util.spec_from_file_location(f"writers_of_{app}", repository / "tests" / app / "conftest.py")
        assert spec is not None
        assert spec.loader is not None
        modules[app] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = modules[app]
        spec.loader.exec_module(modules[app])
    return modules


def _dataset(app: str, folder: Path, writers: dict[str, ModuleType], simulated: Any) -> tuple[Path, tuple[str, ...]]:
    """A dataset of two people whose one positional argument is enough, and options of the app."""
    data = folder / "inputs" / "data" / "BIDS"
    if app == "glm":
        shutil.copytree(simulated.path, data)
        return data, ("--output-spaces", "fsaverage5", "--model", "fithrf")
    if app == "psn":
        for label in ("01", "02"):
            writers["psn"].write_betas(data, writers["psn"].BetaSpec(participant=label))
        return data, ("--method", "wiener")
    if app == "align":
        writers["align"].write_people(data, writers["align"].PeopleSpec(people=("01", "02")))
        return data, ("--method", "procrustes", "--parcellation", "clusters")
    world = writers["encode"].write_world(folder / "world")
    data.parent.mkdir(parents=True)
    world.dataset.rename(data)
    return data, ("--features", str(world.features / "truth.h5"), "--bootstraps", "10")


@pytest.fixture(params=APPS)
def clone(request: pytest.FixtureRequest, tmp_path: Path, writers: dict[str, ModuleType], simulated_dataset: Any) -> Iterator[Clone]:
    """A sparse clone: of the second person no folder, of the first links into an annex whose objects are read-only."""
    data, options = _dataset(request.param, tmp_path, writers, simulated_dataset)
    objects = data / ".git" / "annex" / "objects"
    objects.mkdir(parents=True)
    (data / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n")
    for folder in [*data.rglob("sub-02")]:
        shutil.rmtree(folder)
    for number, path in enumerate(sorted(path for path in data.rglob("sub-01_*") if path.is_file())):
        content = objects / f"MD5E-{number}" / f"MD5E-{number}{''.join(path.suffixes)}"
        content.parent.mkdir()
        path.rename(content)
        content.chmod(0o444)
        content.parent.chmod(0o555)
        path.symlink_to(os.path.relpath(content, path.parent))
    yield Clone(request.param, data, objects, options)
    for folder in objects.iterdir():
        folder.chmod(0o755)


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): ((status := path.lstat()).st_mode, status.st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("label", ["sub-01", "01"])
def test_one_person_is_there_and_named_with_or_without_its_prefix(label: str, clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    assert clone.run("--dry-run", label=label) == 0
    shown = capsys.readouterr().out
    assert f"# sub-01: {'2 jobs' if clone.app == 'glm' else '1 job'}" in shown.splitlines()
    assert "sub-02" not in shown


def test_a_person_that_the_clone_lacks(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    assert clone.run("--dry-run", label="sub-02") == 66
    assert "02" in capsys.readouterr().err


def test_a_filter_of_babs_is_taken(clone: Clone, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "filter.json").write_text(json.dumps(BABS_FILTER))
    assert clone.run("--dry-run", "--bids-filter-file", tmp_path / "filter.json") == 0
    shown = capsys.readouterr()
    ignored = next(line for line in shown.err.splitlines() if "--bids-filter-file" in line)
    for key in sorted(set(BABS_FILTER) - ({"bold"} if clone.app == "glm" else set())):
        assert key in ignored
    assert "# sub-01: 1 job" in shown.out.splitlines(), "conform-glm has two sessions, of which the filter takes one"


def test_content_that_was_not_fetched_is_asked_for(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    links = (path for path in clone.data.rglob("sub-01_*") if path.name.endswith((".nii.gz", ".gii")) and path.is_symlink())
    for link in links:
        content = link.resolve()
        content.parent.chmod(0o755)
        content.unlink()
    assert clone.run() == 66
    assert "datalad get" in capsys.readouterr().out


@pytest.mark.slow
def test_links_are_read_and_their_objects_stay_as_they_are(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    before = _states(clone.data)
    assert clone.run() == 0, capsys.readouterr()
    assert _states(clone.data) == before
    out = clone.data.parent / "out"
    assert (out / "sub-01.html").is_file()
    assert not [path for path in out.rglob("*") if path.is_symlink()], "outputs are files of their own"
    shown = capsys.readouterr().out
    assert f"conform-{clone.app}: sub-01: completed" in shown
