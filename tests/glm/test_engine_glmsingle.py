"""``--engine glmsingle`` with a stand-in for the package that checks what it is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conform_bids.errors import UsageError

STAND_IN = """
import json, os
from pathlib import Path
import numpy as np

class GLM_single:
    def __init__(self, params):
        self.params = params

    def fit(self, design, data, stimdur, tr, outputdir=None, figuredir=None):
        params, n_units = self.params, data[0].shape[0]
        plain = {key: np.asarray(value).tolist() for key, value in params.items() if key not in ("extra_regressors", "xvalscheme")}
        plain["xvalscheme"] = [np.atleast_1d(fold).tolist() for fold in params["xvalscheme"]]
        plain["extra_regressors"] = [np.asarray(values).shape for values in params.get("extra_regressors", [])]
        call = dict(params=plain, stimdur=stimdur, tr=tr, shapes=[values.shape for values in data], design=[d.tolist() for d in design])
        Path(os.environ["STAND_IN_LOG"]).write_text(json.dumps(call))
        rows = [(run, volume, condition) for run, d in enumerate(design) for volume, condition in zip(*np.nonzero(d))]
        betas = np.array([1 + 100 * run + volume for run, volume, _ in rows]) * np.ones((n_units, 1, 1, 1))
        flat = lambda value: np.full((n_units, 1, 1), value)
        pool = np.arange(n_units)[:, None, None] % 2 == 0
        fitted = dict(betasmd=betas, R2=flat(30.0), R2run=np.full((n_units, 1, 1, len(data)), 20.0), HRFindex=flat(3))
        n_pcs = params["n_pcs"]
        denoised = dict(fitted, noisepool=pool, pcvoxels=~pool, pcnum=2, xvaltrend=np.arange(n_pcs + 1.0) - 7,
                        pcregressors=[np.zeros((values.shape[1], n_pcs + 1)) for values in data])
        return dict(typea=dict(betasmd=flat(1.5), onoffR2=flat(25.0)), typeb=fitted, typec=denoised,
                    typed=dict(fitted, betasmd=betas / 2, FRACvalue=flat(0.35)))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Make `glmsingle.glmsingle` importable; the result reads what it was given."""
    package = tmp_path / "packages" / "glmsingle"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "glmsingle.py").write_text(STAND_IN)
    for name in ("glmsingle", "glmsingle.glmsingle"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "call.json"))
    return lambda: dict(json.loads((tmp_path / "call.json").read_text()))


@pytest.fixture
def dataset(tmp_path: Path, make_dataset: Any, run_data: Any) -> Path:
    """Three runs of 40 volumes of 8 voxels, of which the last is empty; onsets off the grid."""
    generator = np.random.default_rng(3)
    runs = []
    for run in ("1", "2", "3"):
        series = 500 + generator.standard_normal((8, 40))
        series[7] = 0
        events = pd.DataFrame({"onset": [4.4, 11.6, 20.2, 30.0], "duration": 2.0, "trial_type": ["b", "a", "b", "a"]})
        confounds = pd.DataFrame({"trans_x": generator.standard_normal(40), "trans_y": generator.standard_normal(40)})
        runs.append(run_data(series, events, run, None, confounds))
    return make_dataset(tmp_path / "data", runs, 2.0)


def test_the_package_gets_the_same_inputs_and_its_results_are_written(
    dataset: Path, tmp_path: Path, fit_dataset: Any, stand_in: Callable[[], dict[str, Any]]
) -> None:
    flags = ["--engine", "glmsingle", "--model", "fithrf", "fithrfdenoise", "fithrfdenoiserr", "--confounds", "trans_*", "--n-pcs", "4"]
    flags += ["--pcs-stop", "1.2", "--brain-threshold", "90", "0.2", "--noise-pool-r2", "3", "--pcs-r2", "4", "--fractions", "0.5", "1"]
    flags += ["--no-autoscale", "--lss", "--units", "raw", "--polynomial-degree", "1", "--cv-folds", "1,2", "3"]
    (fit,) = fit_dataset(dataset, tmp_path / "fit", *flags)
    call = stand_in()
    params = call["params"]
    assert (call["stimdur"], call["tr"], call["shapes"]) == (2.0, 2.0, [[7, 40]] * 3)
    design = np.array(call["design"])
    assert design.shape == (3, 40, 2)
    assert [tuple(pair) for pair in np.argwhere(design[0])] == [(2, 1), (6, 0), (10, 1), (15, 0)]
    expected = {
        "wantlibrary": 1, "wantglmdenoise": 1, "wantfracridge": 1, "n_pcs": 4, "pcstop": 1.2, "brainthresh": [90, 0.2], "brainR2": 3,
        "pcR2cutoff": 4, "fracs": [1.0, 0.5], "wantautoscale": 0, "wantlss": 1, "wantpercentbold": 1, "maxpolydeg": [[0, 1]] * 3,
        "xvalscheme": [[0, 1], [2]], "sessionindicator": [[1, 1, 1]], "extra_regressors": [[40, 2]] * 3, "wantfileoutputs": [0] * 4,
        "wantmemoryoutputs": [1] * 4,
    }  # fmt: skip
    assert {key: params[key] for key in expected} == expected
    assert set(params) == set(expected)
    # the package ignores raw units in two of its models, so they are made of percent here
    betas = fit.array("fithrf_betas") / (fit.array("mean").astype(np.float32) / np.float32(100))
    np.testing.assert_allclose(betas[:, 0], [1 + 100 * run + volume for run in range(3) for volume in (2, 6, 10, 15)], rtol=1e-5)
    np.testing.assert_allclose(fit.array("fithrfdenoiserr_betas")[:, 0], fit.array("fithrf_betas")[:, 0] / 2, rtol=1e-5)
    assert np.isnan(betas[:, 7]).all()
    assert fit.array("hrf_index").tolist() == [3] * 7 + [-1]
    assert fit.array("noise_pool").tolist() == [True, False] * 3 + [True, False]
    assert fit.summary["n_pcs"] == 2
    np.testing.assert_array_equal(fit.array("pc_curve"), np.arange(5))
    np.testing.assert_array_equal(fit.array("fraction")[:7], 0.35)
    assert fit.sidecar("_stat-effect_desc-fithrf_statmap.json")["Engine"] == "glmsingle"
    assert "Fitted by the GLMsingle package." in fit.summary["notes"]
    assert not list(tmp_path.rglob("figures"))


def test_its_own_defaults_are_left_to_it(dataset: Path, tmp_path: Path, fit_dataset: Any, stand_in: Callable[[], dict[str, Any]]) -> None:
    fit_dataset(dataset, tmp_path / "fit", "--engine", "glmsingle", "--model", "fithrf")
    params = stand_in()["params"]
    assert (params["wantglmdenoise"], params["wantfracridge"]) == (0, 0)
    assert params["extra_regressors"] == []
    assert not {"maxpolydeg", "brainR2", "pcR2cutoff", "hrflibrary", "hrftoassume"} & set(params)


def test_absent_package_is_a_usage_error_that_says_how_to_install_it(dataset: Path, tmp_path: Path, run_app: Any) -> None:
    flags = ("--engine", "glmsingle", "--skip-bids-validation", "-w", tmp_path / "work")
    done = run_app("glm", dataset, tmp_path / "out", "participant", *flags)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "not installed" in done.stderr
    assert "pip install git+https://github.com/cvnlab/GLMsingle" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*_statmap.*"))


def test_what_the_package_cannot_do_is_refused(dataset: Path, tmp_path: Path, fit_dataset: Any, stand_in: Any) -> None:
    with pytest.raises(UsageError, match="assumehrf"):
        fit_dataset(dataset, tmp_path / "fit", "--engine", "glmsingle", "--model", "assumehrf")
    events = next(dataset.rglob("*run-2_events.tsv"))
    events.write_text("onset\tduration\ttrial_type\n4\t2\ta\n4.3\t2\tb\n")
    with pytest.raises(UsageError, match="one volume"):
        fit_dataset(dataset, tmp_path / "again", "--engine", "glmsingle", "--model", "fithrf")
