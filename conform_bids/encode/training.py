"""A population model of the people of a store: trained, and scored on each of them as if that person were new."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.encode.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from conform_bids.encode.numerics.baselines import fit_group_average, ridge
from conform_bids.encode.numerics.mixture import PriorOptions, fit_prior
from conform_bids.encode.numerics.population import Adapted, Context, PopulationModel, TrainingPerson
from conform_bids.encode.numerics.scoring import MIN_CEILING
from conform_bids.encode.numerics.unrolled_fit import UnrolledOptions, fit_unrolled
from conform_bids.encode.people import StorePerson
from conform_bids.numerics.scores import correlate_columns

__all__ = ["CONTEXTS", "TrainingOptions", "leave_people_out", "summarise", "train"]

CONTEXTS = (10, 20, 50, 100)
MIN_TEST = 5
_LOGGER = logging.getLogger("nipype.interface")


@dataclass(frozen=True)
class TrainingOptions:
    """How a population model is trained and scored.

    Attributes
    ----------
    engine : str
    seed : int
    contexts : tuple of int
        Stimuli that a left-out person's model is given; those that a person has no more than are left out.
    draws : int
        Contexts of each size.
    steps : int, optional
        Of the training of a network, instead of its own default.
    preset : str
        Of the engine incontext.
    device : str
        That it is trained on.
    checkpoints : Path, optional
        Folder where training that was interrupted is taken up; none is kept by default.
    """

    engine: str = "prior"
    seed: int = 0
    contexts: tuple[int, ...] = CONTEXTS
    draws: int = 3
    steps: int | None = None
    preset: str = "small"
    device: str = "cpu"
    checkpoints: Path | None = None


def train(people: Sequence[TrainingPerson], options: TrainingOptions) -> PopulationModel:
    """Train the engine of the options on people.

    A network's training is taken up where the last run was interrupted, and ends with the weights of one that never was.
    """
    trainers: Mapping[str, Callable[[], PopulationModel]] = {
        "prior": lambda: fit_prior(people, PriorOptions(seed=options.seed)),
        "unrolled": lambda: _train_unrolled(people, options),
        "incontext": lambda: _train_incontext(people, options),
    }
    return trainers[options.engine]()


def _train_unrolled(people: Sequence[TrainingPerson], options: TrainingOptions) -> PopulationModel:
    own = UnrolledOptions(seed=options.seed)
    own = own if options.steps is None else replace(own, steps=options.steps)
    return _resumed(people, repr(own), options.checkpoints, partial(fit_unrolled, people, own))


def _train_incontext(people: Sequence[TrainingPerson], options: TrainingOptions) -> PopulationModel:
    from conform_bids.encode.numerics.incontext_fit import InContextOptions, fit_incontext

    own = InContextOptions(options.preset, options.steps, seed=options.seed, device=options.device)
    return _resumed(people, repr(replace(own, device="cpu")), options.checkpoints, partial(fit_incontext, people, own))


def _resumed(people: Sequence[TrainingPerson], options: str, folder: Path | None, fit: Callable[..., PopulationModel]) -> PopulationModel:
    """Train from the last checkpoint in a folder, if there is one, and clear it away."""
    if folder is None:
        return fit()
    path = checkpoint_path(folder, people, options)
    model = fit(resume=read_checkpoint(path), save=partial(write_checkpoint, path))
    path.unlink(missing_ok=True)
    return model


def leave_people_out(people: Sequence[StorePerson], options: TrainingOptions) -> pd.DataFrame:
    """Train without each person in turn, give the model some of the person's responses, and score its predictions of test stimuli.

    Parameters
    ----------
    people : sequence of StorePerson
        Two or more.

    Returns
    -------
    DataFrame
        A row a person, size of the context, draw and engine (that of the options, and as baselines ``ridge`` on the same context and
        ``average``, the mean map of the other people, where all have the same units): participant_id, n_context, draw, engine,
        correlation (mean over units), normalised (over the root of the noise ceiling, where that is above 10 percent). Empty with a
        single person.
    """
    rows: list[dict[str, Any]] = []
    for index, person in enumerate(people):
        others = [other.train for place, other in enumerate(people) if place != index]
        if not others or len(person.test_contents) < MIN_TEST:
            continue
        model = train(others, options)
        same = all(np.array_equal(other.units, person.units) for other in people)
        baselines = [("average", fit_group_average(others))] if same else []
        for n_context in options.contexts:
            if n_context >= len(person.contents):
                continue
            for draw in range(options.draws):
                rng = np.random.default_rng([options.seed, index, n_context, draw])
                chosen = np.sort(rng.permutation(len(person.contents))[:n_context])
                context = Context(person.train.features[chosen], person.train.responses[chosen])
                answers = [(options.engine, model.adapt(context)), ("ridge", ridge(context))]
                for name, adapted in (*answers, *((name, baseline.adapt(context)) for name, baseline in baselines)):
                    score = _score(adapted, person)
                    rows.append({"participant_id": person.participant_id, "n_context": n_context, "draw": draw, "engine": name, **score})
        _LOGGER.info("%s left out: scored with contexts of %s", person.participant_id, ", ".join(map(str, options.contexts)))
    return pd.DataFrame(rows, columns=["participant_id", "n_context", "draw", "engine", "correlation", "normalised"])


def _score(adapted: Adapted, person: StorePerson) -> dict[str, float]:
    predicted = person.test_features @ adapted.weights + adapted.bias
    correlation = np.nan_to_num(correlate_columns(predicted, person.test_responses))
    with np.errstate(invalid="ignore"):
        clear = person.test_ceiling > MIN_CEILING
    normalised: npt.NDArray[np.float64] = correlation[clear] / np.sqrt(person.test_ceiling[clear] / 100)
    return {"correlation": float(correlation.mean()), "normalised": float(normalised.mean()) if clear.any() else float("nan")}


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over people and draws: n_context, engine, correlation, normalised."""
    if scores.empty:
        return scores[["n_context", "engine", "correlation", "normalised"]]
    return scores.groupby(["n_context", "engine"], as_index=False)[["correlation", "normalised"]].mean()
