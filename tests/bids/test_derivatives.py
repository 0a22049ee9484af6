from __future__ import annotations

import errno
import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids import atomic, derivatives
from conform_bids.bids.derivatives import (
    BIDSIGNORE,
    BIDSIGNORE_SHORT,
    SourceDataset,
    atomic_path,
    container_record,
    lock_file,
    relative_link,
    sidecar,
    source_dataset,
    write_bidsignore,
    write_dataset_description,
    write_json,
    write_readme,
    write_tsv,
)
from conform_bids.bids.names import relative_path
from conform_bids.errors import UsageError

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset_description.json").read_text())


class TestAtomicPath:
    @pytest.mark.parametrize("name", ["map.nii.gz", "map.dscalar.nii", "table.tsv", "plain", ".bidsignore"])
    def test_temporary_name_is_hidden_beside_and_keeps_the_extension(self, tmp_path: Path, name: str) -> None:
        final = tmp_path / "new" / name
        with atomic_path(final) as temporary:
            assert temporary.parent == final.parent
            assert temporary.name.startswith(".conform-")
            assert temporary.name.endswith("".join(final.suffixes))
            temporary.write_text("x")
            assert not final.exists()
        assert final.read_text() == "x"
        assert os.listdir(final.parent) == [name]

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
    def test_failure_leaves_the_former_file_and_nothing_else(self, tmp_path: Path, error: BaseException) -> None:
        final = tmp_path / "map.nii.gz"
        final.write_text("former")
        with pytest.raises(type(error)), atomic_path(final) as temporary:  # noqa: PT012
            temporary.write_text("half")
            raise error
        assert final.read_text() == "former"
        assert os.listdir(tmp_path) == [final.name]

    def test_full_disk_at_the_flush_is_a_failure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_json({"a": 1}, tmp_path / "a.json")
        assert os.listdir(tmp_path) == []

    def test_nothing_written_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.tsv"):
            pass

    def test_annexed_link_is_replaced_not_followed(self, tmp_path: Path) -> None:
        content = tmp_path / "annexed"
        content.write_text("kept")
        (tmp_path / "a.json").symlink_to(content)
        write_json({"a": 1}, tmp_path / "a.json")
        assert content.read_text() == "kept"
        assert not (tmp_path / "a.json").is_symlink()

    def test_killed_writer_leaves_no_final_name_and_is_tidied_up_after(self, tmp_path: Path) -> None:
        program = (
            "import sys, time; from conform_bids.bids.derivatives import atomic_path\n"
            f"with atomic_path({str(tmp_path / 'a.nii')!r}) as path:\n"
            "    path.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert atomic.remove_left_behind([tmp_path]) == [], "its process lives"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".conform-")
        assert atomic.remove_left_behind([tmp_path]) == [left]
        assert os.listdir(tmp_path) == []

    def test_temporaries_of_other_machines_go_by_their_age(self, tmp_path: Path) -> None:
        new, old, lock = (tmp_path / name for name in (".conform-0123abcd-7-x.nii.gz", ".conform-abcdef.tsv", ".conform.lock"))
        for path in (new, old, lock):
            path.write_text("")
        past = time.time() - atomic.LEFT_BEHIND_S - 1
        os.utime(old, (past, past))
        os.utime(lock, (past, past))
        assert atomic.remove_left_behind([tmp_path]) == [old]
        assert atomic.remove_left_behind([new, lock]) == []


class TestTables:
    def test_json_takes_numpy_and_paths_but_no_nan(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        write_json({"a": np.float32(0.5), "b": np.arange(2), "c": Path("x/y"), "d": "é"}, path)
        assert json.loads(path.read_text(encoding="utf-8")) == {"a": 0.5, "b": [0, 1], "c": "x/y", "d": "é"}
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json({"a": float("nan")}, path)
        with pytest.raises(TypeError, match="cannot be written"):
            write_json({"a": object()}, path)
        assert json.loads(path.read_text(encoding="utf-8"))["d"] == "é"

    def test_tsv_has_na_for_what_is_missing(self, tmp_path: Path) -> None:
        write_tsv(pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, float("nan")]}), tmp_path / "a.tsv")
        assert (tmp_path / "a.tsv").read_bytes() == b"a\tb\tc\n1\tx\t0.5\n2\tn/a\tn/a\n"


