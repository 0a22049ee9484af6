"""From participants to jobs: one that cannot be planned does not stop the others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bids_app.cli import parse
from bids_app.plan import RunPlan, describe, expected_files, make_plan, read_filter_file, selection_of
from conform_bids.bids.index import open_dataset
from conform_bids.errors import MissingInputError, UsageError
from conform_bids.jobs import Resources


def planned(toy: ModuleType, dataset: Path, *arguments: str) -> tuple[Any, RunPlan]:
    config = parse(toy.APP, [str(dataset), "out", "participant", *arguments])
    selection, _ = selection_of(toy.APP, config)
    opened = open_dataset(config.bids_dir, participants=config.bids.participant_label)
    return config, make_plan(toy.APP, config, opened, selection, Resources())


def test_every_participant_is_planned(toy: ModuleType, dataset: Path) -> None:
    _, plan = planned(toy, dataset)
    assert list(plan.jobs) == ["01", "02"]
    assert not plan.failures
    assert plan.warnings == ("sub-01: a toy", "sub-02: a toy")
    assert len(plan.outputs("01")) == 2
    assert all(output.startswith("sub-01/func/") for output in plan.outputs("01"))


@pytest.mark.parametrize(("kind", "code"), [("plan-data", 65), ("plan-missing", 66), ("plan-bug", 70)])
def test_a_participant_that_cannot_be_planned_leaves_the_others(kind: str, code: int, toy: ModuleType, dataset: Path) -> None:
    _, plan = planned(toy, dataset, "--fault", f"01={kind}")
    assert list(plan.jobs) == ["02"]
    assert plan.failures["01"].exit_code == code
    assert "\n" not in plan.failures["01"].reason


def test_a_usage_error_stops_the_plan(toy: ModuleType, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise UsageError("no such expression")

    monkeypatch.setattr(toy, "plan", refuse)
    with pytest.raises(UsageError, match="no such expression"):
        planned(toy, dataset)


def test_a_participant_without_jobs_is_missing_input(toy: ModuleType, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "plan", lambda participant, *arguments: toy.ParticipantPlan(participant, ()))
    _, plan = planned(toy, dataset)
    assert {failure.exit_code for failure in plan.failures.values()} == {66}


def test_no_participant_at_all_is_missing_input(toy: ModuleType) -> None:
    config = parse(toy.APP, ["data", "out", "participant"])
    nobody: Any = SimpleNamespace(participants=(), warnings=[])
    selection, _ = selection_of(toy.APP, config)
    with pytest.raises(MissingInputError, match="no participant"):
        make_plan(toy.APP, config, nobody, selection, Resources())


def test_the_selection_is_what_was_asked(toy: ModuleType, tmp_path: Path) -> None:
    filters = tmp_path / "filters.json"
    filters.write_text(json.dumps({"bold": {"acquisition": "mb4"}, "fmap": {}}))
    typed = ["--participant-label", "01", "--session-label", "a", "--task-id", "b", "--run-label", "1"]
    typed += ["--output-spaces", "MNI:res-2", "--file-format", "cifti"]
    config = parse(toy.APP, ["data", "out", "participant", *typed, "--bids-filter-file", str(filters)])
    selection, warnings = selection_of(toy.APP, config)
    assert (selection.participants, selection.sessions, selection.tasks, selection.runs) == (("01",), ("a",), ("b",), ("1",))
    assert [str(space) for space in selection.spaces] == ["MNI:res-2"]
    assert selection.file_formats == ("cifti",)
    assert selection.filters == {"bold": {"acquisition": "mb4"}}
    assert warnings == ("--bids-filter-file: fmap ignored; this app reads bold",)


@pytest.mark.parametrize("content", ["[]", '{"bold": 1}', '{"bold": ["a"]}', "", "{", "1"])
def test_a_filter_file_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "filters.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="--bids-filter-file"):
        read_filter_file(path, ("bold",))


def test_the_description_lists_files_on_lines_of_their_own(toy: ModuleType, dataset: Path) -> None:
    config, plan = planned(toy, dataset, "--fault", "01=plan-data")
    lines = describe(toy.APP, config, plan)
    assert [line for line in lines if not line.startswith("#")] == expected_files(toy.APP, plan, config.levels)
    assert any("sub-01: cannot be processed: corrupt by request" in line for line in lines)
    nothing = dataclasses.replace(plan, jobs={})
    assert all(line.startswith("#") for line in describe(toy.APP, config, nothing, with_files=False))


def test_the_description_lists_the_files_of_the_group() -> None:
    from bids_app.glm.__main__ import APP

    for levels in (("group",), ("participant", "group")):
        config = parse(APP, ["data", "out", *levels])
        assert {"group_glm.html", "group_glm.tsv"} <= set(expected_files(APP, RunPlan(), config.levels))
    assert "group_glm.tsv" in describe(APP, parse(APP, ["data", "out", "group"]), RunPlan())
    assert "group_glm.tsv" not in expected_files(APP, RunPlan(), ("participant",))
