"""Stimulus identity: copies, other formats, rescaled images; pairs and components against their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conform_bids.stimuli.duplicates import components, equal_pairs, near_pairs, perceptual_pairs
from conform_bids.stimuli.identity import identify_file


def _picture(seed: int, size: int = 96) -> Image.Image:
    """Smooth random colours, as a photograph has them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def test_copies_and_other_formats(tmp_path: Path) -> None:
    image = _picture(0)
    image.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    image.save(tmp_path / "c.bmp")
    image.resize((60, 60)).save(tmp_path / "d.jpg", quality=70)
    _picture(1).save(tmp_path / "e.png")
    a, b, c, d, e = (identify_file(tmp_path / name) for name in ("a.png", "b.png", "c.bmp", "d.jpg", "e.png"))
    assert a == b
    assert (a.sha256 != c.sha256) and a.pixels == c.pixels and a.perceptual == c.perceptual
    assert a.pixels != d.pixels
    assert perceptual_pairs([a.perceptual, d.perceptual, e.perceptual], 4).tolist() == [[0, 1]]


def test_what_is_no_image_has_its_file_alone(tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_bytes(b"RIFF")
    sound = identify_file(tmp_path / "sound.wav")
    assert len(sound.sha256) == 64 and (sound.pixels, sound.perceptual) == ("n/a", "n/a")
    assert identify_file(tmp_path / "absent.png").sha256 == "n/a"
    assert identify_file(None).sha256 == "n/a"
    Image.new("RGB", (32, 32), (90, 90, 90)).save(tmp_path / "flat.png")
    flat = identify_file(tmp_path / "flat.png")
    assert flat.pixels != "n/a" and flat.perceptual == "n/a"


def test_frames_of_an_animation_count(tmp_path: Path) -> None:
    frames = [_picture(k, 24) for k in range(3)]
    frames[0].save(tmp_path / "one.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[:0:-1])
    assert identify_file(tmp_path / "one.gif").pixels != identify_file(tmp_path / "two.gif").pixels


def test_equal_pairs_leave_out_what_is_missing() -> None:
    assert equal_pairs(["a", "n/a", "b", "a", None, "n/a", "a"]).tolist() == [[0, 3], [3, 6]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.integers(0, 6), st.integers(0, 2**32))
def test_perceptual_pairs_are_all_that_are_close(values: list[int], distance: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = [value * 0x0101010101010101 ^ (1 << int(generator.integers(64))) for value in values]
    labels = components(len(numbers), [perceptual_pairs([f"{number:016x}" for number in numbers], distance)])
    close = [(i, j) for i in range(len(numbers)) for j in range(i) if (numbers[i] ^ numbers[j]).bit_count() <= distance]
    expected = components(len(numbers), [np.array(close, dtype=np.intp).reshape(-1, 2)])
    assert labels.tolist() == expected.tolist()


def test_near_pairs_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conform_bids.stimuli.duplicates.BLOCK", 7)
    generator = np.random.default_rng(0)
    features = generator.standard_normal((40, 16))
    features[31] = 5 * features[2] + 0.01
    features[3] = np.nan
    features[4] = 0
    with np.errstate(invalid="ignore"):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = {(i, j) for i in range(40) for j in range(i + 1, 40) if unit[i] @ unit[j] > 0.4}
    assert {tuple(pair) for pair in near_pairs(features, 0.4).tolist()} == expected
    assert (2, 31) in expected


def test_perceptual_pairs_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        perceptual_pairs(["0" * 16], 64)
