"""What benchmarks ask of the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["peak_anonymous_gb", "peak_resident_gb"]


@contextmanager
def peak_anonymous_gb() -> Iterator[list[float]]:
    """Largest memory of this process without mapped files, which the kernel can take back; looked at every 0.1 s (Linux)."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            peak[0] = max(peak[0], *(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("RssAnon")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


@contextmanager
def peak_resident_gb() -> Iterator[list[float]]:
    """Largest resident memory of this process while the block runs, mapped files included (Linux)."""
    peak = [0.0]
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the largest so far
    try:
        yield peak
    finally:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        peak[0] = next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM"))
