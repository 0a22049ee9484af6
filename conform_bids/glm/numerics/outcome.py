"""What decides a fit, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conform_bids.glm.numerics.conform_model import ConformFit
from conform_bids.glm.numerics.data import UnitSurvey

__all__ = ["FitOptions", "FitResult", "ModelFit"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FitOptions:
    """What decides a result; defaults are GLMsingle's.

    Attributes
    ----------
    models : tuple of str
        Of assumehrf, fithrf, fithrfdenoise, fithrfdenoiserr, conform.
    compat : bool
        Reproduce GLMsingle: onsets rounded to volumes, user regressors only where it has them, constant units kept.
    n_pcs, pcs_stop : int, float
        Most noise regressors; see `choose_count`. ``pcs_stop <= 0``: that many, negated, without cross-validation.
    pcs_rule : str
        ``best``: what ``pcs_stop`` says; ``smallest``: the fewest whose gain is within a standard error of the best.
    pcs_r2, noise_pool_r2 : float or None
        On/off R2 (percent) above which units vote, below which they may be noise; None: found from the data.
    brain_threshold : (float, float)
        Percentile and fraction of `noise_pool`.
    fractions : tuple of float
        Ridge fractions.
    autoscale, lss, percent : bool
        Match ridge betas to the ordinary ones; least squares separate for fithrf; percent signal change instead of raw units.
    whiten, hrf_averaging : str
        Of the model conform: auto, none or ar; auto, on or off.
    ordinary : bool
        Keep the ordinary least-squares betas of the model conform too.
    seed : int
        Of the mixture that finds the R2 threshold.
    """

    models: tuple[str, ...] = ("fithrf", "fithrfdenoiserr")
    compat: bool = False
    n_pcs: int = 10
    pcs_stop: float = 1.05
    pcs_rule: str = "best"
    pcs_r2: float | None = None
    noise_pool_r2: float | None = None
    brain_threshold: tuple[float, float] = (99.0, 0.1)
    fractions: tuple[float, ...] = tuple(round(1 - 0.05 * step, 2) for step in range(20))
    autoscale: bool = True
    lss: bool = False
    percent: bool = True
    whiten: str = "auto"
    hrf_averaging: str = "auto"
    ordinary: bool = False
    seed: int = 0


@dataclass(frozen=True)
class ModelFit:
    """One model: betas (n_trials, n_units) float32, R2 (n_units,) and by run (n_runs, n_units) in percent.

    NaN where a unit is set aside, or absent from the run.
    """

    betas: npt.NDArray[np.float32]
    rsquared: FloatArray
    rsquared_run: FloatArray


@dataclass(frozen=True)
class FitResult:
    """All that a fit gives; arrays are by unit unless said otherwise.

    Attributes
    ----------
    survey : UnitSurvey
        Means, and units that are not finite, empty or constant.
    valid : bool array
        Units that were fitted.
    onoff_beta, onoff_rsquared : float64 arrays
        Type A: one regressor for all trials, in the units of the betas; percent.
    models : dict of ModelFit
        By name.
    near_zero : bool array
        Units set aside as their mean is below their own noise, which percent signal change would blow up.
    hrf_index : int array
        Index into the library; -1 where set aside. HRF 0 where no library was fitted.
    library_rsquared : (n_hrfs, n_units) float64 array
        R2 with each HRF.
    noise_pool, pc_voxels : bool arrays
        Units that gave noise regressors, and that voted on their number.
    noise_pool_threshold, pcs_threshold : float
        On/off R2, percent.
    pcs : list of (n_volumes, K) arrays
        Noise regressors of each run.
    n_pcs : int
        How many are used.
    pc_curve, pc_curve_se : (K + 1,) arrays
        Cross-validated gain, and its standard error (jackknife over runs); empty where nothing was cross-validated.
    pool_reliability : float
        Median over the noise pool of the correlation of condition means between odd and even runs; NaN without repeats. Well above 0
        the pool responds to conditions, so that its noise regressors take signal with them.
    fraction : float64 array
        Ridge fraction; NaN where none was fitted.
    ridge_badness : (n_fractions, n_units) array or None
        Cross-validation error.
    scale_offset : (2, n_units) array or None
        Applied to the ridge betas, raw units.
    conform : ConformFit or None
        What the model conform chose.
    ordinary : (n_trials, n_units) float32 array or None
        Ordinary least-squares betas of the model conform, where asked for.
    notes : tuple of str
        Fallbacks that were taken.
    """

    survey: UnitSurvey
    valid: npt.NDArray[np.bool_]
    onoff_beta: FloatArray
    onoff_rsquared: FloatArray
    models: dict[str, ModelFit] = field(default_factory=dict)
    near_zero: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    hrf_index: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    library_rsquared: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    noise_pool: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    pc_voxels: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    noise_pool_threshold: float = float("nan")
    pcs_threshold: float = float("nan")
    pcs: list[FloatArray] = field(default_factory=list)
    n_pcs: int = 0
    pc_curve: FloatArray = field(default_factory=lambda: np.zeros(0))
    pc_curve_se: FloatArray = field(default_factory=lambda: np.zeros(0))
    pool_reliability: float = float("nan")
    fraction: FloatArray = field(default_factory=lambda: np.zeros(0))
    ridge_badness: FloatArray | None = None
    scale_offset: FloatArray | None = None
    conform: ConformFit | None = None
    ordinary: npt.NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
