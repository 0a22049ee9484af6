"""The workflow of one person's task: load, fit to a template where there is one, save."""

from __future__ import annotations

from typing import Any

from conform_bids.align.files import Plan
from conform_bids.align.planner import plan_participant

__all__ = ["Plan", "init_align_wf", "plan_participant"]


def init_align_wf(plan: Plan) -> Any:
    """Build the workflow of a plan.

    Parameters
    ----------
    plan : Plan
        All decisions are in it; a node gets it as JSON, and the files that other nodes made.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        Named ``plan.name``, with the nodes ``load`` and ``save`` (writes the declared outputs), and ``fit`` where there is a template.
    """
    import os

    os.environ.setdefault("NO_ET", "1")
    os.environ.setdefault("NIPYPE_NO_ET", "1")
    from nipype.pipeline import engine as pe

    from conform_bids.align.interface import FitToTemplate, LoadResponses, SaveOutputs

    def node(name: str, interface: Any, n_threads: int) -> Any:
        interface.inputs.trait_set(job=plan.identity(), n_threads=n_threads, memory_gb=1.0, device="cpu")
        return pe.Node(interface, name=name, mem_gb=plan.mem_gb, n_procs=n_threads)

    workflow = pe.Workflow(name=plan.name)
    load = node("load", LoadResponses(inputs=[str(path) for path in plan.inputs]), 1)
    save = node("save", SaveOutputs(), plan.n_threads)
    workflow.connect(load, "loaded", save, "loaded")
    if plan.template is not None:
        fit = node("fit", FitToTemplate(), plan.n_threads)
        workflow.connect([(load, fit, [("loaded", "loaded")]), (fit, save, [("results", "results")])])
    return workflow
