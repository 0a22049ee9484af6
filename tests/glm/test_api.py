"""The Python API: against GLMsingle's output, against the app, and what it says of bad input."""

from __future__ import annotations

import dataclasses
import doctest
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.hrf_tables import load_default_assumed_hrf
from conform_bids.glm import HRFLibrary, SingleTrialFit, api, fit_single_trials
from conform_bids.glm.settings import GLMSettings
from conform_bids.numerics.hrf import response_at

MODELS = ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr")
TYPES = {"fithrf": "typeb", "fithrfdenoise": "typec", "fithrfdenoiserr": "typed"}


def inputs_of(case: Any) -> tuple[list[np.ndarray], list[pd.DataFrame], list[np.ndarray] | None]:
    """Series (volumes, units), events and confounds of a reference case."""
    n_runs, tr = len(case["in_run_lens"]), float(case["in_tr"])
    bold = [case[f"in_data_run{run}"].T for run in range(n_runs)]
    events = []
    for run in range(n_runs):
        rows = case["in_events"][case["in_events"][:, 0] == run]
        names = [f"c{condition:03d}" for condition in rows[:, 2]]
        events.append(pd.DataFrame({"onset": rows[:, 1] * tr, "duration": float(case["in_stimdur"]), "trial_type": names}))
    confounds = [case[f"in_extra_run{run}"] for run in range(n_runs)] if "in_extra_run0" in case else None
    return bold, events, confounds


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (values - values.mean(0, dtype=float) for values in (first, second))
    return (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))


@pytest.fixture(scope="module")
def case_a(reference_case: Callable[[str], Any]) -> Any:
    return reference_case("a_event_related")


@pytest.fixture(scope="module")
def small(case_a: Any) -> tuple[list[np.ndarray], list[pd.DataFrame]]:
    """Two runs of 40 units of case a, 20 of them responsive."""
    bold, events, _ = inputs_of(case_a)
    active = case_a["truth_active"].astype(bool) & ~case_a["truth_out"].astype(bool)
    units = np.r_[np.flatnonzero(active)[:20], np.flatnonzero(~active & ~case_a["truth_out"].astype(bool))[:20]]
    return [run[:, units].copy() for run in bold[:2]], events[:2]


@pytest.fixture(scope="module")
def small_fit(small: tuple) -> SingleTrialFit:
    return fit_single_trials(*small, 2.0, models=("fithrf", "conform"), n_threads=1)


@pytest.mark.parametrize("name", ["a_event_related", "c_unequal_runs_extra_regressors"])
def test_reproduces_glmsingle(name: str, reference_case: Callable[[str], Any]) -> None:
    case = reference_case(name)
    bold, events, confounds = inputs_of(case)
    threshold = float(case["brainR2_threshold"])
    fit = fit_single_trials(
        bold,
        events,
        float(case["in_tr"]),
        models=MODELS,
        confounds=confounds,
        compat=True,
        assumed_hrf=case["hrftoassume"],
        hrf_library=case["hrflibrary"],
        noise_pool_r2=threshold,
        pcs_r2=threshold,
        n_threads=1,
    )
    compared = np.isfinite(case["typea_onoffR2"].ravel())
    compared[case.get("truth_const_vox", [])] = False
    assert fit.n_pcs == int(case["typec_pcnum"])
    assert (fit.noise_pool == case["typec_noisepool"].ravel().astype(bool))[compared].all()
    assert list(fit.models) == ["fithrfdenoiserr", "fithrfdenoise", "fithrf", "assumehrf"]
    for model, prefix in TYPES.items():
        reference = case[f"{prefix}_betasmd"].reshape(len(compared), -1).T
        assert correlate(fit[model].betas[:, compared], reference[:, compared]).min() > 0.9999
        np.testing.assert_allclose(fit[model].r2[compared], case[f"{prefix}_R2"].ravel()[compared], atol=0.05)
    assert (fit["fithrf"].hrf_index == case["typeb_HRFindex"].ravel())[compared].mean() >= 0.99
    fraction = fit["fithrfdenoiserr"].fraction
    assert fraction is not None
    assert (np.abs(fraction - case["typed_FRACvalue"].ravel()) < 1e-3)[compared].mean() >= 0.99
    np.testing.assert_allclose(fit.onoff_r2[compared], case["typea_onoffR2"].ravel()[compared], atol=0.05)


