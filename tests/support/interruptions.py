"""Signals, power cuts and full disks: how tests bring them about, and what they look at afterwards."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

__all__ = ["Interruption"]


class Interruption:
    """What tests of signals, power cuts and full disks look at."""

    @staticmethod
    def check_whole(out: Path) -> None:
        """No file under a final name is half written."""
        for path in (path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if path.name.endswith(".nii.gz"):
                with gzip.open(path) as stream:
                    image = nib.Nifti1Image.from_bytes(stream.read())
                assert np.asarray(image.dataobj).shape == image.shape
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".h5":
                with h5py.File(path) as file:
                    assert file.attrs
            elif path.suffix == ".tsv":
                assert path.read_text().endswith("\n"), path
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>"), path
            elif path.suffix in (".svg", ".png", ".toml"):
                assert path.stat().st_size > 0, path

    @staticmethod
    def temporaries(out: Path) -> list[Path]:
        """Files that a run has not put under their final names, and locks."""
        return list(out.rglob(".conform-*")) + list(out.rglob(".conform.lock*"))

    @staticmethod
    def members(session: int) -> dict[int, int]:
        """Living processes of a session, and their parents."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == session and fields[0] != "Z":
                    found[int(entry.name)] = int(fields[1])
        return found

    def kill(self, session: int) -> None:
        """Kill what is left of a session; what ends by itself meanwhile is no fault."""
        for pid in self.members(session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @staticmethod
    def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str], seconds: float = 60) -> None:
        """Wait until a running process has made a file."""
        deadline = time.monotonic() + seconds
        while not list(folder.glob(pattern)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self, process: subprocess.Popen[str], number: int) -> str:
        """Send a signal: SIGKILL to all processes at once, as a power cut; others to the first. What was printed is returned."""
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        shown, _ = process.communicate(timeout=60)
        if number == signal.SIGKILL:
            self.kill(process.pid)
        deadline = time.monotonic() + 20
        while self.members(process.pid):
            assert time.monotonic() < deadline, "orphans"
            time.sleep(0.1)
        return str(shown)

    def cut_off(self, process: subprocess.Popen[str], number: int, status: int, out: Path) -> None:
        """End a run by a signal: its exit status says so, and nothing is half written in its output folder."""
        shown = self.end(process, number)
        assert process.returncode == status, shown
        assert "Traceback" not in shown
        assert number == signal.SIGKILL or not self.temporaries(out)
        self.check_whole(out)

    def check_full(self, done: subprocess.CompletedProcess[str], folder: Path, out: Path) -> None:
        """A run on a full disk named it, and left nothing half written."""
        text = done.stdout + done.stderr
        assert done.returncode == 1, text
        assert "o space left on device" in text
        assert str(folder) in text
        assert "Traceback" not in text
        self.check_whole(out)
        assert not self.temporaries(out)
