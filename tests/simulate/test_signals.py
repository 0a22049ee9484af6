"""The pieces that series are made of."""

from __future__ import annotations

import numpy as np
import pytest

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.errors import UsageError
from conform_bids.numerics.hrf import response_at
from conform_bids.simulate.anatomy import CEREBELLUM, CORTEX, CSF, OUTSIDE, WHITE_MATTER, build_anatomy, load_cortex
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.signals import (
    Organisation,
    draw_motion,
    draw_organisation,
    draw_traits,
    noise_series,
    response_series,
    slow_cosines,
    smooth_fields,
)
from conform_bids.simulate.stimuli import draw_stimuli, stimulus_features
from conform_bids.simulate.subjects import draw_run_design

SILENT = {"autoregressive_noise": 0.0, "shared_noise": 0.0, "drift": 0.0, "motion": 0.0}


def sites(n_sites: int = 400) -> tuple[np.ndarray, np.ndarray]:
    positions = np.random.default_rng(0).uniform(-60, 60, (n_sites, 3))
    return positions, np.array([CORTEX, CORTEX, CORTEX, WHITE_MATTER, CSF])[np.arange(n_sites) % 5]


def organisation(settings: SimulationSettings, own_seed: int = 0) -> tuple[Organisation, np.ndarray]:
    positions, tissue = sites()
    features = stimulus_features(draw_stimuli(30, 6, np.random.default_rng(3)))
    shared, own = np.random.default_rng(1), np.random.default_rng([2, own_seed])
    return draw_organisation(positions, tissue, features, load_default_library(), settings, shared, own), tissue


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


def test_only_gray_matter_responds() -> None:
    drawn, tissue = organisation(SimulationSettings())
    assert set(tissue[drawn.active]) == {CORTEX}
    assert 0.3 < drawn.active[tissue == CORTEX].mean() < 0.6
    assert not drawn.condition_betas[:, ~drawn.active].any()


def test_responses_have_the_strength_that_was_asked_for() -> None:
    drawn, _ = organisation(SimulationSettings(response=2.0, selectivity=0.5))
    betas = drawn.condition_betas[:, drawn.active]
    assert betas.mean() == pytest.approx(2.0, rel=0.15)
    np.testing.assert_allclose(betas.std(axis=0) / betas.mean(axis=0), 0.5, rtol=1e-9)


def test_subjects_share_a_plan_and_not_a_topography() -> None:
    first, _ = organisation(SimulationSettings(), own_seed=0)
    second, _ = organisation(SimulationSettings(), own_seed=1)
    both = first.active & second.active
    alike = [np.corrcoef(first.condition_betas[:, site], second.condition_betas[:, site])[0, 1] for site in np.flatnonzero(both)]
    assert 0.15 < np.mean(alike) < 0.95


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_hrfs_outside_of_the_library(fraction: float) -> None:
    drawn, _ = organisation(SimulationSettings(outside_library=fraction))
    assert ((drawn.hrf >= 20).mean()) == fraction
    library = load_default_library()
    np.testing.assert_array_equal(drawn.library.curves[:, :20], library.curves)
    nearest = max(np.corrcoef(drawn.library.curves[:, 20:].T, library.curves.T)[:12, 12:].max(axis=1).tolist())
    assert nearest < 0.99999


def test_series_are_the_sum_of_the_trials_responses() -> None:
    drawn, _ = organisation(SimulationSettings())
    onsets, times = np.array([3.21, 9.87]), 0.8 + 1.6 * np.arange(20)
    betas = np.zeros((2, len(drawn.hrf)))
    betas[0, 7], betas[1, 7] = 1.5, -0.5
    series = response_series(drawn, betas, onsets, times, 2.0)
    curve = response_at(drawn.library, 2.0, times[:, np.newaxis] - onsets)[:, :, drawn.hrf[7]]
    np.testing.assert_allclose(series[:, 7], 1.5 * curve[:, 0] - 0.5 * curve[:, 1], atol=1e-12)
    assert not np.delete(series, 7, axis=1).any()


@pytest.mark.parametrize(("name", "strength"), [("autoregressive_noise", 0.6), ("shared_noise", 1.2), ("drift", 1.0), ("motion", 0.4)])
def test_each_noise_has_the_strength_that_was_asked_for(name: str, strength: float) -> None:
    positions, tissue = sites(2000)
    settings = SimulationSettings(**{**SILENT, name: strength})
    traits = draw_traits(positions, tissue, np.random.default_rng(0))
    generator = np.random.default_rng(1)
    noise = noise_series(traits, draw_motion(200, generator), 1.6, settings, generator)
    cortex = noise[:, tissue == CORTEX]
    assert np.sqrt((cortex**2).mean()) == pytest.approx(strength, rel=0.4)
    off = noise_series(traits, draw_motion(200, generator), 1.6, SimulationSettings(**SILENT), generator)
    assert not off.any()


def test_shared_noise_has_few_dimensions() -> None:
    positions, tissue = sites()
    traits = draw_traits(positions, tissue, np.random.default_rng(0))
    generator = np.random.default_rng(1)
    noise = noise_series(traits, draw_motion(150, generator), 1.6, SimulationSettings(**{**SILENT, "shared_noise": 1.0}), generator)
    values = np.linalg.svd(noise, compute_uv=False)
    assert values[3] > 1e-3 * values[0]
    assert values[4] < 1e-9 * values[0]


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
    onsets, stimuli = draw_run_design(settings, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(stimuli), np.full(12, 3))
    assert np.diff(onsets).min() >= settings.onset_interval * 5 / 7 - 1e-3
    assert onsets[-1] + 12 < settings.n_volumes * settings.repetition_time, "the last response is not cut off"


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
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SimulationSettings(**changes)  # type: ignore[arg-type]
