"""What was put into the simulated series, beside them: `sourcedata/truth`, which BIDS tools pass over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.bids.tables import read_tsv
from conform_bids.errors import MissingInputError
from conform_bids.simulate.files import write_table
from conform_bids.simulate.organisation import TYPES, Population
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.stimuli import FEATURES, Catalogue, Stimulus, reference_features, stimulus_features
from conform_bids.simulate.subjects import Run, Subject

__all__ = [
    "SPACES",
    "TRUTH_FOLDER",
    "Truth",
    "read_truth",
    "truth_path",
    "write_population",
    "write_stimuli",
    "write_trials",
    "write_truth",
    "write_truth_readme",
]

SPACES = {"nifti": "T1w", "cifti": "fsLR", "gifti": "fsaverage5"}
"""Space of each format."""

TRUTH_FOLDER = Path("sourcedata") / "truth"
"""Where the truth lies in a simulated dataset."""

_README = """What was simulated. `conform_bids.simulate.truth.read_truth(dataset, participant, file_format)` reads it.

settings.json: the settings of `conform-demo simulate`.
stimuli.tsv: every stimulus of the dataset with its latent properties. `content` names the image in the world of the population
  (equal contents are equal images, in any dataset of the same --population-seed), `seen_by` who sees it, `near_copy_of` the
  stimulus that it is a near duplicate of.
features.tsv: the features that responses are tuned to, standardised over the world of stimuli.
population.npz: what all datasets of the same --population-seed share: type_names, feature_names, feature_mean, feature_scale,
  type_weights (types, features): mean weights of each functional type without gradients over the cortex.
