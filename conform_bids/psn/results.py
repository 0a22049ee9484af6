"""Results of a fit on disk: maps as arrays, the decomposition, and tables of numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids import __version__
from conform_bids.bids.derivatives import write_json, write_tsv
from conform_bids.bids.hdf5_layouts import ComponentRecord, DecompositionWriter, ParcelRecord
from conform_bids.bids.scratch import map_array
from conform_bids.bids.spaces import Space
from conform_bids.numerics.compute import Compute
from conform_bids.psn.files import Plan, recorded_settings
from conform_bids.psn.load import LoadedBetas
from conform_bids.psn.numerics.engine import EngineOptions, EngineResult, ParcelDecomposition, TrialSet, denoise_parcels
from conform_bids.wording import counted

__all__ = ["MAX_COMPONENTS", "STATUS", "fit_and_store", "fit_options"]

MAX_COMPONENTS = 10
"""Dimensions that are written as maps, at most."""
STATUS = (
    "denoised",
    "passed through",
    "set to the mean response",
    "outside of every parcel",
    "constant or absent",
    "missing in some trials",
)
"""What became of a unit, by its status on disk less 1."""
OUTSIDE, ABSENT = STATUS.index("outside of every parcel"), STATUS.index("constant or absent")
BLOCK = 2048
_ACTIONS = {"denoised": "denoised", "passed": "passed", "zeroed": "zeroed", "empty": "passed"}
_LOGGER = logging.getLogger("nipype.interface")
Float32Array = npt.NDArray[np.float32]


def fit_options(plan: Plan) -> EngineOptions:
    """What the settings mean for the engine; amplitudes are rescaled when betas are loaded."""
    settings = plan.settings
    return EngineOptions(
        method=settings.method,
        threshold_level=settings.threshold_level,
        basis=settings.basis,
        criterion=settings.criterion,
        alpha=settings.alpha,
        no_gain=settings.without_gain,
        session_zscore=plan.zscore,
        output_units=settings.output_units,
        rescale=False,
        write=tuple(name for name in settings.write if name != "components"),
        seed=plan.random_seed,
        n_folds=plan.n_folds,
    )


@dataclass
class _Collected:
    """What parcels hand over while they are fitted: the decomposition goes to disk, spectra and leading dimensions are kept."""

    writer: DecompositionWriter
    n_units: int
    n_components: int
    components: Float32Array = field(init=False)
    centre: npt.NDArray[np.float64] = field(init=False)
    spread: npt.NDArray[np.float64] = field(init=False)
    spectra: dict[int, pd.DataFrame] = field(default_factory=dict)
    curves: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.components = np.full((self.n_components, self.n_units), np.nan, dtype=np.float32)
        self.centre, self.spread = np.zeros(self.n_units), np.ones(self.n_units)

    def __call__(self, label: int, found: ParcelDecomposition) -> None:
        self.writer.add(_record(label, found))
        self.centre[found.units], self.spread[found.units] = found.output_offset, found.output_gain
        count = min(self.n_components, found.basis.shape[1])
        self.components[:, found.units] = 0
        self.components[:count, found.units] = found.basis[:, :count].T
        self.spectra[label] = _spectrum(label, found)
        self.curves[f"curve_{label}"] = found.curve
        for name in ("noise_likelihood", "data_likelihood"):
            values = getattr(found, name)
            if values is not None:
                self.curves[f"{name}_{label}"] = values


def _record(label: int, found: ParcelDecomposition) -> ParcelRecord:
    """The decomposition of a parcel as the file has it; the coordinates of the dual form are folded into the factors."""
    denoiser, mean = found.denoiser, found.denoiser.mean
    to_units: Any = lambda factor: factor  # noqa: E731
    from_units: Any = to_units
    if found.dual:
        assert found.coordinates is not None and found.scale is not None and found.mean is not None
        coordinates, scale = found.coordinates.astype(np.float64), found.scale[:, None]
        to_units, from_units = (lambda factor: scale * (coordinates @ factor)), (lambda factor: (coordinates @ factor) / scale)
        mean = found.mean + found.scale * (coordinates @ mean)
    parts = tuple(
        ComponentRecord(to_units(part.left), from_units(part.right), part.signal_to_noise, part.terms) for part in denoiser.components
    )
    return ParcelRecord(_group(label), found.units, mean, found.basis, found.eigenvalues, parts, denoiser.n_averaged)


def _group(label: int) -> str:
    return f"{label + 1:06d}"


def _spectrum(label: int, found: ParcelDecomposition) -> pd.DataFrame:
    """Signal, noise and what passes, dimension by dimension."""
    averaged = found.noise_variance / found.denoiser.n_averaged
    return pd.DataFrame(
        {
            "parcel": label + 1,
            "dimension": np.arange(len(found.eigenvalues)),
            "eigenvalue": found.eigenvalues,
            "signal_variance": found.signal_variance,
            "noise_variance": found.noise_variance,
            "cumulative_recovery": np.cumsum(found.signal_variance - averaged),
            "passed": found.passed,
        }
    )


def fit_and_store(plan: Plan, loaded: LoadedBetas, space: Space, folder: Path, compute: Compute) -> list[Path]:
    """Denoise the betas of a plan and store what comes of it.

    Returns
    -------
    list of Path
        ``summary.json``, ``decomposition.h5``, tables, and one ``.npy`` an output.

    Raises
    ------
    UnusableInputError
        When nothing can be fitted.
    """
    scratch: list[Path] = []

    def allocate(name: str, shape: tuple[int, ...]) -> Float32Array:
        scratch.append(folder / f"scratch_{name}.npy")
        return map_array(scratch[-1], shape)

    trials = TrialSet(loaded.trials["condition"].to_numpy(dtype=np.intp), loaded.session.astype(np.intp), loaded.train)
    attributes = {
        "software": f"conform-psn {__version__}",
        "method": plan.settings.method,
        "space": space.label,
        "grid_hash": space.grid_hash,
        "zscored_within_sessions": plan.zscore,
    }
    n_components = MAX_COMPONENTS if "components" in plan.settings.write else 0
    with ExitStack() as stack:
        stack.callback(_remove, scratch)
        writer = stack.enter_context(DecompositionWriter(folder / "decomposition.h5", attributes, recorded_settings(plan.settings)))
        collected = _Collected(writer, space.n_units, n_components)
        result = denoise_parcels(loaded.betas, trials, loaded.parcel, fit_options(plan), compute, allocate, collected, groups=loaded.groups)
        if loaded.absent.any():  # clusters leave out what has no data
            result = replace(result, status=np.where(loaded.absent & (result.status == OUTSIDE), ABSENT, result.status))
        for record in result.parcels:
            if record.label in collected.spectra:
                writer.annotate(_group(record.label), _ACTIONS[record.status])
        writer.finish(collected.centre, collected.spread)
        _store_arrays(result, folder)
    _store_maps(plan, loaded, result, collected, folder)
    _store_tables(loaded, result, collected, folder)
    summary = _summary(plan, loaded, result)
    write_json(summary, folder / "summary.json")
    for line in _told(plan, summary):
        _LOGGER.info(line)
    tables = [folder / name for name in ("decomposition.h5", "conditions.tsv", "spectrum.tsv", "parcels.tsv", "curves.npz")]
    return [*sorted(folder.glob("*.npy")), *tables, folder / "summary.json"]


def _remove(files: Sequence[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


def _store_arrays(result: EngineResult, folder: Path) -> None:
    """Turn the engine's rows of units into maps, a block of units at a time."""
    for name, values in result.arrays.items():
        target = map_array(folder / f"{name}.npy", (values.shape[1], values.shape[0]))
        for start in range(0, len(values), BLOCK):
            target[:, start : start + BLOCK] = values[start : start + BLOCK].T
        target.flush()


