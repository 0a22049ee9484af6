"""What a crash means: one line for the user and an exit code, from the text of a traceback.

Text, not exception objects, because a node may have run in another process or on another machine: all that
comes back from there is what Nipype wrote down.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conform_bids.wording import counted

__all__ = ["KILLED_ADVICE", "ParticipantFailure", "classify_exception", "classify_traceback", "failure_of", "read_crash_file"]

KILLED_ADVICE = "give more with --mem, or use --low-mem; running again resumes"

_HEADER = "Traceback (most recent call last):"
_EXCEPTION_LINE = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?::\s?(?P<message>.*))?$")
_EXIT_CODES = {"UnusableInputError": 65, "MissingInputError": 66}
_SEVERITY = (70, 1, 65, 66)
_DISK_FULL = re.compile(
    rf"Errno {errno.ENOSPC}\b|errno = {errno.ENOSPC}\b|No space left on device|Errno {errno.EDQUOT}\b|Disk quota exceeded"
    r"|\d+ requested and \d+ written",  # numpy's tofile hides the errno
    re.IGNORECASE,
)
_REFUSED = re.compile(r"(?<=\] )(Permission denied|Operation not permitted|Read-only file system|Input/output error)")
_QUOTED_PATH = re.compile(r"'(/[^']*)'")
_OUT_OF_MEMORY = re.compile(r"MemoryError|OutOfMemoryError|can't allocate memory|CUDA out of memory|Cannot allocate memory")
_NO_RESULT = re.compile(r"finished or terminated, but\s+results file does not exist")


@dataclass(frozen=True)
class ParticipantFailure:
    """Why a participant did not complete.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    reason : str
        One line, without a traceback.
    exit_code : int
        65 unusable input, 66 missing input, 1 the machine's limits (disk, memory, a killed process) or not run, 70 a bug.
    crash_files : tuple of Path
        Tracebacks, where they could be written.
    """

    participant: str
    reason: str
    exit_code: int
    crash_files: tuple[Path, ...] = ()


def classify_traceback(text: str, where: str = "") -> tuple[str, int]:
    """Find the reason and the exit code in the text of a traceback.

    Parameters
    ----------
    text : str
        Traceback, possibly with others nested in its message (as Nipype does it) and words around it.
    where : str
        What was being done, named where the exception itself does not say.

    Returns
    -------
    reason : str
        One line.
    exit_code : int
        65, 66, 1 or 70.
    """
    name, message = _last_exception(text)
    line = " ".join(message.split())
    short_name = name.rpartition(".")[2]
    at = f" ({where})" if where else ""
    if short_name == "WorkerKilledError":
        return line, 1
    if short_name in ("BatchJobError", "SlurmSilentError"):
        return f"{line}{at}; running again resumes", 1
    if short_name == "NotSubmittedError":
        return line, 1
    if name.startswith("conform_bids.errors.") and short_name in _EXIT_CODES:
        return line or short_name, _EXIT_CODES[short_name]
    if _DISK_FULL.search(line):
        path = _QUOTED_PATH.search(line)
        quota = "disk quota exceeded" if "quota" in line.lower() else "no space left on device"
        return f"{quota}: {path.group(1) if path else where or 'unknown file'}", 1
    if _OUT_OF_MEMORY.search(f"{name}: {line}"):
        detail = f" ({line})" if line else ""
        return f"out of memory{detail}: {KILLED_ADVICE}", 1
    if short_name in ("SystemExit", "KeyboardInterrupt"):
        return f"a worker process was told to end{at}; running again resumes", 1
    if _NO_RESULT.search(line):
        return f"its job on the cluster ended without a result, killed or out of time or memory{at}; running again resumes", 1
    refused = _REFUSED.search(line)
    if refused:
        path = _QUOTED_PATH.search(line)
        return f"{refused.group().lower()}: {path.group(1) if path else where or 'unknown file'}", 1
    described = f"{short_name}: {line}" if line else short_name
    return f"{described or 'failed for an unknown reason'}{at}", 70


def classify_exception(error: BaseException, where: str = "") -> tuple[str, int]:
    """Classify an exception at hand, as `classify_traceback` does its text."""
    kind = type(error)
    return classify_traceback(f"{_HEADER}\n{kind.__module__}.{kind.__qualname__}: {error}", where)


def _last_exception(text: str) -> tuple[str, str]:
    """Class (dotted) and message of the innermost last traceback; the message may span lines."""
    start = text.rfind(_HEADER)
    lines = text[max(start, 0) :].splitlines()
    indent = ""
    if start >= 0:
        line_start = text.rfind("\n", 0, start) + 1
        indent = text[line_start:start] if not text[line_start:start].strip() else ""
        lines = lines[1:]
    for number, raw in enumerate(lines):
        line = raw.removeprefix(indent)
        match = _EXCEPTION_LINE.match(line)
        if match is None or (start < 0 and not _looks_like_exception(match)):
            continue
        message = [match.group("message") or ""]
        message += [_without(indent, follow) for follow in _message_rest(lines[number + 1 :])]
        return match.group("name"), "\n".join(message)
    return "", next((line.strip() for line in reversed(lines) if line.strip()), "")


def _looks_like_exception(match: re.Match[str]) -> bool:
    last_part = match.group("name").rpartition(".")[2]
    return last_part.endswith(("Error", "Exception", "Exit", "Interrupt"))


def _without(indent: str, line: str) -> str:
    return line.removeprefix(indent)


def _message_rest(lines: Sequence[str]) -> Iterable[str]:
    """Lines of a message up to the first blank one, after which Nipype adds words of its own."""
    for line in lines:
        if not line.strip():
            return
        yield line


def read_crash_file(path: Path) -> str:
    """Text of a crash file; empty where it cannot be read (a full disk leaves empty ones)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def failure_of(participant: str, tracebacks: Sequence[tuple[str, str]], crash_files: Iterable[Path] = ()) -> ParticipantFailure:
    """Join the tracebacks of a participant's nodes into one failure, that of the gravest.

    Parameters
    ----------
    participant : str
        Label without ``sub-``.
    tracebacks : sequence of (where, text)
        In the order in which they came; not empty.
    crash_files : iterable of Path
        Where the tracebacks are.
    """
    verdicts = [classify_traceback(text, where) for where, text in tracebacks]
    gravest = min(verdicts, key=lambda verdict: _SEVERITY.index(verdict[1]))
    reason, exit_code = gravest
    others = len(verdicts) - 1
    if others:
        reason += f" (and {counted(others, 'more failed node')})"
    files = tuple(dict.fromkeys(Path(os.path.abspath(path)) for path in crash_files))
    return ParticipantFailure(participant, reason, exit_code, files)
