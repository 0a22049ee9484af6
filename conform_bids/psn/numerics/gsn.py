"""Generative modelling of signal and noise (GSN; Kay et al., 2024): covariances of signal and noise from repeated conditions.

A trial is signal + noise, both Gaussian over units, noise independent from trial to trial. The covariance of the noise is that of trials
about their condition's mean; the covariance of condition means is that of the signal plus that of the noise over the number of trials.
Both are shrunk towards their diagonals at the level under which held-out conditions are likeliest, and then made consistent with each
other by alternating projections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.psn.numerics.moments import Moments, complete_moments, pairwise_moments
from conform_bids.psn.numerics.spectral import positive_part
from conform_bids.psn.numerics.trials import Trials

__all__ = ["SignalNoise", "SignalNoiseOptions", "estimate_signal_noise"]

FloatArray = npt.NDArray[np.float64]
STOP_CORRELATION = 0.999
MAX_ITERATIONS = 100
MISSING = ("drop", "pairwise", "all")


@dataclass(frozen=True)
class SignalNoiseOptions:
    """How covariances are estimated.

    Attributes
    ----------
    shrinkage : bool
        Choose levels of shrinkage; otherwise covariances stay as they are (level 1).
    missing : str
        ``drop``: a trial counts only when it has all units, and condition means take equally many trials; ``pairwise``: every pair of
        units uses the trials that both have; ``all``: as ``drop``, but condition means take all their trials, and their mean share of
        noise is taken out.
    """

    shrinkage: bool = True
    missing: str = "drop"


@dataclass(frozen=True, eq=False)
class SignalNoise:
    """Covariances of signal and noise, and what led to them.

    Attributes
    ----------
    signal, noise : (n_units, n_units) float64 arrays
        Positive semi-definite and consistent with each other (cSb and cNb).
    raw_signal, raw_noise, data : (n_units, n_units) float64 arrays
        Shrunken covariance of condition means less that of their noise; of the noise; of condition means.
    noise_level, data_level : float
        Levels of shrinkage; 1 is none.
    noise_likelihood, data_likelihood : (51,) float arrays or None
        Held-out mean negative log likelihood at each level; None without shrinkage.
    n_iterations : int
        Passes that changed the covariances before they settled.
    n_averaged : float
        Trials a condition mean stands on (the mean number where conditions differ, those with one trial counted 0).
    mean : (n_units,) float64 array
        Mean of the condition means.
    ncsnr : (n_units,) float64 array
        Standard deviation of the signal over that of the noise, from the raw covariances.
    notes : tuple of str
        What had to be done otherwise than asked.
    """

    signal: FloatArray
    noise: FloatArray
    raw_signal: FloatArray
    raw_noise: FloatArray
    data: FloatArray
    noise_level: float
    data_level: float
    noise_likelihood: FloatArray | None
    data_likelihood: FloatArray | None
    n_iterations: int
    n_averaged: float
    mean: FloatArray
    ncsnr: FloatArray
    notes: tuple[str, ...] = ()


def estimate_signal_noise(trials: Trials, options: SignalNoiseOptions | None = None) -> SignalNoise:
    """Estimate the covariances of signal and noise.

    Parameters
    ----------
    trials : Trials
        At least three conditions, two of them with two complete trials (more for shrinkage); units that vary.
    options : SignalNoiseOptions, optional
        Shrinkage, and what missing units do.

    Returns
    -------
    SignalNoise

    Raises
    ------
    UnusableInputError
        If too few conditions repeat.
    UsageError
        If the rule for missing units is unknown.

    References
    ----------
    Kay, K., Prince, J. S., Gebhart, T., Tuckute, G., Zhou, J., Naselaris, T., & Schutt, H. (2024). Disentangling signal and noise in
    neural responses through generative modeling. bioRxiv, doi:10.1101/2024.04.22.590510.
    """
    chosen = options or SignalNoiseOptions()
    if chosen.missing not in MISSING:
        raise UsageError(f"missing units: no rule {chosen.missing!r}; there are {', '.join(MISSING)}")
    if chosen.missing == "pairwise" and not trials.is_complete:
        moments = pairwise_moments(trials, shrinkage=chosen.shrinkage)
    else:
        _require_repeats(trials)
        moments = complete_moments(trials.only_complete(), shrinkage=chosen.shrinkage, use_all=chosen.missing == "all")
    return _make_consistent(trials.n_conditions, moments)


def _require_repeats(trials: Trials) -> None:
    repeated = int((trials.counts >= 2).sum())
    if trials.n_conditions < 3 or repeated < 2:
        raise UnusableInputError(
            f"signal and noise need at least 3 conditions, 2 of them with 2 complete trials; there are {trials.n_conditions}, "
            f"of which {repeated} repeat"
        )


def _make_consistent(n_conditions: int, moments: Moments) -> SignalNoise:
    """Alternate between signal and noise until both are positive semi-definite and settled."""
    share, noise0, data = moments.noise_share, moments.noise, moments.data
    raw_signal = data - noise0 * share
    t, c = moments.n_averaged, n_conditions
    denominator = c * t**2 * (t - 1) + c - 1
    keep, correct = c * (t - 1) * t**2 / denominator, (c - 1) / denominator
    signal, noise, n_iterations = raw_signal, noise0, 0
    while n_iterations < MAX_ITERATIONS:
        new_signal = positive_part(data - noise * share)
        new_noise = positive_part(keep * noise0 + correct * t * (data - new_signal))
        settled = _same(new_signal, signal) and _same(new_noise, noise)
        signal, noise = new_signal, new_noise
        if settled:
            break
        n_iterations += 1
    signal_variance, noise_variance = np.maximum(np.diag(raw_signal), 0.0), np.diag(noise0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ncsnr = np.where(noise_variance > 0, np.sqrt(signal_variance / noise_variance), 0.0)
    return SignalNoise(
        signal=signal,
        noise=noise,
        raw_signal=raw_signal,
        raw_noise=noise0,
        data=data,
        noise_level=moments.noise_choice.level if moments.noise_choice else 1.0,
        data_level=moments.data_choice.level if moments.data_choice else 1.0,
        noise_likelihood=moments.noise_choice.likelihood if moments.noise_choice else None,
        data_likelihood=moments.data_choice.likelihood if moments.data_choice else None,
        n_iterations=n_iterations,
        n_averaged=t,
        mean=np.nanmean(moments.means, axis=0),
        ncsnr=ncsnr,
        notes=moments.notes,
    )


def _same(first: FloatArray, second: FloatArray) -> bool:
    """Whether two covariances agree: entries correlate above .999; a single one changes by less than 1e-5 of itself."""
    if first.size == 1:
        return bool(abs(first[0, 0] - second[0, 0]) <= 1e-5 * max(abs(first[0, 0]), abs(second[0, 0])))
    a, b = first - first.mean(), second - second.mean()
    norm = np.sqrt(np.vdot(a, a) * np.vdot(b, b))
    return bool(np.vdot(a, b) > STOP_CORRELATION * norm) if norm > 0 else bool(np.array_equal(first, second))
