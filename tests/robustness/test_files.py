"""One run over a participant a fault: each fails naming its file, what is merely odd is processed, and nobody harms another."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from broken_files import bare_pickle, dangle, executed, huge, patch_header, pickled, truncate

pytestmark = pytest.mark.slow

SPACE = "MNI152NLin2009cAsym"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    path.write_bytes(bytes(content))


def _shrink(path: Path, n_volumes: int) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., :n_volumes], image.affine, image.header), path)


def _fill(path: Path, value: float) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, value, dtype=np.float32), image.affine, image.header), path)


Break = Callable[[Any, str, SimpleNamespace], Path]


def _on(target: str, run: str, change: Callable[[Path], None]) -> Break:
    def apply(tiny: Any, label: str, make: SimpleNamespace) -> Path:
        path: Path = getattr(tiny, target)(label, run)
        change(path)
        return path

    return apply


def _other_grid(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)


def _other_affine(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([3.0, 3.0, 4.0, 1.0])), path)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _no_rows(path: Path) -> None:
    path.write_text(path.read_text().splitlines()[0] + "\n")


def _last_row_off(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def _text_in(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[9] = "big\t0"
    path.write_text("\n".join(lines) + "\n")


BROKEN: dict[str, tuple[Break, str]] = {
    "truncated": (_on("bold", "2", truncate), "truncated"),
    "flipped": (_on("bold", "2", _flip), "corrupt"),
    "noise": (_on("bold", "2", lambda path: path.write_bytes(os.urandom(5000)) and None), "cannot be read"),
    "zerobold": (_on("bold", "2", lambda path: path.write_bytes(b"") and None), ""),
    "zeromask": (_on("mask", "2", lambda path: path.write_bytes(b"") and None), ""),
    "zeroevents": (_on("events", "2", lambda path: path.write_bytes(b"") and None), "empty"),
    "zeroconfounds": (_on("confounds", "2", lambda path: path.write_bytes(b"") and None), "empty"),
    "norows": (_on("confounds", "2", _no_rows), "0 rows"),
    "shortconfounds": (_on("confounds", "2", _last_row_off), "59 rows"),
    "textconfounds": (_on("confounds", "2", _text_in), ":10"),
    "shortbold": (_on("bold", "2", lambda path: _shrink(path, 50)), "50 volumes"),
    "allnan": (_on("bold", "2", lambda path: _fill(path, np.nan)), "nothing to fit"),
    "allzero": (_on("bold", "2", lambda path: _fill(path, 0)), "nothing to fit"),
    "allconstant": (_on("bold", "2", lambda path: _fill(path, 100)), "nothing to fit"),
    "maskgrid": (_on("mask", "2", _other_grid), ""),
    "maskaffine": (_on("mask", "2", _other_affine), ""),
    "maskempty": (_on("mask", "2", lambda path: _fill(path, 0)), "empty"),
    "boldgrid": (_on("bold", "2", _other_grid), ""),
    "danglebold": (_on("bold", "2", dangle), "datalad get"),
    "danglemask": (_on("mask", "2", dangle), "datalad get"),
    "dangleevents": (_on("events", "2", dangle), "datalad get"),
    "folderevents": (_on("events", "2", _as_folder), ""),
    "hugedims": (_on("bold", "2", huge), "declares"),
    "hugemask": (_on("mask", "2", lambda path: patch_header(path, 40, "<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)), "declares"),
    "negativedims": (_on("bold", "2", lambda path: patch_header(path, 40, "<8h", 4, -6, 5, 4, 60, 1, 1, 1)), ""),
    "farvoxels": (_on("bold", "2", lambda path: patch_header(path, 108, "<f", 1e30)), ""),
    "picklebold": (_on("bold", "2", pickled), "cannot be read"),
    "pickleevents": (_on("events", "2", pickled), "not a text file"),
    "pickleconfounds": (_on("confounds", "2", pickled), "not a text file"),
}  # fmt: skip


def _scaled(path: Path) -> None:
    image = nib.load(path)
    values = np.asarray(image.dataobj)
    scaled = nib.Nifti1Image(np.round(values / 0.05).astype(np.int16), image.affine)
    scaled.header.set_slope_inter(0.05, 0)
    scaled.header.set_zooms((3, 3, 3, 2))
    scaled.header.set_xyzt_units("mm", "sec")
    nib.save(scaled, path)


def _as_type(dtype: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        image = nib.load(path)
        header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
        header.set_zooms((3, 3, 3, 2)) if header.get_data_shape() == (1, 1, 1, 1) else None
        converted = nib.Nifti1Image(np.round(np.asarray(image.dataobj)).astype(dtype), image.affine, header)
        nib.save(converted, path)

    return change


ODD: dict[str, tuple[Break, str]] = {
    "sound": (_on("bold", "2", lambda path: None), ""),
    "scaled": (_on("bold", "2", _scaled), ""),
    "bigendian": (_on("bold", "2", _as_type(">i4")), ""),
    "float64": (_on("bold", "2", _as_type("<f8")), ""),
}


@pytest.fixture(scope="module")
def many(make: SimpleNamespace, run_glm: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All participants in one run; ``paths`` are the files that were broken."""
    folder = tmp_path_factory.mktemp("many faults")
    tiny = make.dataset(folder / "ds", (*BROKEN, *ODD))
    paths = {label: change(tiny, label, make) for label, (change, _) in {**BROKEN, **ODD}.items()}
    done = run_glm(tiny.root, folder / "out", "--model", "fithrf", "--confounds", "trans_x*", timeout=300)
    return SimpleNamespace(folder=folder, tiny=tiny, out=folder / "out", paths=paths, done=done)


