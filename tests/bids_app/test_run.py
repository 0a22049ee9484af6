"""The life of a run: exit statuses, what is refused, what is written, resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_app.allotment import share_threads
from bids_app.failures import ParticipantFailure
from bids_app.messages import exit_code, summary_lines

pytestmark = pytest.mark.filterwarnings("ignore")
RunToy = Callable[..., int]
MAPS = [
    f"sub-{label}/func/sub-{label}_task-toy_run-{run}_space-T1w_stat-mean_desc-toy_statmap.nii.gz"
    for label in ("01", "02")
    for run in ("01", "02")
]


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run_id(output: Path) -> str:
    (folder,) = (path for path in (output / "logs").iterdir() if path.is_dir())
    return folder.name


def test_a_run_writes_maps_reports_logs_and_root_files(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "group", "--power", "2", "--random-seed", "7") == 0
    run = run_id(output)
    logs = [f"logs/{run}/{name}" for name in ("conform.toml", "nipype.log", "provenance.json")]
    root = [".bidsignore", "README.md", "dataset_description.json", "group_toy.tsv"]
    root += ["logs/CITATION.bib", "logs/CITATION.md", "logs/settings.json", "sub-01.html", "sub-02.html"]
    own = [f"sub-{label}/log/{run}/conform.toml" for label in ("01", "02")]
    extra = {"logs/CITATION.html", "logs/CITATION.tex"}  # where pandoc is installed
    assert sorted(set(tree(output)) - extra) == sorted([*MAPS, *logs, *root, *own])
    assert np.asarray(nib.load(output / MAPS[0]).dataobj).max() == 4.0
    assert (output / "group_toy.tsv").read_text() == "participant_id\nsub-01\nsub-02\n"
    description = json.loads((output / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": "../data", "fmriprep": "../data/derivatives/fmriprep"}
    assert description["GeneratedBy"][0]["Name"] == "conform-toy"
    assert "to the power 2.0" in (output / "logs" / "CITATION.md").read_text()
    assert "gorgolewski2011nipype" in (output / "logs" / "CITATION.bib").read_text()
    provenance = json.loads((output / "logs" / run / "provenance.json").read_text())
    assert (provenance["random_seed"], provenance["device"], provenance["packages"]["nipype"] > "1") == (7, "cpu", True)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-3:] == ["conform-toy: sub-01: completed", "conform-toy: sub-02: completed", "conform-toy: group: completed"]


def test_no_path_of_the_machine_is_outside_of_the_logs(dataset: Path, tmp_path: Path, run_toy: RunToy) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "--table", dataset / "participants.tsv") == 0
    shared = [name for name in tree(output) if "/log/" not in f"/{name}" and name.count("/") < 2 and not name.endswith(".gz")]
    assert len(shared) > 5
    for name in shared:
        if run_id(output) not in name:
            assert str(tmp_path) not in (output / name).read_text(), name


@pytest.mark.parametrize(
    ("faults", "status", "first", "second"),
    [
        (("02=plan-data",), 1, "completed", "failed: corrupt by request"),
        (("02=plan-bug",), 1, "completed", "failed: ZeroDivisionError: planned to fail"),
        (("02=build-bug",), 1, "completed", "failed: ZeroDivisionError: built to fail"),
        (("02=run-data",), 1, "completed", "corrupt by request"),
        (("02=run-bug",), 1, "completed", "ZeroDivisionError: run to fail"),
        (("02=report-bug",), 1, "completed", "the report could not be made: ZeroDivisionError"),
        (("01=plan-data", "02=plan-data"), 65, "corrupt", "corrupt"),
        (("01=plan-missing", "02=plan-missing"), 66, "missing", "missing"),
        (("01=plan-missing", "02=plan-data"), 65, "missing", "corrupt"),
        (("01=plan-missing", "02=plan-bug"), 70, "missing", "ZeroDivisionError"),
        (("01=run-data", "02=run-data"), 65, "corrupt", "corrupt"),
        (("01=run-bug", "02=run-data"), 70, "ZeroDivisionError", "corrupt"),
        (("01=plan-missing", "02=run-data"), 65, "missing", "corrupt"),
        (("01=run-full", "02=run-full"), 1, "no space left", "no space left"),
    ],
)
def test_failures_have_a_line_each_and_choose_the_exit_status(
    faults: tuple[str, ...], status: int, first: str, second: str, dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any
) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "--fault", *faults) == status
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if line.startswith("conform-toy: sub-")]
    assert [line.split(":")[1].strip() for line in lines] == ["sub-01", "sub-02"]
    assert first in lines[0]
    assert second in lines[1]
    is_bug = any("bug" in fault and not fault.endswith("run-bug") for fault in faults)
    assert ("this is a bug" in shown.err) == is_bug
    assert ("Traceback" in shown.err) == is_bug
    if status == 1 and first == "completed":
        assert all((output / name).is_file() for name in MAPS[:2])
        assert (output / "sub-01.html").is_file()


def test_a_crash_leaves_root_files_reports_and_crash_files(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "--fault", "01=run-data", "02=run-data") == 65
    for name in (".bidsignore", "README.md", "dataset_description.json", "logs/CITATION.md", "sub-01.html", "sub-02.html"):
        assert (output / name).is_file(), name
    assert list(output.glob(f"sub-01/log/{run_id(output)}/crash-*.txt"))
    assert "corrupt by request" in json.loads((output / "sub-01.html").read_text())["errors"][0]
    assert "crash-" in capsys.readouterr().out


def test_a_second_run_computes_nothing_and_deleted_outputs_come_back(dataset: Path, tmp_path: Path, run_toy: RunToy) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant") == 0
    computed = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("mean.npy")}
    written = {name: (output / name).stat().st_mtime_ns for name in MAPS}
    assert len(computed) == 4
    (output / MAPS[0]).unlink()
    assert run_toy(dataset, output, "participant") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("mean.npy")} == computed
    again = {name: (output / name).stat().st_mtime_ns for name in MAPS}
    assert [name for name in MAPS if again[name] != written[name]] == MAPS[:1]


def test_the_written_configuration_repeats_the_run_from_anywhere(dataset: Path, tmp_path: Path, toy_process: Any) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ("--participant-label", "01", "--power", "2", "--nprocs", "1", "-w", "scratch")
    done = toy_process("data", "out", "participant", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "out"
    config = output / "sub-01" / "log" / run_id(output) / "conform.toml"
    assert tomllib.loads(config.read_text())["execution"]["work_dir"] == str(tmp_path / "scratch")
    (output / MAPS[0]).unlink()
    again = toy_process("--config-file", config, cwd=elsewhere)
    assert again.returncode == 0, again.stderr
    assert (output / MAPS[0]).is_file()
    assert not (output / MAPS[2]).exists()
    assert list(elsewhere.iterdir()) == []


def test_dry_run_prints_the_files_and_loads_and_writes_nothing(dataset: Path, tmp_path: Path, toy: ModuleType) -> None:
    code = (
        "import sys, toy_app\nstatus = toy_app.main(toy_app.APP, sys.argv[1:])\n"
        "print([name for name in ('torch', 'nipype', 'nilearn') if name in sys.modules], file=sys.stderr)\nsys.exit(status)"
    )
    arguments = [dataset, tmp_path / "out", "participant", "--dry-run", "-w", tmp_path / "work", "--clean-workdir"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    files = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert set(MAPS) | {"dataset_description.json", "sub-01.html", "logs/CITATION.md"} <= set(files)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--help"], ["--dry-run", "--participant-label", "none"]])
@pytest.mark.parametrize("merged", [False, True])
def test_a_reader_that_goes_is_no_bug(arguments: list[str], merged: bool, dataset: Path, tmp_path: Path, toy: ModuleType) -> None:
    """As ``| head`` and ``|& head`` do it; here the reader is gone before a byte was written."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, toy.__file__, dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *arguments]
    errors = subprocess.STDOUT if merged else subprocess.PIPE
    done = subprocess.run([*map(str, line)], stdout=writer, stderr=errors, text=True, timeout=60, check=False)
    os.close(writer)
    told = [line for line in (done.stderr or "").splitlines() if not line.startswith("WARNING")]
    if "none" in arguments and not merged:
        assert done.returncode == 66  # nothing was printed to the pipe
        assert len(told) == 1
    else:
        assert done.returncode in ((0, 141) if "--help" in arguments else (141,))  # argparse knows of pipes
        assert told == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_told(dataset: Path, tmp_path: Path, toy: ModuleType) -> None:
    line = [sys.executable, toy.__file__, dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", "--dry-run"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*map(str, line)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "conform-toy: error: [Errno 28] No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("fault", "status"), [("plan-data", 65), ("plan-missing", 66), ("plan-bug", 70)])
