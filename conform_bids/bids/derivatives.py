"""The root files of an output dataset, and (from `atomic` and `sidecars`) what every writer of outputs needs.

Root files are the same whichever job writes them: what jobs add (links, source datasets) is merged under a lock and sorted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids import CODE_URL
from conform_bids.bids.atomic import atomic_path, lock_file, write_json, write_text, write_tsv
from conform_bids.bids.sidecars import STANDARD_SPACES, read_json, sidecar
from conform_bids.errors import UsageError

__all__ = [
    "BIDSIGNORE",
    "BIDSIGNORE_SHORT",
    "BIDS_VERSION",
    "STANDARD_SPACES",
    "SourceDataset",
    "atomic_path",
    "container_record",
    "lock_file",
    "relative_link",
    "sidecar",
    "source_dataset",
    "write_bidsignore",
    "write_dataset_description",
    "write_json",
    "write_readme",
    "write_text",
    "write_tsv",
]

BIDS_VERSION = "1.11.1"

BIDSIGNORE_SHORT: tuple[str, ...] = ("*.html", "group_*", "logs", "log", "store", "model", "figures", "stimuli")
"""Enough for a validator whose schema knows our suffixes. No trailing slashes: `figures/` does not hide the folder itself."""

BIDSIGNORE: tuple[str, ...] = (
    *BIDSIGNORE_SHORT,
    *(
        f"*_{suffix}.*"  # any extension: a sidecar whose data file is hidden would be an error
        for suffix in (
            "statmap",
            "trials",
            "design",
            "components",
            "decomposition",
            "eigenspectrum",
            "xfm",
            "weights",
            "relmat",
            "timeseries",
            "metrics",
            "contexts",
            "stimuli",
        )
    ),
)
"""What the released standard has no name for yet, so that its stock validator passes."""

_README = """# {app} outputs

This folder is a BIDS derivative dataset written by {app}.{description}

- `sub-<label>.html`: the report of a participant; open it in any browser, it needs no network.
- `sub-<label>/[ses-<label>/]func/`: maps and tables, each with a JSON sidecar that says what it holds and what it was made from.
- `sub-<label>/figures/`: the figures of the report.
- `logs/`: the settings of every run (`conform.toml` repeats it) and `CITATION.md`, the methods in words and what to cite.
- `group_*`: summaries over participants, once the group level has run.

