"""Which datasets there are: their descriptions, their roles, and where the raw one and the derivatives lie."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform_bids.bids.sidecars import read_json
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError

__all__ = ["FMRIPREP", "RAW", "Description", "Roots", "find_roots", "read_description"]

FMRIPREP = "fmriprep"
RAW = "raw"
DESCRIPTION = "dataset_description.json"

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Description:
    """What a dataset_description.json says, as far as it matters here.

    Attributes
    ----------
    generated_by : str or None
        Name of the first pipeline of GeneratedBy (or of the older PipelineDescription).
    is_derivative : bool
        By DatasetType (``derivatives``, a common slip, counts); without one, by GeneratedBy and the folder.
    links : dict of str to str
        DatasetLinks, and the URLs of SourceDatasets under names of no meaning.
    """

    generated_by: str | None
    is_derivative: bool
    links: dict[str, str]

    @property
    def is_fmriprep(self) -> bool:
        """Whether fMRIPrep made it."""
        return (self.generated_by or "").lower().startswith(FMRIPREP)


@dataclass(frozen=True)
class Roots:
    """Roots of the datasets: absolute, symbolic links kept."""

    raw: Path | None
    derivatives: dict[str, Path]
    descriptions: dict[str, Description]


def absolute(path: str | os.PathLike[str]) -> Path:
    """Absolute path without ``..``; links are kept, as annexed trees are full of them."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def read_description(root: Path, reads: Sequence[str] = (FMRIPREP,)) -> Description:
    """Read the description of the dataset at ``root``.

    Parameters
    ----------
    root : Path
    reads : sequence of str
        What makes the derivatives that are wanted, first choice first; only to name the folder that was meant.

    Raises
    ------
    MissingInputError
        When there is no such folder.
    UnusableInputError
        When it has no dataset_description.json (naming the folder that was probably meant), or one that is broken.
    """
    if not root.is_dir():
        raise MissingInputError(f"{root}: no such folder")
    path = root / DESCRIPTION
    if not os.path.lexists(path):
        raise UnusableInputError(f"{root}: no {DESCRIPTION}, so not a BIDS dataset{_hint(root, reads)}")
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise MissingInputError(f"{path}: a link to content that is not here; `datalad get` fetches it") from error
    except (OSError, ValueError) as error:
        raise UnusableInputError(f"{path}: {error}") from error
    return _describe(content, root)


def _hint(root: Path, reads: Sequence[str]) -> str:
    within = [child for child in _folders(root) if (child / DESCRIPTION).exists()]
    if within:
        best = min(within, key=lambda child: _preference(child, reads))
        if _preference(best, reads)[0] < len(reads) or not _is_other_derivative(best):
            return f". It holds datasets; did you mean {best}?"
        there = ", ".join(child.name for child in within)
        return f". It holds datasets ({there}), but none that is read here (of {', '.join(reads)})"
    for ancestor in list(root.parents)[:4]:
        if (ancestor / DESCRIPTION).exists():
            return f". Did you mean {ancestor}?"
    deeper = [child for child in _folders(root / "derivatives") if (child / DESCRIPTION).exists()]
    if deeper:
        return f". Did you mean {min(deeper, key=lambda child: _preference(child, reads))}?"
    return ". Every dataset, raw or derivative, has one in its root"


def _preference(root: Path, reads: Sequence[str]) -> tuple[int, bool, bool, str]:
    """Sort key of the datasets of a folder: what is read comes first, then what may be, then what another app made."""
    maker = _maker(root)
    ranks = [rank for rank, name in enumerate(reads) if maker.startswith(name)]
    rank = ranks[0] if ranks else len(reads)
    return rank, _is_other_derivative(root), root.name.lower() not in reads, root.name


def _is_other_derivative(root: Path) -> bool:
    """Whether a known app made it."""
    return _maker(root).startswith((FMRIPREP, "conform-"))


def _maker(root: Path) -> str:
    """What made a dataset, in lower case: the folder's name where a derivative does not say, nothing for a raw dataset."""
    try:
        description = read_description(root)
    except (MissingInputError, UnusableInputError):
        return root.name.lower()
    return (description.generated_by or (root.name if description.is_derivative else "")).lower()


