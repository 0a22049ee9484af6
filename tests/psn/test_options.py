"""Every option of conform-psn changes or fixes something that can be seen in what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.options import options_of
from conform_bids.psn import apply
from conform_bids.psn.settings import METHODS, PSNSettings

Fit = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_betas: Any, beta_spec: Any) -> tuple[Path, np.ndarray]:
    """Two sessions with an offset between them, 24 stimuli shown twice in each, two flagged trials, stimuli 3 and 4 in a column `half`."""
    spec = beta_spec(descs=("conform", "fithrf"), scale=2.0, flagged=2, test=(3, 4), column="half")
    return make_betas(tmp_path_factory.mktemp("options") / "glm", spec)


@pytest.fixture(scope="module")
def fit(made: tuple[Path, np.ndarray], fit_betas: Any, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Fit with the flags given; the same flags are fitted once."""
    known: dict[tuple[str, ...], Any] = {}

    def run(*flags: object) -> Any:
        typed = tuple(map(str, flags))
        if typed not in known:
            base = () if "--method" in typed else ("--method", "standard")
            (known[typed],) = fit_betas(made[0], tmp_path_factory.mktemp("fit"), *base, *typed)
        return known[typed]

    return run


def effect(fit: Any, name: str = "psn") -> np.ndarray:
    return fit.array(name).astype(float)


def test_every_option_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    for option in options_of(PSNSettings):
        assert f'"{option.flag}"' in text, option.flag


@pytest.mark.slow
def test_method(fit: Fit, made: Any) -> None:
    names = [name for name in METHODS if name != "compare"]  # which takes one of the other bases
    done = {name: effect(fit("--method", name)) for name in names}
    for k, first in enumerate(names):
        assert np.isfinite(done[first]).all()
        for second in names[k + 1 :]:
            assert not np.allclose(done[first], done[second])
    assert fit("--method", "wiener").sidecar("_stat-effect_desc-psn_statmap.json")["Method"] == "wiener"
    compared = fit("--method", "compare")
    assert np.isfinite(effect(compared)).all()
    assert compared.table("_desc-parcels_metrics.tsv")["method"][0].startswith("compare (")
    assert fit("--method", "calibrated").output("_stat-a_desc-psn_statmap.nii.gz").exists()


def test_input_desc(fit: Fit) -> None:
    done = fit("--input-desc", "fithrf")
    assert done.sidecar("_stat-effect_desc-psn_statmap.json")["BetaModel"] == "fithrf"
    assert fit().sidecar("_stat-effect_desc-psn_statmap.json")["BetaModel"] == "conform"
    np.testing.assert_allclose(effect(done, "trialavg"), 1.5 * effect(fit("--no-rescale"), "trialavg"), rtol=1e-3, atol=1e-3)


def test_rescale_doubles_deviations_from_the_mean(fit: Fit) -> None:
    flags = ("--no-session-zscore", "--keep-flagged")
    scaled, plain = effect(fit(*flags), "trialavg"), effect(fit("--no-rescale", *flags), "trialavg")
    assert np.polyfit((plain - plain.mean(0)).ravel(), (scaled - scaled.mean(0)).ravel(), 1)[0] == pytest.approx(2, rel=1e-3)
    np.testing.assert_allclose(scaled.mean(0), plain.mean(0), atol=0.1)
    assert fit().sidecar("_stat-effect_desc-psn_statmap.json")["AmplitudesRescaled"]
    assert not fit("--no-rescale").sidecar("_stat-effect_desc-psn_statmap.json")["AmplitudesRescaled"]


def test_session_zscore(fit: Fit) -> None:
    standardised, plain = fit("--session-zscore"), fit("--no-session-zscore")
    np.testing.assert_array_equal(effect(standardised), effect(fit()))  # there are two sessions
    assert not np.allclose(effect(plain), effect(standardised))
    assert not plain.sidecar("_stat-effect_desc-psn_statmap.json")["ZScoredWithinSessions"]
    # offsets between sessions are in the noise of responses that are not standardised
    assert plain.array("noise_variance").mean() > 1.05 * standardised.array("noise_variance").mean()


def test_flagged_trials(fit: Fit) -> None:
    done = fit("--keep-flagged")
    assert len(done.loaded.trials) == 96
    assert len(fit().loaded.trials) == 92
    assert not any("flagged" in note for note in done.summary["notes"])
    assert any("4 of 96 trials are flagged" in note for note in fit().summary["notes"])
    assert fit().table("_desc-psn_trials.tsv")["n_trials"].sum() == 92


