"""How far a run is: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from typing import Any, TextIO

from conform_bids.wording import counted

__all__ = ["ProgressDisplay"]

_LINE_INTERVAL_S = 30.0
_STILL_RUNNING_S = 300.0


class ProgressDisplay:
    """Count the nodes of a run on the standard error stream; a context manager.

    Parameters
    ----------
    enabled : bool
        Whether to show anything; nodes are counted in any case.
    stream : TextIO, optional
        Where to write (default: the standard error stream of the moment).
    clock : callable
        Seconds since any fixed moment.
    """

    def __init__(self, enabled: bool = True, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._enabled = enabled
        self._stream = stream
        self._clock = clock
        self._start = self._last_line = clock()
        self._total = self._done = self._failed = 0
        self._running: dict[str, None] = {}
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def begin(self, total: int) -> None:
        """Start to count ``total`` nodes."""
        self._total = total
        self._start = self._last_line = self._clock()
        if self._enabled:
            self._open_bar()
            if self._bar is None:
                self._line(f"{counted(total, 'node')} to run")

    def update(self, node: str, status: str) -> None:
        """Take note that a node has begun (``start``), ended (``end``) or failed (``exception``)."""
        if status == "start":
            self._running[node] = None
        else:
            self._running.pop(node, None)
            self._done += 1
            self._failed += status == "exception"
            self._total = max(self._total, self._done)
        if self._bar is not None:
            failed = f", [red]{self._failed} failed[/red]" if self._failed else ""
            self._bar.update(self._task, completed=self._done, total=self._total, now=_short(self._running), failed=failed)
        elif self._done == self._total or self._clock() - self._last_line >= _LINE_INTERVAL_S:
            self._line(self._state(node))

    def tick(self) -> None:
        """Say that the run is alive when nothing was said for long; call it as often as you like."""
        if self._bar is None and self._clock() - self._last_line >= _STILL_RUNNING_S:
            self._line(self._state(""))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True) if self._stream is None else Console(file=self._stream)
        if not console.is_terminal or console.is_dumb_terminal:
            return
        columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("nodes{task.fields[failed]}"), TimeElapsedColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[now]}", markup=False), console=console, transient=True)
        self._task = self._bar.add_task("nodes", total=self._total, now="", failed="")
        self._bar.start()

    def _state(self, node: str) -> str:
        minutes, seconds = divmod(int(self._clock() - self._start), 60)
        failed = f", {self._failed} failed" if self._failed else ""
        if self._running:
            now = f", running {_short(self._running)}"
        else:
            now = f", last {_short([node])}" if node else ""
        return f"{self._done}/{counted(self._total, 'node')} done{failed}, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} elapsed{now}"

    def _line(self, text: str) -> None:
        self._last_line = self._clock()
        if not self._enabled:
            return
        stream = self._stream or sys.stderr
        try:
            stream.write(f"progress: {text}\n")
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a closed pipe or no stream at all must not end the run
            self._enabled = False


def _short(nodes: Collection[str]) -> str:
    """Full names without the workflow that holds all of them, and no more than two."""
    names = [name.partition(".")[2] or name for name in nodes]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