def test_agrees_with_the_app(
    reference_case: Callable[[str], Any], make_dataset: Any, run_data: Any, fit_dataset: Any, tmp_path: Any
) -> None:
    case = reference_case("c_unequal_runs_extra_regressors")
    bold, events, confounds = inputs_of(case)
    bold, events, confounds = [run[:, :60] for run in bold[:3]], events[:3], confounds[:3]  # type: ignore[index]
    tables = [pd.DataFrame(values, columns=[f"extra_{k}" for k in range(values.shape[1])]) for values in confounds]
    runs = [run_data(bold[k].T, events[k], f"{k + 1}", confounds=tables[k]) for k in range(3)]
    dataset = make_dataset(tmp_path / "data", runs, float(case["in_tr"]), start_time=0.8)
    flags = ("--confounds", "extra_*", "--model", "conform", "fithrfdenoise", "--n-pcs", "4")
    (app,) = fit_dataset(dataset, tmp_path, *flags)
    fit = fit_single_trials(
        bold,
        events,
        float(case["in_tr"]),
        models=("conform", "fithrfdenoise"),
        confounds=tables,
        start_time=0.8,
        n_pcs=4,
        seed=app.plan.random_seed,
        n_threads=1,
    )
    for model in fit.models:
        np.testing.assert_allclose(fit[model].betas, app.array(f"{model}_betas"), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fit[model].noise_ceiling, app.array(f"noise_ceiling_{model}"), rtol=1e-4)
    np.testing.assert_allclose(fit["conform"].scale, app.array("conform_scale"), rtol=1e-5)
    assert fit.n_pcs == app.summary["n_pcs"]
    shared = list(app.loaded.trials.columns)
    pd.testing.assert_frame_equal(fit.trials[shared], app.loaded.trials, check_dtype=False)


def test_result_has_the_shapes_it_says(small: tuple, small_fit: SingleTrialFit) -> None:
    n_trials, n_units = sum(map(len, small[1])), 40
    assert small_fit.betas is small_fit["conform"].betas
    assert small_fit.betas.shape == (n_trials, n_units) and small_fit.betas.dtype == np.float32
    for model in small_fit.models.values():
        assert model.r2_run.shape == (2, n_units)
        for values in (model.r2, model.noise_ceiling, model.reliability, model.hrf_index):
            assert values is not None and values.shape == (n_units,)
    assert [pcs.shape for pcs in small_fit.noise_regressors] == [(150, small_fit.n_pcs)] * 2
    means, names = small_fit.best.condition_means()
    assert means.shape == (len(names), n_units)
    first = small_fit.trials["stim_id"].to_numpy() == names[0]
    np.testing.assert_allclose(means[0], small_fit.betas[first].mean(axis=0), rtol=1e-4, atol=1e-5)
    assert small_fit.reliability[:20].mean() > small_fit.reliability[20:].mean() + 0.2
    assert small_fit["fithrf"].scale is None and small_fit["fithrf"].ordinary is None and small_fit.best.ordinary is None
    with pytest.raises(KeyError, match=r"fithrfdenoise.*there are conform, fithrf"):
        small_fit["fithrfdenoise"]


def test_ordinary_betas_are_kept_on_request(small: tuple, small_fit: SingleTrialFit) -> None:
    fit = fit_single_trials(*small, 2.0, ordinary=True, n_threads=1)
    ordinary, scale = fit.best.ordinary, fit.best.scale
    assert ordinary is not None and scale is not None and ordinary.shape == fit.betas.shape
    np.testing.assert_allclose(fit.betas, small_fit.betas, rtol=1e-4, atol=1e-5)
    slope = [np.polyfit(fit.betas[:, unit], ordinary[:, unit], 1)[0] for unit in range(40)]
    np.testing.assert_allclose(slope, scale, rtol=1e-2)


def test_repr_tells(small_fit: SingleTrialFit) -> None:
    text = repr(small_fit)
    assert "2 runs, 60 trials" in text and "40 of 40 units" in text and "percent signal change" in text
    assert "conform: betas 60 trials x 40 units" in text
    assert str(round(float(np.nanmedian(small_fit.reliability)), 2)) in text


