"""What media may cost, and the one error of this room."""

from __future__ import annotations

from dataclasses import dataclass

RATE = 16_000
"""Samples per second of every sound that leaves this room."""


class MediaError(Exception):
    """A media file that cannot be used: the message says which file, what is wrong, and how to mend it."""


@dataclass(frozen=True)
class Limits:
    """Bounds on one call. The defaults fit honest files; what exceeds them is a MediaError.

    deadline: seconds of wall time, after which the decoding process is killed. memory: bytes of its address space.
    seconds: of media decoded. bytes: of images or samples handed back. area: pixels of a picture. channels, rate
    (samples per second): of a sound track.
    """

    deadline: float = 120.0
    memory: int = 3 << 30
    seconds: float = 4 * 3600.0
    bytes: int = 512 << 20
    area: int = 8192 * 8192
    channels: int = 32
    rate: int = 384_000
