"""What ``--overwrite`` removes: what is about to be made again, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bids_app.folders import former_files

DECLARED = (
    "stimuli/sub-01_stimuli.tsv",
    "sub-01/ses-1/func/sub-01_ses-1_task-a_space-T1w_stat-effect_desc-new_statmap.nii.gz",
    "sub-01/ses-1/func/sub-01_ses-1_task-a_desc-new_trials.tsv",
    "sub-01/ses-1/func/sub-01_ses-1_task-a_run-1_design.tsv",
)
FORMER = (
    "sub-01/ses-1/func/sub-01_ses-1_task-a_space-T1w_stat-effect_desc-old_statmap.nii.gz",
    "sub-01/ses-1/func/sub-01_ses-1_task-a_space-T1w_desc-brain_mask.nii.gz",
    "sub-01/ses-1/func/sub-01_ses-1_task-a_desc-old_trials.tsv",
    "sub-01/ses-1/func/sub-01_ses-1_task-a_run-1_space-T1w_desc-noise_timeseries.tsv",
    "sub-01/func/sub-01_task-a_space-T1w_stat-effect_desc-old_statmap.nii.gz",
    "sub-01/figures/sub-01_ses-1_task-a_space-T1w_desc-fraction_bold.svg",
)
KEPT = (
    "sub-01.html",
    "stimuli/sub-01_stimuli.tsv",
    "sub-01/log/run/conform.toml",
    "sub-01/ses-2/func/sub-01_ses-2_task-a_space-T1w_stat-effect_desc-old_statmap.nii.gz",
    "sub-01/ses-1/func/sub-01_ses-1_task-b_space-T1w_stat-effect_desc-old_statmap.nii.gz",
    "sub-01/ses-1/func/sub-01_ses-1_task-a_run-2_design.tsv",
    "sub-01/ses-1/func/notes of mine.txt",
    "sub-02/ses-1/func/sub-02_ses-1_task-a_space-T1w_stat-effect_desc-old_statmap.nii.gz",
)


def job(*outputs: str) -> Any:
    inputs = (Path("sub-01_ses-1_task-a_run-1_space-T1w_desc-preproc_bold.nii.gz"), Path("hrfs.tsv"))
    return SimpleNamespace(outputs=outputs, inputs=inputs)


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def test_what_will_be_made_again_goes(tmp_path: Path) -> None:
    made(tmp_path, *FORMER, *KEPT, *DECLARED)
    found = {path.relative_to(tmp_path).as_posix() for path in former_files(tmp_path, "01", [job(*DECLARED)])}
    assert found == {*FORMER, *DECLARED[1:]}


@pytest.mark.parametrize("other", [True, False])
def test_a_table_that_other_maps_go_by_stays(other: bool, tmp_path: Path) -> None:
    table = "sub-01/ses-1/func/sub-01_ses-1_task-a_desc-old_trials.tsv"
    maps = "sub-01/ses-1/func/sub-01_ses-1_task-a_space-MNI_stat-effect_desc-old_statmap.nii.gz"
    made(tmp_path, table, *([maps] if other else []))
    assert former_files(tmp_path, "01", [job(*DECLARED)]) == ([] if other else [tmp_path / table])


def test_where_nothing_is_there_nothing_goes(tmp_path: Path) -> None:
    assert former_files(tmp_path, "01", [job(*DECLARED)]) == []
