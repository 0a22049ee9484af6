"""Which stimuli of a new person a population model is shown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from conform_bids.encode.numerics.population import FloatArray

__all__ = ["STRATEGIES", "choose_context"]

STRATEGIES = ("random", "diverse", "first")


def choose_context(
    features: FloatArray, n_context: int, strategy: str, seed: int = 0, draw: int = 0, order: npt.NDArray[np.intp] | None = None
) -> npt.NDArray[np.intp]:
    """Draw a context from a person's train stimuli.

    Parameters
    ----------
    features : (n_stimuli, n_features) array
        In the order in which the stimuli were listed.
    n_context : int
        Stimuli to choose; all where there are no more.
    strategy : {"random", "diverse", "first"}
        ``random`` by seed and draw. ``diverse``: one after the other, each time the stimulus whose features those before it explain least
        (pivoted Cholesky decomposition of the centred kernel, with unexplained variance of a tenth of the mean on its diagonal, so that
        stimuli that are near to each other are not chosen one after the other). ``first``: in their order.
    seed, draw : int
        Of ``random``; the others have one answer.
    order : (n_stimuli,) int array, optional
        Of ``first``: rows in the order in which they were shown (default: as they were listed).

    Returns
    -------
    (n_context,) int array
        Rows of the features, rising.

    Raises
    ------
    ValueError
        For a strategy that is not known.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: there are {', '.join(STRATEGIES)}")
    n = len(features)
    if n_context >= n:
        return np.arange(n)
    if strategy == "first":
        return np.arange(n_context) if order is None else np.sort(order[:n_context])
    if strategy == "random":
        return np.sort(np.random.default_rng([seed, draw]).permutation(n)[:n_context])
    return np.sort(_pivots(np.asarray(features, dtype=np.float64), n_context))


def _pivots(features: FloatArray, n_chosen: int) -> npt.NDArray[np.intp]:
    """Rows in the order in which a pivoted Cholesky decomposition of their kernel takes them."""
    centred = features - features.mean(axis=0)
    left = np.einsum("ij,ij->i", centred, centred)
    noise = 0.1 * float(left.mean())
    known = np.zeros((len(features), n_chosen))
    chosen = np.empty(n_chosen, dtype=np.intp)
    for step in range(n_chosen):
        best = int(np.argmax(left))
        chosen[step] = best
        column = centred @ centred[best] - known[:, :step] @ known[best, :step]
        known[:, step] = column / np.sqrt(max(left[best], 0.0) + noise)
        left = left - known[:, step] ** 2
        left[chosen[: step + 1]] = -np.inf
    return chosen
