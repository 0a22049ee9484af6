"""conform-demo, with a toy app in place of the real ones."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bids_app import demo
from bids_app.demo import DemoApp, find_apps, main
from conform_bids.align.scoring import why_no_scores

SMALL = ["--subjects", "1", "--sessions", "1", "--runs", "1", "--stimuli", "4", "--test-fraction", "0", "--voxel-size", "12"]
SMALL += ["--file-formats", "nifti"]
TOY = """
import pathlib, sys
bids_dir, output, level = sys.argv[1:4]
assert pathlib.Path(bids_dir, "dataset_description.json").is_file()
print("toy", sys.argv[3:], flush=True)
if "--fail" in sys.argv and level == "group":
    sys.exit(66)
folder = pathlib.Path(output)
folder.mkdir(parents=True, exist_ok=True)
(folder / ("sub-01.html" if level == "participant" else "group_toy.html")).write_text("report")
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toyapp.py").write_text(TOY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(demo, "find_apps", lambda: [DemoApp("toy", "toyapp", ("participant", "group"))])


@pytest.mark.usefixtures("toy")
def test_the_demo_simulates_runs_the_apps_and_names_their_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([str(out), *SMALL]) == 0
    printed = capfd.readouterr().out
    participant, group = printed.index("toy ['participant'"), printed.index("toy ['group'")
    assert participant < group
    assert f"--work-dir', '{out}/work'" in printed
    reports = printed[printed.index("Reports:") :]
    assert str(out / "derivatives" / "conform-toy" / "sub-01.html") in reports
    assert str(out / "derivatives" / "conform-toy" / "group_toy.html") in reports
    assert (out / "dataset" / "derivatives" / "fmriprep" / "dataset_description.json").is_file()


def test_an_app_has_options_of_its_own_that_those_given_replace(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_apps", lambda: [DemoApp("toy", "toyapp", ("participant",), ("--model", "b"))])
    assert main([str(tmp_path / "out"), *SMALL]) == 0
    assert "'--model', 'b']" in capfd.readouterr().out
    assert main([str(tmp_path / "out"), *SMALL, "--app-options", " --model c"]) == 0
    printed = capfd.readouterr().out
    assert "'--model', 'c']" in printed
    assert "'--model', 'b'" not in printed


@pytest.mark.usefixtures("toy")
def test_a_second_call_keeps_the_dataset(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([str(out), *SMALL]) == 0
    before = (out / "dataset" / "README").stat().st_mtime_ns
    capfd.readouterr()
    assert main([str(out), *SMALL]) == 0
    assert "there already" in capfd.readouterr().out
    assert (out / "dataset" / "README").stat().st_mtime_ns == before


@pytest.mark.usefixtures("toy")
def test_the_exit_code_is_that_of_the_app_that_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), *SMALL, "--app-options", " --fail"]) == 66
    captured = capfd.readouterr()
    assert "conform-toy group failed with exit code 66" in captured.err
    assert "Reports:" not in captured.out


def test_an_app_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "killed.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(demo, "find_apps", lambda: [DemoApp("killed", "killed", ("participant",))])
    assert main([str(tmp_path / "out"), *SMALL]) == 137


def test_simulate_only_simulates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_apps", lambda: pytest.fail("no app is to run"))
    assert main(["simulate", str(tmp_path / "out"), *SMALL]) == 0
    assert (tmp_path / "out" / "participants.tsv").read_text().split() == ["participant_id", "sub-01"]


def test_a_folder_of_something_else_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine").touch()
    assert main([str(tmp_path), *SMALL]) == 2
    assert "is not a simulated dataset" in capsys.readouterr().err


def test_settings_out_of_range_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(tmp_path / "out"), "--subjects", "0"]) == 2
    assert "--subjects: 0 is below the minimum" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_app_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "find_apps", list)
    assert main([str(tmp_path / "out"), *SMALL]) == 2
    assert "no conform app is installed" in capsys.readouterr().err


def test_apps_come_in_the_order_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def __init__(self, name: str) -> None:
            self.name, self.module = name, f"bids_app.{name}.__main__"

        def load(self) -> object:
            return type("App", (), {"levels": ("group", "participant"), "demo_options": ("--model", "b")})

    points = [Point(name) for name in ("zebra", "encode", "psn", "ant", "glm", "align")]
    monkeypatch.setattr(demo, "entry_points", lambda group: points if group == "conform.apps" else [])
    apps = find_apps()
    assert [app.name for app in apps] == ["glm", "psn", "align", "encode", "ant", "zebra"]
    assert apps[0] == DemoApp("glm", "bids_app.glm", ("participant", "group"), ("--model", "b"))