def test_units_that_cannot_be_fitted_are_nan_and_named(small: tuple, small_fit: SingleTrialFit) -> None:
    bold, events = [run.copy() for run in small[0]], small[1]
    for run in bold:
        run[7, 3], run[:, 21], run[:, 30] = np.nan, 500.0, 0.0
    fit = fit_single_trials(bold, events, 2.0, models="fithrf", n_threads=1)
    assert np.flatnonzero(~fit.valid).tolist() == [3, 21, 30]
    assert np.isnan(fit.betas[:, ~fit.valid]).all() and np.isfinite(fit.betas[:, fit.valid]).all()
    assert fit.best.hrf_index is not None and (fit.best.hrf_index[~fit.valid] == -1).all()
    np.testing.assert_allclose(fit.betas[:, fit.valid], small_fit["fithrf"].betas[:, fit.valid], rtol=1e-4, atol=1e-4)
    assert fit.notes[-1] == "3 units were set aside: 1 constant, 1 empty, 1 not finite"
    assert fit.notes[-1] in repr(fit)


def test_a_unit_absent_from_a_run_keeps_the_other(small: tuple, small_fit: SingleTrialFit) -> None:
    bold, events = [run.copy() for run in small[0]], small[1]
    bold, events = [*bold, bold[0][::-1].copy()], [*events, events[0]]
    bold[1][7, 3] = np.nan
    fit = fit_single_trials(bold, events, 2.0, models="fithrf", n_threads=1)
    alone = fit_single_trials(bold[::2], events[::2], 2.0, models="fithrf", n_threads=1)
    first = fit.trials["run_id"].to_numpy() != "2"
    assert fit.valid.all() and fit.present[:, 3].tolist() == [True, False, True]
    assert fit.best.hrf_index is not None and alone.best.hrf_index is not None and fit.best.hrf_index[3] == alone.best.hrf_index[3]
    np.testing.assert_allclose(fit.noise_ceiling[3], alone.noise_ceiling[3], rtol=1e-3, atol=1e-3)
    assert np.isnan(fit.betas[~first, 3]).all() and np.isfinite(fit.betas[first, 3]).all()
    assert fit.notes[-1].startswith("1 unit is absent from some runs")
    means, _ = fit.best.condition_means()
    seen = fit.trials["condition"][first].unique()
    np.testing.assert_allclose(means[seen[0], 3], np.nanmean(fit.betas[fit.trials["condition"] == seen[0], 3]), rtol=1e-5)
    assert np.isfinite(means[seen, 3]).all() and np.isnan(np.delete(means[:, 3], seen)).all()


def test_series_without_a_mean_have_no_percentages(small: tuple) -> None:
    bold, events = [run - run.mean(axis=0) for run in small[0]], small[1]
    with pytest.raises(ValueError, match=r"no unit has a mean above its own noise .*units='raw' needs none"):
        fit_single_trials(bold, events, 2.0, models="fithrf", n_threads=1)
    assert fit_single_trials(bold, events, 2.0, models="fithrf", units="raw", n_threads=1).valid.all()


def test_one_run_without_a_list(small: tuple) -> None:
    bold, events = small[0][0].astype(np.float64), small[1][0]
    alone = fit_single_trials(bold, events, 2.0, n_threads=1)
    listed = fit_single_trials([bold], [dict(events)], 2.0, n_threads=1)
    np.testing.assert_array_equal(alone.betas, listed.betas)
    assert alone.n_pcs == 0
    assert list(alone.models) == ["conform"]
    compatible = fit_single_trials(bold, events, 2.0, compat=True, fractions=[0.5], pcs_stop=-1, n_threads=1)
    assert list(compatible.models) == ["fithrfdenoiserr", "fithrf"]


def test_a_run_without_trials_takes_part_as_noise_alone(small: tuple) -> None:
    bold, events = small
    models = ("fithrf", "fithrfdenoiserr", "conform")
    found = fit_single_trials([*bold, bold[0][::-1].copy()], [*events, events[0].iloc[:0]], 2.0, models=models, n_threads=1)
    assert len(found.trials) == len(events[0]) + len(events[1])
    for model in models:
        assert np.isfinite(found[model].betas).all(), model


def test_cuda_gives_what_the_cpu_gives(small: tuple) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    cpu, cuda = (fit_single_trials(*small, 2.0, models=(*MODELS, "conform"), device=device) for device in ("cpu", "cuda"))
    for model in (*MODELS, "conform"):
        size = cpu[model].betas.std()
        assert np.mean(np.abs(cuda[model].betas - cpu[model].betas) < 1e-3 * size) > 0.99, model


