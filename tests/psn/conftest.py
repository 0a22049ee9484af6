"""Small derivatives of betas with a known truth, and runs of conform-psn on them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from in_process import run_here

SHAPE = (5, 5, 4)
N_UNITS = int(np.prod(SHAPE))
N_CONDITIONS = 24


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _truth(generator: np.random.Generator, n_conditions: int) -> np.ndarray:
    """Responses of rank 4 that neighbours share; the last units have none."""
    loadings = np.repeat(generator.standard_normal((N_UNITS // 5, 4)), 5, axis=0) + 0.3 * generator.standard_normal((N_UNITS, 4))
    loadings[-10:] = 0
    return 1.0 + generator.standard_normal((n_conditions, 4)) @ loadings.T * 0.5


@dataclass
class BetaSpec:
    """What a dataset of betas is made of.

    Attributes
    ----------
    sessions : sequence of str or None
        None is a fit over all sessions, without ``ses-``.
    order : sequence of int, optional
        Stimulus of each trial of a session; by default each twice, in random order.
    noise : float
        Its standard deviation.
    kinds : sequence of str
        nifti, cifti, gifti.
    descs : sequence of str
        Models.
    scale : float or None
        Value of the map stat-scale of the model conform.
    """

    sessions: Sequence[str | None] = ("01", "02")
    order: Sequence[int] | None = None
    noise: float = 1.0
    kinds: Sequence[str] = ("nifti",)
    descs: Sequence[str] = ("conform",)
    scale: float | None = 1.0
    flagged: int = 0
    test: Sequence[int] = ()
    column: str | None = None
    participant: str = "01"
    seed: int = 0
    with_links: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def _save(values: np.ndarray, stem: str, folder: Path, kind: str, stat: str, desc: str, content: dict[str, Any]) -> None:
    """Maps (k, units) of a kind, with their sidecar; a single one is 3-D."""
    space = {"nifti": "space-T1w", "cifti": "space-fsLR_den-91k", "gifti": "space-fsaverage5"}[kind]
    tail = f"_stat-{stat}_desc-{desc}_statmap"
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "nifti":
        data = values.T.reshape(*SHAPE, len(values)).astype(np.float32)
        nib.save(
            nib.Nifti1Image(data if len(values) > 1 else data[..., 0], np.diag([3.0, 3.0, 3.0, 1.0])),
            folder / f"{stem}_{space}{tail}.nii.gz",
        )
    elif kind == "cifti":
        half = N_UNITS // 2
        left = nib.cifti2.BrainModelAxis.from_surface(np.arange(half), 60, "CIFTI_STRUCTURE_CORTEX_LEFT")
        right = nib.cifti2.BrainModelAxis.from_surface(np.arange(half), 60, "CIFTI_STRUCTURE_CORTEX_RIGHT")
        axis = nib.cifti2.ScalarAxis([f"map {k}" for k in range(len(values))])
        nib.Cifti2Image(values.astype(np.float32), (axis, left + right)).to_filename(folder / f"{stem}_{space}{tail}.dscalar.nii")
        content = {**content, "Density": "few"}
    else:
        for side, part in (("L", values[:, : N_UNITS // 2]), ("R", values[:, N_UNITS // 2 :])):
            arrays = [nib.gifti.GiftiDataArray(row.astype(np.float32)) for row in part]
            name = f"{stem}_hemi-{side}_{space}{tail}"
            nib.save(nib.gifti.GiftiImage(darrays=arrays), folder / f"{name}.func.gii")
            _write_json(folder / f"{name}.json", content)
        return
    _write_json(folder / f"{stem}_{space}{tail}.json", content)


def write_betas(root: Path, spec: BetaSpec | None = None) -> tuple[Path, np.ndarray]:
    """A derivative as conform-glm writes it, and the true responses (conditions, units), in the order of stim_id."""
    spec = spec or BetaSpec()
    generator = np.random.default_rng(spec.seed)
    truth = _truth(generator, N_CONDITIONS)
    made = {"Name": "conform-glm outputs", "BIDSVersion": "1.11.1", "DatasetType": "derivative"}
    _write_json(root / "dataset_description.json", {**made, "GeneratedBy": [{"Name": "conform-glm", "Version": "0"}]})
    shown: set[int] = set()
    for session in spec.sessions:
        order = np.asarray(spec.order) if spec.order is not None else generator.permutation(np.repeat(np.arange(N_CONDITIONS), 2))
        shown |= set(order.tolist())
        betas = truth[order] + spec.noise * generator.standard_normal((len(order), N_UNITS)) + (2.0 if session == "02" else 0)
        label = f"sub-{spec.participant}"
        folder = root / label / (f"ses-{session}" if session else "") / "func"
        stem = f"{label}{f'_ses-{session}' if session else ''}_task-shapes"
        for desc in spec.descs:
            table = _trial_table(spec, session, order, generator)
            folder.mkdir(parents=True, exist_ok=True)
            table.to_csv(folder / f"{stem}_desc-{desc}_trials.tsv", sep="\t", index=False, na_rep="n/a")
            place = folder.relative_to(root).as_posix()
            content = {"Units": "percent signal change", "SpatialReference": "orig", "SkullStripped": True}
            content |= {"TrialTable": f"bids::{place}/{stem}_desc-{desc}_trials.tsv"} if spec.with_links else {}
            for kind in spec.kinds:
                _save(betas if desc == "conform" else 1.5 * betas, stem, folder, kind, "effect", desc, content)
                if desc == "conform" and spec.scale is not None:
                    _save(np.full((1, N_UNITS), spec.scale), stem, folder, kind, "scale", desc, content)
        if "nifti" in spec.kinds:
            mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))
            nib.save(mask, folder / f"{stem}_space-T1w_desc-brain_mask.nii.gz")
    stimuli = pd.DataFrame({"stim_id": [f"s{k:02d}" for k in sorted(shown)], "stim_file": "images/x.png", "sha256": "n/a"})
    (root / "stimuli").mkdir(exist_ok=True)
    stimuli.to_csv(root / "stimuli" / f"sub-{spec.participant}_stimuli.tsv", sep="\t", index=False)
    return root, truth


def _trial_table(spec: BetaSpec, session: str | None, order: np.ndarray, generator: np.random.Generator) -> pd.DataFrame:
    half = len(order) // 2
    names = [f"s{k:02d}" for k in order]
    splits = ["test" if k in spec.test else "train" for k in order] if len(spec.test) else ["n/a"] * len(order)
    table = pd.DataFrame(
        {
            "trial": np.arange(len(order)),
            "session_id": session or "n/a",
            "run_id": ["01"] * half + ["02"] * (len(order) - half),
            "onset": [4.0 + 4 * k for k in [*range(half), *range(len(order) - half)]],
            "duration": 1.0,
            "trial_type": "image",
            "stim_id": names,
            "condition": pd.Series(names).rank(method="dense").astype(int) - 1,
            "repetition": pd.Series(names).groupby(names).cumcount(),
            "split": splits if spec.column is None else "n/a",
            "flag": ["collinear with other trials"] * spec.flagged + ["n/a"] * (len(order) - spec.flagged),
        }
    )
    return table if spec.column is None else table.assign(**{spec.column: splits})


@dataclass(frozen=True)
class FileFit:
    """A job from files to files, done in this process."""

    plan: Any
    loaded: Any
    folder: Path
    summary: dict[str, Any]
    written: tuple[Path, ...]

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy")

    def output(self, ending: str) -> Path:
        (path,) = [path for path in self.written if path.name.endswith(ending)]
        return path

    def table(self, ending: str) -> pd.DataFrame:
        return pd.read_csv(self.output(ending), sep="\t", keep_default_na=False)

    def sidecar(self, ending: str) -> dict[str, Any]:
        return dict(json.loads(self.output(ending).read_text()))


def plan_files(dataset: Path, output: Path, *flags: object) -> Any:
    """Plan of the first participant, as the command line makes it."""
    from bids_app.cli import parse
    from bids_app.config import derivative_paths
    from bids_app.plan import selection_of
    from bids_app.psn.__main__ import APP
    from conform_bids.bids.index import open_dataset
    from conform_bids.jobs import Resources
    from conform_bids.psn.planner import plan_participant

    config = parse(APP, [str(dataset), str(output), "participant", *map(str, flags)])
    selection, _ = selection_of(APP, config)
    opened = open_dataset(dataset, derivatives=derivative_paths(config.bids), participants=config.bids.participant_label)
    resources = Resources(random_seed=config.execution.random_seed, low_mem=config.execution.low_mem, sloppy=config.execution.sloppy)
    return plan_participant(opened.participants[0], opened, selection, config.settings, resources, output)


def fit_files(dataset: Path, folder: Path, *flags: object) -> list[FileFit]:
    """Plan, load, fit and save, with the flags of the command line but without Nipype."""
    from conform_bids.bids.spaces import load_space
    from conform_bids.numerics.compute import Compute
    from conform_bids.psn.load import load_betas, read_loaded
    from conform_bids.psn.results import fit_and_store
    from conform_bids.psn.save import save_outputs

    fits = []
    for plan in plan_files(dataset, folder / "out", *flags).jobs:
        work = folder / plan.name
        for part in ("load", "fit"):
            (work / part).mkdir(parents=True)
        loaded = read_loaded(load_betas(plan, work / "load"))
        space = load_space(work / "load" / "space.npz")
        results = fit_and_store(plan, loaded, space, work / "fit", Compute())
        summary = json.loads((work / "fit" / "summary.json").read_text())
        written = save_outputs(plan, loaded, space, results, summary, 1)
        fits.append(FileFit(plan, loaded, work / "fit", summary, tuple(written)))
    return fits


@pytest.fixture(scope="session")
def beta_spec() -> type[BetaSpec]:
    return BetaSpec


@pytest.fixture(scope="session")
def make_betas() -> Callable[..., tuple[Path, np.ndarray]]:
    """`write_betas(root, spec)`."""
    return write_betas


@pytest.fixture(scope="session")
def plan_betas() -> Callable[..., Any]:
    return plan_files


@pytest.fixture(scope="session")
def fit_betas() -> Callable[..., list[FileFit]]:
    return fit_files


@pytest.fixture(scope="session")
def run_psn() -> Callable[..., SimpleNamespace]:
    return functools.partial(run_here, "psn")
