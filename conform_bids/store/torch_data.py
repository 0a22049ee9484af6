"""A torch Dataset over the trials of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from conform_bids.store.reading import Store

__all__ = ["TrialDataset"]


class TrialDataset(Dataset[dict[str, Any]]):
    """Trials of a store, in the order of the rows given.

    Parameters
    ----------
    store : Store
    rows : DataFrame
        Of ``store.trials``.
    units : (n,) int array or None
        All where None.
    """

    def __init__(self, store: Store, rows: pd.DataFrame, units: npt.NDArray[np.intp] | None) -> None:
        self._store = store
        self._units = units
        self._index = rows.index.to_numpy()
        self._participants = rows["participant_id"].to_numpy(dtype=str)
        self._rows = rows["row"].to_numpy(dtype=np.int64)
        self._content = rows["content_id"].to_numpy(dtype=str)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, place: int) -> dict[str, Any]:
        trial = self._store._betas(str(self._participants[place])).trial(int(self._rows[place]))
        values = torch.from_numpy(trial if self._units is None else trial[self._units])
        return {
            "betas": values.to(torch.float32),
            "index": int(self._index[place]),
            "participant_id": str(self._participants[place]),
            "content_id": str(self._content[place]),
        }

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Items of a batch; torch's loader asks for all at once."""
        return [self[place] for place in places]
