"""A population model of the people of a store: trained, and scored on each of them as if that person were new."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.encode.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from conform_bids.encode.losses import LiveLosses
from conform_bids.encode.numerics.baselines import fit_group_average, ridge
from conform_bids.encode.numerics.mixture import PriorOptions, fit_prior
from conform_bids.encode.numerics.population import Adapted, Context, PopulationModel, TrainingPerson
from conform_bids.encode.numerics.scoring import MIN_CEILING
from conform_bids.encode.numerics.teamwork import ALONE, Team
from conform_bids.encode.numerics.unrolled_fit import CONTEXT_SIZES, UnrolledOptions, fit_unrolled
from conform_bids.encode.people import StorePerson
from conform_bids.numerics.scores import correlate_columns

if TYPE_CHECKING:
    from conform_bids.encode.numerics.incontext_fit import InContextOptions

__all__ = ["CONTEXTS", "TrainingOptions", "context_range", "leave_people_out", "n_tasks", "summarise", "train"]

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
    steps, batch : int, optional
        Of the training of a network, and contexts or units of a step, instead of its own defaults.
    preset : str
        Of the engine incontext.
    device : str
        That it is trained on.
    checkpoints : Path, optional
        Folder where training that was interrupted is taken up; none is kept by default.
    losses : Path, optional
        Table that losses of networks are written to while they are trained.
    team : Team
        Processes that train together; what is written is written by the first, which alone scores.
    """

    engine: str = "prior"
    seed: int = 0
    contexts: tuple[int, ...] = CONTEXTS
    draws: int = 3
    steps: int | None = None
    batch: int | None = None
    preset: str = "small"
    device: str = "cpu"
    checkpoints: Path | None = None
    losses: Path | None = None
    team: Team = ALONE


def train(people: Sequence[TrainingPerson], options: TrainingOptions, without: str | None = None) -> PopulationModel:
    """Train the engine of the options on people.

    A network's training is taken up where the last run was interrupted, and ends with the weights of one that never was.

    Parameters
    ----------
    people : sequence of TrainingPerson
    options : TrainingOptions
    without : str, optional
        Person who was left out, for the record.
    """
    if options.engine == "prior":
        return fit_prior(people, PriorOptions(seed=options.seed))
    if options.engine == "unrolled":
        unrolled = _unrolled(options)
        return _resumed(people, repr(replace(unrolled, device="")), options, partial(fit_unrolled, people, unrolled), without)
    from conform_bids.encode.numerics.incontext_fit import fit_incontext

    own = _incontext(options)
    return _resumed(people, repr(replace(own, device="")), options, partial(fit_incontext, people, own), without)


def n_tasks(options: TrainingOptions) -> int:
    """Parts of a step that processes can share: as many of them can train a network together at most."""
    if options.engine == "prior":
        return 1
    return _unrolled(options).contexts if options.engine == "unrolled" else len(_incontext(options).resolve().tasks())


def context_range(options: TrainingOptions) -> tuple[int, int] | None:
    """Smallest and largest context that an engine is trained for; None for the prior, which is exact in any."""
    if options.engine == "prior":
        return None
    return CONTEXT_SIZES if options.engine == "unrolled" else _incontext(options).resolve().contexts


def _unrolled(options: TrainingOptions) -> UnrolledOptions:
    own = UnrolledOptions(seed=options.seed, device=options.device)
    return replace(own, steps=options.steps or own.steps, contexts=options.batch or own.contexts)


def _incontext(options: TrainingOptions) -> InContextOptions:
    from conform_bids.encode.numerics.incontext_fit import InContextOptions

    return InContextOptions(options.preset, options.steps, options.batch, seed=options.seed, device=options.device)


def _resumed(
    people: Sequence[TrainingPerson], recipe: str, options: TrainingOptions, fit: Callable[..., PopulationModel], without: str | None
) -> PopulationModel:
    """Train from the last checkpoint, if there is one, and clear it away; losses are written as they come."""
    fit = partial(fit, team=options.team)
    if not options.team.leads:
        return fit()
    live = LiveLosses(options.losses, without)
    if options.checkpoints is None:
        return fit(watch=live)
    path = checkpoint_path(options.checkpoints, people, recipe)
    model = fit(resume=read_checkpoint(path), save=partial(write_checkpoint, path), watch=live)
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
        single person, and in all processes but the first.
    """
    rows: list[dict[str, Any]] = []
    for index, person in enumerate(people):
        others = [other.train for place, other in enumerate(people) if place != index]
        if not others or len(person.test_contents) < MIN_TEST:
            continue
        model = train(others, options, person.participant_id)
        if not options.team.leads:
            continue
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
