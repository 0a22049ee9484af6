"""One run over a participant a fault: each fails naming its file, what is merely odd is processed, and nobody harms another."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from broken_files import cell, dangle, executed, huge, pickled, table, truncate, values

Change = Callable[[Path], Path]
"""Breaks a participant's folder; gives the file that has to be named."""


def _on(pattern: str, change: Callable[[Path], object]) -> Change:
    """Change the second session's file of a pattern."""

    def apply(folder: Path) -> Path:
        (path,) = (folder / "ses-02" / "func").glob(pattern)
        change(path)
        return path

    return apply


def _in_both(pattern: str, change: Callable[[Path], object]) -> Change:
    def apply(folder: Path) -> Path:
        paths = sorted(folder.glob(f"ses-*/func/{pattern}"))
        for path in paths:
            change(path)
        return paths[0]

    return apply


def _once(folder: Path) -> Path:
    """Every trial is of a condition of its own."""
    for session in ("01", "02"):
        (path,) = (folder / f"ses-{session}" / "func").glob(TRIALS)
        names = lambda rows, session=session: rows.assign(stim_id=[f"{session}-{k:03d}" for k in range(len(rows))])  # noqa: E731
        table(names)(path)
    return folder / "ses-01" / "func"


def _elsewhere(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "TrialTable": "bids::sub-nobody/func/none_trials.tsv"}))


def _short(array: np.ndarray) -> np.ndarray:
    return array[..., :-2]


def _smaller(array: np.ndarray) -> np.ndarray:
    return array[:-1]


def _nan(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, np.nan)


BETAS, SIDECAR, TRIALS = "*_stat-effect_desc-conform_statmap.nii.gz", "*_stat-effect_desc-conform_statmap.json", "*_trials.tsv"
SCALE, MASK = "*_stat-scale_*.nii.gz", "*_mask.nii.gz"
BROKEN: dict[str, tuple[Change, str]] = {
    "truncated": (_on(BETAS, truncate), "truncated"),
    "noise": (_on(BETAS, lambda path: path.write_bytes(os.urandom(5000))), "cannot be read"),
    "zerobetas": (_on(BETAS, lambda path: path.write_bytes(b"")), "Empty file"),
    "shortbetas": (_on(BETAS, values(_short)), "46 maps"),
    "othergrid": (_on(BETAS, values(_smaller)), "grid"),
    "otheraffine": (_on(BETAS, values(np.array, np.diag([3.0, 3.0, 4.0, 1.0]))), "grid"),
    "allnan": (_in_both(BETAS, values(_nan)), "no unit has a finite value"),
    "hugebetas": (_on(BETAS, huge), "declares"),
    "danglebetas": (_on(BETAS, dangle), "datalad get"),
    "picklebetas": (_on(BETAS, pickled), "cannot be read"),
    "truncatedscale": (_on(SCALE, truncate), "truncated"),
    "maskgrid": (_on(MASK, values(_smaller)), "grid"),
    "notable": (_on(TRIALS, Path.unlink), "no such file"),
    "emptytable": (_on(TRIALS, lambda path: path.write_bytes(b"")), "empty"),
    "pickletable": (_on(TRIALS, pickled), "not a text file"),
    "nocolumn": (_on(TRIALS, table(lambda rows: rows.drop(columns="stim_id"))), "stim_id"),
    "textonset": (_on(TRIALS, cell("onset", "soon")), ":8"),
    "oddsplit": (_on(TRIALS, cell("split", "maybe")), ":8"),
    "brokenjson": (_on(SIDECAR, lambda path: path.write_text("{")), "differ in units, by their sidecars"),
    "otherlink": (_on(SIDECAR, _elsewhere), "none_trials.tsv"),
    "norepeats": (_once, "no condition repeats (96 trials of 96 conditions)"),
    "allflagged": (_in_both(TRIALS, table(lambda rows: rows.assign(flag="collinear"))), "every trial is flagged"),
}


