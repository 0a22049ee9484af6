"""Which context stimuli shape a unit's weights under the mixture prior: the analogue of attention over stimuli."""

from __future__ import annotations

import numpy as np

from conform_bids.encode.numerics.mixture import PriorModel
from conform_bids.encode.numerics.mixture_terms import responsibilities
from conform_bids.encode.numerics.population import Context, FloatArray

__all__ = ["influence"]


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
