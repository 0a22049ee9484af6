"""Where a brain would respond to a text: encoding weights against texts in the space of the image features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from conform_bids.encode.numerics.population import FloatArray

__all__ = ["area_under_curve", "query_maps", "top_one"]


def query_maps(weights: FloatArray, queries: FloatArray, bank: FloatArray) -> npt.NDArray[np.float32]:
    """Responses that weights predict for texts, as z over units.

    The mean over a bank of texts of all kinds is subtracted, as embeddings of any two texts are much alike: what is left is what sets a
    text apart. (So the mean embedding of images, by which features may be centred, drops out.)

    Parameters
    ----------
    weights : (n_features, n_units) array
        NaN for units without a model.
    queries : (n_queries, n_features) array
    bank : (n_texts, n_features) array

    Returns
    -------
    (n_queries, n_units) float32 array
        NaN where the weights are.
    """
    directions = np.asarray(queries, dtype=np.float64) - np.asarray(bank, dtype=np.float64).mean(axis=0)
    raw = (directions.astype(weights.dtype) @ weights).astype(np.float64)
    known = np.isfinite(raw).all(axis=0)
    if not known.any():
        return np.full(raw.shape, np.nan, dtype=np.float32)
    centre, spread = raw[:, known].mean(axis=1, keepdims=True), raw[:, known].std(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (raw - centre) / spread, np.nan).astype(np.float32)


def area_under_curve(values: FloatArray, inside: npt.NDArray[np.bool_]) -> float:
    """Probability that a unit inside a region has a higher value than one outside (ties count half); NaN where either has no unit."""
    known = np.isfinite(values)
    mask, finite = inside[known], np.asarray(values, dtype=np.float64)[known]
    n_inside, n_outside = int(mask.sum()), int((~mask).sum())
    if not n_inside or not n_outside:
        return float("nan")
    ranks = rankdata(finite)
    return float((ranks[mask].sum() - n_inside * (n_inside + 1) / 2) / (n_inside * n_outside))


def top_one(values: FloatArray, regions: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Share of each region's units whose highest query is the region's own; chance is one over the regions.

    Parameters
    ----------
    values : (n_regions, n_units) array
        The query of each region.
    regions : (n_regions, n_units) bool array
        Units of more than one region are left out.

    Returns
    -------
    (n_regions,) array
        NaN for a region without units of its own.
    """
    single = np.isfinite(values).all(axis=0) & (regions.sum(axis=0) == 1)
    best = np.argmax(np.where(single, values, 0), axis=0)
    own = [single & region for region in regions]
    return np.array([float((best[mask] == k).mean()) if mask.any() else np.nan for k, mask in enumerate(own)])
