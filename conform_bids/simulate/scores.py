"""How near the responses of a derivative come to what was simulated, and which stimuli a store found to be the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.bids.images import map_paths, read_maps, read_space
from conform_bids.bids.names import natural_key, parse_name
from conform_bids.bids.tables import read_tsv
from conform_bids.numerics.scores import correlate_columns
from conform_bids.simulate.truth import SPACES, TRUTH_FOLDER, Truth, read_truth, truth_path

__all__ = ["ResponseScore", "SameStimuliScore", "score_responses", "score_same_stimuli"]


@dataclass(frozen=True)
class ResponseScore:
    """Responses to conditions against the truth, over the units that respond.

    Attributes
    ----------
    participant, space, desc : str
        Of the maps, without keys.
    n_units, n_conditions : int
        Compared.
    correlation : float
        Over conditions, with the true responses; median over units.
    error : float
        Root mean squared difference from the true responses, each unit's mean over conditions taken out, in percent signal change; median
        over units.
    """

    participant: str
    space: str
    desc: str
    n_units: int
    n_conditions: int
    correlation: float
    error: float


def score_responses(dataset: str | Path, derivative: str | Path, descs: tuple[str, ...] = ("trialavg", "psn")) -> list[ResponseScore]:
    """Score maps ``stat-effect`` of conditions, and their table ``desc-psn_trials.tsv``, of all participants and formats.

    Parameters
    ----------
    dataset : path
        The simulated raw dataset.
    derivative : path
        Output folder of conform-psn.
    descs : tuple of str
        Maps to score.

    Returns
    -------
    list of ResponseScore
        By participant, format and desc; what is absent is left out.
    """
    dataset, derivative = Path(dataset), Path(derivative)
    scores: list[ResponseScore] = []
    tables = sorted(derivative.glob("sub-*/func/*_desc-psn_trials.tsv"), key=lambda path: natural_key(path.name))
    for table in tables:
        entities = {key: label for key, label in parse_name(table).entities.items() if key != "desc"}
        for file_format, space in SPACES.items():
            if entities.get("space") == space and truth_path(dataset, entities["sub"], file_format).is_file():
                truth = read_truth(dataset, entities["sub"], file_format)
                stim_ids = [str(name) for name in read_tsv(table, required=("stim_id",), quoted=False)["stim_id"]]
                scores += _of_table(dataset, derivative, entities, file_format, truth, stim_ids, descs)
    return scores


def _of_table(
    dataset: Path, derivative: Path, entities: dict[str, str], file_format: str, truth: Truth, stim_ids: list[str], descs: tuple[str, ...]
) -> Iterator[ResponseScore]:
    rows = {str(name): row for row, name in enumerate(truth.stim_ids)}
    expected = truth.condition_betas[[rows[name] for name in stim_ids]].astype(np.float64)
    mask = _mask(dataset, entities) if file_format == "nifti" else None
    for desc in descs:
        paths = map_paths(file_format, {**entities, "stat": "effect", "desc": desc}, "statmap")
        files = tuple(derivative / path for path in paths)
        if not all(path.is_file() for path in files):
            continue
        space = read_space(files, mask, entities["space"], entities.get("den"), entities.get("res"))
        found = read_maps(files, space).astype(np.float64)
        used = truth.active & np.isfinite(found).all(axis=0)
        correlation, error = _compare(found[:, used], expected[:, used])
        yield ResponseScore(entities["sub"], entities["space"], desc, int(used.sum()), len(stim_ids), correlation, error)


def _compare(found: NDArray[np.float64], expected: NDArray[np.float64]) -> tuple[float, float]:
    if not found.size:
        return float("nan"), float("nan")
    difference = found - expected
    error = np.sqrt(np.square(difference - difference.mean(axis=0)).mean(axis=0))
    return float(np.nanmedian(correlate_columns(found, expected))), float(np.median(error))


def _mask(dataset: Path, entities: dict[str, str]) -> Path:
    """The brain mask whose voxels the truth has."""
    pattern = f"derivatives/fmriprep/sub-{entities['sub']}/**/func/*_space-{entities['space']}_desc-brain_mask.nii.gz"
    return min(dataset.glob(pattern), key=lambda path: natural_key(path.name))


@dataclass(frozen=True)
class SameStimuliScore:
    """Pairs of stimuli of one kind, and what is said of them.

    Attributes
    ----------
    name : str
        Kind.
    n_pairs : int
        There are.
    n_found : int
        Of them, called the same.
    n_marked_differently : int
        Of these, simulated as test under one name and as train under the other.
    n_on_one_side : int
        Of those found, on one side of the split.
    """

    name: str
    n_pairs: int
    n_found: int
    n_marked_differently: int
    n_on_one_side: int


def score_same_stimuli(datasets: Mapping[str, str | Path], stimuli: pd.DataFrame) -> list[SameStimuliScore]:
    """Compare the stimuli that a store or a split calls the same with those that were simulated as the same image, or as near copies.

    Parameters
    ----------
    datasets : mapping of str to path
        Simulated raw datasets of one population, by their names in the table.
    stimuli : DataFrame
        dataset, stim_id, content_id, split: ``Store.stimuli``, or that of `conform_bids.store.split.write_split`.

    Returns
    -------
    list of SameStimuliScore
        Of the same images, of near copies, and of images that have nothing to do with each other.
    """
    table = stimuli.set_index(["dataset", "stim_id"])
    image: list[str] = []
    origin: list[str] = []
    simulated: list[str] = []
    rows = []
    for name, root in datasets.items():
        truth = read_tsv(Path(root) / TRUTH_FOLDER / "stimuli.tsv", required=("stim_id", "content", "near_copy_of", "split"))
        content = dict(zip(truth["stim_id"], truth["content"], strict=True))
        for stim_id, original, side in zip(truth["stim_id"], truth["near_copy_of"], truth["split"], strict=True):
            if (name, stim_id) in table.index:
                simulated.append(str(side))
                image.append(content[stim_id])
                origin.append(content[original if original is not None else stim_id])
                rows.append(table.loc[(name, stim_id)])
    first, second = np.triu_indices(len(rows), 1)
    columns = {key: np.array([row[key] for row in rows], dtype=str) for key in ("content_id", "split")}
    columns["simulated"] = np.array(simulated, dtype=str)
    equal = {key: values[first] == values[second] for key, values in columns.items()}
    images, origins = np.array(image), np.array(origin)
    same, near = images[first] == images[second], origins[first] == origins[second]
    kinds = {"the same image, under two names": same, "near copies": near & ~same, "others": ~near}
    return [
        SameStimuliScore(
            name,
            int(chosen.sum()),
            int((chosen & equal["content_id"]).sum()),
            int((chosen & equal["content_id"] & ~equal["simulated"]).sum()),
            int((chosen & equal["content_id"] & equal["split"]).sum()),
        )
        for name, chosen in kinds.items()
    ]
