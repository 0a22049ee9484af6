"""Run the participants' workflows as one graph, and say who completed and why others did not."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from bids_app.failures import ParticipantFailure, classify_exception, failure_of, read_crash_file
from bids_app.progress import ProgressDisplay
from conform_bids.errors import UsageError

__all__ = ["ExecutionConfig", "ExecutionOutcome", "ParticipantFailure", "load_plugin", "run_workflow"]

_GRAPH_NAME = "conform"
_POLL_S = 2.0
_WORKERS = ("MultiProc", "LegacyMultiProc")
_BATCH_SYSTEMS = {"SLURM": "sbatch", "PBS": "qsub", "SGE": "qsub", "LSF": "bsub", "OAR": "oarsub", "Condor": "condor_qsub"}


@dataclass(frozen=True)
class ExecutionConfig:
    """How to run.

    Attributes
    ----------
    work_dir : Path
        Nipype's working folder; the same one resumes.
    log_dirs : mapping
        Participant to the folder of its crash files.
    run_id : str
        Identifier of the run.
    nprocs : int
        Processors of the run.
    omp_nthreads : int
        Threads of a node.
    memory_gb : float
        Memory of the run, in GB, that the nodes' declared needs are held against.
    plugin_file : Path or None
        YAML with ``plugin`` and ``plugin_args``.
    stop_on_first_crash : bool
        End the run at the first failure.
    resource_monitor : bool
        Write ``resource_monitor.tsv`` into the log folders.
    verbosity : int
        Number of ``-v``.
    debug : bool
        Run in this process, node after node, so that a debugger works.
    outputs : mapping
        Participant to the files that it will have when it is complete.
    progress : bool
        Show how far the run is.
    log_dir : Path or None
        Folder of the run's ``nipype.log`` (default: the working folder).
    """

    work_dir: Path
    log_dirs: Mapping[str, Path]
    run_id: str
    nprocs: int = 1
    omp_nthreads: int = 1
    memory_gb: float = 4.0
    plugin_file: Path | None = None
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    verbosity: int = 0
    debug: bool = False
    outputs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    progress: bool = True
    log_dir: Path | None = None


@dataclass(frozen=True)
class ExecutionOutcome:
    """What became of the participants.

    Attributes
    ----------
    failures : mapping
        Participant to why it failed.
    completed : tuple of str
        Participants without a failure whose outputs are all there.
    signal : int or None
        Signal that ended the run before its end; participants in neither of the above were then not done yet.
    """

    failures: Mapping[str, ParticipantFailure]
    completed: tuple[str, ...]
    signal: int | None = None


def load_plugin(plugin_file: Path) -> tuple[str, dict[str, Any]]:
    """Read which Nipype plugin to use, and its arguments.

    Parameters
    ----------
    plugin_file : Path
        YAML: ``plugin: SLURM`` and, as needed, ``plugin_args: {sbatch_args: --mem=8G}``.

    Returns
    -------
    name : str
        MultiProc, Linear or a batch system.
    plugin_args : dict
        Its arguments.

    Raises
    ------
    UsageError
        When the file cannot be read, or names a plugin that does not exist or ends before the work is done.
    """
    import yaml

    try:
        content = yaml.safe_load(plugin_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--use-plugin: {plugin_file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--use-plugin: {plugin_file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise UsageError(f"--use-plugin: {plugin_file} has no line 'plugin: NAME'")
    name = str(content["plugin"]).removesuffix("Plugin")
    known = ("Linear", "MultiProc", *_BATCH_SYSTEMS)
    if name.endswith("Graph") or name == "CondorDAGMan":
        raise UsageError(f"--use-plugin: {name} returns before the work is done; use {name.removesuffix('Graph').removesuffix('DAGMan')}")
    if name not in (*known, *_WORKERS):
        raise UsageError(f"--use-plugin: there is no plugin {name!r} here; use one of {', '.join(known)}")
    arguments = content.get("plugin_args") or {}
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise UsageError(f"--use-plugin: plugin_args of {plugin_file} must be names with values")
    return ("MultiProc" if name in _WORKERS else name), arguments


def run_workflow(participant_workflows: Mapping[str, Any], *, config: ExecutionConfig) -> ExecutionOutcome:
    """Run the workflows of all participants as one graph.

    Parameters
    ----------
    participant_workflows : mapping
        Participant to its nipype Workflow, with names that differ.
    config : ExecutionConfig
        How to run.

    Returns
    -------
    ExecutionOutcome
        Nothing that goes wrong within a node, nor a signal, raises here.

    Raises
    ------
    UsageError
        When the plugin file is of no use, or its batch system is not here.
    """
    plugin = load_plugin(config.plugin_file) if config.plugin_file is not None else ("MultiProc", {})
    submit = _BATCH_SYSTEMS.get(plugin[0])
    if submit is not None and not config.debug and shutil.which(submit) is None:
        raise UsageError(f"--use-plugin: {plugin[0]} needs the command {submit}, which is not here")
    if not participant_workflows:
        return ExecutionOutcome({}, (), None)
    from bids_app.nipype_settings import run_log

    os.environ.setdefault("LOGNAME", _user())  # Nipype's batch plugins need it
    earlier = frozenset(_all_crash_files(config))
    error: Exception | None = None
    with _Interruption() as interruption, ProgressDisplay(config.progress) as progress:
        from bids_app.plugins import RunRecord

        record = RunRecord(interruption.check, progress.tick, progress.begin, progress.update, interruption.hold)
        try:
            sections, level = _configure(config, plugin[0])
            with run_log((config.log_dir or config.work_dir) / "nipype.log"):
                graph = _join(participant_workflows, config)
                with _runner(plugin, config, record, sections, level) as runner:
                    graph.run(plugin=runner)
        except _InterruptedRunError:
            pass
        except Exception as raised:  # a node's failure is raised again at the end of the graph
            error = raised
    outcome = _Summary(participant_workflows, config, record, earlier).outcome(error, interruption.received)
    if config.resource_monitor:
        _write_usage(participant_workflows, config, record)
    return outcome


class _InterruptedRunError(BaseException):
    """Ends the run from within a signal handler; not an Exception, so that nothing on the way takes it for a failing node."""


class _Interruption:
    """Turn SIGTERM and SIGINT into an exception, once; a context manager."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._held = 0

    def __enter__(self) -> _Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does it
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise when a signal came: the handler's own exception is lost where it hit a finaliser."""
        if self.received is not None:
            raise _InterruptedRunError

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep signals for the next `check`, as a worker that has begun but is in no list yet would never be ended."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = self.received or number
        if first and not self._held:  # a second one must not disturb the end of the workers
            raise _InterruptedRunError


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an arbitrary uid in a container
        return f"uid{os.getuid()}"


