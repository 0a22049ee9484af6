"""Thin Nipype interfaces of conform-glm: each reads, makes one call, and names its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import File, InputMultiObject, OutputMultiObject, TraitedSpec

from conform_bids.glm.files import Plan
from conform_bids.nodes import ConformInputSpec, ConformInterface

if TYPE_CHECKING:
    from conform_bids.glm.load import LoadedFit
    from conform_bids.glm.report import FigureContext

__all__ = ["DrawFigures", "FitModels", "LoadRuns", "SaveOutputs"]


class _LoadRunsInputs(ConformInputSpec):
    inputs = InputMultiObject(File(), desc="files that the job reads; their times decide whether it has to run again")


class _LoadRunsOutputs(TraitedSpec):
    loaded = OutputMultiObject(File(exists=True), desc="space, design, tables and one array a run")


class LoadRuns(ConformInterface):
    """BOLD, masks, events and confounds to arrays and a design."""

    input_spec = _LoadRunsInputs
    output_spec = _LoadRunsOutputs

    def compute(self) -> Mapping[str, Any]:
        """Read the runs of the plan."""
        from conform_bids.glm.load import load_fit

        return {"loaded": [str(path) for path in load_fit(Plan.from_identity(self.job), Path.cwd(), self.inputs.n_threads)]}


class _FitModelsInputs(ConformInputSpec):
    loaded = InputMultiObject(File(exists=True), mandatory=True, desc="what LoadRuns made")


class _FitModelsOutputs(TraitedSpec):
    results = OutputMultiObject(File(exists=True), desc="arrays of the fit, and its summary")


class FitModels(ConformInterface):
    """Arrays and design to betas and maps."""

    input_spec = _FitModelsInputs
    output_spec = _FitModelsOutputs

    def compute(self) -> Mapping[str, Any]:
        """Fit the models of the plan."""
        from conform_bids.glm.load import read_loaded
        from conform_bids.glm.results import fit_and_store
        from conform_bids.numerics.compute import Compute

        compute = Compute(self.inputs.device, self.inputs.n_threads, self.inputs.memory_gb * 1e9)
        loaded = read_loaded([Path(path) for path in self.inputs.loaded])
        results = fit_and_store(Plan.from_identity(self.job), loaded, Path.cwd(), compute)
        return {"results": [str(path) for path in results]}


class _ResultsInputs(ConformInputSpec):
    loaded = InputMultiObject(File(exists=True), mandatory=True, desc="what LoadRuns made")
    results = InputMultiObject(File(exists=True), mandatory=True, desc="what FitModels made")


class _FilesOutputs(TraitedSpec):
    files = OutputMultiObject(File(exists=True), desc="files written to the output folder")


class SaveOutputs(ConformInterface):
    """Arrays to BIDS derivatives."""

    input_spec = _ResultsInputs
    output_spec = _FilesOutputs

    def compute(self) -> Mapping[str, Any]:
        """Write what the plan declares."""
        from conform_bids.bids.spaces import load_space
        from conform_bids.bids.tables import read_tsv
        from conform_bids.glm.load import read_loaded
        from conform_bids.glm.save import save_outputs

        loaded = {Path(path).name: Path(path) for path in self.inputs.loaded}
        results = [Path(path) for path in self.inputs.results]
        summary = json.loads(next(path for path in results if path.name == "summary.json").read_text(encoding="utf-8"))
        files = save_outputs(
            Plan.from_identity(self.job),
            read_loaded(list(loaded.values())),
            load_space(loaded["space.npz"]),
            [path for path in results if path.suffix == ".npy"],
            summary,
            read_tsv(loaded["stimuli.tsv"], quoted=False).fillna("n/a"),
            self.inputs.n_threads,
        )
        return {"files": [str(path) for path in files]}


class DrawFigures(ConformInterface):
    """Arrays to the figures and numbers of the report."""

    input_spec = _ResultsInputs
    output_spec = _FilesOutputs

    def compute(self) -> Mapping[str, Any]:
        """Draw the figures of the fit."""
        from conform_bids.bids.spaces import load_space
        from conform_bids.glm.load import read_loaded
        from conform_bids.glm.report import draw_figures

        plan = Plan.from_identity(self.job)
        paths = {Path(path).name: Path(path) for path in self.inputs.loaded}
        loaded = read_loaded(list(paths.values()))
        result_dir = Path(next(path for path in self.inputs.results if path.endswith("summary.json"))).parent
        files = draw_figures(
            result_dir,
            load_space(paths["space.npz"]),
            loaded.trials,
            plan.settings,
            _figure_context(plan, loaded, result_dir),
            plan.output_dir,
        )
        return {"files": [str(path) for path in files]}


def _figure_context(plan: Plan, loaded: LoadedFit, result_dir: Path) -> FigureContext:
    """What the figures need to know beside arrays and trials."""
    import numpy as np

    from conform_bids.glm.report import FigureContext, RunTiming

    runs = tuple(
        RunTiming(run.session, run.run, length, loaded.design.tr, 0.0 if plan.settings.compat else run.start_time, run.confounds)
        for run, length in zip(plan.runs, loaded.design.run_lengths, strict=True)
    )
    aside = loaded.set_aside
    reasons = zip(aside["reason"], aside["file"], aside["line"], strict=True) if len(aside) else ()
    return FigureContext(
        entities=plan.entities,
        runs=runs,
        trials_set_aside=tuple((str(reason), f"{file}:{line}") for reason, file, line in reasons),
        series=tuple(loaded.runs),
        regressors=tuple(loaded.design.user_regressors(run) for run in range(loaded.design.n_runs)),
        near_zero=np.load(result_dir / "near_zero.npy") if (result_dir / "near_zero.npy").exists() else None,
    )