def _constant(array: np.ndarray) -> np.ndarray:
    array[0, 0, 0], array[0, 0, 1], array[0, 0, 2] = np.nan, 3.0, np.inf
    return array


def _hostile(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(stim_id=["<script>alert(1)</script>" if name == "s03" else name for name in rows["stim_id"]])


ODD: dict[str, Change] = {
    "sound": _on(BETAS, lambda path: None),
    "constant": _in_both(BETAS, values(_constant)),
    "bigscale": _in_both(BETAS, values(lambda array: (array * 1e-6).astype(np.float32))),
    "html": _in_both(TRIALS, table(_hostile)),
    "noscale": _in_both(SCALE, Path.unlink),
    "nomask": _in_both(MASK, Path.unlink),
}


@pytest.fixture(scope="module")
def many(make_betas: Any, beta_spec: Any, run_psn: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All participants in one run; ``paths`` are the files that were broken."""
    folder = tmp_path_factory.mktemp("many faults")
    faults = {**{label: change for label, (change, _) in BROKEN.items()}, **ODD}
    paths = {}
    for label, change in faults.items():
        make_betas(folder / "glm", beta_spec(participant=label))
        paths[label] = change(folder / "glm" / f"sub-{label}")
    flags = ("--method", "wiener", "-w", folder / "work", "--skip-bids-validation", "--nprocs", "1")
    done = run_psn(folder / "glm", folder / "out", "participant", *flags)
    return SimpleNamespace(folder=folder, out=folder / "out", paths=paths, done=done, text=done.stdout + done.stderr)


@pytest.mark.slow
def test_exit_status_and_a_line_a_participant(many: SimpleNamespace) -> None:
    assert many.done.status == 1, many.text
    assert "Traceback" not in many.text
    lines = many.done.stdout.splitlines()
    for label in BROKEN:
        assert sum(line.startswith(f"conform-psn: sub-{label}: failed: ") for line in lines) == 1, many.text
    for label in ODD:
        assert f"conform-psn: sub-{label}: completed" in lines, many.text
    assert not executed(many.folder)


@pytest.mark.slow
@pytest.mark.parametrize("label", BROKEN)
def test_a_broken_file_is_named(label: str, many: SimpleNamespace) -> None:
    line = next(line for line in many.done.stdout.splitlines() if line.startswith(f"conform-psn: sub-{label}: failed: "))
    assert many.paths[label].name.removesuffix(".json") in line, line
    assert BROKEN[label][1] in line, line
    assert not re.search(r"\b[A-Z]\w*Error:", line), line
    assert not list((many.out / f"sub-{label}").glob("func/*")), "a failed participant has no maps"


def _map(many: SimpleNamespace, label: str, name: str = "stat-effect_desc-psn") -> np.ndarray:
    return np.asarray(nib.load(many.out / f"sub-{label}" / "func" / f"sub-{label}_task-shapes_space-T1w_{name}_statmap.nii.gz").dataobj)


@pytest.mark.slow
def test_odd_input_is_handled_as_stated(many: SimpleNamespace) -> None:
    sound = _map(many, "sound")
    assert np.isfinite(sound).all()
    constant = _map(many, "constant")
    assert np.isnan(constant[0, 0, :3]).all()
    assert np.isfinite(constant[1:]).all()
    np.testing.assert_allclose(_map(many, "bigscale") * 1e6, sound, rtol=0.01, atol=0.01)  # units do not matter
    np.testing.assert_allclose(_map(many, "noscale"), sound, rtol=1e-4, atol=1e-4)  # the scale is 1
    np.testing.assert_array_equal(_map(many, "nomask"), sound)
    assert "amplitudes stay shrunk" in many.text
    page = (many.out / "sub-html.html").read_text()
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--participant-label", "09"), 66, "01"),
        (("--output-spaces", "MNI152NLin2009cAsym"), 66, "T1w"),
        (("--task-id", "rest"), 66, "shapes"),
        (("--session-label", "07"), 66, "01, 02"),
        (("--input-desc", "fithrf"), 66, "conform"),
        (("--split", "none.tsv"), 66, "neither a file nor a column"),
        (("--parcellation", "none.nii.gz"), 66, "no file"),
        pytest.param(("--parcellation", "Schaefer2018"), 66, "fetch tpl-T1w_", marks=pytest.mark.slow),  # asks the network, if there is one
        (("--method", "wiener", "--basis", "pca"), 2, "--basis has no effect"),
        (("--device", "cuda"), 2, "computes on CPUs alone"),
        (("--no-such-flag",), 2, "--no-such-flag"),
    ],
)
def test_what_matches_nothing_is_told_with_what_there_is(
    arguments: tuple[str, ...],
    status: int,
    told: str,
    make_betas: Any,
    beta_spec: Any,
    run_psn: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    dataset, _ = make_betas(tmp_path / "glm", beta_spec())
    flags = ("participant", "--dry-run", "-w", tmp_path / "work", "--skip-bids-validation")
    done = run_psn(dataset, tmp_path / "out", *flags, *arguments)
    assert done.status == status, done.stdout + done.stderr
    assert told in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_used(make_betas: Any, beta_spec: Any, run_psn: Any, tmp_path: Path) -> None:
    dataset, _ = make_betas(tmp_path / "derivatives" / "conform-glm", beta_spec(sessions=("01",)))
    flags = ("participant", "--dry-run", "--skip-bids-validation")
    for arguments, status, told in (
        ((dataset, dataset), 2, "output"),
        ((dataset, tmp_path / "out", "-w", dataset / "work"), 2, "work"),
        ((tmp_path, tmp_path / "out"), 65, "conform-glm"),
        ((tmp_path / "derivatives", tmp_path / "out"), 65, "conform-glm"),
        ((tmp_path / "nothing", tmp_path / "out"), 66, "nothing"),
    ):
        done = run_psn(*arguments[:2], *flags, *arguments[2:])
        assert done.status == status, done.stdout + done.stderr
        assert told in done.stdout + done.stderr


@pytest.mark.slow
def test_a_parcellation_of_another_grid_fails_the_participant(make_betas: Any, beta_spec: Any, run_psn: Any, tmp_path: Path) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec(sessions=("01",)))
    flags = ("participant", "-w", tmp_path / "work", "--skip-bids-validation", "--nprocs", "1", "--method", "wiener")
    far = np.diag([3.0, 3.0, 3.0, 1.0])
    far[:3, 3] = 900
    for name, image in {
        "far.nii.gz": nib.Nifti1Image(np.ones((5, 5, 4), np.int16), far),
        "none.nii.gz": nib.Nifti1Image(np.zeros((5, 5, 4), np.int16), np.diag([3.0, 3.0, 3.0, 1.0])),
        "flat.nii.gz": nib.Nifti1Image(np.ones((5, 5), np.int16), np.eye(4)),
    }.items():
        nib.save(image, tmp_path / name)
        done = run_psn(dataset, tmp_path / "out", *flags, "--parcellation", tmp_path / name, "--overwrite")
        assert done.status == 65, done.stdout + done.stderr
        assert name in done.stdout


@pytest.mark.slow
def test_too_few_conditions_for_a_null_check_are_no_error(make_betas: Any, beta_spec: Any, run_psn: Any, tmp_path: Path) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec(sessions=("01",), order=[*range(6)] * 2))
    done = run_psn(dataset, tmp_path / "out", "participant", "-w", tmp_path / "work")
    assert done.status == 0, done.stdout + done.stderr
    (metrics,) = (tmp_path / "out").rglob("*_desc-psn_metrics.tsv")
    rows = dict(line.split("\t")[:2] for line in metrics.read_text().splitlines())
    assert rows["null_median_reliability_before"] == "n/a"
