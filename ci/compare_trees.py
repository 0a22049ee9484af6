"""Whether two folders of conform's outputs say the same: the same files, arrays equal to rounding, tables and JSON equal but for runs.

``python ci/compare_trees.py EXPECTED FOUND`` prints each difference and ends with 1 where there is one. What bears the name of a run
(logs, crash files), what was drawn (figures, pages) and what only some machines make is not compared; fields that say when, where and by
what a run was made are left out.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["compare"]

LEFT_OUT = ("log", "logs", "figures", "work")
RUN_FIELDS = ("GeneratedBy", "Date", "RunID", "Run", "Container", "Hostname", "SourceDatasets", "DatasetLinks", "Device", "NumberOfThreads")
ROUNDING = 2e-3
"""Share of the spread of an array that values may differ by: other processors, other orders of sums, and penalties on a grid."""
SHARE = 0.995
"""Of the values that have to agree: a choice between two that are equally good may fall otherwise."""


def compare(expected: Path, found: Path) -> list[str]:
    """Differences between two folders, one line each."""
    here, there = _files(expected), _files(found)
    lines = [f"missing: {name}" for name in sorted(here - there)] + [f"not expected: {name}" for name in sorted(there - here)]
    for name in sorted(here & there):
        lines += [f"{name}: {difference}" for difference in _differences(expected / name, found / name)]
    return lines


def _files(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.is_file() and not set(inside.parts[:-1]) & set(LEFT_OUT) and path.suffix not in (".html", ".md", ".svg", ".png"):
            names.add(inside.as_posix())
    return names


def _differences(expected: Path, found: Path) -> Iterator[str]:
    name = expected.name
    if name.endswith((".nii.gz", ".nii", ".gii")):
        yield from _arrays(*(_image(path) for path in (expected, found)), "values")
    elif name.endswith(".h5"):
        yield from _hdf5(expected, found)
    elif name.endswith(".tsv"):
        yield from _tables(expected, found)
    elif name.endswith(".json"):
        yield from _json(json.loads(expected.read_text()), json.loads(found.read_text()), "")


def _image(path: Path) -> npt.NDArray[np.float64]:
    image: Any = nib.load(path)
    if hasattr(image, "darrays"):
        return np.stack([np.asarray(part.data, dtype=np.float64) for part in image.darrays])
    return np.asarray(image.get_fdata(), dtype=np.float64)


def _arrays(expected: npt.NDArray[Any], found: npt.NDArray[Any], where: str) -> Iterator[str]:
    if expected.shape != found.shape:
        yield f"{where}: shape {expected.shape} and {found.shape}"
        return
    if expected.dtype.kind not in "fiub":
        if not np.array_equal(expected, found):
            yield f"{where}: differ"
        return
    one, two = expected.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isfinite(one), np.isfinite(two)):
        yield f"{where}: other values are missing"
        return
    known = np.isfinite(one)
    if not known.any():
        return
    spread = max(float(np.std(one[known])), float(np.abs(one[known]).max()) * 0.05, 1e-12)
    agree = float((np.abs(one - two)[known] <= ROUNDING * spread).mean())
    if agree < SHARE:
        yield f"{where}: {100 * (1 - agree):.2f} % of the values differ by more than rounding"


def _hdf5(expected: Path, found: Path) -> Iterator[str]:
    with h5py.File(expected, "r") as one, h5py.File(found, "r") as two:
        names: list[set[str]] = [set(), set()]
        for file, own in zip((one, two), names, strict=True):
            file.visititems(lambda name, item, own=own: own.add(name) if isinstance(item, h5py.Dataset) else None)
        if names[0] != names[1]:
            yield f"datasets: {sorted(names[0] ^ names[1])}"
        for name in sorted(names[0] & names[1]):
            yield from _datasets(np.asarray(one[name][()]), np.asarray(two[name][()]), name)


def _datasets(one: npt.NDArray[Any], two: npt.NDArray[Any], name: str) -> Iterator[str]:
    """Arrays, or archives of arrays in bytes, which other versions of zlib pack in other bytes."""
    if one.dtype != np.uint8 or one.tobytes()[:4] != b"PK\x03\x04" or two.tobytes()[:4] != b"PK\x03\x04":
        yield from _arrays(one, two, name)
        return
    with np.load(io.BytesIO(one.tobytes())) as here, np.load(io.BytesIO(two.tobytes())) as there:
        if here.files != there.files:
            yield f"{name}: holds {here.files} and {there.files}"
            return
        for part in here.files:
            yield from _arrays(here[part], there[part], f"{name}/{part}")


def _tables(expected: Path, found: Path) -> Iterator[str]:
    one, two = (pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) for path in (expected, found))
    if list(one.columns) != list(two.columns) or len(one) != len(two):
        yield f"columns {list(one.columns)} and {list(two.columns)}, {len(one)} and {len(two)} rows"
        return
    for column in one.columns:
        numbers = [pd.to_numeric(table[column].replace("n/a", "nan"), errors="coerce") for table in (one, two)]
        if numbers[0].notna().sum() == (one[column] != "n/a").sum() and one[column].ne("n/a").any():
            yield from _arrays(numbers[0].to_numpy(), numbers[1].to_numpy(), column)
        elif not one[column].equals(two[column]):
            yield f"column {column} differs"


def _json(one: Any, two: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted(set(one) | set(two)):
            if key in RUN_FIELDS:
                continue
            if key not in one or key not in two:
                yield f"{where}/{key}: only in one"
            else:
                yield from _json(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for place, (first, second) in enumerate(zip(one, two, strict=True)):
            yield from _json(first, second, f"{where}[{place}]")
    elif isinstance(one, float) or isinstance(two, float):
        if not np.isclose(one, two, rtol=0.02, atol=1e-3, equal_nan=True):
            yield f"{where}: {one} and {two}"
    elif one != two:
        yield f"{where}: {str(one)[:80]!r} and {str(two)[:80]!r}"


def main() -> int:
    """Compare the two folders of the command line."""
    differences = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    for line in differences[:60]:
        print(line)
    if len(differences) > 60:
        print(f"... and {len(differences) - 60} more")
    print(f"{len(_files(Path(sys.argv[1])))} files compared, {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