def test_help_loads_nothing_heavy(repository: Path) -> None:
    code = "import sys; sys.argv = ['conform-demo', '--help']\nfrom bids_app.demo import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('numpy', 'nilearn', 'nibabel', 'torch', 'nipype') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=True)
    assert "--app-options" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_script_without_arguments_says_how_it_is_used(repository: Path) -> None:
    done = subprocess.run([str(repository / "ci" / "demo")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: ci/demo OUT" in done.stderr


def test_chosen_apps_run_alone_in_their_usual_order(
    tmp_path: Path, toy: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    installed = [DemoApp(name, "toyapp", ("participant",), ("--is", name)) for name in ("first", "second", "third")]
    monkeypatch.setattr(demo, "find_apps", lambda: installed)
    assert main([str(tmp_path / "out"), *SMALL, "--apps", "third", "first"]) == 0
    printed = capfd.readouterr().out
    assert printed.index("'--is', 'first'") < printed.index("'--is', 'third'")
    assert "'--is', 'second'" not in printed


@pytest.mark.parametrize(("people", "apps", "told"), [(2, ("glm", "align"), True), (2, ("glm",), False), (3, ("glm", "align"), False)])
def test_what_takes_more_people_is_said(
    people: int, apps: tuple[str, ...], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_apps", lambda: [DemoApp(name, "none", ()) for name in apps])
    monkeypatch.setattr(demo, "simulate", lambda folder, settings: None)
    assert main([str(tmp_path / "out"), "--subjects", str(people)]) == 0
    printed = capsys.readouterr().out
    assert ("conform-align has no scores here" in printed) == told
    if told:
        command = shlex.split(printed.splitlines()[-1])
        assert os.access(command[0], os.X_OK)
        output, *options = command[-3:]
        assert output != str(tmp_path / "out")
        assert options == ["--subjects", str(demo.SCORED_FROM)]


@pytest.mark.parametrize(("apps", "told"), [(("glm", "psn", "align"), True), (("glm",), False), (("psn",), False)])
def test_a_command_to_try_is_one_that_the_app_understands(
    apps: tuple[str, ...], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bids_app.cli import parse
    from bids_app.psn.__main__ import APP

    monkeypatch.setattr(demo, "find_apps", lambda: [DemoApp(name, "none", ()) for name in apps])
    monkeypatch.setattr(demo, "simulate", lambda folder, settings: None)
    output = tmp_path / "a folder"
    assert main([str(output), "--app-options", " --sloppy"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Now try: ")]
    assert len(lines) == told
    for line in lines:
        command = shlex.split(line.removeprefix("Now try: "))
        assert os.access(command[0], os.X_OK)
        config = parse(APP, command[command.index(str(output / "derivatives" / "conform-glm")) :])
        assert (config.bids_dir, config.output_dir) == tuple(output / "derivatives" / f"conform-{app}" for app in ("glm", "psn"))
        assert config.actions.dry_run
        assert config.execution.sloppy


def test_as_many_people_as_the_demo_says_are_scored() -> None:
    for count in (demo.SCORED_FROM - 1, demo.SCORED_FROM):
        gathered: Any = SimpleNamespace(people=range(count), test=[])
        missing = why_no_scores(gathered)
        assert missing is not None and ("three or more" in missing) == (count < demo.SCORED_FROM)


def test_an_app_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path: Path, toy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out"), *SMALL, "--apps", "toy", "dream"]) == 2
    error = capsys.readouterr().err
    assert "dream" in error
    assert "toy" in error
    assert not (tmp_path / "out").exists()


def _calls(monkeypatch: pytest.MonkeyPatch, fail: str | None = None) -> list[tuple[str, list[str]]]:
    """Steps of the demonstration of two datasets, which are only noted down; one may fail."""
    from bids_app import demo_datasets

    calls: list[tuple[str, list[str]]] = []

    def note(module: str, words: list[str], title: str) -> int:
        calls.append((module, words))
        return 65 if fail is not None and fail in title else 0

    monkeypatch.setattr(demo_datasets, "simulate", lambda folder, settings: calls.append(("simulate", [folder.name, str(settings.seed)])))
    monkeypatch.setattr(demo_datasets, "run_step", note)
    monkeypatch.setattr(demo_datasets, "_compared_with_truth", lambda output: ["table"])
    return calls


def test_the_steps_of_two_datasets_go_from_the_split_to_the_store_and_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = _calls(monkeypatch)
    assert main(["datasets", str(tmp_path), "--app-options", " --nprocs 2"]) == 0
    assert [module.removeprefix("bids_app.") for module, _ in calls] == [
        *("simulate", "simulate", "store", "align", "glm", "psn", "glm", "psn", "align", "store", "encode"),
    ]
    assert [words for module, words in calls if module == "simulate"] == [["One", "0"], ["Two", "1"]]
    texts = [" ".join(words) for _, words in calls]
    assert "--split-only" in texts[3] and f"--split {tmp_path / 'split' / 'split_Two.tsv'}" in texts[6]
    assert "participant group --store" in texts[8] and f"One={tmp_path / 'One'} Two={tmp_path / 'Two'}" in texts[8]
    assert texts[9] == f"verify {tmp_path / 'conform-align' / 'store'}" and texts[10].startswith(f"{tmp_path / 'conform-align' / 'store'} ")
    assert all("--nprocs 2" in text for (module, _), text in zip(calls, texts, strict=True) if module.split(".")[-1] in ("glm", "align"))
    printed = capsys.readouterr().out
    assert printed.index("table") < printed.index("Reports:")


def test_a_step_that_fails_ends_the_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _calls(monkeypatch, fail="conform-psn of One")
    assert main(["datasets", str(tmp_path)]) == 65
    assert calls[-1][0] == "bids_app.psn"


def test_the_steps_are_what_the_apps_understand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    from bids_app.cli import parse
    from bids_app.store.__main__ import _parser

    calls = _calls(monkeypatch)
    assert main(["datasets", str(tmp_path)]) == 0
    for module, words in calls[2:]:
        if module == "bids_app.store":
            assert _parser().parse_args(words).command in ("features", "verify")
        else:
            app = import_module(f"{module}.__main__").APP
            assert parse(app, words).output_dir.is_relative_to(tmp_path)
