"""What a user asks for of a dataset: labels, spaces, formats, and pybids-style filters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from conform_bids.bids.names import ENTITY_ORDER, same_label, short_key
from conform_bids.errors import UsageError

__all__ = ["FILE_FORMATS", "FILTER_KEYS", "NATIVE_SPACE", "Selection", "SpaceRequest", "check_one_space", "matches_filter", "shorten"]

FILE_FORMATS = ("nifti", "cifti", "gifti")
FILTER_KEYS = ("bold", "confounds", "events", "mask", "betas")
"""Keys of a filter file that have an effect; fMRIPrep's others are accepted with a warning."""
NATIVE_SPACE = "boldref"
"""Label of a series on its own grid, which has no ``space`` in its name."""

_FILTER_ENTITIES = frozenset(
    {*ENTITY_ORDER, "suffix", "extension", "datatype", "recording", "chunk", "proc", "mod", "sample", "inv", "flip", "split"}
)
_NATIVE_ALIASES = frozenset({NATIVE_SPACE, "func", "bold", "run", "sbref"})
_FSAVERAGE_BY_DENSITY = {"3k": "fsaverage4", "10k": "fsaverage5", "41k": "fsaverage6", "164k": "fsaverage"}
_MODIFIERS = {"res": "resolution", "den": "density", "cohort": "cohort"}


@dataclass(frozen=True)
class SpaceRequest:
    """A space as ``--output-spaces`` spells it.

    Attributes
    ----------
    space : str
        Label of ``space-``; ``boldref`` for the series' own grid (``func``, ``bold``, ``run`` and ``sbref`` mean the same,
        and ``anat`` means T1w, as in fMRIPrep).
    resolution, density, cohort : str or None
        Labels of ``res-``, ``den-`` and ``cohort-``; None is any. A resolution of ``native`` is a name without ``res-``.
    """

    space: str
    resolution: str | None = None
    density: str | None = None
    cohort: str | None = None

    @classmethod
    def parse(cls, text: str) -> SpaceRequest:
        """Parse ``SPACE[:res-N][:den-N][:cohort-N]``.

        Raises
        ------
        UsageError
            For an empty or malformed space, or an unknown modifier.
        """
        space, *modifiers = text.strip().removeprefix("space-").split(":")
        if not space.isalnum():
            raise UsageError(f"{text!r}: not a space; write SPACE[:res-N][:den-N], as MNI152NLin2009cAsym:res-2")
        values: dict[str, str] = {}
        for modifier in modifiers:
            key, _, label = modifier.partition("-")
            if key not in _MODIFIERS or not label.isalnum():
                raise UsageError(f"{text!r}: {modifier!r} is not one of res-N, den-N, cohort-N")
            values[_MODIFIERS[key]] = label
        if space in _NATIVE_ALIASES:
            space = NATIVE_SPACE
        return cls({"anat": "T1w"}.get(space, space), **values)

    def matches(self, entities: Mapping[str, str]) -> bool:
        """Whether a file with these entities is in this space."""
        space = entities.get("space", NATIVE_SPACE)
        if self.space == "fsaverage" and self.density and space == _FSAVERAGE_BY_DENSITY.get(self.density):
            return entities.get("den", self.density) == self.density
        if space != self.space:
            return False
        if self.resolution == "native" and "res" not in entities:
            return True
        asked = (("res", self.resolution), ("den", self.density), ("cohort", self.cohort))
        return all(label is None or (key in entities and same_label(entities[key], label)) for key, label in asked)

    def __str__(self) -> str:
        modifiers = (("res", self.resolution), ("den", self.density), ("cohort", self.cohort))
        return ":".join([self.space, *(f"{key}-{label}" for key, label in modifiers if label is not None)])


class _InSpace(Protocol):
    """Files of one series or fit; ``kind`` is their format."""

    @property
    def entities(self) -> Mapping[str, str]: ...
    @property
    def kind(self) -> str: ...


def check_one_space(found: Iterable[_InSpace], what: str, refused: Collection[str] = ()) -> None:
    """Refuse files of several spaces or formats, and say which there are and how one is chosen.

    Parameters
    ----------
    found : iterable
        What has ``entities`` and a ``kind``.
    what : str
        What it is, with the verb: ``responses are``.
    refused : collection of str
        Labels of spaces that the app does not take, so that they are not proposed; ``func`` is a name without a space.

    Raises
    ------
    UsageError
        When there are several.
    """
    spaces = {(each.kind, *(each.entities.get(key) for key in ("space", *_MODIFIERS))): each for each in found}
    if len(spaces) < 2:
        return
    offered = [each for each in spaces.values() if each.entities.get("space", "func") not in refused] or list(spaces.values())
    listing = "; ".join(f"{_name_space(each)} ({each.kind})" for each in offered)
    flags = next((flags for each in reversed(offered) if (flags := _flags_of(each, list(spaces.values())))), None)
    how = f"choose {'one, as' if len(offered) > 1 else 'it'} by {flags}" if flags else "choose by --output-spaces or --file-format"
    raise UsageError(f"{what} in several spaces, and one is needed: {listing}; {how}")