sub-XX_trials.tsv: every trial in chronological order (session, run, onset).
sub-XX_space-YY_truth.npz, units in the order of the series (voxels of the brain mask in C order; grayordinates; left, then
right vertices):
"""


_DESCRIBED = {
    "trial_betas": "(trials, units): true response to each trial.",
    "condition_betas": "(stimuli, units): true response to each stimulus, without variability over repeats and sessions.",
    "stim_ids": "(stimuli,): names of the rows of condition_betas and features.",
    "weights": "(features, units): response to one standard deviation of each feature.",
    "intercept": "(units,): mean response over the world of stimuli.",
    "active": "(units,): units that respond.",
    "valid": "(units,): units with a signal that is not constant.",
    "tissue": "(units,): 0 outside, 1 cortex, 2 white matter, 3 cerebrospinal fluid, 4 cerebellum; -1 not covered.",
    "functional_type": "(units,): index into type_names; -1 not active.",
    "hrf_index": "(units,): 0-based column of the packaged HRF library; -1 for one outside of it.",
    "hrf_curve": "(units,): column of hrf_curves; -1 not covered.",
    "hrf_curves": "(samples, curves): responses to a stimulus of 0.1 s, every 0.1 s; the packaged library, then others.",
    "time_to_peak": "(units,): s after the onset of a brief stimulus.",
    "noise_ceiling": "(units,): % of the variance of true trial responses that the stimulus explains, 0 if not active.",
    "trial_sd": "(units,): standard deviation of responses over repeats (%).",
    "noise_sd": "(units,): temporal standard deviation of the noise in the series (%), mean over runs.",
    "session_gain": "(sessions, units): factor of responses.",
    "session_offset": "(sessions, units): what is added to responses (%).",
    "site": "(units,): voxel of the brain mask whose series the unit takes; -1 not covered.",
}


@dataclass(frozen=True)
class Truth:
    """What was put into the series of a participant, for the units of one format.

    A response is in % of the unit's mean, for an HRF whose peak is 1: ``condition_betas = intercept + features @ weights``,
    and a trial's is ``(condition + repeat) * gain + offset`` with the gain and the offset of its session.

    Attributes
    ----------
    trial_betas : ndarray, shape (trials, units)
        True response to each trial.
    condition_betas : ndarray, shape (stimuli, units)
        True response to each stimulus, without variability over repeats and sessions.
    stim_ids : ndarray of str, shape (stimuli,)
        Names of the rows of condition_betas and features.
    weights : ndarray, shape (features, units)
        Response to one standard deviation of each feature.
    intercept : ndarray, shape (units,)
        Mean response over the world of stimuli.
    active : ndarray of bool, shape (units,)
        Units that respond.
    valid : ndarray of bool, shape (units,)
        Units with a signal that is not constant.
    tissue : ndarray of int, shape (units,)
        0 outside, 1 cortex, 2 white matter, 3 cerebrospinal fluid, 4 cerebellum; -1 not covered.
    functional_type : ndarray of int, shape (units,)
        Index into type_names; -1 not active.
    hrf_index : ndarray of int, shape (units,)
        0-based column of the packaged HRF library; -1 for one outside of it.
    hrf_curve : ndarray of int, shape (units,)
        Column of hrf_curves; -1 not covered.
    hrf_curves : ndarray, shape (samples, curves)
        Responses to a stimulus of 0.1 s, every 0.1 s; the packaged library, then others.
    time_to_peak : ndarray, shape (units,)
        S after the onset of a brief stimulus.
    noise_ceiling : ndarray, shape (units,)
        % of the variance of true trial responses that the stimulus explains, 0 if not active.
    trial_sd : ndarray, shape (units,)
        Standard deviation of responses over repeats (%).
    noise_sd : ndarray, shape (units,)
        Temporal standard deviation of the noise in the series (%), mean over runs.
    session_gain : ndarray, shape (sessions, units)
        Factor of responses.
    session_offset : ndarray, shape (sessions, units)
        What is added to responses (%).
    site : ndarray of int, shape (units,)
        Voxel of the brain mask whose series the unit takes; -1 not covered.
    features : ndarray, shape (stimuli, features)
        Standardised features of the stimuli.
    feature_names : tuple of str
        Names of the features.
    type_names : tuple of str
        Names of the functional types.
    trials : DataFrame
        A row a trial: session_id, run_id, onset (s), duration (s), trial_type, stim_id, split.
    """

    trial_betas: NDArray[np.float32]
    condition_betas: NDArray[np.float32]
    stim_ids: NDArray[np.str_]
    weights: NDArray[np.float32]
    intercept: NDArray[np.float32]
    active: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    tissue: NDArray[np.int_]
    functional_type: NDArray[np.int_]
    hrf_index: NDArray[np.int_]
    hrf_curve: NDArray[np.int_]
    hrf_curves: NDArray[np.float32]
    time_to_peak: NDArray[np.float32]
    noise_ceiling: NDArray[np.float32]
    trial_sd: NDArray[np.float32]
    noise_sd: NDArray[np.float32]
    session_gain: NDArray[np.float32]
    session_offset: NDArray[np.float32]
    site: NDArray[np.int_]
    features: NDArray[np.float64]
    feature_names: tuple[str, ...]
    type_names: tuple[str, ...]
    trials: pd.DataFrame


def truth_path(dataset: Path, participant: str, file_format: str) -> Path:
    """File of the truth of a participant (without ``sub-``) for ``nifti``, ``cifti`` or ``gifti`` units."""
    return dataset / TRUTH_FOLDER / f"sub-{participant}_space-{SPACES[file_format]}_truth.npz"


def read_truth(dataset: str | Path, participant: str, file_format: str = "nifti") -> Truth:
    """Read what was put into a simulated dataset.

    Parameters
    ----------
    dataset : path
        The raw dataset.
    participant : str
        Label, with or without ``sub-``.
    file_format : str
        ``nifti``, ``cifti`` or ``gifti``: which units.

    Raises
    ------
    MissingInputError
        When the dataset is not simulated, or has no such participant or format.
    """
    label = participant.removeprefix("sub-")
    path = truth_path(Path(dataset), label, file_format)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; the dataset is not simulated, or without this participant or format")
    with np.load(path, allow_pickle=False) as archive:
        arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    table = read_tsv(path.parent / "features.tsv")
    rows = {str(name): row for row, name in enumerate(table["stim_id"])}
    names = tuple(str(name) for name in table.columns if name != "stim_id")
    values = table[list(names)].to_numpy(dtype=np.float64)
    trials = read_tsv(path.parent / f"sub-{label}_trials.tsv").astype({"onset": float, "duration": float})
    return Truth(
        **arrays,
        features=values[[rows[str(name)] for name in arrays["stim_ids"]]],
        feature_names=names,
        type_names=TYPES,
        trials=trials.reset_index(drop=True),
    )


def write_truth_readme(folder: Path) -> None:
    """Write what the files of the truth hold."""
    width = max(map(len, _DESCRIBED)) + 2
    lines = "".join(f"  {name:<{width}}{text}\n" for name, text in _DESCRIBED.items())
    (folder / "README").write_text(_README + lines, encoding="utf-8")


def write_stimuli(folder: Path, catalogue: Catalogue) -> None:
    """Write the latent properties and the features of the stimuli of a dataset."""
    everything = catalogue.everything
    columns: dict[str, Sequence[object] | NDArray[Any]] = {
        field.name: [getattr(stimulus, field.name) for stimulus in everything] for field in fields(Stimulus)
    }
    write_table(columns, folder / "stimuli.tsv")
    features = stimulus_features(everything)
    write_table({"stim_id": columns["stim_id"], **dict(zip(FEATURES, features.T, strict=True))}, folder / "features.tsv")


def write_population(folder: Path, population: Population) -> None:
    """Write what all datasets of the population share; equal bytes in each of them."""
    mean, scale, _ = reference_features()
    np.savez_compressed(
        folder / "population.npz",
        type_names=np.array(TYPES),
        feature_names=np.array(FEATURES),
        feature_mean=mean,
        feature_scale=scale,
        type_weights=population.type_weights,
    )


def write_trials(path: Path, runs: Sequence[Run], stimuli: Sequence[Stimulus], settings: SimulationSettings) -> None:
    """Write the order of a subject's trials."""
    columns: dict[str, list[Any]] = {name: [] for name in ("session_id", "run_id", "onset", "duration", "trial_type", "stim_id", "split")}
    for run in runs:
        for onset, index in zip(run.onsets, run.stimuli, strict=True):
            shown = stimuli[int(index)]
            split = shown.split if settings.n_test else "n/a"
            row = (f"{run.session + 1:02d}", f"{run.run + 1:02d}", onset, settings.stimulus_duration, shown.category, shown.stim_id, split)
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
    write_table(columns, path)