Names follow the BIDS standard and its drafts for statistical maps. What the released standard does not know is listed in
`.bidsignore`, so that validators pass. Missing values in tables are `n/a`; in maps they are NaN.
"""


@dataclass(frozen=True)
class SourceDataset:
    """A dataset that outputs are made from.

    Attributes
    ----------
    name : str
        Name in BIDS URIs (``bids:<name>:...``) and key in DatasetLinks.
    path : Path
        Its root.
    url, doi, version, license : str or None
        As its dataset_description.json has them.
    """

    name: str
    path: Path
    url: str | None = None
    doi: str | None = None
    version: str | None = None
    license: str | None = None


def source_dataset(name: str, path: str | os.PathLike[str]) -> SourceDataset:
    """Describe a dataset by what its dataset_description.json says; what is absent or unreadable is None."""
    root = Path(path)
    try:
        description = read_json(root / "dataset_description.json")
    except (OSError, ValueError):
        description = {}

    def text(value: Any) -> str | None:
        return value.strip() if isinstance(value, str) and value.strip() else None

    makers = description.get("GeneratedBy")
    maker = makers[0] if isinstance(makers, list) and makers and isinstance(makers[0], dict) else {}
    return SourceDataset(
        name=name,
        path=root,
        url=text(description.get("DatasetURL")) or text(description.get("URL")),
        doi=text(description.get("DatasetDOI")),
        version=text(description.get("Version")) or text(maker.get("Version")),
        license=text(description.get("License")),
    )


def relative_link(target: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> str:
    """POSIX path from ``output_dir`` to ``target``, so that a tree that is moved as a whole keeps its links."""
    return Path(os.path.relpath(os.path.realpath(target), os.path.realpath(output_dir))).as_posix()


def container_record(environment: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """The container that this process runs in, as GeneratedBy has it; None outside of one.

    Read from CONFORM_DOCKER_TAG, CONFORM_SINGULARITY_URL, APPTAINER_NAME or APPTAINER_CONTAINER (SINGULARITY_* alike);
    paths of this machine are cut to the image's name.
    """
    env = os.environ if environment is None else environment
    image = next(
        (env[key] for key in ("APPTAINER_NAME", "APPTAINER_CONTAINER", "SINGULARITY_NAME", "SINGULARITY_CONTAINER") if env.get(key)),
        "",
    )
    tag = env.get("CONFORM_DOCKER_TAG", "")
    url = env.get("CONFORM_SINGULARITY_URL", "")
    if image or url:
        record = {"Type": "apptainer", "Tag": tag or os.path.basename(image.rstrip("/")), "URI": url}
    elif tag:
        record = {"Type": "docker", "Tag": tag}
    else:
        return None
    return {key: value for key, value in record.items() if value}


def write_dataset_description(
    output_dir: str | os.PathLike[str],
    *,
    app_name: str,
    version: str,
    source_datasets: Sequence[SourceDataset] = (),
    links: Mapping[str, str | os.PathLike[str]] | None = None,
    license: str | None = None,
) -> None:
    """Write or complete ``output_dir/dataset_description.json``, under the lock.

    Links and source datasets that other jobs wrote are kept; everything is sorted, so that the order of jobs does not show.

    Parameters
    ----------
    app_name, version : str
        The app that GeneratedBy names.
    source_datasets : sequence of SourceDataset
        What the outputs are made from; each is also a link, with a path relative to ``output_dir``.
    links : mapping of str to str or path, optional
        Further DatasetLinks: a string with ``://`` stands as it is, anything else is a path, made relative.
    license : str, optional
        By default that of the first source that has one; without one, none is claimed.

    Raises
    ------
    UsageError
        When the folder belongs to another app or to a raw dataset, or cannot be written to.
    """
    root = Path(output_dir)
    path = root / "dataset_description.json"
    dataset_links = {source.name: relative_link(source.path, root) for source in source_datasets}
    for name, target in (links or {}).items():
        dataset_links[name] = target if isinstance(target, str) and "://" in target else relative_link(target, root)
    with lock_file(root):
        former = _former_description(path, app_name)
        dataset_links = {**_mapping(former.get("DatasetLinks")), **dataset_links}
        stated = license or next((source.license for source in source_datasets if source.license), None) or former.get("License")
        content = {
            "Name": f"{app_name} outputs",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": stated,
            "HowToAcknowledge": "Cite what logs/CITATION.md names; it lists the methods that were really used.",
            "GeneratedBy": [_generated_by(app_name, version)],
            "SourceDatasets": _merge_sources(former.get("SourceDatasets"), source_datasets, root),
            "DatasetLinks": dict(sorted(dataset_links.items())),
        }
        content = {key: value for key, value in content.items() if value}
        if content != former:
            write_json(content, path)


def _former_description(path: Path, app_name: str) -> dict[str, Any]:
    try:
        former = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; the output folder holds something else than {app_name} outputs") from error
    makers = former.get("GeneratedBy")
    names = [maker.get("Name") for maker in makers if isinstance(maker, dict)] if isinstance(makers, list) else []
    if app_name not in names:
        owner = f"{names[0]} outputs" if names else "a dataset that no app has made"
        raise UsageError(f"{path.parent}: holds {owner}; give {app_name} an output folder of its own")
    return former


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _generated_by(app_name: str, version: str) -> dict[str, Any]:
    record: dict[str, Any] = {"Name": app_name, "Version": version, "CodeURL": CODE_URL}
    container = container_record()
    return {**record, "Container": container} if container else record


def _merge_sources(former: Any, sources: Sequence[SourceDataset], root: Path) -> list[dict[str, str]]:
    records = [record for record in former if isinstance(record, dict)] if isinstance(former, list) else []
    for source in sources:
        record = {"URL": source.url or relative_link(source.path, root), "DOI": source.doi, "Version": source.version}
        records.append({key: value for key, value in record.items() if value})
    latest = {str(record.get("URL") or record.get("DOI")): record for record in records}
    return [latest[key] for key in sorted(latest)]


def write_bidsignore(output_dir: str | os.PathLike[str], lines: Sequence[str] = BIDSIGNORE) -> None:
    """Write ``.bidsignore``, or add to it the lines that it lacks; what a user put there stays."""
    path = Path(output_dir) / ".bidsignore"
    with lock_file(output_dir):
        former = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        missing = [line for line in lines if line not in former]
        if missing:
            write_text("\n".join([*former, *missing]) + "\n", path)


def write_readme(output_dir: str | os.PathLike[str], app_name: str, description: str = "") -> None:
    """Write ``README.md``, which says what the app does (``description``, a paragraph) and what is where, unless there is one."""
    path = Path(output_dir) / "README.md"
    with lock_file(output_dir):
        if not path.exists():
            paragraph = f"\n\n{description.strip()}" if description.strip() else ""
            write_text(_README.format(app=app_name, description=paragraph), path)