def _add_one(folder: str, rounds: int) -> None:
    counter = Path(folder) / "counter"
    for _ in range(rounds):
        with lock_file(folder, timeout_s=60):
            value = int(counter.read_text()) if counter.exists() else 0
            time.sleep(0.001)
            counter.write_text(str(value + 1))


class TestLock:
    @pytest.mark.parametrize("has_flock", [True, False])
    def test_one_holder_at_a_time(self, tmp_path: Path, has_flock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not has_flock:
            monkeypatch.setattr(fcntl, "flock", _no_locks)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=_add_one, args=(str(tmp_path), 20)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert (tmp_path / "counter").read_text() == "80"
        assert os.listdir(tmp_path) == ["counter"]

    @pytest.mark.parametrize("has_flock", [True, False])
    def test_time_out_says_what_to_do(self, tmp_path: Path, has_flock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not has_flock:
            monkeypatch.setattr(fcntl, "flock", _no_locks)

        def attempt() -> None:
            with lock_file(tmp_path, timeout_s=0.2):
                pass

        with lock_file(tmp_path), ThreadPoolExecutor(1) as pool:
            started = time.monotonic()
            with pytest.raises(UsageError, match=r"another run has held this lock .* remove \.conform\.lock"):
                pool.submit(attempt).result()
            assert time.monotonic() - started < 5
        attempt()

    def test_lock_left_behind_is_taken_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fcntl, "flock", _no_locks)
        left = tmp_path / ".conform.lock.d"
        left.mkdir()
        old = time.time() - atomic.STALE_LOCK_S - 1
        os.utime(left, (old, old))
        with lock_file(tmp_path, timeout_s=1):
            assert left.exists()
        assert not left.exists()

    def test_lock_of_a_run_killed_while_it_let_go_is_tidied_up_after(self, tmp_path: Path) -> None:
        """Where there is no flock: the folder was renamed and not removed yet."""
        program = (
            "import fcntl, os, pathlib, signal; from conform_bids.bids.derivatives import lock_file\n"
            "def refuse(*_): raise OSError(37, 'No locks available')\n"
            "fcntl.flock = refuse; pathlib.Path.rmdir = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"with lock_file({str(tmp_path)!r}): pass\n"
        )
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
        (left,) = tmp_path.iterdir()
        assert left.is_dir() and left.name.startswith(".conform-")
        (tmp_path / f"{left.name}-other").mkdir()
        (tmp_path / f"{left.name}-other" / "data").touch()
        assert atomic.remove_left_behind([tmp_path]) == [left], "what holds anything else stays"
        assert atomic.remove_left_behind([left]) == []

    def test_folder_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="cannot be written to"), lock_file(tmp_path / "file"):
            pass

    def test_error_within_is_not_mistaken_for_one_of_the_lock(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="mine"), lock_file(tmp_path):
            raise OSError("mine")
        with lock_file(tmp_path, timeout_s=1):
            pass


def _no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


