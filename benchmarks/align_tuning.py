"""Alignment by tuning: people of World B (align_worlds.py) who share no training stimuli are aligned by the weights of encoding models.

``python benchmarks/align_tuning.py --stimuli 300 --noise 1 --power 0 1 --seeds 11`` prints, for smoothed anatomy and the default stack, the
mean over units of correlation / noise ceiling and 1-of-150 identification of one left-out person: 60 features are mixtures of the 80
latent ones, with standard deviations that fall as 1 / rank^power; every person sees N stimuli of the person's own, and weights are of
ridge regression (penalty of each unit by leave-one-out). The 150 test stimuli are shared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from align_worlds import BORDER, NOISE_SPREAD, SHEET, SMOOTHNESS, WORLDS, _fields, _noise, _person_map

from conform_bids.align.numerics.data import PersonData, Standard, parcels_from_labels, standardise
from conform_bids.align.numerics.options import AlignOptions
from conform_bids.align.numerics.scores import score_person
from conform_bids.align.numerics.tuning import choose_setting
from conform_bids.numerics.compute import Compute, limit_threads

N_PEOPLE, N_TEST, N_FEATURES = 6, 150, 60


def ridge(features: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Weights (features, units) of centred data; penalties by exact leave-one-out."""
    x, y = features - features.mean(axis=0), responses - responses.mean(axis=0)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    along, penalties = left.T @ y, np.logspace(0, 5, 11)
    errors = []
    for penalty in penalties:
        shrunk = values**2 / (values**2 + penalty)
        leverage = np.square(left) @ shrunk + 1 / len(x)
        errors.append(np.square((y - left @ (shrunk[:, None] * along)) / (1 - leverage)[:, None]).sum(axis=0))
    best = penalties[np.argmin(errors, axis=0)]
    return np.asarray(right.T @ (values[:, None] / (values[:, None] ** 2 + best) * along))


def measure(n: int, noise: float, power: float, seed: int) -> dict[str, tuple[float, float]]:
    """Normalised correlation and identification of the last person, by method."""
    world, rng = WORLDS["B"], np.random.default_rng(seed)
    group = _fields(rng, world.n_latents, tuple(size + 2 * BORDER for size in SHEET), SMOOTHNESS)
    mixing = rng.standard_normal((world.n_latents, N_FEATURES))
    mixing *= np.arange(1, N_FEATURES + 1) ** -power / np.linalg.norm(mixing, axis=0)
    new = rng.standard_normal((N_TEST, world.n_latents))
    training, test = [], []
    for _ in range(N_PEOPLE):
        weights = _person_map(rng, world, group, SHEET)
        level = noise * np.exp(rng.normal(0, NOISE_SPREAD, weights.shape[1]))
        own = rng.standard_normal((n, world.n_latents))
        responses = own @ weights + _noise(rng, world, n, SHEET, level)
        measured = new @ weights + _noise(rng, world, N_TEST, SHEET, level)
        reliability = 1 / (1 + level**2)
        standard = Standard(responses.mean(axis=0), responses.std(axis=0))
        tuned = ridge(own @ mixing, responses).astype(np.float32)
        training.append(PersonData(tuned, reliability=reliability, applied=standard))
        test.append(PersonData(measured.astype(np.float32), reliability=reliability))
    rows, columns = np.meshgrid(*[np.arange(size) for size in SHEET], indexing="ij")
    places = np.column_stack([rows.ravel(), columns.ravel()]).astype(float)
    parcels = parcels_from_labels(((rows // 10) * 5 + columns // 10 + 1).ravel(), places)
    found = {}
    for name in ("none", "stack"):
        options, others = AlignOptions(name), training[:-1]
        setting = choose_setting(others, [standardise(person) for person in others], parcels, options, Compute(), places)
        scores = score_person(N_PEOPLE - 1, training, test, parcels, options, Compute(), places, setting, None)
        found[name] = float(np.nanmean(scores.normalised)), float(np.nanmean(scores.identification))
    return found


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stimuli", nargs="+", type=int, default=[100, 300])
    parser.add_argument("--noise", nargs="+", type=float, default=[1.0])
    parser.add_argument("--power", nargs="+", type=float, default=[0.0, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12, 13])
    arguments = parser.parse_args()
    with limit_threads(1):
        for noise in arguments.noise:
            for power in arguments.power:
                for n in arguments.stimuli:
                    every = [measure(n, noise, power, seed) for seed in arguments.seeds]
                    for name in every[0]:
                        score, share = np.mean([each[name] for each in every], axis=0)
                        print(f"noise {noise:g}, features 1/rank^{power:g}, N = {n}, {name}: {score:.3f} ({share:.2f})", flush=True)


if __name__ == "__main__":
    main()