def _store_maps(plan: Plan, loaded: LoadedBetas, result: EngineResult, collected: _Collected, folder: Path) -> None:
    for name, values in result.maps.items():
        np.save(folder / f"{name}.npy", values)
    np.save(folder / "parcel.npy", (loaded.parcel + 1).astype(np.int32))
    np.save(folder / "status.npy", (result.status + 1).astype(np.uint8))
    if collected.n_components:
        depth = max((len(table) for table in collected.spectra.values()), default=1)
        np.save(folder / "components.npy", collected.components[: max(1, min(depth, collected.n_components))])


def _store_tables(loaded: LoadedBetas, result: EngineResult, collected: _Collected, folder: Path) -> None:
    fold = [str(value) if value >= 0 else "n/a" for value in result.fold]
    write_tsv(loaded.conditions.assign(n_trials=result.n_trials, fold=fold), folder / "conditions.tsv")
    spectra = [collected.spectra[label] for label in sorted(collected.spectra)]
    columns = ["parcel", "dimension", "eigenvalue", "signal_variance", "noise_variance", "cumulative_recovery", "passed"]
    write_tsv(pd.concat(spectra) if spectra else pd.DataFrame(columns=columns), folder / "spectrum.tsv")
    write_tsv(_parcel_table(loaded, result), folder / "parcels.tsv")
    np.savez(folder / "curves.npz", **collected.curves)  # type: ignore[arg-type]


