"""Population models of others: arrays that are absent, of a wrong shape or not numbers, and sizes that a file only declares."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from conform_bids.encode.model_files import _TOLD, ModelCard, read_model, write_model
from conform_bids.encode.numerics.mixture import Basis, PriorOptions, fit_prior
from conform_bids.encode.numerics.population import PopulationModel, TrainingPerson
from conform_bids.encode.numerics.unrolled import NetworkSize, UnrolledModel, make_network
from conform_bids.errors import UnusableInputError

N_FEATURES = 6


@pytest.fixture(scope="module")
def people() -> list[TrainingPerson]:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((30, N_FEATURES)).astype(np.float32)
    noise = [rng.standard_normal((30, 12)) for _ in range(2)]
    return [TrainingPerson(features, (features @ rng.standard_normal((N_FEATURES, 12)) + own).astype(np.float32)) for own in noise]


def _unrolled(people: list[TrainingPerson]) -> PopulationModel:
    """An untrained one of the right shapes."""
    basis, size = Basis.fit(people, N_FEATURES), NetworkSize(8, 8, 1)
    n = basis.projection.shape[1] + 1
    weights = {name: value.numpy() for name, value in make_network(n, size).state_dict().items()}
    return UnrolledModel(basis, np.eye(n), size, weights, 1.0, np.zeros(3), "unrolled")


def _incontext(people: list[TrainingPerson]) -> PopulationModel:
    from conform_bids.encode.numerics.incontext import InContextModel
    from conform_bids.encode.numerics.transformer import InContextTransformer, Shape

    basis = Basis.fit(people, N_FEATURES)
    shape = Shape(basis.projection.shape[1], 8, 1, 2, 8, 2)
    return InContextModel(
        basis=basis, spread=np.eye(shape.n_features), network=InContextTransformer(shape).eval(), calibration=None, losses=np.zeros(3),
        settings={}, device="cpu",
    )  # fmt: skip


ENGINES: dict[str, Callable[[list[TrainingPerson]], PopulationModel]] = {
    "prior": lambda people: fit_prior(people, PriorOptions(n_components=2)), "unrolled": _unrolled, "incontext": _incontext,
}  # fmt: skip


@pytest.fixture(scope="module", params=ENGINES)
def folder(request: pytest.FixtureRequest, people: list[TrainingPerson], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model of an engine."""
    card = ModelCard(
        engine=request.param, feature_spaces=[{"name": "x", "n_features": N_FEATURES, "preprocessing_hash": "x", "model": "x"}],
        people=["sub-01", "sub-02"], n_units=24, n_stimuli=[30, 30], space="MNI", stimuli_hash="y", store_version="1.0.0", seed=0,
        software="conform",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp(request.param)
    write_model(folder, ENGINES[request.param](people), card)
    read_model(folder)
    return folder


def _content(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["settings"])  # noqa: SIM118


def _refused(folder: Path, target: Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    target.mkdir(exist_ok=True)
    (target / "model_card.json").write_bytes((folder / "model_card.json").read_bytes())
    plain = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    save_file(plain, target / "model.safetensors", metadata={"settings": json.dumps(settings)})
    with pytest.raises(UnusableInputError, match="not a population model") as caught:
        read_model(target)
    assert caught.value.exit_code == 65


def test_every_array_that_the_model_needs_has_to_be_there_and_to_fit(folder: Path, tmp_path: Path) -> None:
    arrays, settings = _content(folder)
    for name in sorted(arrays.keys() - set(_TOLD)):
        _refused(folder, tmp_path, {key: values for key, values in arrays.items() if key != name}, settings)
        _refused(folder, tmp_path, arrays | {name: np.concatenate([arrays[name]] * 2)}, settings)
        _refused(folder, tmp_path, arrays | {name: np.full_like(arrays[name], np.nan)}, settings)


def test_features_of_another_number_than_the_card_says(folder: Path, tmp_path: Path) -> None:
    arrays, settings = _content(folder)
    arrays["centre"] = np.zeros(N_FEATURES + 1)
    arrays["projection"] = np.zeros((N_FEATURES + 1, arrays["projection"].shape[1]))
    _refused(folder, tmp_path, arrays, settings)


@pytest.mark.parametrize("value", [10**6, 10**12, -1, "many"])
def test_sizes_that_are_declared_only_take_no_memory(value: Any, folder: Path, tmp_path: Path) -> None:
    arrays, settings = _content(folder)
    key = next((key for key in ("shape", "size") if key in settings), None)
    if key is None:
        pytest.skip("this engine has no network")
    tracemalloc.start()
    for name in settings[key]:
        _refused(folder, tmp_path, arrays, settings | {key: settings[key] | {name: value}})
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_files_that_are_no_safetensors(content: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model_card.json").write_bytes((folder / "model_card.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UnusableInputError, match="not a population model"):
        read_model(tmp_path)


def test_a_truncated_file(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for kept in (7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "model_card.json").write_bytes((folder / "model_card.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(whole[:kept])
        with pytest.raises(UnusableInputError, match="not a population model"):
            read_model(tmp_path)
