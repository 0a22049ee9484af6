"""The workflow of one fit: load, fit, save, draw."""

from __future__ import annotations

from typing import Any

from conform_bids.glm.files import Plan
from conform_bids.glm.planner import plan_participant

__all__ = ["Plan", "init_glm_wf", "plan_participant"]


def init_glm_wf(plan: Plan) -> Any:
    """Build the workflow of a plan.

    Parameters
    ----------
    plan : Plan
        One fit. All decisions are in it; a node gets it as JSON, and the files that other nodes made.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        Named ``plan.name``, with the nodes ``load``, ``fit``, ``save`` (writes the declared outputs) and ``figures``.
    """
    import os

    os.environ.setdefault("NO_ET", "1")
    os.environ.setdefault("NIPYPE_NO_ET", "1")
    from nipype.pipeline import engine as pe

    from conform_bids.glm.interface import DrawFigures, FitModels, LoadRuns, SaveOutputs

    def node(name: str, interface: Any, mem_gb: float, n_threads: int) -> Any:
        interface.inputs.trait_set(
            job=plan.identity(), n_threads=n_threads, memory_gb=plan.block_gb, device=plan.device if name == "fit" else "cpu"
        )
        return pe.Node(interface, name=name, mem_gb=mem_gb, n_procs=n_threads)

    workflow = pe.Workflow(name=plan.name)
    readers = min(plan.n_threads, len(plan.runs)) if plan.kind == "nifti" else 1
    load = node("load", LoadRuns(inputs=[str(path) for path in plan.inputs]), plan.mem_gb, readers)
    fit = node("fit", FitModels(), plan.mem_gb, plan.n_threads)
    save = node("save", SaveOutputs(), min(plan.mem_gb, 2.0), plan.n_threads)
    figures = node("figures", DrawFigures(), min(plan.mem_gb, 2.0), 1)
    workflow.connect(
        [
            (load, fit, [("loaded", "loaded")]),
            (load, save, [("loaded", "loaded")]),
            (fit, save, [("results", "results")]),
            (load, figures, [("loaded", "loaded")]),
            (fit, figures, [("results", "results")]),
        ]
    )
    return workflow