class TestDatasetDescription:
    def test_content(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for key in ("APPTAINER_NAME", "APPTAINER_CONTAINER", "SINGULARITY_NAME", "SINGULARITY_CONTAINER", "CONFORM_SINGULARITY_URL"):
            monkeypatch.delenv(key, raising=False)
        monkeypatch.setenv("CONFORM_DOCKER_TAG", "conform:1.0")
        raw = tmp_path / "ds"
        raw.mkdir()
        (raw / "dataset_description.json").write_text(json.dumps({"Name": "x", "DatasetDOI": "doi:10.1/2", "License": "CC0"}))
        prep = raw / "derivatives" / "fmriprep"
        prep.mkdir(parents=True)
        (prep / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.2.0"}]}))
        sources = [source_dataset("raw", raw), source_dataset("fmriprep", prep)]
        out = raw / "derivatives" / "glm"
        links = {"templateflow": "https://templateflow.org", "atlas": tmp_path / "atlas"}
        write_dataset_description(out, app_name="conform-glm", version="1.0", source_datasets=sources, links=links)
        content = described(out)
        assert content["DatasetLinks"] == {
            "atlas": "../../../atlas",
            "fmriprep": "../fmriprep",
            "raw": "../..",
            "templateflow": "https://templateflow.org",
        }
        assert content["SourceDatasets"] == [{"URL": "../..", "DOI": "doi:10.1/2"}, {"URL": "../fmriprep", "Version": "25.2.0"}]
        (maker,) = content["GeneratedBy"]
        assert maker["Name"] == "conform-glm"
        assert maker["Version"] == "1.0"
        assert maker["Container"] == {"Type": "docker", "Tag": "conform:1.0"}
        assert (content["DatasetType"], content["BIDSVersion"], content["License"]) == ("derivative", "1.11.1", "CC0")
        assert content["HowToAcknowledge"]
        assert str(tmp_path) not in (out / "dataset_description.json").read_text()

    def test_order_of_jobs_does_not_show(self, tmp_path: Path) -> None:
        a, b = SourceDataset("a", tmp_path / "a"), SourceDataset("b", tmp_path / "b", url="https://example.org/b")
        for out, order in ((tmp_path / "1", (a, b, a)), (tmp_path / "2", (b, a, b))):
            for source in order:
                write_dataset_description(out, app_name="x", version="1", source_datasets=[source])
        first, second = ((tmp_path / out / "dataset_description.json").read_bytes() for out in "12")
        assert first == second
        assert set(json.loads(first)["DatasetLinks"]) == {"a", "b"}
        assert len(json.loads(first)["SourceDatasets"]) == 2

    def test_jobs_at_the_same_time_lose_no_link(self, tmp_path: Path) -> None:
        def job(number: int) -> None:
            source = SourceDataset(f"d{number}", tmp_path / f"d{number}")
            write_dataset_description(tmp_path / "out", app_name="x", version="1", source_datasets=[source])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(job, range(16)))
        assert len(described(tmp_path / "out")["DatasetLinks"]) == 16

    def test_newer_version_takes_the_place_of_the_older(self, tmp_path: Path) -> None:
        for version in ("1", "2"):
            write_dataset_description(tmp_path, app_name="x", version=version)
        assert [maker["Version"] for maker in described(tmp_path)["GeneratedBy"]] == ["2"]

    @pytest.mark.parametrize("content", ["{", "{}", '{"GeneratedBy": [{"Name": "fMRIPrep"}]}', '{"GeneratedBy": 3}'])
    def test_folder_of_something_else_is_refused(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "dataset_description.json"
        path.write_text(content)
        with pytest.raises(UsageError, match=str(tmp_path)):
            write_dataset_description(tmp_path, app_name="conform-glm", version="1")
        assert path.read_text() == content

    def test_links_go_through_symbolic_links(self, tmp_path: Path) -> None:
        (tmp_path / "real" / "out").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
        assert relative_link(tmp_path / "data", tmp_path / "link") == "../../data"

    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({}, None),
            ({"CONFORM_DOCKER_TAG": "c:1"}, {"Type": "docker", "Tag": "c:1"}),
            ({"APPTAINER_CONTAINER": "/home/me/c.sif"}, {"Type": "apptainer", "Tag": "c.sif"}),
            ({"APPTAINER_NAME": "c.sif", "CONFORM_DOCKER_TAG": "c:1"}, {"Type": "apptainer", "Tag": "c:1"}),
            ({"CONFORM_SINGULARITY_URL": "docker://c:1"}, {"Type": "apptainer", "URI": "docker://c:1"}),
        ],
    )
    def test_container(self, environment: dict[str, str], expected: dict[str, str] | None) -> None:
        assert container_record(environment) == expected


class TestOtherRootFiles:
    def test_bidsignore_keeps_what_the_user_added(self, tmp_path: Path) -> None:
        (tmp_path / ".bidsignore").write_text("mine\n*.html\n")
        for _ in range(2):
            write_bidsignore(tmp_path)
        lines = (tmp_path / ".bidsignore").read_text().splitlines()
        assert lines[:2] == ["mine", "*.html"]
        assert sorted(lines) == sorted({"mine", *BIDSIGNORE})
        assert not [line for line in lines if line.endswith("/")]

    def test_readme_is_written_once(self, tmp_path: Path) -> None:
        write_readme(tmp_path, "conform-glm", "Estimates responses.")
        text = (tmp_path / "README.md").read_text()
        assert text.startswith("# conform-glm outputs")
        assert "\n\nEstimates responses.\n\n" in text
        (tmp_path / "README.md").write_text("mine")
        write_readme(tmp_path, "conform-glm")
        assert (tmp_path / "README.md").read_text() == "mine"


