"""What is left out or assumed is told where results are read, and does not end what is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.glm.settings import GLMSettings


def events_of(stimuli: list[str], durations: float | list[float] = 1.0) -> pd.DataFrame:
    onsets = 4 + 8.0 * np.arange(len(stimuli))
    return pd.DataFrame({"onset": onsets, "duration": durations, "trial_type": "image", "stim_id": stimuli})


@pytest.fixture
def sound(run_data: Any) -> Callable[..., list[Any]]:
    rng = np.random.default_rng(0)

    def runs(session: str | None = None, durations: float | list[float] = 1.0, **more: Any) -> list[Any]:
        series = [100 + rng.standard_normal((6, 60)).astype(np.float32) for _ in range(2)]
        return [run_data(data, events_of(["a", "b", "c", "a"], durations), str(run), session, **more) for run, data in enumerate(series, 1)]

    return runs


def test_a_task_without_trials_does_not_end_the_others(
    make_dataset: Any, run_data: Any, sound: Any, plan_dataset: Any, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "data", sound(), 2.0)
    rest = [run_data(np.full((6, 60), 100.0), events_of([]), "1")]
    make_dataset(tmp_path / "rest", rest, 2.0, task="rest")
    for path in (tmp_path / "rest").rglob("*task-rest*"):
        target = dataset / path.relative_to(tmp_path / "rest")
        target.write_bytes(path.read_bytes())
    _, planned = plan_dataset(dataset, tmp_path / "out")
    assert [job.entities["task"] for job in planned.jobs] == ["case"]
    assert any("task-rest" in warning and "left out" in warning for warning in planned.warnings)


def test_a_session_without_trials_does_not_end_the_others(make_dataset: Any, sound: Any, plan_dataset: Any, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", [*sound("1"), *sound("2")], 2.0)
    events = sorted(dataset.glob("sub-01/ses-2/func/*_events.tsv"))
    for path in events:
        path.write_text(path.read_text().replace("image", "blank"))
    _, planned = plan_dataset(dataset, tmp_path / "out", "--trial-filter", "trial_type == 'image'")
    assert [job.entities["ses"] for job in planned.jobs] == ["1"]
    with pytest.raises(MissingInputError, match="no run has a trial"):
        plan_dataset(dataset, tmp_path / "out", "--trial-filter", "trial_type == 'image'", "--fit-scope", "subject", "--session-label", "2")


def test_regressors_that_leave_nothing_are_refused(make_dataset: Any, sound: Any, fit_dataset: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    confounds = pd.DataFrame(rng.standard_normal((60, 58)), columns=[f"noise{index:02d}" for index in range(58)])
    dataset = make_dataset(tmp_path / "data", sound(confounds=confounds), 2.0)
    with pytest.raises(UnusableInputError, match="no degrees of freedom in 60 volumes"):
        fit_dataset(dataset, tmp_path / "fit", "--confounds", "noise*")


def test_what_is_assumed_stands_in_the_sidecar(make_dataset: Any, sound: Any, fit_dataset: Any, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", sound(), 2.0)
    for path in (dataset / "derivatives" / "fmriprep").rglob("*_bold.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: content[key] for key in content if key not in ("StartTime", "SliceTimingCorrected")}))
    (fit,) = fit_dataset(dataset, tmp_path / "fit", "--model", "fithrf")
    (note,) = [note for note in fit.sidecar("_stat-effect_desc-fithrf_statmap.json")["Notes"] if "cannot be known" in note]
    assert "and 1 more" in note  # one note for all runs
    assert note in fit.summary["notes"]


def test_compat_says_that_it_makes_durations_one(make_dataset: Any, sound: Any, plan_dataset: Any, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", sound(durations=[1.0, 3.0, 1.0, 1.0]), 2.0)
    (job,) = plan_dataset(dataset, tmp_path / "out", "--compat")[1].jobs
    assert any("1 to 3 s" in note and "median, 1 s" in note for note in job.notes)
    (job,) = plan_dataset(dataset, tmp_path / "out")[1].jobs
    assert not any("median" in note for note in job.notes)


def test_trials_whose_estimate_is_unreliable_choose_nothing(make_dataset: Any, run_data: Any, fit_dataset: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    events = pd.DataFrame({"onset": [4.0, 20, 40, 118], "duration": 1.0, "trial_type": "image", "stim_id": ["a", "b", "c", "a"]})
    runs = [run_data(100 + rng.standard_normal((6, 60)), events, str(run)) for run in (1, 2)]
    dataset = make_dataset(tmp_path / "data", runs, 2.0)
    (fit,) = fit_dataset(dataset, tmp_path / "fit", "--model", "fithrf")
    assert (fit.loaded.trials["flag"] != "n/a").tolist() == [False, False, False, True] * 2
    assert fit.loaded.design.train.tolist() == [True, True, True, False] * 2


def flags_of(dataset: Path, plan_dataset: Any, tmp_path: Path, *flags: str) -> tuple[list[str], list[str]]:
    """Flags of the first run's trials, and the notes of the plan."""
    from conform_bids.glm.planning import build_trials

    (job,) = plan_dataset(dataset, tmp_path / "out", *flags)[1].jobs
    trials = build_trials(job.runs, job.settings).trials
    return trials["flag"][trials["run_id"] == "1"].tolist(), [note for note in job.notes if "flagged" in note]


