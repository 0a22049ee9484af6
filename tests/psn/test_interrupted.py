"""Signals, power cuts and full disks: nothing half written, the exit status says so, and a second run completes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow

DENOISED = "sub-01/func/sub-01_task-shapes_space-T1w_stat-effect_desc-psn_statmap.nii.gz"
FLAGS = ("participant", "--skip-bids-validation", "--method", "wiener", "--nprocs", "1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_betas: Any, beta_spec: Any) -> Path:
    return make_betas(tmp_path_factory.mktemp("interrupted") / "glm", beta_spec(test=(3, 4)))[0]


@pytest.fixture(scope="module")
def reference(dataset: Path, run_psn: Any, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Denoised responses of an undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    assert run_psn(dataset, folder / "out", *FLAGS, "-w", folder / "work").status == 0
    return denoised(folder / "out")


def denoised(out: Path) -> np.ndarray:
    return np.asarray(nib.load(out / DENOISED).dataobj)


@pytest.mark.parametrize(("number", "status", "stage"), [(signal.SIGTERM, 143, "work/**/fit"), (signal.SIGKILL, -9, "out/sub-01/func/*")])
def test_an_end_from_outside_leaves_nothing_half(
    number: int,
    status: int,
    stage: str,
    start_session: Any,
    interruption: Any,
    dataset: Path,
    tmp_path: Path,
    run_psn: Any,
    reference: np.ndarray,
) -> None:
    process = start_session(sys.executable, "-m", "bids_app.psn", dataset, tmp_path / "out", *FLAGS, "-w", tmp_path / "work")
    interruption.wait_for(stage, tmp_path, process)
    interruption.cut_off(process, number, status, tmp_path / "out")
    again = run_psn(dataset, tmp_path / "out", *FLAGS, "-w", tmp_path / "work")
    assert again.status == 0, again.stdout + again.stderr
    interruption.check_whole(tmp_path / "out")
    np.testing.assert_array_equal(denoised(tmp_path / "out"), reference)


@pytest.mark.parametrize(("name", "size"), [("out", "100k"), ("work", "64k"), ("work", "300k")])
def test_a_full_disk_is_named_and_a_second_run_completes(
    name: str,
    size: str,
    small_disk: Any,
    interruption: Any,
    dataset: Path,
    tmp_path: Path,
    run_app: Any,
    run_psn: Any,
    reference: np.ndarray,
) -> None:
    """The work folder fills while betas are turned into rows of units, or while results are stored."""
    folder = small_disk(name, size)
    done = run_app("psn", dataset, tmp_path / "out", *FLAGS, "-w", tmp_path / "work")
    interruption.check_full(done, folder, tmp_path / "out")
    small_disk(name, "200m")
    again = run_psn(dataset, tmp_path / "out", *FLAGS, "-w", tmp_path / "work")
    assert again.status == 0, again.stdout + again.stderr
    np.testing.assert_array_equal(denoised(tmp_path / "out"), reference)
