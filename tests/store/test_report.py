"""The report of a store: what it says, that it is one file without anything foreign, and what it does without images or repeats."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bids_app.store.__main__ import main
from conform_bids.errors import UnusableInputError
from conform_bids.report import store_report
from conform_bids.report.store_figures import plot_trials
from conform_bids.report.store_report import write_store_report
from conform_bids.stimuli.identity import read_thumbnail
from conform_bids.store.inputs import find_inputs
from conform_bids.store.reading import Store
from conform_bids.store.release import append_release, write_release
from conform_bids.store.settings import StoreSettings
from conform_bids.store.summary import duplicate_groups, history, overlap, split_by_dataset

HOSTILE = "x<script>alert(1)<&'.png"


class Page(HTMLParser):
    """Tags, and the text of each cell and heading."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.content = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(self.content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def rows(self) -> list[list[str]]:
        """Text of the cells of all tables, row by row."""
        cells = re.findall(r"<tr>(.*?)</tr>", self.content, re.DOTALL)
        return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in cells]

    @property
    def pngs(self) -> list[Image.Image]:
        """Images of the page that are PNG."""
        found = [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]
        head = "data:image/png;base64,"
        return [Image.open(io.BytesIO(base64.b64decode(data.removeprefix(head)))) for data in found if data.startswith(head)]


@pytest.fixture
def both(world: SimpleNamespace, store: Path) -> Path:
    """A store of two datasets, of which the second came later."""
    append_release(store, world.inputs[1:])
    return store


def test_the_report_tells_what_the_store_holds(world: SimpleNamespace, both: Path, tmp_path: Path) -> None:
    folders = {name: world.root / folder / "stimuli" for name, folder in (("One", "one"), ("Two", "two"))}
    page = Page(write_store_report(both, tmp_path / "page.html", stimuli=folders))
    rows = page.rows()
    # two people, 160 trials and 18 contents by planting; 3 images are in both datasets; 4 repeats a name, 8 of a00 and a01 by their copies
    assert ["One", "2", "160", "18", "3", "4.44", "8", "CC0"] in rows and ["Two", "1", "48", "12", "3", "4.00", "4", "CC0"] in rows
    assert ["One", "train", "12", "96"] in rows and ["One", "artificial", "1", "8"] in rows and ["Two", "test", "2", "8"] in rows
    assert ["One", "18", "3"] in rows and ["Two", "3", "12"] in rows
    assert any(row[:6] == ["1.1.0", "Two", "1", "48", "12", "1"] for row in rows), "a06 became test with the second dataset"
    same = {row[2]: row[3:] for row in rows if len(row) == 6 and row[1] in ("One", "Two") and row[2].endswith(".png")}
    assert same["a19.png"] == ["train", "test", "file, pixels, perceptual"] and same["a18.png"] == ["train", "test", "perceptual"]
    assert len(same) == 10
    assert any("z-scored with trials whose stimulus a later dataset" in text for text in page.texts)
    assert page.texts[page.texts.index("Leaks") + 1] == "0"
    assert any("71.9" in row or "78.0" in row for row in rows), "noise ceilings by parcel"


def test_the_page_is_one_file_without_anything_foreign(world: SimpleNamespace, both: Path, tmp_path: Path) -> None:
    page = Page(write_store_report(both, tmp_path / "page.html", stimuli={"One": world.root / "one" / "stimuli"}))
    assert "script" not in {tag for tag, _ in page.tags}
    sources = [attributes.get("src") or attributes.get("href") or "" for _, attributes in page.tags]
    assert all(not source or source.startswith(("data:image/", "#")) for source in sources)
    assert str(world.root) not in page.content and str(both) not in page.content
    assert main(["verify", str(both)]) == 0, "the page is no part of the store"


def test_images_are_shown_where_they_are_at_hand(world: SimpleNamespace, both: Path, tmp_path: Path) -> None:
    one = world.root / "one" / "stimuli"
    with_images = Page(write_store_report(both, tmp_path / "page.html", stimuli={"One": one}))
    without = Page(write_store_report(both, tmp_path / "bare.html"))
    assert "No image of these stimuli is at hand." in without.texts and len(with_images.pngs) == len(without.pngs) + 1
    sheet = np.asarray(with_images.pngs[-1].convert("RGB")).reshape(-1, 3).astype(int)
    wanted = np.asarray(Image.open(one / "a06.png").convert("RGB")).astype(int)[10, 10]
    assert np.abs(sheet - wanted).max(axis=1).min() < 8, "the image's own colours are in the figure"


