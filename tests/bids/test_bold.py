from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conform_bids.bids.bold import BoldSeries, find_bold, spatial_reference
from conform_bids.bids.index import Selection, SpaceRequest, open_dataset
from conform_bids.errors import MissingInputError, UnusableInputError

FMRIPREP = "derivatives/fmriprep"
FUNC = "sub-01/ses-01/func"


def find(root: Path, **selection: object) -> list[BoldSeries]:
    return find_bold(open_dataset(root), "01", Selection(**selection))


def short(series: list[BoldSeries]) -> list[str]:
    return ["-".join(one.entities.get(key, "") for key in ("ses", "task", "run", "space")) for one in series]


def test_series_come_with_all_that_belongs_to_them(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", runs=("1", "2", "10"))
    found = find(root)
    assert short(found)[:6] == [f"01-nsd-{run}-{space}" for run in (1, 2, 10) for space in ("MNI152NLin2009cAsym", "T1w")]
    assert len(found) == 12
    series = found[0]
    prefix = "sub-01_ses-01_task-nsd_run-1"
    assert series.entities == {"sub": "01", "ses": "01", "task": "nsd", "run": "1", "space": "MNI152NLin2009cAsym", "res": "2"}
    assert series.kind == "nifti"
    space = "space-MNI152NLin2009cAsym_res-2"
    assert series.files == (root / FMRIPREP / FUNC / f"{prefix}_{space}_desc-preproc_bold.nii.gz",)
    assert series.mask == root / FMRIPREP / FUNC / f"{prefix}_{space}_desc-brain_mask.nii.gz"
    assert series.confounds == root / FMRIPREP / FUNC / f"{prefix}_desc-confounds_timeseries.tsv"
    assert series.events == root / FUNC / f"{prefix}_events.tsv"
    assert series.metadata == {"RepetitionTime": 1.6, "StartTime": 0.8}
    assert series.warnings == ()


def test_real_dataset(real_data: Path) -> None:
    found = find_bold(open_dataset(real_data / "haxby-slice"), "01", Selection())
    assert [series.entities["run"] for series in found] == [f"{run:02d}" for run in range(1, 13)]
    assert all(series.mask and series.events and series.confounds and not series.warnings for series in found)
    assert found[0].metadata["RepetitionTime"] == 2.5


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"sessions": ("ses-2",)}, {"02-nsd-01-T1w", "02-nsd-02-T1w"}),
        ({"runs": ("1",)}, {"01-nsd-01-T1w", "02-nsd-01-T1w"}),
        ({"sessions": ("1",), "runs": ("run-02",), "tasks": ("nsd",)}, {"01-nsd-02-T1w"}),
        ({"filters": {"bold": {"session": "01", "run": [1]}}}, {"01-nsd-01-T1w"}),
        ({"filters": {"bold": {"run": "*", "acq": None, "ses": "02"}}}, {"02-nsd-01-T1w", "02-nsd-02-T1w"}),
    ],
)
def test_labels_and_filters_select(tmp_path: Path, build_dataset: Callable[..., Path], selection: dict, expected: set[str]) -> None:
    root = build_dataset(tmp_path / "ds", spaces=("space-T1w",))
    assert set(short(find(root, **selection))) == expected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"sessions": ("7",)}, "no BOLD of session 7; there are: 01, 02"),
        ({"tasks": ("rest", "movie")}, "no BOLD of task rest, movie; there are: nsd"),
        ({"runs": ("3",)}, "no BOLD of run 3; there are: 01, 02"),
        (
            {"spaces": (SpaceRequest("fsLR", density="91k"),)},
            r"no BOLD in space fsLR:den-91k; there are: .*:res-2 \(nifti\), T1w \(nifti\)",
        ),
        ({"file_formats": ("cifti",)}, r"no BOLD of format cifti; there are: .*T1w \(nifti\)"),
        ({"filters": {"bold": {"acquisition": "hi"}}}, "bold: acq = 'hi'; there are: none"),
        ({"filters": {"bold": {"run": 5}}}, "bold: run = 5; there are: 01, 02"),
    ],
)
def test_what_matches_nothing_lists_what_there_is(
    tmp_path: Path, build_dataset: Callable[..., Path], selection: dict, message: str
) -> None:
    root = build_dataset(tmp_path / "ds")
    with pytest.raises(MissingInputError, match=message):
        find(root, **selection)


