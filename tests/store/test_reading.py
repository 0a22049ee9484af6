"""Reading: queries, parcels, masks, torch workers, and files that are not what they should be."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.store.reading import Store
from conform_bids.store.summary import coverage, duplicate_groups, split_sizes


def test_queries(world: SimpleNamespace) -> None:
    store = Store(world.store)
    rows = store.query("participant_id == 'sub-One02' and split in ['test', 'artificial'] and repetition < 2")
    assert set(rows["participant_id"]) == {"sub-One02"} and set(rows["split"]) == {"test", "artificial"}
    assert len(store.query("flag == 'n/a'")) == len(store.trials)
    with pytest.raises(UsageError, match="nonsense"):
        store.query("nonsense == 1")
    values, chosen = store.load([5, 3, 100])
    assert chosen.index.tolist() == [5, 3, 100] and values.shape == (3, 50) and values.dtype == np.float32
    everything, _ = store.load()
    np.testing.assert_array_equal(values, everything[[5, 3, 100]])


def test_parcels_and_masks(world: SimpleNamespace) -> None:
    store = Store(world.store)
    every, _ = store.load("split == 'test'")
    assert store.parcels == ("cortex_left", "cortex_right")
    right, _ = store.load("split == 'test'", parcels=["cortex_right"])
    np.testing.assert_array_equal(right, every[:, 25:])
    mask = np.zeros(50, dtype=bool)
    mask[[3, 30, 31]] = True
    both, _ = store.load("split == 'test'", parcels=["cortex_right"], mask=mask)
    np.testing.assert_array_equal(both, every[:, [30, 31]])
    by_index, _ = store.load("split == 'test'", mask=[31, 3])
    np.testing.assert_array_equal(by_index, every[:, [3, 31]])
    with pytest.raises(UsageError, match="no parcel 'V1'"):
        store.load(parcels=["V1"])
    with pytest.raises(UsageError, match="mask of shape"):
        store.load(mask=np.ones(3, dtype=bool))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_torch_workers_read_what_the_process_reads(context: str, world: SimpleNamespace) -> None:
    store = Store(world.store)
    data = store.torch_dataset("split == 'train'", parcels=["cortex_left"])
    expected, rows = store.load("split == 'train'", parcels=["cortex_left"])  # files are open before workers start
    if context == "spawn":
        copy = pickle.loads(pickle.dumps(data))
        np.testing.assert_array_equal(copy[7]["betas"].numpy(), expected[7])
        return
    loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=2, multiprocessing_context=context)
    place = {index: k for k, index in enumerate(rows.index)}
    seen = 0
    for batch in loader:
        np.testing.assert_array_equal(batch["betas"].numpy(), expected[[place[int(index)] for index in batch["index"]]])
        seen += len(batch["index"])
    assert seen == len(rows) == len(data)


def test_broken_stores_are_refused(store: Path) -> None:
    path = store / "betas" / "sub-One01_betas.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UnusableInputError, match="bytes, where the manifest has"):
        Store(store)
    path.write_bytes(b"\x00" * len(whole))
    with pytest.raises(UnusableInputError, match="its content is not"):
        Store(store, verify=True)
    with pytest.raises(UnusableInputError, match="not betas of a store, or broken"):
        Store(store).load("participant_id == 'sub-One01'")
    with pytest.raises(MissingInputError, match=r"no version 3.0.0; there are 1.0.0"):
        Store(store, "3.0.0")


def test_summaries(world: SimpleNamespace) -> None:
    store = Store(world.store)
    table = coverage(store).iloc[0]
    assert (table["dataset"], table["people"], table["trials"], table["stimuli"]) == ("One", 2, 160, 18)
    assert 20 < table["ceiling_test"] <= 100
    assert split_sizes(store)["trials"].sum() == 160 and split_sizes(store)["stimuli"].tolist() == [13, 4, 1]
    groups = duplicate_groups(store)
    assert sorted(groups["stim_id"]) == ["a00.png", "a01.png", "a18.png", "a19.png"]
