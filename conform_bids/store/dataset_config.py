"""What is particular about a dataset, as one YAML file: where its events name the stimulus, what to leave out, which trials are test.

The fields below are the schema: `config_schema` makes JSON Schema of them, `read_config` checks a file against them. The files of MOSAIC's
eight datasets are in ``conform_bids/store/mosaic`` (`shipped_configs`).
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conform_bids.bids.filters import compile_trial_filter
from conform_bids.bids.names import bare_label
from conform_bids.errors import ConformError, MissingInputError, UnusableInputError

__all__ = ["DatasetConfig", "Expected", "Fit", "Match", "Override", "Side", "config_schema", "read_config", "shipped_configs"]

_LARGEST_FILE = 1_000_000


def _field(help: str, default: Any = dataclasses.MISSING) -> Any:
    metadata = {"help": help}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Match:
    """Runs, by the entities of their files; each pattern is a regular expression that the whole label matches. Empty is any."""

    subject: str | None = _field("Pattern of the participant's label.", None)
    session: str | None = _field("Pattern of the session's label.", None)
    task: str | None = _field("Pattern of the task's label.", None)
    run: str | None = _field("Pattern of the run's label.", None)

    def __post_init__(self) -> None:
        for pattern in (self.subject, self.session, self.task, self.run):
            if pattern is not None:
                re.compile(pattern)

    def matches(self, entities: Mapping[str, str]) -> bool:
        """Whether a run with these entities (short keys) is one of them."""
        asked = (("sub", self.subject), ("ses", self.session), ("task", self.task), ("run", self.run))
        return all(pattern is None or _label_matches(pattern, entities.get(key, "")) for key, pattern in asked)


def _label_matches(pattern: str, label: str) -> bool:
    """Numbers match with their padding and without."""
    return bool(re.fullmatch(pattern, label) or re.fullmatch(pattern, bare_label(label)))


@dataclass(frozen=True)
class Side:
    """Which trials are of a side of the split: all that any of these names."""

    runs: tuple[Match, ...] = _field("Every trial of these runs.", ())
    trials: str | None = _field("Every trial for which this expression over the events' columns holds.", None)
    repeated: int | None = _field("Every stimulus that some participant saw at least so often.", None)
    shared: int | None = _field("Every stimulus that at least so many participants saw.", None)

    def __post_init__(self) -> None:
        if self.trials is not None:
            compile_trial_filter(self.trials)
        for number in (self.repeated, self.shared):
            if number is not None and number < 2:
                raise ValueError(f"repeated and shared count from 2, not {number}")

    @property
    def needs_all(self) -> bool:
        """Whether it can only be told from the whole dataset."""
        return self.repeated is not None or self.shared is not None


@dataclass(frozen=True)
class Override:
    """What differs in some runs; fields that are not given stay."""

    when: Match = _field("The runs.")
    stimulus_column: str | None = _field("Column that names the stimulus.", None)
    onset_shift: float | None = _field("Added to onsets, in seconds.", None)
    duration: float | None = _field("Duration of every stimulus, in seconds.", None)


@dataclass(frozen=True)
class Fit:
    """How the trials were fitted in MOSAIC, and what their betas are z-scored by."""

    scope: str = _field("Runs that are fitted together: session, subject, or group (of sessions).", "session")
    group_size: int | None = _field("Sessions of a group.", None)
    model: str = _field("conform-glm's name of the model: fithrf is GLMsingle's type B, fithrfdenoiserr its type D.", "fithrfdenoiserr")

    def __post_init__(self) -> None:
        if self.scope not in ("session", "subject", "group"):
            raise ValueError(f"scope is session, subject or group, not {self.scope!r}")


@dataclass(frozen=True)
class Expected:
    """What a complete download has, before anything is left out as a duplicate."""

    participants: int | None = _field("People.", None)
    train: int | None = _field("Train trials of all people.", None)
    test: int | None = _field("Test trials of all people.", None)
    artificial: int | None = _field("Trials of artificial stimuli of all people.", None)


@dataclass(frozen=True)
class DatasetConfig:
    """A dataset."""

    name: str = _field("Short name, letters and digits; people are sub-<name><label>.")
    source: str = _field("Where it is from: an accession number or an address.")
    stimulus_column: str = _field("Column of the events that names the stimulus; rows without one are left out.")
    duration: float = _field("Duration of every stimulus, in seconds.")
    repetition_time: float = _field("Of the acquisition, in seconds.")
    resampled_to: float | None = _field("Repetition time that MOSAIC resampled to, in seconds.", None)
    license: str | None = _field("Licence.", None)
    visual_angle: float | None = _field("Width of the stimuli, in degrees.", None)
    runs: tuple[Match, ...] = _field("Runs that are used; empty is all.", ())
    drop_runs: tuple[Match, ...] = _field("Runs that are left out.", ())
    drop_trials: str | None = _field("Trials for which this expression over the events' columns holds are left out.", None)
    drop_one_back: bool = _field("Leave out trials whose stimulus is that of the trial before, as one-back tasks show them.", False)
    strip: str | None = _field("Regular expression whose first match is taken out of the stimulus' name.", None)
    onset_shift: float = _field("Added to onsets, in seconds.", 0.0)
    overrides: tuple[Override, ...] = _field("What differs in some runs; the last that matches counts.", ())
    test: Side = _field("Test trials.", Side)
    artificial: Side = _field("Trials of artificial stimuli, held out like test.", Side)
    repeats: str | None = _field("Repeats of a stimulus, train / test, in words.", None)
    fit: Fit = _field("How it is fitted.", Fit)
    expected: Expected = _field("Counts to check a download by.", Expected)

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isalnum()):
            raise ValueError(f"the name is made of letters and digits, not {self.name!r}")
        if self.duration <= 0 or self.repetition_time <= 0:
            raise ValueError("duration and repetition_time are above 0 s")
        if self.drop_trials is not None:
            compile_trial_filter(self.drop_trials)
        if self.strip is not None:
            re.compile(self.strip)


def read_config(path: str | Path) -> DatasetConfig:
    """Read a dataset's file.

    Raises
    ------
    MissingInputError
        When there is none.
    UnusableInputError
        Naming the file and the field, when it is not YAML, a field is unknown, absent or of another type, or a pattern is malformed.
    """
    place = Path(path)
    try:
        if place.stat().st_size > _LARGEST_FILE:
            raise UnusableInputError(f"{place}: too large for the description of a dataset")
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingInputError(f"{place}: no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UnusableInputError(f"{place}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return typing.cast(DatasetConfig, _build(DatasetConfig, content, ""))
    except (ValueError, ConformError, re.error) as error:
        raise UnusableInputError(f"{place}: {error}") from error


def _build(kind: Any, value: Any, where: str) -> Any:
    """A value of a type from what YAML gave."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_object(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _build(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: a list is needed, not {value!r}")
        return tuple(_build(arguments[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}: {_NAMES[kind]} is needed, not {value!r}")
    return value


def _build_object(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'the file'}: fields are needed, not {value!r}")
    hints = typing.get_type_hints(kind)
    unknown = [key for key in value if key not in hints]
    if unknown:
        raise ValueError(f"{where or 'the file'}: no field {unknown[0]!r}; there are {', '.join(hints)}")
    entries = dataclasses.fields(kind)
    absent = [entry.name for entry in entries if _required(entry) and entry.name not in value]
    if absent:
        raise ValueError(f"{where or 'the file'}: the field {absent[0]} is absent")
    prefix = f"{where}." if where else ""
    return kind(**{key: _build(hints[key], item, f"{prefix}{key}") for key, item in value.items()})


def _required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_JSON = {str: "string", int: "integer", float: "number", bool: "boolean"}


def config_schema() -> dict[str, Any]:
    """JSON Schema of a dataset's file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Dataset", **_schema(DatasetConfig)}


def _schema(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints, entries = typing.get_type_hints(kind), dataclasses.fields(kind)
        properties = {entry.name: {**_schema(hints[entry.name]), "description": entry.metadata["help"]} for entry in entries}
        required = [entry.name for entry in entries if _required(entry)]
        return {"type": "object", "properties": properties, "additionalProperties": False} | ({"required": required} if required else {})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        inner = _schema(arguments[0])
        return {**inner, "type": [inner["type"], "null"]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    return {"type": _JSON[kind]}


def shipped_configs() -> dict[str, Path]:
    """Files of the datasets that come with conform, by name in lower case."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "mosaic").glob("*.yaml"))}
