"""HDF5, npz and parquet files of others: links, objects and sizes that are declared only, in every layout that is read whole."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from conform_bids.align.transforms import read_person, read_template
from conform_bids.bids import array_checks
from conform_bids.bids.array_checks import check_array, check_file
from conform_bids.bids.hdf5_layouts import read_decomposition
from conform_bids.bids.spaces import load_space
from conform_bids.bids.weights import EncodingWeights, read_weights, write_weights
from conform_bids.errors import UnusableInputError
from conform_bids.stimuli.feature_files import read_features
from conform_bids.store.catalogue import read_features as read_table_of_features
from conform_bids.store.grid import read_parcels
from conform_bids.store.tables import read_table

HOSTILE = ("soft link", "external link", "virtual", "external", "huge", "unwritten", "references", "ragged")


def add_hostile(file: h5py.File, kind: str, name: str, secret: Path) -> None:
    """Put something under a name that must not be read."""
    if kind == "soft link":
        file[name] = h5py.SoftLink("/elsewhere")
    elif kind == "external link":
        file[name] = h5py.ExternalLink(str(secret), "secret")
    elif kind == "virtual":
        layout = h5py.VirtualLayout((2,), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "secret", (2,))
        file.create_virtual_dataset(name, layout)
    elif kind == "external":
        file.create_dataset(name, (2,), "f8", external=[(str(secret), 0, 16)])
    elif kind == "huge":  # 40 TB, of which one chunk was written
        file.create_dataset(name, (10**9, 10**4), "f4", chunks=(1000, 1000), compression="gzip")[0, 0] = 1.0
    elif kind == "unwritten":
        file.create_dataset(name, (2,), "f4")
    elif kind == "references":
        file.create_dataset(name, data=[file.ref], dtype=h5py.ref_dtype)
    else:
        file.create_dataset(name, (1,), dtype=h5py.vlen_dtype(np.float32))[0] = [1.0, 2.0]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["secret"] = np.ones(2)
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_must_not_be_read_is_found_at_any_depth(kind: str, secret: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["sound"] = np.ones(3)
        add_hostile(file, kind, "groups/deep/values", secret)
    with h5py.File(tmp_path / "a.h5") as file:
        check_array(file, "sound")
        with pytest.raises(ValueError, match="values"):
            check_array(file["groups/deep"], "values")
        with pytest.raises(ValueError, match="values"):
            check_file(file)


def test_sound_files_pass_whatever_names_they_give_twice(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["numbers"] = np.ones((3, 2))
        file["empty"] = np.ones((0, 10**9))
        file["packed"] = np.zeros(0)
        file.create_dataset("zeros", data=np.zeros(10**6), chunks=True, compression="gzip")
        file["text"], file["bytes"] = ["a", "b"], np.array([b"a"])
        group = file.create_group("group")
        group["itself"], group["again"] = group, file["numbers"]
    with h5py.File(tmp_path / "a.h5") as file:
        check_file(file)


def test_arrays_that_fit_one_by_one_may_be_too_much_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "abc":
            file.create_dataset(name, data=np.zeros(1000))
    monkeypatch.setattr(array_checks, "available_memory_gb", lambda: 1.5e-5)
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(ValueError, match="its arrays declare"):
        check_file(file)


@pytest.mark.parametrize("reader", [load_space, read_parcels, read_table_of_features])
@pytest.mark.parametrize("kind", ["bomb", "header only", "pickle", "text", "cut"])
def test_npz_files_are_looked_at_first(kind: str, reader: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    if kind == "bomb":
        np.savez_compressed(path, features=np.zeros((2000, 1000)), labels=np.zeros(10), stim_id=np.zeros(2000, "S1"))
        monkeypatch.setattr(array_checks, "available_memory_gb", lambda: 0.015)
    elif kind == "header only":
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    elif kind == "pickle":
        np.savez(path, features=np.array([{}], dtype=object))
    elif kind == "text":
        path.write_text("features")
    else:
        np.savez(path, features=np.zeros((20, 10)))
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UnusableInputError, match=r"a\.npz"):
        reader(path)


@pytest.mark.parametrize("reader", [read_features, read_table_of_features, lambda path: read_table("fits", path.parent)])
def test_parquet_files_are_looked_at_first(reader: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of one value, which take next to nothing however long they are."""
    path = tmp_path / "fits.parquet"
    pd.DataFrame({"stim_id": "a", **{str(k): np.zeros(1_000_000, np.float32) for k in range(3)}}).to_parquet(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(array_checks, "available_memory_gb", lambda: 0.003)
    with pytest.raises(UnusableInputError, match=r"fits\.parquet.*it declares 4,000,000 bytes"):
        reader(path)


def _weights(path: Path) -> None:
    write_weights(
        EncodingWeights(
            weights=np.ones((2, 3)), intercept=np.zeros(3), mean=np.zeros(3), scale=np.ones(3), feature_names=("a", "b"),
            feature_space=np.zeros(2, int), cards=({},),
        ),
        path,
    )  # fmt: skip


READERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], object]]] = {
    "weights": (_weights, read_weights),
    "decomposition": (lambda path: _layout(path, layout="decomposition", version=1), read_decomposition),
    "template": (lambda path: _layout(path, layout="transform", version=1, role="template"), read_template),
    "person": (lambda path: _layout(path, layout="transform", version=1, role="person"), read_person),
}


def _layout(path: Path, **attributes: Any) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes | {"settings": "{}"})


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("layout", READERS)
def test_every_layout_that_is_read_whole_is_looked_at_first(layout: str, kind: str, secret: Path, tmp_path: Path) -> None:
    write, read = READERS[layout]
    path = tmp_path / "a.h5"
    write(path)
    with h5py.File(path, "r+") as file:
        add_hostile(file, kind, "hostile", secret)
    with pytest.raises(UnusableInputError, match="hostile") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("name", ["weights", "intercept", "mean", "scale", "feature_space", "feature_names"])
@pytest.mark.parametrize("change", ["transposed", "longer", "a number", "of another kind", "absent"])
def test_weights_of_a_wrong_shape_are_refused(name: str, change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    _weights(path)
    with h5py.File(path, "r+") as file:
        values = np.asarray(file[name][()])
        del file[name]
        if change == "transposed":
            file[name] = values.T if values.ndim == 2 else values[:, None]
        elif change == "longer":
            file[name] = np.concatenate([values, values[:1]])
        elif change == "a number":
            file[name] = 1.0
        elif change == "of another kind":
            file[name] = np.full(values.shape, b"a" if name != "feature_names" else 1)
    with pytest.raises(UnusableInputError, match=r"a\.h5"):
        read_weights(path)
