"""Every option of conform-glm changes or fixes something that can be seen in what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.index import open_dataset
from conform_bids.errors import UsageError
from conform_bids.glm.settings import GLMSettings
from conform_bids.options import options_of

TR = 1.5
N_UNITS, N_VOLUMES, N_CONDITIONS = 60, 110, 6
ALL = ("--model", "assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr")
Fit = Callable[..., Any]


def _response(times: np.ndarray, peak: float) -> np.ndarray:
    shape = np.clip(times, 0, None) / peak
    return shape**4 * np.exp(4 * (1 - shape)) * (times > 0)


def _draw_run(generator: np.random.Generator, session: str, run: str, truth: np.ndarray, weights: np.ndarray, run_data: Any) -> Any:
    order = np.concatenate([generator.permutation(N_CONDITIONS) for _ in range(3)])
    onsets = 4 + 8.0 * np.arange(len(order)) + generator.uniform(0, 2, len(order))
    buttons = onsets[::3] + 1.2
    times = TR * np.arange(N_VOLUMES) + TR / 2
    peaks = np.concatenate([np.linspace(3.5, 6.5, 40), np.full(N_UNITS - 40, 5)])[:, None]
    series = sum(truth[condition][:, None] * _response(times - onset, peaks) for onset, condition in zip(onsets, order, strict=True))
    shared = np.cumsum(generator.standard_normal((3, N_VOLUMES)), axis=1) * 0.25
    series = series + weights.T @ shared + 0.5 * generator.standard_normal((N_UNITS, N_VOLUMES))
    shown = pd.DataFrame(
        {
            "onset": onsets.round(3),
            "duration": 1.0,
            "trial_type": [f"kind{condition // 2}" for condition in order],
            "stim_id": [f"s{condition}" for condition in order],
            "response_time": generator.uniform(0.3, 1, len(order)).round(3),
            "half": ["test" if condition == 5 else "train" for condition in order],
        }
    )
    pressed = pd.DataFrame({"onset": buttons.round(3), "duration": 0.0, "trial_type": "button", "stim_id": "n/a", "half": "n/a"})
    events = pd.concat([shown, pressed]).sort_values("onset")
    confounds = pd.DataFrame(shared.T, columns=["trans_x", "trans_y", "csf"])
    confounds["trans_x_derivative1"] = confounds["trans_x"].diff()
    return run_data((1000 * (1 + series / 100)).astype(np.float32), events, run, session, confounds)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_dataset: Any, run_data: Any) -> Path:
    """Two sessions of two runs, 6 stimuli of 3 kinds shown three times a run, and button presses."""
    generator = np.random.default_rng(7)
    truth = np.where(np.arange(N_UNITS) < 40, generator.uniform(0.5, 3, (N_CONDITIONS, N_UNITS)), 0)
    weights = generator.standard_normal((3, N_UNITS))
    runs = [
        _draw_run(generator, session, run, truth * (1 if session == "01" else 1.4), weights, run_data)
        for session in ("01", "02")
        for run in ("01", "02")
    ]
    return make_dataset(tmp_path_factory.mktemp("options") / "data", runs, TR, start_time=TR / 2)


@pytest.fixture(scope="module")
def fit(dataset: Path, fit_dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Fit the dataset over all sessions with the flags given; the same flags are fitted once."""
    known: dict[tuple[str, ...], Any] = {}
    opened = open_dataset(dataset)

    def run(*flags: object) -> Any:
        typed = tuple(map(str, flags))
        if typed not in known:
            base = () if "--fit-scope" in typed else ("--fit-scope", "subject")
            base += () if "--trial-filter" in typed else ("--trial-filter", "trial_type != 'button'")
            base += () if "--model" in typed else ALL
            known[typed] = fit_dataset(dataset, tmp_path_factory.mktemp("fit"), *base, *typed, opened=opened)
        fits = known[typed]
        return fits[0] if len(fits) == 1 else fits

    return run


def betas(fit: Any, model: str) -> np.ndarray:
    return fit.array(f"{model}_betas")


def test_every_option_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    for option in options_of(GLMSettings):
        assert f'"{option.flag}"' in text, option.flag


def test_defaults(fit: Fit) -> None:
    done = fit()
    assert len(done.loaded.trials) == 4 * 18
    assert done.loaded.design.folds == ((0,), (1,), (2,), (3,))
    assert done.loaded.design.session.tolist() == [0, 0, 1, 1]
    assert done.summary["fractions"][0] == 1.0
    assert len(done.summary["fractions"]) == 20
    assert done.array("pc_curve").shape == (11,)
    assert done.sidecar("_stat-effect_desc-fithrf_statmap.json")["Units"] == "percent signal change"
    assert done.summary["n_pcs"] > 0


