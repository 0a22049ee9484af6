"""What benchmarks ask of the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["peak_anonymous_gb"]


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
