"""Features of stimuli that a model is asked about (``--predict``): from tables, or of files by the model's backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conform_bids.encode.features import find_feature_files
from conform_bids.encode.files import Plan
from conform_bids.encode.load import Loaded
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.stimuli.feature_files import read_features
from conform_bids.stimuli.features import FeatureTable

__all__ = ["new_tables"]


def new_tables(plan: Plan, loaded: Loaded, embed: Callable[[dict[str, Path]], FeatureTable]) -> list[FeatureTable]:
    """A table of the new stimuli's features for each feature space of a model, in their order.

    Parameters
    ----------
    embed : callable
        Gives the features of files, by name, where ``--predict`` is a folder of them and the model's features are of a backbone.

    Raises
    ------
    MissingInputError
        When there is no file, or a feature space has no table.
    UnusableInputError
        When a table cannot be used, or its features are not those of the model.
    """
    tables = _found_tables(plan, loaded, embed)
    for table, card in zip(tables, loaded.cards, strict=True):
        if table.n_features != len(card["feature_names"]):
            raise UnusableInputError(
                f"--predict: {table.n_features} features, and the model has {len(card['feature_names'])} of {card['name']}"
            )
        if "n/a" not in (table.card.model, card["model"]) and table.card.preprocessing_hash != card["preprocessing_hash"]:
            raise UnusableInputError(f"--predict: features of {table.card.model}, not computed as those of the model, {card['name']}")
    return tables


def _found_tables(plan: Plan, loaded: Loaded, embed: Callable[[dict[str, Path]], FeatureTable]) -> list[FeatureTable]:
    asked = plan.settings.predict
    assert asked is not None
    if asked.is_dir() and plan.settings.chosen_backbone is not None and not plan.feature_files:
        files = {path.relative_to(asked).as_posix(): path for path in sorted(asked.rglob("*")) if path.is_file() and path.name[0] != "."}
        if not files:
            raise MissingInputError(f"--predict {asked}: no file in this folder")
        return [embed(files)]
    found = {path.stem: path for path in find_feature_files([str(asked)])}
    names = [str(card["name"]) for card in loaded.cards]
    if len(names) == len(found) == 1:
        return [read_features(next(iter(found.values())))]
    if absent := [name for name in names if name not in found]:
        raise MissingInputError(f"--predict {asked}: no table of the feature space {absent[0]!r}; the model needs {', '.join(names)}")
    return [read_features(found[name]) for name in names]
