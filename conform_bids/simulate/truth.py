"""What was put into the simulated series, beside them: `sourcedata/truth`, which BIDS tools pass over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform_bids.simulate.files import write_table
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.stimuli import Stimulus
from conform_bids.simulate.subjects import Run, Subject

__all__ = ["TRUTH_README", "write_trials", "write_truth"]

TRUTH_README = """What was simulated.

sub-XX_trials.tsv: every trial in chronological order (session, run, onset).
sub-XX_space-YY_truth.npz, units in the order of the series (voxels of the brain mask in C order; grayordinates; left, then
right vertices):
  trial_betas (trials, units)        true response to each trial, % of the unit's mean, for an HRF whose peak is 1
  condition_betas (stimuli, units)   the same without variability over trials and sessions
  stim_ids (stimuli,)                names of its rows
  active (units,)                    units that respond
  valid (units,)                     units with a signal that is not constant
  tissue (units,)                    0 outside, 1 cortex, 2 white matter, 3 cerebrospinal fluid, 4 cerebellum; -1 not covered
  hrf_index (units,)                 0-based column of the packaged HRF library; -1 for one outside of it
  time_to_peak (units,)              s after the onset of a brief stimulus
  noise_ceiling (units,)             % of the variance of true trial responses that the stimulus explains, 0 if not active
  site (units,)                      voxel of the brain mask whose series the unit takes; -1 not covered
"""


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
    path: Path,
    subject: Subject,
    runs: Sequence[Run],
    stimuli: Sequence[Stimulus],
    tissue: NDArray[np.int_],
    sites: NDArray[np.int_],
) -> None:
    """Write the truth of a subject for units that take their series from ``sites`` (-1: none)."""
    organisation = subject.organisation
    used = sites >= 0
    taken = np.where(used, sites, 0)

    def of_units(values: NDArray[Any], absent: float) -> NDArray[Any]:
        return np.where(used, values[..., taken], absent).astype(np.float32 if values.dtype == np.float64 else values.dtype)

    trial_betas = np.concatenate([run.betas for run in runs])
    stimulus_variance = organisation.condition_betas.var(axis=0)
    shown = np.concatenate([run.stimuli for run in runs])
    over_trials = (trial_betas - organisation.condition_betas[shown]).var(axis=0)
    total = stimulus_variance + over_trials
    ceiling = 100 * np.divide(stimulus_variance, total, out=np.zeros_like(total), where=total > 0)
    library = organisation.library
    n_packaged = sum(not name.startswith("outside") for name in library.names)
    time_to_peak = library.times[library.curves.argmax(axis=0)]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        trial_betas=of_units(trial_betas, 0.0),
        condition_betas=of_units(organisation.condition_betas, 0.0),
        stim_ids=np.array([stimulus.stim_id for stimulus in stimuli]),
        active=of_units(organisation.active, False),
        valid=of_units(~(subject.empty | subject.constant), False),
        tissue=of_units(tissue, -1),
        hrf_index=of_units(np.where(organisation.hrf < n_packaged, organisation.hrf, -1), -1),
        time_to_peak=of_units(time_to_peak[organisation.hrf], np.nan),
        noise_ceiling=of_units(np.where(organisation.active, ceiling, 0.0), 0.0),
        site=sites,
    )
