"""The base class of all nodes."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nipype import Node
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits
from threadpoolctl import threadpool_info

from conform_bids import nodes
from conform_bids.errors import UnusableInputError
from conform_bids.nodes import ConformInputSpec, ConformInterface, limited_threads


class ScaleInputs(ConformInputSpec):
    in_file = File(exists=True, mandatory=True)
    extra = traits.Float()


class ScaleOutputs(TraitedSpec):
    out_file = File(exists=True)
    threads = traits.Int()
    absent = traits.Float()


class Scale(ConformInterface):
    """Multiply an array by the job's factor."""

    input_spec = ScaleInputs
    output_spec = ScaleOutputs
    calls = 0

    def compute(self) -> dict[str, Any]:
        type(self).calls += 1
        values = np.load(self.inputs.in_file) * self.job["factor"] + self.given("extra", 0.0) + self.settings.get("offset", 0)
        np.save("scaled.npy", values)
        threads = max((library["num_threads"] for library in threadpool_info()), default=1)
        return {"out_file": os.path.abspath("scaled.npy"), "threads": threads, "absent": None}


class Failing(ConformInterface):
    output_spec = TraitedSpec
    error: Exception = RuntimeError("unset")

    def compute(self) -> dict[str, Any]:
        raise type(self).error


@pytest.fixture
def in_file(tmp_path: Path) -> Path:
    path = tmp_path / "input.npy"
    np.save(path, np.arange(3.0))
    return path


def scale(in_file: Path, folder: Path, **inputs: Any) -> Node:
    node = Node(Scale(in_file=str(in_file), **{"job": json.dumps({"factor": 2}), **inputs}), name="scale", base_dir=str(folder))
    node.config = {"execution": {"hash_method": "timestamp", "remove_unnecessary_outputs": "false"}}
    return node


def test_the_docstring_is_true() -> None:
    result = doctest.testmod(nodes)
    assert result.attempted > 3
    assert result.failed == 0


def test_load_one_call_save(in_file: Path, tmp_path: Path) -> None:
    result = scale(in_file, tmp_path, settings='{"offset": 10}', extra=0.5).run()
    np.testing.assert_array_equal(np.load(result.outputs.out_file), [10.5, 12.5, 14.5])
    assert not isdefined(result.outputs.absent)


@pytest.mark.parametrize("other", [{"n_threads": 7}, {"memory_gb": 64.0}, {"device": "cuda:1"}])
def test_resources_do_not_change_the_hash(in_file: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    Scale.calls = 0
    scale(in_file, tmp_path).run()
    scale(in_file, tmp_path, **other).run()
    assert Scale.calls == 1


@pytest.mark.parametrize("other", [{"job": '{"factor": 3}'}, {"settings": '{"offset": 1}'}, {"extra": 1.0}])
def test_job_and_settings_change_the_hash(in_file: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    Scale.calls = 0
    scale(in_file, tmp_path).run()
    scale(in_file, tmp_path, **other).run()
    assert Scale.calls == 2


def test_inputs_by_symbolic_link_in_a_read_only_folder(in_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annexed"
    folder.mkdir()
    link = folder / "bold.npy"
    link.symlink_to(in_file)
    in_file.chmod(0o444)
    folder.chmod(0o555)
    try:
        Scale.calls = 0
        for _ in range(2):
            scale(link, tmp_path).run()
        assert Scale.calls == 1
        assert link.is_symlink()
        os.utime(in_file, (time.time() + 100, time.time() + 100))
        scale(link, tmp_path).run()
        assert Scale.calls == 2
    finally:
        folder.chmod(0o755)


def test_a_gpu_node_is_known_as_such() -> None:
    assert Scale(device="cuda:1").inputs.use_gpu
    assert not Scale().inputs.use_gpu
    assert Node(Scale(device="cuda"), name="scale").is_gpu_node()


def test_threads_are_limited_and_given_back(in_file: Path, tmp_path: Path) -> None:
    def widest() -> int:
        return max((library["num_threads"] for library in threadpool_info()), default=1)

    before, variable = widest(), os.environ.get("OMP_NUM_THREADS")
    assert scale(in_file, tmp_path, n_threads=1).run().outputs.threads == 1
    assert (widest(), os.environ.get("OMP_NUM_THREADS")) == (before, variable)


def test_torch_is_limited_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        threads = 5

        def get_num_threads(self) -> int:
            return self.threads

        def set_num_threads(self, number: int) -> None:
            self.threads = number

    torch = Torch()
    monkeypatch.setitem(sys.modules, "torch", torch)
    with limited_threads(2):
        assert torch.threads == 2
    assert torch.threads == 5


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nmore"), MemoryError, "can't allocate memory"),
        (RuntimeError("CUDA out of memory. Tried"), MemoryError, "CUDA out of memory"),
        (RuntimeError("shapes"), RuntimeError, "shapes"),
        (OSError("100 requested and 4 written"), OSError, "No space left on device: '/"),
        (UnusableInputError("x.nii: corrupt"), UnusableInputError, "corrupt"),
    ],
)
def test_errors_are_made_plain(raised: Exception, expected: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "error", raised)
    with pytest.raises(expected, match="(?i)" + message.replace("[", r"\[")) as caught:
        Failing().run()
    assert type(caught.value) is expected


def test_importing_it_loads_no_torch_and_forbids_the_network() -> None:
    code = "import os, sys, conform_bids.nodes\n"
    code += "sys.exit('torch' in sys.modules or 'nilearn' in sys.modules or os.environ['NIPYPE_NO_ET'] != '1')"
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_ET", "NIPYPE_NO_ET")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
