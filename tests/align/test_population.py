"""The default on people of the simulated population, through files: left-out people are predicted better than by smoothed anatomy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.simulate.dataset import simulate_dataset
from conform_bids.simulate.settings import SimulationSettings
from conform_bids.simulate.truth import read_truth

pytestmark = pytest.mark.slow
N_TRAIN, N_TEST = 100, 25


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """True responses of four people on one grid, (stimuli, voxels), 0 outside of the brain."""
    root = tmp_path_factory.mktemp("population")
    size = {"n_subjects": 4, "n_sessions": 1, "n_runs": 2, "n_stimuli": N_TRAIN + N_TEST}
    simulate_dataset(root, SimulationSettings(**size, file_formats=("nifti",)))  # type: ignore[arg-type]
    mask = np.asarray(nib.load(next(root.rglob("*desc-brain_mask.nii.gz"))).dataobj) > 0
    people = {}
    for label in ("01", "02", "03", "04"):
        truth = read_truth(root, label)
        assert truth.condition_betas.shape == (N_TRAIN + N_TEST, int(mask.sum()))
        order = np.random.default_rng(0).permutation(N_TRAIN + N_TEST)  # names go by category; the same in all people
        signal = np.zeros((N_TRAIN + N_TEST, mask.size))
        signal[:, np.flatnonzero(mask)] = np.nan_to_num(truth.condition_betas[order])
        people[label] = signal
    return SimpleNamespace(shape=mask.shape, people=people)


@pytest.mark.parametrize("n_train", [20, N_TRAIN])
def test_left_out_people_are_predicted_better_than_by_anatomy(
    n_train: int, population: SimpleNamespace, make_person: Any, people_spec: Any, run_align: Any, tmp_path: Path
) -> None:
    spec = people_spec(people=tuple(population.people), stimuli=n_train + N_TEST, test=N_TEST, own=0, noise=1.0, shape=population.shape)
    for label, signal in population.people.items():
        kept = np.r_[signal[:n_train], signal[N_TRAIN:]]
        make_person(tmp_path / "psn", spec, label, kept, kept.std(axis=0), np.random.default_rng([5, int(label)]))
    flags = ("--skip-bids-validation", "--nprocs", "1", "-w", tmp_path / "work")
    run = run_align(tmp_path / "psn", tmp_path / "out", "group", *flags)
    assert run.status == 0, run.stderr
    table = pd.read_csv(tmp_path / "out" / "group_align.tsv", sep="\t")
    gain = table["normalised_r"] - table["anatomy_normalised_r"]
    assert len(gain) == 4 and (gain > (0 if n_train == N_TRAIN else -0.005)).all(), table
    assert (table["shuffled_normalised_r"].abs() < 0.1).all()