def _configure(config: ExecutionConfig, plugin: str) -> tuple[dict[str, dict[str, str]], int]:
    from bids_app.nipype_settings import apply_settings, log_level, nipype_settings

    level = log_level(config.verbosity)
    sections = nipype_settings(
        crash_dir=config.work_dir / "crash",
        stop_on_first_crash=config.stop_on_first_crash,
        poll_seconds=0.0 if plugin == "MultiProc" else _POLL_S,  # our workers are waited for, a batch system is asked
        keep_inputs=config.debug,
        level=level,
    )
    apply_settings(sections, level)
    return sections, level


def _join(participant_workflows: Mapping[str, Any], config: ExecutionConfig) -> Any:
    """Make one workflow of all, in which each participant has its own crash folder."""
    from nipype import Workflow

    for participant, workflow in participant_workflows.items():
        crash_dir = config.log_dirs.get(participant, config.work_dir / "crash")
        for name in workflow.list_node_names():
            node = workflow.get_node(name)
            execution = {**((node.config or {}).get("execution", {})), "crashdump_dir": str(Path(crash_dir).absolute())}
            node.config = {**(node.config or {}), "execution": execution}
    graph = Workflow(name=_GRAPH_NAME, base_dir=str(config.work_dir.absolute()))
    graph.add_nodes(list(participant_workflows.values()))
    return graph


@contextmanager
def _runner(
    plugin: tuple[str, dict[str, Any]], config: ExecutionConfig, record: Any, sections: dict[str, dict[str, str]], level: int
) -> Iterator[Any]:
    """Plugin object; its workers or jobs are ended whatever happens."""
    from bids_app import batch, plugins
    from bids_app.workers import WorkerSetup

    name, arguments = plugin
    if config.debug or name == "Linear":
        runner = plugins.linear_plugin(arguments, record)
    elif name == "MultiProc":
        config.work_dir.mkdir(parents=True, exist_ok=True)
        log_file = str(((config.log_dir or config.work_dir) / "nipype.log").absolute())
        setup = WorkerSetup(str(config.work_dir.absolute()), config.omp_nthreads, sections, level, config.resource_monitor, log_file)
        # one node at a time on the GPU: its memory is shared by all
        defaults = {"n_procs": config.nprocs, "memory_gb": config.memory_gb, "raise_insufficient": False, "n_gpu_procs": 1}
        runner = plugins.multiprocess_plugin({**defaults, **arguments}, setup, record)
    else:
        runner = batch.batch_plugin(name, arguments, record)
    try:
        yield runner
    finally:
        runner.close()


