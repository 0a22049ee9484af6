"""The figures, numbers and pages of conform-glm, from made-up results to valid, honest output."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.spaces import SurfaceSpace, VolumeSpace
from conform_bids.glm.report import (
    FigureContext,
    RunTiming,
    describe_methods,
    draw_figures,
    metrics_path,
    write_group_report,
    write_participant_report,
)
from conform_bids.glm.report.metrics import find_numbers
from conform_bids.glm.settings import GLMSINGLE_MODELS as COMPAT
from conform_bids.glm.settings import GLMSettings
from conform_bids.numerics.scores import odd_even_reliability

HOSTILE = "<script>alert('x')</script>"
PLOTS = ("timing", "trials", "collinearity", "hrf", "pcs", "fraction", "reliability", "repeats", "runs", "drift")
N_FIGURES = len(PLOTS) + 12
ABOUT = {"conform-glm": "9.9.9", "Run": "now"}
FOREIGN_COLUMNS = {"session", "run", "task", "subject", "space"}


def make_result(folder, n_units, models=("fithrf", "fithrfdenoiserr"), n_conditions=6, n_runs=4, seed=0):
    """An engine's folder with two units set aside, and its trials; every condition once a run."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    condition, run = np.tile(np.arange(n_conditions), n_runs), np.repeat(np.arange(n_runs), n_conditions)
    response = np.where(np.arange(n_units) % 4 == 0, 1.5, 0.0)
    valid = np.arange(n_units) >= 2
    onoff = np.where(valid, 20 * response + rng.random(n_units), np.nan)
    arrays = {"valid": valid, "mean": 900 + rng.random(n_units), "onoff_rsquared": onoff, "hrf_index": rng.integers(0, 5, n_units)}
    arrays |= {
        "fraction": rng.choice([0.5, 1.0], n_units),
        "noise_pool": onoff < 1,
        "pc_voxels": onoff > 5,
        "pc_curve": np.array([0.0, 3, 2]),
    }
    arrays |= {"hrf_library": rng.random((40, 5)), "hrf_times": np.arange(40.0), "assumed_hrf": rng.random(40)}
    for model in models:
        betas = rng.standard_normal((n_conditions, n_units))[condition] * response + rng.standard_normal((len(condition), n_units))
        arrays |= {f"{model}_betas": betas.astype(np.float32), f"{model}_rsquared": 30 + onoff, f"noise_ceiling_{model}": onoff}
        arrays[f"{model}_rsquared_run"] = 30 + rng.random((n_runs, n_units))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    summary = {"n_units": n_units, "n_valid": n_units - 2, "n_set_aside": {"constant": 2, "nan": 0, "empty": 0}, "n_trials": len(condition)}
    summary |= {"n_conditions": n_conditions, "n_repeated": n_conditions, "n_runs": n_runs, "sessions": [], "noise_pool_threshold": 1.0}
    summary |= {"pcs_threshold": 5.0, "n_pcs": 1, "n_pcs_cross_validated": True, "n_noise_pool": int((onoff < 1).sum()), "notes": [HOSTILE]}
    summary |= {"polynomial_degree": [1] * n_runs, "hrf_names": [], "fractions": [0.5, 1.0], "models": list(models), "units": "percent"}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return condition, run


