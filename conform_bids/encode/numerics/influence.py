"""Which context stimuli shape a unit's weights, where an engine has no attention over stimuli: derivatives of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from conform_bids.encode.numerics.mixture import PriorModel
from conform_bids.encode.numerics.mixture_terms import responsibilities
from conform_bids.encode.numerics.population import Context, FloatArray
from conform_bids.encode.numerics.unrolled import UNITS_AT_A_TIME, UnrolledModel, moments

if TYPE_CHECKING:
    import torch

__all__ = ["influence", "network_influence"]


def influence(model: PriorModel, context: Context) -> FloatArray:
    """Norm of the derivative of a unit's weights by its response to each context stimulus, at fixed responsibilities.

    Weights are measured by the standard deviation of what they predict over the population's stimuli, so that an influence is in responses'
    units: how much the predictions move when this stimulus' response moves by one.

    Parameters
    ----------
    model : PriorModel
        Pooled over the person's units as in `PriorModel.adapt`; the pooled means count as fixed.
    context : Context

    Returns
    -------
    (n_context, n_units) array

    Raises
    ------
    ValueError
        If the context does not fit the model.
    """
    data = model.evidence(context)
    prior = model.personal(data)
    rows = model.basis.apply(np.asarray(context.features), np.float64)
    gains = []
    for covariance in prior.covariances:
        values, vectors = np.linalg.eigh(rows @ covariance @ rows.T)
        back = (covariance @ rows.T @ vectors)[:-1]
        for ceiling in prior.levels.ceilings:
            gains.append((back * (ceiling / (ceiling * np.maximum(values, 0) + 1 - ceiling))) @ vectors.T)
    kind = data.targets.dtype
    jacobians = np.stack(gains).astype(kind)
    n_pairs, d, n = jacobians.shape
    step = max(1, model.options.block_bytes // (d * n * 8))
    found = np.empty((n, len(data.energy)), dtype=kind)
    for units in model.blocks(data):
        share, _ = responsibilities(prior.terms(data.units(units)), prior.log_shares)
        share = share.reshape(n_pairs, -1)
        for start in range(0, share.shape[1], step):
            block = share[:, start : start + step].T @ jacobians.reshape(n_pairs, d * n)
            columns = slice(units.start + start, units.start + start + len(block))
            found[:, columns] = np.sqrt((block.reshape(-1, d, n) ** 2).sum(axis=1)).T
    return found


def network_influence(model: UnrolledModel, context: Context) -> FloatArray:
    """Norm of the derivative of a unit's weights by its response to each context stimulus, through the network; measured as in `influence`.

    Parameters
    ----------
    model : UnrolledModel
    context : Context

    Returns
    -------
    (n_context, n_units) array

    Raises
    ------
    ValueError
        If the context does not fit the model.

    Notes
    -----
    Exact, by forward-mode differentiation: a response reaches the network through X'y, which it moves along the stimulus' features, and
    y'y. What all units together say about the person is taken as it is: no response moves it much. It costs about three evaluations of the
    network for each stimulus of the context.
    """
    import torch

    responses = np.asarray(context.responses, dtype=np.float32)
    if len(context.features) == 0 or len(context.features) != len(responses):
        raise ValueError(f"a context needs as many rows of features as of responses: {len(context.features)} and {len(responses)}")
    rows = model.rows(np.asarray(context.features))
    gram, cross, energy = moments(rows, responses)
    network = model.network().requires_grad_(False)
    n = torch.tensor([float(len(rows))])
    shared = torch.from_numpy(gram)[None]
    directions = torch.from_numpy(rows.astype(np.float32))
    personal = model.personal_map(network, rows, responses)
    turn = np.eye(len(gram)) if personal is None else np.eye(len(gram)) + personal.turn
    back = torch.from_numpy(np.ascontiguousarray((model.whitening @ turn).T, dtype=np.float32))
    found = np.empty(responses.shape, dtype=np.float32)

    def weights(cross: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = network(shared, cross, energy, n)[0]
        return answer

    for start in range(0, responses.shape[1], UNITS_AT_A_TIME):
        units = slice(start, start + UNITS_AT_A_TIME)
        own, square = (torch.from_numpy(np.ascontiguousarray(array[units]))[None] for array in (cross, energy))
        for place, direction in enumerate(directions):
            moved = (direction.expand_as(own).contiguous(), 2 * torch.from_numpy(np.ascontiguousarray(responses[place, units]))[None])
            slope = torch.func.jvp(weights, (own, square), moved)[1]
            found[place, units] = torch.linalg.vector_norm((slope[0] @ back)[:, :-1], dim=1).numpy()
    return found
