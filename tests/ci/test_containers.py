"""What can be known of the images without building them, and the tool that compares what they wrote."""

from __future__ import annotations

import io
import json
import re
import runpy
import subprocess
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

APPS = sorted(point.name for point in entry_points(group="conform.apps"))


@pytest.fixture(scope="module")
def compare(repository: Path) -> Callable[[Path, Path], list[str]]:
    found: Callable[[Path, Path], list[str]] = runpy.run_path(str(repository / "ci" / "compare_trees.py"))["compare"]
    return found


def test_every_app_has_an_image_and_an_entry(repository: Path) -> None:
    docker = (repository / "Dockerfile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^FROM runtime AS (\w+)$", docker, flags=re.MULTILINE))
    assert targets == {*APPS, "all"}
    for app in APPS:
        assert f'ENTRYPOINT ["conform-{app}"]' in docker
        assert f'org.opencontainers.image.title="conform-{app}"' in docker
    definition = (repository / "apptainer.def").read_text(encoding="utf-8")
    assert set(re.findall(r"^%apprun (\w+)$", definition, flags=re.MULTILINE)) == set(APPS)
    for app in APPS:
        assert f'exec conform-{app} "$@"' in definition


def test_the_scripts_find_the_apps_of_the_project(repository: Path) -> None:
    script = f'cd "{repository}" && source ci/containers.sh && apps_of_project'
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert sorted(run.stdout.split()) == APPS


@pytest.mark.parametrize("name", ["image", "apptainer", "containers.sh", "entrypoint.sh", "audit", "release", "slurm"])
def test_the_scripts_are_shell(name: str, repository: Path) -> None:
    shell = "sh" if name == "entrypoint.sh" else "bash"
    subprocess.run([shell, "-n", repository / "ci" / name], check=True)


def test_the_context_of_a_build_holds_what_the_dockerfile_copies(repository: Path) -> None:
    allowed = [line[1:] for line in (repository / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    docker = (repository / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", docker, flags=re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    for word in copied:
        assert (repository / word).exists(), word
        assert any(word == name or word.startswith(f"{name}/") for name in allowed), word


def write(folder: Path, values: np.ndarray) -> None:
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "run.txt").write_text(str(values.sum()))
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), folder / "map.nii.gz")
    with h5py.File(folder / "weights.h5", "w") as file:
        file["weights"] = values
    (folder / "table.tsv").write_text(f"name\tvalue\na\t{values.flat[0]:.6f}\nb\tn/a\n")
    (folder / "map.json").write_text(json.dumps({"Value": float(values.flat[0]), "GeneratedBy": str(folder), "Text": "same"}))


@pytest.mark.parametrize("fault", ["none", "rounding", "values", "missing", "text", "table", "not a number"])
def test_folders_that_differ_are_told_apart(fault: str, tmp_path: Path, compare: Callable[[Path, Path], list[str]]) -> None:
    values = np.random.default_rng(0).standard_normal((5, 5, 5))
    write(tmp_path / "one", values)
    other = values + {"rounding": 1e-6, "values": 0.1}.get(fault, 0)
    if fault == "not a number":
        other = np.where(np.arange(125).reshape(5, 5, 5) == 7, np.nan, values)
    write(tmp_path / "two", other)
    if fault == "missing":
        (tmp_path / "two" / "table.tsv").unlink()
    elif fault == "text":
        (tmp_path / "two" / "map.json").write_text(json.dumps({"Value": float(values.flat[0]), "Text": "other"}))
    elif fault == "table":
        (tmp_path / "two" / "table.tsv").write_text(f"name\tvalue\na\t{values.flat[0]:.6f}\nc\tn/a\n")
    found = compare(tmp_path / "one", tmp_path / "two")
    assert bool(found) == (fault not in ("none", "rounding")), found
    named = {
        "values": "map.nii.gz",
        "missing": "missing: table.tsv",
        "text": "/Text",
        "table": "column name",
        "not a number": "other values",
    }
    assert any(named.get(fault, "") in line for line in found) or not found


@pytest.mark.parametrize("change", [0.0, 1.0])
def test_archives_in_bytes_are_compared_by_what_they_hold(
    change: float, tmp_path: Path, compare: Callable[[Path, Path], list[str]]
) -> None:
    for name, save, values in (("one", np.savez, np.arange(50.0)), ("two", np.savez_compressed, np.arange(50.0) + change)):
        (tmp_path / name).mkdir()
        packed = io.BytesIO()
        save(packed, values=values)
        with h5py.File(tmp_path / name / "xfm.h5", "w") as file:
            file["space"] = np.frombuffer(packed.getvalue(), dtype=np.uint8)
    assert bool(compare(tmp_path / "one", tmp_path / "two")) == bool(change)
