"""The grid of a store, the same for all, and the parcels of its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conform_bids.bids.array_checks import check_npz
from conform_bids.bids.atomic import atomic_path
from conform_bids.bids.images import read_space
from conform_bids.bids.parcellations import read_parcellation
from conform_bids.bids.spaces import CiftiSpace, Space, SurfaceSpace, VolumeSpace
from conform_bids.errors import UnusableInputError
from conform_bids.store.inputs import DatasetInput

__all__ = ["common_space", "read_parcels", "save_parcels"]


def common_space(datasets: Sequence[DatasetInput], labels: Mapping[str, str], former: Space | None) -> Space:
    """Space of all betas: of volumes, the voxels in anybody's mask (or those of the store, where there is one).

    Raises
    ------
    UnusableInputError
        Naming the file whose grid is not that of the others, or of the store.
    """
    space: Space | None = former
    masks: list[npt.NDArray[np.bool_]] = []
    for dataset in datasets:
        for person in dataset.participants:
            for fit in person.fits:
                here = read_space(fit.files, fit.mask, labels["space"], labels.get("den"), labels.get("res"))
                space = here if space is None else space
                if not here.same_grid(space) or here.kind != space.kind or here.label != space.label:
                    theirs = "the store" if former is not None else Path(space.source).name
                    raise UnusableInputError(f"{fit.files[0]}: its grid is not that of {theirs}; all of a store are on one grid")
                if isinstance(here, VolumeSpace):
                    masks.append(here.mask)
    assert space is not None
    if isinstance(space, VolumeSpace) and former is None:
        return replace(space, mask=np.logical_or.reduce(masks))
    return space


def save_parcels(files: Sequence[Path], space: Space, path: Path) -> None:
    """Write the parcel of each unit: of a parcellation, else CIFTI structures, hemispheres, or one for all."""
    if files:
        found = read_parcellation(files, space)
        labels, names = found.labels, found.names
    elif isinstance(space, CiftiSpace):
        labels, names = space.structure, tuple(name.removeprefix("CIFTI_STRUCTURE_").lower() for name in space.structures)
    elif isinstance(space, SurfaceSpace):
        labels, names = np.repeat([0, 1], [space.n_left, space.n_right]), ("left", "right")
    else:
        labels, names = np.zeros(space.n_units, dtype=np.intp), ("whole",)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, allow_pickle=False, labels=labels.astype(np.int32), names=np.array(names, dtype=str))


def read_parcels(path: Path) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Labels (units,), -1 outside, and the names of the parcels.

    Raises
    ------
    UnusableInputError
    """
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as archive:
            return archive["labels"], tuple(archive["names"].tolist())
    except Exception as error:  # zip and NumPy each fail in their own way on a foreign file
        raise UnusableInputError(f"{path}: not the parcels of a store ({error})") from error
