"""conform-glm: one response estimate a trial, from fMRIPrep outputs and events."""

from __future__ import annotations

import sys

from bids_app.app import App
from bids_app.run import main as run_app
from conform_bids.glm.settings import GLMSettings

__all__ = ["APP", "main"]

APP = App(
    name="glm",
    summary="Single-trial responses from fMRIPrep outputs and events.",
    description=(
        "It estimates one response a trial (a haemodynamic response function for each unit from a library, regressors learned from noise, "
        "and regularisation, by the model conform or by those of GLMsingle), and writes them with maps of their quality and a report. "
        "It reads preprocessed BOLD (volumes, CIFTI, GIFTI) and the events of the raw dataset."
    ),
    settings=GLMSettings,
    plan="conform_bids.glm.workflow:plan_participant",
    workflow="conform_bids.glm.workflow:init_glm_wf",
    methods="conform_bids.glm.report:methods",
    participant_report="conform_bids.glm.report:write_participant_report",
    group="conform_bids.glm.report:write_group_report",
    group_outputs=("group_glm.html", "group_glm.tsv"),
    input_keys=("bold", "events", "confounds", "mask"),
    demo_options=("--model", "conform", "fithrfdenoiserr"),
)


def main() -> int:
    """Run conform-glm with the arguments of the process; the exit status is returned."""
    return run_app(APP)


if __name__ == "__main__":
    sys.exit(main())
