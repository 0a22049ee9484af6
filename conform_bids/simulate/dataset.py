"""Simulate a dataset: draw its subjects, write their files and the truth."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.errors import UsageError
from conform_bids.options import to_mapping
from conform_bids.simulate.anatomy import Anatomy, build_anatomy, load_cortex
from conform_bids.simulate.confounds import compute_confounds
from conform_bids.simulate.files import (
    TASK,
    write_cifti_run,
    write_confounds,
    write_derivative_root,
    write_events,
    write_gifti_run,
    write_json,
    write_raw_bold,
    write_raw_root,
    write_volume_run,
)
from conform_bids.simulate.organisation import draw_population
from conform_bids.simulate.seeds import ORGANISATION, population_generator
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.stimuli import Stimulus, draw_catalogue, stimulus_features
from conform_bids.simulate.subjects import Run, Subject, draw_subject, simulate_run, unit_series
from conform_bids.simulate.truth import (
    SPACES,
    TRUTH_FOLDER,
    truth_path,
    write_population,
    write_stimuli,
    write_trials,
    write_truth,
    write_truth_readme,
)

__all__ = ["SPACES", "SimulatedDataset", "simulate_dataset"]

_MARK = "settings.json"
_VERSION = 2  # of the generator: raise it when the same settings would give other data


@dataclass(frozen=True)
class SimulatedDataset:
    """Where a simulated dataset is.

    Attributes
    ----------
    path : Path
        The raw dataset.
    fmriprep : Path
        Its derivative.
    truth : Path
        Folder of the truth; its README says what the files hold.
    participants : tuple of str
        Labels without ``sub-``.
    made : bool
        False when it was there already.
    """

    path: Path
    fmriprep: Path
    truth: Path
    participants: tuple[str, ...]
    made: bool

    def truth_file(self, participant: str, file_format: str) -> Path:
        """Truth of a participant for ``nifti``, ``cifti`` or ``gifti`` units."""
        return truth_path(self.path, participant, file_format)


def simulate_dataset(output_dir: Path, settings: SimulationSettings | None = None) -> SimulatedDataset:
    """Simulate a raw BIDS dataset, its fMRIPrep-shaped derivative and the truth.

    The dataset appears as a whole or not at all. One that is there with the same settings is left as it is.

    Parameters
    ----------
    output_dir : Path
        Folder of the raw dataset; the derivative goes to ``derivatives/fmriprep`` in it, the truth to
        ``sourcedata/truth``.
    settings : SimulationSettings, optional
        Size, design, signal and noise.

    Raises
    ------
    UsageError
        When ``output_dir`` holds something else.
    """
    settings = settings or SimulationSettings()
    output_dir = Path(os.path.abspath(output_dir))
    mark = {"GeneratorVersion": _VERSION, **json.loads(json.dumps(to_mapping(settings)))}
    found = _read_mark(output_dir)
    if found is None or found != mark:
        _refuse_others(output_dir, found)
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        partial = output_dir.with_name(f".{output_dir.name}-{secrets.token_hex(4)}.partial")
        try:
            _write_all(partial, settings)
            write_json(mark, partial / TRUTH_FOLDER / _MARK)
            if output_dir.is_dir():
                output_dir.rmdir()  # empty, as _refuse_others has seen
            os.replace(partial, output_dir)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return SimulatedDataset(
        path=output_dir,
        fmriprep=output_dir / "derivatives" / "fmriprep",
        truth=output_dir / TRUTH_FOLDER,
        participants=tuple(f"{index + 1:02d}" for index in range(settings.n_subjects)),
        made=found != mark,
    )


def _read_mark(output_dir: Path) -> dict[str, object] | None:
    try:
        mark = json.loads((output_dir / TRUTH_FOLDER / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) else None


def _refuse_others(output_dir: Path, found: dict[str, object] | None) -> None:
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        what = "something that is not a simulated dataset" if found is None else "a dataset simulated with other settings"
        raise UsageError(f"{output_dir} holds {what}; name another folder, or remove it")


def _write_all(root: Path, settings: SimulationSettings) -> None:
    root.mkdir()
    catalogue = draw_catalogue(settings)
    population = draw_population(settings.population_seed, population_generator(settings.population_seed, ORGANISATION, 0))
    anatomy = build_anatomy(load_cortex(), settings.voxel_size)
    write_raw_root(root, catalogue.everything, settings)
    write_derivative_root(root / "derivatives" / "fmriprep")
    (root / TRUTH_FOLDER).mkdir(parents=True)
    write_truth_readme(root / TRUTH_FOLDER)
    write_stimuli(root / TRUTH_FOLDER, catalogue)
    write_population(root / TRUTH_FOLDER, population)
    for index in range(settings.n_subjects):
        stimuli = catalogue.of_subject(index)
        subject = draw_subject(index, population, anatomy, stimulus_features(stimuli), load_default_library(), settings)
        _write_subject(root, subject, anatomy, stimuli, settings)


def _unit_sites(anatomy: Anatomy) -> dict[str, NDArray[np.int_]]:
    """The site of each unit, by format."""
    return {
        "nifti": np.arange(len(anatomy.tissue)),
        "cifti": anatomy.grayordinate_sites,
        "gifti": np.concatenate(anatomy.vertex_sites),
    }


def _write_subject(root: Path, subject: Subject, anatomy: Anatomy, stimuli: tuple[Stimulus, ...], settings: SimulationSettings) -> None:
    label = f"{subject.index + 1:02d}"
    runs = []
    for session in range(settings.n_sessions):
        for number in range(settings.n_runs):
            run = simulate_run(subject, session, number, settings)
            _write_run(root, subject, run, anatomy, stimuli, settings)
            runs.append(run)
    write_trials(root / TRUTH_FOLDER / f"sub-{label}_trials.tsv", runs, stimuli, settings)
    for file_format, sites in _unit_sites(anatomy).items():
        if file_format in settings.file_formats:
            write_truth(truth_path(root, label, file_format), subject, runs, stimuli, anatomy.tissue, sites)


def _write_run(
    root: Path, subject: Subject, run: Run, anatomy: Anatomy, stimuli: tuple[Stimulus, ...], settings: SimulationSettings
) -> None:
    entities = (f"sub-{subject.index + 1:02d}", f"ses-{run.session + 1:02d}")
    stem = f"{'_'.join(entities)}_task-{TASK}_run-{run.run + 1:02d}"
    raw = root.joinpath(*entities, "func")
    preprocessed = (root / "derivatives" / "fmriprep").joinpath(*entities, "func")
    raw.mkdir(parents=True, exist_ok=True)
    series = {
        file_format: np.stack(list(unit_series(subject, run, sites, kind, settings)))
        for kind, (file_format, sites) in enumerate(_unit_sites(anatomy).items())
        if file_format in settings.file_formats or file_format == "nifti"
    }
    volumes = _volumes(series["nifti"], anatomy)
    write_events(raw / f"{stem}_events.tsv", run.onsets, [stimuli[int(index)] for index in run.stimuli], settings)
    write_raw_bold(raw / f"{stem}_bold.nii.gz", volumes, anatomy, settings)
    confounds = compute_confounds(series["nifti"], anatomy.tissue, run.motion, settings.repetition_time)
    write_confounds(preprocessed / f"{stem}_desc-confounds_timeseries.tsv", confounds)
    if "nifti" in settings.file_formats:
        write_volume_run(preprocessed, stem, volumes, anatomy, settings)
    if "cifti" in series:
        write_cifti_run(preprocessed, stem, series["cifti"], anatomy, settings)
    if "gifti" in series:
        n_left = len(anatomy.vertex_sites[0])
        for hemisphere, values in (("L", series["gifti"][:, :n_left]), ("R", series["gifti"][:, n_left:])):
            write_gifti_run(preprocessed, stem, hemisphere, np.ascontiguousarray(values), settings)


def _volumes(series: NDArray[np.float32], anatomy: Anatomy) -> NDArray[np.float32]:
    volumes = np.zeros((*anatomy.shape, len(series)), dtype=np.float32)
    volumes[anatomy.mask] = series.T
    return volumes
