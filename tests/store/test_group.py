"""The store and the split at the level group of conform-align."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from conform_bids.store.reading import Store
from conform_bids.store.verify import verify_store


def align(*words: object) -> SimpleNamespace:
    """conform-align in this process."""
    from bids_app.align.__main__ import APP
    from bids_app.run import main

    typed = [*map(str, words), "--debug", "workflow", "--skip-bids-validation", "--nprocs", "1"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(APP, typed)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return SimpleNamespace(status=status, text=output.getvalue() + errors.getvalue())


def test_datasets_are_aggregated_without_alignment_and_added_later(world: SimpleNamespace, tmp_path: Path) -> None:
    one, two = f"One={world.root / 'one'}", f"Two={world.root / 'two'}"
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--store", "-d", one)
    assert run.status == 0, run.text
    store = Store(tmp_path / "out" / "store")
    assert store.participants["participant_id"].tolist() == ["sub-One01", "sub-One02"]
    pd.testing.assert_frame_equal(store.stimuli, Store(world.store).stimuli)
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "store").rglob("*.h5")}
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--store", "-d", one, two)
    assert run.status == 0, run.text
    both = Store(tmp_path / "out" / "store")
    assert both.participants["participant_id"].tolist() == ["sub-One01", "sub-One02", "sub-Two01"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert verify_store(tmp_path / "out" / "store").sound
    page = (tmp_path / "out" / "group_store.html").read_text()
    assert "A store of 3 people, version 1.1.0" in page and "One: a06.png, Two: b00.png are the same, test" in page
    again = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--store", "-d", one, two)
    assert again.status == 0, again.text
    assert Store(tmp_path / "out" / "store").version == both.version


def test_one_dataset_is_named_by_its_folder(world: SimpleNamespace, tmp_path: Path) -> None:
    run = align(world.root / "two", tmp_path / "out", "group", "-w", tmp_path / "work", "--store")
    assert run.status == 0, run.text
    assert Store(tmp_path / "out" / "store").participants["participant_id"].tolist() == ["sub-two01"]


def test_the_split_is_of_stimuli_alone(world: SimpleNamespace, tmp_path: Path) -> None:
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--split-only", "-d", f"One={world.root / 'one'}")
    assert run.status == 0, run.text
    table = pd.read_csv(tmp_path / "out" / "split.tsv", sep="\t").set_index("stim_id")["split"]
    assert table["a00.png"] == table["a19.png"] == table["a18.png"] == "test", "what looks like a test stimulus is one"
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--store-source", "psn"), 2, "without --store"),
        (("--store", "--split-only"), 2, "name one"),
        (("--store", "--store-source", "psn"), 66, "conform-psn"),
        ((), 66, "nobody is prepared"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(
    flags: tuple[str, ...], status: int, words: str, world: SimpleNamespace, tmp_path: Path
) -> None:
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", *flags)
    assert run.status in (status, 1), run.text
    assert words in run.text
