"""What a run refuses: folders, labels, other settings, invalid datasets; nothing is written then."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

RunToy = Callable[..., int]
FIRST_MAP = "sub-01/func/sub-01_task-toy_run-01_space-T1w_stat-mean_desc-toy_statmap.nii.gz"


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("{data}", "{data}", "participant"), 2, "must not be bids_dir"),
        (("{data}", "{link}", "participant"), 2, "must not be bids_dir"),
        (("{data}", "{out}", "participant", "-w", "{data}/work"), 2, "inside of bids_dir"),
        (("{data}", "{out}", "participant", "-w", "{data}"), 2, "inside of bids_dir"),
        (("{data}", "{out}", "participant", "-w", "{out}"), 2, "must not be output_dir"),
        (("{data}", "{data}/sub-01/x", "participant"), 2, r"inside of sub-01 of bids_dir .*/data/derivatives/conform-toy"),
        (("{data}", "{link}/stimuli", "participant", "--dry-run"), 2, "must not be inside of stimuli of bids_dir"),
        (("{data}", "{data}/sourcedata/a/b", "participant"), 2, "must not be inside of sourcedata"),
        (("{data}", "{data}/code", "group"), 2, "must not be inside of code"),
        (("{data}/derivatives/fmriprep", "{data}/derivatives/fmriprep/toy", "participant"), 2, r"inside of bids_dir, the derivative"),
        (("{data}", "{data}/derivatives/fmriprep/a/b", "participant", "-d", "x={data}/derivatives/fmriprep"), 2, "of --derivatives x"),
        (("{data}", "{file}", "participant"), 2, "is not a folder"),
        (("{data}", "{data}/derivatives/fmriprep", "participant"), 2, "was made by fMRIPrep"),
        (("{data}", "{out}", "participant", "-d", "x={out}"), 66, "there is no folder"),
        (("{data}", "{other}", "participant", "-d", "x={other}"), 2, "must not be an input"),
        (("{absent}", "{out}", "participant"), 66, "there is no folder"),
        (("{file}", "{out}", "participant"), 65, "not a folder"),
        (("{data}/derivatives", "{out}", "participant"), 65, "fmriprep"),
        (("{other}", "{out}", "participant"), 65, "dataset_description.json"),
        (("{data}", "{out}", "participant", "--participant-label", "99"), 66, "there are 01, 02"),
        (("{data}", "{out}", "participant", "--session-label", "99"), 66, None),
        (("{data}", "{out}", "participant", "--task-id", "rest"), 66, "toy"),
        (("{data}", "{out}", "participant", "--run-label", "9"), 66, None),
        (("{data}", "{out}", "participant", "--output-spaces", "fsLR"), 66, "T1w"),
        (("{data}", "{out}", "participant", "--output-spaces", "a:b"), 2, "not a space|is not one of"),
        (("{data}", "{out}", "participant", "--bids-filter-file", "{absent}"), 2, "--bids-filter-file"),
        (("{data}", "{out}", "participant", "--bids-filter-file", "{file}"), 2, "not JSON"),
        (("{data}", "{out}", "participant", "--use-plugin", "{graph}"), 2, "SLURMGraph"),
        (("{data}", "{out}", "participant", "--table", "{absent}"), 66, "--table"),
        (("{data}", "{out}", "group"), 66, "holds no participant"),
        (("{data}", "{out}", "participant", "--reports-only"), 66, "holds no participant"),
        (("{data}", "{out}"), 2, "required"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    arguments: tuple[str, ...], status: int, message: str | None, dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any
) -> None:
    places = {name: tmp_path / name for name in ("out", "absent", "other", "file", "link", "graph")} | {"data": dataset}
    places["other"].mkdir()
    places["file"].write_text("not JSON")
    places["graph"].write_text("plugin: SLURMGraph\n")
    places["link"].symlink_to(dataset)
    before = tree(dataset)
    assert run_toy(*(argument.format(**places) for argument in arguments)) == status
    shown = capsys.readouterr()
    assert message is None or re.search(message, shown.err + shown.out), shown.err
    assert "Traceback" not in shown.err
    assert tree(dataset) == before
    assert not places["out"].exists() or tree(places["out"]) == []


@pytest.mark.parametrize("place", ["derivatives/toy", "derivatives/group/toy", "toy", "derivatives-sub-01/toy"])
@pytest.mark.parametrize("bids_dir", ["", "derivatives/fmriprep"])
def test_places_for_results_are_taken(place: str, bids_dir: str, dataset: Path, run_toy: RunToy) -> None:
    assert run_toy(dataset / bids_dir, dataset / place, "participant", "--dry-run") == 0


def test_validator_errors_are_listed_unless_skipped(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    (dataset / "sub-02" / "func" / "sub-02_task-toy_run-01_events.tsv").write_text("onset\ttrial_type\n0\ta\n")
    assert run_toy(dataset, tmp_path / "out", "participant") == 65
    assert "sub-02_task-toy_run-01_events.tsv: TSV_COLUMN_MISSING" in capsys.readouterr().err
    assert run_toy(dataset, tmp_path / "out", "participant", "--participant-label", "01", "--dry-run") == 0
    assert run_toy(dataset, tmp_path / "out", "participant", "--skip-bids-validation", "--dry-run") == 0


def test_other_settings_are_refused_and_named_until_overwrite(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    output, table = tmp_path / "out", tmp_path / "table.tsv"
    table.write_text("a")
    first = (dataset, output, "participant", "--table", table)
    assert run_toy(*first, "--participant-label", "01") == 0
    assert run_toy(*first, "--participant-label", "02", "-w", tmp_path / "elsewhere", "--low-mem", "-v") == 0
    capsys.readouterr()
    others = {("--power", "2"): "power = 1.0 (now 2.0)", ("--random-seed", "1"): "random_seed = 0 (now 1)", ("--sloppy",): "sloppy"}
    for changed, named in others.items():
        assert run_toy(*first, *changed) == 2
        assert named in capsys.readouterr().err
    table.write_text("b")
    assert run_toy(*first) == 2
    assert "table = table.tsv (sha256" in capsys.readouterr().err
    assert run_toy(*first, "--overwrite", "--power", "2") == 0
    assert json.loads((output / "logs" / "settings.json").read_text())["Settings"]["power"] == 2.0
    assert np.asarray(nib.load(output / FIRST_MAP).dataobj).max() == 4.0


def test_overwriting_loses_nothing_when_it_fails(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant") == 0
    stale: dict[str, Path] = {}
    first = next((output / "sub-01" / "func").glob("*_desc-toy_statmap.nii.gz"))
    for label in ("01", "02"):
        kept = next((output / f"sub-{label}" / "func").glob("*_desc-toy_statmap.nii.gz"))
        stale[label] = kept.with_name(kept.name.replace("desc-toy", "desc-old"))
        stale[label].write_bytes(kept.read_bytes())
    before = {path: path.read_bytes() for path in output.rglob("*.nii.gz")}
    capsys.readouterr()
    assert run_toy(dataset, output, "participant", "--overwrite", "--power", "2", "--fault", "01=run-bug") == 1
    shown = capsys.readouterr().err
    after = {path: path.read_bytes() for path in output.rglob("*.nii.gz")}
    assert {path: content for path, content in before.items() if "sub-01" in path.name}.items() <= after.items()
    assert not stale["02"].exists()
    assert "sub-01 is not complete, so files of the former settings are still there: run again with --overwrite" in shown
    assert "sub-02 is not complete" not in shown
    assert run_toy(dataset, output, "participant", "--overwrite", "--power", "2") == 0
    assert not stale["01"].exists()
    assert first.read_bytes() != before[first]
    assert "not complete" not in capsys.readouterr().err


def test_another_version_or_app_is_refused(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "--participant-label", "01") == 0
    record = output / "logs" / "settings.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "Version": "0.0.1"}))
    assert run_toy(dataset, output, "participant") == 2
    assert "version 0.0.1" in capsys.readouterr().err
    description = output / "dataset_description.json"
    description.write_text(description.read_text().replace("conform-toy", "conform-other"))
    assert run_toy(dataset, output, "participant", "--overwrite") == 2
    assert "was made by conform-other" in capsys.readouterr().err
