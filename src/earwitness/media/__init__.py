"""Silent frames with real time stamps, and 16 kHz mono sound, from media files that nobody vouches for.

PyAV is the only media library, this room alone opens containers, and it does so in a child process with bounds on
memory and time, so that a hostile or damaged file costs one `MediaError`. The two tracks of a file share one clock,
which starts where the earlier of them starts.
"""

from __future__ import annotations

import functools
import hashlib
import math
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earwitness.media.limits import RATE, Limits, MediaError
from earwitness.media.process import decoder
from earwitness.media.write import sound_bytes, write_clip, write_sound

__all__ = [
    "RATE",
    "Frames",
    "Limits",
    "MediaError",
    "Tracks",
    "file_digest",
    "probe",
    "read_frames",
    "read_sound",
    "sound_bytes",
    "write_clip",
    "write_sound",
]


@dataclass(frozen=True)
class Frames:
    """Images (F, H, W, 3) uint8, their times (F,) float64 in seconds from the span's start, and the span's length."""

    images: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float64]
    duration: float


@dataclass(frozen=True)
class Tracks:
    """What a file's header says: seconds, if it says how long it is, and whether it has sound and a picture."""

    duration: float | None
    sound: bool
    picture: bool


def probe(path: Path | str, limits: Limits = Limits()) -> Tracks:  # noqa: B008 (frozen)
    """Read a file's header. Raises MediaError."""
    header, _ = decoder.call(path, "probe", limits)
    return Tracks(header["duration"], header["sound"], header["picture"])


def read_frames(
    path: Path | str,
    count: int,
    start: float = 0.0,
    end: float | None = None,
    max_side: int = 640,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> Frames:
    """Read the frames that are on screen in the middle of each of `count` equal parts of a span, without sound.

    Frames are found by presentation time, so a variable frame rate is told correctly, and carry the time at which they
    appear. A frame is given once: a span with fewer frames than `count` gives fewer. The longer side is at most
    `max_side` pixels, both sides even. Raises MediaError for a file that is unreadable, cut short or has no picture.
    """
    span = _span(path, start, end)
    sizes = {"count": int(count), "max_side": int(max_side)}
    header, (images, times) = decoder.call(path, "frames", limits, **span, **sizes)
    return Frames(images, times, header["duration"])


def read_sound(
    path: Path | str,
    start: float = 0.0,
    end: float | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> npt.NDArray[np.float32]:
    """Read float32 (N,): the mean of all channels at 16 kHz, on the same clock as the picture.

    With `end`, N is exactly the span's samples: silence stands where the track starts late or ends early. Without it,
    N reaches to where the track ends. Raises MediaError for a file that is unreadable, cut short or has no sound.
    """
    _, (samples,) = decoder.call(path, "sound", limits, **_span(path, start, end))
    return samples


def file_digest(path: Path | str) -> str:
    """Return the sha256 of a regular file's content in hex; remembered by path, size and time of change."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{path}: is not an ordinary file; name one")
        return _digest(Path(path).absolute(), status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read ({error}); check the path and its permissions") from None


@functools.lru_cache(maxsize=65_536)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _span(path: Path | str, start: float, end: float | None) -> dict[str, float | None]:
    start, end = float(start), None if end is None else float(end)
    if not math.isfinite(start) or not (end is None or math.isfinite(end)):
        raise MediaError(f"{path}: a span from {start} to {end} s is not finite; give 0 <= start < end")
    return {"start": start, "end": end}
