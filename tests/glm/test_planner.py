"""Plans and graphs over a grid of settings; nothing is fitted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.index import open_dataset
from conform_bids.bids.trials import write_trials
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.glm.files import Plan, output_maps
from conform_bids.glm.planning import build_trials
from conform_bids.glm.settings import DENOISED_MODELS, GLMSettings
from conform_bids.glm.workflow import init_glm_wf

GRID = {
    "models": [("assumehrf",), ("conform",), ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr")],
    "scope": ["session", "subject", "auto"],
    "where": [(), ("--output-spaces", "T1w"), ("--file-format", "cifti", "gifti")],
    "more": [(), ("--session-groups", "01,02", "--polynomial-degree", "1")],
}
POINTS = list(itertools.product(*GRID.values()))
N_JOBS = {(): 3, ("--output-spaces", "T1w"): 1, ("--file-format", "cifti", "gifti"): 2}
PlanDataset = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="module")
def make_plan(plan_dataset: PlanDataset, simulated_dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Plan the first participant of the simulated dataset with flags; it is indexed once."""
    output = tmp_path_factory.mktemp("planned") / "out"
    opened = open_dataset(simulated_dataset.path, participants=("01",))
    return lambda *flags: plan_dataset(simulated_dataset.path, output, *flags, opened=opened)[1]


@pytest.mark.parametrize(("models", "scope", "where", "more"), POINTS)
def test_grid(models: tuple[str, ...], scope: str, where: tuple[str, ...], more: tuple[str, ...], make_plan: Any) -> None:
    planned = make_plan("--model", *models, "--fit-scope", scope, *where, *more)
    by_session = scope != "subject"  # in the simulated data, every session repeats its stimuli in its runs
    assert len(planned.jobs) == N_JOBS[where] * (2 if by_session else 1)
    assert len({job.name for job in planned.jobs}) == len(planned.jobs)
    private = [output for job in planned.jobs for output in job.outputs if "_statmap." in output or "noiseregressors" in output]
    assert len(set(private)) == len(private)
    for job in planned.jobs:
        assert job.models == models
        assert ("ses" in job.entities) == by_session
        assert len(job.runs) == (2 if by_session else 4)
        assert all(path.exists() for path in job.inputs)
        assert {row.model for row in output_maps(job)} - {None} == set(models)
        assert any("desc-noisepool" in output for output in job.outputs) == bool(set(models) & DENOISED_MODELS)
        assert any("hrflibrary" in output for output in job.outputs) == (models != ("assumehrf",))
        assert not any("_ses-" in output.rpartition("/")[2] and "_run-" not in output for output in job.outputs) or by_session
        assert Plan.from_identity(json.loads(job.identity())).identity() == job.identity()


@pytest.mark.parametrize("models", GRID["models"])
def test_graph(models: tuple[str, ...], make_plan: Any) -> None:
    from dataclasses import replace

    for job in make_plan("--model", *models).jobs:
        assert 0.9 < job.mem_gb < 4
        workflow = init_glm_wf(replace(job, n_threads=2))
        assert workflow.name == job.name
        assert sorted(workflow.list_node_names()) == ["figures", "fit", "load", "save"]
        nodes = {name: workflow.get_node(name) for name in workflow.list_node_names()}
        assert {name: node.n_procs for name, node in nodes.items()} == {
            "load": 2 if job.kind == "nifti" else 1,
            "fit": 2,
            "save": 2,
            "figures": 1,
        }
        assert nodes["fit"].mem_gb == nodes["load"].mem_gb == job.mem_gb
        workflow._generate_flatgraph()
        assert len(workflow._graph.edges()) == 5


def test_resources_do_not_change_what_identifies_a_job(make_plan: Any) -> None:
    assert [job.identity() for job in make_plan("--low-mem").jobs] == [job.identity() for job in make_plan().jobs]
    assert make_plan("--low-mem").jobs[0].block_gb < make_plan().jobs[0].block_gb


