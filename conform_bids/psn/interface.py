"""Thin Nipype interfaces of conform-psn: each reads, makes one call, and names its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, InputMultiObject, OutputMultiObject, TraitedSpec

from conform_bids.nodes import ConformInputSpec, ConformInterface
from conform_bids.psn.files import Plan

__all__ = ["DenoiseParcels", "DrawFigures", "LoadBetas", "SaveOutputs"]


class _LoadBetasInputs(ConformInputSpec):
    inputs = InputMultiObject(File(), desc="files that the job reads; their times decide whether it has to run again")


class _LoadBetasOutputs(TraitedSpec):
    loaded = OutputMultiObject(File(exists=True), desc="space, tables, parcels, and betas as rows of units")


class LoadBetas(ConformInterface):
    """Maps of betas, trial tables and parcellations to arrays."""

    input_spec = _LoadBetasInputs
    output_spec = _LoadBetasOutputs

    def compute(self) -> Mapping[str, Any]:
        """Read the betas of the plan."""
        from conform_bids.psn.load import load_betas

        return {"loaded": [str(path) for path in load_betas(Plan.from_identity(self.job), Path.cwd())]}


class _DenoiseInputs(ConformInputSpec):
    loaded = InputMultiObject(File(exists=True), mandatory=True, desc="what LoadBetas made")


class _DenoiseOutputs(TraitedSpec):
    results = OutputMultiObject(File(exists=True), desc="arrays, tables and the decomposition, and a summary")


class DenoiseParcels(ConformInterface):
    """Betas to denoised responses and maps."""

    input_spec = _DenoiseInputs
    output_spec = _DenoiseOutputs

    def compute(self) -> Mapping[str, Any]:
        """Denoise the parcels of the plan."""
        from conform_bids.bids.spaces import load_space
        from conform_bids.numerics.compute import Compute
        from conform_bids.psn.load import read_loaded
        from conform_bids.psn.results import fit_and_store

        compute = Compute(self.inputs.device, self.inputs.n_threads, self.inputs.memory_gb * 1e9)
        loaded = {Path(path).name: Path(path) for path in self.inputs.loaded}
        plan = Plan.from_identity(self.job)
        results = fit_and_store(plan, read_loaded(list(loaded.values())), load_space(loaded["space.npz"]), Path.cwd(), compute)
        return {"results": [str(path) for path in results]}


class _ResultsInputs(ConformInputSpec):
    loaded = InputMultiObject(File(exists=True), mandatory=True, desc="what LoadBetas made")
    results = InputMultiObject(File(exists=True), mandatory=True, desc="what DenoiseParcels made")


class _FilesOutputs(TraitedSpec):
    files = OutputMultiObject(File(exists=True), desc="files written to the output folder")


class SaveOutputs(ConformInterface):
    """Arrays to BIDS derivatives."""

    input_spec = _ResultsInputs
    output_spec = _FilesOutputs

    def compute(self) -> Mapping[str, Any]:
        """Write what the plan declares."""
        from conform_bids.bids.spaces import load_space
        from conform_bids.psn.load import read_loaded
        from conform_bids.psn.save import save_outputs

        loaded = {Path(path).name: Path(path) for path in self.inputs.loaded}
        results = {Path(path).name: Path(path) for path in self.inputs.results}
        summary = json.loads(results["summary.json"].read_text(encoding="utf-8"))
        files = save_outputs(
            Plan.from_identity(self.job),
            read_loaded(list(loaded.values())),
            load_space(loaded["space.npz"]),
            list(results.values()),
            summary,
            self.inputs.n_threads,
        )
        return {"files": [str(path) for path in files]}


class DrawFigures(ConformInterface):
    """Arrays to the figures of the report."""

    input_spec = _ResultsInputs
    output_spec = _FilesOutputs

    def compute(self) -> Mapping[str, Any]:
        """Draw the figures of the fit."""
        from conform_bids.bids.spaces import load_space
        from conform_bids.psn.report import draw_figures

        loaded = {Path(path).name: Path(path) for path in self.inputs.loaded}
        result_dir = Path(next(path for path in self.inputs.results if path.endswith("summary.json"))).parent
        plan = Plan.from_identity(self.job)
        files = draw_figures(result_dir, load_space(loaded["space.npz"]), plan.entities, plan.output_dir)
        return {"files": [str(path) for path in files]}
