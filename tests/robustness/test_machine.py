"""What machines do to a run: full disks, signals, killed processes, power cuts, odd users, links, neighbours."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from interruptions import Interruption

pytestmark = pytest.mark.slow
check_whole, temporaries, session_members = Interruption.check_whole, Interruption.temporaries, Interruption.members

SPACE = "MNI152NLin2009cAsym"
FAST = ("--model", "fithrf")
BETAS = f"func/sub-{{0}}_task-x_space-{SPACE}_stat-effect_desc-fithrf_statmap.nii.gz"
GUARD = """
import os, socket

def _refuse(kind):
    def refuse(self, *address):
        if getattr(self, "family", None) == socket.AF_UNIX:
            return getattr(super(Guarded, self), kind)(*address)
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{kind} {address}\\n")
        raise OSError(101, "no network in this test")
    return refuse

class Guarded(socket.socket):
    # not bind: urllib3 binds, and closes, a socket to see whether there is IPv6
    connect, connect_ex, listen, sendto = map(_refuse, ("connect", "connect_ex", "listen", "sendto"))

socket.socket = socket.SocketType = Guarded
"""


def betas(out: Path, label: str = "01") -> np.ndarray:
    return np.asarray(nib.load(out / f"sub-{label}" / BETAS.format(label)).dataobj)


@pytest.fixture(scope="module")
def reference(pristine: Any, run_glm: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of an undisturbed run."""
    out = tmp_path_factory.mktemp("reference") / "out"
    run_glm(pristine.root, out, *FAST).expect(0)
    check_whole(out)
    assert not temporaries(out)
    return out


