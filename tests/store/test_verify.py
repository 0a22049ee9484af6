"""`verify_store` and ``conform-store``: what is changed is found, whatever was changed, and a leak is a leak even when hashes agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from bids_app.store.__main__ import main
from conform_bids.bids.splits import read_split
from conform_bids.store.manifest import file_record
from conform_bids.store.reading import Store
from conform_bids.store.release import append_release
from conform_bids.store.split import write_split
from conform_bids.store.tables import read_table, write_table
from conform_bids.store.verify import verify_store

FOLDER = "versions/1.0.0"


def _forge(store: Path) -> None:
    """Make the manifest agree with the files: what somebody does who knows it."""
    path = store / FOLDER / "manifest.json"
    content = json.loads(path.read_text())
    content["files"] = {name: file_record(store / name) for name in content["files"]}
    path.write_text(json.dumps(content))


def _change(store: Path, name: str, change: Callable[[pd.DataFrame], Any]) -> None:
    frame = read_table(name, store / FOLDER)
    change(frame)
    write_table(name, frame, store / FOLDER)


def _flip(store: Path) -> None:
    path = store / "betas" / "sub-One01_betas.h5"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)


TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one bit of betas": (_flip, "sub-One01_betas.h5: its content"),
    "a file is gone": (lambda store: (store / FOLDER / "trials.tsv").unlink(), "trials.tsv: missing"),
    "a file is longer": (lambda store: (store / "README.md").write_text("x" * 5000), "README.md: 5000 bytes"),
    "a file more": (lambda store: (store / "betas" / "sub-x_betas.h5").write_text(""), "sub-x_betas.h5: not in the manifest"),
    "a table": (lambda store: _change(store, "stimuli", lambda f: f.__setitem__("split", "train")), "stimuli.parquet"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_is_changed_is_found(case: str, store: Path) -> None:
    change, message = TAMPERED[case]
    change(store)
    found = verify_store(store)
    assert any(message in line for line in found.tampered) and not found.sound
    assert main(["verify", str(store)]) == 1


def _move(store: Path, stim_id: str, split: str) -> None:
    """A stimulus and its trials to another side, everywhere."""
    for name in ("stimuli", "trials"):
        _change(store, name, lambda frame: frame.__setitem__("split", frame["split"].where(frame["stim_id"] != stim_id, split)))


def _use_test_trials(store: Path) -> None:
    _change(store, "trials", lambda frame: frame.__setitem__("in_statistics", frame["in_statistics"] | (frame["split"] == "test")))


def _shift(store: Path) -> None:
    with h5py.File(store / "betas" / "sub-One01_betas.h5", "r+") as file:
        file["betas"][:40] = file["betas"][:40] + np.float16(0.5)


LEAKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a copy of a test image is train": (lambda store: _move(store, "a19.png", "train"), "are the same stimulus"),
    "a rescaled copy is train": (lambda store: _move(store, "a18.png", "train"), "One:a18.png (train)"),
    "test in its dataset": (lambda store: _move(store, "a02.png", "artificial"), "a02.png (artificial) is test in its dataset"),
    "a trial of a test image is train": (
        lambda store: _change(store, "trials", lambda frame: frame.__setitem__("split", frame["split"].replace("test", "train"))),
        "but its stimulus",
    ),
    "z-scored with test trials": (_use_test_trials, "are among those that it was z-scored by"),
    "z-scored by other trials": (_shift, "not z-scored by the trials that the table names"),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_leak_is_found_though_hashes_agree(case: str, store: Path) -> None:
    change, message = LEAKS[case]
    change(store)
    _forge(store)
    found = verify_store(store)
    assert found.tampered == () and any(message in line for line in found.leaks), found
    assert main(["verify", str(store)]) == 1


def test_a_sound_store(world: SimpleNamespace, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_release(store, world.inputs[1:])
    for version in (None, "1.0.0"):
        found = verify_store(store, version)
        assert found.sound, found
    assert any("z-scored with trials whose stimulus" in line for line in verify_store(store).marked)
    assert main(["verify", str(store)]) == 0
    digest = capsys.readouterr().out.split()[-1]
    assert main(["verify", str(store), "--manifest-sha256", digest]) == 0
    assert main(["verify", str(store), "--manifest-sha256", "0" * 64]) == 1
    assert main(["show", str(store)]) == 0
    assert "Two" in capsys.readouterr().out


def test_a_broken_store_is_no_crash(store: Path) -> None:
    (store / FOLDER / "trials.parquet").write_bytes(b"PAR1")
    assert main(["verify", str(store)]) == 1
    (store / FOLDER / "manifest.json").write_text("{")
    assert main(["verify", str(store)]) == 65
    assert main(["verify", str(store / "nothing")]) == 66


@pytest.mark.parametrize("name", ["group", "betas"])
def test_arrays_of_another_file_are_no_part_of_a_store(name: str, store: Path, tmp_path: Path) -> None:
    path = next((store / "betas").glob("*.h5"))
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        file.copy(name, other)
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
    found = verify_store(store)
    assert any(f"{name} is a link" in line for line in found.faults), found


def test_the_command_line(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, one, two = tmp_path / "store", world.root / "one", world.root / "two"
    assert main(["create", str(store), f"One={one}", "--name", "ours", "--license", "CC0"]) == 0
    assert main(["create", str(store), f"One={one}"]) == 2
    assert main(["append", str(store), f"Two={two / 'derivatives' / 'conform-glm'}"]) == 0
    assert main(["append", str(store), f"Two={two}"]) == 2
    assert main(["append", str(store), f"Three={tmp_path}"]) == 65
    assert main(["verify", str(store)]) == 0
    capsys.readouterr()
    assert json.loads((store / "dataset_description.json").read_text())["Name"] == "ours"
    assert Store(store).manifest["datasets"] == [
        {"name": "One", "license": "CC0", "version": "1.0.0"},
        {"name": "Two", "license": "CC0", "version": "1.1.0"},
    ]


def test_split_from_stimuli_alone(world: SimpleNamespace, tmp_path: Path) -> None:
    names = [f"{name}={world.root / folder}" for name, folder in (("One", "one"), ("Two", "two"))]
    assert main(["split", str(tmp_path), *names]) == 0
    of_one = read_split(tmp_path / "split_One.tsv")
    assert {of_one[name] for name in ("a00.png", "a06.png", "a18.png", "a19.png")} == {"test"} and of_one["a04.png"] == "artificial"
    assert of_one["a12.png"] == "train" and len(of_one) == 20
    assert read_split(tmp_path / "split_Two.tsv")["b00.png"] == "test"
    # the same as that of a store of both, which is made after the fits
    result = write_split({"One": world.root / "one" / "derivatives" / "conform-glm", "Two": world.root / "two"}, tmp_path / "again")
    assert result.stimuli["split"].tolist() == pd.read_csv(tmp_path / "split.tsv", sep="\t")["split"].tolist()
    assert main(["split", str(tmp_path), f"One={world.root / 'one'}", "--threshold", "0.8"]) == 2
    assert main(["split", str(tmp_path), str(tmp_path / "absent")]) == 66


def test_help_comes_at_once() -> None:
    code = "import sys; from bids_app.store.__main__ import _parser; _parser(); sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "NO_ET": "1"}, check=False).returncode == 0
