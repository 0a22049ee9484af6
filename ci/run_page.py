"""Run a page of the documentation: its commands and snippets, in order, and hold its output blocks against what they print.

    python ci/run_page.py docs/glm/tutorial.md [--folder FOLDER] [--write]

Blocks fenced as `bash` and `python` run in FOLDER (by default a temporary one); snippets share their names. The next block fenced as
`text` shows the output: its lines must be printed in that order, other lines may stand between them. In a line, `...` stands for
anything, and numbers with a decimal point may differ a little. A picture of docs/images that the page shows, and whose name begins
with the page's, must be made by the page. --write puts output and pictures into the documentation instead of comparing them; blocks
with `...` are left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+")
TOLERANCE = 0.1
SHOWN_FOLDER = "/data"


class PageError(Exception):
    """A block that fails, or does not do what the page says."""


class Block(NamedTuple):
    language: str
    text: str
    line: int
    start: int
    stop: int


def read_blocks(page: str) -> list[Block]:
    return [
        Block(match[1], match[2], page[: match.start()].count("\n") + 1, match.start(2), match.end(2)) for match in FENCE.finditer(page)
    ]


def run_bash(block: Block, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONSAFEPATH": "1"}
    answer = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", block.text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise PageError(f"line {block.line}: exit code {answer.returncode}\n{answer.stdout}")
    return answer.stdout


def run_python(block: Block, names: dict[str, object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            exec(compile("\n" * block.line + block.text, "page", "exec"), names)
        except Exception as error:
            raise PageError(f"line {block.line}: {type(error).__name__}: {error}\n{output.getvalue()}") from error
    return output.getvalue()


def same_line(promised: str, printed: str) -> bool:
    pieces = []
    for part in re.split(r"(\.\.\.|-?\d+\.\d+)", promised.strip()):
        pieces.append(".*" if part == "..." else r"(-?\d+\.\d+)" if NUMBER.fullmatch(part) else re.sub(r"(\\ )+", r"\\s+", re.escape(part)))
    match = re.fullmatch("".join(pieces), printed.strip())
    wanted = NUMBER.findall(promised.replace("...", " "))
    if match is None or len(wanted) != len(match.groups()):
        return False
    return all(_close(first, second) for first, second in zip(wanted, match.groups(), strict=True))


def _close(promised: str, printed: str) -> bool:
    last_digit = 10.0 ** -len(promised.partition(".")[2])
    return abs(float(promised) - float(printed)) <= 3 * last_digit + TOLERANCE * abs(float(promised))


def compare(block: Block, output: str) -> None:
    printed = iter(output.splitlines())
    for number, promised in enumerate(block.text.splitlines(), start=block.line + 1):
        if promised.strip() in ("", "..."):
            continue
        if not any(same_line(promised, line) for line in printed):
            raise PageError(f"line {number}: the page promises\n    {promised}\nwhich is not, or not there, in\n{output}")


def run_page(path: Path, folder: Path, images: Path, *, write: bool = False) -> None:
    """Run the blocks of a page in a folder; raises `PageError`."""
    page = path.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    output, replacements = None, []
    before = Path.cwd()
    os.chdir(folder)
    try:
        for block in read_blocks(page):
            if block.language == "text":
                if output is not None:
                    if write and "..." not in block.text:
                        replacements.append((block, output))
                    else:
                        compare(block, output)
                output = None
            else:
                output = run_bash(block, folder) if block.language == "bash" else run_python(block, names)
                output = output.replace(str(folder), SHOWN_FOLDER)
    finally:
        os.chdir(before)
    for block, text in reversed(replacements):
        page = page[: block.start] + text.rstrip() + "\n" + page[block.stop :]
    if write:
        path.write_text(page, encoding="utf-8")
    for name in dict.fromkeys(re.findall(rf"/({path.stem}_[\w-]+\.png)\)", page)):
        if not (folder / name).is_file():
            raise PageError(f"the page shows {name}, which it does not make")
        if write:
            shutil.copy(folder / name, images / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    images = Path(__file__).resolve().parents[1] / "docs" / "images"
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            run_page(arguments.page.resolve(), folder.resolve(), images, write=arguments.write)
        except PageError as error:
            print(f"{arguments.page}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
