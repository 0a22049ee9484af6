"""The reference cases through files: a BIDS dataset of each, planned, read, fitted and saved, against GLMsingle's output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

CASES = ("a_event_related", "c_unequal_runs_extra_regressors", "e_structured_noise")
MODELS = {"fithrf": "typeb", "fithrfdenoise": "typec", "fithrfdenoiserr": "typed"}


def write_case(case: Any, root: Path, make_dataset: Any, run_data: Any) -> Path:
    """A dataset whose voxels, volumes and trials are the case's."""
    runs, tr = [], float(case["in_tr"])
    for run in range(len(case["in_run_lens"])):
        events = case["in_events"][case["in_events"][:, 0] == run]
        table = pd.DataFrame(
            {"onset": events[:, 1] * tr, "duration": float(case["in_stimdur"]), "trial_type": [f"c{c:03d}" for c in events[:, 2]]}
        )
        confounds = None
        if f"in_extra_run{run}" in case:
            extra = case[f"in_extra_run{run}"]
            confounds = pd.DataFrame(extra, columns=[f"extra_{column:02d}" for column in range(extra.shape[1])])
            confounds["other"] = 1.0
        runs.append(run_data(case[f"in_data_run{run}"], table, f"{run + 1:02d}", confounds=confounds))
    return make_dataset(root, runs, tr)


@pytest.fixture(scope="module", params=CASES)
def case_and_fit(
    request: pytest.FixtureRequest,
    reference_case: Callable[[str], Any],
    make_dataset: Any,
    run_data: Any,
    fit_dataset: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Any, np.ndarray]:
    """The case, its fit through files, and the voxels to compare."""
    case, folder = reference_case(request.param), tmp_path_factory.mktemp("case")
    dataset = write_case(case, folder / "data", make_dataset, run_data)
    np.savetxt(folder / "assumed.tsv", case["hrftoassume"].reshape(-1, 1))
    flags = ["--compat", "glmsingle", "--model", "assumehrf", *MODELS, "--assumed-hrf", str(folder / "assumed.tsv")]
    threshold = repr(float(case["brainR2_threshold"]))
    flags += ["--noise-pool-r2", threshold, "--pcs-r2", threshold]
    flags += ["--confounds", "extra_*"] if "in_extra_run0" in case else []
    (fit,) = fit_dataset(dataset, folder, *flags)
    compared = np.isfinite(case["typea_onoffR2"].ravel())
    if "truth_const_vox" in case:
        compared[case["truth_const_vox"]] = False
    return case, fit, compared


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (values - values.mean(0, dtype=float) for values in (first, second))
    return (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))


def saved(fit: Any, stat: str, model: str) -> np.ndarray:
    """A map as it lies in the output folder, (units,) or (trials, units)."""
    values = np.asarray(nib.load(fit.output(f"_stat-{stat}_desc-{model}_statmap.nii.gz")).dataobj)
    return values[:, 0, 0].T


def test_hrf_index(case_and_fit: tuple) -> None:
    case, fit, compared = case_and_fit
    for model in MODELS:
        assert (saved(fit, "hrfindex", model) == case["typeb_HRFindex"].ravel())[compared].mean() >= 0.99


def test_ridge_fraction(case_and_fit: tuple) -> None:
    case, fit, compared = case_and_fit
    same = np.abs(saved(fit, "fraction", "fithrfdenoiserr") - case["typed_FRACvalue"].ravel()) < 1e-3
    assert same[compared].mean() >= 0.99


def test_noise_pool_and_number_of_regressors(case_and_fit: tuple) -> None:
    case, fit, compared = case_and_fit
    pool = np.asarray(nib.load(fit.output("_desc-noisepool_mask.nii.gz")).dataobj)[:, 0, 0]
    assert (pool.astype(bool) == case["typec_noisepool"].ravel().astype(bool))[compared].all()
    assert fit.summary["n_pcs"] == int(case["typec_pcnum"])
    assert fit.sidecar("_stat-effect_desc-fithrfdenoise_statmap.json")["NumberOfNoiseRegressors"] == int(case["typec_pcnum"])


@pytest.mark.parametrize("model", MODELS)
def test_betas(model: str, case_and_fit: tuple) -> None:
    case, fit, compared = case_and_fit
    reference = case[f"{MODELS[model]}_betasmd"].reshape(len(compared), -1).T[:, compared]
    betas = saved(fit, "effect", model)[:, compared]
    assert correlate(betas, reference).min() > 0.9999
    np.testing.assert_allclose(betas, reference, atol=1e-3 * np.abs(reference).max())


def test_onoff_r2_and_mean(case_and_fit: tuple) -> None:
    case, fit, compared = case_and_fit
    reference = case["typea_onoffR2"].ravel()[compared]
    onoff = saved(fit, "rsquared", "assumehrf")[compared]
    assert np.corrcoef(onoff, reference)[0, 1] > 0.999
    np.testing.assert_allclose(onoff, reference, atol=0.05)
    np.testing.assert_allclose(saved(fit, "onoff", "assumehrf")[compared], case["typea_betasmd"].ravel()[compared], atol=5e-3)
    np.testing.assert_allclose(saved(fit, "mean", "fithrf")[compared], case["typea_meanvol"].ravel()[compared], rtol=1e-5)


def test_trials_and_regressors(case_and_fit: tuple) -> None:
    case, fit, _ = case_and_fit
    trials = fit.table("_desc-fithrfdenoiserr_trials.tsv")
    assert trials["stim_id"].tolist() == [f"c{condition:03d}" for condition in case["in_events"][:, 2]]
    assert [int(run) - 1 for run in trials["run_id"]] == case["in_events"][:, 0].tolist()
    n_extra = case["in_extra_run0"].shape[1] if "in_extra_run0" in case else 0
    assert [len(names) for names in fit.loaded.regressor_names] == [n_extra] * len(case["in_run_lens"])
