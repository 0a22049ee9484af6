"""conform-encode on continuous movies, end to end: the truth is found, repeats bound the score, and what cannot be used is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.derivatives import BIDSIGNORE_SHORT
from conform_bids.bids.gifti import write_arrays
from conform_bids.bids.weights import read_weights
from conform_bids.encode.fitted import Fitted
from conform_bids.encode.movie_fit import MovieModel
from conform_bids.encode.movie_plan import draw_movies
from conform_bids.encode.movie_questions import predict_movies
from conform_bids.encode.numerics.movies import delayed
from conform_bids.encode.planner import find_stimuli
from conform_bids.encode.settings import EncodeSettings
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.numerics.compute import Compute
from conform_bids.stimuli.feature_files import write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
COMMON = ("--skip-bids-validation", "--nprocs", "1", "--design", "movie", "--bootstraps", "50")
STEM = "sub-01_task-movie_space-MNI152NLin2009cAsym_res-2"


def maps(path: Path) -> np.ndarray:
    values: np.ndarray = np.asarray(nib.load(path).get_fdata(), dtype=np.float64)
    return values.reshape(-1, values.shape[3]).T if values.ndim == 4 else values.ravel()


def of(out: Path, stat: str, desc: str = "ridge") -> np.ndarray:
    return maps(out / "sub-01" / "func" / f"{STEM}_stat-{stat}_desc-{desc}_statmap.nii.gz")


def metrics(out: Path) -> pd.Series:
    return pd.read_csv(out / "sub-01" / "func" / f"{STEM}_desc-ridge_metrics.tsv", sep="\t", index_col="metric")["value"]


def notes(out: Path) -> str:
    return " ".join(json.loads((out / "sub-01" / "func" / f"{STEM}_desc-ridge_metrics.json").read_text())["Notes"] or [])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, make_movies: Any, run_encode: Any) -> Any:
    """A model of delayed features; tests must not write to it."""
    folder = tmp_path_factory.mktemp("movies")
    world = make_movies(folder)
    new = world.table
    write_features(new, folder / "new.npz")
    flags = ("--features", world.features / "truth.h5", "--confounds", "trans_*", "--write", "predictions", "--predict", folder / "new.npz")
    run = run_encode(world.dataset, folder / "out", "participant", "-w", folder / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    run.world, run.out, run.folder = world, folder / "out", folder
    return run


def test_delays_and_weights_are_near_the_truth_and_the_score_near_the_ceiling(done: Any) -> None:
    model = read_weights(done.out / "sub-01" / "func" / f"{STEM}_desc-ridge_weights.h5")
    assert model.feature_names[0].endswith("_delay2") and model.feature_names[-1].endswith("_delay5")
    truth = done.world.weights.reshape(-1, done.world.weights.shape[2])
    kept = np.flatnonzero(np.isfinite(model.intercept))
    assert len(kept) == truth.shape[1] - 1, "the unit that never varies has no model"
    assert np.median([np.corrcoef(model.weights[:, unit], truth[:, unit])[0, 1] for unit in kept]) > 0.93
    found = metrics(done.out)
    assert found["median_noiseceilingnormalized"] == pytest.approx(1, abs=0.05)
    assert found["units_above_chance"] == 1
    assert (found["n_train_movies"], found["n_test_movies"], found["n_runs"], found["n_test_volumes"]) == (3, 1, 5, 58)
    table = pd.read_csv(done.out / "sub-01" / "func" / f"{STEM}_desc-ridge_trials.tsv", sep="\t")
    assert table["n_trials"].tolist() == [2] * 58 + [1] * (len(table) - 58)
    assert set(table["stim_id"][:58]) == {"t"} and "t" not in set(table["stim_id"][58:])
    content = json.loads((done.out / "sub-01" / "func" / f"{STEM}_desc-ridge_metrics.json").read_text())
    assert (content["Delays"], content["Folds"], content["RepetitionTime"]) == ([2, 3, 4, 5], 3, 1.5)
    assert content["FitIncludesTest"] is False
    assert "'cross'" in notes(done.out)


def test_explainable_variance_is_what_noise_leaves_of_the_signal(done: Any) -> None:
    signal = done.world.clean[3][4:64].var(axis=0)[1:]  # volumes of the test movie
    share = 100 * signal / (signal + done.world.spec.noise**2)
    found = of(done.out, "explainablevariance")[1:]
    assert np.median(found) == pytest.approx(np.median(share), abs=8)
    assert np.corrcoef(found, share)[0, 1] > 0.5
    ceiling = of(done.out, "noiseceiling")[1:]
    np.testing.assert_allclose(ceiling, 200 * found / (100 + found), rtol=1e-3)


def test_predictions_are_a_map_a_volume_and_those_of_new_movies_begin_with_each_movie(done: Any) -> None:
    folder = done.out / "sub-01" / "func"
    table = pd.read_csv(folder / f"{STEM}_desc-ridge_trials.tsv", sep="\t")
    predicted = of(done.out, "prediction")
    assert len(predicted) == (table["split"] == "test").sum()
    new = pd.read_csv(folder / f"{STEM}_desc-ridgenew_trials.tsv", sep="\t")
    volumes = of(done.out, "prediction", "ridgenew")
    assert len(volumes) == len(new) == sum(round(length / 1.5) for length in done.world.spec.movies.values())
    rows = new["stim_id"] == "t"
    np.testing.assert_allclose(new["time"][rows], np.arange(60) * 1.5 + 0.75)
    model = read_weights(folder / f"{STEM}_desc-ridge_weights.h5")
    frames = done.world.frames["t"].reshape(60, 6, -1).mean(axis=1)  # six frames a volume
    late = np.concatenate([frames[5 - delay : 60 - delay] for delay in (2, 3, 4, 5)], axis=1)
    np.testing.assert_allclose(volumes[rows][5:, 1:], model.predict(late)[:, 1:], atol=2e-3)


def test_new_movies_without_names_are_told_apart_by_content(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).standard_normal((24, 2)).astype(np.float32)
    hashes, times = ["1" * 64] * 12 + ["2" * 64] * 12, np.tile(np.arange(12.0), 2)
    write_features(FeatureTable(frames, ["n/a"] * 24, hashes, FeatureCard(), times), tmp_path / "new.npz")
    card = {"name": "truth", "feature_names": ["a", "b"], "model": "n/a", "preprocessing_hash": "n/a"}
    weights = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    model = MovieModel([weights], np.zeros(2, np.float32), (1,), [(partial(delayed, delays=(1,)), np.ones(2, bool))], [np.zeros(2)])
    fitted = Fitted(model, np.zeros(2, np.float32), np.ones(2, np.float32), {}, {})
    plan: Any = SimpleNamespace(settings=SimpleNamespace(predict=tmp_path / "new.npz", chosen_backbone=None), feature_files=())
    loaded: Any = SimpleNamespace(cards=[card], repetition_time=1.0)
    predict_movies(plan, loaded, fitted, Compute())
    new = fitted.tables["new"]
    assert new["sha256"].tolist() == hashes and set(new["stim_id"]) == {"n/a"}
    np.testing.assert_allclose(fitted.arrays["new_predictions"][[5, 17]], frames[[4, 16]], atol=1e-6)


def test_the_report_shows_time_courses_and_delays(done: Any) -> None:
    page = (done.out / "sub-01.html").read_text(encoding="utf-8")
    for words in ("Time courses", "Weights by delay", "Explainable variance, median", "finite impulse response", "pieces of 20 s"):
        assert words in page, words
    assert (done.out / "sub-01" / "figures" / f"{STEM}_stat-timecourse_desc-ridge_bold.svg").is_file()


@pytest.mark.slow
def test_both_validators_pass(done: Any, repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("bidsschematools")
    schema = tmp_path / "schema.json"
    subprocess.run([sys.executable, repository / "tests" / "extended_schema.py", schema], check=True, timeout=60)
    copy = tmp_path / "copy"
    shutil.copytree(done.out, copy)
    (copy / ".bidsignore").write_text("".join(f"{line}\n" for line in BIDSIGNORE_SHORT))
    for folder, arguments in ((done.out, ()), (copy, ("-s", schema.as_uri()))):
        run = subprocess.run([VALIDATOR, folder, "--json", *arguments], capture_output=True, text=True, timeout=120, check=False)
        issues = [item for item in json.loads(run.stdout)["issues"]["issues"] if item["severity"] == "error"]
        assert (run.returncode, issues) == (0, [])


@pytest.mark.slow
def test_features_of_other_movies_predict_no_better_than_chance(done: Any, tmp_path: Path, run_encode: Any) -> None:
    table, rng = done.world.table, np.random.default_rng(5)
    order = np.lexsort((table.times, table.stim_ids))
    values = table.values.copy()
    shuffled = np.concatenate([rows[rng.permutation(len(rows))] for rows in np.array_split(order, 21)[::-1]])
    values[order] = table.values[shuffled]
    write_features(replace(table, values=values), tmp_path / "shuffled.h5")
    flags = ("--features", tmp_path / "shuffled.h5", "--confounds", "trans_*")
    run = run_encode(done.world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    found = metrics(tmp_path / "out")
    assert abs(found["median_correlation"]) < 0.15
    assert found["units_above_chance"] < 0.25
    assert found["median_cv_rsquared"] < 0.02


@pytest.mark.slow
def test_each_unit_has_the_hrf_that_the_glm_chose(tmp_path: Path, make_movies: Any, movie_spec: Any, run_encode: Any) -> None:
    world = make_movies(tmp_path, movie_spec(hrfs=(0, 12, 19), noise=0.3))
    glm = tmp_path / "glm"
    folder = glm / "sub-01" / "func"
    folder.mkdir(parents=True)
    described = {"Name": "glm", "BIDSVersion": "1.11.1", "DatasetType": "derivative", "GeneratedBy": [{"Name": "conform-glm"}]}
    (glm / "dataset_description.json").write_text(json.dumps(described))
    index = world.hrf_of_unit.astype(np.float32)
    index[5] = np.nan
    name = "sub-01_task-other_space-MNI152NLin2009cAsym_res-2_stat-hrfindex_desc-conform_statmap"
    nib.save(nib.Nifti1Image(index.reshape(4, 4, 3), np.diag([2.0, 2, 2, 1])), folder / f"{name}.nii.gz")
    flags = ("--features", world.features / "truth.h5", "--confounds", "trans_*", "-w", tmp_path / "work")
    scores = {}
    for hrf in ("glm", "assumed"):
        run = run_encode(world.dataset, tmp_path / f"out_{hrf}", "participant", *COMMON, *flags, "--hrf", hrf, "-d", f"conform-glm={glm}")
        assert run.status == 0, run.stderr
        scores[hrf] = metrics(tmp_path / f"out_{hrf}")
    assert scores["glm"]["median_noiseceilingnormalized"] == pytest.approx(1, abs=0.05)
    assert scores["glm"]["median_cv_rsquared"] > scores["assumed"]["median_cv_rsquared"] + 0.02
    model = read_weights(tmp_path / "out_glm" / "sub-01" / "func" / f"{STEM}_desc-ridge_weights.h5")
    truth = world.weights[0]
    units = [unit for unit in range(1, truth.shape[1]) if unit != 5]
    assert np.median([np.corrcoef(model.weights[:, unit], truth[:, unit])[0, 1] for unit in units]) > 0.97
    used = of(tmp_path / "out_glm", "hrfindex")
    np.testing.assert_array_equal(used[units], world.hrf_of_unit[units])
    assert np.isfinite(used[5]) and "1 of 48 units have no HRF" in notes(tmp_path / "out_glm")


@pytest.mark.slow
def test_videos_are_decoded_and_frames_averaged_over_volumes(tmp_path: Path, make_movies: Any, movie_spec: Any, run_encode: Any) -> None:
    av = pytest.importorskip("av")
    lengths = {"a.mp4": 30.0, "b.mp4": 30.0, "t.mp4": 24.0}
    world = make_movies(tmp_path, movie_spec(movies=lengths, runs=("a.mp4", "b.mp4", "t.mp4"), rest=4.5, split=False))
    stimuli = world.dataset / "stimuli"
    stimuli.mkdir()
    rng = np.random.default_rng(0)
    for name, length in lengths.items():
        with av.open(str(stimuli / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for _ in range(round(length * 5 / 15)):
                image = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
                for _ in range(15):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    flags = ("--frame-rate", "1", "--components", "3", "--text-queries", "dog", "--test-fraction", "0.3")
    run = run_encode(world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    assert "NO SPLIT IS GIVEN: 1 movies are drawn" in notes(tmp_path / "out")
    model = read_weights(tmp_path / "out" / "sub-01" / "func" / f"{STEM}_desc-ridge_weights.h5")
    assert len(model.weights) == 4 * 1280
    assert np.linalg.matrix_rank(np.float64(model.weights[:1280, 1:]), tol=1e-6) == 3
    assert model.cards[0]["preprocessing"]["frame_rate"] == 1
    assert of(tmp_path / "out", "query").shape == (1, 48)
    assert not list((tmp_path / "out" / "sub-01" / "func").glob("*noiseceiling*")), "no movie repeats"


@pytest.mark.slow
def test_movies_that_repeat_are_drawn_first_and_what_was_cut_off_is_used(
    tmp_path: Path, make_movies: Any, movie_spec: Any, run_encode: Any
) -> None:
    spec = movie_spec(movies={"a": 60.0, "b": 60.0, "c": 60.0}, runs=("a", "b", "c", "b"), split=False, rest=-12.0)
    world = make_movies(tmp_path, spec)
    flags = ("--features", world.features, "--confounds", "trans_x", "--delays", "2", "3", "4", "5", "--polynomial-degree", "1")
    run = run_encode(world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    said = notes(tmp_path / "out")
    assert "drawn and held out for the scores: 'b'" in said
    assert "'b' lasts until 66 s, and the run ends at 54 s" in said
    assert metrics(tmp_path / "out")["n_test_volumes"] <= 32
    assert metrics(tmp_path / "out")["median_correlation"] > 0.3


def _edit(world: SimpleNamespace, run: int, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = world.dataset / "sub-01" / "func" / f"sub-01_task-movie_run-{run:02d}_events.tsv"
    change(pd.read_csv(path, sep="\t", keep_default_na=False)).to_csv(path, sep="\t", index=False)


FAULTS = {
    "too short": (65, "features are there from 0 to 59.75 s"),
    "no time": (65, "its rows have no time"),
    "two rows": (65, "has two rows for the time"),
    "overlap": (65, "are on at once"),
    "unknown": (66, "none of the 5 stimuli"),
    "no confound": (66, "no confound matches"),
    "no glm": (66, "conform-glm"),
    "no features": (66, "stimuli"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_used_is_refused(fault: str, done: Any, tmp_path: Path, run_encode: Any) -> None:
    dataset, table = done.world.dataset, done.world.table
    flags: list[object] = ["--features", tmp_path / "t.h5"]
    if fault == "too short":
        kept = np.flatnonzero((np.array(table.stim_ids) != "b") | (table.times < 60))
        names = [table.stim_ids[k] for k in kept]
        table = FeatureTable(table.values[kept], names, ["n/a"] * len(kept), table.card, table.times[kept])
    elif fault == "no time":
        table = FeatureTable(table.values[:4], ["a", "b", "c", "t"], ["n/a"] * 4)
    elif fault == "two rows":
        table = replace(table, times=np.floor(table.times * 2) / 2)
    elif fault == "unknown":
        table = replace(table, stim_ids=[f"other {name}" for name in table.stim_ids])
    elif fault == "no confound":
        flags += ["--confounds", "rot_z"]
    elif fault == "no glm":
        flags += ["--hrf", "glm"]
    elif fault == "overlap":
        dataset = tmp_path / "data"
        shutil.copytree(done.world.dataset, dataset)
        more = pd.DataFrame({"onset": [20.0], "duration": [9.0], "trial_type": ["movie"], "stim_id": ["c"], "split": ["train"]})
        _edit(SimpleNamespace(dataset=dataset), 1, lambda events: pd.concat([events, more]))
    write_features(table, tmp_path / "t.h5")
    if fault == "no features":
        flags = []
    status, words = FAULTS[fault]
    run = run_encode(dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert (run.status, words in run.stderr + run.stdout) == (status, True), run.stderr + run.stdout


def test_features_of_movies_are_no_features_of_trials(done: Any, tmp_path: Path, make_world: Any, run_encode: Any) -> None:
    world = make_world(tmp_path)
    flags = ("--features", done.world.features / "truth.h5", "--skip-bids-validation", "--nprocs", "1")
    run = run_encode(world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *flags)
    assert run.status == 65
    assert "frames of movies" in run.stderr + run.stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"delays": (1, 2)}, "--delays has no effect without --design movie"),
        ({"confounds": ("trans_x",)}, "--confounds has no effect without --design movie"),
        ({"design": "movie", "hrf": "glm", "delays": (1,)}, "needs --hrf fir"),
        ({"design": "movie", "delays": (1, 1)}, "named twice"),
        ({"design": "movie", "hrf_library": Path("x.tsv")}, "needs --hrf glm"),
        ({"design": "movie", "input_desc": "psn"}, "--input-desc"),
        ({"design": "movie", "model": Path("model")}, "--model"),
        ({"design": "movie", "features": ("a.h5",), "frame_rate": 2.0}, "--frame-rate"),
        ({"features": ("a.h5",), "stimuli_dir": Path("films")}, "--stimuli-dir has no effect here"),
    ],
)
def test_options_without_effect_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EncodeSettings(**given)


def test_stimulus_files_serve_beside_tables(tmp_path: Path) -> None:
    """They tell movies apart by content and illustrate influences; what was named has to be there, the default need not be."""
    films, own = tmp_path / "films", tmp_path / "stimuli"
    films.mkdir()
    dataset: Any = SimpleNamespace(raw=tmp_path, bids_dir=tmp_path)
    tables: dict[str, Any] = {"features": ("a.h5",)}
    for asked in ({"design": "movie"}, {"model": Path("model"), "influence": True}):
        named = EncodeSettings(**tables, **asked, stimuli_dir=films)
        assert find_stimuli(dataset, named) == films
        assert find_stimuli(dataset, EncodeSettings(**tables, **asked)) is None
        own.mkdir()
        assert find_stimuli(dataset, EncodeSettings(**tables, **asked)) == own
        own.rmdir()
        with pytest.raises(MissingInputError, match="no such folder"):
            find_stimuli(dataset, replace(named, stimuli_dir=tmp_path / "elsewhere"))
    assert find_stimuli(dataset, EncodeSettings(**tables)) is None
    with pytest.raises(MissingInputError, match="no such folder"):
        find_stimuli(dataset, EncodeSettings())


def test_one_movie_alone_is_not_held_out() -> None:
    assert draw_movies(pd.DataFrame({"stim_id": ["a", "a"]}), 0.2, 0) == ()
    assert draw_movies(pd.DataFrame({"stim_id": ["a", "b", "c", "c"]}), 0.2, 3) == ("c",)
    assert draw_movies(pd.DataFrame({"stim_id": ["a", "b"]}), 0.0, 3) == ()


def test_frames_by_number_need_a_rate(tmp_path: Path) -> None:
    from conform_bids.errors import UnusableInputError
    from conform_bids.stimuli.feature_files import read_features

    arrays = {"features": np.ones((3, 2)), "stim_id": np.array(["a"] * 3), "frame": np.arange(3)}
    np.savez(tmp_path / "no.npz", **arrays)
    with pytest.raises(UnusableInputError, match="no frame_rate"):
        read_features(tmp_path / "no.npz")
    np.savez(tmp_path / "yes.npz", **arrays, card=np.array(json.dumps({"preprocessing": {"frame_rate": 8}})))
    np.testing.assert_allclose(read_features(tmp_path / "yes.npz").times, [0, 0.125, 0.25])
    for extension in (".h5", ".npz", ".parquet"):
        table = FeatureTable(np.ones((3, 2)), ["a"] * 3, ["n/a"] * 3, FeatureCard("m"), np.array([0.0, 1, 2]))
        write_features(table, tmp_path / f"again{extension}")
        np.testing.assert_array_equal(read_features(tmp_path / f"again{extension}").times, [0, 1, 2])


@pytest.mark.slow
def test_surfaces_and_several_feature_spaces(tmp_path: Path, make_movies: Any, movie_spec: Any, run_encode: Any) -> None:
    world = make_movies(tmp_path, movie_spec())
    folder = world.dataset / "derivatives" / "fmriprep" / "sub-01" / "func"
    for path in sorted(folder.glob("*_desc-preproc_bold.nii.gz")):
        series = np.asarray(nib.load(path).get_fdata(), dtype=np.float32).reshape(48, -1).T
        for hemi, half, structure in (("L", series[:, :24], "CortexLeft"), ("R", series[:, 24:], "CortexRight")):
            name = f"{path.name.split('_space')[0]}_hemi-{hemi}_space-fsaverage5_bold"
            write_arrays(half, folder / f"{name}.func.gii", None, np.dtype(np.float32), structure)
            (folder / f"{name}.json").write_text(json.dumps({"RepetitionTime": 1.5, "StartTime": 0.75}))
    noise = np.random.default_rng(8).standard_normal((len(world.table), 3))
    write_features(replace(world.table, values=noise, card=FeatureCard("noise")), world.features / "noise.h5")
    flags = ("--features", world.features, "--confounds", "trans_*", "--estimator", "banded", "-w", tmp_path / "work")
    several = run_encode(world.dataset, tmp_path / "several", "participant", *COMMON, *flags)
    assert several.status == 2 and "BOLD is in several spaces" in several.stderr
    run = run_encode(world.dataset, tmp_path / "out", "participant", *COMMON, *flags, "--output-spaces", "fsaverage5")
    assert run.status == 0, run.stderr
    stem = tmp_path / "out" / "sub-01" / "func" / "sub-01_task-movie_hemi-L_space-fsaverage5"
    shares, unique = (
        np.stack([array.data for array in nib.load(f"{stem}_stat-{stat}_desc-banded_statmap.func.gii").darrays])
        for stat in ("splitrsquared", "uniquevariance")
    )
    whole = nib.load(f"{stem}_stat-rsquared_desc-banded_statmap.func.gii").darrays[0].data
    np.testing.assert_allclose(shares.sum(axis=0), whole, atol=1e-3, equal_nan=True)
    noise_place, truth_place = 0, 1  # by file name
    assert np.nanmedian(shares[truth_place]) > 0.4 and abs(np.nanmedian(shares[noise_place])) < 0.08
    assert np.nanmedian(unique[truth_place]) > 0.4 and abs(np.nanmedian(unique[noise_place])) < 0.08


@pytest.mark.slow
def test_a_copy_of_a_test_movie_is_not_fitted_on(tmp_path: Path, make_movies: Any, run_encode: Any) -> None:
    world = make_movies(tmp_path)
    stimuli = tmp_path / "films"
    stimuli.mkdir()
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"the test movie"), ("t", b"the test movie")):
        (stimuli / name).write_bytes(content)
    flags = ("--features", world.features / "truth.h5", "--stimuli-dir", stimuli, "--confounds", "trans_*")
    run = run_encode(world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    assert "1 train movies have the content of a test movie under another name" in notes(tmp_path / "out")
    assert metrics(tmp_path / "out")["n_train_movies"] == 2
    table = pd.read_csv(tmp_path / "out" / "sub-01" / "func" / f"{STEM}_desc-ridge_trials.tsv", sep="\t")
    assert set(table["stim_id"]) == {"a", "b", "t"} and table["content_id"].str.len().eq(64).all()
