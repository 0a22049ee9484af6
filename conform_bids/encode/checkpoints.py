"""Training that is taken up after a kill: the last checkpoint of each network in the work folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conform_bids.bids.derivatives import atomic_path
from conform_bids.encode.numerics.optimise import Checkpoint
from conform_bids.encode.numerics.population import TrainingPerson

__all__ = ["checkpoint_path", "read_checkpoint", "write_checkpoint"]

_LOGGER = logging.getLogger("nipype.interface")
_LOSSES = "losses"


def checkpoint_path(folder: Path, people: Sequence[TrainingPerson], options: str) -> Path:
    """Where the training of these people with these options is kept: its name is a hash of both."""
    digest = hashlib.sha256(options.encode())
    for person in people:
        for array in (person.features, person.responses):
            digest.update(json.dumps(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return folder / f"training-{digest.hexdigest()[:20]}.safetensors"


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically, in place of the one before."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(values) for name, values in checkpoint.arrays.items()}
    arrays[_LOSSES] = np.asarray(checkpoint.losses, dtype=np.float64)
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"step": str(checkpoint.step)})


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint; None where there is none, or it cannot be read (training then begins anew, and says so)."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            step = int(file.metadata()["step"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        losses = arrays.pop(_LOSSES).tolist()
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        _LOGGER.warning("%s: a checkpoint that cannot be read (%s); training begins anew", path.name, error)
        return None
    _LOGGER.info("training goes on after step %d of the last run", step)
    return Checkpoint(step, arrays, losses)
