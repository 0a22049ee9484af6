"""JSON sidecars: read by the inheritance principle from whatever is there, and made with the keys that BIDS requires."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conform_bids.bids.names import Name, parse_name

__all__ = ["STANDARD_SPACES", "inherited_files", "read_json", "read_sidecar", "sidecar"]

_STANDARD = """
ICBM452AirSpace ICBM452Warp5Space IXI549Space MNI152Lin MNI152NLin2009aAsym MNI152NLin2009aSym MNI152NLin2009bAsym
MNI152NLin2009bSym MNI152NLin2009cAsym MNI152NLin2009cSym MNI152NLin6Asym MNI152NLin6Sym MNI305 MNIColin27 NIHPD
OASIS30AntsOASISAnts OASIS30Atropos Talairach UNCInfant fsLR fsaverage fsaverageSym
"""
STANDARD_SPACES = frozenset(_STANDARD.split())
"""Spaces whose label says all; for any other (T1w, fsnative, fsaverage5, ...) BIDS requires SpatialReference."""

_DENSITIES = {
    "91k": "91,282 grayordinates: about 32,000 vertices a hemisphere and 2 mm voxels of subcortical structures",
    "170k": "170,494 grayordinates: about 59,000 vertices a hemisphere and 1.6 mm voxels of subcortical structures",
    "32k": "32,492 vertices a hemisphere",
    "59k": "59,292 vertices a hemisphere",
    "164k": "163,842 vertices a hemisphere",
    "41k": "40,962 vertices a hemisphere",
    "10k": "10,242 vertices a hemisphere",
    "3k": "2,562 vertices a hemisphere",
}
_UNSTRIPPED_SUFFIXES = frozenset({"mask", "dseg", "probseg"})


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ValueError
        When the file is empty, is not JSON or UTF-8, or holds something else than an object; the message is the reason only.
    OSError
        When it cannot be read.
    """
    text = Path(path).read_bytes()
    if not text.strip():
        raise ValueError("empty")
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def inherited_files(
    folders: Sequence[Path],
    entities: Mapping[str, str],
    *,
    suffix: str,
    extension: str,
    list_folder: Callable[[Path], Sequence[tuple[Path, Name]]],
    same: Callable[[str, str], bool] = str.__eq__,
) -> list[Path]:
    """Files that apply to a file with these entities by the inheritance principle.

    One applies when it has this suffix and extension, and all its entities are among those given, with the same labels.
    The order is that of precedence: of two, the later is deeper, or in the same folder more specific.

    Parameters
    ----------
    folders : sequence of Path
        From the root of the dataset down to the folder of the file.
    list_folder
        Gives a folder's BIDS files and their parsed names; cached by the caller.
    same
        Compares two labels.
    """
    found: list[tuple[int, int, Path]] = []
    for depth, folder in enumerate(folders):
        for candidate, name in list_folder(folder):
            if name.suffix != suffix or name.extension != extension:
                continue
            if all(key in entities and same(entities[key], label) for key, label in name.entities.items()):
                found.append((depth, len(name.entities), candidate))
    return [candidate for _, _, candidate in sorted(found)]


def read_sidecar(
    path: Path,
    root: Path,
    *,
    list_folder: Callable[[Path], Sequence[tuple[Path, Name]]],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Metadata of a file, merged over its inherited sidecars; one that is empty or broken counts as ``{}``, with a warning."""
    name = parse_name(path)
    metadata: dict[str, Any] = {}
    folders = [root]
    for part in path.parent.relative_to(root).parts:
        folders.append(folders[-1] / part)
    for candidate in inherited_files(folders, name.entities, suffix=name.suffix, extension=".json", list_folder=list_folder):
        try:
            metadata.update(read_json(candidate))
        except (ValueError, OSError) as error:
            warn(f"{candidate}: sidecar ignored ({error})")
    return metadata


def sidecar(
    entities: Mapping[str, str],
    suffix: str,
    extension: str,
    *,
    sources: Sequence[str] = (),
    spatial_reference: str | Mapping[str, str] | None = None,
    skull_stripped: bool = True,
    resolution: str | None = None,
    density: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of an output's JSON sidecar, with the keys that BIDS requires for a file of this name.

    Parameters
    ----------
    entities, suffix, extension
        Name of the data file (not of the sidecar).
    sources : sequence of str
        BIDS URIs of the files that it was computed from.
    spatial_reference : str or mapping, optional
        Image that it is aligned to, a BIDS URI. Where the space is not a standard one, the first source (which is aligned
        alike) stands in for it, and ``orig`` when there is none.
    skull_stripped : bool
        Whether voxels outside of the brain were removed; written for NIfTI images that are not masks or segmentations.
    resolution, density : str, optional
        What the labels of ``res`` and ``den`` mean; by default as well as it is known.
    fields : mapping, optional
        Further keys (Description, Units, ...); they win over those made here. A value of None is left out.

    Returns
    -------
    dict
        Ready for `write_json`.
    """
    content: dict[str, Any] = {}
    if sources:
        content["Sources"] = list(sources)
    space = entities.get("space")
    if spatial_reference is not None:
        content["SpatialReference"] = spatial_reference
    elif space is not None and space not in STANDARD_SPACES:
        content["SpatialReference"] = sources[0] if sources else "orig"
    if extension in (".nii", ".nii.gz") and suffix not in _UNSTRIPPED_SUFFIXES:
        content["SkullStripped"] = bool(skull_stripped)
    if "res" in entities:
        content["Resolution"] = resolution or f"Grid of the template's resolution number {entities['res']}, as the input"
    if "den" in entities:
        content["Density"] = density or _DENSITIES.get(entities["den"], f"Mesh of density {entities['den']}, as the input")
    merged = {**content, **(fields or {})}
    described = {"Description": merged.pop("Description")} if merged.get("Description") is not None else {}
    return {**described, **{key: value for key, value in merged.items() if value is not None}}
