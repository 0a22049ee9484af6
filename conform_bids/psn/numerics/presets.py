"""The methods of the public PSN package: projections on leading dimensions, and the Wiener filter of GSN's covariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg

from conform_bids.errors import UnusableInputError, UsageError
from conform_bids.numerics.scores import correlate_columns
from conform_bids.psn.numerics.bases import Basis, make_basis
from conform_bids.psn.numerics.denoiser import Component, Denoiser
from conform_bids.psn.numerics.gsn import SignalNoise
from conform_bids.psn.numerics.levels import THRESHOLD_LEVELS, group_mean
from conform_bids.psn.numerics.thresholds import ThresholdRule, choose_dimensions, recovery_curve
from conform_bids.psn.numerics.trials import Trials

__all__ = [
    "PRESETS",
    "ProjectionOptions",
    "ProjectionResult",
    "compare_bases",
    "complete_means",
    "filtered_variances",
    "fit_projection",
    "fit_wiener",
    "truncated",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
RIDGE = 1e-10
"""Of the mean variance; added where a covariance is inverted."""


@dataclass(frozen=True)
class ProjectionOptions:
    """Which dimensions to keep.

    Attributes
    ----------
    basis : str or (n_units, n_dimensions) array
        See `conform_bids.psn.numerics.bases`.
    order : str
        Of the dimensions.
    rule : ThresholdRule
        For their number.
    level : str
        ``population``: one number for all units; ``unit``: one for each; ``group``: one for each of ``groups``.
    groups : (n_units,) int array or None
        Group of each unit.
    """

    basis: str | FloatArray = "signal"
    order: str = "eigenvalues"
    rule: ThresholdRule = field(default_factory=ThresholdRule)
    level: str = "population"
    groups: IntArray | None = None

    def __post_init__(self) -> None:
        if self.level not in THRESHOLD_LEVELS:
            raise UsageError(f"no threshold level {self.level!r}; there are {', '.join(THRESHOLD_LEVELS)}")
        if self.level == "group" and self.groups is None:
            raise UsageError("threshold level group needs the group of each unit")
        if self.level != "population" and self.rule.criterion == "variance_eigenvalues":
            raise UsageError("criterion variance_eigenvalues gives one threshold for all units")


PRESETS = {
    "standard": ProjectionOptions(),
    "conservative": ProjectionOptions(rule=ThresholdRule("variance")),
    "aggressive": ProjectionOptions(basis="difference", rule=ThresholdRule("prediction")),
}
"""The package's presets; ``compare`` and ``wiener`` are functions."""


@dataclass(frozen=True, eq=False)
class ProjectionResult:
    """A denoiser, and the curves that led to it.

    Attributes
    ----------
    denoiser : Denoiser
        Mean and map.
    basis : Basis
        All dimensions, in their order.
    n_dimensions : (1,) or (n_units,) int array
        How many are kept, for all units or for each.
    recovery : (n_curves, n_dimensions + 1) float64 array
        Signal less noise variance kept, for the population or for each unit.
    scores : dict
        What ``compare`` saw: basis -> split-half correlation; empty otherwise.
    name : str
        Of the basis.
    """

    denoiser: Denoiser
    basis: Basis
    n_dimensions: IntArray
    recovery: FloatArray
    name: str
    scores: dict[str, float] = field(default_factory=dict)

    def unit_variances(self, *, after: bool) -> tuple[FloatArray, FloatArray]:
        """Variance of the signal and of the noise of condition means in each unit, as the kept (or all) dimensions hold it."""
        weight = self.basis.vectors**2
        if after:
            weight = np.where(np.arange(weight.shape[1]) < self.n_dimensions[:, None], weight, 0.0)
        return weight @ self.basis.signal, weight @ self.basis.noise / self.denoiser.n_averaged


def fit_projection(trials: Trials, model: SignalNoise, options: ProjectionOptions) -> ProjectionResult:
    """Project on the leading dimensions of a basis.

    Parameters
    ----------
    trials : Trials
        What the covariances were estimated on; every condition needs a mean in every unit.
    model : SignalNoise
        Covariances.
    options : ProjectionOptions
        Basis, order, threshold.

    References
    ----------
    Partitioning Signal and Noise (PSN), the public package, version 0.2.0.
    """
    means = complete_means(trials)
    basis = make_basis(model, means, options.basis, options.order)
    weight = np.ones((1, basis.vectors.shape[1])) if _is_global(options) else basis.vectors**2
    signal = weight * basis.signal
    recovery = recovery_curve(signal, weight * basis.noise, model.n_averaged)
    if options.level == "group" and not _is_global(options):
        signal, recovery = group_mean(signal, options.groups), group_mean(recovery, options.groups)
    n_dimensions = choose_dimensions(options.rule, signal, recovery, basis.eigenvalues)
    mean = means.mean(axis=0)
    denoiser = Denoiser(mean, (truncated(basis.vectors, n_dimensions),), model.n_averaged)
    name = options.basis if isinstance(options.basis, str) else "given"
    return ProjectionResult(denoiser, basis, n_dimensions, recovery, name)