def make_trials(condition, run, session=None):
    names = [HOSTILE, "face", "house", "$x_{", "cat", "shoe"]
    onset = 4.0 + 6 * np.tile(np.arange(6), len(condition) // 6)
    stimuli = [names[code] for code in condition]
    columns = {"trial": np.arange(len(condition)), "session_id": session or "n/a", "run_id": [f"{k + 1:02d}" for k in run], "onset": onset}
    columns |= {"duration": 2.0, "trial_type": stimuli, "stim_id": stimuli, "condition": condition, "repetition": run, "split": "n/a"}
    timing = tuple(RunTiming(session, f"{k + 1:02d}", 24, 2.0, 1.0) for k in range(run.max() + 1))
    return pd.DataFrame({**columns, "flag": "n/a"}), timing


def make_series(n_runs, n_units, n_volumes=24):
    """Runs whose first unit is constant and whose second is zero, with a temporal SNR of 100."""
    rng = np.random.default_rng(1)
    series = [1000 + 10 * rng.standard_normal((n_volumes, n_units)).astype(np.float32) for _ in range(n_runs)]
    for run in series:
        run[:, 0], run[:, 1] = 7, 0
    return tuple(series)


def with_confounds(timing, folder):
    """The runs with a table of confounds each, a quarter of whose volumes moved by 1 mm."""
    table = pd.DataFrame({"framewise_displacement": ["n/a", *([0.1, 0.1, 1.0, 0.1] * 6)[:23]], "std_dvars": ["n/a", *[1.2] * 23]})
    table.to_csv(folder / "confounds.tsv", sep="\t", index=False)
    return tuple(replace(run, confounds=folder / "confounds.tsv") for run in timing)


def half_slice():
    mask = np.zeros((20, 12, 1), bool)
    mask[2:18, 1:10] = True
    return VolumeSpace(label="T1w", shape=mask.shape, affine=np.eye(4) * 3, mask=mask, zooms=(3.0, 3.0, 3.0), qform=np.eye(4) * 3)


def draw(output, results, space=None, session=None, **changes):
    space = half_slice() if space is None else space
    entities = {"sub": "01", **({"ses": session} if session else {}), "task": "x", "space": space.label, **changes}
    folder = results / "_".join(entities.values())
    condition, run = make_result(folder, space.n_units)
    trials, timing = make_trials(condition, run, session)
    trials.loc[[3, 9], "flag"] = "cannot be told from others"
    series = make_series(len(timing), space.n_units)
    aside = (("onset outside of the run", "events.tsv:3"),)
    context = FigureContext(entities, with_confounds(timing, folder), aside, ("a warning",), series)
    return draw_figures(folder, space, trials, GLMSettings(), context, output), folder, trials


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The outputs of one fit, drawn once."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder / "out", folder / "results")
    return folder / "out"


def copy_fit(drawn, output, label="01", session=None):
    """The drawn fit as that of another participant or session."""
    place = output / f"sub-{label}" / (f"ses-{session}" if session else "")
    for path in drawn.rglob("sub-01_*"):
        name = path.name.replace("sub-01_", f"sub-{label}_" + (f"ses-{session}_" if session else ""))
        target = (output / f"sub-{label}" / "figures" if path.parent.name == "figures" else place / "func") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return output / metrics_path({"sub": label, **({"ses": session} if session else {}), "task": "x", "space": "T1w"})


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def test_draws_every_figure_under_a_bids_name(output, results):
    files, _, _ = draw(output, results)
    assert all(path.is_file() for path in files)
    names = {path.name.removeprefix("sub-01_task-x_space-T1w_") for path in files}
    assert names == {
        *(f"desc-{plot}_bold.svg" for plot in PLOTS),
        *(f"stat-{stat}_desc-{model}_statmap.png" for stat in ("rsquared", "noiseceiling") for model in ("fithrf", "fithrfdenoiserr")),
        "stat-rsquared_desc-onoff_statmap.png",
        "stat-reliability_desc-fithrfdenoiserr_statmap.png",
        "stat-singletrial_desc-fithrfdenoiserr_statmap.png",
        "stat-hrfpeak_desc-fithrfdenoiserr_statmap.png",
        "stat-fraction_desc-fithrfdenoiserr_statmap.png",
        "stat-tsnr_desc-preproc_statmap.png",
        "desc-setaside_statmap.png",
        "desc-noisepool_statmap.png",
        "desc-glm_metrics.tsv",
        "desc-glm_metrics.json",
    }
    assert files[-2] == output / metrics_path({"sub": "01", "task": "x", "space": "T1w"})


def test_numbers_are_those_of_the_arrays(output, results):
    _, folder, trials = draw(output, results)
    (numbers,), problems = find_numbers(output, ["01"])
    assert not problems and numbers.entities == {"sub": "01", "task": "x", "space": "T1w"}
    onoff, valid = np.load(folder / "onoff_rsquared.npy"), np.load(folder / "valid.npy")
    reliability = odd_even_reliability(np.load(folder / "fithrf_betas.npy"), trials["condition"], trials["run_id"].astype(int))
    assert numbers.get("median_onoff_rsquared") == pytest.approx(np.nanmedian(onoff), rel=1e-5)
    assert numbers.get("n_units_responsive") == np.sum(onoff > 5)
    assert numbers.get("median_odd_even_r", "fithrf") == pytest.approx(np.median(reliability[valid]), rel=1e-5)
    assert numbers.get("median_odd_even_r_responsive", "fithrf") == pytest.approx(np.median(reliability[onoff > 5]), rel=1e-5)
    assert numbers.get("n_units_constant") == 2 and numbers.get("n_trials_set_aside") == 1
    assert numbers.notes == (HOSTILE, "a warning") and numbers.trials_set_aside == (("onset outside of the run", "events.tsv:3"),)


def test_page_holds_everything_and_escapes_trial_types(output, drawn):
    copy_fit(drawn, output)
    (page,) = write_participant_report("01", output, GLMSettings(), ABOUT, ["it <b>broke</b>"], 4)
    text = page.read_text(encoding="utf-8")
    assert page == output / "sub-01.html" and "<script" not in text and "&lt;script&gt;" in text and "<b>" not in text
    assert text.count("<img ") == N_FIGURES and "figure is missing" not in text
    for words in (
        "Design and timing",
        "Task x · space-T1w",
        "9.9.9",
        "Prince et al., 2022",
        "events.tsv:3",
        "Units constant in a run",
        "it &lt;b&gt;",
    ):
        assert words in text


def test_report_from_the_folder_alone_survives_what_is_missing(output, drawn):
    table = copy_fit(drawn, output)
    for name in ("timing", "trials", "hrf"):
        (output / "sub-01" / "figures" / f"sub-01_task-x_space-T1w_desc-{name}_bold.svg").unlink()
    table.with_suffix(".json").write_text("{", encoding="utf-8")
    text = write_participant_report("01", output, GLMSettings(), ABOUT, [], 4)[0].read_text(encoding="utf-8")
    assert "figure is missing: desc-timing" in text
    table.write_text("nonsense\n1\n", encoding="utf-8")
    text = write_participant_report("01", output, GLMSettings(), ABOUT, [], 4)[0].read_text(encoding="utf-8")
    assert "numbers of this fit are missing" in text and "not a table of conform-glm" in text
    nobody = write_participant_report("99", output, GLMSettings(), ABOUT, [], 4)[0].read_text(encoding="utf-8")
    assert "no results for this participant" in nobody


def test_many_sessions_have_pages_of_their_own(output, drawn):
    for session in ("1", "2", "10"):
        copy_fit(drawn, output, session=session)
    assert [path.name for path in write_participant_report("01", output, GLMSettings(), ABOUT, [], 3)] == ["sub-01.html"]
    pages = write_participant_report("01", output, GLMSettings(), ABOUT, [], 2)
    assert [path.name for path in pages] == ["sub-01.html", "sub-01_ses-1.html", "sub-01_ses-2.html", "sub-01_ses-10.html"]
    assert 'href="sub-01_ses-10.html"' in pages[0].read_text(encoding="utf-8") and "<img" not in pages[0].read_text(encoding="utf-8")
    assert pages[3].read_text(encoding="utf-8").count("<img ") == N_FIGURES


def test_surfaces_without_repeats_or_thresholds(output, results):
    space = SurfaceSpace(label="fsnative", n_left=60, n_right=50)
    folder = results / "a"
    condition, run = make_result(folder, 110, models=("assumehrf",))
    for name in ("hrf_index", "fraction", "noise_pool", "pc_voxels", "pc_curve", "noise_ceiling_assumehrf"):
        (folder / f"{name}.npy").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "pcs_threshold": None, "n_pcs": None, "noise_pool_threshold": None}))
    trials, timing = make_trials(condition, run)
    trials["condition"], trials["run_id"] = np.arange(len(trials)), "01"
    context = FigureContext({"sub": "01", "task": "x", "space": "fsnative"}, timing[:1])
    (folder / "assumehrf_rsquared_run.npy").unlink()
    names = [path.name for path in draw_figures(folder, space, trials, GLMSettings(), context, output)]
    assert not [name for name in names if "reliability" in name or "hrf_bold" in name or "hemi" in name]
    text = write_participant_report("01", output, GLMSettings(), ABOUT, [], 4)[0].read_text(encoding="utf-8")
    assert "Odd-even reliability could not be computed" in text


