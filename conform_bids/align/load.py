"""From files to what alignment takes: a person's responses to stimuli, their reliability, and the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.align.files import Plan
from conform_bids.align.numerics.data import PersonData, standardise
from conform_bids.align.transforms import read_template_space
from conform_bids.align.tuning_weights import read_tuning
from conform_bids.bids.averages import Averages, average_trials, read_averages, read_response_space, used_space
from conform_bids.bids.conditions import read_conditions, with_content
from conform_bids.bids.derivatives import write_json
from conform_bids.bids.images import read_maps
from conform_bids.bids.parts import write_parts
from conform_bids.bids.sidecars import read_json
from conform_bids.bids.spaces import Space, load_space
from conform_bids.bids.splits import HELD_OUT
from conform_bids.bids.tables import read_tsv
from conform_bids.errors import UnusableInputError

__all__ = ["LoadedResponses", "count_set_aside", "load_responses", "read_loaded"]

Float32Array = npt.NDArray[np.float32]
TABLE = "table_"
"""In front of the names of tables in the work folder."""


@dataclass(frozen=True, eq=False)
class LoadedResponses:
    """Responses as they lie in a work folder.

    Attributes
    ----------
    space : Space
    arrays : dict of str to array
        ``responses`` (conditions, units), ``ceiling`` (units,), and ``observed``, ``observed_ceiling``, ``apply_<desc>``, ``tuning``
        (features, units) where planned.
    tables : dict of str to DataFrame
        ``prepared`` (rows of ``responses``), ``observed``, ``apply_<desc>``.
    stimuli : DataFrame
        stim_id, stim_file, sha256.
    features : tuple of str
        Identities of the rows of ``tuning``; empty without weights.
    """

    space: Space
    arrays: dict[str, Float32Array]
    tables: dict[str, pd.DataFrame]
    stimuli: pd.DataFrame
    features: tuple[str, ...] = ()


def load_responses(plan: Plan, folder: Path) -> list[Path]:
    """Read what the plan names and write it to ``folder``.

    Returns
    -------
    list of Path
        The grid, arrays and tables.

    Raises
    ------
    UnusableInputError, MissingInputError
        Naming the file, when an input cannot be used.
    """
    space = _space(plan)
    split = plan.settings.split
    found = read_averages(plan.responses[0], space, split) if plan.averaged else average_trials(plan.responses, space, split)
    finite = np.isfinite(found.values).all(axis=0)
    if not finite.any():
        raise UnusableInputError(f"{plan.responses[0].files[0]}: no unit has a response to every stimulus")
    conditions, stimuli = with_content(found.conditions, plan.stimuli)
    snr = read_maps(plan.snr, space)[0].astype(np.float64) if plan.snr else found.snr
    held = conditions["split"].isin(HELD_OUT).to_numpy(dtype=bool)
    ceiling = read_maps(plan.ceiling, space)[0] if plan.ceiling else found.ceiling(np.flatnonzero(~held), snr)
    arrays = {"responses": found.values, "ceiling": ceiling}
    tables = {"prepared": conditions}
    if plan.has_held_out and plan.template is None:
        observed = found if plan.observed is None else read_averages(plan.observed, space, split)
        _check_same(plan, found, observed)
        rows = np.flatnonzero(held)
        arrays |= {"observed": observed.values[rows], "observed_ceiling": observed.ceiling(rows, snr)}
        tables["observed"] = conditions.iloc[rows].assign(condition=range(len(rows)))
    features: list[str] = []
    if plan.weights is not None:
        own = used_space(plan.responses, read_response_space(plan.responses, plan.entities))
        arrays["tuning"], features = read_tuning(plan.weights.file, own, space)
    for desc, maps in plan.apply_to:
        more = read_averages(maps, space, split)
        arrays[f"apply_{desc}"] = more.values
        tables[f"apply_{desc}"] = with_content(more.conditions, plan.stimuli)[0]
    paths = write_parts(folder, space, arrays, {f"{TABLE}{name}": table for name, table in tables.items()}, stimuli)
    if features:
        paths.append(folder / "features.json")
        write_json({"features": features}, paths[-1])
    return paths


def count_set_aside(responses: npt.NDArray[np.floating]) -> int:
    """Units that have no response to some stimulus, or the same to all: alignment leaves them out."""
    return int(np.isnan(standardise(PersonData(responses)).scale).sum())


def read_loaded(files: Sequence[Path]) -> LoadedResponses:
    """Open what `load_responses` wrote."""
    by_name = {path.name: path for path in map(Path, files)}
    arrays = {name.removesuffix(".npy"): np.load(path, mmap_mode="r") for name, path in by_name.items() if name.endswith(".npy")}
    tables = {
        name.removeprefix(TABLE).removesuffix(".tsv"): read_conditions(path) for name, path in by_name.items() if name.startswith(TABLE)
    }
    stimuli = read_tsv(by_name["stimuli.tsv"], quoted=False).fillna("n/a")
    features = tuple(read_json(by_name["features.json"])["features"]) if "features.json" in by_name else ()
    return LoadedResponses(load_space(by_name["space.npz"]), arrays, tables, stimuli, features)


def _check_same(plan: Plan, found: Averages, observed: Averages) -> None:
    if observed.conditions["stim_id"].tolist() != found.conditions["stim_id"].tolist():
        assert plan.observed is not None
        raise UnusableInputError(f"{plan.observed.trials} and {plan.responses[0].trials} name different stimuli")


def _space(plan: Plan) -> Space:
    """The grid: a template's, or the person's own (for volumes, voxels that have a value).

    Raises
    ------
    UnusableInputError
        When sessions, or person and template, are of different grids.
    """
    own = read_response_space(plan.responses, plan.entities)
    if plan.template is not None:
        wanted = read_template_space(plan.template)
        if not wanted.same_grid(own):
            raise UnusableInputError(f"{plan.responses[0].files[0]}: its grid is not that of the template {plan.template}")
        return wanted
    return used_space(plan.responses, own)
