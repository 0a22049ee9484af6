"""What the documentation says about outputs, held against the table of outputs and against files of those names."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.trials import TRIAL_COLUMNS
from conform_bids.glm.files import Plan, PlannedRun, output_maps, output_tables
from conform_bids.glm.settings import MODELS, GLMSettings

N_TRIALS = 6


def _plan(kind: str, **space: str) -> Plan:
    run = PlannedRun("01", "01", (Path("bold"),), None, Path("events"), None, 2.0, 0.0, 100)
    entities = {"sub": "01", "ses": "01", "task": "images", **space}
    return Plan("01", entities, kind, (run,), MODELS, GLMSettings(), 0, Path("OUT"))


PLANS = {
    "nifti": _plan("nifti", space="MNI152NLin2009cAsym"),
    "cifti": _plan("cifti", space="fsLR", den="91k"),
    "gifti": _plan("gifti", space="fsaverage5"),
}


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "glm" / "outputs.md").read_text()


def test_every_output_is_described(page: str) -> None:
    for plan in PLANS.values():
        prefix = "|".join([*(f"{key}-{label}" for key, label in plan.entities.items()), "hemi-[LR]"])
        paths = [path for row in output_maps(plan) for path in row.paths] + [table.path for table in output_tables(plan)]
        for path in paths:
            name = re.sub(rf"(^|_)({prefix})(?=_)", r"", Path(path).name.split(".")[0]).strip("_")
            name = name.replace("run-01_", "")
            patterns = [name, *(name.replace(f"desc-{model}_", "desc-<model>_") for model in MODELS)]
            assert any(pattern in page for pattern in patterns), f"{path} is not described"


def test_every_column_of_the_trial_table_is_described(page: str) -> None:
    assert set(TRIAL_COLUMNS) <= set(re.findall(r"`(\w+)`", page))


def _write_example(folder: Path) -> None:
    generator = np.random.default_rng(0)
    volume = [path for row in output_maps(PLANS["nifti"]) if row.array == "conform_betas" for path in row.paths]
    mask = [path for row in output_maps(PLANS["nifti"]) if row.array == "valid" for path in row.paths]
    grayordinates = [path for row in output_maps(PLANS["cifti"]) if row.array == "conform_betas" for path in row.paths]
    surface = [path for row in output_maps(PLANS["gifti"]) if row.array == "conform_betas" for path in row.paths]
    table = [row.path for row in output_tables(PLANS["nifti"]) if row.key == "trials" and row.model == "conform"]
    (folder / table[0]).parent.mkdir(parents=True)
    inside = np.zeros((3, 3, 3), dtype=np.uint8)
    inside[1:, 1:, 1:] = 1
    nib.Nifti1Image(inside, np.eye(4)).to_filename(folder / mask[0])
    values = generator.normal(size=(3, 3, 3, N_TRIALS)).astype(np.float32)
    nib.Nifti1Image(values, np.eye(4)).to_filename(folder / volume[0])
    models = nib.cifti2.BrainModelAxis.from_mask(np.ones(5, dtype=bool), name="CortexLeft")
    scalars = nib.cifti2.ScalarAxis([f"trial-{k:05d}" for k in range(N_TRIALS)])
    nib.Cifti2Image(np.ones((N_TRIALS, 5), np.float32), (scalars, models)).to_filename(folder / grayordinates[0])
    for path in surface:
        arrays = [nib.gifti.GiftiDataArray(np.full(4, k, np.float32)) for k in range(N_TRIALS)]
        nib.GiftiImage(darrays=arrays).to_filename(folder / path)
    rows = {column: ["01" if kind == "str" else 0] * N_TRIALS for column, kind in TRIAL_COLUMNS.items()}
    rows["stim_id"] = ["a", "b", "c"] * 2
    pd.DataFrame(rows).to_csv(folder / table[0], sep="\t", index=False)


def test_snippets_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_example(tmp_path / "OUT")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    shapes = []
    for block in blocks:
        exec(compile(block, "outputs.md", "exec"), names)
        shapes.append(names["betas"].shape)
    assert shapes == [(N_TRIALS, 8), (N_TRIALS, 5), (N_TRIALS, 8)]
    assert names["condition_means"].shape == (3, 8)
    assert names["trials"]["run_id"].tolist() == ["01"] * N_TRIALS
