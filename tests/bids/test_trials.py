"""The trial table on disk, and the stimuli that it names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conform_bids.bids import events
from conform_bids.bids.events import RunEvents, TrialTable
from conform_bids.errors import UnusableInputError

HEADER = "onset\tduration\ttrial_type\tstim_id\n"


def make_run(
    folder: Path, text: str, *, session: str | None = None, run: str | None = "01", n_volumes: int = 50, tr: float = 2.0
) -> RunEvents:
    path = folder / f"sub-01{f'_ses-{session}' if session else ''}_task-x{f'_run-{run}' if run else ''}_events.tsv"
    path.write_text(text, encoding="utf-8", newline="")
    return RunEvents(session, run, path, n_volumes, tr)


def build(*runs: RunEvents, **options: Any) -> TrialTable:
    return events.build_trial_table(runs, **options)


def test_tables_come_back(tmp_path: Path) -> None:
    run = make_run(tmp_path, HEADER + '0.1\t0.30000000000000004\t"a\tb\nc"\t007\n2\t1\t<script>\t7.0\n98\t1\tn/a\tcafé\n', session="01")
    table = build(run)
    assert table.trials["trial_type"].tolist() == ["a b c", "<script>", "n/a"]
    path = tmp_path / "sub-01_task-x_desc-fithrf_trials.tsv"
    events.write_trials(table, path)
    lines = path.read_bytes().split(b"\n")
    assert lines[0].decode().split("\t") == list(events.TRIAL_COLUMNS) == list(events.TRIALS_DESCRIPTION)
    assert all(line.count(b"\t") == 10 for line in lines[:-1])
    assert b"\r" not in path.read_bytes()
    pd.testing.assert_frame_equal(events.read_trials(path), table.trials)


def test_no_column_name_that_pybids_breaks_on() -> None:
    assert not {"session", "run", "task", "subject", "space"} & set(events.TRIAL_COLUMNS)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [("stim_id", "stim", "no column 'stim_id'"), ("\n1\t", "\n5\t", "count from 0"), ("\t2.0\t1.0", "\tsoon\t1.0", "column onset")],
)
def test_a_broken_trial_table(tmp_path: Path, old: str, new: str, match: str) -> None:
    path = tmp_path / "trials.tsv"
    events.write_trials(build(make_run(tmp_path, HEADER + "1\t1\tx\ta\n2\t1\tx\tb\n")), path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UnusableInputError, match=match):
        events.read_trials(path)


def test_stimuli_and_their_files(tmp_path: Path) -> None:
    stimuli = tmp_path / "stimuli"
    (stimuli / "faces").mkdir(parents=True)
    (stimuli / "faces" / "a.png").write_bytes(b"face a")
    (stimuli / "b.png").write_bytes(b"b")
    (tmp_path / "secret").write_text("no stimulus")
    text = "onset\tduration\tstim_id\tstim_file\n1\t1\ta\tfaces/a.png\n2\t1\tb.png\tn/a\n3\t1\tc\tgone.png\n4\t1\td\t../secret\n"
    text += f"5\t1\te\t{tmp_path}/secret\n6\t1\tfaces\tn/a\n"
    text += f"7\t1\t../secret\tn/a\n8\t1\tf\tfaces/../../secret\n9\t1\tg\tC:\\secret\n10\t1\th\t{'x' * 5000}\n"
    text += '11\t1\t"i\nj"\t"faces/../\n../secret"\n'
    table = build(make_run(tmp_path, text))
    found = events.stimulus_table(table, stimuli).set_index("stim_id")
    assert found.loc["a"].tolist() == ["faces/a.png", hashlib.sha256(b"face a").hexdigest()]
    assert found.loc["b.png"].tolist() == ["b.png", hashlib.sha256(b"b").hexdigest()]
    assert found.loc["c"].tolist() == ["gone.png", "n/a"]
    for name in ("d", "e", "faces", "../secret", "f", "g"):
        assert found.loc[name].tolist() == ["n/a", "n/a"], name
    assert found.loc["h", "sha256"] == "n/a"
    assert found.index.tolist() == sorted(found.index)
    assert events.stimulus_table(table, None)["sha256"].unique().tolist() == ["n/a"]
    events.write_stimuli(found.reset_index(), tmp_path / "sub-01_stimuli.tsv")
    lines = (tmp_path / "sub-01_stimuli.tsv").read_text().splitlines()
    assert lines[0].split("\t") == list(events.STIMULI_DESCRIPTION)
    assert len(lines) == 12, "a line break in a cell of the events is a space in ours"
    assert "i j\tn/a\tn/a" in lines


def test_annexed_stimuli_are_followed(tmp_path: Path) -> None:
    (tmp_path / "annex").mkdir()
    (tmp_path / "annex" / "key").write_bytes(b"image")
    (tmp_path / "stimuli").mkdir()
    (tmp_path / "stimuli" / "a.png").symlink_to(tmp_path / "annex" / "key")
    (tmp_path / "stimuli" / "b.png").symlink_to(tmp_path / "annex" / "gone")
    table = build(make_run(tmp_path, "onset\tduration\tstim_file\n1\t1\ta.png\n2\t1\tb.png\n"))
    assert table.condition_column == "stim_file"
    found = events.stimulus_table(table, tmp_path / "stimuli")
    assert found.values.tolist() == [["a.png", "a.png", hashlib.sha256(b"image").hexdigest()], ["b.png", "b.png", "n/a"]]


def test_hash_of_stimuli_is_of_the_set() -> None:
    assert events.hash_stimuli(["b", "a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
    assert events.hash_stimuli([]) == hashlib.sha256(b"").hexdigest()