def test_confounds_are_taken_out(small: tuple) -> None:
    bold, events = small
    generator = np.random.default_rng(1)
    movement = [generator.normal(size=(150, 2)).cumsum(axis=0) for _ in bold]
    moved = [run + shift @ np.full((2, 40), 30.0) for run, shift in zip(bold, movement, strict=True)]
    for shift in movement:
        shift[:3, 1] = shift[3:, 1].mean()
    with_gap = [shift.copy() for shift in movement]
    with_gap[0][:3, 1] = np.nan
    moved = [run + shift @ np.full((2, 40), 30.0) for run, shift in zip(bold, movement, strict=True)]
    clean = fit_single_trials(bold, events, 2.0, models="fithrf", confounds=movement, units="raw", n_threads=1)
    dirty = fit_single_trials(moved, events, 2.0, models="fithrf", confounds=with_gap, units="raw", n_threads=1)
    ignored = fit_single_trials(moved, events, 2.0, models="fithrf", units="raw", n_threads=1)
    assert correlate(dirty.betas, clean.betas).min() > 0.9999
    assert np.median(correlate(ignored.betas, clean.betas)) < 0.95


def test_nuisance_events_are_modelled_and_get_no_beta(small: tuple) -> None:
    bold, events = small
    presses = [pd.DataFrame({"onset": np.arange(5.0, 280, 11.3), "duration": 0.1, "trial_type": "press"}) for _ in bold]
    frames = np.arange(150) * 2.0
    evoked = [response_at(load_default_assumed_hrf(), 0.1, frames[:, None] - t["onset"].to_numpy())[..., 0].sum(1) for t in presses]
    pressed = [run + 40 * response[:, None] for run, response in zip(bold, evoked, strict=True)]
    both = [pd.concat(tables) for tables in zip(presses, events, strict=True)]
    options = {"models": "fithrf", "units": "raw", "n_threads": 1}
    modelled = fit_single_trials(pressed, both, 2.0, nuisance_events=["press"], **options)
    clean = fit_single_trials(bold, events, 2.0, confounds=evoked, **options)
    ignored = fit_single_trials(pressed, events, 2.0, **options)
    assert modelled.trials["trial_type"].tolist() == clean.trials["trial_type"].tolist()
    assert correlate(modelled.betas, clean.betas).min() > 0.9999
    assert np.median(correlate(ignored.betas, clean.betas)) < 0.95
    with pytest.raises(ValueError, match="no event has the trial_type 'pres'; there are c0"):
        fit_single_trials(bold, events, 2.0, nuisance_events=["pres"])


def test_trial_table_is_chronological_and_keeps_own_columns(small: tuple) -> None:
    bold, events = small
    shuffled = [table.sample(frac=1, random_state=0).assign(stim_id="x", response=np.arange(len(table))) for table in events]
    fit = fit_single_trials(bold, shuffled, 2.0, models="fithrf", condition_column="trial_type", sessions=["a", "b"], n_threads=1)
    trials = fit.trials
    assert trials.groupby("run_id")["onset"].apply(lambda onsets: onsets.is_monotonic_increasing).all()
    assert trials["stim_id"].tolist() == pd.concat(events)["trial_type"].tolist()
    assert trials["session_id"].tolist() == ["a"] * len(events[0]) + ["b"] * len(events[1])
    expected = shuffled[0].sort_values("onset")["response"].tolist()
    assert trials["response"].tolist()[: len(expected)] == expected


def test_trials_cut_off_or_held_out_take_no_part_in_choices(small: tuple) -> None:
    bold, events = small
    late = [table.copy() for table in events]
    late[1].loc[late[1].index[-1], "onset"] = 297.0
    flagged = fit_single_trials(bold, late, 2.0, models="fithrf", n_threads=1)
    assert flagged.trials["flag"].ne("n/a").sum() == 1
    assert flagged.trials["flag"].iloc[-1] == "cut off by the end of the run"
    together = [pd.concat([events[0], events[0][3:4].assign(trial_type="other")]), events[1]]
    collinear = fit_single_trials(bold, together, 2.0, models="fithrf", n_threads=1).trials
    assert collinear["trial"][collinear["flag"] == "collinear with other trials"].tolist() == [3, 4]
    held_out = [table.assign(split="test") for table in events]
    fit = fit_single_trials(bold, held_out, 2.0, models="fithrfdenoise", n_threads=1)
    assert list(fit.models) == ["fithrf"] and "nothing to choose its settings by" in fit.notes[0]


