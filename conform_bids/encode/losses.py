"""Losses of networks while they are trained: a table that grows, and now and then a line in the log."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conform_bids.encode.numerics.optimise import Recipe

__all__ = ["COLUMNS", "LiveLosses"]

COLUMNS = ("without", "step", "loss", "learning_rate")
ROWS = 200
"""Of a training in the table, about: each is a mean over the steps since the row before."""
SECONDS = 30.0
"""Between lines in the log."""
_LOGGER = logging.getLogger("nipype.interface")


class LiveLosses:
    """Writes the losses of one training after each step that ends a row; called by `conform_bids.encode.numerics.optimise.optimise`.

    Parameters
    ----------
    path : Path, optional
        Table that rows are added to; without it there are lines in the log alone.
    without : str, optional
        Person who was left out of this training; of everybody's training ``n/a``.
    """

    def __init__(self, path: Path | None, without: str | None) -> None:
        self.path, self.name = path, without or "n/a"
        self.written = 0
        self.started: tuple[float, int] | None = None
        self.said = time.monotonic()

    def __call__(self, losses: Sequence[float], recipe: Recipe) -> None:
        """Take note of a step."""
        step, every = len(losses), max(1, recipe.steps // ROWS)
        if self.started is None:
            self.started = time.monotonic(), step
        if step % every == 0 or step == recipe.steps:
            self._write(losses, recipe, every)
        begun, first = self.started
        if time.monotonic() - self.said > SECONDS and step > first:
            self.said = time.monotonic()
            left = (self.said - begun) / (step - first) * (recipe.steps - step)
            recent = float(np.mean(losses[-max(1, recipe.steps // 50) :]))
            whom = "everybody" if self.name == "n/a" else f"all but {self.name}"
            _LOGGER.info("training on %s: step %d of %d, loss %.4f, %s left", whom, step, recipe.steps, recent, _duration(left))

    def _write(self, losses: Sequence[float], recipe: Recipe, every: int) -> None:
        """Rows since the last one; of a training that was taken up also those before it."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.exists()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            if fresh:
                table.writerow(COLUMNS)
            while self.written < len(losses):
                end = min(len(losses), self.written - self.written % every + every)
                mean = float(np.mean(losses[self.written : end]))
                table.writerow([self.name, end, f"{mean:.6g}", f"{recipe.rate(end - 1):.4g}"])
                self.written = end


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{seconds:.0f} s"