def test_model_names_what_is_fitted(fit: Fit) -> None:
    done = fit("--model", "assumehrf")
    maps = [path.name for path in done.written if "_stat-effect_" in path.name and path.suffix == ".gz"]
    assert [name.split("_")[-2] for name in maps] == ["desc-assumehrf"]
    np.testing.assert_array_equal(betas(done, "assumehrf"), betas(fit(), "assumehrf"))
    assert not done.has("noise_pool")


def test_compat_rounds_onsets_and_ignores_the_start_time(fit: Fit) -> None:
    done, exact = fit("--compat", "glmsingle"), fit()
    np.testing.assert_allclose(exact.loaded.design.onset, exact.loaded.trials["onset"] - TR / 2)
    np.testing.assert_allclose(done.loaded.design.onset, done.loaded.trials["onset"])
    first = done.table("ses-01_task-case_run-01_design.tsv")["trial_00000"].astype(float).to_numpy()
    onset = done.loaded.trials["onset"][0]
    assert np.flatnonzero(first > 1e-9)[0] == int(np.floor(onset / TR + 0.5)) + 1  # HRFs start at zero
    assert done.sidecar("_stat-effect_desc-fithrf_statmap.json")["FrameTimes"] == "ignored"
    assert exact.sidecar("_stat-effect_desc-fithrf_statmap.json")["FrameTimes"] == [TR / 2] * 4
    assert not np.allclose(betas(done, "fithrf"), betas(exact, "fithrf"), atol=0.05)


def test_stimulus_duration(fit: Fit) -> None:
    done = fit("--stimulus-duration", 4)
    assert (done.loaded.trials["duration"] == 4).all()
    assert (done.table("_desc-fithrf_trials.tsv")["duration"].astype(float) == 4).all()
    assert done.sidecar("_desc-hrflibrary_timeseries.json")["StimulusDuration"] == 4
    assert done.array("hrf_library")[:, 0].argmax() > fit().array("hrf_library")[:, 0].argmax()


def test_confounds(fit: Fit) -> None:
    done = fit("--confounds", "trans_*")
    assert done.loaded.regressor_names == (("trans_x", "trans_y", "trans_x_derivative1"),) * 4
    design = done.table("ses-01_task-case_run-01_design.tsv")
    assert list(design.columns[-3:]) == ["trans_x", "trans_y", "trans_x_derivative1"]
    derivative = design["trans_x_derivative1"].astype(float)
    assert derivative[0] == pytest.approx(derivative[1:].mean())
    assert any("confounds" in source for source in done.sidecar("_stat-effect_desc-fithrf_statmap.json")["Sources"])
    assert not any("confounds" in source for source in fit().sidecar("_stat-effect_desc-fithrf_statmap.json")["Sources"])
    assert not np.allclose(betas(done, "fithrf"), betas(fit(), "fithrf"))


@pytest.mark.parametrize(("scope", "sessions"), [("session", ["01", "02"]), ("subject", [None]), ("auto", ["01", "02"])])
def test_fit_scope(scope: str, sessions: list[str | None], fit: Fit) -> None:
    done = fit("--fit-scope", scope, "--model", "fithrf")
    fits = done if isinstance(done, list) else [done]
    assert [one.plan.entities.get("ses") for one in fits] == sessions
    name = fits[0].output("_stat-effect_desc-fithrf_statmap.nii.gz").name
    assert ("_ses-" in name) == (sessions[0] is not None)


def test_session_groups(fit: Fit) -> None:
    done = fit("--session-groups", "01,02")
    assert done.loaded.design.session.tolist() == [0, 0, 0, 0]
    assert fit("--session-groups", "01", "02").loaded.design.session.tolist() == [0, 0, 1, 1]
    assert not np.array_equal(done.array("pc_curve"), fit().array("pc_curve"))
    with pytest.raises(UsageError, match="session 02 is in no group"):
        fit("--session-groups", "01")


def test_cv_folds(fit: Fit) -> None:
    done = fit("--cv-folds", "1,2", "3,4")
    assert done.loaded.design.folds == ((0, 1), (2, 3))
    assert not np.array_equal(done.array("pc_curve"), fit().array("pc_curve"))
    np.testing.assert_array_equal(betas(done, "fithrf"), betas(fit(), "fithrf"))
    with pytest.raises(UsageError, match="run 5 of a fit that has 4"):
        fit("--cv-folds", "1,2", "3,5")


