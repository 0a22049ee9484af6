"""Signals, power cuts and full disks while people are prepared or aligned: a second run completes, to the same values."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

FLAGS = ("--skip-bids-validation", "--method", "procrustes", "--parcellation", "clusters", "--parcel-size", "120", "--nprocs", "1")
LEVELS = ("participant", "group")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_people: Any, people_spec: Any) -> Path:
    spec = people_spec(people=("01", "02", "03"), stimuli=30, test=10)
    return Path(make_people(tmp_path_factory.mktemp("interrupted") / "psn", spec))


def results(out: Path) -> dict[str, np.ndarray]:
    """The template, and everybody's responses in it."""
    files = sorted(out.glob(f"*/func/*{STEM}_stat-effect_desc-procrustes_statmap.nii.gz"))
    assert len(files) == 4
    return {path.name: np.asarray(nib.load(path).dataobj) for path in files}


@pytest.fixture(scope="module")
def reference(dataset: Path, run_align: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("reference")
    assert run_align(dataset, folder / "out", *LEVELS, *FLAGS, "-w", folder / "work").status == 0
    return results(folder / "out")


def check_same(out: Path, reference: dict[str, np.ndarray]) -> None:
    for name, values in results(out).items():
        np.testing.assert_array_equal(values, reference[name], err_msg=name)


@pytest.mark.parametrize(
    ("number", "status", "stage"),
    [
        (signal.SIGTERM, 143, "work/**/load"),
        (signal.SIGKILL, -9, "out/sub-02/func/*_desc-prepared_statmap.nii.gz"),
        (signal.SIGTERM, 143, "work/conform_align/group/*"),
        (signal.SIGKILL, -9, "out/sub-02/func/*_xfm.h5"),
    ],
)
def test_an_end_from_outside_leaves_nothing_half(
    number: int,
    status: int,
    stage: str,
    start_session: Any,
    interruption: Any,
    dataset: Path,
    tmp_path: Path,
    run_align: Any,
    reference: dict[str, np.ndarray],
) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    process = start_session(sys.executable, "-m", "bids_app.align", dataset, out, *LEVELS, *FLAGS, "-w", work)
    interruption.wait_for(stage, tmp_path, process, 120)
    interruption.cut_off(process, number, status, out)
    again = run_align(dataset, out, "group", *FLAGS, "-w", work)  # which prepares those whom the end left behind
    assert again.status == 0, again.stdout + again.stderr
    interruption.check_whole(out)
    check_same(out, reference)


@pytest.mark.parametrize(("name", "size"), [("out", "150k"), ("work", "100k"), ("work", "300k")])
def test_a_full_disk_is_named_and_a_second_run_completes(
    name: str,
    size: str,
    small_disk: Any,
    interruption: Any,
    dataset: Path,
    tmp_path: Path,
    run_app: Any,
    run_align: Any,
    reference: dict[str, np.ndarray],
) -> None:
    """The output folder fills, or the work folder: while people are prepared, or while the group reads what they share."""
    folder = small_disk(name, size)
    done = run_app("align", dataset, tmp_path / "out", *LEVELS, *FLAGS, "-w", tmp_path / "work")
    interruption.check_full(done, folder, tmp_path / "out")
    small_disk(name, "200m")
    again = run_align(dataset, tmp_path / "out", *LEVELS, *FLAGS, "-w", tmp_path / "work")
    assert again.status == 0, again.stdout + again.stderr
    check_same(tmp_path / "out", reference)
