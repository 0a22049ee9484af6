"""A store from files to files: what is in it, and what an added dataset leaves as it was."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest

from conform_bids.errors import ConformError, MissingInputError, UnusableInputError, UsageError
from conform_bids.store.catalogue import Sameness
from conform_bids.store.inputs import find_inputs
from conform_bids.store.manifest import check_files, read_manifest
from conform_bids.store.reading import Store
from conform_bids.store.release import append_release, write_release
from conform_bids.store.settings import StoreSettings


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }


def test_betas_are_z_scored_by_train_trials_of_each_session(world: SimpleNamespace) -> None:
    store = Store(world.store)
    assert store.query("split == 'test'")["stim_id"].nunique() == 6  # a00 to a03, and their copies a18 and a19
    for label, expected in world.one.items():
        rows = store.query(f"participant_id == 'sub-One{label}'")
        values, _ = store.load(rows)
        for session in ("01", "02"):
            here = (rows["session_id"] == session).to_numpy()
            train = here & (rows["split"] == "train").to_numpy()
            units = np.arange(50) != 7
            mean, sd = expected[train].mean(axis=0), expected[train].std(axis=0, ddof=1)
            z = (expected[here] - mean) / np.where(units, sd, 1)
            np.testing.assert_allclose(values[here][:, units], z[:, units], atol=2e-3)
        assert np.isnan(values[:, 7]).all(), "a constant unit has no z"
        raw, _ = store.load(rows, raw=True)
        np.testing.assert_allclose(raw[:, units], expected[:, units], atol=0.02)


def test_the_file_is_laid_out_as_told(world: SimpleNamespace) -> None:
    with h5py.File(world.store / "betas" / "sub-One01_betas.h5") as file:
        assert file["betas"].dtype == np.float16 and file["betas"].shape == (80, 50)
        assert file["betas"].chunks == (8, 50) and file["betas"].compression is None
        assert file["mean"].dtype == file["scale"].dtype == np.float32 and file["mean"].shape == (2, 50)
        assert file["group"][:].tolist() == [0] * 40 + [1] * 40
        assert set(file["ncsnr"]) == {"train", "test", "artificial"}


def test_stimuli_are_found_by_content(world: SimpleNamespace) -> None:
    stimuli = Store(world.store).stimuli.set_index("stim_id")
    for copy, original in (("a19.png", "a00.png"), ("a18.png", "a01.png")):
        assert stimuli.loc[copy, "content_id"] == stimuli.loc[original, "content_id"]
        assert (stimuli.loc[copy, "mark"], stimuli.loc[copy, "split"]) == ("train", "test")
    assert stimuli["content_id"].nunique() == 18
    assert stimuli.loc["a04.png", "split"] == "artificial" and stimuli.loc["a05.png", "split"] == "train"
    assert world.release.duplicates == {"name": 0, "file": 1, "pixels": 1, "perceptual": 2}


def test_tables_agree_with_each_other(world: SimpleNamespace) -> None:
    store = Store(world.store, verify=True)
    trials = store.trials
    assert len(trials) == 160 and (trials.groupby("participant_id")["row"].apply(list) == [list(range(80))] * 2).all()
    counts = trials.groupby("participant_id")["split"].value_counts().unstack()
    people = store.participants.set_index("participant_id")
    assert (people[["n_train", "n_test", "n_artificial"]].to_numpy() == counts[["train", "test", "artificial"]].to_numpy()).all()
    assert (
        trials.groupby(["participant_id", "content_id"])["repetition"]
        .apply(lambda values: sorted(values) == list(range(len(values))))
        .all()
    )
    assert store.fits["statistics"].unique().tolist() == ["own"]
    # a18 and a19 were train for the fit of the betas, and are test here
    assert store.fits["n_test_in_fit"].unique().tolist() == [2]
    assert any("could use stimuli" in note for note in world.release.notes)
    tsv = pd.read_csv(world.store / "versions" / "1.0.0" / "trials.tsv", sep="\t", dtype=str)
    assert tsv["content_id"].tolist() == trials["content_id"].tolist()


def test_noise_ceilings_are_those_of_the_data(world: SimpleNamespace) -> None:
    from conform_bids.numerics.noise_ceiling import noise_ceiling_snr

    store = Store(world.store)
    rows = store.query("participant_id == 'sub-One01' and split == 'test'")
    values, _ = store.load(rows)
    np.testing.assert_allclose(store.ncsnr("sub-One01"), noise_ceiling_snr(values, rows["content_id"].to_numpy()), rtol=1e-6)
    table = store.noise_ceilings
    one = table[(table["participant_id"] == "sub-One01") & (table["split"] == "train") & (table["parcel"] == "cortex_left")].iloc[0]
    assert one["n_units"] == 24 and 20 < one["ceiling_single"] < 80 < one["ceiling_average"] + 40
    with pytest.raises(MissingInputError, match="no stimulus of nothing"):
        store.ncsnr("sub-One01", "nothing")


def test_an_added_dataset_changes_nothing_that_is_there(world: SimpleNamespace, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _digests(store)
    betas = [store / "betas" / f"sub-One{label}_betas.h5" for label in ("01", "02")]
    opened: list[str] = []
    real = h5py.File.__init__
    monkeypatch.setattr(h5py.File, "__init__", lambda self, name, *args, **kw: (opened.append(str(name)), real(self, name, *args, **kw))[1])
    release = append_release(store, world.inputs[1:])
    assert release.version == "1.1.0" and not any(str(path) in opened for path in betas)
    after = _digests(store)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before))[0] == "betas/sub-Two01_betas.h5"
    assert release.diff["datasets_added"] == ["Two"] and release.diff["n_trials_added"] == 48
    # b00 is test in the new dataset, and a06 is the same image
    assert release.diff["stimuli_moved"] == [{"dataset": "One", "stim_id": "a06.png", "from": "train", "to": "test"}]
    new, old = Store(store, verify=True), Store(store, "1.0.0", verify=False)
    assert set(new.query("stim_id == 'a06.png'")["split"]) == {"test"} and set(old.query("stim_id == 'a06.png'")["split"]) == {"train"}
    fits = new.fits.set_index("participant_id")
    assert (fits.loc["sub-One01", "n_test_in_statistics"] == 2).all() and fits.loc["sub-Two01", "n_test_in_statistics"].tolist() == [0, 0]
    shared = new.stimuli.groupby("content_id")["dataset"].nunique()
    assert (shared == 2).sum() == 3
    diff = json.loads((store / "versions" / "1.1.0" / "diff.json").read_text())
    assert diff["from"] == "1.0.0" and len(diff["fits_with_test_in_statistics"]) == 4


def test_added_at_once_or_later_is_the_same_split(world: SimpleNamespace, store: Path, tmp_path: Path) -> None:
    append_release(store, world.inputs[1:])
    write_release(world.inputs, tmp_path / "both")
    later, once = (Store(path).stimuli.set_index(["dataset", "stim_id"])[["content_id", "split"]] for path in (store, tmp_path / "both"))
    pd.testing.assert_frame_equal(later.sort_index(), once.sort_index())


def test_the_same_inputs_give_the_same_bytes(world: SimpleNamespace, tmp_path: Path) -> None:
    write_release(world.inputs[:1], tmp_path / "again")
    assert _digests(tmp_path / "again") == _digests(world.store)


@pytest.mark.parametrize("kind", ["nifti", "gifti"])
def test_volumes_and_surfaces(kind: str, tmp_path: Path, make_second: object) -> None:
    betas = make_second(tmp_path / "two", kind)  # type: ignore[operator]
    write_release([find_inputs("Two", tmp_path / "two")], tmp_path / "store")
    store = Store(tmp_path / "store")
    values, _ = store.load(raw=True)
    expected = betas["01"]
    if kind == "nifti":
        assert store.n_units == 49 and store.parcels == ("whole",)
        expected = np.delete(expected, 0, axis=1)
    else:
        assert store.n_units == 50 and store.parcels == ("left", "right")
    known = ~np.isnan(values).all(axis=0)
    assert known.sum() == store.n_units - 1
    np.testing.assert_allclose(values[:, known], expected[:, known], atol=0.02)


def test_a_group_with_few_train_trials_takes_all_of_the_participants(tmp_path: Path, make_dataset: object) -> None:
    marks = {f"s{k}": "test" if k < 8 else "train" for k in range(10)}
    betas = make_dataset(tmp_path / "d", marks, participants=("01",), repeats=3)["01"]  # type: ignore[operator]
    write_release([find_inputs("D", tmp_path / "d")], tmp_path / "store")
    store = Store(tmp_path / "store")
    assert store.fits["statistics"].tolist() == ["participant"] * 2
    train = (store.trials["split"] == "train").to_numpy()
    mean, scale = store.moments("sub-D01")
    np.testing.assert_allclose(mean[0, :7], betas[train, :7].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale[1, :7], betas[train, :7].std(axis=0, ddof=1), rtol=1e-5)


def test_flagged_trials_do_not_count(tmp_path: Path, make_dataset: object) -> None:
    make_dataset(tmp_path / "d", {f"s{k}": "train" for k in range(10)}, participants=("01",), flagged=5)  # type: ignore[operator]
    release = write_release([find_inputs("D", tmp_path / "d")], tmp_path / "store")
    assert Store(tmp_path / "store").fits["n_statistics"].tolist() == [15, 15]
    assert any("no stimulus is held out" in note for note in release.notes)


def test_near_duplicates_by_features_and_a_draw(tmp_path: Path, make_dataset: object) -> None:
    names = [f"s{k:02d}" for k in range(40)]
    make_dataset(tmp_path / "d", dict.fromkeys(names, "n/a"), participants=("01",), repeats=1)  # type: ignore[operator]
    generator = np.random.default_rng(0)
    features = generator.standard_normal((40, 64))
    features[5] = features[20] + 0.1 * generator.standard_normal(64)
    np.savez(tmp_path / "features.npz", features=features, stim_id=np.array(names))
    settings = StoreSettings(sameness=Sameness(threshold=0.8), test_fraction=0.25)
    inputs = [find_inputs("D", tmp_path / "d")]
    release = write_release(inputs, tmp_path / "store", settings, features=tmp_path / "features.npz")
    assert release.duplicates["embedding"] == 1
    stimuli = Store(tmp_path / "store").stimuli.set_index("stim_id")
    assert stimuli.loc["s05", "content_id"] == stimuli.loc["s20", "content_id"] and stimuli["content_id"].nunique() == 39
    assert 3 < (stimuli["split"] == "test").sum() < 20
    with pytest.raises(UsageError, match="features of the stimuli are needed"):
        append_release(tmp_path / "store", [replace(inputs[0], name="E", participants=(replace(inputs[0].participants[0], label="E01"),))])


def test_a_split_file_is_followed(world: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "split.tsv").write_text("stim_id\tsplit\tdataset\na09.png\ttest\tOne\na10.png\ttest\tOther\n")
    write_release(world.inputs[:1], tmp_path / "store", split=tmp_path / "split.tsv")
    split = Store(tmp_path / "store").stimuli.set_index("stim_id")["split"]
    assert (split["a09.png"], split["a10.png"]) == ("test", "train")


def test_croissant_names_files_and_columns(world: SimpleNamespace) -> None:
    content = json.loads((world.store / "versions" / "1.0.0" / "croissant.json").read_text())
    manifest = read_manifest(world.store, "1.0.0")
    objects = {item["@id"]: item for item in content["distribution"]}
    assert all(item["sha256"] == manifest["files"][name]["sha256"] for name, item in objects.items())
    assert all((world.store / "versions" / "1.0.0" / item["contentUrl"]).is_file() for item in objects.values())
    sources = {field["source"]["fileObject"]["@id"] for records in content["recordSet"] for field in records["field"]}
    assert sources <= set(objects) and content["conformsTo"] == "http://mlcommons.org/croissant/1.0"


def test_no_path_of_this_machine_is_told(world: SimpleNamespace) -> None:
    found = [path.name for path in world.store.rglob("*") if path.is_file() and str(world.root).encode() in path.read_bytes()]
    assert found == [] and check_files(world.store, read_manifest(world.store, "1.0.0")) == []


def _refusal(world: SimpleNamespace, case: str, folder: Path) -> None:
    one = world.inputs[0]
    if case == "there is a store":
        write_release([one], world.store)
    elif case == "another folder":
        (folder / "x").mkdir()
        (folder / "x" / "thesis.txt").write_text("")
        write_release([one], folder / "x")
    elif case == "same name":
        write_release([one, one], folder / "s")
    elif case == "refused fit":
        write_release([one], folder / "s", StoreSettings(leaky_fits="refuse"))
    elif case == "no store":
        append_release(folder, [one])
    elif case == "features without threshold":
        np.savez(folder / "f.npz", features=np.ones((1, 2)), stim_id=np.array(["a00.png"]))
        write_release([one], folder / "s", features=folder / "f.npz")
    elif case == "native space":
        person = one.participants[0]
        native = [replace(fit, entities={"space": "T1w"}) for fit in person.fits]
        write_release(
            [replace(one, participants=(replace(person, fits=tuple(native)), replace(person, label="x", fits=tuple(native))))], folder / "s"
        )
    elif case == "too few rows":
        person = one.participants[0]
        short = folder / "short.tsv"
        short.write_text("\n".join(person.fits[0].trials.read_text().splitlines()[:-3]) + "\n")
        broken = replace(person, fits=(replace(person.fits[0], trials=short),))
        write_release([replace(one, participants=(broken,))], folder / "s")


REFUSALS = {
    "there is a store": (UsageError, "there is a store already"),
    "another folder": (UsageError, "something else than a store"),
    "same name": (UsageError, "two datasets called One"),
    "refused fit": (UnusableInputError, "--split-only"),
    "no store": (MissingInputError, "not a store"),
    "features without threshold": (UsageError, "no cosine"),
    "native space": (UnusableInputError, "each participant's own"),
    "too few rows": (UnusableInputError, r"has .* rows|has rows \(37\)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str, world: SimpleNamespace, tmp_path: Path) -> None:
    kind, message = REFUSALS[case]
    with pytest.raises(ConformError) as caught:
        _refusal(world, case, tmp_path)
    assert type(caught.value) is kind and re.search(message, str(caught.value)), caught.value


def test_another_grid_is_refused_and_leaves_no_version(world: SimpleNamespace, store: Path, tmp_path: Path, make_second: object) -> None:
    make_second(tmp_path / "two", "nifti")  # type: ignore[operator]
    before = _digests(store)
    with pytest.raises(UnusableInputError, match="its grid is not that of the store"):
        append_release(store, [find_inputs("Two", tmp_path / "two")])
    assert _digests(store) == before


def test_replacing_a_store(world: SimpleNamespace, store: Path) -> None:
    write_release(world.inputs[1:], store, overwrite=True)
    assert Store(store, verify=True).participants["participant_id"].tolist() == ["sub-Two01"]
    assert sorted(path.name for path in (store / "betas").iterdir()) == ["sub-Two01_betas.h5"]


def _as_psn(root: Path) -> None:
    """Turn a derivative of single trials into one of conditions, as conform-psn writes them."""
    glm = root / "derivatives" / "conform-glm"
    description = json.loads((glm / "dataset_description.json").read_text())
    (glm / "dataset_description.json").write_text(json.dumps({**description, "GeneratedBy": [{"Name": "conform-psn"}]}))
    glm.rename(glm.with_name("conform-psn"))
    for path in root.rglob("*_trials.tsv"):
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        table.assign(n_trials=3, fold=0)[["condition", "stim_id", "n_trials", "split", "fold"]].to_csv(path, sep="\t", index=False)


def test_responses_to_conditions(tmp_path: Path, make_dataset: object) -> None:
    marks = {f"s{k:02d}": "test" if k < 4 else "train" for k in range(24)}
    betas = make_dataset(tmp_path / "d", marks, participants=("01",), sessions=("01",), repeats=1)["01"]  # type: ignore[operator]
    _as_psn(tmp_path / "d")
    inputs = [find_inputs("D", tmp_path / "d", source="psn")]
    write_release(inputs, tmp_path / "store", StoreSettings(source="psn"))
    store = Store(tmp_path / "store", verify=True)
    assert set(store.trials["n_averaged"]) == {3} and set(store.trials["run_id"]) == {"n/a"} and set(store.trials["session_id"]) == {"01"}
    np.testing.assert_allclose(store.load(raw=True)[0][:, :7], betas[:, :7], atol=0.02)
    # s10 is held out here, and the denoiser was fitted on it
    (tmp_path / "split.tsv").write_text("stim_id\tsplit\ns10\ttest\n")
    with pytest.raises(UnusableInputError, match="fitted with 1 stimulus held out"):
        write_release(inputs, tmp_path / "other", StoreSettings(source="psn"), split=tmp_path / "split.tsv")
    marked = write_release(inputs, tmp_path / "other", StoreSettings(source="psn", leaky_fits="mark"), split=tmp_path / "split.tsv")
    assert marked.notes and Store(tmp_path / "other").fits["n_test_in_fit"].tolist() == [1]