def test_group_has_a_row_a_fit_and_names_that_pybids_bears(output, drawn):
    for label, session in (("01", "a"), ("01", "b"), ("02", None), ("10", None)):
        copy_fit(drawn, output, label, session)
    table, page = write_group_report(output, ["10", "02", "01", "03"], GLMSettings(), ABOUT)
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [(row["participant_id"], row["session_id"]) for row in rows] == [
        ("sub-01", "a"),
        ("sub-01", "b"),
        ("sub-02", "n/a"),
        ("sub-10", "n/a"),
    ]
    assert not FOREIGN_COLUMNS & set(rows[0]) and rows[0]["n_units_set_aside"] == "2" and rows[0]["n_trials"] == "24"
    assert all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", row["median_odd_even_r_fithrfdenoiserr"]) for row in rows)
    text = page.read_text(encoding="utf-8")
    assert "Without results: sub-03" in text and "<img " in text
    assert sorted(path.name for path in output.iterdir() if path.is_file()) == ["group_glm.html", "group_glm.tsv"]


def test_group_of_nobody_is_a_table_without_rows(output):
    table, page = write_group_report(output, ["01"], GLMSettings(), ABOUT)
    assert table.read_text(encoding="utf-8").startswith("participant_id\tsession_id") and "No participant has results" in page.read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    ("settings", "said", "unsaid"),
    [
        (
            GLMSettings(model=COMPAT),
            ["rokem2020fracridge", "kay2013glmdenoise", "exact onset", "up to 10"],
            ["mumford2012", "**assumehrf**", "confounds"],
        ),
        (GLMSettings(model=("assumehrf",)), ["canonical HRF"], ["rokem2020", "kay2013", "allen2022nsd]; responses"]),
        (
            GLMSettings(model=("fithrf",), lss=True, compat="glmsingle"),
            ["mumford2012", "floor(onset / TR + .5)", "StartTime was ignored"],
            ["exact onset"],
        ),
        (
            GLMSettings(model=COMPAT, pcs_stop=-3, fractions=(0.4,), confounds=("trans_*",)),
            ["3 of them", "fraction of 0.4", "trans_*"],
            ["cross-validation"],
        ),
        (
            GLMSettings(model=COMPAT, units="raw", autoscale=False, stimulus_duration=3.0),
            ["not rescaled", "boxcar of 3 s", "units of the BOLD"],
            ["percent of the"],
        ),
    ],
)
def test_methods_say_what_was_used_and_nothing_else(settings, said, unsaid):
    methods = describe_methods(settings, "1.2.3")
    assert "1.2.3" in methods.text and "prince2022glmsingle" in methods.keys
    assert all(words in methods.text for words in said)
    assert not [words for words in unsaid if words in methods.text]
    assert set(methods.keys) == set(re.findall(r"@([\w-]+)", methods.text))