def write_truth(
    path: Path, subject: Subject, runs: Sequence[Run], stimuli: Sequence[Stimulus], tissue: NDArray[np.int_], sites: NDArray[np.int_]
) -> None:
    """Write the truth of a subject for units that take their series from ``sites`` (-1: none)."""
    tuning = subject.tuning
    used = sites >= 0
    taken = np.where(used, sites, 0)

    def of_units(values: NDArray[Any], absent: float) -> NDArray[Any]:
        small = values.astype(np.float32) if values.dtype == np.float64 else values
        return np.where(used, small[..., taken], small.dtype.type(absent))

    trial_betas = np.concatenate([run.betas for run in runs])
    stimulus_variance = subject.condition_betas.var(axis=0)
    shown = np.concatenate([run.stimuli for run in runs])
    over_trials = (trial_betas - subject.condition_betas[shown]).var(axis=0)
    total = stimulus_variance + over_trials
    ceiling = 100 * np.divide(stimulus_variance, total, out=np.zeros_like(total), where=total > 0)
    library = tuning.library
    n_packaged = sum(not name.startswith("outside") for name in library.names)
    time_to_peak = library.times[library.curves.argmax(axis=0)]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        trial_betas=of_units(trial_betas, 0.0),
        condition_betas=of_units(subject.condition_betas, 0.0),
        stim_ids=np.array([stimulus.stim_id for stimulus in stimuli]),
        weights=of_units(tuning.weights, 0.0),
        intercept=of_units(tuning.gain, 0.0),
        active=of_units(tuning.active, False),
        valid=of_units(~(subject.empty | subject.constant), False),
        tissue=of_units(tissue, -1),
        functional_type=of_units(tuning.functional_type, -1),
        hrf_index=of_units(np.where(tuning.hrf < n_packaged, tuning.hrf, -1), -1),
        hrf_curve=of_units(tuning.hrf, -1),
        hrf_curves=library.curves.astype(np.float32),
        time_to_peak=of_units(time_to_peak[tuning.hrf], np.nan),
        noise_ceiling=of_units(np.where(tuning.active, ceiling, 0.0), 0.0),
        trial_sd=of_units(tuning.variability, 0.0),
        noise_sd=of_units(np.sqrt(np.mean([run.noise_variance for run in runs], axis=0)), 0.0),
        session_gain=of_units(np.where(tuning.active, subject.session_gain, 1.0), 1.0),
        session_offset=of_units(subject.session_offset, 0.0),
        site=sites,
    )
