"""The store and the split at the level group of conform-align."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis

from bids_app.store.__main__ import main
from conform_bids.align.aggregate import aggregate
from conform_bids.align.settings import AlignSettings
from conform_bids.errors import MissingInputError
from conform_bids.jobs import GroupInputs
from conform_bids.stimuli import backbones_models
from conform_bids.stimuli.feature_files import read_features, write_features
from conform_bids.stimuli.features import FeatureCard, FeatureTable
from conform_bids.store.reading import Store
from conform_bids.store.verify import verify_store


def align(*words: object) -> SimpleNamespace:
    """conform-align in this process."""
    from bids_app.align.__main__ import APP
    from bids_app.run import main

    typed = [*map(str, words), "--debug", "workflow", "--skip-bids-validation", "--nprocs", "1"]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(APP, typed)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return SimpleNamespace(status=status, text=output.getvalue() + errors.getvalue())


def test_datasets_are_aggregated_without_alignment_and_added_later(world: SimpleNamespace, tmp_path: Path) -> None:
    one, two = f"One={world.root / 'one'}", f"Two={world.root / 'two'}"
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--store", "-d", one)
    assert run.status == 0, run.text
    store = Store(tmp_path / "out" / "store")
    assert store.participants["participant_id"].tolist() == ["sub-One01", "sub-One02"]
    pd.testing.assert_frame_equal(store.stimuli, Store(world.store).stimuli)
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "store").rglob("*.h5")}
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--store", "-d", one, two)
    assert run.status == 0, run.text
    both = Store(tmp_path / "out" / "store")
    assert both.participants["participant_id"].tolist() == ["sub-One01", "sub-One02", "sub-Two01"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert verify_store(tmp_path / "out" / "store").sound
    page = (tmp_path / "out" / "group_store.html").read_text()
    assert "A store of 3 people, version 1.1.0" in page and "One: a06.png, Two: b00.png are the same, test" in page
    again = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--store", "-d", one, two)
    assert again.status == 0, again.text
    assert Store(tmp_path / "out" / "store").version == both.version


def test_each_dataset_has_derivatives_of_its_own(world: SimpleNamespace, tmp_path: Path) -> None:
    """Betas and stimuli that lie elsewhere, and people as the output calls them."""
    glm = {name: shutil.copytree(world.root / name / "derivatives" / "conform-glm", tmp_path / f"glm-{name}") for name in ("one", "two")}
    bare = shutil.copytree(world.root / "two", tmp_path / "two", ignore=shutil.ignore_patterns("derivatives"))
    named = ("-d", f"One={glm['one']}", f"One.raw={world.root / 'one'}", f"Two={bare}", f"Two.conform-glm={glm['two']}", f"Two.raw={bare}")
    given = (bare, tmp_path / "out", "group", "-w", tmp_path / "work", "--store", *named)
    run = align(*given, "--participant-label", "One02")
    assert run.status == 0, run.text
    assert Store(tmp_path / "out" / "store").participants["participant_id"].tolist() == ["sub-One02"]
    run = align(*given, "--overwrite")
    assert run.status == 0, run.text
    store = Store(tmp_path / "out" / "store")
    assert store.participants["participant_id"].tolist() == ["sub-One01", "sub-One02", "sub-Two01"]
    stimuli = store.stimuli.set_index(["dataset", "stim_id"])
    expected = Store(world.store).stimuli.set_index(["dataset", "stim_id"])["sha256"]
    assert (expected != "n/a").all() and stimuli.loc[expected.index, "sha256"].equals(expected), "stimuli are found in NAME.raw"


def test_one_dataset_is_named_by_its_folder(world: SimpleNamespace, tmp_path: Path) -> None:
    run = align(world.root / "two", tmp_path / "out", "group", "-w", tmp_path / "work", "--store")
    assert run.status == 0, run.text
    assert Store(tmp_path / "out" / "store").participants["participant_id"].tolist() == ["sub-two01"]


def test_the_split_is_of_stimuli_alone(world: SimpleNamespace, tmp_path: Path) -> None:
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", "--split-only", "-d", f"One={world.root / 'one'}")
    assert run.status == 0, run.text
    table = pd.read_csv(tmp_path / "out" / "split.tsv", sep="\t").set_index("stim_id")["split"]
    assert table["a00.png"] == table["a19.png"] == table["a18.png"] == "test", "what looks like a test stimulus is one"
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.parametrize("named", [True, False])
def test_the_split_finds_stimuli_in_a_raw_dataset_that_lies_elsewhere(named: bool, world: SimpleNamespace, tmp_path: Path) -> None:
    """As the raw dataset itself would be split, with what only the derivative names."""
    glm = shutil.copytree(world.root / "one" / "derivatives" / "conform-glm", tmp_path / "one")
    table = next(glm.rglob("*_trials.tsv"))
    table.write_text(table.read_text().replace("a01.png", "of another column"))
    words = ("-d", f"One={glm}", f"One.raw={world.root / 'one'}") if named else ("-d", f"raw={world.root / 'one'}")
    for out, given in (("elsewhere", (glm, *words)), ("raw", (world.root / "one",))):
        place, *more = given
        run = align(place, tmp_path / out, "group", "-w", tmp_path / "work", "--split-only", *more)
        assert run.status == 0, run.text
    found, expected = (
        pd.read_csv(tmp_path / out / "split.tsv", sep="\t").set_index("stim_id")[["split", "content_id"]] for out in ("elsewhere", "raw")
    )
    assert set(found.index) - set(expected.index) == {"of another column"}
    pd.testing.assert_frame_equal(found.loc[expected.index], expected)
    assert found.loc["a19.png", "split"] == "test", "what looks like a test stimulus is one"


def test_spaces_marks_and_features_can_be_chosen(world: SimpleNamespace, tmp_path: Path, make_dataset: object) -> None:
    """The dataset has two spaces; s10 is test by the file; s20 and s21 are the same by their features."""
    marks = {f"s{k}": "test" if k < 13 else "train" for k in range(11, 30)} | {"s10": "train"}
    for kind in ("cifti", "gifti"):
        make_dataset(tmp_path / "d", marks, participants=("01",), kind=kind)  # type: ignore[operator]
    generator = np.random.default_rng(0)
    names = sorted(marks)
    features = generator.standard_normal((len(names), 32)).astype(np.float32)
    features[names.index("s21")] = features[names.index("s20")]
    table = FeatureTable(features, names, ["n/a"] * len(names), FeatureCard())
    write_features(table, tmp_path / "f.h5")
    (tmp_path / "split.tsv").write_text("stim_id\tsplit\ns10\ttest\ns20\ttest\n")
    given = (tmp_path / "d", tmp_path / "out", "group", "-w", tmp_path / "work", "--store")
    run = align(*given)
    assert run.status == 1 and "choose one by --output-spaces" in run.text
    same = ("--store-features", tmp_path / "f.h5", "--store-threshold", "0.9", "--split", tmp_path / "split.tsv")
    run = align(*given, "--output-spaces", "fsaverage5", *same)
    assert run.status == 0, run.text
    store = Store(tmp_path / "out" / "store")
    assert store.parcels == ("left", "right") and store.manifest["settings"]["sameness"]["threshold"] == 0.9
    sides = store.stimuli.set_index("stim_id")
    assert sides.loc["s20", "content_id"] == sides.loc["s21", "content_id"] and (sides.loc[["s10", "s20", "s21"], "split"] == "test").all()
    # the same of the stimuli alone
    run = align(tmp_path / "d", tmp_path / "only", "group", "-w", tmp_path / "work", "--split-only", *same)
    assert run.status == 0, run.text
    only = pd.read_csv(tmp_path / "only" / "split.tsv", sep="\t").set_index("stim_id")
    assert only["split"].to_dict() == sides["split"].to_dict()
    # other settings are refused, and --overwrite makes the store anew
    run = align(*given, "--output-spaces", "fsaverage5", *same, "--store-threshold", "0.8")
    assert run.status == 1 and "a store of threshold 0.9" in run.text
    run = align(*given, "--output-spaces", "fsLR", "--overwrite")
    assert run.status == 0, run.text
    assert Store(tmp_path / "out" / "store").parcels == ("cortex_left", "cortex_right")
    assert verify_store(tmp_path / "out" / "store").sound


def test_noise_ceilings_by_an_atlas(world: SimpleNamespace, tmp_path: Path) -> None:
    half = [BrainModelAxis.from_surface(np.arange(25), 60, f"CIFTI_STRUCTURE_CORTEX_{side}") for side in ("LEFT", "RIGHT")]
    names = {0: ("???", (0, 0, 0, 0)), 1: ("V1", (1, 0, 0, 1)), 2: ("V2", (0, 1, 0, 1))}
    axes = (LabelAxis(["parcels"], [names]), half[0] + half[1])
    Cifti2Image((np.arange(50) % 3)[None].astype(np.float32), axes).to_filename(tmp_path / "atlas.dlabel.nii")
    run = align(
        *(world.root / "two", tmp_path / "out", "group", "-w", tmp_path / "work", "--store"),
        "--parcellation",
        tmp_path / "atlas.dlabel.nii",
    )
    assert run.status == 0, run.text
    store = Store(tmp_path / "out" / "store")
    assert store.parcels == ("V1", "V2") and set(store.noise_ceilings["parcel"]) == {"V1", "V2"}
    assert store.load(parcels=["V2"])[0].shape[1] == 16 and ">V1</td>" in (tmp_path / "out" / "group_store.html").read_text()


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--store-source", "psn"), 2, "without --store"),
        (("--store", "--split-only"), 2, "name one"),
        (("--store-features", "f.h5"), 2, "without --store or --split-only"),
        (("--store", "--store-threshold", "0.9"), 2, "both are needed"),
        (("--store", "--store-features", "f.h5"), 2, "both are needed"),
        (("--store", "--split", "trial_type"), 1, "take a file"),
        (("--store", "--store-source", "psn"), 66, "conform-psn"),
        (("--store", "-d", "a=.", "b=.", "conform-glm=."), 1, "Write NAME.conform-glm=PATH"),
        (("--store", "-d", "a=.", "b.raw=."), 1, "no dataset is called b"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(
    flags: tuple[str, ...], status: int, words: str, world: SimpleNamespace, tmp_path: Path
) -> None:
    run = align(world.root / "one", tmp_path / "out", "group", "-w", tmp_path / "work", *flags)
    assert run.status in (status, 1), run.text
    assert words in run.text


def test_features_of_the_stimuli_of_datasets(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each content once; features are an image of 4 by 4 pixels, by which a rescaled copy is found."""
    monkeypatch.setattr(backbones_models, "load_backbone", lambda name, device: tiny_backbone())
    one = f"One={world.root / 'one'}"
    words = ["features", str(tmp_path / "f.h5"), one, f"Two={world.root / 'two' / 'stimuli'}"]
    assert main(words) == 0
    assert "48 features of 28 stimuli (32 files)" in capsys.readouterr().out
    table = read_features(tmp_path / "f.h5")
    assert len(set(table.sha256)) == len(table) == 28 and set(table.stim_ids) == {"n/a"}
    given = ["--features", str(tmp_path / "f.h5"), "--threshold", "0.98", "--perceptual-distance", "-1"]
    assert main(["split", str(tmp_path), one, *given]) == 0
    split = pd.read_csv(tmp_path / "split.tsv", sep="\t").set_index("stim_id")
    assert split.loc["a18.png", "content_id"] == split.loc["a01.png", "content_id"] and split["content_id"].nunique() == 18
    assert main(["features", str(tmp_path / "f.h5"), f"None={tmp_path}/absent"]) == 66


