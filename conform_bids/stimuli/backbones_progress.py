"""How far the computation of features is: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

__all__ = ["counted"]

_LINE_INTERVAL_S = 30.0


@contextlib.contextmanager
def counted(
    label: str, total: int, done: int = 0, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Yield a function to be called once a stimulus.

    Parameters
    ----------
    label : str
        What is computed.
    total, done : int
        Stimuli, and how many of them were there before.
    stream : TextIO, optional
        Where to write (default: the standard error stream of the moment).
    clock : callable
        Seconds since any fixed moment.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True) if stream is None else Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        columns = (TextColumn(f"features: {escape(label)}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda: bar.advance(task)
        return
    lines = _Lines(label, total, done, stream or sys.stderr, clock)
    lines.say()
    yield lines.advance


class _Lines:
    def __init__(self, label: str, total: int, done: int, stream: TextIO, clock: Callable[[], float]) -> None:
        self._label, self._total, self._done = label, total, done
        self._stream, self._clock = stream, clock
        self._last = clock()

    def advance(self) -> None:
        self._done += 1
        if self._done == self._total or self._clock() - self._last >= _LINE_INTERVAL_S:
            self.say()

    def say(self) -> None:
        self._last = self._clock()
        with contextlib.suppress(OSError, ValueError):  # a closed pipe must not end the run
            self._stream.write(f"features: {self._label}: {self._done}/{self._total} stimuli\n")
            self._stream.flush()
