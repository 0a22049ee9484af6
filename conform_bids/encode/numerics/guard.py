"""A guard against a population model of the wrong population: one switch a person, decided on the person's own context.

Two questions are asked of the context, over all units at once, and both have to be answered by yes.

- Does the model predict stimuli that were left out better than ridge does? Ridge has one penalty for all units here, chosen without the
  left-out stimulus: with a penalty for each unit it overfits short contexts so much that a wrong prior, which predicts little and therefore
  errs little, looks better than it.
- Are the responses more probable under the model than under a Bayesian ridge with the same noise ceilings? Evidence is the error of
  predicting each stimulus from those before it, summed, so that it also counts what the model knows of a person from nothing.

The first alone takes a wrong prior for a right one at ten stimuli, or refuses right ones; the second has no such overlap (docs, encoding:
the guard). Engines without an evidence are asked the first question alone, at a stricter threshold. Mixing both engines, and switches for
parts of the brain, fail: they lose up to .07 of correlation to a wrong prior.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from conform_bids.encode.numerics.baselines import nested_loo_residuals, ridge
from conform_bids.encode.numerics.mixture import PriorModel
from conform_bids.encode.numerics.mixture_loo import loo_residuals
from conform_bids.encode.numerics.mixture_terms import Mixture, responsibilities
from conform_bids.encode.numerics.population import Adapted, Context, FloatArray, PopulationModel
from conform_bids.numerics.compute import limit_threads

__all__ = ["MIN_CONTEXT", "Decision", "adapt_guarded", "bayesian_ridge", "decide", "evidence_gain"]

MIN_CONTEXT = 4
RATIO = 0.98
RATIO_ALONE = 0.95
GAIN = 0.002
INTERCEPT_VARIANCE = 1e-3


@dataclass(frozen=True)
class Decision:
    """What the guard found.

    Attributes
    ----------
    accepted : bool
        Whether the population model is used; otherwise ridge is.
    ratio : float
        Squared error on left-out stimuli, summed over units: population model over ridge.
    ratio_below : float
        What it has to be below.
    evidence_gain : float or None
        Logarithm of the responses' probability under the model over that under Bayesian ridge, a response; None where the engine has none.
    evidence_above : float
        What it has to be above.
    n_units : int
        Units that the decision rests on.
    n_folds : int
        Parts that the context was left out in; the number of stimuli for leave-one-out.
    """

    accepted: bool
    ratio: float
    ratio_below: float
    evidence_gain: float | None
    evidence_above: float
    n_units: int
    n_folds: int


def bayesian_ridge(model: PriorModel) -> PriorModel:
    """A prior that knows the population's noise ceilings and nothing of its tunings: one Gaussian, isotropic in the features."""
    inverse = np.linalg.pinv(model.basis.projection)
    isotropic = inverse @ inverse.T
    covariance = np.zeros((len(isotropic) + 1, len(isotropic) + 1))
    covariance[:-1, :-1] = isotropic / np.trace(isotropic)
    covariance[-1, -1] = INTERCEPT_VARIANCE
    shares = np.asarray(logsumexp(model.mixture.log_shares, axis=0))[None]
    plain = Mixture(shares, np.zeros((1, len(covariance))), covariance[None], model.mixture.levels)
    return replace(model, mixture=plain, spread=np.zeros(len(covariance)))


def evidence_gain(model: PriorModel, context: Context) -> float:
    """Log-evidence of the responses under the model minus that under `bayesian_ridge`, a response."""

    def evidence(prior: PriorModel) -> float:
        data, mixture = prior.evidence(context), prior.population()
        parts = [data.units(units) for units in prior.blocks(data)]
        return float(sum(responsibilities(mixture.terms(part), mixture.log_shares)[1].sum() for part in parts))

    return (evidence(model) - evidence(bayesian_ridge(model))) / context.responses.size


def decide(model: PopulationModel, context: Context, max_units: int = 3000, n_folds: int = 10, seed: int = 0) -> Decision:
    """Compare a population model with ridge on a person's context.

    Parameters
    ----------
    model : PopulationModel
        For a `PriorModel` both errors are exact leave-one-out errors; any other engine and ridge learn from the same parts of the context.
    context : Context
        Four stimuli at least.
    max_units : int
        Units drawn at random if there are more.
    n_folds : int
        Parts of the context, for models without closed-form leave-one-out.
    seed : int
        Of the drawn units and of the parts.

    Returns
    -------
    Decision

    Raises
    ------
    ValueError
        With fewer than four stimuli.
    """
    n, n_units = context.responses.shape
    if n < MIN_CONTEXT:
        raise ValueError(f"{n} stimuli are too few to check a population model: {MIN_CONTEXT} at least")
    rng = np.random.default_rng(seed)
    units = np.sort(rng.permutation(n_units)[:max_units])
    part = Context(context.features, np.asarray(context.responses)[:, units])
    gain: float | None = None
    if isinstance(model, PriorModel):
        with limit_threads(1):  # the matrices of 3,000 units are small, and threads would wait for each other
            population, own, folds, below = loo_residuals(model, part), nested_loo_residuals(part, shared=True), n, RATIO
            gain = evidence_gain(model, part)
    else:
        folds, below = min(n_folds, n), RATIO_ALONE
        population, own = _fold_residuals(model, part, np.array_split(rng.permutation(n), folds))
    error, ridge_error = float((population**2).sum()), float((own**2).sum())
    ratio = error / ridge_error if ridge_error > 0 else np.inf
    accepted = ratio < below and (gain is None or gain > GAIN)
    return Decision(bool(accepted), float(ratio), below, gain, GAIN, len(units), folds)


def _fold_residuals(model: PopulationModel, context: Context, parts: list[npt.NDArray[np.intp]]) -> tuple[FloatArray, FloatArray]:
    """Residuals (n, n_units) of the model and of ridge, each learned from the other parts."""
    population, own = (np.empty(context.responses.shape) for _ in range(2))
    for left_out in parts:
        kept = np.setdiff1d(np.arange(len(context.features)), left_out)
        rest = Context(context.features[kept], context.responses[kept])
        for target, fit in ((population, model.adapt(rest)), (own, ridge(rest, shared=True))):
            target[left_out] = context.responses[left_out] - (context.features[left_out] @ fit.weights + fit.bias)
    return population, own


def adapt_guarded(model: PopulationModel, context: Context, queries: FloatArray | None = None, seed: int = 0) -> tuple[Adapted, Decision]:
    """The population model's answer if the guard accepts it for this person, else that of ridge (which has no posterior variance).

    Parameters
    ----------
    model : PopulationModel
    context : Context
    queries : (n_queries, n_features) array, optional
        Stimuli whose predictions' posterior variance is wanted.
    seed : int
        Of the guard's draws.

    Raises
    ------
    ValueError
        With fewer than four stimuli.
    """
    decision = decide(model, context, seed=seed)
    return (model.adapt(context, queries) if decision.accepted else ridge(context)), decision
