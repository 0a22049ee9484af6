"""A population model on disk: its arrays as safetensors, and a card that says what it is, for programs (JSON) and for people (Markdown)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.derivatives import atomic_path, write_json, write_text
from conform_bids.encode.numerics.mixture import PriorModel
from conform_bids.encode.numerics.population import Context, PopulationModel
from conform_bids.encode.numerics.unrolled import UnrolledModel
from conform_bids.errors import MissingInputError, UnusableInputError

__all__ = ["MODEL_VERSION", "ModelCard", "find_model", "read_card", "read_losses", "read_model", "write_model"]

MODEL_VERSION = 1
_TRIED = 10
"""Stimuli of noise that a model is tried on when it is read."""
_TOLD = ("losses", "objective")
"""Arrays that say how the training went, and are shown only."""
_ARRAYS, _CARD, _README = "model.safetensors", "model_card.json", "README.md"
_ENGINES = ("prior", "unrolled", "incontext")


@dataclass(frozen=True)
class ModelCard:
    """What a model is.

    Attributes
    ----------
    engine : str
    feature_spaces : list of dict
        Card of each feature space, in the order of the features: ``name``, ``n_features``, ``model``, ``layer``, ``preprocessing_hash``.
    people : list of str
        That it was trained on.
    n_units : int
        Of all of them.
    n_stimuli : list of int
        Train stimuli of each.
    space : str
        Label of the grid of the store; the model itself knows no places.
    stimuli_hash : str
        Of the train stimuli of all.
    store_version : str
    seed : int
    contexts : list of int
        Sizes that it was scored with.
    context_range : list of int
        Smallest and largest context that it was trained for; empty where any is the same to it.
    scores : list of dict
        Rows of the leave-one-person-out evaluation.
    software : str
    licences : list of str
        Of the data and the features.
    version : int
        Of this layout.
    """

    engine: str
    feature_spaces: list[dict[str, Any]]
    people: list[str]
    n_units: int
    n_stimuli: list[int]
    space: str
    stimuli_hash: str
    store_version: str
    seed: int
    software: str
    contexts: list[int] = field(default_factory=list)
    context_range: list[int] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    licences: list[str] = field(default_factory=list)
    version: int = MODEL_VERSION

    def check_features(self, spaces: Sequence[Mapping[str, Any]]) -> None:
        """Whether features are those that the model was trained on.

        Raises
        ------
        UnusableInputError
            Naming the first feature space that is not.
        """
        if len(spaces) != len(self.feature_spaces):
            raise UnusableInputError(f"the model was trained on {len(self.feature_spaces)} feature space(s), and there are {len(spaces)}")
        for own, given in zip(self.feature_spaces, spaces, strict=True):
            for key, words in (
                ("n_features", "there are {}, not {}"),
                ("preprocessing_hash", "model, layer or preprocessing differ ({}, not {})"),
            ):
                if own[key] != given.get(key):
                    found = words.format(*(str(value)[:12] for value in (given.get(key), own[key])))
                    raise UnusableInputError(
                        f"features {given.get('name')}: not those of the model, which are {own['name']} ({own.get('model')}, "
                        f"{own['n_features']} features): {found}"
                    )


def write_model(folder: Path, model: PopulationModel, card: ModelCard) -> list[Path]:
    """Write a model and its card; each file is atomic, the card comes last."""
    from safetensors.numpy import save_file

    arrays, settings = model.state()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / _ARRAYS) as temporary:
        plain = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        save_file(plain, temporary, metadata={"settings": json.dumps(dict(settings), sort_keys=True)})
    write_text(_describe(card), folder / _README)
    write_json(asdict(card), folder / _CARD)
    return [folder / name for name in (_ARRAYS, _README, _CARD)]


def find_model(folder: Path) -> tuple[Path, Path]:
    """Card and arrays of the model in a folder, or in ``model`` of it.

    Raises
    ------
    MissingInputError
        When there is none.
    """
    folder = folder if (folder / _CARD).is_file() or not (folder / "model" / _CARD).is_file() else folder / "model"
    absent = [name for name in (_CARD, _ARRAYS) if not (folder / name).is_file()]
    if absent:
        raise MissingInputError(
            f"{folder}: no {absent[0]}; a population model is what conform-encode writes to OUT/model at the level group"
        )
    return folder / _CARD, folder / _ARRAYS


def read_card(folder: Path) -> ModelCard:
    """Read what a model is, without its arrays.

    Raises
    ------
    MissingInputError
        When there is none.
    UnusableInputError
        When it is broken, of a later version, or of an engine that is not known.
    """
    path, _ = find_model(folder)
    try:
        card = ModelCard(**json.loads(path.read_text(encoding="utf-8")))
        if card.version > MODEL_VERSION:
            raise UnusableInputError(f"{path.parent}: a model of version {card.version}; this conform reads up to {MODEL_VERSION}")
        if card.engine not in _ENGINES:
            raise UnusableInputError(f"{path.parent}: a model of the engine {card.engine!r}; this conform knows {', '.join(_ENGINES)}")
    except (OSError, ValueError, TypeError) as error:
        raise _broken(path.parent, error) from error
    return card


def read_model(folder: Path) -> tuple[PopulationModel, ModelCard]:
    """Read a model.

    Raises
    ------
    MissingInputError
        When there is none.
    UnusableInputError
        When it is broken, of a later version, or of an engine that is not known.
    """
    from safetensors import SafetensorError, safe_open

    card, (_, path) = read_card(folder), find_model(folder)
    try:
        with safe_open(path, framework="numpy") as file:
            settings = json.loads(file.metadata()["settings"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        unset = sorted(name for name, values in arrays.items() if name not in _TOLD and np.isnan(values).any())
        if unset:
            raise ValueError(f"{unset[0]} is not a number in places")
        model: PopulationModel = _engine(card.engine).from_state(arrays, settings)
        _try(model, card)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, ArithmeticError, SafetensorError) as error:
        raise _broken(path.parent, error) from error
    return model, card


def _try(model: PopulationModel, card: ModelCard) -> None:
    """Apply a model to two units of noise: arrays that do not fit each other, or the card, are found before any data are read.

    Raises
    ------
    ValueError
        When it does not give a weight for each feature.
    """
    n_features = sum(int(space["n_features"]) for space in card.feature_spaces)
    rng = np.random.default_rng(0)
    context = Context(rng.standard_normal((_TRIED, n_features)).astype(np.float32), rng.standard_normal((_TRIED, 2)).astype(np.float32))
    found = model.adapt(context)
    finite = all(np.isfinite(values).all() for values in (found.weights, found.bias, found.signal_share))
    if found.weights.shape != (n_features, 2) or not finite:
        raise ValueError(f"it does not give weights for the {n_features} features of its card")


def _engine(name: str) -> Any:
    """Class of an engine; torch is imported for those alone that need it."""
    if name == "prior":
        return PriorModel
    if name == "unrolled":
        return UnrolledModel
    from conform_bids.encode.numerics.incontext import InContextModel

    return InContextModel


def read_losses(folder: Path) -> NDArray[np.float64] | None:
    """Losses of the steps of a network's training; None for a model that has none, or cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / _ARRAYS, framework="numpy") as file:
            return np.asarray(file.get_tensor("losses"), dtype=np.float64) if "losses" in file.keys() else None  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def _broken(folder: Path, error: Exception) -> UnusableInputError:
    return UnusableInputError(f"{folder}: not a population model, or broken ({type(error).__name__}: {error})")


