"""Citations: references by key from ``references.bib``, as Markdown, as BibTeX, and in running text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Methods", "Reference", "bibtex", "cite_inline", "format_citations", "list_references", "references"]

_ENTRY = re.compile(r"^@(?P<type>\w+)\{(?P<key>[\w-]+),\n(?P<body>.*?)\n\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(?P<name>\w+)\s*=\s*\{(?P<value>.*)\},?\s*$", re.MULTILINE)
_CITATION = re.compile(r"\[(@[\w-]+(?:\s*;\s*@[\w-]+)*)\]")
_SHOWN_AUTHORS = 6


@dataclass(frozen=True)
class Methods:
    """What was done, in words.

    Attributes
    ----------
    text : str
        Markdown with ``[@key]`` citations.
    keys : tuple of str
        The references that it cites, in order of appearance.
    """

    text: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Methods:
        """Collect the keys that a text cites.

        Raises
        ------
        KeyError
            For a key that the list of references has not.
        """
        found = [key for match in _CITATION.finditer(text) for key in _keys(match[1])]
        keys = tuple(dict.fromkeys(found))
        for key in keys:
            references()[key]
        return cls(text, keys)


@dataclass(frozen=True)
class Reference:
    """An entry of the list of references.

    Attributes
    ----------
    key : str
    authors : tuple of str
        Family name, given names.
    year : str
    fields : dict
        The other fields of the BibTeX entry.
    source : str
        The entry as BibTeX.
    """

    key: str
    authors: tuple[str, ...]
    year: str
    fields: dict[str, str]
    source: str

    @property
    def url(self) -> str:
        """Link to the DOI, or to the page where there is none; empty where there is neither."""
        doi = self.fields.get("doi")
        return f"https://doi.org/{doi}" if doi else self.fields.get("url", "")

    @property
    def label(self) -> str:
        """Author and year, for running text."""
        names = [author.split(",")[0] for author in self.authors]
        if len(names) > 2:
            return f"{names[0]} et al., {self.year}"
        return f"{' & '.join(names)}, {self.year}"

    @property
    def text(self) -> str:
        """The reference in full, without its link."""
        names = [_initials(author) for author in self.authors[:_SHOWN_AUTHORS]]
        names += ["et al."] if len(self.authors) > _SHOWN_AUTHORS else []
        place = self.fields.get("journal") or self.fields.get("publisher") or ""
        numbers = self.fields.get("volume", "")
        if self.fields.get("pages"):
            numbers += f":{self.fields['pages'].replace('--', '–')}"
        where = " ".join(part for part in (place, numbers) if part)
        return f"{', '.join(names)} ({self.year}). {self.fields['title']}.{f' {where}.' if where else ''}"


def _initials(author: str) -> str:
    family, _, given = author.partition(",")
    letters = " ".join(f"{name[0]}." for name in given.replace("-", " ").split())
    return f"{family} {letters}".strip()


def _keys(citation: str) -> list[str]:
    return [part.strip().removeprefix("@") for part in citation.split(";")]


@cache
def references() -> dict[str, Reference]:
    """All references that we may cite, by key."""
    text = files("conform_bids.report").joinpath("references.bib").read_text(encoding="utf-8")
    found = {}
    for match in _ENTRY.finditer(text):
        fields = {item["name"]: item["value"].replace("{", "").replace("}", "") for item in _FIELD.finditer(match["body"])}
        authors = tuple(fields.pop("author").split(" and "))
        found[match["key"]] = Reference(match["key"], authors, fields.pop("year"), fields, match[0])
    return found


def list_references(keys: Iterable[str]) -> list[Reference]:
    """The references of these keys, by first author and year.

    Raises
    ------
    KeyError
        For a key that the list of references has not.
    """
    return sorted((references()[key] for key in dict.fromkeys(keys)), key=lambda entry: (entry.authors[0].lower(), entry.year))


def format_citations(keys: Iterable[str]) -> str:
    """A Markdown list of references, ending in a newline (empty for no keys)."""
    return "".join(f"- {entry.text} <{entry.url}>\n" if entry.url else f"- {entry.text}\n" for entry in list_references(keys))


def bibtex(keys: Iterable[str]) -> str:
    """The BibTeX entries of these keys, by first author and year."""
    return "\n".join(f"{entry.source}\n" for entry in list_references(keys))


def cite_inline(text: str) -> str:
    """Replace ``[@key; @key]`` by authors and years in brackets; unknown keys are left as they are."""

    def replace(match: re.Match[str]) -> str:
        keys = _keys(match[1])
        if any(key not in references() for key in keys):
            return match[0]
        return f"({'; '.join(references()[key].label for key in keys)})"

    return _CITATION.sub(replace, text)