def test_split_by_column_and_by_file(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "split.tsv").write_text(
        "stim_id\tsplit\n" + "".join(f"s{k:02d}\t{'test' if k in (3, 4) else 'train'}\n" for k in range(24))
    )
    by_column, by_file = fit("--split", "half"), fit("--split", tmp_path / "split.tsv")
    for done in (by_column, by_file):
        table = done.table("_desc-psn_trials.tsv")
        assert table["stim_id"][table["split"] == "test"].tolist() == ["s03", "s04"]
        assert (table["fold"][table["split"] == "test"] == "n/a").all()
        assert (table["fold"][table["split"] == "train"] != "n/a").all()
        content = done.sidecar("_stat-effect_desc-psn_statmap.json")
        assert (content["SplitGiven"], content["FitIncludesTest"]) == (True, False)
        assert not any("NO SPLIT" in note for note in done.summary["notes"])
    np.testing.assert_array_equal(effect(by_column), effect(by_file))
    np.testing.assert_array_equal(effect(by_column, "crossfit")[3], effect(by_column)[3])
    content = fit().sidecar("_stat-effect_desc-psn_statmap.json")
    assert (content["SplitGiven"], content["FitIncludesTest"]) == (False, True)
    assert content["FittedStimuliHash"] != by_column.sidecar("_stat-effect_desc-psn_statmap.json")["FittedStimuliHash"]
    assert any("NO SPLIT" in note for note in fit().summary["notes"])
    with pytest.raises(MissingInputError, match="neither a file nor a column"):
        fit("--split", "nothing")


def test_test_stimuli_do_not_reach_the_denoiser(tmp_path: Path, make_betas: Any, beta_spec: Any, fit_betas: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec(test=(3, 4)))
    (before,) = fit_betas(dataset, tmp_path / "before", "--method", "standard")
    for path in dataset.rglob("*stat-effect*.nii.gz"):
        image = nib.load(path)
        values = np.asarray(image.dataobj).copy()
        names = next(path.parent.glob("*_trials.tsv")).read_text().splitlines()[1:]
        values[..., [any(f"\t{stim}\t" in line for stim in ("s03", "s04")) for line in names]] *= 7
        nib.save(nib.Nifti1Image(values, image.affine), path)
    (after,) = fit_betas(dataset, tmp_path / "after", "--method", "standard")
    train = [k for k in range(24) if k not in (3, 4)]
    np.testing.assert_array_equal(effect(before)[train], effect(after)[train])
    assert not np.allclose(effect(before)[[3, 4]], effect(after)[[3, 4]])


