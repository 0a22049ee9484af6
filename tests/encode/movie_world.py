"""A small dataset of a person who watches movies in the scanner, as fMRIPrep leaves it, with the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from conform_bids.bids.hrf_tables import load_default_library
from conform_bids.numerics.hrf import response_at
from conform_bids.stimuli.feature_files import write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable

SHAPE = (4, 4, 3)
N_UNITS = int(np.prod(SHAPE))
SPACE = "space-MNI152NLin2009cAsym_res-2"
TR = 1.5
DESCRIPTION = {"Name": "movies", "BIDSVersion": "1.11.1"}


@dataclass(frozen=True)
class MovieSpec:
    """Which movie (seconds long) is shown in which run, and what the responses are made of; unit 0 never varies."""

    movies: dict[str, float] = field(default_factory=lambda: {"a": 150.0, "b": 150.0, "c": 150.0, "t": 90.0})
    runs: tuple[str, ...] = ("a", "b", "c", "t", "t")
    onset: float = 6.0
    rest: float = 9.0
    start_time: float = 0.75
    n_features: int = 5
    delays: tuple[int, ...] = (2, 3, 4, 5)
    noise: float = 0.7
    rate: float = 4.0
    seed: int = 0
    split: bool = True
    hrfs: tuple[int, ...] = ()
    """HRFs of the default library that units have in turn, in place of delays."""


def smooth_features(rng: np.random.Generator, n: int, p: int, keep: float) -> np.ndarray:
    """Autoregressive features of variance one about a mean that is not zero, (n, p)."""
    values = np.empty((n, p))
    values[0] = rng.standard_normal(p)
    for k in range(1, n):
        values[k] = keep * values[k - 1] + np.sqrt(1 - keep**2) * rng.standard_normal(p)
    return values + 3.0


def volume_features(frames: np.ndarray, rate: float, duration: float, onset: float, start: float, n_volumes: int) -> np.ndarray:
    """Mean features of each volume by brute force: a hundred moments a volume; features less 3 while the movie is on, else 0."""
    values = np.zeros((n_volumes, frames.shape[1]))
    for volume in range(n_volumes):
        moments = start + volume * TR + TR * ((np.arange(100) + 0.5) / 100 - 0.5) - onset
        inside = moments[(moments >= 0) & (moments < duration)]
        if len(inside):
            frame = np.minimum((inside * rate).astype(int), len(frames) - 1)
            values[volume] = (frames[frame] - 3.0).sum(axis=0) / 100
    return values


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_movies(root: Path, spec: MovieSpec | None = None) -> SimpleNamespace:
    """A raw dataset with fMRIPrep's derivative, a table of features, and the weights (n_delays, n_features, N_UNITS)."""
    spec = spec or MovieSpec()
    rng = np.random.default_rng(spec.seed)
    raw = root / "data"
    prep = raw / "derivatives" / "fmriprep"
    _json(raw / "dataset_description.json", DESCRIPTION)
    _json(
        prep / "dataset_description.json",
        {**DESCRIPTION, "DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep", "Version": "24"}]},
    )
    frames = {name: smooth_features(rng, round(length * spec.rate), spec.n_features, 0.9) for name, length in spec.movies.items()}
    weights = rng.standard_normal((len(spec.delays), spec.n_features, N_UNITS)) / np.sqrt(len(spec.delays) * spec.n_features)
    clean = []
    hrf_of_unit = np.resize(np.array(spec.hrfs), N_UNITS) if spec.hrfs else None
    weights = weights[:1] if spec.hrfs else weights
    for index, name in enumerate(spec.runs):
        clean.append(_write_run(raw, prep, spec, index, name, frames[name], weights, rng, hrf_of_unit))
    (raw / "sub-01" / "func").mkdir(parents=True, exist_ok=True)
    names = [name for name, own in frames.items() for _ in own]
    times = np.concatenate([np.arange(len(own)) / spec.rate for own in frames.values()])
    order = rng.permutation(len(names))
    table = FeatureTable(
        np.concatenate(list(frames.values()))[order], [names[k] for k in order], ["n/a"] * len(names), FeatureCard("truth"), times[order]
    )
    write_features(table, root / "features" / "truth.h5")
    return SimpleNamespace(
        dataset=raw, features=root / "features", frames=frames, weights=weights, clean=clean, spec=spec, table=table,
        hrf_of_unit=hrf_of_unit,
    )  # fmt: skip


def _signal(spec: MovieSpec, features: np.ndarray, weights: np.ndarray, hrf_of_unit: np.ndarray | None) -> np.ndarray:
    """Responses without noise, (n_volumes, N_UNITS)."""
    n = len(features)
    signal = np.zeros((n, N_UNITS))
    if hrf_of_unit is None:
        for delay, own in zip(spec.delays, weights, strict=True):
            signal[delay:] += features[: n - delay] @ own
        return signal
    since = (np.subtract.outer(np.arange(n), np.arange(n)) + 0.5) * TR
    responses = response_at(load_default_library(), TR, since)  # to what was on during each volume
    for unit, hrf in enumerate(hrf_of_unit):
        signal[:, unit] = responses[:, :, hrf] @ (features @ weights[0, :, unit])
    return signal


def _write_run(
    raw: Path,
    prep: Path,
    spec: MovieSpec,
    index: int,
    name: str,
    frames: np.ndarray,
    weights: np.ndarray,
    rng: np.random.Generator,
    hrf_of_unit: np.ndarray | None,
) -> np.ndarray:
    duration = spec.movies[name]
    n = int(np.ceil((spec.onset + duration + spec.rest) / TR))
    features = volume_features(frames, spec.rate, duration, spec.onset, spec.start_time, n)
    signal = _signal(spec, features, weights, hrf_of_unit)
    time = np.linspace(-1, 1, n)[:, None]
    confounds = rng.standard_normal((n, 2))
    on = ((np.arange(n) * TR + spec.start_time > spec.onset + 4) & (np.arange(n) * TR + spec.start_time < spec.onset + duration + 4))[
        :, None
    ]
    values = 1000 + 3 * (signal + spec.noise * rng.standard_normal(signal.shape))
    values += 20 * time * rng.standard_normal(N_UNITS) + 5 * confounds @ rng.standard_normal((2, N_UNITS)) + 8.0 * on
    values[:, 0] = 700.0
    run = f"run-{index + 1:02d}"
    func = prep / "sub-01" / "func"
    stem = f"sub-01_task-movie_{run}"
    _json(
        func / f"{stem}_{SPACE}_desc-preproc_bold.json", {"RepetitionTime": TR, "StartTime": spec.start_time, "SliceTimingCorrected": True}
    )
    affine = np.diag([2.0, 2, 2, 1])
    image = nib.Nifti1Image(values.T.reshape(*SHAPE, n).astype(np.float32), affine)
    image.header.set_zooms((2, 2, 2, TR))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, func / f"{stem}_{SPACE}_desc-preproc_bold.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), affine), func / f"{stem}_{SPACE}_desc-brain_mask.nii.gz")
    pd.DataFrame(confounds, columns=["trans_x", "trans_y"]).to_csv(func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    events = pd.DataFrame(
        {"onset": [0.0, spec.onset], "duration": [spec.onset, duration], "trial_type": ["rest", "movie"], "stim_id": ["cross", name]}
    )
    if spec.split:
        events["split"] = ["n/a", "test" if name == "t" else "train"]
    path = raw / "sub-01" / "func" / f"{stem}_events.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    events.to_csv(path, sep="\t", index=False)
    return signal
