"""Write the options tables of the documentation from the settings classes, between the markers of each page.

``python ci/options_table.py`` rewrites the pages; with ``--check`` it changes nothing, and exits 1 when a page is out of date.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from pathlib import Path

from bids_app.run_options import Actions, BIDSOptions, ExecutionOptions
from conform_bids.align.settings import AlignSettings
from conform_bids.encode.settings import EncodeSettings
from conform_bids.glm.settings import GLMSettings
from conform_bids.options import Option, options_of
from conform_bids.psn.settings import PSNSettings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    DOCS / "glm" / "usage.md": (GLMSettings,),
    DOCS / "psn" / "usage.md": (PSNSettings,),
    DOCS / "align" / "usage.md": (AlignSettings,),
    DOCS / "encode" / "usage.md": (EncodeSettings,),
    DOCS / "shared" / "command-line.md": (BIDSOptions, ExecutionOptions, Actions),
}
MARKERS = re.compile(r"(<!-- options: .*? -->\n).*?(<!-- end of options -->)", re.DOTALL)


def value_of(entry: Option) -> str:
    """What stands after the flag."""
    if entry.kind is bool or entry.name == "verbose":  # -v is counted
        return ""
    if isinstance(entry.metavar, tuple):
        return " ".join(entry.metavar)
    if entry.const is not None and entry.choices:
        return "[" + ",".join(map(str, entry.choices)) + "]"
    name = entry.metavar or {int: "N", float: "X", Path: "FILE", str: "NAME"}.get(entry.kind, "A,B")
    if entry.choices:
        name = "{" + ",".join(map(str, entry.choices)) + "}"
    return f"{name} ..." if entry.many else name


def default_of(entry: Option) -> str:
    """The default in the words of the command line; empty where the help tells it."""
    if entry.kind is bool or entry.const is not None:
        return "off"
    if entry.default is None or (entry.default == () and "(default" in entry.help):
        return ""
    if entry.default == ():
        return "none"
    if entry.many:
        words = [f"{element:g}" if isinstance(element, float) else str(element) for element in entry.default]
        return " ".join(words if len(words) <= 4 else [*words[:2], "...", words[-1]])
    return f"{entry.default:g}" if isinstance(entry.default, float) else str(entry.default)


def escaped(text: str) -> str:
    """Text as Markdown in a table cell; what stands between backticks is code and keeps its signs."""
    parts = html.escape(text, quote=False).replace("|", "&#124;").split("`")
    parts[::2] = [re.sub(r"([*_])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def table(settings_classes: tuple[type, ...]) -> str:
    """One Markdown table a group of options."""
    entries = [entry for settings in settings_classes for entry in options_of(settings)]
    lines = []
    for group in dict.fromkeys(entry.group for entry in entries):
        lines += [f"### {group.capitalize()}", "", "| option | default | meaning |", "|---|---|---|"]
        for entry in (entry for entry in entries if entry.group == group):
            flags = ", ".join((entry.flag, *(alias for alias in entry.aliases if "_" not in alias)))
            spelling = html.escape(f"{flags} {value_of(entry)}".strip(), quote=False).replace("|", "&#124;")
            meaning = entry.help + (f" Unit: {entry.unit}." if entry.unit else "")
            lines.append(f"| <code>{spelling}</code> | {default_of(entry)} | {escaped(meaning)} |")
        lines.append("")
    return "\n" + "\n".join(lines)


def main() -> int:
    """Rewrite or check every page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a page is out of date")
    check = parser.parse_args().check
    stale = []
    for page, settings in PAGES.items():
        text = page.read_text(encoding="utf-8")
        place = MARKERS.search(text)
        if place is None:
            sys.exit(f"{page}: the markers of the options are missing")
        fresh = text[: place.start()] + place[1] + table(settings) + place[2] + text[place.end() :]
        if fresh != text:
            stale.append(page)
            if not check:
                page.write_text(fresh, encoding="utf-8")
    if check and stale:
        print("out of date: " + ", ".join(str(page.relative_to(ROOT)) for page in stale) + "; run python ci/options_table.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
