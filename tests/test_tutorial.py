"""Pages of the documentation that are run: the tutorial, the Python API, and where things of GLMsingle are."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from conform_bids.glm import SingleTrialFit, SingleTrialModel, fit_single_trials
from conform_bids.glm.files import Plan, PlannedRun, output_maps, output_tables
from conform_bids.glm.settings import MODELS, GLMSettings


@pytest.fixture(scope="module")
def runner(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_page", repository / "ci" / "run_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["python", pytest.param("tutorial", marks=pytest.mark.slow)])
def test_page_runs_and_keeps_its_promises(page: str, runner: ModuleType, repository: Path, tmp_path: Path) -> None:
    docs = repository / "docs"
    runner.run_page(docs / "glm" / f"{page}.md", tmp_path, docs / "images")
    text = (docs / "glm" / f"{page}.md").read_text()
    pictures = re.findall(r"\]\(\.\./images/([\w-]+\.png)\)", text)
    assert pictures
    assert all((docs / "images" / name).stat().st_size < 100_000 for name in pictures)
    promised = [block for block in runner.read_blocks(text) if block.language == "text"]
    assert promised and all(block.text.strip() for block in promised)


BROKEN = {
    "a command that fails": ("```bash\nfalse\n```\n", "exit code 1"),
    "a command after one that fails": ("```bash\nfalse\ntrue\n```\n", "exit code 1"),
    "a snippet that fails": ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
    "another line": ("```bash\necho one\n```\n\n```text\ntwo\n```\n", "the page promises\n    two"),
    "another order": ("```bash\necho one; echo two\n```\n\n```text\ntwo\none\n```\n", "promises\n    one"),
    "another number": ("```python\nprint(1.50)\n```\n\n```text\n1.20\n```\n", "promises\n    1.20"),
    "another count": ("```python\nprint(12, 'units')\n```\n\n```text\n11 units\n```\n", "promises\n    11 units"),
    "a picture that is not made": ("![map](../images/page_map.png)\n", "page_map.png, which it does not make"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_page_that_rots_is_noticed(fault: str, runner: ModuleType, tmp_path: Path) -> None:
    text, message = BROKEN[fault]
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(runner.PageError, match=re.escape(message)):
        runner.run_page(tmp_path / "page.md", tmp_path, tmp_path)


def test_a_page_may_be_vague_and_is_written_again(runner: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\npwd; echo 'took 3 s'; echo 'r  =  0.512'; echo done; touch page_map.png\n```\n\n"
        "```text\n/data\ntook ... s\n...\nr = 0.51\n```\n\n```python\nx = 2\n```\n\n```python\nprint(x + 1)\n```\n\n"
        "```text\nold\n```\n![map](../images/page_map.png)\n"
    )
    with pytest.raises(runner.PageError, match="old"):
        runner.run_page(page, tmp_path, tmp_path / "images")
    runner.run_page(page, tmp_path, tmp_path / "images", write=True)
    assert "```text\n3\n```" in page.read_text() and "took ... s" in page.read_text()
    assert (tmp_path / "images" / "page_map.png").is_file()
    runner.run_page(page, tmp_path, tmp_path / "images")


@pytest.fixture(scope="module")
def mapping(repository: Path) -> str:
    return (repository / "docs" / "glm" / "from-glmsingle.md").read_text()


def _codes(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


def test_flags_of_the_mapping_exist_and_none_is_forgotten(mapping: str) -> None:
    from bids_app.cli import build_parser
    from bids_app.glm.__main__ import APP
    from conform_bids.options import options_of

    flags = {flag for action in build_parser(APP)._actions for flag in action.option_strings}
    written = set(re.findall(r"--[a-z][\w-]*", mapping))
    assert written <= flags
    assert {entry.flag for entry in options_of(GLMSettings)} <= written


def test_files_of_the_mapping_are_written(mapping: str) -> None:
    run = PlannedRun("01", "01", (Path("bold"),), None, Path("events"), None, 2.0, 0.0, 100)
    plan = Plan(
        "01", {"sub": "01", "task": "t", "space": "T1w"}, "nifti", (run,), MODELS, GLMSettings(write=("shrinkage", "ols")), 0, Path("OUT")
    )
    paths = [path for row in output_maps(plan) for path in row.paths] + [table.path for table in output_tables(plan)]
    patterns = [code for code in _codes(mapping) if re.match(r"(stat|desc|run)-", code)]
    assert len(patterns) > 12
    for pattern in patterns:
        models = MODELS if "<model>" in pattern else ("",)
        fitted = [model for model in models if not (model == "assumehrf" and "hrfindex" in pattern)]
        for model in fitted:
            name = pattern.replace("<model>", model).replace("run-<label>", "run-01").replace("space-<label>", "space-T1w")
            assert any(name in path for path in paths), f"{pattern} of {model} is not written"


def test_names_of_python_in_the_mapping_exist(mapping: str) -> None:
    import inspect

    of_fit = {entry.name for entry in dataclasses.fields(SingleTrialFit)} | set(dir(SingleTrialFit))
    of_model = {entry.name for entry in dataclasses.fields(SingleTrialModel)} | set(dir(SingleTrialModel))
    codes = " ".join(_codes(mapping))
    assert set(re.findall(r"\bfit\.(\w+)", codes)) <= of_fit
    assert set(re.findall(r"\bfit\[[\w\"]+\]\.(\w+)", codes)) <= of_model
    keywords = set(inspect.signature(fit_single_trials).parameters) | {entry.name for entry in dataclasses.fields(GLMSettings)}
    options = mapping.split("## Options")[1].split("Without a counterpart")[0]
    named = [row.split("|")[3] for row in options.splitlines() if row.startswith("| `")]
    assert len(named) > 15
    assert {code.partition("=")[0] for cell in named for code in _codes(cell)} <= keywords


def test_every_option_and_result_of_glmsingle_has_its_place(mapping: str) -> None:
    options = "wantlibrary wantglmdenoise wantfracridge wantlss wantautoscale sessionindicator chunklen chunknum xvalscheme wantpercentbold"
    options += " extra_regressors maxpolydeg hrftoassume hrflibrary firdelay firpct n_pcs numpcstotry pcR2cutoff pcR2cutoffmask pcR2cutmask"
    options += " brainthresh brainR2 brainexclude pcstop fracs wantmemoryoutputs wantfileoutputs wanthdf5 seed stimdur tr design data"
    results = "betasmd R2 R2run HRFindex HRFindexrun noisepool pcnum pcvoxels pcregressors glmbadness xvaltrend FRACvalue rrbadness"
    results += (
        " scaleoffset meanvol FitHRFR2 FitHRFR2run onoffR2 designSINGLE stimorder numtrialrun condcounts condinruns endbuffers params"
    )
    assert set((options + " " + results).split()) <= {word for code in _codes(mapping) for word in re.findall(r"\w+", code)}


def test_inputs_of_glmsingle_give_its_results(mapping: str, reference_case: Any) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", mapping, re.DOTALL)
    case = reference_case("e_structured_noise")
    n_runs = len(case["in_run_lens"])
    data = [case[f"in_data_run{run}"].reshape(8, 30, 1, -1) for run in range(n_runs)]
    design = [np.zeros((length, int(case["in_ncond"]))) for length in case["in_run_lens"]]
    for run, volume, condition in case["in_events"]:
        design[run][volume, condition] = 1
    names: dict[str, Any] = {"data": data, "design": design, "stimdur": float(case["in_stimdur"]), "tr": float(case["in_tr"])}
    exec(compile(snippet, "from-glmsingle.md", "exec"), names)
    assert names["fit"].n_pcs == int(case["typec_pcnum"])
    reference = case["typed_betasmd"].reshape(8, 30, 1, -1)
    compared = np.isfinite(reference).all(axis=-1)
    difference = np.abs(names["betasmd"] - reference)[compared]
    assert np.median(difference) < 1e-3 * np.abs(reference[compared]).max()


def test_every_attribute_of_a_fit_is_described(repository: Path) -> None:
    words = {word for code in _codes((repository / "docs" / "glm" / "python.md").read_text()) for word in re.findall(r"\w+", code)}
    documented = {entry.name for record in (SingleTrialFit, SingleTrialModel) for entry in dataclasses.fields(record)}
    assert documented - {"name"} <= words
