"""One definition an option: a field of a frozen settings dataclass is a flag, a TOML key and a Boutiques input.

``option`` declares a field; ``options_of`` lists a class's fields as `Option` records, from which the command line,
the TOML file, the Boutiques descriptor and the documentation are made. ``validate`` checks a settings value.

Supported field types: ``bool``, ``int``, ``float``, ``str``, ``pathlib.Path``, each of them ``| None``, and
``tuple[X, ...]`` of ``int``, ``float``, ``str``, ``Path`` or ``tuple[str, ...]`` (written ``01,02 03,04``).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from conform_bids.errors import UsageError

__all__ = ["Option", "from_mapping", "option", "options_of", "to_mapping", "validate"]

_KEY = "conform_option"
SettingsT = TypeVar("SettingsT")


def option(
    default: Any,
    help: str,
    *,
    unit: str | None = None,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    length: int | None = None,
    metavar: str | tuple[str, ...] | None = None,
    flag: str | None = None,
    aliases: tuple[str, ...] = (),
    const: Any = None,
    group: str = "options",
) -> Any:
    """Declare a settings field.

    Parameters
    ----------
    default
        Value when the option is not given.
    help : str
        One or two sentences, as shown by ``--help`` and in the docs.
    unit : str, optional
        Physical unit of the value, appended to the help.
    choices : tuple, optional
        Allowed values (of each element, for a tuple field).
    minimum, maximum : float, optional
        Inclusive range (of each element, for a tuple field).
    length : int, optional
        Exact number of elements of a tuple field.
    metavar : str or tuple of str, optional
        Placeholder in ``--help``.
    flag : str, optional
        Spelling of the flag; by default ``--field-name``, and ``--no-field-name`` for a bool whose default is True.
    aliases : tuple of str
        Other spellings of the flag.
    const : optional
        Value of the flag when it is given without a value (then the value is optional).
    group : str
        Heading under which ``--help`` lists the flag.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "length": length,
        "metavar": metavar,
        "flag": flag,
        "aliases": aliases,
        "const": const,
        "group": group,
    }
    return dataclasses.field(default=default, metadata={_KEY: metadata})


@dataclasses.dataclass(frozen=True)
class Option:
    """A settings field, with its type resolved.

    Attributes
    ----------
    name : str
        Field name and TOML key.
    flag : str
        Long flag, with dashes.
    kind : type
        Element type: bool, int, float, str, Path, or ``tuple`` for comma-separated groups.
    many : bool
        Whether the value is a tuple of ``kind``.
    optional : bool
        Whether None is allowed.
    """

    name: str
    flag: str
    kind: type
    many: bool
    optional: bool
    default: Any
    help: str
    unit: str | None
    choices: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None
    length: int | None
    metavar: str | tuple[str, ...] | None
    aliases: tuple[str, ...]
    const: Any
    group: str


def options_of(settings_class: type) -> tuple[Option, ...]:
    """List the options that a settings dataclass declares, in the order of its fields."""
    hints = typing.get_type_hints(settings_class)
    return tuple(_resolve(field, hints[field.name]) for field in dataclasses.fields(settings_class) if _KEY in field.metadata)


def _resolve(field: dataclasses.Field[Any], hint: Any) -> Option:
    metadata = dict(field.metadata[_KEY])
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        if len(members) != 1:
            raise TypeError(f"{field.name}: a settings field has one type (or None), not {hint}")
        hint = members[0]
    many = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if many else hint
    if typing.get_origin(kind) is tuple:
        kind = tuple
    if kind not in (bool, int, float, str, Path, tuple):
        raise TypeError(f"{field.name}: unsupported type {hint}")
    dashed = field.name.replace("_", "-")
    flag = metadata.pop("flag") or (f"--no-{dashed}" if kind is bool and field.default is True else f"--{dashed}")
    return Option(name=field.name, flag=flag, kind=kind, many=many, optional=optional, default=field.default, **metadata)


def validate(settings: Any) -> None:
    """Check a settings value against its options' ranges, choices and lengths.

    Raises
    ------
    UsageError
        Naming the flag, the value and what is allowed.
    """
    for entry in options_of(type(settings)):
        value = getattr(settings, entry.name)
        if value is None:
            if not entry.optional:
                raise UsageError(f"{entry.flag}: a value is needed")
            continue
        elements = value if entry.many else (value,)
        if entry.length is not None and entry.many and len(elements) != entry.length:
            raise UsageError(f"{entry.flag}: takes {entry.length} values, got {len(elements)}")
        for element in elements:
            _check_element(entry, element)


def _check_element(entry: Option, element: Any) -> None:
    if entry.choices is not None and element not in entry.choices:
        allowed = ", ".join(str(choice) for choice in entry.choices)
        raise UsageError(f"{entry.flag}: {element!r} is not one of {allowed}")
    if entry.kind in (int, float):
        if element != element or element in (float("inf"), float("-inf")):  # which JSON and TOML records cannot hold
            raise UsageError(f"{entry.flag}: {element} is not a finite number")
        if entry.minimum is not None and element < entry.minimum:
            raise UsageError(f"{entry.flag}: {element} is below the minimum, {entry.minimum}")
        if entry.maximum is not None and element > entry.maximum:
            raise UsageError(f"{entry.flag}: {element} is above the maximum, {entry.maximum}")


def to_mapping(settings: Any) -> dict[str, Any]:
    """Settings as plain values for TOML or JSON; None is left out, as TOML has no null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, tuple):
            return [plain(element) for element in value]
        return value

    values = {entry.name: getattr(settings, entry.name) for entry in options_of(type(settings))}
    return {name: plain(value) for name, value in values.items() if value is not None}


def from_mapping(settings_class: type[SettingsT], mapping: Mapping[str, Any]) -> SettingsT:
    """Build a validated settings value from plain values; keys that are absent take the default.

    Raises
    ------
    UsageError
        For an unknown key, a value of the wrong type, or one out of range.
    """
    known = {entry.name: entry for entry in options_of(settings_class)}
    for key in mapping:
        if key not in known:
            raise UsageError(f"unknown setting {key!r}; known are {', '.join(known)}")
    values = {key: _convert(known[key], value) for key, value in mapping.items()}
    settings = settings_class(**values)
    validate(settings)
    return settings


def _convert(entry: Option, value: Any) -> Any:
    def one(element: Any) -> Any:
        if entry.kind is tuple:
            parts = element.split(",") if isinstance(element, str) else element
            return tuple(str(part) for part in parts)
        if entry.kind is bool:
            if not isinstance(element, bool):
                raise TypeError
            return element
        if entry.kind in (int, float) and (isinstance(element, bool | str) or (entry.kind is int and int(element) != element)):
            raise TypeError
        if entry.kind in (str, Path) and not isinstance(element, str | Path):
            raise TypeError
        return entry.kind(element)

    if value is None:
        return None
    try:
        if not entry.many:
            return one(value)
        if isinstance(value, str) or not isinstance(value, list | tuple):
            value = [value]
        return tuple(one(element) for element in value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = "comma-separated labels" if entry.kind is tuple else entry.kind.__name__
        raise UsageError(f"{entry.name}: {value!r} is not {'a list of ' if entry.many else 'a '}{kind}") from error