def _parcel_table(loaded: LoadedBetas, result: EngineResult) -> pd.DataFrame:
    """A row a parcel."""
    rows = []
    for record in result.parcels:
        rows.append(
            {
                "parcel": record.label + 1,
                "name": loaded.names[record.label] if record.label < len(loaded.names) else f"parcel {record.label + 1}",
                "n_units": record.n_units,
                "n_set_aside": record.n_set_aside,
                "n_trials": record.n_trials,
                "n_conditions": record.n_conditions,
                "method": record.method,
                "outcome": record.status,
                "dimensions": record.dimensions,
                "a": record.a,
                "noise_level": record.noise_level,
                "data_level": record.data_level,
                "gain": record.gain,
                "reliability_before": record.reliability_before,
                "reliability_after": record.reliability_after,
                "note": record.note or "n/a",
            }
        )
    return pd.DataFrame(rows)


def _median(values: Any) -> float | None:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite)) if finite.size else None


def _summary(plan: Plan, loaded: LoadedBetas, result: EngineResult) -> dict[str, Any]:
    split = loaded.conditions["split"]
    outcomes = [record.status for record in result.parcels]
    return {
        "method": plan.settings.method,
        "n_units": len(loaded.parcel),
        "n_units_by_status": {name: int((result.status == code).sum()) for code, name in enumerate(STATUS)},
        "n_trials": len(loaded.trials),
        "n_train_trials": int(loaded.train.sum()),
        "n_conditions": len(loaded.conditions),
        "n_repeated": int((loaded.conditions["n_trials"] > 1).sum()),
        "n_test_conditions": int(split.isin(["test", "artificial"]).sum()),
        "n_sessions": int(loaded.session.max()) + 1,
        "n_parcels": len(result.parcels),
        "n_parcels_by_outcome": {name: outcomes.count(name) for name in dict.fromkeys(outcomes)},
        "median_ncsnr": _median(result.maps["ncsnr"]),
        "median_noise_ceiling_before": _median(result.maps["noise_ceiling_before"]),
        "median_noise_ceiling_after": _median(result.maps["noise_ceiling_after"]),
        "median_cv_gain": _median(result.maps["cv_gain"]),
        "median_dimensions": _median([record.dimensions for record in result.parcels]),
        "median_reliability_before": _median([record.reliability_before for record in result.parcels]),
        "median_reliability_after": _median([record.reliability_after for record in result.parcels]),
        "null": [{key: value if np.isfinite(value) else None for key, value in vars(check).items()} for check in result.null],
        "notes": list(dict.fromkeys((*plan.notes, *loaded.notes, *result.notes))),
    }


def _told(plan: Plan, summary: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the log."""
    outcomes: Sequence[str] = [f"{count} {name}" for name, count in summary["n_parcels_by_outcome"].items()]
    yield f"{plan.name}: {counted(summary['n_parcels'], 'parcel')} ({', '.join(outcomes)})"
    for note in summary["notes"]:
        yield f"{plan.name}: {note}"
