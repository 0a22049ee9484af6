"""What a job has read, as it lies in its work folder: the grid, arrays, tables, and the stimuli."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.spaces import Space
from conform_bids.bids.trials import write_stimuli

__all__ = ["write_parts"]


def write_parts(
    folder: Path, space: Space, arrays: Mapping[str, npt.NDArray[Any]], tables: Mapping[str, pd.DataFrame], stimuli: pd.DataFrame
) -> list[Path]:
    """Write parts of a job's inputs to its work folder, where the next node maps them.

    Parameters
    ----------
    folder : Path
    space : Space
        Becomes ``space.npz``.
    arrays : mapping of str to array
        By file name without ``.npy``; as float32.
    tables : mapping of str to DataFrame
        By file name without ``.tsv``.
    stimuli : DataFrame
        Becomes ``stimuli.tsv``.

    Returns
    -------
    list of Path
        The files.
    """
    paths = [folder / "space.npz", folder / "stimuli.tsv"]
    space.save(paths[0])
    write_stimuli(stimuli, paths[1])
    for name, values in arrays.items():
        paths.append(folder / f"{name}.npy")
        np.save(paths[-1], np.asarray(values, dtype=np.float32), allow_pickle=False)
    for name, table in tables.items():
        paths.append(folder / f"{name}.tsv")
        write_tsv(table, paths[-1])
    return paths
