"""What the spine itself writes to an output folder: root files, the methods text, logs, reports.

Root files are written under a lock and are the same from any job of an array, so that many jobs may share a folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_app.app import App, load
from bids_app.config import RunConfig, derivative_paths, write_toml
from bids_app.failures import ParticipantFailure
from bids_app.folders import SETTINGS_RECORD, app_work_dir, check_output, settings_record
from bids_app.messages import failure_from
from bids_app.plan import selection_of
from bids_app.provenance import write_provenance
from conform_bids.errors import MissingInputError
from conform_bids.jobs import GroupInputs

if TYPE_CHECKING:
    from conform_bids.bids.index import Dataset
    from conform_bids.jobs import Resources

__all__ = [
    "group_inputs",
    "log_dirs",
    "participants_in",
    "write_boilerplate",
    "write_group",
    "write_logs",
    "write_reports",
    "write_root_files",
]

_PANDOC_TIMEOUT_S = 60


def log_dirs(config: RunConfig, participants: Iterable[str]) -> dict[str, Path]:
    """Folder of each participant's log of this run, ``sub-X/log/<run>``."""
    return {label: config.output_dir / f"sub-{label}" / "log" / config.run_id for label in participants}


def write_logs(app: App, config: RunConfig, participants: Iterable[str], provenance: Mapping[str, Any]) -> None:
    """Write the configuration and provenance of the run, and the configuration for each participant."""
    run_log = config.output_dir / "logs" / config.run_id
    write_toml(config, run_log / "conform.toml", app.version)
    write_provenance(provenance, run_log / "provenance.json")
    for folder in log_dirs(config, participants).values():
        write_toml(config, folder / "conform.toml", app.version)


def write_root_files(app: App, config: RunConfig, datasets: Sequence[Dataset]) -> None:
    """Write dataset_description.json, .bidsignore, README.md, the settings and the methods text.

    Raises
    ------
    UsageError
        When another job has meanwhile begun to write to the folder with other settings.
    """
    from conform_bids.bids import derivatives as files

    output_dir = config.output_dir
    with files.lock_file(output_dir):
        check_output(app, config)
        files.write_json(settings_record(app, config), output_dir / SETTINGS_RECORD)
        _write_citation(app, config)
    ours = Path(os.path.realpath(output_dir))  # found as a derivative, too, where it lies in bids_dir/derivatives
    found = {name: path for dataset in datasets for name, path in dataset.sources().items()}
    sources = {name: path for name, path in found.items() if Path(os.path.realpath(path)) != ours}
    files.write_dataset_description(
        output_dir,
        app_name=app.command,
        version=app.version,
        source_datasets=[files.source_dataset(name, path) for name, path in sorted(sources.items())],
    )
    files.write_bidsignore(output_dir)
    files.write_readme(output_dir, app.command, f"{app.summary} {app.description}")


def write_boilerplate(app: App, config: RunConfig) -> None:
    """Write the methods text alone, to ``logs/CITATION.*``."""
    from conform_bids.bids.derivatives import lock_file

    with lock_file(config.output_dir):
        _write_citation(app, config)


def _write_citation(app: App, config: RunConfig) -> None:
    from conform_bids.bids.derivatives import write_text
    from conform_bids.report.citations import bibtex, format_citations

    given = {"given": tuple(derivative_paths(config.bids))} if app.names_datasets else {}
    methods = load(app.methods)(config.settings, app.version, **given)
    logs = config.output_dir / "logs"
    text = f"{methods.text.strip()}\n\n## References\n\n{format_citations(methods.keys).strip()}\n"
    write_text(text, logs / "CITATION.md")
    write_text(bibtex(methods.keys), logs / "CITATION.bib")
    if not config.execution.md_only_boilerplate:
        _convert_citation(methods.text, logs)


def _convert_citation(text: str, logs: Path) -> None:
    """Make CITATION.html and .tex where pandoc is there; without it, Markdown and BibTeX say the same."""
    from conform_bids.bids.derivatives import atomic_path

    pandoc = shutil.which("pandoc")
    if pandoc is None:
        return
    common = [pandoc, "--standalone", "--metadata", "pagetitle=Methods", "--bibliography", "CITATION.bib", "--from", "markdown"]
    for extension, options in ((".html", ["--citeproc"]), (".tex", ["--natbib"])):
        try:
            with atomic_path(logs / f"CITATION{extension}") as temporary:
                subprocess.run(
                    [*common, *options, "--output", str(temporary)],
                    input=text, text=True, cwd=logs, timeout=_PANDOC_TIMEOUT_S, check=True, capture_output=True,
                )  # fmt: skip
        except (subprocess.SubprocessError, FileNotFoundError):  # an old pandoc without --citeproc
            continue


def participants_in(output_dir: Path, asked: Sequence[str], *, required: bool = True) -> tuple[str, ...]:
    """Participants that an output folder holds, of those asked for.

    Parameters
    ----------
    required : bool
        False where the level group reads people from elsewhere, so that there may be none.

    Raises
    ------
    MissingInputError
        When there is none, or one that was asked for is not there.
    """
    present = sorted(path.name.removeprefix("sub-") for path in output_dir.glob("sub-*") if path.is_dir())
    missing = [label for label in asked if label not in present]
    if required and (missing or not present):
        wanted = ", ".join(f"sub-{label}" for label in missing) or "participant"
        raise MissingInputError(f"output_dir {output_dir} holds no {wanted}; it holds {', '.join(present) or 'none'}")
    return tuple(label for label in present if not asked or label in asked)


def write_reports(
    app: App, config: RunConfig, participants: Iterable[str], about: Mapping[str, str], failures: Mapping[str, ParticipantFailure]
) -> dict[str, ParticipantFailure]:
    """Write each participant's report from what is in the output folder.

    Returns
    -------
    dict
        Participants whose report failed; the others have theirs.
    """
    failed: dict[str, ParticipantFailure] = {}
    for participant in participants:
        failure = failures.get(participant)
        errors = () if failure is None else (failure.reason, *(f"See {path.name}" for path in failure.crash_files))
        try:
            write = load(app.participant_report)
            write(participant, config.output_dir, config.settings, about, errors, config.execution.aggregate_session_reports)
        except Exception as error:
            failed[participant] = failure_from(app, participant, error, "the report could not be made")
    return failed


def write_group(
    app: App, config: RunConfig, participants: Sequence[str], about: Mapping[str, str], resources: Resources
) -> dict[str, ParticipantFailure]:
    """Run the group level; a mapping with the key ``group`` when it failed."""
    if app.group is None:
        return {}
    more = (resources, app_work_dir(config)) if app.group_fits else ()
    try:
        named = {"inputs": group_inputs(app, config)} if app.group_reads else {}
        load(app.group)(config.output_dir, participants, config.settings, about, *more, **named)
    except Exception as error:
        return {"group": failure_from(app, "group", error, "the group level failed")}
    return {}


def group_inputs(app: App, config: RunConfig) -> GroupInputs:
    """What the level group reads beside the output folder."""
    return GroupInputs(
        config.bids_dir,
        derivative_paths(config.bids),
        config.bids.participant_label,
        selection=selection_of(app, config)[0],
        overwrite=config.actions.overwrite,
    )
