"""Losses of a training while it runs: rows of means, in the table of all trainings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from conform_bids.bids.tables import read_tsv
from conform_bids.encode.losses import LiveLosses
from conform_bids.encode.numerics.optimise import Recipe

RECIPE = Recipe(steps=1001, learning_rate=1.0, warm_up=10)


def test_rows_are_means_of_the_steps_since_the_row_before(tmp_path: Path) -> None:
    path, losses = tmp_path / "model" / "losses.tsv", [float(step) for step in range(1001)]
    live = LiveLosses(path, "sub-01")
    for step in range(1, 8):
        live(losses[:step], RECIPE)
    assert len(path.read_text().splitlines()) == 2, "a row as soon as it is full"
    resumed = LiveLosses(path, None)
    for step in range(604, 1002):  # a training that was taken up: what went before is written, too
        resumed(losses[:step], RECIPE)
    table = read_tsv(path, quoted=False)
    rows = table[table["without"] != "sub-01"]
    assert rows["step"].astype(int).tolist() == [*range(5, 1001, 5), 1001]
    assert rows["loss"].astype(float).tolist() == pytest.approx([*(step + 2 for step in range(0, 1000, 5)), 1000], rel=1e-4)
    assert rows["learning_rate"].astype(float).iloc[-1] == pytest.approx(RECIPE.rate(1000), rel=1e-3)


def test_the_log_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr("conform_bids.encode.losses.time.monotonic", lambda: now[0])
    monkeypatch.setattr(logging.getLogger("nipype.interface"), "propagate", True)
    live, losses = LiveLosses(None, "sub-02"), [2.0] * 301
    with caplog.at_level(logging.INFO, logger="nipype.interface"):
        for step in range(101, 302):
            now[0] += 1.0
            live(losses[:step], RECIPE)
    assert len(caplog.messages) == 6
    assert caplog.messages[0] == "training on all but sub-02: step 131 of 1001, loss 2.0000, 14 min left"