def _describe(card: ModelCard) -> str:
    """The card for people."""
    spaces = "\n".join(f"- {space['name']}: {space.get('model')}, {space['n_features']} features" for space in card.feature_spaces)
    lines = [
        "# A population model of visual responses",
        "",
        f"Made by {card.software}, engine `{card.engine}`, seed {card.seed}. Given some responses of a new person (a context), it says "
        "weights of the features for each of the person's units: `conform-encode DATA OUT participant --model MODEL`.",
        "",
        "## Features",
        "",
        spaces,
        "",
        "## Trained on",
        "",
        f"{len(card.people)} people ({', '.join(card.people)}), {card.n_units:,} units, {sum(card.n_stimuli):,} responses to train "
        f"stimuli; store version {card.store_version}, space {card.space}. Licences: {', '.join(card.licences) or 'not stated'}.",
        "",
        f"Contexts that it was trained for: {' to '.join(map(str, card.context_range)) or 'any number of'} stimuli.",
        "",
        "## Scores",
        "",
        "Each person left out of the training in turn; mean over units of the correlation with responses to test stimuli.",
        "",
    ]
    if card.scores:
        names = [name for name in card.scores[0] if name not in ("participant_id", "draw")]
        lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in card.scores]
    else:
        lines.append("It was trained on one person, or without an evaluation: there are none.")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
