"""The life of a run, in order: parse, check, plan, build, execute, report, record."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from bids_app.app import App, load
from bids_app.cli import parse
from bids_app.messages import exit_code, is_environment_error, show_bug, show_error, show_warnings, silence_broken_streams, summary_lines
from conform_bids.errors import ConformError, MissingInputError, UnusableInputError

if TYPE_CHECKING:
    from bids_app.config import RunConfig
    from bids_app.execute import ExecutionOutcome
    from bids_app.failures import ParticipantFailure
    from bids_app.plan import RunPlan
    from conform_bids.bids.index import Dataset
    from conform_bids.jobs import Processes, Resources

__all__ = ["main", "run"]


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that what must be written at the end is."""


def main(app: App, arguments: Sequence[str] | None = None) -> int:
    """Run an app from its command line.

    Parameters
    ----------
    app : App
        The app.
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0 all done; 1 some participants failed; 2 usage; 65, 66 nothing completed as input is unusable or
        missing; 70 a bug; 130, 143 interrupted; 141 nobody reads what is printed any more (``| head``).
    """
    try:
        try:
            return _main(app, arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where what it raises can be caught
    except BrokenPipeError:
        silence_broken_streams()
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, where the output goes to a file
        silence_broken_streams()
        show_error(error, command=app.command)
        return 1


def _main(app: App, arguments: Sequence[str] | None) -> int:
    config = None
    try:
        with _termination_as_exception():
            config = parse(app, arguments)
            return run(app, config)
    except ConformError as error:
        show_error(error, command=app.command, with_traceback=config is not None and config.execution.tracebacks)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except _Terminated:
        return 128 + signal.SIGTERM
    except Exception as error:
        if isinstance(error, BrokenPipeError) and silence_broken_streams():
            return 128 + signal.SIGPIPE
        if is_environment_error(error):
            show_error(error, command=app.command, with_traceback=config is not None and config.execution.tracebacks)
            return 1
        show_bug(error, command=app.command, version=app.version)
        return 70


def run(app: App, config: RunConfig) -> int:
    """Do what a configuration says; the exit status is returned.

    Raises
    ------
    ConformError
        When nothing can be done, for a reason that the user can mend.
    """
    from bids_app.allotment import find_processes, find_resources, nprocs_of, share_threads
    from bids_app.environment import prepare_environment
    from bids_app.folders import app_work_dir, check_folders, check_output, clean_work_dir, make_work_dir

    processes = find_processes(app, config)
    if processes.rank > 0:
        return _help(app, config, processes)
    check_folders(config)
    check_output(app, config)
    if config.execution.use_plugin is not None:
        from bids_app.execute import load_plugin

        load_plugin(config.execution.use_plugin)
    writes_work = not (config.actions.dry_run or config.actions.boilerplate_only or config.actions.reports_only)
    if writes_work:
        if config.actions.clean_workdir:
            clean_work_dir(config)
        make_work_dir(config)
    prepare_environment(app_work_dir(config) / ".caches" if writes_work else None)
    if config.actions.boilerplate_only:
        from bids_app.record import write_boilerplate

        write_boilerplate(app, config)
        return 0
    resources = find_resources(app, config, processes)
    if config.actions.reports_only:
        return _reports_only(app, config, resources)
    datasets, plan = _plan(app, config, resources)
    if config.actions.dry_run:
        return _dry_run(app, config, datasets, plan)
    if config.execution.omp_nthreads is None and config.execution.use_plugin is None:  # a cluster has CPUs of its own
        resources = replace(resources, n_threads=share_threads(nprocs_of(config), sum(len(jobs) for jobs in plan.jobs.values())))
        plan = plan.with_threads(resources.n_threads)
    return _process(app, config, resources, datasets, plan)


def _help(app: App, config: RunConfig, processes: Processes) -> int:
    """Take a share in what the first process does, and write nothing."""
    from bids_app.allotment import find_resources, for_group
    from bids_app.environment import prepare_environment
    from bids_app.record import group_inputs

    assert app.group_helper is not None
    if not (config.actions.dry_run or config.actions.boilerplate_only or config.actions.reports_only):
        prepare_environment()
        resources = for_group(config, find_resources(app, config, processes))
        load(app.group_helper)(config.settings, resources, group_inputs(app, config))
    return 0


def _plan(app: App, config: RunConfig, resources: Resources) -> tuple[tuple[Dataset, ...], RunPlan]:
    """Read and validate the datasets, and decide what to do for each participant."""
    from bids_app.plan import RunPlan, make_plan, selection_of

    alone = "participant" not in config.levels
    usable = _usable_as_they_are(app, config) if alone else frozenset()
    if usable is None:
        return (), RunPlan()
    selection, warnings = selection_of(app, config)
    try:
        datasets = _open(app, config)
    except (MissingInputError, UnusableInputError) as error:
        if not usable or not usable.issuperset(config.bids.participant_label):
            raise
        show_warnings([f"only those are used who are ready: {error}"])
        return (), RunPlan()
    plan = RunPlan.joined([make_plan(app, config, dataset, selection, resources) for dataset in datasets])
    if alone:
        plan = plan.missing(config.output_dir, usable)
    if not config.bids.skip_bids_validation and (plan.jobs or not alone):
        from bids_app.validation import validate_raw

        for dataset in datasets:
            if dataset.raw is not None:
                warnings += validate_raw(dataset.raw, dataset.participants, config.bids.session_label)
    show_warnings((*warnings, *plan.warnings))
    return datasets, plan


def _usable_as_they_are(app: App, config: RunConfig) -> frozenset[str] | None:
    """Participants whom the level group, alone, need not process; None where it processes nobody."""
    if app.group_prepares is None:
        return None
    from bids_app.record import participants_in

    there = participants_in(config.output_dir, (), required=False)
    usable: frozenset[str] | None = load(app.group_prepares)(config.settings, config.output_dir, there)
    return usable


def _open(app: App, config: RunConfig) -> tuple[Dataset, ...]:
    from bids_app.config import derivative_paths

    derivatives, asked = derivative_paths(config.bids), config.bids.participant_label
    if app.names_datasets:
        from conform_bids.bids.collection import open_datasets

        return open_datasets(config.bids_dir, derivatives, asked, config.bids.bids_database_dir, app.reads)
    from conform_bids.bids.index import open_dataset

    database = config.bids.bids_database_dir
    return (open_dataset(config.bids_dir, derivatives=derivatives, participants=asked, database_dir=database, reads=app.reads),)


def _dry_run(app: App, config: RunConfig, datasets: Sequence[Dataset], plan: RunPlan) -> int:
    from bids_app.plan import describe

    status = _foreseen(app, config, datasets, plan)
    print("\n".join(describe(app, config, plan, with_files=status == 0)))
    return status


def _foreseen(app: App, config: RunConfig, datasets: Sequence[Dataset], plan: RunPlan) -> int:
    """Exit status of a dry run: that of a run for which nobody is left, else 0.

    Raises
    ------
    MissingInputError
        When the level group, alone, lacks people whom it needs.
    """
    from bids_app.record import participants_in

    if plan.jobs:
        return 0
    if config.levels != ("group",):
        return exit_code((), plan.failures)
    there = participants_in(config.output_dir, _group_labels(config, datasets), required=not app.group_reads)
    usable = _usable_as_they_are(app, config)
    return 0 if usable is None or usable.intersection(there) else exit_code((), plan.failures)


def _process(app: App, config: RunConfig, resources: Resources, datasets: Sequence[Dataset], plan: RunPlan) -> int:
    """Build, execute, report and record; reports are written whatever happens."""
    from bids_app.allotment import for_group
    from bids_app.folders import FormerFiles, tidy_output
    from bids_app.provenance import about, collect
    from bids_app.record import participants_in, write_group, write_logs, write_reports, write_root_files

    failures: dict[str, ParticipantFailure] = dict(plan.failures)
    completed: tuple[str, ...] = ()
    interrupted: int | None = None
    provenance = collect(app, config, resources)
    if plan.jobs:
        write_root_files(app, config, datasets)
        write_logs(app, config, plan.jobs, provenance)
        tidy_output(config.output_dir, plan.jobs)
        former = FormerFiles.of(config.output_dir, plan.jobs) if config.actions.overwrite else None
        try:
            outcome = _execute(app, config, resources, plan, failures)
            failures.update(outcome.failures)
            completed, interrupted = outcome.completed, outcome.signal
            if former is not None:
                show_warnings(former.remove_stale(completed))
        finally:
            _write_participants(config, datasets)
            failed_reports = write_reports(app, config, _with_report(config, plan), about(provenance), failures)
            failures.update({label: failure for label, failure in failed_reports.items() if label not in failures})
        completed = tuple(label for label in completed if label not in failures)
    if "group" in config.levels and interrupted is None and (completed or "participant" not in config.levels):
        present = participants_in(config.output_dir, _group_labels(config, datasets), required=not app.group_reads)
        labels = [label for label in present if label not in failures]
        if not plan.jobs:
            write_root_files(app, config, datasets)
            write_logs(app, config, (), provenance)
            _write_participants(config, datasets)
            tidy_output(config.output_dir, ())
        group_failure = write_group(app, config, labels, about(provenance), for_group(config, resources))
        failures.update(group_failure)
        completed += () if group_failure else ("group",)
    unfinished = [label for label in plan.jobs if label not in completed and label not in failures]
    return _conclude(app, completed, failures, unfinished, interrupted)


def _execute(app: App, config: RunConfig, resources: Resources, plan: RunPlan, failures: dict[str, ParticipantFailure]) -> ExecutionOutcome:
    """Build the workflows and run them; participants whose workflow cannot be built join ``failures``."""
    from bids_app.allotment import nprocs_of
    from bids_app.build import build_workflows, write_graphs
    from bids_app.execute import ExecutionConfig, run_workflow
    from bids_app.folders import app_work_dir
    from bids_app.record import log_dirs

    workflows, not_built = build_workflows(app, config, plan)
    failures.update(not_built)
    logs = log_dirs(config, workflows)
    if config.execution.write_graph:
        show_warnings(write_graphs(workflows, logs))
    execution = config.execution
    return run_workflow(
        workflows,
        config=ExecutionConfig(
            work_dir=app_work_dir(config),
            log_dirs=logs,
            run_id=config.run_id,
            nprocs=nprocs_of(config),
            omp_nthreads=resources.n_threads,
            memory_gb=resources.memory_gb,
            plugin_file=execution.use_plugin,
            stop_on_first_crash=execution.stop_on_first_crash,
            resource_monitor=execution.resource_monitor,
            verbosity=execution.verbose,
            debug=execution.debug_workflow,
            outputs={label: tuple(config.output_dir / output for output in plan.outputs(label)) for label in workflows},
            log_dir=config.output_dir / "logs" / config.run_id,
        ),
    )


def _reports_only(app: App, config: RunConfig, resources: Resources) -> int:
    """Make the reports anew, and the group's when it was asked for."""
    from bids_app.allotment import for_group
    from bids_app.provenance import about, collect
    from bids_app.record import participants_in, write_group, write_reports

    labels = participants_in(config.output_dir, config.bids.participant_label)
    facts = about(collect(app, config, resources))
    failures: dict[str, ParticipantFailure] = {}
    completed: tuple[str, ...] = ()
    if "participant" in config.levels:
        failures.update(write_reports(app, config, labels, facts, {}))
        completed = tuple(label for label in labels if label not in failures)
    if "group" in config.levels:
        group_failure = write_group(app, config, labels, facts, for_group(config, resources))
        failures.update(group_failure)
        completed += () if group_failure else ("group",)
    return _conclude(app, completed, failures, (), None)


def _conclude(
    app: App, completed: Sequence[str], failures: Mapping[str, ParticipantFailure], unfinished: Sequence[str], interrupted: int | None
) -> int:
    """Print a line a participant, and choose the exit status."""
    for line in summary_lines(completed, failures, unfinished):
        print(f"{app.command}: {line}", flush=True)
    if not completed and not failures and interrupted is None:
        raise MissingInputError("there was nothing to do")
    return exit_code(completed, failures, interrupted)


def _with_report(config: RunConfig, plan: RunPlan) -> list[str]:
    """Participants that get a report: those processed, and those of an earlier run that cannot be any more."""
    earlier = [label for label in plan.failures if (config.output_dir / f"sub-{label}").is_dir()]
    return sorted({*plan.jobs, *earlier})


def _write_participants(config: RunConfig, datasets: Sequence[Dataset]) -> None:
    if any(dataset.name for dataset in datasets):
        from conform_bids.bids.collection import write_participants

        write_participants(config.output_dir, datasets)


def _group_labels(config: RunConfig, datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Participants that the level group was asked for, as they are called in the output; empty for all."""
    asked = config.bids.participant_label
    if "participant" in config.levels or not asked:
        return ()
    named = {label: dataset.label_of(label) for dataset in datasets if dataset.name for label in dataset.participants}
    return tuple(dict.fromkeys([*(label for label in asked if label not in named), *named.values()]))


@contextmanager
def _termination_as_exception() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread: the caller deals with signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