def test_threshold_level_and_unit_groups(fit: Fit, tmp_path: Path) -> None:
    labels = np.ones((5, 5, 4), np.int16)
    labels[:, :, 2:] = 2
    nib.save(nib.Nifti1Image(labels, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / "groups.nii.gz")
    whole, unit = fit(), fit("--threshold-level", "unit")
    group = fit("--threshold-level", "group", "--unit-groups", tmp_path / "groups.nii.gz")
    assert len(np.unique(whole.array("dimensions"))) == 1
    assert len(np.unique(unit.array("dimensions"))) > 1
    assert not np.allclose(effect(group), effect(whole))
    assert not np.allclose(effect(group), effect(unit))
    assert set(np.unique(group.loaded.groups)) == {0, 1}


def test_basis_criterion_and_alpha(fit: Fit) -> None:
    plain = fit()
    for flags in (("--basis", "pca"), ("--criterion", "variance"), ("--alpha", 1)):
        assert not np.allclose(effect(fit(*flags)), effect(plain)), flags
    np.testing.assert_allclose(effect(fit("--alpha", 1)), effect(plain, "trialavg"), rtol=1e-3, atol=1e-3)  # which keeps all


def test_n_folds(fit: Fit) -> None:
    done = fit("--n-folds", 3)
    assert set(done.table("_desc-psn_trials.tsv")["fold"].astype(int)) == {0, 1, 2}
    assert not np.allclose(effect(done, "crossfit"), effect(fit(), "crossfit"))
    np.testing.assert_array_equal(effect(done), effect(fit()))


def test_no_gain(tmp_path: Path, make_betas: Any, beta_spec: Any, fit_betas: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec(noise=60.0))
    (kept,) = fit_betas(dataset, tmp_path / "keep", "--method", "wiener")
    (passed,) = fit_betas(dataset, tmp_path / "pass", "--method", "wiener", "--no-gain", "pass")
    (zeroed,) = fit_betas(dataset, tmp_path / "zero", "--method", "wiener", "--no-gain", "zero")
    assert kept.table("_desc-parcels_metrics.tsv")["outcome"].tolist() == ["denoised"]
    assert "no better" in kept.table("_desc-parcels_metrics.tsv")["note"][0]
    assert passed.table("_desc-parcels_metrics.tsv")["outcome"].tolist() == ["passed"]
    assert zeroed.table("_desc-parcels_metrics.tsv")["outcome"].tolist() == ["zeroed"]
    np.testing.assert_allclose(effect(passed), effect(passed, "trialavg"), rtol=1e-5, atol=1e-5)
    assert np.ptp(effect(zeroed), axis=0).max() < 1e-3
    for done in (passed, zeroed):
        again = apply(done.output("_decomposition.h5"), effect(done, "trialavg"), 4)
        np.testing.assert_allclose(again, effect(done), rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_parcellation_and_size(fit: Fit, tmp_path: Path) -> None:
    assert set(np.unique(fit().array("parcel"))) == {1}  # auto: few units are one parcel
    clusters = fit("--parcellation", "clusters", "--parcel-size", 25)
    sizes = np.bincount(clusters.array("parcel"))[1:]
    assert len(sizes) == 4
    assert sizes.max() <= 40
    np.testing.assert_array_equal(fit("--parcellation", "whole").array("parcel"), fit().array("parcel"))
    labels = np.zeros((5, 5, 4), np.int16)
    labels[:, :, 1], labels[:, :, 2:] = 3, 7
    nib.save(nib.Nifti1Image(labels, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / "atlas.nii.gz")
    (tmp_path / "atlas.tsv").write_text("index\tname\n3\tthree\n7\tseven\n")
    atlas = fit("--parcellation", tmp_path / "atlas.nii.gz")
    assert atlas.table("_desc-parcels_metrics.tsv")["name"].tolist() == ["three", "seven"]
    np.testing.assert_array_equal(atlas.array("parcel"), np.repeat([[0, 1, 2, 2]], 25, axis=0).ravel())
    outside = atlas.array("parcel") == 0
    assert np.isnan(effect(atlas)[:, outside]).all()
    assert np.isfinite(effect(atlas, "trialavg")[:, outside]).all()
    assert (atlas.array("status")[outside] == 4).all()
    assert any("25 of 100 units are outside" in note for note in atlas.summary["notes"])
    assert atlas.sidecar("_stat-effect_desc-psn_statmap.json")["Settings"]["parcellation"] == "atlas.nii.gz"


def test_output_units(fit: Fit) -> None:
    standard = fit("--output-units", "z")
    assert standard.sidecar("_stat-effect_desc-psn_statmap.json")["Units"] == "z"
    assert fit().sidecar("_stat-effect_desc-psn_statmap.json")["Units"] == "percent signal change"
    slopes = np.array([np.polyfit(z, raw, 1)[0] for z, raw in zip(effect(standard).T, effect(fit()).T, strict=True)])
    assert (slopes > 0).all()
    np.testing.assert_allclose(effect(standard).mean(0), 0, atol=0.2)


def test_write(fit: Fit) -> None:
    done = fit("--write", "noise", "removed", "components")
    np.testing.assert_array_equal(effect(done), effect(fit()))
    assert not any("psnnoise" in path.name or "psnremoved" in path.name or "_components" in path.name for path in fit().written)
    np.testing.assert_allclose(effect(done, "removed"), effect(done, "trialavg") - effect(done), atol=1e-5)
    noise = np.asarray(nib.load(done.output("_stat-effect_desc-psnnoise_statmap.nii.gz")).dataobj)
    assert noise.shape == (5, 5, 4, 92)
    table = done.table("_desc-psnnoise_trials.tsv")
    for condition in (0, 7):
        np.testing.assert_allclose(noise[..., (table["condition"] == condition).to_numpy()].mean(-1), 0, atol=1e-4)
    assert done.sidecar("_stat-effect_desc-psnnoise_statmap.json")["TrialTable"].endswith("desc-psnnoise_trials.tsv")
    components = effect(done, "components")
    np.testing.assert_allclose(np.linalg.norm(components, axis=1), 1, atol=1e-4)


def test_random_seed(fit: Fit) -> None:
    first, second = fit("--method", "stacked"), fit("--method", "stacked", "--random-seed", 5)
    assert second.sidecar("_stat-effect_desc-psn_statmap.json")["RandomSeed"] == 5
    assert not np.array_equal(effect(first), effect(second))


def test_saved_maps_and_tables(fit: Fit, made: tuple[Path, np.ndarray]) -> None:
    done = fit()
    image = np.asarray(nib.load(done.output("_stat-effect_desc-psn_statmap.nii.gz")).dataobj)
    np.testing.assert_array_equal(image.reshape(100, 24).T, done.array("psn"))
    assert np.asarray(nib.load(done.output("_stat-ncsnr_desc-psn_statmap.nii.gz")).dataobj).ndim == 3
    table = done.table("_desc-psn_trials.tsv")
    assert list(table.columns) == ["condition", "stim_id", "n_trials", "split", "first_trial", "fold"]
    assert table["stim_id"].tolist() == sorted(table["stim_id"])
    spectrum = done.table("_eigenspectrum.tsv")
    assert {"parcel", "dimension", "signal_variance", "noise_variance", "passed"} <= set(spectrum.columns)
    assert len(done.table("sub-01_stimuli.tsv")) == 24
    assert done.table("sub-01_stimuli.tsv")["stim_file"].unique().tolist() == ["images/x.png"]


@pytest.mark.parametrize("method", ["stacked", "standard", "wiener"])
def test_apply_denoises_as_the_fit_did(method: str, fit: Fit) -> None:
    done = fit("--method", method, "--parcellation", "clusters", "--parcel-size", 25)
    counts = done.table("_desc-psn_trials.tsv")["n_trials"].to_numpy()
    again = apply(done.output("_decomposition.h5"), effect(done, "trialavg"), counts)
    np.testing.assert_allclose(again, effect(done), rtol=1e-3, atol=2e-3)
    with pytest.raises(ValueError, match="of 100 units"):
        apply(done.output("_decomposition.h5"), np.zeros((2, 7)))


def test_apply_refuses_what_is_no_decomposition(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(UnusableInputError, match="not a decomposition"):
        apply(tmp_path / "text.h5", np.zeros((1, 2)))
    with pytest.raises(MissingInputError, match="no such file"):
        apply(tmp_path / "none.h5", np.zeros((1, 2)))


def test_denoised_responses_are_nearer_to_the_truth(fit: Fit, made: tuple[Path, np.ndarray]) -> None:
    truth = made[1]
    done = fit("--method", "stacked", "--no-rescale")
    active = truth.std(0) > 0
    before, after = (
        np.mean([np.corrcoef(effect(done, name)[:, unit], truth[:, unit])[0, 1] for unit in np.flatnonzero(active)])
        for name in ("trialavg", "psn")
    )
    assert after > before + 0.05


def test_sessions_of_another_grid_are_refused(tmp_path: Path, make_betas: Any, beta_spec: Any, fit_betas: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec())
    for path in (dataset / "sub-01" / "ses-02" / "func").glob("*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    with pytest.raises(UnusableInputError, match=r"ses-02.*its grid is not that of"):
        fit_betas(dataset, tmp_path / "fit")


def test_maps_and_trials_that_do_not_fit_are_refused(tmp_path: Path, make_betas: Any, beta_spec: Any, fit_betas: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec())
    table = next(dataset.rglob("*ses-02*_trials.tsv"))
    table.write_text("".join(f"{line}\n" for line in table.read_text().splitlines()[:-1]))
    with pytest.raises(UnusableInputError, match=r"48 maps, but .* has 47 trials"):
        fit_betas(dataset, tmp_path / "fit")


def test_missing_and_constant_units_are_set_aside(tmp_path: Path, make_betas: Any, beta_spec: Any, fit_betas: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec())
    for path in dataset.rglob("*stat-effect*.nii.gz"):
        image = nib.load(path)
        values = np.asarray(image.dataobj).copy()
        values[0, 0, 0], values[0, 0, 1] = np.nan, 3.0
        nib.save(nib.Nifti1Image(values, image.affine), path)
    (done,) = fit_betas(dataset, tmp_path / "fit", "--method", "standard")
    assert (done.array("status")[:2] == 5).all()
    assert np.isnan(effect(done)[:, 0]).all()
    assert np.isfinite(effect(done)[:, 2:]).all()
    assert done.summary["n_units_by_status"]["constant or absent"] == 2


def test_clusters_are_made_of_units_with_data(tmp_path: Path, make_betas: Any, beta_spec: Any, fit_betas: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec())
    for path in dataset.rglob("*stat-effect*.nii.gz"):
        image = nib.load(path)
        values = np.asarray(image.dataobj).copy()
        values[3:], values[2, 0, 0] = np.nan, 1.0
        nib.save(nib.Nifti1Image(values, image.affine), path)
    (done,) = fit_betas(dataset, tmp_path / "fit", "--method", "wiener", "--parcellation", "clusters", "--parcel-size", 20)
    with_data = np.isfinite(effect(done, "trialavg")).all(axis=0) & (np.ptp(effect(done, "trialavg"), axis=0) > 0)
    assert with_data.sum() == 59
    assert (done.array("parcel")[with_data] > 0).all()
    assert (done.array("parcel")[~with_data] == 0).all()
    assert (done.array("status")[~with_data] == 5).all()
    assert done.table("_desc-parcels_metrics.tsv")["outcome"].isin(["denoised", "passed"]).all()


def test_amplitudes_are_rescaled_alike_by_the_app_and_the_engine() -> None:
    from conform_bids.numerics.compute import Compute
    from conform_bids.psn.load import rescale_amplitudes
    from conform_bids.psn.numerics.engine import EngineOptions, TrialSet, denoise_parcels

    generator = np.random.default_rng(0)
    condition, train = np.repeat(np.arange(10), 3), np.repeat(np.arange(10) > 1, 3)
    betas = (generator.standard_normal((30, 12)) + generator.standard_normal((10, 12))[condition]).astype(np.float32) + 3
    scale = np.array([1.0, 1.5, 4.0, np.nan] * 3)
    trials, parcel = TrialSet(condition, np.zeros(30, np.intp), train), np.zeros(12, np.intp)
    scaled = betas.copy()
    rescale_amplitudes(scaled, scale, train)
    np.testing.assert_allclose(scaled[train].mean(0), betas[train].mean(0), rtol=1e-5)
    np.testing.assert_allclose(scaled[train].std(0), betas[train].std(0) * np.nan_to_num(scale, nan=1.0), rtol=1e-4)
    options = EngineOptions(method="wiener", session_zscore=False, null_parcels=0, crossfit=False)
    inside = denoise_parcels(np.ascontiguousarray(betas.T), trials, parcel, options, Compute(), scale=scale).arrays
    outside = denoise_parcels(np.ascontiguousarray(scaled.T), trials, parcel, options, Compute()).arrays
    for name in ("trialavg", "psn"):
        np.testing.assert_allclose(inside[name], outside[name], rtol=1e-3, atol=1e-4)
    wild = betas.copy()
    rescale_amplitudes(wild, np.array([0.1, 500.0, -3.0] * 4), train)  # slopes that are chance are held within bounds
    np.testing.assert_allclose(wild[train].std(0) / betas[train].std(0), [1, 50, 1] * 4, rtol=1e-3)


@pytest.mark.slow
def test_a_parcel_of_more_than_3000_units_takes_the_dual_form(
    make_betas: Any, beta_spec: Any, fit_betas: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("SHAPE", (15, 15, 14)), ("N_UNITS", 3150)):
        monkeypatch.setitem(make_betas.__globals__, name, value)
    dataset, truth = make_betas(tmp_path / "glm", beta_spec(noise=2.0, test=(3, 4)))
    (whole,) = fit_betas(dataset, tmp_path / "whole", "--parcellation", "whole")
    (parcel,) = whole.table("_desc-parcels_metrics.tsv").to_dict("records")
    assert (parcel["method"], parcel["n_units"], parcel["outcome"]) == ("stacked (dual)", 3150, "denoised")

    def error(fit: Any, name: str) -> float:
        found, true = (values - values.mean(axis=0) for values in (effect(fit, name), truth))
        return float(np.square(found - true).mean() / true.var())

    for name in ("psn", "crossfit"):
        assert error(whole, name) < 0.5 * error(whole, "trialavg"), name
    # one decomposition stands for all units, and denoises as the fit did
    again = apply(whole.output("_decomposition.h5"), effect(whole, "trialavg"), 4)
    np.testing.assert_allclose(again, effect(whole), atol=5e-3)
