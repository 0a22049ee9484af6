"""The bar on a terminal, the lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from bids_app.progress import ProgressDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    with ProgressDisplay(stream=stream, clock=clock) as progress:
        progress.begin(4)
        progress.update("conform.sub_01_wf.fit", "start")
        clock.now = 10
        progress.update("conform.sub_01_wf.fit", "end")
        assert stream.getvalue() == "progress: 4 nodes to run\n"
        progress.update("conform.sub_01_wf.save", "start")
        clock.now = 3671
        progress.update("conform.sub_02_wf.fit", "exception")
        assert stream.getvalue().splitlines()[1:] == ["progress: 2/4 nodes done, 1 failed, 1:01:11 elapsed, running sub_01_wf.save"]
        progress.tick()
        clock.now += 301
        progress.tick()
        progress.tick()
        progress.update("conform.sub_01_wf.save", "end")
        progress.update("conform.sub_02_wf.save", "end")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[-1] == "progress: 4/4 nodes done, 1 failed, 1:06:12 elapsed, last sub_02_wf.save"


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(enabled=False) as progress:
        progress.begin(1)
        progress.update("conform.a", "end")
        progress.tick()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("broken", ["closed", None])
def test_a_stream_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch, broken: str | None) -> None:
    stream = io.StringIO() if broken else None
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = ProgressDisplay(clock=Clock())
    progress.begin(1)
    progress.update("conform.a", "end")
    progress.close()


@pytest.mark.parametrize(("term", "bar"), [("xterm", True), ("dumb", False)])
def test_a_terminal_gets_a_bar_unless_it_is_dumb(monkeypatch: pytest.MonkeyPatch, term: str, bar: bool) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    with ProgressDisplay(stream=stream) as progress:
        progress.begin(2)
        progress.update("conform.sub_[red]_wf.fit", "start")
        progress.update("conform.sub_[red]_wf.fit", "exception")
        progress.update("conform.sub_02_wf.fit", "end")
    shown = stream.getvalue()
    assert ("\x1b[" in shown) == bar
    assert ("progress: 2/2 nodes done, 1 failed" in shown) == (not bar)
    assert "2/2" in shown
