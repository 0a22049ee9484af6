"""Descriptions of datasets: their schema, and the trials found in small events files in each dataset's own convention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest
import yaml

from bids_app.store.__main__ import main
from conform_bids.bids.splits import read_split
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.store.conventions import count_trials, dataset_trials
from conform_bids.store.dataset_config import config_schema, read_config, shipped_configs

NAMES = ["bold5000", "boldmoments", "deeprecon", "god", "had", "nod", "nsd", "things"]
Rows = Sequence[tuple[object, ...]]


def _events(root: Path, stem: str, header: str, rows: Rows) -> None:
    """An events file, of a name like sub-01_ses-02_task-x_run-1."""
    labels = dict(part.split("-", 1) for part in stem.split("_"))
    folder = root / f"sub-{labels['sub']}" / (f"ses-{labels['ses']}" if "ses" in labels else "") / "func"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(header.split()), *("\t".join(map(str, row)) for row in rows)]
    (folder / f"{stem}_events.tsv").write_text("\n".join(lines) + "\n")


def _nsd(root: Path) -> None:
    for subject, own in (("01", 100), ("02", 200)):
        rows = [(4 * k, 3, image) for k, image in enumerate([own, 7, own + 1, own, 7])]
        _events(root, f"sub-{subject}_ses-nsd01_task-nsdcore_run-01", "onset duration 73k_id", rows)
    _events(root, "sub-01_ses-nsdsynthetic_task-nsdsynthetic_run-01", "onset duration 73k_id", [(0, 3, 5), (4, 3, 6)])
    _events(root, "sub-01_ses-nsd01_task-rest_run-01", "onset duration 73k_id", [(0, 3, 5)])


def _bold5000(root: Path) -> None:
    header = "onset duration stim_file"
    _events(root, "sub-CSI1_ses-01_task-5000scenes_run-01", header, [(6, 1, "COCO_train2014_000000000001.jpg"), (16, 1, "scene.jpg")])
    _events(root, "sub-CSI1_ses-02_task-5000scenes_run-01", header, [(6, 1, "rep_scene.jpg"), (16, 1, "n01440764_1.JPEG")])
    _events(root, "sub-CSI2_ses-01_task-5000scenes_run-01", header, [(6, 1, "scene.jpg"), (16, 1, "n/a")])
    _events(root, "sub-CSI1_ses-01_task-localizer_run-01", header, [(6, 1, "house.jpg")])


def _boldmoments(root: Path) -> None:
    header = "onset duration stim_file"
    _events(root, "sub-01_ses-01_task-localizer_run-1", header, [(0, 18, "faces")])
    _events(root, "sub-01_ses-02_task-train_run-1", header, [(0, 3, "0001.mp4"), (4, 3, "nan"), (8, 3, "0002.mp4")])
    _events(root, "sub-01_ses-05_task-test_run-1", header, [(0, 3, "1001.mp4")])


def _god(root: Path) -> None:
    header = "onset duration event_type stim_id"
    rows = [
        (0, 33, -1, "n/a"),
        (33, 9, 1, "1518878.005958"),
        (42, 9, 1, "1518878.005958"),
        (51, 9, 1, "1518878.007"),
        (60, 9, 1, "1518878.005958"),
    ]
    _events(root, "sub-01_ses-perceptionTraining01_task-perception_run-01", header, rows)
    _events(root, "sub-01_ses-perceptionTest01_task-perception_run-01", header, [(33, 9, 1, "1976957.000157")])
    _events(root, "sub-01_ses-imageryTest01_task-imagery_run-01", header, [(33, 9, 1, "1976957.000157")])


def _deeprecon(root: Path) -> None:
    header = "onset duration stimulus_id"
    for session, task, names in (
        ("perceptionNaturalImageTraining01", "perception", ["a", "a", "b"]),
        ("perceptionNaturalImageTest01", "perception", ["t"]),
        ("perceptionArtificialImage01", "perception", ["shape"]),
        ("perceptionLetterImage01", "perception", ["letter"]),
        ("imagery01", "imagery", ["t"]),
    ):
        _events(root, f"sub-01_ses-{session}_task-{task}_run-01", header, [(8 * k, 8, name) for k, name in enumerate(names)])


def _had(root: Path) -> None:
    for run, name in (("01", "train.mp4"), ("09", "train9.mp4"), ("10", "test.mp4"), ("12", "test12.mp4")):
        _events(root, f"sub-01_ses-action01_task-action_run-{run}", "onset duration trial_type stim_file", [(0, 2, "run", name)])


def _things(root: Path) -> None:
    rows = [(0, 0.5, "exp", "a/1.jpg"), (4.5, 0.5, "test", "b/2.jpg"), (9, 0.5, "catch", "c/3.jpg")]
    _events(root, "sub-01_ses-things01_task-things_run-01", "onset duration trial_type file_path", rows)
    _events(root, "sub-01_ses-localizer1_task-6cat_run-01", "onset duration trial_type", [(0, 3, "faces")])


def _nod(root: Path) -> None:
    header = "onset duration condition stim_file"
    _events(root, "sub-01_ses-imagenet01_task-imagenet_run-01", header, [(0, 0.5, 1, "n01.JPEG")])
    _events(root, "sub-01_ses-imagenet05_task-imagenet_run-01", header, [(0, 0.5, 1, "n05.JPEG")])
    _events(root, "sub-01_ses-coco_task-coco_run-01", header, [(0, 0.5, 1, "coco1.jpg")])
    _events(root, "sub-03_ses-coco_task-coco_run-01", "onset duration condition", [(0, 0.5, 42)])
    _events(root, "sub-01_ses-floc_task-floc_run-01", header, [(0, 0.5, 1, "face.jpg")])


# by stimulus: trials, side, and where it matters (onset, duration)
FOUND: dict[str, tuple[object, dict[str, tuple[int, str]]]] = {
    "nsd": (_nsd, {"7": (4, "test"), "100": (2, "train"), "101": (1, "train"), "200": (2, "train"), "201": (1, "train")}
            | {"5": (1, "artificial"), "6": (1, "artificial")}),
    "bold5000": (_bold5000, {"000000000001.jpg": (1, "train"), "scene.jpg": (3, "test"), "n01440764_1.JPEG": (1, "train")}),
    "boldmoments": (_boldmoments, {"0001.mp4": (1, "train"), "0002.mp4": (1, "train"), "1001.mp4": (1, "test")}),
    "god": (_god, {"1518878.005958": (2, "train"), "1518878.007": (1, "train"), "1976957.000157": (1, "test")}),
    "deeprecon": (_deeprecon, {"a": (1, "train"), "b": (1, "train"), "t": (1, "test")}
                  | {"shape": (1, "artificial"), "letter": (1, "artificial")}),
    "had": (_had, {"train.mp4": (1, "train"), "train9.mp4": (1, "train"), "test.mp4": (1, "test"), "test12.mp4": (1, "test")}),
    "things": (_things, {"a/1.jpg": (1, "train"), "b/2.jpg": (1, "test")}),
    "nod": (_nod, {"n01.JPEG": (1, "train"), "coco1.jpg": (1, "test"), "42": (1, "test")}),
}  # fmt: skip
TIMES = {"had": ("test.mp4", 12.0, 2.0), "nod": ("42", 16.0, 0.5), "deeprecon": ("letter", 0.0, 12.0), "god": ("1518878.007", 51.0, 9.0)}


@pytest.mark.parametrize("name", NAMES)
def test_trials_are_found_in_the_datasets_convention(name: str, tmp_path: Path) -> None:
    write, expected = FOUND[name]
    write(tmp_path)  # type: ignore[operator]
    config = read_config(shipped_configs()[name])
    trials = dataset_trials(config, tmp_path)
    found = {stim_id: (len(rows), *set(rows["split"])) for stim_id, rows in trials.groupby("stim_id")}
    assert found == expected
    if name in TIMES:
        stim_id, onset, duration = TIMES[name]
        row = trials[trials["stim_id"] == stim_id].iloc[0]
        assert (row["onset"], row["duration"]) == (onset, duration)
    assert any(f"{config.expected.train} are expected" in line for line in count_trials(config, trials))


def test_files_agree_with_the_schema_and_with_the_counts_of_the_datasets() -> None:
    assert sorted(shipped_configs()) == NAMES
    total = 0
    for path in shipped_configs().values():
        jsonschema.validate(yaml.safe_load(path.read_text()), config_schema())
        expected = read_config(path).expected
        total += expected.train + expected.test + (expected.artificial or 0)
    assert total == 360_265 + 70_795 + 5_312  # sums of the published tables of trials before curation


BROKEN = {
    "no field": ("name: X\nsurprise: 1\n", "no field 'surprise'"),
    "absent": ("name: X\n", "the field source is absent"),
    "type": ("name: X\nsource: a\nstimulus_column: s\nduration: long\nrepetition_time: 2\n", "duration: a number is needed, not 'long'"),
    "list": ("name: X\nsource: a\nstimulus_column: s\nduration: 1\nrepetition_time: 2\nruns: all\n", "runs: a list is needed"),
    "pattern": ("name: X\nsource: a\nstimulus_column: s\nduration: 1\nrepetition_time: 2\nstrip: '('\n", "unterminated|missing"),
    "filter": ("name: X\nsource: a\nstimulus_column: s\nduration: 1\nrepetition_time: 2\ndrop_trials: __import__('os')\n", "trial"),
    "code": ("!!python/object/apply:os.system ['true']\n", "not YAML"),
    "name": ("name: a/b\nsource: a\nstimulus_column: s\nduration: 1\nrepetition_time: 2\n", "letters and digits"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_by_field(case: str, tmp_path: Path) -> None:
    text, message = BROKEN[case]
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UnusableInputError, match=message):
        read_config(tmp_path / "x.yaml")
    with pytest.raises(MissingInputError):
        read_config(tmp_path / "y.yaml")


def test_split_by_a_description(tmp_path: Path) -> None:
    _bold5000(tmp_path / "raw")
    arguments = ["split", str(tmp_path), f"B={tmp_path / 'raw'}", "--dataset-config"]
    assert main([*arguments, "B=bold5000"]) == 0
    assert read_split(tmp_path / "split.tsv") == {"000000000001.jpg": "train", "scene.jpg": "test", "n01440764_1.JPEG": "train"}
    assert main([*arguments, "C=bold5000"]) == 2
    assert main([*arguments, f"B={tmp_path / 'absent.yaml'}"]) == 66
    assert main([*arguments, "B=things"]) == 66
