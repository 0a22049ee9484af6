"""Ways in which files are broken: what tests of every app do to an input, to see it named and the others go on."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

__all__ = ["bare_pickle", "cell", "dangle", "executed", "huge", "patch_header", "pickled", "table", "truncate", "values"]

_EXECUTED = "a-pickle-was-executed"


class _Bomb:
    """Leaves a mark beside the file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._mark = str(path.absolute().with_name(_EXECUTED))

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._mark,)


def pickled(path: Path) -> None:
    """A numpy file of an object that acts when it is unpickled."""
    with path.open("wb") as stream:
        np.save(stream, np.array([_Bomb(path)], dtype=object), allow_pickle=True)


def bare_pickle(path: Path) -> None:
    """The same object as a pickle alone."""
    path.write_bytes(pickle.dumps(_Bomb(path), protocol=0))


def executed(folder: Path) -> bool:
    """Whether a pickle in this folder was loaded."""
    return any(folder.rglob(_EXECUTED))


def truncate(path: Path) -> None:
    """Two thirds of the file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def patch_header(path: Path, offset: int, form: str, *numbers: float) -> None:
    """Other numbers in the header of a .nii.gz."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, raw, offset, *numbers)
    path.write_bytes(gzip.compress(bytes(raw)))


def huge(path: Path) -> None:
    """A header that declares more than any disk holds."""
    patch_header(path, 40, "<8h", 4, 30000, 30000, 30000, 30000, 1, 1, 1)


def dangle(path: Path) -> None:
    """A link of git-annex to content that was not fetched."""
    path.unlink()
    path.symlink_to("../../.git/annex/objects/MD5E-s1--0/MD5E-s1--0")


def values(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> Callable[[Path], None]:
    """Other values, or another grid, in a NIfTI file; ``change`` may write to what it is given."""

    def apply(path: Path) -> None:
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine if affine is None else affine), path)

    return apply


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    """Other rows or columns in a TSV file, all text."""

    def apply(path: Path) -> None:
        change(pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)).to_csv(path, sep="\t", index=False)

    return apply


def cell(column: str, value: str) -> Callable[[Path], None]:
    """Another value in line 8 of a TSV file."""
    return table(lambda rows: rows.assign(**{column: [*rows[column][:6], value, *rows[column][7:]]}))
