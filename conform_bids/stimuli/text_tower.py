"""Texts as vectors in the space of image features: class names through the default backbone's classifier, or CLIP's text encoder.

The classifier's rows and the features under it meet in a product, as CLIP's text and image embeddings do, so that a row of a class is
the direction of features that the network takes for that class. Only words that ImageNet's 1,000 classes have can be asked for that way.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UsageError
from conform_bids.stimuli.backbones_models import DEFAULT_BACKBONE, efficientnet_weights, load_backbone
from conform_bids.stimuli.features import FeatureCard

__all__ = ["GROUPS", "TextTower", "class_names", "classes_of", "load_text_tower"]

FloatArray = npt.NDArray[np.float32]
TEMPLATES = ("a photo of a {}.", "a picture of the {}.", "{}")
"""Sentences whose embeddings are averaged for a word."""
GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "animal": ((0, 397),),
    "fish": ((0, 6), (389, 397)),
    "bird": ((7, 24), (80, 100), (127, 146)),
    "reptile": ((33, 68),),
    "snake": ((52, 68),),
    "lizard": ((38, 48),),
    "frog": ((30, 32),),
    "turtle": ((33, 37),),
    "spider": ((72, 77),),
    "insect": ((300, 326),),
    "beetle": ((300, 307),),
    "butterfly": ((321, 326),),
    "crab": ((118, 121), (125, 125)),
    "dog": ((151, 268),),
    "wolf": ((269, 271),),
    "fox": ((277, 280),),
    "cat": ((281, 285),),
    "big cat": ((286, 293),),
    "bear": ((294, 297),),
    "monkey": ((370, 382),),
    "ape": ((365, 369),),
    "elephant": ((385, 386),),
    "whale": ((147, 148),),
    "mammal": ((101, 106), (147, 299), (330, 388)),
    "person": ((981, 983),),
    "food": ((924, 957), (959, 967), (969, 969)),
    "fruit": ((948, 957),),
    "vegetable": ((936, 946),),
    "mushroom": ((947, 947), (991, 997)),
    "flower": ((985, 986),),
    "landscape": ((970, 970), (972, 980)),
    "place": ((970, 970), (972, 980), (425, 425), (483, 483), (497, 497), (663, 663), (668, 668), (698, 698), (832, 832)),
    "building": ((425, 425), (449, 449), (483, 483), (497, 497), (663, 663), (668, 668), (698, 698), (832, 832)),
    "car": ((436, 436), (468, 468), (511, 511), (609, 609), (627, 627), (656, 656), (661, 661), (717, 717), (751, 751), (817, 817)),
    "boat": ((472, 472), (554, 554), (576, 576), (625, 625), (814, 814), (914, 914)),
    "word": ((917, 919), (921, 922)),
}
"""Broader words, as ranges of classes (both ends belong to them); their rows are averaged."""


@dataclass(frozen=True, eq=False)
class TextTower:
    """Texts in the space of a backbone's image features.

    Attributes
    ----------
    model : str
        The backbone.
    embed : callable
        Texts -> (n, n_features) float32 array, rows of unit length. UsageError for a word that it does not know.
    meaning : callable
        Text -> what was asked for, in words: the classes that it stands for, or the text.
    bank : callable
        () -> (m, n_features) array: texts of all kinds, whose mean is subtracted from a query.
    """

    model: str
    embed: Callable[[Sequence[str]], FloatArray]
    meaning: Callable[[str], str]
    bank: Callable[[], FloatArray]


def load_text_tower(card: FeatureCard, device: str = "cpu") -> TextTower:
    """Text tower that belongs to features.

    Raises
    ------
    UsageError
        When their model has no text space.
    MissingInputError
        When it cannot be loaded.
    """
    if card.model == DEFAULT_BACKBONE:
        return _classifier()
    if card.model.startswith("open_clip:"):
        return _open_clip(card.model, device)
    raise UsageError(
        f"features of {card.model!r} have no space that they share with text; those of {DEFAULT_BACKBONE} (names of ImageNet's classes) and"
        " open_clip:ARCHITECTURE/PRETRAINED (any text) have. A table computed elsewhere with CLIP names it so in its card (model)"
    )


@cache
def class_names() -> tuple[tuple[str, ...], ...]:
    """Names of ImageNet's 1,000 classes, the lemmas of their WordNet synsets, in the order of the classifier's rows."""
    return tuple(tuple(row["names"].split(", ")) for row in _rows())


@cache
def _rows() -> tuple[dict[str, str], ...]:
    text = (files("conform_bids.stimuli") / "imagenet_classes.tsv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines(), delimiter="\t"))


def classes_of(word: str) -> tuple[int, ...]:
    """Classes that a word stands for: a group of `GROUPS`, else those that have it among their names, else those of a synset (n02121808).

    Raises
    ------
    UsageError
        When there are none; the message names words near to it.
    """
    asked = _plain(word)
    for form in (asked, asked.removesuffix("s"), asked.removesuffix("es")):
        if form in GROUPS:
            return tuple(sorted(place for first, last in GROUPS[form] for place in range(first, last + 1)))
        if form in _by_name():
            return _by_name()[form]
    near = difflib.get_close_matches(asked, [*GROUPS, *_by_name()], n=5, cutoff=0.6)
    hint = f"near to it: {', '.join(near)}" if near else f"there are names of ImageNet's classes, and {', '.join(sorted(GROUPS))}"
    raise UsageError(f"{word!r} is none of the words that the classifier of {DEFAULT_BACKBONE} knows; {hint}")


@cache
def _by_name() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for place, row in enumerate(_rows()):
        for name in {_plain(name) for name in (*class_names()[place], row["synset"])}:
            found[name] = (*found.get(name, ()), place)
    return found


def _plain(word: str) -> str:
    return " ".join(word.casefold().replace("-", " ").replace("_", " ").split())


def _classifier() -> TextTower:
    rows = efficientnet_weights()["_fc.weight"].numpy().astype(np.float32)

    def embed(words: Sequence[str]) -> FloatArray:
        return _unit(np.stack([rows[list(classes_of(word))].mean(axis=0) for word in words]))

    def meaning(word: str) -> str:
        names = [class_names()[place][0] for place in classes_of(word)]
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more classes" if len(names) > 5 else "")

    return TextTower(DEFAULT_BACKBONE, embed, meaning, lambda: _unit(rows))


def _open_clip(model: str, device: str) -> TextTower:
    import torch

    encode = load_backbone(model, device).embed_text
    if encode is None:
        raise UsageError(f"{model} has no text encoder")

    def embed(words: Sequence[str]) -> FloatArray:
        rows = []
        for word in words:
            with torch.inference_mode():
                sentences = encode([template.format(word) for template in TEMPLATES])
            rows.append(_unit(sentences.float().cpu().numpy()).mean(axis=0))
        return _unit(np.stack(rows))

    return TextTower(model, embed, lambda word: word, lambda: embed([names[0] for names in class_names()[::5]]))


def _unit(rows: npt.NDArray[np.floating]) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
