"""The trials of several sessions as one table, and the conditions that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from conform_bids.bids.names import natural_key, same_label
from conform_bids.bids.splits import HELD_OUT, check_split, read_split, split_warnings
from conform_bids.bids.trials import TRIAL_COLUMNS, read_trials
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.psn.files import PlannedBetas
from conform_bids.psn.numerics.engine_data import MIN_CONDITIONS, TrialSet
from conform_bids.psn.numerics.sessions import warn_of_repeats
from conform_bids.psn.settings import PSNSettings
from conform_bids.wording import counted

__all__ = ["NO_SPLIT", "PooledTrials", "pool_trials"]

NO_SPLIT = (
    "NO SPLIT IS GIVEN: the denoiser is fitted on every condition, so that nothing that is tested on any of them later is independent of "
    "it; name the test stimuli by --split before the fit, or score by desc-trialavg"
)
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class PooledTrials:
    """Trials that are used, by session, run and onset.

    Attributes
    ----------
    trials : DataFrame
        Columns of a trial table, counted anew; ``condition`` is the row in `conditions`.
    source, row : (n_trials,) int arrays
        Which of the betas each trial is from, and its map there.
    conditions : DataFrame
        condition, stim_id, n_trials, split; sorted by stim_id.
    split_given : bool
        Whether a split says of any stimulus what it is for.
    warnings : tuple of str
        What was left out, and what is odd.
    """

    trials: pd.DataFrame
    source: IntArray
    row: IntArray
    conditions: pd.DataFrame
    split_given: bool
    warnings: tuple[str, ...]

    @property
    def train(self) -> npt.NDArray[np.bool_]:
        """Trials that are fitted on."""
        return ~self.trials["split"].isin(HELD_OUT).to_numpy(dtype=bool)

    @property
    def session(self) -> IntArray:
        """Session of each trial, counted from 0."""
        return np.asarray(pd.factorize(self.trials["session_id"])[0], dtype=np.intp)

    @property
    def sessions(self) -> tuple[str, ...]:
        """Labels of the sessions; n/a where there are none."""
        return tuple(dict.fromkeys(self.trials["session_id"]))


def pool_trials(
    betas: Sequence[PlannedBetas], settings: PSNSettings, sessions: Sequence[str] = (), runs: Sequence[str] = ()
) -> PooledTrials:
    """Read the trial tables of betas and make one of them.

    Parameters
    ----------
    sessions, runs : sequence of str
        Labels to use; empty is all.

    Raises
    ------
    MissingInputError
        When no trial is of a session or run asked for (the message lists what there is), or ``--split`` names nothing.
    UnusableInputError
        When a table is broken, or no condition repeats.
    """
    frame = _read(betas)
    frame = _select(frame, "session_id", "session", sessions)
    frame = _select(frame, "run_id", "run", runs)
    split_of = _split_file(frame, settings.split)
    frame, given = _with_split(frame, betas, settings.split, split_of)
    warnings = list(split_warnings(frame, split_of))
    flagged = frame["flag"] != "n/a"
    if flagged.any() and not settings.keep_flagged:
        lost = sorted(set(frame["stim_id"]) - set(frame["stim_id"][~flagged]))
        text = f"{int(flagged.sum())} of {len(frame)} trials are flagged as unreliable and left out"
        warnings.append(
            text + (f"; {len(lost)} conditions have no other trial and are left out with them (such as {lost[0]!r})" if lost else "")
        )
        frame = frame[~flagged]
        if frame.empty:
            raise UnusableInputError(f"{betas[0].trials}: every trial is flagged as unreliable; --keep-flagged uses them all the same")
    onset = frame["onset"].fillna(np.inf).tolist()  # unknown ones keep the order of their table, at the end of the run
    labels = [frame[name].map(natural_key).tolist() for name in ("session_id", "run_id")]
    order = sorted(range(len(frame)), key=lambda k: (labels[0][k], labels[1][k], onset[k]))
    frame = frame.iloc[order].reset_index(drop=True)
    pooled = _number(frame, given, ())
    warnings += [] if given else [NO_SPLIT]
    trial_set = TrialSet(pooled.trials["condition"].to_numpy(dtype=np.intp), pooled.session, pooled.train)
    # where there is one session alone, there is nothing to warn of
    warnings += warn_of_repeats(trial_set, zscored=settings.session_zscore is not False)
    _check_repeats(pooled, betas)
    return PooledTrials(pooled.trials, pooled.source, pooled.row, pooled.conditions, given, tuple(warnings))


def _read(betas: Sequence[PlannedBetas]) -> pd.DataFrame:
    frames = []
    for index, planned in enumerate(betas):
        table = read_trials(planned.trials)
        if planned.session is not None:
            table = table.assign(session_id=[planned.session if label == "n/a" else label for label in table["session_id"]])
        frames.append(table.assign(_source=index, _row=np.arange(len(table))))
    return pd.concat(frames, ignore_index=True)


def _select(frame: pd.DataFrame, column: str, word: str, asked: Sequence[str]) -> pd.DataFrame:
    if not asked:
        return frame
    kept = frame[[any(same_label(label, one) for one in asked) for label in frame[column]]]
    if kept.empty:
        there = ", ".join(sorted(set(frame[column]), key=natural_key))
        raise MissingInputError(f"no trials of {word} {', '.join(asked)}; there are: {there}")
    return kept


def _split_file(frame: pd.DataFrame, split: str | None) -> dict[str, str] | None:
    if split is None or split in frame.columns:
        return None
    if Path(split).is_file():
        return read_split(Path(split))
    there = ", ".join(str(name) for name in frame.columns if not str(name).startswith("_"))
    raise MissingInputError(f"--split: {split!r} is neither a file nor a column of the trial tables; they have {there}")


def _with_split(
    frame: pd.DataFrame, betas: Sequence[PlannedBetas], split: str | None, split_of: dict[str, str] | None
) -> tuple[pd.DataFrame, bool]:
    """The split of every trial; one that is held out in some of its trials is held out in all."""
    if split_of is not None:
        values = [split_of.get(stim_id, "n/a") for stim_id in frame["stim_id"]]
    else:
        cells = frame["split" if split is None else split]
        values = [
            check_split(betas[source].trials, row + 2, None if cell != cell or cell == "n/a" else str(cell))
            for source, row, cell in zip(frame["_source"], frame["_row"], cells, strict=True)
        ]
    held = {stim_id: value for stim_id, value in zip(frame["stim_id"], values, strict=True) if value in HELD_OUT}
    values = [held.get(stim_id, value) for stim_id, value in zip(frame["stim_id"], values, strict=True)]
    return frame.assign(split=values), any(value != "n/a" for value in values)


def _number(frame: pd.DataFrame, given: bool, warnings: tuple[str, ...]) -> PooledTrials:
    """Count trials, conditions and repetitions anew."""
    stim_ids = sorted(set(frame["stim_id"]))
    condition = frame["stim_id"].map({stim_id: k for k, stim_id in enumerate(stim_ids)})
    numbered = frame.assign(trial=np.arange(len(frame)), condition=condition.astype("int64"))
    numbered["repetition"] = numbered.groupby("condition").cumcount().astype("int64")
    first = numbered.drop_duplicates("condition").sort_values("condition")
    conditions = pd.DataFrame(
        {
            "condition": np.arange(len(stim_ids)),
            "stim_id": stim_ids,
            "n_trials": np.bincount(numbered["condition"], minlength=len(stim_ids)),
            "split": first["split"].tolist(),
            "first_trial": first["trial"].tolist(),
        }
    )
    source, row = (numbered[name].to_numpy(dtype=np.intp) for name in ("_source", "_row"))
    columns: dict[str, Any] = {name: numbered[name].astype(cast(Any, dtype)) for name, dtype in TRIAL_COLUMNS.items()}
    return PooledTrials(pd.DataFrame(columns), source, row, conditions, given, warnings)


def _check_repeats(pooled: PooledTrials, betas: Sequence[PlannedBetas]) -> None:
    train = ~pooled.conditions["split"].isin(HELD_OUT).to_numpy(dtype=bool)
    repeats = pooled.conditions["n_trials"].to_numpy()[train] > 1
    where = betas[0].trials if len(betas) == 1 else betas[0].trials.parent
    if not train.any():
        raise UnusableInputError(f"{where}: no condition is for training, so there is nothing to fit the denoiser on")
    if not repeats.any():
        kind = "train condition" if pooled.split_given else "condition"
        count = f"{counted(len(pooled.trials), 'trial')} of {counted(len(pooled.conditions), 'condition')}"
        raise UnusableInputError(f"{where}: no {kind} repeats ({count}); signal and noise can only be told apart by repeats")
    if train.sum() < MIN_CONDITIONS:
        raise UnusableInputError(f"{where}: signal and noise need at least {MIN_CONDITIONS} train conditions; there are {train.sum()}")
