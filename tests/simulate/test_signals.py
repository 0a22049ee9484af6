"""The pieces that series are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.errors import UsageError
from conform_bids.numerics.hrf import response_at
from conform_bids.simulate.anatomy import CEREBELLUM, CORTEX, CSF, OUTSIDE, WHITE_MATTER, build_anatomy, load_cortex
from conform_bids.simulate.confounds import compute_confounds
from conform_bids.simulate.design import draw_onsets, draw_orders
from conform_bids.simulate.fields import smooth_fields
from conform_bids.simulate.hrfs import N_OUTSIDE, choose_hrfs, extend_library
from conform_bids.simulate.settings import REPEATS_OVER, SimulationSettings
from conform_bids.simulate.signals import NuisanceTraits, draw_motion, draw_traits, noise_series, response_series, slow_cosines

SILENT = {"autoregressive_noise": 0.0, "shared_noise": 0.0, "drift": 0.0, "motion": 0.0}


def sites(n_sites: int = 400) -> tuple[np.ndarray, np.ndarray]:
    positions = np.random.default_rng(0).uniform(-60, 60, (n_sites, 3))
    return positions, np.array([CORTEX, CORTEX, CORTEX, WHITE_MATTER, CSF])[np.arange(n_sites) % 5]


def traits_of(n_sites: int, settings: SimulationSettings) -> tuple[NuisanceTraits, np.ndarray]:
    positions, tissue = sites(n_sites)
    return draw_traits(positions, tissue, settings, np.ones(n_sites), np.random.default_rng(0)), tissue


def courses(n_volumes: int, n_trials: int = 20) -> np.ndarray:
    onsets = np.linspace(5, 1.6 * n_volumes - 20, n_trials)
    return response_at(load_default_library(), 1.5, 1.6 * np.arange(n_volumes)[:, np.newaxis] - onsets)[:, :, 8]


def test_smooth_fields_have_unit_variance_and_their_length_scale() -> None:
    fields = smooth_fields(np.array([[0.0, 0, 0], [15.0, 0, 0], [150.0, 0, 0]]), 4000, 15.0, np.random.default_rng(0))
    assert fields.std() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(fields[:, 0], fields[:, 1])[0, 1] == pytest.approx(np.exp(-0.5), abs=0.1)
    assert abs(np.corrcoef(fields[:, 0], fields[:, 2])[0, 1]) < 0.2


def test_fields_do_not_depend_on_which_positions_are_asked() -> None:
    positions = np.random.default_rng(0).uniform(-50, 50, (30, 3))
    together = smooth_fields(positions, 3, 20.0, np.random.default_rng(5))
    alone = smooth_fields(positions[10:12], 3, 20.0, np.random.default_rng(5))
    np.testing.assert_allclose(alone, together[:, 10:12], atol=1e-10)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_hrfs_outside_of_the_library(fraction: float) -> None:
    library = load_default_library()
    extended = extend_library(library, np.random.default_rng(0))
    hrf = choose_hrfs(np.zeros(3000), library.n_hrfs, SimulationSettings(outside_library=fraction), np.random.default_rng(1))
    assert (hrf >= library.n_hrfs).mean() == pytest.approx(fraction, abs=0.03)
    assert hrf.max() < extended.n_hrfs == library.n_hrfs + N_OUTSIDE
    np.testing.assert_array_equal(extended.curves[:, :20], library.curves)
    alike = np.corrcoef(extended.curves.T)[20:, :20].max(axis=1)
    assert alike.max() < 0.99999, "none is in the library"
    peaks = extended.times[extended.curves[:, 20:].argmax(axis=0)]
    assert 2 < peaks.min() < peaks.max() < 12
    assert (np.diff(peaks) >= 0).all(), "late ones come last, as the library's do"


def test_hrfs_are_more_concentrated_than_uniform_and_smooth() -> None:
    positions = np.random.default_rng(0).uniform(-60, 60, (3000, 3))
    delay = smooth_fields(positions, 1, 12.0, np.random.default_rng(2))[0]
    hrf = choose_hrfs(delay, 20, SimulationSettings(outside_library=0.0), np.random.default_rng(1))
    assert hrf.std() < 0.8 * np.sqrt((20**2 - 1) / 12)
    assert np.corrcoef(hrf, delay)[0, 1] > 0.8
    wide = choose_hrfs(delay, 20, SimulationSettings(outside_library=0.0, hrf_spread=6.0), np.random.default_rng(1))
    assert wide.std() > hrf.std()


def test_series_are_the_sum_of_the_trials_responses() -> None:
    library = load_default_library()
    hrf = np.arange(30) % library.n_hrfs
    onsets, times = np.array([3.21, 9.87]), 0.8 + 1.6 * np.arange(20)
    betas = np.zeros((2, len(hrf)))
    betas[0, 7], betas[1, 7] = 1.5, -0.5
    series = response_series(library, hrf, betas, onsets, times, 2.0)
    curve = response_at(library, 2.0, times[:, np.newaxis] - onsets)[:, :, 7]
    np.testing.assert_allclose(series[:, 7], 1.5 * curve[:, 0] - 0.5 * curve[:, 1], atol=1e-12)
    assert not np.delete(series, 7, axis=1).any()


@pytest.mark.parametrize(("name", "strength"), [("autoregressive_noise", 0.6), ("shared_noise", 1.2), ("drift", 1.0), ("motion", 0.4)])
def test_each_noise_has_the_strength_that_was_asked_for(name: str, strength: float) -> None:
    settings = SimulationSettings(**{**SILENT, name: strength})
    traits, tissue = traits_of(2000, settings)
    generator = np.random.default_rng(1)
    noise = noise_series(traits, draw_motion(200, generator), courses(200), settings, generator)
    cortex = noise[:, tissue == CORTEX]
    assert np.sqrt((cortex**2).mean()) == pytest.approx(strength, rel=0.4)
    off = noise_series(traits, draw_motion(200, generator), courses(200), SimulationSettings(**SILENT), generator)
    assert not off.any()


def test_autoregression_differs_between_units() -> None:
    settings = SimulationSettings(**{**SILENT, "autoregressive_noise": 1.0})
    traits, tissue = traits_of(300, settings)
    noise = noise_series(traits, np.zeros((600, 6)), courses(600), settings, np.random.default_rng(1))
    lagged = np.array([np.corrcoef(course[1:], course[:-1])[0, 1] for course in noise.T])
    assert np.corrcoef(lagged, traits.autoregression)[0, 1] > 0.8
    np.testing.assert_allclose(lagged, traits.autoregression, atol=0.2)
    assert noise[:, tissue == CORTEX].std() == pytest.approx(1.0, rel=0.05)


@given(n_sources=st.integers(1, 6))
def test_shared_noise_has_few_dimensions(n_sources: int) -> None:
    settings = SimulationSettings(**{**SILENT, "shared_noise": 1.0}, shared_sources=n_sources)
    traits, _ = traits_of(60, settings)
    generator = np.random.default_rng(1)
    noise = noise_series(traits, draw_motion(80, generator), courses(80, 10), settings, generator)
    values = np.linalg.svd(noise, compute_uv=False)
    assert values[n_sources - 1] > 1e-3 * values[0]
    assert values[n_sources] < 1e-9 * values[0]


def test_shared_noise_follows_the_trials_by_the_fraction_that_was_asked_for() -> None:
    trials = courses(300, 12)
    basis = np.linalg.qr(np.column_stack([np.ones(300), trials]))[0]
    explained = []
    for fraction in (0.0, 0.5, 1.0):
        settings = SimulationSettings(**{**SILENT, "shared_noise": 1.0}, task_locked=fraction)
        noise = noise_series(traits_of(200, settings)[0], np.zeros((300, 6)), trials, settings, np.random.default_rng(1))
        noise -= noise.mean(axis=0)
        explained.append((np.linalg.norm(basis.T @ noise) / np.linalg.norm(noise)) ** 2)
    assert explained[0] < 0.25
    assert explained[1] == pytest.approx(0.55, abs=0.15)
    assert explained[2] > 0.999


def test_slow_cosines_are_orthogonal_and_slow() -> None:
    cosines = slow_cosines(150, 1.6)
    assert cosines.shape == (150, 3)
    np.testing.assert_allclose(cosines.T @ cosines / 150, np.eye(3), atol=1e-10)


def test_motion_starts_at_rest() -> None:
    motion = draw_motion(300, np.random.default_rng(0))
    assert not motion[0].any()
    assert 0.05 < np.abs(motion[:, :3]).max() < 5
    assert np.abs(motion[:, 3:]).max() < 0.1


def test_every_run_shows_every_stimulus() -> None:
    settings = SimulationSettings(n_stimuli=12, repeats=3)
    for session in draw_orders(settings, np.random.default_rng(0)):
        for order in session:
            np.testing.assert_array_equal(np.bincount(order), np.full(12, 3))


@given(
    n_stimuli=st.integers(6, 40),
    repeats=st.integers(1, 4),
    n_sessions=st.integers(1, 3),
    n_runs=st.integers(1, 2),
    over=st.sampled_from(REPEATS_OVER),
    seed=st.integers(0, 5),
)
def test_repeats_are_where_they_were_asked_for(n_stimuli: int, repeats: int, n_sessions: int, n_runs: int, over: str, seed: int) -> None:
    settings = SimulationSettings(
        n_stimuli=n_stimuli, repeats=repeats, n_sessions=n_sessions, n_runs=n_runs, repeats_over=over, test_fraction=0
    )
    sessions = draw_orders(settings, np.random.default_rng(seed))
    assert [len(session) for session in sessions] == [n_runs] * n_sessions
    lengths = [len(order) for session in sessions for order in session]
    assert max(lengths) == settings.n_trials
    assert min(lengths) > 0
    counts = np.array([np.bincount(np.concatenate(session), minlength=n_stimuli) for session in sessions])
    expected = {"run": repeats * n_runs * n_sessions, "session": repeats * n_sessions}.get(over, repeats)
    assert (counts.sum(axis=0) == expected).all()
    if over == "session":
        assert (counts == repeats).all()
    if over == "one-session":
        assert ((counts > 0).sum(axis=0) == 1).all()


@given(n_trials=st.integers(1, 60), seed=st.integers(0, 100), on_grid=st.booleans())
def test_onsets_keep_their_distance_and_end_before_the_run(n_trials: int, seed: int, on_grid: bool) -> None:
    settings = SimulationSettings(n_stimuli=max(2, n_trials), test_fraction=0, on_grid=on_grid)
    onsets = draw_onsets(n_trials, settings, np.random.default_rng(seed))
    assert np.diff(onsets).min(initial=9) >= settings.onset_interval * 5 / 7 - (settings.repetition_time if on_grid else 2e-3)
    assert onsets[-1] + 12 < settings.n_volumes * settings.repetition_time, "the last response is not cut off"
    steps = onsets / settings.repetition_time
    assert on_grid == bool(np.allclose(steps, np.rint(steps), atol=1e-6))


def test_confounds_are_those_of_the_series() -> None:
    generator = np.random.default_rng(0)
    tissue = np.repeat([CORTEX, CSF, WHITE_MATTER, OUTSIDE], 30)
    source = generator.standard_normal((100, 1))
    series = (1000 + 5 * generator.standard_normal((100, 120))).astype(np.float32)
    series[:, tissue == CSF] += 40 * source
    motion = 0.01 * generator.standard_normal((100, 6)) / np.array([1] * 3 + [50] * 3)
    motion[50:, 1] += 0.8
    found = compute_confounds(series, tissue, motion, 1.6)
    columns = found.columns
    for name in ("global_signal", "csf", "white_matter", "trans_x", "rot_z"):
        np.testing.assert_allclose(columns[f"{name}_power2"], columns[name] ** 2)
        np.testing.assert_allclose(columns[f"{name}_derivative1"][1:], np.diff(columns[name]))
        np.testing.assert_allclose(columns[f"{name}_derivative1_power2"][1:], np.diff(columns[name]) ** 2)
        assert np.isnan(columns[f"{name}_derivative1"][0])
    np.testing.assert_allclose(columns["csf"], series[:, tissue == CSF].mean(axis=1), rtol=1e-6)
    components = np.column_stack([columns[f"c_comp_cor_{index:02d}"] for index in range(5)])
    np.testing.assert_allclose(components.T @ components, np.eye(5), atol=1e-8)
    assert abs(np.corrcoef(components[:, 0], source[:, 0])[0, 1]) > 0.9
    assert found.components["c_comp_cor_00"]["Mask"] == "CSF"
    spikes = [int(np.flatnonzero(columns[name]).item()) for name in columns if name.startswith("motion_outlier")]
    assert spikes == np.flatnonzero((columns["framewise_displacement"] > 0.5) | (columns["std_dvars"] > 1.5)).tolist()
    assert 50 in spikes


def test_the_anatomy_covers_every_tissue_in_every_format() -> None:
    anatomy = build_anatomy(load_cortex(), 8.0)
    assert set(anatomy.tissue) == {OUTSIDE, CORTEX, WHITE_MATTER, CSF, CEREBELLUM}
    assert anatomy.mask.sum() == len(anatomy.tissue) == len(anatomy.positions)
    for side, sign in zip(anatomy.vertex_sites, (-1, 1), strict=True):
        assert len(side) == 10242
        covered = side[side >= 0]
        assert set(anatomy.tissue[covered]) == {CORTEX}
        assert np.mean(sign * anatomy.positions[covered, 0] > 0) > 0.9
    n_cortex = sum(len(vertices) for vertices in anatomy.grayordinate_vertices)
    subcortex = anatomy.grayordinate_sites[n_cortex:]
    assert set(anatomy.tissue[subcortex]) == {CEREBELLUM}
    voxels = np.concatenate(anatomy.cerebellum_voxels)
    centres = voxels @ anatomy.affine[:3, :3].T + anatomy.affine[:3, 3]
    np.testing.assert_allclose(centres, anatomy.positions[subcortex])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_subjects": 0}, "--subjects"),
        ({"file_formats": ()}, "--file-formats"),
        ({"file_formats": ("minc",)}, "--file-formats"),
        ({"n_stimuli": 2, "test_fraction": 0.1}, "--test-fraction"),
        ({"on_grid": True, "repetition_time": 4.0}, "--on-grid"),
        ({"shared_noise": float("nan")}, "--shared-noise"),
        ({"test_on_shared": True}, "--test-on-shared"),
        ({"shared_fraction": 0.2, "common_fraction": 0.4}, "--common-fraction"),
        ({"near_duplicates": 21}, "--near-duplicates"),
        ({"n_stimuli": 5, "repeats_over": "subject"}, "--repeats-over"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SimulationSettings(**changes)  # type: ignore[arg-type]
