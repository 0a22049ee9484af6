"""The demonstration: from nothing through conform-glm and conform-psn to a table against the truth, and the same on real BOLD."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_app.demo import main
from conform_bids.simulate.scores import score_responses

pytestmark = pytest.mark.slow
SIZE = ("--subjects", "2", "--sessions", "2", "--runs", "2", "--stimuli", "20", "--repeats", "1", "--voxel-size", "10")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of the demonstration; tests must not write to it."""
    out = tmp_path_factory.mktemp("demo") / "out"
    options = " --output-spaces T1w --skip-bids-validation --nprocs 1"
    assert main([str(out), *SIZE, "--file-formats", "nifti", "--apps", "glm", "psn", "--app-options", options]) == 0
    return out


def test_denoising_brings_every_participant_nearer_to_the_truth(demo: Path) -> None:
    scores = score_responses(demo / "dataset", demo / "derivatives" / "conform-psn", ("trialavg", "psn", "psncrossfit"))
    found = {(score.participant, score.desc): score for score in scores}
    assert {participant for participant, _ in found} == {"01", "02"}
    for participant in ("01", "02"):
        before, after, crossfit = (found[participant, desc] for desc in ("trialavg", "psn", "psncrossfit"))
        assert after.n_conditions == 20
        assert after.n_units > 50
        assert after.correlation > before.correlation, participant
        assert after.error < before.error, participant
        assert crossfit.correlation > before.correlation, participant


def test_the_table_is_printed(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bids_app.demo import _compared_with_truth

    lines = list(_compared_with_truth(demo))
    assert len(lines) == 6
    rows = [re.findall(r"\d\.\d\d", line) for line in lines[2:]]
    assert all(len(row) == 2 for row in rows)
    assert float(rows[1][0]) > float(rows[0][0])


def test_the_chain_hands_on_what_it_should(demo: Path) -> None:
    folder = demo / "derivatives" / "conform-psn" / "sub-01" / "func"
    stem = "sub-01_task-shapes_space-T1w"
    content = json.loads((folder / f"{stem}_stat-effect_desc-psn_statmap.json").read_text())
    assert (content["BetaModel"], content["AmplitudesRescaled"], content["ZScoredWithinSessions"]) == ("conform", True, True)
    assert (content["SplitGiven"], content["FitIncludesTest"]) == (True, False)
    table = pd.read_csv(folder / f"{stem}_desc-psn_trials.tsv", sep="\t")
    assert len(table) == 20
    assert (table["n_trials"] == 4).all()
    assert (table["split"] == "test").sum() == 4
    assert len(pd.read_csv(folder.parents[1] / "stimuli" / "sub-01_stimuli.tsv", sep="\t")) == 20
    metrics = pd.read_csv(folder / f"{stem}_desc-psn_metrics.tsv", sep="\t").set_index("metric")["value"]
    # repeats that were shuffled: what a denoiser makes up is positive (.5 to 1 in sample here)
    assert abs(float(metrics["null_median_reliability_after"])) < 0.15
    assert float(metrics["median_reliability_after"]) > float(metrics["median_reliability_before"])


@pytest.fixture(scope="module")
def haxby(real_data: Path, run_app: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("haxby")
    flags = ("-w", folder / "work", "--skip-bids-validation", "--nprocs", "1")
    glm = run_app("glm", real_data / "haxby-slice", folder / "glm", "participant", *flags)
    assert glm.returncode == 0, glm.stderr
    shutil.rmtree(folder / "work")
    psn = run_app("psn", folder / "glm", folder / "out", "participant", "group", *flags)
    assert psn.returncode == 0, psn.stderr
    return SimpleNamespace(output=folder / "out", text=psn.stdout + psn.stderr)


def test_real_blocks_are_denoised(haxby: SimpleNamespace) -> None:
    """Eight conditions, twelve blocks each, no split."""
    (path,) = haxby.output.glob("sub-01/func/*_stat-effect_desc-psn_statmap.nii.gz")
    (average,) = haxby.output.glob("sub-01/func/*_stat-effect_desc-trialavg_statmap.nii.gz")
    denoised, averaged = (np.asarray(nib.load(name).dataobj) for name in (path, average))
    assert denoised.shape[3] == 8
    used = np.isfinite(denoised).all(axis=3)
    assert used.sum() > 300
    together = [np.corrcoef(a, b)[0, 1] for a, b in zip(denoised[used], averaged[used], strict=True)]
    assert np.median(together) > 0.5
    assert "NO SPLIT IS GIVEN" in haxby.text
    (metrics,) = haxby.output.glob("sub-01/func/*_desc-psn_metrics.tsv")
    values = pd.read_csv(metrics, sep="\t").set_index("metric")["value"]
    assert int(float(values["n_trials"])) == 96
    assert float(values["median_reliability_after"]) > float(values["median_reliability_before"])
    assert "NO SPLIT IS GIVEN" in (haxby.output / "sub-01.html").read_text()
