"""What runs the graph on a cluster: Nipype's plugins, made to notice jobs that are refused, killed or left over."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")

from nipype.pipeline import plugins as nipype_plugins

from bids_app.plugins import RecordingMixin, RunRecord
from bids_app.slurm import BatchJobError, JobEnd, NotSubmittedError, SlurmSilentError, is_pending, job_end, submit

__all__ = ["BATCH_CANCEL", "batch_plugin", "cancel_jobs"]

BATCH_CANCEL = {"SLURM": "scancel", "PBS": "qdel", "SGE": "qdel", "LSF": "bkill", "OAR": "oardel", "Condor": "condor_rm"}
"""Plugins for batch systems, and the command that cancels a job there."""

_WAIT_S = 1.0
_SILENCE_S = 600.0
_LOGGER = logging.getLogger("conform")


class _BatchMixin(RecordingMixin):
    """A batch system: jobs that are given up are cancelled, and no result of an earlier run is taken for that of a job."""

    _pending: dict[Any, str]
    _cancel_command: str

    def close(self) -> None:
        """Cancel what is still there."""
        cancel_jobs(self._cancel_command, list(self._pending))

    def _submit_job(self, node: Any, updatehash: bool = False) -> Any:
        folder = Path(node.output_dir())
        for pattern in ("result_*.pklz", "_0x*.json"):  # a job that is killed before it starts would leave them
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        with self.record.hold():  # a job that was submitted but is in no list would never be cancelled
            try:
                task = super()._submit_job(node, updatehash=updatehash)
            except (AttributeError, IndexError, RuntimeError, ValueError) as error:  # the answer was none
                raise NotSubmittedError(f"the batch system did not take the job of node {node.fullname}: {error}") from error
            if not task:
                raise NotSubmittedError(f"the batch system did not take the job of node {node.fullname}")
        self.record.check()
        return task


class _SlurmMixin(_BatchMixin):
    """Slurm: a job that it ended is told with the reason, and a controller that does not answer is waited for."""

    _sbatch_args: str | None
    _silent_since: float | None = None

    def _submit_batchtask(self, scriptfile: str, node: Any) -> int:
        given = shlex.split(self._sbatch_args or "")
        log = os.path.join(os.path.dirname(scriptfile), "slurm-%j.out")
        name = ".".join(reversed([os.environ["LOGNAME"], *str(node.fullname).split(".")]))
        # what is given comes last, as it wins
        arguments = [f"--output={log}", f"--job-name={name}", *given, scriptfile]
        tries = int(self.plugin_args.get("max_tries", 2)) + 1
        task = submit(arguments, tries=tries, pause_s=float(self.plugin_args.get("retry_timeout", 2)))
        self._pending[task] = node.output_dir()
        return task

    def _is_pending(self, taskid: int) -> bool:
        try:
            pending = is_pending(taskid)
        except SlurmSilentError as error:
            now = time.monotonic()
            if self._silent_since is None:
                self._silent_since = now
                _LOGGER.warning("Slurm does not answer (%s); asked again for %.0f min", error, _SILENCE_S / 60)
            if now - self._silent_since > _SILENCE_S:
                raise
            return True
        self._silent_since = None
        return pending

    def _get_result(self, taskid: int) -> Any:
        if self._is_pending(taskid):
            return None
        end = job_end(taskid)
        if end is not None and not self._has_result(Path(self._pending[taskid]), end):
            return {"result": None, "traceback": traceback.format_exception(BatchJobError(end.describe()))}
        return super()._get_result(taskid)

    def _has_result(self, folder: Path, end: JobEnd) -> bool:
        """Whether there is a result; where one may come, a network disk is given its time."""
        deadline = time.monotonic() + (0.0 if end.killed else float(self._config["execution"]["job_finished_timeout"]))
        while not any(folder.glob("result_*.pklz")):
            if time.monotonic() >= deadline:
                return False
            self.record.check()
            time.sleep(_WAIT_S)
        return True


class _PbsMixin(_BatchMixin):
    """PBS: Nipype's question leaves two files in the folder that the app was started in."""

    def _is_pending(self, taskid: str) -> bool:
        try:
            answer = subprocess.run(["qstat", "-f", str(taskid)], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            _LOGGER.warning("PBS does not answer; asked again: %s", error)
            return True
        ended = "Job has finished" in answer.stderr or "Unknown Job Id" in answer.stderr
        return not (ended or re.search(r"job_state = [CF]\b", answer.stdout))


class _SgeMixin(_BatchMixin):
    """SGE: Nipype's question takes a minute for a job that the system has forgotten, and then says that it still runs."""

    def _is_pending(self, taskid: int) -> bool:
        try:
            answer = subprocess.run(["qstat", "-j", str(taskid)], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            _LOGGER.warning("SGE does not answer; asked again: %s", error)
            return True
        if "do not exist" in answer.stdout + answer.stderr:
            return False
        stuck = re.search(r"^error reason.*", answer.stdout, re.MULTILINE)
        if stuck:  # it would wait in this state until somebody clears it
            _LOGGER.error("SGE cannot start job %s, which is cancelled: %s", taskid, stuck[0])
            cancel_jobs(self._cancel_command, [taskid])
        return not stuck


_MIXINS: dict[str, type[_BatchMixin]] = {"SLURM": _SlurmMixin, "PBS": _PbsMixin, "SGE": _SgeMixin}


def batch_plugin(name: str, plugin_args: Mapping[str, Any], record: RunRecord) -> Any:
    """Plugin for a batch system, one of `BATCH_CANCEL`."""
    base = getattr(nipype_plugins, f"{name}Plugin")
    runner_class = type(f"{name}Plugin", (_MIXINS.get(name, _BatchMixin), base), {"_cancel_command": BATCH_CANCEL[name]})
    runner = runner_class(plugin_args=dict(plugin_args))
    runner.record = record
    return runner


def cancel_jobs(command: str, jobs: list[Any]) -> None:
    """Cancel jobs of ours on a cluster; says so when it cannot."""
    if not jobs:
        return
    try:
        subprocess.run([command, *map(str, jobs)], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        _LOGGER.error("These jobs could not be cancelled (%s): %s", error, ", ".join(map(str, jobs)))