def draw_reduced(output, folder, n_runs, n_conditions, *, series=(), space=None, **changes):
    """Draw what is left of a fit, with changes to its arrays."""
    space = half_slice() if space is None else space
    condition, run = make_result(folder, space.n_units, n_conditions=n_conditions, n_runs=n_runs)
    for name, array in changes.items():
        np.save(folder / f"{name}.npy", array)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    summary["n_valid"] = int(np.load(folder / "valid.npy").sum())
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    onset = 2.0 * np.tile(np.arange(n_conditions), n_runs)
    names = np.char.add("s", condition.astype(str))
    columns = {"trial": np.arange(len(run)), "session_id": "n/a", "run_id": [f"{k + 1:02d}" for k in run], "onset": onset}
    columns |= {"duration": 2.0, "trial_type": names, "stim_id": names, "condition": condition, "repetition": run, "split": "n/a"}
    timing = tuple(RunTiming(None, f"{k + 1:02d}", max(24, n_conditions + 20), 2.0) for k in range(n_runs))
    context = FigureContext({"sub": "01", "task": "x", "space": space.label}, timing, series=series)
    draw_figures(folder, space, pd.DataFrame({**columns, "flag": "n/a"}), GLMSettings(), context, output)
    (numbers,), problems = find_numbers(output, ["01"])
    page = write_participant_report("01", output, GLMSettings(), ABOUT, [], 4)[0].read_text(encoding="utf-8")
    assert not problems and "figure is missing" not in page
    return numbers, page


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_one_run_without_repeats_or_confounds(output, results):
    numbers, page = draw_reduced(output, results / "a", n_runs=1, n_conditions=12)
    assert np.isnan(numbers.get("median_odd_even_r", "fithrf")) and np.isnan(numbers.get("median_single_trial_r", "fithrf"))
    assert np.isnan(numbers.get("median_tsnr")) and np.isnan(numbers.get("mean_framewise_displacement"))
    assert numbers.get("n_trials_flagged") == 0 and numbers.get("median_variance_inflation") > 2
    assert "FD (mm)" not in page and "Variance inflation" in page
    assert numbers.get("design_efficiency") == pytest.approx(numbers.runs[0]["DesignEfficiency"], abs=1e-4) and "Efficiency" in page


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_unit_fitted(output, results):
    space = half_slice()
    nothing = np.full((24, space.n_units), np.nan, np.float32)
    changes = {"valid": np.zeros(space.n_units, bool), "noise_pool": np.zeros(space.n_units, bool)}
    numbers, page = draw_reduced(output, results / "a", n_runs=2, n_conditions=4, series=(nothing, nothing), **changes)
    assert numbers.get("n_units_responsive") == 0 and np.isnan(numbers.get("median_tsnr")) and "Units set aside" in page


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_thousands_of_trials(output, results):
    numbers, _ = draw_reduced(
        output, results / "a", n_runs=12, n_conditions=200, space=SurfaceSpace(label="fsnative", n_left=60, n_right=50)
    )
    assert numbers.get("n_runs") == 12 and numbers.get("median_single_trial_r_responsive", "fithrf") == pytest.approx(0.7, abs=0.15)


