"""The one Nipype base class of all apps: load, one call, save.

A node of ours gets its whole task as JSON (the job that the planner wrote, the settings) plus the paths that other nodes
made, and hands on paths. A subclass says what goes in and out and has one method; see `ConformInterface`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

os.environ.setdefault("NO_ET", "1")  # Nipype asks a server for its newest version otherwise
os.environ.setdefault("NIPYPE_NO_ET", "1")

from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, Undefined, isdefined, traits

__all__ = ["ConformInputSpec", "ConformInterface", "limited_threads"]

_TORCH_ALLOCATION = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


class ConformInputSpec(BaseInterfaceInputSpec):
    """Inputs of every node; only ``settings`` and ``job`` count for whether a result is still valid."""

    settings = traits.Str("{}", usedefault=True, desc="settings of the app, a JSON object")
    job = traits.Str("{}", usedefault=True, desc="what is to be done, a JSON object")
    n_threads = traits.Range(low=1, value=1, usedefault=True, nohash=True, desc="threads of the call")
    memory_gb = traits.Float(4.0, usedefault=True, nohash=True, desc="memory for the call to plan its blocks by, in GB")
    device = traits.Str("cpu", usedefault=True, nohash=True, desc="cpu, cuda or cuda:N")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="follows from device; Nipype counts such nodes apart")

    def _device_changed(self, device: str) -> None:
        self.use_gpu = device.startswith("cuda")


class ConformInterface(SimpleInterface):
    """Base of all nodes: `compute` is called with limited threads, its result becomes the outputs.

    A subclass sets ``input_spec`` (from `ConformInputSpec`) and ``output_spec``, imports what is heavy inside of
    `compute`, and writes its files with absolute paths or into the current folder, which is the node's own.

    Examples
    --------
    >>> from nipype.interfaces.base import TraitedSpec
    >>> class DoubleOutputs(TraitedSpec):
    ...     doubled = traits.Float()
    >>> class Double(ConformInterface):
    ...     output_spec = DoubleOutputs
    ...     def compute(self):
    ...         return {"doubled": 2 * self.job["x"]}
    >>> Double(job='{"x": 1.5}').run().outputs.doubled
    3.0
    """

    input_spec = ConformInputSpec

    def compute(self) -> Mapping[str, Any]:
        """Do the work and return a value for each output; those that are left out or None stay undefined."""
        raise NotImplementedError(f"{type(self).__name__} has no compute()")

    @property
    def job(self) -> dict[str, Any]:
        """What is to be done, read from its JSON."""
        return dict(json.loads(self.inputs.job))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the app, read from their JSON."""
        return dict(json.loads(self.inputs.settings))

    def given(self, name: str, default: Any = None) -> Any:
        """Value of an optional input, or the default where nothing was connected to it."""
        value = getattr(self.inputs, name)
        return value if isdefined(value) else default

    def _run_interface(self, runtime: Any) -> Any:
        with limited_threads(self.inputs.n_threads), _clear_errors(runtime.cwd):
            results = self.compute()
        self._results = {name: Undefined if value is None else value for name, value in results.items()}
        return runtime


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Keep the numerical libraries (BLAS, OpenMP, torch) to a number of threads while the context lasts."""
    from threadpoolctl import threadpool_limits

    # for libraries that are loaded within the context
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(n_threads)))
    with ExitStack() as stack:
        stack.callback(_restore_environment, before)
        stack.enter_context(threadpool_limits(n_threads))
        if "torch" in sys.modules:
            torch = sys.modules["torch"]
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(n_threads)
        yield


def _restore_environment(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _clear_errors(folder: str) -> Iterator[None]:
    """Say what numpy and torch do not say plainly: memory ran out, or the disk is full."""
    try:
        yield
    except RuntimeError as error:
        if _TORCH_ALLOCATION.search(str(error)):
            raise MemoryError(str(error).splitlines()[0]) from error
        raise
    except OSError as error:
        if error.errno is None and _SHORT_WRITE.search(str(error)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder) from error
        raise