def test_exit_status_and_a_line_a_participant(many: SimpleNamespace) -> None:
    many.done.expect(1)
    lines = many.done.stdout.splitlines()
    for label in BROKEN:
        assert sum(line.startswith(f"conform-glm: sub-{label}: failed: ") for line in lines) == 1, many.done.text
    for label in ODD:
        assert f"conform-glm: sub-{label}: completed" in lines, many.done.text


@pytest.mark.parametrize("label", BROKEN)
def test_a_broken_file_is_named(label: str, many: SimpleNamespace) -> None:
    line = next(line for line in many.done.stdout.splitlines() if line.startswith(f"conform-glm: sub-{label}: failed: "))
    assert str(many.paths[label]) in line, line
    assert BROKEN[label][1] in line, line
    assert not re.search(r"\b[A-Z]\w*Error:", line), line
    assert not list((many.out / f"sub-{label}").glob("func/*")), "a failed participant has no maps"


def test_the_trap_snaps(tmp_path: Path) -> None:
    """What the other tests look for would be there."""
    bare_pickle(tmp_path / "bare")
    pickled(tmp_path / "array.npy")
    assert not executed(tmp_path)
    pickle.loads((tmp_path / "bare").read_bytes())
    assert executed(tmp_path)
    (mark,) = (path for path in tmp_path.iterdir() if path.is_dir())
    mark.rmdir()
    np.load(tmp_path / "array.npy", allow_pickle=True)
    assert executed(tmp_path)


def test_nothing_was_executed(many: SimpleNamespace) -> None:
    assert not executed(many.folder)


@pytest.mark.parametrize(
    "name", ["x_bold.nii", "x_bold.nii.gz", "x_bold.dtseries.nii", "hemi-L_bold.func.gii", "hrf.tsv", "x.toml", "x.json", "x.yml"]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_pickles_are_refused_wherever_a_file_is_read(
    name: str, wrapped: bool, tmp_path: Path, pristine: Any, plan_glm: Callable[..., Any]
) -> None:
    from conform_bids.bids.hrf_tables import read_hrf_table
    from conform_bids.bids.images import describe_bold, read_space
    from conform_bids.errors import UnusableInputError

    path = tmp_path / name
    if wrapped:
        pickled(path)
    else:
        bare_pickle(path)
    options = {".toml": "--config-file", ".json": "--bids-filter-file", ".yml": "--use-plugin"}
    if path.suffix in options:
        plan_glm(pristine.root, tmp_path / "out", options[path.suffix], path).expect(2, options[path.suffix])
    elif path.suffix == ".tsv":
        with pytest.raises(UnusableInputError, match=name):
            read_hrf_table(path, 2.0)
    else:
        files = [path, path] if name.endswith(".gii") else [path]
        with pytest.raises(UnusableInputError, match=name):
            describe_bold(files)
        with pytest.raises(UnusableInputError, match=name):
            read_space(files, None, "fsLR")
    assert not executed(tmp_path)