def _name_space(found: _InSpace) -> str:
    modifiers = [f"{key}-{found.entities[key]}" for key in _MODIFIERS if key in found.entities]
    return ":".join([found.entities.get("space", "func"), *modifiers])


def _flags_of(wanted: _InSpace, among: Sequence[_InSpace]) -> str | None:
    """Options that choose this one alone; None where they cannot."""
    request = SpaceRequest.parse(_name_space(wanted))
    matching = [each for each in among if request.matches(each.entities)]
    if len(matching) == 1:
        return f"--output-spaces {_name_space(wanted)}"
    if [each.kind for each in matching].count(wanted.kind) == 1:
        return f"--output-spaces {_name_space(wanted)} --file-format {wanted.kind}"
    return None


@dataclass(frozen=True)
class Selection:
    """What to work on; anything left empty means all.

    Attributes
    ----------
    participants, sessions, tasks, runs : tuple of str
        Labels, with or without their prefix (``sub-01`` or ``01``). Numbers match whatever their padding.
    spaces : tuple of SpaceRequest
        Spaces among those that are there.
    file_formats : tuple of str
        Of nifti, cifti, gifti.
    filters : mapping
        Content of a ``--bids-filter-file``: a kind of file (`FILTER_KEYS`) to entity (long or short name, ``suffix``,
        ``extension`` or ``datatype``) to a label, a list of labels, ``"*"`` (there must be one) or None (there must be none).

    Raises
    ------
    UsageError
        For an unknown format or a filter of another form.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    spaces: tuple[SpaceRequest, ...] = ()
    file_formats: tuple[str, ...] = ()
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, prefix in (("participants", "sub-"), ("sessions", "ses-"), ("tasks", "task-"), ("runs", "run-")):
            object.__setattr__(self, name, tuple(str(label).removeprefix(prefix) for label in getattr(self, name)))
        for file_format in self.file_formats:
            if file_format not in FILE_FORMATS:
                raise UsageError(f"--file-format: {file_format!r} is not one of {', '.join(FILE_FORMATS)}")
        filters: Any = self.filters  # straight from a JSON file
        if not isinstance(filters, Mapping) or not all(isinstance(query, Mapping) for query in filters.values()):
            raise UsageError('--bids-filter-file: must hold a JSON object of objects, as {"bold": {"task": "rest"}}')
        for kind, query in self.filters.items():
            for entity, wanted in query.items():
                if kind in FILTER_KEYS:
                    _check_filter_entry(kind, str(entity), wanted)

    def filter_for(self, kind: str) -> dict[str, Any]:
        """The filter of one kind of file, by short entity key; empty when there is none."""
        return {short_key(str(entity)): wanted for entity, wanted in self.filters.get(kind, {}).items()}

    @property
    def ignored_filters(self) -> tuple[str, ...]:
        """Keys of the filter file that have no effect here."""
        return tuple(key for key in self.filters if key not in FILTER_KEYS)


def _check_filter_entry(kind: str, entity: str, wanted: Any) -> None:
    where = f"{kind}.{entity}"
    if short_key(entity) not in _FILTER_ENTITIES:
        raise UsageError(f"--bids-filter-file: {where}: {entity!r} is not a BIDS entity, nor suffix, extension or datatype")
    values = wanted if isinstance(wanted, list | tuple) else [wanted]
    if not values or not all(value is None or (isinstance(value, str | int) and not isinstance(value, bool)) for value in values):
        raise UsageError(f'--bids-filter-file: {where}: {wanted!r} is not a label, a list of labels, "*" or null')


def matches_filter(
    query: Mapping[str, Any],
    entities: Mapping[str, str],
    *,
    suffix: str,
    extension: str,
    datatype: str | None = None,
) -> bool:
    """Whether a file passes a filter of `Selection.filter_for`."""
    attributes: dict[str, str] = {**entities, "suffix": suffix, "extension": extension}
    if datatype is not None:
        attributes["datatype"] = datatype
    return all(_matches_value(attributes.get(key), wanted) for key, wanted in query.items())


def _matches_value(label: str | None, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        return any(_matches_value(label, one) for one in wanted)
    if isinstance(wanted, str) and "Query." in wanted:  # as fMRIPrep's saved settings spell pybids' constants
        wanted = None if "NONE" in wanted else "*" if ("ANY" in wanted or "REQUIRED" in wanted) else ...
    if wanted is ...:
        return True
    if wanted is None:
        return label is None
    return label is not None and (wanted == "*" or same_label(label, str(wanted)) or label.lstrip(".") == str(wanted))


def shorten(labels: Sequence[str], limit: int = 12) -> str:
    """Labels for a message, a long list cut in its middle."""
    if not labels:
        return "none"
    if len(labels) <= limit:
        return ", ".join(labels)
    head = limit - 2
    return f"{', '.join(labels[:head])}, ... {labels[-1]} ({len(labels)} in all)"