def tiny_backbone() -> backbones_models.Backbone:
    """Colours of a small version of the image, about their mean."""

    def prepare(image: Any) -> torch.Tensor:
        values = np.asarray(image.convert("RGB").resize((4, 4)), dtype=np.float32)
        return torch.from_numpy(values - values.mean())

    return backbones_models.Backbone(FeatureCard("tiny", "pixels", {"size": 4}), prepare, lambda batch: batch.flatten(1))


def test_aligned_responses_of_the_output_folder(tmp_path: Path, make_dataset: object) -> None:
    """People of two datasets, of which one name begins with the other's, as conform-align calls them."""
    marks = {f"s{k:02d}": "test" if k < 4 else "train" for k in range(24)}
    out = tmp_path / "out"
    for name in ("One", "OneB"):
        make_dataset(tmp_path / name, marks, participants=("01",), sessions=("01",), repeats=1)  # type: ignore[operator]
        _as_aligned(tmp_path / name / "derivatives" / "conform-glm", out, name)
    inputs = GroupInputs(tmp_path / "One", {name: tmp_path / name for name in ("One", "OneB")})
    paths = aggregate(out, AlignSettings(store=True, store_source="align"), inputs, 0, {})
    store = Store(out / "store", verify=True)
    assert paths == [out / "store", out / "group_store.html"] and store.manifest["settings"]["source"] == "align"
    people = store.participants.set_index("participant_id")
    assert people["dataset"].to_dict() == {"sub-One01": "One", "sub-OneB01": "OneB"} and set(people["original_id"]) == {"sub-01"}
    assert set(store.fits["desc"]) == {"stack"} and set(store.trials["n_averaged"]) == {3}
    assert "brought to a common functional space" in paths[1].read_text()


