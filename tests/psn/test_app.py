"""conform-psn from the command line: what it writes, resume, failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.derivatives import BIDSIGNORE_SHORT

pytestmark = pytest.mark.slow
VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
FLAGS = ("--write", "noise", "removed", "components", "--skip-bids-validation", "--nprocs", "1")


def tree(folder: Path) -> list[str]:
    """Files of an output folder, those that bear the name of a run, and those that only pandoc makes, aside."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    aside = ("logs/CITATION.html", "logs/CITATION.tex")
    return sorted(
        name for name in names if "/log/" not in name and not (name.startswith("logs/") and name.count("/") > 1) and name not in aside
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, make_betas: Any, beta_spec: Any, run_psn: Any) -> Any:
    """All formats, with all that can be written; tests must not write to it."""
    folder = tmp_path_factory.mktemp("app")
    dataset, _ = make_betas(folder / "glm", beta_spec(kinds=("nifti", "cifti", "gifti"), test=(3, 4)))
    run = run_psn(dataset, folder / "out", "participant", "group", "-w", folder / "work", *FLAGS)
    assert run.status == 0, run.stderr
    run.dataset, run.output, run.work = dataset, folder / "out", folder / "work"
    return run


def test_files_are_those_expected_and_declared(done: Any, repository: Path, run_psn: Any, tmp_path: Path) -> None:
    path = repository / "tests" / "outputs" / "conform-psn_simulated.txt"
    if os.environ.get("CONFORM_WRITE_EXPECTED"):
        path.write_text("".join(f"{name}\n" for name in tree(done.output)), encoding="utf-8")
    assert tree(done.output) == path.read_text(encoding="utf-8").splitlines()
    dry = run_psn(done.dataset, tmp_path / "out", "participant", "group", "--dry-run", *FLAGS)
    declared = {line for line in dry.stdout.splitlines() if not line.startswith("#")}
    assert declared == {name for name in tree(done.output) if "/figures/" not in name}
    assert not (tmp_path / "out").exists()


def validate(folder: Path, *arguments: str) -> tuple[int, list[tuple[str, str, str]]]:
    if not VALIDATOR.exists():
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run([VALIDATOR, folder, "--json", *arguments], capture_output=True, text=True, timeout=120, check=False)
    issues = json.loads(run.stdout)["issues"]["issues"]
    return run.returncode, [(item["code"], item.get("subCode", ""), item["location"]) for item in issues if item["severity"] == "error"]


def test_both_validators_pass(done: Any, repository: Path, tmp_path: Path) -> None:
    assert validate(done.output) == (0, [])
    pytest.importorskip("bidsschematools")
    schema, copy = tmp_path / "schema.json", tmp_path / "tree"
    subprocess.run([sys.executable, repository / "tests" / "extended_schema.py", schema], check=True, timeout=60)
    shutil.copytree(done.output, copy)
    (copy / ".bidsignore").write_text("".join(f"{line}\n" for line in BIDSIGNORE_SHORT))
    assert validate(copy, "-s", schema.as_uri()) == (0, [])


def test_every_sidecar_says_what_a_reader_needs(done: Any) -> None:
    links = json.loads((done.output / "dataset_description.json").read_text())["DatasetLinks"]
    sidecars = sorted(done.output.glob("sub-*/func/*.json"))
    for path in sidecars:
        content = json.loads(path.read_text())
        assert content["SoftwareVersion"].startswith("conform-psn "), path
        assert str(done.output.parent) not in path.read_text(), path
        if not path.name.endswith("_desc-psnnoise_trials.json"):  # trials as they were read
            assert content["FitIncludesTest"] is False, path
            assert content["BetaModel"] == "conform", path
        for source in content["Sources"]:
            dataset, relative = re.fullmatch(r"bids:(\w*):(.+)", source).groups()
            assert (done.output / links[dataset] / relative).is_file(), source
        if "_stat-effect_" in path.name:
            table = content["TrialTable"].removeprefix("bids::")
            rows = len(pd.read_csv(done.output / table, sep="\t"))
            volume = path.with_name(path.name.replace(".json", ".nii.gz"))
            if volume.exists():
                assert nib.load(volume).shape[3] == rows