def test_polynomial_degree(fit: Fit) -> None:
    done = fit("--polynomial-degree", 0)
    columns = done.table("ses-01_task-case_run-01_design.tsv").columns
    assert [name for name in columns if name.startswith("drift")] == ["drift_00"]
    assert done.summary["polynomial_degree"] == [0] * 4
    assert not np.allclose(betas(done, "fithrf"), betas(fit(), "fithrf"))


def test_units(fit: Fit) -> None:
    raw = fit("--units", "raw")
    np.testing.assert_allclose(betas(raw, "fithrf") * 100 / raw.array("mean"), betas(fit(), "fithrf"), rtol=1e-4, atol=1e-5)
    assert raw.sidecar("_stat-effect_desc-fithrf_statmap.json")["Units"] == "arbitrary"


def test_n_pcs(fit: Fit) -> None:
    done = fit("--n-pcs", 2)
    assert done.array("pc_curve").shape == (3,)
    assert list(done.table("ses-01_task-case_run-01_space-T1w_desc-noiseregressors_timeseries.tsv").columns) == ["noise_00", "noise_01"]


def test_pcs_stop(fit: Fit) -> None:
    done = fit("--pcs-stop", -4)
    assert done.summary["n_pcs"] == 4
    assert not done.summary["n_pcs_cross_validated"]
    assert fit("--pcs-stop", 100).summary["n_pcs"] <= fit("--pcs-stop", 1).summary["n_pcs"]
    assert fit("--pcs-stop", 1).summary["n_pcs"] == int(np.argmax(fit().array("pc_curve")))


def test_pcs_rule(fit: Fit) -> None:
    best, smallest = fit(), fit("--pcs-rule", "smallest")
    curve, error = smallest.array("pc_curve"), smallest.array("pc_curve_se")
    np.testing.assert_array_equal(curve, best.array("pc_curve"))
    top = int(np.argmax(curve))
    assert smallest.summary["n_pcs"] == int(np.flatnonzero(curve >= curve[top] - error[top])[0])
    assert smallest.summary["n_pcs"] <= best.summary["n_pcs"]
    content = smallest.sidecar("_stat-effect_desc-fithrfdenoise_statmap.json")
    assert len(content["NoiseRegressorGain"]) == len(content["NoiseRegressorGainStandardError"]) == 11
    assert -1 <= content["NoisePoolReliability"] <= 1


def test_brain_threshold(fit: Fit) -> None:
    done = fit("--brain-threshold", 50, 1)
    mean = done.array("mean")
    assert (mean[done.array("noise_pool")] > np.percentile(mean, 50)).all()
    assert done.summary["n_noise_pool"] < fit().summary["n_noise_pool"]


def test_noise_pool_and_voting_thresholds(fit: Fit) -> None:
    done = fit("--noise-pool-r2", 2, "--pcs-r2", 12)
    onoff = done.array("onoff_rsquared")
    np.testing.assert_array_equal(done.array("noise_pool"), onoff < 2)
    np.testing.assert_array_equal(done.array("pc_voxels"), onoff > 12)
    assert 0 < done.summary["n_noise_pool"] < N_UNITS
    assert (done.summary["noise_pool_threshold"], done.summary["pcs_threshold"]) == (2, 12)


def test_fractions(fit: Fit) -> None:
    fraction = fit("--fractions", 0.3, 0.6).array("fraction")
    assert set(np.round(fraction, 6)) <= {0.3, 0.6}
    assert set(np.round(fit("--fractions", 0.4).array("fraction"), 6)) == {0.4}


def test_no_autoscale(fit: Fit) -> None:
    done = fit("--fractions", 0.4, "--no-autoscale")
    ordinary = np.linalg.norm(betas(done, "fithrfdenoise"), axis=0)
    length, scaled = (np.linalg.norm(betas(one, "fithrfdenoiserr"), axis=0) / ordinary for one in (done, fit("--fractions", 0.4)))
    np.testing.assert_allclose(np.median(length), 0.4, atol=0.05)
    assert np.median(scaled) > 0.6


def hrf_table(path: Path, peaks: tuple[float, ...], *, with_time: bool) -> Path:
    times = np.arange(0, 30, 0.1 if with_time else TR)
    table = pd.DataFrame({f"peak{peak:g}s": _response(times, peak) for peak in peaks})
    if with_time:
        table.insert(0, "time", times.round(3))
    table.to_csv(path, sep="\t", index=False, header=with_time)
    return path