def test_people_of_the_output_are_known_by_its_table(tmp_path: Path, make_dataset: object) -> None:
    """sub-One201 is 201 of One, whatever its label looks like."""
    marks = {f"s{k:02d}": "test" if k < 4 else "train" for k in range(24)}
    out = tmp_path / "out"
    for name in ("One", "One2"):
        make_dataset(tmp_path / name, marks, participants=("01",), sessions=("01",), repeats=1)  # type: ignore[operator]
    _as_aligned(tmp_path / "One" / "derivatives" / "conform-glm", out, "One2")
    (out / "participants.tsv").write_text("participant_id\tdataset\toriginal_id\nsub-One201\tOne\tsub-201\n")
    inputs = GroupInputs(tmp_path / "One", {name: tmp_path / name for name in ("One", "One2")})
    with pytest.raises(MissingInputError, match="One2"):  # of whom nobody is aligned
        aggregate(out, AlignSettings(store=True, store_source="align"), inputs, 0, {})


def _as_aligned(glm: Path, out: Path, name: str) -> None:
    """What conform-align would have written of a dataset's one person."""
    out.mkdir(exist_ok=True)
    description = json.loads((glm / "dataset_description.json").read_text())
    (out / "dataset_description.json").write_text(json.dumps({**description, "GeneratedBy": [{"Name": "conform-align"}]}))
    for path in sorted(glm.rglob("sub-01_*")):
        renamed = path.name.replace("sub-01", f"sub-{name}01").replace("_ses-01", "").replace("desc-conform", "desc-stack")
        place = out / f"sub-{name}01" / "func" / renamed
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith("_trials.tsv"):
            table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
            table.assign(n_trials=3)[["condition", "stim_id", "n_trials", "split"]].to_csv(place, sep="\t", index=False)
        else:
            shutil.copy(path, place)
            if "_stat-effect_" in path.name:  # what maps are made of lies beside them
                shutil.copy(path, place.with_name(renamed.replace("desc-stack", "desc-prepared")))
    table = next((out / f"sub-{name}01" / "func").glob("*desc-stack_trials.tsv"))
    shutil.copy(table, table.with_name(table.name.replace("desc-stack", "desc-prepared")))
    (out / f"sub-{name}01" / "func" / f"sub-{name}01_from-native_to-conform_mode-function_desc-stack_xfm.h5").touch()
