"""The confounds that fMRIPrep would have computed from a simulated run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.anatomy import CSF, OUTSIDE, WHITE_MATTER
from conform_bids.simulate.signals import slow_cosines

__all__ = ["compute_confounds"]

_N_COMPONENTS = 5
_MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def compute_confounds(
    series: NDArray[np.float32], tissue: NDArray[np.int_], motion: NDArray[np.float64], repetition_time: float
) -> dict[str, NDArray[np.float64]]:
    """Columns of a confounds table, in fMRIPrep's order; NaN where a first difference has no value.

    Parameters
    ----------
    series : ndarray, shape (n_volumes, n_sites)
        Intensities inside of the brain mask.
    tissue : ndarray of int, shape (n_sites,)
        Tissue of each.
    motion : ndarray, shape (n_volumes, 6)
        Translations (mm) and rotations (rad).
    repetition_time : float
        In seconds.
    """
    values = np.asarray(series, dtype=np.float64)
    columns = {"global_signal": values[:, tissue != OUTSIDE].mean(axis=1)}
    for name, label in (("csf", CSF), ("white_matter", WHITE_MATTER)):
        columns[name] = values[:, tissue == label].mean(axis=1)
    dvars = np.sqrt((np.diff(values, axis=0) ** 2).mean(axis=1))
    columns["dvars"] = _after_first(dvars)
    columns["std_dvars"] = _after_first(dvars / max(float(np.median(dvars)), 1e-12))
    moved = np.abs(np.diff(motion, axis=0)) * np.array([1.0] * 3 + [50.0] * 3)
    columns["framewise_displacement"] = _after_first(moved.sum(axis=1))
    cosines = slow_cosines(len(values), repetition_time)
    noise = values[:, np.isin(tissue, (CSF, WHITE_MATTER))]
    noise = noise - noise.mean(axis=0)
    noise -= cosines @ (cosines.T @ noise) / len(noise)
    noise /= np.maximum(noise.std(axis=0), 1e-9)
    for index, component in enumerate(np.linalg.svd(noise, full_matrices=False)[0].T[:_N_COMPONENTS]):
        # the sign of a singular vector is arbitrary, and must not depend on the linear algebra library
        columns[f"a_comp_cor_{index:02d}"] = component * np.sign(component[np.argmax(np.abs(component))])
    for index, cosine in enumerate(cosines.T):
        columns[f"cosine{index:02d}"] = cosine / np.sqrt(len(cosine))
    for name, parameter in zip(_MOTION, motion.T, strict=True):
        columns[name] = parameter
        columns[f"{name}_derivative1"] = _after_first(np.diff(parameter))
    return columns


def _after_first(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[np.nan], values])
