"""conform-psn: denoised responses to conditions, from single-trial betas with repeats."""

from __future__ import annotations

import sys

from bids_app.app import App
from bids_app.run import main as run_app
from conform_bids.psn.settings import PSNSettings

__all__ = ["APP", "main"]

APP = App(
    name="psn",
    summary="Denoised condition responses from single-trial betas.",
    description=(
        "It partitions signal and noise by the repeats of conditions (their covariances over units, parcel by "
        "parcel), denoises the response "
        "to each condition, and writes it with its cross-fitted counterpart, maps of signal, noise and noise ceilings, the denoiser "
        "itself, and a report. It reads the outputs of conform-glm, or other stat-effect maps with their trial tables."
    ),
    settings=PSNSettings,
    plan="conform_bids.psn.workflow:plan_participant",
    workflow="conform_bids.psn.workflow:init_psn_wf",
    methods="conform_bids.psn.report:methods",
    participant_report="conform_bids.psn.report:write_participant_report",
    group="conform_bids.psn.report:write_group_report",
    group_outputs=("group_psn.html", "group_psn.tsv"),
    input_keys=("betas",),
    reads=("conform-glm",),
    uses_gpu=False,
)


def main() -> int:
    """Run conform-psn with the arguments of the process; the exit status is returned."""
    return run_app(APP)


if __name__ == "__main__":
    sys.exit(main())
