"""Input that is unsound in part: what can be used is, the rest is set aside, counted and told, and hostile text stays text."""

from __future__ import annotations

import csv
import html.parser
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

SPACE = "MNI152NLin2009cAsym"
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></title><svg onload=alert(1)>",
    "javascript:alert(1) & {{ 7*7 }} {% include '/etc/passwd' %}",
    "=cmd|'/c calc'!A0 $(touch made-by-a-shell) `id`; rm -rf ~ %s %n $x^2$ \\frac{",
    "ü中文\u202eهههه\U0001f9e0" + "x" * 5000,
)
BAD_TRIALS = {
    "9999\t1\tc0": "outside of the run",
    "-3\t1\tc0": "outside of the run",
    "inf\t1\tc0": "outside of the run",
    "n/a\t1\tc0": "the onset is missing",
    "50\t-1\tc0": "is negative",
    "51\tn/a\tc0": "the duration is missing",
    "52\tinf\tc0": "is infinite",
    "53\t1\tn/a": "no stimulus",
}


def _bad_trials(tiny: Any, make: SimpleNamespace) -> None:
    path = tiny.events("badtrials", "2")
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows), rows[0], *BAD_TRIALS]) + "\n")


def _bad_voxels(tiny: Any, make: SimpleNamespace) -> None:
    image = nib.load(tiny.bold("badvoxels", "2"))
    values = np.asarray(image.dataobj).copy()
    values[1, 0, 0, 30] = np.nan
    values[1, 0, 1] = np.nan
    values[1, 0, 2, 5] = np.inf
    values[2, 0, 0] = 500
    values[2, 1, 0] = 0
    nib.save(nib.Nifti1Image(values, image.affine, image.header), tiny.bold("badvoxels", "2"))
    for run in "123":  # empty throughout
        image = nib.load(tiny.bold("badvoxels", run))
        values = np.asarray(image.dataobj).copy()
        values[2, 2, 0] = 0
        nib.save(nib.Nifti1Image(values, image.affine, image.header), tiny.bold("badvoxels", run))


def _no_repeats(tiny: Any, make: SimpleNamespace) -> None:
    for run in "123":
        tiny.events("norepeats", run).write_text(make.events([f"r{run}c{k}" for k in range(12)]))


def _hostile(tiny: Any, make: SimpleNamespace) -> None:
    for run in "123":
        names = [HOSTILE[int(name.removeprefix("c"))] for name in make.conditions(int(run))]
        tiny.events("hostile", run).write_text(make.events(names), encoding="utf-8")


def _hostile_files(tiny: Any, make: SimpleNamespace) -> None:
    secret = tiny.root.parent / "secret.png"
    secret.write_bytes(b"secret")
    stimuli = tiny.root / "stimuli"
    stimuli.mkdir()
    (stimuli / "a.png").write_bytes(b"a")
    (stimuli / "out.png").symlink_to(secret)
    (stimuli / "pipe").mkdir()
    files = ["a.png", "../../secret.png", str(secret), "out.png", "pipe", "nosuch.png"]
    for run in "123":
        names = make.conditions(int(run))
        rows = [f"{onset:g}\t1\t{name}\t{files[int(name[1:])]}" for onset, name in zip(make.onsets, names, strict=True)]
        tiny.events("hostilefiles", run).write_text("\n".join(["onset\tduration\tstim_id\tstim_file", *rows]) + "\n")


def _one_run(tiny: Any, make: SimpleNamespace) -> None:
    for run in "23":
        tiny.bold("onerun", run).unlink()


CHANGES = {
    "badtrials": _bad_trials,
    "badvoxels": _bad_voxels,
    "norepeats": _no_repeats,
    "hostile": _hostile,
    "hostilefiles": _hostile_files,
    "onerun": _one_run,
}