def test_larger_data_declare_more_memory(make_plan: Any) -> None:
    by_space = {job.kind: job.mem_gb for job in make_plan().jobs}
    assert by_space["gifti"] > by_space["nifti"]


@pytest.mark.parametrize(
    ("flags", "sessions", "runs"),
    [
        (("--session-label", "02"), {"02"}, {"01", "02"}),
        (("--session-label", "ses-02", "ses-01"), {"01", "02"}, {"01", "02"}),
        (("--run-label", "2"), {"01", "02"}, {"02"}),
        (("--task-id", "shapes", "--session-id", "01"), {"01"}, {"01", "02"}),
    ],
)
def test_selection(flags: tuple[str, ...], sessions: set[str], runs: set[str], make_plan: Any) -> None:
    planned = [run for job in make_plan("--file-format", "nifti", *flags).jobs for run in job.runs]
    assert ({run.session for run in planned}, {run.run for run in planned}) == (sessions, runs)


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        (("--session-label", "09"), "01, 02"),
        (("--task-id", "rest"), "shapes"),
        (("--run-label", "7"), "01, 02"),
        (("--output-spaces", "MNI152NLin2009cAsym"), "T1w"),
    ],
)
def test_what_matches_nothing_lists_what_there_is(flags: tuple[str, ...], there: str, make_plan: Any) -> None:
    with pytest.raises(MissingInputError, match=there):
        make_plan(*flags)


def test_folds_and_groups_that_fit_nothing_are_usage(make_plan: Any) -> None:
    with pytest.raises(UsageError, match="--cv-folds: run 3 of a fit that has 2"):
        make_plan("--cv-folds", "1,3")
    with pytest.raises(UsageError, match="--session-groups"):
        make_plan("--session-groups", "01")


@pytest.fixture
def small(tmp_path: Path, make_dataset: Any, run_data: Any) -> Callable[..., Path]:
    """A dataset from the stimuli of each run: {(session, run): [stimulus, ...]}."""

    def write(shown: dict[tuple[str | None, str], list[str]]) -> Path:
        runs = []
        for (session, run), stimuli in shown.items():
            events = pd.DataFrame({"onset": 4 + 8.0 * np.arange(len(stimuli)), "duration": 1.0, "trial_type": "image", "stim_id": stimuli})
            runs.append(run_data(np.full((3, 40), 100.0), events, run, session))
        return make_dataset(tmp_path / "data", runs, 2.0)

    return write


def test_auto_fits_the_subject_where_a_session_repeats_nothing_across_its_runs(
    small: Callable[..., Path], plan_dataset: PlanDataset, tmp_path: Path
) -> None:
    dataset = small({("1", "1"): ["a", "b"], ("1", "2"): ["a", "b"], ("2", "1"): ["a", "b"], ("2", "2"): ["c", "d"]})
    _, planned = plan_dataset(dataset, tmp_path / "out")
    (job,) = planned.jobs
    assert "ses" not in job.entities
    assert len(job.runs) == 4
    assert [job.entities["ses"] for job in plan_dataset(dataset, tmp_path / "out", "--fit-scope", "session")[1].jobs] == ["1", "2"]


def test_without_repeats_models_fall_back_and_say_so(small: Callable[..., Path], plan_dataset: PlanDataset, tmp_path: Path) -> None:
    dataset = small({(None, "1"): ["a", "b"], (None, "2"): ["c", "d"]})
    (job,) = plan_dataset(dataset, tmp_path / "out")[1].jobs
    assert job.models == ("conform",)  # which needs no repeats
    flags = ("--model", "fithrf", "fithrfdenoiserr", "--fractions", "0.5", "1", "--pcs-r2", "5")
    _, planned = plan_dataset(dataset, tmp_path / "out", *flags)
    (job,) = planned.jobs
    assert job.models == ("fithrf",)
    assert (job.settings.fractions, job.settings.pcs_r2) == (GLMSettings().fractions, None)  # what was not used is not recorded
    assert not job.has_repeats
    assert job.notes
    assert any(note in warning for note in job.notes for warning in planned.warnings)
    assert not any("noiseceiling" in output or "noisepool" in output for output in job.outputs)