class TestSidecar:
    def test_required_keys_go_by_the_name(self) -> None:
        uri = "bids:fmriprep:sub-01/func/x.nii.gz"
        volume = sidecar({"space": "T1w"}, "statmap", ".nii.gz", sources=[uri], fields={"Units": "z", "Description": "d", "No": None})
        assert volume == {"Description": "d", "Sources": [uri], "SpatialReference": uri, "SkullStripped": True, "Units": "z"}
        assert next(iter(volume)) == "Description"
        standard = sidecar({"space": "MNI152NLin2009cAsym", "res": "2"}, "mask", ".nii.gz")
        assert set(standard) == {"Resolution"}
        dense = sidecar({"space": "fsLR", "den": "91k"}, "statmap", ".dscalar.nii")
        assert set(dense) == {"Density"}
        assert "91,282" in dense["Density"]
        assert sidecar({"space": "fsnative", "den": "7"}, "statmap", ".func.gii")["SpatialReference"] == "orig"
        assert sidecar({"space": "T1w"}, "statmap", ".nii.gz", skull_stripped=False)["SkullStripped"] is False
        assert sidecar({"space": "T1w"}, "mask", ".nii.gz", spatial_reference="bids:raw:x")["SpatialReference"] == "bids:raw:x"
        assert sidecar({"task": "x"}, "trials", ".tsv") == {}
        assert sidecar({"res": "2"}, "mask", ".nii.gz", fields={"Resolution": "mine"}) == {"Resolution": "mine"}


OUTPUTS: list[tuple[dict[str, str], str, str]] = [
    *(
        ({**space, "stat": stat, "desc": "fithrf"}, "statmap", extension)
        for stat in ("effect", "hrfindex", "rsquared", "fraction", "mean", "noiseceiling")
        for space, extension in (
            ({}, ".nii.gz"),
            ({"acq": "hi", "rec": "x", "dir": "AP", "space": "T1w"}, ".nii.gz"),
            ({"space": "MNI152NLin2009cAsym", "res": "2"}, ".nii.gz"),
            ({"space": "fsLR", "den": "91k"}, ".dscalar.nii"),
            ({"hemi": "L", "space": "fsaverage5"}, ".func.gii"),
            ({"hemi": "R", "space": "fsaverage5"}, ".func.gii"),
        )
    ),
    *(({"space": space, "desc": desc}, "mask", ".nii.gz") for space in ("T1w", "MNI152NLin6Asym") for desc in ("brain", "noisepool")),
    ({"desc": "fithrf"}, "trials", ".tsv"),
    ({"run": "01"}, "design", ".tsv"),
    ({"desc": "hrflibrary"}, "timeseries", ".tsv"),
    ({"desc": "psn"}, "eigenspectrum", ".tsv"),
    ({"desc": "psn"}, "decomposition", ".h5"),
    ({"desc": "m"}, "weights", ".h5"),
    ({"desc": "m"}, "metrics", ".tsv"),
    ({"space": "T1w", "desc": "psn"}, "components", ".nii.gz"),
    ({"space": "fsLR", "from": "native", "to": "common", "mode": "function", "den": "91k", "desc": "ot"}, "xfm", ".h5"),
]
OTHERS = (
    "sub-01.html",
    "group_glm.html",
    "group_glm.tsv",
    "logs/CITATION.md",
    "logs/1/conform.toml",
    "sub-01/log/1/crash-1.txt",
    "sub-01/figures/sub-01_task-nsd_desc-r2_statmap.svg",
    "store/data.h5",
    "model/weights.safetensors",
    "stimuli/a.png",
    "sub-01/stimuli/sub-01_stimuli.tsv",
)


@pytest.fixture(scope="module")
def output_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    source = SourceDataset("fmriprep", root.parent / "fmriprep")
    write_dataset_description(root, app_name="conform-glm", version="1.0", source_datasets=[source], license="CC0")
    write_readme(root, "conform-glm")
    for entities, suffix, extension in OUTPUTS:
        named = {"sub": "01", "ses": "01", "task": "nsd", **entities}
        path = root / relative_path(named, suffix, extension)
        path.parent.mkdir(parents=True, exist_ok=True)
        if extension == ".nii.gz":
            image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8 if suffix == "mask" else np.float32), np.eye(4))
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, path)
        else:
            path.write_text("a\tb\n1\t2\n")
        content = sidecar(named, suffix, extension, sources=["bids:fmriprep:sub-01/x.nii.gz"], fields={"Description": "d"})
        write_json(content, path.with_name(path.name.removesuffix(extension) + ".json"))
    for name in OTHERS:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n1\n")
    return root


