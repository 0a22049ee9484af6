"""Ridge and banded ridge of one person's responses, whatever a row is: a stimulus, or a volume of a movie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conform_bids.encode.fitted import Array, LinearModel
from conform_bids.encode.numerics.banded import fit_banded, split_rsquared
from conform_bids.encode.numerics.reduction import Reduction, fit_reduction
from conform_bids.encode.numerics.ridge import Folds, default_alphas, fit_ridge
from conform_bids.encode.numerics.scoring import coefficient_of_determination
from conform_bids.encode.settings import EncodeSettings
from conform_bids.errors import UnusableInputError
from conform_bids.numerics.compute import Compute

__all__ = ["CrossValidated", "Fit", "expand", "reduce_spaces"]


@dataclass(frozen=True, eq=False)
class CrossValidated(LinearModel):
    """A linear model that was cross-validated.

    Attributes
    ----------
    alpha : (n_units,) or (n_spaces, n_units) array
    cv_rsquared : (n_units,) array
    """

    alpha: Array
    cv_rsquared: Array


@dataclass(frozen=True)
class Fit:
    """How models are fitted.

    Attributes
    ----------
    settings : EncodeSettings
    seed : int
    folds : sequence of int arrays or None
        Rows that are left out together; None: each by itself.
    compute : Compute
    """

    settings: EncodeSettings
    seed: int
    folds: Folds | None
    compute: Compute

    @property
    def is_banded(self) -> bool:
        """Whether each feature space has a penalty of its own."""
        return self.settings.estimator == "banded"

    def model(self, features: Sequence[Array], responses: Array) -> CrossValidated:
        """Fit a model to each unit.

        Parameters
        ----------
        features : sequence of (n_rows, n_features) arrays
            One a feature space.
        responses : (n_rows, n_units) array
        """
        alphas = self.settings.alphas
        if self.is_banded and len(features) > 1:
            grid = alphas or default_alphas(np.concatenate([_unit_variance(space) for space in features], axis=1))
            banded = fit_banded(features, responses, grid, seed=self.seed, folds=self.folds, compute=self.compute)
            return CrossValidated(list(banded.weights), banded.intercept, banded.alphas, banded.cv_rsquared)
        joined = np.concatenate(features, axis=1)
        fit = fit_ridge(joined, responses, alphas or default_alphas(joined), folds=self.folds, compute=self.compute)
        edges = np.cumsum([space.shape[1] for space in features])[:-1]
        return CrossValidated(np.split(fit.weights, edges, axis=0), fit.intercept, fit.alphas, fit.cv_rsquared)

    def shares(
        self, model: CrossValidated, responses: Array, train: Sequence[Array], test: Sequence[Array], measured: Array
    ) -> dict[str, Array]:
        """What each feature space predicts: by the product measure, and what the model loses without it.

        Parameters
        ----------
        model : CrossValidated
            Of all feature spaces.
        responses, measured : (n_rows, n_units) arrays
            To train and test.
        train, test : sequences of (n_rows, n_features) arrays
        """
        means = [own.mean(axis=0, dtype=np.float64) for own in train]
        centred = [space - mean.astype(np.float32) for space, mean in zip(test, means, strict=True)]
        offset = model.intercept + sum((mean @ weights for mean, weights in zip(means, model.weights, strict=True)))
        shares = split_rsquared(model.parts(centred), offset, measured)
        whole = coefficient_of_determination(model.predict(test), measured)
        unique = np.empty_like(shares)
        for left_out in range(len(train)):
            kept = [index for index in range(len(train)) if index != left_out]
            others = self.model([train[index] for index in kept], responses)
            unique[left_out] = whole - coefficient_of_determination(others.predict([test[index] for index in kept]), measured)
        return {"split_rsquared": shares, "unique_variance": unique}


def _unit_variance(space: Array) -> Array:
    return np.asarray(space / np.sqrt(np.asarray(space, dtype=np.float64).var(axis=0).mean()))


def reduce_spaces(names: Sequence[str], train: Sequence[Array], n_components: int) -> list[Reduction | None]:
    """Principal components of each feature space; None where there are no more features than are asked for.

    Raises
    ------
    UnusableInputError
        When features are the same for all rows, or have fewer dimensions than that.
    """
    reductions: list[Reduction | None] = []
    for name, space in zip(names, train, strict=True):
        if not (space.std(axis=0) > 0).any():
            raise UnusableInputError(f"features {name}: they are the same for all train stimuli")
        if not n_components or n_components >= space.shape[1]:
            reductions.append(None)
            continue
        try:
            reductions.append(fit_reduction(space, n_components))
        except ValueError as error:
            raise UnusableInputError(f"features {name}: --components {error}") from error
    return reductions


def expand(model: CrossValidated, reductions: Sequence[Reduction | None]) -> CrossValidated:
    """The model in terms of features instead of components."""
    weights, intercept = [], np.array(model.intercept)
    for own, how in zip(model.weights, reductions, strict=True):
        if how is None:
            weights.append(own)
            continue
        weights.append(how.expand(own))
        intercept -= (how.mean @ weights[-1]).astype(intercept.dtype)
    return CrossValidated(weights, intercept, model.alpha, model.cv_rsquared)