@dataclass(frozen=True)
class _Summary:
    """Who completed, and why others did not."""

    workflows: Mapping[str, Any]
    config: ExecutionConfig
    record: Any
    earlier: frozenset[Path]

    def outcome(self, error: Exception | None, received: int | None) -> ExecutionOutcome:
        failures: dict[str, ParticipantFailure] = {}
        completed: list[str] = []
        for participant in self.workflows:
            failure = self._failure(participant, error, received)
            if failure is not None:
                failures[participant] = failure
            elif received is None or self._all_ended(participant):
                completed.append(participant)
        return ExecutionOutcome(failures, tuple(completed), received)

    def _failure(self, participant: str, error: Exception | None, received: int | None) -> ParticipantFailure | None:
        crashes = [crash for crash in self.record.crashes if self._belongs(crash.node, participant)]
        tracebacks = [(crash.where, crash.traceback) for crash in crashes]
        files = [crash.crash_file for crash in crashes if crash.crash_file is not None]
        if not tracebacks:  # the debugging plugin keeps none
            files = self._crash_files(participant)
            tracebacks = [("", text) for text in map(read_crash_file, files) if text]
        if tracebacks:
            return failure_of(participant, tracebacks, files)
        missing = [path for path in self.config.outputs.get(participant, ()) if not path.exists()]
        if received is not None:
            if self._all_ended(participant) and missing:
                return ParticipantFailure(participant, self._not_written(missing), 70)
            return None
        if not self._all_ended(participant):
            return self._not_run(participant, error)
        return ParticipantFailure(participant, self._not_written(missing), 70) if missing else None

    def _not_run(self, participant: str, error: Exception | None) -> ParticipantFailure:
        if self.record.crashes and self.config.stop_on_first_crash:
            return ParticipantFailure(participant, "not done, as an earlier failure stopped the run (--stop-on-first-crash)", 1)
        if error is None:
            return ParticipantFailure(participant, "not all of its nodes were run", 70)
        reason, exit_code = classify_exception(error, f"work folder {self.config.work_dir}")
        return ParticipantFailure(participant, reason, exit_code)

    def _not_written(self, missing: list[Path]) -> str:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"ended without an error, but did not write {missing[0]}{more}"

    def _belongs(self, node: str, participant: str) -> bool:
        return node.startswith(f"{_GRAPH_NAME}.{self.workflows[participant].name}.")

    def _all_ended(self, participant: str) -> bool:
        own = {node for node in self.record.nodes if self._belongs(node, participant)}
        return bool(self.record.nodes) and own <= self.record.ended

    def _crash_files(self, participant: str) -> list[Path]:
        folder = self.config.log_dirs.get(participant)
        return [path for path in _all_crash_files(self.config) if path.parent == folder and path not in self.earlier]


def _all_crash_files(config: ExecutionConfig) -> list[Path]:
    """Crash files of all participants, by name, which is by time."""
    return sorted(path for folder in config.log_dirs.values() if folder.is_dir() for path in folder.glob("crash-*.txt"))


def _write_usage(workflows: Mapping[str, Any], config: ExecutionConfig, record: Any) -> None:
    """Write what the nodes used beside the participants' crash files, and remove the monitor's own traces."""
    columns = ("duration", "mem_peak_gb", "cpu_percent")
    for participant, workflow in workflows.items():
        prefix = f"{_GRAPH_NAME}.{workflow.name}."
        rows = [(node.removeprefix(prefix), usage) for node, usage in record.usage.items() if node.startswith(prefix)]
        folder = config.log_dirs.get(participant)
        if not rows or folder is None:
            continue
        lines = ["\t".join(("node", "duration_s", "mem_peak_gb", "cpu_percent"))]
        lines += ["\t".join((node, *(f"{usage[key]:.3f}" if key in usage else "n/a" for key in columns))) for node, usage in rows]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resource_monitor.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for trace in config.work_dir.glob(".proc-*"):
        trace.unlink(missing_ok=True)
