"""Events to trials: sound ones in the order of time, the others set aside with file and line, a hopeless file refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.bids import events
from conform_bids.bids.events import RunEvents, TrialTable
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError

HEADER = "onset\tduration\ttrial_type\tstim_id\n"


def make_run(
    folder: Path, text: str, *, session: str | None = None, run: str | None = "01", n_volumes: int = 50, tr: float = 2.0
) -> RunEvents:
    path = folder / f"sub-01{f'_ses-{session}' if session else ''}_task-x{f'_run-{run}' if run else ''}_events.tsv"
    path.write_text(text, encoding="utf-8", newline="")
    return RunEvents(session, run, path, n_volumes, tr)


def build(*runs: RunEvents, **options: Any) -> TrialTable:
    return events.build_trial_table(runs, **options)


# Reading


@pytest.mark.parametrize(
    "text",
    [
        "onset\tduration\ttrial_type\n1.5\t2\tface\nn/a\tn/a\tn/a\n",
        "\ufeffonset\tduration\ttrial_type\n1.5\t2\tface\nn/a\t\t\n",
        "onset\tduration\ttrial_type\r\n1.5\t2\tface\r\nn/a\tn/a\tn/a",
        "onset\tduration\ttrial_type\r1.5\t2\tface\rn/a\tn/a\tn/a\r",
        '"onset"\t"duration"\t"trial_type"\n"1.5"\t2\t"face"\nn/a\tn/a\tn/a\n',
        "onset \tduration\ttrial_type\t\n 1.5 \t2\tface\t\nn/a\t\n",
    ],
)
def test_tables_as_people_write_them(tmp_path: Path, text: str) -> None:
    table = events.read_events(make_run(tmp_path, text).path)
    assert table.columns.tolist() == ["onset", "duration", "trial_type"]
    np.testing.assert_array_equal(table[["onset", "duration"]], [[1.5, 2], [np.nan, np.nan]])
    assert table["trial_type"].tolist() == ["face", None]
    assert table.index.tolist() == [2, 3]


@pytest.mark.parametrize(("raw", "trial_type"), [("caf\u00e9".encode("latin-1"), "café"), ("café".encode(), "café")])
def test_encodings(tmp_path: Path, raw: bytes, trial_type: str) -> None:
    path = tmp_path / "x_events.tsv"
    path.write_bytes(b"onset\tduration\ttrial_type\n1\t1\t" + raw + b"\n")
    assert events.read_events(path)["trial_type"].tolist() == [trial_type]
    path.write_bytes("onset\tduration\ttrial_type\n1\t1\tcafé\n".encode("utf-16"))
    assert events.read_events(path)["trial_type"].tolist() == ["café"]


def test_lines_count_blank_and_quoted_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path, 'onset\tduration\ttrial_type\n\n1\t1\t"two\nlines\tand a tab"\n2\t1\tx\n')
    table = events.read_events(run.path)
    assert table.index.tolist() == [3, 5]
    assert build(run).trials["trial_type"].tolist() == ["two lines and a tab", "x"]


def test_a_lone_quotation_mark_is_a_character(tmp_path: Path) -> None:
    table = events.read_events(make_run(tmp_path, 'onset\tduration\ttrial_type\n1\t1\t"face\n2\t1\thouse\n').path)
    assert table["trial_type"].tolist() == ['"face', "house"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("onset\ttrial_type\n1\tx\n", r":1: no column 'duration'; there are 'onset', 'trial_type'"),
        ("onset,duration\n1,2\n", r":1: no column 'onset'.*separated by tabs"),
        ("onset\tduration\tonset\n1\t2\t3\n", "twice"),
        ("onset\tduration\n1\t2\nsoon\t2\n", r":3: onset is 'soon', not a number"),
        ("onset\tduration\n1\t1_0\n", r":2: duration is '1_0'"),
        ("onset\tduration\n1\t2\t3\n", r":2: 3 cells, but the header names 2"),
        ("onset\tduration\n1\t\x002\n", "not a text file"),
        ("onset\tduration\n1\t" + "x" * 200_000, "not a table"),
    ],
)
def test_what_is_no_events_table(tmp_path: Path, text: str, match: str) -> None:
    run = make_run(tmp_path, text)
    with pytest.raises(UnusableInputError, match=match) as caught:
        events.read_events(run.path)
    assert str(run.path) in str(caught.value)


def test_absent_events(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"absent\.tsv"):
        events.read_events(tmp_path / "absent.tsv")


@given(
    st.binary(max_size=200)
    | st.text(alphabet="onsetdurai\t\n\r\"1.5'x", max_size=80).map(lambda text: b"onset\tduration\n" + text.encode())
)
def test_any_bytes_are_events_or_unusable(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any_events.tsv"
    path.write_bytes(raw)
    try:
        table = events.read_events(path)
    except UnusableInputError:
        return
    assert table["onset"].dtype == float


# The condition column


@pytest.mark.parametrize(
    ("columns", "asked", "chosen"),
    [
        ([["onset", "trial_type", "stim_file", "stim_id"]], None, "stim_id"),
        ([["stim_file", "trial_type"], ["trial_type", "stim_file"]], None, "stim_file"),
        ([["stim_id", "trial_type"], ["trial_type"]], None, "trial_type"),
        ([["stim_id", "word"]], "word", "word"),
    ],
)
def test_condition_column(columns: list[list[str]], asked: str | None, chosen: str) -> None:
    assert events.choose_condition_column(columns, asked) == chosen


@pytest.mark.parametrize(
    ("columns", "asked", "match"),
    [
        ([["onset", "response"]], None, "none of the columns stim_id, stim_file, trial_type .*they have onset, response"),
        ([["onset", "word"], ["onset"]], "word", "no column 'word' .*they have onset"),
        ([], None, "no column in common"),
    ],
)
def test_no_condition_column(columns: list[list[str]], asked: str | None, match: str) -> None:
    with pytest.raises(MissingInputError, match=match):
        events.choose_condition_column(columns, asked)


# The trial table


def test_trial_table(tmp_path: Path) -> None:
    first = make_run(tmp_path, HEADER + "10\t2\timage\tb\n4\t2\timage\ta\n95\t2\timage\tB\n", session="01")
    second = make_run(tmp_path, HEADER + "0\t3\timage\ta\n2.5\t3\t<b>&\tb\n", session="02", run=None)
    table = build(first, second)
    expected = pd.DataFrame(
        {
            "trial": [0, 1, 2, 3, 4],
            "session_id": ["01", "01", "01", "02", "02"],
            "run_id": ["01", "01", "01", "n/a", "n/a"],
            "onset": [4.0, 10.0, 95.0, 0.0, 2.5],
            "duration": [2.0, 2.0, 2.0, 3.0, 3.0],
            "trial_type": ["image", "image", "image", "image", "<b>&"],
            "stim_id": ["a", "b", "B", "a", "b"],
            "condition": [1, 2, 0, 1, 2],
            "repetition": [0, 0, 0, 1, 1],
            "split": ["n/a"] * 5,
            "flag": ["n/a", "n/a", events.CUT_OFF, "n/a", "n/a"],
        }
    )
    pd.testing.assert_frame_equal(table.trials, expected)
    assert table.run_index.tolist() == [0, 0, 0, 1, 1]
    assert table.condition_column == "stim_id"
    assert table.set_aside.empty
    assert len(table.nuisance) == 2
    assert table.nuisance[0].columns.tolist() == ["onset", "duration", "trial_type"]
    assert table.warnings == ("sub-01_ses-01_task-x_run-01_events.tsv: events are not in order of onset; they were sorted",)


def test_unsound_events_are_set_aside_by_line(tmp_path: Path) -> None:
    rows = [
        "1\t1\tx\ta",  # sound
        "-0.5\t1\tx\ta",
        "100\t1\tx\ta",
        "n/a\t1\tx\ta",
        "nan\t1\tx\ta",
        "3\tn/a\tx\ta",
        "4\t-1\tx\ta",
        "5\tinf\tx\ta",
        "6\t1\tx\tn/a",
        "1\t1\ty\ta",  # as the first: same onset, same stimulus
        "1\t1\tx\tb",  # another stimulus at the same time is a trial
        "7\t0\tx\ta",
    ]
    run = make_run(tmp_path, HEADER + "\n".join(rows) + "\n")
    table = build(run)
    assert table.trials["onset"].tolist() == [1, 1, 7]
    assert table.trials["stim_id"].tolist() == ["a", "b", "a"]
    assert table.set_aside.columns.tolist() == ["file", "line", "onset", "reason"]
    assert table.set_aside["line"].tolist() == list(range(3, 12))
    assert set(table.set_aside["file"]) == {run.path.name}
    assert table.set_aside["reason"].tolist() == [
        "the onset, -0.5 s, is outside of the run of 100 s",
        "the onset, 100 s, is outside of the run of 100 s",
        "the onset is missing",
        "the onset is missing",
        "the duration is missing",
        "the duration, -1 s, is negative",
        "the duration is infinite",
        "no stimulus",
        "a duplicate of line 2",
    ]
    assert any("9 of 12 events left out" in warning for warning in table.warnings)


def test_stimulus_duration_mends_durations(tmp_path: Path) -> None:
    table = build(make_run(tmp_path, HEADER + "1\tn/a\tx\ta\n2\t-3\tx\tb\n3\t9\tx\tc\n"), stimulus_duration=0.5)
    assert table.trials["duration"].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("row", "reason"),
    [("5000\t1\tx\ta", "outside of the run"), ("1\t-1\tx\ta", "negative"), ("n/a\t1\tx\ta", "missing")],
)
def test_a_file_without_a_sound_trial_is_refused(tmp_path: Path, row: str, reason: str) -> None:
    bad = make_run(tmp_path, f"{HEADER}7000\t1\tx\tn/a\n{row}\n", run="02")
    with pytest.raises(UnusableInputError, match=r"run-02_events\.tsv:2: .*no other trial of the file is sound"):
        build(make_run(tmp_path, HEADER + "1\t1\tx\ta\n"), bad)
    bad.path.write_text(f"{HEADER}7\t1\tx\tn/a\n{row}\n")
    with pytest.raises(UnusableInputError, match=rf":3: .*{reason}"):
        build(bad)


def test_runs_without_events_have_no_trials(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, HEADER, run="01"), make_run(tmp_path, HEADER + "1\t1\tx\ta\n", run="02")]
    table = build(*runs)
    assert table.run_index.tolist() == [1]
    assert len(table.nuisance) == 2
    with pytest.raises(MissingInputError, match="no trials"):
        build(runs[0])


@pytest.mark.parametrize(("onset", "flagged"), [(93.9, False), (94.0, False), (94.1, True), (99.9, True)])
def test_a_response_that_the_run_cuts_is_flagged(tmp_path: Path, onset: float, flagged: bool) -> None:
    table = build(make_run(tmp_path, f"{HEADER}{onset}\t1\tx\ta\n"))
    assert (table.trials["flag"].tolist() == ["cut off by the end of the run"]) == flagged


def test_nuisance_events_get_no_row(tmp_path: Path) -> None:
    text = HEADER + "1\t1\timage\ta\n2\t0.1\tbutton\tn/a\n2.5\t-1\tbutton\tn/a\n9\t1\timage\tb\n4\t0.2\tbutton\tn/a\n3\t0.3\tcue\tn/a\n"
    table = build(make_run(tmp_path, text), nuisance_events=["button", "cue"], trial_filter="trial_type == 'image'", stimulus_duration=2)
    assert table.trials["stim_id"].tolist() == ["a", "b"]
    assert table.nuisance[0].to_dict("list") == {"onset": [2, 3, 4], "duration": [0.1, 0.3, 0.2], "trial_type": ["button", "cue", "button"]}
    assert table.set_aside[["line", "reason"]].values.tolist() == [[4, "the duration, -1 s, is negative"]]
    with pytest.raises(MissingInputError, match="'blink'; there are button, cue, image"):
        build(make_run(tmp_path, text), nuisance_events=["blink"])


def test_filter_chooses_trials(tmp_path: Path) -> None:
    run = make_run(tmp_path, HEADER + "1\t1\timage\ta\n2\t1\tblank\tb\n3000\t1\tblank\tb\n")
    table = build(run, trial_filter="trial_type == 'image'")
    assert table.trials["stim_id"].tolist() == ["a"]
    assert table.set_aside.empty
    with pytest.raises(MissingInputError, match="no trials that --trial-filter keeps"):
        build(run, trial_filter="trial_type == 'nothing'")
    with pytest.raises(UsageError, match="no column 'rt'"):
        build(run, trial_filter="rt < 1")


# Split


SPLIT_HEADER = "onset\tduration\tstim_id\tsplit\tfold\n"


def test_split_of_the_events(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, SPLIT_HEADER + "1\t1\ta\ttrain\ttest\n2\t1\tb\ttest\tn/a\n3\t1\tc\tn/a\tartificial\n4\t1\td\tartificial\ttrain\n"
    )
    assert build(run).trials["split"].tolist() == ["train", "test", "n/a", "artificial"]
    assert build(run, split="fold").trials["split"].tolist() == ["test", "n/a", "artificial", "train"]
    run.path.write_text(SPLIT_HEADER + "1\t1\ta\ttrain\ttest\n2\t1\tb\tvalidation\tn/a\n")
    with pytest.raises(UnusableInputError, match=r":3: split is 'validation', not one of train, test, artificial, n/a"):
        build(run)


def test_split_of_a_file(tmp_path: Path) -> None:
    run = make_run(tmp_path, SPLIT_HEADER + "1\t1\ta\ttest\tn/a\n2\t1\tb\tn/a\tn/a\n3\t1\tc\tn/a\tn/a\n")
    path = tmp_path / "split.tsv"
    path.write_text("stim_id\tsplit\nb\ttest\na\ttrain\nz\ttrain\n")
    table = build(run, split=str(path))
    assert table.trials["split"].tolist() == ["train", "test", "n/a"]
    assert any("1 stimuli are not in the split file (such as 'c')" in warning for warning in table.warnings)
    for text, match in (
        ("stim_id\tsplit\na\ttrian\n", r"split\.tsv:2: split is 'trian'"),
        ("stim_id\tsplit\na\ttrain\na\ttest\n", r"split\.tsv:3: 'a' stands there twice"),
        ("stim_id\tset\na\ttrain\n", "no column 'split'"),
    ):
        path.write_text(text)
        with pytest.raises(UnusableInputError, match=match):
            build(run, split=str(path))
    with pytest.raises(MissingInputError, match=r"'nothing' is neither a file nor a column .*they have onset, duration, stim_id"):
        build(run, split="nothing")


def test_a_stimulus_in_two_splits_is_told(tmp_path: Path) -> None:
    table = build(make_run(tmp_path, SPLIT_HEADER + "1\t1\ta\ttrain\tn/a\n2\t1\ta\ttest\tn/a\n"))
    assert any("more than one split" in warning for warning in table.warnings)


# Any events, and real ones


@given(st.lists(st.tuples(st.floats(-20, 120), st.sampled_from("abcd")), min_size=1, max_size=20))
def test_any_events_give_a_consistent_table(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, str]]) -> None:
    folder = tmp_path_factory.getbasetemp()
    run = make_run(folder, HEADER + "50\t1\tx\tzero\n" + "".join(f"{onset!r}\t1\tx\t{name}\n" for onset, name in rows))
    table = build(run)
    trials = table.trials
    assert len(trials) + len(table.set_aside) == len(rows) + 1
    assert trials["onset"].is_monotonic_increasing
    assert trials["onset"].between(0, 100, inclusive="left").all()
    names = sorted(set(trials["stim_id"]))
    assert [names[k] for k in trials["condition"]] == trials["stim_id"].tolist()
    for _, group in trials.groupby("stim_id"):
        assert group["repetition"].tolist() == list(range(len(group)))


def test_real_events(real_data: Path) -> None:
    folder = real_data / "haxby-slice" / "sub-01" / "func"
    paths = sorted(folder.glob("*_events.tsv"))
    runs = [RunEvents(None, path.name.split("run-")[1][:2], path, 121, 2.5) for path in paths]
    table = build(*runs)
    assert len(runs) == 12
    assert table.trials["condition"].nunique() == 8
    assert table.trials["repetition"].max() == 11
    assert table.set_aside.empty
    assert table.warnings == ()
