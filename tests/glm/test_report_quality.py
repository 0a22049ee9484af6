"""What the report measures of its own, against other ways to compute it."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.glm.report.quality import collinearity, read_motion, single_trial_agreement, survey_series


def test_temporal_snr_leaves_drifts_out_and_tells_states_apart():
    rng = np.random.default_rng(0)
    time = np.linspace(-1, 1, 400)[:, None]
    run = (500 + 80 * time + 30 * time**2 + 5 * rng.standard_normal((400, 6))).astype(np.float32)
    run[3, 1], run[:, 2], run[:, 3] = np.nan, 0, 12
    survey = survey_series([run, run[:200]], [2, 2])
    assert survey.state.tolist() == [[0, 1, 2, 3, 0, 0]] * 2
    residual = run[:, 4] - np.polynomial.Polynomial.fit(time[:, 0], run[:, 4], 2)(time[:, 0])
    assert survey.tsnr[0, 4] == pytest.approx(run[:, 4].mean() / (residual.std() * np.sqrt(400 / 397)), rel=1e-4)
    assert np.isnan(survey.tsnr[:, 1:4]).all()


def test_agreement_is_the_correlation_of_repeats():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((300, 3)) * [1.0, 0.5, 0.0]
    betas = np.concatenate([signal + rng.standard_normal(signal.shape) for _ in range(4)])
    condition, session = np.tile(np.arange(300), 4), np.repeat([0, 0, 1, 1], 300)
    found = single_trial_agreement(betas + 9 * session[:, None], condition, session)
    np.testing.assert_allclose(found, [0.5, 0.2, 0.0], atol=0.05)
    pairs = [np.corrcoef(betas[300 * i : 300 * i + 300, 0], betas[300 * j : 300 * j + 300, 0])[0, 1] for i in range(4) for j in range(i)]
    assert found[0] == pytest.approx(np.mean(pairs), abs=0.02)
    assert np.isnan(single_trial_agreement(betas[:300], np.arange(300))).all()
    once = np.r_[condition, 900]  # a condition that is shown once says nothing
    np.testing.assert_allclose(single_trial_agreement(np.vstack([betas, [[99.0] * 3]]), once), single_trial_agreement(betas, condition))


def test_agreement_of_uneven_repeats_is_not_biased():
    rng = np.random.default_rng(1)
    condition = np.repeat(np.arange(120), rng.integers(1, 6, 120))
    values = rng.standard_normal((120, 400))[condition] + rng.standard_normal((len(condition), 400))
    assert single_trial_agreement(values, condition).mean() == pytest.approx(0.5, abs=0.02)


def test_collinearity_falls_with_the_distance_of_trials():
    times = np.arange(0, 30, 0.1)
    curve = (times, times**5 * np.exp(-times))
    fast, slow = (collinearity(np.arange(20) * gap, 240, 1.0, curve, 2, np.zeros((240, 0))) for gap in (2.0, 11.0))
    assert np.median(fast.inflation) > 5 and np.median(slow.inflation) < 1.6
    assert (
        fast.by_distance(3)[0] > 0.5 > abs(slow.by_distance(3)[0])
        and len(fast.by_distance(30)) == 30
        and np.isnan(fast.by_distance(30)[-1])
    )
    twice = collinearity(np.array([10.0, 10.0, 90.0, 500.0]), 240, 1.0, curve, 2, np.ones((240, 1)))
    assert np.isinf(twice.inflation[[0, 1, 3]]).all() and twice.inflation[2] < 1.2
    assert twice.efficiency == 0 < 2 * fast.efficiency < slow.efficiency
    # noise of variance 1 leaves the least-squares betas the variance that the efficiency promises
    columns = np.interp(np.arange(240)[:, None] - np.arange(20) * 11.0, *curve, left=0.0)
    design = np.column_stack([columns, np.vander(np.linspace(-1, 1, 240), 3)])
    betas = np.linalg.lstsq(design, np.random.default_rng(0).standard_normal((240, 4000)), rcond=None)[0][:20]
    assert slow.efficiency == pytest.approx(1 / betas.var(), rel=0.03)


def test_motion_is_read_where_it_is_there(tmp_path):
    path = tmp_path / "confounds.tsv"
    path.write_text("framewise_displacement\tstd_dvars\nn/a\tn/a\n0.2\tn/a\n0.4\tn/a\n", encoding="utf-8")
    assert list(read_motion(path)) == ["framewise_displacement"]
    np.testing.assert_array_equal(read_motion(path)["framewise_displacement"], [np.nan, 0.2, 0.4])
    assert read_motion(None) == {} and read_motion(tmp_path / "none.tsv") == {}
