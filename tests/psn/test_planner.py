"""Plans and graphs of conform-psn over a grid of settings, and input that is refused; nothing is fitted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids import parcellations
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.psn.files import Plan, output_maps
from conform_bids.psn.settings import PSNSettings
from conform_bids.psn.workflow import init_psn_wf

GRID = {
    "method": [("stacked",), ("calibrated", "--threshold-level", "unit"), ("standard", "--basis", "pca", "--alpha", "0.5")],
    "write": [(), ("--write", "noise", "removed", "components")],
    "where": [(), ("--output-spaces", "T1w"), ("--file-format", "cifti", "gifti")],
    "more": [(), ("--parcellation", "clusters", "--parcel-size", "40"), ("--no-session-zscore", "--output-units", "z")],
}
POINTS = list(itertools.product(*GRID.values()))
N_JOBS = {(): 3, ("--output-spaces", "T1w"): 1, ("--file-format", "cifti", "gifti"): 2}


@pytest.fixture(scope="module")
def three_kinds(tmp_path_factory: pytest.TempPathFactory, make_betas: Any, beta_spec: Any) -> Path:
    return make_betas(tmp_path_factory.mktemp("plan") / "glm", beta_spec(kinds=("nifti", "cifti", "gifti"), test=(3, 4)))[0]


@pytest.mark.parametrize(("method", "write", "where", "more"), POINTS)
def test_grid(
    method: tuple[str, ...], write: tuple[str, ...], where: tuple[str, ...], more: tuple[str, ...], three_kinds: Path, plan_betas: Any
) -> None:
    planned = plan_betas(three_kinds, Path("/nowhere/out"), "--method", *method, *write, *where, *more)
    assert len(planned.jobs) == N_JOBS[where]
    assert len({job.name for job in planned.jobs}) == len(planned.jobs)
    private = [output for job in planned.jobs for output in job.outputs if not output.startswith("stimuli/")]
    assert len(set(private)) == len(private)
    for job in planned.jobs:
        assert [betas.session for betas in job.betas] == ["01", "02"]
        assert not any("_ses-" in output or "_run-" in output for output in job.outputs)
        assert job.zscore == ("--no-session-zscore" not in more)
        assert job.has_split
        assert all(path.exists() for path in job.inputs)
        for option, desc in (("noise", "desc-psnnoise"), ("removed", "desc-psnremoved"), ("components", "_components")):
            assert any(desc in output for output in job.outputs) == (option in write)
        assert {"psn", "trialavg", "crossfit"} <= {row.array for row in output_maps(job)}
        assert any("stat-a_" in output for output in job.outputs) == (method[0] == "calibrated")
        assert Plan.from_identity(json.loads(job.identity())).identity() == job.identity()


def test_graph_and_resources(three_kinds: Path, plan_betas: Any, tmp_path: Path) -> None:
    jobs, frugal = plan_betas(three_kinds, tmp_path / "out").jobs, plan_betas(three_kinds, tmp_path / "out", "--low-mem").jobs
    assert [job.identity() for job in jobs] == [job.identity() for job in frugal]
    assert frugal[0].block_gb < jobs[0].block_gb
    for job in jobs:
        assert 0.3 < job.mem_gb < 2
        workflow = init_psn_wf(job)
        assert workflow.name == job.name
        assert sorted(workflow.list_node_names()) == ["figures", "fit", "load", "save"]
        workflow._generate_flatgraph()
        assert len(workflow._graph.edges()) == 5


def test_model_that_is_read(tmp_path: Path, plan_betas: Any, make_betas: Any, beta_spec: Any) -> None:
    both, _ = make_betas(tmp_path / "both", beta_spec(descs=("fithrf", "fithrfdenoiserr", "conform")))
    (job,) = plan_betas(both, tmp_path / "out").jobs
    assert job.desc == "conform"
    assert all(betas.scale for betas in job.betas)
    (job,) = plan_betas(both, tmp_path / "out", "--input-desc", "fithrf").jobs
    assert (job.desc, job.betas[0].scale) == ("fithrf", ())
    with pytest.raises(MissingInputError, match="desc-nothing; there are: conform, fithrf, fithrfdenoiserr"):
        plan_betas(both, tmp_path / "out", "--input-desc", "nothing")
    other, _ = make_betas(tmp_path / "other", beta_spec(descs=("fithrf", "fithrfdenoiserr")))
    planned = plan_betas(other, tmp_path / "out")
    assert planned.jobs[0].desc == "fithrfdenoiserr"
    assert any("desc-fithrfdenoiserr are read" in warning for warning in planned.warnings)


def test_a_session_without_the_model_is_left_out_and_named(tmp_path: Path, plan_betas: Any, make_betas: Any, beta_spec: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec(descs=("fithrf", "conform"), sessions=("01", "02", "03")))
    for path in (dataset / "sub-01" / "ses-03" / "func").glob("*desc-conform*"):
        path.unlink()
    planned = plan_betas(dataset, tmp_path / "out")
    assert [betas.session for betas in planned.jobs[0].betas] == ["01", "02"]
    assert any("session 03 has no betas of desc-conform" in warning for warning in planned.warnings)


def test_from_the_raw_dataset_and_by_name(tmp_path: Path, plan_betas: Any, make_betas: Any, beta_spec: Any) -> None:
    raw = tmp_path / "raw"
    (raw / "sub-01").mkdir(parents=True)
    (raw / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    with pytest.raises(MissingInputError, match="no conform-glm derivative"):
        plan_betas(raw, tmp_path / "out")
    inside, _ = make_betas(raw / "derivatives" / "glm-of-mine", beta_spec())
    outside, _ = make_betas(tmp_path / "elsewhere", beta_spec())
    assert all(inside in path.parents for path in plan_betas(raw, tmp_path / "out").jobs[0].inputs)
    named = plan_betas(raw, tmp_path / "out", "-d", f"conform-glm={outside}").jobs[0]
    assert all(outside in path.parents for path in named.inputs)
    make_betas(raw / "derivatives" / "second", beta_spec())
    with pytest.raises(UsageError, match="several derivatives of conform-glm"):
        plan_betas(raw, tmp_path / "out")


def test_selection_of_sessions_and_runs_goes_by_trials(tmp_path: Path, plan_betas: Any, make_betas: Any, beta_spec: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec())
    (job,) = plan_betas(dataset, tmp_path / "out", "--session-label", "2").jobs
    assert [betas.session for betas in job.betas] == ["02"]
    assert not job.zscore
    assert plan_betas(dataset, tmp_path / "out", "--session-zscore", "--session-label", "2").jobs[0].zscore
    (job,) = plan_betas(dataset, tmp_path / "out", "--run-label", "1").jobs
    assert job.runs == ("1",)
    for flags, there in (
        (("--session-label", "09"), "01, 02"),
        (("--run-label", "7"), "01, 02"),
        (("--task-id", "rest"), "shapes"),
        (("--output-spaces", "MNI152NLin2009cAsym"), "T1w"),
        (("--file-format", "cifti"), "T1w"),
    ):
        with pytest.raises(MissingInputError, match=there):
            plan_betas(dataset, tmp_path / "out", *flags)


@pytest.fixture
def small(tmp_path: Path, make_betas: Any, beta_spec: Any) -> Callable[..., Path]:
    return lambda **spec: make_betas(tmp_path / "glm", beta_spec(**spec))[0]


def test_without_repeats_it_refuses(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match=r"no condition repeats \(24 trials of 24 conditions\)"):
        plan_betas(small(sessions=("01",), order=range(24)), tmp_path / "out")


def test_repeats_of_test_stimuli_alone_are_not_enough(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match="no train condition repeats"):
        plan_betas(small(sessions=("01",), order=[*range(24), 3, 4], test=(3, 4)), tmp_path / "out")
    with pytest.raises(UnusableInputError, match="no condition is for training"):
        plan_betas(small(sessions=("01",), test=range(24)), tmp_path / "out")


def test_two_conditions_are_too_few(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match="at least 3 train conditions; there are 2"):
        plan_betas(small(order=[0, 1, 2] * 4, test=(2,)), tmp_path / "out")


def test_repeats_within_one_session_are_warned_of(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    dataset = small(order=[*range(12), *range(12)])
    table = next(dataset.rglob("*ses-02*_trials.tsv"))
    table.write_text(table.read_text().replace("\ts0", "\tt0").replace("\ts1", "\tt1"))
    told = "100% of the repeated conditions have all their trials in one session"
    assert any(told in warning and "are taken out by" in warning for warning in plan_betas(dataset, tmp_path / "out").warnings)
    flags = ("--no-session-zscore",)
    assert any(told in warning and "would take" in warning for warning in plan_betas(dataset, tmp_path / "out", *flags).warnings)
    text = table.read_text()
    table.write_text(text.replace("\tt00", "\ts00").replace("\tt01", "\ts01"))  # two of 22 conditions are in both sessions
    assert any("91% of the repeated" in warning for warning in plan_betas(dataset, tmp_path / "out").warnings)


def test_both_kinds_of_fit_together_are_refused(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match="hold the same trials"):
        plan_betas(small(sessions=(None, "01")), tmp_path / "out")


def test_trial_table_is_found_without_a_link_and_missed_by_name(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    dataset = small(with_links=False)
    assert plan_betas(dataset, tmp_path / "out").jobs
    next(dataset.rglob("*ses-02*_trials.tsv")).unlink()
    with pytest.raises(MissingInputError, match=r"ses-02.*no trial table"):
        plan_betas(dataset, tmp_path / "out")


def test_a_table_outside_of_the_dataset_is_refused(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    dataset = small(sessions=("01",))
    sidecar = next(dataset.rglob("*stat-effect*.json"))
    sidecar.write_text(json.dumps({"TrialTable": "bids::../../etc/passwd"}))
    with pytest.raises(UnusableInputError, match="outside of the dataset"):
        plan_betas(dataset, tmp_path / "out")


def test_units_that_differ_between_sessions_are_refused(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    dataset = small()
    sidecar = next(dataset.rglob("*ses-02*stat-effect*.json"))
    sidecar.write_text(sidecar.read_text().replace("percent signal change", "arbitrary"))
    with pytest.raises(UnusableInputError, match="sessions differ in units"):
        plan_betas(dataset, tmp_path / "out")


def test_a_parcellation_of_another_kind_or_nowhere(
    small: Callable[..., Path], plan_betas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    monkeypatch.setattr(parcellations, "_fetched", lambda *_: [])  # no network
    dataset, labels = small(kinds=("nifti", "cifti")), tmp_path / "atlas.dlabel.nii"
    labels.write_bytes(b"")
    with pytest.raises(UnusableInputError, match="not a parcellation for space T1w"):
        plan_betas(dataset, tmp_path / "out", "--parcellation", labels, "--file-format", "nifti")
    with pytest.raises(MissingInputError, match="no file"):
        plan_betas(dataset, tmp_path / "out", "--parcellation", tmp_path / "no.nii.gz")
    with pytest.raises(MissingInputError, match=r"fetch tpl-fsLR_\*atlas-Nowhere"):
        plan_betas(dataset, tmp_path / "out", "--parcellation", "Nowhere", "--file-format", "cifti")


def test_an_atlas_is_taken_from_the_local_templateflow(
    small: Callable[..., Path], plan_betas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "templateflow" / "tpl-T1w"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(folder.parent))
    for desc in ("1", "2"):
        image = nib.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4))
        nib.save(image, folder / f"tpl-T1w_res-01_atlas-Mine_desc-{desc}_dseg.nii.gz")
    dataset = small()
    (job,) = plan_betas(dataset, tmp_path / "out", "--parcellation", "Mine:desc-2").jobs
    assert [path.name for path in job.parcellation] == ["tpl-T1w_res-01_atlas-Mine_desc-2_dseg.nii.gz"]
    with pytest.raises(UsageError, match="of 1, 2"):
        plan_betas(dataset, tmp_path / "out", "--parcellation", "Mine")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "stacked", "basis": "pca"}, "--basis has no effect"),
        ({"method": "wiener", "threshold_level": "unit"}, "--threshold-level has no effect"),
        ({"method": "calibrated", "criterion": "variance"}, "--criterion has no effect"),
        ({"method": "standard", "criterion": "variance", "alpha": 0.5}, "--criterion has no effect"),
        ({"parcellation": "whole", "parcel_size": 50}, "--parcel-size has no effect"),
        ({"unit_groups": "a.nii.gz"}, "--unit-groups has no effect"),
        ({"method": "standard", "threshold_level": "group"}, "--unit-groups names the groups"),
        ({"input_desc": "a-b"}, "not a BIDS label"),
        ({"alpha": 2.0, "method": "standard"}, "above the maximum"),
    ],
)
def test_options_that_contradict_each_other(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        PSNSettings(**settings)


def test_trials_and_conditions_are_ordered(small: Callable[..., Path], plan_betas: Any, tmp_path: Path) -> None:
    from conform_bids.psn.pooling import pool_trials

    dataset = small(sessions=("10", "2"), test=(5,))
    pooled = pool_trials(plan_betas(dataset, tmp_path / "out").jobs[0].betas, PSNSettings())
    order = list(zip(pooled.trials["session_id"], pooled.trials["run_id"], pooled.trials["onset"], strict=True))
    assert order == sorted(order, key=lambda key: (int(key[0]), key[1], key[2]))
    assert pooled.conditions["stim_id"].tolist() == sorted(pooled.conditions["stim_id"])
    assert (pooled.trials["repetition"] == pooled.trials.groupby("stim_id").cumcount()).all()
    assert pooled.conditions["n_trials"].tolist() == [4] * 24
    assert set(pooled.trials["stim_id"][~pooled.train]) == {"s05"}
    tables = [pd.read_csv(betas.trials, sep="\t") for betas in plan_betas(dataset, tmp_path / "out").jobs[0].betas]
    names = [tables[source]["stim_id"][row] for source, row in zip(pooled.source, pooled.row, strict=True)]
    assert names == pooled.trials["stim_id"].tolist()
