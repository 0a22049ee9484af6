"""What makes a BIDS-App of the spine: a record that names its settings and the functions behind each step.

The functions are named as ``"package.module:function"`` and imported when they are needed, so that ``--help`` and
``--dry-run`` never load the numerical libraries.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conform_bids import CODE_URL, __version__
from conform_bids.errors import UsageError

__all__ = ["ISSUES_URL", "LEVELS", "App", "find_app", "load"]

LEVELS = ("participant", "group")
ISSUES_URL = f"{CODE_URL}/issues"


@dataclass(frozen=True, kw_only=True)
class App:
    """One BIDS-App.

    Attributes
    ----------
    name : str
        Short name, as in the entry-point group ``conform.apps``: ``glm`` for ``conform-glm``.
    summary : str
        One line for ``--help`` and the Boutiques descriptor.
    description : str
        A paragraph: what it reads, does and writes; also the README.md of the output folder.
    settings : type
        Frozen dataclass whose fields are declared with `conform_bids.options.option`.
    levels : tuple of str
        Which of participant and group it has.
    plan : str
        ``plan(participant, dataset, selection, settings, resources, output_dir) -> ParticipantPlan``.
    workflow : str
        ``workflow(job) -> nipype.Workflow`` named ``job.name``; its node ``save`` writes the job's declared outputs.
    methods : str
        ``methods(settings, version) -> Methods``; where the app names datasets, with the names of ``-d``, too, as ``given``.
    participant_report : str
        ``participant_report(participant, output_dir, settings, about, errors, max_sessions) -> list[Path]``.
    group : str, optional
        ``group(output_dir, participants, settings, about) -> list[Path]``.
    group_fits : bool
        Whether the level group computes: it is then given the `Resources` of the run and its work folder, too.
    group_reads : bool
        Whether the level group reads datasets: it is then given the `GroupInputs` of the run, too, as ``inputs``.
    group_prepares : str, optional
        ``group_prepares(settings, output_dir, participants) -> frozenset[str] | None``: those of the participants whom the level group
        can use as they are; it processes the others first, as the level participant would. None: it needs nobody.
    names_datasets : bool
        Whether ``-d NAME=PATH`` names datasets, whose people are ``sub-<NAME><label>`` in the output.
    group_helper : str, optional
        ``group_helper(settings, resources, inputs)``: what every process but the first does at the level group, where several share it
        (torchrun); it writes nothing. Without it the app cannot be started that way.
    group_outputs : tuple of str
        Files that the level group writes, relative to the output folder; ``--dry-run`` lists them.
    input_keys : tuple of str
        Keys that it understands in ``--bids-filter-file``.
    reads : tuple of str
        What makes the derivatives that it reads, as in GeneratedBy but in lower case, first choice first: a wrong folder is answered with
        one of them.
    uses_gpu : bool
        Whether it computes on a GPU where there is one; without it, ``--device cuda`` is refused.
    demo_options : tuple of str
        Options of the participant level in the demo, which shows more than the defaults do.
    """

    name: str
    summary: str
    description: str
    settings: type
    plan: str
    workflow: str
    methods: str
    participant_report: str
    group: str | None = None
    group_fits: bool = False
    group_reads: bool = False
    group_prepares: str | None = None
    names_datasets: bool = False
    group_helper: str | None = None
    levels: tuple[str, ...] = LEVELS
    group_outputs: tuple[str, ...] = ()
    input_keys: tuple[str, ...] = ("bold",)
    reads: tuple[str, ...] = ("fmriprep",)
    uses_gpu: bool = True
    demo_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isalnum():
            raise ValueError(f"an app's name is letters and digits: {self.name!r}")
        if not self.levels or not set(self.levels) <= set(LEVELS):
            raise ValueError(f"{self.name}: levels are among {LEVELS}, not {self.levels}")
        if "group" in self.levels and self.group is None:
            raise ValueError(f"{self.name}: the level group needs the function `group`")

    @property
    def command(self) -> str:
        """Name of the console script, and in GeneratedBy: ``conform-glm``."""
        return f"conform-{self.name}"

    @property
    def version(self) -> str:
        """Version of conform, which all apps share."""
        return __version__


def load(reference: str) -> Callable[..., Any]:
    """Import the function that a ``"package.module:function"`` string names."""
    module, _, function = reference.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def find_app(name: str) -> App:
    """Find an installed app by its short name, in the entry-point group ``conform.apps``.

    Raises
    ------
    UsageError
        When no such app is installed.
    """
    from importlib.metadata import entry_points

    found = entry_points(group="conform.apps")
    if name not in found.names:
        raise UsageError(f"no app is called {name!r}; installed are {', '.join(sorted(found.names)) or 'none'}")
    app: App = found[name].load()
    return app
