"""Nipype interfaces of the toy app; apart, as the app itself must not import Nipype to plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, Str, TraitedSpec


class MeanInputs(BaseInterfaceInputSpec):
    job = Str(mandatory=True)


class MeanOutputs(TraitedSpec):
    out_file = File(exists=True)


class Mean(SimpleInterface):
    input_spec = MeanInputs
    output_spec = MeanOutputs

    def _run_interface(self, runtime: Any) -> Any:
        from toy_app import compute_mean

        out_file = Path(runtime.cwd) / "mean.npy"
        compute_mean(json.loads(self.inputs.job), out_file)
        self._results["out_file"] = str(out_file)
        return runtime


class SaveInputs(BaseInterfaceInputSpec):
    job = Str(mandatory=True)
    in_file = File(exists=True, mandatory=True)


class Save(SimpleInterface):
    input_spec = SaveInputs
    output_spec = TraitedSpec

    def _run_interface(self, runtime: Any) -> Any:
        from toy_app import save_mean

        save_mean(json.loads(self.inputs.job), self.inputs.in_file)
        return runtime