def test_runs_are_measured_and_what_deviates_is_said(drawn):
    (numbers,), _ = find_numbers(drawn, ["01"])
    assert numbers.get("median_tsnr") == pytest.approx(100, rel=0.1) and numbers.get("n_units_partial") == 0
    moved = np.mean(([0.1, 0.1, 1.0, 0.1] * 6)[:23])
    assert numbers.get("mean_framewise_displacement") == pytest.approx(moved, rel=1e-4)
    assert numbers.get("share_displaced") == pytest.approx(100 * 6 / 23, rel=1e-4) and numbers.get("mean_std_dvars") == pytest.approx(1.2)
    assert numbers.get("n_trials_flagged") == 2 and numbers.get("design_efficiency") == pytest.approx(
        1 / np.mean([1 / run["DesignEfficiency"] for run in numbers.runs]), rel=1e-2
    )
    assert numbers.trials_flagged == (("cannot be told from others", "run 01", 1), ("cannot be told from others", "run 02", 1))
    assert [run["Label"] for run in numbers.runs] == ["run 01", "run 02", "run 03", "run 04"]
    assert all("moved" in run["Remarks"] and run["ShareDisplaced"] > 20 for run in numbers.runs)


def test_group_names_who_stands_out(output, drawn):
    labels = [f"{number:02d}" for number in range(1, 10)]
    path = [copy_fit(drawn, output, label) for label in labels][3]
    path.write_text(re.sub(r"median_tsnr\tn/a\t[\d.]+", "median_tsnr\tn/a\t3", path.read_text("utf-8")), "utf-8")
    table, page = write_group_report(output, labels, GLMSettings(), ABOUT)
    assert {"median_tsnr", "share_displaced", "max_variance_inflation", "design_efficiency", "median_single_trial_r_fithrf"} <= set(
        pd.read_csv(table, sep="\t")
    )
    rows = re.findall(r"<tr><td[^>]*>(sub-\d+)</td><td>x</td><td>T1w</td><td>([^<]+)</td>", page.read_text("utf-8"))
    assert rows == [("sub-04", "Temporal SNR")]
