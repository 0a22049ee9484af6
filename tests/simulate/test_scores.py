"""Scores of responses against the truth: of responses that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.images import map_paths, read_space, write_maps
from conform_bids.simulate.dataset import SimulatedDataset
from conform_bids.simulate.scores import score_responses, score_same_stimuli
from conform_bids.simulate.truth import read_truth

ENTITIES = {"nifti": {"space": "T1w"}, "gifti": {"space": "fsaverage5"}}


def write_derivative(dataset: Path, folder: Path, kind: str, noise: float) -> None:
    """Maps of the true responses, in the order of stim_id, some units missing, in two versions: plain, and noisy and too large."""
    entities = {"sub": "01", "task": "shapes", **ENTITIES[kind]}
    truth = read_truth(dataset, "01", kind)
    order = np.argsort(truth.stim_ids)
    found = truth.condition_betas[order].copy()
    found[:, np.flatnonzero(truth.active)[:5]] = np.nan
    source = dataset / "derivatives" / "fmriprep" / "sub-01" / "ses-01" / "func"
    run = "sub-01_ses-01_task-shapes_run-01"
    if kind == "nifti":
        mask = source / f"{run}_space-T1w_desc-brain_mask.nii.gz"
        space = read_space((source / f"{run}_space-T1w_desc-preproc_bold.nii.gz",), mask, "T1w")
    else:
        space = read_space(tuple(source / f"{run}_hemi-{side}_space-fsaverage5_bold.func.gii" for side in "LR"), None, "fsaverage5")
    func = folder / "sub-01" / "func"
    func.mkdir(parents=True, exist_ok=True)
    noisy = found + noise * np.random.default_rng(0).standard_normal(found.shape).astype(np.float32)
    for desc, values in (("trialavg", noisy), ("psn", found)):
        write_maps(values, space, [folder / path for path in map_paths(kind, {**entities, "stat": "effect", "desc": desc}, "statmap")])
    rows = "".join(f"{k}\t{truth.stim_ids[index]}\n" for k, index in enumerate(order))
    stem = "_".join(f"{key}-{label}" for key, label in entities.items())
    (func / f"{stem}_desc-psn_trials.tsv").write_text("condition\tstim_id\n" + rows)


@pytest.mark.parametrize("kind", ENTITIES)
def test_scores_of_known_responses(kind: str, simulated_dataset: SimulatedDataset, tmp_path: Path) -> None:
    dataset = Path(simulated_dataset.path)
    write_derivative(dataset, tmp_path, kind, noise=0.5)
    noisy, exact = score_responses(dataset, tmp_path)
    assert (noisy.desc, exact.desc) == ("trialavg", "psn")
    active = int(read_truth(dataset, "01", kind).active.sum())
    assert exact.n_units == noisy.n_units == active - 5
    assert exact.n_conditions == 12
    assert exact.correlation == pytest.approx(1, abs=1e-5)
    assert exact.error == pytest.approx(0, abs=1e-5)
    assert 0.5 < noisy.correlation < 0.97
    assert noisy.error == pytest.approx(0.5, rel=0.1)
    assert score_responses(dataset, tmp_path, ("psncrossfit",)) == []
    assert score_responses(dataset, tmp_path / "sub-01") == []


def test_scores_of_what_is_called_the_same(tmp_path: Path) -> None:
    """One and Two show an image under two names, and Two a near copy of it; b2 has nothing to do with it and is called the same."""
    truths = {
        "One": ["a1 common n/a test", "a2 own n/a train"],
        "Two": ["b1 common n/a train", "b2 other n/a train", "b3 copy b1 train"],
    }
    for name, lines in truths.items():
        folder = tmp_path / name / "sourcedata" / "truth"
        folder.mkdir(parents=True)
        text = "\n".join(["stim_id content near_copy_of split", *lines]).replace(" ", "\t")
        (folder / "stimuli.tsv").write_text(text + "\n")
    rows = [("One", "a1", "x"), ("One", "a2", "y"), ("Two", "b1", "x"), ("Two", "b2", "y"), ("Two", "b3", "z")]
    found = pd.DataFrame(rows, columns=["dataset", "stim_id", "content_id"])
    found["split"] = np.where(found["content_id"] == "x", "test", "train")
    datasets = {name: tmp_path / name for name in truths}
    same, near, others = score_same_stimuli(datasets, found)
    assert (same.n_pairs, same.n_found, same.n_marked_differently, same.n_on_one_side) == (1, 1, 1, 1)
    assert (near.n_pairs, near.n_found) == (2, 0)
    assert (others.n_pairs, others.n_found, others.n_marked_differently, others.n_on_one_side) == (7, 1, 0, 1)
    assert score_same_stimuli(datasets, found.iloc[:2])[0].n_pairs == 0, "what is not in the table does not count"
