"""Slurm's commands, asked in a way that tells a refusal or a silence from an answer.

Nipype's plugin does not look at their exit status: a refused job ends it with an IndexError, and a controller that does
not answer for a moment makes it give up every job that runs.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BatchJobError", "JobEnd", "NotSubmittedError", "SlurmSilentError", "is_pending", "job_end", "submit"]

_KILLED = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
_FIELD = re.compile(r"(?:^|\s)(JobState|ExitCode|StdOut|StdErr)=(\S*)")
_DAEMON = re.compile(r"^slurmstepd\S*: error: (?!\*\*\*)(?P<text>.*?)\s*$", re.MULTILINE)
_SUBMITTED = re.compile(r"Submitted batch job (\d+)")
_ANSWER_S = 60


class BatchJobError(RuntimeError):
    """A job of a batch system ended without a result."""


class NotSubmittedError(RuntimeError):
    """A batch system did not take a job."""


class SlurmSilentError(RuntimeError):
    """Slurm does not answer."""


@dataclass(frozen=True)
class JobEnd:
    """How a job ended.

    Attributes
    ----------
    job : int
        Its number.
    state : str
        As Slurm calls it: ``TIMEOUT``, ``OUT_OF_MEMORY``, ``FAILED``, ...
    exit_status : int
        What its script returned.
    signal : int
        Number of the signal that ended it, 0 if none did.
    log : Path or None
        File of what it wrote to its standard error stream.
    """

    job: int
    state: str
    exit_status: int
    signal: int
    log: Path | None

    @property
    def killed(self) -> bool:
        """Whether it was ended from outside, so that no result will ever come."""
        return self.state in _KILLED or self.signal > 0

    def describe(self) -> str:
        """One line: how it ended, what its log says about it, and where that log is."""
        how = f" by signal {self.signal}" if self.signal else f" with status {self.exit_status}" if self.exit_status else ""
        said = self._last_words()
        where = f" (log of the job: {self.log})" if self.log is not None else ""
        return f"job {self.job} ended without a result, as Slurm says {self.state}{how}{f': {said}' if said else ''}{where}"

    def _last_words(self) -> str:
        """What Slurm wrote about the end, else the last line."""
        if self.log is None:
            return ""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        of_slurm = _DAEMON.search(text)
        if of_slurm is not None:
            return of_slurm.group("text")
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def submit(arguments: Sequence[str], *, tries: int, pause_s: float) -> int:
    """Submit a job.

    Parameters
    ----------
    arguments : sequence of str
        Of ``sbatch``, the script last.
    tries : int
        How often to try, as a controller may be too busy for a moment.
    pause_s : float
        Time between tries (s).

    Returns
    -------
    int
        Number of the job.

    Raises
    ------
    NotSubmittedError
        With what ``sbatch`` said.
    """
    said = ""
    for left in reversed(range(tries)):
        try:
            answer = _call("sbatch", *arguments)
        except SlurmSilentError as error:
            said = str(error)
        else:
            number = _SUBMITTED.search(answer.stdout)
            if answer.returncode == 0 and number is not None:
                return int(number.group(1))
            said = " ".join(answer.stderr.split()) or f"sbatch ended with status {answer.returncode}"
        if left:
            time.sleep(pause_s)
    raise NotSubmittedError(said)


def is_pending(job: int) -> bool:
    """Whether a job waits or runs.

    Raises
    ------
    SlurmSilentError
        When that cannot be found out now.
    """
    answer = _call("squeue", "--noheader", "--format=%i", f"--jobs={job}")
    if answer.returncode == 0:
        return str(job) in answer.stdout.split()
    if "Invalid job id" in answer.stderr:  # so old that it is forgotten
        return False
    raise SlurmSilentError(" ".join(answer.stderr.split()) or f"squeue ended with status {answer.returncode}")


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmSilentError(str(error)) from error


def job_end(job: int) -> JobEnd | None:
    """Ask Slurm how a job ended; None where it does not know any more, or does not answer."""
    try:
        answer = _call("scontrol", "--oneliner", "show", "job", str(job)).stdout
    except SlurmSilentError:
        return None
    fields = dict(_FIELD.findall(answer))
    status, _, number = fields.get("ExitCode", "0:0").partition(":")
    if "JobState" not in fields or not (status.isdecimal() and number.isdecimal()):
        return None
    log = fields.get("StdErr") or fields.get("StdOut")
    return JobEnd(job, fields["JobState"], int(status), int(number), Path(log) if log else None)