def _is_global(options: ProjectionOptions) -> bool:
    """One threshold for all units; a single allowed number is the same for all."""
    return options.level == "population" or len(options.rule.allowed) == 1


def truncated(vectors: FloatArray, n_dimensions: IntArray) -> Component:
    """Projection on the first dimensions, their number one for all units or one for each."""
    kept = vectors[:, : int(n_dimensions.max())]
    if len(n_dimensions) == 1:
        return Component.projection(kept, kept)
    mask = np.arange(kept.shape[1]) < n_dimensions[:, None]
    return Component.projection(np.where(mask, kept, 0.0), kept)


def complete_means(trials: Trials) -> FloatArray:
    """Condition means, each unit over the trials that it has.

    Raises
    ------
    UnusableInputError
        If a unit has no trial of a condition.
    """
    means = trials.means
    if not np.isfinite(means).all():
        missing = ~np.isfinite(means)
        raise UnusableInputError(
            f"{int(missing.any(axis=0).sum())} units have no trial of some conditions ({int(missing.any(axis=1).sum())} conditions); "
            "leave those units or conditions out"
        )
    return means


def fit_wiener(trials: Trials, model: SignalNoise) -> Denoiser:
    """Wiener filter of condition means, S (S + N/t)^-1, with GSN's covariances.

    Parameters
    ----------
    trials : Trials
        For the mean.
    model : SignalNoise
        Covariances.
    """
    n_units, t = trials.n_units, model.n_averaged
    total = model.signal + model.noise / t
    scale = np.trace(total) / n_units
    if scale <= 0:
        raise UnusableInputError("no unit varies")
    total[np.diag_indices(n_units)] += RIDGE * scale
    factor = scipy.linalg.cho_factor(total, lower=True, check_finite=False)
    right = scipy.linalg.cho_solve(factor, model.signal, check_finite=False)
    identity = np.eye(n_units)
    return Denoiser(complete_means(trials).mean(axis=0), (Component.projection(identity, right),), t)


def filtered_variances(denoiser: Denoiser, model: SignalNoise) -> tuple[FloatArray, FloatArray]:
    """Variance of the signal and of the noise of condition means in each unit after a denoiser, (n_units,) each."""
    matrix = denoiser.matrix()
    signal, noise = (np.einsum("ij,ij->i", matrix @ covariance, matrix) for covariance in (model.signal, model.noise))
    return signal, noise / model.n_averaged


def compare_bases(trials: Trials, model: SignalNoise, options: ProjectionOptions | None = None) -> ProjectionResult:
    """Signal or difference basis, whichever denoises one half of the trials to agree better with the other.

    The denoisers are fitted on all trials, so that the correlations are not held out; as in the public package.

    Parameters
    ----------
    trials, model
        As for `fit_projection`.
    options : ProjectionOptions, optional
        Rule and level of the threshold.
    """
    halves = _half_means(trials)
    fits = {name: fit_projection(trials, model, replace(options or ProjectionOptions(), basis=name)) for name in ("signal", "difference")}
    scores = {name: _split_half(fit.denoiser.apply, *halves) for name, fit in fits.items()}
    chosen = "difference" if scores["difference"] > scores["signal"] else "signal"
    return replace(fits[chosen], scores=scores)


def _half_means(trials: Trials) -> tuple[FloatArray, FloatArray]:
    """Condition means over even and over odd repetitions; NaN where a half holds none."""
    halves = []
    for parity in (0, 1):
        values = np.where((trials.repetition % 2 == parity)[:, None], trials.values, np.nan)
        halves.append(Trials(values, trials.condition, trials.repetition, trials.n_conditions).means)
    return halves[0], halves[1]


def _split_half(denoise: Callable[[FloatArray], FloatArray], first: FloatArray, second: FloatArray) -> float:
    """Median over units of the mean correlation of each half with the other one denoised."""
    kept = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    first, second = first[kept], second[kept]
    both = (correlate_columns(first, denoise(second)) + correlate_columns(denoise(first), second)) / 2
    return float(np.median(np.nan_to_num(both)))