def test_hrf_libraries_in_three_forms(small: tuple, tmp_path: Any) -> None:
    bold, events = small
    times = np.arange(0, 24, 2.0)
    curve = (times**5 * np.exp(-times))[:, None]
    np.savetxt(tmp_path / "library.tsv", curve)
    options = {"models": "fithrf", "n_threads": 1}
    array = fit_single_trials(bold, events, 2.0, hrf_library=curve, **options)
    table = fit_single_trials(bold, events, 2.0, hrf_library=tmp_path / "library.tsv", **options)
    record = fit_single_trials(bold, events, 2.0, hrf_library=HRFLibrary(curve, 2.0, convolved=True), **options)
    np.testing.assert_allclose(array.betas, table.betas, rtol=1e-5)
    np.testing.assert_array_equal(array.betas, record.betas)
    assert array.library.n_hrfs == 1
    with pytest.raises(ValueError, match="assumed_hrf is one curve, and there are 2"):
        fit_single_trials(bold, events, 2.0, assumed_hrf=np.column_stack([curve, curve]))


def test_fractions_units_and_folds_are_handed_on(small: tuple) -> None:
    bold, events = small
    fit = fit_single_trials(bold, events, 2.0, models="fithrfdenoiserr", fractions=[0.3], pcs_stop=-1, cv_folds=[[0], [1]], n_threads=1)
    assert fit.best.fraction is not None and set(fit.best.fraction[fit.valid]) == {0.3}
    assert fit.n_pcs == 1
    fewest = fit_single_trials(bold, events, 2.0, models="fithrfdenoise", pcs_rule="smallest", n_threads=1)
    within = fewest.pc_curve >= fewest.pc_curve.max() - fewest.pc_curve_se[fewest.pc_curve.argmax()]
    assert fewest.n_pcs == int(np.argmax(within))
    raw = fit_single_trials(bold, events, 2.0, models="fithrf", units="raw", n_threads=1)
    percent = fit_single_trials(bold, events, 2.0, models="fithrf", n_threads=1)
    np.testing.assert_allclose(raw.betas * 100 / raw.mean, percent.betas, rtol=1e-3, atol=1e-5)


