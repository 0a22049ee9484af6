"""The command line: spellings, positionals among options, what is refused."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_app.app import App, find_app
from bids_app.cli import build_parser, parse
from bids_app.glm.__main__ import APP
from bids_app.run_options import Actions, BIDSOptions, ExecutionOptions
from conform_bids.errors import UsageError
from conform_bids.options import options_of

POSITIONALS = ("data", "out", "participant")


def value(section: str, name: str, *arguments: str, app: App = APP) -> Any:
    return getattr(getattr(parse(app, [*POSITIONALS, *arguments]), section), name)


@pytest.mark.parametrize(
    ("spellings", "section", "name", "argument", "expected"),
    [
        (("--participant-label", "--participant_label"), "bids", "participant_label", ("sub-01", "02"), ("01", "02")),
        (("--session-label", "--session-id", "--session_label", "--session_id"), "bids", "session_label", ("ses-a", "b"), ("a", "b")),
        (("-t", "--task-id", "--task_id", "--task-label"), "bids", "task_id", ("task-rest", "nsd"), ("rest", "nsd")),
        (("--run-label", "--run_label", "--run-id"), "bids", "run_label", ("1", "run-02"), ("1", "02")),
        (("-d", "--derivatives", "--datasets"), "bids", "derivatives", ("fmriprep=/a", "/b/raw"), ("fmriprep=/a", "raw=/b/raw")),
        (("--bids-filter-file", "--bids_filter_file"), "bids", "bids_filter_file", ("/f.json",), Path("/f.json")),
        (("--bids-database-dir", "--bids_database_dir"), "bids", "bids_database_dir", ("/db",), Path("/db")),
        (("--skip-bids-validation", "--skip_bids_validation"), "bids", "skip_bids_validation", (), True),
        (("--output-spaces", "--output_spaces"), "bids", "output_spaces", ("T1w", "MNI:res-2"), ("T1w", "MNI:res-2")),
        (("--file-format", "--file_format"), "bids", "file_format", ("cifti", "gifti"), ("cifti", "gifti")),
        (("--nprocs", "--nthreads", "--n-cpus", "--n_cpus"), "execution", "nprocs", ("3",), 3),
        (("--omp-nthreads", "--omp_nthreads"), "execution", "omp_nthreads", ("2",), 2),
        (("--mem", "--mem-mb", "--mem_mb"), "execution", "memory_gb", ("8000",), 8.0),
        (("--mem",), "execution", "memory_gb", ("8G",), 8.0),
        (("--mem-gb", "--mem_gb"), "execution", "memory_gb", ("8",), 8.0),
        (("--low-mem",), "execution", "low_mem", (), True),
        (("--use-plugin", "--use_plugin", "--nipype-plugin-file"), "execution", "use_plugin", ("/p.yml",), Path("/p.yml")),
        (("-w", "--work-dir", "--work_dir"), "execution", "work_dir", ("/w",), Path("/w")),
        (("--resource-monitor",), "execution", "resource_monitor", (), True),
        (("--stop-on-first-crash",), "execution", "stop_on_first_crash", (), True),
        (("--write-graph",), "execution", "write_graph", (), True),
        (("--random-seed",), "execution", "random_seed", ("5",), 5),
        (("--sloppy",), "execution", "sloppy", (), True),
        (("--output-layout",), "execution", "output_layout", ("bids",), "bids"),
        (("--aggregate-session-reports",), "execution", "aggregate_session_reports", ("2",), 2),
        (("--md-only-boilerplate",), "execution", "md_only_boilerplate", (), True),
        (("--notrack",), "execution", "notrack", (), True),
        (("--debug",), "execution", "debug", ("workflow", "traceback"), ("workflow", "traceback")),
        (("-v", "--verbose"), "execution", "verbose", (), 1),
        (("-vvv",), "execution", "verbose", (), 3),
        (("--device",), "execution", "device", ("cuda:1",), "cuda:1"),
        (("--no-gpu",), "execution", "device", (), "cpu"),
        (("--dry-run",), "actions", "dry_run", (), True),
        (("--reports-only",), "actions", "reports_only", (), True),
        (("--boilerplate-only",), "actions", "boilerplate_only", (), True),
        (("--clean-workdir",), "actions", "clean_workdir", (), True),
        (("--overwrite",), "actions", "overwrite", (), True),
    ],
)
def test_every_spelling_sets_its_option(
    spellings: tuple[str, ...], section: str, name: str, argument: tuple[str, ...], expected: Any
) -> None:
    default = getattr(getattr(parse(APP, POSITIONALS), section), name)
    for spelling in spellings:
        assert value(section, name, spelling, *argument) == expected
    assert default != expected or name == "output_layout"


@pytest.mark.parametrize(
    "labels", [("01", "02"), ("sub-01", "sub-02"), ("01,02",), ("sub-01,sub-02",), ("01 02",), ("01", "02", "01"), (" 01 ", "02")]
)
def test_participants_may_be_given_in_many_ways(labels: tuple[str, ...]) -> None:
    assert value("bids", "participant_label", "--participant-label", *labels) == ("01", "02")


def test_a_repeated_list_option_adds_up() -> None:
    assert value("bids", "participant_label", "--participant-label", "01", "--participant_label", "02") == ("01", "02")


@pytest.mark.parametrize("label", ["../x", "sub-", "a/b", "a_b", "*", "a.b"])
def test_hostile_labels_are_refused(label: str) -> None:
    with pytest.raises(UsageError, match="label"):
        parse(APP, [*POSITIONALS, "--participant-label", label])


@pytest.mark.parametrize(
    "arguments",
    [
        "data out participant --model fithrf --task-id a b",
        "--model fithrf --task-id a b -- data out participant",
        "--model fithrf --task-id a b data out participant",
        "--task-id a b --model fithrf data out participant",
        "data --model fithrf --task-id a b -- out participant",
        "--task-id a b --nprocs 1 data out participant --model fithrf",
        "--nprocs 1 data -w work out participant --model fithrf --task-id a b",
        "data out participant --task-id a --task-id b --model=fithrf",
        "--model fithrf --task-id a b --compat glmsingle data out participant",
        "--model fithrf --task-id a b --compat data out participant",
    ],
)
def test_options_may_stand_before_among_and_after_the_positionals(arguments: str) -> None:
    config = parse(APP, arguments.split())
    assert (config.bids_dir.name, config.output_dir.name, config.levels) == ("data", "out", ("participant",))
    assert config.bids.task_id == ("a", "b")
    assert config.settings.model == ("fithrf",)


def test_both_levels_after_a_list_option() -> None:
    config = parse(APP, ["--task-id", "a", "data", "out", "participant", "group"])
    assert config.levels == ("participant", "group")
    assert config.bids.task_id == ("a",)


@given(
    labels=st.lists(st.text("abcXYZ019", min_size=1, max_size=5), min_size=1, max_size=4),
    before=st.booleans(),
    groups=st.booleans(),
)
def test_no_positional_is_swallowed(labels: list[str], before: bool, groups: bool) -> None:
    positionals = ["in", "there", "participant", *(["group"] if groups else [])]
    options = ["--nuisance-events", *labels]
    config = parse(APP, [*options, *positionals] if before else [*positionals, *options])
    assert config.settings.nuisance_events == tuple(labels)
    assert config.levels == tuple(positionals[2:])


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "data",
        "data out",
        "data --task-id a out participant",
        "--task-id data out",
        "data out participant group group extra",
        "data out session",
    ],
)
def test_missing_or_unknown_positionals_are_errors(arguments: str) -> None:
    with pytest.raises(UsageError, match=r"required|analysis level"):
        parse(APP, arguments.split())


@pytest.mark.parametrize(("arguments", "told"), [("", False), ("data out", False), ("data --task-id a out participant", True)])
def test_options_that_took_positionals_are_blamed_only_where_there_are_options(arguments: str, told: bool) -> None:
    with pytest.raises(UsageError, match="required") as caught:
        parse(APP, arguments.split())
    assert ("takes all that follow it" in str(caught.value)) == told


@pytest.mark.parametrize(
    "arguments",
    [
        "--unknown",
        "--particip 01",
        "--model nosuch",
        "--nprocs x",
        "--mem lots",
        "--file-format analyze",
        "--debug nosuch",
        "--mem",
        "--brain-threshold 1",
    ],
)
def test_argparse_refuses_with_status_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        parse(APP, [*POSITIONALS, *arguments.split()])
    assert leave.value.code == 2
    assert arguments.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "--nprocs 0",
        "--omp-nthreads 0",
        "--mem-gb 0",
        "--random-seed -1",
        "--aggregate-session-reports 0",
        "--device tpu",
        "--device cuda:x",
        "--dry-run --reports-only",
        "--boilerplate-only --dry-run",
        "--n-pcs -1",
        "--fractions 0",
    ],
)
def test_values_out_of_range_are_usage_errors(arguments: str) -> None:
    with pytest.raises(UsageError):
        parse(APP, [*POSITIONALS, *arguments.split()])


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        ("--compat", "compat", "glmsingle"),
        ("--compat glmsingle", "compat", "glmsingle"),
        ("--no-autoscale --model fithrfdenoiserr", "autoscale", False),
        ("--pcs-stop -3", "pcs_stop", -3.0),
        ("--brain-threshold 90 .2", "brain_threshold", (90.0, 0.2)),
        ("--cv-folds 1,2 3,4", "cv_folds", (("1", "2"), ("3", "4"))),
        ("--fractions 0.5 --model fithrfdenoiserr", "fractions", (0.5,)),
        ("--hrf-library ~/x.tsv", "hrf_library", Path("~/x.tsv").expanduser()),
        ("--confounds trans_* rot_x", "confounds", ("trans_*", "rot_x")),
    ],
)
def test_a_settings_field_is_a_flag(arguments: str, name: str, expected: Any) -> None:
    assert value("settings", name, *arguments.split()) == expected


def test_a_switch_of_a_configuration_file_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "conform.toml"
    path.write_text('[execution]\nlow_mem = true\n[settings]\nmodel = ["fithrf", "fithrfdenoiserr"]\nlss = true\nautoscale = false\n')
    config = parse(APP, [*POSITIONALS, "--config-file", str(path)])
    assert (config.execution.low_mem, config.settings.lss, config.settings.autoscale) == (True, True, False)
    config = parse(APP, [*POSITIONALS, "--config-file", str(path), "--no-low-mem", "--no-lss", "--autoscale"])
    assert (config.execution.low_mem, config.settings.lss, config.settings.autoscale) == (False, False, True)


def test_every_option_is_in_the_help_and_none_has_an_effect_by_default() -> None:
    text = build_parser(APP).format_help()
    config = parse(APP, POSITIONALS)
    for section, options in (("bids", BIDSOptions), ("execution", ExecutionOptions), ("actions", Actions), ("settings", APP.settings)):
        for entry in options_of(options):
            assert entry.flag in text
            assert all(alias in text for alias in entry.aliases)
            if entry.kind is not Path and entry.name != "model":  # which follows from others
                assert getattr(getattr(config, section), entry.name) == entry.default


@pytest.mark.parametrize("app", sorted(point.name for point in entry_points(group="conform.apps")))
def test_every_option_has_a_sentence_one_ending_and_an_opposite(app: str) -> None:
    parser = build_parser(find_app(app))
    for action in parser._actions:
        told = (action.help or "").replace("%%", "%")
        assert told == argparse.SUPPRESS or len(told.split()) > 2, f"{action.option_strings}: {told!r}"
        assert not re.search(r"\(default: [^()]*\)\. \(", told), told
        if any(flag.startswith("--no-") for flag in action.option_strings) and action.nargs == 0 and told != argparse.SUPPRESS:
            assert "Opposite: --" in told or action.option_strings == ["--no-gpu"], told
    assert "--no-low-mem" in " ".join(parser.format_help().split())


def test_a_range_stands_with_a_default_in_words() -> None:
    text = " ".join(build_parser(APP).format_help().split())
    assert "at once (at least 1; default: those that this process may use)." in text
    assert "(in %; default: found from the data)." in text
    assert "Opposite: --autoscale." in text
    psn = " ".join(build_parser(find_app("psn")).format_help().split())
    assert "Opposite: --rescale." in psn and "--no-session-zscore never does (default: where" in psn


def test_the_toy_app_has_the_same_spine(toy: ModuleType) -> None:
    config = parse(toy.APP, [*POSITIONALS, "--power", "2", "--participant-label", "01", "--no-keep"])
    assert (config.settings.power, config.settings.keep, config.bids.participant_label) == (2.0, False, ("01",))
    shared = {flag for action in build_parser(toy.APP)._actions for flag in action.option_strings}
    assert {"--participant-label", "--mem", "--config-file", "--dry-run", "--power"} <= shared


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        parse(APP, ["--version"])
    assert leave.value.code == 0
    assert capsys.readouterr().out == f"conform-glm v{APP.version}\n"


def test_help_loads_no_library() -> None:
    heavy = ("torch", "nipype", "nilearn", "nibabel", "numpy", "pandas", "bids", "matplotlib", "yaml", "importlib.metadata")
    code = (
        "import sys\nfrom bids_app.glm.__main__ import main\nsys.argv = ['conform-glm', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "--participant-label" in done.stdout
    assert done.stderr.strip() == "[]"