def test_label_that_is_partly_there_is_a_warning(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    dataset = open_dataset(build_dataset(tmp_path / "ds"))
    wanted = Selection(sessions=("01", "09"), spaces=(SpaceRequest("T1w"), SpaceRequest("fsLR")))
    assert short(find_bold(dataset, "01", wanted)) == ["01-nsd-01-T1w", "01-nsd-02-T1w"]
    assert any("session 09" in warning for warning in dataset.warnings)
    assert any("space fsLR" in warning for warning in dataset.warnings)


def test_no_fmriprep_or_no_outputs_of_it(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds")
    (root / "sub-03").mkdir()
    with pytest.raises(MissingInputError, match=r"no folder sub-03.*fMRIPrep must have run"):
        find_bold(open_dataset(root), "03", Selection())
    (root / FMRIPREP / "sub-03").mkdir()
    with pytest.raises(MissingInputError, match="no preprocessed BOLD"):
        find_bold(open_dataset(root), "03", Selection())
    (root / FMRIPREP / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "x"}]}')
    (root / FMRIPREP).rename(root / "derivatives/x")
    with pytest.raises(MissingInputError, match=r"no fMRIPrep derivative \(other derivatives: x\); name it by -d fmriprep=PATH"):
        find(root)


def test_surfaces_and_grayordinates(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", surfaces=True, sessions=("01",), runs=("01",))
    found = {series.kind: series for series in find(root)}
    cifti, gifti = found["cifti"], found["gifti"]
    assert cifti.files[0].name == "sub-01_ses-01_task-nsd_run-01_space-fsLR_den-91k_bold.dtseries.nii"
    assert cifti.mask is None
    assert [path.name.split("_hemi-")[1][0] for path in gifti.files] == ["L", "R"]
    assert gifti.entities == {"sub": "01", "ses": "01", "task": "nsd", "run": "01", "space": "fsaverage5"}
    assert cifti.metadata == gifti.metadata == {"RepetitionTime": 1.6}, "from the raw series, as there is no sidecar"
    assert cifti.events == gifti.events
    assert cifti.warnings == gifti.warnings == ()
    assert [series.kind for series in find(root, file_formats=("gifti", "cifti"))] == ["cifti", "gifti"]
    assert find(root, spaces=(SpaceRequest.parse("fsaverage:den-10k"),)) == [gifti]


def test_missing_hemisphere_is_named(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", surfaces=True, sessions=("01",), runs=("01",))
    missing = root / FMRIPREP / FUNC / "sub-01_ses-01_task-nsd_run-01_hemi-R_space-fsaverage5_bold.func.gii"
    missing.unlink()
    with pytest.raises(UnusableInputError, match=f"{missing}: missing"):
        find(root)
    assert len(find(root, file_formats=("nifti",))) == 2


def test_native_space_single_echoes_and_other_descriptions(
    tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]
) -> None:
    root = build_dataset(tmp_path / "ds", spaces=("", "space-T1w"), sessions=("01",), runs=("01",))
    prefix = root / FMRIPREP / FUNC / "sub-01_ses-01_task-nsd_run-01"
    for middle in ("echo-1_desc-preproc_bold.nii.gz", "desc-hmc_boldref.nii.gz", "desc-coreg_boldref.nii.gz", "space-T1w_boldref.nii.gz"):
        touch(prefix.with_name(f"{prefix.name}_{middle}"))
    native, anatomical = find(root)
    assert native.space_label == "boldref"
    assert "space" not in native.entities
    assert native.mask is not None
    assert native.mask.name == "sub-01_ses-01_task-nsd_run-01_desc-brain_mask.nii.gz"
    assert anatomical.space_label == "T1w"
    assert find(root, spaces=(SpaceRequest.parse("func"),)) == [native]
    smoothed = touch(prefix.with_name(f"{prefix.name}_space-T1w_desc-smoothed_bold.nii.gz"))
    assert find(root, filters={"bold": {"desc": "smoothed"}})[0].files == (smoothed,)
    with pytest.raises(UnusableInputError, match="would share their outputs"):
        find(root, filters={"bold": {"desc": "*", "space": "T1w"}})


def test_older_names_of_confounds_and_unpadded_runs(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", sessions=("01",), runs=("01",), spaces=("space-T1w",))
    for path in (root / FMRIPREP / FUNC).iterdir():
        path.rename(path.with_name(path.name.replace("confounds_timeseries", "confounds_regressors").replace("run-01", "run-1")))
    (series,) = find(root)
    assert series.entities["run"] == "1"
    assert series.confounds is not None
    assert series.confounds.name.endswith("_desc-confounds_regressors.tsv")
    assert series.events == root / FUNC / "sub-01_ses-01_task-nsd_run-01_events.tsv"


def test_what_is_missing_is_a_warning(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", sessions=("01",), runs=("01",), spaces=("space-T1w",))
    for pattern in ("*_mask.nii.gz", "*_events.tsv", "*_timeseries.tsv"):
        for path in root.rglob(pattern):
            path.unlink()
    (series,) = find(root)
    assert (series.mask, series.events, series.confounds) == (None, None, None)
    assert [warning.split(": ")[1] for warning in series.warnings] == ["no brain mask", "no events", "no confounds"]


class TestEvents:
    def events_of(self, root: Path, **selection: object) -> str | None:
        (series,) = find(root, **selection)
        return series.events.relative_to(root).as_posix() if series.events else None

    @pytest.fixture
    def root(self, tmp_path: Path, build_dataset: Callable[..., Path]) -> Path:
        root = build_dataset(tmp_path / "ds", sessions=("01",), runs=("01",), spaces=("space-T1w",))
        for folder in (root / FUNC, root / FMRIPREP / FUNC):
            for path in folder.iterdir():
                path.rename(path.with_name(path.name.replace("_run-01", "_acq-hi_rec-x_dir-AP_run-01")))
        (root / FUNC / "sub-01_ses-01_task-nsd_acq-hi_rec-x_dir-AP_run-01_events.tsv").unlink()
        return root

    def test_closest_and_most_specific_wins(self, root: Path, touch: Callable[..., Path]) -> None:
        assert self.events_of(root) is None
        for name in (
            "task-nsd_events.tsv",
            "task-nsd_dir-AP_events.tsv",
            "sub-01/sub-01_task-nsd_events.tsv",
            "sub-01/ses-01/sub-01_ses-01_task-nsd_events.tsv",
            f"{FUNC}/sub-01_ses-01_task-nsd_events.tsv",
            f"{FUNC}/sub-01_ses-01_task-nsd_acq-hi_run-1_events.tsv",
        ):
            touch(root / name, "onset\tduration\n")
            assert self.events_of(root) == name

    def test_those_of_other_runs_do_not_apply(self, root: Path, touch: Callable[..., Path]) -> None:
        for name in (
            "task-other_events.tsv",
            f"{FUNC}/sub-01_ses-01_task-nsd_run-02_events.tsv",
            f"{FUNC}/sub-01_ses-01_task-nsd_acq-lo_run-01_events.tsv",
            f"{FUNC}/sub-01_ses-01_task-nsd_run-01_recording-eye_events.tsv",
        ):
            touch(root / name, "onset\tduration\n")
        assert self.events_of(root) is None

    def test_two_that_apply_alike_need_a_choice(self, root: Path, touch: Callable[..., Path]) -> None:
        touch(root / f"{FUNC}/sub-01_ses-01_task-nsd_acq-hi_events.tsv")
        touch(root / f"{FUNC}/sub-01_ses-01_task-nsd_run-01_events.tsv")
        with pytest.raises(UnusableInputError, match="several events"):
            self.events_of(root)
        assert self.events_of(root, filters={"events": {"acquisition": None}}) == f"{FUNC}/sub-01_ses-01_task-nsd_run-01_events.tsv"


def test_filters_of_masks_and_confounds(tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", sessions=("01",), runs=("01",), spaces=("space-T1w",))
    prefix = "sub-01_ses-01_task-nsd_run-01"
    mask = touch(root / FMRIPREP / FUNC / f"{prefix}_space-T1w_desc-aroma_mask.nii.gz")
    confounds = touch(root / FMRIPREP / FUNC / f"{prefix}_desc-mine_timeseries.tsv")
    (series,) = find(root, filters={"mask": {"desc": "aroma"}, "confounds": {"desc": "mine"}})
    assert (series.mask, series.confounds) == (mask, confounds)
    dseg = touch(root / FMRIPREP / FUNC / f"{prefix}_space-T1w_desc-aseg_dseg.nii.gz")
    (series,) = find(root, filters={"mask": {"suffix": ["dseg"], "desc": "*", "extension": "nii.gz"}, "bold": {"suffix": "bold"}})
    assert series.mask == dseg


def test_unknown_filter_keys_are_recorded_once(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    dataset = open_dataset(build_dataset(tmp_path / "ds"))
    selection = Selection(filters={"t1w": {"session": "01"}, "roi": {"anything": {"goes": 1}}, "bold": {"run": "1"}})
    for participant in ("01", "02"):
        assert len(find_bold(dataset, participant, selection)) == 4
    assert [warning for warning in dataset.warnings if "filter" in warning] == [
        "--bids-filter-file: 't1w' has no effect here",
        "--bids-filter-file: 'roi' has no effect here",
    ]


def test_content_that_was_not_fetched_is_named(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", sessions=("01",), runs=("01",), spaces=("space-T1w",))
    for pattern in ("*_events.tsv", "*_mask.nii.gz", "*desc-preproc_bold.nii.gz"):
        (path,) = (root / (FUNC if "events" in pattern else f"{FMRIPREP}/{FUNC}")).glob(pattern)
        path.unlink()
        path.symlink_to(tmp_path / "annex" / "absent")
        with pytest.raises(MissingInputError, match=f"{path.name}: a link to content that is not here; `datalad get`"):
            find(root)


def test_empty_files_everywhere(tmp_path: Path, build_dataset: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds")
    for path in root.rglob("*"):
        if path.is_file() and path.name != "dataset_description.json":
            path.write_bytes(b"")
    dataset = open_dataset(root)
    assert all(series.metadata == {} for series in find_bold(dataset, "01", Selection()))
    assert all("sidecar ignored (empty)" in warning for warning in dataset.warnings)


def test_spatial_reference(tmp_path: Path, build_dataset: Callable[..., Path], touch: Callable[..., Path]) -> None:
    root = build_dataset(tmp_path / "ds", sessions=("01",), runs=("01",), spaces=("space-T1w",))
    prefix = f"{FUNC}/sub-01_ses-01_task-nsd_run-01_space-T1w_desc-preproc_bold"

    def reference() -> str:
        dataset = open_dataset(root)
        return spatial_reference(dataset, find_bold(dataset, "01", Selection())[0])

    assert reference() == f"bids:fmriprep:{prefix}.nii.gz"
    touch(root / FMRIPREP / "sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-preproc_T1w.nii.gz")
    touch(root / FMRIPREP / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    assert reference() == "bids:fmriprep:sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
    for stated, expected in (
        ("bids::sub-01/anat/x.nii.gz", "bids:fmriprep:sub-01/anat/x.nii.gz"),
        ("sub-01/anat/x.nii.gz", "bids:fmriprep:sub-01/anat/x.nii.gz"),
        ("https://example.org/x.nii.gz", "https://example.org/x.nii.gz"),
    ):
        (root / FMRIPREP / f"{prefix}.json").write_text(json.dumps({"SpatialReference": stated}))
        assert reference() == expected
