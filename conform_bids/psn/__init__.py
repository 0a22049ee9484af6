"""Signal and noise of single-trial responses partitioned, and condition responses denoised."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from conform_bids.psn.numerics.denoiser import Denoiser

__all__ = ["apply"]


def apply(denoiser: Denoiser, responses: npt.NDArray[np.floating], n_averaged: npt.ArrayLike | None = None) -> npt.NDArray[np.float64]:
    """Denoise new responses of the same person by a fitted denoiser.

    Parameters
    ----------
    denoiser : Denoiser
        As fitted, or as read from a decomposition file.
    responses : (n_rows, n_units) array
        Trials or averages of trials, in the units that the denoiser was fitted in.
    n_averaged : array_like of float, scalar or (n_rows,), optional
        Trials averaged in each row; by default the number that the denoiser was made for.

    Returns
    -------
    (n_rows, n_units) float64 array
    """
    return denoiser.apply(responses, n_averaged)