def test_hostile_names_are_escaped(world: SimpleNamespace, tmp_path: Path, make_dataset: object) -> None:
    marks = {HOSTILE: "test", "$x^2$.png": "train"} | {f"s{k}": "train" for k in range(10)}
    make_dataset(tmp_path / "d", marks, participants=("01",))  # type: ignore[operator]
    folder = tmp_path / "d" / "stimuli"
    folder.mkdir()
    (folder / "s0").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    for name in (HOSTILE, "$x^2$.png", "s1"):
        shutil.copy(world.root / "one" / "stimuli" / "a00.png", folder / name)
    shutil.copy(folder / "s0", folder / "s2")
    write_release([find_inputs("D", tmp_path / "d")], tmp_path / "store", StoreSettings(name="<img src=x onerror=alert(1)>"))
    page = Page(write_store_report(tmp_path / "store", tmp_path / "page.html", stimuli={"D": folder}))
    assert "script" not in {tag for tag, _ in page.tags} and not any("onerror" in attributes for _, attributes in page.tags)
    # both the label of the figure and the list name it, as text
    assert any(HOSTILE in (attributes.get("alt") or "") for _, attributes in page.tags)
    assert any(row[2:5] == ["$x^2$.png", "train", "test"] for row in page.rows() if len(row) == 6)


def test_a_store_without_repeats_copies_or_test(tmp_path: Path, make_dataset: object) -> None:
    make_dataset(tmp_path / "d", {f"s{k}": "train" for k in range(30)}, participants=("01",), sessions=("01",), repeats=1)  # type: ignore[operator]
    write_release([find_inputs("D", tmp_path / "d")], tmp_path / "store")
    page = Page(write_store_report(tmp_path / "store", tmp_path / "page.html"))
    for told in ("No stimulus is held out", "No stimulus repeats", "No two stimuli are the same"):
        assert any(text.startswith(told) for text in page.texts), told
    assert history(Store(tmp_path / "store"))["moved"].tolist() == [0]


def test_a_leak_is_told_in_red_letters(both: Path, tmp_path: Path) -> None:
    import json

    from conform_bids.store.tables import read_table, write_table

    folder = both / "versions" / "1.1.0"
    stimuli = read_table("stimuli", folder)
    stimuli.loc[stimuli["stim_id"] == "a19.png", "split"] = "train"
    write_table("stimuli", stimuli, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("stimuli.parquet", "stimuli.tsv"):
        manifest["files"][f"versions/1.1.0/{name}"]["bytes"] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    page = Page(write_store_report(both, tmp_path / "page.html"))
    assert any(text.startswith("LEAK: One:a19.png (train) and One:a00.png (test)") for text in page.texts)


def test_tables_of_the_report(both: Path) -> None:
    store = Store(both)
    counts = split_by_dataset(store)
    assert counts["trials"].sum() == len(store.trials) and counts["split"].tolist() == ["train", "test", "artificial", "train", "test"]
    assert overlap(store).to_numpy().tolist() == [[18, 3], [3, 12]]
    groups = duplicate_groups(store)
    assert groups[groups["stim_id"] == "b01.png"]["found_by"].tolist() == ["file, pixels, perceptual"]


def test_many_people_are_drawn_by_dataset(tmp_path: Path) -> None:
    import pandas as pd

    people = pd.DataFrame({"participant_id": [f"sub-{k}" for k in range(80)], "dataset": "D", "split": ["train", "test"] * 40})
    plot_trials(people, tmp_path / "many.svg")
    plot_trials(people.head(4), tmp_path / "few.svg")
    assert (tmp_path / "many.svg").stat().st_size < 2 * (tmp_path / "few.svg").stat().st_size


def test_thumbnails_of_foreign_files(tmp_path: Path) -> None:
    Image.new("RGBA", (400, 100), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    small = read_thumbnail(tmp_path / "clear.png", 40)
    assert small is not None and small.shape == (10, 40, 3) and (small == 128).all(), "what is transparent is gray"
    (tmp_path / "text.png").write_text("no image")
    assert read_thumbnail(tmp_path / "text.png") is None and read_thumbnail(tmp_path / "absent.png") is None
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert read_thumbnail(tmp_path / "bomb.png") is None


def test_the_commands_write_it(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, page = tmp_path / "store", tmp_path / "store_report.html"
    assert main(["create", str(store), f"One={world.root / 'one'}"]) == 0
    assert f"report: {page}" in capsys.readouterr().out and "A store of 2 people" in page.read_text()
    assert main(["append", str(store), f"Two={world.root / 'two'}"]) == 0 and "A store of 3 people, version 1.1.0" in page.read_text()
    other = tmp_path / "other.html"
    assert main(["report", str(store), "--output", str(other), "--store-version", "1.0.0", "--stimuli", f"One={world.root / 'one'}"]) == 0
    assert "version 1.0.0" in other.read_text()
    assert main(["report", str(store), "--stimuli", str(tmp_path)]) == 2 and main(["report", str(tmp_path / "none")]) == 66


@pytest.mark.parametrize("error", [OSError("disk"), UnusableInputError("a table is broken")])
def test_a_store_is_whole_without_its_report(
    error: Exception, world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*words: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(store_report, "write_store_report", fail)
    assert main(["create", str(tmp_path / "store"), f"One={world.root / 'one'}"]) == 0
    assert f"no report is written ({error})" in capsys.readouterr().err
    assert Store(tmp_path / "store").version == "1.0.0"
