"""conform-encode: responses of every unit predicted from features of the stimuli."""

from __future__ import annotations

import sys

from bids_app.app import App
from bids_app.run import main as run_app
from conform_bids.encode.settings import EncodeSettings

__all__ = ["APP", "main"]

APP = App(
    name="encode",
    summary="Encoding models: responses predicted from stimulus features.",
    description=(
        "It fits a linear model of stimulus features to the responses of every unit (ridge regression, or banded ridge regression of "
        "several feature spaces), and scores its predictions on stimuli that the model never saw, against trial averages that are not "
        "denoised, beside the noise ceiling. Features are read from tables, or computed from the stimulus files by a network. It reads the "
        "outputs of conform-psn, else of conform-align or conform-glm; for continuous movies, fMRIPrep's BOLD. It writes weights (the "
        "files that end in weights.h5, from which new stimuli can be predicted), maps of scores, and a report."
    ),
    settings=EncodeSettings,
    plan="conform_bids.encode.workflow:plan_participant",
    workflow="conform_bids.encode.workflow:init_encode_wf",
    methods="conform_bids.encode.report:methods",
    participant_report="conform_bids.encode.report:write_participant_report",
    group="conform_bids.encode.group:run_group",
    group_fits=True,
    group_reads=True,
    names_datasets=True,
    group_helper="conform_bids.encode.group:help_group",
    group_outputs=("group_encode.html", "group_encode.tsv"),
    input_keys=("betas", "bold", "confounds", "events", "mask"),
    reads=("conform-psn", "conform-align", "conform-glm", "fmriprep"),
    demo_options=("--output-spaces", "fsaverage5"),
)


def main() -> int:
    """Run conform-encode with the arguments of the process; the exit status is returned."""
    return run_app(APP)


if __name__ == "__main__":
    sys.exit(main())