@pytest.mark.parametrize("with_time", [True, False])
def test_hrf_library(with_time: bool, fit: Fit, tmp_path: Path) -> None:
    peaks = (3.0, 4.5, 6.0) if with_time else (3.5, 5.0, 6.5)  # a stimulus of 1 s adds half of it to the former
    done = fit("--hrf-library", hrf_table(tmp_path / "hrfs.tsv", peaks, with_time=with_time))
    assert set(done.array("hrf_index")) == {0, 1, 2}
    assert np.corrcoef(done.array("hrf_index")[:40], np.arange(40))[0, 1] > 0.5  # later peaks, later HRFs
    assert done.array("hrf_library").shape[1] == 3
    if with_time:
        assert list(done.table("_desc-hrflibrary_timeseries.tsv").columns) == ["peak3s", "peak4.5s", "peak6s"]


def test_assumed_hrf(fit: Fit, tmp_path: Path) -> None:
    done = fit("--assumed-hrf", hrf_table(tmp_path / "late.tsv", (9.0,), with_time=True))
    late, usual = (one.table("ses-01_task-case_run-01_design.tsv")["trial_00000"].astype(float).argmax() for one in (done, fit()))
    assert late > usual
    assert not np.allclose(betas(done, "assumehrf"), betas(fit(), "assumehrf"))
    np.testing.assert_array_equal(betas(done, "fithrf"), betas(fit(), "fithrf"))


def test_model_conform_and_whitening(fit: Fit) -> None:
    whitened, plain, auto = (fit("--model", "fithrf", "conform", "--whiten", setting) for setting in ("ar", "none", "auto"))
    assert not np.allclose(betas(whitened, "conform"), betas(plain, "conform"))
    np.testing.assert_array_equal(betas(auto, "conform"), betas(whitened, "conform"))  # events of 1 s are no blocks
    np.testing.assert_array_equal(betas(whitened, "fithrf"), betas(fit(), "fithrf"))
    assert plain.sidecar("_stat-effect_desc-conform_statmap.json")["Settings"]["whiten"] == "none"
    with pytest.raises(UsageError, match="GLMsingle has no such model"):
        GLMSettings(model=("conform",), compat="glmsingle")


def test_hrf_averaging(fit: Fit) -> None:
    never, always = (fit("--model", "conform", "--hrf-averaging", setting) for setting in ("off", "on"))
    assert not np.allclose(betas(never, "conform"), betas(always, "conform"))


def test_write(fit: Fit) -> None:
    done = fit("--model", "conform", "--whiten", "none", "--hrf-averaging", "off", "--write", "shrinkage", "ols")
    plain = fit("--model", "conform", "--whiten", "none", "--hrf-averaging", "off")
    np.testing.assert_array_equal(betas(done, "conform"), betas(plain, "conform"))
    assert not any("conformols" in path.name or "shrinkage" in path.name for path in plain.written)
    image = np.asarray(nib.load(done.output("_stat-shrinkage_desc-conform_statmap.nii.gz")).dataobj).ravel()
    assert ((image >= -4) & (image <= 2)).all()
    ordinary = np.asarray(nib.load(done.output("_stat-effect_desc-conformols_statmap.nii.gz")).dataobj)[:, 0, 0].T
    np.testing.assert_array_equal(ordinary, betas(done, "conformols"))
    assert ordinary.std() > betas(done, "conform").std()  # which is shrunk
    slope = [np.polyfit(shrunk, free, 1)[0] for shrunk, free in zip(betas(done, "conform").T, ordinary.T, strict=True)]
    np.testing.assert_allclose(done.array("conform_scale"), slope, rtol=1e-3)
    content = done.sidecar("_stat-effect_desc-conformols_statmap.json")
    assert content["EstimationMethod"].startswith("Least squares")
    assert content["TrialTable"].endswith("_desc-conformols_trials.tsv")
    assert done.table("_desc-conformols_trials.tsv").equals(done.table("_desc-conform_trials.tsv"))
    assert done.output("_stat-noiseceiling_desc-conformols_statmap.nii.gz").exists()


def test_lss(fit: Fit) -> None:
    done = fit("--lss")
    assert not np.allclose(betas(done, "fithrf"), betas(fit(), "fithrf"))
    np.testing.assert_array_equal(betas(done, "fithrfdenoiserr"), betas(fit(), "fithrfdenoiserr"))


