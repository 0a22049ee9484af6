"""Nothing in the packages loads code from data: no pickles, no unsafe YAML, no evaluation of text, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("conform_bids", "bids_app", "wrapper")
MODULES = {"pickle", "dill", "joblib", "marshal", "shelve", "cPickle"}
ALLOWED = {"bids_app/plugins.py": {"pickle"}, "bids_app/workers.py": {"pickle"}}
"""Nodes go to workers of the same run by pipes that nobody else can write to, as Nipype's own do."""


def sources(repository: Path) -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((repository / package).rglob("*.py")):
            yield path.relative_to(repository).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def unsafe(name: str, tree: ast.AST) -> Iterator[str]:
    """Places of a module that would run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else {str(node.module).split(".")[0]}
            for module in names & MODULES - ALLOWED.get(name, set()):
                yield f"{name}:{node.lineno}: imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in ("eval", "exec", "compile", "os.system", "os.popen"):
            yield f"{name}:{node.lineno}: {called}"
        if called.endswith(("yaml.load", "unsafe_load")):
            yield f"{name}:{node.lineno}: {called}; YAML is read by safe_load"
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            yield f"{name}:{node.lineno}: np.load with pickles"
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield f"{name}:{node.lineno}: torch.load without weights_only=True"
        if keywords.get("shell") == "True":
            yield f"{name}:{node.lineno}: a shell"


def test_no_module_runs_what_a_file_says(repository: Path) -> None:
    found = [line for name, tree in sources(repository) for line in unsafe(name, tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "yaml.load(stream)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_test_sees_what_it_looks_for(code: str) -> None:
    assert list(unsafe("any.py", ast.parse(code)))
