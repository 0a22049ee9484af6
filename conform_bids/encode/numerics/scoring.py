"""How well responses to test stimuli are predicted, unit by unit, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids.numerics.scores import correlate_columns

__all__ = [
    "MIN_CEILING",
    "Interval",
    "bootstrap_medians",
    "chance_correlation",
    "coefficient_of_determination",
    "independent_rows",
    "normalise_by_ceiling",
    "score_units",
]

FloatArray = npt.NDArray[np.floating[Any]]
MIN_CEILING = 10.0
"""Percent; correlations of units below it say too little to be divided by its root."""
_LEVEL = 95


@dataclass(frozen=True)
class Interval:
    """A number, and the ends of its 95 percent interval (NaN without one)."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def coefficient_of_determination(predicted: FloatArray, measured: FloatArray) -> npt.NDArray[np.float64]:
    """R2 of each unit: 1 less the squared errors over those of the mean measured response, (n_units,); NaN where nothing varies."""
    truth = np.asarray(measured, dtype=np.float64)
    errors = np.square(truth - predicted).sum(axis=0)
    total = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, 1 - errors / total, np.nan)


def normalise_by_ceiling(correlation: npt.NDArray[np.float64], ceiling: FloatArray) -> npt.NDArray[np.float64]:
    """Correlation over the root of the noise ceiling (percent); NaN for units with a ceiling of 10 percent or less, or none."""
    share = np.asarray(ceiling, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(share > MIN_CEILING, correlation / np.sqrt(np.maximum(share, MIN_CEILING) / 100), np.nan)


def chance_correlation(n: int) -> float:
    """The 95th percentile of the correlation of n independent pairs, by Fisher's transformation; 1 for fewer than four."""
    return float(np.tanh(1.6448536269514722 / np.sqrt(n - 3))) if n > 3 else 1.0


def independent_rows(predicted: FloatArray, measured: FloatArray, blocks: npt.NDArray[np.intp]) -> int:
    """Rows that would vary as independently as autocorrelated ones: n over 1 + 2 sum r_p r_m, lags within blocks; median of units.

    By Bartlett (1946), JRSS Supplement 8:27-41.
    """
    n, most = len(blocks), int(np.bincount(blocks).max()) - 1
    p, m = (np.asarray(values, dtype=np.float64) for values in (predicted, measured))
    p, m = p - p.mean(axis=0), m - m.mean(axis=0)
    excess = np.zeros(p.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        energy = np.square(p).sum(axis=0) * np.square(m).sum(axis=0)
        for lag in range(1, most + 1):
            excess += (1 - lag / n) * (p[lag:] * p[:-lag]).sum(axis=0) * (m[lag:] * m[:-lag]).sum(axis=0) / energy
    finite = excess[np.isfinite(excess)]
    inflation = 1 + 2 * float(np.median(finite)) if len(finite) else 1.0
    return round(n / max(inflation, 1.0))


def score_units(predicted: FloatArray, measured: FloatArray, ceiling: FloatArray) -> dict[str, npt.NDArray[np.float64]]:
    """Maps ``correlation``, ``rsquared`` and ``noiseceilingnormalized`` of predictions of test stimuli.

    Parameters
    ----------
    predicted, measured : (n_stimuli, n_units) arrays
    ceiling : (n_units,) array
        Noise ceiling of the measured responses, percent.
    """
    correlation = correlate_columns(np.asarray(predicted), np.asarray(measured))
    return {
        "correlation": correlation,
        "rsquared": coefficient_of_determination(predicted, measured),
        "noiseceilingnormalized": normalise_by_ceiling(correlation, ceiling),
    }


def bootstrap_medians(
    predicted: FloatArray,
    measured: FloatArray,
    ceiling: FloatArray,
    *,
    n_resamplings: int,
    seed: int,
    most_values: int = 4_000_000,
    blocks: npt.NDArray[np.intp] | None = None,
) -> dict[str, Interval]:
    """Medians over units of the scores, with intervals by resampling the test stimuli.

    Parameters
    ----------
    predicted, measured : (n_stimuli, n_units) arrays
    ceiling : (n_units,) array
        Percent.
    n_resamplings : int
        0: no intervals.
    seed : int
    most_values : int
        Units beyond this over the stimuli are thinned out evenly for the intervals (not for the medians), which hardly depend on it.
    blocks : (n_stimuli,) int array, optional
        Rows that are drawn together, from 0, as those of a movie that are near in time. Chance, too, then counts as many independent
        rows as the autocorrelation of predictions and measurements leaves.

    Returns
    -------
    dict of str to Interval
        ``median_correlation``, ``median_rsquared``, ``median_noiseceilingnormalized``, and ``units_above_chance`` (a
        share, without an interval).

    Notes
    -----
    Percentile intervals about the values. A resampling weighs stimuli by how often they are drawn, so that its moments are products of a
    table of counts (resamplings, stimuli) with squares and products of the responses: nothing is predicted or sorted out again.
    """
    maps = score_units(predicted, measured, ceiling)
    threshold = chance_correlation(len(measured) if blocks is None else independent_rows(predicted, measured, blocks))
    values = _summarise(maps["correlation"][None], maps["rsquared"][None], ceiling, threshold)
    usable = np.flatnonzero(np.isfinite(maps["correlation"]))
    if not n_resamplings or not len(usable):
        return {name: Interval(float(value[0])) for name, value in values.items()}
    usable = usable[:: max(1, len(usable) * len(measured) // most_values)]
    n = len(measured) if blocks is None else int(blocks.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamplings)
    drawn = drawn if blocks is None else drawn[:, blocks]
    correlation, rsquared = _resample(np.asarray(predicted)[:, usable], np.asarray(measured)[:, usable], drawn.astype(np.float64))
    spread = _summarise(correlation, rsquared, np.asarray(ceiling)[usable], threshold)
    del spread["units_above_chance"]  # resamplings hold fewer stimuli that differ, so that chance is passed more often
    ends = {name: _centred(found, float(values[name][0])) for name, found in spread.items()}
    return {name: Interval(float(value[0]), *ends.get(name, (np.nan, np.nan))) for name, value in values.items()}


def _centred(resampled: npt.NDArray[np.float64], value: float) -> tuple[float, float]:
    """Percentile interval, shifted by what the median of the resamplings differs from the value.

    Resamplings hold fewer stimuli that differ, which biases R2 and medians of noisy correlations; with few test stimuli an interval that
    is not shifted may not hold the value itself.
    """
    found = resampled[np.isfinite(resampled)]
    if not len(found) or not np.isfinite(value):
        return float("nan"), float("nan")
    tail = (1 - _LEVEL / 100) / 2
    low, middle, high = np.quantile(found, [tail, 0.5, 1 - tail])
    return float(value + low - middle), float(value + high - middle)


def _resample(
    predicted: FloatArray, measured: FloatArray, drawn: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Correlation and R2, (n_resamplings, n_units), of every resampling."""
    centre = np.asarray(measured, dtype=np.float64).mean(axis=0)
    truth, guess = np.asarray(measured, dtype=np.float64) - centre, np.asarray(predicted, dtype=np.float64) - centre
    n = drawn.sum(axis=1, keepdims=True)
    mean_truth, mean_guess = drawn @ truth / n, drawn @ guess / n
    square_truth, square_guess, product = drawn @ np.square(truth) / n, drawn @ np.square(guess) / n, drawn @ (truth * guess) / n
    variance_truth, variance_guess = square_truth - np.square(mean_truth), square_guess - np.square(mean_guess)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (product - mean_truth * mean_guess) / np.sqrt(variance_truth * variance_guess)
        rsquared = 1 - (square_truth + square_guess - 2 * product) / variance_truth
    return correlation, rsquared


def _summarise(
    correlation: npt.NDArray[np.float64], rsquared: npt.NDArray[np.float64], ceiling: FloatArray, threshold: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Numbers over units, one for each row."""
    known = np.isfinite(correlation)
    with np.errstate(invalid="ignore", divide="ignore"):
        above = np.where(known.any(axis=1), (correlation > threshold).sum(axis=1) / known.sum(axis=1), np.nan)
    return {
        "median_correlation": _medians(correlation),
        "median_rsquared": _medians(rsquared),
        "median_noiseceilingnormalized": _medians(np.stack([normalise_by_ceiling(row, ceiling) for row in correlation])),
        "units_above_chance": above,
    }


def _medians(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Median of the finite values of each row; NaN where there is none."""
    median: Callable[[npt.NDArray[np.float64]], float] = np.median
    return np.array([float(median(row[np.isfinite(row)])) if np.isfinite(row).any() else np.nan for row in values])