def test_dry_run_fails_only_when_nothing_can_be_done(
    fault: str, status: int, dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any
) -> None:
    assert run_toy(dataset, tmp_path / "out", "participant", "--dry-run", "--fault", f"01={fault}", f"02={fault}") == status
    assert run_toy(dataset, tmp_path / "out", "participant", "--dry-run", "--fault", f"01={fault}") == 0
    assert "# sub-01: cannot be processed" in capsys.readouterr().out


def test_dry_run_of_a_group_needs_people(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "group", "--dry-run") == 66
    assert "holds no participant" in capsys.readouterr().err
    (output / "sub-02").mkdir(parents=True)
    assert run_toy(dataset, output, "group", "--dry-run") == 0
    assert "\nREADME.md\n" in capsys.readouterr().out
    assert run_toy(dataset, output, "group", "--dry-run", "--participant-label", "01") == 66


def test_boilerplate_only_writes_the_citation_alone(dataset: Path, tmp_path: Path, run_toy: RunToy) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "--boilerplate-only", "--md-only-boilerplate") == 0
    assert tree(output) == ["logs/CITATION.bib", "logs/CITATION.md"]
    assert not (tmp_path / "work").exists()


def test_pandoc_makes_html_and_latex_unless_markdown_only(dataset: Path, tmp_path: Path, run_toy: RunToy, monkeypatch: Any) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    pandoc = tools / "pandoc"
    pandoc.write_text('#!/bin/sh\ncat > /dev/null\nfor last; do :; done\nprintf "%s" "$*" > "$last"\n')
    pandoc.chmod(pandoc.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert run_toy(dataset, tmp_path / "a", "participant", "--boilerplate-only", "--md-only-boilerplate") == 0
    assert tree(tmp_path / "a") == ["logs/CITATION.bib", "logs/CITATION.md"]
    assert run_toy(dataset, tmp_path / "b", "participant", "--boilerplate-only") == 0
    assert tree(tmp_path / "b") == [f"logs/CITATION.{extension}" for extension in ("bib", "html", "md", "tex")]
    assert "--citeproc" in (tmp_path / "b" / "logs" / "CITATION.html").read_text()


def test_reports_only_makes_reports_of_what_is_there(dataset: Path, tmp_path: Path, run_toy: RunToy) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant") == 0
    for path in output.glob("*.html"):
        path.unlink()
    before = tree(output)
    options = ("--reports-only", "--participant-label", "02", "--aggregate-session-reports", "2")
    assert run_toy(dataset, output, "participant", "group", *options) == 0
    assert sorted(set(tree(output)) - set(before)) == ["group_toy.tsv", "sub-02.html"]
    report = json.loads((output / "sub-02.html").read_text())
    assert len(report["maps"]) == 2
    assert report["max_sessions"] == 2
    assert run_toy(dataset, output, "participant", "--reports-only", "--participant-label", "03") == 66


def test_the_group_level_alone_and_its_failure(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "--participant-label", "02") == 0
    assert run_toy(dataset, output, "group") == 0
    assert (output / "group_toy.tsv").read_text() == "participant_id\nsub-02\n"
    assert run_toy(dataset, output, "group", "--fault", "group=bug", "--overwrite") == 70
    assert "group: failed" in capsys.readouterr().out


def test_write_graph_and_resource_monitor(dataset: Path, tmp_path: Path, run_toy: RunToy) -> None:
    output = tmp_path / "out"
    assert run_toy(dataset, output, "participant", "--participant-label", "01", "--write-graph", "--resource-monitor") == 0
    log = output / "sub-01" / "log" / run_id(output)
    assert "mean" in (log / "graph.dot").read_text()
    assert (log / "resource_monitor.tsv").read_text().startswith("node\t")
    assert (output / MAPS[0]).is_file()


def test_clean_workdir_removes_what_the_app_made_and_nothing_else(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    work = tmp_path / "work"
    (work / "mine").mkdir(parents=True)
    (work / "mine" / "thesis.txt").write_text("precious")
    assert run_toy(dataset, tmp_path / "out", "participant", "--participant-label", "01") == 0
    stale = work / "conform_toy" / "stale"
    stale.write_text("")
    assert run_toy(dataset, tmp_path / "out", "participant", "--participant-label", "01", "--clean-workdir") == 0
    assert not stale.exists()
    assert (work / "mine" / "thesis.txt").read_text() == "precious"
    foreign = tmp_path / "foreign" / "conform_toy"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("precious")
    assert run_toy(dataset, tmp_path / "out", "participant", "--clean-workdir", "-w", tmp_path / "foreign") == 2
    assert "nothing was removed" in capsys.readouterr().err
    assert (foreign / "thesis.txt").read_text() == "precious"


def test_filter_files_select_and_unknown_keys_warn(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    filters = tmp_path / "filter.json"
    filters.write_text(json.dumps({"bold": {"run": "02"}, "t1w": {"session": "x"}}))
    assert run_toy(dataset, tmp_path / "out", "participant", "--dry-run", "--bids-filter-file", filters) == 0
    shown = capsys.readouterr()
    assert "run-02" in shown.out
    assert "run-01" not in shown.out
    assert "t1w ignored" in shown.err


def test_an_unwritable_output_is_no_bug(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any, monkeypatch: Any) -> None:
    import bids_app.record

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "CITATION.md")

    monkeypatch.setattr(bids_app.record, "_write_citation", full)
    assert run_toy(dataset, tmp_path / "out", "participant", "--boilerplate-only") == 1
    shown = capsys.readouterr().err
    assert "No space left on device" in shown
    assert "bug" not in shown


def test_debug_traceback_shows_where_an_error_of_the_user_arose(dataset: Path, tmp_path: Path, run_toy: RunToy, capsys: Any) -> None:
    assert run_toy(dataset, tmp_path / "out", "participant", "--participant-label", "9", "--debug", "traceback") == 66
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_a_second_run_completes(
    number: int, status: int, dataset: Path, tmp_path: Path, toy: ModuleType, toy_process: Any
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, toy.__file__, dataset, output, "participant", "-w", tmp_path / "work", "--nprocs", "2"]
    command += ["--run-label", "01", "--fault", "02=run-slow"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not list(output.glob("sub-01/func/*.nii.gz")) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(number)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == status, shown
    assert "sub-02: not finished" in shown
    assert (output / "dataset_description.json").is_file()
    assert not list(output.rglob(".conform-*"))
    again = toy_process(dataset, output, "participant", "-w", tmp_path / "work", "--run-label", "01", "--overwrite")
    assert again.returncode == 0, again.stderr
    assert (output / MAPS[2]).is_file()


@pytest.mark.slow
def test_a_killed_worker_is_a_failure_of_the_environment(dataset: Path, tmp_path: Path, toy_process: Any) -> None:
    done = toy_process(dataset, tmp_path / "out", "participant", "--participant-label", "01", "--fault", "01=run-kill", "--nprocs", "1")
    assert done.returncode == 1, done.stderr
    assert "sub-01: failed" in done.stdout


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter and write to, which pytest's own is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="only root may change its uid, by setpriv")
def test_a_read_only_home_an_unknown_user_and_no_network(open_folder: Path, write_dataset: Any, toy: ModuleType) -> None:
    """As Apptainer and Docker run it: a uid without passwd entry, a home that cannot be written, a clean environment."""
    toys = Path(toy.__file__).parent
    dataset = write_dataset(open_folder / "data", ("01",))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(toys), "HOME": "/proc/nowhere"}
    # The capability lets it read the checkout and the interpreter wherever they are; it may write nowhere.
    nobody = [
        "setpriv",
        "--reuid=54321",
        "--regid=54321",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ]
    if subprocess.run([*nobody, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("setpriv cannot change the user here")
    offline = ["unshare", "-n"]
    if subprocess.run([*offline, "true"], check=False, capture_output=True).returncode != 0:
        offline = []
    command = [*offline, *nobody, sys.executable, toy.__file__, dataset, open_folder / "out", "participant"]
    command += ["-w", open_folder / "work", "--nprocs", "1"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=open_folder)
    assert done.returncode == 0, done.stderr
    assert (open_folder / "out" / MAPS[0]).is_file()
    assert "WARNING: the BIDS validator" not in done.stderr


def failure(code: int) -> ParticipantFailure:
    return ParticipantFailure("x", "why", code)


@pytest.mark.parametrize(
    ("completed", "codes", "received", "expected"),
    [
        ((), (), None, 0), (("a",), (), None, 0), (("a",), (70,), None, 1), (("a",), (65, 66), None, 1),
        ((), (66,), None, 66), ((), (66, 65), None, 65), ((), (66, 65, 70), None, 70), ((), (1,), None, 1), ((), (1, 66), None, 66),
        (("a",), (), 15, 143), ((), (70,), 2, 130),
    ],
)  # fmt: skip
def test_exit_code(completed: tuple[str, ...], codes: tuple[int, ...], received: int | None, expected: int) -> None:
    assert exit_code(completed, {str(code): failure(code) for code in codes}, received) == expected


def test_summary_has_a_line_a_participant_in_order() -> None:
    crashed = ParticipantFailure("02", "sub-02: broken", 70, (Path("/x/crash-1.txt"),))
    lines = summary_lines(("03", "group"), {"02": crashed}, ("01",))
    assert lines == ["sub-01: not finished", "sub-02: failed: broken (see /x/crash-1.txt)", "sub-03: completed", "group: completed"]


@pytest.mark.parametrize(
    ("nprocs", "n_jobs", "expected"), [(1, 1, 1), (2, 1, 2), (16, 1, 8), (16, 3, 5), (16, 40, 1), (2, 0, 2), (3, 2, 1)]
)
def test_cpus_go_to_as_many_jobs_as_there_are(nprocs: int, n_jobs: int, expected: int) -> None:
    assert share_threads(nprocs, n_jobs) == expected
