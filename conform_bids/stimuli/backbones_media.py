"""Stimulus files as frames: an image is one, a video or an animation several. Files are not trusted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conform_bids.stimuli.identity import LARGEST_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["VIDEO_EXTENSIONS", "read_frames", "read_movie", "sampled_places"]

IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "AVIF")
"""Those that Pillow decodes by itself; it hands others (EPS) to programs of the system."""
ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF")
"""Formats whose frames follow each other in time (the pages of a TIFF and the views of a JPEG do not)."""
VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv", ".wmv")
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegvideo,mpegts,ogg,asf"
"""Containers that hold their own frames; playlists, which name other files and addresses, are not among them."""
LONGEST_S = 24 * 3600.0
"""A movie that is longer declares times that nothing was shown at."""
_GROUND = (128, 128, 128, 255)
"""What transparent parts are shown on."""


class _Refused(ValueError):
    """A file that is not decoded, and why."""


def sampled_places(n: int, n_frames: int) -> list[int]:
    """Middles of ``n_frames`` equal parts of a clip of ``n`` frames; all frames of a shorter one."""
    if n <= n_frames:
        return list(range(n))
    return [int((part + 0.5) * n / n_frames) for part in range(n_frames)]


def read_frames(path: Path, n_frames: int) -> list[Image]:
    """Decode a stimulus.

    Parameters
    ----------
    path : Path
        Image or video.
    n_frames : int
        Of a video or an animation, evenly spread.

    Returns
    -------
    list of RGB images

    Raises
    ------
    ValueError
        When it is broken, larger than `LARGEST_PIXELS`, or neither; the message says which.
    """
    try:
        frames = _read_video(path, n_frames) if path.suffix.lower() in VIDEO_EXTENSIONS else _read_image(path, n_frames)
    except _Refused:
        raise
    except Exception as error:  # decoders of foreign files fail in a dozen ways
        raise _Refused(f"cannot be decoded ({type(error).__name__}: {error})") from error
    if not frames:
        raise _Refused("has no frames")
    return frames


def read_movie(path: Path, frame_rate: float) -> Iterator[tuple[float, Image]]:
    """Decode a movie, one after the other the frames that are on in the middle of even intervals.

    Parameters
    ----------
    path : Path
        Video; an image is a movie of one frame.
    frame_rate : float
        Intervals a second.

    Yields
    ------
    time : float
        Seconds from the movie's beginning at which the interval begins.
    image : RGB image

    Raises
    ------
    ValueError
        When it is broken, larger than `LARGEST_PIXELS`, longer than `LONGEST_S`, or neither; the message says which.
    """
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        yield 0.0, read_frames(path, 1)[0]
        return
    n = 0
    try:
        with path.open("rb") as stream, _opened(stream) as container:
            for time, image in _at_even_times(container, frame_rate):
                yield time, image
                n += 1
    except _Refused:
        raise
    except Exception as error:  # decoders of foreign files fail in a dozen ways
        raise _Refused(f"cannot be decoded ({type(error).__name__}: {error})") from error
    if not n:
        raise _Refused("has no frames")


def _at_even_times(container: Any, frame_rate: float) -> Iterator[tuple[float, Image]]:
    """Frames on at (k + 1/2) / frame_rate after the first one; the last is on as long as the one before it was."""
    before: Any = None
    first = now = 0.0
    step, k = 1 / 25, 0
    for frame in container.decode(_video_stream(container)):
        if frame.time is None:
            raise _Refused("has frames without a time")
        if before is None:
            first = frame.time
        else:
            if frame.time - first > LONGEST_S:
                raise _Refused(f"has a frame at {frame.time:g} s; a movie of more than {LONGEST_S:g} s is not decoded")
            while (k + 0.5) / frame_rate < frame.time - first:
                yield k / frame_rate, before.to_image()
                k += 1
            step = frame.time - now
        before, now = frame, frame.time
    if before is not None:
        while k == 0 or (k + 0.5) / frame_rate < now - first + step:
            yield k / frame_rate, before.to_image()
            k += 1


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_PIXELS:
        raise _Refused(f"declares {width} x {height} pixels; more than {LARGEST_PIXELS:,} are not decoded")


def _read_image(path: Path, n_frames: int) -> list[Image]:
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        try:
            with Image.open(path, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN]) as image:
                _check_size(*image.size)
                n = getattr(image, "n_frames", 1) if image.format in ANIMATIONS else 1
                frames = []
                for place in sampled_places(n, n_frames):
                    image.seek(place)
                    frames.append(_as_rgb(image))
                return frames
        except UnidentifiedImageError as error:
            raise _Refused("is neither an image nor a video that conform decodes") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _Refused(f"declares more pixels than are decoded ({error})") from error


def _as_rgb(image: Image) -> Image:
    """8 bits a channel, transparent parts on gray."""
    from PIL import Image as images

    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 257).convert("L")
    if image.mode in ("I", "F"):
        raise _Refused(f"has pixels of 32 bits (mode {image.mode}), whose range is not known; save it with 8 or 16")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", rgba.size, _GROUND), rgba)
    return image.convert("RGB")


def _read_video(path: Path, n_frames: int) -> list[Image]:
    with path.open("rb") as stream:
        n = _n_packets(stream)
        stream.seek(0)
        wanted = set(sampled_places(n, n_frames))
        frames: list[Image] = []
        with _opened(stream) as container:
            for place, frame in enumerate(container.decode(_video_stream(container))):
                if place in wanted:
                    frames.append(frame.to_image())
                    if len(frames) == len(wanted):
                        break
    return frames


def _n_packets(stream: Any) -> int:
    """Frames of a video, counted without decoding them (what a header says of it may be wrong or absent)."""
    with _opened(stream) as container:
        return sum(packet.size > 0 for packet in container.demux(_video_stream(container)))


def _opened(stream: Any) -> Any:
    import av

    return av.open(stream, mode="r", options={"format_whitelist": _CONTAINERS})


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise _Refused("has no video stream")
    found = container.streams.video[0]
    _check_size(found.codec_context.width, found.codec_context.height)
    return found