def test_settings_that_need_no_cross_validation_need_no_repeats(
    small: Callable[..., Path], plan_dataset: PlanDataset, tmp_path: Path
) -> None:
    dataset = small({(None, "1"): ["a", "b"], (None, "2"): ["c", "d"]})
    flags = ("--pcs-stop", "-2", "--fractions", "0.5", "--model", "fithrfdenoise", "fithrfdenoiserr")
    (job,) = plan_dataset(dataset, tmp_path / "out", *flags)[1].jobs
    assert job.models == ("fithrfdenoise", "fithrfdenoiserr")


def test_a_run_without_trials_is_left_out(small: Callable[..., Path], plan_dataset: PlanDataset, tmp_path: Path) -> None:
    dataset = small({(None, "1"): ["a", "b"], (None, "2"): ["a", "b"], (None, "3"): ["c"]})
    _, planned = plan_dataset(dataset, tmp_path / "out", "--trial-filter", "stim_id != 'c'")
    (job,) = planned.jobs
    assert [run.run for run in job.runs] == ["1", "2"]
    assert any("run-3" in warning and "left out" in warning for warning in planned.warnings)


def test_tables_of_another_space_and_other_runs_are_not_overwritten(
    small: Callable[..., Path], plan_dataset: PlanDataset, tmp_path: Path
) -> None:
    dataset = small({(None, "1"): ["a", "b"], (None, "2"): ["a", "b"]})
    folder = dataset / "derivatives" / "fmriprep" / "sub-01" / "func"
    for path in list(folder.glob("*_space-T1w_*")):
        path.with_name(path.name.replace("space-T1w", "space-MNI152NLin2009cAsym")).write_bytes(path.read_bytes())

    def tables(space: str, *flags: str) -> list[str]:
        (job,) = plan_dataset(dataset, tmp_path / "out", "--output-spaces", space, *flags)[1].jobs
        return [output for output in job.outputs if output.endswith("_trials.tsv")]

    plain, named = (f"sub-01/func/sub-01_task-case_{space}desc-conform_trials.tsv" for space in ("", "space-MNI152NLin2009cAsym_"))
    assert tables("T1w", "--run-label", "1") == [plain]
    written = tmp_path / "out" / plain
    written.parent.mkdir(parents=True)
    (job,) = plan_dataset(dataset, tmp_path / "out", "--output-spaces", "T1w", "--run-label", "1")[1].jobs
    write_trials(build_trials(job.runs, job.settings), written)
    (written.parent / "sub-01_task-case_space-T1w_stat-effect_desc-conform_statmap.nii.gz").touch()
    assert tables("MNI152NLin2009cAsym") == [named]  # has both runs
    assert tables("MNI152NLin2009cAsym", "--run-label", "1") == [plain]  # the same table
    assert tables("T1w") == [plain]  # whose own it is


def test_tables_name_their_space_where_spaces_differ_in_runs(small: Callable[..., Path], plan_dataset: PlanDataset, tmp_path: Path) -> None:
    dataset = small({(None, "1"): ["a", "b"], (None, "2"): ["a", "b"]})
    folder = dataset / "derivatives" / "fmriprep" / "sub-01" / "func"
    for path in list(folder.glob("*_run-1_space-T1w_*")):
        path.with_name(path.name.replace("space-T1w", "space-MNI152NLin2009cAsym")).write_bytes(path.read_bytes())
    _, planned = plan_dataset(dataset, tmp_path / "out")
    outputs = [output for job in planned.jobs for output in job.outputs if not output.startswith("stimuli/")]
    assert len(planned.jobs) == 2
    assert len(set(outputs)) == len(outputs)
    assert all("space-" in output for output in outputs if "_trials." in output or "_design." in output)
