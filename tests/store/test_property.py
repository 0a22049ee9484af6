"""Random datasets with planted duplicates of every kind: whatever they say, no pair of the same content is on both sides."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.stimuli.splitting import HELD_OUT
from conform_bids.store.catalogue import STIMULUS_COLUMNS, Sameness, catalogue_components, place_stimuli

SAMENESS = Sameness(perceptual_distance=3, threshold=0.9)


@st.composite
def _catalogue(draw: st.DrawFn) -> tuple[pd.DataFrame, np.ndarray]:
    """Stimuli of up to three datasets; some are copies of an earlier one, by file, pixels, look or features."""
    n = draw(st.integers(1, 18))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = generator.standard_normal((n, 32))
    rows = []
    for place in range(n):
        row = dict.fromkeys(STIMULUS_COLUMNS, "n/a")
        row |= {
            "dataset": draw(st.sampled_from("ABC")),
            "stim_id": f"s{place}",
            "mark": draw(st.sampled_from(["train", "test", "artificial", "n/a"])),
        }
        look = int(generator.integers(2**63))
        row |= {"sha256": f"{generator.integers(2**63):064x}", "pixels": f"{place:064x}", "perceptual": f"{look:016x}"}
        kind = draw(st.sampled_from(["own", "own", "file", "pixels", "look", "features", "unknown"]))
        if place and kind != "own":
            original = draw(st.integers(0, place - 1))
            if kind in ("file", "pixels"):
                row[{"file": "sha256"}.get(kind, kind)] = rows[original][{"file": "sha256"}.get(kind, kind)]
            elif kind == "look" and rows[original]["perceptual"] != "n/a":
                flips = sum(1 << int(bit) for bit in generator.choice(64, draw(st.integers(0, 3)), replace=False))
                row["perceptual"] = f"{int(rows[original]['perceptual'], 16) ^ flips:016x}"
            elif kind == "features":
                features[place] = features[original] * 3 + 0.01 * generator.standard_normal(32)
            else:
                row |= {"sha256": "n/a", "pixels": "n/a", "perceptual": "n/a"}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(STIMULUS_COLUMNS)), features.astype(np.float32)


def _same(stimuli: pd.DataFrame, features: np.ndarray, i: int, j: int) -> bool:
    """By the definitions, one pair at a time."""
    first, second = stimuli.iloc[i], stimuli.iloc[j]
    if any(first[key] == second[key] != "n/a" for key in ("sha256", "pixels")):
        return True
    looks = [int(row["perceptual"], 16) for row in (first, second) if row["perceptual"] != "n/a"]
    if len(looks) == 2 and (looks[0] ^ looks[1]).bit_count() <= 3:
        return True
    lengths = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
    return float(features[i] @ features[j]) / lengths > 0.9


@settings(max_examples=25, deadline=None)
@given(_catalogue(), st.sampled_from([0.0, 0.3]))
def test_no_planted_duplicate_leaks(catalogue: tuple[pd.DataFrame, np.ndarray], fraction: float) -> None:
    stimuli, features = catalogue
    labels, _ = catalogue_components(stimuli, SAMENESS, features)
    placed = place_stimuli(stimuli, labels, test_fraction=fraction, seed=1)
    split, content = placed["split"].tolist(), placed["content_id"].tolist()
    for i in range(len(placed)):
        for j in range(i):
            if _same(stimuli, features, i, j):
                assert (split[i] in HELD_OUT) == (split[j] in HELD_OUT) and content[i] == content[j]
    assert all(side == "test" for side, mark in zip(split, stimuli["mark"], strict=True) if mark == "test")
    assert len(set(content)) == len(set(labels.tolist()))
    # people who join later change nothing about what is the same
    order = np.random.default_rng(0).permutation(len(stimuli))
    shuffled = stimuli.iloc[order].reset_index(drop=True)
    again = place_stimuli(shuffled, catalogue_components(shuffled, SAMENESS, features[order])[0], test_fraction=fraction, seed=1)
    assert again["split"].tolist() == [split[place] for place in order] and again["content_id"].tolist() == [
        content[place] for place in order
    ]
