"""conform-align on people who share no train stimuli: maps are fitted on the weights of encoding models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.images import read_space
from conform_bids.bids.weights import EncodingWeights, write_weights

COMMON = ("--skip-bids-validation", "--nprocs", "1")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"
N_FEATURES = 24


def encode(derivative: Path, root: Path, spec: Any, card: str = "toy", units: int | None = None) -> Path:
    """Weights as conform-encode writes them: ridge of the train responses on features, which are mixtures of the latent ones."""
    latent = np.random.default_rng(7).standard_normal((spec.stimuli, 6))
    mixing = np.random.default_rng(8).standard_normal((6, N_FEATURES))
    features = (latent @ mixing)[: spec.stimuli - spec.test]
    described = {"Name": "weights", "BIDSVersion": "1.11.1", "DatasetType": "derivative", "GeneratedBy": [{"Name": "conform-encode"}]}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps(described))
    for person in spec.people:
        path = derivative / f"sub-{person}" / "func" / f"sub-{person}_{STEM}_stat-effect_desc-psn_statmap.nii.gz"
        values = nib.load(path).get_fdata().reshape(-1, spec.stimuli + spec.own).T[: len(features)]
        weights = np.linalg.solve(features.T @ features + 5 * np.eye(N_FEATURES), features.T @ (values - values.mean(axis=0)))[:, :units]
        n = weights.shape[1]
        names = tuple(f"f{k:02d}" for k in range(N_FEATURES))
        attributes = {"grid_hash": read_space([path], None, "MNI152NLin2009cAsym").grid_hash, "space": "MNI152NLin2009cAsym"}
        zero, one, of = np.zeros(n), np.ones(n), np.zeros(N_FEATURES, int)
        model = EncodingWeights(weights, zero, zero, one, names, of, ({"name": card},), attributes)
        stem = root / f"sub-{person}" / "func" / f"sub-{person}_{STEM}_desc-ridge_weights"
        write_weights(model, stem.with_suffix(".h5"))
        stem.with_suffix(".json").write_text(json.dumps({"FitIncludesTest": False}))
    return root


def hide_train(derivative: Path, spec: Any, mark: str) -> None:
    """Give the train stimuli of a dataset contents of their own, so that no other dataset shares them."""
    for path in (derivative / "stimuli").glob("*.tsv"):
        table = pd.read_csv(path, sep="\t")
        table.loc[: spec.stimuli - spec.test - 1, "sha256"] = [f"{mark}{k:063d}" for k in range(spec.stimuli - spec.test)]
        table.to_csv(path, sep="\t", index=False)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, make_people: Any, people_spec: Any, run_align: Any) -> Any:
    """Two datasets that share test stimuli alone, two people each; one call of the level group."""
    folder = tmp_path_factory.mktemp("tuned")
    specs = [people_spec(people=("01", "02"), own=0), people_spec(people=("01", "02"), own=0, rename="x", seed=1)]
    flags = ["-d"]
    for name, spec, mark in zip(("one", "two"), specs, "ab", strict=True):
        derivative = make_people(folder / name, spec)
        hide_train(derivative, spec, mark)
        flags += [f"{name}={derivative}", f"{name}.conform-encode={encode(derivative, folder / f'{name}-weights', spec)}"]
    run = run_align(folder / "one", folder / "out", "group", "-w", folder / "work", *COMMON, "--method", "psrm", *flags)
    run.folder, run.output, run.flags = folder, folder / "out", flags
    return run


@pytest.mark.slow
def test_people_without_a_stimulus_in_common_are_aligned_by_their_weights(tuned: Any) -> None:
    assert tuned.status == 0, tuned.stderr
    table = pd.read_csv(tuned.output / "group_align.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-one01", "sub-one02", "sub-two01", "sub-two02"]
    assert (table["n_shared"] == N_FEATURES).all() and (table["n_held_out"] == 20).all()
    assert (table["normalised_r"] > table["anatomy_normalised_r"] + 0.1).all()
    assert (table["shuffled_normalised_r"].abs() < 0.25).all()


@pytest.mark.slow
def test_output_says_so(tuned: Any) -> None:
    func = tuned.output / "sub-two02" / "func"
    content = json.loads((func / f"sub-two02_{STEM}_stat-effect_desc-psrm_statmap.json").read_text())
    assert content["NumberOfSharedFeatures"] == N_FEATURES and "NumberOfSharedStimuli" not in content
    assert "weights of encoding models" in content["FittedOn"] and content["FitIncludesTest"] is False
    assert any(note.startswith("ALIGNED BY TUNING") for note in content["Notes"])
    prepared = json.loads((func / f"sub-two02_{STEM}_stat-tuning_desc-prepared_statmap.json").read_text())
    assert len(prepared["Features"]) == N_FEATURES
    assert any(source.startswith("bids:two-conform-encode:sub-02/func/") for source in prepared["Sources"])
    page = (tuned.output / "group_align.html").read_text()
    assert "ALIGNED BY TUNING" in page and "Features of the fit" in page and "Stimuli of the fit" not in page
    assert "weights of encoding models" in (tuned.output / "logs" / "CITATION.md").read_text()
    (template,) = (tuned.output / "tpl-conform" / "func").glob("*_stat-tuning_*.nii.gz")
    assert nib.load(template).shape[3] == N_FEATURES


@pytest.mark.slow
def test_validators_pass_on_people_aligned_by_tuning(tuned: Any, validator_errors: Any) -> None:
    assert validator_errors(tuned.output) == []


@pytest.mark.slow
def test_a_new_person_comes_with_weights(tuned: Any, make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path) -> None:
    spec = people_spec(people=("05",), own=0, rename="z", seed=3)
    derivative = make_people(tmp_path / "new", spec)
    hide_train(derivative, spec, "c")
    weights = encode(derivative, tmp_path / "weights", spec)
    call = (derivative, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, "--template", tuned.output)
    refused = run_align(*call)
    assert refused.status == 2 and "give -d conform-encode=PATH" in refused.stderr
    run = run_align(*call, "-d", f"conform-encode={weights}")
    assert run.status == 0, run.stderr
    func = tmp_path / "out" / "sub-05" / "func"
    aligned = nib.load(func / f"sub-05_{STEM}_stat-effect_desc-psrm_statmap.nii.gz").get_fdata().reshape(-1, spec.stimuli).T
    other = tuned.output / "sub-one01" / "func" / f"sub-one01_{STEM}_stat-effect_desc-psrm_statmap.nii.gz"
    theirs = nib.load(other).get_fdata().reshape(-1, spec.stimuli).T
    r = [np.corrcoef(aligned[-20:, unit], theirs[-20:, unit])[0, 1] for unit in range(0, aligned.shape[1], 7)]
    assert np.median(r) > 0.5  # of test stimuli, which no map has seen
    content = json.loads((func / f"sub-05_{STEM}_stat-effect_desc-psrm_statmap.json").read_text())
    assert content["NumberOfSharedFeatures"] == N_FEATURES


@pytest.mark.parametrize(
    ("how", "more", "status", "words"),
    [
        ({}, ("--align-on", "all"), 2, "--align-on all has no effect"),
        ({"units": 100}, (), 65, "weights of 100 units are not of the 240 units"),
        (None, (), 66, "no weights (*_weights.h5) of sub-01"),
        ("broken", (), 65, "not a whole file of encoding weights"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(
    how: Any, more: tuple[str, ...], status: int, words: str, make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path
) -> None:
    spec = people_spec(people=("01",), stimuli=14, test=2, own=0)
    derivative = make_people(tmp_path / "psn", spec)
    weights = encode(derivative, tmp_path / "weights", spec, **(how if isinstance(how, dict) else {}))
    for path in weights.rglob("*.h5"):
        if how is None:
            path.unlink()
        elif how == "broken":
            path.write_bytes(path.read_bytes()[:3000])
    flags = ("-d", f"conform-encode={weights}", *more)
    run = run_align(derivative, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == status and words in run.stdout + run.stderr, run.stdout + run.stderr


@pytest.mark.slow
def test_people_with_and_without_weights_are_not_mixed(make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path) -> None:
    spec = people_spec(people=("01", "02"), stimuli=14, test=2, own=0)
    derivative = make_people(tmp_path / "psn", spec)
    weights = encode(derivative, tmp_path / "weights", spec)
    call = (derivative, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, "--participant-label")
    assert run_align(*call, "01").status == 0
    assert run_align(*call, "02", "-d", f"conform-encode={weights}").status == 0
    run = run_align(derivative, tmp_path / "out", "group", "-w", tmp_path / "work", *COMMON)
    assert run.status == 65 and "sub-01 was prepared without weights" in run.stdout + run.stderr
    again = run_align(derivative, tmp_path / "out", "group", "-w", tmp_path / "work", *COMMON, "-d", f"conform-encode={weights}")
    assert again.status == 0, again.stderr  # the level group prepares sub-01 anew, as its weights are missing
    assert pd.read_csv(tmp_path / "out" / "group_align.tsv", sep="\t")["n_shared"].isna().all()  # two people: no scores
