"""Identity of a stimulus by its content: SHA-256 of the file, SHA-256 of the decoded pixels, and a perceptual hash.

The first finds copies under other names, the second the same image saved in another format or with other metadata, the third images that
were rescaled or compressed anew. What cannot be decoded as an image (sounds, videos, text) has the first alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MISSING", "StimulusIdentity", "identify_file", "read_thumbnail"]

MISSING = "n/a"
LARGEST_PIXELS = 100_000_000
"""Images that declare more are not decoded."""
FLATTEST = 2.0
"""Standard deviation of gray values (0 to 255) below which an image has no structure for a perceptual hash to hold on to."""


@dataclass(frozen=True)
class StimulusIdentity:
    """What identifies a stimulus; each is ``n/a`` where it is not to be had.

    Attributes
    ----------
    sha256 : str
        Of the file, hexadecimal.
    pixels : str
        SHA-256 of size and RGBA values of all frames, hexadecimal.
    perceptual : str
        64 bits as 16 hexadecimal digits: signs of the low-frequency discrete cosine transform against their median (pHash; Zauner 2010).
    """

    sha256: str = MISSING
    pixels: str = MISSING
    perceptual: str = MISSING


def identify_file(path: str | Path | None) -> StimulusIdentity:
    """Identify a stimulus file.

    Parameters
    ----------
    path : path or None
        One that is absent or cannot be read identifies nothing, which is no error.
    """
    if path is None:
        return StimulusIdentity()
    try:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        return StimulusIdentity()
    return StimulusIdentity(digest, *_decoded(Path(path)))


def read_thumbnail(path: str | Path, size: int = 160) -> npt.NDArray[np.uint8] | None:
    """A small version of an image, on gray where it is transparent.

    Parameters
    ----------
    path : path
        What cannot be decoded, or declares more than `LARGEST_PIXELS`, has none.
    size : int
        Pixels of the longer edge.

    Returns
    -------
    (height, width, 3) uint8 array or None
    """
    try:
        with _open_image(path) as image:
            small = image.convert("RGBA")
            small.thumbnail((size, size))
            return np.asarray(_on_gray(small).convert("RGB"))
    except Exception:  # as below: no image is a picture less, and no more
        return None


@contextmanager
def _open_image(path: str | Path) -> Iterator[Any]:
    """An image that is not decoded yet.

    Raises
    ------
    ValueError
        When it declares too many pixels; and whatever the decoders raise.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            if image.width * image.height * getattr(image, "n_frames", 1) > LARGEST_PIXELS:
                raise ValueError("too many pixels")
            yield image


def _on_gray(image: Any) -> Any:
    """An RGBA image, its transparent parts on gray."""
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, (128, 128, 128, 255)), image)


def _decoded(path: Path) -> tuple[str, str]:
    """Hash of the pixels and perceptual hash of an image; n/a for what is none."""
    from PIL import ImageSequence

    try:
        with _open_image(path) as image:
            digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
            first = None
            for frame in ImageSequence.Iterator(image):
                rgba = frame.convert("RGBA")
                digest.update(rgba.tobytes())
                first = first or rgba
    except Exception:  # decoders of foreign files fail in a dozen ways, and none of them concerns the user
        return MISSING, MISSING
    return digest.hexdigest(), MISSING if first is None else _perceptual(first)


def _perceptual(image: Any) -> str:
    import imagehash

    gray = _on_gray(image).convert("L")
    if np.asarray(gray, dtype=np.float64).std() < FLATTEST:
        return MISSING
    return str(imagehash.phash(gray))