def test_trials_that_cannot_be_told_apart_are_flagged_with_the_reason(
    make_dataset: Any, run_data: Any, plan_dataset: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    onsets = [4.0, 12, 12.1, 24, 36, 38, 117]  # two a tenth of a second apart, two a TR, one that the run's end cuts off
    events = pd.DataFrame({"onset": onsets, "duration": 1.0, "trial_type": "image", "stim_id": list("abcabca")})
    runs = [run_data(100 + rng.standard_normal((6, 60)), events, str(run)) for run in (1, 2)]
    dataset = make_dataset(tmp_path / "data", runs, 2.0)
    collinear, cut = "collinear with other trials", "cut off by the end of the run"
    flags, notes = flags_of(dataset, plan_dataset, tmp_path)
    assert flags == ["n/a", collinear, collinear, "n/a", "n/a", "n/a", cut]
    assert notes == [f"6 of 14 trials are flagged: {collinear} (4), {cut} (2)"]
    flags, _ = flags_of(dataset, plan_dataset, tmp_path, "--compat")
    assert flags[1:3] == ["in one volume with another trial"] * 2


def test_a_fast_design_is_no_fault(make_dataset: Any, run_data: Any, plan_dataset: Any, tmp_path: Path) -> None:
    events = pd.DataFrame({"onset": np.arange(4.0, 100, 2), "duration": 1.0, "trial_type": "image", "stim_id": list("abcdef") * 8})
    dataset = make_dataset(tmp_path / "data", [run_data(np.full((6, 60), 100.0), events, str(run)) for run in (1, 2)], 2.0)
    assert set(flags_of(dataset, plan_dataset, tmp_path)[0]) == {"n/a"}


def test_where_only_flagged_trials_repeat_nothing_is_cross_validated(
    make_dataset: Any, run_data: Any, plan_dataset: Any, tmp_path: Path
) -> None:
    stimuli = [["a", "b", "x"], ["c", "d", "x"]]
    events = [pd.DataFrame({"onset": [4.0, 20, 118], "duration": 1.0, "trial_type": "i", "stim_id": names}) for names in stimuli]
    runs = [run_data(np.full((6, 60), 100.0), table, str(run)) for run, table in enumerate(events, 1)]
    dataset = make_dataset(tmp_path / "data", runs, 2.0)
    (job,) = plan_dataset(dataset, tmp_path / "out", "--model", "fithrf", "fithrfdenoise")[1].jobs
    assert job.models == ("fithrf",)
    (job,) = plan_dataset(dataset, tmp_path / "out", "--model", "fithrf", "fithrfdenoise", "--compat")[1].jobs
    assert job.models == ("fithrf", "fithrfdenoise")  # GLMsingle knows no flags


def test_units_without_a_mean_have_no_percentage(make_dataset: Any, run_data: Any, fit_dataset: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    means = np.array([100, 100, 100, 0.3, -0.2, -100])[:, None]
    runs = [run_data(means + rng.standard_normal((6, 60)), events_of(list("abca")), str(run)) for run in (1, 2)]
    dataset = make_dataset(tmp_path / "data", runs, 2.0)
    (fit,) = fit_dataset(dataset, tmp_path / "percent", "--model", "fithrf")
    betas = fit.array("fithrf_betas")
    assert np.isnan(betas).all(axis=0).tolist() == np.isnan(betas).any(axis=0).tolist() == [False] * 3 + [True] * 2 + [False]
    assert fit.summary["n_set_aside"] == {"constant": 0, "nan": 0, "empty": 0, "near_zero_mean": 2}
    assert any("2 units were set aside" in note and "--units raw" in note for note in fit.summary["notes"])
    for more in (("--units", "raw"), ("--compat",)):
        (fit,) = fit_dataset(dataset, tmp_path / more[-1], "--model", "fithrf", *more)
        assert np.isfinite(fit.array("fithrf_betas")).all()
        assert fit.summary["n_set_aside"]["near_zero_mean"] == 0


def test_residuals_are_refused_in_percent(make_dataset: Any, run_data: Any, fit_dataset: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    runs = [run_data(rng.standard_normal((6, 60)), events_of(list("abca")), str(run)) for run in (1, 2)]
    with pytest.raises(UnusableInputError, match="--units raw"):
        fit_dataset(make_dataset(tmp_path / "data", runs, 2.0), tmp_path / "fit", "--model", "fithrf")


@pytest.mark.parametrize("flags", [("--n-pcs", "40"), ("--pcs-stop", "-40")])
def test_fewer_noise_regressors_than_asked_for_are_told(
    flags: tuple[str, str], make_dataset: Any, sound: Any, fit_dataset: Any, tmp_path: Path
) -> None:
    (fit,) = fit_dataset(make_dataset(tmp_path / "data", sound(), 2.0), tmp_path / "fit", "--noise-pool-r2", "90", *flags)
    (note,) = [note for note in fit.summary["notes"] if "asks for up to 40 noise regressors" in note]
    assert note.startswith(flags[0])
    assert int(note.rsplit(" ", 1)[1]) == min(pcs.shape[1] for pcs in (fit.array("pcs_000"), fit.array("pcs_001")))


def test_a_unit_that_is_missing_in_one_run_loses_that_run_only(make_dataset: Any, run_data: Any, fit_dataset: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    runs = [run_data(100 + rng.standard_normal((8, 60)), events_of(list("abcab")), str(run)) for run in (1, 2, 3)]
    runs[1].series[0, 30] = np.nan
    runs[1].series[1] = 100
    runs[1].series[2], runs[2].series[2] = 0, 0
    dataset = make_dataset(tmp_path / "data", runs, 2.0)
    masks = sorted(dataset.rglob("*_desc-brain_mask.nii.gz"))
    for index, absent in ((0, [4]), (1, [4, 5]), (2, [3])):  # unit 4 is in one mask of three
        image = nib.load(masks[index])
        values = np.asarray(image.dataobj).copy()
        values[absent] = 0
        nib.save(nib.Nifti1Image(values, image.affine), masks[index])
    (fit,) = fit_dataset(dataset, tmp_path / "fit", "--model", "fithrf", "conform")
    image = nib.load(fit.output("_stat-effect_desc-conform_statmap.nii.gz"))
    there = np.isfinite(np.asarray(image.dataobj)[:, 0, 0].reshape(8, 3, 5)).all(axis=2)
    assert ["".join("x" if run else "." for run in unit) for unit in there] == ["x.x", "x.x", "...", "xx.", "...", "x.x", "xxx", "xxx"]
    ceiling = np.asarray(nib.load(fit.output("_stat-noiseceiling_desc-fithrf_statmap.nii.gz")).dataobj).ravel()
    assert np.isfinite(ceiling).tolist() == there.any(axis=1).tolist()
    assert fit.sidecar("_stat-effect_desc-conform_statmap.json")["UnitsAbsentFromRuns"] == 4
    assert any("4 units are absent from some runs" in note for note in fit.summary["notes"])
    (compat,) = fit_dataset(dataset, tmp_path / "compat", "--model", "fithrf", "--compat")
    image = nib.load(compat.output("_stat-effect_desc-fithrf_statmap.nii.gz"))
    there = np.isfinite(np.asarray(image.dataobj)[:, 0, 0]).all(axis=1)
    assert there[[0, 3, 4, 5, 6, 7]].tolist() == [False] * 4 + [True] * 2  # as GLMsingle


IDLE = {
    "--lss": {"model": ("fithrfdenoiserr",), "lss": True},
    "--hrf-library": {"model": ("assumehrf",), "hrf_library": Path("hrfs.tsv")},
    "--fractions": {"model": ("fithrf", "conform"), "fractions": (0.5, 1.0)},
    "--no-autoscale": {"model": ("fithrf", "fithrfdenoise"), "autoscale": False},
    "--n-pcs": {"model": ("fithrfdenoise",), "pcs_stop": -3.0, "n_pcs": 5},
    "--pcs-stop": {"model": ("fithrf",), "pcs_stop": 1.2},
    "--pcs-r2": {"model": ("conform",), "n_pcs": 0, "pcs_r2": 4.0},
    "--noise-pool-r2": {"model": ("assumehrf", "fithrf"), "noise_pool_r2": 3.0},
    "--brain-threshold": {"model": ("fithrf",), "brain_threshold": (90.0, 0.2)},
    "--whiten": {"model": ("fithrfdenoiserr",), "whiten": "ar"},
    "--hrf-averaging": {"compat": "glmsingle", "hrf_averaging": "on"},
    "--write": {"model": ("fithrf",), "write": ("ols",)},
    "--pcs-rule": {"model": ("conform",), "pcs_stop": -3.0, "pcs_rule": "smallest"},
    "--pcs-stop has no effect": {"pcs_stop": 1.2, "pcs_rule": "smallest"},
    "--cv-folds": {"model": ("fithrfdenoiserr",), "pcs_stop": -3.0, "fractions": (0.4,), "cv_folds": (("1",), ("2",))},
    "--model conform": {"model": ("conform",), "compat": "glmsingle"},
}


@pytest.mark.parametrize("flag", IDLE)
def test_an_option_that_would_have_no_effect_is_refused(flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag}"):
        GLMSettings(**IDLE[flag])


def test_what_is_fitted_by_default() -> None:
    assert GLMSettings().model == ("conform",)
    assert GLMSettings(compat="glmsingle").model == GLMSettings(engine="glmsingle").model == ("fithrf", "fithrfdenoiserr")
