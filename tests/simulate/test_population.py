"""A population: people who share functions but not places, and stimuli whose images show what drives responses."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.errors import MissingInputError
from conform_bids.simulate.anatomy import CORTEX, WHITE_MATTER
from conform_bids.simulate.dataset import simulate_dataset
from conform_bids.simulate.images import PIXELS, draw_image
from conform_bids.simulate.organisation import TYPES, draw_population
from conform_bids.simulate.seeds import ORGANISATION, SUBJECT, dataset_generator, population_generator
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.stimuli import CATEGORIES, FEATURES, Stimulus, draw_catalogue, stimulus_features
from conform_bids.simulate.subjects import Tuning, draw_tuning
from conform_bids.simulate.truth import read_truth

TINY = SimulationSettings(
    n_subjects=2,
    n_sessions=2,
    n_runs=1,
    n_stimuli=10,
    shared_fraction=0.6,
    common_fraction=0.4,
    near_duplicates=1,
    voxel_size=15.0,
    file_formats=("nifti",),
)


def person(index: int, seed: int = 0, population_seed: int = 0, **changes: float) -> Tuning:
    """A person on a sheet of posterior cortex, with a rim of white matter."""
    settings = SimulationSettings(seed=seed, population_seed=population_seed, **changes)  # type: ignore[arg-type]
    positions = np.random.default_rng(0).uniform([-55, -104, -30], [55, -50, 55], (1500, 3))
    tissue = np.where(np.arange(1500) % 10, CORTEX, WHITE_MATTER)
    population = draw_population(population_seed, population_generator(population_seed, ORGANISATION, 0))
    return draw_tuning(population, positions, tissue, load_default_library(), settings, dataset_generator(settings, SUBJECT, index))


def world(n_stimuli: int = 200) -> tuple[Stimulus, ...]:
    return draw_catalogue(SimulationSettings(n_stimuli=n_stimuli, seed=7)).everything


def alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of columns."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    return np.asarray((first * second).sum(axis=0) / np.linalg.norm(first, axis=0) / np.linalg.norm(second, axis=0))


@pytest.mark.parametrize("other_seed", [0, 5])
def test_people_share_functions_but_not_places(other_seed: int) -> None:
    features = stimulus_features(world())
    one, two = person(0), person(1, seed=other_seed)
    first, second = one.responses(features), two.responses(features)
    both = np.flatnonzero(one.active & two.active)
    at_place = alike(first[:, both], second[:, both]).mean()
    matched = np.corrcoef(first[:, one.active].T, second[:, two.active].T)[: one.active.sum(), one.active.sum() :].max(axis=1)
    strangers = person(1, seed=other_seed, population_seed=9)
    chance = np.flatnonzero(one.active & strangers.active)
    assert 0.15 < at_place < 0.7
    assert matched.mean() > at_place + 0.2, "what a place does in one person, another place does in the other"
    assert at_place > alike(first[:, chance], strangers.responses(features)[:, chance]).mean() + 0.05
    for index in range(len(TYPES)):
        mean = [tuning.weights[:, tuning.functional_type == index].mean(axis=1) for tuning in (one, two)]
        if min((tuning.functional_type == index).sum() for tuning in (one, two)) > 10:
            assert np.corrcoef(*mean)[0, 1] > 0.5, TYPES[index]


def test_without_shift_and_idiosyncrasy_anatomy_nearly_aligns() -> None:
    features = stimulus_features(world())
    one, two = (person(index, topography_shift=0.0, idiosyncrasy=0.0) for index in range(2))
    both = one.active & two.active
    np.testing.assert_array_equal(one.active, two.active)
    assert alike(one.responses(features)[:, both], two.responses(features)[:, both]).mean() > 0.8


def test_types_prefer_what_they_are_named_for() -> None:
    tuning = person(0)
    for name in CATEGORIES:
        units = tuning.functional_type == TYPES.index(name)
        assert units.sum() > 5
        weights = tuning.weights[: len(CATEGORIES), units].mean(axis=1)
        assert CATEGORIES[int(weights.argmax())] == name


def test_only_gray_matter_responds_with_the_strength_that_was_asked_for() -> None:
    tuning = person(0, response=2.0, selectivity=0.5)
    gray = np.arange(1500) % 10 > 0
    assert not tuning.active[~gray].any()
    assert 0.4 < tuning.active[gray].mean() < 0.5
    assert not tuning.weights[:, ~tuning.active].any()
    responses = tuning.responses(stimulus_features(world(600)))[:, tuning.active]
    assert responses.mean() == pytest.approx(2.0, rel=0.1)
    assert np.mean(responses.std(axis=0) / tuning.gain[tuning.active]) == pytest.approx(0.5, rel=0.1)


def test_noise_differs_between_units_as_was_asked_for() -> None:
    assert np.log(person(0, noise_spread=0.5).noisiness).std() == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(person(0, noise_spread=0.0).noisiness, 1.0)


def test_features_of_the_images_can_be_read_off_their_pixels() -> None:
    """A hue stands out from the gray: its pixels tell place, size, colour and, by their shape, category; the rest is the grating."""
    stimuli = world(300)
    shapes, measured = [], []
    for stimulus in stimuli:
        image = draw_image(stimulus) / 255.0
        coloured = image.max(axis=2) - image.min(axis=2) > 0.35
        rows, columns = np.nonzero(coloured)
        centre = np.array([columns.mean(), rows.mean()]) * 2 / PIXELS - 1
        hue = colorsys.rgb_to_hsv(*image[coloured].mean(axis=0))[0]
        spectrum = np.abs(np.fft.fft2(np.where(coloured, 0.5, image.mean(axis=2)) - 0.5))[: PIXELS // 2]
        spectrum = np.where(np.arange(PIXELS // 2)[:, np.newaxis] + np.zeros(PIXELS) > 20, 0, spectrum)
        row, column = np.unravel_index(int(spectrum.argmax()), spectrum.shape)
        frequency = float(np.hypot(row, column - PIXELS * (column > PIXELS // 2)))
        shown = coloured[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        grid = np.ix_(np.linspace(0, shown.shape[0] - 1, 12).astype(int), np.linspace(0, shown.shape[1] - 1, 12).astype(int))
        shapes.append(np.append(shown[grid].ravel(), shown.shape[0] / shown.shape[1]))
        measured.append([*centre, np.hypot(*shown.shape), np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue), frequency])
    values, truth = np.array(measured), np.array([[s.x, s.y, s.size, 0, 0, s.frequency] for s in stimuli])
    truth[:, 3:5] = [[np.cos(2 * np.pi * s.hue), np.sin(2 * np.pi * s.hue)] for s in stimuli]
    found = alike(values, truth)
    assert found[[0, 1, 3, 4]].min() > 0.95, found
    assert found[5] > 0.9, found
    category = np.array([s.category for s in stimuli])
    for name in CATEGORIES:
        assert np.corrcoef(values[category == name, 2], truth[category == name, 2])[0, 1] > 0.9
    train = np.arange(len(stimuli)) < 150
    templates = np.array([np.array(shapes)[train & (category == name)].mean(axis=0) for name in CATEGORIES])
    distance = ((np.array(shapes)[~train, np.newaxis] - templates) ** 2).sum(axis=2)
    assert np.mean(np.array(CATEGORIES)[distance.argmin(axis=1)] == category[~train]) > 0.95


@given(
    n_stimuli=st.integers(10, 40),
    shared=st.sampled_from([0.0, 0.4, 1.0]),
    common=st.sampled_from([0.0, 0.2]),
    copies=st.integers(0, 2),
    seed=st.integers(0, 3),
)
def test_stimuli_are_shared_as_was_asked_for(n_stimuli: int, shared: float, common: float, copies: int, seed: int) -> None:
    if shared == 0:
        common, copies = 0.0, 0
    settings = SimulationSettings(
        n_stimuli=n_stimuli, shared_fraction=shared, common_fraction=common, near_duplicates=copies, seed=seed, n_subjects=3
    )
    catalogue = draw_catalogue(settings)
    seen = [{stimulus.stim_id for stimulus in catalogue.of_subject(index)} for index in range(3)]
    assert [len(names) for names in seen] == [n_stimuli] * 3
    assert len(set.intersection(*seen)) == len(catalogue.shared) == settings.n_shared
    everything = catalogue.everything
    assert len({stimulus.stim_id for stimulus in everything}) == len({stimulus.content for stimulus in everything}) == len(everything)
    for index in range(3):
        assert sum(stimulus.split == "test" for stimulus in catalogue.of_subject(index)) == settings.n_test
    names = {stimulus.stim_id: stimulus for stimulus in everything}
    near = [stimulus for stimulus in everything if stimulus.near_copy_of != "n/a"]
    assert len(near) == copies
    for stimulus in near:
        original = names[stimulus.near_copy_of]
        pixels = [draw_image(one).astype(float) for one in (original, stimulus)]
        assert 0 < np.abs(pixels[0] - pixels[1]).mean() < 6
        assert original.category == stimulus.category
    other = draw_catalogue(replace(settings, seed=seed + 1))
    contents = {stimulus.content for stimulus in everything} & {stimulus.content for stimulus in other.everything}
    assert len(contents) == settings.n_common
    elsewhere = {stimulus.content: stimulus for stimulus in other.everything}
    for stimulus in everything:
        if stimulus.content in contents:
            np.testing.assert_array_equal(draw_image(stimulus), draw_image(elsewhere[stimulus.content]))


def test_shared_stimuli_can_be_the_test_set() -> None:
    catalogue = draw_catalogue(SimulationSettings(n_stimuli=20, shared_fraction=0.3, test_on_shared=True))
    assert {stimulus.split for stimulus in catalogue.shared} == {"test"}
    assert {stimulus.split for own in catalogue.own for stimulus in own} == {"train"}


def test_two_datasets_of_a_population_and_their_truth(tmp_path: Path) -> None:
    """Content-identical files under other names, equal organisation, other people; everything reads back and fits together."""
    one = simulate_dataset(tmp_path / "one", TINY)
    two = simulate_dataset(tmp_path / "two", replace(TINY, seed=1))
    files = [{path.read_bytes(): path.name for path in (dataset.path / "stimuli").iterdir()} for dataset in (one, two)]
    assert len(files[0]) == 6 + 2 * 4
    common = files[0].keys() & files[1].keys()
    assert len(common) == TINY.n_common
    assert [files[0][content] for content in common] != [files[1][content] for content in common]
    assert (one.truth / "population.npz").read_bytes() == (two.truth / "population.npz").read_bytes()

    truth, other = read_truth(one.path, "sub-01"), read_truth(two.path, "01")
    assert not np.array_equal(truth.active, other.active)
    assert truth.feature_names == FEATURES
    np.testing.assert_allclose(truth.intercept + truth.features @ truth.weights, truth.condition_betas, atol=2e-4)
    row = {str(name): index for index, name in enumerate(truth.stim_ids)}
    shown = truth.condition_betas[[row[name] for name in truth.trials["stim_id"]]]
    session = truth.trials["session_id"].astype(int).to_numpy() - 1
    repeats = (truth.trial_betas - truth.session_offset[session]) / truth.session_gain[session] - shown
    assert not truth.trial_betas[:, ~truth.active].any()
    active = truth.active
    assert np.median(repeats[:, active].std(axis=0) / truth.trial_sd[active]) == pytest.approx(1, abs=0.1)
    assert np.abs(truth.session_gain[:, active] - 1).max() > 0.05
    assert (truth.session_offset[0, active] / truth.intercept[active]).std() == pytest.approx(TINY.session_offset, rel=0.4)
    assert np.percentile(truth.noise_ceiling[active], 90) - np.percentile(truth.noise_ceiling[active], 10) > 25
    assert (truth.noise_sd[truth.valid] > 0).all()
    assert ((truth.hrf_index >= 0) == (truth.hrf_curve < 20)).all()
    with pytest.raises(MissingInputError, match="no such file"):
        read_truth(one.path, "01", "cifti")
