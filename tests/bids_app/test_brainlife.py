"""brainlife.io: config.json in, the app run on a staged BIDS tree, product.json out, with the app's own exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from bids_app import brainlife
from bids_app.run_options import BIDSOptions, ExecutionOptions
from conform_bids.options import options_of

APPS = sorted(point.name for point in entry_points(group="conform.apps"))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Apptainer that runs the installed app with the arguments after the image."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apptainer").write_text(
        "#!/usr/bin/env bash\n"
        '[ "$1 $2 $3" = "run --cleanenv --bind" ] || exit 99\n'
        'app=${5##*/}\nprintf "%s\\n" "$@" > "$RECORD"\nshift 5\n'
        f'exec "{sys.executable}" -m "bids_app.$app" "$@" --skip-bids-validation --nprocs 1 --debug workflow\n'
    )
    (tools / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    return tmp_path / "record"


def run(repository: Path, app: str, folder: Path, config: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    main = repository / "bids_app" / app / "brainlife" / "main"
    done = subprocess.run([main], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, json.loads((folder / "product.json").read_text()), done.stdout + done.stderr


@pytest.mark.parametrize("app", APPS)
def test_samples_name_inputs_and_options_of_the_app(app: str, repository: Path) -> None:
    folder = repository / "bids_app" / app / "brainlife"
    assert os.access(folder / "main", os.X_OK)
    config = json.loads((folder / "config.json.sample").read_text())
    settings = next(point.load() for point in entry_points(group="conform.apps") if point.name == app).settings
    known = {entry.name for options in (BIDSOptions, ExecutionOptions, settings) for entry in options_of(options)}
    options = set(config) - {*brainlife.FOLDERS[app], *brainlife.TAKEN}
    assert options <= known
    assert set(config) & set(brainlife.FOLDERS[app])


def test_loose_files_become_a_bids_tree(tmp_path: Path) -> None:
    for name in ("bold.nii.gz", "events.tsv", "confounds.tsv", "mask.nii.gz"):
        (tmp_path / name).write_text(name)
    config = {"bold": "bold.nii.gz", "events": "events.tsv", "confounds": "confounds.tsv", "mask": "mask.nii.gz", "repetition_time": 2}
    config |= {"_inputs": [{"meta": {"subject": "07", "task": "a b", "run": "2"}}], "n_threads": 2, "off": False}
    command = brainlife.stage("glm", config, tmp_path)
    func = tmp_path / "bids" / "derivatives" / "fmriprep" / "sub-07" / "func"
    stem = "sub-07_task-ab_run-2"
    assert (func / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz").read_text() == "bold.nii.gz"
    assert (func / f"{stem}_desc-confounds_timeseries.tsv").read_text() == "confounds.tsv"
    assert json.loads((func / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.json").read_text())["RepetitionTime"] == 2
    assert (tmp_path / "bids" / "sub-07" / "func" / f"{stem}_events.tsv").read_text() == "events.tsv"
    assert command[-4:] == ["--participant-label", "07", "--n-threads", "2"]
    assert "--off" not in command


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[]", "not an object"),
        ("{", "brainlife:"),
        ("{}", "names no input"),
        ('{"bold": "b.nii.gz"}', "events is missing"),
        ('{"fmriprep": "nowhere"}', "fmriprep: there is no"),
    ],
)
def test_a_config_that_cannot_be_run_is_told(config: str, words: str, tmp_path: Path, repository: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    main = repository / "bids_app" / "glm" / "brainlife" / "main"
    done = subprocess.run([main], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert json.loads((tmp_path / "product.json").read_text())["brainlife"][-1]["type"] == "error"


def test_an_app_runs_and_its_report_is_shown(tmp_path: Path, repository: Path, engine: Path, simulated_dataset: Any) -> None:
    config = {"bids": str(simulated_dataset.path), "fmriprep": str(simulated_dataset.fmriprep), "_inputs": [{"meta": {"subject": "01"}}]}
    code, product, text = run(repository, "glm", tmp_path / "task", config | {"sloppy": True, "output_spaces": ["fsaverage5"]})
    assert code == 0, text
    assert {"type": "html", "name": "sub-01", "path": "output/sub-01.html"} in product["brainlife"]
    assert (tmp_path / "task" / "output" / "sub-01.html").is_file()
    assert "--sloppy" in engine.read_text().splitlines()
    code, product, text = run(repository, "glm", tmp_path / "task2", config | {"_inputs": [{"meta": {"subject": "99"}}]})
    assert code == 66, text
    assert product["brainlife"][-1]["msg"].endswith("66")
