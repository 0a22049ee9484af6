"""What a fitted model is asked: maps of texts, and responses to new stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.images import read_maps
from conform_bids.bids.parcellations import both_hemispheres
from conform_bids.encode.files import Plan
from conform_bids.encode.fitted import Fitted
from conform_bids.encode.load import Loaded
from conform_bids.encode.new_features import new_tables
from conform_bids.encode.numerics.queries import area_under_curve, query_maps, top_one
from conform_bids.encode.numerics.scoring import Interval
from conform_bids.encode.settings import EncodeSettings
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.numerics.compute import Compute
from conform_bids.stimuli.feature_files import read_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable, match_features

if TYPE_CHECKING:
    from conform_bids.stimuli.text_tower import TextTower

__all__ = ["ask", "check_questions", "read_queries"]


def read_queries(settings: EncodeSettings) -> tuple[str, ...]:
    """Texts of ``--text-queries``: words as they are, and the lines of files (empty ones, and those that begin with #, aside).

    Raises
    ------
    UnusableInputError
        When a file holds no text, or is none.
    """
    texts: list[str] = []
    for given in settings.text_queries:
        path = Path(given)
        if not path.is_file():
            texts.append(given)
            continue
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (UnicodeDecodeError, OSError) as error:
            raise UnusableInputError(f"--text-queries {path}: not a text file ({error})") from error
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UnusableInputError(f"--text-queries {path}: it holds no text")
        texts += found
    return tuple(dict.fromkeys(texts))


def check_questions(settings: EncodeSettings, tables: Sequence[Path]) -> None:
    """Refuse what cannot be answered, before anything is computed.

    Raises
    ------
    UsageError
        When no feature space has a text space, a word is not known, or a region has no query.
    MissingInputError
        When a file is not there.
    """
    if settings.text_queries:
        queries = read_queries(settings)
        cards = [read_features(path).card for path in tables]
        if settings.chosen_backbone is not None:
            cards.append(FeatureCard(model=settings.chosen_backbone))
        _tower(cards)[1].embed(queries)
        for text in settings.rois:
            word, _, name = text.partition("=")
            if word not in queries:
                raise UsageError(f"--rois {text}: {word!r} is none of the text queries, which are {', '.join(queries)}")
            if not Path(name).is_file():
                raise MissingInputError(f"--rois {text}: no such file")
    if settings.predict is not None and not settings.predict.exists():
        raise MissingInputError(f"--predict {settings.predict}: no such file or folder")


def _tower(cards: Sequence[FeatureCard]) -> tuple[int, TextTower]:
    """The first feature space that has a text space, and its tower."""
    from conform_bids.stimuli.text_tower import load_text_tower

    reasons: list[UsageError] = []
    for index, card in enumerate(cards):
        try:
            return index, load_text_tower(card)
        except UsageError as error:
            reasons.append(error)
    raise UsageError(f"--text-queries: {reasons[0]}")


def ask(plan: Plan, loaded: Loaded, fitted: Fitted, compute: Compute) -> None:
    """Add to a fit the maps and numbers that its settings ask for.

    Raises
    ------
    UnusableInputError, MissingInputError
        When regions or new stimuli do not fit the model.
    """
    if plan.settings.text_queries:
        _ask_texts(plan, loaded, fitted)
    if plan.settings.predict is not None and not plan.settings.is_movie:
        _predict(plan, loaded, fitted, compute)


def _ask_texts(plan: Plan, loaded: Loaded, fitted: Fitted) -> None:
    texts = read_queries(plan.settings)
    index, tower = _tower([FeatureCard.from_json(card) for card in loaded.cards])
    weights = fitted.model.tuning(index)
    directions = tower.embed(texts)
    if directions.shape[1] != len(weights):
        raise UnusableInputError(
            f"features {loaded.cards[index]['name']}: {len(weights)} of them, and texts have {directions.shape[1]} dimensions in "
            f"{tower.model}: they are not its features"
        )
    maps = query_maps(weights, directions, tower.bank())
    fitted.arrays["queries"] = maps
    fitted.facts["Queries"] = [{"text": text, "meaning": tower.meaning(text)} for text in texts]
    fitted.facts["TextModel"] = tower.model
    if not plan.settings.rois:
        return
    words = [text.partition("=")[0] for text in plan.settings.rois]
    regions = np.stack([_read_mask(plan, loaded, Path(text.partition("=")[2])) for text in plan.settings.rois])
    own = maps[[texts.index(word) for word in words]]
    for word, values, inside, share in zip(words, own, regions, top_one(own, regions), strict=True):
        fitted.numbers[f"query_auc_{word}"] = Interval(area_under_curve(values, inside))
        fitted.numbers[f"query_top1_{word}"] = Interval(float(share))


def _read_mask(plan: Plan, loaded: Loaded, path: Path) -> npt.NDArray[np.bool_]:
    files = both_hemispheres(path, "--rois") if plan.kind == "gifti" else (path,)
    values = read_maps(files, loaded.space)
    if len(values) != 1:
        raise UnusableInputError(f"--rois {path}: {len(values)} maps; a mask is one")
    with np.errstate(invalid="ignore"):
        return np.asarray(values[0] > 0)


def _predict(plan: Plan, loaded: Loaded, fitted: Fitted, compute: Compute) -> None:
    """Responses to new stimuli in the units of the responses, (n_new, n_units)."""
    tables = new_tables(plan, loaded, partial(_embed, plan=plan, compute=compute))
    first = tables[0]
    names, hashes = list(first.stim_ids), list(first.sha256)
    values = [first.values]
    for table, card in zip(tables[1:], loaded.cards[1:], strict=True):
        values.append(match_features(table, names, hashes, source=str(card["name"])).values)
    if not all(np.isfinite(table.values).all() for table in tables):
        raise UnusableInputError("--predict: features that are not finite")
    predicted = fitted.model.predict(values) * fitted.scale + fitted.mean
    fitted.arrays["new_predictions"] = predicted
    fitted.tables["new"] = pd.DataFrame({"condition": range(len(names)), "stim_id": names, "sha256": hashes})


def _embed(files: dict[str, Path], plan: Plan, compute: Compute) -> FeatureTable:
    from conform_bids.stimuli.backbones import compute_features
    from conform_bids.stimuli.backbones_models import load_backbone

    assert plan.settings.chosen_backbone is not None
    return compute_features(load_backbone(plan.settings.chosen_backbone, compute.device), files)
