"""The configuration as a TOML file: there and back, from any folder, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_app.cli import parse
from bids_app.config import RunConfig, derivative_paths, new_run_id, write_toml
from bids_app.glm.__main__ import APP
from bids_app.run_options import BIDSOptions
from conform_bids.errors import MissingInputError, UsageError

BASE = ("data", "out", "participant")


def comparable(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, run_id="", command_line=())


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--participant-label 01 02 --session-label 1 --task-id a --run-label 1 --output-spaces T1w MNI:res-2 --file-format nifti",
        "-d fmriprep=../x y --bids-database-dir db --skip-bids-validation --bids-filter-file f.json",
        "--nprocs 2 --omp-nthreads 1 --mem 4G --low-mem --use-plugin p.yml -w scratch --device cpu --debug all -vv --sloppy",
        "--write-graph --resource-monitor --stop-on-first-crash --md-only-boilerplate --aggregate-session-reports 2 --notrack",
        "--compat --cv-folds 1,2 3,4 --session-groups 01,02 --no-autoscale --pcs-stop -2 --hrf-library h.tsv --trial-filter a=='\"b\"'",
    ],
)
def test_the_written_file_gives_the_same_configuration(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(APP, [*BASE, *arguments.split()])
    path = tmp_path / "logs" / "conform.toml"
    write_toml(config, path, "1.0")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert comparable(parse(APP, ["--config-file", str(path)])) == comparable(config)


@given(
    fractions=st.lists(st.floats(0.001, 1), min_size=1, max_size=4),
    types=st.lists(st.text(min_size=1).filter(str.isprintable), max_size=3),
    degree=st.none() | st.integers(0, 30),
)
def test_settings_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, fractions: list[float], types: list[str], degree: int | None
) -> None:
    config = parse(APP, [*BASE, "--model", "fithrfdenoiserr"])
    settings = dataclasses.replace(config.settings, fractions=tuple(fractions), nuisance_events=tuple(types), polynomial_degree=degree)
    path = tmp_path_factory.mktemp("toml") / "conform.toml"
    write_toml(dataclasses.replace(config, settings=settings), path, "1.0")
    assert parse(APP, ["--config-file", str(path)]).settings == settings


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "conform.toml"
    write_toml(parse(APP, [*BASE, "--participant-label", "01", "02", "--n-pcs", "4", "--random-seed", "1"]), path, "1.0")
    config = parse(APP, ["other", "there", "group", "--config-file", str(path), "--participant-label", "03", "--n-pcs", "5"])
    assert (config.bids_dir.name, config.output_dir.name, config.levels) == ("other", "there", ("group",))
    assert config.bids.participant_label == ("03",)
    assert (config.settings.n_pcs, config.execution.random_seed) == (5, 1)


def test_relative_paths_of_a_file_written_by_hand_count_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        '[run]\nbids_dir = "data"\noutput_dir = "../out"\nlevels = "participant"\n[bids]\nderivatives = ["fmriprep=prep"]\n'
        '[execution]\nwork_dir = "scratch"\n[settings]\nhrf_library = "h.tsv"\nmodel = "fithrf"\n'
    )
    config = parse(APP, ["--config-file", str(path)])
    assert (config.bids_dir, config.output_dir) == (tmp_path / "data", tmp_path.parent / "out")
    assert config.execution.work_dir == tmp_path / "scratch"
    assert config.bids.derivatives == (f"fmriprep={tmp_path / 'prep'}",)
    assert config.settings.hrf_library == tmp_path / "h.tsv"
    assert config.settings.model == ("fithrf",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[settings]\nnosuch = 1\n", "nosuch"),
        ("[bids]\nnosuch = 1\n", "nosuch"),
        ("[run]\nnosuch = 1\n", "nosuch"),
        ("[nosuch]\n", "nosuch"),
        ("n_pcs = 1\n", "n_pcs"),
        ("[actions]\ndry_run = true\n", "actions"),
        ("[settings]\nn_pcs = 'many'\n", "n_pcs"),
        ("[settings]\nn_pcs = 1.5\n", "n_pcs"),
        ("[settings]\nn_pcs = 1000\n", "--n-pcs"),
        ("[execution]\nlow_mem = 1\n", "low_mem"),
        ("[run]\napp = 'psn'\n", "conform-psn"),
        ("[run]\nlevels = ['session']\n", "session"),
        ("[bids]\nparticipant_label = ['../x']\n", "label"),
        ("not TOML", "not a TOML file"),
    ],
)
def test_what_a_file_may_not_hold_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "conform.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        parse(APP, [*(BASE if "levels" not in content else ()), *(BASE[:2] if "levels" in content else ()), "--config-file", str(path)])


def test_an_absent_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        parse(APP, [*BASE, "--config-file", str(tmp_path / "absent.toml")])


def test_an_option_that_takes_a_name_or_a_file_is_made_absolute_when_it_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(APP, [*BASE, "--split", "split"]).settings.split == "split"
    (tmp_path / "split").write_text("")
    assert parse(APP, [*BASE, "--split", "split"]).settings.split == str(tmp_path / "split")


def test_derivatives_need_names_that_differ_and_folders_that_exist(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "prep").mkdir(parents=True)
    named = BIDSOptions(derivatives=(f"one={tmp_path}/a/prep", f"{tmp_path}/b/prep"))
    assert derivative_paths(named) == {"one": tmp_path / "a" / "prep", "prep": tmp_path / "b" / "prep"}
    with pytest.raises(UsageError, match="prep"):
        derivative_paths(BIDSOptions(derivatives=(f"{tmp_path}/a/prep", f"{tmp_path}/b/prep")))
    with pytest.raises(MissingInputError, match="absent"):
        derivative_paths(BIDSOptions(derivatives=(f"x={tmp_path}/absent",)))


def test_runs_have_names_of_their_own_and_in_order(toy: ModuleType) -> None:
    first, second = new_run_id(), new_run_id()
    assert first != second
    date, _, unique = first.partition("_")
    assert (len(date), len(unique)) == (15, 36)
    assert parse(toy.APP, BASE).run_id.startswith(date[:8])
