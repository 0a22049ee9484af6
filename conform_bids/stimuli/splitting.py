"""Train and test by component: whatever is the same, or nearly, stands on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conform_bids.stimuli.duplicates import members_of

__all__ = ["HELD_OUT", "Leak", "find_leaks", "split_components"]

HELD_OUT = ("test", "artificial")
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Leak:
    """A component that stands on both sides of the split.

    Attributes
    ----------
    train, held_out : int
        One stimulus of each, by its place.
    """

    train: int
    held_out: int


def split_components(
    labels: IntArray, marks: Sequence[str], *, test_fraction: float = 0.0, seed: int = 0, keys: Sequence[str] | None = None
) -> list[str]:
    """Split of each stimulus, the same for all of a component: what is test anywhere is test everywhere.

    Parameters
    ----------
    labels : (n,) int array
        Component of each stimulus.
    marks : sequence of str
        What each dataset says of it: train, test, artificial or n/a.
    test_fraction : float
        Share of the components without any mark of train, test or artificial that is drawn for test.
    seed : int
        Of that draw.
    keys : sequence of str, optional
        What identifies each stimulus. The draw goes by the keys and not by places, so that a stimulus is drawn or not whatever others
        there are.

    Returns
    -------
    list of str
        ``test`` where any member is; else ``artificial`` where any is; else ``train``.

    Raises
    ------
    ValueError
        For a fraction outside of 0 to 1, or one without keys.
    """
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"test_fraction: {test_fraction} is not between 0 and 1")
    if test_fraction and keys is None:
        raise ValueError("a draw of test stimuli goes by their keys")
    split = [""] * len(marks)
    for members in members_of(labels).values():
        said = {marks[member] for member in members}
        side = next((name for name in ("test", "artificial", "train") if name in said), "")
        if not side:
            drawn = bool(test_fraction) and keys is not None and _uniform(min(keys[member] for member in members), seed) < test_fraction
            side = "test" if drawn else "train"
        for member in members:
            split[member] = side
    return split


def _uniform(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on the key and the seed alone."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def find_leaks(labels: IntArray, split: Sequence[str]) -> list[Leak]:
    """Components that hold train stimuli (or n/a, which counts as train) beside held-out ones; none in a sound split."""
    leaks = []
    for members in members_of(labels).values():
        held_out = [member for member in members if split[member] in HELD_OUT]
        train = [member for member in members if split[member] not in HELD_OUT]
        if held_out and train:
            leaks.append(Leak(train[0], held_out[0]))
    return leaks
