"""Feature tables: matched by content and name, the same in every format, and files that are broken or hostile."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from conform_bids.errors import ConformError, MissingInputError, UnusableInputError, UsageError
from conform_bids.stimuli.feature_files import read_feature_spaces, read_features, write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable, match_features

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
CARD = FeatureCard("model", "pooled", {"size": 224}, "Apache-2.0")


def _table(ids: list[str], hashes: list[str] | None = None, values: np.ndarray | None = None) -> FeatureTable:
    rows = np.arange(3.0 * len(ids)).reshape(len(ids), 3) if values is None else values
    return FeatureTable(rows.astype(np.float32), ids, hashes or ["n/a"] * len(ids), CARD)


def test_order_does_not_matter_and_content_goes_before_name() -> None:
    table = _table(["x", "y", "z"], [A, B, "n/a"])
    found = match_features(table, ["z", "other", "x"], ["n/a", B, A.upper()])
    np.testing.assert_array_equal(found.values, table.values[[2, 1, 0]])
    assert found.n_by_content == 2 and found.found.tolist() == [0, 1, 2] and not found.set_aside
    # the name says y, the content says x
    np.testing.assert_array_equal(match_features(table, ["y"], [A]).values, table.values[[0]])
    # a stimulus whose file is not at hand, and a table without hashes
    np.testing.assert_array_equal(match_features(table, ["y"]).values, table.values[[1]])
    np.testing.assert_array_equal(match_features(table, ["z"], [C]).values, table.values[[2]])


def test_what_is_wrong_is_said_or_set_aside() -> None:
    values = np.ones((4, 2))
    values[1, 0] = np.nan
    table = _table(["x", "y", "z", "w"], ["n/a", "n/a", B, "n/a"], values)
    with pytest.raises(MissingInputError, match=r"7 of 8 stimuli have no features: 's0', 's1', 's2', 's3', 's4' and 2 more"):
        match_features(table, ["x", *(f"s{k}" for k in range(7))])
    with pytest.raises(UnusableInputError, match="1 of 2 stimuli have features that are NaN or infinite: 'y'"):
        match_features(table, ["x", "y"])
    with pytest.raises(UnusableInputError, match="another file under their name"):
        match_features(table, ["z"], [C])
    with pytest.raises(MissingInputError, match="The table calls its stimuli 'x', 'y'"):
        match_features(table, ["q"], faults="set-aside")
    kept = match_features(table, ["q", "w", "y", "z", "x"], ["n/a", "n/a", "n/a", C, "n/a"], faults="set-aside")
    assert dict(kept.set_aside) == {"q": "missing", "y": "not finite", "z": "other content"}
    assert kept.found.tolist() == [1, 4] and kept.values.shape == (2, 2)


def test_duplicates() -> None:
    same = np.array([[1.0, 2.0], [1.0, 2.0 + 1e-6], [3.0, 4.0]])
    assert match_features(_table(["x", "x", "y"], None, same), ["x"]).values.tolist() == [[1.0, 2.0]]
    other = np.array([[1.0, 2.0], [1.0, 2.5], [3.0, 4.0]])
    with pytest.raises(UnusableInputError, match="'x' stand there more than once with different features"):
        match_features(_table(["x", "x", "y"], None, other), ["y"])
    with pytest.raises(UnusableInputError, match="'z' stand there more than once"):
        match_features(_table(["x", "z", "y"], [A, A, B], other), ["y"])
    # one name in two datasets: the content tells them apart, the name alone does not
    two = _table(["x", "x", "y"], [A, B, C], other)
    assert match_features(two, ["x"], [B]).values.tolist() == [[1.0, 2.5]]
    with pytest.raises(UnusableInputError, match="several files under their name"):
        match_features(two, ["x"])


@pytest.mark.parametrize(
    ("values", "ids", "hashes"),
    [
        (np.ones(3), ["x"] * 3, ["n/a"] * 3),
        (np.ones((2, 0)), ["x", "y"], ["n/a"] * 2),
        (np.ones((2, 2)), ["x"], ["n/a"] * 2),
        (np.ones((1, 2)), ["n/a"], ["n/a"]),
        (np.ones((1, 2)), ["x"], ["1234"]),
        (np.array([["a", "b"]]), ["x"], ["n/a"]),
    ],
    ids=["one-dimensional", "no-features", "too-few-names", "no-key", "no-hash", "text"],
)
def test_wrong_shapes(values: np.ndarray, ids: list[str], hashes: list[str]) -> None:
    with pytest.raises(ValueError, match=r"feature|row"):
        FeatureTable(values, ids, hashes)


def test_hash_of_the_preprocessing_is_of_what_decides_the_values() -> None:
    assert FeatureCard("m", "l", {"a": 1, "b": 2}).preprocessing_hash == FeatureCard("m", "l", {"b": 2, "a": 1}, "MIT").preprocessing_hash
    assert CARD.preprocessing_hash != FeatureCard("model", "pooled", {"size": 225}).preprocessing_hash
    with pytest.raises(ValueError, match="texts"):
        FeatureCard.from_json({"model": 3})


@pytest.mark.parametrize("extension", [".h5", ".npz", ".parquet"])
def test_formats(extension: str, tmp_path: Path) -> None:
    table = _table(["x", "ü y", "n/a"], [A, "n/a", B])
    path = tmp_path / "new" / f"space{extension}"
    write_features(table, path)
    again = read_features(path)
    np.testing.assert_array_equal(again.values, table.values)
    assert again.values.dtype == np.float32
    assert (again.stim_ids, again.sha256, again.card) == (table.stim_ids, table.sha256, table.card)
    first = path.read_bytes()
    write_features(table, path)
    assert path.read_bytes() == first or extension == ".npz"  # a zip has the time in it
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_files_of_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.eye(2), stim_id=np.array([7, 8]))
    (tmp_path / "a.json").write_text(json.dumps({"model": "CLIP", "preprocessing": "as published", "more": 1}))
    table = read_features(tmp_path / "a.npz")
    assert table.stim_ids == ("7", "8") and table.card == FeatureCard("CLIP", preprocessing={"description": "as published"})
    pd.DataFrame({"stim_id": ["x", "y"], "f1": [1, 2], "f2": [0.5, np.nan]}).to_parquet(tmp_path / "b.parquet")
    wide = read_features(tmp_path / "b.parquet")
    np.testing.assert_array_equal(wide.values, np.array([[1, 0.5], [2, np.nan]], dtype=np.float32))
    spaces = read_feature_spaces(tmp_path)
    assert list(spaces) == ["a", "b"] and spaces["b"].n_features == 2
    assert list(read_feature_spaces(tmp_path / "a.npz")) == ["a"]
    write_features(table, tmp_path / "a.h5")
    with pytest.raises(UnusableInputError, match="two feature spaces are called 'a'"):
        read_feature_spaces(tmp_path)


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        read_features(tmp_path / "none.h5")
    with pytest.raises(MissingInputError, match="no feature table in this folder"):
        read_feature_spaces(tmp_path)
    with pytest.raises(UsageError):
        write_features(_table(["x"]), tmp_path / "x.csv")


class _Planted:
    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._path,)


def _npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def _hostile(kind: str, folder: Path) -> Path:
    path = folder / ("f.npz" if kind.startswith("npz") else "f.parquet" if kind.startswith("parquet") else "f.h5")
    if kind == "npz pickle":
        np.savez(path, features=np.array([_Planted(str(folder / "planted"))], dtype=object), stim_id=np.array(["x"]))
    elif kind == "npz pickled names":
        np.savez(path, features=np.ones((1, 2)), stim_id=np.array([_Planted(str(folder / "planted"))], dtype=object))
    elif kind == "npz huge":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features.npy", _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}\n"))
    elif kind == "npz without names":
        np.savez(path, features=np.ones((1, 2)))
    elif kind == "npz other":
        np.savez(path, betas=np.ones((1, 2)), stim_id=["x"])
    elif kind in ("npz text", "parquet text"):
        path.write_bytes(b"stim_id,features\n")
    elif kind == "npz truncated":
        write_features(_table(["x"]), path)
        path.write_bytes(path.read_bytes()[:-60])
    elif kind == "parquet ragged":
        pd.DataFrame({"stim_id": ["x", "y"], "features": [[1.0], [1.0, 2.0]]}).to_parquet(path)
    else:
        _hostile_hdf5(kind, path)
    return path


def _hostile_hdf5(kind: str, path: Path) -> None:
    secret = path.with_name("secret.h5")
    with h5py.File(secret, "w") as file:
        file["features"] = np.ones((1, 2))
    with h5py.File(path, "w") as file:
        file["stim_id"] = ["x"]
        if kind == "h5 link":
            file["features"] = h5py.ExternalLink(str(secret), "features")
        elif kind == "h5 virtual":
            layout = h5py.VirtualLayout((1, 2), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "features", (1, 2))
            file.create_virtual_dataset("features", layout)
        elif kind == "h5 external":
            file.create_dataset("features", (1, 2), "f8", external=[(str(secret), 0, 16)])
        elif kind == "h5 huge":
            file.create_dataset("features", (10**9, 10**4), "f4", chunks=(1000, 1000))[0, 0] = 1.0
        elif kind == "h5 unwritten":
            file.create_dataset("features", (1, 2), "f4")
        elif kind == "h5 later":
            file.attrs["version"] = 99
            file["features"] = np.ones((1, 2))
        elif kind == "h5 group":
            file.create_group("features")
        elif kind == "h5 wrong card":
            file.attrs["card"] = "[1]"
            file["features"] = np.ones((1, 2))


HOSTILE = [
    *("npz pickle", "npz pickled names", "npz huge", "npz without names", "npz other", "npz text", "npz truncated"),
    *("parquet text", "parquet ragged", "h5 link", "h5 virtual", "h5 external", "h5 huge", "h5 unwritten", "h5 later", "h5 group"),
    "h5 wrong card",
]


@pytest.mark.parametrize("kind", HOSTILE, ids=lambda kind: kind.replace(" ", "-"))
def test_hostile_files(kind: str, tmp_path: Path) -> None:
    path = _hostile(kind, tmp_path)
    with pytest.raises(UnusableInputError, match=r"f\.(npz|h5|parquet): ") as caught:
        read_features(path)
    assert isinstance(caught.value, ConformError) and caught.value.exit_code == 65
    assert not (tmp_path / "planted").exists()
