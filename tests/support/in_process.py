"""Runs of an app in the process of the tests."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace

from bids_app.app import find_app
from bids_app.run import main

__all__ = ["run_here"]


def run_here(app: str, *arguments: object) -> SimpleNamespace:
    """Run an app in this process, one node after the other: ``status``, ``stdout`` and ``stderr``."""
    typed = [*map(str, arguments), "--debug", "workflow"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(find_app(app), typed)
        except SystemExit as ended:  # argparse
            status = int(ended.code or 0)
    return SimpleNamespace(status=status, stdout=output.getvalue(), stderr=errors.getvalue())
