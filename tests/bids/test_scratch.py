"""Arrays on disk: what does not fit is refused before anything is written."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from conform_bids.bids import scratch
from conform_bids.bids.scratch import map_array, require_room


def test_a_mapped_array_is_a_file_that_can_be_read(tmp_path: Path) -> None:
    array = map_array(tmp_path / "a.npy", (3, 5))
    assert not array.any()
    array[1, 2] = 7
    array.flush()
    found = np.load(tmp_path / "a.npy")
    assert (found.shape, found.dtype, found[1, 2]) == ((3, 5), np.float32, 7)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= found.nbytes


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"No space left on device: .*a.npy") as caught:
        map_array(tmp_path / "a.npy", (1 << 20, 1 << 28))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=r"No space left on device: .*b.h5"):
        require_room(tmp_path / "b.h5", 1 << 60)
    require_room(tmp_path / "b.h5", 100)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(scratch, "_take_blocks", full)  # another process was faster
    with pytest.raises(OSError, match=r"No space left on device: .*a.npy"):
        map_array(tmp_path / "a.npy", (3, 5))
    assert not list(tmp_path.iterdir())