def _with(table: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    changed = table.copy()
    changed[column] = changed[column].astype(object) if isinstance(value, str | None) else changed[column]
    changed.loc[changed.index[2], column] = value
    return changed


BAD_BOLD = {
    "four dimensions": (lambda bold: [np.ones((2, 2, 2, 9))], r"bold has shape \(2, 2, 2, 9\), not \(volumes, units\); for an image"),
    "runs in one array": (lambda bold: np.stack(bold), "for several runs give a list of arrays"),
    "other units": (lambda bold: [bold[0], bold[1][:, :5]], r"bold\[1\] has 5 units and bold\[0\] 40"),
    "no numbers": (lambda bold: [bold[0], bold[1].astype(str)], r"bold\[1\] is not an array of real numbers"),
    "nothing": (lambda bold: [], "bold holds no run"),
    "no volumes": (lambda bold: [bold[0], bold[1][:0]], r"bold\[1\] is empty"),
    "a lost volume": (lambda bold: [bold[0], np.where(np.arange(150)[:, None] == 17, np.nan, bold[1])], r"bold\[1\].* in volume 17"),
    "constant": (lambda bold: [np.ones((150, 40)), bold[1]], r"bold\[0\] cannot be fitted: every unit is constant"),
}


@pytest.mark.parametrize("fault", BAD_BOLD)
def test_bad_series_are_named(fault: str, small: tuple) -> None:
    make, message = BAD_BOLD[fault]
    with pytest.raises((TypeError, ValueError), match=message):
        fit_single_trials(make(small[0]), small[1], 2.0)


BAD_EVENTS = {
    "too few": (lambda events: events[0], "bold has 2 runs and events 1"),
    "no frame": (lambda events: [events[0], 3], r"events\[1\] is a int, not a DataFrame"),
    "no condition": (lambda events: [t.drop(columns="trial_type") for t in events], "no column stim_id or stim_file or trial_type"),
    "no onset": (lambda events: [t.rename(columns={"onset": "time"}) for t in events], r"events\[0\] has no column 'onset'; it has time"),
    "onset outside": (
        lambda events: [events[0], _with(events[1], "onset", 300.0)],
        r"events\[1\], row 2: the onset, 300 s, is outside of the run, 150 volumes in 300 s",
    ),
    "onset missing": (lambda events: [_with(events[0], "onset", np.nan), events[1]], r"events\[0\], row 2: the onset is nan"),
    "onset text": (lambda events: [_with(events[0], "onset", "soon"), events[1]], r"events\[0\]: the column onset is not numbers"),
    "duration negative": (lambda events: [_with(events[0], "duration", -1.0), events[1]], r"events\[0\], row 2: the duration is -1"),
    "condition missing": (lambda events: [_with(events[0], "trial_type", None), events[1]], r"events\[0\], row 2: trial_type is missing"),
    "twice": (lambda events: [pd.concat([events[0], events[0][:2]]), events[1]], r"stands there twice \(and 1 more such rows\)"),
    "split": (lambda events: [t.assign(split="validation") for t in events], "split is 'validation', not one of train, test"),
    "none": (lambda events: [t[:0] for t in events], "events hold no trial"),
}


@pytest.mark.parametrize("fault", BAD_EVENTS)
def test_bad_events_are_named(fault: str, small: tuple) -> None:
    make, message = BAD_EVENTS[fault]
    with pytest.raises((TypeError, ValueError), match=message):
        fit_single_trials(small[0], make(small[1]), 2.0)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "milliseconds": ({"repetition_time": 2000}, "repetition_time is 2000.*milliseconds"),
    "start times": ({"start_time": [0, 1, 2]}, r"start_time is one number of seconds, or one a run \(2\)"),
    "confounds of one run": ({"confounds": np.ones((150, 2))}, "bold has 2 runs and confounds 1"),
    "short confounds": ({"confounds": [np.ones((150, 2)), np.ones((140, 2))]}, r"confounds\[1\] has shape \(140, 2\), not \(150 volumes"),
    "gap in confounds": (
        {"confounds": [pd.DataFrame({"trans_x": [*range(75), np.nan, *range(74)]})] * 2},
        r"confounds\[0\], column trans_x: the value of volume 75 is not finite",
    ),
    "too many confounds": ({"confounds": [np.random.default_rng(0).normal(size=(150, 150))] * 2}, "leave no degrees of freedom"),
    "sessions": ({"sessions": ["a"]}, "sessions has 1 labels for 2 runs"),
    "folds": ({"cv_folds": [[1, 2]]}, r"cv_folds: \[1, 2\] is no fold of 2 runs"),
    "model": ({"models": ["fitrhf"]}, "models: 'fitrhf' is not one of"),
    "conform in compat": ({"compat": True, "models": ["conform"]}, "models conform: GLMsingle has no such model; leave out compat"),
    "option out of range": ({"n_pcs": 1000}, "n_pcs: 1000 is above the maximum"),
    "unknown option": ({"npcs": 3}, "no option 'npcs'; those of the model are .*n_pcs"),
    "option about files": ({"trial_filter": "onset > 3"}, "no option 'trial_filter'"),
    "device": ({"device": "gpu"}, "device is 'gpu'; it is cpu, or cuda"),
    "threads": ({"n_threads": 0}, "n_threads is 0, below 1"),
    "library": ({"hrf_library": np.zeros((5, 2))}, "hrf_library: .*no positive peak"),
}


@pytest.mark.parametrize("fault", BAD_OPTIONS)
def test_bad_options_are_named(fault: str, small: tuple) -> None:
    options, message = BAD_OPTIONS[fault]
    with pytest.raises((TypeError, ValueError), match=message):
        fit_single_trials(*small, **{"repetition_time": 2.0, **options})


def test_example_of_the_docstring_runs() -> None:
    outcome = doctest.testmod(api)
    assert outcome.attempted > 10 and outcome.failed == 0


def test_every_option_of_the_model_is_documented() -> None:
    words = set(re.findall(r"\w+", fit_single_trials.__doc__ or ""))
    about_files = {"engine", "trial_filter", "fit_scope", "session_groups", "write", "dataset_config"}
    assert {entry.name for entry in dataclasses.fields(GLMSettings)} - about_files - {"model"} <= words