def _describe(content: Mapping[str, Any], root: Path) -> Description:
    makers = content.get("GeneratedBy")
    older = content.get("PipelineDescription")
    records = [*(makers if isinstance(makers, list) else []), older]
    names = [record["Name"] for record in records if isinstance(record, dict) and isinstance(record.get("Name"), str)]
    generated_by = names[0] if names else None
    kind = content.get("DatasetType")
    if isinstance(kind, str):
        is_derivative = kind.lower().startswith("derivative")
    else:
        known = (generated_by or "").lower()
        is_derivative = isinstance(older, dict) or known.startswith((FMRIPREP, "conform-")) or root.parent.name == "derivatives"
    if is_derivative and "GeneratedBy" in content and not _is_list_of_objects(makers):
        raise UnusableInputError(f'{root / DESCRIPTION}: GeneratedBy must be a list of objects, as [{{"Name": "fMRIPrep"}}]')
    links = content.get("DatasetLinks")
    found = {str(name): link for name, link in links.items() if isinstance(link, str)} if isinstance(links, dict) else {}
    sources = content.get("SourceDatasets")
    for number, source in enumerate(sources if isinstance(sources, list) else []):
        if isinstance(source, dict) and isinstance(source.get("URL"), str):
            found.setdefault(f"source:{number}", source["URL"])
    return Description(generated_by, is_derivative, found)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def find_roots(bids_dir: Path, derivatives: Mapping[str, str | os.PathLike[str]], warn: Warn, reads: Sequence[str] = (FMRIPREP,)) -> Roots:
    """Find the raw dataset and the derivatives from the folder that the user names, and from ``-d NAME=PATH``.

    Raises
    ------
    MissingInputError, UnusableInputError
        As `read_description`, for ``bids_dir``, every ``-d`` and any derivative that is named like fMRIPrep's.
    UsageError
        When ``bids_dir`` is a raw dataset and ``-d raw=`` names another, or there are several fMRIPrep derivatives.
    """
    root = absolute(bids_dir)
    description = read_description(root, reads)
    named = {name: absolute(path) for name, path in derivatives.items() if name != RAW}
    given = {name: (path, read_description(path, reads)) for name, path in named.items()}
    raw = absolute(derivatives[RAW]) if RAW in derivatives else None
    if raw is not None:
        read_description(raw)
    found: list[tuple[str, Path, Description]] = []
    if description.is_derivative:
        found.append((root.name, root, description))
        raw = raw or _raw_of(root, description)
        if raw is None:
            warn(f"{root}: its raw dataset was not found (events are read from there); name it by -d raw=PATH")
    else:
        if raw is not None and not _same(raw, root):
            raise UsageError(f"-d raw={raw}: {root} is a raw dataset itself")
        raw = root
        found.extend(_discover(root, warn))
    roots, descriptions = _assign_names(found, given, warn)
    return Roots(raw, roots, descriptions)


def _raw_of(root: Path, description: Description) -> Path | None:
    """The raw dataset that a derivative was made from: by its links, then by where it lies."""
    links = sorted(description.links.items(), key=lambda item: item[0] != RAW)
    local = [link.removeprefix("file://") for _, link in links if "://" not in link.removeprefix("file://")]
    candidates = [*(absolute(root / link) for link in local), root / "sourcedata" / "raw", root.parent.parent]
    real_root = Path(os.path.realpath(root))
    candidates.append(real_root.parent.parent)
    for candidate in candidates:
        if (candidate / DESCRIPTION).is_file() and not _same(candidate, root):
            try:
                if not read_description(candidate).is_derivative:
                    return absolute(candidate)
            except UnusableInputError:
                continue
    return None


def _discover(raw: Path, warn: Warn) -> Iterator[tuple[str, Path, Description]]:
    for folder in _folders(raw / "derivatives"):
        if not os.path.lexists(folder / DESCRIPTION):
            continue
        try:
            yield folder.name, folder, read_description(folder)
        except (UnusableInputError, MissingInputError) as error:
            if FMRIPREP in folder.name.lower():
                raise
            warn(f"derivative left out: {error}")


def _assign_names(
    found: list[tuple[str, Path, Description]],
    given: Mapping[str, tuple[Path, Description]],
    warn: Warn,
) -> tuple[dict[str, Path], dict[str, Description]]:
    """Names of the derivatives: what the user gave wins, and fMRIPrep's is called so whatever its folder is called."""
    given_fmriprep = [name for name, (_, description) in given.items() if description.is_fmriprep]
    entries: dict[str, tuple[Path, Description]] = {}
    for name, entry in given.items():
        sole = given_fmriprep == [name] and FMRIPREP not in given
        entries[FMRIPREP if sole else _clean_name(name)] = entry
    paths = [path for path, _ in entries.values()]
    rest = [entry for entry in found if not any(_same(entry[1], path) for path in paths)]
    candidates = [entry for entry in rest if entry[2].is_fmriprep]
    if FMRIPREP not in entries and candidates:
        if len(candidates) > 1:
            listing = ", ".join(str(path) for _, path, _ in candidates)
            raise UsageError(f"several fMRIPrep derivatives: {listing}; choose one by -d fmriprep=PATH")
        entries[FMRIPREP] = candidates[0][1:]
        rest.remove(candidates[0])
    for name, path, description in rest:
        key = _clean_name(name)
        if key not in entries:
            entries[key] = (path, description)
        elif not description.is_fmriprep:
            warn(f"{path}: left out, as another derivative is called {key}; name it by -d NAME=PATH")
    return ({name: path for name, (path, _) in entries.items()}, {name: description for name, (_, description) in entries.items()})


def _clean_name(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z._-]+", "-", name) or "derivative"


def _folders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return sorted(root / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []


def _same(first: Path, second: Path) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)
