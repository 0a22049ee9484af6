"""From jobs to Nipype workflows, one a participant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_app.app import App, load
from bids_app.config import RunConfig
from bids_app.failures import ParticipantFailure
from bids_app.folders import app_work_dir
from bids_app.messages import failure_from
from conform_bids.errors import UsageError
from conform_bids.jobs import Job

if TYPE_CHECKING:
    from bids_app.plan import RunPlan

__all__ = ["build_workflows", "write_graphs"]

WRITING_NODES = ("save", "figures")
"""Nodes that write to the output folder; every app's workflow has the first."""


def build_workflows(app: App, config: RunConfig, plan: RunPlan) -> tuple[dict[str, Any], dict[str, ParticipantFailure]]:
    """Build the workflow ``sub_<label>_wf`` of every planned participant.

    Returns
    -------
    workflows : dict
        Participant to nipype Workflow.
    failures : dict
        Participants whose workflow could not be built.
    """
    from nipype import Workflow

    init_job_wf = load(app.workflow)
    workflows: dict[str, Any] = {}
    failures: dict[str, ParticipantFailure] = {}
    for participant, jobs in plan.jobs.items():
        try:
            workflow = Workflow(name=f"sub_{re.sub(r'[^0-9A-Za-z]', '_', participant)}_wf", base_dir=str(app_work_dir(config)))
            job_workflows = [_job_workflow(init_job_wf(job), job, config.output_dir, config.actions.overwrite) for job in jobs]
            workflow.add_nodes(job_workflows)
        except UsageError:
            raise
        except Exception as error:
            failures[participant] = failure_from(app, participant, error)
        else:
            workflows[participant] = workflow
    return workflows, failures


def _job_workflow(workflow: Any, job: Job, output_dir: Path, overwrite: bool) -> Any:
    """Have the job save again when one of its outputs is gone, or of other settings: Nipype's cache knows the work folder only."""
    nodes = [workflow.get_node(name) for name in WRITING_NODES]
    if nodes[0] is None:
        raise TypeError(f"the workflow of {job.name} has no node {WRITING_NODES[0]!r}")
    if overwrite or not all((output_dir / output).exists() for output in job.outputs):
        for node in nodes:
            if node is not None:
                node.overwrite = True
    return workflow


def write_graphs(workflows: Mapping[str, Any], folders: Mapping[str, Path]) -> list[str]:
    """Write each workflow's graph to ``graph.dot``, and ``graph.svg`` where Graphviz is installed.

    Returns
    -------
    list of str
        A warning when it is not.
    """
    warnings = []
    for participant, workflow in workflows.items():
        folders[participant].mkdir(parents=True, exist_ok=True)
        try:
            workflow.write_graph(dotfilename=str(folders[participant] / "graph.dot"), graph2use="colored", format="svg", simple_form=True)
        except OSError as error:
            if "dot" not in str(error):
                raise
            warnings.append("--write-graph: only the .dot file was written, as Graphviz (dot) is not installed")
    return warnings
