"""The confounds that fMRIPrep would have computed from a simulated run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.anatomy import CSF, OUTSIDE, WHITE_MATTER
from conform_bids.simulate.signals import slow_cosines

__all__ = ["Confounds", "compute_confounds"]

_N_COMPONENTS = 5
_MASKS = (("a_comp_cor", "combined", (CSF, WHITE_MATTER)), ("c_comp_cor", "CSF", (CSF,)), ("w_comp_cor", "WM", (WHITE_MATTER,)))
_MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_OUTLIER_FD, _OUTLIER_DVARS = 0.5, 1.5  # fMRIPrep's defaults: mm, standardised

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Confounds:
    """A confounds table and its metadata.

    Attributes
    ----------
    columns : dict
        In fMRIPrep's order; NaN where a first difference has no value.
    components : dict
        Metadata of each principal component.
    """

    columns: dict[str, Float]
    components: dict[str, dict[str, object]]


def _after_first(values: Float) -> Float:
    return np.concatenate([[np.nan], values])


def _expanded(name: str, values: Float) -> dict[str, Float]:
    derivative = _after_first(np.diff(values))
    return {
        name: values,
        f"{name}_derivative1": derivative,
        f"{name}_power2": values**2,
        f"{name}_derivative1_power2": derivative**2,
    }


def _components(values: Float, prefix: str, mask: str) -> tuple[dict[str, Float], dict[str, dict[str, object]]]:
    """Leading principal components of standardised series, shape (n_volumes, n_sites), and how much they explain."""
    noise = values / np.maximum(values.std(axis=0), 1e-9)
    # the smaller Gram matrix: a tissue has many more sites than a run has volumes
    eigenvalues, vectors = np.linalg.eigh(noise @ noise.T)
    eigenvalues, vectors = np.maximum(eigenvalues[::-1], 0.0), vectors[:, ::-1]
    explained = eigenvalues / max(float(eigenvalues.sum()), 1e-12)
    columns, metadata = {}, {}
    for index in range(min(_N_COMPONENTS, values.shape[1])):
        component, name = vectors[:, index], f"{prefix}_{index:02d}"
        # the sign of a singular vector is arbitrary, and must not depend on the linear algebra library
        columns[name] = component * np.sign(component[np.argmax(np.abs(component))])
        metadata[name] = {
            "CumulativeVarianceExplained": round(float(explained[: index + 1].sum()), 6),
            "Mask": mask,
            "Method": "aCompCor",
            "Retained": True,
            "SingularValue": round(float(np.sqrt(eigenvalues[index])), 6),
            "VarianceExplained": round(float(explained[index]), 6),
        }
    return columns, metadata


def compute_confounds(series: NDArray[np.float32], tissue: NDArray[np.int_], motion: Float, repetition_time: float) -> Confounds:
    """Confounds of a run.

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
    columns = _expanded("global_signal", values[:, tissue != OUTSIDE].mean(axis=1))
    for name, label in (("csf", CSF), ("white_matter", WHITE_MATTER)):
        if (tissue == label).any():  # large voxels may leave none
            columns |= _expanded(name, values[:, tissue == label].mean(axis=1))
    columns["csf_wm"] = values[:, np.isin(tissue, (CSF, WHITE_MATTER))].mean(axis=1)
    dvars = np.sqrt((np.diff(values, axis=0) ** 2).mean(axis=1))
    standardised = dvars / max(float(np.median(dvars)), 1e-12)
    columns["std_dvars"], columns["dvars"] = _after_first(standardised), _after_first(dvars)
    moved = (np.abs(np.diff(motion, axis=0)) * np.array([1.0] * 3 + [50.0] * 3)).sum(axis=1)
    columns["framewise_displacement"] = _after_first(moved)
    columns["rmsd"] = _after_first(np.sqrt((np.diff(motion[:, :3], axis=0) ** 2).sum(axis=1)))
    cosines = slow_cosines(len(values), repetition_time)
    metadata: dict[str, dict[str, object]] = {}
    for prefix, mask, labels in _MASKS:
        noise = values[:, np.isin(tissue, labels)]
        noise = noise - noise.mean(axis=0)
        noise -= cosines @ (cosines.T @ noise) / len(noise)
        of_mask, described = _components(noise, prefix, mask)
        columns |= of_mask
        metadata |= described
    for index, cosine in enumerate(cosines.T):
        columns[f"cosine{index:02d}"] = cosine / np.sqrt(len(cosine))
    for name, parameter in zip(_MOTION, motion.T, strict=True):
        columns |= _expanded(name, parameter)
    outliers = np.flatnonzero((moved > _OUTLIER_FD) | (standardised > _OUTLIER_DVARS)) + 1
    for index, volume in enumerate(outliers):
        columns[f"motion_outlier{index:02d}"] = (np.arange(len(values)) == volume).astype(np.float64)
    return Confounds(columns, metadata)
