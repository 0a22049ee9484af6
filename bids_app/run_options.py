"""Every option that all apps share, once: a field is a flag, a TOML key and a Boutiques input, as an app's settings are.

`BIDSOptions` say what is read, `ExecutionOptions` how it is run, `Actions` what to do this one time (they are not
written to the run's TOML file).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conform_bids.errors import UsageError
from conform_bids.options import option, validate

__all__ = ["DEBUG_MODES", "FILE_FORMATS", "Actions", "BIDSOptions", "ExecutionOptions"]

FILE_FORMATS = ("nifti", "cifti", "gifti")
DEBUG_MODES = ("traceback", "workflow", "all")

_SELECT = "which data"
_INPUT = "where data are"
_RESOURCES = "resources"
_WORKFLOW = "workflow"
_OUTPUT = "output"
_ONCE = "other things to do"


@dataclass(frozen=True)
class BIDSOptions:
    """What is read: TOML section ``[bids]``. Labels are without their prefix; empty means all."""

    participant_label: tuple[str, ...] = option(
        (), "Participants to process, with or without `sub-`.", aliases=("--participant_label",), metavar="LABEL", group=_SELECT
    )
    session_label: tuple[str, ...] = option(
        (),
        "Sessions to process, with or without `ses-`.",
        aliases=("--session_label", "--session-id", "--session_id"),
        metavar="LABEL",
        group=_SELECT,
    )
    task_id: tuple[str, ...] = option((), "Tasks to process.", aliases=("-t", "--task_id", "--task-label"), metavar="LABEL", group=_SELECT)
    run_label: tuple[str, ...] = option(
        (), "Runs to process, as the label stands in the file name.", aliases=("--run_label", "--run-id"), metavar="LABEL", group=_SELECT
    )
    output_spaces: tuple[str, ...] = option(
        (),
        "Spaces to process, among those that the input has, as SPACE[:res-N][:den-N] (default: all). Nothing is resampled.",
        aliases=("--output_spaces",),
        metavar="SPACE",
        group=_SELECT,
    )
    file_format: tuple[str, ...] = option(
        (), "File formats to process (default: all that the input has).", aliases=("--file_format",), choices=FILE_FORMATS, group=_SELECT
    )
    bids_filter_file: Path | None = option(
        None,
        "JSON file of further conditions on entities, a mapping for each kind of file, as "
        '{"bold": {"acquisition": "mb4"}}. Kinds that the app does not read are ignored, with a warning.',
        aliases=("--bids_filter_file",),
        metavar="FILE",
        group=_SELECT,
    )
    derivatives: tuple[str, ...] = option(
        (),
        "Other datasets to read, as NAME=PATH or PATH; `raw=PATH` where bids_dir is a derivative "
        "(default: what stands in bids_dir/derivatives).",
        aliases=("-d", "--datasets"),
        metavar="NAME=PATH",
        group=_INPUT,
    )
    bids_database_dir: Path | None = option(
        None,
        "Folder of a pybids index to use; it is made where there is none.",
        aliases=("--bids_database_dir",),
        metavar="DIR",
        group=_INPUT,
    )
    skip_bids_validation: bool = option(
        False, "Do not run the BIDS validator on the raw dataset.", aliases=("--skip_bids_validation",), group=_INPUT
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class ExecutionOptions:
    """How it is run: TOML section ``[execution]``."""

    nprocs: int | None = option(
        None,
        "Processes (CPUs) to use at once (default: those that this process may use).",
        minimum=1,
        aliases=("--nthreads", "--n-cpus", "--n_cpus"),
        metavar="N",
        group=_RESOURCES,
    )
    omp_nthreads: int | None = option(
        None,
        "Threads of one process (default: --nprocs shared out over the jobs of the run, at most 8).",
        minimum=1,
        aliases=("--omp_nthreads",),
        metavar="N",
        group=_RESOURCES,
    )
    memory_gb: float | None = option(
        None,
        "Memory that the run may use (default: what the machine and the cgroup grant).",
        unit="GB",
        minimum=0.1,
        flag="--mem-gb",
        aliases=("--mem_gb",),
        metavar="X",
        group=_RESOURCES,
    )
    low_mem: bool = option(False, "Use less memory: smaller blocks of units, at some cost in time.", group=_RESOURCES)
    device: str = option("auto", "Where to compute: auto (a GPU where there is one), cpu, cuda or cuda:N.", group=_RESOURCES)
    use_plugin: Path | None = option(
        None,
        "YAML file of a Nipype plugin and its arguments (MultiProc, SLURM, PBS, SGE, ...), in place of the local one.",
        aliases=("--use_plugin", "--nipype-plugin-file"),
        metavar="FILE",
        group=_RESOURCES,
    )
    resource_monitor: bool = option(False, "Record the memory and CPU use of every node in the log.", group=_RESOURCES)

    work_dir: Path = option(
        Path("work"),
        "Folder for intermediate results; a later run over the same folder resumes.",
        aliases=("-w", "--work_dir"),
        metavar="DIR",
        group=_WORKFLOW,
    )
    stop_on_first_crash: bool = option(False, "Stop everything as soon as one node fails.", group=_WORKFLOW)
    write_graph: bool = option(False, "Write the graph of each participant's workflow to its log folder.", group=_WORKFLOW)
    random_seed: int = option(0, "Seed of every random choice; written to the sidecars.", minimum=0, group=_WORKFLOW)
    sloppy: bool = option(False, "Fast, inaccurate settings to test an installation; the results are not for use.", group=_WORKFLOW)
    debug: tuple[str, ...] = option(
        (),
        "Ease debugging. traceback: show where errors arise; workflow: run one node after the other, in one process; all: both.",
        choices=DEBUG_MODES,
        group=_WORKFLOW,
    )
    verbose: int = option(0, "More messages: -v, -vv, -vvv.", minimum=0, aliases=("-v",), group=_WORKFLOW)

    output_layout: str = option("bids", "Layout of the output folder.", choices=("bids",), group=_OUTPUT)
    aggregate_session_reports: int = option(
        4, "Sessions up to which a participant has one report; with more, there is one a session.", minimum=1, metavar="N", group=_OUTPUT
    )
    md_only_boilerplate: bool = option(
        False,
        "Write the methods text as Markdown only, not as HTML and LaTeX (by pandoc).",
        aliases=("--md_only_boilerplate",),
        group=_OUTPUT,
    )
    notrack: bool = option(False, "Accepted for compatibility: nothing is ever sent anywhere.", group=_OUTPUT)

    def __post_init__(self) -> None:
        validate(self)
        index = self.device.removeprefix("cuda:")
        if self.device not in ("auto", "cpu", "cuda") and not (self.device.startswith("cuda:") and index.isdecimal()):
            raise UsageError(f"--device: {self.device!r} is not one of auto, cpu, cuda, cuda:N")

    @property
    def tracebacks(self) -> bool:
        """Whether errors of the user are shown with a traceback."""
        return not {"traceback", "all"}.isdisjoint(self.debug)

    @property
    def debug_workflow(self) -> bool:
        """Whether the nodes run in this process, where a debugger reaches them."""
        return not {"workflow", "all"}.isdisjoint(self.debug)


@dataclass(frozen=True)
class Actions:
    """What to do this time; not part of the TOML file, so that a re-run of it is a plain run."""

    dry_run: bool = option(
        False, "Print what would be done and the files that would be written, one a line, and stop.", aliases=("--dry_run",), group=_ONCE
    )
    reports_only: bool = option(False, "Only make the reports anew, from what is in output_dir.", aliases=("--reports_only",), group=_ONCE)
    boilerplate_only: bool = option(False, "Only write the methods text, to output_dir/logs.", aliases=("--boilerplate_only",), group=_ONCE)
    clean_workdir: bool = option(False, "First remove what the app left in the work folder.", aliases=("--clean_workdir",), group=_ONCE)
    overwrite: bool = option(
        False,
        "Write to an output_dir that was made with other settings or by another version; what is there of the same tasks, spaces "
        "and sessions is replaced, and removed where it is not made any more, once a participant is complete.",
        group=_ONCE,
    )

    def __post_init__(self) -> None:
        validate(self)
        chosen = [name for name in ("dry_run", "reports_only", "boilerplate_only") if getattr(self, name)]
        if len(chosen) > 1:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
            raise UsageError(f"{flags} exclude each other")