@pytest.fixture(scope="module")
def run(make: SimpleNamespace, run_glm: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("usable")
    tiny = make.dataset(folder / "ds", tuple(CHANGES))
    for change in CHANGES.values():
        change(tiny, make)
    done = run_glm(tiny.root, folder / "out", "--model", "conform", "fithrf", "fithrfdenoiserr", timeout=300)
    return SimpleNamespace(tiny=tiny, out=folder / "out", done=done)


def maps(run: SimpleNamespace, label: str, ending: str) -> np.ndarray:
    path = run.out / f"sub-{label}" / "func" / f"sub-{label}_task-x_space-{SPACE}_{ending}.nii.gz"
    return np.asarray(nib.load(path).dataobj)


def metrics(run: SimpleNamespace, label: str) -> dict[str, str]:
    path = run.out / f"sub-{label}" / "func" / f"sub-{label}_task-x_space-{SPACE}_desc-glm_metrics.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)
    return dict(zip(table["metric"], table["value"], strict=True))


def trials(run: SimpleNamespace, label: str) -> pd.DataFrame:
    path = run.out / f"sub-{label}" / "func" / f"sub-{label}_task-x_desc-fithrf_trials.tsv"
    return pd.read_csv(
        path, sep="\t", dtype={"run_id": str, "stim_id": str, "trial_type": str}, keep_default_na=False, quoting=csv.QUOTE_NONE
    )


def report(run: SimpleNamespace, label: str) -> str:
    return (run.out / f"sub-{label}.html").read_text(encoding="utf-8")


def test_all_complete(run: SimpleNamespace) -> None:
    run.done.expect(0, *(f"sub-{label}: completed" for label in CHANGES))


class TestTrials:
    def test_unsound_ones_are_left_out_and_told(self, run: SimpleNamespace) -> None:
        name = "sub-badtrials_task-x_run-2_events.tsv"
        assert f"{name}: events are not in order of onset; they were sorted" in run.done.stderr
        assert f"{name}: {len(BAD_TRIALS) + 1} of {12 + len(BAD_TRIALS) + 1} events left out" in run.done.stderr
        assert metrics(run, "badtrials")["n_trials_set_aside"] == str(len(BAD_TRIALS) + 1)
        page = report(run, "badtrials")
        for reason in (*BAD_TRIALS.values(), "duplicate"):
            assert reason in page
        for number in range(14, 14 + len(BAD_TRIALS) + 1):
            assert f"{name}:{number}" in page

    def test_the_rest_is_modelled_in_order(self, run: SimpleNamespace) -> None:
        table = trials(run, "badtrials")
        assert len(table) == 36
        for _, rows in table.groupby("run_id"):
            assert rows["onset"].is_monotonic_increasing
        assert maps(run, "badtrials", "stat-effect_desc-fithrf_statmap").shape[-1] == 36

    def test_no_repeats_fall_back_and_say_so(self, run: SimpleNamespace) -> None:
        assert metrics(run, "norepeats")["n_repeated"] == "0"
        warning = next(line for line in run.done.stderr.splitlines() if line.startswith("WARNING: sub-norepeats_"))
        assert "repeat" in warning
        assert "repeat" in report(run, "norepeats")
        assert list((run.out / "sub-norepeats" / "func").glob("*desc-fithrf_statmap.nii.gz"))
        assert not list((run.out / "sub-norepeats" / "func").glob("*noiseceiling*")), "a noise ceiling needs repeats"

    def test_a_single_run(self, run: SimpleNamespace) -> None:
        assert len(trials(run, "onerun")) == 12
        assert np.isfinite(maps(run, "onerun", "stat-effect_desc-fithrf_statmap")[1:]).all()


class TestUnits:
    def test_they_are_set_aside_and_counted(self, run: SimpleNamespace) -> None:
        counted = metrics(run, "badvoxels")
        assert (counted["n_units_nan"], counted["n_units_empty"], counted["n_units_valid"]) == ("0", "1", "99")
        assert counted["n_units_constant"] == "0"
        page = report(run, "badvoxels")
        assert "not finite in a run" in page
        assert "zero throughout" in page
        assert "constant in a run" in page

    def test_they_are_nan_in_every_map_and_the_others_are_not(self, run: SimpleNamespace) -> None:
        bad = np.zeros((6, 5, 4), dtype=bool)
        bad[0] = True  # outside of the mask
        bad[2, 2, 0] = True  # empty throughout
        partial = np.zeros_like(bad)
        for voxel in [(1, 0, 0), (1, 0, 1), (1, 0, 2), (2, 0, 0), (2, 1, 0)]:  # not finite or constant in run 2
            partial[voxel] = True
        for ending in (
            "stat-effect_desc-fithrf",
            "stat-effect_desc-conform",
            "stat-effect_desc-fithrfdenoiserr",
            "stat-rsquared_desc-fithrf",
            "stat-hrfindex_desc-fithrf",
        ):
            values = maps(run, "badvoxels", f"{ending}_statmap")
            assert np.isnan(values[bad]).all(), ending
            assert np.isfinite(values[~bad & ~partial]).all(), ending
            by_run = np.isfinite(values[partial]).reshape(5, 3, -1) if values.ndim == 4 else np.isfinite(values[partial])[:, None, None]
            assert by_run.all(axis=2).tolist() == by_run.any(axis=2).tolist()
            assert by_run.all(axis=2).tolist() == [[True, False, True] if values.ndim == 4 else [True]] * 5, ending
        assert np.array_equal(maps(run, "badvoxels", "desc-brain_mask").astype(bool), ~bad)


class _Tags(html.parser.HTMLParser):
    """What a browser would see: tags and attributes of a page, outside of inlined figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.values: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += [value for name, value in attrs if value and name in ("href", "src", "xlink:href")]


class TestHostileText:
    def test_it_is_text_in_the_report(self, run: SimpleNamespace) -> None:
        page = report(run, "hostile")
        seen = _Tags(page)
        assert "script" not in seen.tags
        assert not [name for name in seen.attributes if name.startswith("on")]
        assert not [value for value in seen.values if value.lower().startswith(("javascript:", "http:", "//"))]
        assert "onerror='alert" not in page.replace("&#39;", "'").replace("&quot;", '"') or "<img src=x" not in page
        for needle in ("<script>alert", "<img src=x", "<svg onload", "root:x:0"):
            assert needle not in page, needle

    def test_figures_hold_no_elements_of_it(self, run: SimpleNamespace) -> None:
        figures = list((run.out / "sub-hostile" / "figures").glob("*.svg"))
        assert figures
        for path in figures:
            seen = _Tags(path.read_text(encoding="utf-8"))
            assert "script" not in seen.tags
            assert not [name for name in seen.attributes if name.startswith("on")]

    def test_it_comes_back_whole_from_the_tables(self, run: SimpleNamespace) -> None:
        assert set(trials(run, "hostile")["stim_id"]) == set(HOSTILE)
        table = pd.read_csv(
            run.out / "stimuli" / "sub-hostile_stimuli.tsv", sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
        assert set(table["stim_id"]) == set(HOSTILE)

    def test_stimuli_outside_of_their_folder_are_not_read(self, run: SimpleNamespace) -> None:
        table = pd.read_csv(
            run.out / "stimuli" / "sub-hostilefiles_stimuli.tsv", sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
        hashes = dict(zip(table["stim_file"], table["sha256"], strict=True))
        assert len(hashes["a.png"]) == 64
        for name in ("../../secret.png", str(run.tiny.root.parent / "secret.png"), "pipe", "nosuch.png"):
            assert hashes.get(name, "n/a") == "n/a", name

    def test_no_path_outside_of_the_output_folder_was_written(self, run: SimpleNamespace) -> None:
        assert sorted(path.name for path in run.out.parent.iterdir()) == ["ds", "out", "secret.png", "work"]
        assert not list(run.out.parent.rglob("made-by-a-shell")) and not Path("made-by-a-shell").exists()


def test_names_too_long_for_their_outputs_fail_plainly(make: SimpleNamespace, run_glm: Callable[..., Any], tmp_path: Path) -> None:
    """Labels may fill a file name; ours are longer by a few letters."""
    tiny = make.dataset(tmp_path / "ds", ("01", "02"))
    for path in [*tiny.root.rglob("sub-01_task-x_*")]:
        path.rename(path.with_name(path.name.replace("task-x", "task-" + "x" * 180)))
    done = run_glm(tiny.root, tmp_path / "out", "--model", "fithrf", "--sloppy")
    done.expect(1, "sub-01: failed", "sub-02: completed", "too long")


def test_a_long_label_that_fits_is_processed(make: SimpleNamespace, run_glm: Callable[..., Any], tmp_path: Path) -> None:
    tiny = make.dataset(tmp_path / "ds", ("01",))
    for path in [*tiny.root.rglob("sub-01_task-x_*")]:
        path.rename(path.with_name(path.name.replace("task-x", "task-" + "x" * 150)))
    run_glm(tiny.root, tmp_path / "out", "--model", "fithrf").expect(0, "sub-01: completed")
