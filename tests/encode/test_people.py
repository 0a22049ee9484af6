"""People of a store: what trains, what tests, and that nothing of a test stimulus is in training."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conform_bids.encode.checkpoints import write_checkpoint
from conform_bids.encode.model_files import ModelCard, read_model, write_model
from conform_bids.encode.numerics.optimise import Checkpoint
from conform_bids.encode.numerics.population import Context
from conform_bids.encode.numerics.unrolled_fit import UnrolledOptions
from conform_bids.encode.people import features_of_contents, read_person
from conform_bids.encode.training import TrainingOptions, leave_people_out, summarise, train
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.store.inputs import find_inputs
from conform_bids.store.reading import Store
from conform_bids.store.release import write_release


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory, make_world: Any, world_spec: Any) -> SimpleNamespace:
    """A store of four people whose tunings have something in common; tests must not write to it."""
    folder = tmp_path_factory.mktemp("population")
    world = make_world(folder, world_spec(people=("01", "02", "03", "04"), stimuli=90, test=30, maker="conform-glm", shared=0.8))
    write_release([find_inputs("images", world.dataset, prefix=False)], folder / "store")
    store = Store(folder / "store")
    features = features_of_contents(store, {"truth": world.table})
    people = [read_person(store, name, features) for name in store.participants["participant_id"]]
    return SimpleNamespace(world=world, store=store, features=features, people=people, folder=folder)


def test_train_and_test_share_nothing(population: SimpleNamespace) -> None:
    held = set(population.store.stimuli.loc[population.store.stimuli["split"] == "test", "content_id"])
    assert held
    for person in population.people:
        assert not held & set(person.contents)
        assert set(person.test_contents) == held
        assert person.train.features.shape == (len(person.contents), 8)
        np.testing.assert_allclose(person.train.responses.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(person.train.responses.std(axis=0), 1, atol=1e-3)


def test_a_test_stimulus_that_was_also_shown_as_a_train_stimulus_trains_nobody(tmp_path: Path, make_world: Any, world_spec: Any) -> None:
    world = make_world(tmp_path, world_spec(stimuli=50, test=10, maker="conform-glm"))
    for path in (world.dataset / "stimuli").glob("*.tsv"):
        table = pd.read_csv(path, sep="\t").set_index("stim_id")
        table.loc["s003.png", "sha256"] = table.loc["s047.png", "sha256"]  # the same picture under the name of a train stimulus
        table.reset_index().to_csv(path, sep="\t", index=False)
    write_release([find_inputs("images", world.dataset, prefix=False)], tmp_path / "store")
    store = Store(tmp_path / "store")
    contents = store.stimuli.set_index("stim_id")["content_id"]
    assert contents["s003.png"] == contents["s047.png"]
    features = features_of_contents(store, {"truth": world.table})
    for name in store.participants["participant_id"]:
        person = read_person(store, name, features)
        assert contents["s047.png"] in person.test_contents
        assert contents["s003.png"] not in person.contents
        assert contents["s004.png"] in person.contents
        assert len(person.contents) == 39, "all train stimuli but the planted one"
        assert not set(person.contents) & set(person.test_contents)


def test_responses_are_those_of_the_person(population: SimpleNamespace) -> None:
    person = population.people[1]
    truth = population.world.weights["02"].reshape(8, -1)[:, 1:]
    signal = person.train.features @ truth
    fitted = [np.corrcoef(signal[:, unit], person.train.responses[:, unit])[0, 1] for unit in range(truth.shape[1])]
    assert len(person.units) == truth.shape[1], "the unit that never varies is left out"
    assert np.median(fitted) > 0.85
    assert 70 < np.median(person.test_ceiling) < 95


def test_units_are_drawn_by_the_seed(population: SimpleNamespace) -> None:
    first, second, other = (
        read_person(population.store, "sub-01", population.features, max_units=20, seed=seed).units for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert len(first) == 20
    assert first.tolist() != other.tolist()


def test_a_person_without_features_is_refused(population: SimpleNamespace) -> None:
    few = dict(list(population.features.items())[:10])
    with pytest.raises(MissingInputError, match="train stimuli have features"):
        read_person(population.store, "sub-01", few)


def test_the_population_predicts_a_new_person_better_than_ridge_does(population: SimpleNamespace) -> None:
    options = TrainingOptions(contexts=(10, 30), draws=2)
    scores = leave_people_out(population.people, options)
    table = summarise(scores).set_index(["engine", "n_context"])["correlation"]
    assert len(scores) == 4 * 2 * 2 * 3
    assert table["average", 10] < table["prior", 10]
    assert table["prior", 10] > table["ridge", 10] + 0.02
    assert table["prior", 30] > table["ridge", 30] - 0.01
    assert leave_people_out(population.people[:1], options).empty


def test_a_model_comes_back_from_the_disk(population: SimpleNamespace, tmp_path: Path) -> None:
    model = train([person.train for person in population.people], TrainingOptions())
    card = ModelCard(
        engine="prior", feature_spaces=[{"name": "truth", "n_features": 8, "preprocessing_hash": "x", "model": "truth"}], people=["sub-01"],
        n_units=4, n_stimuli=[60], space="MNI", stimuli_hash="y", store_version="1.0.0", seed=0, software="conform",
        scores=[{"n_context": 10, "engine": "prior", "correlation": 0.5}],
    )  # fmt: skip
    write_model(tmp_path / "model", model, card)
    again, read = read_model(tmp_path)
    assert read == card
    context = Context(population.people[0].train.features[:15], population.people[0].train.responses[:15])
    np.testing.assert_allclose(again.adapt(context).weights, model.adapt(context).weights, rtol=1e-6)
    assert "| n_context | engine | correlation |" in (tmp_path / "model" / "README.md").read_text()
    card.check_features([{"name": "mine", "n_features": 8, "preprocessing_hash": "x"}])
    with pytest.raises(UnusableInputError, match="preprocessing differ"):
        card.check_features([{"name": "mine", "n_features": 8, "preprocessing_hash": "z"}])
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x80\x04 no pickle")
    with pytest.raises(UnusableInputError, match="not a population model"):
        read_model(tmp_path)
    (tmp_path / "model" / "model_card.json").write_text(json.dumps({"engine": "prior"}))
    with pytest.raises(UnusableInputError):
        read_model(tmp_path / "model")
    with pytest.raises(MissingInputError):
        read_model(tmp_path / "nowhere")


def test_the_level_group_trains_on_a_store(population: SimpleNamespace, tmp_path: Path, run_encode: Any) -> None:
    flags = ("--features", population.world.features / "truth.h5", "--contexts", "10", "30", "--draws", "2", "--max-units", "60")
    common = ("-w", tmp_path / "work", "--skip-bids-validation", "--nprocs", "1")
    run = run_encode(population.folder / "store", tmp_path / "out", "group", *common, *flags)
    assert run.status == 0, run.stderr
    model, card = read_model(tmp_path / "out")
    assert card.people == ["sub-01", "sub-02", "sub-03", "sub-04"]
    assert card.n_units == 240
    assert {(row["n_context"], row["engine"]) for row in card.scores} == {
        (k, name) for k in (10, 30) for name in ("prior", "ridge", "average")
    }
    page = (tmp_path / "out" / "group_encode.html").read_text()
    assert "Population model" in page
    assert "Left-out people" in page
    assert model.name == "prior"
    again = run_encode(population.folder / "store", tmp_path / "again", "group", *common, *flags)
    assert again.status == 0, again.stderr
    first, second = (path / "model" / "model.safetensors" for path in (tmp_path / "out", tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_network_is_trained_on_a_store_and_taken_up_after_a_kill(
    population: SimpleNamespace, tmp_path: Path, run_encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--features", population.world.features / "truth.h5", "--contexts", "10", "--draws", "1", "--max-units", "60")
    flags += ("--engine", "unrolled", "--training-steps", "8", "--skip-bids-validation", "--nprocs", "1")
    monkeypatch.setattr("conform_bids.encode.training.UnrolledOptions", partial(UnrolledOptions, save_every=3))
    run = run_encode(population.folder / "store", tmp_path / "out", "group", "-w", tmp_path / "work", *flags)
    assert run.status == 0, run.stderr
    model, card = read_model(tmp_path / "out")
    assert card.engine == model.name == "unrolled"
    assert "Training" in (tmp_path / "out" / "group_encode.html").read_text()
    assert not list((tmp_path / "work").rglob("training-*")), "what is done needs no checkpoint"

    people = [person.train for person in population.people]
    options = TrainingOptions(engine="unrolled", steps=8, checkpoints=tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr("conform_bids.encode.training.write_checkpoint", _killed_after_two())
        with pytest.raises(KeyboardInterrupt):
            train(people, options)
    kept = list((tmp_path / "kept").glob("training-*.safetensors"))
    assert len(kept) == 1
    resumed, whole = train(people, options), train(people, TrainingOptions(engine="unrolled", steps=8))
    context = Context(people[0].features[:15], people[0].responses[:15])
    np.testing.assert_array_equal(resumed.adapt(context).weights, whole.adapt(context).weights)
    kept[0].write_bytes(b"half a file")
    again = train(people, options)
    np.testing.assert_array_equal(again.adapt(context).weights, whole.adapt(context).weights)


def _killed_after_two() -> Callable[[Path, Checkpoint], None]:
    """Writes a checkpoint, and does not come back from the second."""
    done: list[int] = []

    def write(path: Path, checkpoint: Checkpoint) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(checkpoint.step)
        write_checkpoint(path, checkpoint)

    return write


def test_a_transformer_is_trained_on_a_store(population: SimpleNamespace, tmp_path: Path, run_encode: Any) -> None:
    flags = ("--features", population.world.features / "truth.h5", "--contexts", "10", "--draws", "1", "--max-units", "60")
    flags += ("--engine", "incontext", "--training-steps", "2", "--skip-bids-validation", "--nprocs", "1")
    run = run_encode(population.folder / "store", tmp_path / "out", "group", "-w", tmp_path / "work", *flags)
    assert run.status == 0, run.stderr
    model, card = read_model(tmp_path / "out")
    assert card.engine == model.name == "incontext"
    assert {row["engine"] for row in card.scores} == {"incontext", "ridge", "average"}


@pytest.mark.parametrize(("flags", "words"), [(("--training-steps", "5"), "--training-steps"), (("--preset", "paper"), "--preset")])
def test_options_of_networks_belong_to_networks(flags: tuple[str, ...], words: str, tmp_path: Path, run_encode: Any) -> None:
    run = run_encode(tmp_path, tmp_path / "out", "group", *flags)
    assert run.status == 2
    assert words in run.stderr


@pytest.mark.parametrize("fault", ["nobody", "no features", "no store"])
def test_a_group_that_cannot_be_trained_is_refused(fault: str, population: SimpleNamespace, tmp_path: Path, run_encode: Any) -> None:
    data, flags, status = population.folder / "store", ["--features", population.world.features / "truth.h5"], 66
    if fault == "nobody":
        flags += ["--participant-label", "99"]
    elif fault == "no features":
        flags, status = [], 2
    else:
        data = population.world.dataset
    run = run_encode(data, tmp_path / "out", "group", "-w", tmp_path / "work", "--skip-bids-validation", "--nprocs", "1", *flags)
    assert run.status in (status, 1), run.stderr
    assert {"nobody": "no sub-99", "no features": "--features", "no store": "no store"}[fault] in run.stderr + run.stdout
