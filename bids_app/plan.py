"""From a dataset and a selection to jobs, a participant at a time; and ``--dry-run``, which prints them.

Nothing here imports nipype, torch or nilearn, nor writes a file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_app.app import App, load
from bids_app.config import RunConfig
from bids_app.failures import ParticipantFailure
from bids_app.messages import failure_from
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.jobs import Job, ParticipantPlan, Resources
from conform_bids.wording import counted

if TYPE_CHECKING:
    from conform_bids.bids.index import Dataset, Selection

__all__ = ["RunPlan", "describe", "expected_files", "make_plan", "read_filter_file", "selection_of"]

ROOT_FILES = (".bidsignore", "README.md", "dataset_description.json", "logs/CITATION.bib", "logs/CITATION.md", "logs/settings.json")


@dataclass(frozen=True)
class RunPlan:
    """What a run will do.

    Attributes
    ----------
    jobs : mapping
        Participant to its jobs, for those that can be planned.
    failures : mapping
        Participant to why it cannot.
    warnings : tuple of str
        What was left out and why.
    """

    jobs: Mapping[str, tuple[Job, ...]] = field(default_factory=dict)
    failures: Mapping[str, ParticipantFailure] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def outputs(self, participant: str) -> tuple[str, ...]:
        """Files that a participant's jobs declare, relative to the output folder."""
        return tuple(output for job in self.jobs[participant] for output in job.outputs)

    @classmethod
    def joined(cls, plans: Sequence[RunPlan]) -> RunPlan:
        """Plans of several datasets as one."""
        jobs = {label: own for plan in plans for label, own in plan.jobs.items()}
        failures = {label: failure for plan in plans for label, failure in plan.failures.items()}
        return cls(jobs, failures, tuple(dict.fromkeys(warning for plan in plans for warning in plan.warnings)))

    def missing(self, output_dir: Path, usable: Collection[str]) -> RunPlan:
        """Jobs whose files are not all there, and failures of people who are not usable as they are."""
        todo = {
            label: tuple(job for job in own if not all((output_dir / output).is_file() for output in job.outputs))
            for label, own in self.jobs.items()
        }
        jobs = {label: own for label, own in todo.items() if own}
        failures = {label: failure for label, failure in self.failures.items() if label not in usable}
        return replace(self, jobs=jobs, failures=failures, warnings=self.warnings if jobs or failures else ())

    def with_threads(self, n_threads: int) -> RunPlan:
        """The same plan with another number of threads a node, which changes no result."""
        jobs = {label: tuple(replace(job, n_threads=n_threads) for job in own) for label, own in self.jobs.items()}  # type: ignore[type-var]
        return replace(self, jobs=jobs)


def make_plan(app: App, config: RunConfig, dataset: Dataset, selection: Selection, resources: Resources) -> RunPlan:
    """Plan every participant; one that cannot be planned does not stop the others.

    Raises
    ------
    MissingInputError
        When the dataset has no participant.
    """
    plan_participant = load(app.plan)
    jobs: dict[str, tuple[Job, ...]] = {}
    failures: dict[str, ParticipantFailure] = {}
    warnings: list[str] = []
    if not dataset.participants:
        raise MissingInputError(f"{config.bids_dir}: no participant (no folder sub-*)")
    for participant in dataset.participants:
        try:
            planned: ParticipantPlan = plan_participant(participant, dataset, selection, config.settings, resources, config.output_dir)
            if not planned.jobs:
                raise MissingInputError(f"sub-{participant}: nothing to do")
            _refuse_bombs(planned.jobs, resources)
        except UsageError:
            raise
        except Exception as error:
            failures[dataset.label_of(participant)] = failure_from(app, dataset.label_of(participant), error)
        else:
            jobs[dataset.label_of(participant)] = planned.jobs
            warnings += planned.warnings
    return RunPlan(jobs, failures, tuple(dict.fromkeys((*dataset.warnings, *warnings))))


def _refuse_bombs(jobs: Iterable[Job], resources: Resources) -> None:
    """Refuse inputs that pack next to nothing into more than the memory; sound ones of that size are read in pieces."""
    for job in jobs:
        if job.mem_gb > resources.memory_gb:
            from conform_bids.bids.images import refuse_bombs

            refuse_bombs(job.inputs, resources.memory_gb)


def selection_of(app: App, config: RunConfig) -> tuple[Selection, tuple[str, ...]]:
    """Turn the options on which data to read into a `Selection`, with warnings on what is ignored.

    Raises
    ------
    UsageError
        For a filter file or a space that cannot be read.
    """
    from conform_bids.bids.index import Selection, SpaceRequest

    bids = config.bids
    filters, warnings = read_filter_file(bids.bids_filter_file, app.input_keys)
    try:
        spaces = tuple(SpaceRequest.parse(text) for text in bids.output_spaces)
    except (UsageError, ValueError) as error:
        raise UsageError(f"--output-spaces: {error}") from error
    selection = Selection(
        participants=bids.participant_label,
        sessions=bids.session_label,
        tasks=bids.task_id,
        runs=bids.run_label,
        spaces=spaces,
        file_formats=bids.file_format,
        filters=filters,
    )
    return selection, warnings


def read_filter_file(path: Path | None, known: tuple[str, ...]) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Read ``--bids-filter-file``; kinds of files that the app does not read are left out, with a warning.

    Raises
    ------
    UsageError
        When the file is absent, or is not a JSON mapping of mappings.
    """
    if path is None:
        return {}, ()
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--bids-filter-file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"--bids-filter-file {path}: not JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise UsageError(f'--bids-filter-file {path}: needs a mapping of mappings, as {{"bold": {{"acquisition": "mb4"}}}}')
    ignored = [key for key in content if key not in known]
    warnings: tuple[str, ...] = ()
    if ignored:
        warnings = (f"--bids-filter-file: {', '.join(ignored)} ignored; this app reads {', '.join(known)}",)
    return {key: value for key, value in content.items() if key in known}, warnings


def expected_files(app: App, plan: RunPlan, levels: tuple[str, ...]) -> list[str]:
    """Files that will be in the output folder after the run, sorted (figures and logs of the run aside)."""
    files = {*ROOT_FILES, *(app.group_outputs if "group" in levels else ())}
    for participant in plan.jobs:
        files |= {*plan.outputs(participant), f"sub-{participant}.html"}
    return sorted(files)


def describe(app: App, config: RunConfig, plan: RunPlan, *, with_files: bool = True) -> list[str]:
    """Lines that ``--dry-run`` prints: the plan after ``#``, then, where anything is done, each expected file on a line of its own."""
    lines = [f"# {app.command} v{app.version}, {' and '.join(config.levels)}: dry run, nothing is written"]
    for participant, jobs in plan.jobs.items():
        lines.append(f"# sub-{participant}: {counted(len(jobs), 'job')}")
        for job in jobs:
            lines.append(f"#   {job.name}: {counted(len(job.inputs), 'input file')}, {job.mem_gb:.1f} GB")
            lines += [f"#     {line}" for line in job.summary()]
    for failure in plan.failures.values():
        lines.append(f"# sub-{failure.participant}: cannot be processed: {failure.reason.removeprefix(f'sub-{failure.participant}: ')}")
    if with_files:
        lines.append(f"# files in {config.output_dir}:")
        lines += expected_files(app, plan, config.levels)
    return lines
