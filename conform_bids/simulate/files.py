"""The files of a simulated dataset: raw BIDS, its fMRIPrep-shaped derivative, and the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.anatomy import Anatomy
from conform_bids.simulate.confounds import Confounds
from conform_bids.simulate.images import write_image
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.stimuli import Stimulus

__all__ = [
    "TASK",
    "write_cifti_run",
    "write_confounds",
    "write_derivative_root",
    "write_events",
    "write_gifti_run",
    "write_json",
    "write_raw_bold",
    "write_raw_root",
    "write_table",
    "write_volume_run",
]

TASK = "shapes"
_BIDS_VERSION = "1.10.0"
_FMRIPREP_BIDSIGNORE = "*.html\nlogs\nfigures\n*_bold.func.gii\n*_bold.dtseries.nii\n*_bold.json\n*_timeseries.*\n"
_STUB = 4  # voxels a side of the raw images, which hold the timing and nothing else


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON, indented."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_table(columns: Mapping[str, Sequence[object] | NDArray[Any]], path: Path) -> None:
    """Write a BIDS TSV; floats with seven digits, NaN as n/a."""

    def cell(value: object) -> str:
        if isinstance(value, float | np.floating):
            return "n/a" if np.isnan(value) else f"{value:.7g}"
        return str(value)

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(columns), *("\t".join(cell(value) for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_raw_root(root: Path, stimuli: Sequence[Stimulus], settings: SimulationSettings) -> None:
    """Write the files at the root of the raw dataset, and the images of the stimuli."""
    write_json(
        {
            "Name": "Simulated responses to shapes",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": ["The conform developers"],
            "GeneratedBy": [{"Name": "conform-demo", "Description": "simulated; no person was scanned"}],
        },
        root / "dataset_description.json",
    )
    (root / "README").write_text(
        "Simulated data: no person was scanned.\n\nThe raw images are stubs that hold the timing of the acquisition; the series are in "
        "derivatives/fmriprep.\nWhat was put into them is in sourcedata/truth (see the README there).\n",
        encoding="utf-8",
    )
    (root / "CHANGES").write_text("1.0.0 2026-01-01\n  - Simulated.\n", encoding="utf-8")
    write_table({"participant_id": [f"sub-{index + 1:02d}" for index in range(settings.n_subjects)]}, root / "participants.tsv")
    (root / "stimuli").mkdir()
    for stimulus in stimuli:
        write_image(stimulus, root / "stimuli" / f"{stimulus.stim_id}.png")
    described = {
        "trial_type": {"Description": "Category of what is drawn"},
        "stim_id": {"Description": "Name of the image"},
        "stim_file": {"Description": "Image, in stimuli/"},
        "split": {"Description": "Whether models are trained or tested on the image", "Levels": {"train": "training", "test": "testing"}},
    }
    write_json({key: value for key, value in described.items() if key != "split" or settings.n_test}, root / f"task-{TASK}_events.json")
    bold: dict[str, Any] = {"TaskName": TASK, "RepetitionTime": settings.repetition_time}
    if settings.slice_timing:
        bold["SliceTiming"] = [round(settings.repetition_time * index / _STUB, 6) for index in range(_STUB)]
    write_json(bold, root / f"task-{TASK}_bold.json")


def write_events(path: Path, onsets: NDArray[np.float64], shown: Sequence[Stimulus], settings: SimulationSettings) -> None:
    """Write the events of a run."""
    columns: dict[str, Sequence[object] | NDArray[Any]] = {
        "onset": onsets,
        "duration": [settings.stimulus_duration] * len(onsets),
        "trial_type": [stimulus.category for stimulus in shown],
        "stim_id": [stimulus.stim_id for stimulus in shown],
        "stim_file": [f"{stimulus.stim_id}.png" for stimulus in shown],
    }
    if settings.n_test:
        columns["split"] = [stimulus.split for stimulus in shown]
    write_table(columns, path)


def write_raw_bold(path: Path, volumes: NDArray[np.float32], anatomy: Anatomy, settings: SimulationSettings) -> None:
    """Write a stub of the raw series: a few voxels of the preprocessed one, with the same timing."""
    start = [max(0, size // 2 - _STUB // 2) for size in anatomy.shape]
    cut = tuple(slice(low, low + _STUB) for low in start)
    affine = anatomy.affine.copy()
    affine[:3, 3] += np.diag(anatomy.affine)[:3] * start
    _save_nifti(np.rint(volumes[cut]).astype(np.int16), affine, path, settings.repetition_time)


def _save_nifti(data: NDArray[Any], affine: NDArray[np.float64], path: Path, repetition_time: float | None = None) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    if repetition_time is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], repetition_time))
    nibabel.save(image, path)


def write_derivative_root(root: Path) -> None:
    """Write the files at the root of the derivative."""
    write_json(
        {
            "Name": "fMRIPrep - fMRI PREProcessing workflow (simulated)",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "fMRIPrep",
                    "Version": "25.2.0",
                    "Description": "simulated in the shape of fMRIPrep's outputs; fMRIPrep itself did not run",
                }
            ],
            "DatasetLinks": {"raw": "../.."},
            "HowToAcknowledge": "Nothing to acknowledge: simulated data.",
        },
        root / "dataset_description.json",
    )
    (root / ".bidsignore").write_text(_FMRIPREP_BIDSIGNORE, encoding="utf-8")
    (root / "README").write_text("Simulated, with the names and the metadata that fMRIPrep writes.\n", encoding="utf-8")
    write_json(
        {"TaskName": TASK},
        root / f"task-{TASK}_bold.json",
    )


def _timing(settings: SimulationSettings) -> dict[str, Any]:
    return {
        "RepetitionTime": settings.repetition_time,
        "SkullStripped": False,
        "SliceTimingCorrected": settings.slice_timing,
        "StartTime": settings.start_time,
        "TaskName": TASK,
    }


def write_volume_run(folder: Path, stem: str, volumes: NDArray[np.float32], anatomy: Anatomy, settings: SimulationSettings) -> None:
    """Write the series and the brain mask in space T1w.

    Parameters
    ----------
    folder : Path
        The ``func`` folder.
    stem : str
        Entities up to the run.
    volumes : ndarray, shape (X, Y, Z, n_volumes)
        Intensities.
    """
    source = f"bids:raw:{folder.parent.parent.name}/{folder.parent.name}/func/{stem}_bold.nii.gz"
    _save_nifti(volumes, anatomy.affine, folder / f"{stem}_space-T1w_desc-preproc_bold.nii.gz", settings.repetition_time)
    reference = {"SpatialReference": "T1w image of the participant, which is not part of the simulation", "Sources": [source]}
    write_json({**_timing(settings), **reference}, folder / f"{stem}_space-T1w_desc-preproc_bold.json")
    _save_nifti(anatomy.mask.astype(np.uint8), anatomy.affine, folder / f"{stem}_space-T1w_desc-brain_mask.nii.gz")
    write_json({**reference, "Type": "Brain"}, folder / f"{stem}_space-T1w_desc-brain_mask.json")


def write_cifti_run(folder: Path, stem: str, series: NDArray[np.float32], anatomy: Anatomy, settings: SimulationSettings) -> None:
    """Write the series of grayordinates, shape (n_volumes, n_grayordinates), at a low density."""
    import nibabel
    from nibabel import cifti2

    folder.mkdir(parents=True, exist_ok=True)
    axis = cifti2.SeriesAxis(settings.start_time, settings.repetition_time, len(series), "SECOND")
    models = [
        cifti2.BrainModelAxis.from_surface(vertices, anatomy.n_surface, name=f"CIFTI_STRUCTURE_CORTEX_{side}")
        for vertices, side in zip(anatomy.grayordinate_vertices, ("LEFT", "RIGHT"), strict=True)
    ]
    models += [
        cifti2.BrainModelAxis(f"CIFTI_STRUCTURE_CEREBELLUM_{side}", voxel=voxels, affine=anatomy.affine, volume_shape=anatomy.shape)
        for voxels, side in zip(anatomy.cerebellum_voxels, ("LEFT", "RIGHT"), strict=True)
    ]
    brain = sum(models[1:], start=models[0])
    image = nibabel.Cifti2Image(series, header=(axis, brain))
    image.nifti_header.set_intent("NIFTI_INTENT_CONNECTIVITY_DENSE_SERIES")
    nibabel.save(image, folder / f"{stem}_space-fsLR_den-5k_bold.dtseries.nii")
    sidecar = {**_timing(settings), "Density": "5k (2,562 vertices a hemisphere)", "grayordinates": "5k", "space": "HCP grayordinates"}
    write_json({**sidecar, "surface": "fsLR", "surface_density": "2.5k"}, folder / f"{stem}_space-fsLR_den-5k_bold.json")


def write_gifti_run(folder: Path, stem: str, hemisphere: str, series: NDArray[np.float32], settings: SimulationSettings) -> None:
    """Write the series of one hemisphere (``L`` or ``R``), shape (n_volumes, n_vertices), in space fsaverage5."""
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    structure = {"L": "CortexLeft", "R": "CortexRight"}[hemisphere]
    arrays = [
        nibabel.gifti.GiftiDataArray(
            values,
            intent="NIFTI_INTENT_TIME_SERIES",
            datatype="NIFTI_TYPE_FLOAT32",
            encoding="GIFTI_ENCODING_B64GZ",
            meta=nibabel.gifti.GiftiMetaData({"TimeStep": f"{1000 * settings.repetition_time:.6f}"}),
        )
        for values in series
    ]
    meta = nibabel.gifti.GiftiMetaData({"AnatomicalStructurePrimary": structure})
    name = f"{stem}_hemi-{hemisphere}_space-fsaverage5_bold"
    nibabel.save(nibabel.gifti.GiftiImage(darrays=arrays, meta=meta), folder / f"{name}.func.gii")
    write_json(_timing(settings), folder / f"{name}.json")


def write_confounds(path: Path, confounds: Confounds) -> None:
    """Write the confounds table and its sidecar."""
    write_table(confounds.columns, path)
    described: dict[str, Any] = dict(confounds.components)
    described["framewise_displacement"] = {"Description": "Sum of absolute displacements, rotations on a sphere of 50 mm", "Units": "mm"}
    write_json(described, path.with_suffix(".json"))
