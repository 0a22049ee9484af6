"""Datasets and selections that cannot be used, or only in part: what is said, and with which exit status."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

SPACE = "MNI152NLin2009cAsym"


def test_the_pristine_dataset_is_planned_and_validates(pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
    done = plan_glm(pristine.root, tmp_path / "out", validate=True).expect(0, "sub-01", "sub-02", "3 runs")
    assert "WARNING" not in done.stderr
    assert not (tmp_path / "out").exists()


class TestFolders:
    def test_no_dataset_description(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        (tiny.root / "dataset_description.json").unlink()
        plan_glm(tiny.root, tmp_path / "out").expect(65, "dataset_description.json", str(tiny.root))

    @pytest.mark.parametrize(("given", "meant"), [("derivatives", "derivatives/fmriprep"), ("sub-01", "."), ("sub-01/func", ".")])
    def test_a_folder_beside_the_one_that_was_meant(
        self, given: str, meant: str, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path
    ) -> None:
        plan_glm(tiny.root / given, tmp_path / "out").expect(65, f"id you mean {tiny.root / meant}?")

    def test_the_folder_above_the_dataset(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        plan_glm(tmp_path, tmp_path.parent / "out", "-w", tmp_path.parent / "work").expect(65, f"did you mean {tiny.root}?")

    def test_a_raw_dataset_that_holds_only_derivatives(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        (tiny.root / "dataset_description.json").unlink()
        for participant in ("01", "02"):
            shutil.rmtree(tiny.root / f"sub-{participant}")
        plan_glm(tiny.root, tmp_path / "out").expect(65, str(tiny.fmriprep))

    @pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"Name": ', "\x00\x01"])
    def test_a_broken_dataset_description(self, content: str, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        (tiny.root / "dataset_description.json").write_text(content)
        plan_glm(tiny.root, tmp_path / "out").expect(65, "dataset_description.json")
        plan_glm(tiny.root, tmp_path / "out", validate=True).expect(65, "dataset_description.json")

    def test_absent_folders_and_files(self, pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        plan_glm(tmp_path / "absent", tmp_path / "out").expect(66, str(tmp_path / "absent"))
        plan_glm(pristine.root / "README", tmp_path / "out").expect(65, "README")
        plan_glm(pristine.root, tmp_path / "out", "-d", f"fmriprep={tmp_path / 'absent'}").expect(66, str(tmp_path / "absent"))

    def test_output_and_work_folders_that_would_spoil_the_input(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        plan_glm(tiny.root, tiny.root).expect(2, "output_dir")
        plan_glm(tiny.root, tiny.root / "derivatives" / "..").expect(2, "output_dir")
        (tmp_path / "link").symlink_to(tiny.root)
        plan_glm(tiny.root, tmp_path / "link").expect(2, "output_dir")
        plan_glm(tiny.root, tiny.fmriprep).expect(2, "output_dir")
        for work in (tiny.root, tiny.root / "work", tmp_path / "link" / "work"):
            plan_glm(tiny.root, tmp_path / "out", "-w", work).expect(2, "work folder")
        plan_glm(tiny.root, tmp_path / "out", "-w", tmp_path / "out").expect(2, "work folder")
        assert not (tiny.root / "work").exists()

    def test_an_output_folder_of_something_else(self, pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "XCP-D"}]}
        (other / "dataset_description.json").write_text(json.dumps(description))
        plan_glm(pristine.root, other).expect(2, "XCP-D")
        (other / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
        plan_glm(pristine.root, other).expect(2, "folder of its own")
        (tmp_path / "file").write_text("")
        plan_glm(pristine.root, tmp_path / "file").expect(2, "not a folder")


class TestDerivatives:
    def test_no_fmriprep(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        shutil.rmtree(tiny.root / "derivatives")
        plan_glm(tiny.root, tmp_path / "out").expect(66, "no fMRIPrep derivative", "-d fmriprep=PATH")

    def test_spaces_that_are_not_there_are_listed(self, pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        for asked in ("T1w", "fsLR:den-91k", f"{SPACE}:res-9"):
            plan_glm(pristine.root, tmp_path / "out", "--output-spaces", asked).expect(66, asked, f"there are: {SPACE}")
        plan_glm(pristine.root, tmp_path / "out", "--file-format", "cifti").expect(66, "cifti", f"there are: {SPACE}")

    def test_an_output_space_with_a_bad_modifier_is_usage(self, pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        plan_glm(pristine.root, tmp_path / "out", "--output-spaces", "T1w:nonsense").expect(2, "--output-spaces")

    @pytest.mark.parametrize(
        ("option", "label", "there_are"),
        [
            ("--participant-label", "77", ("01", "02")),
            ("--session-label", "77", ("none",)),
            ("--task-id", "nosuch", ("x",)),
            ("--run-label", "77", ("1", "2", "3")),
        ],
    )
    def test_labels_that_match_nothing(
        self, option: str, label: str, there_are: tuple[str, ...], pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path
    ) -> None:
        done = plan_glm(pristine.root, tmp_path / "out", option, label).expect(66, label)
        told = done.text.rpartition("there are")[2]
        for one in there_are:
            assert one in told, done.text

    @pytest.mark.parametrize("label", ["../01", "01/..", "*", "01;ls", "$(ls)", ".", "sub-", "ö"])
    def test_labels_that_are_none(self, label: str, pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        plan_glm(pristine.root, tmp_path / "out", "--participant-label", label).expect(2, "--participant-label")

    def test_a_participant_without_fmriprep_fails_and_the_other_goes_on(
        self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path
    ) -> None:
        shutil.rmtree(tiny.fmriprep / "sub-02")
        plan_glm(tiny.root, tmp_path / "out").expect(0, "sub-02: cannot be processed", "sub-01: 1 job")
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "02").expect(66, "no folder sub-02", "fMRIPrep must have run")

    def test_a_derivative_whose_raw_dataset_is_gone(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        alone = shutil.copytree(tiny.fmriprep, tmp_path / "elsewhere" / "fmriprep")
        plan_glm(alone, tmp_path / "out").expect(66, "-d raw=PATH", "no run has events")
        plan_glm(alone, tmp_path / "out", "-d", f"raw={tiny.root}").expect(0, "sub-01: 1 job")

    def test_uppercase_endings_are_not_bids(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        for run in ("1", "2"):
            tiny.bold("01", run).rename(tiny.bold("01", run).with_suffix(".GZ"))
        bold = tiny.bold("01", "3")
        bold.rename(bold.with_name(bold.name.replace(".nii.gz", ".NII.GZ")))
        plan_glm(tiny.root, tmp_path / "out").expect(0, "sub-01: cannot be processed", "no preprocessed BOLD", "sub-02: 1 job")

    def test_run_labels_that_differ_in_their_padding_only(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        for name in (tiny.bold(), tiny.mask(), tiny.confounds(), tiny.sidecar(), tiny.events()):
            shutil.copy(name, name.with_name(name.name.replace("run-1", "run-01")))
        done = plan_glm(tiny.root, tmp_path / "out")
        # two files claim to be run 1: whichever way it is judged, nothing may share an output silently
        assert done.returncode in (0, 65), done.text
        assert "Traceback" not in done.text
        if done.returncode == 0 and "sub-01: cannot be processed" not in done.text:
            assert "run-1_design.tsv" in done.stdout
            assert "run-01_design.tsv" in done.stdout


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("--no-such-flag",), ("--participant_labels", "01"), ("--model", "nosuch"), ("--n-pcs", "many"), ("--n-pcs", "-1"),
            ("--fractions", "0"), ("--fractions", "1.1"), ("--fractions", "nan"), ("--brain-threshold", "99"), ("--mem", "lots"),
            ("--nprocs", "0"), ("--mem-gb", "inf"), ("--pcs-r2", "-inf"),
            ("--n-pcs", "1e400"), ("--cv-folds", "0,1"), ("--cv-folds", "9"), ("--session-groups", "01,02", "02,03"),
            ("--stimulus-duration", "nan"), ("--stimulus-duration", "inf"), ("--random-seed", "-1"), ("--device", "tpu"),
            ("--config-file", "/no/such.toml"), ("--bids-filter-file", "/no/such.json"), ("--use-plugin", "/no/such.yml"),
        ],
    )  # fmt: skip
    def test_options_that_mean_nothing(
        self, arguments: tuple[str, ...], pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path
    ) -> None:
        plan_glm(pristine.root, tmp_path / "out", *arguments).expect(2)

    @pytest.mark.parametrize(
        "expression",
        [
            "__import__('os').system('touch {flag}')", "().__class__.__bases__[0].__subclasses__()", "open('{flag}', 'w')",
            "[x for x in (1,)]", "trial_type == 'c0' or exec('1')", "lambda: 1", "@flag", "trial_type.str.len() > 1",
            "f'{{open}}' == trial_type", "onset ** 999999 > 1", "onset > 1; import os", "trial_type", "", "(", "onset >", "'" * 3,
            "(" * 5000 + "onset > 1" + ")" * 5000, "not " * 5000 + "onset > 1", "onset == \x00",
        ],
    )  # fmt: skip
    def test_a_trial_filter_is_never_python(self, expression: str, pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        flag = tmp_path / "executed"
        plan_glm(
            pristine.root, tmp_path / "out", "--trial-filter", expression.format(flag=flag) if "{flag}" in expression else expression
        ).expect(2)
        assert not flag.exists()

    def test_columns_and_trial_types_that_are_not_there_are_listed(
        self, pristine: Any, plan_glm: Callable[..., Any], tmp_path: Path
    ) -> None:
        plan_glm(pristine.root, tmp_path / "out", "--trial-filter", "nosuch == 1").expect(2, "nosuch", "trial_type")
        plan_glm(pristine.root, tmp_path / "out", "--trial-filter", "trial_type == 'nosuch'").expect(66, "--trial-filter")
        plan_glm(pristine.root, tmp_path / "out", "--condition-column", "nosuch").expect(66, "nosuch", "trial_type")
        plan_glm(pristine.root, tmp_path / "out", "--nuisance-events", "nosuch").expect(66, "nosuch", "c0")
        plan_glm(pristine.root, tmp_path / "out", "--split", "nosuch").expect(66, "nosuch", "trial_type")


class TestEvents:
    def test_events_missing_for_one_run_leave_it_out(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        tiny.events("01", "2").unlink()
        done = plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01").expect(0, "2 runs", "no events, so the run is left out")
        assert "run-2_design.tsv" not in done.stdout

    def test_events_missing_for_every_run(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        for run in ("1", "2", "3"):
            tiny.events("01", run).unlink()
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01").expect(66, "no run has events")
        plan_glm(tiny.root, tmp_path / "out").expect(0, "sub-01: cannot be processed", "sub-02: 1 job")

    def test_a_run_with_a_header_only_is_left_out(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        tiny.events("01", "2").write_text("onset\tduration\ttrial_type\n")
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01").expect(0, "2 runs", "no trial to model, so the run is left out")
        for run in ("1", "3"):
            tiny.events("01", run).write_text("onset\tduration\ttrial_type\n")
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01").expect(66, "no trial")

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("onset,duration,trial_type\n1,1,a\n", ":1"), ("onset\ttrial_type\n1\ta\n", ":1"),
            ("onset\tduration\ttrial_type\nsoon\t1\ta\n", ":2"), ("onset\tduration\ttrial_type\n1\t1\ta\n2\t1\tb\tx\ty\n", ":3"),
            ("onset\tduration\tonset\n1\t1\t1\n", ":1"), ("onset\tduration\ttrial_type\n9999\t1\ta\n-5\t1\tb\n", ":2"),
            ("onset\tduration\ttrial_type\nn/a\t1\ta\n", ":2"), ("onset\tduration\ttrial_type\n1\t-1\ta\n", ":2"),
            ("onset\tduration\ttrial_type\n1\tn/a\ta\n", ":2"), ("onset\tduration\ttrial_type\n1\t1\ta\x00\n", ""),
        ],
    )  # fmt: skip
    def test_unsound_files_are_named_with_their_line(
        self, text: str, line: str, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path
    ) -> None:
        tiny.events("01", "2").write_text(text)
        done = plan_glm(tiny.root, tmp_path / "out").expect(0, "sub-01: cannot be processed", "sub-02: 1 job")
        assert f"{tiny.events('01', '2')}{line}" in done.text, done.text
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01").expect(65, f"{tiny.events('01', '2')}{line}")


class TestHeaders:
    def test_a_bomb_that_fits_its_file_but_not_the_memory(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        """A gigabyte of nothing: sound, small on the disk, and more than the run may take."""
        header = nib.load(tiny.bold()).header.copy()
        header.set_data_shape((160, 160, 160, 60))
        zeros = gzip.compress(bytes(1 << 22))
        for run in "123":
            with tiny.bold(run=run).open("wb") as stream:
                stream.write(gzip.compress(header.binaryblock + bytes(4)))
                stream.writelines([zeros] * (4 * 60 * 160**3 >> 22))
                stream.write(zeros)
        paths = str(tiny.bold()), "times its size"
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01", "--mem", "500M").expect(65, *paths)
        plan_glm(tiny.root, tmp_path / "out", "--mem", "500M").expect(0, "# sub-02", *paths)

    def test_runs_of_different_tr_are_not_fitted_together(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        tiny.sidecar("01", "2").write_text(json.dumps({"RepetitionTime": 1.5, "StartTime": 0.0}))
        done = plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01")
        assert done.returncode == 65, done.text
        assert str(tiny.bold("01", "2")) in done.text
        assert "repetition time" in done.text

    def test_no_tr_anywhere(self, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        import nibabel as nib

        (tiny.root / "task-x_bold.json").unlink()
        for run in ("1", "2", "3"):
            tiny.sidecar("01", run).write_text("{}")
            image = nib.load(tiny.bold("01", run))
            image.header.set_xyzt_units("mm", "unknown")
            nib.save(nib.Nifti1Image(image.get_fdata(dtype="float32"), image.affine, image.header), tiny.bold("01", run))
        done = plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01")
        assert done.returncode == 65, done.text
        assert "repetition time" in done.text

    @pytest.mark.parametrize("value", [0, -2, "2.0", None, True, 1e9, [2.0]])
    def test_a_senseless_tr_in_the_sidecar_gives_way_to_the_header(
        self, value: object, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path
    ) -> None:
        for run in ("1", "2", "3"):
            tiny.sidecar("01", run).write_text(json.dumps({"RepetitionTime": value, "StartTime": 0.0}))
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01").expect(0, "3 runs")

    @pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"RepetitionTime": 2.0, "StartTime": "soon"}', '{"StartTime": NaN}'])
    def test_broken_sidecars(self, content: str, tiny: Any, plan_glm: Callable[..., Any], tmp_path: Path) -> None:
        tiny.sidecar("01", "1").write_text(content)
        plan_glm(tiny.root, tmp_path / "out", "--participant-label", "01").expect(0, "3 runs")
