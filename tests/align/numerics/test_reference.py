"""Procrustes and the shared response model against public implementations (tests/data/align/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conform_bids.align.numerics.procrustes import nearest_rotation, procrustes, procrustes_template
from conform_bids.align.numerics.shared_response import fit_shared_response, orthonormal_map

DATA = Path(__file__).resolve().parents[2] / "data" / "align"


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.mark.parametrize("scaling", [True, False])
def test_whole_procrustes(scaling: bool) -> None:
    case = arrays("fmralign_procrustes_ridge")
    rotation, scale = procrustes(case["X_train"][0], case["X_train"][1], scaling)
    name = f"procrustes_whole_scaling{scaling}"
    np.testing.assert_allclose(rotation, case[f"{name}_R"], atol=1e-5)
    np.testing.assert_allclose(scale, case[f"{name}_scale"], rtol=1e-5)
    np.testing.assert_allclose(scale * case["X_test"][0] @ rotation, case[f"{name}_test"], atol=1e-5)


def test_group_template_of_procrustes() -> None:
    case = arrays("fmralign_procrustes_ridge")
    train, test, labels = case["X_train"], case["X_test"], case["labels"]
    for label in np.unique(labels):
        units = labels == label
        template, maps = procrustes_template(list(train[:, :, units]), np.ones((4, 60), bool), 2, scaling=True)
        np.testing.assert_allclose(template, case["group_procrustes_template"][:, units], atol=1e-4)
        for person, (rotation, scale) in enumerate(maps):
            np.testing.assert_allclose(
                scale * test[person][:, units] @ rotation, case["group_procrustes_test"][person][:, units], atol=1e-4
            )


def test_fewer_stimuli_than_units_still_give_a_rotation() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((2, 12, 40))
    rotation, _ = procrustes(source, target)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(40), atol=1e-10)
    singular = np.linalg.svd(source.T @ target)[1].sum()
    assert np.trace(rotation.T @ source.T @ target) == pytest.approx(singular)
    # the open subspace stays as near to anatomy as it can: nothing that serves the stimuli as well has a larger trace
    for seed in range(5):
        left, _, right = np.linalg.svd(source.T @ target + 1e-7 * np.eye(40) + 1e-9 * np.random.default_rng(seed).standard_normal((40, 40)))
        assert np.trace(left @ right) <= np.trace(rotation) + 1e-3


def test_no_signal_leaves_anatomy() -> None:
    rotation, trace = nearest_rotation(np.zeros((6, 6)))
    np.testing.assert_allclose(rotation, np.eye(6))
    assert trace == 0


def test_shared_response_model() -> None:
    case = arrays("brainiak_srm_k5")
    people = list(case["X_train"].astype(float))
    scores, weights = fit_shared_response(people, np.ones((4, 80), bool), 5, 20)
    ours = theirs = 0.0
    for person, weight, other in zip(people, weights, case["detsrm_w"], strict=True):
        assert np.linalg.svd(weight.T @ other)[1].min() > 0.9999
        reconstruction, reference = scores @ weight.T, (other @ case["detsrm_s"]).T
        assert np.linalg.norm(reconstruction - reference) < 0.01 * np.linalg.norm(reference)
        ours += np.square(person - reconstruction).sum()
        theirs += np.square(person - reference).sum()
    assert ours <= theirs * (1 + 1e-6)


def test_a_shared_response_needs_as_many_units_as_dimensions() -> None:
    with pytest.raises(ValueError, match="as many units"):
        orthonormal_map(np.zeros((20, 3)), np.zeros((20, 4)))
