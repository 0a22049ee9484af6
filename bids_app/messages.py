"""What the user reads on the terminal: warnings, errors without a traceback, bugs with one, the summary at the end."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from bids_app.app import ISSUES_URL, App
from bids_app.failures import ParticipantFailure, classify_exception
from conform_bids.errors import ConformError

__all__ = [
    "exit_code",
    "failure_from",
    "is_environment_error",
    "show_bug",
    "show_error",
    "show_warnings",
    "silence_broken_streams",
    "summary_lines",
]

EXIT_OK, EXIT_SOME_FAILED, EXIT_DATA, EXIT_MISSING, EXIT_BUG = 0, 1, 65, 66, 70
_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE}


def show_warnings(warnings: Iterable[str]) -> None:
    """Print each warning once, on stderr."""
    for warning in dict.fromkeys(warnings):
        print(f"WARNING: {warning}", file=sys.stderr, flush=True)


def show_error(error: BaseException, *, command: str, with_traceback: bool = False) -> None:
    """Print an error that the user can mend; the traceback is for ``--debug traceback``."""
    if with_traceback:
        traceback.print_exception(error, file=sys.stderr)
    print(f"{command}: error: {error}", file=sys.stderr, flush=True)


def show_bug(error: BaseException, *, command: str, version: str) -> None:
    """Print the traceback of an error that should not have happened, and where to report it."""
    traceback.print_exception(error, file=sys.stderr)
    print(f"{command} {version}: this is a bug; please report it, with the lines above, at {ISSUES_URL}", file=sys.stderr, flush=True)


def silence_broken_streams() -> bool:
    """Let go of output that takes nothing any more, as in ``| head``: the interpreter's end tries again; True when there was any."""
    broken = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_broken(stream)]
    for stream in broken:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(broken)


def _is_broken(stream: TextIO) -> bool:
    """Whether what is still to be written cannot be, or it is a pipe that nobody reads."""
    try:
        stream.flush()
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except io.UnsupportedOperation:  # no file
        return False
    except OSError:
        return True
    return any(event & select.POLLERR for _, event in poll.poll(0))


def is_environment_error(error: BaseException) -> bool:
    """Whether an error is the machine's: a full disk, a folder without permission, no memory."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _ENVIRONMENT)


def failure_from(app: App, participant: str, error: Exception, what: str = "") -> ParticipantFailure:
    """Turn an exception into a participant's failure; that of a bug of ours is shown with its traceback.

    Parameters
    ----------
    app : App
        The app, to be named.
    participant : str
        Label, or ``group``.
    error : Exception
        What was raised.
    what : str
        What could not be done, put before the reason.
    """
    if isinstance(error, ConformError):
        reason, code = " ".join(str(error).split()), error.exit_code
    elif is_environment_error(error):
        reason, code = " ".join(str(error).split()) or type(error).__name__, EXIT_SOME_FAILED
    else:
        reason, code = classify_exception(error)
    if code == EXIT_BUG:
        show_bug(error, command=app.command, version=app.version)
    return ParticipantFailure(participant, f"{what}: {reason}" if what else reason, code)


def exit_code(completed: Sequence[str], failures: Mapping[str, ParticipantFailure], signal: int | None = None) -> int:
    """Choose the exit status of a run.

    Parameters
    ----------
    completed : sequence of str
        Participants that completed.
    failures : mapping
        Those that failed.
    signal : int, optional
        The signal that ended the run.

    Returns
    -------
    int
        128 + signal; 0 when nothing failed; 1 when some completed; else that of the failures: any bug 70, else any
        unusable input 65, else missing input 66, else (a killed worker, a full disk) 1.
    """
    if signal is not None:
        return 128 + signal
    if not failures:
        return EXIT_OK
    if completed:
        return EXIT_SOME_FAILED
    codes = {failure.exit_code for failure in failures.values()}
    return next((code for code in (EXIT_BUG, EXIT_DATA, EXIT_MISSING) if code in codes), EXIT_SOME_FAILED)


def summary_lines(completed: Sequence[str], failures: Mapping[str, ParticipantFailure], unfinished: Sequence[str] = ()) -> list[str]:
    """One line a participant: completed, failed and why, or not finished when the run was interrupted."""
    lines = {name: f"{_label(name)}: completed" for name in completed}
    lines |= {name: f"{_label(name)}: not finished" for name in unfinished}
    for name, failure in failures.items():
        crash = f" (see {', '.join(str(path) for path in failure.crash_files)})" if failure.crash_files else ""
        lines[name] = f"{_label(name)}: failed: {failure.reason.removeprefix(f'{_label(name)}: ')}{crash}"
    return [lines[name] for name in sorted(lines, key=lambda name: (name == "group", name))]


def _label(name: str) -> str:
    return name if name == "group" else f"sub-{name}"
