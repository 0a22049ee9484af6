"""A fifth app, as small as one can be: the mean over time of each preprocessed series, to a power.

It is what a test needs to see that an app is its `App` record and four functions; and it fails where it is told to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bids_app.app import App
from bids_app.run import main
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.jobs import ParticipantPlan, Resources
from conform_bids.options import option, validate


@dataclass(frozen=True)
class ToySettings:
    power: float = option(1.0, "Exponent of the mean.", minimum=0, maximum=4, group="toy")
    labels: tuple[str, ...] = option((), "Labels, to no avail.", metavar="LABEL", group="toy")
    table: Path | None = option(None, "A file.", group="toy")
    fault: tuple[str, ...] = option((), "Where to fail, as LABEL=KIND.", metavar="LABEL=KIND", group="toy")
    keep: bool = option(True, "Do not keep.", group="toy")

    def __post_init__(self) -> None:
        validate(self)

    def fails(self, participant: str, kind: str) -> bool:
        return f"{participant}={kind}" in self.fault


@dataclass(frozen=True)
class ToyJob:
    name: str
    participant: str
    source: str
    output: str
    output_dir: str
    power: float
    fault: str
    mem_gb: float = 0.1
    n_threads: int = 1

    @property
    def inputs(self) -> tuple[Path, ...]:
        return (Path(self.source),)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output,)

    def summary(self) -> Sequence[str]:
        return (f"mean of {Path(self.source).name}",)


def plan(participant: str, dataset: Any, selection: Any, settings: ToySettings, resources: Resources, output_dir: Path) -> ParticipantPlan:
    from conform_bids.bids.bold import find_bold

    if settings.fails(participant, "plan-bug"):
        raise ZeroDivisionError("planned to fail")
    if settings.fails(participant, "plan-data"):
        raise UnusableInputError(f"sub-{participant}: corrupt by request")
    if settings.fails(participant, "plan-missing"):
        raise MissingInputError(f"sub-{participant}: missing by request")
    faults = [fault.partition("=")[2] for fault in settings.fault if fault.startswith(f"{participant}=")]
    jobs = []
    for series in find_bold(dataset, participant, selection):
        labels = [f"{key}-{label}" for key, label in series.entities.items()]
        stem = "_".join([*labels, "stat-mean", "desc-toy", "statmap.nii.gz"])
        name = "_".join(labels).replace("-", "_")
        output = f"sub-{participant}/func/{stem}"
        jobs.append(ToyJob(name, participant, str(series.files[0]), output, str(output_dir), settings.power, ",".join(faults)))
    return ParticipantPlan(participant, tuple(jobs), (f"sub-{participant}: a toy",))


def workflow(job: ToyJob) -> Any:
    from nipype import Node, Workflow
    from toy_nodes import Mean, Save

    if job.fault == "build-bug":
        raise ZeroDivisionError("built to fail")
    content = json.dumps(asdict(job))
    mean = Node(Mean(job=content), name="mean", mem_gb=job.mem_gb)
    save = Node(Save(job=content), name="save", mem_gb=job.mem_gb)
    built = Workflow(name=job.name)
    built.connect(mean, "out_file", save, "in_file")
    return built


def compute_mean(job: Mapping[str, Any], out_file: Path) -> None:
    import nibabel as nib
    import numpy as np

    if job["fault"] == "run-bug":
        raise ZeroDivisionError("run to fail")
    if job["fault"] == "run-data":
        raise UnusableInputError(f"{job['source']}: corrupt by request")
    if job["fault"] == "run-full":
        raise OSError(28, "No space left on device", str(out_file))
    if job["fault"] == "run-kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if job["fault"] == "run-slow":
        time.sleep(60)
    np.save(out_file, np.asarray(nib.load(job["source"]).dataobj).mean(axis=3) ** job["power"])


def save_mean(job: Mapping[str, Any], in_file: str) -> None:
    import nibabel as nib
    import numpy as np

    from conform_bids.bids.derivatives import atomic_path

    final = Path(job["output_dir"]) / job["output"]
    final.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(final) as temporary:
        nib.save(nib.Nifti1Image(np.load(in_file).astype(np.float32), np.eye(4)), temporary)


def methods(settings: ToySettings, version: str) -> Any:
    from conform_bids.report.citations import Methods

    return Methods.of(f"The mean was taken to the power {settings.power} by toy {version} [@gorgolewski2011nipype].")


def participant_report(
    participant: str, output_dir: Path, settings: ToySettings, about: Mapping[str, str], errors: Sequence[str], max_sessions: int
) -> list[Path]:
    if settings.fails(participant, "report-bug"):
        raise ZeroDivisionError("reported to fail")
    path = output_dir / f"sub-{participant}.html"
    maps = sorted(file.name for file in output_dir.glob(f"sub-{participant}/func/*.nii.gz"))
    path.write_text(json.dumps({"maps": maps, "errors": list(errors), "about": dict(about), "max_sessions": max_sessions}))
    return [path]


def group(output_dir: Path, participants: Sequence[str], settings: ToySettings, about: Mapping[str, str]) -> list[Path]:
    if "group=bug" in settings.fault:
        raise ZeroDivisionError("grouped to fail")
    path = output_dir / "group_toy.tsv"
    path.write_text("participant_id\n" + "".join(f"sub-{participant}\n" for participant in participants))
    return [path]


APP = App(
    name="toy",
    summary="The mean of each series.",
    description="It reads BOLD and writes a map.",
    settings=ToySettings,
    plan="toy_app:plan",
    workflow="toy_app:workflow",
    methods="toy_app:methods",
    participant_report="toy_app:participant_report",
    group="toy_app:group",
    input_keys=("bold",),
)


if __name__ == "__main__":
    sys.exit(main(APP))
