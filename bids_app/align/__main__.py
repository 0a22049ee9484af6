"""conform-align: responses of many people in a common functional space, from the stimuli that they share."""

from __future__ import annotations

import sys

from bids_app.app import App
from bids_app.run import main as run_app
from conform_bids.align.settings import AlignSettings

__all__ = ["APP", "main"]

APP = App(
    name="align",
    summary="A common functional space of people who share stimuli.",
    description=(
        "The level participant checks and prepares one person's responses, or aligns them to a template that there is. The level group "
        "finds the stimuli that people share, fits a template and each person's map, parcel by parcel, and scores them: a left-out "
        "person's own responses to held-out stimuli are predicted from the others', beside smoothed anatomy and a control with shuffled "
        "stimuli. It reads the outputs of conform-psn, else of conform-glm, in a space that people have in common."
    ),
    settings=AlignSettings,
    plan="conform_bids.align.workflow:plan_participant",
    workflow="conform_bids.align.workflow:init_align_wf",
    methods="conform_bids.align.report_methods:methods",
    participant_report="conform_bids.align.report:write_participant_report",
    group="conform_bids.align.group:run_group",
    group_fits=True,
    group_reads=True,
    group_prepares="conform_bids.align.planner:usable_participants",
    names_datasets=True,
    group_outputs=("group_align.html", "group_align.tsv"),
    input_keys=("betas",),
    reads=("conform-psn", "conform-glm"),
    uses_gpu=False,
    demo_options=("--output-spaces", "fsaverage5"),
)


def main() -> int:
    """Run conform-align with the arguments of the process; the exit status is returned."""
    return run_app(APP)


if __name__ == "__main__":
    sys.exit(main())
