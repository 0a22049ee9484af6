"""Nipype's configuration, set in one place and from nothing but our own: no file of the user's home changes a run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("NO_ET", "1")
os.environ.setdefault("NIPYPE_NO_ET", "1")

_LOGGERS = ("nipype", "conform")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

__all__ = ["add_log_file", "apply_settings", "log_level", "nipype_settings", "run_log"]


def log_level(verbosity: int) -> int:
    """Level of messages for a number of ``-v``."""
    return max(25 - 5 * verbosity, logging.DEBUG)


def nipype_settings(
    *, crash_dir: Path, stop_on_first_crash: bool, poll_seconds: float, keep_inputs: bool, level: int
) -> dict[str, dict[str, str]]:
    """Sections of Nipype's configuration for a run.

    Parameters
    ----------
    crash_dir : Path
        Where crash files go by default.
    stop_on_first_crash : bool
        Whether the first failing node ends the run.
    poll_seconds : float
        Pause between looks at what is done.
    keep_inputs : bool
        Whether copies of inputs stay in the nodes' folders.
    level : int
        Level of messages.
    """
    name = "DEBUG" if level <= logging.DEBUG else "INFO" if level <= logging.INFO else "WARNING"
    execution = {
        "crashdump_dir": crash_dir,
        "crashfile_format": "txt",
        "stop_on_first_crash": stop_on_first_crash,
        "stop_on_first_rerun": False,
        "hash_method": "timestamp",
        "local_hash_check": True,
        "job_finished_timeout": 60,  # a network disk shows results late
        "poll_sleep_duration": poll_seconds,
        "remove_unnecessary_outputs": False,
        "remove_node_directories": False,
        "keep_inputs": keep_inputs,
        "use_relative_paths": False,
        "parameterize_dirs": True,
        "create_report": False,
        "write_provenance": False,
        "check_version": False,
        "matplotlib_backend": "Agg",
    }
    levels = {f"{logger}_level": name for logger in ("workflow", "utils", "interface")}
    return {"execution": {key: str(value) for key, value in execution.items()}, "logging": {**levels, "log_to_file": "false"}}


def apply_settings(sections: Mapping[str, Mapping[str, str]], level: int) -> None:
    """Configure Nipype in this process: its settings, and its messages to the standard error stream."""
    import nipype

    nipype.config.update_config(sections)
    nipype.logging.update_logging(nipype.config)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler | _Console) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)
        logger.addHandler(_Console(level))
    logging.getLogger("conform").setLevel(level)
    for name in ("workflow", "utils", "interface"):
        logging.getLogger(f"nipype.{name}").setLevel(level)


class _Console(logging.Handler):
    """Messages on the standard error stream of the moment (a live bar replaces it), a line each unless asked for more.

    Without ``-v``, Nipype's own are left out: it tells a failure in five messages, and we in one.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._whole = level < logging.INFO
        self._ours_only = level > logging.INFO
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        if self._ours_only and record.levelno < logging.CRITICAL and not record.name.startswith("conform"):
            return
        try:
            text = self.format(record)
            sys.stderr.write((text if self._whole else text.partition("\n")[0]) + "\n")
        except Exception:
            return  # a terminal that is gone must not end the run


class _LogFile(logging.FileHandler):
    """A log that gives up quietly when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        self.setLevel(logging.CRITICAL + 1)


def add_log_file(path: str) -> None:
    """Add the messages of our own nodes, in a worker, to the log of the run; Nipype's are those of the main process."""
    logger = logging.getLogger("conform")
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    logger.setLevel(min(logger.level, logging.INFO))


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Write Nipype's messages and ours of this process to a file, at least those of level INFO."""
    loggers = [logging.getLogger(name) for name in ("conform", "nipype.workflow", "nipype.utils", "nipype.interface")]
    before = [logger.level for logger in loggers]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8", delay=True)
    except OSError:
        yield
        return
    handler.setFormatter(logging.Formatter(_FORMAT))
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(handler)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(min(level, logging.INFO))
    try:
        yield
    finally:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(handler)
        handler.close()
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