@pytest.fixture(scope="module")
def extended_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The standard's schema, with the suffixes and entities of the drafts for statistical maps."""
    bidsschematools = pytest.importorskip("bidsschematools")
    schema = json.loads((Path(bidsschematools.__file__).parent / "data" / "schema.json").read_text())
    tables = ["timeseries", "relmat", "trials", "design", "eigenspectrum", "metrics"]
    suffixes = {".nii.gz .dscalar.nii .func.gii": ["statmap", "components"], ".tsv": tables, ".h5": ["decomposition", "weights", "xfm"]}
    for suffix in itertools.chain(*suffixes.values()):
        schema["objects"]["suffixes"][suffix] = {"value": suffix, "display_name": suffix, "description": suffix}
    order = schema["rules"]["entities"]
    for key, after in (("from", "space"), ("to", "from"), ("mode", "to"), ("stat", "density")):
        schema["objects"]["entities"][key] = {"name": key, "display_name": key, "description": key, "type": "string", "format": "label"}
        order.insert(order.index(after) + 1, key)
    entities = dict.fromkeys(order, "optional")
    rules = schema["rules"]["files"]["deriv"].setdefault("conform", {})
    for extensions, names in suffixes.items():
        rules[names[0]] = {
            "selectors": ["dataset.dataset_description.DatasetType == 'derivative'"],
            "suffixes": names,
            "extensions": [*extensions.split(), ".json"],
            "datatypes": ["func"],
            "entities": entities,
        }
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    path.write_text(json.dumps(schema))
    return path


@pytest.fixture
def validate(output_tree: Path, tmp_path: Path) -> Callable[..., tuple[int, list[tuple[str, str]]]]:
    """Validate a copy of the tree: the exit status, and code and place of each error."""
    if not VALIDATOR.exists():
        pytest.skip("bids-validator-deno is not installed")

    def run(lines: tuple[str, ...], *arguments: str, change: Callable[[Path], None] | None = None) -> tuple[int, list[tuple[str, str]]]:
        tree = tmp_path / "tree"
        shutil.copytree(output_tree, tree)
        write_bidsignore(tree, lines)
        if change:
            change(tree)
        done = subprocess.run([VALIDATOR, tree, "--json", *arguments], capture_output=True, text=True, timeout=120, check=False)
        issues = json.loads(done.stdout)["issues"]["issues"]
        return done.returncode, [(issue["code"], issue["location"]) for issue in issues if issue["severity"] == "error"]

    return run


class TestValidator:
    def test_stock_validator_passes(self, validate: Callable[..., tuple[int, list[tuple[str, str]]]]) -> None:
        assert validate(BIDSIGNORE) == (0, [])

    def test_extended_schema_passes_with_the_short_list(
        self, validate: Callable[..., tuple[int, list[tuple[str, str]]]], extended_schema: Path
    ) -> None:
        assert validate(BIDSIGNORE_SHORT, "-s", extended_schema.as_uri()) == (0, [])

    def test_extended_schema_finds_a_wrong_order_and_a_missing_key(
        self, validate: Callable[..., tuple[int, list[tuple[str, str]]]], extended_schema: Path
    ) -> None:
        def spoil(tree: Path) -> None:
            dense = next(tree.rglob("*_den-91k_stat-effect_desc-fithrf_statmap.json"))
            dense.write_text("{}")
            for path in tree.rglob("*space-T1w_stat-mean_desc-fithrf_statmap.*"):
                path.rename(path.with_name(path.name.replace("stat-mean_desc-fithrf", "desc-fithrf_stat-mean")))

        status, errors = validate(BIDSIGNORE_SHORT, "-s", extended_schema.as_uri(), change=spoil)
        assert status == 16
        assert {code for code, _ in errors} >= {"SIDECAR_KEY_REQUIRED", "FILENAME_MISMATCH"}


def test_public_names_exist() -> None:
    assert all(hasattr(derivatives, name) for name in derivatives.__all__)
