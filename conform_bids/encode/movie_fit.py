"""Encoding models of movies: features of earlier volumes, or features convolved with each unit's HRF, to volumes of BOLD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library, read_hrf_table
from conform_bids.encode.files import Plan
from conform_bids.encode.fitted import Array, Fitted, LinearModel, median, standardise
from conform_bids.encode.fitting import CrossValidated, Fit
from conform_bids.encode.movie_inputs import LoadedMovies
from conform_bids.encode.numerics.movies import Operator, convolved, delayed, design_rows, volume_kernel
from conform_bids.encode.numerics.scoring import Interval, bootstrap_medians, score_units
from conform_bids.numerics.compute import Compute

__all__ = ["MovieModel", "fit_movies"]

BLOCK_S = 20.0
"""Seconds of a test movie that are resampled together: volumes nearer to each other than that are not independent."""


@dataclass(frozen=True, eq=False)
class MovieModel(LinearModel):
    """A model of volumes, in terms of the features as they were given.

    Attributes
    ----------
    delays : tuple of int
        Volumes that a feature is delayed by, the weights of each after those of the one before; empty where features are convolved.
    groups : list of (operator, (n_units,) bool array)
        From the features of a movie (n_volumes, n_features) to its regressors, for some of the units.
    centres : list of (n_features,) arrays
        Mean features of the train volumes, which predictions begin and end with.
    """

    delays: tuple[int, ...]
    groups: list[tuple[Operator, npt.NDArray[np.bool_]]]
    centres: list[Array]

    def tuning(self, space: int) -> Array:
        """Weights of a feature that does not change, (n_features, n_units): the sum over delays."""
        weights = self.weights[space]
        return weights.reshape(max(1, len(self.delays)), -1, weights.shape[1]).sum(axis=0)

    def predict_movie(self, features: Sequence[Array], on: Array) -> Array:
        """Predicted volumes of a movie, as z of the train volumes, (n_volumes, n_units).

        Parameters
        ----------
        features : sequence of (n_volumes, n_features) arrays
            Mean features of each volume, one a feature space.
        on : (n_volumes,) array
            Share of each volume during which the movie is on.
        """
        predicted = np.full((len(on), len(self.intercept)), np.nan, dtype=np.float32)
        for operator, units in self.groups:
            regressors = [operator(space - on[:, None] * centre) for space, centre in zip(features, self.centres, strict=True)]
            parts = (rows @ weights[:, units] for rows, weights in zip(regressors, self.weights, strict=True))
            predicted[:, units] = np.where(np.isfinite(self.intercept[units]), sum(parts), np.nan)
        return predicted


def fit_movies(plan: Plan, loaded: LoadedMovies, compute: Compute) -> Fitted:
    """Fit a model to each unit, with penalties by runs that are left out, and score it on the test movies.

    Parameters
    ----------
    plan : Plan
    loaded : LoadedMovies
    compute : Compute

    Returns
    -------
    Fitted
        Weights are of the features as they were given, for each delay.
    """
    standard, mean, scale = standardise(loaded.responses)
    timeline = loaded.timeline
    folds = [np.flatnonzero(timeline.fold == fold) for fold in np.unique(timeline.fold)]
    fit = Fit(plan.settings, plan.random_seed, folds if len(folds) > 1 else None, compute)
    measured = ((np.asarray(loaded.observed) - mean) / scale).astype(np.float32)
    n_units, n_spaces = standard.shape[1], len(loaded.features)
    arrays = _empty(plan, n_units, n_spaces, len(measured))
    weights = [np.full((_n_columns(loaded, number), n_units), np.nan, dtype=np.float32) for number in range(n_spaces)]
    intercept = np.full(n_units, np.nan, dtype=np.float32)
    groups = list(_groups(plan, loaded, n_units))
    for operator, units in groups:
        rows = [design_rows(timeline, np.asarray(space), operator) for space in loaded.features]
        train, test = [each[0] for each in rows], [each[1] for each in rows]
        own = np.ascontiguousarray(standard[:, units])
        model = fit.model(train, own)
        found: dict[str, Array] = {"alpha": model.alpha, "cv_rsquared": model.cv_rsquared}
        if plan.has_held_out:
            found["predictions"] = model.predict(test)
            if fit.is_banded:
                found |= fit.shares(model, own, train, test, measured[:, units])
        for name, values in found.items():
            arrays[name][..., units] = values
        for number, values in enumerate(_expanded(model, loaded)):
            weights[number][:, units] = values
        intercept[units] = model.intercept
    numbers = {"median_cv_rsquared": Interval(median(arrays["cv_rsquared"]))}
    if plan.has_held_out:
        numbers |= _score(plan, loaded, arrays, measured)
    if loaded.hrf_index is not None:
        arrays["hrf_index"] = loaded.hrf_index.astype(np.float64)
    whole = MovieModel(weights, _at_rest(intercept, weights, loaded), loaded.delays, groups, loaded.centres)
    return Fitted(
        whole,
        mean,
        scale,
        arrays,
        numbers,
        columns=_names(loaded),
        attributes=_attributes(plan, loaded),
        facts={"Design": "movie", "HRF": plan.settings.hrf},
    )


def _empty(plan: Plan, n_units: int, n_spaces: int, n_tested: int) -> dict[str, Array]:
    """Arrays that the groups of units are written into."""
    shapes: dict[str, tuple[int, ...]] = {"cv_rsquared": (n_units,)}
    shapes["alpha"] = (n_spaces, n_units) if plan.settings.estimator == "banded" else (n_units,)
    if plan.has_held_out:
        shapes["predictions"] = (n_tested, n_units)
        if plan.settings.estimator == "banded":
            shapes |= {"split_rsquared": (n_spaces, n_units), "unique_variance": (n_spaces, n_units)}
    return {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in shapes.items()}


def _groups(plan: Plan, loaded: LoadedMovies, n_units: int) -> Iterator[tuple[Operator, npt.NDArray[np.bool_]]]:
    """Units that have the same regressors, and what makes these."""
    tr = loaded.repetition_time
    everything = np.ones(n_units, dtype=bool)
    if plan.settings.hrf == "fir":
        yield partial(delayed, delays=loaded.delays), everything
    elif plan.settings.hrf == "assumed":
        yield partial(convolved, kernel=volume_kernel(load_default_assumed_hrf(), 0, tr)), everything
    else:
        assert loaded.hrf_index is not None
        library = load_default_library() if plan.settings.hrf_library is None else read_hrf_table(plan.settings.hrf_library, tr)
        for index in np.unique(loaded.hrf_index):
            yield partial(convolved, kernel=volume_kernel(library, int(index), tr)), loaded.hrf_index == index


def _n_columns(loaded: LoadedMovies, number: int) -> int:
    return len(loaded.centres[number]) * max(1, len(loaded.delays))


def _expanded(model: CrossValidated, loaded: LoadedMovies) -> Iterator[Array]:
    """Weights of the features, given those of components, for each delay."""
    n_delays = max(1, len(loaded.delays))
    for own, how in zip(model.weights, loaded.reductions, strict=True):
        if how is None:
            yield own
        else:
            yield np.concatenate([how.expand(part) for part in np.split(np.asarray(own), n_delays)])


def _at_rest(intercept: Array, weights: Sequence[Array], loaded: LoadedMovies) -> Array:
    """Intercept for features whose mean is not taken off, while a movie is on."""
    shift = np.zeros(len(intercept))
    if loaded.delays:
        for own, centre in zip(weights, loaded.centres, strict=True):
            shift += np.tile(centre, len(loaded.delays)) @ own.astype(np.float64)
    return (intercept - shift).astype(np.float32)


def _score(plan: Plan, loaded: LoadedMovies, arrays: dict[str, Array], measured: Array) -> dict[str, Interval]:
    predicted = arrays["predictions"]
    arrays |= {**score_units(predicted, measured, loaded.ceiling), "noiseceiling": loaded.ceiling, "explainable_variance": loaded.single}
    table = loaded.conditions.iloc[loaded.n_train :]
    part = np.floor(table["time"].astype(float).to_numpy() / BLOCK_S).astype(int)
    blocks = np.unique(np.array([f"{name} {k}" for name, k in zip(table["stim_id"], part, strict=True)]), return_inverse=True)[1]
    numbers = dict(
        bootstrap_medians(
            predicted, measured, loaded.ceiling, n_resamplings=plan.settings.bootstraps, seed=plan.random_seed, blocks=blocks
        )
    )  # fmt: skip
    if plan.has_ceiling:
        numbers["median_explainable_variance"] = Interval(median(np.asarray(loaded.single)))
    return numbers


def _names(loaded: LoadedMovies) -> list[tuple[str, ...]]:
    """Names of the weights: features by delay."""
    columns: list[tuple[str, ...]] = []
    for card in loaded.cards:
        names = tuple(card["feature_names"])
        columns.append(tuple(f"{name}_delay{delay}" for delay in loaded.delays for name in names) if loaded.delays else names)
    return columns


def _attributes(plan: Plan, loaded: LoadedMovies) -> dict[str, object]:
    """What the file of weights says of time."""
    return {"repetition_time": loaded.repetition_time, "hrf": plan.settings.hrf, "delays": np.array(loaded.delays, dtype=np.int32)}