def test_condition_column(fit: Fit) -> None:
    done = fit("--condition-column", "trial_type")
    assert sorted(set(done.loaded.trials["stim_id"])) == ["kind0", "kind1", "kind2"]
    assert done.summary["n_conditions"] == 3
    assert fit().summary["n_conditions"] == 6


def test_trial_filter(fit: Fit) -> None:
    done = fit("--trial-filter", "trial_type in ['kind0', 'kind1'] and response_time < 0.8", "--model", "fithrf")
    assert set(done.loaded.trials["trial_type"]) == {"kind0", "kind1"}
    assert 0 < len(done.loaded.trials) < 48


def test_nuisance_events(fit: Fit) -> None:
    done = fit("--trial-filter", "onset >= 0", "--nuisance-events", "button")
    assert len(done.loaded.trials) == 72
    assert done.loaded.regressor_names == (("nuisance_button",),) * 4
    regressor = done.table("ses-01_task-case_run-01_design.tsv")["nuisance_button"].astype(float)
    assert regressor.max() > 0.1
    assert not np.allclose(betas(done, "fithrf"), betas(fit(), "fithrf"))


def test_split_by_column_and_by_file(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "split.tsv").write_text("stim_id\tsplit\n" + "".join(f"s{k}\t{'test' if k == 5 else 'train'}\n" for k in range(6)))
    by_column, by_file = fit("--split", "half"), fit("--split", tmp_path / "split.tsv")
    for done in (by_column, by_file):
        trials = done.loaded.trials
        assert set(trials["stim_id"][trials["split"] == "test"]) == {"s5"}
        assert (~done.loaded.design.train).sum() == 12
    np.testing.assert_array_equal(by_column.array("pc_curve"), by_file.array("pc_curve"))
    assert not np.array_equal(by_column.array("pc_curve"), fit().array("pc_curve"))
    sidecars = [one.sidecar("_stat-effect_desc-fithrf_statmap.json") for one in (by_column, fit())]
    assert sidecars[0]["FittedStimuliHash"] != sidecars[1]["FittedStimuliHash"]
    assert sidecars[0]["FitIncludesTest"] is False


def test_dataset_config(fit: Fit, tmp_path: Path) -> None:
    lines = ["name: Case", "source: made here", "stimulus_column: stim_id", "duration: 2", "repetition_time: 1.5", "onset_shift: 0.5"]
    lines += ["drop_trials: trial_type == 'kind2'", "test: {trials: half == 'test' or stim_id == 's0'}", "fit: {scope: subject}"]
    (tmp_path / "case.yaml").write_text("\n".join(lines))
    described, plain = fit("--dataset-config", tmp_path / "case.yaml", "--nuisance-events", "button"), fit("--fit-scope", "subject")
    trials, others = described.loaded.trials, plain.loaded.trials
    assert set(trials["stim_id"]) == {"s0", "s1", "s2", "s3"} and set(trials["duration"]) == {2.0} and len(trials) == 48
    assert set(trials["stim_id"][trials["split"] == "test"]) == {"s0"}
    expected = others[others["stim_id"].isin(["s0", "s1", "s2", "s3"])]["onset"].to_numpy() + 0.5
    np.testing.assert_allclose(trials["onset"], expected)
    assert described.loaded.regressor_names == (("nuisance_button",),) * 4
    with pytest.raises(UsageError, match="says which column"):
        GLMSettings(dataset_config=tmp_path / "case.yaml", condition_column="stim_id")


def test_random_seed(fit: Fit) -> None:
    done = fit("--random-seed", 5)
    assert done.sidecar("_stat-effect_desc-fithrf_statmap.json")["RandomSeed"] == 5
    assert fit().sidecar("_stat-effect_desc-fithrf_statmap.json")["RandomSeed"] == 0
    assert done.plan.identity() != fit().plan.identity()


def test_saved_maps_are_the_arrays(fit: Fit) -> None:
    done = fit()
    for model in ALL[1:]:
        image = nib.load(done.output(f"_stat-effect_desc-{model}_statmap.nii.gz"))
        np.testing.assert_array_equal(np.asarray(image.dataobj)[:, 0, 0].T, betas(done, model))


@pytest.mark.parametrize("engine_flags", [("--engine", "glmsingle")])
def test_the_engine_has_a_file_of_its_own(engine_flags: tuple[str, str], plan_dataset: Any, dataset: Path, tmp_path: Path) -> None:
    config, _ = plan_dataset(dataset, tmp_path / "out")
    assert config.settings.engine == "conform"  # what the other one does: test_engine_glmsingle.py
