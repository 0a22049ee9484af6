"""Bad input, kills and full disks: no half version, the earlier one stays whole, and the next attempt ends as an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_app.store.__main__ import main
from conform_bids.bids.atomic import LOCK_NAME
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.store import release
from conform_bids.store.catalogue import find_stimulus_file, read_features
from conform_bids.store.inputs import find_inputs
from conform_bids.store.manifest import versions
from conform_bids.store.reading import Store
from conform_bids.store.release import append_release, write_release
from conform_bids.store.verify import verify_store

CONFORM_GLM = Path("derivatives") / "conform-glm"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a store; the empty lock file is none of them."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _table(root: Path) -> Path:
    return next((root / CONFORM_GLM / "sub-01" / "ses-01" / "func").glob("*_trials.tsv"))


def _maps(root: Path) -> Path:
    return next((root / CONFORM_GLM / "sub-01" / "ses-02" / "func").glob("*_statmap.dscalar.nii"))


def _edit(path: Path, change: Callable[[pd.DataFrame], Any]) -> None:
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    change(frame)
    frame.to_csv(path, sep="\t", index=False)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def _fewer_units(path: Path) -> None:
    image = nib.load(path)
    axis = image.header.get_axis(1)[:40]
    header = nib.cifti2.Cifti2Header.from_axes((image.header.get_axis(0), axis))
    nib.Cifti2Image(image.get_fdata()[:, :40], header).to_filename(path)


BAD: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "maps that end too early": (lambda root: _truncate(_maps(root)), 65, "ses-02_task-look_space-fsLR_den-91k"),
    "maps that are none": (lambda root: _maps(root).write_text("no image"), 65, "ses-02_task-look_space-fsLR_den-91k"),
    "maps of another grid": (lambda root: _fewer_units(_maps(root)), 65, "its grid is not that of"),
    "no table": (lambda root: _table(root).unlink(), 66, "_trials.tsv"),
    "a split that there is not": (
        lambda root: _edit(_table(root), lambda frame: frame.__setitem__("split", "tset")),
        65,
        "_trials.tsv:2: split is 'tset'",
    ),
    "an onset that is no number": (
        lambda root: _edit(_table(root), lambda frame: frame.__setitem__("onset", "soon")),
        65,
        "_trials.tsv",
    ),
    "a column less": (
        lambda root: _table(root).write_text(_table(root).read_text().replace("stim_id", "stimulus")),
        65,
        "no column 'stim_id'",
    ),
    "binary in a table": (lambda root: _table(root).write_bytes(b"\xff\xfe\x00\x00trial"), 65, "_trials.tsv"),
    "nothing is for training": (
        lambda root: [_edit(path, lambda frame: frame.__setitem__("split", "test")) for path in root.rglob("*_trials.tsv")],
        65,
        "fewer than two train trials",
    ),
    "no betas": (lambda root: shutil.rmtree(root / CONFORM_GLM / "sub-01"), 66, "sub-01"),
    "no description": (lambda root: (root / "dataset_description.json").unlink(), 65, "dataset_description.json"),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, make_one: Callable[..., Any]) -> Path:
    """A dataset of one person; not to be changed."""
    root = tmp_path_factory.mktemp("clean") / "d"
    make_one(root, {f"s{k:02d}": "test" if k < 3 else "train" for k in range(12)}, participants=("01",))
    return root


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_no_store_is_left(case: str, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, status, message = BAD[case]
    shutil.copytree(clean, tmp_path / "d")
    change(tmp_path / "d")
    assert main(["create", str(tmp_path / "store"), f"D={tmp_path / 'd'}"]) == status
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told, told
    assert versions(tmp_path / "store") == [] and not (tmp_path / "store_report.html").exists()
    if case.startswith("maps"):  # which are found broken after the grid is written
        write_release([find_inputs("D", clean)], tmp_path / "store")
        assert verify_store(tmp_path / "store").sound


def test_values_that_are_none(tmp_path: Path, make_one: Callable[..., Any]) -> None:
    root = tmp_path / "d"
    betas = make_one(root, {f"s{k:02d}": "train" for k in range(12)}, participants=("01",), sessions=("01",))["01"]
    path = next(root.rglob("*.dscalar.nii"))
    image = nib.load(path)
    values = image.get_fdata().copy()
    values[3, 5], values[4, 6], values[:, 9] = np.inf, np.nan, np.nan
    nib.Cifti2Image(values, image.header).to_filename(path)
    write_release([find_inputs("D", root)], tmp_path / "store")
    found, _ = Store(tmp_path / "store").load()
    assert np.isnan(found[3, 5]) and np.isnan(found[4, 6]) and np.isnan(found[:, 9]).all() and np.isfinite(found[:, 5]).sum() == 23
    known = np.delete(betas[:, 5], 3)
    np.testing.assert_allclose(np.delete(found[:, 5], 3), (known - known.mean()) / known.std(ddof=1), atol=2e-3)
    assert verify_store(tmp_path / "store").sound


def test_who_has_no_betas_is_left_out_and_named(tmp_path: Path, make_one: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    make_one(tmp_path / "d", {f"s{k:02d}": "train" for k in range(12)})
    shutil.rmtree(tmp_path / "d" / CONFORM_GLM / "sub-02")
    assert main(["create", str(tmp_path / "store"), f"D={tmp_path / 'd'}"]) == 0
    assert "no folder sub-02" in capsys.readouterr().out
    assert Store(tmp_path / "store").participants["participant_id"].tolist() == ["sub-D01"]
    with pytest.raises(MissingInputError, match="sub-02"):
        find_inputs("D", tmp_path / "d", participants=("02",))


def test_files_that_lead_elsewhere(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stimuli"
    folder.mkdir()
    (tmp_path / "secret.png").write_text("x")
    (folder / "inside.png").write_text("x")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "a\0b", "inside.png/../../secret.png"):
        assert find_stimulus_file(folder, name, name) is None
    assert find_stimulus_file(folder, "n/a", "inside.png") == folder / "inside.png"
    path = store / "versions" / "1.0.0" / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["../../secret.png"] = {"sha256": "0", "bytes": 1}
    path.write_text(json.dumps(content))
    assert any("leads out of the store" in line for line in verify_store(store).tampered)
    with pytest.raises(UnusableInputError, match="leads out of the store"):
        Store(store)


class Bomb:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("pickle-was-run",)


def test_nothing_that_a_file_says_is_run(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "f.npz", features=np.array([Bomb()], dtype=object), stim_id=np.array(["a"]))
    with pytest.raises(UnusableInputError, match="not a table of features"):
        read_features(tmp_path / "f.npz")
    (store / "space.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UnusableInputError):
        _ = Store(store)
    assert not (tmp_path / "pickle-was-run").exists()


def test_a_file_that_declares_more_than_it_holds(store: Path) -> None:
    path = store / "betas" / "sub-One01_betas.h5"
    with h5py.File(path, "r+") as file:
        attributes = dict(file.attrs)
        del file["betas"]
        file.create_dataset("betas", (10**12, 50), "f2", chunks=(8, 50))
        file.attrs.update(attributes)
    manifest = store / "versions" / "1.0.0" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["betas/sub-One01_betas.h5"]["bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(content))
    with pytest.raises(UnusableInputError, match="never written"):
        Store(store).load([0])


KILLS = {
    "while betas are written": ("write_participant", "_new_file"),
    "after the betas": ("write_table", None),
    "before the manifest": ("write_manifest", None),
}


def _append_and_die(stage: str, store: Path, inputs: list[Any]) -> None:
    """Append, and be killed at a stage: as by the machine, without a chance to clear up."""
    name, inner = KILLS[stage]

    def die(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    if inner is None:
        setattr(release, name, die)
    else:
        from conform_bids.store import participants

        participants._ceilings = die  # the file is open, its betas are in it
    append_release(store, inputs)


@pytest.mark.parametrize("stage", KILLS)
def test_a_kill_leaves_the_version_before_and_the_next_attempt_completes(stage: str, world: SimpleNamespace, store: Path) -> None:
    before = digests(store)
    undisturbed = Path(shutil.copytree(store, store.with_name("undisturbed")))
    child = multiprocessing.get_context("fork").Process(target=_append_and_die, args=(stage, store, world.inputs[1:]))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    assert versions(store) == ["1.0.0"] and {name: digests(store)[name] for name in before} == before
    assert len(Store(store, verify=True).load("participant_id == 'sub-One01'")[0]) == 80
    append_release(store, world.inputs[1:])
    append_release(undisturbed, world.inputs[1:])
    assert digests(store) == digests(undisturbed)
    assert verify_store(store).sound


def test_two_who_append_at_once_wait_for_each_other(world: SimpleNamespace, store: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_as, args=(store, world.inputs[1], name)) for name in ("P", "Q")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert versions(store) == ["1.0.0", "1.1.0", "1.2.0"] and verify_store(store).sound
    assert sorted(Store(store).participants["participant_id"]) == ["sub-One01", "sub-One02", "sub-P01", "sub-Q01"]


def _append_as(store: Path, dataset: Any, name: str) -> None:
    from dataclasses import replace

    people = tuple(replace(person, label=f"{name}{person.original}") for person in dataset.participants)
    append_release(store, [replace(dataset, name=name, participants=people)])


def _limit(n_bytes: int) -> Callable[[], None]:
    def set_limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))

    return set_limit


def _write_with_limit(n_bytes: int, store: Path, inputs: list[Any]) -> None:
    _limit(n_bytes)()
    try:
        write_release(inputs, store)
    except OSError as error:
        os._exit(17 if str(store) in str(error) else 18)
    os._exit(0)


@pytest.mark.parametrize("n_bytes", [9_000, 40_000])
def test_no_room_for_a_file_is_an_error_and_no_crash(n_bytes: int, world: SimpleNamespace, tmp_path: Path) -> None:
    """The tables need more than the smaller, and the betas with what is set aside for them more than the larger limit."""
    store = tmp_path / "store"
    child = multiprocessing.get_context("fork").Process(target=_write_with_limit, args=(n_bytes, store, world.inputs[:1]))
    child.start()
    child.join(300)
    assert child.exitcode == 17, "an OSError that names a file of the store"
    assert versions(store) == [] and not list(store.rglob(".conform-*"))
    write_release(world.inputs[:1], store)
    assert digests(store) == digests(world.store)


@pytest.mark.parametrize("size", ["16k", "1100k"])
def test_a_full_disk_is_told_and_a_second_run_completes(
    size: str, small_disk: Callable[[str, str], Path], world: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """16k: not even the tables; 1100k: all but betas, for which a margin of 1 MB has to be left."""
    store = small_disk("disk", size) / "store"
    assert main(["create", str(store), f"One={world.root / 'one'}"]) == 1
    told = capsys.readouterr().err
    assert "o space left on device" in told and str(store) in told and "Traceback" not in told
    assert versions(store) == [] and not list(store.rglob(".conform-*"))
    small_disk("disk", "50m")
    assert main(["create", str(store), f"One={world.root / 'one'}"]) == 0
    assert {name: text for name, text in digests(store).items() if name.startswith("betas/")} == {
        name: text for name, text in digests(world.store).items() if name.startswith("betas/")
    }
    assert main(["verify", str(store)]) == 0
