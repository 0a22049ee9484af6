"""The workflow of one person's task: load, fit and score, save."""

from __future__ import annotations

from typing import Any

from conform_bids.encode.files import Plan
from conform_bids.encode.planner import plan_participant

__all__ = ["Plan", "init_encode_wf", "plan_participant"]


def init_encode_wf(plan: Plan) -> Any:
    """Build the workflow of a plan.

    Parameters
    ----------
    plan : Plan
        All decisions are in it; a node gets it as JSON, and the files that other nodes made.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        Named ``plan.name``, with the nodes ``load`` (responses and features), ``fit`` (model and scores), ``figures`` and ``save`` (writes
        the declared outputs).
    """
    import os

    os.environ.setdefault("NO_ET", "1")
    os.environ.setdefault("NIPYPE_NO_ET", "1")
    from nipype.pipeline import engine as pe

    from conform_bids.encode.interface import DrawFigures, FitModel, LoadInputs, SaveOutputs

    def node(name: str, interface: Any, n_threads: int, device: str = "cpu") -> Any:
        interface.inputs.trait_set(job=plan.identity(), n_threads=n_threads, memory_gb=max(0.5, plan.mem_gb / 3), device=device)
        return pe.Node(interface, name=name, mem_gb=plan.mem_gb, n_procs=n_threads)

    workflow = pe.Workflow(name=plan.name)
    load = node("load", LoadInputs(inputs=[str(path) for path in plan.inputs]), plan.n_threads, plan.device)
    fit = node("fit", FitModel(), plan.n_threads, plan.device)
    figures = node("figures", DrawFigures(), 1)
    save = node("save", SaveOutputs(), plan.n_threads)
    for each in (fit, figures, save):
        workflow.connect(load, "loaded", each, "loaded")
    for each in (figures, save):
        workflow.connect(fit, "results", each, "results")
    return workflow
