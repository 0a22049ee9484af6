"""Tables of stimulus features, keyed by what a stimulus is, and how they are matched to the stimuli of a dataset.

A row is found by the SHA-256 of the stimulus file where both sides know it, else by ``stim_id``; never by its place in the table.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.stimuli.identity import MISSING

__all__ = ["FeatureCard", "FeatureTable", "MatchedFeatures", "match_features"]

FloatArray = npt.NDArray[np.float32]
_NAMED = 5
"""Stimuli that a message names before it says how many more."""
_SAME = 1e-5
"""Relative difference up to which two rows count as the same features, computed twice."""


@dataclass(frozen=True)
class FeatureCard:
    """Where features come from.

    Attributes
    ----------
    model : str
        As `--backbone` takes it, or what the author of the file wrote.
    layer : str
        Where in the model they were read.
    preprocessing : mapping
        All that was done to a stimulus before the model, and to the model's output after it; plain JSON values.
    licence : str
        Of the model's weights.
    """

    model: str = MISSING
    layer: str = MISSING
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    licence: str = MISSING

    @property
    def preprocessing_hash(self) -> str:
        """SHA-256, hexadecimal, of model, layer and preprocessing: features of equal hash can be put in one model."""
        content = [self.model, self.layer, self.preprocessing]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Fields as a JSON object, with the hash."""
        return {**asdict(self), "preprocessing": dict(self.preprocessing), "preprocessing_hash": self.preprocessing_hash}

    @classmethod
    def from_json(cls, content: Any) -> FeatureCard:
        """Card of a JSON object; fields that it lacks are ``n/a``, and those that are not ours are left out.

        Raises
        ------
        ValueError
            When it is not an object, or a field is not of its type.
        """
        if not isinstance(content, dict):
            raise ValueError("a card of features is a JSON object")
        texts = {name: content.get(name, MISSING) for name in ("model", "layer", "licence")}
        preprocessing = content.get("preprocessing", {})
        if isinstance(preprocessing, str):
            preprocessing = {"description": preprocessing}
        if not isinstance(preprocessing, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("a card of features has texts for model, layer and licence, and an object for preprocessing")
        return cls(preprocessing=preprocessing, **texts)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of stimuli, one row each, in no particular order.

    Attributes
    ----------
    values : (n_stimuli, n_features) float32 array
    stim_ids : sequence of str
        Names; ``n/a`` where a row is known by its content alone.
    sha256 : sequence of str
        Of the stimulus files, hexadecimal; ``n/a`` where not known.
    card : FeatureCard
    times : (n_rows,) float64 array or None
        Of movies, which have a row a frame: seconds from the movie's beginning at which the frame comes on.

    Raises
    ------
    ValueError
        When the values are not a table of numbers, are not as many as the names, or a row has no key at all.
    """

    values: FloatArray
    stim_ids: Sequence[str]
    sha256: Sequence[str]
    card: FeatureCard = field(default_factory=FeatureCard)
    times: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 2 or values.shape[1] == 0:
            raise ValueError(f"features of shape {values.shape}; a table is (stimuli, features)")
        if values.dtype.kind not in "fiub":
            raise ValueError(f"features of type {values.dtype}; they are numbers")
        names, hashes = tuple(map(str, self.stim_ids)), tuple(str(text).lower() for text in self.sha256)
        if not len(values) == len(names) == len(hashes):
            raise ValueError(f"{len(values)} rows of features, {len(names)} stim_id and {len(hashes)} sha256")
        for place, (name, digest) in enumerate(zip(names, hashes, strict=True)):
            if digest != MISSING and (len(digest) != 64 or not set(digest) <= set("0123456789abcdef")):
                raise ValueError(f"row {place}: {digest[:70]!r} is not a SHA-256")
            if name == digest == MISSING:
                raise ValueError(f"row {place} has neither stim_id nor sha256")
        if self.times is not None:
            times = np.asarray(self.times, dtype=np.float64).ravel()
            if len(times) != len(values) or not np.isfinite(times).all():
                raise ValueError(f"{len(values)} rows of features and {np.isfinite(times).sum()} times; a row has a time each, in seconds")
            object.__setattr__(self, "times", times)
        with np.errstate(over="ignore"):  # what single precision cannot hold becomes infinite, and is told when it is asked for
            object.__setattr__(self, "values", np.ascontiguousarray(values, dtype=np.float32))
        object.__setattr__(self, "stim_ids", names)
        object.__setattr__(self, "sha256", hashes)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_features(self) -> int:
        """Columns."""
        return int(self.values.shape[1])


@dataclass(frozen=True, eq=False)
class MatchedFeatures:
    """Features of the stimuli that were asked for.

    Attributes
    ----------
    values : (n_found, n_features) float32 array
    found : (n_found,) int array
        Places, in what was asked for, that the rows belong to; ascending.
    set_aside : mapping
        Stimulus that has no usable features -> why.
    n_by_content : int
        Stimuli found by SHA-256; the others were found by name.
    """

    values: FloatArray
    found: npt.NDArray[np.intp]
    set_aside: Mapping[str, str]
    n_by_content: int


def match_features(
    table: FeatureTable,
    stim_ids: Sequence[str],
    sha256: Sequence[str] | None = None,
    *,
    faults: Literal["error", "set-aside"] = "error",
    source: str = "the feature table",
) -> MatchedFeatures:
    """Look up the features of stimuli.

    Parameters
    ----------
    stim_ids : sequence of str, length n
    sha256 : sequence of str, length n, optional
        Of their files; ``n/a`` where not known.
    faults : {'error', 'set-aside'}
        What becomes of stimuli without features, with features that are not finite, or whose name belongs to other content.
    source : str
        What messages call the table.

    Raises
    ------
    MissingInputError
        When stimuli have no features (with ``set-aside``: when none has).
    UnusableInputError
        When rows of one stimulus disagree; when features are not finite or were computed from other content (with ``error``).
    """
    if table.times is not None:
        raise UnusableInputError(f"{source}: its rows are frames of movies, as they have a time; a table with a row a stimulus is needed")
    hashes = list(sha256) if sha256 is not None else [MISSING] * len(stim_ids)
    if len(hashes) != len(stim_ids):
        raise ValueError(f"{len(stim_ids)} stim_id and {len(hashes)} sha256")
    finder = _Finder(table, source)
    finite = np.asarray(np.isfinite(table.values).all(axis=1))
    rows, found, n_by_content = [], [], 0
    reasons: dict[str, str] = {}
    for place, (name, digest) in enumerate(zip(map(str, stim_ids), (str(text).lower() for text in hashes), strict=True)):
        row, answer = finder.find(name, digest)
        if row is not None and not finite[row]:
            row, answer = None, "not finite"
        if row is None:
            reasons[name] = answer
            continue
        rows.append(row)
        found.append(place)
        n_by_content += answer == "content"
    if reasons and (faults == "error" or not rows):
        _refuse(reasons, table, source, len(stim_ids))
    return MatchedFeatures(table.values[rows], np.array(found, dtype=np.intp), reasons, n_by_content)


class _Finder:
    """Rows of a table by content and by name."""

    def __init__(self, table: FeatureTable, source: str) -> None:
        self._table = table
        self._by_content: dict[str, int] = {}
        self._by_name: dict[str, list[int]] = defaultdict(list)
        disagree: list[str] = []
        for row, (name, digest) in enumerate(zip(table.stim_ids, table.sha256, strict=True)):
            if digest != MISSING:
                first = self._by_content.setdefault(digest, row)
                if not self._same(first, row):
                    disagree.append(name if name != MISSING else digest)
            if name != MISSING:
                others = [other for other in self._by_name[name] if table.sha256[other] == digest]
                if digest == MISSING and others and not self._same(others[0], row):
                    disagree.append(name)
                if not others:
                    self._by_name[name].append(row)
        if disagree:
            raise UnusableInputError(f"{source}: {_some(disagree)} stand there more than once with different features")

    def _same(self, first: int, second: int) -> bool:
        if first == second:
            return True
        one, two = self._table.values[first], self._table.values[second]
        scale = np.abs(one[np.isfinite(one)]).max(initial=0.0)
        return bool(np.allclose(one, two, rtol=_SAME, atol=_SAME * float(scale), equal_nan=True))

    def find(self, name: str, digest: str) -> tuple[int | None, str]:
        """Row of a stimulus and how it was found, or None and why not."""
        if digest != MISSING and digest in self._by_content:
            return self._by_content[digest], "content"
        rows = self._by_name.get(name, []) if name != MISSING else []
        if not rows:
            return None, "missing"
        if digest != MISSING:
            rows = [row for row in rows if self._table.sha256[row] == MISSING]
            return (rows[0], "name") if rows else (None, "other content")
        if any(not self._same(rows[0], row) for row in rows[1:]):
            return None, "ambiguous"
        return rows[0], "name"


_MEANING = {
    "missing": "have no features",
    "not finite": "have features that are NaN or infinite",
    "other content": "have features of another file under their name (the SHA-256 differ)",
    "ambiguous": "have features of several files under their name, and their own SHA-256 is not known",
}


def _refuse(reasons: Mapping[str, str], table: FeatureTable, source: str, n_asked: int) -> None:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        groups[reason].append(name)
    parts = [
        f"{len(groups[reason])} of {n_asked} stimuli {text}: {_some(groups[reason])}" for reason, text in _MEANING.items() if groups[reason]
    ]
    message = f"{source}: " + "; ".join(parts)
    if len(groups["missing"]) == n_asked:
        message += f". The table calls its stimuli {_some(list(table.stim_ids)) if len(table) else 'nothing: it is empty'}"
    raise (MissingInputError if set(reasons.values()) == {"missing"} else UnusableInputError)(message)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
