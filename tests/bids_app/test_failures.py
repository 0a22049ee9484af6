"""From the text of a traceback to a line and an exit code."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_app.failures import classify_exception, classify_traceback, failure_of, read_crash_file
from conform_bids.errors import MissingInputError, UnusableInputError

NIPYPE = """Traceback (most recent call last):
  File "workers.py", line 200, in _run_node
    result = node.run(updatehash=updatehash)
nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node fit.

Traceback:
\tTraceback (most recent call last):
\t  File "images.py", line 3, in read
\t    load(path)
\tOSError: short read

\tThe above exception was the direct cause of the following exception:

\tTraceback (most recent call last):
\t  File "interface.py", line 9, in compute
\t    read(path)
\tconform_bids.errors.UnusableInputError: /data/sub-01_bold.nii.gz:
\t  holds 3 of 90 volumes; fetch it again


When creating this crashfile, the results file corresponding
to the node could not be found."""


def test_the_innermost_exception_counts() -> None:
    assert classify_traceback(NIPYPE) == ("/data/sub-01_bold.nii.gz: holds 3 of 90 volumes; fetch it again", 65)


def test_a_class_of_the_same_name_elsewhere_is_a_bug() -> None:
    text = "Traceback (most recent call last):\n  File\nother.UnusableInputError: nothing"
    assert classify_traceback(text) == ("UnusableInputError: nothing", 70)


@pytest.mark.parametrize(
    ("error", "reason", "exit_code"),
    [
        (MissingInputError("no events"), "no events", 66),
        (UnusableInputError("a\nb"), "a b", 65),
        (OSError(errno.ENOSPC, "No space left on device", "/out/x.npy"), "no space left on device: /out/x.npy", 1),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device: here", 1),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/home/x"), "disk quota exceeded: /home/x", 1),
        (OSError("4000 requested and 12 written"), "no space left on device: here", 1),
        (OSError(errno.EACCES, "Permission denied", "/x"), "permission denied: /x", 1),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "read-only file system: /x/y", 1),
        (OSError(errno.EIO, "Input/output error"), "input/output error: here", 1),
        (ValueError("Permission denied: 'x'"), "ValueError: Permission denied: 'x' (here)", 70),
        (MemoryError(), "out of memory: give more with --mem, or use --low-mem; running again resumes", 1),
        (ZeroDivisionError(), "ZeroDivisionError (here)", 70),
    ],
)
def test_exceptions(error: Exception, reason: str, exit_code: int) -> None:
    assert classify_exception(error, "here") == (reason, exit_code)
    try:
        raise error
    except Exception as raised:
        text = "".join(traceback.format_exception(raised))
    assert classify_traceback(text, "here") == (reason, exit_code)


def test_errors_that_mention_the_disk_in_a_path_are_not_of_the_disk() -> None:
    assert classify_exception(ValueError("no such trial"), "")[1] == 70


def test_a_job_that_vanished_on_the_cluster() -> None:
    message = "Job id (7) finished or terminated, but results file does not exist after (60.0) seconds. Batch dir contains crashdump file"
    reason, exit_code = classify_exception(OSError(message), "node fit")
    assert exit_code == 1
    assert reason.startswith("its job on the cluster ended without a result")


@given(st.text())
def test_any_text_gives_one_line(text: str) -> None:
    reason, exit_code = classify_traceback(text)
    assert reason
    assert len(reason.splitlines()) == 1
    assert exit_code in (1, 65, 66, 70)


def test_the_gravest_failure_of_a_participant_is_told() -> None:
    tracebacks = [("a", NIPYPE), ("b", "Traceback (most recent call last):\nKeyError: 'x'"), ("c", NIPYPE)]
    failure = failure_of("01", tracebacks, [Path("/log/crash-1.txt"), Path("/log/crash-1.txt")])
    assert failure.exit_code == 70
    assert failure.reason == "KeyError: 'x' (b) (and 2 more failed nodes)"
    assert failure.crash_files == (Path("/log/crash-1.txt"),)


def test_an_unreadable_crash_file_is_empty(tmp_path: Path) -> None:
    assert read_crash_file(tmp_path / "absent.txt") == ""
