"""Thin Nipype interfaces of conform-align: each reads, makes one call, and names its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, InputMultiObject, OutputMultiObject, TraitedSpec

from conform_bids.align.files import Plan
from conform_bids.nodes import ConformInputSpec, ConformInterface

__all__ = ["FitToTemplate", "LoadResponses", "SaveOutputs"]


class _LoadInputs(ConformInputSpec):
    inputs = InputMultiObject(File(), desc="files that the job reads; their times decide whether it has to run again")


class _LoadOutputs(TraitedSpec):
    loaded = OutputMultiObject(File(exists=True), desc="grid, arrays and tables")


class LoadResponses(ConformInterface):
    """Maps and tables to arrays."""

    input_spec = _LoadInputs
    output_spec = _LoadOutputs

    def compute(self) -> Mapping[str, Any]:
        """Read the responses of the plan."""
        from conform_bids.align.load import load_responses

        return {"loaded": [str(path) for path in load_responses(Plan.from_identity(self.job), Path.cwd())]}


class _FitInputs(ConformInputSpec):
    loaded = InputMultiObject(File(exists=True), mandatory=True, desc="what LoadResponses made")


class _FitOutputs(TraitedSpec):
    results = OutputMultiObject(File(exists=True), desc="aligned responses, the transform, and facts of the fit")


class FitToTemplate(ConformInterface):
    """A person's map to a template."""

    input_spec = _FitInputs
    output_spec = _FitOutputs

    def compute(self) -> Mapping[str, Any]:
        """Fit the person of the plan."""
        from conform_bids.align.load import read_loaded
        from conform_bids.align.results import fit_to_template
        from conform_bids.numerics.compute import Compute

        compute = Compute(self.inputs.device, self.inputs.n_threads, self.inputs.memory_gb * 1e9)
        loaded = read_loaded([Path(path) for path in self.inputs.loaded])
        return {"results": [str(path) for path in fit_to_template(Plan.from_identity(self.job), loaded, Path.cwd(), compute)]}


class _SaveInputs(_FitInputs):
    results = InputMultiObject(File(exists=True), desc="what FitToTemplate made, where there is a template")


class _SaveOutputsSpec(TraitedSpec):
    files = OutputMultiObject(File(exists=True), desc="files written to the output folder")


class SaveOutputs(ConformInterface):
    """Arrays to BIDS derivatives."""

    input_spec = _SaveInputs
    output_spec = _SaveOutputsSpec

    def compute(self) -> Mapping[str, Any]:
        """Write what the plan declares."""
        from conform_bids.align.load import read_loaded
        from conform_bids.align.save import save_outputs

        results = {Path(path).name: Path(path) for path in self.given("results", [])}
        fit = json.loads(results["fit.json"].read_text(encoding="utf-8")) if results else {}
        loaded = read_loaded([Path(path) for path in self.inputs.loaded])
        files = save_outputs(Plan.from_identity(self.job), loaded, results, fit, self.inputs.n_threads)
        return {"files": [str(path) for path in files]}