def test_formats_agree(done: Any) -> None:
    folder = done.output / "sub-01" / "func"
    volume = np.asarray(nib.load(folder / "sub-01_task-shapes_space-T1w_stat-effect_desc-psn_statmap.nii.gz").dataobj).reshape(100, -1).T
    dense = np.asarray(nib.load(folder / "sub-01_task-shapes_space-fsLR_den-91k_stat-effect_desc-psn_statmap.dscalar.nii").dataobj)
    np.testing.assert_allclose(dense, volume, atol=1e-5)
    sides = [nib.load(folder / f"sub-01_task-shapes_hemi-{side}_space-fsaverage5_stat-effect_desc-psn_statmap.func.gii") for side in "LR"]
    np.testing.assert_allclose(np.concatenate([np.stack(side.agg_data()) for side in sides], axis=1), volume, atol=1e-5)


def test_reports(done: Any) -> None:
    for name in ("sub-01.html", "group_psn.html"):
        page = (done.output / name).read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|iframe|object|embed)\b", page), name
    page = (done.output / "sub-01.html").read_text(encoding="utf-8")
    for words in ("Noise ceiling before denoising", "Noise ceiling after denoising", "space-fsaverage5", "Parcels", "desc-conform"):
        assert words in page
    assert "NO SPLIT" not in page
    titles = ("Noise ceilings over units", "Reliability, cross-fitted, and its null", "Signal-to-noise ratio", "Gain, single trials")
    titles += ("Dimensions", "Spectra", "How strongly to denoise", "Shrinkage of the covariances", "What became of units")
    for title in titles:
        assert page.count(f">{title}</h") == 3, title  # a fit each
    assert "r, shuffled" in (done.output / "group_psn.html").read_text(encoding="utf-8")
    table = pd.read_csv(done.output / "group_psn.tsv", sep="\t")
    assert len(table) == 3
    assert table["n_test_conditions"].tolist() == [2, 2, 2]


def test_a_second_run_computes_nothing_and_brings_back_what_is_gone(done: Any, run_psn: Any, tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / "work"
    flags = ("--output-spaces", "T1w", "-w", work, "--skip-bids-validation", "--nprocs", "1")
    assert run_psn(done.dataset, output, "participant", *flags).status == 0
    stamps = {path: path.stat().st_mtime_ns for path in work.rglob("fit/*.npy")}
    assert stamps
    lost = next(output.rglob("*_stat-effect_desc-psn_statmap.nii.gz"))
    before = lost.read_bytes()
    lost.unlink()
    assert run_psn(done.dataset, output, "participant", *flags).status == 0
    assert lost.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in work.rglob("fit/*.npy")} == stamps
    refused = run_psn(done.dataset, output, "participant", *flags, "--method", "wiener")
    assert refused.status == 2
    assert "--overwrite" in refused.stderr
    (output / "sub-01.html").unlink()
    assert run_psn(done.dataset, output, "participant", *flags, "--reports-only").status == 0
    assert (output / "sub-01.html").is_file()


def test_missing_split_is_loud(tmp_path: Path, make_betas: Any, beta_spec: Any, run_psn: Any) -> None:
    dataset, _ = make_betas(tmp_path / "glm", beta_spec(sessions=(None,)))
    run = run_psn(dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", "--skip-bids-validation", "--method", "standard")
    assert run.status == 0, run.stderr
    assert "NO SPLIT IS GIVEN" in run.stderr
    assert "NO SPLIT IS GIVEN" in (tmp_path / "out" / "sub-01.html").read_text()


def test_exit_codes(tmp_path: Path, make_betas: Any, beta_spec: Any, run_psn: Any) -> None:
    flags = ("participant", "-w", tmp_path / "work", "--skip-bids-validation", "--nprocs", "1")
    single, _ = make_betas(tmp_path / "single", beta_spec(sessions=("01",), order=range(24)))
    assert run_psn(single, tmp_path / "out1", *flags).status == 65
    raw = tmp_path / "raw"
    (raw / "sub-01").mkdir(parents=True)
    (raw / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    assert run_psn(raw, tmp_path / "out2", *flags).status == 66
    corrupt, _ = make_betas(tmp_path / "corrupt", beta_spec())
    image = next(corrupt.rglob("*ses-02*stat-effect*.nii.gz"))
    image.write_bytes(image.read_bytes()[:-400])
    run = run_psn(corrupt, tmp_path / "out3", *flags)
    assert run.status == 65
    assert image.name in run.stdout + run.stderr
