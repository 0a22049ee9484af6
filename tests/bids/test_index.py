from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conform_bids.bids.index import Dataset, Selection, SpaceRequest, open_dataset
from conform_bids.bids.selection import matches_filter, shorten
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError

FMRIPREP_DESCRIPTION = {"Name": "d", "BIDSVersion": "1.8.0", "GeneratedBy": [{"Name": "fMRIPrep"}]}


def names(dataset: Dataset, dataset_name: str, participant: str, **query: object) -> list[str]:
    return [file.path.name for file in dataset.files(dataset_name, participant, **query)]


def test_raw_dataset_finds_its_derivative_and_everyone(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", participants=("10", "2"))
    dataset = open_dataset(root)
    assert dataset.raw == root
    assert dict(dataset.derivatives) == {"fmriprep": root / "derivatives/fmriprep"}
    assert dataset.participants == ("2", "10")
    assert dataset.generated_by("fmriprep") == "fMRIPrep"
    assert dataset.generated_by("raw") is None
    bold = names(dataset, "fmriprep", "2", suffix="bold", extensions=(".nii.gz",), session="1", run=1, space="T1w")
    assert bold == ["sub-2_ses-01_task-nsd_run-01_space-T1w_desc-preproc_bold.nii.gz"]
    assert names(dataset, "raw", "2", suffix="bold", space=None, datatype="func")
    assert not names(dataset, "raw", "2", suffix="bold", space="*")


@pytest.mark.parametrize("folder", ["derivatives/fmriprep-25.2", "derivatives/prep"])
def test_role_goes_by_generated_by_whatever_the_folder(tmp_path: Path, build_dataset: Callable[..., Path], folder: str) -> None:
    root = build_dataset(tmp_path / "ds", fmriprep=folder)
    assert open_dataset(root).derivatives == {"fmriprep": root / folder}


@pytest.mark.parametrize(
    "description",
    [
        {"Name": "d", "BIDSVersion": "1", "DatasetType": "derivatives", "GeneratedBy": [{"Name": "fMRIPrep"}]},
        {"GeneratedBy": [{"Name": "fMRIPrep"}]},
        {"PipelineDescription": {"Name": "fMRIPrep"}},
        {},
    ],
)
def test_imperfect_descriptions_are_tolerated(tmp_path: Path, build_dataset: Callable[..., Path], description: dict) -> None:
    root = build_dataset(tmp_path / "ds", description=description)
    for bids_dir in (root, root / "derivatives/fmriprep"):
        dataset = open_dataset(bids_dir)
        assert dataset.raw == root
        assert names(dataset, "fmriprep", "01", suffix="mask", space="T1w", ses="02", run="2")


@pytest.mark.parametrize("makers", [{"Name": "fMRIPrep"}, None, ["fMRIPrep"]])
def test_generated_by_that_is_no_list_of_objects_is_unusable(tmp_path: Path, build_dataset: Callable[..., Path], makers: object) -> None:
    root = build_dataset(tmp_path / "ds", description={"DatasetType": "derivative", "GeneratedBy": makers})
    with pytest.raises(UnusableInputError, match="GeneratedBy must be a list"):
        open_dataset(root)


def test_derivative_given_by_option_wins(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds")
    other = tmp_path / "elsewhere"
    shutil.copytree(root / "derivatives/fmriprep", other)
    assert open_dataset(root, derivatives={"prep": other}).derivatives == {"fmriprep": other}
    plain = tmp_path / "plain"
    shutil.copytree(other, plain)
    (plain / "dataset_description.json").write_text('{"Name": "x", "GeneratedBy": [{"Name": "nibabies"}]}')
    dataset = open_dataset(root, derivatives={"fmriprep": plain})
    assert dataset.derivatives == {"fmriprep": plain}
    assert set(open_dataset(root, derivatives={"babies": plain}).derivatives) == {"fmriprep", "babies"}


def test_two_fmriprep_derivatives_need_a_choice(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds")
    second = root / "derivatives/fmriprep2"
    shutil.copytree(root / "derivatives/fmriprep", second)
    with pytest.raises(UsageError, match=r"fmriprep2.*-d fmriprep=PATH"):
        open_dataset(root)
    assert open_dataset(root, derivatives={"fmriprep": second}).derivatives == {"fmriprep": second}


def test_raw_of_a_derivative_by_option_link_source_and_place(
    tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]
) -> None:
    root = build_dataset(tmp_path / "ds")
    away = tmp_path / "away" / "prep"
    shutil.copytree(root / "derivatives/fmriprep", away)
    lost = open_dataset(away)
    assert lost.raw is None
    assert any("-d raw=PATH" in warning for warning in lost.warnings)
    assert open_dataset(away, derivatives={"raw": root}).raw == root
    for key in ({"DatasetLinks": {"raw": "../../ds"}}, {"SourceDatasets": [{"URL": root.as_uri()}]}, {"DatasetLinks": {"x": str(root)}}):
        touch(away / "dataset_description.json", {**FMRIPREP_DESCRIPTION, "DatasetType": "derivative", **key})
        assert open_dataset(away).raw == root
    touch(away / "dataset_description.json", {**FMRIPREP_DESCRIPTION, "DatasetLinks": {"raw": "https://example.org/ds"}})
    assert open_dataset(away).raw is None
    (away / "sourcedata").mkdir()
    (away / "sourcedata/raw").symlink_to(root)
    assert open_dataset(away).raw == away / "sourcedata/raw"


def test_wrong_folder_names_the_one_that_was_meant(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds")
    for wrong, meant in (
        (root / "derivatives", root / "derivatives/fmriprep"),
        (root / "sub-01", root),
        (root / "sub-01/ses-01/func", root),
        (tmp_path, root),
    ):
        with pytest.raises(UnusableInputError, match=rf"did you mean {meant}\?|Did you mean {meant}\?"):
            open_dataset(wrong)
    empty = tmp_path.parent / f"{tmp_path.name}-empty"
    empty.mkdir()
    with pytest.raises(UnusableInputError, match=r"no dataset_description\.json"):
        open_dataset(empty)
    with pytest.raises(MissingInputError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")


def test_wrong_folder_names_one_that_is_read(tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]) -> None:
    folder = build_dataset(tmp_path / "ds") / "derivatives"
    for name in ("conform-align", "conform-psn", "another"):
        made_by = {"GeneratedBy": [{"Name": name.replace("another", "conform-glm")}]}
        touch(folder / name / "dataset_description.json", {**FMRIPREP_DESCRIPTION, **made_by})
    for reads, meant in ((("conform-glm",), "another"), (("conform-psn", "conform-glm"), "conform-psn"), (("fmriprep",), "fmriprep")):
        with pytest.raises(UnusableInputError, match=rf"did you mean {folder / meant}\?"):
            open_dataset(folder, reads=reads)
    with pytest.raises(UnusableInputError, match=r"\(another, conform-align, .* fmriprep\), but none .* \(of conform-encode\)"):
        open_dataset(folder, reads=("conform-encode",))
    build_dataset(folder / "raw")
    with pytest.raises(UnusableInputError, match=rf"did you mean {folder / 'raw'}\?"):
        open_dataset(folder, reads=("conform-encode",))


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", '{"a": 1,}', "[" * 100000])
def test_broken_description_is_unusable(tmp_path: Path, build_dataset: Callable[..., Path], content: str) -> None:
    root = build_dataset(tmp_path / "ds")
    for place in (root, root / "derivatives/fmriprep"):
        kept = (place / "dataset_description.json").read_text()
        (place / "dataset_description.json").write_text(content)
        with pytest.raises(UnusableInputError, match=r"dataset_description\.json"):
            open_dataset(root)
        (place / "dataset_description.json").write_text(kept)
    (root / "derivatives/other").mkdir()
    (root / "derivatives/other/dataset_description.json").write_text(content)
    dataset = open_dataset(root)
    assert any("other" in warning for warning in dataset.warnings)


def test_absent_participant_lists_those_there_are(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", participants=[f"{number:03d}" for number in range(1, 41)], sessions=("1",), runs=("1",))
    with pytest.raises(MissingInputError, match=r"no participant 099; there are 001, 002.* 040 \(40 in all\)") as caught:
        open_dataset(root, participants=["sub-001", "099"])
    assert len(str(caught.value)) < 250 + len(str(root))
    assert open_dataset(root, participants=["sub-002", "001", "001"]).participants == ("001", "002")


def test_participants_of_a_derivative_are_its_own(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", participants=("01", "02", "03"))
    shutil.rmtree(root / "derivatives/fmriprep/sub-03")
    assert open_dataset(root).participants == ("01", "02", "03")
    assert open_dataset(root / "derivatives/fmriprep").participants == ("01", "02")
    with pytest.raises(MissingInputError, match="no participant 03; there are 01, 02"):
        open_dataset(root / "derivatives/fmriprep", participants=["03"])


def test_sparse_checkout_by_symbolic_links(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    full = build_dataset(tmp_path / "full")
    store = tmp_path / "annex"
    store.mkdir()
    sparse = tmp_path / "sparse"
    for folder, _, files in os.walk(full):
        if "sub-02" in folder:
            continue
        target = sparse / Path(folder).relative_to(full)
        target.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(files):
            key = store / f"{len(os.listdir(store))}-{number}"
            shutil.copy(Path(folder, name), key)
            (target / name).symlink_to(key)
    link = tmp_path / "link"
    link.symlink_to(sparse)
    dataset = open_dataset(link, participants=["01"])
    assert dataset.participants == ("01",)
    found = dataset.files("fmriprep", "01", suffix="bold", extensions=(".nii.gz",), space="T1w")
    assert len(found) == 4
    assert found[0].path.is_symlink()
    assert dataset.bids_uri(found[0].path).startswith("bids:fmriprep:sub-01/ses-01/func/sub-01_")
    assert dataset.sidecar(found[0].path)["StartTime"] == 0.8


def test_linked_subject_folders_are_entered(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    full = build_dataset(tmp_path / "full")
    view = tmp_path / "view"
    view.mkdir()
    shutil.copy(full / "dataset_description.json", view)
    (view / "sub-01").symlink_to(full / "sub-01")
    (view / "derivatives").symlink_to(full / "derivatives")
    dataset = open_dataset(view, participants=["01"])
    assert len(dataset.files("raw", "01", suffix="bold")) == 4
    assert len(dataset.files("fmriprep", "01", suffix="bold", extensions=(".nii.gz",))) == 8


def test_dataset_below_a_folder_that_looks_like_a_subject(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "sub-99" / "ses-7_x" / "ds")
    dataset = open_dataset(root, participants=["01"])
    assert len(dataset.files("raw", "01", suffix="bold", ses="01")) == 2


def test_only_the_participant_is_walked(tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", participants=("1", "10", "11"))
    touch(root / "derivatives/fmriprep/sub-1/figures/sub-1_task-nsd_desc-carpetplot_bold.svg")
    touch(root / "sourcedata/sub-1/func/sub-1_task-nsd_bold.nii.gz")
    program = f"""
import os, sys
listed = []
sys.addaudithook(lambda event, args: listed.append(os.fsdecode(args[0])) if event in ("os.scandir", "os.listdir") else None)
from conform_bids.bids.index import open_dataset
dataset = open_dataset({str(root)!r}, participants=["1"])
for name in ("raw", "fmriprep"):
    assert dataset.files(name, "1")
assert not any("figures" in str(file.path) for file in dataset.files("fmriprep", "1"))
print("\\n".join(path for path in listed if path.startswith({str(root)!r})))
"""
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert str(root / "sub-1/ses-01/func") in listed
    assert not [path for path in listed if "sub-10" in path or "sub-11" in path or "figures" in path or "sourcedata" in path]
    walks = [path for path in listed if path == str(root / "derivatives/fmriprep/sub-1/ses-01/func")]
    assert len(walks) == 1


def test_sidecars_are_inherited_and_broken_ones_warn(
    tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]
) -> None:
    root = build_dataset(tmp_path / "ds")
    dataset = open_dataset(root)
    bold = root / "sub-01/ses-01/func/sub-01_ses-01_task-nsd_run-01_bold.nii.gz"
    assert dataset.sidecar(bold) == {"RepetitionTime": 1.6, "TaskName": "nsd"}
    touch(root / "sub-01/sub-01_task-nsd_bold.json", {"RepetitionTime": 2.0})
    touch(root / "sub-01/ses-01/func/sub-01_ses-01_task-nsd_run-02_bold.json", {"RepetitionTime": 9.0})
    touch(root / "sub-01/ses-01/func/sub-01_ses-01_task-nsd_run-01_bold.json", "")
    dataset = open_dataset(root)
    assert dataset.sidecar(bold) == {"RepetitionTime": 2.0, "TaskName": "nsd"}
    assert dataset.sidecar(bold) == {"RepetitionTime": 2.0, "TaskName": "nsd"}
    assert len(dataset.warnings) == 1
    assert "run-01_bold.json: sidecar ignored (empty)" in dataset.warnings[0]


def test_sidecar_keys_named_like_entities_do_no_harm(
    tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]
) -> None:
    root = build_dataset(tmp_path / "ds")
    touch(root / "task-nsd_events.json", {"run": {"Description": "x"}, "session": 3, "subject": "zz"})
    dataset = open_dataset(root)
    assert len(dataset.files("raw", "01", suffix="events", extensions=(".tsv",))) == 4


def test_bids_uri_of_a_file_elsewhere_is_refused(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds")
    dataset = open_dataset(root)
    assert dataset.bids_uri(root / "sub-01/x.tsv") == "bids:raw:sub-01/x.tsv"
    assert dataset.bids_uri(root / "derivatives/fmriprep/../fmriprep/sub-01/x.tsv") == "bids:fmriprep:sub-01/x.tsv"
    with pytest.raises(ValueError, match="none of the datasets"):
        dataset.bids_uri(tmp_path / "x.tsv")


class TestDatabase:
    def listing(self, root: Path, database: Path, participant: str = "01") -> tuple[list[str], list[str]]:
        dataset = open_dataset(root, participants=[participant], database_dir=database)
        found = [file.path.name for name in ("raw", "fmriprep") for file in dataset.files(name, participant)]
        return found, dataset.warnings

    def test_is_made_for_everyone_and_used_again(self, tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
        root = build_dataset(tmp_path / "ds")
        database = tmp_path / "db" / "deep"
        dataset = open_dataset(root)
        expected = [file.path.name for name in ("raw", "fmriprep") for file in dataset.files(name, "01")]
        assert self.listing(root, database) == (expected, [])
        files = sorted(database.rglob("*.sqlite"))
        times = [os.stat(path).st_mtime_ns for path in files]
        assert len(files) == 2
        found, warnings = self.listing(root, database, "02")
        assert (len(found), warnings) == (len(expected), [])
        assert [os.stat(path).st_mtime_ns for path in files] == times
        assert sorted(path.name for path in database.rglob("*") if path.is_file()) == ["layout_index.sqlite"] * 2

    @pytest.mark.parametrize("damage", ["empty", "noise", "torn", "other"])
    def test_broken_or_foreign_one_is_made_again(self, tmp_path: Path, build_dataset: Callable[..., Path], damage: str) -> None:
        root = build_dataset(tmp_path / "ds")
        database = tmp_path / "db"
        expected, _ = self.listing(root, database)
        other = build_dataset(tmp_path / "other", participants=("01", "zz"), sessions=("09",))
        self.listing(other, tmp_path / "db2")
        foreign = next((tmp_path / "db2").glob("raw-*/*.sqlite"))
        for path in database.rglob("*.sqlite"):
            content = path.read_bytes()
            path.write_bytes(
                {"empty": b"", "noise": b"\x07" * 5000, "torn": content[: len(content) // 2], "other": foreign.read_bytes()}[damage]
            )
        found, warnings = self.listing(root, database)
        assert found == expected
        assert all("made again" in warning for warning in warnings)
        assert len(warnings) == 2
        assert self.listing(root, database) == (expected, [])

    def test_older_than_the_participant_is_passed_over(
        self, tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]
    ) -> None:
        root = build_dataset(tmp_path / "ds")
        database = tmp_path / "db"
        self.listing(root, database)
        added = touch(root / "sub-01/ses-01/func/sub-01_ses-01_task-new_bold.nii.gz")
        found, warnings = self.listing(root, database)
        assert added.name in found
        assert len(warnings) == 1
        assert "older than" in warnings[0]
        assert self.listing(root, database, "02")[1] == []

    def test_two_datasets_share_a_folder(self, tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
        first, second = build_dataset(tmp_path / "a"), build_dataset(tmp_path / "b", runs=("7",))
        database = tmp_path / "db"
        for _ in range(2):
            assert any("run-01" in name for name in self.listing(first, database)[0])
            found, warnings = self.listing(second, database)
            assert not any("run-01" in name for name in found)
            assert warnings == []


class TestSelection:
    @pytest.mark.parametrize(
        ("text", "entities", "expected"),
        [
            ("MNI152NLin2009cAsym:res-2", {"space": "MNI152NLin2009cAsym", "res": "02"}, True),
            ("MNI152NLin2009cAsym:res-2", {"space": "MNI152NLin2009cAsym"}, False),
            ("MNI152NLin2009cAsym", {"space": "MNI152NLin2009cAsym", "res": "1"}, True),
            ("MNI152NLin2009cAsym:res-native", {"space": "MNI152NLin2009cAsym"}, True),
            ("MNIInfant:cohort-3:res-1", {"space": "MNIInfant", "cohort": "3", "res": "1"}, True),
            ("fsLR:den-91k", {"space": "fsLR", "den": "91k"}, True),
            ("fsLR:den-170k", {"space": "fsLR", "den": "91k"}, False),
            ("fsaverage:den-10k", {"space": "fsaverage5"}, True),
            ("func", {}, True),
            ("boldref", {"space": "T1w"}, False),
            ("anat", {"space": "T1w"}, True),
            ("space-T1w", {"space": "T1w"}, True),
        ],
    )
    def test_space_request(self, text: str, entities: dict[str, str], expected: bool) -> None:
        assert SpaceRequest.parse(text).matches(entities) is expected

    @pytest.mark.parametrize("text", ["", "MNI:2", "MNI:res-", "MNI:foo-1", "../x", ":res-2"])
    def test_malformed_space_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError):
            SpaceRequest.parse(text)

    def test_space_request_is_spelled_as_it_is_parsed(self) -> None:
        assert str(SpaceRequest.parse("MNI152NLin2009cAsym:den-3:res-2")) == "MNI152NLin2009cAsym:res-2:den-3"

    def test_prefixes_are_dropped(self) -> None:
        selection = Selection(participants=("sub-01",), sessions=("ses-a",), tasks=("task-x",), runs=("run-1", "2"))
        assert (selection.participants, selection.sessions, selection.tasks, selection.runs) == (("01",), ("a",), ("x",), ("1", "2"))

    @pytest.mark.parametrize(
        "filters",
        [
            {"bold": "x"},
            [],
            {"bold": {"extensions": "x"}},
            {"mask": {"tsak": "x"}},
            {"bold": {"task": {}}},
            {"bold": {"run": True}},
            {"mask": {"run": []}},
        ],
    )
    def test_filter_of_another_form_is_refused(self, filters: object) -> None:
        with pytest.raises(UsageError, match="bids-filter-file"):
            Selection(filters=filters)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"session": "1"}, True),
            ({"session": ["02", 1]}, True),
            ({"run": None}, True),
            ({"run": "*"}, False),
            ({"session": "*"}, True),
            ({"session": "<Query.ANY: 2>"}, True),
            ({"session": "Query.NONE"}, False),
            ({"run": [None, "2"]}, True),
            ({"extension": "nii.gz", "suffix": "bold", "datatype": "func"}, True),
            ({"datatype": "anat"}, False),
        ],
    )
    def test_filter_values(self, query: dict[str, object], expected: bool) -> None:
        asked = Selection(filters={"bold": query}).filter_for("bold")
        assert matches_filter(asked, {"sub": "01", "ses": "01"}, suffix="bold", extension=".nii.gz", datatype="func") is expected


def test_long_lists_are_shortened() -> None:
    assert shorten([]) == "none"
    assert shorten(["a", "b"]) == "a, b"
    assert shorten([str(number) for number in range(100)], 5) == "0, 1, 2, ... 99 (100 in all)"


def test_opening_loads_no_heavy_library(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds")
    program = (
        "import json, sys; from conform_bids.bids import bold, index, derivatives; "
        f"index.open_dataset({str(root)!r}); print(json.dumps(sorted(sys.modules)))"
    )
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout))
    assert not loaded & {"bids", "nibabel", "pandas", "numpy", "torch", "nipype", "nilearn", "matplotlib"}
