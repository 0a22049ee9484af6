"""Random datasets with planted duplicates of every kind: whatever they say, no pair of the same content is on both sides."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conform_bids.stimuli.splitting import HELD_OUT
from conform_bids.store.catalogue import STIMULUS_COLUMNS, Sameness, catalogue_components, place_stimuli
from conform_bids.store.split import write_split

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


PLANTED = ("file", "pixels", "size", "compression", "features")
"""Ways of being the same: a copy, another format, a rescaled, a compressed image, and one that only its features tell."""


def _plant(kind: str, original: Path, folder: Path, number: int) -> Path:
    """A file that is the same as another in one way alone."""
    path = folder / f"copy{number}.{'jpg' if kind == 'compression' else 'bmp' if kind == 'pixels' else 'png'}"
    if kind == "file":
        path.write_bytes(original.read_bytes())
        return path
    with Image.open(original) as image:
        if kind == "features":
            image.transpose(Image.Transpose.ROTATE_90).save(path)
        else:
            (image.resize((72, 72), Image.Resampling.BICUBIC) if kind == "size" else image).save(path)
    return path


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.sampled_from(PLANTED), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_no_duplicate_that_is_planted_in_files_leaks(seed: int, planted: list[tuple[str, bool, bool]]) -> None:
    """Two datasets of events and images; each planted copy is in one of them, and either it or its original is test."""
    generator = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as place:
        roots = {name: Path(place) / name for name in ("A", "B")}
        rows: dict[str, list[str]] = {name: ["onset\tduration\tstim_id\tsplit"] for name in roots}
        features, keys = [], []
        pairs = []
        for root in roots.values():
            (root / "stimuli").mkdir(parents=True)
            (root / "dataset_description.json").write_text('{"Name": "d", "BIDSVersion": "1.10.0"}')
        for number, (kind, across, first_is_test) in enumerate(planted):
            original = roots["A"] / "stimuli" / f"image{number}.png"
            coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(original)
            owner = "B" if across else "A"
            copy = _plant(kind, original, roots[owner] / "stimuli", number)
            vector = generator.standard_normal(64)
            for dataset, file, test in (("A", original, first_is_test), (owner, copy, not first_is_test)):
                rows[dataset].append(f"{4 * len(rows[dataset])}\t2\t{file.name}\t{'test' if test else 'train'}")
                keys.append((dataset, file.name))
                # copies of other kinds are told by their files alone, so that each kind has to be found by its own criterion
                features.append(vector + 0.01 * generator.standard_normal(64) if kind == "features" else generator.standard_normal(64))
            pairs.append((("A", original.name), (owner, copy.name)))
        for name, root in roots.items():
            (root / "sub-01" / "func").mkdir(parents=True)
            (root / "sub-01" / "func" / "sub-01_task-x_run-1_events.tsv").write_text("\n".join(rows[name]) + "\n")
        table = Path(place) / "features.npz"
        np.savez(table, features=np.array(features), dataset=[key[0] for key in keys], stim_id=[key[1] for key in keys])
        used = {name: root for name, root in roots.items() if len(rows[name]) > 1}
        found = write_split(used, Path(place) / "split", Sameness(perceptual_distance=4, threshold=0.9), features=table)
    sides = found.stimuli.set_index(["dataset", "stim_id"])
    for (kind, _, _), (first, second) in zip(planted, pairs, strict=True):
        assert sides.loc[first, "content_id"] == sides.loc[second, "content_id"], kind
        assert sides.loc[first, "split"] == sides.loc[second, "split"] == "test", kind