@pytest.fixture
def start(make: SimpleNamespace, pristine: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a run in a session of its own; whatever is left of it goes at the end."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        line = make.command(
            pristine.root, tmp_path / "out", "participant", "--skip-bids-validation", "-w", tmp_path / "work", *FAST, *arguments
        )
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=make.environment(), start_new_session=True, cwd=tmp_path
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        for pid in session_members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_end(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 10
    while session_members(process.pid):
        assert time.monotonic() < deadline, f"orphans: {session_members(process.pid)}"
        time.sleep(0.1)


class TestInterruption:
    @pytest.mark.parametrize(
        ("number", "to_group", "status", "stage"),
        [(signal.SIGTERM, False, 143, "work/**/fit"), (signal.SIGINT, True, 130, "out/sub-01/func/*")],
    )
    def test_a_signal_leaves_nothing_half(
        self, number: int, to_group: bool, status: int, stage: str, start: Any, tmp_path: Path, pristine: Any, run_glm: Any, reference: Path
    ) -> None:
        process = start("--nprocs", "2")
        wait_for(lambda: list(tmp_path.glob(stage)), process)
        (os.killpg if to_group else os.kill)(process.pid, number)
        shown, _ = process.communicate(timeout=30)
        assert process.returncode == status, shown
        assert "Traceback" not in shown
        wait_for_end(process)
        assert not temporaries(tmp_path / "out")
        check_whole(tmp_path / "out")
        run_glm(pristine.root, tmp_path / "out", *FAST).expect(0, "sub-01: completed", "sub-02: completed")
        assert np.array_equal(betas(tmp_path / "out"), betas(reference), equal_nan=True)

    def test_a_power_cut_while_files_are_written(self, start: Any, tmp_path: Path, pristine: Any, run_glm: Any, reference: Path) -> None:
        process = start("--nprocs", "2")
        wait_for(lambda: list(tmp_path.glob("out/sub-*/func/*")), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pid in session_members(process.pid):
            os.kill(pid, signal.SIGKILL)
        wait_for_end(process)
        check_whole(tmp_path / "out")
        run_glm(pristine.root, tmp_path / "out", *FAST).expect(0, "sub-01: completed", "sub-02: completed")
        check_whole(tmp_path / "out")
        for label in ("01", "02"):
            assert np.array_equal(betas(tmp_path / "out", label), betas(reference, label), equal_nan=True)

    def test_a_killed_worker_is_told_and_resumed(self, start: Any, tmp_path: Path, pristine: Any, run_glm: Any) -> None:
        process = start("--nprocs", "1", "--participant-label", "01")
        wait_for(lambda: list(tmp_path.glob("work/**/fit")), process)
        members = session_members(process.pid)
        servers = {pid for pid, parent in members.items() if parent == process.pid}
        workers = [pid for pid, parent in members.items() if parent in servers]
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        shown, _ = process.communicate(timeout=30)
        assert time.monotonic() - killed < 10
        assert process.returncode == 1, shown
        assert "killed, probably out of memory" in shown
        wait_for_end(process)
        run_glm(pristine.root, tmp_path / "out", *FAST, "--participant-label", "01").expect(0, "sub-01: completed")


@pytest.mark.parametrize(("name", "size"), [("out", "16k"), ("out", "200k"), ("work", "200k")])
def test_a_full_disk_is_named_and_a_second_run_completes(
    name: str, size: str, small_disk: Any, tmp_path: Path, pristine: Any, run_glm: Any, reference: Path
) -> None:
    folder = small_disk(name, size)
    done = run_glm(pristine.root, tmp_path / "out", *FAST, "--participant-label", "01")
    assert done.returncode == 1, done.text
    assert "o space left on device" in done.text
    assert str(folder) in done.text
    assert "Traceback" not in done.text
    check_whole(tmp_path / "out")
    assert not temporaries(tmp_path / "out")
    small_disk(name, "200m")
    run_glm(pristine.root, tmp_path / "out", *FAST, "--participant-label", "01").expect(0, "sub-01: completed")
    check_whole(tmp_path / "out")
    assert np.array_equal(betas(tmp_path / "out"), betas(reference), equal_nan=True)


def python_for_all(as_nobody: list[str], env: dict[str, str], folder: Path, repository: Path) -> str:
    """A Python that this user may start: ours, or one of the system with our libraries, where ours lies in root's home."""
    own = Path(sys.executable)
    guard = env["PYTHONPATH"]
    libraries = os.pathsep.join([guard, sysconfig.get_path("purelib"), str(repository)])
    system = [Path(f"{place}/python3.{sys.version_info.minor}") for place in ("/usr/bin", "/usr/local/bin")]
    for python, path in [(own, guard), *((python, libraries) for python in system)]:
        # started by itself too, as workers are
        code = "import subprocess, sys, bids_app.glm, nipype; subprocess.run([sys.executable, '-c', ''], check=True)"
        line = [*as_nobody, str(python), "-c", code]
        if (
            python.exists()
            and not subprocess.run(line, capture_output=True, env={**env, "PYTHONPATH": path}, cwd=folder, check=False).returncode
        ):
            env["PYTHONPATH"] = path
            return str(python)
    return pytest.skip("Python or the checkout is closed to other users")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users reach. Not pytest's: each session that starts beside this one closes the folder above to others again."""
    with tempfile.TemporaryDirectory(prefix="conform-open-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_no_home_no_user_no_network(make: SimpleNamespace, run_glm: Any, open_folder: Path, repository: Path) -> None:
    """As containers run it: a uid without passwd entry, a read-only home, an input that cannot be written; every socket is refused."""
    as_nobody = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root may become another user")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0:
        as_nobody = ["unshare", "-n", *as_nobody]
    tiny = make.dataset(open_folder / "ds", ("01",))
    scratch, home, guard = open_folder / "scratch", open_folder / "home", open_folder / "guard"
    for folder in (scratch, home, guard):
        folder.mkdir()
    os.chown(scratch, 54321, 54321)
    home.chmod(0o555)
    (guard / "sitecustomize.py").write_text(GUARD)
    env = {"HOME": str(home), "PYTHONPATH": str(guard), "NETWORK_LOG": str(scratch / "network.log"), "TMPDIR": str(scratch)}
    env |= dict.fromkeys(("USER", "LOGNAME", "USERNAME", "LNAME"), "")
    python = python_for_all(as_nobody, env, scratch, repository)
    done = run_glm(tiny.root, scratch / "out", *FAST, prefix=as_nobody, python=python, env=env, validate=True)
    done.expect(0, "sub-01: completed")
    assert "not validated" not in done.text or python != sys.executable, "the validator is a program beside our own Python"
    assert not (scratch / "network.log").exists(), (scratch / "network.log").read_text()
    assert not list(home.iterdir())
    assert betas(scratch / "out").shape == (6, 5, 4, 36)


def test_an_annexed_sparse_checkout_with_spaces_in_its_path(make: SimpleNamespace, run_glm: Any, tmp_path: Path, reference: Path) -> None:
    """One participant of a DataLad dataset: links into an object store, the other's content absent, read-only, no participants.tsv."""
    tiny = make.dataset(tmp_path / "my data" / "a set (copy)")
    store = tmp_path / "my data" / "objects"
    store.mkdir()
    for number, path in enumerate(sorted(path for path in tiny.root.rglob("sub-*_*") if path.is_file())):
        content = store / f"MD5E-{number}{''.join(path.suffixes)}"
        path.rename(content)
        content.chmod(0o444)
        path.symlink_to(os.path.relpath(content, path.parent))
        if "sub-02" in path.name:
            content.unlink()
    for folder in [tiny.root, *(path for path in tiny.root.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    out = tmp_path / "my data" / "out put"
    before = sorted(tiny.root.rglob("*"))
    try:
        run_glm(tiny.root, out, *FAST, "--participant-label", "01", validate=True).expect(0, "sub-01: completed")
        run_glm(tiny.root, out, *FAST, "--participant-label", "02").expect(66, "datalad get")
        assert sorted(tiny.root.rglob("*")) == before
    finally:
        for folder in [tiny.root, *(path for path in tiny.root.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
    assert np.array_equal(betas(out), betas(reference), equal_nan=True)


def test_two_jobs_into_one_output_folder(make: SimpleNamespace, pristine: Any, tmp_path: Path, reference: Path) -> None:
    """As a job array runs it; each has a work folder of its own or shares it."""
    jobs = [
        subprocess.Popen(
            make.command(pristine.root, tmp_path / "out", "participant", "--skip-bids-validation", "--nprocs", "1", *FAST,
                         "--participant-label", label, "-w", tmp_path / "work"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=make.environment(), cwd=tmp_path,
        )
        for label in ("01", "02")
    ]  # fmt: skip
    for job in jobs:
        shown, _ = job.communicate(timeout=120)
        assert job.returncode == 0, shown
    for label in ("01", "02"):
        assert np.array_equal(betas(tmp_path / "out", label), betas(reference, label), equal_nan=True)
        assert (tmp_path / "out" / f"sub-{label}.html").is_file()
    for name in ("dataset_description.json", ".bidsignore", "README.md", "logs/settings.json", "logs/CITATION.md", "logs/CITATION.bib"):
        ours, theirs = (tmp_path / "out" / name).read_text(), (reference / name).read_text()
        if name == "dataset_description.json":
            first, second = json.loads(ours), json.loads(theirs)
            assert {**first, "DatasetLinks": None, "SourceDatasets": None} == {**second, "DatasetLinks": None, "SourceDatasets": None}
            assert first["DatasetLinks"].keys() == second["DatasetLinks"].keys()
        else:
            assert ours == theirs, name
    assert not temporaries(tmp_path / "out")
    stats = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("sub-*") if "log" not in path.parts}
    assert stats == {path.relative_to(reference).as_posix() for path in reference.rglob("sub-*") if "log" not in path.parts}


def test_other_settings_and_a_link_as_output_folder(run_glm: Any, pristine: Any, tmp_path: Path, reference: Path) -> None:
    copied = shutil.copytree(reference, tmp_path / "out")
    (tmp_path / "link").symlink_to(copied)
    run_glm(pristine.root, tmp_path / "link", *FAST, "--units", "raw").expect(2, "units = percent (now raw)", "--overwrite")
    run_glm(pristine.root, tmp_path / "link", *FAST, "--random-seed", "5").expect(2, "random_seed")
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.nii.gz")}
    run_glm(pristine.root, tmp_path / "link", "--no-such-flag").expect(2, "--no-such-flag")
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.nii.gz")} == before
