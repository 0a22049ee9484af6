"""Runs from files to arrays: how many are read at a time changes nothing, and a full disk is told as such."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conform_bids.bids.images import read_bold
from conform_bids.bids.spaces import load_space
from conform_bids.glm.load import load_fit


@pytest.fixture(scope="module")
def plans(simulated_dataset: Any, plan_dataset: Callable[..., tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The fits of the first participant: volumes, grayordinates and surfaces."""
    return list(plan_dataset(simulated_dataset.path, tmp_path_factory.mktemp("plans"))[1].jobs)


def test_every_kind_of_image_is_planned(plans: list[Any]) -> None:
    assert {plan.kind for plan in plans} == {"nifti", "cifti", "gifti"}


def test_threads_write_what_one_writes(plans: list[Any], tmp_path: Path) -> None:
    for plan in plans:
        written = []
        for n_threads in (1, 3):
            folder = tmp_path / f"{plan.name}-{n_threads}"
            folder.mkdir()
            written.append({path.name: path.read_bytes() for path in load_fit(plan, folder, n_threads)})
        assert written[0].keys() == written[1].keys()
        assert all(content == written[1][name] for name, content in written[0].items() if name.endswith((".npy", ".tsv")))
        space = load_space(tmp_path / f"{plan.name}-3" / "space.npz")
        for index, run in enumerate(plan.runs):
            found = np.load(tmp_path / f"{plan.name}-3" / f"run-{index:03d}.npy")
            known = np.isfinite(found)
            assert known.any() and found.dtype == np.float32
            np.testing.assert_array_equal(found[known], read_bold(run.bold, space)[known])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT])
def test_what_ails_the_work_folder_is_not_a_corrupt_file(
    number: int, plans: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(number, "the disk", "run-000.npy")

    monkeypatch.setattr("conform_bids.glm.load.map_array", full)
    monkeypatch.setattr("conform_bids.glm.load.np.save", full)
    for plan in plans:
        with pytest.raises(OSError, match="the disk") as caught:
            load_fit(plan, tmp_path, 2)
        assert caught.value.errno == number
