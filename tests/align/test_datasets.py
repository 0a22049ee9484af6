"""conform-align on people of several datasets in one call, and the level group that prepares those who are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = pytest.mark.slow
COMMON = ("--skip-bids-validation", "--nprocs", "1")
FAST = (*COMMON, "--method", "procrustes", "--parcellation", "clusters", "--parcel-size", "120")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make_people: Any, people_spec: Any, run_align: Any) -> Any:
    """Two datasets whose people have the same labels and whose stimuli have other names, aligned by the level group alone."""
    folder = tmp_path_factory.mktemp("two")
    first = make_people(folder / "first", people_spec(people=("01", "02"), own=0))
    second = make_people(folder / "second", people_spec(people=("01", "03"), rename="x", seed=1, task="pictures", own=0))
    named = ("-d", f"one={first}", f"two={second}")
    run = run_align(first, folder / "out", "group", "-w", folder / "work", *FAST, *named)
    run.named, run.folder, run.first, run.second, run.output = named, folder, first, second, folder / "out"
    return run


def test_people_of_two_datasets_share_a_template(two: Any) -> None:
    assert two.status == 0, two.stderr
    people = pd.read_csv(two.output / "participants.tsv", sep="\t")
    assert people.to_numpy().tolist() == [
        ["sub-one01", "one", "sub-01"],
        ["sub-one02", "one", "sub-02"],
        ["sub-two01", "two", "sub-01"],
        ["sub-two03", "two", "sub-03"],
    ]
    table = pd.read_csv(two.output / "group_align.tsv", sep="\t")
    assert table["participant_id"].tolist() == people["participant_id"].tolist()
    assert (table["n_shared"] == 40).all() and (table["n_held_out"] == 20).all()
    assert (table["normalised_r"] > table["anatomy_normalised_r"] + 0.2).all()
    assert (table["shuffled_normalised_r"].abs() < 0.25).all()
    (template,) = (two.output / "tpl-conform" / "func").glob("*_xfm.json")
    content = json.loads(template.read_text())
    assert content["Participants"] == people["participant_id"].tolist() and content["NumberOfSharedStimuli"] == 40
    assert "task-" not in template.name  # tasks of other names, and one template


def test_sidecars_and_pages_say_who_is_who(two: Any) -> None:
    func = two.output / "sub-two03" / "func"
    stem = STEM.replace("images", "pictures")
    content = json.loads((func / f"sub-two03_{stem}_stat-effect_desc-prepared_statmap.json").read_text())
    assert content["SourceParticipant"] == {"Dataset": "two", "Participant": "sub-03"}
    assert all(source.startswith("bids:two:sub-03/func/") for source in content["Sources"])
    described = json.loads((two.output / "dataset_description.json").read_text())
    assert (two.output / described["DatasetLinks"]["two"]).resolve() == two.second.resolve()
    assert "sub-03 of two" in (two.output / "sub-two03.html").read_text()


def test_validators_pass_on_people_of_two_datasets(two: Any, validator_errors: Any) -> None:
    assert validator_errors(two.output) == []


def test_group_prepares_those_who_are_missing_and_nobody_else(two: Any, run_align: Any) -> None:
    names = [path for path in two.output.rglob("*_desc-prepared_statmap.nii.gz") if "noiseceiling" not in path.name]
    before = {path: path.stat().st_mtime_ns for path in names}
    gone = next(path for path in names if "sub-one02" in path.name)
    gone.unlink()
    run = run_align(two.first, two.output, "group", "-w", two.folder / "work2", *FAST, *two.named)
    assert run.status == 0, run.stderr
    assert "sub-one02: completed" in run.stdout and "sub-one01" not in run.stdout
    assert {path for path in names if path.stat().st_mtime_ns != before[path]} == {gone}


def test_a_new_person_of_a_named_dataset_lands_on_the_template(
    two: Any, make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path
) -> None:
    third = make_people(tmp_path / "third", people_spec(people=("01", "02"), rename="y", seed=2))
    flags = ("--template", two.output, "--apply-to", "trialavg", "-d", f"three={third}", "--participant-label", "three02")
    run = run_align(third, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    func = tmp_path / "out" / "sub-three02" / "func"
    content = json.loads((func / f"sub-three02_{STEM}_stat-effect_desc-procrustes_statmap.json").read_text())
    assert content["NumberOfSharedStimuli"] == 40
    assert (func / f"sub-three02_{STEM}_stat-effect_desc-procrustestrialavg_statmap.nii.gz").is_file()
    assert [path.name for path in (tmp_path / "out").glob("sub-*") if path.is_dir()] == ["sub-three02"]


def test_names_of_stimuli_mean_nothing_across_datasets(make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path) -> None:
    first = make_people(tmp_path / "first", people_spec(people=("01", "02"), hashes=False))
    second = make_people(tmp_path / "second", people_spec(people=("01",), hashes=False, seed=1))
    run = run_align(first, tmp_path / "out", "group", "-w", tmp_path / "work", *FAST, "-d", f"one={first}", f"two={second}")
    assert run.status == 0, run.stderr
    assert "sub-two01 shares too few stimuli and is left out" in (tmp_path / "out" / "group_align.html").read_text()
    table = pd.read_csv(tmp_path / "out" / "group_align.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-one01", "sub-one02"]


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (("-d", "a={0}", "a1={1}"), 2, "sub-a11 would be sub-11 of a and sub-1 of a1"),
        (("-d", "a={0}", "b={1}", "--participant-label", "77"), 66, "no participant 77 in a, b; there are a11, b1"),
        (("-d", "a={0}", "b={1}", "raw={0}"), 2, "of which of a, b? Write NAME.raw=PATH"),
        (("-d", "a={0}", "c.conform-psn={1}"), 2, "no dataset is called c"),
        (("-d", "c.conform-psn={1}"), 2, "no dataset is called c; there are none"),
    ],
)
def test_what_a_call_on_datasets_cannot_mean(
    more: tuple[str, ...], status: int, words: str, make_people: Any, people_spec: Any, run_align: Any, tmp_path: Path
) -> None:
    spec = people_spec(people=("11",), stimuli=12, test=2)
    first = make_people(tmp_path / "first", spec)
    second = make_people(tmp_path / "second", people_spec(people=("1",), stimuli=12, test=2))
    typed = [text.format(first, second) for text in more]
    run = run_align(first, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *typed)
    assert run.status == status and words in run.stdout + run.stderr, run.stdout + run.stderr
    assert not (tmp_path / "out").exists()
