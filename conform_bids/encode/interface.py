"""Thin Nipype interfaces of conform-encode: each reads, makes one call, and names its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, InputMultiObject, OutputMultiObject, TraitedSpec

from conform_bids.encode.files import Plan
from conform_bids.nodes import ConformInputSpec, ConformInterface

__all__ = ["DrawFigures", "FitModel", "LoadInputs", "SaveOutputs"]


class _LoadInputSpec(ConformInputSpec):
    inputs = InputMultiObject(File(), desc="files that the job reads; their times decide whether it has to run again")


class _LoadOutputSpec(TraitedSpec):
    loaded = OutputMultiObject(File(exists=True), desc="grid, responses, features and tables")


class LoadInputs(ConformInterface):
    """Maps, tables and features to arrays; features of a backbone are computed."""

    input_spec = _LoadInputSpec
    output_spec = _LoadOutputSpec

    def compute(self) -> Mapping[str, Any]:
        """Read what the plan names."""
        from conform_bids.encode.load import load_inputs
        from conform_bids.encode.movie_load import load_movies
        from conform_bids.numerics.compute import Compute

        compute = Compute(self.inputs.device, self.inputs.n_threads, self.inputs.memory_gb * 1e9)
        plan = Plan.from_identity(self.job)
        load = load_movies if plan.settings.is_movie else load_inputs
        return {"loaded": [str(path) for path in load(plan, Path.cwd(), compute)]}


class _FitInputSpec(ConformInputSpec):
    loaded = InputMultiObject(File(exists=True), mandatory=True, desc="what LoadInputs made")


class _FitOutputSpec(TraitedSpec):
    results = OutputMultiObject(File(exists=True), desc="maps, weights and numbers of the fit")


class FitModel(ConformInterface):
    """Responses and features to weights and scores."""

    input_spec = _FitInputSpec
    output_spec = _FitOutputSpec

    def compute(self) -> Mapping[str, Any]:
        """Fit the model of the plan."""
        from conform_bids.encode.movie_inputs import read_loaded
        from conform_bids.encode.results import fit_and_store
        from conform_bids.numerics.compute import Compute

        compute = Compute(self.inputs.device, self.inputs.n_threads, self.inputs.memory_gb * 1e9)
        loaded = read_loaded([Path(path) for path in self.inputs.loaded])
        return {"results": [str(path) for path in fit_and_store(Plan.from_identity(self.job), loaded, Path.cwd(), compute)]}


class _ResultsInputSpec(_FitInputSpec):
    results = InputMultiObject(File(exists=True), mandatory=True, desc="what FitModel made")


class _FilesOutputSpec(TraitedSpec):
    files = OutputMultiObject(File(exists=True), desc="files written to the output folder")


class SaveOutputs(ConformInterface):
    """Arrays to BIDS derivatives."""

    input_spec = _ResultsInputSpec
    output_spec = _FilesOutputSpec

    def compute(self) -> Mapping[str, Any]:
        """Write what the plan declares."""
        from conform_bids.encode.movie_inputs import read_loaded
        from conform_bids.encode.save import save_outputs

        loaded = read_loaded([Path(path) for path in self.inputs.loaded])
        results = {Path(path).name: Path(path) for path in self.inputs.results}
        files = save_outputs(Plan.from_identity(self.job), loaded, results, self.inputs.n_threads)
        return {"files": [str(path) for path in files]}


class DrawFigures(ConformInterface):
    """Arrays to the figures of the report."""

    input_spec = _ResultsInputSpec
    output_spec = _FilesOutputSpec

    def compute(self) -> Mapping[str, Any]:
        """Draw the figures of the fit."""
        from conform_bids.encode.figures import draw_figures
        from conform_bids.encode.movie_inputs import read_loaded

        loaded = read_loaded([Path(path) for path in self.inputs.loaded])
        results = {Path(path).name: Path(path) for path in self.inputs.results}
        return {"files": [str(path) for path in draw_figures(results, loaded, Plan.from_identity(self.job))]}
